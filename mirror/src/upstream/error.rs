//! What can go wrong between us and an upstream registry, and what that means to a caller.
//!
//! No text here carries a URL, a header or a body: signed URLs, tokens and passwords stay out of
//! logs because they never get into an error.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use darner_proto::invalid::Invalid;
use darner_proto::name::RegistryName;
use http::StatusCode;

use super::dial::Refused;

/// An upstream registry did not do what it was asked, or was not asked at all.
#[derive(Debug)]
pub struct UpstreamError {
    /// Such as `registry docker.io`.
    whose: String,
    fault: Fault,
}

/// What an [`UpstreamError`] means to whoever asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum UpstreamErrorKind {
    /// 401 or 403: not for whoever asked.
    Denied,
    /// 404, or a registry that is not configured.
    NotFound,
    /// No usable answer now; another time, perhaps: network, timeouts, 5xx, 429.
    Unavailable,
    /// An answer that cannot be right: wrong digest, wrong size, not the protocol.
    Invalid,
}

/// The fault itself, before it is known whose it is.
#[derive(Debug, thiserror::Error)]
pub(super) enum Fault {
    #[error("is not among the configured upstreams, so it is never contacted")]
    Unknown,
    #[error("cannot be set up: {0}")]
    Setup(&'static str),
    #[error("cannot be set up: the certificates of ca_file cannot be read")]
    CaFile(#[source] std::io::Error),
    #[error("cannot be set up: its client certificate or key cannot be read")]
    ClientFile(#[source] std::io::Error),
    #[error("cannot be shown credentials: the file they are in cannot be read")]
    CredentialsFile(#[source] std::io::Error),
    #[error("cannot be shown credentials: the credential helper cannot be run")]
    CredentialHelper(#[source] std::io::Error),
    #[error("cannot be shown credentials: {0}")]
    Credentials(&'static str),
    #[error("cannot be set up: the HTTP client refuses its settings")]
    Client(#[source] reqwest::Error),
    #[error("answered {0}")]
    Status(StatusCode),
    #[error("sent us to a storage host that answered {0}")]
    Storage(StatusCode),
    #[error("limits our requests; the next may be sent in {} s", .0.as_secs_f32().ceil())]
    Limited(Duration),
    #[error("cannot be reached, or broke off")]
    Network(#[source] reqwest::Error),
    #[error("ended the connection before it answered; perhaps it {0}")]
    Ended(&'static str, #[source] reqwest::Error),
    #[error("broke off in the middle of a body")]
    Broken(#[source] reqwest::Error),
    #[error("did not answer within {} s", .0.as_secs())]
    Silent(Duration),
    #[error("has all of its max_connections in use")]
    Full,
    #[error("sent less than {floor} bytes in {} s", .window.as_secs())]
    Stalled { floor: u64, window: Duration },
    #[error("ended the body after {got} of {due} bytes")]
    Short { got: u64, due: u64 },
    #[error("is not asked any more: this process stops")]
    Stopping,
    #[error("redirects more than {0} times")]
    Redirects(usize),
    #[error("redirects {0}")]
    Redirect(&'static str),
    #[error("asks for credentials, and there are none for it")]
    NoCredentials,
    #[error("names a token service that is not vetted for it, so no credential is sent there")]
    Realm,
    #[error("has a token service whose answer is not a token: {0}")]
    NoToken(&'static str),
    #[error("gave no token")]
    Token(#[source] Arc<Fault>),
    #[error("sent nonsense: {0}")]
    Nonsense(&'static str),
    #[error("has another version of the file by now")]
    Changed,
    #[error("is not asked: {0}")]
    NotAllowed(&'static str),
    #[error("was to be asked for something that is no request of the protocol")]
    Request(#[from] Invalid),
}

impl Fault {
    /// A failure before the answer, without the URL, which may carry a signature.
    pub(super) fn network(error: reqwest::Error) -> Self {
        if was_refused(&error) {
            return Self::Redirect("to a host none of whose addresses it may send us to");
        }
        Self::Network(error.without_url())
    }

    /// A failure within a body.
    pub(super) fn broken(error: reqwest::Error) -> Self {
        Self::Broken(error.without_url())
    }

    pub(super) fn kind(&self) -> UpstreamErrorKind {
        match self {
            Self::Status(status) => kind_of_status(*status),
            // The registry itself has said yes: a refusal behind it is no word on access.
            Self::Storage(StatusCode::NOT_FOUND) | Self::Unknown | Self::Changed => {
                UpstreamErrorKind::NotFound
            }
            Self::NotAllowed(_) => UpstreamErrorKind::Denied,
            Self::Storage(_)
            | Self::Setup(_)
            | Self::CaFile(_)
            | Self::ClientFile(_)
            | Self::CredentialsFile(_)
            | Self::CredentialHelper(_)
            | Self::Credentials(_)
            | Self::Client(_)
            | Self::Limited(_)
            | Self::Network(_)
            | Self::Ended(..)
            | Self::Broken(_)
            | Self::Silent(_)
            | Self::Full
            | Self::Stalled { .. }
            | Self::Short { .. }
            | Self::Stopping => UpstreamErrorKind::Unavailable,
            Self::Token(fault) => fault.kind(),
            Self::Redirects(_)
            | Self::Redirect(_)
            | Self::Realm
            | Self::NoCredentials
            | Self::NoToken(_)
            | Self::Nonsense(_)
            | Self::Request(_) => UpstreamErrorKind::Invalid,
        }
    }

    /// Whether the same request may do better at once.
    pub(super) fn is_passing(&self) -> bool {
        match self {
            Self::Network(_) | Self::Ended(..) => true,
            Self::Status(status) => status.is_server_error(),
            Self::Storage(status) => *status != StatusCode::NOT_FOUND,
            Self::Token(fault) => fault.is_passing(),
            _ => false,
        }
    }

    /// Whether the registry itself is out of reach, or out of order.
    pub(super) fn is_away(&self) -> bool {
        match self {
            Self::Network(_) | Self::Ended(..) | Self::Silent(_) => true,
            Self::Status(status) => status.is_server_error(),
            _ => false,
        }
    }

    fn status(&self) -> Option<StatusCode> {
        match self {
            Self::Status(status) | Self::Storage(status) => Some(*status),
            Self::Limited(_) => Some(StatusCode::TOO_MANY_REQUESTS),
            Self::Token(fault) => fault.status(),
            _ => None,
        }
    }
}

/// Whether our own guard of addresses is at the bottom of it.
fn was_refused(error: &reqwest::Error) -> bool {
    let first: &dyn std::error::Error = error;
    std::iter::successors(Some(first), |error| error.source()).any(|error| error.is::<Refused>())
}

fn kind_of_status(status: StatusCode) -> UpstreamErrorKind {
    match status {
        StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => UpstreamErrorKind::Denied,
        StatusCode::NOT_FOUND | StatusCode::GONE => UpstreamErrorKind::NotFound,
        StatusCode::REQUEST_TIMEOUT | StatusCode::TOO_MANY_REQUESTS => {
            UpstreamErrorKind::Unavailable
        }
        status if status.is_server_error() => UpstreamErrorKind::Unavailable,
        _ => UpstreamErrorKind::Invalid,
    }
}

impl UpstreamError {
    pub(super) fn new(registry: &RegistryName, fault: Fault) -> Self {
        Self {
            whose: format!("registry {registry}"),
            fault,
        }
    }

    /// About what `host` was asked for, which is no registry.
    pub(super) fn of_host(host: &str, fault: Fault) -> Self {
        Self {
            whose: format!("host {host}"),
            fault,
        }
    }

    /// For a registry that is not configured and therefore never contacted.
    pub fn unknown(registry: &RegistryName) -> Self {
        Self::new(registry, Fault::Unknown)
    }

    /// What it means to whoever asked.
    pub fn kind(&self) -> UpstreamErrorKind {
        self.fault.kind()
    }

    /// The status upstream answered with, when it is a status that made the error.
    pub fn status(&self) -> Option<u16> {
        self.fault.status().map(|status| status.as_u16())
    }
}

impl fmt::Display for UpstreamError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.whose, self.fault)
    }
}

impl std::error::Error for UpstreamError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.fault.source()
    }
}
