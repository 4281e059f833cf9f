//! Makes keys and certificates; decides nothing. Nothing of a request for a certificate is used but
//! the key in it, whatever else it asks for.

use std::time::Duration;

use darner_proto::id::HostId;
use darner_service::identity::peer::{PeerRole, uri};
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa,
    Issuer, KeyPair, KeyUsagePurpose, PKCS_ECDSA_P256_SHA256, SanType, SerialNumber,
    SubjectPublicKeyInfo,
};
use x509_parser::prelude::{FromDer as _, X509CertificationRequest};

use super::state::AuthorityRecord;

/// An authority's own certificate: it is replaced long before.
const AUTHORITY_LIFETIME: u64 = 10 * 366 * 24 * 3600;
/// Clocks of two hosts may be this far apart. Certificates that count for a short time only are
/// dated back less.
const SKEW: u64 = 300;

/// No certificate is made.
#[derive(Debug, thiserror::Error)]
pub enum IssueError {
    /// The request is no request.
    #[error("the request is not a PKCS #10 certification request: {0}")]
    Request(String),
    /// It was not made with the key it is for.
    #[error("the request is not signed with its own key")]
    Signature,
    /// The library refuses.
    #[error("a certificate cannot be made: {0}")]
    Make(#[from] rcgen::Error),
    /// The signing key is not here.
    #[error("there is no authority that signs")]
    NoAuthority,
}

/// A certificate to be.
#[derive(Debug)]
pub struct Order<'a> {
    /// What its holder may act as.
    pub role: PeerRole,
    /// Its holder's node id.
    pub id: &'a HostId,
    /// From which second on it counts.
    pub not_before: u64,
    /// Up to which.
    pub not_after: u64,
}

/// A new authority, numbered after those before it.
///
/// # Errors
/// The library refuses.
pub fn authority(number: usize, now: u64) -> Result<AuthorityRecord, IssueError> {
    let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
    let name = format!(
        "Darner authority {number} {}",
        crate::random::hexadecimal::<4>()
    );
    let certificate = authority_params(&name, now).self_signed(&key)?;
    Ok(AuthorityRecord {
        name,
        made: now,
        certificate: certificate.der().to_vec(),
        key: Some(key.serialize_der()),
        sealed: None,
        cross: None,
        retires: None,
    })
}

/// The certificate of `new` by `old`: it leads those who know only the old one to the new one.
///
/// # Errors
/// A key is missing, or the library refuses.
pub fn cross(new: &AuthorityRecord, old: &AuthorityRecord) -> Result<Vec<u8>, IssueError> {
    let key = key_of(new)?;
    let params = authority_params(&new.name, new.made);
    let certificate = params.signed_by(&key, &issuer(old)?)?;
    Ok(certificate.der().to_vec())
}

/// The public key in a request (DER), once it is clear that who made the request has the private one.
///
/// # Errors
/// It is no request, or another's.
pub fn requested_key(request: &[u8]) -> Result<Vec<u8>, IssueError> {
    let (rest, request) = X509CertificationRequest::from_der(request)
        .map_err(|error| IssueError::Request(error.to_string()))?;
    if !rest.is_empty() {
        return Err(IssueError::Request("there is more behind it".to_owned()));
    }
    request
        .verify_signature()
        .map_err(|_| IssueError::Signature)?;
    let key = request.certification_request_info.subject_pki.raw;
    Ok(key.to_vec())
}

/// A certificate for `key`, signed by `authority`.
///
/// # Errors
/// The library refuses the key, or the authority signs no more.
pub fn certificate(
    authority: &AuthorityRecord,
    key: &[u8],
    order: &Order<'_>,
) -> Result<Vec<u8>, IssueError> {
    let mut params = params(order.not_before, order.not_after);
    let name = uri(order.role, order.id);
    params.subject_alt_names = vec![SanType::URI(name.try_into()?)];
    params.distinguished_name = named(&format!("Darner {}", order.role));
    params.is_ca = IsCa::ExplicitNoCa;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![
        ExtendedKeyUsagePurpose::ServerAuth,
        ExtendedKeyUsagePurpose::ClientAuth,
    ];
    let key = SubjectPublicKeyInfo::from_der(key)?;
    let certificate = params.signed_by(&key, &issuer(authority)?)?;
    Ok(certificate.der().to_vec())
}

/// From when on a certificate that is issued `now` counts: a little earlier, so that a clock that is
/// behind takes it too, but never before the last revocation.
pub fn not_before(now: u64, lifetime: Duration, revoked: Option<u64>) -> u64 {
    let back = SKEW.min(lifetime.as_secs() / 100);
    let dated = now.saturating_sub(back);
    revoked.map_or(dated, |revoked| dated.max(revoked + 1))
}

fn issuer(authority: &AuthorityRecord) -> Result<Issuer<'static, KeyPair>, IssueError> {
    let key = key_of(authority)?;
    let params = authority_params(&authority.name, authority.made);
    Ok(Issuer::new(params, key))
}

fn key_of(authority: &AuthorityRecord) -> Result<KeyPair, IssueError> {
    let key = authority.key.as_deref().ok_or(IssueError::NoAuthority)?;
    let der = rustls::pki_types::PrivatePkcs8KeyDer::from(key);
    Ok(KeyPair::from_pkcs8_der_and_sign_algo(
        &der,
        &PKCS_ECDSA_P256_SHA256,
    )?)
}

fn authority_params(name: &str, made: u64) -> CertificateParams {
    let mut params = params(made.saturating_sub(SKEW), made + AUTHORITY_LIFETIME);
    params.distinguished_name = named(name);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params
}

fn params(not_before: u64, not_after: u64) -> CertificateParams {
    let at = |second| rcgen::date_time_ymd(1970, 1, 1) + Duration::from_secs(second);
    let mut params = CertificateParams::default();
    params.not_before = at(not_before);
    params.not_after = at(not_after);
    let mut serial = crate::random::bytes::<16>();
    // Positive, and of full length.
    serial[0] = serial[0] & 0x7f | 0x40;
    params.serial_number = Some(SerialNumber::from_slice(&serial));
    params
}

fn named(name: &str) -> DistinguishedName {
    let mut distinguished = DistinguishedName::new();
    distinguished.push(DnType::CommonName, name);
    distinguished
}
