//! What a name means and whether anyone may read it.
//!
//! Only what upstream shows to an anonymous caller is recorded and shared; about everything else
//! the front end lets upstream decide, caller by caller. For every repository one node of the
//! cluster, its *owner*, asks upstream on behalf of all; the others keep what it said, so that each
//! can answer alone once everything else is gone. In the order of a look-up:
//!
//! 1. this node's own fresh record;
//! 2. the repository's owner, or who comes next when it is unreachable ([`plan`]);
//! 3. upstream, by this node ([`owned`]);
//! 4. with upstream out of reach: what this node last knew, then any holder of records or content.
//!
//! The bytes of blobs are [`crate::task`]'s business.

mod answer;
mod children;
mod flights;
mod freshness;
mod owned;
mod plan;
mod records;
#[cfg(test)]
pub(crate) mod tests;

use std::sync::Arc;
use std::time::Duration;

use darner_proto::digest::Digest;
use darner_proto::id::{Host, repository_key};
use darner_proto::name::{Reference, Source, Tag};
use darner_proto::peer::{ResolveReply, ResolveRequest, Target};
use futures_util::StreamExt as _;
use futures_util::stream::FuturesUnordered;
use tokio::time::{Instant, timeout_at};

pub use answer::{Answer, Found};
use answer::{accept, digest_of};
pub(crate) use children::links;
use flights::{Flight, Flights};
pub(crate) use freshness::{STRETCHED_FOR, now_ms};
use plan::Step;
use records::{Limit, Records, TagLives};

use crate::store::Store;
use crate::swarm::{Peers, Swarm};
use crate::upstream::Upstreams;

/// No registry takes larger manifests (OCI distribution specification: at least 4 MiB).
pub(crate) const MAX_MANIFEST: u64 = 4 << 20;
/// An owner that says nothing for this long is passed over. A little more than it gives upstream.
const OWNER_PATIENCE: Duration = Duration::from_millis(5500);
/// Owners and upstream together get this long. What is left of the ten seconds in which a client is
/// to have its answer goes to old records and their holders.
const ASK_PATIENCE: Duration = Duration::from_millis(7500);
/// A holder only looks into its records.
const HOLDER_PATIENCE: Duration = Duration::from_secs(1);
/// A tag that upstream does not have is not asked for again this soon.
const MISSING_FOR: Duration = Duration::from_secs(10);
/// Missing tags remembered.
const MISSING: u64 = 10_000;

/// The node's resolver. Clones share it.
#[derive(Debug, Clone)]
pub struct Resolver {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    records: Records,
    upstreams: Upstreams,
    swarm: Swarm,
    peers: Peers,
    flights: Flights<Lookup, Answer>,
    missing: moka::future::Cache<(Source, Tag), ()>,
}

/// A look-up under way.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Lookup {
    source: Source,
    target: Target,
    asker: Asker,
}

/// For whom something is looked up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Asker {
    /// This node's clients: the owner is asked.
    Client,
    /// The cluster, whose owner this node is: upstream is asked.
    Cluster,
}

impl Resolver {
    /// A resolver over the store's records.
    pub fn new(store: Store, upstreams: Upstreams, swarm: Swarm, peers: Peers) -> Self {
        let missing = moka::future::Cache::builder()
            .max_capacity(MISSING)
            .time_to_live(MISSING_FOR)
            .build();
        Self {
            inner: Arc::new(Inner {
                records: Records::new(store),
                upstreams,
                swarm,
                peers,
                flights: Flights::default(),
                missing,
            }),
        }
    }

    /// A manifest, with its bytes.
    pub async fn manifest(&self, source: &Source, reference: &Reference) -> ResolveReply {
        let target = Target::Manifest(reference.clone());
        self.look_up(source, target).await.into()
    }

    /// A blob: its size, and that it belongs to the public repository.
    pub async fn blob(&self, source: &Source, digest: &Digest) -> ResolveReply {
        self.look_up(source, Target::Blob(*digest)).await.into()
    }

    /// Answers another node: as the repository's owner, or only from what is held. Never asks a
    /// third node, so that two that take each other for the owner do not ask in circles.
    pub async fn answer(&self, request: ResolveRequest) -> ResolveReply {
        let ResolveRequest {
            source,
            target,
            held_only,
            quiet,
        } = request;
        let upstream = self.inner.upstreams.get(&source.registry);
        if let Some(upstream) = &upstream {
            upstream.keep_quiet(quiet);
        }
        let answer = match held_only {
            true => self.held_only(&source, &target).await,
            false => self.owned(source, target).await,
        };
        let mut reply = answer.into();
        if let (ResolveReply::Unavailable { quiet, .. }, Some(upstream)) = (&mut reply, upstream) {
            *quiet = upstream.quiet();
        }
        reply
    }

    async fn held_only(&self, source: &Source, target: &Target) -> Answer {
        let held = self.held(source, target, Limit::Stretched).await;
        held.map_or_else(
            || Answer::Unavailable {
                detail: "nothing is held here".to_owned(),
            },
            Answer::Found,
        )
    }

    /// What `target` is in `source`, and where this node has that from.
    pub async fn look_up(&self, source: &Source, target: Target) -> Answer {
        if let Some(found) = self.held(source, &target, Limit::Fresh).await {
            return Answer::Found(found);
        }
        let lookup = Lookup {
            source: source.clone(),
            target: target.clone(),
            asker: Asker::Client,
        };
        let (resolver, source) = (self.clone(), source.clone());
        self.inner
            .flights
            .join(lookup, || async move { resolver.ask(source, target).await })
            .await
    }

    async fn held(&self, source: &Source, target: &Target, limit: Limit) -> Option<Found> {
        let upstream = self.inner.upstreams.get(&source.registry)?;
        let records = &self.inner.records;
        let lives = TagLives {
            fresh: upstream.tag_ttl(),
            stretched: upstream.tag_stale(),
        };
        records.look(source, target, limit, lives).await
    }

    /// What this node finds out as the repository's owner.
    fn owned(&self, source: Source, target: Target) -> Flight<Answer> {
        let lookup = Lookup {
            source: source.clone(),
            target: target.clone(),
            asker: Asker::Cluster,
        };
        let resolver = self.clone();
        let look_up = || async move { owned::look_up(&resolver, &source, &target).await };
        self.inner.flights.join(lookup, look_up)
    }

    /// Asks the cluster, and upstream where the cluster cannot.
    async fn ask(&self, source: Source, target: Target) -> Answer {
        let deadline = Instant::now() + ASK_PATIENCE;
        let inner = &self.inner;
        let mut unavailable = "nobody answered in time".to_owned();
        let mut asked_here = false;
        for step in plan::owners(&source, &inner.swarm.owners(), &inner.swarm.me().id) {
            asked_here = step == Step::Here;
            let answer = match &step {
                Step::Here => timeout_at(deadline, self.owned(source.clone(), target.clone()))
                    .await
                    .ok(),
                Step::Owner(host) => {
                    let patience = deadline.min(Instant::now() + OWNER_PATIENCE);
                    let request = self.request(&source, &target, false);
                    self.ask_node(host, &request, patience).await
                }
            };
            match answer {
                None => {}
                Some(Answer::Unavailable { detail }) => {
                    unavailable = detail;
                    break;
                }
                Some(answer) => return answer,
            }
        }
        if let Some(found) = self.held(&source, &target, Limit::Stretched).await {
            return Answer::Found(found);
        }
        if let Some(found) = self.ask_holders(&source, &target).await {
            return Answer::Found(found);
        }
        // What is out of the owner's reach may be within this node's.
        if !asked_here && let Ok(answer) = timeout_at(deadline, self.owned(source, target)).await {
            return answer;
        }
        Answer::Unavailable {
            detail: unavailable,
        }
    }

    /// Asks another node and keeps what it says. `None` when it gives no usable answer in time.
    async fn ask_node(
        &self,
        host: &Host,
        request: &ResolveRequest,
        deadline: Instant,
    ) -> Option<Answer> {
        let asked_ms = freshness::now_ms();
        let reply = match timeout_at(deadline, self.inner.peers.resolve(host, request)).await {
            Ok(Ok(reply)) => reply,
            Ok(Err(error)) => {
                tracing::debug!(host = %host.id, source = %request.source, %error, "a node does not say what it knows of a repository");
                return None;
            }
            Err(_) => {
                tracing::debug!(host = %host.id, source = %request.source, "a node does not answer in time");
                return None;
            }
        };
        if let ResolveReply::Unavailable { quiet, .. } = &reply
            && let Some(upstream) = self.inner.upstreams.get(&request.source.registry)
        {
            // What the registry has told one of us holds for all.
            upstream.keep_quiet(*quiet);
        }
        let answer = accept(reply, &request.target, host);
        match &answer {
            Some(Answer::Found(found)) => self.keep(request, found, asked_ms).await,
            Some(Answer::NotPublic) => self.inner.records.forget_public(&request.source),
            Some(_) => {}
            None => {
                tracing::warn!(host = %host.id, source = %request.source, "a node's answer does not fit the question");
            }
        }
        answer
    }

    /// Keeps what another node said, no younger than it is: ages count from before the question.
    async fn keep(&self, request: &ResolveRequest, found: &Found, asked_ms: u64) {
        let records = &self.inner.records;
        let source = &request.source;
        let since = freshness::public_since(asked_ms, found.public_ms, found.stale);
        self.keep_public(source, since);
        match &request.target {
            Target::Blob(digest) => records.keep_blob(source, digest, found.size),
            Target::Manifest(reference) => {
                records
                    .keep_manifest(source, &found.digest, &found.media_type, &found.content)
                    .await;
                if let Reference::Tag(tag) = reference {
                    let checked = asked_ms.saturating_sub(found.age_ms);
                    records.keep_tag(source, tag, found.digest, checked);
                }
            }
        }
    }

    fn keep_public(&self, source: &Source, since_ms: u64) {
        if self.inner.records.keep_public(source, since_ms) {
            self.inner.swarm.announce(vec![repository_key(source)]);
        }
    }

    /// Asks whoever holds the repository's records or the content.
    async fn ask_holders(&self, source: &Source, target: &Target) -> Option<Found> {
        let swarm = &self.inner.swarm;
        let of_records = async { swarm.find(&repository_key(source)).await };
        let of_content = async {
            match digest_of(target) {
                Some(digest) => swarm.find(digest).await,
                None => Vec::new(),
            }
        };
        let (of_records, of_content) = tokio::join!(of_records, of_content);
        let holders = plan::holders(of_content, of_records, &swarm.me().id);
        self.youngest(&holders, source, target).await
    }

    /// The youngest of what these nodes hold; of what cannot change, the first that comes.
    async fn youngest(&self, holders: &[Host], source: &Source, target: &Target) -> Option<Found> {
        let request = self.request(source, target, true);
        let deadline = Instant::now() + HOLDER_PATIENCE;
        let mut asked: FuturesUnordered<_> = holders
            .iter()
            .map(|host| self.ask_node(host, &request, deadline))
            .collect();
        let mut youngest: Option<Found> = None;
        while let Some(answer) = asked.next().await {
            let Some(Answer::Found(found)) = answer else {
                continue;
            };
            if digest_of(target).is_some() {
                return Some(found);
            }
            if youngest
                .as_ref()
                .is_none_or(|known| found.age_ms < known.age_ms)
            {
                youngest = Some(found);
            }
        }
        youngest
    }

    fn request(&self, source: &Source, target: &Target, held_only: bool) -> ResolveRequest {
        let upstream = self.inner.upstreams.get(&source.registry);
        ResolveRequest {
            source: source.clone(),
            target: target.clone(),
            held_only,
            quiet: upstream.map_or(Duration::ZERO, |upstream| upstream.quiet()),
        }
    }
}
