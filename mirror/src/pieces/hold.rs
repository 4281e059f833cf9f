//! A node that has put a file into the cluster asks this one to hold it too, and asks again until it
//! does.

use std::time::Duration;

use axum::extract::{Path, RawQuery, State};
use axum::http::{HeaderMap, HeaderName, HeaderValue};
use darner_proto::digest::Digest;
use darner_proto::invalid::Invalid;
use darner_proto::peer::HELD_BYTES;

use super::availability::{parse_size, value};
use super::{Refusal, Serving};
use crate::store::{StoreError, Term};
use crate::task::Reading;

/// Contents that come here at once for others' sake: beside what clients pull.
pub const MAX_HOLDS: usize = 16;
/// To a node for which there is no place now.
const AGAIN: Duration = Duration::from_millis(500);
/// Nobody holds anything for longer by a single word: a hundred years.
pub const MAX_SECONDS: u64 = 100 * 365 * 24 * 3600;

/// `POST /tasks/<digest>/hold?size=…[&seconds=…]`: says how much of it is here.
pub(super) async fn hold(
    State(serving): State<Serving>,
    Path(task): Path<String>,
    RawQuery(query): RawQuery,
) -> Result<HeaderMap, Refusal> {
    let task = Digest::parse_key(&task)?;
    if !task.is_of_content() {
        return Err(Invalid::new("digest", "is none of content").into());
    }
    let query = query.unwrap_or_default();
    let size = parse_size(&query)?;
    let seconds = match value(&query, "seconds") {
        Ok(text) => Some(seconds(&text)?),
        Err(_) => None,
    };
    let held = match serving.store.size_of(&task) {
        Some(held) if held != size => {
            return Err(Invalid::new("size", "is not the content's").into());
        }
        Some(_) => {
            if let Some(seconds) = seconds {
                let term = Term::lasting(Duration::from_secs(seconds), true);
                serving.store.set_term(&task, size, term)?;
            }
            size
        }
        None => coming(&serving, &task, size).await?,
    };
    Ok(HeaderMap::from_iter([(
        HeaderName::from_static(HELD_BYTES),
        HeaderValue::from(held),
    )]))
}

fn seconds(text: &str) -> Result<u64, Invalid> {
    let seconds = text.parse().ok();
    let seconds = seconds.filter(|seconds| (1..=MAX_SECONDS).contains(seconds));
    seconds.ok_or_else(|| Invalid::new("seconds", "is no time to hold something for"))
}

/// How much of it has come; it is begun if it was not on its way. All of it counts when it is stored.
async fn coming(serving: &Serving, task: &Digest, size: u64) -> Result<u64, Refusal> {
    let short = |held: u64| held.min(size.saturating_sub(1));
    if let Some(running) = serving.tasks.running(task) {
        return Ok(short(running.held_bytes()));
    }
    let place = serving.holds.clone().try_acquire_owned();
    let place = place.map_err(|_| Refusal::Busy(AGAIN))?;
    // From other nodes alone: nobody else has it.
    let opened = serving.tasks.open_from(task, size, Vec::new()).await;
    match opened.map_err(|_| Refusal::NotHeld)? {
        Reading::Stored(_) => Ok(size),
        Reading::Bypass => Err(Refusal::NoRoom),
        Reading::Arriving(arriving) => {
            let task = *task;
            serving.shutdown.spawn(async move {
                let _place = place;
                if let Err(error) = arriving.stored().await {
                    tracing::warn!(%task, %error, "what another node wants held here does not come");
                }
            });
            Ok(0)
        }
    }
}

impl From<StoreError> for Refusal {
    fn from(error: StoreError) -> Self {
        match error {
            StoreError::Pinned(_) | StoreError::Full { .. } => Self::NoRoom,
            _ => Self::Unreadable,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_have_bounds() {
        assert_eq!(seconds("1"), Ok(1));
        for text in ["", "0", "-1", "a", "99999999999"] {
            assert!(seconds(text).is_err(), "{text}");
        }
    }
}
