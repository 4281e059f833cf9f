//! Clients under TLS: members of the cluster that is measured, with a certificate that one of its
//! processes was given.

use std::io::{self, BufReader, Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::sync::Arc;

use anyhow::{Context as _, Result};
use darner_e2e::guest::Unconcerned;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, ClientConnection, StreamOwned};

use crate::load::BUFFER;

/// What a member connects with.
#[derive(Debug, Clone)]
pub(crate) struct Member(Arc<ClientConfig>);

impl Member {
    /// The member whose key and certificates are in a file.
    pub(crate) fn of(pem: &Path) -> Result<Self> {
        let chain = CertificateDer::pem_file_iter(pem)?.collect::<Result<Vec<_>, _>>()?;
        let key = PrivateKeyDer::from_pem_file(pem)?;
        let provider = rustls::crypto::aws_lc_rs::default_provider();
        // As the processes speak to each other.
        let suite = rustls::crypto::aws_lc_rs::cipher_suite::TLS13_AES_128_GCM_SHA256;
        let provider = rustls::crypto::CryptoProvider {
            cipher_suites: vec![suite],
            ..provider
        };
        let mut config = ClientConfig::builder_with_provider(provider.into())
            .with_protocol_versions(&[&rustls::version::TLS13])?
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(Unconcerned))
            .with_client_auth_cert(chain, key)?;
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        config.enable_sni = false;
        Ok(Self(config.into()))
    }

    pub(crate) fn connect(&self, tcp: TcpStream) -> Result<Secured> {
        let name = ServerName::try_from("anyone").context("a name")?;
        let mut tls = ClientConnection::new(self.0.clone(), name)?;
        tls.set_buffer_limit(Some(BUFFER));
        let tcp = Gathered(BufReader::with_capacity(BUFFER, tcp));
        Ok(StreamOwned::new(tls, tcp))
    }
}

pub(crate) type Secured = StreamOwned<ClientConnection, Gathered>;

/// A socket that is read much at once: the library reads little.
#[derive(Debug)]
pub(crate) struct Gathered(BufReader<TcpStream>);

impl Read for Gathered {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.0.read(buffer)
    }
}

impl Write for Gathered {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.get_mut().write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.get_mut().flush()
    }
}
