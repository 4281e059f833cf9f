//! Credentials from files and helpers, and that a change of them counts.

use std::os::unix::fs::PermissionsExt as _;

use super::super::credentials::{Login, ask_program};
use super::scripted::{Scripted, Seen, answer};
use super::*;

const TYPE: (&str, &str) = ("content-type", "application/vnd.oci.image.manifest.v1+json");

/// Answers whoever shows a password, and says which was shown.
async fn registry(wanted: &'static [&'static str]) -> Scripted {
    Scripted::start(move |seen, _| {
        if wanted.contains(&seen.header("authorization")) {
            return answer(200, &[TYPE], r#"{"layers":[]}"#);
        }
        answer(401, &[("www-authenticate", "Basic realm=\"r\"")], "")
    })
    .await
}

fn shown(registry: &Scripted) -> Vec<String> {
    let shown = registry.seen();
    let shown = shown.iter().map(|seen: &Seen| seen.header("authorization"));
    shown
        .filter(|text| !text.is_empty())
        .map(str::to_owned)
        .collect()
}

async fn ask(upstream: &Upstream) -> Result<Manifest, UpstreamError> {
    upstream
        .manifest(&repository(), &tag(), Access::Configured)
        .await
}

// me:one, me:two
const ONE: &str = "Basic bWU6b25l";
const TWO: &str = "Basic bWU6dHdv";

#[tokio::test]
async fn a_changed_file_counts_from_the_next_refusal_on() {
    let registry = registry(&[TWO]).await;
    let host = registry.url().replace("http://", "");
    let config = |auth: &str| format!(r#"{{"auths":{{"{host}":{{"auth":"{auth}"}}}}}}"#);
    let path = file(&config("bWU6b25l"));
    let upstream = client(settings::Upstream {
        credentials_file: Some(path.to_path_buf()),
        ..settings(registry.url())
    })
    .upstream;
    let refused = ask(&upstream).await.unwrap_err();
    assert_eq!(refused.kind(), UpstreamErrorKind::Denied);
    std::fs::write(&path, config("bWU6dHdv")).unwrap();
    ask(&upstream).await.unwrap();
    assert_eq!(shown(&registry).first().unwrap(), ONE);
    assert_eq!(shown(&registry).last().unwrap(), TWO);
}

#[tokio::test]
async fn a_file_of_other_registries_is_no_login() {
    let registry = registry(&[ONE]).await;
    let path = file(r#"{"auths":{"other.test":{"auth":"bWU6b25l"}}}"#);
    let upstream = client(settings::Upstream {
        credentials_file: Some(path.to_path_buf()),
        ..settings(registry.url())
    })
    .upstream;
    let refused = ask(&upstream).await.unwrap_err();
    assert_eq!(refused.kind(), UpstreamErrorKind::Denied);
    assert!(shown(&registry).is_empty());
}

#[tokio::test]
async fn a_file_that_is_gone_is_an_error_that_shows_no_secret() {
    let registry = registry(&[ONE]).await;
    let path = file(CANARY);
    let upstream = client(settings::Upstream {
        credentials_file: Some(path.to_path_buf()),
        ..settings(registry.url())
    })
    .upstream;
    let nonsense = ask(&upstream).await.unwrap_err();
    assert!(!everything(&nonsense).contains(CANARY));
    drop(path);
    let gone = ask(&upstream).await.unwrap_err();
    assert_eq!(gone.kind(), UpstreamErrorKind::Unavailable);
}

/// A directory with a program `docker-credential-test`.
fn helper(script: &str) -> tempfile::TempDir {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("docker-credential-test");
    std::fs::write(&path, format!("#!/bin/sh\n{script}\n")).unwrap();
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
    directory
}

#[tokio::test]
async fn an_identity_token_is_traded_for_tokens() {
    let registry = Scripted::start(|seen, _| {
        let host = seen.header("host");
        if seen.path == "/token" {
            let good = seen.method == http::Method::POST && seen.query.is_empty();
            return match good {
                true => answer(200, &[], r#"{"access_token":"t1"}"#),
                false => answer(401, &[], ""),
            };
        }
        if seen.header("authorization") == "Bearer t1" {
            return answer(200, &[TYPE], r#"{"layers":[]}"#);
        }
        let challenge = format!(r#"Bearer realm="http://{host}/token",service="reg""#);
        answer(401, &[("www-authenticate", &challenge)], "")
    })
    .await;
    let host = registry.url().replace("http://", "");
    let path = file(&format!(
        r#"{{"auths":{{"{host}":{{"identitytoken":"{CANARY}"}}}}}}"#
    ));
    let client = client(settings::Upstream {
        credentials_file: Some(path.to_path_buf()),
        ..settings(registry.url())
    });
    ask(&client.upstream).await.unwrap();
    let text = format!("{:?} {:?}", client.upstreams, client.exposition());
    assert!(!text.contains(CANARY));
}

#[tokio::test]
async fn helpers_are_asked_with_the_servers_name() {
    let registry = registry(&[ONE]).await;
    let host = registry.url().replace("http://", "");
    let directory = helper(&format!(
        r#"read -r server; [ "$1 $server" = "get {host}" ] || exit 1; echo '{{"ServerURL":"x","Username":"me","Secret":"one"}}'"#
    ));
    let missing = client(settings::Upstream {
        credential_helper: Some("no-such-helper".to_owned()),
        ..settings(registry.url())
    });
    let missing = ask(&missing.upstream).await.unwrap_err();
    assert_eq!(missing.kind(), UpstreamErrorKind::Unavailable);
    let program = directory.path().join("docker-credential-test");
    let login = ask_program(&program, &host).await.unwrap().unwrap();
    assert!(matches!(&login, Login::Password { username, .. } if username == "me"));
    assert!(!format!("{login:?}").contains("one"));
    assert!(ask_program(&program, "else").await.unwrap().is_none());
}

#[tokio::test(start_paused = true)]
async fn a_helper_that_hangs_is_given_up() {
    let directory = helper("sleep 1000");
    let program = directory.path().join("docker-credential-test");
    let error = ask_program(&program, "r.example");
    assert!(matches!(error.await, Err(Fault::Credentials(_))));
}
