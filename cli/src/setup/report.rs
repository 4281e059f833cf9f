//! What a run did, or would do, for people and for programs.

use std::fmt;
use std::path::PathBuf;

use serde::Serialize;
use similar::TextDiff;

use super::host::FileState;
use super::journal::Change;
use super::plan::{Plan, Planned};
use super::runtimes::Found;

/// Lines around a change.
const CONTEXT: usize = 3;

/// How a run ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Status {
    #[default]
    Unchanged,
    Changed,
    WouldChange,
}

/// A run, told.
#[derive(Debug, Default)]
pub(crate) struct Report {
    status: Status,
    pub(crate) runtimes: Vec<Found>,
    changes: Vec<FileChange>,
    /// Files that a run before left half done, as they were again.
    pub(crate) recovered: Vec<PathBuf>,
    reloaded: Vec<&'static str>,
    restarts: Vec<&'static str>,
    pub(crate) proof: Vec<String>,
}

#[derive(Debug, Serialize)]
struct FileChange {
    runtime: String,
    path: PathBuf,
    action: &'static str,
    diff: String,
}

#[derive(Serialize)]
struct Told<'a> {
    status: Status,
    runtimes: Vec<ToldRuntime<'a>>,
    changes: &'a [FileChange],
    recovered: &'a [PathBuf],
    reloaded: &'a [&'static str],
    restart_needed: &'a [&'static str],
    proof: &'a [String],
}

#[derive(Serialize)]
struct ToldRuntime<'a> {
    name: &'static str,
    programs: Vec<ToldProgram<'a>>,
    notes: &'a [String],
}

#[derive(Serialize)]
struct ToldProgram<'a> {
    name: &'a str,
    version: Option<&'a str>,
}

impl Report {
    pub(crate) fn would_change(&self) -> bool {
        self.status == Status::WouldChange
    }

    pub(super) fn found(&mut self, found: Found) {
        self.runtimes.push(found);
    }

    pub(super) fn changed(&mut self, plan: &Plan, status: Status) {
        if !plan.changes.is_empty() {
            self.status = status;
        }
        self.changes.extend(plan.changes.iter().map(FileChange::of));
    }

    pub(super) fn would_recover(&mut self, pending: &[Change]) {
        self.status = Status::WouldChange;
        self.recovered = pending.iter().map(|change| change.path.clone()).collect();
    }

    pub(super) fn needs(&mut self, how: &'static str) {
        if !self.restarts.contains(&how) {
            self.restarts.push(how);
        }
    }

    pub(super) fn reloads(&mut self, name: &'static str) {
        if !self.reloaded.contains(&name) {
            self.reloaded.push(name);
        }
    }

    pub(crate) fn json(&self) -> String {
        let runtimes = self.runtimes.iter().map(|found| ToldRuntime {
            name: found.runtime.name(),
            programs: found
                .programs
                .iter()
                .map(|(name, version)| ToldProgram {
                    name,
                    version: version.as_ref().map(|version| version.text.as_str()),
                })
                .collect(),
            notes: &found.notes,
        });
        let told = Told {
            status: self.status,
            runtimes: runtimes.collect(),
            changes: &self.changes,
            recovered: &self.recovered,
            reloaded: &self.reloaded,
            restart_needed: &self.restarts,
            proof: &self.proof,
        };
        serde_json::to_string_pretty(&told).unwrap_or_default()
    }
}

impl FileChange {
    fn of(planned: &Planned) -> Self {
        let action = match (&planned.before, &planned.after) {
            (None, _) => "create",
            (_, None) => "remove",
            _ => "change",
        };
        Self {
            runtime: planned.runtime.clone(),
            path: planned.path.clone(),
            action,
            diff: diff(planned),
        }
    }
}

fn diff(planned: &Planned) -> String {
    let text = |file: &Option<FileState>| {
        let bytes = file.as_ref().map(|file| file.bytes.as_slice());
        String::from_utf8_lossy(bytes.unwrap_or_default()).into_owned()
    };
    let name = |file: &Option<FileState>| match file {
        Some(_) => planned.path.display().to_string(),
        None => "/dev/null".to_owned(),
    };
    let (before, after) = (text(&planned.before), text(&planned.after));
    let diff = TextDiff::from_lines(&before, &after);
    let mut unified = diff.unified_diff();
    unified.context_radius(CONTEXT);
    unified.header(&name(&planned.before), &name(&planned.after));
    unified.to_string()
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let would = self.would_change();
        for path in &self.recovered {
            let done = if would {
                "left half done by a run before; would be"
            } else {
                "was left half done by a run before;"
            };
            writeln!(f, "{}: {done} as it was", path.display())?;
        }
        for found in &self.runtimes {
            write!(f, "found {}", found.runtime)?;
            for (name, version) in &found.programs {
                let version = version
                    .as_ref()
                    .map_or("of unknown version", |version| &version.text);
                write!(f, "; {name} {version}")?;
            }
            writeln!(f)?;
            for note in &found.notes {
                writeln!(f, "  note: {}", note.replace('\n', "\n  "))?;
            }
        }
        for change in &self.changes {
            if would {
                f.write_str(&change.diff)?;
            } else {
                let done = match change.action {
                    "create" => "written",
                    "remove" => "removed",
                    _ => "changed",
                };
                writeln!(f, "{}: {done}", change.path.display())?;
            }
        }
        for name in &self.reloaded {
            writeln!(f, "reloaded {name}")?;
        }
        for line in &self.proof {
            writeln!(f, "proved: {line}")?;
        }
        for how in &self.restarts {
            writeln!(f, "to make it count, restart: {how}")?;
        }
        if self.status == Status::Unchanged && self.recovered.is_empty() {
            writeln!(f, "nothing to change")?;
        }
        Ok(())
    }
}
