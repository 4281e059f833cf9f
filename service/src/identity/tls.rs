//! What TLS is spoken with: version 1.3 only, both sides with certificates, ciphers by what the
//! machine is fast at. A configuration is made anew, with its memory of sessions, whenever key,
//! certificate or authorities change; so no session outlives what it was allowed by.

use std::sync::Arc;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::server::WebPkiClientVerifier;
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use rustls::{
    ClientConfig, DigitallySignedStruct, Error, RootCertStore, ServerConfig, SignatureScheme,
};

use super::material::{self, MaterialError};

/// What is spoken inside.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Protocol {
    /// HTTP/2, for gRPC.
    Grpc,
    /// HTTP/1.1, for pieces.
    Http1,
}

impl Protocol {
    fn alpn(self) -> Vec<Vec<u8>> {
        match self {
            Self::Grpc => vec![b"h2".to_vec()],
            Self::Http1 => vec![b"http/1.1".to_vec()],
        }
    }
}

/// Whether who connects has to show a certificate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Callers {
    /// Members only.
    Known,
    /// Those without a certificate too: they come to get one.
    Joining,
}

/// AES-128-GCM first where the processor does it; else ChaCha20, which needs no help.
pub(super) fn provider() -> CryptoProvider {
    use aws_lc_rs::cipher_suite::{
        TLS13_AES_128_GCM_SHA256, TLS13_AES_256_GCM_SHA384, TLS13_CHACHA20_POLY1305_SHA256,
    };
    let mut suites = vec![TLS13_AES_128_GCM_SHA256, TLS13_AES_256_GCM_SHA384];
    let chacha = TLS13_CHACHA20_POLY1305_SHA256;
    match has_aes() {
        true => suites.push(chacha),
        false => suites.insert(0, chacha),
    }
    CryptoProvider {
        cipher_suites: suites,
        kx_groups: vec![aws_lc_rs::kx_group::X25519, aws_lc_rs::kx_group::SECP256R1],
        ..aws_lc_rs::default_provider()
    }
}

fn has_aes() -> bool {
    #[cfg(target_arch = "x86_64")]
    return std::arch::is_x86_feature_detected!("aes");
    #[cfg(target_arch = "aarch64")]
    return std::arch::is_aarch64_feature_detected!("aes");
    #[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
    return false;
}

/// For those who connect here.
pub(super) fn server(
    key: &Arc<CertifiedKey>,
    roots: &Arc<RootCertStore>,
    protocol: Protocol,
    callers: Callers,
    provider: &Arc<CryptoProvider>,
) -> Result<Arc<ServerConfig>, MaterialError> {
    let verifier = WebPkiClientVerifier::builder_with_provider(roots.clone(), provider.clone());
    let verifier = match callers {
        Callers::Known => verifier,
        Callers::Joining => verifier.allow_unauthenticated(),
    };
    let unusable = |error: &dyn std::fmt::Display| {
        MaterialError::Authorities(Error::General(error.to_string()))
    };
    let verifier = verifier.build().map_err(|error| unusable(&error))?;
    let mut config = ServerConfig::builder_with_provider(provider.clone())
        .with_protocol_versions(&[&rustls::version::TLS13])
        .map_err(MaterialError::Key)?
        .with_client_cert_verifier(verifier)
        .with_cert_resolver(Arc::new(SingleCertAndKey::from(key.clone())));
    config.alpn_protocols = protocol.alpn();
    config.ignore_client_order = true;
    // Sessions live with the client, sealed: this side keeps nothing for each.
    // Each holds the peer's certificate, and whoever goes on with one is given another: one is enough.
    config.send_tls13_tickets = 1;
    config.ticketer = aws_lc_rs::Ticketer::new().map_err(MaterialError::Key)?;
    Ok(Arc::new(config))
}

/// For those who have no certificate and need none.
pub(super) fn for_strangers(
    certificate: CertificateDer<'static>,
    key: PrivateKeyDer<'static>,
    protocol: Protocol,
) -> Result<Arc<ServerConfig>, Error> {
    let mut config = ServerConfig::builder_with_provider(Arc::new(provider()))
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .with_no_client_auth()
        .with_single_cert(vec![certificate], key)?;
    config.alpn_protocols = protocol.alpn();
    config.ignore_client_order = true;
    config.send_tls13_tickets = 1;
    config.ticketer = aws_lc_rs::Ticketer::new()?;
    Ok(Arc::new(config))
}

/// For connecting to others.
pub(super) fn client(
    key: &Arc<CertifiedKey>,
    roots: &Arc<RootCertStore>,
    protocol: Protocol,
    provider: &Arc<CryptoProvider>,
) -> Result<Arc<ClientConfig>, MaterialError> {
    let verifier = Anyone::signed_by(roots.clone(), provider.clone());
    let config = client_builder(verifier, provider)?
        .with_client_cert_resolver(Arc::new(SingleCertAndKey::from(key.clone())));
    Ok(finished(config, protocol))
}

/// For joining: without a certificate of its own. Without `roots` the server is not known yet
/// either, and nothing may be told to it.
pub(super) fn joining_client(
    roots: Option<Arc<RootCertStore>>,
    provider: &Arc<CryptoProvider>,
) -> Result<Arc<ClientConfig>, MaterialError> {
    let verifier = Arc::new(Anyone {
        roots,
        provider: provider.clone(),
    });
    let config = client_builder(verifier, provider)?.with_no_client_auth();
    Ok(finished(config, Protocol::Grpc))
}

fn client_builder(
    verifier: Arc<Anyone>,
    provider: &Arc<CryptoProvider>,
) -> Result<rustls::ConfigBuilder<ClientConfig, rustls::client::WantsClientCert>, MaterialError> {
    Ok(ClientConfig::builder_with_provider(provider.clone())
        .with_protocol_versions(&[&rustls::version::TLS13])
        .map_err(MaterialError::Key)?
        .dangerous()
        .with_custom_certificate_verifier(verifier))
}

fn finished(mut config: ClientConfig, protocol: Protocol) -> Arc<ClientConfig> {
    config.alpn_protocols = protocol.alpn();
    // The name is ours alone: see `connector`.
    config.enable_sni = false;
    Arc::new(config)
}

/// Takes a server of any name that an authority signed; who it is is read from its certificate
/// afterwards.
#[derive(Debug)]
struct Anyone {
    roots: Option<Arc<RootCertStore>>,
    provider: Arc<CryptoProvider>,
}

impl Anyone {
    fn signed_by(roots: Arc<RootCertStore>, provider: Arc<CryptoProvider>) -> Arc<Self> {
        let roots = Some(roots);
        Arc::new(Self { roots, provider })
    }
}

impl ServerCertVerifier for Anyone {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        if let Some(roots) = &self.roots {
            material::verify(end_entity, intermediates, roots, &self.provider, now)?;
        }
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Err(Error::General("TLS 1.2 is not spoken".to_owned()))
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        rustls::crypto::verify_tls13_signature(message, certificate, signed, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider
            .signature_verification_algorithms
            .supported_schemes()
    }
}
