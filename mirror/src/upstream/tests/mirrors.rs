//! Several places for one registry's content.

use super::scripted::{Scripted, answer};
use super::*;

const MANIFEST: &str = r#"{"layers":[]}"#;
const TYPE: (&str, &str) = ("content-type", "application/vnd.oci.image.manifest.v1+json");

async fn answering(status: u16) -> Scripted {
    Scripted::start(move |_, _| answer(status, &[TYPE], MANIFEST)).await
}

fn with_mirrors(registry: &Scripted, mirrors: &[&Scripted]) -> Upstream {
    client(settings::Upstream {
        mirrors: mirrors.iter().map(|mirror| mirror.url()).collect(),
        credentials: credentials(),
        ..settings(registry.url())
    })
    .upstream
}

async fn ask(upstream: &Upstream) -> Result<Manifest, UpstreamError> {
    let (repository, tag) = (repository(), tag());
    let asked = upstream.manifest(&repository, &tag, Access::Configured);
    asked.await
}

#[tokio::test]
async fn the_first_mirror_that_answers_is_enough() {
    let (registry, first, second) = tokio::join!(answering(200), answering(200), answering(200));
    let upstream = with_mirrors(&registry, &[&first, &second]);
    assert_eq!(ask(&upstream).await.unwrap().bytes, MANIFEST);
    let asked = [&first, &second, &registry].map(|server| server.seen().len());
    assert_eq!(asked, [1, 0, 0]);
}

#[tokio::test(start_paused = true)]
async fn a_mirror_that_fails_rests_and_is_asked_again_later() {
    let (registry, broken) = tokio::join!(answering(200), answering(500));
    let upstream = with_mirrors(&registry, &[&broken]);
    for _ in 0..3 {
        ask(&upstream).await.unwrap();
    }
    assert_eq!((broken.seen().len(), registry.seen().len()), (1, 3));
    tokio::time::advance(Duration::from_secs(6)).await;
    ask(&upstream).await.unwrap();
    assert_eq!((broken.seen().len(), registry.seen().len()), (2, 4));
}

#[tokio::test]
async fn what_a_mirror_lacks_the_registry_has_and_what_that_says_counts() {
    let (registry, empty) = tokio::join!(answering(200), answering(404));
    let upstream = with_mirrors(&registry, &[&empty]);
    for _ in 0..2 {
        ask(&upstream).await.unwrap();
    }
    // Not having something is no fault: it is asked each time.
    assert_eq!((empty.seen().len(), registry.seen().len()), (2, 2));
    let (registry, limited) = tokio::join!(answering(404), answering(429));
    let upstream = with_mirrors(&registry, &[&limited]);
    let error = ask(&upstream).await.unwrap_err();
    assert_eq!(error.kind(), UpstreamErrorKind::NotFound);
    assert_eq!(upstream.quiet(), Duration::ZERO);
}

#[tokio::test]
async fn the_registrys_credentials_are_not_shown_to_its_mirrors() {
    let basic = [("www-authenticate", "Basic realm=\"r\"")];
    let guarded = || async {
        Scripted::start(move |seen, _| match seen.header("authorization") {
            "" => answer(401, &basic, ""),
            _ => answer(200, &[TYPE], MANIFEST),
        })
        .await
    };
    let (registry, mirror) = tokio::join!(guarded(), guarded());
    let upstream = with_mirrors(&registry, &[&mirror]);
    ask(&upstream).await.unwrap();
    assert!(
        mirror
            .seen()
            .iter()
            .all(|seen| seen.header("authorization").is_empty())
    );
    assert!(!registry.seen()[1].header("authorization").is_empty());
}
