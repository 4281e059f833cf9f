//! The proof that runtimes will get what they ask for: the mirror is asked as they ask, and an image
//! is pulled through it, checked as every pull is.

use std::time::Duration;

use darner_proto::name::RegistryName;
use darner_service::telemetry::with_causes;
use reqwest::header::{ACCEPT, HeaderMap, WWW_AUTHENTICATE};
use reqwest::{Certificate, Client, Method, Response, StatusCode, Url};

use super::runtimes::Runtime;
use crate::pull::{self, Choice, Image, MANIFEST_TYPES, PullError, progress};

/// A mirror answers with headers or an error within ten seconds.
const PATIENCE: Duration = Duration::from_secs(15);
/// Small, public, and for every platform.
const IMAGE: &str = "docker.io/library/hello-world:latest";
const HUB: &str = "docker.io";
const PING: &str = "/v2/";
/// In the challenge of a mirror of this kind.
const OF_A_MIRROR: &str = "service=\"darner\"";
const DIGEST: &str = "docker-content-digest";

/// Who is asked.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Mirror<'a> {
    /// Its URL.
    pub(crate) url: &'a str,
    /// The only authority to trust, PEM, where it speaks TLS.
    pub(crate) ca: Option<&'a str>,
}

impl<'a> Mirror<'a> {
    /// One that speaks no TLS, or one that the system trusts.
    pub(crate) fn plain(url: &'a str) -> Self {
        Self { url, ca: None }
    }
}

/// What the proof consists of.
#[derive(Debug)]
pub(crate) enum Probe {
    /// The mirror answers.
    Ping,
    /// And an image comes through it.
    Image(Box<Image>),
}

/// The mirror does not do what runtimes need.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ProofError {
    /// There is nobody, or not in time.
    #[error(
        "the mirror at {mirror} does not answer ({why}); start it, name another with --mirror, or set up without asking it with --no-proof"
    )]
    Unreachable {
        /// Where it should be.
        mirror: String,
        /// What went wrong.
        why: String,
    },
    /// Something else listens there, or the mirror cannot do it.
    #[error(
        "what {who} will ask was answered {status}: {request}; name an image that the mirror can get with --probe, or see the mirror's log"
    )]
    Status {
        /// The runtime.
        who: String,
        /// The request.
        request: String,
        /// The answer.
        status: StatusCode,
    },
    /// Runtimes would get different images.
    #[error("{request} was answered with digest {found} where others got {expected}")]
    Digest {
        /// The request.
        request: String,
        /// The digest of the answer.
        found: String,
        /// The digest of the answers before.
        expected: String,
    },
    /// The pull itself.
    #[error("{image} cannot be pulled through the mirror: {why}")]
    Pull {
        /// What was pulled.
        image: String,
        /// In full.
        why: String,
        /// Of the command.
        status: u8,
    },
    /// The runtime does not take its configuration.
    #[error("containerd does not take its configuration any more: {0}")]
    Configuration(String),
    /// By a signal.
    #[error("the run was interrupted")]
    Interrupted,
    /// This host.
    #[error("no pull can be tried: {0}")]
    Here(String),
}

impl ProofError {
    pub(crate) fn exit_status(&self) -> u8 {
        match self {
            Self::Unreachable { .. } => 4,
            Self::Interrupted => 130,
            Self::Pull { status, .. } => *status,
            _ => 1,
        }
    }
}

impl Probe {
    /// What proves these registries. What a registry has is known of one only.
    pub(crate) fn fitting(registries: &[RegistryName]) -> Self {
        let has_hub = registries.iter().any(|name| name.as_str() == HUB);
        match IMAGE.parse() {
            Ok(image) if registries.is_empty() || has_hub => Self::Image(Box::new(image)),
            _ => Self::Ping,
        }
    }
}

/// The image that proves Docker Hub.
pub(crate) fn image() -> Option<Image> {
    IMAGE.parse().ok()
}

/// Asks for all of it; what was shown, for the user.
pub(crate) async fn prove(
    mirror: Mirror<'_>,
    probe: Option<&Probe>,
    runtimes: &[Runtime],
) -> Result<Vec<String>, ProofError> {
    let Some(probe) = probe else {
        return Ok(Vec::new());
    };
    ping(mirror).await?;
    let mut shown = vec![format!("the mirror at {} answers", mirror.url)];
    if let Probe::Image(image) = probe {
        shown.extend(ask(mirror, image, runtimes).await?);
        shown.push(pull(mirror, image).await?);
    }
    Ok(shown)
}

/// Whether a mirror answers at all.
pub(crate) async fn ping(mirror: Mirror<'_>) -> Result<(), ProofError> {
    let asker = Asker::new(mirror)?;
    let answer = asker.send(Method::GET, PING).await?;
    // Where clients may log in to it, it asks each for a token of its own.
    let challenge = answer.headers().get(WWW_AUTHENTICATE);
    let challenge = challenge.and_then(|value| value.to_str().ok());
    let is_ours = challenge.is_some_and(|text| text.contains(OF_A_MIRROR));
    match answer.status() {
        StatusCode::UNAUTHORIZED if is_ours => Ok(()),
        status => checked(status, "a runtime", format!("{} {PING}", Method::GET)),
    }
}

fn checked(status: StatusCode, who: &str, request: String) -> Result<(), ProofError> {
    match status {
        StatusCode::OK => Ok(()),
        status => Err(ProofError::Status {
            who: who.to_owned(),
            request,
            status,
        }),
    }
}

/// Asks for an image as each of the runtimes does, and whether they all get the same.
pub(crate) async fn ask(
    mirror: Mirror<'_>,
    image: &Image,
    runtimes: &[Runtime],
) -> Result<Vec<String>, ProofError> {
    let asker = Asker::new(mirror)?;
    let mut shown = Vec::new();
    let mut expected: Option<String> = None;
    for runtime in runtimes {
        let Some((method, path)) = request(*runtime, image) else {
            continue;
        };
        let headers = asker.ask(&runtime.to_string(), method, &path).await?;
        let found = headers.get(DIGEST).and_then(|value| value.to_str().ok());
        let found = found.unwrap_or("of nothing").to_owned();
        let before = expected.replace(found.clone());
        if let Some(expected) = before.filter(|there| *there != found) {
            return Err(ProofError::Digest {
                request: path,
                found,
                expected,
            });
        }
        shown.push(format!("{image} is there as {runtime} asks for it"));
    }
    Ok(shown)
}

/// The first request of a pull, if the runtime would make it to a mirror at all.
fn request(runtime: Runtime, image: &Image) -> Option<(Method, String)> {
    let (registry, repository) = (&image.source.registry, &image.source.repository);
    let reference = &image.reference;
    match runtime {
        Runtime::Containerd | Runtime::K3s => Some((
            Method::HEAD,
            format!("/v2/{repository}/manifests/{reference}?ns={registry}"),
        )),
        Runtime::Docker => (registry.as_str() == HUB).then(|| {
            let path = format!("/v2/{repository}/manifests/{reference}");
            (Method::HEAD, path)
        }),
        Runtime::Containers => Some((
            Method::GET,
            format!("/v2/{registry}/{repository}/manifests/{reference}"),
        )),
    }
}

async fn pull(mirror: Mirror<'_>, image: &Image) -> Result<String, ProofError> {
    let here = |why: String| ProofError::Here(why);
    let directory = tempfile::tempdir().map_err(|error| here(error.to_string()))?;
    let via: Url = mirror
        .url
        .parse()
        .map_err(|_| here(mirror.url.to_owned()))?;
    let request = pull::Request {
        image,
        via: &via,
        ca: mirror.ca,
        output: directory.path(),
        choice: Choice::Host,
    };
    match pull::pull(&request, &progress::Nobody).await {
        Ok(pulled) => Ok(format!("{image} was pulled, {} bytes", pulled.bytes)),
        Err(PullError::Unreachable { source, .. }) => Err(ProofError::Unreachable {
            mirror: mirror.url.to_owned(),
            why: with_causes(&source),
        }),
        Err(error) => Err(ProofError::Pull {
            image: image.to_string(),
            status: error.exit_status(),
            why: error.in_full(),
        }),
    }
}

struct Asker<'a> {
    http: Client,
    mirror: &'a str,
}

impl<'a> Asker<'a> {
    fn new(mirror: Mirror<'a>) -> Result<Self, ProofError> {
        let here = |error: &dyn std::error::Error| ProofError::Here(with_causes(error));
        let mut builder = Client::builder().no_proxy().timeout(PATIENCE);
        if let Some(ca) = mirror.ca {
            let ca = Certificate::from_pem_bundle(ca.as_bytes()).map_err(|error| here(&error))?;
            builder = builder.tls_certs_only(ca);
        }
        let http = builder.build().map_err(|error| here(&error))?;
        let mirror = mirror.url;
        Ok(Self { http, mirror })
    }

    async fn ask(&self, who: &str, method: Method, path: &str) -> Result<HeaderMap, ProofError> {
        let request = format!("{method} {path}");
        let answer = self.send(method, path).await?;
        checked(answer.status(), who, request)?;
        Ok(answer.headers().clone())
    }

    async fn send(&self, method: Method, path: &str) -> Result<Response, ProofError> {
        let url = format!("{}{path}", self.mirror);
        let sent = self
            .http
            .request(method, url)
            .header(ACCEPT, MANIFEST_TYPES)
            .send()
            .await;
        sent.map_err(|error| ProofError::Unreachable {
            mirror: self.mirror.to_owned(),
            why: with_causes(&error.without_url()),
        })
    }
}
