//! One deployment without servers: mirrors that know each other by gossip and keep the table of who
//! holds what among them. And the same mirrors in a cluster that loses all its schedulers.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use darner_e2e::client::Client;
use darner_e2e::cluster::{Cluster, add_scheduler, seeds};
use darner_e2e::darner::Darner;
use darner_e2e::members;
use darner_e2e::midway::{pull_while, under_way};
use darner_e2e::upstream::{NAME, Upstream};
use darner_e2e::{place, raw, scene, wait};
use darner_service::gossip::members::KEEPERS;
use futures_util::future::try_join_all;

/// Schedulers that are back are used again within this time.
const HANDED_BACK: Duration = Duration::from_secs(10);
/// Mirrors that lose their schedulers.
const MIRRORS: usize = 8;
/// Sessions when they keep the table among themselves.
const SESSIONS: f64 = (MIRRORS * KEEPERS) as f64;
/// Members whose cost is measured, and for how long: DARNER_MEMBERS=30 does it in earnest.
const MEASURED: usize = 6;
const MEASURED_FOR: Duration = Duration::from_secs(4);
/// Each of a second that a member takes at most which has nothing to do, where nothing is optimised.
const SHARE: f64 = 0.05;
/// Bytes a second: slow enough that something can happen in the middle of a pull.
const SLOW: u64 = 8 << 20;

#[test]
fn a_cold_image_is_read_once_by_six_members_and_had_by_a_seventh_without_upstream() {
    scene::run("gossip_cold_image", async |scene| {
        let mut upstream = Upstream::start(scene).await?;
        let members = members::start(scene, &upstream, 6).await?;
        let image = upstream.images.big.clone();
        members::pull_everywhere(&members, &image).await?;
        upstream.read_once(&image)?;
        upstream.off();
        let sent = upstream.ledger().blob_bytes(&image);
        let seventh = members::join(scene, &upstream, "member-7", Some(&members[3])).await?;
        let all: Vec<_> = members.iter().chain([&seventh]).collect();
        members::settled(&all).await?;
        let client = Client::new(&seventh, NAME)?;
        client.pull(&image).await?;
        client.pull_by_digest(&image).await?;
        ensure!(upstream.ledger().blob_bytes(&image) == sent);
        Ok(())
    });
}

#[test]
fn members_take_over_when_all_schedulers_die_and_hand_back_when_they_are_there_again() {
    scene::run("gossip_take_over", async |scene| {
        let upstream = Upstream::start(scene).await?;
        upstream.throttle(Some(SLOW));
        let cluster = Cluster::start(scene, &upstream, seeds(0)).await?;
        let first = cluster
            .gossiping_mirror(scene, &upstream, "mirror-1", None)
            .await?;
        let mut mirrors = vec![first];
        for number in 2..=MIRRORS {
            let name = format!("mirror-{number}");
            let by = Some(&mirrors[0]);
            let mirror = cluster
                .gossiping_mirror(scene, &upstream, &name, by)
                .await?;
            mirrors.push(mirror);
        }
        known_to_each_other(&mirrors).await?;
        let Cluster {
            mut scheduler,
            manager,
            ..
        } = cluster;
        let mut second = add_scheduler(scene, &manager, "scheduler-2").await?;
        attended(&[&scheduler], MIRRORS as f64).await?;
        attended(&[&second], MIRRORS as f64).await?;
        let all: Vec<_> = mirrors.iter().collect();
        attended(&all, 0.0).await?;
        let image = &upstream.images.middle;
        let clients = members::clients(&mirrors)?;
        pull_while(&clients, image, async {
            under_way(&upstream, image).await?;
            scheduler.kill()?;
            second.kill()
        })
        .await?;
        let ratio = upstream.ledger().ratio(image);
        ensure!(ratio <= 1.05, "{ratio}:\n{}", upstream.ledger().describe());
        // A pull that begins without any scheduler.
        upstream.throttle(None);
        attended(&all, SESSIONS).await?;
        let image = &upstream.images.multi;
        members::pull_everywhere(&mirrors, image).await?;
        upstream.read_once(image)?;
        let back = Instant::now();
        scheduler.restart().await?;
        attended(&[&scheduler], MIRRORS as f64).await?;
        attended(&all, 0.0).await?;
        let took = back.elapsed();
        ensure!(took < HANDED_BACK, "handed back after {took:?}");
        second.restart().await?;
        attended(&[&second], MIRRORS as f64).await?;
        members::pull_everywhere(&mirrors, &upstream.images.tiny).await?;
        upstream.read_once(&upstream.images.tiny)?;
        drop(manager);
        Ok(())
    });
}

#[test]
fn members_that_have_nothing_to_do_cost_little() {
    let (count, time) = match place::setting("DARNER_MEMBERS") {
        Some(count) => (count.parse().expect("a number"), Duration::from_secs(40)),
        None => (MEASURED, MEASURED_FOR),
    };
    let limit = Duration::from_secs(60) + time;
    scene::run_for("gossip_idle", limit, async |scene| {
        let upstream = Upstream::start(scene).await?;
        let members = members::start(scene, &upstream, count).await?;
        // What is measured is a length of time, after what joining costs.
        tokio::time::sleep(time / 4).await;
        let spent = async || {
            let spent = members.iter().map(async |member| {
                let metrics = member.metrics().await?;
                metrics.require("process_cpu_seconds_total")
            });
            try_join_all(spent).await
        };
        let (before, began) = (spent().await?, Instant::now());
        tokio::time::sleep(time).await;
        let (after, took) = (spent().await?, began.elapsed().as_secs_f64());
        let shares = before.iter().zip(&after);
        let mut shares: Vec<_> = shares.map(|(old, new)| (new - old) / took).collect();
        shares.sort_by(f64::total_cmp);
        let percent = |place: usize| 100.0 * shares[place];
        println!(
            "{count} members over {took:.0} s: {:.2} to {:.2} % of a core each, the median {:.2} %; \
             those that keep the table from {:.2} %",
            percent(0),
            percent(count - 1),
            percent(count / 2),
            percent(count.saturating_sub(KEEPERS))
        );
        ensure!(shares[count - 1] < SHARE, "{shares:?}");
        Ok(())
    });
}

async fn known_to_each_other(mirrors: &[Darner]) -> Result<()> {
    for mirror in mirrors {
        wait::until("every mirror knows all others", async || {
            let metrics = mirror.metrics().await.ok()?;
            (metrics.sum("darner_gossip_members", "") == mirrors.len() as f64).then_some(())
        })
        .await?;
    }
    Ok(())
}

/// Waits until the schedulers of these processes have so many sessions together.
async fn attended(processes: &[&Darner], hosts: f64) -> Result<()> {
    wait::until("so many hosts attend", async || {
        let mut attended = 0.0;
        for process in processes {
            let metrics = process.metrics().await.ok()?;
            attended += metrics.sum("darner_scheduler_hosts", "");
        }
        (attended == hosts).then_some(())
    })
    .await
}

#[test]
fn a_stranger_gets_nothing_from_any_port_of_a_member() {
    scene::run("gossip_stranger", async |scene| {
        let upstream = Upstream::start(scene).await?;
        let members = members::start(scene, &upstream, 2).await?;
        let image = &upstream.images.tiny;
        members::pull_everywhere(&members, image).await?;
        for what in ["pieces", "scheduler"] {
            let address = members[0].address(what)?;
            for path in ["/v1/gossip", "/v1/resolve"] {
                let request = format!("GET {path} HTTP/1.1\r\nhost: x\r\n\r\n");
                let answer = raw::exchange(address, request.as_bytes()).await?;
                ensure!(
                    !answer.starts_with(b"HTTP/"),
                    "{what}{path} answered in plain text"
                );
            }
        }
        // One with another key joins nobody, and nobody joins it.
        let key = scene.path("other.key");
        std::fs::write(&key, "0".repeat(64))?;
        let settings = members::settings(scene, &upstream, "stranger", Some(&members[0]))?
            .set("identity.cluster_key_file", key.display().to_string());
        let stranger = Darner::start(scene, "stranger", "mirror", &settings).await?;
        wait::until("the stranger was refused", async || {
            let metrics = members[0].metrics().await.ok()?;
            let refused = metrics.sum("darner_identity_handshakes_refused_total", "handshake");
            (refused > 2.0).then_some(())
        })
        .await?;
        for (process, knows) in [(&members[0], 2.0), (&members[1], 2.0), (&stranger, 1.0)] {
            let known = process.metrics().await?.require("darner_gossip_members")?;
            ensure!(known == knows, "{} knows {known}", process.name());
        }
        Ok(())
    });
}
