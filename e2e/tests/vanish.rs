//! A host that vanishes without a word is out of every answer of a scheduler within five seconds.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use darner_e2e::attendant::Attendant;
use darner_e2e::cluster::{Cluster, seeds};
use darner_e2e::darner::Darner;
use darner_e2e::image::Blob;
use darner_e2e::scene;
use darner_e2e::upstream::Upstream;
use darner_e2e::wait::PATIENCE;
use darner_proto::geometry::Geometry;
use darner_proto::piece_set::PieceSet;
use darner_proto::scheduler::{Join, NodeMessage, SchedulerMessage};
use rustix::process::Signal;

/// The longest that a scheduler may go on naming it.
const BAR: Duration = Duration::from_secs(5);
/// Answers in which it must then be missing.
const FURTHER: usize = 20;

/// Everything that a scheduler has last said to a node that looks for a blob and downloads it.
struct Onlooker {
    session: Attendant,
    blob: Blob,
    asked: u64,
    holders: BTreeSet<String>,
    parents: BTreeSet<String>,
    owners: BTreeSet<String>,
}

impl Onlooker {
    async fn start(scheduler: &Darner, blob: &Blob) -> Result<Self> {
        let address = "127.0.0.1:9".parse()?;
        let session = Attendant::attend(&scheduler.url("scheduler")?, "onlooker", address).await?;
        let keys = Vec::new();
        let listed = NodeMessage::Inventory { keys, listed: true };
        session.say(listed).await?;
        let pieces = Geometry::of(blob.size).pieces();
        let join = Join {
            task: blob.digest,
            size: blob.size,
            sources: Vec::new(),
            held: PieceSet::empty(pieces),
            lease: None,
        };
        session.say(NodeMessage::Join(join)).await?;
        Ok(Self {
            session,
            blob: blob.clone(),
            asked: 0,
            holders: BTreeSet::new(),
            parents: BTreeSet::new(),
            owners: BTreeSet::new(),
        })
    }

    /// Asks who holds the blob, and takes in everything until the answer is there.
    async fn look(&mut self) -> Result<()> {
        self.asked += 1;
        let (request, key) = (self.asked, self.blob.digest);
        self.session.say(NodeMessage::Find { request, key }).await?;
        loop {
            match self.session.hear().await? {
                SchedulerMessage::Found {
                    request: answered,
                    holders,
                } if answered == request => {
                    self.holders = names(holders.iter().map(|host| &host.id));
                    return Ok(());
                }
                SchedulerMessage::Parents { parents, .. } => {
                    self.parents = names(parents.iter().map(|parent| &parent.host.id));
                }
                SchedulerMessage::Members(owners) => {
                    self.owners = names(owners.iter().map(|host| &host.id));
                }
                _ => {}
            }
        }
    }

    fn names(&self, host: &str) -> bool {
        let answers = [&self.holders, &self.parents, &self.owners];
        answers.iter().any(|answer| answer.contains(host))
    }

    /// Looks until `condition` holds. How long that was after `since`.
    async fn until(
        &mut self,
        since: Instant,
        what: &str,
        condition: impl Fn(&Self) -> bool,
    ) -> Result<Duration> {
        loop {
            self.look().await?;
            if condition(self) {
                return Ok(since.elapsed());
            }
            ensure!(
                since.elapsed() < PATIENCE,
                "{what}: holders {:?}, parents {:?}, owners {:?}",
                self.holders,
                self.parents,
                self.owners
            );
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// `host` has vanished at `since`: it must be out of every answer in time, and stay so.
    async fn misses(&mut self, host: &str, since: Instant) -> Result<()> {
        let after = self
            .until(since, "it is still named", |all| !all.names(host))
            .await?;
        println!("{host}: out of every answer after {after:?}");
        ensure!(after <= BAR, "{host} was named for {after:?}");
        for _ in 0..FURTHER {
            self.look().await?;
            ensure!(!self.names(host), "{host} is named again");
        }
        Ok(())
    }
}

fn names<'a>(ids: impl Iterator<Item = &'a darner_proto::id::HostId>) -> BTreeSet<String> {
    ids.map(ToString::to_string).collect()
}

#[test]
fn killed_or_stopped_a_host_is_out_of_every_answer_within_five_seconds() {
    scene::run("vanish", async |scene| {
        let upstream = Upstream::start(scene).await?;
        let mut cluster = Cluster::start(scene, &upstream, seeds(2).mirrors(4).plain()).await?;
        let image = &upstream.images.middle;
        cluster.pull_everywhere(image).await?;
        let blob = image.blobs.iter().max_by_key(|blob| blob.size);
        let blob = blob.context("an image without blobs")?;
        let mut onlooker = Onlooker::start(&cluster.scheduler, blob).await?;
        let mirrors = ["mirror-1", "mirror-2", "mirror-3", "mirror-4"];
        onlooker
            .until(Instant::now(), "not all are named yet", |all| {
                let owners = ["seed-1", "seed-2"]
                    .iter()
                    .all(|one| all.owners.contains(*one));
                let held = mirrors.iter().all(|one| all.holders.contains(*one));
                owners && held && mirrors.iter().all(|one| all.parents.contains(*one))
            })
            .await?;

        // Its connections end with it.
        cluster.mirrors[0].kill()?;
        onlooker.misses("mirror-1", Instant::now()).await?;
        // Its connections stay open, and nothing comes.
        for stopped in [&cluster.mirrors[1], &cluster.seeds[0]] {
            stopped.signal(Signal::STOP)?;
            onlooker.misses(stopped.name(), Instant::now()).await?;
        }
        // Who comes back is named again.
        cluster.mirrors[1].signal(Signal::CONT)?;
        onlooker
            .until(Instant::now(), "it is not named again", |all| {
                all.holders.contains("mirror-2") && all.parents.contains("mirror-2")
            })
            .await?;
        Ok(())
    });
}
