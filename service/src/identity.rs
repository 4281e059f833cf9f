//! Who this process is among others, and whom it talks to: certificates on every connection between
//! processes, TLS 1.3 and nothing older, and what each peer may be by its certificate.
//!
//! An [`Identity`] belongs to one role of a process. Its certificate comes from the manager ([`issued`],
//! after [`join`]), from files that somebody else renews ([`files`]), or from this process itself by a
//! key that all members share ([`cluster_key`]); either way it is replaced while connections go on.
//! Whose certificates count is the manager's word ([`Identity::learn`]) or, for authorities, the
//! file's. A revoked peer is refused, and its open connections end at once.
//!
//! Plain text is `[identity] insecure` and nothing else: whatever is wrong with a key or a
//! certificate stops the start, or leaves the one before in use.

use std::path::Path;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use darner_proto::id::HostId;
use darner_proto::trust::Trust;
use rustls::crypto::CryptoProvider;
use rustls::{ClientConfig, ServerConfig};
use tokio::net::TcpStream;
use tokio::sync::Notify;
use tokio::time::timeout;
use tokio_rustls::TlsAcceptor;

use crate::settings::Settings;
use crate::shutdown::Shutdown;

mod caller;
mod cluster_key;
mod connector;
mod files;
mod gather;
pub mod issued;
mod join;
mod live;
pub mod local;
mod material;
mod metrics;
pub mod peer;
pub mod signer;
mod stream;
#[cfg(test)]
mod tests;
mod tls;
pub mod token;

pub use connector::{ConnectError, Connector};
pub use join::JoinError;
pub use material::{Material, MaterialError, request};
pub use metrics::{IdentityMetrics, Refused};
pub use peer::{Peer, PeerRole};
pub use stream::{Caller, Stream};
pub use tls::{Callers, Protocol};

use cluster_key::ClusterKey;
use gather::Gathered;
use live::Live;

/// A handshake is two messages each way; who takes longer is not in earnest.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(5);
/// How often it is looked whether a connection has outlived its peer's certificate.
const SWEEP: Duration = Duration::from_secs(5);

/// One role's identity. Clones share it.
#[derive(Debug, Clone)]
pub struct Identity {
    /// None: plain text.
    inner: Option<Arc<Inner>>,
}

#[derive(Debug)]
struct Inner {
    provider: Arc<CryptoProvider>,
    current: RwLock<Arc<Current>>,
    /// The authorities are a file's, and the manager's word on them does not count.
    authorities_fixed: bool,
    /// Something to keep has changed.
    changed: Notify,
    live: Live,
    metrics: IdentityMetrics,
}

/// What holds now, and everything made of it.
#[derive(Debug)]
struct Current {
    material: Material,
    trust: Trust,
    grpc: Arc<ServerConfig>,
    joining: Arc<ServerConfig>,
    http1: Arc<ServerConfig>,
    client_grpc: Arc<ClientConfig>,
    client_http1: Arc<ClientConfig>,
}

/// A process has no identity.
#[derive(Debug, thiserror::Error)]
pub enum IdentityError {
    /// What there is cannot be used.
    #[error(
        "the key material in {place} cannot be used; nothing is done in plain text in its place"
    )]
    Material {
        /// The setting or file.
        place: String,
        /// What is wrong with it.
        #[source]
        source: MaterialError,
    },
    /// The certificate is another's.
    #[error("the certificate in {place} is of {role} {id}; this is {my_role} {me}")]
    Another {
        /// The setting or file.
        place: String,
        /// By the certificate.
        role: PeerRole,
        /// By the certificate.
        id: HostId,
        /// By the settings.
        my_role: PeerRole,
        /// By the settings.
        me: HostId,
    },
    /// The manager gives none.
    #[error("the manager gives this process no certificate")]
    Join(#[source] JoinError),
    /// The authority in this process gives none.
    #[error("no certificate is issued")]
    Issue(#[source] issued::IssueError),
    /// Nothing says where a certificate comes from.
    #[error(
        "this process has no certificate and no way to get one: set [identity] token_file to a join token (`darner manager token create`) and [manager] address, or [identity] certificate, key and ca, or [identity] cluster_key_file, or [identity] insecure = true for plain text"
    )]
    None,
}

impl Identity {
    /// Plain text: everybody is who they say.
    pub fn insecure(metrics: &IdentityMetrics) -> Self {
        metrics.insecure();
        Self { inner: None }
    }

    /// The identity of `role` by `settings`: plain text, files, a certificate had earlier, or a new one
    /// for a join token. It is kept up to date until the process drains.
    ///
    /// # Errors
    /// There is none to be had. While the manager is away this waits for it.
    pub async fn open(
        settings: &Settings,
        role: impl Into<PeerRole>,
        metrics: &IdentityMetrics,
        shutdown: &Shutdown,
    ) -> Result<Self, IdentityError> {
        let role = role.into();
        if settings.identity.insecure {
            return Ok(Self::insecure(metrics));
        }
        if let Some(key) = &settings.identity.cluster_key {
            let key = ClusterKey::new(key.clone(), role, settings.node.id.clone());
            return Self::issued(Arc::new(key), metrics, shutdown).await;
        }
        if settings.identity.files.is_some() {
            return files::open(settings, role, metrics, shutdown);
        }
        join::open(settings, role, metrics, shutdown).await
    }

    fn new(
        material: Material,
        trust: Trust,
        authorities_fixed: bool,
        metrics: &IdentityMetrics,
    ) -> Result<Self, MaterialError> {
        let provider = Arc::new(tls::provider());
        let current = Current::new(material, trust, &provider)?;
        metrics.holds(&current.material.peer);
        Ok(Self {
            inner: Some(Arc::new(Inner {
                provider,
                current: RwLock::new(Arc::new(current)),
                authorities_fixed,
                changed: Notify::new(),
                live: Live::default(),
                metrics: metrics.clone(),
            })),
        })
    }

    /// Whether connections are encrypted and callers proved.
    pub fn is_secure(&self) -> bool {
        self.inner.is_some()
    }

    /// `https` or `http`: of every URL between processes.
    pub fn scheme(&self) -> &'static str {
        if self.is_secure() { "https" } else { "http" }
    }

    /// Takes the manager's newer word on whose certificates count. Connections it does not allow end.
    pub fn learn(&self, trust: &Trust) {
        let Some(inner) = &self.inner else { return };
        let current = inner.current();
        let mut wanted = trust.clone();
        if inner.authorities_fixed || wanted.authorities.is_empty() {
            wanted.authorities.clone_from(&current.trust.authorities);
        }
        if wanted == current.trust {
            return;
        }
        let authorities = wanted.authorities.len();
        match inner.replace(current.material.clone(), wanted) {
            Ok(ended) => {
                let revoked = trust.revoked.len();
                tracing::info!(authorities, revoked, ended, "whose certificates count");
            }
            Err(error) => tracing::error!(%error, "the manager's authorities cannot be used"),
        }
    }

    /// What is spoken to processes of one of `roles`.
    pub fn connector(&self, protocol: Protocol, roles: &'static [PeerRole]) -> Connector {
        Connector::new(self.clone(), protocol, roles)
    }

    /// Takes in a connection: a handshake, and whether its peer counts and has one of `roles`.
    ///
    /// # Errors
    /// It is refused, which has been counted.
    pub async fn accept(
        &self,
        tcp: TcpStream,
        protocol: Protocol,
        callers: Callers,
        roles: &[PeerRole],
    ) -> Result<Stream, Refused> {
        let Some(inner) = &self.inner else {
            return Ok(Stream::Plain(tcp));
        };
        let from = tcp.peer_addr().ok();
        let accepted = inner.accept(tcp, protocol, callers, roles).await;
        accepted.inspect_err(|refused| {
            inner.metrics.refused(*refused);
            tracing::debug!(?from, reason = %refused, "a connection was refused");
        })
    }

    async fn keep(&self, shutdown: &Shutdown) {
        let Some(inner) = &self.inner else { return };
        let mut ticks = tokio::time::interval(SWEEP);
        loop {
            tokio::select! {
                _ = ticks.tick() => inner.sweep(),
                () = shutdown.draining() => return,
            };
        }
    }
}

impl Current {
    fn new(
        material: Material,
        trust: Trust,
        provider: &Arc<CryptoProvider>,
    ) -> Result<Self, MaterialError> {
        let roots = Arc::new(material::roots(&trust)?);
        material.check(&roots, provider)?;
        let key = &material.certified;
        let server = |protocol, callers| tls::server(key, &roots, protocol, callers, provider);
        let client = |protocol| tls::client(key, &roots, protocol, provider);
        Ok(Self {
            grpc: server(Protocol::Grpc, Callers::Known)?,
            joining: server(Protocol::Grpc, Callers::Joining)?,
            http1: server(Protocol::Http1, Callers::Known)?,
            client_grpc: client(Protocol::Grpc)?,
            client_http1: client(Protocol::Http1)?,
            material,
            trust,
        })
    }
}

impl Inner {
    fn current(&self) -> Arc<Current> {
        let current = self.current.read();
        current.unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Takes other material or trust into use; what is wrong with them changes nothing. Says how many
    /// connections ended by it.
    fn replace(&self, material: Material, trust: Trust) -> Result<usize, MaterialError> {
        let current = Arc::new(Current::new(material, trust, &self.provider)?);
        self.metrics.holds(&current.material.peer);
        let mut place = self.current.write().unwrap_or_else(PoisonError::into_inner);
        *place = current;
        drop(place);
        self.changed.notify_one();
        Ok(self.sweep())
    }

    fn sweep(&self) -> usize {
        self.live.sweep(&self.current().trust, peer::unix_now())
    }

    async fn accept(
        &self,
        tcp: TcpStream,
        protocol: Protocol,
        callers: Callers,
        roles: &[PeerRole],
    ) -> Result<Stream, Refused> {
        let current = self.current();
        let config = match (protocol, callers) {
            (Protocol::Grpc, Callers::Known) => &current.grpc,
            (Protocol::Grpc, Callers::Joining) => &current.joining,
            (Protocol::Http1, _) => &current.http1,
        };
        let handshake = TlsAcceptor::from(config.clone()).accept(Gathered::new(tcp));
        let tls = timeout(HANDSHAKE_TIMEOUT, handshake)
            .await
            .map_err(|_| Refused::Timeout)?
            .map_err(|error| {
                tracing::debug!(%error, "a handshake failed");
                Refused::Handshake
            })?;
        let certificate = tls.get_ref().1.peer_certificates();
        let certificate = certificate.and_then(|chain| chain.first()).cloned();
        let Some(certificate) = certificate else {
            return match callers {
                Callers::Joining => Ok(Stream::secured(tls.into(), None, None)),
                Callers::Known => Err(Refused::Handshake),
            };
        };
        let (peer, place) = self.let_in(&certificate, roles)?;
        Ok(Stream::secured(tls.into(), Some(peer), Some(place)))
    }

    /// Whether whoever showed `certificate`, in this handshake or the one before, is welcome.
    fn let_in(
        &self,
        certificate: &[u8],
        roles: &[PeerRole],
    ) -> Result<(Peer, live::Place), Refused> {
        let peer = Peer::of(certificate).map_err(|_| Refused::Name)?;
        if !roles.contains(&peer.role) {
            return Err(Refused::Role);
        }
        let place = self.live.add(&peer);
        // After it was added, so that a revocation at this moment finds it in one way or the other.
        match live::counts(&peer, &self.current().trust, peer::unix_now()) {
            true => Ok((peer, place)),
            false => Err(Refused::Revoked),
        }
    }
}

/// A certificate that is not of this node and role would let it be taken for another.
fn check_owner(
    place: &Path,
    peer: &Peer,
    role: PeerRole,
    me: &HostId,
) -> Result<(), IdentityError> {
    if peer.id == *me && peer.role == role {
        return Ok(());
    }
    Err(IdentityError::Another {
        place: place.display().to_string(),
        role: peer.role,
        id: peer.id.clone(),
        my_role: role,
        me: me.clone(),
    })
}

/// A name for the other side that is used for nothing but to tell its sessions from others'.
fn session_name(authority: &str) -> rustls::pki_types::ServerName<'static> {
    let letter = |letter: char| match letter.is_ascii_alphanumeric() {
        true => letter,
        false => '-',
    };
    let label: String = authority.chars().take(60).map(letter).collect();
    let name = format!("p{label}p");
    let nobody = std::net::IpAddr::from([0, 0, 0, 0]);
    rustls::pki_types::ServerName::try_from(name)
        .unwrap_or(rustls::pki_types::ServerName::IpAddress(nobody.into()))
}

/// What is said at the start of a process that talks in plain text.
pub fn warn_insecure() {
    tracing::warn!(
        "INSECURE: [identity] insecure = true: processes talk in plain text and believe what others say of themselves; whoever reaches a port can act as a member"
    );
}
