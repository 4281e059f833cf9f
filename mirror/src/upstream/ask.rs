//! One request to a registry with everything around it: its turn, its deadline, the registry's
//! challenge, and another try where that may help. Bodies begin after this and are never retried
//! here.

use std::time::Duration;

use backon::{ExponentialBuilder, Retryable as _};
use darner_service::telemetry::with_causes;
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode};
use tokio::time::{Instant, timeout, timeout_at};
use tokio_util::sync::CancellationToken;
use url::Url;

use super::body::Body;
use super::credentials::Keyring;
use super::error::Fault;
use super::limit::{Permit, Slots};
use super::metrics::{Counts, Kind};
use super::setup::Setup;
use super::token::{Challenge, Key, Tokens};
use super::wire::{Hop, Wire};

/// A read of a blob waits this long for its turn: others of our own reads are what it waits for.
const BULK_PATIENCE: Duration = Duration::from_secs(30);
const FIRST_DELAY: Duration = Duration::from_millis(200);
const MAX_DELAY: Duration = Duration::from_secs(2);

/// Asks one registry.
#[derive(Debug)]
pub(super) struct Asker {
    pub(super) wire: Wire,
    pub(super) tokens: Tokens,
    slots: Slots,
    stop: CancellationToken,
    patience: Patience,
}

/// How long a registry is waited for.
#[derive(Debug, Clone, Copy)]
pub(super) struct Patience {
    /// To the headers of the last answer, token, redirects and retries included.
    headers: Duration,
    /// Tries after the first.
    retries: usize,
}

impl Patience {
    /// With the registry itself: a client has headers or an error within ten seconds.
    pub(super) const REGISTRY: Self = Self {
        headers: Duration::from_secs(8),
        retries: 2,
    };
    /// With a mirror of it, after which another can be asked.
    pub(super) const MIRROR: Self = Self {
        headers: Duration::from_secs(2),
        retries: 0,
    };
}

/// A request.
#[derive(Debug)]
pub(super) struct Ask {
    pub(super) method: Method,
    pub(super) url: Url,
    pub(super) headers: HeaderMap,
    pub(super) kind: Kind,
    pub(super) identity: Identity,
}

/// In whose name.
#[derive(Debug)]
pub(super) enum Identity {
    /// Ours; challenges are met.
    Own(Key),
    /// A client's, as it shows itself; the registry's answer is passed on, challenges too.
    Client(Option<HeaderValue>),
}

/// The headers of an answer, with its body to come.
#[derive(Debug)]
pub(super) struct Answer {
    pub(super) status: StatusCode,
    pub(super) headers: HeaderMap,
    pub(super) body: Body,
}

impl Ask {
    /// The same without the content.
    pub(super) fn head(mut self) -> Self {
        self.method = Method::HEAD;
        self
    }

    /// Whether storage may have refused only because its signed URL is good for GET alone.
    fn is_for_get_alone(&self, fault: &Fault) -> bool {
        self.method == Method::HEAD
            && matches!(fault, Fault::Storage(status) if status.is_client_error())
    }

    /// The same in the name of whoever showed this.
    pub(super) fn in_the_name_of(mut self, shown: HeaderValue) -> Self {
        self.identity = Identity::Client(Some(shown));
        self
    }

    /// The same with one more header.
    pub(super) fn with_header(mut self, name: HeaderName, value: HeaderValue) -> Self {
        self.headers.insert(name, value);
        self
    }
}

impl Asker {
    pub(super) fn new(
        setup: &Setup,
        counts: Counts,
        stop: CancellationToken,
        patience: Patience,
    ) -> Result<Self, Fault> {
        let wire = Wire::new(setup, counts.clone())?;
        let keyring = Keyring::new(setup, &wire.origin);
        Ok(Self {
            wire,
            patience,
            tokens: Tokens::new(keyring, stop.clone()),
            slots: Slots::new(setup.settings.max_connections, counts),
            stop,
        })
    }

    /// Whether there is anything to show that not everybody has.
    pub(super) fn has_credentials(&self) -> bool {
        self.tokens.has_credentials()
    }

    /// In our own name, with what `access` allows.
    pub(super) fn own(&self, repository: &str, access: super::Access) -> Identity {
        Identity::Own(self.tokens.key(repository, access))
    }

    /// Asks. An answer in our own name is 2xx; one to a client is anything but 429 and 5xx.
    pub(super) async fn ask(&self, ask: &Ask) -> Result<Answer, Fault> {
        let answer = self.stop.run_until_cancelled(self.answered(ask)).await;
        answer.unwrap_or(Err(Fault::Stopping))
    }

    async fn answered(&self, ask: &Ask) -> Result<Answer, Fault> {
        self.wire.check_quiet()?;
        let (permit, deadline) = self.turn(ask).await?;
        let backoff = ExponentialBuilder::default()
            .with_min_delay(FIRST_DELAY)
            .with_max_delay(MAX_DELAY)
            .with_max_times(self.patience.retries)
            .with_jitter();
        let tries = (|| self.attempt(ask)).retry(backoff);
        let tries = tries.notify(|fault, delay| {
            tracing::debug!(registry = self.wire.counts.registry(), fault = %with_causes(fault), ?delay, "asking upstream again");
        });
        let tries = tries.when(|fault| fault.is_passing() && !ask.is_for_get_alone(fault));
        let hop = timeout_at(deadline, tries).await;
        let hop = hop.unwrap_or(Err(Fault::Silent(self.patience.headers)))?;
        Ok(self.answer(ask, hop, permit))
    }

    /// A place among the connections, and when the headers must be there. A read of a blob of ours
    /// may queue behind other reads of ours; everything else has a client waiting.
    async fn turn(&self, ask: &Ask) -> Result<(Permit, Instant), Fault> {
        let bulk = ask.kind == Kind::Blob && ask.method == Method::GET;
        let patient = bulk && matches!(ask.identity, Identity::Own(_));
        let deadline = Instant::now() + self.patience.headers;
        if !patient {
            let permit = timeout_at(deadline, self.slots.take(bulk)).await;
            return Ok((permit.unwrap_or(Err(Fault::Full))?, deadline));
        }
        let permit = timeout(BULK_PATIENCE, self.slots.take(bulk)).await;
        let permit = permit.unwrap_or(Err(Fault::Full))?;
        Ok((permit, Instant::now() + self.patience.headers))
    }

    fn answer(&self, ask: &Ask, mut hop: Hop, permit: Permit) -> Answer {
        let headers = std::mem::take(hop.response.headers_mut());
        let received = self.wire.counts.bytes(ask.kind);
        Answer {
            status: hop.response.status(),
            headers,
            body: Body::new(hop.response, received, self.stop.clone(), Some(permit)),
        }
    }

    async fn attempt(&self, ask: &Ask) -> Result<Hop, Fault> {
        match &ask.identity {
            Identity::Own(key) => granted(self.as_ourselves(ask, key).await?),
            Identity::Client(shown) => passable(self.wire.follow(ask, shown.as_ref()).await?),
        }
    }

    async fn as_ourselves(&self, ask: &Ask, key: &Key) -> Result<Hop, Fault> {
        let known = self.tokens.known(key).await;
        let hop = self.wire.follow(ask, known.as_ref()).await?;
        if !hop.home || hop.response.status() != StatusCode::UNAUTHORIZED {
            return Ok(hop);
        }
        let Some(challenge) = Challenge::of(&self.wire.origin, hop.response.headers())? else {
            return Ok(hop);
        };
        let met = self
            .tokens
            .meet(&self.wire, key, &challenge, known.as_ref())
            .await?;
        match met {
            Some(header) => self.wire.follow(ask, Some(&header)).await,
            None => Ok(hop),
        }
    }
}

/// An answer to ourselves is what was asked for, or an error.
fn granted(hop: Hop) -> Result<Hop, Fault> {
    let status = hop.response.status();
    match status.is_success() {
        true => Ok(hop),
        false => Err(refusal(&hop, status)),
    }
}

/// An answer that a client may see: the registry's own refusals too, but not those of the storage
/// behind it, which know nothing of the client.
fn passable(hop: Hop) -> Result<Hop, Fault> {
    let status = hop.response.status();
    let denied = matches!(status, StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN);
    match status.is_server_error() || (denied && !hop.home) {
        true => Err(refusal(&hop, status)),
        false => Ok(hop),
    }
}

fn refusal(hop: &Hop, status: StatusCode) -> Fault {
    if hop.home {
        Fault::Status(status)
    } else {
        Fault::Storage(status)
    }
}
