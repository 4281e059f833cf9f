//! A plain HTTP client that pulls as runtimes do (by tag, then everything by digest, three blobs at
//! a time) and checks every byte.

use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use bytes::Bytes;
use darner_proto::digest::Digest;
use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use http::{HeaderMap, Method};
use sha2::{Digest as _, Sha256};

use crate::darner::Darner;
use crate::image::{Blob, Image};

/// What runtimes accept.
pub const ACCEPT: &str = "application/vnd.docker.distribution.manifest.v2+json, \
    application/vnd.docker.distribution.manifest.list.v2+json, \
    application/vnd.oci.image.manifest.v1+json, application/vnd.oci.image.index.v1+json, */*";

/// The header that says where the first byte of an answer came from.
pub const SOURCE: &str = "x-darner-source";

/// What no test may ever see: a whole answer, finished as if it were right, that is wrong.
pub const WRONG_BYTES: &str = "WRONG BYTES REACHED A CLIENT";

/// containerd's default.
const BLOBS_AT_ONCE: usize = 3;
/// A download that is cut may be taken up again this often.
const RESUMES: u32 = 5;

/// A client of one mirror, for one registry.
#[derive(Debug, Clone)]
pub struct Client {
    http: reqwest::Client,
    base: String,
    registry: String,
    credentials: Option<Credentials>,
}

/// What a client shows.
#[derive(Debug, Clone)]
enum Credentials {
    Password(String, String),
    Token(String),
}

/// An answer read to its end.
#[derive(Debug, Clone)]
pub struct Answer {
    /// HTTP status.
    pub status: u16,
    /// Its headers.
    pub headers: HeaderMap,
    /// Its body.
    pub body: Bytes,
}

/// What a pull took.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Pulled {
    /// Bytes of blobs.
    pub bytes: u64,
    /// Connections that broke and were taken up again.
    pub cuts: u32,
}

impl Client {
    /// A client that asks `mirror` for content of `registry`.
    pub fn new(mirror: &Darner, registry: &str) -> Result<Self> {
        Self::at(&mirror.url("registry")?, registry)
    }

    /// A client of the registry front end at `base`.
    pub fn at(base: &str, registry: &str) -> Result<Self> {
        let http = reqwest::Client::builder()
            .no_proxy()
            .redirect(reqwest::redirect::Policy::none())
            .connect_timeout(Duration::from_secs(2))
            .build()?;
        Ok(Self {
            http,
            base: base.to_owned(),
            registry: registry.to_owned(),
            credentials: None,
        })
    }

    /// The same client with a user's credentials.
    pub fn with_credentials(&self, user: &str, password: &str) -> Self {
        Self {
            credentials: Some(Credentials::Password(user.to_owned(), password.to_owned())),
            ..self.clone()
        }
    }

    /// The same client with a token.
    pub fn with_token(&self, token: &str) -> Self {
        Self {
            credentials: Some(Credentials::Token(token.to_owned())),
            ..self.clone()
        }
    }

    /// A request below `/v2/` of the registry.
    pub fn request(&self, method: Method, path: &str) -> reqwest::RequestBuilder {
        let url = format!("{}/v2/{path}?ns={}", self.base, self.registry);
        let request = self.http.request(method, url).header("accept", ACCEPT);
        match &self.credentials {
            Some(Credentials::Password(user, password)) => request.basic_auth(user, Some(password)),
            Some(Credentials::Token(token)) => request.bearer_auth(token),
            None => request,
        }
    }

    /// Gets `path` below `/v2/`.
    pub async fn get(&self, path: &str) -> Result<Answer> {
        read(self.request(Method::GET, path)).await
    }

    /// Asks for the headers of `path` below `/v2/`.
    pub async fn head(&self, path: &str) -> Result<Answer> {
        read(self.request(Method::HEAD, path)).await
    }

    /// Gets a range of `path`, as in the `Range` header after `bytes=`.
    pub async fn range(&self, path: &str, range: &str) -> Result<Answer> {
        let request = self.request(Method::GET, path);
        read(request.header("range", format!("bytes={range}"))).await
    }

    /// Pulls an image by its tag.
    pub async fn pull(&self, image: &Image) -> Result<Pulled> {
        let path = format!("{}/manifests/{}", image.repository, image.tag);
        let head = self.head(&path).await?;
        ensure!(head.status == 200, "HEAD {path}: {}", head.describe());
        let digest = head.header("docker-content-digest")?;
        ensure!(
            digest == image.digest.to_string(),
            "{path} is {digest}, not {}",
            image.digest
        );
        self.pull_by_digest(image).await
    }

    /// Pulls an image by its digest.
    pub async fn pull_by_digest(&self, image: &Image) -> Result<Pulled> {
        for manifest in &image.manifests {
            self.manifest(image, manifest).await?;
        }
        let pulls: Vec<_> = stream::iter(&image.blobs)
            .map(|blob| self.blob(image, blob))
            .buffer_unordered(BLOBS_AT_ONCE)
            .try_collect()
            .await?;
        Ok(pulls.iter().fold(Pulled::default(), |sum, one| Pulled {
            bytes: sum.bytes + one.bytes,
            cuts: sum.cuts + one.cuts,
        }))
    }

    async fn manifest(&self, image: &Image, manifest: &Blob) -> Result<()> {
        let path = format!("{}/manifests/{}", image.repository, manifest.digest);
        let answer = self.get(&path).await?;
        ensure!(answer.status == 200, "GET {path}: {}", answer.describe());
        ensure!(manifest.digest.matches(&answer.body), "{path}: wrong bytes");
        let media_type = answer.header("content-type")?;
        ensure!(
            media_type == manifest.media_type,
            "{path} has type {media_type}"
        );
        Ok(())
    }

    /// Gets a blob of an image, checking length and digest; goes on after a cut as runtimes do.
    pub async fn blob(&self, image: &Image, blob: &Blob) -> Result<Pulled> {
        let path = format!("{}/blobs/{}", image.repository, blob.digest);
        let mut download = Download::default();
        let mut cuts = 0;
        loop {
            let before = download.length;
            match download.fetch(self, &path, blob.size).await {
                Ok(()) => break,
                Err(error) if cuts < RESUMES && error.is::<Cut>() && download.length > before => {
                    cuts += 1;
                }
                Err(error) => {
                    let got = download.length;
                    return Err(error.context(format!("GET {path}, {got} of {} bytes", blob.size)));
                }
            }
        }
        let digest = Digest::Sha256(download.hash.finalize().into());
        if digest != blob.digest && cuts > 0 {
            bail!("GET {path}: what came before and after {cuts} cuts does not fit together");
        }
        ensure!(digest == blob.digest, "GET {path}: {WRONG_BYTES}");
        Ok(Pulled {
            bytes: download.length,
            cuts,
        })
    }
}

/// The connection broke in the middle of a body.
#[derive(Debug)]
struct Cut(reqwest::Error);

impl std::fmt::Display for Cut {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "cut: {:?}", self.0)
    }
}

impl std::error::Error for Cut {}

#[derive(Default)]
struct Download {
    hash: Sha256,
    length: u64,
}

impl Download {
    async fn fetch(&mut self, client: &Client, path: &str, size: u64) -> Result<()> {
        let mut request = client.request(Method::GET, path);
        if self.length > 0 {
            request = request.header("range", format!("bytes={}-", self.length));
        }
        let mut answer = request.send().await?;
        let wanted = if self.length > 0 { 206 } else { 200 };
        let status = answer.status().as_u16();
        if status != wanted {
            bail!(
                "status {status}: {}",
                answer.text().await.unwrap_or_default()
            );
        }
        let announced = answer.content_length();
        let left = size - self.length;
        ensure!(announced == Some(left), "length {announced:?}, not {left}");
        while let Some(chunk) = answer.chunk().await.map_err(Cut)? {
            self.hash.update(&chunk);
            self.length += chunk.len() as u64;
        }
        ensure!(
            self.length == size,
            "a clean end after {} bytes",
            self.length
        );
        Ok(())
    }
}

async fn read(request: reqwest::RequestBuilder) -> Result<Answer> {
    let answer = request.send().await?;
    Ok(Answer {
        status: answer.status().as_u16(),
        headers: answer.headers().clone(),
        body: answer.bytes().await?,
    })
}

impl Answer {
    /// A header that must be there.
    pub fn header(&self, name: &str) -> Result<&str> {
        let value = self.headers.get(name);
        let value = value.with_context(|| format!("no {name} in {}", self.describe()))?;
        Ok(value.to_str()?)
    }

    /// The code of the first error in an OCI error body.
    pub fn error_code(&self) -> Result<String> {
        let body: serde_json::Value = serde_json::from_slice(&self.body)
            .with_context(|| format!("no error JSON in {}", self.describe()))?;
        let code = body["errors"][0]["code"].as_str();
        Ok(code
            .with_context(|| format!("no error code in {}", self.describe()))?
            .to_owned())
    }

    /// Status, headers and the beginning of the body.
    pub fn describe(&self) -> String {
        let body = String::from_utf8_lossy(&self.body[..self.body.len().min(300)]).into_owned();
        format!("{} {:?} {body}", self.status, self.headers)
    }
}
