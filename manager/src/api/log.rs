//! The audit.

use axum::Json as Answer;
use axum::extract::State;

use super::Api;
use super::body::Query;
use super::page::{List, Page};
use super::problem::{Document, Problem};
use crate::users::audit::{self, Line};

/// Who changed what, the newest first
#[utoipa::path(get, path = "/api/v1/audit", tag = "people", params(Page),
    responses((status = 200, body = List<Line>), (status = "4XX", body = Document)))]
pub(crate) async fn list(
    State(api): State<Api>,
    Query(page): Query<Page>,
) -> Result<Answer<List<Line>>, Problem> {
    let before = page.after.as_deref().map(str::parse::<i64>).transpose();
    let bad = |_| Problem::bad_request("after: is no `next` of this list");
    let before = before.map_err(bad)?;
    let found = audit::read(&api.database, before, page.wanted()?).await?;
    Ok(Answer(List::of(found, page.limit()?, |line| {
        line.seq.to_string()
    })))
}
