//! Asking other nodes to hold content.

use std::time::Duration;

use darner_proto::id::{Host, TaskId};
use darner_proto::peer::HELD_BYTES;
use http::Method;

use super::{PeerError, Peers, Request, header};

impl Peers {
    /// Asks `host` to hold content, for a time if one is given. Says how many bytes of it are there: it
    /// is held when all are, and until then is to be asked for again.
    pub async fn hold(
        &self,
        host: &Host,
        task: &TaskId,
        size: u64,
        term: Option<Duration>,
    ) -> Result<u64, PeerError> {
        let mut path = format!("/tasks/{task}/hold?size={size}");
        if let Some(term) = term {
            path.push_str(&format!("&seconds={}", term.as_secs().max(1)));
        }
        let asked = Request::new(Method::POST, path);
        let answer = self.about(host, task, None, asked).await?;
        header(&answer, HELD_BYTES)
    }
}
