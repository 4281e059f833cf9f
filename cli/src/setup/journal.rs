//! What has been changed on the host, so that it can be undone: which files, what stood there
//! before, and what is being changed at this moment.
//!
//! One file says it all and is replaced as one step; the texts that stood there before lie beside
//! it under their digests. As long as a run is not over, its changes are `pending`: whoever finds
//! them later takes them back.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use darner_proto::digest::Digest;
use serde::{Deserialize, Serialize};

use super::host::{FileState, Host};
use super::kind::Kind;
use super::step::Step;

/// Of the form of the file; another is not touched.
const FORMAT: u32 = 1;
const FILE: &str = "journal.json";
const BACKUPS: &str = "backups";
const LOCK: &str = "lock";

/// Files that are not as they were, and what is being done.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Journal {
    format: u32,
    /// By path on the host.
    pub(crate) files: BTreeMap<PathBuf, Entry>,
    /// A run that is not over, in the order of its changes.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) pending: Vec<Change>,
}

/// A file that has something of ours.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Entry {
    /// For which runtime.
    pub(crate) runtime: String,
    pub(crate) kind: Kind,
    /// The mirror that it names.
    pub(crate) mirror: String,
    /// What is there without us; `None`: nothing.
    pub(crate) original: Option<Kept>,
    /// The digest of what we made of it.
    pub(crate) written: String,
    /// Directories that were made for it, outermost first.
    pub(crate) directories: Vec<PathBuf>,
}

/// A file whose text is among the backups.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Kept {
    /// sha256, in hexadecimal digits.
    pub(crate) digest: String,
    pub(crate) mode: u32,
    pub(crate) user: u32,
    pub(crate) group: u32,
}

/// One file, before and after.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Change {
    pub(crate) path: PathBuf,
    pub(crate) before: Option<Kept>,
    pub(crate) after: Option<Kept>,
    /// Directories that are made for it, outermost first.
    pub(crate) makes: Vec<PathBuf>,
    /// Directories of ours that go with it, outermost first.
    pub(crate) drops: Vec<PathBuf>,
}

/// The journal cannot be used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum JournalError {
    /// The file system refuses.
    #[error("{path} cannot be read or written; run this as root")]
    File {
        /// What was to be done with.
        path: PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// Not what we write.
    #[error("{path} is damaged; what was there before the setup lies in {BACKUPS} beside it")]
    Damaged {
        /// The journal.
        path: PathBuf,
        /// What is wrong.
        #[source]
        source: serde_json::Error,
    },
    /// Of a version we do not know.
    #[error(
        "{path} has format {format}, and this program knows {FORMAT}; use the darner that wrote it"
    )]
    Format {
        /// The journal.
        path: PathBuf,
        /// What it says.
        format: u32,
    },
    /// Somebody else is at it.
    #[error("another `darner setup` or `darner teardown` is running; wait for its end")]
    Busy,
    /// A backup is not what it was.
    #[error("the backup {0} is missing or damaged; nothing was changed")]
    Backup(PathBuf),
}

impl Default for Journal {
    fn default() -> Self {
        Self {
            format: FORMAT,
            files: BTreeMap::new(),
            pending: Vec::new(),
        }
    }
}

impl Kept {
    pub(crate) fn of(state: &FileState) -> Self {
        Self {
            digest: digest(&state.bytes),
            mode: state.mode,
            user: state.user,
            group: state.group,
        }
    }
}

/// The directory that the journal is in.
#[derive(Debug)]
pub(crate) struct Records {
    directory: PathBuf,
    /// Held for as long as this lives.
    _lock: Option<File>,
}

impl Records {
    /// Takes the directory for this process alone; it is made if it is not there.
    pub(crate) fn lock(host: &Host, directory: &Path) -> Result<Self, JournalError> {
        let directory = host.place(directory);
        let failed = |source| JournalError::File {
            path: directory.clone(),
            source,
        };
        let mut builder = fs::DirBuilder::new();
        std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
        builder.recursive(true).create(&directory).map_err(failed)?;
        let file = File::create(directory.join(LOCK)).map_err(failed)?;
        match file.try_lock() {
            Ok(()) => {}
            Err(fs::TryLockError::WouldBlock) => return Err(JournalError::Busy),
            Err(fs::TryLockError::Error(error)) => return Err(failed(error)),
        }
        // Whoever had it before removes it at the end, and the next makes another.
        let mine = file.metadata().map_err(failed)?.ino();
        if fs::metadata(directory.join(LOCK)).is_ok_and(|there| there.ino() != mine) {
            return Err(JournalError::Busy);
        }
        Ok(Self {
            directory,
            _lock: Some(file),
        })
    }

    /// To look at it only.
    pub(crate) fn look(host: &Host, directory: &Path) -> Self {
        Self {
            directory: host.place(directory),
            _lock: None,
        }
    }

    pub(crate) fn load(&self) -> Result<Journal, JournalError> {
        let path = self.directory.join(FILE);
        let text = match fs::read(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Ok(Journal::default());
            }
            Err(source) => return Err(JournalError::File { path, source }),
        };
        let damaged = |path: PathBuf, source| JournalError::Damaged { path, source };
        let value: serde_json::Value =
            serde_json::from_slice(&text).map_err(|source| damaged(path.clone(), source))?;
        let format = value["format"].as_u64().unwrap_or_default();
        if format != u64::from(FORMAT) {
            let format = u32::try_from(format).unwrap_or(u32::MAX);
            return Err(JournalError::Format { path, format });
        }
        serde_json::from_value(value).map_err(|source| damaged(path, source))
    }

    /// What replaces the journal by this one.
    pub(crate) fn save(&self, journal: &Journal) -> Vec<Step> {
        // It has no keys but paths and strings.
        let text = serde_json::to_vec_pretty(journal).unwrap_or_default();
        let file = FileState {
            mode: 0o600,
            bytes: text,
            ..FileState::new("")
        };
        Step::replace(self.directory.join(FILE), file).into()
    }

    /// What keeps a text.
    pub(crate) fn keep(&self, bytes: &[u8]) -> Vec<Step> {
        let path = self.backup(&digest(bytes));
        if fs::read(&path).is_ok_and(|there| there == bytes) {
            return Vec::new();
        }
        let file = FileState {
            mode: 0o600,
            bytes: bytes.to_vec(),
            ..FileState::new("")
        };
        let [write, put] = Step::replace(path, file);
        vec![
            Step::MakeDirectory(self.directory.join(BACKUPS)),
            write,
            put,
        ]
    }

    /// A file that was kept.
    pub(crate) fn restore(&self, kept: &Kept) -> Result<FileState, JournalError> {
        let path = self.backup(&kept.digest);
        match fs::read(&path) {
            Ok(bytes) if digest(&bytes) == kept.digest => Ok(FileState {
                bytes,
                mode: kept.mode,
                user: kept.user,
                group: kept.group,
            }),
            _ => Err(JournalError::Backup(path)),
        }
    }

    /// What removes the backups that no journal needs any more.
    pub(crate) fn tidy(&self, journal: &Journal) -> Vec<Step> {
        let needed: Vec<_> = journal
            .files
            .values()
            .filter_map(|entry| Some(self.backup(&entry.original.as_ref()?.digest)))
            .collect();
        let backups = self.directory.join(BACKUPS);
        let there = fs::read_dir(&backups).into_iter().flatten();
        let there = there.filter_map(|entry| Some(entry.ok()?.path()));
        let mut steps: Vec<_> = there
            .filter(|path| !needed.contains(path))
            .map(Step::Remove)
            .collect();
        steps.push(Step::clear(&self.directory.join(FILE)));
        steps.push(Step::RemoveDirectory(backups));
        steps
    }

    /// What removes all of it, when there is nothing to be kept.
    pub(crate) fn leave(&self, journal: &Journal) -> Vec<Step> {
        let mut steps = self.tidy(journal);
        if journal.files.is_empty() && journal.pending.is_empty() {
            steps.push(Step::Remove(self.directory.join(FILE)));
            steps.push(Step::Remove(self.directory.join(LOCK)));
            steps.push(Step::RemoveDirectory(self.directory.clone()));
        }
        steps
    }

    /// Digests come from the journal, which may be damaged: what is none leads nowhere.
    fn backup(&self, digest: &str) -> PathBuf {
        let digits = digest.bytes().all(|byte| byte.is_ascii_hexdigit());
        let name = if digits && !digest.is_empty() {
            digest
        } else {
            "none"
        };
        self.directory.join(BACKUPS).join(name)
    }
}

/// What a text is known by.
pub(crate) fn digest(bytes: &[u8]) -> String {
    Digest::sha256(bytes).hex()
}
