//! Carries a plan out so that it is done wholly or not at all: the journal says first what is about
//! to be done, then it is done, proved, and the journal says that it is over. Whoever finds a
//! journal with a run that is not over takes that back.

use std::io;
use std::path::{Path, PathBuf};

use super::host::{FileState, Host, HostError};
use super::journal::{Change, Journal, JournalError, Records, digest};
use super::plan::Plan;
use super::step::Step;

/// Ends the name of what stood in a file that somebody else has changed.
const ASIDE: &str = "darner-before";

/// The host, with its journal, in the hands of one process.
#[derive(Debug)]
pub(crate) struct Desk {
    pub(crate) host: Host,
    pub(crate) records: Records,
    pub(crate) journal: Journal,
    /// In tests: what the process may still do before it is dead.
    #[cfg(test)]
    pub(crate) life: std::cell::Cell<Option<usize>>,
}

/// Something could not be done.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ApplyError {
    #[error(transparent)]
    Journal(#[from] JournalError),
    #[error(transparent)]
    Host(#[from] HostError),
    /// The file system refuses.
    #[error("{path} cannot be changed; run this as root")]
    Step {
        /// What was to be changed.
        path: PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// A file is neither as it was nor as it was to be.
    #[error(
        "{0} was changed by somebody else while a setup was under way, and was left as it is; what was there before, if anything, lies beside it, with {ASIDE} at the end of its name"
    )]
    Foreign(PathBuf),
}

impl Desk {
    /// Takes the host's journal.
    pub(crate) fn open(host: Host, directory: &Path) -> Result<Self, ApplyError> {
        let records = Records::lock(&host, directory)?;
        let journal = records.load()?;
        Ok(Self {
            host,
            records,
            journal,
            #[cfg(test)]
            life: std::cell::Cell::default(),
        })
    }

    /// Takes back what a run that was killed had begun. Gives the files it had to do with.
    pub(crate) fn recover(&mut self) -> Result<Vec<PathBuf>, ApplyError> {
        let pending = self.journal.pending.clone();
        if !pending.is_empty() {
            self.roll_back()?;
        }
        Ok(pending.into_iter().map(|change| change.path).collect())
    }

    /// Does what the plan says; it is `pending` until [`Desk::commit`] or [`Desk::roll_back`].
    pub(crate) fn begin(&mut self, plan: &Plan) -> Result<(), ApplyError> {
        let before = plan
            .changes
            .iter()
            .filter_map(|planned| planned.before.as_ref());
        for bytes in before.map(|file| &file.bytes).chain(&plan.keep) {
            self.perform(&self.records.keep(bytes))?;
        }
        let mut journal = self.journal.clone();
        journal.pending = plan
            .changes
            .iter()
            .map(|planned| planned.change())
            .collect();
        self.perform(&self.records.save(&journal))?;
        self.journal = journal;
        for planned in &plan.changes {
            let change = planned.change();
            let steps = self.steps(&change, planned.after.clone(), &change.makes, &change.drops)?;
            self.perform(&steps)?;
        }
        Ok(())
    }

    /// What was begun holds. `files` is what the journal knows from now on.
    pub(crate) fn commit(&mut self, plan: &Plan) -> Result<(), ApplyError> {
        let mut journal = self.journal.clone();
        for change in std::mem::take(&mut journal.pending) {
            journal.files.remove(&change.path);
        }
        for path in &plan.forget {
            journal.files.remove(path);
        }
        journal.files.extend(plan.files.clone());
        self.settle(journal)
    }

    /// What was begun is taken back.
    pub(crate) fn roll_back(&mut self) -> Result<(), ApplyError> {
        let mut journal = self.journal.clone();
        let mut foreign = None;
        for change in std::mem::take(&mut journal.pending).iter().rev() {
            let partial = Step::clear(&self.host.safe_place(&change.path)?);
            self.perform(&[partial])?;
            let before = change.before.as_ref();
            let before = before.map(|kept| self.records.restore(kept)).transpose()?;
            if !self.is_one_of_both(change)? {
                self.set_aside(&change.path, before)?;
                foreign.get_or_insert(ApplyError::Foreign(change.path.clone()));
                continue;
            }
            let steps = self.steps(change, before, &change.drops, &change.makes)?;
            self.perform(&steps)?;
        }
        self.settle(journal)?;
        foreign.map_or(Ok(()), Err)
    }

    /// The run is over: removes what no other run needs.
    pub(crate) fn close(self) -> Result<(), ApplyError> {
        self.perform(&self.records.leave(&self.journal))
    }

    fn settle(&mut self, journal: Journal) -> Result<(), ApplyError> {
        self.perform(&self.records.save(&journal))?;
        self.journal = journal;
        self.perform(&self.records.tidy(&self.journal))
    }

    /// Keeps what stood in a file beside it.
    fn set_aside(&self, path: &Path, before: Option<FileState>) -> Result<(), ApplyError> {
        let mut aside = path.to_owned();
        aside.add_extension(ASIDE);
        let place = self.host.safe_place(&aside)?;
        match before {
            Some(before) => self.perform(&Step::replace(place, before)),
            None => Ok(()),
        }
    }

    /// Whether nobody but us has written the file since the run began.
    fn is_one_of_both(&self, change: &Change) -> Result<bool, ApplyError> {
        let now = self.host.read(&change.path)?;
        let now = now.map(|file| digest(&file.bytes));
        let both = [&change.before, &change.after];
        Ok(both
            .iter()
            .any(|kept| kept.as_ref().map(|kept| &kept.digest) == now.as_ref()))
    }

    /// What makes the file of `change` be `wanted`.
    fn steps(
        &self,
        change: &Change,
        wanted: Option<FileState>,
        makes: &[PathBuf],
        drops: &[PathBuf],
    ) -> Result<Vec<Step>, ApplyError> {
        let mut steps = Vec::new();
        let place = self.host.safe_place(&change.path)?;
        for directory in makes {
            steps.push(Step::MakeDirectory(self.host.safe_place(directory)?));
        }
        match wanted {
            Some(file) => steps.extend(Step::replace(place, file)),
            None => steps.push(Step::Remove(place)),
        }
        for directory in drops.iter().rev() {
            steps.push(Step::RemoveDirectory(self.host.safe_place(directory)?));
        }
        Ok(steps)
    }

    #[cfg(not(test))]
    fn perform(&self, steps: &[Step]) -> Result<(), ApplyError> {
        steps.iter().try_for_each(perform)
    }
}

fn perform(step: &Step) -> Result<(), ApplyError> {
    step.perform().map_err(|source| ApplyError::Step {
        path: step.path().to_owned(),
        source,
    })
}

#[cfg(test)]
mod tests;
