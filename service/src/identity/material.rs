//! A process's own key and certificate, and the authorities whose certificates it takes: read from
//! PEM, checked against each other before anything is done with them.

use std::path::Path;
use std::sync::Arc;

use darner_proto::trust::Trust;
use rcgen::{CertificateParams, KeyPair, PKCS_ECDSA_P256_SHA256};
use rustls::RootCertStore;
use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, UnixTime};
use rustls::server::ParsedCertificate;
use rustls::sign::CertifiedKey;

use super::peer::{Peer, PeerError};

/// Key, certificate and what leads from it to older authorities.
#[derive(Debug, Clone)]
pub struct Material {
    pub(super) certified: Arc<CertifiedKey>,
    /// What the certificate says of this process.
    pub peer: Peer,
}

/// Key material that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum MaterialError {
    /// A file cannot be read.
    #[error("{path} cannot be read")]
    Read {
        /// Which.
        path: String,
        /// What the file system says.
        #[source]
        source: std::io::Error,
    },
    /// There is no PEM of the kind that is needed.
    #[error("{what} is not PEM: {why}")]
    Pem {
        /// Certificate, key or authorities.
        what: &'static str,
        /// What was found.
        why: String,
    },
    /// The key does not go with the certificate, or is of an unknown kind.
    #[error("the key cannot be used with the certificate: {0}")]
    Key(#[source] rustls::Error),
    /// The certificate does not say who this is.
    #[error("the certificate cannot be used")]
    Peer(#[source] PeerError),
    /// An authority's certificate cannot be read.
    #[error("the authorities cannot be used: {0}")]
    Authorities(#[source] rustls::Error),
    /// No authority given signed the certificate, it is over, or not meant for this.
    #[error(
        "the certificate does not count for the authorities given, or not now, or is not for both server and client authentication: {0}"
    )]
    Untrusted(#[source] rustls::Error),
    /// No key can be made.
    #[error("a key cannot be made: {0}")]
    Make(#[source] rcgen::Error),
}

impl Material {
    /// From DER, checked.
    pub(super) fn new(
        chain: Vec<CertificateDer<'static>>,
        key: PrivateKeyDer<'static>,
        provider: &CryptoProvider,
    ) -> Result<Self, MaterialError> {
        let first = chain.first().ok_or_else(|| MaterialError::Pem {
            what: "certificate",
            why: "there is none".to_owned(),
        })?;
        let peer = Peer::of(first).map_err(MaterialError::Peer)?;
        let certified = CertifiedKey::from_der(chain, key, provider).map_err(MaterialError::Key)?;
        // The check there passes over kinds of key that do not tell their public half.
        certified.keys_match().map_err(MaterialError::Key)?;
        Ok(Self {
            certified: Arc::new(certified),
            peer,
        })
    }

    /// From PEM: a key, and certificates in order.
    pub(super) fn from_pem(
        certificates: &[u8],
        key: &[u8],
        provider: &CryptoProvider,
    ) -> Result<Self, MaterialError> {
        let chain = certificates_of("certificate", certificates)?;
        let key = PrivateKeyDer::from_pem_slice(key).map_err(|error| MaterialError::Pem {
            what: "key",
            why: error.to_string(),
        })?;
        Self::new(chain, key, provider)
    }

    /// Whether `roots` signed it, and it counts now.
    pub(super) fn check(
        &self,
        roots: &RootCertStore,
        provider: &CryptoProvider,
    ) -> Result<(), MaterialError> {
        let (first, rest) = match self.certified.cert.split_first() {
            Some(split) => split,
            None => return Ok(()),
        };
        verify(first, rest, roots, provider, UnixTime::now()).map_err(MaterialError::Untrusted)?;
        // The other half: it has to be good for a client too.
        rustls::server::WebPkiClientVerifier::builder_with_provider(
            Arc::new(roots.clone()),
            Arc::new(provider.clone()),
        )
        .build()
        .map_err(|error| MaterialError::Untrusted(rustls::Error::General(error.to_string())))?
        .verify_client_cert(first, rest, UnixTime::now())
        .map_err(MaterialError::Untrusted)?;
        Ok(())
    }
}

/// Whether a server's certificate is signed by `roots` and counts at `now`. Its name is for
/// [`Peer`] to read.
pub(super) fn verify(
    first: &CertificateDer<'_>,
    rest: &[CertificateDer<'_>],
    roots: &RootCertStore,
    provider: &CryptoProvider,
    now: UnixTime,
) -> Result<(), rustls::Error> {
    let parsed = ParsedCertificate::try_from(first)?;
    rustls::client::verify_server_cert_signed_by_trust_anchor(
        &parsed,
        roots,
        rest,
        now,
        provider.signature_verification_algorithms.all,
    )
}

/// A new key, and a request for a certificate of it. The request says nothing else.
pub fn request() -> Result<(KeyPair, Vec<u8>), MaterialError> {
    let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).map_err(MaterialError::Make)?;
    let mut parameters = CertificateParams::default();
    parameters.distinguished_name = rcgen::DistinguishedName::new();
    let request = parameters
        .serialize_request(&key)
        .map_err(MaterialError::Make)?;
    Ok((key, request.der().to_vec()))
}

/// The authorities of `trust` as roots.
pub(super) fn roots(trust: &Trust) -> Result<RootCertStore, MaterialError> {
    let mut roots = RootCertStore::empty();
    for authority in &trust.authorities {
        let certificate = CertificateDer::from(authority.to_vec());
        roots.add(certificate).map_err(MaterialError::Authorities)?;
    }
    Ok(roots)
}

/// At least one certificate, from PEM.
pub(super) fn certificates_of(
    what: &'static str,
    pem: &[u8],
) -> Result<Vec<CertificateDer<'static>>, MaterialError> {
    let all: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem).collect();
    let why = match all {
        Ok(all) if !all.is_empty() => return Ok(all),
        Ok(_) => "there is no certificate in it".to_owned(),
        Err(error) => error.to_string(),
    };
    Err(MaterialError::Pem { what, why })
}

/// A file's content.
pub(super) fn read(path: &Path) -> Result<Vec<u8>, MaterialError> {
    std::fs::read(path).map_err(|source| MaterialError::Read {
        path: path.display().to_string(),
        source,
    })
}
