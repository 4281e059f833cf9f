//! A real manager on loopback, with members that find each other through it by
//! [`darner_service::directory`].

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use darner_proto::PROTOCOL;
use darner_proto::id::{Host, Role};
use darner_proto::wire::manager_client::ManagerClient;
use darner_proto::wire::{self, KeepAliveRequest, RegisterRequest, WatchRequest};
use darner_service::config::{self, Flag, Sources};
use darner_service::directory::{Directory, Membership};
use darner_service::health::Health;
use darner_service::identity::{Identity, IdentityMetrics};
use darner_service::metrics::Metrics;
use darner_service::settings::Settings;
use darner_service::shutdown::Shutdown;
use sqlx::{ConnectOptions as _, Connection as _};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::time::timeout;

use super::{Manager, StartError};
use crate::clusters::Clusters;
use crate::clusters::passwords::Passwords;
use crate::clusters::settings::{ClusterSettings, MemberRule, NodeRules};
use crate::database::named::Change;

/// Longer than anything here may take: members report within ten seconds.
const PATIENCE: Duration = Duration::from_secs(40);

fn loopback(port: u16) -> SocketAddr {
    ([127, 0, 0, 1], port).into()
}

fn settings(data_dir: &Path, listen: SocketAddr) -> Settings {
    let flags = [
        format!("data_dir={}", data_dir.display()),
        "node.id=manager".to_owned(),
        format!("manager.listen={listen}"),
        "manager.api_listen=127.0.0.1:0".to_owned(),
        "identity.insecure=true".to_owned(),
    ];
    let sources = Sources {
        flags: flags.iter().map(|flag| Flag::set(flag)).collect(),
        ..Sources::default()
    };
    config::load(config::Command::Manager, &sources).unwrap()
}

/// A manager that serves.
struct Running {
    /// Of the first administrator's session.
    cookie: String,
    grpc: SocketAddr,
    api: SocketAddr,
    health: Health,
    metrics: Metrics,
    clusters: Clusters,
    shutdown: Shutdown,
}

impl Running {
    async fn start(data_dir: &Path, listen: SocketAddr) -> Self {
        let (health, shutdown) = (Health::default(), Shutdown::default());
        let (settings, metrics) = (settings(data_dir, listen), Metrics::default());
        let manager = Manager::bind(
            &settings,
            &metrics,
            &health,
            &IdentityMetrics::default(),
            &shutdown,
        )
        .await
        .unwrap();
        let [("manager", grpc), ("api", api)] = manager.addresses()[..] else {
            panic!("{:?}", manager.addresses());
        };
        let link = manager.setup_link();
        let clusters = manager.served.clusters.clone();
        manager.serve();
        let kept = data_dir.join("cookie");
        if let Some(link) = link {
            let (_, secret) = link.reveal().split_once('#').unwrap();
            std::fs::write(&kept, first_administrator(api, secret).await).unwrap();
        }
        Self {
            cookie: std::fs::read_to_string(&kept).unwrap(),
            grpc,
            api,
            health,
            metrics,
            clusters,
            shutdown,
        }
    }

    fn measures(&self, line: &str) -> bool {
        let mut text = String::new();
        self.metrics.register(|registry| {
            prometheus_client::encoding::text::encode(&mut text, registry).unwrap();
        });
        text.lines().any(|has| has == line)
    }

    fn url(&self) -> String {
        format!("http://{}", self.grpc)
    }

    async fn stop(self) {
        let in_time = self.shutdown.finish(Duration::from_secs(10)).await;
        assert!(in_time, "stops by itself");
    }

    async fn client(&self) -> ManagerClient<tonic::transport::Channel> {
        let endpoint = tonic::transport::Endpoint::from_shared(self.url()).unwrap();
        ManagerClient::new(endpoint.connect().await.unwrap())
    }

    async fn get(&self, path: &str) -> serde_json::Value {
        let cookie = format!("Cookie: {}\r\n", self.cookie);
        let answer = http(self.api, &format!("GET {path}"), &cookie, "").await;
        assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
        let (_, body) = answer.split_once("\r\n\r\n").unwrap();
        serde_json::from_str(body).unwrap()
    }
}

async fn http(api: SocketAddr, request: &str, headers: &str, body: &str) -> String {
    let mut stream = TcpStream::connect(api).await.unwrap();
    let size = body.len();
    let request = format!(
        "{request} HTTP/1.1\r\nHost: m\r\nConnection: close\r\nContent-Length: {size}\r\n{headers}\r\n{body}"
    );
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    answer
}

/// Makes it, and returns the cookie of its session.
async fn first_administrator(api: SocketAddr, secret: &str) -> String {
    let body = serde_json::json!({
        "token": secret, "name": "root", "password": "correct horse battery",
    });
    let kind = "Content-Type: application/json\r\n";
    let answer = http(api, "POST /api/v1/setup", kind, &body.to_string()).await;
    let cookie = answer.lines().find_map(|line| {
        let (_, cookie) = line.split_once("set-cookie: ")?;
        cookie.split(';').next()
    });
    cookie.unwrap_or_else(|| panic!("{answer}")).to_owned()
}

/// A member process: what it knows, and its end.
struct Member {
    known: watch::Receiver<Arc<Membership>>,
    shutdown: Shutdown,
    _data: tempfile::TempDir,
    _directory: Directory,
}

impl Member {
    fn join(url: &str, id: &str, role: Role) -> Self {
        let data = tempfile::tempdir().unwrap();
        let shutdown = Shutdown::default();
        let directory = Directory::managed(
            url,
            host(id, role),
            data.path(),
            &Identity::insecure(&IdentityMetrics::default()),
            &shutdown,
        )
        .unwrap();
        Self {
            known: directory.watch(),
            shutdown,
            _data: data,
            _directory: directory,
        }
    }

    async fn sees(&mut self, what: impl Fn(&Membership) -> bool) -> Arc<Membership> {
        let seen = self.known.wait_for(|known| what(known));
        let seen = timeout(PATIENCE, seen)
            .await
            .map(|seen| seen.unwrap().clone());
        if let Ok(seen) = seen {
            return seen;
        }
        panic!("still {:?}", self.known.borrow());
    }

    async fn sees_members(&mut self, schedulers: &[&str], seeds: &[&str]) -> Arc<Membership> {
        self.sees(|known| scheduler_ids(known) == schedulers && seed_ids(known) == seeds)
            .await
    }

    async fn leave(self) {
        assert!(self.shutdown.finish(Duration::from_secs(10)).await);
    }
}

fn host(id: &str, role: Role) -> Host {
    Host {
        id: id.parse().unwrap(),
        address: format!("{id}.example:7421"),
        role,
        labels: [("zone".to_owned(), "a".to_owned())].into(),
        signing_key: None,
        upload_slots: 16,
    }
}

fn scheduler_ids(known: &Membership) -> Vec<&str> {
    known.schedulers.iter().map(|s| s.id.as_str()).collect()
}

fn seed_ids(known: &Membership) -> Vec<&str> {
    known.seeds.iter().map(|seed| seed.id.as_str()).collect()
}

fn item_ids(list: &serde_json::Value) -> Vec<&str> {
    let items = list["items"].as_array().unwrap().iter();
    items.map(|item| item["id"].as_str().unwrap()).collect()
}

#[tokio::test]
async fn members_find_each_other_and_go_in_order() {
    let dir = tempfile::tempdir().unwrap();
    let manager = Running::start(dir.path(), loopback(0)).await;
    assert_eq!(manager.health.waiting_for(), []);
    let scheduler = Member::join(&manager.url(), "s", Role::Scheduler);
    let seed = Member::join(&manager.url(), "seed", Role::Seed);
    let mut mirror = Member::join(&manager.url(), "m", Role::Mirror);
    let both = mirror.sees_members(&["s"], &["seed"]).await;
    assert_eq!(both.schedulers[0].url, "http://s.example:7421");
    assert_eq!(both.seeds[0], host("seed", Role::Seed));

    // A mirror changes nothing for the others, so only the API tells when it is there.
    let nodes = timeout(PATIENCE, async {
        loop {
            let nodes = manager.get("/api/v1/nodes").await;
            if item_ids(&nodes).len() == 2 && manager.measures("darner_manager_watchers 3") {
                break nodes;
            }
            tokio::task::yield_now().await;
        }
    });
    assert_eq!(item_ids(&nodes.await.unwrap()), ["m", "seed"]);
    let schedulers = manager.get("/api/v1/schedulers").await;
    assert_eq!(item_ids(&schedulers), ["s"]);
    let told = manager.get("/api/v1/configuration").await;
    assert_eq!(told["version"], both.version);
    for line in [
        r#"darner_manager_hosts{role="mirror"} 1"#,
        r#"darner_manager_hosts{role="seed"} 1"#,
        r#"darner_manager_hosts{role="scheduler"} 1"#,
        &format!("darner_manager_configuration_version {}", both.version),
        "darner_manager_registrations_total 3",
        "darner_manager_database_errors_total 0",
    ] {
        assert!(manager.measures(line), "{line}");
    }

    seed.leave().await;
    let without = mirror.sees(|known| known.seeds.is_empty()).await;
    assert!(without.version > both.version);
    scheduler.leave().await;
    let kept = mirror.sees(|known| known.version > without.version).await;
    assert_eq!(scheduler_ids(&kept), ["s"], "kept by the member");
    manager.stop().await;
}

#[tokio::test]
async fn hosts_hear_of_their_own_cluster_as_soon_as_there_is_one() {
    let dir = tempfile::tempdir().unwrap();
    let manager = Running::start(dir.path(), loopback(0)).await;
    let join = |id, role| Member::join(&manager.url(), id, role);
    let servers = [
        join("s-e", Role::Scheduler),
        join("s-w", Role::Scheduler),
        join("seed-e", Role::Seed),
        join("seed-w", Role::Seed),
    ];
    let (mut east, mut west) = (join("m-e", Role::Mirror), join("m-w", Role::Mirror));
    let all = (["s-e", "s-w"], ["seed-e", "seed-w"]);
    for member in [&mut east, &mut west] {
        member.sees_members(&all.0, &all.1).await;
    }
    let name = "west".parse().unwrap();
    let change = Change {
        actor: "ann",
        name: &name,
        expected: None,
    };
    let settings = ClusterSettings {
        members: MemberRule {
            hosts: vec!["*-w".to_owned()],
            ..MemberRule::default()
        },
        ..ClusterSettings::default()
    };
    let clusters = &manager.clusters;
    let made = clusters.create(change, &settings, Passwords::default());
    made.await.unwrap();
    west.sees_members(&["s-w"], &["seed-w"]).await;
    east.sees_members(&["s-e"], &["seed-e"]).await;
    // Who comes later is told the same.
    let mut late = join("late-w", Role::Mirror);
    late.sees_members(&["s-w"], &["seed-w"]).await;
    clusters.remove(change).await.unwrap();
    for member in [&mut east, &mut west] {
        member.sees_members(&all.0, &all.1).await;
    }
    drop(servers);
    manager.stop().await;
}

#[tokio::test]
async fn nodes_are_told_what_is_set_for_them_now_and_when_it_changes() {
    let dir = tempfile::tempdir().unwrap();
    let manager = Running::start(dir.path(), loopback(0)).await;
    let mut early = Member::join(&manager.url(), "m", Role::Mirror);
    let name = "default".parse().unwrap();
    let change = Change {
        actor: "ann",
        name: &name,
        expected: None,
    };
    let blocking = |pattern: &str| ClusterSettings {
        rules: NodeRules {
            blocked: vec![pattern.to_owned()],
            ..NodeRules::default()
        },
        ..ClusterSettings::default()
    };
    let (clusters, none) = (&manager.clusters, Passwords::default());
    let some = blocking("docker.io/evil/*");
    clusters.create(change, &some, none.clone()).await.unwrap();
    let blocks = |pattern: &'static str| {
        move |known: &Membership| known.rules.blocked == [pattern.parse().unwrap()]
    };
    let before = early.sees(blocks("docker.io/evil/*")).await;
    let mut late = Member::join(&manager.url(), "late", Role::Seed);
    late.sees(blocks("docker.io/evil/*")).await;
    let other = blocking("quay.io/*");
    clusters.change(change, &other, none).await.unwrap();
    for member in [&mut early, &mut late] {
        let after = member.sees(blocks("quay.io/*")).await;
        assert!(after.version > before.version);
    }
    clusters.remove(change).await.unwrap();
    early.sees(|known| known.rules.blocked.is_empty()).await;
    manager.stop().await;
}

#[tokio::test]
async fn a_silent_host_is_dropped_and_has_to_register_again() {
    let dir = tempfile::tempdir().unwrap();
    let manager = Running::start(dir.path(), loopback(0)).await;
    let mut mirror = Member::join(&manager.url(), "m", Role::Mirror);
    let mut client = manager.client().await;
    let register = RegisterRequest {
        protocol: PROTOCOL,
        host: Some((&host("silent", Role::Seed)).into()),
    };
    let reply = client.register(register).await.unwrap().into_inner();
    assert_eq!((reply.protocol, reply.keep_alive_ms), (PROTOCOL, 2000));
    mirror.sees_members(&[], &["silent"]).await;
    mirror.sees_members(&[], &[]).await;
    let alive = KeepAliveRequest {
        removed: 0,
        id: "silent".into(),
        role: wire::Role::Seed.into(),
        reports: Vec::new(),
        figures: None,
    };
    assert!(!client.keep_alive(alive).await.unwrap().into_inner().known);
    manager.stop().await;
}

#[tokio::test]
async fn requests_that_make_no_sense_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let manager = Running::start(dir.path(), loopback(0)).await;
    let mut client = manager.client().await;
    let register = |protocol, host: Option<wire::Host>| RegisterRequest { protocol, host };
    let watch = |protocol, id: &str, known_version| WatchRequest {
        protocol,
        id: id.into(),
        known_version,
        host: None,
    };
    let good = wire::Host::from(&host("m", Role::Mirror));
    let nowhere = wire::Host {
        address: "nowhere".into(),
        ..good.clone()
    };
    let large = wire::Host {
        labels: [("a".to_owned(), "b".repeat(10_000))].into(),
        ..good.clone()
    };
    use tonic::Code::{FailedPrecondition, InvalidArgument, OutOfRange};
    for (request, code) in [
        (register(PROTOCOL + 1, Some(good)), FailedPrecondition),
        (register(PROTOCOL, None), InvalidArgument),
        (register(PROTOCOL, Some(nowhere)), InvalidArgument),
        (register(PROTOCOL, Some(large)), OutOfRange),
    ] {
        let refused = client.register(request).await.unwrap_err();
        assert_eq!(refused.code(), code, "{refused:?}");
    }
    for (request, code) in [
        (watch(0, "m", 0), FailedPrecondition),
        (watch(PROTOCOL, "../m", 0), InvalidArgument),
        (watch(PROTOCOL, "m", u64::MAX), InvalidArgument),
    ] {
        let refused = client.watch(request).await.unwrap_err();
        assert_eq!(refused.code(), code, "{refused:?}");
    }
    let nobody = KeepAliveRequest {
        removed: 0,
        id: "m".into(),
        role: 77,
        reports: Vec::new(),
        figures: None,
    };
    let refused = client.keep_alive(nobody).await.unwrap_err();
    assert_eq!(refused.code(), InvalidArgument);
    manager.stop().await;
}

#[tokio::test]
async fn a_restart_with_its_database_is_not_noticed() {
    let dir = tempfile::tempdir().unwrap();
    let manager = Running::start(dir.path(), loopback(0)).await;
    let url = manager.url();
    let _scheduler = Member::join(&url, "s", Role::Scheduler);
    let _seed = Member::join(&url, "seed", Role::Seed);
    let mut mirror = Member::join(&url, "m", Role::Mirror);
    let before = mirror.sees_members(&["s"], &["seed"]).await;
    let listen = manager.grpc;
    manager.stop().await;

    let manager = Running::start(dir.path(), listen).await;
    // Known at once, to somebody new as well, with the version it had.
    let mut late = Member::join(&url, "late", Role::Mirror);
    let known = late.sees(|known| known.version > 0).await;
    assert_eq!(known, before);
    assert_eq!(*mirror.known.borrow(), before);

    let _more = Member::join(&url, "seed-2", Role::Seed);
    let after = mirror.sees_members(&["s"], &["seed", "seed-2"]).await;
    assert!(after.version > before.version);
    manager.stop().await;
}

#[tokio::test]
async fn a_lost_database_takes_nothing_from_anybody() {
    let dir = tempfile::tempdir().unwrap();
    let manager = Running::start(dir.path(), loopback(0)).await;
    let url = manager.url();
    let _members = [
        Member::join(&url, "s", Role::Scheduler),
        Member::join(&url, "seed-1", Role::Seed),
        Member::join(&url, "seed-2", Role::Seed),
    ];
    let mut mirror = Member::join(&url, "m", Role::Mirror);
    let before = mirror.sees_members(&["s"], &["seed-1", "seed-2"]).await;
    let listen = manager.grpc;
    manager.stop().await;
    for file in std::fs::read_dir(dir.path()).unwrap() {
        std::fs::remove_file(file.unwrap().path()).unwrap();
    }

    let manager = Running::start(dir.path(), listen).await;
    assert_eq!(manager.get("/api/v1/configuration").await["version"], 0);
    // The next that is heard is everything there is, above what was held.
    mirror.known.borrow_and_update();
    timeout(PATIENCE, mirror.known.changed())
        .await
        .expect("heard in time")
        .unwrap();
    let after = mirror.known.borrow().clone();
    assert!(after.version > before.version);
    assert_eq!(after.schedulers, before.schedulers);
    assert_eq!(after.seeds, before.seeds);
    manager.stop().await;
}

#[tokio::test]
async fn a_database_that_fails_stops_nobody_and_is_caught_up_with() {
    let dir = tempfile::tempdir().unwrap();
    let manager = Running::start(dir.path(), loopback(0)).await;
    let path = dir.path().join("manager.db");
    let options = sqlx::sqlite::SqliteConnectOptions::new().filename(&path);
    let mut other = options.connect().await.unwrap();
    let locked = other.begin_with("BEGIN IMMEDIATE").await.unwrap();

    let _seed = Member::join(&manager.url(), "seed", Role::Seed);
    let mut mirror = Member::join(&manager.url(), "m", Role::Mirror);
    let told = mirror.sees_members(&[], &["seed"]).await;
    degrades_to(
        &manager.health,
        |parts| matches!(parts, [("database", why)] if why.contains("manager.db")),
    )
    .await;
    assert_eq!(manager.health.waiting_for(), [], "it serves from memory");
    locked.rollback().await.unwrap();
    degrades_to(&manager.health, <[_]>::is_empty).await;

    let sql = "SELECT version FROM configuration";
    let stored: i64 = sqlx::query_scalar(sql).fetch_one(&mut other).await.unwrap();
    assert_eq!(u64::try_from(stored).unwrap(), told.version);
    other.close().await.unwrap();

    // Deleted under its feet: written anew, in full.
    std::fs::remove_file(&path).unwrap();
    let _more = Member::join(&manager.url(), "seed-2", Role::Seed);
    let told = mirror.sees_members(&[], &["seed", "seed-2"]).await;
    let listen = manager.grpc;
    manager.stop().await;
    let manager = Running::start(dir.path(), listen).await;
    let version = manager.get("/api/v1/configuration").await["version"].clone();
    assert_eq!(version, told.version);
    manager.stop().await;
}

async fn degrades_to(health: &Health, what: impl Fn(&[(&'static str, String)]) -> bool) {
    let reached = timeout(PATIENCE, async {
        while !what(&health.degraded()) {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    });
    reached
        .await
        .unwrap_or_else(|_| panic!("{:?}", health.degraded()));
}

#[tokio::test]
async fn what_stands_in_the_way_of_a_start_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let taken = std::net::TcpListener::bind(loopback(0)).unwrap();
    let taken = (taken.local_addr().unwrap(), taken);
    let start = async |settings: Settings| {
        let shutdown = Shutdown::default();
        Manager::bind(
            &settings,
            &Metrics::default(),
            &Health::default(),
            &IdentityMetrics::default(),
            &shutdown,
        )
        .await
        .unwrap_err()
    };
    let refused = start(settings(dir.path(), taken.0)).await;
    assert!(matches!(refused, StartError::Listen { .. }), "{refused:?}");
    let mut api = settings(dir.path(), loopback(0));
    api.manager.api_listen = taken.0;
    let refused = start(api).await;
    assert!(matches!(refused, StartError::Api { .. }), "{refused:?}");
    let mut database = settings(dir.path(), loopback(0));
    database.manager.database = Some(dir.path().to_owned());
    let refused = start(database).await;
    assert!(matches!(refused, StartError::Database(_)), "{refused:?}");
}
