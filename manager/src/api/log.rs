//! The audit.

use axum::Json as Answer;
use axum::extract::State;
use chrono::DateTime;
use serde::Deserialize;
use utoipa::IntoParams;

use super::Api;
use super::body::Query;
use super::page::{List, Page, text};
use super::problem::{Document, Problem};
use crate::users::audit::{self, Filter, Line};

/// Which lines, and which page of them.
#[derive(Debug, Clone, Default, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(crate) struct Which {
    /// Items at most.
    #[param(minimum = 1, maximum = 1000)]
    pub(crate) limit: Option<usize>,
    /// `next` of the page before.
    pub(crate) after: Option<String>,
    /// Only what this account did, itself or with a token, or another actor as it is written there.
    #[param(min_length = 1, max_length = 512)]
    pub(crate) actor: Option<String>,
    /// Only this, such as `user.create`.
    #[param(min_length = 1, max_length = 512)]
    pub(crate) action: Option<String>,
    /// Only what was done to this.
    #[param(min_length = 1, max_length = 512)]
    pub(crate) object: Option<String>,
    /// Only from then on: RFC 3339, in UTC where no offset is given, or unix time in ms.
    pub(crate) since: Option<String>,
    /// Only before then, written as `since` is.
    pub(crate) until: Option<String>,
}

/// Who changed what, the newest first
#[utoipa::path(get, path = "/api/v1/audit", tag = "people", params(Which),
    responses((status = 200, body = List<Line>), (status = "4XX", body = Document, content_type = "application/problem+json")))]
pub(crate) async fn list(
    State(api): State<Api>,
    Query(which): Query<Which>,
) -> Result<Answer<List<Line>>, Problem> {
    let (page, filter) = which.parsed()?;
    let before = page.after.as_deref().map(str::parse::<i64>).transpose();
    let bad = |_| Problem::bad_request("after: is no `next` of this list");
    let before = before.map_err(bad)?;
    let found = audit::read(&api.database, filter, before, page.wanted()?).await?;
    Ok(Answer(List::of(found, page.limit()?, |line| {
        line.seq.to_string()
    })))
}

impl Which {
    fn parsed(&self) -> Result<(Page, Filter<'_>), Problem> {
        let filter = Filter {
            actor: text("actor", self.actor.as_ref())?,
            action: text("action", self.action.as_ref())?,
            object: text("object", self.object.as_ref())?,
            since: time("since", self.since.as_deref())?,
            until: time("until", self.until.as_deref())?,
        };
        let page = Page {
            limit: self.limit,
            after: self.after.clone(),
        };
        Ok((page, filter))
    }
}

/// Unix time in ms.
fn time(name: &str, given: Option<&str>) -> Result<Option<i64>, Problem> {
    let Some(text) = given else {
        return Ok(None);
    };
    if let Ok(ms) = text.parse() {
        return Ok(Some(ms));
    }
    // Who types it leaves out the offset, and the seconds.
    let written = ["", "Z", ":00Z"].map(|end| format!("{text}{end}"));
    let at = written
        .iter()
        .find_map(|text| DateTime::parse_from_rfc3339(text).ok());
    let at = at.ok_or_else(|| {
        let why = "is no time such as 2026-07-01T12:00:00Z, nor unix time in ms";
        Problem::bad_request(format!("{name}: {why}"))
    })?;
    Ok(Some(at.timestamp_millis()))
}
