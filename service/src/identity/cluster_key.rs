//! Certificates without a manager: a key that all members have in a file makes every one of them the
//! same authority, and each issues itself what it needs.
//!
//! Whoever has the key is a member, under any name; whoever has not gets nothing from any port. There
//! is no revocation: the key is replaced, everywhere at once.

use std::time::Duration;

use aws_lc_rs::hkdf;
use bytes::Bytes;
use darner_proto::id::HostId;
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa,
    KeyPair, KeyUsagePurpose, PKCS_ED25519, PublicKeyData as _, SanType, SerialNumber,
    SubjectPublicKeyInfo,
};
use rustls::pki_types::PrivatePkcs8KeyDer;
use x509_parser::prelude::{FromDer as _, X509CertificationRequest};

use super::issued::{IssueError, Issued, Issuer, Issuing};
use super::peer::{PeerRole, unix_now, uri};
use crate::secret::Secret;

/// Certificates count for so long; they are renewed after a third of it.
const LIFETIME: u64 = 7 * 24 * 3600;
/// Clocks of two hosts may be this far apart.
const SKEW: u64 = 300;
/// All members make the authority's certificate alike, so it counts at any time: from the beginning
/// of 2020 on, for a hundred years.
const AUTHORITY_TIME: (u64, u64) = (1_577_836_800, 1_577_836_800 + 100 * 365 * 24 * 3600);
/// What an Ed25519 private key looks like in PKCS #8 (RFC 8410) before its 32 bytes.
const PKCS8: [u8; 16] = [
    0x30, 0x2e, 0x02, 0x01, 0x00, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x04, 0x22, 0x04, 0x20,
];

/// Issues certificates to this process.
#[derive(Debug)]
pub(super) struct ClusterKey {
    key: Secret,
    role: PeerRole,
    id: HostId,
}

impl ClusterKey {
    /// For `role` of the node `id`, by the key in the file.
    pub(super) fn new(key: Secret, role: PeerRole, id: HostId) -> Self {
        Self { key, role, id }
    }

    fn certificate(&self, request: &[u8]) -> Result<Issued, rcgen::Error> {
        let unusable = |_| rcgen::Error::CouldNotParseCertificationRequest;
        let (_, request) = X509CertificationRequest::from_der(request).map_err(unusable)?;
        let public = request.certification_request_info.subject_pki.raw;
        let public = SubjectPublicKeyInfo::from_der(public)?;
        let authority = self.authority()?;
        let certificate = self
            .own(&public, unix_now())?
            .signed_by(&public, &authority)?;
        let root = authority_params()?.self_signed(authority.key())?;
        Ok(Issued {
            chain: vec![Bytes::copy_from_slice(certificate.der())],
            authorities: vec![Bytes::copy_from_slice(root.der())],
        })
    }

    fn authority(&self) -> Result<rcgen::Issuer<'static, KeyPair>, rcgen::Error> {
        let mut seed = [0; 32];
        let salt = hkdf::Salt::new(hkdf::HKDF_SHA256, b"darner cluster key");
        let expanded = salt.extract(self.key.reveal().as_bytes());
        let expanded = expanded.expand(&[b"authority"], hkdf::HKDF_SHA256);
        let filled = expanded.and_then(|expanded| expanded.fill(&mut seed));
        filled.map_err(|_| rcgen::Error::KeyGenerationUnavailable)?;
        let der = [&PKCS8[..], &seed].concat();
        let der = PrivatePkcs8KeyDer::from(der);
        let key = KeyPair::from_pkcs8_der_and_sign_algo(&der, &PKCS_ED25519)?;
        Ok(rcgen::Issuer::new(authority_params()?, key))
    }

    fn own(
        &self,
        public: &SubjectPublicKeyInfo,
        now: u64,
    ) -> Result<CertificateParams, rcgen::Error> {
        let mut params = params(now.saturating_sub(SKEW), now + LIFETIME);
        // Its own keys have numbers of their own.
        let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, public.der_bytes());
        params.serial_number = Some(SerialNumber::from_slice(&positive(digest.as_ref())));
        params.subject_alt_names = vec![SanType::URI(uri(self.role, &self.id).try_into()?)];
        params.distinguished_name = named(&format!("Darner {}", self.role));
        params.is_ca = IsCa::ExplicitNoCa;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![
            ExtendedKeyUsagePurpose::ServerAuth,
            ExtendedKeyUsagePurpose::ClientAuth,
        ];
        Ok(params)
    }
}

impl Issuer for ClusterKey {
    fn issue(&self, request: Vec<u8>) -> Issuing<'_> {
        Box::pin(async move {
            self.certificate(&request).map_err(|error| IssueError {
                message: format!("a certificate cannot be made with the cluster key: {error}"),
            })
        })
    }
}

fn authority_params() -> Result<CertificateParams, rcgen::Error> {
    let mut params = params(AUTHORITY_TIME.0, AUTHORITY_TIME.1);
    params.serial_number = Some(SerialNumber::from_slice(&[1]));
    params.distinguished_name = named("Darner cluster key");
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    Ok(params)
}

fn params(not_before: u64, not_after: u64) -> CertificateParams {
    let at = |second| rcgen::date_time_ymd(1970, 1, 1) + Duration::from_secs(second);
    let mut params = CertificateParams::default();
    params.not_before = at(not_before);
    params.not_after = at(not_after);
    params
}

/// The first 16 bytes as a positive number of full length.
fn positive(digest: &[u8]) -> Vec<u8> {
    let mut serial = digest[..16].to_vec();
    serial[0] = serial[0] & 0x7f | 0x40;
    serial
}

fn named(name: &str) -> DistinguishedName {
    let mut distinguished = DistinguishedName::new();
    distinguished.push(DnType::CommonName, name);
    distinguished
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use darner_proto::id::Role;

    use super::super::{Callers, Identity, IdentityMetrics, PeerRole, Protocol, Refused};
    use super::*;
    use crate::shutdown::Shutdown;

    async fn identity(key: &str, id: &str) -> Identity {
        let issuer = ClusterKey::new(Secret::new(key), Role::Mirror.into(), id.parse().unwrap());
        let (metrics, shutdown) = (IdentityMetrics::default(), Shutdown::default());
        Identity::issued(Arc::new(issuer), &metrics, &shutdown)
            .await
            .unwrap()
    }

    /// What the server makes of the client, and whether the client has taken the server.
    async fn meet(server: &Identity, client: &Identity) -> (Result<HostId, Refused>, bool) {
        use tower::Service as _;
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("https://{}/", listener.local_addr().unwrap());
        let mut connector = client.connector(Protocol::Http1, PeerRole::NODES);
        let accepting = async {
            let (tcp, _) = listener.accept().await.unwrap();
            let accepted = server
                .accept(tcp, Protocol::Http1, Callers::Known, PeerRole::NODES)
                .await;
            accepted.map(|stream| match stream.caller() {
                super::super::Caller::Known(peer) => peer.id,
                other => panic!("{other:?}"),
            })
        };
        let (accepted, connected) = tokio::join!(accepting, connector.call(url.parse().unwrap()));
        (accepted, connected.is_ok())
    }

    /// Bytes of a handshake and one byte each way, from the client and from the server. The way there
    /// leads over `way`, so that the second goes on with the session of the first.
    async fn cost(
        server: &Identity,
        client: &Identity,
        way: &tokio::net::TcpListener,
    ) -> (u64, u64) {
        use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
        use tower::Service as _;
        let behind = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let passing = async {
            let (mut from, _) = way.accept().await.unwrap();
            let to = behind.local_addr().unwrap();
            let mut to = tokio::net::TcpStream::connect(to).await.unwrap();
            tokio::io::copy_bidirectional(&mut from, &mut to)
                .await
                .unwrap()
        };
        let serving = async {
            let (tcp, _) = behind.accept().await.unwrap();
            let accepted = server.accept(tcp, Protocol::Http1, Callers::Known, PeerRole::NODES);
            let mut stream = accepted.await.unwrap();
            let byte = stream.read_u8().await.unwrap();
            stream.write_u8(byte).await.unwrap();
            stream.shutdown().await.unwrap();
        };
        let asking = async {
            let url = format!("https://{}/", way.local_addr().unwrap());
            let mut connector = client.connector(Protocol::Http1, PeerRole::NODES);
            let stream = connector.call(url.parse().unwrap()).await.unwrap();
            let mut stream = stream.into_inner();
            stream.write_u8(1).await.unwrap();
            assert_eq!(stream.read_u8().await.unwrap(), 1);
            stream.shutdown().await.unwrap();
        };
        tokio::join!(passing, serving, asking).0
    }

    #[tokio::test]
    async fn a_handshake_that_goes_on_with_a_session_costs_little() {
        let (one, other) = (
            identity("the key", "one").await,
            identity("the key", "other").await,
        );
        let way = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (first, second) = (
            cost(&one, &other, &way).await,
            cost(&one, &other, &way).await,
        );
        println!("client and server sent {first:?} bytes, then {second:?}");
        // The simulation of membership counts with these.
        assert!(second.0 <= 960 && second.1 <= 920, "{second:?}");
    }

    #[tokio::test]
    async fn who_has_the_key_is_a_member_and_nobody_else() {
        let (one, other) = (
            identity("the key", "one").await,
            identity("the key", "other").await,
        );
        let (accepted, connected) = meet(&one, &other).await;
        assert_eq!((accepted.unwrap().as_str(), connected), ("other", true));
        let stranger = identity("another key", "other").await;
        assert_eq!(
            meet(&one, &stranger).await,
            (Err(Refused::Handshake), false)
        );
        assert_eq!(
            meet(&stranger, &one).await,
            (Err(Refused::Handshake), false)
        );
    }
}
