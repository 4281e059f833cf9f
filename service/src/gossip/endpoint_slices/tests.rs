//! A fake API server: a list in pages, over TLS by an authority of its own, for one token.

use std::convert::Infallible;
use std::sync::Arc;

use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use rcgen::{BasicConstraints, CertificateParams, IsCa, KeyPair};
use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;

use super::*;

const TOKEN: &str = "token-of-the-pod";
const FIRST: &str = r#"{"kind": "EndpointSliceList", "metadata": {"continue": "more=&"}, "items": [
  {"addressType": "IPv4", "ports": [{"name": "metrics", "port": 7430}, {"name": "pieces", "port": 7421}],
   "endpoints": [
    {"addresses": ["10.0.0.5"], "conditions": {"ready": true}, "nodeName": "a"},
    {"addresses": ["10.0.0.6"], "conditions": {"ready": false, "terminating": false}},
    {"addresses": ["10.0.0.7"], "conditions": {"ready": false, "terminating": true}}]},
  {"addressType": "FQDN", "ports": [{"port": 7421}], "endpoints": [{"addresses": ["elsewhere.example"]}]},
  {"addressType": "IPv4", "ports": null, "endpoints": null}]}"#;
const SECOND: &str = r#"{"metadata": {}, "items": [
  {"addressType": "IPv6", "ports": [{"name": "", "port": 9}], "endpoints": [{"addresses": ["fd00::8"]}]}]}"#;

fn answer(request: &Request<Incoming>) -> (StatusCode, &'static str) {
    let shown = request.headers().get(http::header::AUTHORIZATION);
    if shown.is_none_or(|shown| shown != &format!("Bearer {TOKEN}")) {
        return (StatusCode::FORBIDDEN, "{}");
    }
    let path = "/apis/discovery.k8s.io/v1/namespaces/mirrors/endpointslices";
    assert_eq!(request.uri().path(), path);
    let query = request.uri().query().expect("has one");
    let pairs: Vec<_> = url::form_urlencoded::parse(query.as_bytes()).collect();
    let has = |name: &str, value: &str| {
        pairs
            .iter()
            .any(|pair| *pair == (name.into(), value.into()))
    };
    assert!(
        has("labelSelector", "kubernetes.io/service-name=darner"),
        "{query}"
    );
    match has("continue", "more=&") {
        true => (StatusCode::OK, SECOND),
        false => (StatusCode::OK, FIRST),
    }
}

/// The server's address and its authority's certificate.
async fn serve() -> (String, String) {
    let authority_key = KeyPair::generate().expect("a key");
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let authority = params.self_signed(&authority_key).expect("signs");
    let issuer = rcgen::Issuer::new(params, authority_key);
    let key = KeyPair::generate().expect("a key");
    let params = CertificateParams::new(["localhost".to_owned()]).expect("a name");
    let certificate = params.signed_by(&key, &issuer).expect("signs");
    let key = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(key.serialize_der()));
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("versions")
        .with_no_client_auth()
        .with_single_cert(vec![certificate.der().clone()], key)
        .expect("its key");
    let acceptor = TlsAcceptor::from(Arc::new(config));
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let port = listener.local_addr().expect("bound").port();
    let shutdown = crate::shutdown::Shutdown::default();
    let spawning = shutdown.clone();
    shutdown.spawn(async move {
        while let Ok((tcp, _)) = listener.accept().await {
            let acceptor = acceptor.clone();
            spawning.spawn(async move {
                let Ok(tls) = acceptor.accept(tcp).await else {
                    return;
                };
                let service = service_fn(async |request| {
                    let (status, body) = answer(&request);
                    let mut response =
                        Response::new(Full::new(Bytes::from_static(body.as_bytes())));
                    *response.status_mut() = status;
                    Ok::<_, Infallible>(response)
                });
                let server = hyper::server::conn::http1::Builder::new();
                let _ = server.serve_connection(TokioIo::new(tls), service).await;
            });
        }
    });
    (format!("https://localhost:{port}"), authority.pem())
}

fn pod(authority: &str, token: &str) -> tempfile::TempDir {
    let account = tempfile::tempdir().expect("a directory");
    for (name, text) in [
        ("token", token),
        ("ca.crt", authority),
        ("namespace", "mirrors"),
    ] {
        std::fs::write(account.path().join(name), text).expect("written");
    }
    account
}

fn service(api: &str, account: &Path) -> KubernetesService {
    KubernetesService {
        namespace: None,
        name: "darner".to_owned(),
        api: api.to_owned(),
        account: account.to_owned(),
    }
}

#[tokio::test]
async fn everybody_behind_the_service_is_found_page_by_page_by_the_pods_own_account() {
    let (api, authority) = serve().await;
    let account = pod(&authority, TOKEN);
    let found = addresses(&service(&api, account.path()))
        .await
        .expect("a list");
    assert_eq!(found, ["10.0.0.5:7421", "10.0.0.6:7421", "[fd00::8]:9"]);
    // The token is renewed in place.
    std::fs::write(account.path().join("token"), "another").expect("written");
    let refused = addresses(&service(&api, account.path())).await;
    let refused = refused.expect_err("refused").to_string();
    assert!(
        refused.contains("403") && refused.contains("list endpointslices"),
        "{refused}"
    );
}

#[tokio::test]
async fn an_api_by_another_authority_is_shown_no_token() {
    let (api, _) = serve().await;
    let (_, another) = serve().await;
    let account = pod(&another, TOKEN);
    let error = addresses(&service(&api, account.path())).await;
    assert!(matches!(error, Err(SlicesError::Api(_))), "{error:?}");
}

#[tokio::test]
async fn without_an_account_it_says_what_is_missing() {
    let account = tempfile::tempdir().expect("a directory");
    let error = addresses(&service("https://localhost:1", account.path())).await;
    let error = error.expect_err("nothing there").to_string();
    assert!(error.contains("automountServiceAccountToken"), "{error}");
}
