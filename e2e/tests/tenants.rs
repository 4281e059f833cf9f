//! Two tenants of one registry behind a token server: neither reads the other's, whatever it knows,
//! and a right that is taken away upstream ends here.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::{Context as _, Result, ensure};
use axum::body::Body;
use axum::extract::{Request, State};
use axum::response::Response;
use bytes::Bytes;
use darner_e2e::client::{Answer, Client};
use darner_e2e::cluster::up_settings_at;
use darner_e2e::darner::Darner;
use darner_e2e::registry::Registry;
use darner_e2e::scene::{self, Scene};
use darner_e2e::upstream::NAME;
use darner_proto::digest::Digest;
use http::{HeaderMap, StatusCode};
use serde_json::json;
use tokio::task::JoinSet;

const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
/// What no log, metric or file may hold.
const CANARY: &str = "canary-5ecre7";

/// The token server and the guard in front of the registry, in one.
#[derive(Clone)]
struct Door {
    registry: std::net::SocketAddr,
    me: std::net::SocketAddr,
    http: reqwest::Client,
    /// Passwords by user; a user may read what is below its own name.
    users: Arc<Mutex<HashMap<String, String>>>,
    bodies: Arc<Mutex<u64>>,
}

impl Door {
    async fn start(registry: std::net::SocketAddr) -> Result<(Self, JoinSet<()>)> {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
        let users = ["alice", "bob"].map(|user| (user.to_owned(), password(user)));
        let door = Self {
            registry,
            me: listener.local_addr()?,
            http: reqwest::Client::builder().no_proxy().build()?,
            users: Arc::new(Mutex::new(users.into())),
            bodies: Arc::default(),
        };
        let routes = axum::Router::new()
            .fallback(answer)
            .with_state(door.clone());
        let mut tasks = JoinSet::new();
        tasks.spawn(async move {
            // It ends with the test.
            let _ = axum::serve(listener, routes).await;
        });
        Ok((door, tasks))
    }

    fn revoke(&self, user: &str) {
        let mut users = self.users.lock().unwrap_or_else(PoisonError::into_inner);
        users.remove(user);
    }

    fn may(&self, user: &str, password: &str) -> bool {
        let users = self.users.lock().unwrap_or_else(PoisonError::into_inner);
        users.get(user).is_some_and(|known| known == password)
    }

    fn blobs_sent(&self) -> u64 {
        *self.bodies.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A token for a user's own repositories, as a client gets it from the challenge's realm.
    async fn token(&self, user: &str) -> Result<String> {
        let url = format!(
            "http://{}/token?service=door&scope=repository:{user}/app:pull",
            self.me
        );
        let request = self.http.get(url).basic_auth(user, Some(password(user)));
        let reply = request.send().await?.error_for_status()?.bytes().await?;
        let reply: serde_json::Value = serde_json::from_slice(&reply)?;
        Ok(reply["token"].as_str().context("no token")?.to_owned())
    }
}

fn password(user: &str) -> String {
    format!("{user}-{CANARY}")
}

fn plain(status: u16, body: impl Into<Body>) -> Response {
    let mut response = Response::new(body.into());
    *response.status_mut() = StatusCode::from_u16(status).unwrap_or_default();
    response
}

async fn answer(State(door): State<Door>, request: Request) -> Response {
    let path = request.uri().path().to_owned();
    if path == "/token" {
        return token(&door, request.headers());
    }
    let shown = request.headers().get("authorization");
    let shown = shown
        .and_then(|value| value.to_str().ok())
        .unwrap_or_default();
    // The token names its user and password: what it opens ends with the user's right.
    let user = shown
        .strip_prefix("Bearer token:")
        .and_then(|rest| rest.split_once(':'));
    let name = path.trim_start_matches("/v2/");
    let admitted = user.is_some_and(|(user, password)| {
        door.may(user, password) && name.starts_with(&format!("{user}/"))
    });
    if !admitted {
        let mut refused = plain(
            401,
            r#"{"errors":[{"code":"UNAUTHORIZED","message":"no"}]}"#,
        );
        let owner = name.split('/').next().unwrap_or_default();
        let challenge = format!(
            r#"Bearer realm="http://{}/token",service="door",scope="repository:{owner}/app:pull""#,
            door.me
        );
        if let Ok(value) = challenge.parse() {
            refused.headers_mut().insert("www-authenticate", value);
        }
        return refused;
    }
    let passed = pass(&door, request, path.contains("/blobs/")).await;
    passed.unwrap_or_else(|_| plain(502, ""))
}

fn token(door: &Door, headers: &HeaderMap) -> Response {
    for user in ["alice", "bob"] {
        let password = password(user);
        let basic = reqwest::Client::new()
            .get("http://x")
            .basic_auth(user, Some(&password))
            .build();
        let basic = basic
            .ok()
            .and_then(|request| request.headers().get("authorization").cloned());
        if basic.is_some()
            && headers.get("authorization") == basic.as_ref()
            && door.may(user, &password)
        {
            let reply = json!({"token": format!("token:{user}:{password}"), "expires_in": 300});
            return plain(200, reply.to_string());
        }
    }
    plain(401, "{}")
}

async fn pass(door: &Door, request: Request, blob: bool) -> Result<Response> {
    let target = request.uri().path_and_query().context("no path")?;
    let url = format!("http://{}{target}", door.registry);
    let mut asked = door.http.request(request.method().clone(), url);
    for name in ["accept", "range"] {
        if let Some(value) = request.headers().get(name) {
            asked = asked.header(name, value.clone());
        }
    }
    let answer = asked.send().await?;
    let mut response = plain(answer.status().as_u16(), "");
    *response.headers_mut() = answer.headers().clone();
    let body = answer.bytes().await?;
    if blob {
        let mut bodies = door.bodies.lock().unwrap_or_else(PoisonError::into_inner);
        *bodies += body.len() as u64;
    }
    if request.method() == http::Method::GET {
        *response.body_mut() = Body::from(body);
    }
    Ok(response)
}

struct Rig {
    _registry: Registry,
    _tasks: JoinSet<()>,
    door: Door,
    up: Darner,
    layer: Bytes,
}

impl Rig {
    /// Both tenants have an image of the same layer.
    async fn start(scene: &Scene) -> Result<Self> {
        let storage = scene.make_directory("storage")?;
        let registry = Registry::start(&scene.path(""), &storage, false).await?;
        let layer = Bytes::from("a layer of both ".repeat(20_000));
        let pusher = registry.pusher();
        for user in ["alice", "bob"] {
            let repository = format!("{user}/app");
            let config = pusher.blob(&repository, Bytes::from_static(b"{}")).await?;
            let digest = pusher.blob(&repository, layer.clone()).await?;
            let manifest = json!({
                "schemaVersion": 2,
                "mediaType": MANIFEST,
                "config": {"mediaType": "application/vnd.oci.empty.v1+json", "digest": config.to_string(), "size": 2},
                "layers": [{"mediaType": "application/vnd.oci.image.layer.v1.tar", "digest": digest.to_string(), "size": layer.len()}],
                "annotations": {"of": user},
            });
            let bytes = Bytes::from(manifest.to_string());
            pusher.manifest(&repository, "v1", MANIFEST, bytes).await?;
        }
        let (door, tasks) = Door::start(registry.address()).await?;
        let settings = up_settings_at(scene, &format!("http://{}", door.me))?;
        let settings = settings.set("log.filter", "trace");
        let up = Darner::start(scene, "up", "up", &settings).await?;
        Ok(Self {
            _registry: registry,
            _tasks: tasks,
            door,
            up,
            layer,
        })
    }

    async fn get(&self, path: &str, token: Option<&str>) -> Result<Answer> {
        let client = Client::new(&self.up, NAME)?;
        let mut request = client.request(http::Method::GET, path);
        if let Some(token) = token {
            request = request.bearer_auth(token);
        }
        let answer = request.send().await?;
        Ok(Answer {
            status: answer.status().as_u16(),
            headers: answer.headers().clone(),
            body: answer.bytes().await?,
        })
    }

    fn paths(&self, user: &str) -> [String; 2] {
        let layer = Digest::sha256(&self.layer);
        [
            format!("{user}/app/manifests/v1"),
            format!("{user}/app/blobs/{layer}"),
        ]
    }
}

#[test]
fn tenants_read_their_own_and_only_that_until_the_right_is_taken_away() {
    scene::run("tenants", async |scene| {
        let rig = Rig::start(scene).await?;
        let (alice, bob) = (rig.door.token("alice").await?, rig.door.token("bob").await?);
        // Refused before anything is held, and in the same words after.
        let mut before = Vec::new();
        for path in rig.paths("alice") {
            for token in [None, Some(bob.as_str())] {
                let refused = rig.get(&path, token).await?;
                ensure!(refused.status == 401, "{}", refused.describe());
                let challenge = refused.header("www-authenticate")?.to_owned();
                ensure!(challenge.contains(&rig.door.me.to_string()), "{challenge}");
                before.push((challenge, refused.body));
            }
        }
        for (user, token) in [("alice", &alice), ("bob", &bob), ("alice", &alice)] {
            for path in rig.paths(user) {
                let served = rig.get(&path, Some(token)).await?;
                ensure!(served.status == 200, "{path}: {}", served.describe());
            }
        }
        // The layer came once from upstream for both: the second had to prove its own right to it.
        let sent = rig.door.blobs_sent();
        ensure!(sent == rig.layer.len() as u64, "{sent}");
        let mut after = Vec::new();
        for path in rig.paths("alice") {
            for token in [None, Some(bob.as_str())] {
                let refused = rig.get(&path, token).await?;
                ensure!(refused.status == 401, "{}", refused.describe());
                let challenge = refused.header("www-authenticate")?.to_owned();
                after.push((challenge, refused.body));
            }
        }
        ensure!(before == after, "a refusal shows what is held");
        // By digest, under a name that bob may read: not linked there, and upstream says so.
        let manifest = rig.get("alice/app/manifests/v1", Some(&alice)).await?;
        let digest = manifest.header("docker-content-digest")?.to_owned();
        let guessed = format!("bob/app/manifests/{digest}");
        let guessed = rig.get(&guessed, Some(&bob)).await?;
        ensure!(guessed.status == 404, "{}", guessed.describe());

        rig.door.revoke("alice");
        let [tag, layer] = rig.paths("alice");
        let refused = rig.get(&tag, Some(&alice)).await?;
        ensure!(refused.status == 401, "{}", refused.describe());
        let refused = rig.get(&layer, Some(&alice)).await?;
        ensure!(refused.status == 401, "{}", refused.describe());
        let served = rig.get(&rig.paths("bob")[1], Some(&bob)).await?;
        ensure!(served.body == rig.layer);
        no_secret_is_seen(scene, &rig).await
    });
}

async fn no_secret_is_seen(scene: &Scene, rig: &Rig) -> Result<()> {
    let (logs, metrics) = (rig.up.output(), rig.up.metrics().await?.text);
    ensure!(!logs.contains(CANARY), "a secret is in a log");
    ensure!(!metrics.contains(CANARY), "a secret is in the metrics");
    scene.holds_none_of("data-up", &[CANARY])
}
