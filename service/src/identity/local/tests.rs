//! What a client that trusts the authority takes, over a real connection.

use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt as _;

use rustls::pki_types::ServerName;
use rustls::{ClientConfig, RootCertStore};
use tokio::net::TcpListener;
use tokio_rustls::TlsConnector;

use super::*;

const LOOPBACK: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

fn authority_of(directory: &Path) -> CertificateDer<'static> {
    let text = fs::read(directory.join(AUTHORITY)).unwrap();
    CertificateDer::from_pem_slice(&text).unwrap()
}

fn trusting(directory: &Path) -> TlsConnector {
    let mut roots = RootCertStore::empty();
    roots.add(authority_of(directory)).unwrap();
    let provider = Arc::new(tls::provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    TlsConnector::from(Arc::new(config))
}

/// Whether a client that trusts what is in `directory` takes `local` for `name`.
async fn takes(local: &Local, directory: &Path, name: &str) -> bool {
    let listener = TcpListener::bind((LOOPBACK, 0)).await.unwrap();
    let address: SocketAddr = listener.local_addr().unwrap();
    let name = ServerName::try_from(name.to_owned()).unwrap();
    let serving = async {
        let (tcp, _) = listener.accept().await.unwrap();
        local.accept(tcp).await.is_ok()
    };
    let connecting = async {
        let tcp = TcpStream::connect(address).await.unwrap();
        trusting(directory).connect(name, tcp).await.is_ok()
    };
    tokio::join!(serving, connecting).1
}

#[tokio::test]
async fn who_trusts_the_authority_takes_the_mirror_for_this_machine_and_for_nobody_else() {
    let directory = tempfile::tempdir().unwrap();
    let place = directory.path().join("registry-tls");
    let local = Local::open(&place, LOOPBACK).unwrap();
    for name in ["127.0.0.1", "::1", "localhost"] {
        assert!(takes(&local, &place, name).await, "{name}");
    }
    for name in ["127.0.0.2", "registry.example", "10.0.0.1"] {
        assert!(!takes(&local, &place, name).await, "{name}");
    }
    let other = tempfile::tempdir().unwrap();
    Local::open(other.path(), LOOPBACK).unwrap();
    assert!(!takes(&local, other.path(), "127.0.0.1").await);
    for file in [KEY, AUTHORITY] {
        let mode = fs::metadata(place.join(file)).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600, "{file}");
    }
    let public = fs::read_to_string(place.join(AUTHORITY)).unwrap();
    assert!(!public.contains("PRIVATE"), "the key is told");
}

#[tokio::test]
async fn it_outlives_the_process_and_its_certificates_are_renewed() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path();
    let first = Local::open(path, LOOPBACK).unwrap();
    let authority = authority_of(path);
    fs::remove_file(path.join(AUTHORITY)).unwrap();
    let second = Local::open(path, LOOPBACK).unwrap();
    assert_eq!(authority_of(path), authority);
    assert!(takes(&first, path, "127.0.0.1").await);
    assert!(takes(&second, path, "127.0.0.1").await);

    let now = SystemTime::now();
    let one = first.config(now).unwrap();
    assert!(Arc::ptr_eq(&one, &first.config(now).unwrap()));
    let soon = first.config(now + RENEWED / 2).unwrap();
    assert!(Arc::ptr_eq(&one, &soon), "it is young");
    let later = first.config(now + RENEWED * 2).unwrap();
    assert!(!Arc::ptr_eq(&one, &later), "it is old");
    let back = first.config(now).unwrap();
    assert!(!Arc::ptr_eq(&later, &back), "the clock was set back");
}

#[test]
fn an_authority_whose_time_is_nearly_over_is_replaced() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path();
    let addresses = [LOOPBACK];
    let long_ago = SystemTime::now() - AUTHORITY_FOR + AUTHORITY_LEAST / 2;
    make(path, &addresses, long_ago).unwrap();
    let old = authority_of(path);
    Local::open(path, LOOPBACK).unwrap();
    assert_ne!(authority_of(path), old);
}

#[test]
fn what_cannot_be_used_is_refused_and_kept() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path();
    let elsewhere: IpAddr = "192.0.2.7".parse().unwrap();
    Local::open(path, elsewhere).unwrap();
    Local::open(path, LOOPBACK).unwrap();
    let refused = Local::open(path, "192.0.2.8".parse().unwrap()).unwrap_err();
    assert!(matches!(refused, LocalError::Elsewhere { .. }), "{refused}");
    fs::write(path.join(KEY), "nonsense").unwrap();
    let refused = Local::open(path, LOOPBACK).unwrap_err();
    assert!(matches!(refused, LocalError::Damaged(_)), "{refused}");
    assert_eq!(fs::read_to_string(path.join(KEY)).unwrap(), "nonsense");
}
