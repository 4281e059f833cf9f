use axum::body::{Body, to_bytes};
use axum::http::{Request, StatusCode, header};
use axum::response::Response;
use darner_proto::id::SigningKey;
use serde_json::{Value, json};
use tower::ServiceExt as _;

use super::*;
use crate::membership::{Snapshot, Timing};
use crate::metrics::ManagerMetrics;

fn members(hosts: &[(&str, Role)]) -> Members {
    let members = Members::new(
        Snapshot::default(),
        false,
        Timing::default(),
        ManagerMetrics::default(),
    );
    for (id, role) in hosts {
        let host = Host {
            id: id.parse().unwrap(),
            address: "10.0.0.1:7421".into(),
            role: *role,
            labels: [("zone".to_owned(), "a".to_owned())].into(),
            signing_key: Some(SigningKey([0xab; 32])),
            upload_slots: 16,
        };
        members.register(host).unwrap();
    }
    members
}

async fn ask(members: &Members, method: &str, uri: &str) -> (Response<()>, Value) {
    let request = Request::builder().method(method).uri(uri);
    let request = request.body(Body::empty()).unwrap();
    let (head, body) = routes(members.clone())
        .oneshot(request)
        .await
        .unwrap()
        .into_parts();
    let body = to_bytes(body, 1 << 20).await.unwrap();
    let json = serde_json::from_slice(&body).unwrap_or(Value::Null);
    (Response::from_parts(head, ()), json)
}

fn ids(list: &Value) -> Vec<&str> {
    let items = list["items"].as_array().unwrap();
    items
        .iter()
        .map(|item| item["id"].as_str().unwrap())
        .collect()
}

#[tokio::test]
async fn members_are_listed_by_what_they_are() {
    let members = members(&[
        ("m", Role::Mirror),
        ("seed", Role::Seed),
        ("s", Role::Scheduler),
    ]);
    let (head, nodes) = ask(&members, "GET", "/api/v1/nodes").await;
    assert_eq!(head.status(), StatusCode::OK);
    assert_eq!(head.headers()[header::CONTENT_TYPE], "application/json");
    assert_eq!(ids(&nodes), ["m", "seed"]);
    assert_eq!(nodes["next"], Value::Null);
    let mut seed = nodes["items"][1].clone();
    let last_seen = seed.as_object_mut().unwrap().remove("last_seen_ms");
    assert!(last_seen.unwrap().as_u64().unwrap() > 1_700_000_000_000);
    let expected = json!({
        "id": "seed", "role": "seed", "address": "10.0.0.1:7421", "labels": { "zone": "a" },
        "signing_key": "ab".repeat(32), "upload_slots": 16,
    });
    assert_eq!(seed, expected);

    let (_, schedulers) = ask(&members, "GET", "/api/v1/schedulers").await;
    assert_eq!(ids(&schedulers), ["s"]);
    let (_, told) = ask(&members, "GET", "/api/v1/configuration").await;
    let version = members.look(|membership| membership.told().version);
    assert_eq!(
        told,
        json!({ "version": version, "schedulers": 1, "seeds": 1 })
    );
}

#[tokio::test]
async fn pages_hold_everybody_once() {
    let members = members(&[
        ("b", Role::Seed),
        ("b", Role::Mirror),
        ("c", Role::Mirror),
        ("a", Role::Mirror),
        ("a", Role::Seed),
    ]);
    let mut seen = Vec::new();
    let mut uri = "/api/v1/nodes?limit=2".to_owned();
    loop {
        let (_, page) = ask(&members, "GET", &uri).await;
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
    let members = members(&[("s", Role::Scheduler)]);
    for (method, uri, status) in [
        ("GET", "/", 404),
        ("GET", "/api/v1/nodes/m", 404),
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
        let (head, problem) = ask(&members, method, uri).await;
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
    let (head, _) = ask(&members, "HEAD", "/api/v1/nodes").await;
    assert_eq!(head.status(), StatusCode::OK);
}
