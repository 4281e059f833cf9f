//! Registries that change while the process runs.

use darner_proto::rules::Login;

use super::scripted::{Scripted, answer};
use super::*;

const MANIFEST: &str = r#"{"layers":[]}"#;

async fn basic() -> Scripted {
    Scripted::start(|seen, _| match seen.header("authorization") {
        "" => answer(401, &[("www-authenticate", "Basic realm=\"r\"")], ""),
        _ => answer(200, &[("content-type", "application/x")], MANIFEST),
    })
    .await
}

fn name() -> RegistryName {
    settings(String::new()).name
}

async fn ask(upstreams: &Upstreams) -> Result<Manifest, UpstreamError> {
    let upstream = upstreams.get(&name()).expect("configured");
    let (repository, tag) = (repository(), tag());
    let asked = upstream.manifest(&repository, &tag, Access::Configured);
    asked.await
}

#[tokio::test]
async fn clones_follow_and_a_login_is_shown_to_the_registry_alone() {
    let (first, second, mirror) = tokio::join!(basic(), basic(), basic());
    let upstreams = client(settings(first.url())).upstreams;
    let clone = upstreams.clone();
    assert!(ask(&clone).await.is_err(), "it has nothing to show");
    let setup = Setup {
        settings: settings::Upstream {
            mirrors: vec![mirror.url()],
            ..settings(second.url())
        },
        ca: None,
        login: Some(Login {
            username: "operator".to_owned(),
            password: CANARY.to_owned(),
        }),
    };
    assert!(!format!("{setup:?}").contains(CANARY));
    assert!(upstreams.replace(vec![setup]).is_empty());
    assert_eq!(ask(&clone).await.unwrap().bytes, MANIFEST);
    let seen = second.seen();
    let shown = seen.last().expect("asked").header("authorization");
    // "operator:canary-5ecre7"
    assert_eq!(shown, "Basic b3BlcmF0b3I6Y2FuYXJ5LTVlY3JlNw==");
    let at_mirror = mirror.seen();
    assert!(!at_mirror.is_empty());
    assert!(
        at_mirror
            .iter()
            .all(|seen| seen.header("authorization").is_empty())
    );
    let gone = upstreams.replace(Vec::new());
    assert!(gone.is_empty() && clone.get(&name()).is_none());
}

#[tokio::test]
async fn what_has_not_changed_keeps_what_it_knows() {
    let registry = basic().await;
    let upstreams = client(settings(registry.url())).upstreams;
    let upstream = || upstreams.get(&name()).expect("configured");
    upstream().keep_quiet(Duration::from_secs(30));
    upstreams.replace(vec![Setup::from(&settings(registry.url()))]);
    assert!(upstream().quiet() > Duration::from_secs(20));
    let changed = settings::Upstream {
        tag_ttl: Duration::from_secs(7),
        ..settings(registry.url())
    };
    upstreams.replace(vec![Setup::from(&changed)]);
    assert_eq!(upstream().tag_ttl(), Duration::from_secs(7));
}

#[tokio::test]
async fn a_registry_that_cannot_be_set_up_is_left_out_and_the_others_are_not() {
    let registry = basic().await;
    let upstreams = client(settings(registry.url())).upstreams;
    let bad = Setup {
        settings: settings::Upstream::new("bad.example".parse().unwrap(), "https://bad.example", 4),
        ca: Some("-----BEGIN CERTIFICATE-----\n".into()),
        login: None,
    };
    let faults = upstreams.replace(vec![bad, Setup::from(&settings(registry.url()))]);
    assert_eq!(faults.len(), 1);
    assert!(
        faults[0].to_string().contains("bad.example"),
        "{}",
        faults[0]
    );
    assert!(upstreams.get(&name()).is_some());
    assert!(upstreams.get(&"bad.example".parse().unwrap()).is_none());
}

#[tokio::test]
async fn what_is_asked_of_a_registrys_host_without_us_follows_too() {
    let upstreams = client(settings("http://10.7.7.7".to_owned())).upstreams;
    let files = upstreams.files().clone();
    let url: Url = "http://10.8.8.8/file".parse().unwrap();
    assert!(
        files.check(&url).is_err(),
        "an address of a private network"
    );
    upstreams.replace(vec![Setup::from(&settings("http://10.8.8.8".to_owned()))]);
    assert!(files.check(&url).is_ok());
}
