//! Tenants, their credentials, and a registry that comes and goes, in front of a whole mirror.

use std::collections::BTreeMap;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use reqwest::Method;

use super::*;

const ALICE: (&str, &str) = ("authorization", "Bearer alice-canary-5ecre7");
const BOB: (&str, &str) = ("authorization", "Bearer bob-canary-5ecre7");

/// Two tenants whose repositories share a layer.
async fn tenants() -> (Fake, Front, [crate::resolve::tests::fake::Image; 2]) {
    let fake = Fake::start().await;
    let images = [fake.image("alice/app", 5000), fake.image("bob/app", 5000)];
    fake.allow("alice/app", &[ALICE.1]);
    fake.allow("bob/app", &[BOB.1]);
    let front = Front::start(&fake).await;
    (fake, front, images)
}

/// All of an answer that does not change from one to the next.
async fn whole(answer: reqwest::Response) -> String {
    let status = answer.status();
    let mut headers: Vec<_> = answer
        .headers()
        .iter()
        .filter(|(name, _)| *name != "date")
        .map(|(name, value)| format!("{name}: {value:?}"))
        .collect();
    headers.sort();
    let body = answer.bytes().await.unwrap();
    format!("{status} {headers:?} {body:?}")
}

async fn pull(front: &Front, repository: &str, layer: &impl std::fmt::Display, who: (&str, &str)) {
    for path in [
        format!("/v2/{repository}/manifests/v1"),
        format!("/v2/{repository}/blobs/{layer}"),
    ] {
        let answer = front.send(Method::GET, &path, &[who]).await;
        assert_eq!(answer.status(), 200, "{path}");
        answer.bytes().await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn neither_tenant_reads_the_others_and_refusals_do_not_tell_what_is_held() {
    let (_fake, front, [image, other]) = tenants().await;
    // The same bytes in both: holding the digest proves nothing.
    assert_eq!(image.layer, other.layer);
    let paths = [
        "/v2/alice/app/manifests/v1".to_owned(),
        format!("/v2/alice/app/manifests/{}", image.manifest),
        format!("/v2/alice/app/blobs/{}", image.layer),
    ];
    let callers: [&[(&str, &str)]; 3] = [&[], &[BOB], &[("authorization", "Bearer wrong")]];
    let mut before = Vec::new();
    for path in &paths {
        for caller in callers {
            for method in [Method::GET, Method::HEAD] {
                before.push(whole(front.send(method, path, caller).await).await);
            }
        }
    }
    assert!(before.iter().all(|answer| answer.starts_with("401")));
    pull(&front, "alice/app", &image.layer, ALICE).await;
    pull(&front, "bob/app", &image.layer, BOB).await;
    let mut after = Vec::new();
    for path in &paths {
        for caller in callers {
            for method in [Method::GET, Method::HEAD] {
                after.push(whole(front.send(method, path, caller).await).await);
            }
        }
    }
    assert_eq!(before, after);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_one_may_read_comes_from_here_the_second_time() {
    let (fake, front, [image, _]) = tenants().await;
    pull(&front, "alice/app", &image.layer, ALICE).await;
    let bodies = fake.asked("GET /v2/alice/app/blobs/");
    let path = format!("/v2/alice/app/blobs/{}", image.layer);
    front.until_kept(&path, &[ALICE]).await;
    let part = [ALICE, ("range", "bytes=10-19")];
    let part = front.send(Method::GET, &path, &part).await;
    assert_eq!(part.status(), 206);
    assert_eq!(text(&part, "x-darner-source"), "store");
    assert_eq!(part.bytes().await.unwrap(), image.layer_bytes.slice(10..20));
    let head = front.send(Method::HEAD, &path, &[ALICE]).await;
    assert_eq!(text(&head, "content-length"), "5000");
    assert_eq!(fake.asked("GET /v2/alice/app/blobs/"), bodies);
    // A tag is asked for each time, by its caller; a linked digest is not.
    let heads = fake.asked("HEAD /v2/alice/app/blobs/");
    front.send(Method::GET, &path, &[ALICE]).await;
    assert_eq!(fake.asked("HEAD /v2/alice/app/blobs/"), heads);
    // Of another repository the same caller has no grant, though the layer is held.
    let others = format!("/v2/bob/app/blobs/{}", image.layer);
    assert_eq!(
        front.send(Method::GET, &others, &[ALICE]).await.status(),
        401
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_right_that_is_taken_away_ends_with_the_next_proof() {
    let (fake, front, [image, _]) = tenants().await;
    pull(&front, "alice/app", &image.layer, ALICE).await;
    fake.allow("alice/app", &[]);
    let tag = front
        .send(Method::GET, "/v2/alice/app/manifests/v1", &[ALICE])
        .await;
    assert_eq!(tag.status(), 401);
    // And with it everything else that the same credential was granted.
    let path = format!("/v2/alice/app/blobs/{}", image.layer);
    assert_eq!(front.send(Method::GET, &path, &[ALICE]).await.status(), 401);
}

#[tokio::test(flavor = "multi_thread")]
async fn without_upstream_those_who_were_granted_go_on_and_new_ones_are_sent_there() {
    for status in [StatusCode::BAD_GATEWAY, StatusCode::TOO_MANY_REQUESTS] {
        let (fake, front, [image, _]) = tenants().await;
        pull(&front, "alice/app", &image.layer, ALICE).await;
        fake.fail(Some(status));
        let tag = front
            .send(Method::GET, "/v2/alice/app/manifests/v1", &[ALICE])
            .await;
        assert_eq!(tag.status(), 200);
        assert!(text(&tag, "warning").starts_with("110 "));
        let blob = format!("/v2/alice/app/blobs/{}", image.layer);
        let granted = front.send(Method::GET, &blob, &[ALICE]).await;
        assert_eq!(granted.bytes().await.unwrap(), image.layer_bytes);
        for caller in [&[][..], &[BOB]] {
            let tag = front
                .send(Method::GET, "/v2/alice/app/manifests/v1", caller)
                .await;
            assert_eq!(code(tag).await.0, 503);
            let blob = front.send(Method::GET, &blob, caller).await;
            assert_eq!(code(blob).await, (404, "BLOB_UNKNOWN".to_owned()));
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn who_was_granted_does_not_wait_again_for_a_registry_that_is_away() {
    let (fake, front, [image, _]) = tenants().await;
    pull(&front, "alice/app", &image.layer, ALICE).await;
    fake.fail(Some(StatusCode::BAD_GATEWAY));
    let tag = "/v2/alice/app/manifests/v1";
    let stale = async || {
        let answer = front.send(Method::GET, tag, &[ALICE]).await;
        assert_eq!(answer.status(), 200);
        answer.headers().contains_key("warning")
    };
    assert!(stale().await);
    let asked = fake.asked("");
    for _ in 0..5 {
        assert!(stale().await);
    }
    assert_eq!(fake.asked(""), asked);
    // Who was not granted may be let in by now: for such a caller it is asked each time.
    let other = front.send(Method::GET, tag, &[BOB]).await;
    assert_eq!(other.status(), 503);
    assert!(fake.asked("") > asked);
    // One answer of the registry to anybody, and it is asked for all again.
    fake.fail(None);
    assert_eq!(front.send(Method::GET, tag, &[BOB]).await.status(), 401);
    assert!(!stale().await);
}

#[tokio::test(flavor = "multi_thread")]
async fn no_peer_is_sent_what_is_private() {
    let (_fake, front, [image, _]) = tenants().await;
    pull(&front, "alice/app", &image.layer, ALICE).await;
    for path in [
        format!("/v1/tasks/{}/pieces?want=0-0", image.layer),
        format!("/v1/tasks/{}/pieces?want=0-0", image.manifest),
    ] {
        let url = format!("http://{}{path}", front.pieces);
        let answer = front.client.get(url).send().await.unwrap();
        assert_eq!(answer.status(), 404, "{path}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_credential_is_in_no_file() {
    let (_fake, front, [image, _]) = tenants().await;
    pull(&front, "alice/app", &image.layer, ALICE).await;
    let secret = b"canary-5ecre7";
    // A file that moves to its place between the list and the reading is looked for again.
    let files = std::iter::repeat_with(|| contents(front._directory.path()));
    let files = files.take(1000).flatten().next().expect("files to rest");
    assert!(files.len() > 3, "{:?}", files.keys());
    for (file, bytes) in files {
        let there = bytes.windows(secret.len()).any(|place| place == secret);
        assert!(!there, "{}", file.display());
    }
}

/// What is in every file below `directory`, unless one was gone when it was opened.
fn contents(directory: &Path) -> Option<BTreeMap<PathBuf, Vec<u8>>> {
    let mut files = Vec::new();
    list(directory, &mut files);
    let read = files.into_iter().map(|file| match std::fs::read(&file) {
        Err(error) if error.kind() == ErrorKind::NotFound => None,
        bytes => Some((file, bytes.unwrap())),
    });
    read.collect()
}

fn list(directory: &Path, files: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        match path.is_dir() {
            true => list(&path, files),
            false => files.push(path),
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn wrong_private_bytes_are_cut_off_and_not_kept() {
    let (fake, front, [image, _]) = tenants().await;
    fake.corrupt("alice/app", &image.layer);
    let path = format!("/v2/alice/app/blobs/{}", image.layer);
    for _ in 0..2 {
        // So little that nothing of it has been sent: the client can be told.
        let answer = front.send(Method::GET, &path, &[ALICE]).await;
        assert_eq!(code(answer).await, (404, "BLOB_UNKNOWN".to_owned()));
    }
    let large = fake.image("alice/app", 300_000);
    fake.corrupt("alice/app", &large.layer);
    let path = format!("/v2/alice/app/blobs/{}", large.layer);
    for _ in 0..2 {
        let answer = front.send(Method::GET, &path, &[ALICE]).await;
        assert_eq!(text(&answer, "x-darner-source"), "upstream");
        assert!(answer.bytes().await.is_err());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn private_content_is_served_on_the_callers_own_credentials() {
    let fake = Fake::start().await;
    let image = fake.image("a", 1000);
    fake.make_private("a");
    let front = Front::start(&fake).await;
    let paths = [
        "/v2/a/manifests/v1".to_owned(),
        format!("/v2/a/blobs/{}", image.layer),
    ];
    let good = [("authorization", "Bearer good")];
    for path in &paths {
        let refused = front.get(path).await;
        assert_eq!(refused.status(), 401);
        assert!(text(&refused, "www-authenticate").contains(&fake.address.to_string()));
        assert!(!refused.headers().contains_key("x-darner-source"));
        let served = front.send(reqwest::Method::GET, path, &good).await;
        assert_eq!(served.status(), 200);
        assert_eq!(text(&served, "x-darner-source"), "upstream");
        assert!(!served.bytes().await.unwrap().is_empty());
        front.until_kept(path, &good).await;
        // What one caller may read is not there for the next.
        assert_eq!(front.get(path).await.status(), 401);
    }
    let part = [good[0], ("range", "bytes=5-9")];
    let part = front.send(reqwest::Method::GET, &paths[1], &part).await;
    assert_eq!(part.status(), 206);
    assert_eq!(part.bytes().await.unwrap(), image.layer_bytes.slice(5..10));
}
