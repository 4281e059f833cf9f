//! A certificate for the programs of this machine: an authority that the machine has made for itself,
//! good for its own addresses and for nothing else, which the container runtimes here are told to
//! trust in place of every other ([`AUTHORITY`] is what they are told).
//!
//! Members of a cluster know each other by another one: that is the rest of [`super`].

use std::fs::{self, DirBuilder};
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use rcgen::{
    BasicConstraints, CertificateParams, CidrSubnet, DistinguishedName, DnType,
    ExtendedKeyUsagePurpose, GeneralSubtree, IsCa, Issuer, KeyPair, KeyUsagePurpose,
    NameConstraints, SanType,
};
use rustls::ServerConfig;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsAcceptor;
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::{FromDer as _, X509Certificate};

use super::gather::Gathered;
use super::{HANDSHAKE_TIMEOUT, Protocol, Stream, tls};
use crate::replace::replace;

/// Where it is, in the data directory.
pub const DIRECTORY: &str = "registry-tls";
/// The authority's certificate, PEM, beside the key: what others are given.
pub const AUTHORITY: &str = "authority.pem";
/// Key and certificate in one file, so that they always go together.
const KEY: &str = "authority.key";
/// Runtimes are told of it once.
const AUTHORITY_FOR: Duration = Duration::from_secs(10 * 365 * DAY);
/// With less of its time left another is made.
const AUTHORITY_LEAST: Duration = Duration::from_secs(30 * DAY);
/// A certificate counts for this long, and as long before it was made: clocks are set back.
const COUNTS: Duration = Duration::from_secs(7 * DAY);
/// It is made anew when it is older.
const RENEWED: Duration = Duration::from_secs(DAY);
const DAY: u64 = 24 * 3600;
const NAME: &str = "localhost";

/// What the machine's own programs are answered with under TLS. Clones share it.
#[derive(Clone)]
pub struct Local(Arc<Inner>);

struct Inner {
    issuer: Issuer<'static, KeyPair>,
    addresses: Vec<IpAddr>,
    made: Mutex<(SystemTime, Arc<ServerConfig>)>,
}

/// There is no certificate for this machine's programs.
#[derive(Debug, thiserror::Error)]
pub enum LocalError {
    /// The file system refuses.
    #[error("{path} cannot be read or written")]
    File {
        /// What was to be read or written.
        path: PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// The file was not written by this program, or is damaged.
    #[error(
        "{0} holds no authority of this machine; remove it, and another is made, of which the runtimes have to be told (`darner setup --tls`)"
    )]
    Damaged(PathBuf),
    /// It was made for other addresses.
    #[error(
        "the authority in {path} is not for {address}, where clients are listened for; remove it, and another is made, of which the runtimes have to be told (`darner setup --tls`)"
    )]
    Elsewhere {
        /// The authority.
        path: PathBuf,
        /// What it would have to be for.
        address: IpAddr,
    },
    /// The library refuses.
    #[error("a certificate cannot be made")]
    Make(#[from] rcgen::Error),
    /// TLS refuses.
    #[error("TLS cannot be spoken with what was made")]
    Tls(#[from] rustls::Error),
}

impl std::fmt::Debug for Local {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Local").field(&self.0.addresses).finish()
    }
}

impl Local {
    /// The authority in `directory`, made if there is none or its time is over, for loopback and the
    /// address that is listened on.
    ///
    /// # Errors
    /// What is there cannot be used; nothing is overwritten then.
    pub fn open(directory: &Path, listen: IpAddr) -> Result<Self, LocalError> {
        let mut addresses = vec![Ipv4Addr::LOCALHOST.into(), Ipv6Addr::LOCALHOST.into()];
        if !listen.is_unspecified() && !addresses.contains(&listen) {
            addresses.push(listen);
        }
        let now = SystemTime::now();
        let issuer = match kept(directory, &addresses, now)? {
            Some(kept) => kept,
            None => make(directory, &addresses, now)?,
        };
        let config = config(&issuer, &addresses, now)?;
        let made = Mutex::new((now, config));
        Ok(Self(Arc::new(Inner {
            issuer,
            addresses,
            made,
        })))
    }

    /// Speaks TLS with a client. Nothing is known of who that is.
    ///
    /// # Errors
    /// The handshake fails or takes too long.
    pub async fn accept(&self, tcp: TcpStream) -> io::Result<Stream> {
        let config = self.config(SystemTime::now()).map_err(io::Error::other)?;
        let handshake = TlsAcceptor::from(config).accept(Gathered::new(tcp));
        let tls = timeout(HANDSHAKE_TIMEOUT, handshake).await;
        let tls = tls.map_err(|_| io::Error::from(io::ErrorKind::TimedOut))??;
        Ok(Stream::secured(tls.into(), None, None))
    }

    /// With a certificate that is not about to be over.
    fn config(&self, now: SystemTime) -> Result<Arc<ServerConfig>, LocalError> {
        let mut made = self.0.made.lock().unwrap_or_else(PoisonError::into_inner);
        // A clock that was set back has no age to show.
        let is_new = now.duration_since(made.0).is_ok_and(|age| age < RENEWED);
        if !is_new {
            *made = (now, config(&self.0.issuer, &self.0.addresses, now)?);
        }
        Ok(made.1.clone())
    }
}

/// What an earlier life of the process has made, if it still counts.
fn kept(
    directory: &Path,
    addresses: &[IpAddr],
    now: SystemTime,
) -> Result<Option<Issuer<'static, KeyPair>>, LocalError> {
    let path = directory.join(KEY);
    let text = match fs::read_to_string(&path) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(source) => return Err(LocalError::File { path, source }),
    };
    let damaged = || LocalError::Damaged(path.clone());
    let key = KeyPair::from_pem(&text).map_err(|_| damaged())?;
    let der = CertificateDer::from_pem_slice(text.as_bytes()).map_err(|_| damaged())?;
    let (_, certificate) = X509Certificate::from_der(&der).map_err(|_| damaged())?;
    let ends = certificate.validity().not_after.timestamp();
    let least = now + AUTHORITY_LEAST;
    let least = least.duration_since(SystemTime::UNIX_EPOCH);
    if least.is_ok_and(|least| u64::try_from(ends).unwrap_or(0) < least.as_secs()) {
        return Ok(None);
    }
    for address in addresses {
        if !permits(&certificate, *address) {
            let address = *address;
            return Err(LocalError::Elsewhere { path, address });
        }
    }
    publish(directory, &text)?;
    Ok(Some(Issuer::from_ca_cert_der(&der, key)?))
}

fn permits(authority: &X509Certificate<'_>, address: IpAddr) -> bool {
    let octets = match address {
        IpAddr::V4(address) => address.octets().to_vec(),
        IpAddr::V6(address) => address.octets().to_vec(),
    };
    let constraints = authority.name_constraints().ok().flatten();
    let subtrees = constraints.and_then(|found| found.value.permitted_subtrees.as_ref());
    subtrees.into_iter().flatten().any(|subtree| {
        let GeneralName::IPAddress(block) = subtree.base else {
            return false;
        };
        let (network, mask) = block.split_at(block.len() / 2);
        let masked = octets.iter().zip(mask).map(|(octet, mask)| octet & mask);
        network.len() == octets.len() && masked.eq(network.iter().copied())
    })
}

fn make(
    directory: &Path,
    addresses: &[IpAddr],
    now: SystemTime,
) -> Result<Issuer<'static, KeyPair>, LocalError> {
    let failed = |source| LocalError::File {
        path: directory.to_owned(),
        source,
    };
    let mut builder = DirBuilder::new();
    builder.recursive(true).mode(0o700);
    builder.create(directory).map_err(failed)?;
    let key = KeyPair::generate()?;
    let params = authority(addresses, now);
    let certificate = params.self_signed(&key)?;
    let text = format!("{}{}", key.serialize_pem(), certificate.pem());
    let path = directory.join(KEY);
    let written = replace(&path, text.as_bytes());
    written.map_err(|source| LocalError::File { path, source })?;
    publish(directory, &text)?;
    tracing::info!(directory = %directory.display(), "an authority was made for the programs of this machine");
    Ok(Issuer::new(params, key))
}

/// The certificate alone, for those who are told of it.
fn publish(directory: &Path, text: &str) -> Result<(), LocalError> {
    let begin = text.find("-----BEGIN CERTIFICATE").unwrap_or(text.len());
    let path = directory.join(AUTHORITY);
    if fs::read(&path).is_ok_and(|there| there == text.as_bytes()[begin..]) {
        return Ok(());
    }
    let written = replace(&path, &text.as_bytes()[begin..]);
    written.map_err(|source| LocalError::File { path, source })
}

fn authority(addresses: &[IpAddr], now: SystemTime) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.not_before = (now - COUNTS).into();
    params.not_after = (now + AUTHORITY_FOR).into();
    params.distinguished_name = DistinguishedName::new();
    let name = "Darner mirror on this machine";
    params.distinguished_name.push(DnType::CommonName, name);
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    let mut permitted = vec![
        GeneralSubtree::DnsName(NAME.to_owned()),
        GeneralSubtree::IpAddress(CidrSubnet::V4([127, 0, 0, 0], [255, 0, 0, 0])),
    ];
    // All of 127.0.0.0/8 is there already.
    let others = addresses
        .iter()
        .filter(|address| !(address.is_ipv4() && address.is_loopback()));
    permitted.extend(others.map(|address| {
        GeneralSubtree::IpAddress(CidrSubnet::from_addr_prefix(*address, bits(*address)))
    }));
    params.name_constraints = Some(NameConstraints {
        permitted_subtrees: permitted,
        excluded_subtrees: Vec::new(),
    });
    params
}

fn bits(address: IpAddr) -> u8 {
    if address.is_ipv4() { 32 } else { 128 }
}

fn config(
    issuer: &Issuer<'static, KeyPair>,
    addresses: &[IpAddr],
    now: SystemTime,
) -> Result<Arc<ServerConfig>, LocalError> {
    let key = KeyPair::generate()?;
    let mut params = CertificateParams::default();
    params.not_before = (now - COUNTS).into();
    params.not_after = (now + COUNTS).into();
    params.distinguished_name = DistinguishedName::new();
    params
        .distinguished_name
        .push(DnType::CommonName, "Darner mirror");
    params.subject_alt_names = vec![SanType::DnsName(NAME.try_into()?)];
    let named = addresses.iter().map(|address| SanType::IpAddress(*address));
    params.subject_alt_names.extend(named);
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    params.use_authority_key_identifier_extension = true;
    let leaf = params.signed_by(&key, issuer)?;
    let key = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(key.serialize_der()));
    Ok(tls::for_strangers(
        leaf.der().clone(),
        key,
        Protocol::Http1,
    )?)
}

#[cfg(test)]
mod tests;
