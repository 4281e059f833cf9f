//! Which nodes hold a blob, for programs of this machine (`darner verify`):
//!
//! ```text
//! GET /holders/<digest>    {"here": true, "nodes": ["node-1", "node-2"]}
//! ```
//! `nodes` are others that the scheduler names, the nearest first and a bounded number of them.
//! Schedulers hear of public content only, so nothing is said here of any other.

use axum::body::Body;
use axum::http::{Method, Response, StatusCode};
use darner_proto::digest::Digest;
use serde_json::json;
use tokio::time::{Instant, timeout_at};

use super::refusal::{Code, Refusal, refusal_of};
use super::serve::Front;

/// Where the paths of this begin.
const PATH: &str = "/holders/";

/// What follows, if a path is one of these.
pub(super) fn asked(path: &str) -> Option<&str> {
    path.strip_prefix(PATH)
}

impl Front {
    /// Answers such a path.
    pub(super) async fn holders(
        &self,
        method: &Method,
        digest: &str,
        deadline: Instant,
    ) -> Response<Body> {
        if !self.on_this_machine {
            let message = "this is for programs of the mirror's own machine";
            let status = StatusCode::FORBIDDEN;
            return Refusal::new(status, Code::Denied, message).into_response();
        }
        if method != Method::GET {
            let message = "who holds a blob is answered to GET";
            let status = StatusCode::METHOD_NOT_ALLOWED;
            return Refusal::new(status, Code::Unsupported, message).into_response();
        }
        let digest: Digest = match digest.replace("%3A", ":").parse() {
            Ok(digest) => digest,
            Err(invalid) => {
                let message = format!("{invalid}");
                let status = StatusCode::BAD_REQUEST;
                return Refusal::new(status, Code::DigestInvalid, message).into_response();
            }
        };
        let parts = self.tasks.parts();
        let here = parts.store.size_of(&digest).is_some();
        let found = timeout_at(deadline, parts.swarm.find(&digest)).await;
        let nodes = found.unwrap_or_default();
        let nodes: Vec<_> = nodes.iter().map(|host| host.id.as_str()).collect();
        let body = json!({"here": here, "nodes": nodes}).to_string();
        refusal_of(StatusCode::OK, body.into())
    }
}
