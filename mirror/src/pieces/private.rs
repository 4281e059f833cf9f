//! What is not public, for nodes that prove their clients' right to it: a seed's part.
//!
//! A node shows the credential that its client showed it. This seed asks upstream with it, as a
//! front end does for clients of its own; a yes is answered with the manifest itself, or with a
//! ticket for a blob ([`crate::access::tickets`]). Everything else here needs that ticket, shown by the
//! node it was given to, whose name its certificate says. Without certificates nothing is given.
//! Whether content is held changes no refusal.

use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::{Extension, Path, RawQuery, State};
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse as _, Response};
use axum::routing::{get, post};
use darner_proto::digest::Digest;
use darner_proto::id::HostId;
use darner_proto::name::Source;
use darner_proto::peer::{
    PRIVATE_PREFIX, PrivateReply, PrivateRequest, ResolveReply, Resolved, TICKET, Target,
};
use darner_proto::wire;
use darner_service::identity::Caller;
use prost::Message as _;
use tokio::time::Instant;

use super::uploads::Child;
use super::{Refusal, Serving, availability, doubt, message, send_run};
use crate::access::grants::Step;
use crate::access::proof::{Asked, Decision, Prover};
use crate::access::tickets::{TICKET_FOR, Tickets};
use crate::listen::Outlet;

/// A look-up and a credential; tokens of several KiB are in use.
const MAX_REQUEST: usize = 48 << 10;
/// Upstream and the answer together; the node that asks waits a little longer.
const PATIENCE: Duration = Duration::from_millis(6500);

/// What a seed serves private content from. Clones share it.
#[derive(Debug, Clone)]
pub struct Private {
    serving: Serving,
    prover: Prover,
    tickets: std::sync::Arc<Tickets>,
}

impl Private {
    /// `serving` has the private store and its downloads.
    pub fn new(serving: Serving, prover: Prover, tickets: Tickets) -> Self {
        Self {
            serving,
            prover,
            tickets: tickets.into(),
        }
    }

    /// The repository that the shown ticket opens `task` by, and the node it was given to.
    fn admit(
        &self,
        caller: &Caller,
        task: &Digest,
        headers: &HeaderMap,
    ) -> Result<(Source, HostId), Refusal> {
        let ticket = headers.get(TICKET).map(HeaderValue::as_bytes);
        let admitted = match caller {
            Caller::Known(peer) => {
                let ticket = ticket.unwrap_or_default();
                let source = self.tickets.check(ticket, &peer.id, task);
                source.map(|source| (source, peer.id.clone())).ok()
            }
            Caller::Unproved | Caller::Stranger => None,
        };
        if admitted.is_none() {
            self.serving.metrics.no_right.inc();
        }
        admitted.ok_or(Refusal::NoRight)
    }

    /// What the node may have, by what it shows.
    async fn answer(&self, node: &HostId, request: &PrivateRequest) -> PrivateReply {
        let PrivateRequest {
            request,
            authorization,
        } = request;
        let mut headers = HeaderMap::new();
        let Ok(mut shown) = HeaderValue::try_from(authorization.as_str()) else {
            return refusal(ResolveReply::NotPublic);
        };
        shown.set_sensitive(true);
        headers.insert(header::AUTHORIZATION, shown);
        headers.insert(header::ACCEPT, HeaderValue::from_static(MANIFESTS));
        let asked = Asked {
            source: &request.source,
            target: &request.target,
            headers: &headers,
            // Passwords are not shown to other machines.
            confined: false,
            deadline: Instant::now() + PATIENCE,
        };
        let decision = self.prover.decide(&asked).await;
        match decision.step {
            Step::Serve { .. } => self.granted(node, &asked, decision).await,
            Step::Relay | Step::Prove => {
                self.serving.metrics.no_right.inc();
                refusal(ResolveReply::NotPublic)
            }
            Step::StepAside => refusal(unavailable("who may read this cannot be found out here")),
        }
    }

    async fn granted(
        &self,
        node: &HostId,
        asked: &Asked<'_>,
        Decision { known, left, .. }: Decision,
    ) -> PrivateReply {
        let Some(known) = known else {
            return refusal(unavailable("the registry does not say what it is"));
        };
        let mut found = Resolved {
            digest: known.digest,
            media_type: known.link.media_type.clone(),
            size: known.link.size,
            age_ms: 0,
            public_ms: 0,
            stale: false,
            content: Vec::new(),
        };
        if let Target::Blob(digest) = asked.target {
            let life = left.min(TICKET_FOR);
            let ticket = self.tickets.issue(node, digest, asked.source, life);
            self.serving.metrics.tickets.inc();
            return PrivateReply {
                reply: ResolveReply::Found(found),
                ticket: Some((ticket, life)),
            };
        }
        match self.prover.manifest(asked, &known).await {
            Ok(manifest) => {
                found.media_type = manifest.media_type;
                found.size = manifest.bytes.len() as u64;
                found.content = manifest.bytes.into();
                refusal(ResolveReply::Found(found))
            }
            Err(_) => refusal(unavailable("the manifest does not come")),
        }
    }
}

/// Every form of a manifest, so that a registry converts nothing.
const MANIFESTS: &str = "application/vnd.oci.image.index.v1+json, \
     application/vnd.oci.image.manifest.v1+json, \
     application/vnd.docker.distribution.manifest.list.v2+json, \
     application/vnd.docker.distribution.manifest.v2+json, \
     */*";

fn refusal(reply: ResolveReply) -> PrivateReply {
    PrivateReply {
        reply,
        ticket: None,
    }
}

fn unavailable(detail: &str) -> ResolveReply {
    ResolveReply::Unavailable {
        detail: detail.to_owned(),
        quiet: Duration::ZERO,
    }
}

/// The paths of what is not public.
pub(super) fn routes(private: Private) -> Router {
    Router::new()
        .route(
            &format!("{PRIVATE_PREFIX}/tasks/{{task}}/availability"),
            get(follow),
        )
        .route(&format!("{PRIVATE_PREFIX}/tasks/{{task}}/pieces"), get(run))
        .route(
            &format!("{PRIVATE_PREFIX}/tasks/{{task}}/doubt"),
            post(doubted),
        )
        .route(&format!("{PRIVATE_PREFIX}/resolve"), post(resolve))
        .with_state(private)
}

async fn resolve(
    State(private): State<Private>,
    Extension(caller): Extension<Caller>,
    body: Body,
) -> Result<Response, Refusal> {
    let Caller::Known(peer) = caller else {
        return Err(Refusal::NoRight);
    };
    let request: wire::PrivateRequest = message(body, MAX_REQUEST).await?;
    let reply = private.answer(&peer.id, &request.try_into()?).await;
    let reply = wire::PrivateReply::from(&reply).encode_to_vec();
    Ok(reply.into_response())
}

async fn follow(
    State(private): State<Private>,
    Path(task): Path<String>,
    Extension(caller): Extension<Caller>,
    headers: HeaderMap,
) -> Result<Response, Refusal> {
    let task: Digest = task.parse()?;
    let (source, node) = private.admit(&caller, &task, &headers)?;
    let found = async {
        let link = private.prover.access().store().link(&source, &task);
        let link = link.filter(|link| !link.manifest);
        let size = link.ok_or(Refusal::NotHeld)?.size;
        Ok((size, source.into()))
    };
    let child = Child::named(node.as_str().as_bytes());
    availability::follow_or_begin(&private.serving, &task, child, found).await
}

async fn run(
    State(private): State<Private>,
    Path(task): Path<String>,
    query: RawQuery,
    (Extension(caller), Extension(outlet)): (Extension<Caller>, Extension<Outlet>),
    headers: HeaderMap,
) -> Result<Response, Refusal> {
    private.admit(&caller, &task.parse()?, &headers)?;
    let serving = State(private.serving);
    send_run(serving, Path(task), query, headers, Extension(outlet)).await
}

async fn doubted(
    State(private): State<Private>,
    Path(task): Path<String>,
    Extension(caller): Extension<Caller>,
    headers: HeaderMap,
) -> Result<StatusCode, Refusal> {
    private.admit(&caller, &task.parse()?, &headers)?;
    doubt(State(private.serving), Path(task)).await
}
