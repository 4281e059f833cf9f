//! Real clients in several versions, each in what can come between it and an image: public and
//! private content, by tag and digest, with no, right and wrong credentials, with upstream away, with
//! the mirror away, hanging, and killed in the middle. Whatever happens, no image is ever wrong.
//!
//! The table that comes out is docs/reference/clients.md. With `DARNER_EVERY_CLIENT=1` those are
//! killed in the middle too that take more than a minute to get over it.

use std::fmt::Write as _;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use darner_e2e::cluster::up_settings;
use darner_e2e::containerd::Containerd;
use darner_e2e::darner::Darner;
use darner_e2e::docker::{Dockerd, Store, Told};
use darner_e2e::image::{Image, Images};
use darner_e2e::nginx::{Hub, Redirecting};
use darner_e2e::podman::{Podman, Program};
use darner_e2e::registry::{Access, Registry};
use darner_e2e::runtime::{Face, Logins, PASSWORD, PASSWORD_HASH, Runtime, USER, Wanted, Who};
use darner_e2e::scene::{self, Scene};
use darner_e2e::skopeo::Skopeo;
use darner_e2e::system::{Release, System};
use darner_e2e::tokens::{Policy, Tokens};
use darner_e2e::upstream::{NAME, Upstream};
use darner_e2e::{midway, place};
use futures_util::{StreamExt as _, stream};
use rustix::process::Signal;

/// A registry that asks for a password.
const BASIC: &str = "basic.test";
/// A registry that asks for a token, which everybody gets for some repositories. The same that
/// Docker daemons know as Docker Hub.
const TOKEN: &str = "token.test";
/// A registry whose blobs are at another host.
const ELSEWHERE: &str = "elsewhere.test";

/// Everything together; on a machine that does nothing else it is half of it.
const LIMIT: Duration = Duration::from_secs(600);
/// A client that has not given up by now never will.
const PATIENCE: Duration = Duration::from_secs(120);
/// Clients that work at once: a few more than there are processors, since most of them wait.
const AT_ONCE: usize = 6;
/// Bytes a second of a pull in the middle of which something happens.
const SLOW: u64 = 4 << 20;
/// How long the mirror hangs.
const HANGS: Duration = Duration::from_secs(2);

/// A client of one version.
struct Client {
    name: String,
    runtime: Runtime,
    /// Private content it gets from the mirror; without, it goes past the mirror for that.
    shows_credentials: bool,
    /// Killed in the middle of a pull, the mirror costs it less than some seconds.
    recovers: Recovers,
}

/// What becomes of a pull in the middle of which the mirror dies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Recovers {
    /// It goes on at the registry.
    AtOnce,
    /// It does, after a minute or so.
    Late,
    /// It fails, and the next pull is as good as any.
    AtTheNextPull,
}

/// Clients that share a daemon, one after the other.
type Station = Vec<Client>;

/// Registries, and the mirror of all of them.
struct Ground {
    open: Upstream,
    basic: Upstream,
    token: Upstream,
    elsewhere: Redirecting,
    hub: Hub,
    mirror: Darner,
    _behind: (Registry, Tokens),
}

impl Ground {
    async fn new(scene: &Scene) -> Result<Self> {
        let images = scene.images();
        let registry = async |name: &str, access: Access| {
            let place = (scene.path(""), name.to_owned());
            let place = (place.0.as_path(), place.1.as_str());
            Registry::start_as(place, &images.storage, true, &access).await
        };
        let open = Upstream::start(scene).await?;
        let users = scene.path("htpasswd");
        std::fs::write(&users, format!("{USER}:{PASSWORD_HASH}\n"))?;
        let basic = registry("registry-basic", Access::Password(users)).await?;
        let basic = Upstream::before(scene, basic).await?;
        let public = [&images.multi, &images.middle];
        let policy = Policy {
            user: USER.to_owned(),
            password: PASSWORD.to_owned(),
            public: public.map(|image| image.repository.clone()).into(),
        };
        let tokens = Tokens::start(&scene.path(""), policy).await?;
        let token = registry("registry-token", tokens.access()).await?;
        let token = Upstream::before(scene, token).await?;
        let behind = registry("registry-behind", Access::Open).await?;
        let elsewhere = Redirecting::start(scene, behind.address()).await?;
        let hub = Hub::start(scene, &token.url()).await?;
        let settings = up_settings(scene, &open)?
            .set("registry.default_upstream", "docker.io")
            .set("log.filter", "trace")
            .upstream(BASIC, &basic.url())
            .upstream(TOKEN, &token.url())
            .upstream(ELSEWHERE, &elsewhere.url())
            .upstream("docker.io", &token.url());
        let mirror = Darner::start(scene, "up", "up", &settings).await?;
        Ok(Self {
            open,
            basic,
            token,
            elsewhere,
            hub,
            mirror,
            _behind: (behind, tokens),
        })
    }

    /// Name and URL of each registry.
    fn registries(&self) -> [(&'static str, String); 4] {
        [
            (NAME, self.open.url()),
            (BASIC, self.basic.url()),
            (TOKEN, self.token.url()),
            (ELSEWHERE, self.elsewhere.url()),
        ]
    }

    fn off(&mut self) {
        for upstream in [&mut self.open, &mut self.basic, &mut self.token] {
            upstream.off();
        }
    }

    async fn on(&mut self) -> Result<()> {
        for upstream in [&mut self.open, &mut self.basic, &mut self.token] {
            upstream.on().await?;
        }
        Ok(())
    }

    /// A file that tells the containers' library of all registries and of the mirror.
    fn registries_conf(&self, scene: &Scene) -> Result<std::path::PathBuf> {
        let mirror = self.mirror.address("registry")?;
        let mut text = String::new();
        for (name, url) in self.registries() {
            let location = url.trim_start_matches("http://");
            write!(
                text,
                "[[registry]]\nprefix = \"{name}\"\nlocation = \"{location}\"\ninsecure = true\n\
                 [[registry.mirror]]\nlocation = \"{mirror}/{name}\"\ninsecure = true\n"
            )?;
        }
        let path = scene.path("registries.conf");
        std::fs::write(&path, text)?;
        Ok(path)
    }

    /// Logins by the registries' own addresses, where the containers' library looks them up.
    fn logins(&self, scene: &Scene) -> Result<Logins> {
        let urls = self.registries().map(|(_, url)| url);
        let hosts = urls.iter().map(|url| url.trim_start_matches("http://"));
        Logins::write(&scene.path(""), &hosts.collect::<Vec<_>>())
    }
}

/// All clients of a release.
async fn clients_of(release: Release, scene: &Scene, ground: &Ground) -> Result<Vec<Station>> {
    let system = System::of(release, ground.hub.hosts());
    let mirror = ground.mirror.url("registry")?;
    let mut stations = vec![containerds(&system, release, scene, ground).await?];
    let version = system.version("dockerd").await?;
    let stores: &[Store] = match release {
        Release::Bookworm | Release::Trixie => &[Store::Layers],
        Release::Forky => &[Store::Layers, Store::Containerd],
    };
    for store in stores {
        let told = Told {
            store: *store,
            mirror: &mirror,
            authorities: ground.hub.authority(),
        };
        let name = format!("docker {version} ({store:?})");
        let directory = format!("docker-{release:?}-{store:?}");
        let layers = *store == Store::Layers;
        stations.push(vec![Client {
            name,
            runtime: Runtime::Docker(Dockerd::start_of(&system, scene, &directory, told).await?),
            shows_credentials: layers,
            recovers: if layers {
                Recovers::Late
            } else {
                Recovers::AtOnce
            },
        }]);
    }
    let conf = ground.registries_conf(scene)?;
    for program in [Program::Podman, Program::Buildah] {
        let directory = format!("{}-{release:?}", program.name());
        let podman = Podman::of((&system, program), scene, &directory, &conf).await?;
        let name = format!(
            "{} {}",
            program.name(),
            system.version(program.name()).await?
        );
        stations.push(vec![past_the_mirror(name, Runtime::Podman(podman))]);
    }
    let skopeo = Skopeo::of(&system, scene, &format!("skopeo-{release:?}"), &conf)?;
    let name = format!("skopeo {}", system.version("skopeo").await?);
    stations.push(vec![past_the_mirror(name, Runtime::Skopeo(skopeo))]);
    Ok(stations)
}

/// The containers' library: it shows a mirror no credentials that were not meant for the mirror.
fn past_the_mirror(name: String, runtime: Runtime) -> Client {
    Client {
        name,
        runtime,
        shows_credentials: false,
        recovers: Recovers::AtTheNextPull,
    }
}

async fn containerds(
    system: &System,
    release: Release,
    scene: &Scene,
    ground: &Ground,
) -> Result<Station> {
    let mirror = ground.mirror.url("registry")?;
    let name = format!("containerd-{release:?}");
    let daemon = Containerd::start_of(system.clone(), scene, &name, &mirror).await?;
    for (registry, url) in ground.registries() {
        daemon.fall_back(registry, &mirror, &url)?;
    }
    let (daemon, version) = (Arc::new(daemon), system.version("containerd").await?);
    let faces = [Face::Cri, Face::Crictl, Face::Ctr];
    let client = |face| Client {
        name: format!("containerd {version} ({face:?})"),
        runtime: Runtime::Containerd(daemon.clone(), face),
        shows_credentials: true,
        recovers: Recovers::AtOnce,
    };
    let faces = faces.into_iter();
    let there = faces.filter(|face| *face != Face::Crictl || place::tool("crictl").is_some());
    Ok(there.map(client).collect())
}

/// What comes of a pull.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Outcome {
    Pulled,
    Refused,
}

/// One row of the table.
struct Case {
    name: &'static str,
    registry: &'static str,
    image: fn(&Images) -> &Image,
    by_digest: bool,
    who: Who,
    outcome: Outcome,
}

fn multi(images: &Images) -> &Image {
    &images.multi
}

fn tiny(images: &Images) -> &Image {
    &images.tiny
}

/// Public content.
const fn public(name: &'static str, registry: &'static str, by_digest: bool) -> Case {
    Case {
        name,
        registry,
        image: multi,
        by_digest,
        who: Who::Anybody,
        outcome: Outcome::Pulled,
    }
}

/// Private content.
const fn private(name: &'static str, registry: &'static str, who: Who, outcome: Outcome) -> Case {
    Case {
        name,
        registry,
        image: tiny,
        by_digest: false,
        who,
        outcome,
    }
}

const fn by_digest(case: Case) -> Case {
    Case {
        by_digest: true,
        ..case
    }
}

/// With all there.
const USUAL: [Case; 11] = [
    public("public", NAME, false),
    public("public, by digest", NAME, true),
    public("public, blobs elsewhere", ELSEWHERE, false),
    public("public, by token", TOKEN, false),
    private("private, nobody", BASIC, Who::Anybody, Outcome::Refused),
    private(
        "private, wrong password",
        BASIC,
        Who::Impostor,
        Outcome::Refused,
    ),
    private("private", BASIC, Who::Alice, Outcome::Pulled),
    private(
        "private, by token, nobody",
        TOKEN,
        Who::Anybody,
        Outcome::Refused,
    ),
    private(
        "private, by token, wrong",
        TOKEN,
        Who::Impostor,
        Outcome::Refused,
    ),
    private("private, by token", TOKEN, Who::Alice, Outcome::Pulled),
    by_digest(private(
        "private, by token, by digest",
        TOKEN,
        Who::Alice,
        Outcome::Pulled,
    )),
];
/// With the registries away: what is public is served by the mirror. For what is private a runtime
/// shows credentials only to whom asks for them, which is the registry's to do.
const UPSTREAM_AWAY: [Case; 5] = [
    public("upstream away: public", NAME, false),
    public("upstream away: public, by digest", NAME, true),
    public("upstream away: public, by token", TOKEN, false),
    private(
        "upstream away: private, nobody",
        BASIC,
        Who::Anybody,
        Outcome::Refused,
    ),
    private(
        "upstream away: private",
        BASIC,
        Who::Alice,
        Outcome::Refused,
    ),
];
/// With the mirror stopped for some seconds.
const HANGING: Case = public("mirror hangs for a while", TOKEN, false);
/// With the mirror gone: as without it.
const MIRROR_AWAY: [Case; 4] = [
    public("mirror away: public", TOKEN, false),
    public("mirror away: public, by digest", TOKEN, true),
    private(
        "mirror away: private, by token",
        TOKEN,
        Who::Alice,
        Outcome::Pulled,
    ),
    private(
        "mirror away: private, wrong",
        TOKEN,
        Who::Impostor,
        Outcome::Refused,
    ),
];

/// What was done, and what did not come out as it should.
#[derive(Default)]
struct Report {
    lines: Vec<String>,
    wrong: Vec<String>,
}

impl Report {
    fn add(&mut self, client: &Client, case: &str, took: Duration, done: Result<()>) {
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

    fn close(self, what: &str, began: Instant) -> Result<()> {
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
struct Table<'a> {
    images: &'a Images,
    logins: &'a Logins,
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

    async fn pull(&self, client: &Client, wanted: &Wanted<'_>) -> Result<()> {
        let pull = client.runtime.pull(wanted, self.logins);
        let pulled = tokio::time::timeout(PATIENCE, pull).await;
        pulled.context("no end to the pull")?
    }

    async fn try_case(&self, client: &Client, case: &Case) -> Result<()> {
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
    async fn run(&self, stations: &[Station], cases: &[Case], what: &str) -> Result<()> {
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

impl Client {
    /// A Docker daemon asks the mirror for Docker Hub's content only, which needs a token.
    fn concerns(&self, case: &Case) -> bool {
        case.registry == TOKEN || !matches!(self.runtime, Runtime::Docker(_))
    }
}

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
    for line in asked {
        ensure!(line.ends_with("\"-\""), "credentials went there: {line}");
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
