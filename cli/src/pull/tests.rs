//! Pulls from a registry that does what it is told, faults included.

use std::collections::{HashMap, VecDeque};
use std::fs;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::{Path as UrlPath, RawQuery, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use bytes::Bytes;
use darner_service::shutdown::Shutdown;
use futures_util::stream;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::net::TcpListener;
use tokio::sync::watch;

use super::*;

const INDEX: &str = "application/vnd.oci.image.index.v1+json";
const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";

/// What goes wrong with one answer.
#[derive(Debug, Clone)]
enum Fault {
    /// This many bytes come, then the connection breaks.
    Cut(usize),
    /// The first byte is another one.
    Wrong,
    /// A refusal.
    Status(u16),
    /// Everything comes, whatever was asked for.
    NoRange,
    /// One byte fewer is promised and sent.
    Short,
}

#[derive(Debug, Default)]
struct Script {
    manifests: HashMap<String, (&'static str, Bytes)>,
    blobs: HashMap<String, Bytes>,
    faults: HashMap<String, VecDeque<Fault>>,
    /// `<reference or digest>?<query> <range>`
    asked: Vec<String>,
    received: Received,
}

/// Bytes of each blob that clients have: a connection breaks once they have what came before.
type Received = watch::Sender<HashMap<String, u64>>;

#[derive(Debug, Clone)]
struct Registry {
    script: Arc<Mutex<Script>>,
    address: SocketAddr,
    shutdown: Shutdown,
}

impl Registry {
    async fn start() -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let registry = Self {
            script: Arc::default(),
            address: listener.local_addr().unwrap(),
            shutdown: Shutdown::default(),
        };
        let routes = Router::new()
            .route("/v2/team/app/manifests/{reference}", get(manifest))
            .route("/v2/team/app/blobs/{digest}", get(blob))
            .with_state(registry.script.clone());
        let ending = registry.shutdown.clone();
        registry.shutdown.spawn(async move {
            tokio::select! {
                ended = axum::serve(listener, routes) => ended.unwrap(),
                () = ending.draining() => {}
            }
        });
        registry
    }

    fn blob(&self, bytes: impl Into<Bytes>) -> Value {
        let bytes = bytes.into();
        let digest = Digest::sha256(&bytes).to_string();
        let descriptor = json!({
            "mediaType": "application/vnd.oci.image.layer.v1.tar",
            "digest": digest,
            "size": bytes.len(),
        });
        self.script.lock().unwrap().blobs.insert(digest, bytes);
        descriptor
    }

    fn manifest(&self, tag: Option<&str>, media_type: &'static str, document: &Value) -> Value {
        let bytes = Bytes::from(document.to_string());
        let digest = Digest::sha256(&bytes).to_string();
        let descriptor = json!({
            "mediaType": media_type, "digest": digest, "size": bytes.len(),
        });
        let mut script = self.script.lock().unwrap();
        for reference in tag.into_iter().chain([digest.as_str()]) {
            let answer = (media_type, bytes.clone());
            script.manifests.insert(reference.to_owned(), answer);
        }
        descriptor
    }

    /// An image for `architecture` with these layers.
    fn image(&self, tag: Option<&str>, architecture: &str, layers: &[Value]) -> Value {
        let config = json!({ "os": "linux", "architecture": architecture });
        let config = self.blob(config.to_string());
        let document = json!({
            "schemaVersion": 2, "mediaType": MANIFEST, "config": config, "layers": layers,
        });
        self.manifest(tag, MANIFEST, &document)
    }

    fn fault(&self, descriptor: &Value, faults: &[Fault]) {
        let digest = descriptor["digest"].as_str().unwrap().to_owned();
        let faults = faults.iter().cloned().collect();
        self.script.lock().unwrap().faults.insert(digest, faults);
    }

    /// What was asked for about `descriptor` since the last time.
    fn asked(&self, descriptor: &Value) -> Vec<String> {
        let digest = descriptor["digest"].as_str().unwrap();
        let mut script = self.script.lock().unwrap();
        let of_it = |line: &mut String| line.starts_with(digest);
        let asked = script.asked.extract_if(.., of_it);
        asked.map(|line| line[digest.len()..].to_owned()).collect()
    }

    async fn pull(&self, image: &str, output: &Path, choice: Choice) -> Result<Pulled, PullError> {
        let image = format!("registry.example:5000/team/app{image}")
            .parse()
            .unwrap();
        let request = Request {
            image: &image,
            via: &format!("http://{}", self.address).parse().unwrap(),
            output,
            choice,
        };
        let watched = Watched {
            received: self.script.lock().unwrap().received.clone(),
            ..Watched::default()
        };
        let pulled = pull(&request, &watched).await;
        if let Ok(pulled) = &pulled {
            assert_eq!(*watched.sum.lock().unwrap(), pulled.bytes, "bytes told of");
        }
        pulled
    }
}

/// Adds up what it is told of each blob: kept, left by an earlier pull, or received.
#[derive(Debug, Default)]
struct Watched {
    blobs: Mutex<HashMap<Digest, u64>>,
    sum: Mutex<u64>,
    received: Received,
}

impl Watch for Watched {
    fn see(&self, event: Event<'_>) {
        let mut blobs = self.blobs.lock().unwrap();
        match event {
            Event::Kept { blob } => drop(blobs.insert(blob.digest, blob.size)),
            Event::Opened { blob, at, source } => {
                assert_eq!(source, Some("peer"));
                blobs.insert(blob.digest, at);
            }
            Event::Received { blob, bytes } => {
                *blobs.get_mut(&blob.digest).unwrap() += bytes;
                let digest = blob.digest.to_string();
                self.received
                    .send_modify(|received| *received.entry(digest).or_default() += bytes);
            }
            Event::Done { .. } => *self.sum.lock().unwrap() = blobs.values().sum(),
            _ => {}
        }
    }
}

fn note(script: &mut Script, name: &str, query: Option<String>, headers: &HeaderMap) {
    let range = headers
        .get(header::RANGE)
        .map_or("", |range| range.to_str().unwrap());
    let query = query.unwrap_or_default();
    script.asked.push(format!("{name}?{query} {range}"));
}

async fn manifest(
    State(script): State<Arc<Mutex<Script>>>,
    UrlPath(reference): UrlPath<String>,
    RawQuery(query): RawQuery,
    headers: HeaderMap,
) -> Response {
    let mut script = script.lock().unwrap();
    note(&mut script, &reference, query, &headers);
    match script
        .faults
        .get_mut(&reference)
        .and_then(VecDeque::pop_front)
    {
        Some(Fault::Status(status)) => return refusal(status),
        Some(Fault::Wrong) => return Bytes::from_static(b"{}").into_response(),
        _ => {}
    }
    match script.manifests.get(&reference).cloned() {
        Some((media_type, bytes)) => ([(header::CONTENT_TYPE, media_type)], bytes).into_response(),
        None => refusal(404),
    }
}

async fn blob(
    State(script): State<Arc<Mutex<Script>>>,
    UrlPath(digest): UrlPath<String>,
    RawQuery(query): RawQuery,
    headers: HeaderMap,
) -> Response {
    let mut script = script.lock().unwrap();
    note(&mut script, &digest, query, &headers);
    let Some(bytes) = script.blobs.get(&digest).cloned() else {
        return refusal(404);
    };
    let fault = script.faults.get_mut(&digest).and_then(VecDeque::pop_front);
    let first = headers.get(header::RANGE).map(|range| {
        let first = range.to_str().unwrap().strip_prefix("bytes=").unwrap();
        first.strip_suffix('-').unwrap().parse::<usize>().unwrap()
    });
    let size = bytes.len();
    let first = first.filter(|_| !matches!(fault, Some(Fault::NoRange)));
    let mut part = bytes.slice(first.unwrap_or(0)..).to_vec();
    let length = part.len();
    let mut response = Response::builder();
    if let Some(first) = first {
        let range = format!("bytes {first}-{}/{size}", size - 1);
        response = response.status(206).header(header::CONTENT_RANGE, range);
    }
    let (length, body) = match fault {
        Some(Fault::Status(status)) => return refusal(status),
        Some(Fault::Cut(at)) => {
            let first = stream::iter([Ok(Bytes::from(part).slice(..at))]);
            let had = script.received.subscribe();
            let last = stream::once(broken(had, digest, at as u64));
            (length, Body::from_stream(first.chain(last)))
        }
        Some(Fault::Short) => (length - 1, Body::from(part.split_off(1))),
        Some(Fault::Wrong) => {
            part[0] ^= 1;
            (length, part.into())
        }
        Some(Fault::NoRange) | None => (length, part.into()),
    };
    let response = response.header(header::CONTENT_LENGTH, length);
    response
        .header("x-darner-source", "peer")
        .body(body)
        .unwrap()
}

/// Fails once the client has received `bytes` more of the blob.
fn broken(
    mut had: watch::Receiver<HashMap<String, u64>>,
    digest: String,
    bytes: u64,
) -> impl Future<Output = io::Result<Bytes>> {
    let of_it = move |had: &HashMap<String, u64>| had.get(&digest).copied().unwrap_or_default();
    let before = of_it(&had.borrow());
    async move {
        let arrived = had.wait_for(|had| of_it(had) >= before + bytes).await;
        arrived.map_err(io::Error::other)?;
        Err(io::Error::other("cut"))
    }
}

fn refusal(status: u16) -> Response {
    let body = json!({ "errors": [{ "code": "DENIED", "message": "by the\u{7} script" }] });
    (StatusCode::from_u16(status).unwrap(), body.to_string()).into_response()
}

fn bytes(length: usize, seed: u8) -> Vec<u8> {
    (0..length)
        .map(|at| (at as u8).wrapping_mul(31) ^ seed)
        .collect()
}

fn digest(descriptor: &Value) -> Digest {
    descriptor["digest"].as_str().unwrap().parse().unwrap()
}

fn held(output: &Path, descriptor: &Value) -> Option<Vec<u8>> {
    let hex = digest(descriptor).hex();
    fs::read(output.join("blobs/sha256").join(hex)).ok()
}

fn index(output: &Path) -> Vec<Value> {
    let text = fs::read_to_string(output.join("index.json")).unwrap();
    let index: Value = serde_json::from_str(&text).unwrap();
    assert_eq!(index["schemaVersion"], 2);
    index["manifests"].as_array().unwrap().clone()
}

fn platform(text: &str) -> Choice {
    Choice::Only(text.parse().unwrap())
}

fn output() -> TempDir {
    tempfile::tempdir().unwrap()
}

#[tokio::test]
async fn an_index_is_resolved_and_the_image_laid_out() {
    let (registry, dir) = (Registry::start().await, output());
    let shared = registry.blob(bytes(5000, 1));
    let mut entries = Vec::new();
    for (architecture, seed) in [("arm64", 2), ("amd64", 3)] {
        let layers = [
            shared.clone(),
            registry.blob(bytes(100_000, seed)),
            shared.clone(),
        ];
        let mut entry = registry.image(None, architecture, &layers);
        entry["platform"] = json!({ "os": "linux", "architecture": architecture });
        entries.push((entry, layers));
    }
    let document = json!({
        "schemaVersion": 2,
        "mediaType": INDEX,
        "manifests": entries.iter().map(|(entry, _)| entry).collect::<Vec<_>>(),
    });
    let top = registry.manifest(Some("1"), INDEX, &document);
    let output = dir.path().join("new/layout");
    let pulled = registry
        .pull(":1", &output, platform("linux/amd64"))
        .await
        .unwrap();

    let (entry, layers) = &entries[1];
    assert_eq!(pulled.digest, digest(entry));
    assert_eq!(pulled.fetched, pulled.bytes);
    assert_eq!(held(&output, &layers[0]).unwrap(), bytes(5000, 1));
    assert_eq!(held(&output, &layers[1]).unwrap(), bytes(100_000, 3));
    assert!(held(&output, entry).is_some());
    assert!(held(&output, &entries[0].0).is_none(), "the other platform");
    let version = fs::read_to_string(output.join("oci-layout")).unwrap();
    assert_eq!(version, r#"{"imageLayoutVersion":"1.0.0"}"#);
    let named = &index(&output)[..];
    assert_eq!(named.len(), 1);
    assert_eq!(named[0]["digest"], entry["digest"]);
    assert_eq!(named[0]["mediaType"], MANIFEST);
    assert_eq!(named[0]["size"], entry["size"]);
    assert_eq!(named[0]["platform"], entry["platform"]);
    assert_eq!(
        named[0]["annotations"]["org.opencontainers.image.ref.name"],
        "1"
    );
    assert!(!output.join(".partial").exists());
    assert_eq!(
        registry.asked(&layers[0]),
        ["?ns=registry.example%3A5000 "],
        "once"
    );

    // All platforms into the same directory: what is there is not fetched again.
    let all = registry.pull(":1", &output, Choice::All).await.unwrap();
    assert_eq!(all.digest, digest(&top));
    assert!(all.fetched < 110_000 && all.bytes > 205_000, "{all:?}");
    assert_eq!(held(&output, &entries[0].1[1]).unwrap(), bytes(100_000, 2));
    let named = &index(&output)[..];
    assert_eq!(named.len(), 1, "the name has moved");
    assert_eq!(
        (&named[0]["digest"], &named[0]["mediaType"]),
        (&top["digest"], &json!(INDEX))
    );

    let missing = registry
        .pull(":1", &output, platform("linux/s390x"))
        .await
        .unwrap_err();
    let message = missing.in_full();
    assert!(
        message.contains("only for linux/arm64, linux/amd64"),
        "{message}"
    );
}

#[tokio::test]
async fn a_second_pull_fetches_nothing_and_repairs_what_is_broken() {
    let (registry, dir) = (Registry::start().await, output());
    let layer = registry.blob(bytes(3000, 1));
    registry.image(
        Some("latest"),
        "amd64",
        &[layer.clone(), registry.blob(Bytes::new())],
    );
    let first = registry.pull("", dir.path(), Choice::Host).await.unwrap();
    let second = registry.pull("", dir.path(), Choice::Host).await.unwrap();
    assert_eq!((second.fetched, second.bytes), (0, first.bytes));
    let path = dir.path().join("blobs/sha256").join(digest(&layer).hex());
    fs::write(&path, bytes(3000, 2)).unwrap();
    let third = registry.pull("", dir.path(), Choice::Host).await.unwrap();
    assert_eq!(third.fetched, 3000);
    assert_eq!(fs::read(&path).unwrap(), bytes(3000, 1));
}

#[tokio::test]
async fn a_cut_blob_goes_on_where_it_was_cut() {
    let (registry, dir) = (Registry::start().await, output());
    let layer = registry.blob(bytes(300_000, 1));
    registry.image(Some("1"), "amd64", std::slice::from_ref(&layer));
    let faults = [
        Fault::Cut(100_000),
        Fault::Status(503),
        Fault::Cut(0),
        Fault::Cut(150_000),
    ];
    registry.fault(&layer, &faults);
    let pulled = registry.pull(":1", dir.path(), Choice::Host).await.unwrap();
    assert_eq!(pulled.fetched, pulled.bytes, "nothing came twice");
    assert_eq!(held(dir.path(), &layer).unwrap(), bytes(300_000, 1));
    let ranges = registry.asked(&layer);
    let ranges: Vec<_> = ranges
        .iter()
        .map(|line| line.split(' ').next_back().unwrap())
        .collect();
    let expected = [
        "",
        "bytes=100000-",
        "bytes=100000-",
        "bytes=100000-",
        "bytes=250000-",
    ];
    assert_eq!(ranges, expected);
}

#[tokio::test]
async fn a_mirror_without_ranges_serves_a_cut_blob_from_the_beginning() {
    let (registry, dir) = (Registry::start().await, output());
    let layer = registry.blob(bytes(300_000, 1));
    registry.image(Some("1"), "amd64", std::slice::from_ref(&layer));
    registry.fault(&layer, &[Fault::Cut(100_000), Fault::NoRange]);
    let pulled = registry.pull(":1", dir.path(), Choice::Host).await.unwrap();
    assert_eq!(pulled.fetched, pulled.bytes + 100_000);
    assert_eq!(held(dir.path(), &layer).unwrap(), bytes(300_000, 1));
}

#[tokio::test]
async fn what_a_failed_pull_leaves_is_used_by_the_next() {
    let (registry, dir) = (Registry::start().await, output());
    let layer = registry.blob(bytes(300_000, 1));
    registry.image(Some("1"), "amd64", std::slice::from_ref(&layer));
    registry.fault(&layer, &[Fault::Cut(200_000), Fault::Status(404)]);
    let failed = registry
        .pull(":1", dir.path(), Choice::Host)
        .await
        .unwrap_err();
    assert!(matches!(failed, PullError::NotFound { .. }), "{failed}");
    assert!(
        !dir.path().join("index.json").exists(),
        "named before it is whole"
    );
    assert_eq!(held(dir.path(), &layer), None);
    registry.asked(&layer);
    registry.pull(":1", dir.path(), Choice::Host).await.unwrap();
    assert_eq!(
        registry.asked(&layer),
        ["?ns=registry.example%3A5000 bytes=200000-"]
    );
    assert_eq!(held(dir.path(), &layer).unwrap(), bytes(300_000, 1));
}

#[tokio::test]
async fn a_damaged_leftover_is_thrown_away() {
    let (registry, dir) = (Registry::start().await, output());
    let layer = registry.blob(bytes(300_000, 1));
    registry.image(Some("1"), "amd64", std::slice::from_ref(&layer));
    for length in [1000, 300_000, 300_001] {
        let dir = dir.path().join(length.to_string());
        fs::create_dir_all(dir.join(".partial")).unwrap();
        fs::write(dir.join("oci-layout"), r#"{"imageLayoutVersion":"1.0.0"}"#).unwrap();
        let name = digest(&layer).to_string().replace(':', "-");
        fs::write(dir.join(".partial").join(name), bytes(length, 9)).unwrap();
        registry.pull(":1", &dir, Choice::Host).await.unwrap();
        assert_eq!(held(&dir, &layer).unwrap(), bytes(300_000, 1));
    }
}

#[tokio::test]
async fn wrong_bytes_are_not_kept() {
    let (registry, dir) = (Registry::start().await, output());
    let layer = registry.blob(bytes(3000, 1));
    let image = registry.image(Some("1"), "amd64", std::slice::from_ref(&layer));
    registry.fault(&layer, &[Fault::Wrong]);
    let failed = registry
        .pull(":1", dir.path(), Choice::Host)
        .await
        .unwrap_err();
    assert!(matches!(failed, PullError::WrongBytes { .. }), "{failed}");
    assert_eq!(failed.exit_status(), 1);
    assert_eq!(held(dir.path(), &layer), None);
    assert_eq!(
        registry.asked(&layer).len(),
        1,
        "wrong bytes do not get right"
    );
    registry.fault(&layer, &[Fault::Short]);
    let failed = registry
        .pull(":1", dir.path(), Choice::Host)
        .await
        .unwrap_err();
    assert!(matches!(failed, PullError::WrongSize { .. }), "{failed}");
    registry.pull(":1", dir.path(), Choice::Host).await.unwrap();

    registry.fault(&image, &[Fault::Wrong]);
    let name = format!("@{}", digest(&image));
    let failed = registry
        .pull(&name, output().path(), Choice::Host)
        .await
        .unwrap_err();
    assert!(matches!(failed, PullError::WrongBytes { .. }), "{failed}");
}

#[tokio::test]
async fn failures_have_their_exit_status_and_say_what_to_do() {
    let (registry, dir) = (Registry::start().await, output());
    let image = registry.image(Some("1"), "amd64", &[]);
    let name = format!("@{}", digest(&image));
    for (status, expected, hint) in [
        (401, 5, "no credentials"),
        (403, 5, "no credentials"),
        (404, 1, "check its spelling"),
        (503, 1, "the mirror's log"),
    ] {
        registry.fault(&image, &[Fault::Status(status)]);
        let failed = registry
            .pull(&name, dir.path(), Choice::Host)
            .await
            .unwrap_err();
        assert_eq!(failed.exit_status(), expected);
        let message = failed.in_full();
        assert!(
            message.contains(hint) && message.contains(": by the script"),
            "{message}"
        );
    }
    assert!(registry.shutdown.finish(Duration::from_secs(5)).await);
    let failed = registry
        .pull(":1", dir.path(), Choice::Host)
        .await
        .unwrap_err();
    assert_eq!(failed.exit_status(), 4);
    assert!(
        failed.in_full().contains("darner up"),
        "{}",
        failed.in_full()
    );
}

#[tokio::test]
async fn an_image_of_no_index_has_to_be_for_the_platform_that_was_asked_for() {
    let (registry, dir) = (Registry::start().await, output());
    registry.image(Some("1"), "arm64", &[registry.blob(bytes(10, 1))]);
    let failed = registry
        .pull(":1", dir.path(), platform("linux/amd64"))
        .await
        .unwrap_err();
    assert!(
        failed.in_full().contains("only for linux/arm64"),
        "{}",
        failed.in_full()
    );
    registry
        .pull(":1", dir.path(), platform("linux/arm64/v8"))
        .await
        .unwrap();
}

#[tokio::test]
async fn a_layout_has_many_images_and_one_writer() {
    let (registry, dir) = (Registry::start().await, output());
    let image = registry.image(Some("1"), "amd64", &[registry.blob(bytes(10, 1))]);
    registry.image(Some("2"), "amd64", &[registry.blob(bytes(10, 2))]);
    for name in [
        ":1".to_owned(),
        ":2".to_owned(),
        ":1".to_owned(),
        format!("@{}", digest(&image)),
    ] {
        registry
            .pull(&name, dir.path(), Choice::Host)
            .await
            .unwrap();
    }
    let names: Vec<_> = index(dir.path())
        .iter()
        .map(|entry| {
            entry["annotations"]["io.containerd.image.name"]
                .as_str()
                .unwrap()
                .to_owned()
        })
        .collect();
    let base = "registry.example:5000/team/app";
    let expected = [
        format!("{base}:2"),
        format!("{base}:1"),
        format!("{base}@{}", digest(&image)),
    ];
    assert_eq!(names, expected);

    let other = layout::Layout::open(dir.path()).await.unwrap();
    let failed = registry
        .pull(":1", dir.path(), Choice::Host)
        .await
        .unwrap_err();
    assert!(matches!(failed, PullError::InUse(_)), "{failed}");
    drop(other);
    registry.pull(":1", dir.path(), Choice::Host).await.unwrap();
}

#[tokio::test]
async fn a_directory_with_other_things_in_it_is_left_alone() {
    let (registry, dir) = (Registry::start().await, output());
    registry.image(Some("1"), "amd64", &[]);
    fs::write(dir.path().join("thesis.txt"), "mine").unwrap();
    let failed = registry
        .pull(":1", dir.path(), Choice::Host)
        .await
        .unwrap_err();
    assert!(matches!(failed, PullError::NotLayout(_)), "{failed}");
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
    fs::write(
        dir.path().join("oci-layout"),
        r#"{"imageLayoutVersion":"2.0.0"}"#,
    )
    .unwrap();
    let failed = registry
        .pull(":1", dir.path(), Choice::Host)
        .await
        .unwrap_err();
    assert!(
        failed.in_full().contains("version \"2.0.0\""),
        "{}",
        failed.in_full()
    );
}

#[tokio::test]
async fn manifests_that_make_no_sense_are_refused() {
    let (registry, dir) = (Registry::start().await, output());
    let image = registry.image(None, "amd64", &[]);
    let config = registry.blob("{}");
    let mut other_size = config.clone();
    other_size["size"] = json!(3);
    let mut endless = image.clone();
    endless["platform"] = json!({ "os": "linux", "architecture": "amd64" });
    for _ in 0..10 {
        let document = json!({ "schemaVersion": 2, "manifests": [endless] });
        let platform = endless["platform"].clone();
        endless = registry.manifest(None, INDEX, &document);
        endless["platform"] = platform;
    }
    for (document, expected) in [
        (json!({}), "neither an image manifest nor an index"),
        (json!([]), "makes no sense"),
        (
            json!({ "schemaVersion": 2, "manifests": [], "config": config, "layers": [] }),
            "at once",
        ),
        (
            json!({ "schemaVersion": 2, "config": config, "layers": [other_size] }),
            "two sizes",
        ),
        (
            json!({ "schemaVersion": 2, "config": config, "layers": [{ "mediaType": "x", "digest": "sha256:../..", "size": 1 }] }),
            "digest",
        ),
        (
            json!({ "schemaVersion": 2, "manifests": [endless] }),
            "nested",
        ),
    ] {
        registry.manifest(Some("1"), MANIFEST, &document);
        for choice in [platform("linux/amd64"), Choice::All] {
            let failed = registry.pull(":1", dir.path(), choice).await.unwrap_err();
            assert!(
                failed.in_full().contains(expected),
                "{expected}: {}",
                failed.in_full()
            );
        }
    }
}
