//! The tickets that seeds have given this node, and how it comes by one: it shows the seed the
//! credential that its client showed here. Nobody but a seed, by its certificate, is shown one.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use darner_proto::id::{Host, HostId, TaskId};
use darner_proto::invalid::Invalid;
use darner_proto::name::Source;
use darner_proto::peer::{
    PrivateReply, PrivateRequest, ResolveReply, ResolveRequest, TICKET, Target,
};
use darner_proto::wire;
use http::{HeaderValue, Method, Response};
use hyper::body::Incoming;
use prost::Message as _;
use tokio::time::Instant;

use super::{PeerError, Peers, RESOLVE_TIMEOUT, Request, read_bounded};

/// A ticket is asked for anew when less than this is left of it.
const MARGIN: Duration = Duration::from_secs(5);
/// Tickets held; beyond it those that are over go.
const MAX_HELD: usize = 10_000;

/// What opens a repository, from whoever showed it last.
pub type Credential = Arc<dyn Fn(&Source) -> Option<HeaderValue> + Send + Sync>;

/// The tickets.
pub(super) struct Permits {
    pub(super) credential: Credential,
    held: Mutex<HashMap<(HostId, TaskId), Permit>>,
}

#[derive(Clone)]
struct Permit {
    source: Source,
    ticket: HeaderValue,
    until: Instant,
}

impl std::fmt::Debug for Permits {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Permits")
    }
}

impl Permits {
    pub(super) fn new(credential: Credential) -> Self {
        Self {
            credential,
            held: Mutex::default(),
        }
    }

    fn get(&self, key: &(HostId, TaskId)) -> Option<Permit> {
        let held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        held.get(key).cloned()
    }

    fn put(&self, key: (HostId, TaskId), permit: Permit) {
        let mut held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        if held.len() >= MAX_HELD {
            let now = Instant::now();
            held.retain(|_, permit| permit.until > now);
        }
        if held.len() < MAX_HELD {
            held.insert(key, permit);
        }
    }

    fn forget(&self, key: &(HostId, TaskId)) {
        let mut held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        held.remove(key);
    }
}

impl Peers {
    /// Asks a seed about what is not public, showing it the client's own credential.
    pub async fn resolve_private(
        &self,
        seed: &Host,
        request: &PrivateRequest,
    ) -> Result<PrivateReply, PeerError> {
        let body = wire::PrivateRequest::from(request).encode_to_vec();
        let asked = Request {
            body: body.into(),
            ..Request::new(Method::POST, "/resolve".to_owned())
        };
        let exchange = async { read_bounded(self.send(seed, asked).await?).await };
        let bytes = tokio::time::timeout(RESOLVE_TIMEOUT, exchange)
            .await
            .map_err(|_| PeerError::Silent)??;
        let reply = wire::PrivateReply::decode(bytes)
            .map_err(|error| Invalid::new("private reply", error.to_string()))?;
        Ok(reply.try_into()?)
    }

    /// Asks about a task, with a ticket where one is needed. One that is not honoured is not shown
    /// again: a seed that was started anew knows none that it gave before.
    pub(super) async fn about(
        &self,
        host: &Host,
        task: &TaskId,
        source: Option<&Source>,
        mut asked: Request,
    ) -> Result<Response<Incoming>, PeerError> {
        if let Some(ticket) = self.ticket(host, task, source).await? {
            asked.headers.insert(TICKET, ticket);
        }
        let answer = self.answered(host, asked).await;
        if let (Err(PeerError::Status(403)), Some(permits)) = (&answer, &self.permits) {
            permits.forget(&(host.id.clone(), *task));
        }
        answer
    }

    /// A ticket for `task` at `seed`; `source` is where this node's client has it from, or else the
    /// one of the last ticket. None is needed for what is public.
    async fn ticket(
        &self,
        seed: &Host,
        task: &TaskId,
        source: Option<&Source>,
    ) -> Result<Option<HeaderValue>, PeerError> {
        let Some(permits) = &self.permits else {
            return Ok(None);
        };
        let key = (seed.id.clone(), *task);
        let held = permits.get(&key);
        let fresh = |permit: &&Permit| Instant::now() + MARGIN < permit.until;
        if let Some(permit) = held.as_ref().filter(fresh) {
            return Ok(Some(permit.ticket.clone()));
        }
        let source = source.cloned().or(held.map(|permit| permit.source));
        let source = source.ok_or(PeerError::NotHeld)?;
        let permit = self.prove(permits, seed, (task, source)).await;
        let permit = permit.inspect_err(|_| permits.forget(&key))?;
        permits.put(key, permit.clone());
        Ok(Some(permit.ticket))
    }

    async fn prove(
        &self,
        permits: &Permits,
        seed: &Host,
        (task, source): (&TaskId, Source),
    ) -> Result<Permit, PeerError> {
        let shown = (permits.credential)(&source).ok_or(PeerError::NotHeld)?;
        let authorization = shown.to_str().map_err(|_| PeerError::NotHeld)?.to_owned();
        let request = PrivateRequest {
            request: ResolveRequest {
                source: source.clone(),
                target: Target::Blob(*task),
                held_only: false,
                quiet: Duration::ZERO,
            },
            authorization,
        };
        let asked = Instant::now();
        let answer = self.resolve_private(seed, &request).await?;
        let (ResolveReply::Found(_), Some((ticket, life))) = (answer.reply, answer.ticket) else {
            return Err(PeerError::NotHeld);
        };
        let mut ticket = HeaderValue::try_from(ticket)
            .map_err(|_| Invalid::new("ticket", "fits in no header"))?;
        ticket.set_sensitive(true);
        Ok(Permit {
            source,
            ticket,
            until: asked + life,
        })
    }
}
