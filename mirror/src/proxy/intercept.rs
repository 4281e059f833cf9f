//! Looking into `https://` for programs of this machine, by an authority that the operator has made
//! and that these programs trust: only for names that the authority is limited to.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use darner_service::settings::ProxyAuthority;
use rcgen::{CertificateParams, ExtendedKeyUsagePurpose, Issuer, KeyPair};
use rustls::ServerConfig;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use tokio_rustls::TlsAcceptor;
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::{FromDer as _, X509Certificate};

/// Names that certificates are kept for; one is made in a millisecond.
const KEPT: u64 = 1024;
/// Made anew before clients, whose clocks may differ, find it out of date.
const KEPT_FOR: Duration = Duration::from_secs(12 * 3600);
/// How long a certificate counts, before and after it is made.
const COUNTS: Duration = Duration::from_secs(24 * 3600);

/// Issues certificates for the names it is limited to. Clones share it.
#[derive(Clone)]
pub(super) struct Interceptor(Arc<Inner>);

struct Inner {
    issuer: Issuer<'static, KeyPair>,
    /// Of the names that the certificates are for.
    key: KeyPair,
    authority: CertificateDer<'static>,
    permitted: Vec<String>,
    made: moka::future::Cache<String, Arc<ServerConfig>>,
}

/// Interception cannot be set up.
#[derive(Debug, thiserror::Error)]
pub enum InterceptError {
    /// A file cannot be read.
    #[error("the file {0} cannot be read")]
    File(String, #[source] std::io::Error),
    /// The certificate is none.
    #[error("[proxy] ca_certificate is not one certificate in PEM form")]
    Certificate,
    /// It is no authority's.
    #[error("[proxy] ca_certificate is not an authority's: it must be one that may sign others")]
    NoAuthority,
    /// It may sign for every name there is.
    #[error(
        "[proxy] ca_certificate is not limited: give it name constraints with the DNS names it is for, so that who steals its key can pretend to be no other"
    )]
    Unlimited,
    /// The key is none, or the library refuses.
    #[error("[proxy] ca_key cannot be used")]
    Key(#[from] rcgen::Error),
    /// TLS refuses.
    #[error("TLS cannot be spoken with what ca_key signs")]
    Tls(#[from] rustls::Error),
}

impl std::fmt::Debug for Interceptor {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Interceptor")
            .field(&self.0.permitted)
            .finish()
    }
}

impl Interceptor {
    /// By the operator's certificate and key.
    pub(super) fn new(files: &ProxyAuthority) -> Result<Self, InterceptError> {
        let certificate = read(&files.ca_certificate)?;
        let authority = CertificateDer::from_pem_slice(certificate.as_bytes())
            .map_err(|_| InterceptError::Certificate)?;
        let permitted = permitted(&authority)?;
        let key = KeyPair::from_pem(&read(&files.ca_key)?)?;
        let issuer = Issuer::from_ca_cert_der(&authority, key)?;
        let interceptor = Self(Arc::new(Inner {
            issuer,
            key: KeyPair::generate()?,
            authority,
            permitted,
            made: moka::future::Cache::builder()
                .max_capacity(KEPT)
                .time_to_live(KEPT_FOR)
                .build(),
        }));
        // A key that is not the certificate's is found before a client finds it.
        interceptor.config("probe.invalid")?;
        Ok(interceptor)
    }

    /// Whether a host is one of those it is limited to.
    pub(super) fn is_for(&self, host: &str) -> bool {
        self.0.permitted.iter().any(|name| is_within(name, host))
    }

    /// Answers TLS as `host`.
    pub(super) async fn acceptor(&self, host: &str) -> Result<TlsAcceptor, InterceptError> {
        if let Some(made) = self.0.made.get(host).await {
            return Ok(made.into());
        }
        let config = self.config(host)?;
        let made = self.0.made.insert(host.to_owned(), config.clone());
        made.await;
        Ok(config.into())
    }

    fn config(&self, host: &str) -> Result<Arc<ServerConfig>, InterceptError> {
        let mut params = CertificateParams::new(vec![host.to_owned()])?;
        let now = std::time::SystemTime::now();
        params.not_before = (now - COUNTS).into();
        params.not_after = (now + COUNTS).into();
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        params.use_authority_key_identifier_extension = true;
        let leaf = params.signed_by(&self.0.key, &self.0.issuer)?;
        let chain = vec![leaf.der().clone(), self.0.authority.clone()];
        let key = PrivatePkcs8KeyDer::from(self.0.key.serialize_der());
        let mut config = ServerConfig::builder()
            .with_no_client_auth()
            .with_single_cert(chain, PrivateKeyDer::from(key))?;
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        Ok(Arc::new(config))
    }
}

fn read(path: &Path) -> Result<String, InterceptError> {
    let text = std::fs::read_to_string(path);
    text.map_err(|error| InterceptError::File(path.display().to_string(), error))
}

/// The DNS names that an authority is limited to.
fn permitted(authority: &CertificateDer<'_>) -> Result<Vec<String>, InterceptError> {
    let (_, parsed) =
        X509Certificate::from_der(authority).map_err(|_| InterceptError::Certificate)?;
    if !parsed.is_ca() {
        return Err(InterceptError::NoAuthority);
    }
    let constraints = parsed.name_constraints().ok().flatten();
    let subtrees = constraints.and_then(|found| found.value.permitted_subtrees.as_ref());
    let names: Vec<_> = subtrees
        .into_iter()
        .flatten()
        .filter_map(|subtree| match subtree.base {
            GeneralName::DNSName(name) => Some(name.trim_start_matches('.').to_ascii_lowercase()),
            _ => None,
        })
        .filter(|name| !name.is_empty())
        .collect();
    match names.is_empty() {
        true => Err(InterceptError::Unlimited),
        false => Ok(names),
    }
}

/// RFC 5280, section 4.2.1.10: the name itself and everything below it.
fn is_within(name: &str, host: &str) -> bool {
    let above = host.strip_suffix(name);
    above.is_some_and(|above| above.is_empty() || above.ends_with('.'))
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use rcgen::{BasicConstraints, GeneralSubtree, IsCa, NameConstraints};

    use super::*;

    /// The files of an authority that is limited to `names`.
    fn authority(directory: &Path, names: Option<&[&str]>, is_ca: bool) -> ProxyAuthority {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::default();
        if is_ca {
            params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        }
        params.name_constraints = names.map(|names| NameConstraints {
            permitted_subtrees: names
                .iter()
                .map(|name| GeneralSubtree::DnsName((*name).to_owned()))
                .collect(),
            excluded_subtrees: Vec::new(),
        });
        let certificate = params.self_signed(&key).unwrap();
        let file = |name: &str, text: String| -> PathBuf {
            let path = directory.join(name);
            std::fs::write(&path, text).unwrap();
            path
        };
        ProxyAuthority {
            ca_certificate: file("ca.pem", certificate.pem()),
            ca_key: file("ca.key", key.serialize_pem()),
        }
    }

    #[tokio::test]
    async fn an_authority_is_for_the_names_it_is_limited_to() {
        let directory = tempfile::tempdir().unwrap();
        let files = authority(directory.path(), Some(&["corp.example"]), true);
        let interceptor = Interceptor::new(&files).unwrap();
        assert!(interceptor.is_for("corp.example") && interceptor.is_for("a.b.corp.example"));
        for host in ["xcorp.example", "example", "corp.example.evil", "127.0.0.1"] {
            assert!(!interceptor.is_for(host), "{host}");
        }
        assert!(interceptor.acceptor("registry.corp.example").await.is_ok());
    }

    #[test]
    fn one_that_could_be_anybody_is_refused() {
        let directory = tempfile::tempdir().unwrap();
        let unlimited = authority(directory.path(), None, true);
        let refused = Interceptor::new(&unlimited).unwrap_err();
        assert!(matches!(refused, InterceptError::Unlimited), "{refused}");
        let leaf = authority(directory.path(), Some(&["corp.example"]), false);
        let refused = Interceptor::new(&leaf).unwrap_err();
        assert!(matches!(refused, InterceptError::NoAuthority), "{refused}");
        let files = authority(directory.path(), Some(&["corp.example"]), true);
        std::fs::write(&files.ca_key, "nonsense").unwrap();
        assert!(Interceptor::new(&files).is_err());
    }
}
