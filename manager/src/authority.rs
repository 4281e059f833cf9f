//! The cluster's certificate authority: lets processes in for join tokens, gives them their next
//! certificates, and says whose certificates count.
//!
//! [`state`] decides, [`issue`] makes certificates, [`rpc`] is asked. What is remembered is one document
//! in the database, replaced as a whole if nobody else has replaced it since: so several managers over
//! one database, and the commands of an operator, never undo one another's changes. Every manager
//! looks every few seconds, and tells its members through the configuration.

use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use darner_proto::id::{HostId, Role};
use darner_proto::trust::Trust;
use darner_service::identity::issued::{IssueError as NotIssued, Issued, Issuer, Issuing};
use darner_service::identity::peer::PeerRole;
use darner_service::identity::token::{JoinToken, TokenHash};
use darner_service::identity::{Identity, IdentityMetrics, Peer};
use darner_service::settings::Settings;
use darner_service::shutdown::Shutdown;

use crate::database::authority as stored;
use crate::database::{Database, DatabaseError};
use crate::members::Members;
use crate::users::audit::Entry;

pub mod issue;
pub(crate) mod rpc;
pub(crate) mod seal;
pub mod state;
#[cfg(test)]
pub(crate) mod tests;

use issue::{IssueError, Order};
use seal::{Seal, SealError};
use state::{Refusal, State, Token};

/// How often it is looked for what others have changed. With the time a configuration takes, a
/// revocation is everywhere in seconds.
const LOOK: Duration = Duration::from_secs(5);
/// Several managers that change the document at once try again, and do not meet so often by chance.
const TRIES: usize = 20;

/// The authority. Clones share it.
#[derive(Debug, Clone)]
pub struct Authority {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    database: Database,
    lifetime: Duration,
    /// Whether certificates are issued here, or come from files.
    issues: bool,
    /// Tokens from a file, good for any number of processes.
    standing: Vec<JoinToken>,
    /// What keeps the signing key from whoever reads the database.
    seal: Option<Seal>,
}

/// The authority does not do it.
#[derive(Debug, thiserror::Error)]
pub enum AuthorityError {
    /// By its rules.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// The database is away, or was changed by others again and again.
    #[error("the authority's database cannot be used")]
    Database(#[from] DatabaseError),
    /// Others change it all the time.
    #[error("the authority's document is being changed by others; try again")]
    Busy,
    /// What is in the database is not ours.
    #[error("the authority's document in the database is damaged: {0}")]
    Damaged(String),
    /// No certificate can be made.
    #[error(transparent)]
    Issue(#[from] IssueError),
    /// The signing key is sealed.
    #[error(transparent)]
    Seal(#[from] SealError),
    /// The file of standing tokens cannot be used.
    #[error("[manager] join_tokens_file {path} cannot be used: {why}")]
    Tokens {
        /// Which.
        path: String,
        /// What is wrong with it.
        why: String,
    },
}

impl Authority {
    /// The authority over `database`, which is made where there is none.
    ///
    /// # Errors
    /// The database, or what is in it, cannot be used.
    pub async fn open(database: Database, settings: &Settings) -> Result<Self, AuthorityError> {
        let seal = settings.manager.seal_key.as_ref().map(Seal::new);
        let authority = Self {
            shared: Arc::new(Shared {
                database,
                lifetime: settings.manager.certificate_lifetime,
                issues: settings.identity.files.is_none(),
                standing: standing(settings)?,
                seal: seal.transpose()?,
            }),
        };
        authority.seal().await?;
        if authority.shared.issues {
            authority.sign_with_new(When::NobodySigns).await?;
        }
        Ok(authority)
    }

    /// Makes a join token that is good for `uses` processes (none: any number) within `time`, in the
    /// name of `by`.
    ///
    /// # Errors
    /// There are too many, or the database is away.
    pub async fn create_token(
        &self,
        role: Role,
        uses: Option<u32>,
        time: Duration,
        by: &str,
    ) -> Result<JoinToken, AuthorityError> {
        let expires = unix_now().saturating_add(time.as_secs());
        self.create_token_until(role, uses, expires, by).await
    }

    /// The same until `expires`, unix time in seconds.
    ///
    /// # Errors
    /// There are too many, or the database is away.
    pub async fn create_token_until(
        &self,
        role: Role,
        uses: Option<u32>,
        expires: u64,
        by: &str,
    ) -> Result<JoinToken, AuthorityError> {
        if !self.shared.issues {
            return Err(Refusal::NotIssuing.into());
        }
        let token = JoinToken::generate(role).map_err(|_| AuthorityError::Busy)?;
        let now = unix_now();
        let uses_told = uses.map_or("any number of".to_owned(), |uses| uses.to_string());
        let entry = Entry {
            actor: by,
            action: "join-token.create",
            object: token.number(),
            detail: &format!("{role}, {uses_told} uses"),
        };
        let add = |state: &mut State| Ok(state.add_token(&token, uses, now, expires)?);
        self.change(Some(entry), add).await?;
        tracing::info!(token = token.number(), %role, ?uses, "join token made");
        Ok(token)
    }

    /// Every token that is not over.
    ///
    /// # Errors
    /// The database is away.
    pub async fn tokens(&self) -> Result<Vec<Token>, AuthorityError> {
        let mut state = self.state().await?;
        state.prune(unix_now());
        Ok(state.tokens())
    }

    /// Forgets a token; says whether there was one.
    ///
    /// # Errors
    /// The database is away.
    pub async fn remove_token(&self, number: &str, by: &str) -> Result<bool, AuthorityError> {
        let entry = Entry {
            actor: by,
            action: "join-token.revoke",
            object: number,
            detail: "",
        };
        // One that is over is removed by anybody's change, without a line.
        if !self.state().await?.tokens.contains_key(number) {
            return Ok(false);
        }
        let remove = |state: &mut State| Ok(state.tokens.remove(number).is_some());
        self.change(Some(entry), remove).await
    }

    /// No certificate that `id` has now counts any more.
    ///
    /// # Errors
    /// There are too many revocations, or the database is away.
    pub async fn revoke(&self, id: &HostId, by: &str) -> Result<(), AuthorityError> {
        let entry = Entry {
            actor: by,
            action: "certificates.revoke",
            object: id.as_str(),
            detail: "",
        };
        let revoke = |state: &mut State| Ok(state.revoke(unix_now(), id)?);
        self.change(Some(entry), revoke).await?;
        tracing::warn!(%id, "certificates revoked");
        Ok(())
    }

    /// Lets a new authority sign from now on. The old one counts until its last certificate is over.
    ///
    /// # Errors
    /// Too many rotations at once, or the database is away.
    pub async fn rotate(&self, by: &str) -> Result<(), AuthorityError> {
        if !self.shared.issues {
            return Err(Refusal::NotIssuing.into());
        }
        self.sign_with_new(When::Asked(by)).await
    }

    /// Whether there is need of a new authority is looked at in the state that is replaced: of several
    /// managers that start over one new database, the first one's counts.
    async fn sign_with_new(&self, when: When<'_>) -> Result<(), AuthorityError> {
        let lifetime = self.shared.lifetime;
        let entry = match when {
            When::NobodySigns => None,
            When::Asked(by) => Some(Entry {
                actor: by,
                action: "authority.rotate",
                object: "",
                detail: "",
            }),
        };
        let made = self.change(entry, |state| {
            if when == When::NobodySigns && state.signing().is_some() {
                return Ok(None);
            }
            let now = unix_now();
            let mut new = issue::authority(state.authorities.len() + 1, now)?;
            if let Some(old) = state.signing() {
                new.cross = Some(issue::cross(&new, old)?);
            }
            let name = new.name.clone();
            state.rotate(now, lifetime, new)?;
            Ok(Some(name))
        });
        if let Some(name) = made.await? {
            tracing::info!(name, "a new authority signs");
        }
        Ok(())
    }

    /// Whose certificates count.
    ///
    /// # Errors
    /// The database is away.
    pub async fn trust(&self) -> Result<Trust, AuthorityError> {
        let mut state = self.state().await?;
        state.prune(unix_now());
        Ok(state.trust())
    }

    /// An issuer for a part of this process.
    pub fn issuer(&self, role: PeerRole, id: HostId) -> Arc<dyn Issuer> {
        Arc::new(Local {
            authority: self.clone(),
            role,
            id,
        })
    }

    /// Tells members and this process what has changed, until the process drains.
    pub(crate) async fn follow(self, members: Members, identity: Identity, shutdown: Shutdown) {
        let mut ticks = tokio::time::interval(LOOK);
        let mut trouble = false;
        loop {
            tokio::select! {
                _ = ticks.tick() => {}
                () = shutdown.draining() => return,
            }
            match self.trust().await {
                Ok(trust) => {
                    trouble = false;
                    identity.learn(&trust);
                    members.trust(trust);
                }
                Err(error) if !trouble => {
                    trouble = true;
                    let error = darner_service::telemetry::with_causes(&error).to_string();
                    tracing::warn!(error, "whose certificates count cannot be looked up");
                }
                Err(_) => {}
            }
        }
    }

    /// A first certificate for a token.
    async fn join(
        &self,
        token: &JoinToken,
        id: &HostId,
        role: Role,
        request: &[u8],
    ) -> Result<Issued, AuthorityError> {
        if !self.shared.issues {
            return Err(Refusal::NotIssuing.into());
        }
        let key = issue::requested_key(request)?;
        match self.standing(token.number()) {
            Some(standing) if !standing.hash().matches(&token.hash()) => {
                return Err(Refusal::UnknownToken.into());
            }
            Some(standing) if standing.role() != role => {
                return Err(Refusal::Role(standing.role()).into());
            }
            // Nobody knows when it was made: a node that was sent away needs one that is known of.
            Some(_) if self.state().await?.revoked.contains_key(id.as_str()) => {
                return Err(Refusal::SentAway.into());
            }
            Some(_) => {}
            None => {
                let hash = darner_proto::digest::Digest::sha256(&key).hex();
                let redeem =
                    |state: &mut State| Ok(state.redeem(unix_now(), token, id, role, &hash)?);
                self.change(None, redeem).await?;
            }
        }
        let issued = self.issue(role.into(), id, &key).await?;
        tracing::info!(%id, %role, token = token.number(), "a process joined");
        Ok(issued)
    }

    /// The next certificate of whoever showed one.
    async fn renew(&self, shown: &Peer, key: &[u8]) -> Result<Issued, AuthorityError> {
        // This process may not have heard of a revocation yet; the database has.
        let trust = self.state().await?.trust();
        if trust.is_revoked(&shown.id, shown.not_before) {
            return Err(Refusal::Revoked.into());
        }
        self.issue(shown.role, &shown.id, key).await
    }

    async fn issue(
        &self,
        role: PeerRole,
        id: &HostId,
        key: &[u8],
    ) -> Result<Issued, AuthorityError> {
        let state = self.state().await?;
        let authority = state.signing().ok_or(Refusal::NotIssuing)?;
        let (now, lifetime) = (unix_now(), self.shared.lifetime);
        let revoked = state.revoked.get(id.as_str()).copied();
        let order = Order {
            role,
            id,
            not_before: issue::not_before(now, lifetime, revoked),
            not_after: now + lifetime.as_secs(),
        };
        let certificate = issue::certificate(authority, key, &order)?;
        let mut chain = vec![Bytes::from(certificate)];
        chain.extend(state.crosses().cloned().map(Bytes::from));
        Ok(Issued {
            chain,
            authorities: state.trust().authorities,
        })
    }

    /// What is kept of a token's secret.
    async fn token_hash(&self, number: &str) -> Result<Option<TokenHash>, AuthorityError> {
        match self.standing(number) {
            Some(standing) => Ok(Some(standing.hash())),
            None => Ok(self.state().await?.token_hash(number)),
        }
    }

    fn standing(&self, number: &str) -> Option<&JoinToken> {
        let mut standing = self.shared.standing.iter();
        standing.find(|token| token.number() == number)
    }

    async fn state(&self) -> Result<State, AuthorityError> {
        Ok(self.read().await?.1)
    }

    async fn read(&self) -> Result<(i64, State), AuthorityError> {
        let (revision, stored) = self.stored().await?;
        let state = seal::opened(self.shared.seal.as_ref(), stored)?;
        Ok((revision, state))
    }

    async fn stored(&self) -> Result<(i64, State), AuthorityError> {
        let (revision, document) = stored::read(&self.shared.database).await?;
        let state = serde_json::from_str(&document);
        Ok((
            revision,
            state.map_err(|error| AuthorityError::Damaged(error.to_string()))?,
        ))
    }

    /// Seals a key that was stored when there was nothing to seal it with.
    async fn seal(&self) -> Result<(), AuthorityError> {
        let (revision, state) = self.stored().await?;
        let is_plain = state.authorities.iter().any(|one| one.key.is_some());
        if self.shared.seal.is_some() && is_plain {
            // Whoever was faster has the same key to seal it with.
            self.replace(revision, &state, None).await?;
        }
        Ok(())
    }

    async fn change<T>(
        &self,
        entry: Option<Entry<'_>>,
        mut change: impl FnMut(&mut State) -> Result<T, AuthorityError>,
    ) -> Result<T, AuthorityError> {
        for _ in 0..TRIES {
            let (revision, state) = self.read().await?;
            let mut wanted = state.clone();
            wanted.prune(unix_now());
            let changed = change(&mut wanted)?;
            if wanted == state || self.replace(revision, &wanted, entry).await? {
                return Ok(changed);
            }
        }
        Err(AuthorityError::Busy)
    }

    /// Whether nobody was faster.
    async fn replace(
        &self,
        revision: i64,
        state: &State,
        entry: Option<Entry<'_>>,
    ) -> Result<bool, AuthorityError> {
        let state = seal::sealed(self.shared.seal.as_ref(), state.clone())?;
        let document = serde_json::to_string(&state)
            .map_err(|error| AuthorityError::Damaged(error.to_string()))?;
        Ok(stored::replace(&self.shared.database, revision, document, entry).await?)
    }
}

/// The identity of the manager itself, and the authority behind it; none in plain text.
pub(crate) async fn identity(
    database: &Database,
    settings: &Settings,
    metrics: &IdentityMetrics,
    shutdown: &Shutdown,
) -> Result<(Identity, Option<Authority>), crate::server::StartError> {
    use crate::server::StartError;
    if settings.identity.insecure {
        return Ok((Identity::insecure(metrics), None));
    }
    let authority = Authority::open(database.clone(), settings).await;
    let authority = authority.map_err(StartError::Authority)?;
    let identity = match settings.identity.files {
        Some(_) => Identity::open(settings, PeerRole::Manager, metrics, shutdown).await,
        None => {
            let issuer = authority.issuer(PeerRole::Manager, settings.node.id.clone());
            Identity::issued(issuer, metrics, shutdown).await
        }
    };
    let identity = identity.map_err(StartError::Identity)?;
    Ok((identity, Some(authority)))
}

/// When a new authority is to sign.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum When<'a> {
    NobodySigns,
    /// By whom.
    Asked(&'a str),
}

/// Issues to one part of this process.
#[derive(Debug)]
struct Local {
    authority: Authority,
    role: PeerRole,
    id: HostId,
}

impl Issuer for Local {
    fn issue(&self, request: Vec<u8>) -> Issuing<'_> {
        Box::pin(async move {
            let issued = match issue::requested_key(&request) {
                Ok(key) => self.authority.issue(self.role, &self.id, &key).await,
                Err(error) => Err(error.into()),
            };
            issued.map_err(|error| NotIssued {
                message: darner_service::telemetry::with_causes(&error).to_string(),
            })
        })
    }
}

fn standing(settings: &Settings) -> Result<Vec<JoinToken>, AuthorityError> {
    let Some(path) = &settings.manager.join_tokens_file else {
        return Ok(Vec::new());
    };
    let bad = |why: String| AuthorityError::Tokens {
        path: path.display().to_string(),
        why,
    };
    let text = std::fs::read_to_string(path).map_err(|error| bad(error.to_string()))?;
    let lines = text.lines().enumerate();
    let lines = lines.filter(|(_, line)| !line.trim().is_empty());
    let token = |(number, line): (usize, &str)| {
        let token = line.trim().parse::<JoinToken>();
        token.map_err(|error| bad(format!("line {} {error}", number + 1)))
    };
    lines.map(token).collect()
}

fn unix_now() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.map_or(0, |since| since.as_secs())
}
