//! Why a file is not got, or put: what, why, and what to do about it.

use std::io;
use std::path::{Path, PathBuf};

use darner_proto::digest::Digest;
use darner_service::telemetry::with_causes;
use reqwest::StatusCode;

/// Nobody is there, or not in time.
const UNREACHABLE: u8 = 4;
/// Not without other credentials.
const DENIED: u8 = 5;

/// A file that is not got.
#[derive(Debug, thiserror::Error)]
pub(crate) enum GetError {
    /// TLS cannot be set up on this machine.
    #[error("HTTP cannot be spoken from here")]
    Client(#[source] reqwest::Error),
    /// Two digests were given, for one file.
    #[error("--digest is another digest than the one the file is called by; leave one out")]
    TwoDigests,
    /// Nobody answers.
    #[error("{whom} cannot be reached")]
    Unreachable {
        /// The mirror, or the host.
        whom: String,
        /// What went wrong, without the URL.
        #[source]
        source: reqwest::Error,
    },
    /// An answer that is no file.
    #[error("{whom} answers {status}{detail}")]
    Status {
        /// The mirror, or the host.
        whom: String,
        /// The answer.
        status: StatusCode,
        /// `: ` and its words, if it has any.
        detail: String,
    },
    /// The connection broke or fell silent.
    #[error("the file was cut on its way")]
    Cut {
        /// What went wrong; nothing when the answer just ended too early.
        #[source]
        source: Option<reqwest::Error>,
    },
    /// The bytes are not those of the digest. They are not kept.
    #[error("the file's digest is {found}, not {expected}; nothing of it was kept")]
    WrongBytes {
        /// What was wanted.
        expected: Box<Digest>,
        /// What came.
        found: Box<Digest>,
    },
    /// What is to be got recursively is no directory.
    #[error(
        "it is no directory whose server lists what is in it; leave --recursive out for one file"
    )]
    NoListing,
    /// Nothing is listed.
    #[error("the server lists no files there")]
    NoFiles,
    /// More than the caller wants.
    #[error("there are more than {most} files and directories; allow more with --max-files")]
    TooMany {
        /// As many are allowed.
        most: usize,
    },
    /// An object cannot be asked for.
    #[cfg(feature = "object-storage")]
    #[error(
        "the storage cannot be asked; its credentials come from the environment, as for its own tools: {0}"
    )]
    Storage(String),
    /// Who is asked for objects, or for the right to read them, says no.
    #[cfg(feature = "object-storage")]
    #[error(
        "the host {host} answers {status}; the storage's credentials come from the environment, as for its own tools"
    )]
    StorageRefuses {
        /// Of the storage, or of who gives out rights for it.
        host: String,
        /// The answer.
        status: StatusCode,
    },
    /// This program was built without it.
    #[cfg(not(feature = "object-storage"))]
    #[error("{scheme}:// is not known to this build; build it with the feature object-storage")]
    NoStorage {
        /// Of the URL.
        scheme: String,
    },
    /// Two runs would write the same file.
    #[error("{} is being written by another process; wait for it, or give another file with -o", .0.display())]
    InUse(PathBuf),
    /// The output is no place for a file.
    #[error("{} is no file that could be written; give another with -o", .0.display())]
    NoFile(PathBuf),
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

impl GetError {
    /// For `map_err` around file operations.
    pub(crate) fn file(path: &Path, doing: &'static str) -> impl FnOnce(io::Error) -> Self {
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

    /// What was there already is longer than the file is by now.
    pub(super) fn is_past_the_end(&self) -> bool {
        matches!(self, Self::Status { status, .. } if *status == StatusCode::RANGE_NOT_SATISFIABLE)
    }

    /// The exit status of a command that fails with this.
    pub(crate) fn exit_status(&self) -> u8 {
        match self {
            Self::Unreachable { .. } => UNREACHABLE,
            Self::Status { status, .. } if is_denied(*status) => DENIED,
            #[cfg(feature = "object-storage")]
            Self::StorageRefuses { status, .. } if is_denied(*status) => DENIED,
            _ => 1,
        }
    }

    /// The message with everything that led to it.
    pub(crate) fn in_full(&self) -> String {
        with_causes(self)
    }
}

fn is_denied(status: StatusCode) -> bool {
    matches!(status, StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN)
}
