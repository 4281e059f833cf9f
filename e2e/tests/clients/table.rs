//! Tries cases with clients, and tells what did not come out as it should.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use darner_e2e::image::Images;
use darner_e2e::runtime::{Logins, Wanted};
use futures_util::{StreamExt as _, stream};

use super::cases::{Case, Outcome};
use super::stations::{Client, Station};

/// A client that has not given up by now never will.
const PATIENCE: Duration = Duration::from_secs(120);
/// Clients that work at once: a few more than there are processors, since most of them wait.
const AT_ONCE: usize = 6;

/// What was done, and what did not come out as it should.
#[derive(Default)]
pub(super) struct Report {
    lines: Vec<String>,
    wrong: Vec<String>,
}

impl Report {
    pub(super) fn add(&mut self, client: &Client, case: &str, took: Duration, done: Result<()>) {
        let (name, took) = (&client.name, took.as_secs_f64());
        match done {
            Ok(()) => self.lines.push(format!("{name}: {case}: {took:.1} s")),
            Err(error) => self.wrong.push(format!("{name}: {case}: {error:#}")),
        }
    }

    fn merge(&mut self, other: Self) {
        self.lines.extend(other.lines);
        self.wrong.extend(other.wrong);
    }

    pub(super) fn close(self, what: &str, began: Instant) -> Result<()> {
        for line in &self.lines {
            println!("{line}");
        }
        println!(
            "{what}: {} as they should, in {:.0} s",
            self.lines.len(),
            began.elapsed().as_secs_f64()
        );
        let wrong = self.wrong.join("\n");
        ensure!(wrong.is_empty(), "{what}:\n{wrong}");
        Ok(())
    }
}

/// What a test needs beside clients.
pub(super) struct Table<'a> {
    pub(super) images: &'a Images,
    pub(super) logins: &'a Logins,
}

impl Table<'_> {
    fn wanted(&self, case: &Case) -> Wanted<'_> {
        Wanted {
            image: (case.image)(self.images),
            registry: case.registry,
            by_digest: case.by_digest,
            who: case.who,
        }
    }

    pub(super) async fn pull(&self, client: &Client, wanted: &Wanted<'_>) -> Result<()> {
        let pull = client.runtime.pull(wanted, self.logins);
        let pulled = tokio::time::timeout(PATIENCE, pull).await;
        pulled.context("no end to the pull")?
    }

    pub(super) async fn try_case(&self, client: &Client, case: &Case) -> Result<()> {
        let wanted = self.wanted(case);
        match (self.pull(client, &wanted).await, case.outcome) {
            (Ok(()), Outcome::Pulled) => {
                client.runtime.check(&wanted).await?;
                client.runtime.remove(&wanted).await
            }
            (Ok(()), Outcome::Refused) => anyhow::bail!("it was pulled"),
            (Err(error), Outcome::Pulled) => Err(error),
            (Err(_), Outcome::Refused) => {
                let has = client.runtime.has(&wanted).await?;
                ensure!(!has, "it failed, and the image is there");
                Ok(())
            }
        }
    }

    /// Every client with every case that concerns it.
    pub(super) async fn run(&self, stations: &[Station], cases: &[Case], what: &str) -> Result<()> {
        let began = Instant::now();
        let station = async |clients: &Station| {
            let mut report = Report::default();
            for client in clients {
                let cases = cases.iter().filter(|case| client.concerns(case));
                for case in cases {
                    let began = Instant::now();
                    let done = self.try_case(client, case).await;
                    report.add(client, case.name, began.elapsed(), done);
                }
            }
            report
        };
        let mut report = Report::default();
        let mut running = stream::iter(stations)
            .map(station)
            .buffer_unordered(AT_ONCE);
        while let Some(one) = running.next().await {
            report.merge(one);
        }
        report.close(what, began)
    }
}
