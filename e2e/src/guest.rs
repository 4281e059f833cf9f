//! A member of a cluster inside the test's own process: with a certificate of its own, had as every
//! process has it, and nothing behind it. And a stranger, who has none.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result};
use bytes::Bytes;
use darner_proto::id::{HostId, Role};
use darner_proto::wire;
use darner_proto::wire::manager_client::ManagerClient;
use darner_service::config::{Command, Flag, Sources, load};
use darner_service::identity::{Connector, Identity, IdentityMetrics, PeerRole, Protocol};
use darner_service::shutdown::Shutdown;
use http::Request;
use http_body_util::{BodyExt as _, Full};
use hyper_util::rt::TokioIo;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{ClientConfig, DigitallySignedStruct, SignatureScheme};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tonic::Status;
use tonic::transport::{Channel, Endpoint};
use tower::Service as _;

use crate::attendant::Attendant;
use crate::darner::{Darner, Settings};
use crate::scene::Scene;

/// Anybody, for whoever connects as a guest and minds nothing.
const ANYBODY: &[PeerRole] = &[
    PeerRole::Manager,
    PeerRole::Member(Role::Scheduler),
    PeerRole::Member(Role::Seed),
    PeerRole::Member(Role::Mirror),
];
/// What a client of HTTP/2 says first, and its empty settings.
const HTTP2: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";
const HTTP1: &[u8] = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n";
/// Whoever takes a connection in says something at once.
const PATIENCE: Duration = Duration::from_secs(10);

/// A port of a process, and what is spoken there.
#[derive(Debug, Clone)]
pub struct Port {
    /// For messages.
    pub name: String,
    /// Where.
    pub address: SocketAddr,
    /// What.
    pub protocol: Protocol,
}

impl Port {
    /// `pieces`, `scheduler` or `manager` of a process.
    pub fn of(process: &Darner, what: &str) -> Result<Self> {
        Ok(Self {
            name: format!("{what} of {}", process.name()),
            address: process.address(what)?,
            protocol: match what {
                "pieces" => Protocol::Http1,
                _ => Protocol::Grpc,
            },
        })
    }

    fn greeting(&self) -> &'static [u8] {
        match self.protocol {
            Protocol::Http1 => HTTP1,
            Protocol::Grpc => HTTP2,
        }
    }

    fn url(&self, scheme: &str) -> String {
        format!("{scheme}://{}", self.address)
    }
}

/// A member.
#[derive(Debug)]
pub struct Guest {
    id: HostId,
    identity: Identity,
    shutdown: Shutdown,
}

impl Guest {
    /// Joins the cluster of `manager` as `name`, with the token in a file of the scene.
    pub async fn join(scene: &Scene, manager: &Darner, role: Role, name: &str) -> Result<Self> {
        let token = manager.join_token(&role.to_string())?;
        let manager = format!("https://{}", manager.address("manager")?);
        let settings = settings(scene, name)?
            .set("manager.address", manager)
            .set("identity.token_file", token.display().to_string());
        Self::open(scene, role, name, &settings).await
    }

    /// Becomes a mirror called `name` by a cluster's key.
    pub async fn by_key(scene: &Scene, key: &Path, name: &str) -> Result<Self> {
        let key = key.display().to_string();
        let settings = settings(scene, name)?.set("identity.cluster_key_file", key);
        Self::open(scene, Role::Mirror, name, &settings).await
    }

    async fn open(scene: &Scene, role: Role, name: &str, settings: &Settings) -> Result<Self> {
        let path = scene.path(format!("guest-{name}.toml"));
        std::fs::write(&path, settings.text())?;
        let sources = Sources {
            file: Some(path),
            flags: vec![
                Flag::set("pieces.advertise=127.0.0.1:9"),
                Flag::set("scheduler.advertise=127.0.0.1:9"),
            ],
            ..Sources::default()
        };
        let command = match role {
            Role::Scheduler => Command::Scheduler,
            _ => Command::Mirror,
        };
        let mut settings = load(command, &sources)?;
        settings.mirror.role = role;
        let (metrics, shutdown) = (IdentityMetrics::default(), Shutdown::default());
        Ok(Self {
            id: settings.node.id.clone(),
            identity: Identity::open(&settings, role, &metrics, &shutdown).await?,
            shutdown,
        })
    }

    /// Whether `port` takes it in: a connection on which the other side answers.
    pub async fn is_welcome(&self, port: &Port) -> bool {
        self.connect(port).await.is_ok()
    }

    /// A connection on which the other side has answered.
    pub async fn connect(&self, port: &Port) -> Result<impl AsyncRead + AsyncWrite + Unpin> {
        let mut connector = self.connector(port.protocol);
        let connected = connector.call(port.url("https").parse()?).await?;
        let mut stream = connected.into_inner();
        greet(&mut stream, port).await?;
        Ok(stream)
    }

    /// What `port` answers to a request: status and body.
    pub async fn ask(&self, port: &Port, request: Request<Bytes>) -> Result<(u16, Bytes)> {
        let mut connector = self.connector(port.protocol);
        let stream = connector.call(port.url("https").parse()?).await?;
        let (mut sender, connection) = hyper::client::conn::http1::handshake(stream).await?;
        let driving = self.shutdown.spawn(connection);
        let answer = sender.send_request(request.map(Full::new)).await?;
        let status = answer.status().as_u16();
        let body = answer.into_body().collect().await?.to_bytes();
        driving.abort();
        Ok((status, body))
    }

    /// Attends the scheduler at `port`, as a mirror that nobody can reach.
    pub async fn attend(&self, port: &Port) -> Result<Attendant> {
        let endpoint = Endpoint::from_shared(port.url("https"))?;
        let connector = self.connector(port.protocol);
        let channel = endpoint.connect_with_connector(connector).await?;
        let nowhere = SocketAddr::from(([127, 0, 0, 1], 9));
        Attendant::attend_over(channel, self.id.as_str(), nowhere).await
    }

    /// Registers `id` in `role` with the manager at `port`.
    pub async fn register(&self, port: &Port, role: Role, id: &str) -> Result<(), Status> {
        let endpoint = Endpoint::from_shared(port.url("https"));
        let endpoint = endpoint.map_err(|error| Status::internal(error.to_string()))?;
        let channel = endpoint.connect_with_connector_lazy(self.connector(Protocol::Grpc));
        register(channel, role, id).await
    }

    fn connector(&self, protocol: Protocol) -> Connector {
        self.identity.connector(protocol, ANYBODY)
    }
}

/// Settings apart from those of a process that may have its name.
fn settings(scene: &Scene, name: &str) -> Result<Settings> {
    let data = scene.make_directory(format!("data-guest-{name}"))?;
    Ok(Settings::new(&data).set("node.id", name))
}

impl Drop for Guest {
    fn drop(&mut self) {
        self.shutdown.drain();
    }
}

/// Whether somebody without a certificate is taken in at `port`.
pub async fn is_open_to_strangers(port: &Port) -> Result<bool> {
    let mut tls = encrypted(port.address, port.protocol).await?;
    Ok(greet(&mut tls, port).await.is_ok())
}

/// Whether `port` answers in plain text.
pub async fn is_open_in_plain_text(port: &Port) -> Result<bool> {
    let mut tcp = TcpStream::connect(port.address).await?;
    let answer = greet(&mut tcp, port).await;
    // A TLS alert is no answer.
    Ok(answer.is_ok_and(|first| first != 21))
}

/// What becomes of registering with the manager at `port` without a certificate.
pub async fn register_as_stranger(port: &Port) -> Result<(), Status> {
    register(stranger(port)?, Role::Mirror, "stranger").await
}

/// What becomes of a call with an empty message, by its path, without a certificate: of any kind,
/// streams among them.
pub async fn call_as_stranger(port: &Port, path: &str) -> Result<(), Status> {
    let mut client = tonic::client::Grpc::new(stranger(port)?);
    let away = |error: tonic::transport::Error| Status::unavailable(error.to_string());
    client.ready().await.map_err(away)?;
    let path = path.parse().map_err(|_| Status::internal("no path"))?;
    let once = futures_util::stream::iter([()]);
    let codec = tonic_prost::ProstCodec::<(), ()>::default();
    let answered = client
        .streaming(tonic::Request::new(once), path, codec)
        .await?;
    answered.into_inner().message().await.map(drop)
}

fn stranger(port: &Port) -> Result<Channel, Status> {
    let address = port.address;
    let connector = tower::service_fn(move |_: http::Uri| async move {
        let tls = encrypted(address, Protocol::Grpc).await;
        tls.map(TokioIo::new).map_err(std::io::Error::other)
    });
    let endpoint = Endpoint::from_shared(port.url("https"));
    let endpoint = endpoint.map_err(|error| Status::internal(error.to_string()))?;
    Ok(endpoint.connect_with_connector_lazy(connector))
}

async fn register(channel: Channel, role: Role, id: &str) -> Result<(), Status> {
    let request = wire::RegisterRequest {
        protocol: darner_proto::PROTOCOL,
        host: Some(wire::Host {
            id: id.to_owned(),
            address: "127.0.0.1:9".to_owned(),
            role: wire::Role::from(role).into(),
            ..wire::Host::default()
        }),
    };
    ManagerClient::new(channel)
        .register(request)
        .await
        .map(drop)
}

/// The first byte of the other side's answer.
async fn greet(stream: &mut (impl AsyncRead + AsyncWrite + Unpin), port: &Port) -> Result<u8> {
    let answer = async {
        stream.write_all(port.greeting()).await?;
        stream.flush().await?;
        stream.read_u8().await
    };
    let answer = tokio::time::timeout(PATIENCE, answer).await;
    Ok(answer.with_context(|| format!("{} says nothing", port.name))??)
}

async fn encrypted(
    address: SocketAddr,
    protocol: Protocol,
) -> Result<tokio_rustls::client::TlsStream<TcpStream>> {
    let mut config = ClientConfig::builder()
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Unconcerned))
        .with_no_client_auth();
    config.alpn_protocols = vec![match protocol {
        Protocol::Http1 => b"http/1.1".to_vec(),
        Protocol::Grpc => b"h2".to_vec(),
    }];
    let tcp = TcpStream::connect(address).await?;
    let name = ServerName::try_from("stranger")?;
    Ok(TlsConnector::from(Arc::new(config))
        .connect(name, tcp)
        .await?)
}

/// Takes any server: what is tested or measured is at the other end.
#[derive(Debug)]
pub struct Unconcerned;

impl ServerCertVerifier for Unconcerned {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        rustls::crypto::aws_lc_rs::default_provider()
            .signature_verification_algorithms
            .supported_schemes()
    }
}
