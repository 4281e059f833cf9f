//! Private content between the nodes of a cluster: it leaves upstream once, and a node has it from a
//! seed only with its own client's right, which the seed has looked at.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context as _, Result, ensure};
use bytes::Bytes;
use darner_e2e::client::{Client, SOURCE};
use darner_e2e::cluster::{Cluster, seeds};
use darner_e2e::guest::{Guest, Port};
use darner_e2e::image::Image;
use darner_e2e::scene::{self, Scene};
use darner_e2e::upstream::{Guard, NAME, Upstream};
use darner_e2e::wait;
use darner_proto::digest::Digest;
use darner_proto::id::Role;
use darner_proto::name::{Reference, Source};
use darner_proto::peer::{
    PRIVATE_PREFIX, PrivateReply, PrivateRequest, ResolveReply, ResolveRequest, TICKET, Target,
};
use darner_proto::wire;
use futures_util::future::try_join_all;
use http::{Method, Request};
use prost::Message as _;

const ALICE: &str = "canary-of-alice-5ecre7";
const BOB: &str = "canary-of-bob-5ecre7";

fn tokens(image: &Image, others: &Image) -> Guard {
    let of = |image: &Image, token: &str| (image.repository.clone(), token.to_owned());
    Guard::Tokens(vec![of(image, ALICE), of(others, BOB)])
}

/// Neither a log nor a file of any process holds a credential.
fn check_secrecy(scene: &Scene, cluster: &Cluster) -> Result<()> {
    for process in cluster.seeds.iter().chain(&cluster.mirrors) {
        for secret in [ALICE, BOB] {
            ensure!(!process.output().contains(secret), "{}", process.name());
        }
    }
    scene.holds_none_of("", &[ALICE, BOB])
}

#[test]
fn a_private_image_leaves_upstream_once_for_all_who_may_read_it() {
    scene::run("private_once", async |scene| {
        let upstream = Upstream::start(scene).await?;
        let cluster = Cluster::start(scene, &upstream, seeds(2).mirrors(3)).await?;
        let (image, others) = (&upstream.images.middle, &upstream.images.tiny);
        upstream.guard(tokens(image, others));
        let clients: Vec<_> = cluster
            .clients()?
            .iter()
            .map(|client| client.with_token(ALICE))
            .collect();
        try_join_all(clients.iter().map(|client| client.pull(image))).await?;
        upstream.read_once(image)?;
        for client in &clients {
            let blob = image.blob_path(&image.blobs[0]);
            wait::until("the node keeps what it was sent", async || {
                let kept = client.get(&blob).await.ok()?;
                (kept.header(SOURCE).ok()? == "store").then_some(())
            })
            .await?;
            // The others' token opens nothing of it, and no token nothing at all.
            let path = format!("{}/manifests/{}", image.repository, image.tag);
            for stranger in [client.with_token(BOB), client.with_token("none")] {
                for path in [&path, &blob] {
                    let refused = stranger.get(path).await?;
                    ensure!(refused.status == 401, "{}", refused.describe());
                }
            }
        }
        let given = cluster.seeds.iter().map(async |seed| {
            let metrics = seed.metrics().await?;
            Ok::<_, anyhow::Error>(metrics.sum("darner_private_tickets_total", ""))
        });
        let given: f64 = try_join_all(given).await?.iter().sum();
        ensure!(given >= 3.0, "{given} tickets");
        check_secrecy(scene, &cluster)
    });
}

#[test]
fn with_no_seed_left_each_node_reads_for_itself() {
    scene::run("private_seedless", async |scene| {
        let upstream = Upstream::start(scene).await?;
        let mut cluster = Cluster::start(scene, &upstream, seeds(1).mirrors(1)).await?;
        let (image, others) = (&upstream.images.middle, &upstream.images.tiny);
        upstream.guard(tokens(image, others));
        cluster.seeds[0].kill()?;
        let client = Client::new(&cluster.mirrors[0], NAME)?.with_token(ALICE);
        client.pull(image).await.map(drop)
    });
}

struct Asker<'a> {
    guest: &'a Guest,
    port: &'a Port,
}

impl Asker<'_> {
    /// What the seed says to a credential.
    async fn prove(&self, image: &Image, target: Target, shown: &str) -> Result<PrivateReply> {
        let request = PrivateRequest {
            request: ResolveRequest {
                source: Source {
                    registry: NAME.parse()?,
                    repository: image.repository.parse()?,
                },
                target,
                held_only: false,
                quiet: Duration::ZERO,
            },
            authorization: shown.to_owned(),
        };
        let body = wire::PrivateRequest::from(&request).encode_to_vec();
        let request = Request::builder()
            .method(Method::POST)
            .uri(format!("{PRIVATE_PREFIX}/resolve"))
            .header("host", "seed")
            .body(Bytes::from(body))?;
        let (status, body) = self.guest.ask(self.port, request).await?;
        ensure!(status == 200, "{status}");
        Ok(wire::PrivateReply::decode(body)?.try_into()?)
    }

    /// The answer to a request for the first piece.
    async fn piece(&self, digest: &Digest, ticket: Option<&str>) -> Result<(u16, Bytes)> {
        self.get(digest, "pieces?want=0-0", ticket).await
    }

    async fn get(&self, digest: &Digest, what: &str, ticket: Option<&str>) -> Result<(u16, Bytes)> {
        let mut request = Request::builder()
            .uri(format!("{PRIVATE_PREFIX}/tasks/{digest}/{what}"))
            .header("host", "seed");
        if let Some(ticket) = ticket {
            request = request.header(TICKET, ticket);
        }
        self.guest.ask(self.port, request.body(Bytes::new())?).await
    }
}

fn refused(reply: &PrivateReply) -> bool {
    reply.reply == ResolveReply::NotPublic && reply.ticket.is_none()
}

#[test]
fn a_member_gets_nothing_private_without_a_proof_of_its_own() {
    scene::run("private_member", async |scene| {
        let upstream = Upstream::start(scene).await?;
        let cluster = Cluster::start(scene, &upstream, seeds(1).mirrors(1)).await?;
        let (image, others) = (&upstream.images.middle, &upstream.images.tiny);
        upstream.guard(tokens(image, others));
        let (blob, seed) = (image.blobs[0].digest, &cluster.seeds[0]);
        let port = Port::of(seed, "pieces")?;
        let one = Guest::join(scene, &cluster.manager, Role::Mirror, "one").await?;
        let two = Guest::join(scene, &cluster.manager, Role::Mirror, "two").await?;
        let one = Asker {
            guest: &one,
            port: &port,
        };
        let two = Asker {
            guest: &two,
            port: &port,
        };
        let bearer = |token: &str| format!("Bearer {token}");
        // The same before the content is held and after.
        for round in ["cold", "held"] {
            for what in [
                "pieces?want=0-0",
                "availability?size=5&registry=a&repository=b",
            ] {
                for ticket in [None, Some("guessed")] {
                    let answer = one.get(&blob, what, ticket).await?;
                    ensure!(answer == (403, Bytes::new()), "{round} {what}: {answer:?}");
                }
            }
            let manifest = Target::Manifest(Reference::Digest(image.digest));
            for target in [Target::Blob(blob), manifest] {
                for shown in [
                    bearer(BOB),
                    bearer("wrong"),
                    String::new(),
                    "Basic YTpi".to_owned(),
                ] {
                    let reply = one.prove(image, target.clone(), &shown).await?;
                    let passwordless = !shown.starts_with("Basic");
                    ensure!(reply.ticket.is_none(), "{round} {shown}: {reply:?}");
                    ensure!(
                        refused(&reply) == passwordless,
                        "{round} {shown}: {reply:?}"
                    );
                }
                // By digest, under a name that its token does open.
                let reply = one.prove(others, target, &bearer(BOB)).await?;
                ensure!(refused(&reply), "{round}: {reply:?}");
            }
            let client = Client::new(&cluster.mirrors[0], NAME)?;
            client.with_token(ALICE).pull(image).await?;
        }
        // Its open ways do not lead there either.
        let open = Request::builder()
            .uri(format!("/v1/tasks/{blob}/pieces?want=0-0"))
            .header("host", "seed")
            .body(Bytes::new())?;
        let (status, _) = one.guest.ask(&port, open).await?;
        ensure!(status == 404, "{status}");
        // With a proof: the piece, for whom the ticket was given and for nothing else.
        let reply = one.prove(image, Target::Blob(blob), &bearer(ALICE)).await?;
        let (ticket, _) = reply.ticket.context("no ticket")?;
        let (status, bytes) = one.piece(&blob, Some(&ticket)).await?;
        ensure!(status == 200 && !bytes.is_empty(), "{status}");
        let replayed = two.piece(&blob, Some(&ticket)).await?.0;
        let elsewhere = one.piece(&image.blobs[1].digest, Some(&ticket)).await?.0;
        ensure!(
            (replayed, elsewhere) == (403, 403),
            "{replayed} {elsewhere}"
        );
        check_secrecy(scene, &cluster)
    });
}

#[test]
fn a_right_that_is_taken_away_ends_between_nodes_within_the_grant() {
    scene::run("private_revoked", async |scene| {
        let upstream = Upstream::start(scene).await?;
        let cluster = Cluster::start(scene, &upstream, seeds(1).mirrors(0)).await?;
        let image = &upstream.images.middle;
        // A token that says when it ends makes a grant as short.
        let life = Duration::from_secs(6);
        let ends = SystemTime::now().duration_since(UNIX_EPOCH)? + life;
        let token = format!(
            "e30.{}.x",
            base64url(&format!(r#"{{"exp":{}}}"#, ends.as_secs()))
        );
        upstream.guard(Guard::Tokens(vec![(
            image.repository.clone(),
            token.clone(),
        )]));
        let port = Port::of(&cluster.seeds[0], "pieces")?;
        let guest = Guest::join(scene, &cluster.manager, Role::Mirror, "one").await?;
        let one = Asker {
            guest: &guest,
            port: &port,
        };
        let blob = image.blobs[0].digest;
        let shown = format!("Bearer {token}");
        let reply = one.prove(image, Target::Blob(blob), &shown).await?;
        let (ticket, good_for) = reply.ticket.context("no ticket")?;
        ensure!(good_for <= life, "{good_for:?}");
        one.get(&blob, "availability", Some(&ticket)).await?;
        ensure!(one.piece(&blob, Some(&ticket)).await?.0 == 200);
        upstream.guard(Guard::Tokens(Vec::new()));
        let waited = SystemTime::now();
        while one.piece(&blob, Some(&ticket)).await?.0 == 200 {
            ensure!(waited.elapsed()? < 2 * life, "the ticket does not end");
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        ensure!(one.piece(&blob, Some(&ticket)).await?.0 == 403);
        let reply = one.prove(image, Target::Blob(blob), &shown).await?;
        ensure!(refused(&reply), "{reply:?}");
        Ok(())
    });
}

/// As tokens write what they say.
fn base64url(text: &str) -> String {
    const DIGITS: &[u8] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    let mut written = String::new();
    for part in text.as_bytes().chunks(3) {
        let bits = part
            .iter()
            .fold(0u32, |bits, byte| bits << 8 | u32::from(*byte));
        let bits = bits << (8 * (3 - part.len()));
        for place in 0..=part.len() {
            let digit = (bits >> (18 - 6 * place)) & 63;
            written.push(char::from(DIGITS[digit as usize]));
        }
    }
    written
}
