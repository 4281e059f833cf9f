//! The certificate that is for a registry: it sees it, and nobody else does.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use darner_service::shutdown::Shutdown;
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use rustls::pki_types::PrivateKeyDer;
use rustls::server::{ClientCertVerifierBuilder, WebPkiClientVerifier};
use rustls::{RootCertStore, ServerConfig};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;

use super::*;

/// Signs everybody's certificate.
struct Authority {
    issuer: Issuer<'static, KeyPair>,
    certificate: rcgen::Certificate,
}

impl Authority {
    fn new() -> Self {
        let mut parameters = CertificateParams::default();
        parameters.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().unwrap();
        let certificate = parameters.self_signed(&key).unwrap();
        Self {
            issuer: Issuer::new(parameters, key),
            certificate,
        }
    }

    fn verifier(&self) -> ClientCertVerifierBuilder {
        let mut roots = RootCertStore::empty();
        roots.add(self.certificate.der().clone()).unwrap();
        WebPkiClientVerifier::builder(Arc::new(roots))
    }

    fn certify(&self) -> (rcgen::Certificate, KeyPair) {
        let key = KeyPair::generate().unwrap();
        let parameters = CertificateParams::new(vec!["127.0.0.1".to_owned()]).unwrap();
        (parameters.signed_by(&key, &self.issuer).unwrap(), key)
    }
}

/// A host that knows who showed it a certificate.
struct Host {
    address: SocketAddr,
    /// For each request: its path, and whether a certificate was shown.
    seen: Arc<Mutex<Vec<(String, bool)>>>,
}

impl Host {
    /// Answers a path with what `script` makes of it, certificate or not.
    async fn start(
        authority: &Authority,
        script: impl Fn(&str) -> String + Send + Sync + 'static,
    ) -> Self {
        let verifier = authority.verifier().allow_unauthenticated();
        Self::start_for(authority, verifier, script).await
    }

    async fn start_for(
        authority: &Authority,
        verifier: ClientCertVerifierBuilder,
        script: impl Fn(&str) -> String + Send + Sync + 'static,
    ) -> Self {
        let (certificate, key) = authority.certify();
        let config = ServerConfig::builder()
            .with_client_cert_verifier(verifier.build().unwrap())
            .with_single_cert(vec![certificate.der().clone()], PrivateKeyDer::from(key))
            .unwrap();
        let acceptor = TlsAcceptor::from(Arc::new(config));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (seen, script) = (Arc::new(Mutex::new(Vec::new())), Arc::new(script));
        let log = seen.clone();
        let shutdown = Shutdown::default();
        let connections = shutdown.clone();
        shutdown.spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (acceptor, script, log) = (acceptor.clone(), script.clone(), log.clone());
                connections.spawn(async move { serve(stream, &acceptor, &*script, &log).await });
            }
        });
        Self { address, seen }
    }

    fn seen(&self) -> Vec<(String, bool)> {
        self.seen.lock().unwrap().clone()
    }
}

/// One request on one connection.
async fn serve(
    stream: TcpStream,
    acceptor: &TlsAcceptor,
    script: &(impl Fn(&str) -> String + Sync),
    seen: &Mutex<Vec<(String, bool)>>,
) {
    let Ok(mut stream) = acceptor.accept(stream).await else {
        return;
    };
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(stream.read_u8().await.unwrap());
    }
    let head = String::from_utf8(head).unwrap();
    let path = head.split(' ').nth(1).unwrap().to_owned();
    let shown = stream.get_ref().1.peer_certificates().is_some();
    let answer = script(&path);
    seen.lock().unwrap().push((path, shown));
    stream.write_all(answer.as_bytes()).await.unwrap();
    stream.shutdown().await.unwrap();
}

fn sent(status: &str, headers: &str, body: &str) -> String {
    let length = body.len();
    format!(
        "HTTP/1.1 {status}\r\nConnection: close\r\nContent-Length: {length}\r\n{headers}\r\n{body}"
    )
}

/// A client of `registry` that trusts `authority` and has a certificate of it.
fn certified(authority: &Authority, registry: &Host, mirrors: &[&Host]) -> Upstream {
    showing(authority, authority, registry, mirrors)
}

/// As [`certified`], with a certificate of `issuer`.
fn showing(
    issuer: &Authority,
    authority: &Authority,
    registry: &Host,
    mirrors: &[&Host],
) -> Upstream {
    let (certificate, key) = issuer.certify();
    let trusted = file(&authority.certificate.pem());
    let certificate = file(&certificate.pem());
    let key = file(&key.serialize_pem());
    let url = |host: &Host| format!("https://{}", host.address);
    // All of them are read at once.
    client(settings::Upstream {
        ca_file: Some(trusted.to_path_buf()),
        client_cert_file: Some(certificate.to_path_buf()),
        client_key_file: Some(key.to_path_buf()),
        mirrors: mirrors.iter().map(|mirror| url(mirror)).collect(),
        ..settings(url(registry))
    })
    .upstream
}

async fn size(upstream: &Upstream, content: &[u8]) -> Result<u64, UpstreamError> {
    let (repository, digest) = (repository(), Digest::sha256(content));
    let head = upstream.head_blob(&repository, &digest, Access::Anonymous);
    head.await
}

#[tokio::test]
async fn a_host_that_the_registry_leads_to_is_shown_none() {
    let authority = Authority::new();
    let back = Arc::new(Mutex::new(String::new()));
    let there = back.clone();
    let storage = Host::start(&authority, move |path| match path {
        "/whole" => sent("200 OK", "", "12345"),
        _ => sent("307 Temporary Redirect", &there.lock().unwrap(), ""),
    })
    .await;
    let at = storage.address;
    let registry = Host::start(&authority, move |path| {
        let (led, around) = (Digest::sha256(b"led"), Digest::sha256(b"led around"));
        let target = match path {
            "/back" => return sent("200 OK", "", "123456"),
            path if path.ends_with(&led.to_string()) => "whole",
            path if path.ends_with(&around.to_string()) => "around",
            _ => return sent("200 OK", "", "1234"),
        };
        let location = format!("Location: https://{at}/{target}\r\n");
        sent("307 Temporary Redirect", &location, "")
    })
    .await;
    *back.lock().unwrap() = format!("Location: https://{}/back\r\n", registry.address);
    let upstream = certified(&authority, &registry, &[]);
    assert_eq!(size(&upstream, b"here").await.unwrap(), 4);
    assert_eq!(size(&upstream, b"led").await.unwrap(), 5);
    assert_eq!(size(&upstream, b"led around").await.unwrap(), 6);
    let shown: Vec<_> = registry.seen().iter().map(|(_, shown)| *shown).collect();
    // The last came by way of the other host.
    assert_eq!(shown, [true, true, true, false]);
    let seen = storage.seen();
    assert_eq!(seen.len(), 2);
    assert!(seen.iter().all(|(_, shown)| !shown), "{seen:?}");
}

#[tokio::test]
async fn a_mirror_of_the_registry_is_shown_none() {
    let authority = Authority::new();
    let registry = Host::start(&authority, |_| sent("200 OK", "", "1234")).await;
    let mirror = Host::start(&authority, |_| sent("404 Not Found", "", "")).await;
    let upstream = certified(&authority, &registry, &[&mirror]);
    assert_eq!(size(&upstream, b"here").await.unwrap(), 4);
    assert!(mirror.seen().iter().all(|(_, shown)| !shown));
    assert!(registry.seen().iter().all(|(_, shown)| *shown));
    assert_eq!((mirror.seen().len(), registry.seen().len()), (1, 1));
}

#[tokio::test]
async fn a_registry_that_wants_another_or_any_is_understood() {
    let (authority, stranger) = (Authority::new(), Authority::new());
    let answer = |_: &str| sent("200 OK", "", "1234");
    let registry = Host::start_for(&authority, authority.verifier(), answer).await;
    let known = certified(&authority, &registry, &[]);
    assert_eq!(size(&known, b"here").await.unwrap(), 4);
    let trusted = file(&authority.certificate.pem());
    let bare = client(settings::Upstream {
        ca_file: Some(trusted.to_path_buf()),
        ..settings(format!("https://{}", registry.address))
    });
    for (upstream, said) in [
        (bare.upstream, "wants to be shown a certificate"),
        (
            showing(&stranger, &authority, &registry, &[]),
            "does not take the certificate",
        ),
    ] {
        let error = size(&upstream, b"here").await.unwrap_err();
        assert_eq!(error.kind(), UpstreamErrorKind::Unavailable);
        assert!(error.to_string().contains(said), "{}", everything(&error));
    }
}
