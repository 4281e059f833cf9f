//! Joining a cluster: a first certificate from the manager for a join token, and the next ones for
//! the one before.
//!
//! A process that joins knows nothing but its token. It asks for the authorities first, of whoever
//! answers, with a proof that only one who knows the token's hash can give; then shows the whole
//! token to a manager which these authorities have signed. `[identity] ca` takes the place of the
//! first step.

use std::path::PathBuf;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use darner_proto::PROTOCOL;
use darner_proto::id::{HostId, Role};
use darner_proto::trust::{self, Trust};
use darner_proto::wire;
use darner_proto::wire::authority_client::AuthorityClient;
use http::Uri;
use hyper_util::rt::TokioIo;
use rustls::ClientConfig;
use tokio::net::TcpStream;
use tokio::time::{sleep, timeout};
use tokio_rustls::TlsConnector;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Status};

use super::issued::{IssueError, Issued, Issuer, Issuing, Kept, Obtained, finish, pem_of, write};
use super::material::{self, Material, MaterialError};
use super::peer::{Peer, PeerRole};
use super::token::{self, JoinToken, NotAToken};
use super::{
    HANDSHAKE_TIMEOUT, Identity, IdentityError, IdentityMetrics, Protocol, check_owner, files,
    session_name, tls,
};
use crate::settings::Settings;
use crate::shutdown::Shutdown;
use crate::telemetry::with_causes;

/// A manager that takes longer to answer counts as away.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);
/// Between tries while the manager is away.
const RETRY: (Duration, Duration) = (Duration::from_millis(200), Duration::from_secs(5));

/// The manager gives no first certificate.
#[derive(Debug, thiserror::Error)]
pub enum JoinError {
    /// The token file cannot be read.
    #[error("[identity] token_file {path} cannot be read")]
    Read {
        /// Which.
        path: PathBuf,
        /// What the file system says.
        #[source]
        source: std::io::Error,
    },
    /// It holds no token.
    #[error("[identity] token_file {path}")]
    Token {
        /// Which.
        path: PathBuf,
        /// What is wrong with it.
        #[source]
        source: NotAToken,
    },
    /// The token is for another role.
    #[error("the join token in {path} is for a {token}, and this is a {role}")]
    Role {
        /// Which.
        path: PathBuf,
        /// The token's.
        token: Role,
        /// This one's.
        role: PeerRole,
    },
    /// The manager's address does not work.
    #[error("[manager] address {0:?} is not https://host:port")]
    Address(String),
    /// It is not there, or not as it should be; somebody may try again.
    #[error("the manager cannot be asked: {0}")]
    Away(String),
    /// It knows of no such token, or takes it no more.
    #[error("the manager refuses: {0}")]
    Refused(String),
    /// Whoever answers does not know the token.
    #[error(
        "who answers at the manager's address cannot prove to know this token: it is another cluster's, or somebody stands between"
    )]
    Unproved,
    /// What it gives cannot be used.
    #[error("what the manager gives cannot be used")]
    Unusable(#[source] MaterialError),
    /// It cannot be kept.
    #[error("the certificate cannot be kept in {path}: {why}")]
    Keep {
        /// Where.
        path: PathBuf,
        /// What the file system says.
        why: String,
    },
}

pub(super) async fn open(
    settings: &Settings,
    role: PeerRole,
    metrics: &IdentityMetrics,
    shutdown: &Shutdown,
) -> Result<Identity, IdentityError> {
    let (manager, PeerRole::Member(member)) = (&settings.manager.address, role) else {
        return Err(IdentityError::None);
    };
    let manager = manager.as_ref().ok_or(IdentityError::None)?;
    let kept = Kept {
        own: settings.data_dir.join(format!("identity-{member}.pem")),
        authorities: settings.data_dir.join(format!("authorities-{member}.pem")),
    };
    let (material, trust) = match held(&kept, role, &settings.node.id)? {
        Some(held) => held,
        None => {
            let joining = Joining::new(settings, member, manager)?;
            let obtained = joining.run(&kept).await.map_err(IdentityError::Join)?;
            (obtained.material, obtained.trust)
        }
    };
    let identity = Identity::new(material, trust, false, metrics);
    let identity = identity.map_err(|source| unusable(&kept, source))?;
    let endpoint = Endpoint::from_shared(manager.clone())
        .map_err(|_| IdentityError::Join(JoinError::Address(manager.clone())))?
        .connect_timeout(HANDSHAKE_TIMEOUT);
    let connector = identity.connector(Protocol::Grpc, PeerRole::MANAGER);
    let renewing = Renewing {
        channel: endpoint.connect_with_connector_lazy(connector),
    };
    identity.maintain(Arc::new(renewing), Some(kept), shutdown);
    Ok(identity)
}

fn unusable(kept: &Kept, source: MaterialError) -> IdentityError {
    IdentityError::Material {
        place: kept.own.display().to_string(),
        source,
    }
}

/// What was had in an earlier life; `None` when there is nothing, or it is over and has to be had
/// anew. Anything else that is wrong with it is for somebody to look at.
fn held(
    kept: &Kept,
    role: PeerRole,
    me: &HostId,
) -> Result<Option<(Material, Trust)>, IdentityError> {
    if !kept.own.exists() {
        return Ok(None);
    }
    let unusable = |source| unusable(kept, source);
    let own = material::read(&kept.own).map_err(unusable)?;
    let ca = material::read(&kept.authorities).map_err(unusable)?;
    let material = Material::from_pem(&own, &own, &tls::provider()).map_err(unusable)?;
    let trust = files::authorities(&ca).map_err(unusable)?;
    check_owner(&kept.own, &material.peer, role, me)?;
    if material.peer.not_after <= super::peer::unix_now() {
        tracing::warn!(path = %kept.own.display(), "the certificate is over; joining again");
        return Ok(None);
    }
    Ok(Some((material, trust)))
}

/// A process on its way in.
struct Joining {
    manager: Endpoint,
    token: JoinToken,
    /// The authorities, when they are known without the manager.
    known: Option<Trust>,
    id: HostId,
    role: Role,
}

impl Joining {
    fn new(settings: &Settings, role: Role, manager: &str) -> Result<Self, IdentityError> {
        let path = settings.identity.token_file.as_ref();
        let path = path.ok_or(IdentityError::None)?;
        let known = settings.identity.ca.as_ref().map(|path| {
            let pem = material::read(path)?;
            files::authorities(&pem)
        });
        let known = known
            .transpose()
            .map_err(|source| IdentityError::Material {
                place: "[identity] ca".to_owned(),
                source,
            })?;
        Ok(Self {
            manager: Endpoint::from_shared(manager.to_owned())
                .map_err(|_| IdentityError::Join(JoinError::Address(manager.to_owned())))?
                .connect_timeout(HANDSHAKE_TIMEOUT)
                .timeout(ANSWER_TIMEOUT),
            token: read_token(path, role).map_err(IdentityError::Join)?,
            known,
            id: settings.node.id.clone(),
            role,
        })
    }

    /// Until it is in, or told that it never will be.
    async fn run(&self, kept: &Kept) -> Result<Obtained, JoinError> {
        let (key, request) = material::request().map_err(JoinError::Unusable)?;
        let (mut pause, mut told) = (RETRY.0, String::new());
        let issued = loop {
            match self.once(&request).await {
                Ok(issued) => break issued,
                Err(JoinError::Away(why)) => {
                    if why != told {
                        tracing::warn!(error = why, "not in the cluster yet; trying again");
                        told = why;
                    }
                    sleep(pause).await;
                    pause = (pause * 2).min(RETRY.1);
                }
                Err(error) => return Err(error),
            }
        };
        let obtained = finish(&key, issued).map_err(JoinError::Unusable)?;
        let authorities = pem_of(&obtained.trust.authorities);
        for (path, text) in [
            (&kept.authorities, authorities),
            (&kept.own, obtained.pem.clone()),
        ] {
            let written = write(path.clone(), text).await;
            written.map_err(|why| JoinError::Keep {
                path: path.clone(),
                why,
            })?;
        }
        tracing::info!(id = %self.id, role = %self.role, "joined the cluster");
        Ok(obtained)
    }

    async fn once(&self, request: &[u8]) -> Result<Issued, JoinError> {
        let trust = match &self.known {
            Some(trust) => trust.clone(),
            None => self.authorities().await?,
        };
        let roots = Arc::new(material::roots(&trust).map_err(JoinError::Unusable)?);
        let channel = self.channel(Some(roots)).await?;
        let request = wire::JoinRequest {
            protocol: PROTOCOL,
            token: self.token.reveal(),
            id: self.id.to_string(),
            role: wire::Role::from(self.role).into(),
            request: request.to_vec().into(),
        };
        let issued = AuthorityClient::new(channel).join(request).await;
        parse(issued.map_err(refused)?.into_inner()).map_err(JoinError::Away)
    }

    async fn authorities(&self) -> Result<Trust, JoinError> {
        let mut nonce = vec![0; 32];
        aws_lc_rs::rand::fill(&mut nonce)
            .map_err(|_| JoinError::Away("there is no randomness".to_owned()))?;
        let channel = self.channel(None).await?;
        let request = wire::ProveRequest {
            token: self.token.number().to_owned(),
            nonce: nonce.clone().into(),
        };
        let reply = AuthorityClient::new(channel).prove(request).await;
        let reply = reply.map_err(refused)?.into_inner();
        let authorities = trust::authorities(reply.authorities)
            .map_err(|invalid| JoinError::Away(invalid.to_string()))?;
        match token::is_proved(&self.token.hash(), &nonce, &authorities, &reply.proof) {
            true => Ok(Trust {
                authorities,
                ..Trust::default()
            }),
            false => Err(JoinError::Unproved),
        }
    }

    async fn channel(
        &self,
        roots: Option<Arc<rustls::RootCertStore>>,
    ) -> Result<Channel, JoinError> {
        let is_known = roots.is_some();
        let config = tls::joining_client(roots, &Arc::new(tls::provider()));
        let config = config.map_err(JoinError::Unusable)?;
        let connector = tower::service_fn(move |uri: Uri| connect(uri, config.clone(), is_known));
        let channel = self.manager.connect_with_connector(connector).await;
        channel.map_err(|error| JoinError::Away(with_causes(&error).to_string()))
    }
}

fn read_token(path: &PathBuf, role: Role) -> Result<JoinToken, JoinError> {
    let text = std::fs::read_to_string(path).map_err(|source| JoinError::Read {
        path: path.clone(),
        source,
    })?;
    let token: JoinToken = text.trim().parse().map_err(|source| JoinError::Token {
        path: path.clone(),
        source,
    })?;
    if token.role() != role {
        return Err(JoinError::Role {
            path: path.clone(),
            token: token.role(),
            role: role.into(),
        });
    }
    Ok(token)
}

type Connecting = Pin<Box<dyn Future<Output = std::io::Result<Io>> + Send>>;
type Io = TokioIo<tokio_rustls::client::TlsStream<TcpStream>>;

/// To the manager, which has to show that it is one once its authorities are known.
fn connect(uri: Uri, config: Arc<ClientConfig>, is_known: bool) -> Connecting {
    Box::pin(async move {
        let authority = uri.authority();
        let authority = authority.ok_or_else(|| std::io::Error::other("no host"))?;
        let host = authority.host().trim_matches(['[', ']']);
        let tcp = TcpStream::connect((host, authority.port_u16().unwrap_or(443))).await?;
        let name = session_name(authority.as_str());
        let handshake = TlsConnector::from(config).connect(name, tcp);
        let tls = timeout(HANDSHAKE_TIMEOUT, handshake).await??;
        let certificate = tls.get_ref().1.peer_certificates();
        let certificate = certificate.and_then(|chain| chain.first());
        let peer = certificate.and_then(|certificate| Peer::of(certificate).ok());
        if is_known && peer.is_none_or(|peer| peer.role != PeerRole::Manager) {
            return Err(std::io::Error::other("who answers is not a manager"));
        }
        Ok(TokioIo::new(tls))
    })
}

/// Whether trying again may help.
fn refused(status: Status) -> JoinError {
    let message = status.message().to_owned();
    match status.code() {
        Code::Unauthenticated
        | Code::PermissionDenied
        | Code::InvalidArgument
        | Code::FailedPrecondition
        | Code::NotFound
        | Code::Unimplemented => JoinError::Refused(message),
        code => JoinError::Away(format!("{code:?}: {message}")),
    }
}

fn parse(issued: wire::Issued) -> Result<Issued, String> {
    let bad = |invalid: darner_proto::invalid::Invalid| invalid.to_string();
    Ok(Issued {
        chain: trust::authorities(issued.chain).map_err(bad)?,
        authorities: trust::authorities(issued.authorities).map_err(bad)?,
    })
}

/// The manager, asked with the certificate that is to be renewed.
#[derive(Debug)]
struct Renewing {
    channel: Channel,
}

impl Issuer for Renewing {
    fn issue(&self, request: Vec<u8>) -> Issuing<'_> {
        let failed = |message: String| IssueError { message };
        Box::pin(async move {
            let mut client = AuthorityClient::new(self.channel.clone());
            let request = wire::RenewRequest {
                request: request.into(),
            };
            let renewed = timeout(ANSWER_TIMEOUT, client.renew(request)).await;
            let renewed = renewed.map_err(|_| failed("the manager does not answer".to_owned()))?;
            let renewed = renewed.map_err(|status| failed(status.message().to_owned()))?;
            parse(renewed.into_inner()).map_err(failed)
        })
    }
}
