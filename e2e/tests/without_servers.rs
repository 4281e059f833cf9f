//! Mirrors without any server, and the runtime that pulls through them: containerd on each node.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
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
/// The same with an image that takes them and their mirrors ten gigabytes on disk, for a while.
const LIMIT_OF_BIG: Duration = Duration::from_secs(300);
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
    scene::run_for("members_containerd", LIMIT_OF_BIG, async |scene| {
        let mut upstream = Upstream::start(scene).await?;
        let image = upstream.images.big.clone();
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
        println!("{ratio} of the image left upstream");
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
/// Members of the test of look-ups, and those of them that hold what is looked up.
const MANY: usize = 30;
const HOLDERS: usize = 4;
/// One leaves or dies after this many pulls, and another comes: ten times what a tenth a minute is.
const PULLS_A_CHANGE: usize = 3;

#[test]
fn while_members_leave_and_die_every_look_up_of_what_is_held_succeeds() {
    scene::run_for("members_churn", LIMIT, async |scene| {
        let mut upstream = Upstream::start(scene).await?;
        let mut members = members::start(scene, &upstream, MANY).await?;
        let held = [upstream.images.tiny.clone(), upstream.images.multi.clone()];
        for image in &held {
            members::pull_everywhere(&members[..HOLDERS], image).await?;
        }
        upstream.off();
        let began = Instant::now();
        let mut pulls = 0;
        let mut changes = 0;
        // Each of the others looks for what it does not hold; the next of them goes meanwhile.
        while members.len() > HOLDERS + MANY / 2 {
            for _ in 0..PULLS_A_CHANGE {
                let number = HOLDERS + pulls % (members.len() - HOLDERS - 1);
                let client = Client::new(&members[number], NAME)?;
                client.pull(&held[pulls % held.len()]).await?;
                pulls += 1;
            }
            let mut goes = members.pop().context("there are many")?;
            match changes % 2 {
                0 => goes.kill()?,
                _ => goes.stop().await?,
            }
            changes += 1;
            if changes % 3 == 0 {
                let name = format!("late-{changes}");
                let late = members::join(scene, &upstream, &name, Some(&members[0])).await?;
                Client::new(&late, NAME)?.pull(&held[1]).await?;
                members.insert(HOLDERS, late);
                pulls += 1;
            }
        }
        println!("{pulls} pulls, {changes} went, in {:?}", began.elapsed());
        Ok(())
    });
}
