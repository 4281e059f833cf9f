//! Real clients in several versions, each in what can come between it and an image: public and
//! private content, by tag and digest, with no, right and wrong credentials, with upstream away, with
//! the mirror away, hanging, and killed in the middle. Whatever happens, no image is ever wrong.
//!
//! The table that comes out is docs/reference/clients.md. With `DARNER_EVERY_CLIENT=1` those are
//! killed in the middle too that take more than a minute to get over it.

mod cases;
mod ground;
mod stations;
mod table;

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use darner_e2e::image::Images;
use darner_e2e::runtime::{PASSWORD, Wanted, Who};
use darner_e2e::scene;
use darner_e2e::system::Release;
use darner_e2e::{midway, place};
use rustix::process::Signal;

use cases::{HANGING, MIRROR_AWAY, TOKEN, UPSTREAM_AWAY, USUAL};
use ground::Ground;
use stations::{Client, Recovers, Station, clients_of};
use table::{Report, Table};

/// Everything together; on a machine that does nothing else it is half of it.
const LIMIT: Duration = Duration::from_secs(600);
/// Bytes a second of a pull in the middle of which something happens.
const SLOW: u64 = 4 << 20;
/// How long the mirror hangs.
const HANGS: Duration = Duration::from_secs(2);

/// One client of every station.
fn first_of_each(stations: &[Station]) -> impl Iterator<Item = &Client> {
    stations.iter().filter_map(|station| station.first())
}

/// The mirror hangs while everybody pulls at once, and then goes on.
async fn hang(ground: &Ground, table: &Table<'_>, stations: &[Station]) -> Result<()> {
    let began = Instant::now();
    ground.mirror.signal(Signal::STOP)?;
    let pulls = first_of_each(stations).map(async |client| {
        let done = table.try_case(client, &HANGING).await;
        (client, done)
    });
    let pulls = futures_util::future::join_all(pulls);
    let wakes = async {
        tokio::time::sleep(HANGS).await;
        ground.mirror.signal(Signal::CONT)
    };
    let (pulls, woken) = tokio::join!(pulls, wakes);
    woken?;
    let mut report = Report::default();
    for (client, done) in pulls {
        report.add(client, HANGING.name, began.elapsed(), done);
    }
    report.close("mirror hanging", began)
}

/// The mirror is killed while everybody pulls at once.
async fn kill(ground: &mut Ground, table: &Table<'_>, stations: &[Station]) -> Result<()> {
    let began = Instant::now();
    let image = &table.images.middle;
    let wanted = Wanted {
        image,
        registry: TOKEN,
        by_digest: false,
        who: Who::Anybody,
    };
    let every = place::setting("DARNER_EVERY_CLIENT").is_some();
    let clients = first_of_each(stations)
        .filter(|client| every || client.recovers != Recovers::Late)
        .map(async |client| {
            let done = pull_and_recover(client, table, &wanted).await;
            (client, done, began.elapsed())
        });
    let Ground { token, mirror, .. } = ground;
    token.throttle(Some(SLOW));
    let killed = async {
        midway::under_way(token, image).await?;
        mirror.kill()?;
        token.throttle(None);
        Ok::<_, anyhow::Error>(())
    };
    let (pulls, killed) = tokio::join!(futures_util::future::join_all(clients), killed);
    killed?;
    let mut report = Report::default();
    for (client, done, took) in pulls {
        let name = format!("mirror killed in the middle: {:?}", client.recovers);
        report.add(client, &name, took, done);
    }
    report.close("mirror killed", began)
}

async fn pull_and_recover(client: &Client, table: &Table<'_>, wanted: &Wanted<'_>) -> Result<()> {
    if let Err(error) = table.pull(client, wanted).await {
        if client.recovers != Recovers::AtTheNextPull {
            return Err(error);
        }
        ensure!(!client.runtime.has(wanted).await?, "half an image is there");
        table.pull(client, wanted).await.context("the next pull")?;
    }
    client.runtime.check(wanted).await?;
    client.runtime.remove(wanted).await
}

/// What came by way of the mirror left upstream once, whoever asked for it.
fn once_for_all(ground: &Ground, images: &Images, past: usize) -> Result<()> {
    ground.open.read_once(&images.multi)?;
    ground.token.read_once(&images.multi)?;
    // For private content these go to the registry themselves.
    let ratio = ground.basic.ledger().ratio(&images.tiny);
    let most = 1.01 + past as f64;
    ensure!(
        ratio <= most,
        "{ratio}:\n{}",
        ground.basic.ledger().describe()
    );
    let asked = ground.elsewhere.asked_of_storage()?;
    ensure!(!asked.is_empty(), "nothing was asked of the other host");
    for one in asked {
        let shown = &one.authorization;
        ensure!(shown == "-", "credentials went there: {one:?}");
    }
    Ok(())
}

#[test]
fn every_client_pulls_what_it_may_whatever_happens_and_nothing_else() {
    scene::run_for("clients", LIMIT, async |scene| {
        let mut ground = Ground::new(scene).await?;
        let images = scene.images().clone();
        let began = Instant::now();
        let mut stations = Vec::new();
        for release in Release::ALL {
            stations.extend(clients_of(release, scene, &ground).await?);
        }
        println!("all started in {:.0} s", began.elapsed().as_secs_f64());
        let logins = ground.logins(scene)?;
        let table = Table {
            images: &images,
            logins: &logins,
        };
        table.run(&stations, &USUAL, "all there").await?;
        let all = stations.iter().flatten();
        let past = all.filter(|client| !client.shows_credentials).count();
        once_for_all(&ground, &images, past)?;
        ground.off();
        table
            .run(&stations, &UPSTREAM_AWAY, "upstream away")
            .await?;
        ground.on().await?;
        hang(&ground, &table, &stations).await?;
        let said = ground.mirror.output();
        ensure!(!said.contains("canary"), "a password is in the log");
        kill(&mut ground, &table, &stations).await?;
        table.run(&stations, &MIRROR_AWAY, "mirror away").await?;
        scene.holds_none_of("data-up", &[PASSWORD])
    });
}
