//! Pages of lists.

use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use super::problem::Problem;

/// Items on a page, when the caller does not say, and at most.
pub(crate) const PAGE: usize = 1000;

/// No name, label or id that is looked for is longer.
const MAX_TEXT: usize = 512;

/// Which page.
#[derive(Debug, Clone, Default, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(crate) struct Page {
    /// Items at most.
    #[param(minimum = 1, maximum = 1000)]
    pub(crate) limit: Option<usize>,
    /// `next` of the page before.
    pub(crate) after: Option<String>,
}

/// A page of a list.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct List<T> {
    /// What is on this page.
    pub(crate) items: Vec<T>,
    /// What to pass as `after` for the following page; null on the last.
    pub(crate) next: Option<String>,
}

impl Page {
    /// Items at most.
    pub(crate) fn limit(&self) -> Result<usize, Problem> {
        match self.limit.unwrap_or(PAGE) {
            limit @ 1..=PAGE => Ok(limit),
            _ => Err(Problem::bad_request(format!("limit: is not 1 to {PAGE}"))),
        }
    }

    /// How many items to look for: one more than are shown, to know whether there are more.
    pub(crate) fn wanted(&self) -> Result<i64, Problem> {
        let limit = self.limit()? + 1;
        Ok(i64::try_from(limit).unwrap_or(i64::MAX))
    }

    pub(crate) fn after(&self) -> &str {
        self.after.as_deref().unwrap_or_default()
    }
}

/// A text that a list is narrowed by, if one is given.
pub(crate) fn text<'a>(name: &str, given: Option<&'a String>) -> Result<Option<&'a str>, Problem> {
    match given {
        Some(text) if text.is_empty() || text.len() > MAX_TEXT => Err(Problem::bad_request(
            format!("{name}: is not 1 to {MAX_TEXT} bytes long"),
        )),
        given => Ok(given.map(String::as_str)),
    }
}

impl<T> List<T> {
    /// What was found, with one more than fits if there are more; `key` is what the following page
    /// begins after.
    pub(crate) fn of(mut found: Vec<T>, limit: usize, key: impl Fn(&T) -> String) -> Self {
        let more = found.len() > limit;
        found.truncate(limit);
        let next = found.last().filter(|_| more).map(key);
        Self { items: found, next }
    }
}
