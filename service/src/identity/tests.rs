//! Processes with certificates of a test's own authority, over real connections.

use std::fs;
use std::sync::Mutex;
use std::time::SystemTime;

use bytes::Bytes;
use darner_proto::id::Role;
use http::Uri;
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, KeyPair, SanType,
};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;
use tower::Service as _;

use super::issued::{IssueError, Issued, Issuer, Issuing};
use super::*;
use crate::settings::IdentityFiles;

const MIRROR: PeerRole = PeerRole::Member(Role::Mirror);
const SEED: PeerRole = PeerRole::Member(Role::Seed);
const SCHEDULER: PeerRole = PeerRole::Member(Role::Scheduler);

/// An authority.
struct Authority {
    key: KeyPair,
    name: &'static str,
}

/// A certificate to be.
struct Order<'a> {
    name: &'a str,
    /// Seconds from now.
    counts: std::ops::Range<i64>,
}

impl Authority {
    fn new(name: &'static str) -> Self {
        let key = KeyPair::generate().unwrap();
        Self { key, name }
    }

    fn params(&self) -> CertificateParams {
        let mut params = CertificateParams::default();
        params.distinguished_name = rcgen::DistinguishedName::new();
        params
            .distinguished_name
            .push(DnType::CommonName, self.name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params
    }

    fn certificate(&self) -> Bytes {
        let certificate = self.params().self_signed(&self.key).unwrap();
        certificate.der().to_vec().into()
    }

    /// Its certificate by another authority.
    fn signed_by(&self, other: &Self) -> Bytes {
        let certificate = self.params().signed_by(&self.key, &other.issuer());
        certificate.unwrap().der().to_vec().into()
    }

    fn issuer(&self) -> rcgen::Issuer<'_, &KeyPair> {
        rcgen::Issuer::new(self.params(), &self.key)
    }

    fn signs(&self, key: &impl rcgen::PublicKeyData, order: &Order<'_>) -> Bytes {
        let at = |seconds: i64| {
            let now = SystemTime::now();
            let span = Duration::from_secs(seconds.unsigned_abs());
            let then = if seconds < 0 { now - span } else { now + span };
            then.into()
        };
        let mut params = CertificateParams::default();
        params.not_before = at(order.counts.start);
        params.not_after = at(order.counts.end);
        params.subject_alt_names = vec![SanType::URI(order.name.try_into().unwrap())];
        params.extended_key_usages = vec![
            ExtendedKeyUsagePurpose::ServerAuth,
            ExtendedKeyUsagePurpose::ClientAuth,
        ];
        let certificate = params.signed_by(key, &self.issuer()).unwrap();
        certificate.der().to_vec().into()
    }

    /// Chain and key, PEM.
    fn pem(&self, role: PeerRole, id: &str) -> (String, String) {
        let name = peer::uri(role, &id.parse().unwrap());
        let key = KeyPair::generate().unwrap();
        let order = Order {
            name: &name,
            counts: -60..3600,
        };
        let chain = issued::pem_of(&[self.signs(&key, &order)]);
        (chain, key.serialize_pem())
    }

    fn trust(&self) -> Trust {
        Trust {
            authorities: vec![self.certificate()],
            ..Trust::default()
        }
    }

    fn identity(&self, role: PeerRole, id: &str) -> Identity {
        let (chain, key) = self.pem(role, id);
        identity(&chain, &key, self.trust())
    }
}

fn identity(chain: &str, key: &str, trust: Trust) -> Identity {
    let material = Material::from_pem(chain.as_bytes(), key.as_bytes(), &tls::provider()).unwrap();
    Identity::new(material, trust, false, &IdentityMetrics::default()).unwrap()
}

/// A listener of `server`, which answers whoever it takes in with one byte for each that comes.
async fn listen(server: &Identity, callers: Callers, roles: &'static [PeerRole]) -> Uri {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let server = server.clone();
    Shutdown::default().spawn(async move {
        loop {
            let (tcp, _) = listener.accept().await.unwrap();
            let accepted = server.accept(tcp, Protocol::Grpc, callers, roles).await;
            if let Ok(stream) = accepted {
                Shutdown::default().spawn(answer(stream));
            }
        }
    });
    format!("https://{address}").parse().unwrap()
}

async fn answer(mut stream: Stream) {
    let mut byte = [0];
    while stream.read_exact(&mut byte).await.is_ok() && stream.write_all(&byte).await.is_ok() {}
}

/// A connection that has carried a byte there and back.
async fn reach(client: &Identity, to: &Uri, roles: &'static [PeerRole]) -> Result<Stream, String> {
    let mut connector = client.connector(Protocol::Grpc, roles);
    let connected = connector.call(to.clone()).await;
    let mut stream = connected.map_err(|error| error.to_string())?.into_inner();
    match echo(&mut stream).await {
        true => Ok(stream),
        false => Err("sent away".to_owned()),
    }
}

async fn echo(stream: &mut (impl tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin)) -> bool {
    let (sent, mut came) = ([7], [0]);
    stream.write_all(&sent).await.is_ok()
        && stream.flush().await.is_ok()
        && stream.read_exact(&mut came).await.is_ok()
        && came == sent
}

#[tokio::test]
async fn members_reach_each_other_and_know_whom() {
    let ca = Authority::new("one");
    let server = listen(
        &ca.identity(SEED, "seed-1"),
        Callers::Known,
        PeerRole::NODES,
    )
    .await;
    let client = ca.identity(MIRROR, "mirror-1");
    let stream = reach(&client, &server, PeerRole::NODES).await.unwrap();
    let Caller::Known(peer) = stream.caller() else {
        panic!("{:?}", stream.caller());
    };
    assert_eq!((peer.role, peer.id.as_str()), (SEED, "seed-1"));
}

#[tokio::test]
async fn a_wrong_role_is_refused_by_either_side() {
    let ca = Authority::new("one");
    let scheduler = ca.identity(SCHEDULER, "scheduler-1");
    let open = listen(&scheduler, Callers::Known, &[MIRROR, SCHEDULER]).await;
    let client = ca.identity(MIRROR, "mirror-1");
    reach(&client, &open, PeerRole::SCHEDULER).await.unwrap();
    let refused = reach(&client, &open, PeerRole::MANAGER).await.unwrap_err();
    assert!(refused.contains("not who is looked for"), "{refused}");
    let closed = listen(&scheduler, Callers::Known, PeerRole::MANAGER).await;
    reach(&client, &closed, PeerRole::SCHEDULER)
        .await
        .unwrap_err();
}

#[tokio::test]
async fn who_has_no_certificate_of_the_cluster_is_refused() {
    let (ours, theirs) = (Authority::new("one"), Authority::new("one"));
    let server = ours.identity(SEED, "seed-1");
    let known = listen(&server, Callers::Known, PeerRole::NODES).await;
    let joining = listen(&server, Callers::Joining, PeerRole::NODES).await;
    // Of another authority, even one that trusts ours.
    let (chain, key) = theirs.pem(MIRROR, "mirror-1");
    let stranger = identity(&chain, &key, {
        let mut trust = theirs.trust();
        trust.authorities.push(ours.certificate());
        trust
    });
    for to in [&known, &joining] {
        reach(&stranger, to, PeerRole::NODES).await.unwrap_err();
    }
    // Without one at all: whoever comes to join is let in, and nobody else.
    let config = tls::joining_client(None, &Arc::new(tls::provider())).unwrap();
    for (to, welcome) in [(&known, false), (&joining, true)] {
        let tcp = TcpStream::connect(to.authority().unwrap().as_str());
        let connector = tokio_rustls::TlsConnector::from(config.clone());
        let name = session_name("x");
        let mut tls = connector.connect(name, tcp.await.unwrap()).await.unwrap();
        assert_eq!(echo(&mut tls).await, welcome);
    }
    // In plain text.
    for to in [&known, &joining] {
        let tcp = TcpStream::connect(to.authority().unwrap().as_str());
        assert!(!echo(&mut tcp.await.unwrap()).await);
    }
}

#[tokio::test]
async fn a_revocation_ends_what_is_open_and_refuses_what_comes() {
    let ca = Authority::new("one");
    let server = ca.identity(SEED, "seed-1");
    let at = listen(&server, Callers::Known, PeerRole::NODES).await;
    let (gone, stays) = (ca.identity(MIRROR, "gone"), ca.identity(MIRROR, "stays"));
    let mut open = reach(&gone, &at, PeerRole::NODES).await.unwrap();
    let mut other = reach(&stays, &at, PeerRole::NODES).await.unwrap();
    let mut trust = ca.trust();
    trust
        .revoked
        .insert("gone".parse().unwrap(), peer::unix_now());
    server.learn(&trust);
    assert!(!echo(&mut open).await);
    assert!(echo(&mut other).await);
    reach(&gone, &at, PeerRole::NODES).await.unwrap_err();
    reach(&stays, &at, PeerRole::NODES).await.unwrap();
    // A client refuses a revoked server as well.
    trust.revoked = [("seed-1".parse().unwrap(), peer::unix_now())].into();
    stays.learn(&trust);
    assert!(!echo(&mut other).await);
    let refused = reach(&stays, &at, PeerRole::NODES).await.unwrap_err();
    assert!(refused.contains("revoked"), "{refused}");
}

#[tokio::test]
async fn a_rotation_of_authorities_cuts_nobody_off() {
    let (old, new) = (Authority::new("old"), Authority::new("new"));
    // Renewed already: its chain leads from the old authority to the new one.
    let id = peer::uri(SEED, &"seed-1".parse().unwrap());
    let key = KeyPair::generate().unwrap();
    let order = Order {
        name: &id,
        counts: -60..3600,
    };
    let chain = [new.signs(&key, &order), new.signed_by(&old)];
    let both = Trust {
        authorities: vec![old.certificate(), new.certificate()],
        ..Trust::default()
    };
    let renewed = identity(&issued::pem_of(&chain), &key.serialize_pem(), both.clone());
    // Has heard of nothing yet.
    let behind = old.identity(MIRROR, "mirror-1");
    let at = listen(&renewed, Callers::Known, PeerRole::NODES).await;
    let mut open = reach(&behind, &at, PeerRole::NODES).await.unwrap();
    let back = listen(&behind, Callers::Known, PeerRole::NODES).await;
    reach(&renewed, &back, PeerRole::NODES).await.unwrap();
    behind.learn(&both);
    reach(&behind, &at, PeerRole::NODES).await.unwrap();
    assert!(echo(&mut open).await);
    // The old authority's time is over.
    renewed.learn(&new.trust());
    reach(&behind, &at, PeerRole::NODES).await.unwrap_err();
}

/// Three files, and settings that name them.
struct Files {
    directory: tempfile::TempDir,
    settings: Settings,
}

impl Files {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let sources = crate::config::Sources {
            flags: vec![
                crate::config::Flag::named("", "data_dir", directory.path().to_string_lossy()),
                crate::config::Flag::set("node.id=mirror-1"),
            ],
            ..crate::config::Sources::default()
        };
        let mut settings = crate::config::load(crate::config::Command::Up, &sources).unwrap();
        settings.identity.files = Some(IdentityFiles {
            certificate: directory.path().join("certificate.pem"),
            key: directory.path().join("key.pem"),
            ca: directory.path().join("ca.pem"),
        });
        Self {
            directory,
            settings,
        }
    }

    fn write(&self, certificate: &str, key: &str, ca: &str) {
        for (name, text) in [("certificate", certificate), ("key", key), ("ca", ca)] {
            let path = self.directory.path().join(format!("{name}.pem"));
            fs::write(path, text).unwrap();
        }
    }

    async fn open(&self, shutdown: &Shutdown) -> Result<Identity, IdentityError> {
        let metrics = IdentityMetrics::default();
        Identity::open(&self.settings, Role::Mirror, &metrics, shutdown).await
    }
}

#[tokio::test]
async fn bad_key_material_is_no_start_and_no_plain_text() {
    let ca = Authority::new("one");
    let authorities = issued::pem_of(&[ca.certificate()]);
    let (chain, key) = ca.pem(MIRROR, "mirror-1");
    let signed = |name: &str, counts| {
        let key = KeyPair::generate().unwrap();
        let order = Order { name, counts };
        let chain = issued::pem_of(&[ca.signs(&key, &order)]);
        (chain, key.serialize_pem())
    };
    let mine = "spiffe://cluster/darner/mirror/mirror-1";
    let over = signed(mine, -3600..-60);
    let early = signed(mine, 3600..7200);
    let nameless = signed("https://mirror-1", -60..3600);
    let role = ca.pem(SEED, "mirror-1");
    let node = ca.pem(MIRROR, "mirror-2");
    let other_key = ca.pem(MIRROR, "mirror-1").1;
    let other_ca = issued::pem_of(&[Authority::new("two").certificate()]);
    let files = Files::new();
    let shutdown = Shutdown::default();
    files.open(&shutdown).await.expect_err("no files");
    let wrong: [(&str, &str, &str, &str); 10] = [
        ("", &key, &authorities, "no certificate in it"),
        (&chain, "", &authorities, "key is not PEM"),
        (&chain, &key, "", "ca is not PEM"),
        (&chain, &other_key, &authorities, "cannot be used with"),
        (&chain, &key, &other_ca, "does not count"),
        (&over.0, &over.1, &authorities, "does not count"),
        (&early.0, &early.1, &authorities, "does not count"),
        (&nameless.0, &nameless.1, &authorities, "one URI name"),
        (&role.0, &role.1, &authorities, "is of seed mirror-1"),
        (&node.0, &node.1, &authorities, "is of mirror mirror-2"),
    ];
    for (chain, key, ca, message) in wrong {
        files.write(chain, key, ca);
        let error = files.open(&shutdown).await.expect_err(message);
        let text = crate::telemetry::with_causes(&error).to_string();
        assert!(text.contains(message), "{text} is not {message}");
    }
    files.write(&chain, &key, &authorities);
    assert!(files.open(&shutdown).await.unwrap().is_secure());
    // What was had from a manager earlier and is damaged is not had anew, behind anybody's back.
    let mut joined = Files::new();
    joined.settings.identity.files = None;
    joined.settings.manager.address = Some("https://127.0.0.1:9".to_owned());
    let kept = joined.directory.path().join("identity-mirror.pem");
    fs::write(kept, "-----BEGIN").unwrap();
    let error = joined.open(&shutdown).await.unwrap_err();
    assert!(matches!(error, IdentityError::Material { .. }), "{error:?}");
}

#[tokio::test(start_paused = true)]
async fn files_are_read_again_when_they_are_replaced_by_good_ones() {
    let ca = Authority::new("one");
    let authorities = issued::pem_of(&[ca.certificate()]);
    let (chain, key) = ca.pem(MIRROR, "mirror-1");
    let files = Files::new();
    let shutdown = Shutdown::default();
    files.write(&chain, &key, &authorities);
    let identity = files.open(&shutdown).await.unwrap();
    let inner = identity.inner.clone().unwrap();
    let held = || inner.current().material.certified.cert.clone();
    let first = held();
    for (chain, key) in [ca.pem(MIRROR, "mirror-2"), (chain, ca.pem(MIRROR, "x").1)] {
        files.write(&chain, &key, &authorities);
        tokio::time::sleep(Duration::from_secs(60)).await;
        assert_eq!(held(), first);
    }
    let (chain, key) = ca.pem(MIRROR, "mirror-1");
    files.write(&chain, &key, &authorities);
    let taken = async {
        while held() == first {
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
    };
    timeout(Duration::from_secs(600), taken).await.unwrap();
}

/// Issues certificates for an hour, but not at the first request after the first.
#[derive(Debug)]
struct Renewer {
    asked: Mutex<u32>,
    keys: Mutex<Vec<Vec<u8>>>,
    authority: rcgen::KeyPair,
}

impl Issuer for Renewer {
    fn issue(&self, request: Vec<u8>) -> Issuing<'_> {
        Box::pin(async move {
            let asked = {
                let mut asked = self.asked.lock().unwrap();
                *asked += 1;
                *asked
            };
            if asked == 2 {
                let message = "away".to_owned();
                return Err(IssueError { message });
            }
            self.keys.lock().unwrap().push(request.clone());
            let key = KeyPair::from_pkcs8_der_and_sign_algo(
                &self.authority.serialize_der().into(),
                &rcgen::PKCS_ECDSA_P256_SHA256,
            );
            let authority = Authority {
                key: key.unwrap(),
                name: "one",
            };
            let request =
                rcgen::CertificateSigningRequestParams::from_der(&request.into()).unwrap();
            let order = Order {
                name: "spiffe://cluster/darner/mirror/mirror-1",
                counts: -60..3600,
            };
            Ok(Issued {
                chain: vec![authority.signs(&request.public_key, &order)],
                authorities: vec![authority.certificate()],
            })
        })
    }
}

#[tokio::test(start_paused = true)]
async fn a_certificate_is_renewed_with_a_new_key_after_a_third_and_tried_again() {
    let renewer = Arc::new(Renewer {
        asked: Mutex::default(),
        keys: Mutex::default(),
        authority: KeyPair::generate().unwrap(),
    });
    let shutdown = Shutdown::default();
    let metrics = IdentityMetrics::default();
    let begun = tokio::time::Instant::now();
    let identity = Identity::issued(renewer.clone(), &metrics, &shutdown)
        .await
        .unwrap();
    let inner = identity.inner.clone().unwrap();
    let held = || inner.current().material.certified.cert.clone();
    let first = held();
    while held() == first {
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
    let after = begun.elapsed().as_secs();
    // A third of an hour and a minute but for that minute, and a thirtieth at most for the node's own
    // delay; and as long again after the failed try, since the system's clock stands still here.
    assert!((2 * 1160..=2 * 1290 + 40).contains(&after), "{after}");
    assert_eq!(*renewer.asked.lock().unwrap(), 3);
    let keys = renewer.keys.lock().unwrap();
    assert_ne!(keys[0], keys[1]);
}
