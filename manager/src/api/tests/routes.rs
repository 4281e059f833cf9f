//! What all routes have in common: pages, problems, who may, and that they are as described.

use super::*;

#[tokio::test]
async fn members_are_listed_by_what_they_are() {
    let scene = Scene::with(&[
        ("m", MemberRole::Mirror),
        ("seed", MemberRole::Seed),
        ("s", MemberRole::Scheduler),
    ])
    .await;
    let (head, nodes) = ask(&scene, "GET", "/api/v1/nodes").await;
    assert_eq!(head.status(), StatusCode::OK);
    assert_eq!(head.headers()[header::CONTENT_TYPE], "application/json");
    assert_eq!(ids(&nodes), ["m", "seed"]);
    assert_eq!(nodes["next"], Value::Null);
    let mut seed = nodes["items"][1].clone();
    let last_seen = seed.as_object_mut().unwrap().remove("last_seen_ms");
    assert!(last_seen.unwrap().as_u64().unwrap() > 1_700_000_000_000);
    let expected = json!({
        "id": "seed", "role": "seed", "address": "10.0.0.1:7421", "labels": { "zone": "a" }, "cluster": "default",
        "signing_key": "ab".repeat(32), "upload_slots": 16,
    });
    assert_eq!(seed, expected);

    let (_, schedulers) = ask(&scene, "GET", "/api/v1/schedulers").await;
    assert_eq!(ids(&schedulers), ["s"]);
    let (_, told) = ask(&scene, "GET", "/api/v1/configuration").await;
    let version = scene
        .api
        .members
        .look(|membership| membership.told().version);
    assert_eq!(
        told,
        json!({ "version": version, "schedulers": 1, "seeds": 1, "insecure": true })
    );
}

#[tokio::test]
async fn pages_hold_everybody_once() {
    let scene = Scene::with(&[
        ("b", MemberRole::Seed),
        ("b", MemberRole::Mirror),
        ("c", MemberRole::Mirror),
        ("a", MemberRole::Mirror),
        ("a", MemberRole::Seed),
    ])
    .await;
    let mut seen = Vec::new();
    let mut uri = "/api/v1/nodes?limit=2".to_owned();
    loop {
        let (_, page) = ask(&scene, "GET", &uri).await;
        assert!(ids(&page).len() <= 2);
        for item in page["items"].as_array().unwrap() {
            seen.push(format!("{}:{}", item["role"], item["id"]).replace('"', ""));
        }
        match page["next"].as_str() {
            Some(next) => uri = format!("/api/v1/nodes?limit=2&after={next}"),
            None => break,
        }
    }
    assert_eq!(
        seen,
        ["mirror:a", "mirror:b", "mirror:c", "seed:a", "seed:b"]
    );
}

#[tokio::test]
async fn what_cannot_be_answered_is_a_problem_document() {
    let scene = Scene::with(&[("s", MemberRole::Scheduler)]).await;
    for (method, uri, status) in [
        ("GET", "/api", 404),
        ("GET", "/api/v1/nodes/m", 404),
        ("GET", "/api/v1/users", 403),
        ("GET", "/api/v2/nodes", 404),
        ("POST", "/api/v1/nodes", 405),
        ("DELETE", "/api/v1/configuration", 405),
        ("GET", "/api/v1/nodes?limit=0", 400),
        ("GET", "/api/v1/nodes?limit=1001", 400),
        ("GET", "/api/v1/nodes?limit=many", 400),
        ("GET", "/api/v1/nodes?page=2", 400),
        ("GET", "/api/v1/nodes?after=scheduler:s", 400),
        ("GET", "/api/v1/nodes?after=mirror:..%2F", 400),
        ("GET", "/api/v1/nodes?after=mirror", 400),
    ] {
        let (head, problem) = ask(&scene, method, uri).await;
        assert_eq!(head.status(), status, "{method} {uri}");
        assert_eq!(
            head.headers()[header::CONTENT_TYPE],
            "application/problem+json",
            "{method} {uri}"
        );
        assert_eq!(problem["status"], status, "{method} {uri}");
        assert!(
            problem["detail"]
                .as_str()
                .is_some_and(|text| !text.is_empty())
        );
        let allow = head.headers().get(header::ALLOW);
        assert_eq!(allow.is_some(), status == 405, "{method} {uri}");
    }
    let (head, _) = ask(&scene, "HEAD", "/api/v1/nodes").await;
    assert_eq!(head.status(), StatusCode::OK);
}

/// Each route answers those it is for and refuses the others, whatever they ask.
#[tokio::test]
async fn every_route_refuses_everybody_it_is_not_for() {
    let scene = Scene::with(&[]).await;
    for (method, path, need) in ROUTES {
        let uri = path
            .replace("{name}", "nobody")
            .replace("{id}", "none")
            .replace("{digest}", "none")
            .replace("{number}", "none");
        let (head, _) = scene.ask(method, &uri, &[], Value::Null).await;
        let anonymous = head.status() != StatusCode::UNAUTHORIZED;
        assert_eq!(anonymous, *need == Need::Nothing, "{method} {uri}");
        for role in Role::ALL {
            let (head, problem) = scene.ask_as(role, method, &uri, Value::Null).await;
            // A role is no secret.
            let unknown = head.status() == StatusCode::UNAUTHORIZED;
            assert_eq!(unknown, *need == Need::Secret, "{method} {uri}");
            let may = match need {
                Need::Nothing | Need::Secret => true,
                Need::Role(least) => role >= *least,
            };
            let refused = head.status() == StatusCode::FORBIDDEN
                && problem["detail"]
                    .as_str()
                    .unwrap()
                    .contains("needs the role");
            assert_eq!(refused, !may, "{method} {uri} as {role:?}: {problem}");
        }
    }
}

/// What is described, what is routed and what has its line in the table are the same.
#[test]
fn no_route_is_without_its_rule() {
    let document = serde_json::to_value(document()).unwrap();
    let mut described = BTreeSet::new();
    for (path, methods) in document["paths"].as_object().unwrap() {
        for (method, operation) in methods.as_object().unwrap() {
            described.insert((method.to_uppercase(), path.clone()));
            let public = operation["security"] == json!([{}]);
            let need = access::need(ROUTES, &method.to_uppercase().parse().unwrap(), path);
            assert_eq!(public, need == Some(Need::Nothing), "{method} {path}");
        }
    }
    let ruled: BTreeSet<_> = ROUTES
        .iter()
        .map(|(method, path, _)| ((*method).to_owned(), (*path).to_owned()))
        .filter(|(_, path)| path != "/api/openapi.json")
        .collect();
    assert_eq!(described, ruled);
}

/// To write it anew: `DARNER_WRITE_REFERENCE=1 cargo test -p darner-manager the_description`.
#[test]
fn the_description_is_the_committed_one() {
    let path = concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/../docs/reference/openapi.json"
    );
    let mut text = serde_json::to_string_pretty(&document()).unwrap();
    text.push('\n');
    if std::env::var_os("DARNER_WRITE_REFERENCE").is_some() {
        std::fs::write(path, &text).unwrap();
    }
    let committed = std::fs::read_to_string(path).unwrap_or_default();
    assert!(
        committed == text,
        "docs/reference/openapi.json is out of date: see this test"
    );
}

#[tokio::test]
async fn without_its_database_the_api_says_so() {
    let scene = Scene::with(&[]).await;
    scene.api.database.close().await;
    for uri in ["/api/v1/nodes", "/api/v1/me"] {
        let (head, problem) = ask(&scene, "GET", uri).await;
        assert_eq!(head.status(), StatusCode::SERVICE_UNAVAILABLE);
        assert!(head.headers().contains_key(header::RETRY_AFTER));
        assert!(problem["detail"].as_str().unwrap().contains("pulls go on"));
    }
    assert_eq!(scene.log_in("admin", PASSWORD).await.0.status(), 503);
}
