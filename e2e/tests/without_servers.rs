//! Mirrors without any server, and the runtime that pulls through them: containerd on each node.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use darner_e2e::client::Client;
use darner_e2e::containerd::Containerd;
use darner_e2e::darner::Darner;
use darner_e2e::guest::Guest;
use darner_e2e::lookup::Asker;
use darner_e2e::members;
use darner_e2e::midway::under_way;
use darner_e2e::scene::{self, Scene};
use darner_e2e::upstream::{NAME, Upstream};
use futures_util::future::try_join_all;

/// Six runtimes unpack what they pull, on a machine that may have two cores.
const LIMIT: Duration = Duration::from_secs(150);
/// A member that is killed is in nobody's answers after this.
const OUT_OF_ANSWERS: Duration = Duration::from_secs(5);
/// Bytes a second: slow enough that something can happen in the middle of a pull.
const SLOW: u64 = 8 << 20;

async fn runtimes(scene: &Scene, members: &[Darner]) -> Result<Vec<Containerd>> {
    let start = async |member: &Darner| {
        let name = format!("containerd-{}", member.name());
        Containerd::start(scene, &name, &member.url("registry")?).await
    };
    try_join_all(members.iter().map(start)).await
}

#[test]
fn containerd_on_six_nodes_pulls_a_cold_image_at_once_and_on_a_seventh_without_upstream() {
    scene::run_for("members_containerd", LIMIT, async |scene| {
        let mut upstream = Upstream::start(scene).await?;
        let image = upstream.images.middle.clone();
        let (tag, digest) = (image.reference(NAME), image.digest_reference(NAME));
        let members = members::start(scene, &upstream, 6).await?;
        let runtimes = runtimes(scene, &members).await?;
        try_join_all(runtimes.iter().map(|runtime| runtime.pull(&tag))).await?;
        for runtime in &runtimes {
            runtime.check_blobs(&image.blobs)?;
            runtime.unpacked_layers(&image)?;
        }
        drop(runtimes);
        let ratio = upstream.ledger().ratio(&image);
        ensure!(ratio <= 1.01, "{ratio}:\n{}", upstream.ledger().describe());
        upstream.off();
        let sent = upstream.ledger().blob_bytes(&image);
        let seventh = members::join(scene, &upstream, "member-7", Some(&members[3])).await?;
        let all: Vec<_> = members.iter().chain([&seventh]).collect();
        members::settled(&all).await?;
        let mirror = seventh.url("registry")?;
        for (name, reference) in [("by-tag", &tag), ("by-digest", &digest)] {
            let runtime = Containerd::start(scene, name, &mirror).await?;
            runtime.pull(reference).await?;
            runtime.check_blobs(&image.blobs)?;
        }
        ensure!(upstream.ledger().blob_bytes(&image) == sent);
        Ok(())
    });
}

#[test]
fn a_node_that_is_killed_in_the_middle_is_in_nobodys_answers_and_no_runtime_fails() {
    scene::run_for("members_killed", LIMIT, async |scene| {
        let upstream = Upstream::start(scene).await?;
        let mut members = members::start(scene, &upstream, 6).await?;
        let guest = Guest::by_key(scene, &members::key(scene)?, "guest").await?;
        // Something that the doomed one is known to hold.
        let held = &upstream.images.tiny;
        members::pull_everywhere(&members, held).await?;
        let mut dies = members.remove(5);
        upstream.throttle(Some(SLOW));
        let image = &upstream.images.middle;
        let reference = image.reference(NAME);
        let runtimes = runtimes(scene, &members).await?;
        let left: Vec<_> = members.iter().collect();
        let mut asker = Asker::start(guest, &left).await?;
        let doomed = Client::new(&dies, NAME)?;
        let pulls = try_join_all(runtimes.iter().map(|runtime| runtime.pull(&reference)));
        let killed = async {
            under_way(&upstream, image).await?;
            dies.kill()?;
            let killed = Instant::now();
            let key = held.largest()?.digest;
            let gone = "member-6".parse()?;
            let last = asker.until_nobody_names(&gone, key).await?;
            let named_until = last.saturating_duration_since(killed);
            Ok::<_, anyhow::Error>((named_until, asker.slowest()))
        };
        let (_, pulled, took) = tokio::join!(doomed.pull(image), pulls, killed);
        pulled?;
        let (took, slowest) = took?;
        println!("out of all answers after {took:?}; the slowest answer took {slowest:?}");
        // Where a machine lets questions wait, what a member does by itself waits as long: it hears that
        // nobody listens there, waits, looks again.
        let limit = OUT_OF_ANSWERS + 3 * slowest;
        ensure!(
            took < limit,
            "it was named for {took:?}, with answers in {slowest:?}"
        );
        for runtime in &runtimes {
            runtime.check_blobs(&image.blobs)?;
        }
        let ratio = upstream.ledger().ratio(image);
        // One that held a lease may have taken along what only it had read.
        ensure!(ratio <= 1.5, "{ratio}");
        Ok(())
    });
}
