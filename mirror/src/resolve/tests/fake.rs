//! A registry for tests: serves what it is given, counts what it is asked, and fails on demand.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::{HeaderMap, Method, Response, StatusCode, header};
use bytes::Bytes;
use darner_proto::digest::Digest;
use darner_service::settings;

pub(crate) const IMAGE: &str = "application/vnd.oci.image.manifest.v1+json";

#[derive(Default)]
struct Shelf {
    content: HashMap<String, (String, Bytes)>,
    tags: HashMap<String, Digest>,
    /// Who may read a repository that is not public, by what they show.
    private: HashMap<String, Vec<String>>,
    asked: Vec<String>,
    failing: Option<StatusCode>,
    without_digest: bool,
}

/// The registry. Clones share it.
#[derive(Clone)]
pub(crate) struct Fake {
    shelf: Arc<Mutex<Shelf>>,
    pub(crate) address: SocketAddr,
}

/// What was put into the registry.
pub(crate) struct Image {
    pub(crate) manifest: Digest,
    pub(crate) layer: Digest,
    pub(crate) layer_bytes: Bytes,
}

impl Fake {
    pub(crate) async fn start() -> Self {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let fake = Self {
            shelf: Arc::default(),
            address: listener.local_addr().unwrap(),
        };
        let routes = Router::new().fallback(serve).with_state(fake.clone());
        darner_service::shutdown::Shutdown::default()
            .spawn(async move { axum::serve(listener, routes).await });
        fake
    }

    fn shelf(&self) -> MutexGuard<'_, Shelf> {
        self.shelf.lock().unwrap()
    }

    /// As a mirror is told of it.
    pub(crate) fn settings(&self, tag_ttl: Duration) -> settings::Upstream {
        let url = format!("http://{}", self.address);
        settings::Upstream {
            tag_ttl,
            ..settings::Upstream::new("reg.test".parse().unwrap(), url, 16)
        }
    }

    pub(crate) fn put(&self, repository: &str, media_type: &str, bytes: &[u8]) -> Digest {
        let digest = Digest::sha256(bytes);
        let content = (media_type.to_owned(), Bytes::copy_from_slice(bytes));
        self.shelf()
            .content
            .insert(format!("{repository}@{digest}"), content);
        digest
    }

    pub(crate) fn tag(&self, repository: &str, tag: &str, digest: Digest) {
        self.shelf()
            .tags
            .insert(format!("{repository}:{tag}"), digest);
    }

    /// An image with one layer of `size` bytes, under the tag `v1`.
    pub(crate) fn image(&self, repository: &str, size: usize) -> Image {
        let layer_bytes: Bytes = (0..size).map(|n| (n * 7 % 251) as u8).collect();
        let layer = self.put(repository, "application/octet-stream", &layer_bytes);
        let config = self.put(repository, "application/octet-stream", b"{}");
        let manifest = serde_json::json!({
            "schemaVersion": 2,
            "mediaType": IMAGE,
            "config": {"mediaType": "application/vnd.oci.image.config.v1+json", "digest": config.to_string(), "size": 2},
            "layers": [{"mediaType": "application/vnd.oci.image.layer.v1.tar", "digest": layer.to_string(), "size": size}],
        });
        let manifest = self.put(repository, IMAGE, manifest.to_string().as_bytes());
        self.tag(repository, "v1", manifest);
        Image {
            manifest,
            layer,
            layer_bytes,
        }
    }

    /// Serves other bytes of the same length under this digest.
    pub(crate) fn corrupt(&self, repository: &str, digest: &Digest) {
        let mut shelf = self.shelf();
        let content = shelf.content.get_mut(&format!("{repository}@{digest}"));
        let (_, bytes) = content.expect("there is such content");
        let mut wrong = bytes.to_vec();
        wrong[0] ^= 1;
        *bytes = wrong.into();
    }

    pub(crate) fn make_private(&self, repository: &str) {
        self.allow(repository, &["Bearer good"]);
    }

    /// Only who shows one of these may read the repository from now on.
    pub(crate) fn allow(&self, repository: &str, shown: &[&str]) {
        let shown = shown.iter().map(|text| (*text).to_owned()).collect();
        self.shelf().private.insert(repository.to_owned(), shown);
    }

    /// Answers everything with this status from now on.
    pub(crate) fn fail(&self, status: Option<StatusCode>) {
        self.shelf().failing = status;
    }

    pub(crate) fn hide_digests(&self) {
        self.shelf().without_digest = true;
    }

    /// Requests so far that contain `part`, such as `HEAD /v2/a/manifests/`.
    pub(crate) fn asked(&self, part: &str) -> usize {
        let shelf = self.shelf();
        shelf
            .asked
            .iter()
            .filter(|line| line.contains(part))
            .count()
    }
}

async fn serve(State(fake): State<Fake>, request: Request) -> Response<Body> {
    let (method, path) = (request.method().clone(), request.uri().path().to_owned());
    let mut shelf = fake.shelf();
    let status = |status: StatusCode| {
        let mut response = Response::new(Body::empty());
        *response.status_mut() = status;
        response
    };
    if path == "/token" {
        return Response::new(Body::from(r#"{"token":"anonymous"}"#));
    }
    shelf.asked.push(format!("{method} {path}"));
    if let Some(failing) = shelf.failing {
        return status(failing);
    }
    let rest = path.strip_prefix("/v2/").unwrap_or_default();
    let shown = request.headers().get(header::AUTHORIZATION).cloned();
    let mut private = shelf.private.iter();
    let guarded = private.find(|(name, _)| rest.starts_with(&format!("{name}/")));
    let refused = guarded.is_some_and(|(_, allowed)| {
        let allows =
            |shown: &header::HeaderValue| allowed.iter().any(|text| shown == text.as_str());
        !shown.as_ref().is_some_and(allows)
    });
    if refused {
        let mut refused = status(StatusCode::UNAUTHORIZED);
        let challenge = format!(
            r#"Bearer realm="http://{}/token",service="reg.test",scope="repository:a:pull""#,
            fake.address
        );
        refused
            .headers_mut()
            .insert(header::WWW_AUTHENTICATE, challenge.parse().unwrap());
        return refused;
    }
    if let Some(repository) = rest.strip_suffix("/tags/list") {
        let mut list = Response::new(Body::from(r#"{"name":"a","tags":["v1"]}"#));
        let link = format!(r#"</v2/{repository}/tags/list?last=v1&n=1>; rel="next""#);
        list.headers_mut()
            .insert(header::LINK, link.parse().unwrap());
        return list;
    }
    let found = find(&shelf, rest);
    let Some((digest, media_type, bytes)) = found else {
        return status(StatusCode::NOT_FOUND);
    };
    let mut response = content(&method, request.headers(), bytes);
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, media_type.parse().unwrap());
    if !shelf.without_digest {
        headers.insert("docker-content-digest", digest.parse().unwrap());
    }
    response
}

fn find(shelf: &Shelf, rest: &str) -> Option<(String, String, Bytes)> {
    let (repository, reference) = rest
        .split_once("/manifests/")
        .or_else(|| rest.split_once("/blobs/"))?;
    let digest = match shelf.tags.get(&format!("{repository}:{reference}")) {
        Some(digest) => digest.to_string(),
        None => reference.to_owned(),
    };
    let (media_type, bytes) = shelf.content.get(&format!("{repository}@{digest}"))?;
    Some((digest, media_type.clone(), bytes.clone()))
}

fn content(method: &Method, headers: &HeaderMap, bytes: Bytes) -> Response<Body> {
    let size = bytes.len();
    let range = headers
        .get(header::RANGE)
        .and_then(|value| value.to_str().ok()?.strip_prefix("bytes=")?.split_once('-'))
        .map(|(first, last)| {
            let first: usize = first.parse().unwrap();
            let last = last
                .parse()
                .map_or(size - 1, |last: usize| last.min(size - 1));
            first..last + 1
        });
    let mut response = Response::new(Body::empty());
    let body = match range {
        Some(range) => {
            *response.status_mut() = StatusCode::PARTIAL_CONTENT;
            let value = format!("bytes {}-{}/{size}", range.start, range.end - 1);
            response
                .headers_mut()
                .insert(header::CONTENT_RANGE, value.parse().unwrap());
            bytes.slice(range)
        }
        None => bytes,
    };
    response
        .headers_mut()
        .insert(header::CONTENT_LENGTH, body.len().into());
    if method != Method::HEAD {
        *response.body_mut() = Body::from(body);
    }
    response
}
