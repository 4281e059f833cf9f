//! Why a pull fails: what, why, and what to do about it.

use std::io;
use std::path::{Path, PathBuf};

use darner_proto::digest::Digest;
use darner_service::telemetry::with_causes;
use reqwest::StatusCode;

/// The mirror is not there, or not in time.
const UNREACHABLE: u8 = 4;
/// The mirror, or the registry behind it, lets nobody in without credentials.
const DENIED: u8 = 5;

/// A pull that fails.
#[derive(Debug, thiserror::Error)]
pub(crate) enum PullError {
    /// TLS cannot be set up on this machine.
    #[error("HTTP cannot be spoken from here")]
    Client(#[source] reqwest::Error),
    /// There is nobody at the mirror's address.
    #[error(
        "the mirror at {via} cannot be reached; start one with `darner up`, or name another with --via"
    )]
    Unreachable {
        /// Its address, without secrets.
        via: String,
        /// What went wrong.
        #[source]
        source: reqwest::Error,
    },
    /// 401 or 403.
    #[error(
        "{what}: access is denied ({status}{detail}); the image is private or does not exist, and `darner pull` has no credentials to show"
    )]
    Denied {
        /// What was asked for.
        what: String,
        /// The mirror's answer.
        status: StatusCode,
        /// Its reason, if it gives one.
        detail: Detail,
    },
    /// 404.
    #[error(
        "{what} is not there ({status}{detail}); check its spelling, and that the mirror's settings have its registry"
    )]
    NotFound {
        /// What was asked for.
        what: String,
        /// The mirror's answer.
        status: StatusCode,
        /// Its reason, if it gives one.
        detail: Detail,
    },
    /// Any other status but success.
    #[error("{what} is not served ({status}{detail}); the mirror's log says more")]
    Status {
        /// What was asked for.
        what: String,
        /// The mirror's answer.
        status: StatusCode,
        /// Its reason, if it gives one.
        detail: Detail,
    },
    /// The connection broke or fell silent in the middle of an answer.
    #[error("{what} was cut; pull again to go on from there, and see the mirror's log")]
    Cut {
        /// What was on its way.
        what: String,
        /// What went wrong; nothing when the answer just ended too early.
        #[source]
        source: Option<reqwest::Error>,
    },
    /// The bytes are not those that the digest promises. They are not kept.
    #[error(
        "{what} came with the wrong bytes: their digest is {found}; nothing of it was kept. The mirror or what is behind it is broken"
    )]
    WrongBytes {
        /// What was asked for.
        what: String,
        /// What came.
        found: Digest,
    },
    /// The size is not the one that the manifest states.
    #[error("{what} came with {found} bytes where its manifest says {expected}")]
    WrongSize {
        /// What was asked for.
        what: String,
        /// What the manifest says.
        expected: u64,
        /// What the answer says or brings.
        found: u64,
    },
    /// An answer that means nothing.
    #[error("{what} makes no sense: {why}")]
    Nonsense {
        /// What was asked for.
        what: String,
        /// What is wrong with it.
        why: String,
    },
    /// The image is for other platforms.
    #[error(
        "{what} is not there for {wanted}, only for {offered}; choose one of these with --platform"
    )]
    Platform {
        /// The image.
        what: String,
        /// What was asked for.
        wanted: String,
        /// What there is.
        offered: String,
    },
    /// The directory has other things in it.
    #[error(
        "{} is no OCI image layout and not empty; give a new or empty directory with -o",
        .0.display()
    )]
    NotLayout(PathBuf),
    /// A file of the layout does not say what it has to.
    #[error("{} cannot be understood: {why}; give another directory with -o", .path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        why: String,
    },
    /// Two pulls into one directory would write the same files.
    #[error(
        "{} is being pulled into by another process; wait for it, or give another directory with -o",
        .0.display()
    )]
    InUse(PathBuf),
    /// The file system refuses.
    #[error("{} cannot be {doing}", .path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// What was tried, as a participle.
        doing: &'static str,
        /// Why not.
        #[source]
        source: io::Error,
    },
}

/// A mirror's own words about a refusal, if any: `: words`.
#[derive(Debug, Default)]
pub(crate) struct Detail(pub(super) Option<String>);

impl std::fmt::Display for Detail {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match &self.0 {
            Some(words) => write!(f, ": {words}"),
            None => Ok(()),
        }
    }
}

impl PullError {
    /// A refusal, by its status.
    pub(super) fn refused(what: String, status: StatusCode, detail: Detail) -> Self {
        match status {
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => Self::Denied {
                what,
                status,
                detail,
            },
            StatusCode::NOT_FOUND => Self::NotFound {
                what,
                status,
                detail,
            },
            _ => Self::Status {
                what,
                status,
                detail,
            },
        }
    }

    /// For `map_err` around file operations.
    pub(super) fn file(path: &Path, doing: &'static str) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_owned();
        move |source| Self::File {
            path,
            doing,
            source,
        }
    }

    /// Whether the same request may go better in a moment.
    pub(super) fn may_pass(&self) -> bool {
        match self {
            Self::Unreachable { .. } | Self::Cut { .. } => true,
            Self::Status { status, .. } => {
                status.is_server_error() || *status == StatusCode::TOO_MANY_REQUESTS
            }
            _ => false,
        }
    }

    /// The exit status of a command that fails with this.
    pub(crate) fn exit_status(&self) -> u8 {
        match self {
            Self::Unreachable { .. } => UNREACHABLE,
            Self::Denied { .. } => DENIED,
            _ => 1,
        }
    }

    /// The message with everything that led to it.
    pub(crate) fn in_full(&self) -> String {
        with_causes(self)
    }
}
