//! What people name, make, change and remove.

use super::body::stale;
use super::problem::Problem;
use crate::database::named::{Change, Changed};
use crate::users::Name;

/// A name that nothing can have is nothing's.
pub(crate) fn name_in_path(name: &str) -> Result<Name, Problem> {
    name.parse().map_err(|_| Problem::not_found(name))
}

/// What is to be changed by whom.
pub(crate) fn change<'a>(actor: &'a str, name: &'a Name, expected: Option<i64>) -> Change<'a> {
    Change {
        actor,
        name,
        expected,
    }
}

/// Whether a change to a `kind` was made.
pub(crate) fn changed(changed: Changed, kind: &str, name: &Name) -> Result<(), Problem> {
    match changed {
        Changed::Yes => Ok(()),
        Changed::Absent => Err(Problem::not_found(name.as_str())),
        Changed::Stale => Err(stale()),
        Changed::Taken => Err(Problem::conflict(format!(
            "there is a {kind} {name} already"
        ))),
        Changed::Full => Err(Problem::conflict(format!(
            "there are as many as there may be: remove a {kind} first"
        ))),
    }
}
