//! A certificate that somebody issues, and issues again after a third of its time.

use std::fmt;
use std::future::Future;
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use darner_proto::trust::Trust;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio::time::sleep;

use super::material::{Material, MaterialError};
use super::peer::{self, Peer};
use super::{Identity, IdentityError, IdentityMetrics, tls};
use crate::replace::replace;
use crate::shutdown::Shutdown;

/// Between tries to renew: a hundredth of the certificate's time, within these.
const RETRY: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(600));

/// What an issuer gives.
#[derive(Debug, Clone)]
pub struct Issued {
    /// The certificate, and what leads from it to older authorities; DER.
    pub chain: Vec<Bytes>,
    /// Every authority whose certificates count.
    pub authorities: Vec<Bytes>,
}

/// Nothing is issued.
#[derive(Debug, thiserror::Error)]
#[error("{message}")]
pub struct IssueError {
    /// Why.
    pub message: String,
}

/// An answer that is on its way.
pub type Issuing<'a> = Pin<Box<dyn Future<Output = Result<Issued, IssueError>> + Send + 'a>>;

/// Whoever issues certificates: the manager over the network, or in this process.
pub trait Issuer: fmt::Debug + Send + Sync + 'static {
    /// A certificate for the key in `request` (PKCS #10, DER) and whoever this issuer takes the caller
    /// for.
    fn issue(&self, request: Vec<u8>) -> Issuing<'_>;
}

/// Where a certificate is kept between two lives of a process.
#[derive(Debug, Clone)]
pub(super) struct Kept {
    /// Key and certificates, PEM, in one file, so that they always go together.
    pub(super) own: PathBuf,
    /// Certificates of authorities, PEM.
    pub(super) authorities: PathBuf,
}

/// A certificate with its key, as PEM and ready to use.
pub(super) struct Obtained {
    pub(super) material: Material,
    pub(super) trust: Trust,
    pub(super) pem: String,
}

impl Identity {
    /// An identity that `issuer` in this very process issues, kept nowhere.
    ///
    /// # Errors
    /// It issues none.
    pub async fn issued(
        issuer: Arc<dyn Issuer>,
        metrics: &IdentityMetrics,
        shutdown: &Shutdown,
    ) -> Result<Self, IdentityError> {
        let obtained = obtain(issuer.as_ref())
            .await
            .map_err(IdentityError::Issue)?;
        let identity = Self::new(obtained.material, obtained.trust, false, metrics);
        let identity = identity.map_err(|source| IdentityError::Material {
            place: "this process".to_owned(),
            source,
        })?;
        identity.maintain(issuer, None, shutdown);
        Ok(identity)
    }

    /// Renews it in time, keeps what there is to keep, and ends what does not count, until the
    /// process drains.
    pub(super) fn maintain(
        &self,
        issuer: Arc<dyn Issuer>,
        kept: Option<Kept>,
        shutdown: &Shutdown,
    ) {
        let (identity, ending) = (self.clone(), shutdown.clone());
        shutdown.spawn(async move {
            let renewing = identity.renew(issuer.as_ref(), kept.as_ref());
            tokio::select! {
                () = renewing => {}
                () = identity.keep(&ending) => {}
                () = identity.keep_authorities(kept.as_ref()) => {}
            }
        });
    }

    async fn renew(&self, issuer: &dyn Issuer, kept: Option<&Kept>) {
        let Some(inner) = &self.inner else { return };
        loop {
            let held = inner.current().material.peer.clone();
            sleep(until_renewal(&held, peer::unix_now())).await;
            let renewed = match obtain(issuer).await {
                Ok(obtained) => self.take(obtained, &held, kept).await,
                Err(error) => Err(error.to_string()),
            };
            match renewed {
                Ok(()) => {
                    let role = held.role;
                    inner.metrics.renewed(role);
                    tracing::info!(%role, id = %held.id, "certificate renewed");
                }
                Err(error) => {
                    let until = humantime::format_rfc3339_seconds(held.expiry());
                    tracing::warn!(role = %held.role, error, %until, "the certificate is not renewed; trying again");
                    sleep(retry(&held)).await;
                }
            }
        }
    }

    async fn take(
        &self,
        obtained: Obtained,
        held: &Peer,
        kept: Option<&Kept>,
    ) -> Result<(), String> {
        let Some(inner) = &self.inner else {
            return Ok(());
        };
        let peer = &obtained.material.peer;
        if (&peer.id, peer.role) != (&held.id, held.role) {
            return Err(format!("it is of {} {}", peer.role, peer.id));
        }
        let mut trust = inner.current().trust.clone();
        trust.authorities = obtained.trust.authorities;
        let taken = inner.replace(obtained.material, trust);
        taken.map_err(|error| crate::telemetry::with_causes(&error).to_string())?;
        match kept {
            Some(kept) => write(kept.own.clone(), obtained.pem).await,
            None => Ok(()),
        }
    }

    /// Writes the authorities down whenever they have changed.
    async fn keep_authorities(&self, kept: Option<&Kept>) {
        let Some(inner) = &self.inner else { return };
        loop {
            inner.changed.notified().await;
            let Some(kept) = kept else { continue };
            let pem = pem_of(&inner.current().trust.authorities);
            if let Err(error) = write(kept.authorities.clone(), pem).await {
                let path = kept.authorities.display();
                tracing::warn!(%path, error, "the authorities are not kept");
            }
        }
    }
}

/// Asks for a certificate of a new key, and checks what comes.
pub(super) async fn obtain(issuer: &dyn Issuer) -> Result<Obtained, IssueError> {
    let (key, request) = super::request().map_err(|error| unusable(&error))?;
    let issued = issuer.issue(request).await?;
    finish(&key, issued).map_err(|error| unusable(&error))
}

/// Puts key and certificate together, which must be right by what came with them.
pub(super) fn finish(key: &rcgen::KeyPair, issued: Issued) -> Result<Obtained, MaterialError> {
    let provider = tls::provider();
    let chain = issued.chain.iter();
    let chain = chain
        .map(|der| CertificateDer::from(der.to_vec()))
        .collect();
    let der = PrivateKeyDer::try_from(key.serialize_der()).map_err(|why| MaterialError::Pem {
        what: "key",
        why: why.to_owned(),
    })?;
    let material = Material::new(chain, der, &provider)?;
    let trust = Trust {
        authorities: issued.authorities,
        ..Trust::default()
    };
    material.check(&super::material::roots(&trust)?, &provider)?;
    Ok(Obtained {
        material,
        trust,
        pem: format!("{}{}", key.serialize_pem(), pem_of(&issued.chain)),
    })
}

fn unusable(error: &MaterialError) -> IssueError {
    IssueError {
        message: crate::telemetry::with_causes(error).to_string(),
    }
}

/// Certificates as PEM (RFC 7468).
pub(super) fn pem_of(certificates: &[Bytes]) -> String {
    let pem = |der: &Bytes| {
        let block = base64(der);
        format!("-----BEGIN CERTIFICATE-----\n{block}-----END CERTIFICATE-----\n")
    };
    certificates.iter().map(pem).collect()
}

/// Base64 in lines of 64 (RFC 4648, section 4).
fn base64(der: &[u8]) -> String {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::new();
    for (index, three) in der.chunks(3).enumerate() {
        let byte = |at: usize| u32::from(three.get(at).copied().unwrap_or(0));
        let bits = byte(0) << 16 | byte(1) << 8 | byte(2);
        for place in 0..4 {
            let letter = ALPHABET[(bits >> (18 - 6 * place) & 63) as usize];
            text.push(if place <= three.len() {
                char::from(letter)
            } else {
                '='
            });
        }
        if index % 16 == 15 {
            text.push('\n');
        }
    }
    if !text.ends_with('\n') {
        text.push('\n');
    }
    text
}

pub(super) async fn write(path: PathBuf, text: String) -> Result<(), String> {
    let written = tokio::task::spawn_blocking(move || replace(&path, text.as_bytes())).await;
    match written {
        Ok(written) => written.map_err(|error| error.to_string()),
        Err(error) => Err(error.to_string()),
    }
}

/// A third of its time after its beginning, and up to a thirtieth later, so that processes that
/// joined together do not renew together.
fn until_renewal(held: &Peer, now: u64) -> Duration {
    let time = Duration::from_secs(held.not_after.saturating_sub(held.not_before));
    let hash = darner_proto::digest::Digest::sha256(held.id.as_str().as_bytes()).to_wire();
    let later = time / 30 * u32::from(hash.last().copied().unwrap_or(0)) / 255;
    let at = Duration::from_secs(held.not_before) + time / 3 + later;
    at.saturating_sub(Duration::from_secs(now))
}

fn retry(held: &Peer) -> Duration {
    let time = Duration::from_secs(held.not_after.saturating_sub(held.not_before));
    (time / 100).clamp(RETRY.0, RETRY.1)
}

#[cfg(test)]
mod tests {
    use darner_proto::id::Role;

    use super::*;

    #[test]
    fn a_certificate_is_renewed_after_a_third_of_its_time() {
        let week = 7 * 24 * 3600;
        let held = Peer {
            id: "n".parse().unwrap(),
            role: Role::Mirror.into(),
            not_before: 1000,
            not_after: 1000 + week,
        };
        let wait = until_renewal(&held, 1000).as_secs();
        assert!(
            (week / 3..=week / 3 + week / 30 + 1).contains(&wait),
            "{wait}"
        );
        assert_eq!(until_renewal(&held, 1000 + week), Duration::ZERO);
        assert_eq!(retry(&held), RETRY.1);
    }

    #[test]
    fn pem_is_what_others_read() {
        for length in [1, 2, 3, 47, 48, 49, 400] {
            let der = Bytes::from(vec![7; length]);
            let pem = pem_of(&[der.clone(), der.clone()]);
            let read = super::super::material::certificates_of("test", pem.as_bytes()).unwrap();
            assert_eq!(read.len(), 2);
            assert_eq!(read[0].as_ref(), &der[..]);
        }
    }
}
