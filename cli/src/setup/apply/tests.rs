//! A process that is dead after so many steps, and may die within the last of them.

use std::fs;
use std::io;

use super::super::step::{Step, partial};
use super::{ApplyError, Desk, perform};

impl Desk {
    pub(super) fn perform(&self, steps: &[Step]) -> Result<(), ApplyError> {
        steps.iter().try_for_each(|step| match self.life.get() {
            None => perform(step),
            Some(0) => Err(die_within(step)),
            Some(left) => {
                self.life.set(Some(left - 1));
                perform(step)
            }
        })
    }
}

fn die_within(step: &Step) -> ApplyError {
    if let Step::Write(path, file) = step {
        let half = file.bytes.len() / 2;
        fs::write(partial(path), &file.bytes[..half]).unwrap();
    }
    ApplyError::Step {
        path: step.path().to_owned(),
        source: io::Error::other("dead"),
    }
}
