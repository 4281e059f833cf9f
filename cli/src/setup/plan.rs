//! From what is there and what is wanted to the changes of files: reads, and changes nothing.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use super::edit::{EditError, hosts, json, toml, yaml};
use super::host::{FileState, Host, HostError};
use super::journal::{Change, Entry, Journal, JournalError, Kept, Records, digest};
use super::kind::Kind;

/// The first line of a file that is ours alone, up to what differs between versions.
pub(crate) const OURS: &str = "# Written by `darner setup";

/// What is to be made of a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Edit {
    /// This, and nothing else.
    Own(String),
    /// The mirror before the hosts of others; under TLS with the authority in this file.
    Hosts(Option<PathBuf>),
    /// The mirror before those of others.
    DaemonJson,
    /// The key that makes containerd read host files; a file that is not there becomes one of
    /// this form.
    ContainerdConfig(i64),
    /// The mirror for these registries; under TLS with the authority in this file.
    RegistriesYaml(Vec<String>, Option<PathBuf>),
}

/// A file that is to have something of ours.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Wish {
    pub(crate) path: PathBuf,
    pub(crate) edit: Edit,
}

/// What is there without us.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Standing<'a> {
    pub(crate) host: &'a Host,
    pub(crate) records: &'a Records,
    pub(crate) journal: &'a Journal,
}

/// What is to be done about files, in this order.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Plan {
    pub(crate) changes: Vec<Planned>,
    /// What the journal says afterwards.
    pub(crate) files: BTreeMap<PathBuf, Entry>,
    /// What it does not say any more.
    pub(crate) forget: Vec<PathBuf>,
    /// Texts that have to be kept for that.
    pub(crate) keep: Vec<Vec<u8>>,
}

/// The change of one file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Planned {
    pub(crate) runtime: String,
    pub(crate) path: PathBuf,
    pub(crate) before: Option<FileState>,
    pub(crate) after: Option<FileState>,
    /// As in [`Change`].
    pub(crate) makes: Vec<PathBuf>,
    pub(crate) drops: Vec<PathBuf>,
}

/// No plan can be made.
#[derive(Debug, thiserror::Error)]
pub(crate) enum PlanError {
    #[error(transparent)]
    Host(#[from] HostError),
    #[error(transparent)]
    Journal(#[from] JournalError),
    /// One file stands in the way.
    #[error("{path}: {why}")]
    Edit {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        why: EditError,
    },
}

impl Edit {
    fn kind(&self) -> Kind {
        match self {
            Self::Own(_) => Kind::Own,
            Self::Hosts(_) => Kind::Hosts,
            Self::DaemonJson => Kind::DaemonJson,
            Self::ContainerdConfig(_) => Kind::ContainerdConfig,
            Self::RegistriesYaml(..) => Kind::RegistriesYaml,
        }
    }

    fn apply(&self, base: Option<&str>, mirror: &str) -> Result<String, EditError> {
        match (self, base) {
            (Self::Own(text), None) => Ok(text.clone()),
            (Self::Own(text), Some(_)) => Err(EditError::Shape(format!(
                "it was not written by darner and was left as it is. Add this to it, or for a \
                 hosts.toml run this with --adopt:\n{}",
                without_comments(text)
            ))),
            (Self::Hosts(ca), base) => {
                hosts::adopt(base.unwrap_or_default(), mirror, ca.as_deref())
            }
            (Self::DaemonJson, base) => json::add(base, mirror),
            (Self::ContainerdConfig(version), None) => toml::new_file(*version),
            (Self::ContainerdConfig(_), Some(base)) => toml::set_config_path(base),
            (Self::RegistriesYaml(registries, ca), base) => {
                let base = base.unwrap_or_default();
                yaml::add(base, registries, (mirror, ca.as_deref()))
            }
        }
    }
}

fn without_comments(text: &str) -> String {
    let lines = text.lines().filter(|line| !line.starts_with('#'));
    lines.map(|line| format!("{line}\n")).collect()
}

impl Standing<'_> {
    /// A file as it would be without us.
    pub(crate) fn base(&self, path: &Path) -> Result<Option<FileState>, PlanError> {
        let Some(now) = self.host.read(path)? else {
            return Ok(None);
        };
        match self.journal.files.get(path) {
            // Of another version, or from before there was a journal.
            None if now.bytes.starts_with(OURS.as_bytes()) => Ok(None),
            None => Ok(Some(now)),
            Some(entry) if digest(&now.bytes) == entry.written => {
                let original = entry.original.as_ref();
                Ok(original
                    .map(|kept| self.records.restore(kept))
                    .transpose()?)
            }
            Some(entry) => {
                let left = entry.kind.strip(text(path, &now)?, &entry.mirror);
                let left = left.map_err(|why| edit_error(path, why))?;
                Ok(left.map(|text| now.with_text(&text)))
            }
        }
    }

    /// The text of a file as it would be without us.
    pub(crate) fn base_text(&self, path: &Path) -> Result<Option<String>, PlanError> {
        let base = self.base(path)?;
        base.map(|base| Ok(text(path, &base)?.to_owned()))
            .transpose()
    }

    /// What fulfils `wishes` and takes back whatever else `runtime` had.
    pub(crate) fn plan(
        &self,
        runtime: &str,
        wishes: &[Wish],
        mirror: &str,
    ) -> Result<Plan, Vec<PlanError>> {
        let mut plan = Plan::default();
        let mut faults = Vec::new();
        for wish in wishes {
            if let Err(fault) = self.fulfil(runtime, wish, mirror, &mut plan) {
                faults.push(fault);
            }
        }
        let had = self.journal.files.iter();
        for (path, entry) in had.filter(|(_, entry)| entry.runtime == runtime) {
            if wishes.iter().any(|wish| wish.path == *path) {
                continue;
            }
            if let Err(fault) = self.take_back(path, entry, &mut plan) {
                faults.push(fault);
            }
        }
        if faults.is_empty() {
            Ok(plan)
        } else {
            Err(faults)
        }
    }

    fn fulfil(
        &self,
        runtime: &str,
        wish: &Wish,
        mirror: &str,
        plan: &mut Plan,
    ) -> Result<(), PlanError> {
        let path = &wish.path;
        let entry = self.journal.files.get(path);
        let base = self.base(path)?;
        let base_text = base.as_ref().map(|base| text(path, base)).transpose()?;
        let wanted = wish.edit.apply(base_text, mirror);
        let wanted = wanted.map_err(|why| edit_error(path, why))?;
        if base_text == Some(wanted.as_str()) {
            // Somebody has done it already: then it is not ours to undo.
            return match entry {
                Some(entry) => self.take_back(path, entry, plan),
                None => Ok(()),
            };
        }
        let after = match &base {
            Some(base) => base.with_text(&wanted),
            None => FileState::new(&wanted),
        };
        let before = self.host.read(path)?;
        let makes = self.missing_directories(path);
        let directories = self.made_for(path, &makes);
        let new = Entry {
            runtime: runtime.to_owned(),
            kind: wish.edit.kind(),
            mirror: mirror.to_owned(),
            original: base.as_ref().map(Kept::of),
            written: digest(wanted.as_bytes()),
            directories,
        };
        let is_as_wanted = before.as_ref() == Some(&after);
        if entry == Some(&new) && is_as_wanted {
            return Ok(());
        }
        plan.keep.extend(base.map(|base| base.bytes));
        plan.files.insert(path.clone(), new);
        if !is_as_wanted {
            plan.changes.push(Planned {
                runtime: runtime.to_owned(),
                path: path.clone(),
                before,
                after: Some(after),
                makes,
                drops: Vec::new(),
            });
        }
        Ok(())
    }

    /// The file as it would be without us.
    pub(crate) fn take_back(
        &self,
        path: &Path,
        entry: &Entry,
        plan: &mut Plan,
    ) -> Result<(), PlanError> {
        let before = self.host.read(path)?;
        let after = self.base(path)?;
        plan.forget.push(path.to_owned());
        if before != after {
            plan.changes.push(Planned {
                runtime: entry.runtime.clone(),
                path: path.to_owned(),
                drops: match after {
                    Some(_) => Vec::new(),
                    None => entry.directories.clone(),
                },
                before,
                after,
                makes: Vec::new(),
            });
        }
        Ok(())
    }

    /// The directories on the way to a file that are there for us alone, outermost first: whichever
    /// file was the first to need them, the last one to go takes them with it.
    fn made_for(&self, path: &Path, makes: &[PathBuf]) -> Vec<PathBuf> {
        let before = self.journal.files.values();
        let before: Vec<_> = before.flat_map(|entry| &entry.directories).collect();
        let ancestors = path.ancestors().skip(1).map(Path::to_owned);
        let mut made: Vec<_> = ancestors
            .filter(|directory| makes.contains(directory) || before.contains(&directory))
            .collect();
        made.reverse();
        made
    }

    /// The directories on the way to a file that are not there, outermost first.
    fn missing_directories(&self, path: &Path) -> Vec<PathBuf> {
        let mut missing: Vec<_> = path
            .ancestors()
            .skip(1)
            .take_while(|directory| !self.host.exists(directory))
            .map(Path::to_owned)
            .collect();
        missing.reverse();
        missing
    }
}

impl Plan {
    /// Whether everything is as it should be.
    pub(crate) fn is_empty(&self) -> bool {
        self.changes.is_empty() && self.files.is_empty() && self.forget.is_empty()
    }

    /// Both, one after the other.
    pub(crate) fn extend(&mut self, other: Self) {
        self.changes.extend(other.changes);
        self.files.extend(other.files);
        self.forget.extend(other.forget);
        self.keep.extend(other.keep);
    }
}

impl Planned {
    /// As the journal keeps it.
    pub(crate) fn change(&self) -> Change {
        Change {
            path: self.path.clone(),
            before: self.before.as_ref().map(Kept::of),
            after: self.after.as_ref().map(Kept::of),
            makes: self.makes.clone(),
            drops: self.drops.clone(),
        }
    }
}

fn text<'a>(path: &Path, file: &'a FileState) -> Result<&'a str, HostError> {
    std::str::from_utf8(&file.bytes).map_err(|_| HostError::NotText(path.to_owned()))
}

fn edit_error(path: &Path, why: EditError) -> PlanError {
    PlanError::Edit {
        path: path.to_owned(),
        why,
    }
}
