//! The API's own TLS: a certificate and a key from files, which are read again when they change. What
//! members talk over is another matter ([`darner_service::identity`]).

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use darner_service::listener::{Connection, Listener};
use darner_service::shutdown::Shutdown;
use darner_service::telemetry::with_causes;
use rustls::ServerConfig;
use rustls::crypto::aws_lc_rs::default_provider;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use tokio::sync::mpsc;
use tokio::time::timeout;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

/// How often the files are looked at. They are replaced days before the old ones are over.
const LOOK: Duration = Duration::from_secs(5);
/// Who says nothing for so long is no browser.
const HANDSHAKE: Duration = Duration::from_secs(10);
/// Connections that wait for the server to take them.
const ACCEPTED: usize = 16;

/// Where the certificate and its key are.
#[derive(Debug, Clone)]
pub(crate) struct Files {
    /// The chain, PEM.
    pub(crate) certificate: PathBuf,
    /// The key, PEM.
    pub(crate) key: PathBuf,
}

/// They cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// One cannot be read.
    #[error("{path} cannot be read")]
    Read {
        /// Which.
        path: PathBuf,
        /// What the file system says.
        #[source]
        source: io::Error,
    },
    /// One holds something else.
    #[error("{path} holds no {what} in PEM form")]
    Form {
        /// Which.
        path: PathBuf,
        /// What it should hold.
        what: &'static str,
    },
    /// They do not go together, or the library does not know their kind.
    #[error("the certificate and the key cannot be used together")]
    Pair(#[source] rustls::Error),
}

/// What is shown to who connects.
#[derive(Debug)]
struct Shown(RwLock<Arc<CertifiedKey>>);

impl ResolvesServerCert for Shown {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let shown = self.0.read().unwrap_or_else(PoisonError::into_inner);
        Some(shown.clone())
    }
}

/// A listener whose connections are under TLS.
#[derive(Debug)]
pub(crate) struct Front {
    address: SocketAddr,
    taken: mpsc::Receiver<(TlsStream<Connection>, SocketAddr)>,
}

/// What connections are taken in with.
#[derive(Debug, Clone)]
pub(crate) struct Tls {
    files: Files,
    held: Held,
    shown: Arc<Shown>,
    config: Arc<ServerConfig>,
}

/// What both files held when they were last read.
type Held = [Vec<u8>; 2];

impl Tls {
    /// With what the files hold now.
    ///
    /// # Errors
    /// They cannot be used.
    pub(crate) fn open(files: Files) -> Result<Self, TlsError> {
        let held = read(&files)?;
        let shown = Arc::new(Shown(RwLock::new(parse(&files, &held)?)));
        let config = ServerConfig::builder_with_provider(Arc::new(default_provider()))
            .with_safe_default_protocol_versions()
            .map_err(TlsError::Pair)?;
        let mut config = config
            .with_no_client_auth()
            .with_cert_resolver(shown.clone());
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        Ok(Self {
            files,
            held,
            shown,
            config: Arc::new(config),
        })
    }

    /// Takes in what comes to `listener`, until the process drains.
    pub(crate) fn front(self, listener: Listener, shutdown: &Shutdown) -> Front {
        let (accepted, taken) = mpsc::channel(ACCEPTED);
        let address = listener.address();
        let acceptor = TlsAcceptor::from(self.config.clone());
        let ending = shutdown.clone();
        shutdown.spawn(async move {
            tokio::select! {
                () = ending.draining() => {}
                () = accept(&listener, &acceptor, accepted, &ending) => {}
                () = self.follow() => {}
            }
        });
        Front { address, taken }
    }

    async fn follow(mut self) {
        let mut trouble = String::new();
        loop {
            tokio::time::sleep(LOOK).await;
            let files = self.files.clone();
            let Ok(found) = tokio::task::spawn_blocking(move || read(&files)).await else {
                continue;
            };
            let taken = found.and_then(|found| self.take(found));
            let now = taken.err().map(|error| with_causes(&error).to_string());
            let now = now.unwrap_or_default();
            // A renewal replaces one file after the other: the next look finds them whole.
            if !now.is_empty() && now != trouble {
                tracing::warn!(
                    error = now,
                    "the API's certificate files changed and cannot be used; the old ones stay in use"
                );
            }
            trouble = now;
        }
    }

    fn take(&mut self, found: Held) -> Result<(), TlsError> {
        if found == self.held {
            return Ok(());
        }
        let key = parse(&self.files, &found)?;
        *self.shown.0.write().unwrap_or_else(PoisonError::into_inner) = key;
        self.held = found;
        tracing::info!("the API shows its new certificate");
        Ok(())
    }
}

/// Handshakes go on beside each other: one that is slow keeps nobody waiting.
async fn accept(
    listener: &Listener,
    acceptor: &TlsAcceptor,
    server: mpsc::Sender<(TlsStream<Connection>, SocketAddr)>,
    shutdown: &Shutdown,
) {
    loop {
        let (connection, from) = listener.next().await;
        let (acceptor, server) = (acceptor.clone(), server.clone());
        shutdown.spawn(async move {
            match timeout(HANDSHAKE, acceptor.accept(connection)).await {
                // A server that has ended takes no more.
                Ok(Ok(tls)) => drop(server.send((tls, from)).await),
                Ok(Err(error)) => tracing::debug!(%from, %error, "a handshake with the API failed"),
                Err(_) => tracing::debug!(%from, "a handshake with the API took too long"),
            }
        });
    }
}

impl axum::serve::Listener for Front {
    type Io = TlsStream<Connection>;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Self::Io, SocketAddr) {
        match self.taken.recv().await {
            Some(taken) => taken,
            // The process drains, and whoever serves knows.
            None => std::future::pending().await,
        }
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        Ok(self.address)
    }
}

fn read(files: &Files) -> Result<Held, TlsError> {
    let read = |path: &PathBuf| {
        std::fs::read(path).map_err(|source| TlsError::Read {
            path: path.clone(),
            source,
        })
    };
    Ok([read(&files.certificate)?, read(&files.key)?])
}

fn parse(files: &Files, [certificate, key]: &Held) -> Result<Arc<CertifiedKey>, TlsError> {
    let form = |path: &PathBuf, what| TlsError::Form {
        path: path.clone(),
        what,
    };
    let chain = CertificateDer::pem_slice_iter(certificate).collect::<Result<Vec<_>, _>>();
    let chain = chain.ok().filter(|chain| !chain.is_empty());
    let chain = chain.ok_or_else(|| form(&files.certificate, "certificate"))?;
    let key = PrivateKeyDer::from_pem_slice(key);
    let key = key.map_err(|_| form(&files.key, "private key"))?;
    let pair = CertifiedKey::from_der(chain, key, &default_provider()).map_err(TlsError::Pair)?;
    Ok(Arc::new(pair))
}

#[cfg(test)]
mod tests {
    use rcgen::{CertifiedKey as Made, generate_simple_self_signed};

    use super::*;

    fn made() -> Made<rcgen::KeyPair> {
        generate_simple_self_signed(["localhost".to_owned()]).unwrap()
    }

    fn write(files: &Files, certificate: &str, key: &str) {
        std::fs::write(&files.certificate, certificate).unwrap();
        std::fs::write(&files.key, key).unwrap();
    }

    #[test]
    fn files_are_taken_when_they_go_together_and_kept_until_then() {
        let place = tempfile::tempdir().unwrap();
        let files = Files {
            certificate: place.path().join("tls.crt"),
            key: place.path().join("tls.key"),
        };
        assert!(matches!(
            Tls::open(files.clone()),
            Err(TlsError::Read { .. })
        ));
        let (one, other) = (made(), made());
        let pem = |made: &Made<rcgen::KeyPair>| (made.cert.pem(), made.signing_key.serialize_pem());
        let ((certificate, key), (newer, newer_key)) = (pem(&one), pem(&other));
        write(&files, &key, &certificate);
        assert!(matches!(
            Tls::open(files.clone()),
            Err(TlsError::Form { .. })
        ));
        write(&files, &certificate, &newer_key);
        assert!(matches!(Tls::open(files.clone()), Err(TlsError::Pair(_))));
        write(&files, &certificate, &key);
        let mut tls = Tls::open(files.clone()).unwrap();
        let shown = |tls: &Tls| tls.shown.0.read().unwrap().cert[0].to_vec();
        let first = shown(&tls);
        // A renewal, seen between its two files, and whole.
        write(&files, &newer, &key);
        let half = read(&files).unwrap();
        assert!(matches!(tls.take(half), Err(TlsError::Pair(_))));
        assert_eq!(shown(&tls), first);
        write(&files, &newer, &newer_key);
        tls.take(read(&files).unwrap()).unwrap();
        assert_eq!(shown(&tls), other.cert.der().to_vec());
    }
}
