//! Other caches before the same registry: Debian's registry as pull-through cache, and nginx with a
//! cache of slices. A client that verifies pulls the same blobs through each, cold and then warm.

use anyhow::Result;

use crate::load::{self, Target};
use crate::report::{self, Report};
use crate::servers::{Server, Servers};

pub(crate) fn compare(servers: &Servers, report: &mut Report) -> Result<()> {
    let contenders: [(&str, &Server); 4] = [
        ("darner", &servers.mirror),
        ("straight", &servers.registry),
        ("docker-registry as pull-through", &servers.pull_through),
        ("nginx proxy_cache with slice", &servers.slices),
    ];
    let mut times = contenders.map(|(name, _)| (name, Vec::new(), Vec::new()));
    for blob in &servers.caches {
        // What the registry's disk needs is not the question.
        load::pull(&Target::file(servers.registry.address, &blob.path()), blob)?;
        for ((_, server), (_, cold, warm)) in contenders.iter().zip(&mut times) {
            let target = Target::file(server.address, &blob.path());
            servers.warm_memory(blob.size)?;
            cold.push(load::pull(&target, blob)?.took.as_secs_f64());
            warm.push(load::pull(&target, blob)?.took.as_secs_f64());
        }
    }
    let [(_, our_cold, our_warm), others @ ..] = times;
    let (our_cold, our_warm) = (report::median(our_cold), report::median(our_warm));
    for (name, cold, warm) in others {
        report.beside("pull, cold", name, "s", report::median(cold), our_cold);
        report.beside("pull, warm", name, "s", report::median(warm), our_warm);
    }
    Ok(())
}
