//! Look-ups with a real store, real upstream requests, and other nodes.

pub(crate) mod fake;

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Bytes;
use axum::extract::State;
use axum::http::StatusCode;
use axum::routing::post;
use darner_proto::id::{Host, Role};
use darner_proto::name::{Reference, Source};
use darner_proto::peer::{PATH_PREFIX, ResolveReply, ResolveRequest, Resolved, Target};
use darner_proto::wire;
use darner_service::directory::Membership;
use darner_service::identity::{Identity, IdentityMetrics};
use darner_service::metrics::Metrics;
use darner_service::shutdown::Shutdown;
use prost::Message as _;
use tokio::net::TcpListener;
use tokio::sync::watch;

use super::*;
use crate::store::Options;
use crate::swarm::{Inventory, Schedulers};
use fake::{Fake, IMAGE};

const MINUTE: Duration = Duration::from_secs(60);

/// A node with a resolver that other nodes can ask.
struct Node {
    host: Host,
    resolver: Resolver,
    store: Store,
    shutdown: Shutdown,
    _membership: watch::Sender<Arc<Membership>>,
    _directory: tempfile::TempDir,
}

impl Node {
    async fn start(name: &str, fake: &Fake, tag_ttl: Duration, seeds: &[Host]) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let host = Host {
            id: name.parse().unwrap(),
            address: listener.local_addr().unwrap().to_string(),
            role: Role::Seed,
            labels: Default::default(),
            signing_key: None,
            upload_slots: 1,
        };
        let (metrics, shutdown) = (Metrics::default(), Shutdown::default());
        let directory = tempfile::tempdir().unwrap();
        let options = Options::new(directory.path().join("store"), Some(1 << 30));
        let store = {
            let metrics = metrics.clone();
            let opened = tokio::task::spawn_blocking(move || Store::open(options, &metrics));
            opened.await.unwrap().unwrap()
        };
        let settings = [fake.settings(tag_ttl)];
        let upstreams = Upstreams::new(&settings, &metrics, &shutdown).unwrap();
        let (membership, members) = watch::channel(Arc::new(Membership {
            seeds: seeds.to_vec(),
            ..Membership::default()
        }));
        let inventory = Inventory {
            sending: Arc::new(|| (0, 0)),
            keys: Arc::new(Vec::new),
            holds: Arc::new(|_| false),
        };
        let identity = Identity::insecure(&IdentityMetrics::default());
        let schedulers = Schedulers {
            named: members,
            keepers: None,
        };
        let (swarm, _leases) =
            Swarm::start(host.clone(), schedulers, inventory, &identity, &shutdown);
        let resolver = Resolver::new(
            store.clone(),
            upstreams,
            swarm,
            Peers::new(&host.id, &identity).unwrap(),
        );
        let routes = Router::new()
            .route(&format!("{PATH_PREFIX}/resolve"), post(answer))
            .with_state(resolver.clone());
        let draining = shutdown.clone();
        shutdown.spawn(async move {
            tokio::select! {
                ended = axum::serve(listener, routes) => ended.unwrap(),
                () = draining.draining() => {}
            }
        });
        Self {
            host,
            resolver,
            store,
            shutdown,
            _membership: membership,
            _directory: directory,
        }
    }

    async fn tag(&self, repository: &str, tag: &str) -> ResolveReply {
        let reference = Reference::Tag(tag.parse().unwrap());
        self.resolver
            .manifest(&source(repository), &reference)
            .await
    }

    async fn held(&self, repository: &str, target: Target) -> ResolveReply {
        let request = ResolveRequest {
            source: source(repository),
            target,
            held_only: true,
            quiet: Duration::ZERO,
        };
        self.resolver.answer(request).await
    }
}

async fn answer(State(resolver): State<Resolver>, body: Bytes) -> Vec<u8> {
    let request = wire::ResolveRequest::decode(body).unwrap();
    let reply = resolver.answer(request.try_into().unwrap()).await;
    wire::ResolveReply::from(&reply).encode_to_vec()
}

fn source(repository: &str) -> Source {
    Source {
        registry: "reg.test".parse().unwrap(),
        repository: repository.parse().unwrap(),
    }
}

fn found(reply: ResolveReply) -> Resolved {
    match reply {
        ResolveReply::Found(found) => found,
        other => panic!("{other:?}"),
    }
}

fn v1() -> Target {
    Target::Manifest("v1".parse().unwrap())
}

#[tokio::test]
async fn a_pull_costs_one_head_and_one_get_and_the_next_nothing() {
    let fake = Fake::start().await;
    let image = fake.image("a/b", 1000);
    let node = Node::start("me", &fake, MINUTE, &[]).await;
    for _ in 0..2 {
        let tag = found(node.tag("a/b", "v1").await);
        assert_eq!(
            (tag.digest, tag.media_type.as_str()),
            (image.manifest, IMAGE)
        );
        assert!(image.manifest.matches(&tag.content) && !tag.stale);
        assert!(tag.age_ms < 5000 && tag.public_ms > 590_000);
        let by_digest = Reference::Digest(image.manifest);
        let by_digest = found(node.resolver.manifest(&source("a/b"), &by_digest).await);
        assert_eq!(by_digest.content, tag.content);
        let layer = found(node.resolver.blob(&source("a/b"), &image.layer).await);
        assert_eq!(layer.size, 1000);
    }
    assert_eq!(fake.asked("HEAD "), 1);
    assert_eq!(fake.asked("GET "), 1);
}

#[tokio::test]
async fn many_at_once_cost_what_one_costs() {
    let fake = Fake::start().await;
    let image = fake.image("a", 1000);
    let node = Node::start("me", &fake, MINUTE, &[]).await;
    let asks = (0..100).map(|_| node.tag("a", "v1"));
    for reply in futures_util::future::join_all(asks).await {
        assert_eq!(found(reply).digest, image.manifest);
    }
    assert_eq!((fake.asked("HEAD "), fake.asked("GET ")), (1, 1));
}

#[tokio::test]
async fn what_is_not_public_is_neither_answered_nor_recorded() {
    let fake = Fake::start().await;
    let image = fake.image("a", 1000);
    fake.make_private("a");
    let node = Node::start("me", &fake, MINUTE, &[]).await;
    assert_eq!(node.tag("a", "v1").await, ResolveReply::NotPublic);
    let blob = node.resolver.blob(&source("a"), &image.layer).await;
    assert_eq!(blob, ResolveReply::NotPublic);
    for target in [v1(), Target::Blob(image.layer)] {
        let held = node.held("a", target).await;
        assert!(matches!(held, ResolveReply::Unavailable { .. }), "{held:?}");
    }
}

#[tokio::test]
async fn a_repository_that_turns_private_is_closed_at_the_next_question() {
    let fake = Fake::start().await;
    fake.image("a", 1000);
    let node = Node::start("me", &fake, Duration::ZERO, &[]).await;
    found(node.tag("a", "v1").await);
    fake.make_private("a");
    assert_eq!(node.tag("a", "v1").await, ResolveReply::NotPublic);
    let held = node.held("a", v1()).await;
    assert!(matches!(held, ResolveReply::Unavailable { .. }), "{held:?}");
}

#[tokio::test]
async fn content_of_one_repository_is_not_answered_for_another() {
    let fake = Fake::start().await;
    let image = fake.image("a", 1000);
    fake.image("other", 10);
    let node = Node::start("me", &fake, MINUTE, &[]).await;
    found(node.tag("a", "v1").await);
    found(node.tag("other", "v1").await);
    let reference = Reference::Digest(image.manifest);
    let reply = node.resolver.manifest(&source("other"), &reference).await;
    assert_eq!(reply, ResolveReply::NotFound);
    let reply = node.resolver.blob(&source("other"), &image.layer).await;
    assert_eq!(reply, ResolveReply::NotFound);
}

#[tokio::test]
async fn a_missing_tag_is_remembered_for_a_while() {
    let fake = Fake::start().await;
    let node = Node::start("me", &fake, MINUTE, &[]).await;
    for _ in 0..3 {
        assert_eq!(node.tag("a", "v1").await, ResolveReply::NotFound);
    }
    assert_eq!(fake.asked("/v2/a/manifests/v1"), 1);
}

#[tokio::test]
async fn old_registries_and_old_manifests_are_understood() {
    let fake = Fake::start().await;
    fake.hide_digests();
    let layer = fake.put("a", "application/octet-stream", b"layer");
    let schema1 = format!(r#"{{"schemaVersion":1,"fsLayers":[{{"blobSum":"{layer}"}}]}}"#);
    let media_type = "application/vnd.docker.distribution.manifest.v1+prettyjws";
    let digest = fake.put("a", media_type, schema1.as_bytes());
    fake.tag("a", "v1", digest);
    let node = Node::start("me", &fake, MINUTE, &[]).await;
    let tag = found(node.tag("a", "v1").await);
    assert_eq!((tag.digest, tag.content), (digest, schema1.into_bytes()));
    for _ in 0..2 {
        let blob = found(node.resolver.blob(&source("a"), &layer).await);
        assert_eq!(blob.size, 5);
    }
    assert_eq!(fake.asked("HEAD /v2/a/blobs/"), 1);
}

#[tokio::test]
async fn while_upstream_is_down_what_it_last_said_is_served_as_stale() {
    let fake = Fake::start().await;
    let image = fake.image("a", 1000);
    let node = Node::start("me", &fake, Duration::ZERO, &[]).await;
    found(node.tag("a", "v1").await);
    fake.fail(Some(StatusCode::BAD_GATEWAY));
    let tag = found(node.tag("a", "v1").await);
    assert!(tag.stale);
    assert_eq!(tag.digest, image.manifest);
    let by_digest = Reference::Digest(image.manifest);
    let by_digest = found(node.resolver.manifest(&source("a"), &by_digest).await);
    assert!(!by_digest.stale);
    let never_seen = node.tag("b", "v1").await;
    assert!(matches!(never_seen, ResolveReply::Unavailable { .. }));
}

#[tokio::test]
async fn what_is_known_does_not_wait_again_for_a_registry_that_is_away() {
    let fake = Fake::start().await;
    fake.image("a", 1000);
    let node = Node::start("me", &fake, Duration::ZERO, &[]).await;
    found(node.tag("a", "v1").await);
    fake.fail(Some(StatusCode::BAD_GATEWAY));
    assert!(found(node.tag("a", "v1").await).stale);
    let asked = fake.asked("");
    for _ in 0..5 {
        assert!(found(node.tag("a", "v1").await).stale);
    }
    assert_eq!(fake.asked(""), asked);
    // For what is not known it is asked each time, and any answer ends it.
    let unknown = node.tag("b", "v1").await;
    assert!(matches!(unknown, ResolveReply::Unavailable { .. }));
    assert!(fake.asked("") > asked);
    fake.fail(None);
    assert!(matches!(node.tag("b", "v1").await, ResolveReply::NotFound));
    assert!(!found(node.tag("a", "v1").await).stale);
}

#[tokio::test]
async fn the_owner_asks_for_all_and_all_keep_what_it_says() {
    let fake = Fake::start().await;
    let image = fake.image("a", 1000);
    let owner = Node::start("owner", &fake, MINUTE, &[]).await;
    let seeds = [owner.host.clone()];
    let mut nodes = Vec::new();
    for n in 0..4 {
        nodes.push(Node::start(&format!("node-{n}"), &fake, MINUTE, &seeds).await);
    }
    let asks = nodes.iter().map(|node| node.tag("a", "v1"));
    for reply in futures_util::future::join_all(asks).await {
        assert_eq!(found(reply).digest, image.manifest);
    }
    assert_eq!((fake.asked("HEAD "), fake.asked("GET ")), (1, 1));
    owner.shutdown.drain();
    fake.fail(Some(StatusCode::BAD_GATEWAY));
    for node in &nodes {
        let tag = found(node.tag("a", "v1").await);
        assert!(!tag.content.is_empty());
        assert_eq!(
            found(node.held("a", Target::Blob(image.layer)).await).size,
            1000
        );
    }
}

#[tokio::test]
async fn a_node_whose_owner_is_gone_asks_upstream_itself() {
    let fake = Fake::start().await;
    let image = fake.image("a", 1000);
    let mut gone = Node::start("gone", &fake, MINUTE, &[]).await.host;
    let closed = TcpListener::bind("127.0.0.1:0").await.unwrap();
    gone.address = closed.local_addr().unwrap().to_string();
    drop(closed);
    let node = Node::start("me", &fake, MINUTE, &[gone]).await;
    assert_eq!(found(node.tag("a", "v1").await).digest, image.manifest);
}

#[tokio::test]
async fn an_owner_without_upstream_does_not_keep_others_from_it() {
    let fake = Fake::start().await;
    let image = fake.image("a", 1000);
    let cut_off = Fake::start().await;
    cut_off.fail(Some(StatusCode::BAD_GATEWAY));
    let owner = Node::start("owner", &cut_off, MINUTE, &[]).await;
    let node = Node::start("me", &fake, MINUTE, std::slice::from_ref(&owner.host)).await;
    assert_eq!(found(node.tag("a", "v1").await).digest, image.manifest);
}

#[tokio::test]
async fn a_tag_that_was_passed_on_is_no_younger_than_it_is() {
    let fake = Fake::start().await;
    fake.image("a", 1000);
    let owner = Node::start("owner", &fake, MINUTE, &[]).await;
    found(owner.tag("a", "v1").await);
    let node = Node::start("me", &fake, MINUTE, std::slice::from_ref(&owner.host)).await;
    let told = found(node.tag("a", "v1").await);
    let kept = found(node.held("a", v1()).await);
    let owners = found(owner.held("a", v1()).await);
    assert!(kept.age_ms >= told.age_ms);
    // The owner was asked last and still knows the shortest age.
    assert!(kept.age_ms + 5000 >= owners.age_ms);
    assert!(kept.public_ms <= told.public_ms);
}

#[tokio::test]
async fn a_verdict_that_ran_out_is_renewed_by_one_request() {
    let fake = Fake::start().await;
    let image = fake.image("a", 1000);
    let node = Node::start("me", &fake, MINUTE, &[]).await;
    found(node.tag("a", "v1").await);
    let eleven_minutes_ago = freshness::now_ms() - 11 * 60_000;
    node.store
        .set_public(&source("a"), eleven_minutes_ago)
        .unwrap();
    for _ in 0..2 {
        let layer = found(node.resolver.blob(&source("a"), &image.layer).await);
        assert_eq!((layer.size, layer.stale), (1000, false));
        let by_digest = Reference::Digest(image.manifest);
        found(node.resolver.manifest(&source("a"), &by_digest).await);
    }
    assert_eq!(fake.asked("HEAD /v2/a/blobs/"), 1);
    assert_eq!((fake.asked("HEAD "), fake.asked("GET ")), (2, 1));
}

#[tokio::test]
async fn without_upstream_a_verdict_lasts_a_day_and_no_longer() {
    let fake = Fake::start().await;
    let image = fake.image("a", 1000);
    let node = Node::start("me", &fake, MINUTE, &[]).await;
    found(node.tag("a", "v1").await);
    fake.fail(Some(StatusCode::BAD_GATEWAY));
    let hours_ago = |hours: u64| freshness::now_ms() - hours * 3_600_000;
    node.store.set_public(&source("a"), hours_ago(23)).unwrap();
    let layer = found(node.resolver.blob(&source("a"), &image.layer).await);
    assert!(layer.stale && layer.public_ms <= 3_600_000);
    node.store.set_public(&source("a"), hours_ago(24)).unwrap();
    let layer = node.resolver.blob(&source("a"), &image.layer).await;
    assert!(
        matches!(layer, ResolveReply::Unavailable { .. }),
        "{layer:?}"
    );
}

#[tokio::test]
async fn of_several_holders_the_youngest_answer_counts_and_is_kept() {
    let fake = Fake::start().await;
    let image = fake.image("a", 1000);
    let older = Node::start("older", &fake, MINUTE, &[]).await;
    found(older.tag("a", "v1").await);
    let old_record = crate::store::TagRecord {
        digest: image.manifest,
        checked_ms: freshness::now_ms() - 7_200_000,
    };
    let v1_tag = "v1".parse().unwrap();
    older
        .store
        .set_tag(&source("a"), &v1_tag, &old_record)
        .unwrap();
    let moved = fake.put("a", IMAGE, br#"{"schemaVersion":2}"#);
    fake.tag("a", "v1", moved);
    let younger = Node::start("younger", &fake, MINUTE, &[]).await;
    found(younger.tag("a", "v1").await);
    fake.fail(Some(StatusCode::BAD_GATEWAY));

    let node = Node::start("me", &fake, MINUTE, &[]).await;
    let holders = [older.host.clone(), younger.host.clone()];
    let answer = node.resolver.youngest(&holders, &source("a"), &v1()).await;
    assert_eq!(answer.map(|found| found.digest), Some(moved));
    assert_eq!(found(node.held("a", v1()).await).digest, moved);
    let layer = Target::Blob(image.layer);
    let answer = node.resolver.youngest(&holders, &source("a"), &layer).await;
    assert_eq!(answer.map(|found| found.size), Some(1000));
    let kept = found(node.resolver.blob(&source("a"), &image.layer).await);
    assert_eq!(kept.size, 1000);
}

#[tokio::test]
async fn what_a_registry_asks_one_node_for_all_nodes_do() {
    let fake = Fake::start().await;
    fake.image("a", 1000);
    let owner = Node::start("owner", &fake, MINUTE, &[]).await;
    let seeds = std::slice::from_ref(&owner.host);
    let first = Node::start("first", &fake, MINUTE, seeds).await;
    let second = Node::start("second", &fake, MINUTE, seeds).await;
    fake.fail(Some(StatusCode::TOO_MANY_REQUESTS));
    // Whichever node: the owner asks once, and nobody asks again in its place.
    for node in [&first, &second, &first] {
        let reply = node.tag("a", "v1").await;
        assert!(
            matches!(reply, ResolveReply::Unavailable { .. }),
            "{reply:?}"
        );
    }
    assert_eq!(fake.asked(""), 1);
    let reply = owner.resolver.answer(ResolveRequest {
        source: source("a"),
        target: v1(),
        held_only: true,
        quiet: Duration::ZERO,
    });
    let ResolveReply::Unavailable { quiet, .. } = reply.await else {
        panic!("something is held");
    };
    assert!(
        quiet > Duration::ZERO && quiet <= Duration::from_secs(5),
        "{quiet:?}"
    );
}

#[tokio::test]
async fn an_owner_is_told_of_a_limit_that_another_has_met() {
    let fake = Fake::start().await;
    fake.image("a", 1000);
    let owner = Node::start("owner", &fake, MINUTE, &[]).await;
    let request = ResolveRequest {
        source: source("a"),
        target: v1(),
        held_only: false,
        quiet: Duration::from_secs(20),
    };
    let reply = owner.resolver.answer(request).await;
    assert!(
        matches!(reply, ResolveReply::Unavailable { .. }),
        "{reply:?}"
    );
    assert_eq!(fake.asked(""), 0);
}
