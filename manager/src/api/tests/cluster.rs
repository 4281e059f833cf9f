//! What the API tells of the cluster as a whole, and who may join it.

use axum::body::BodyDataStream;
use darner_proto::figures::{Figures, Served, UpstreamFigures};
use futures_util::StreamExt as _;

use super::*;
use crate::membership::MemberKey;

fn key(id: &str, role: MemberRole) -> MemberKey {
    let id = id.parse().unwrap();
    MemberKey { role, id }
}

fn told(store: u64, upstream: u64) -> Figures {
    Figures {
        served: Served {
            store,
            upstream,
            ..Served::default()
        },
        requests: 3,
        running: 1,
        held_bytes: 7,
        capacity_bytes: 70,
        upstreams: vec![UpstreamFigures {
            registry: "docker.io".parse().unwrap(),
            requests: 2,
            bytes: upstream,
            errors: 0,
            limit: Some(100),
            remaining: Some(0),
            quiet_until: 0,
        }],
        version: "0.1.0".to_owned(),
        ..Figures::default()
    }
}

async fn get(scene: &Scene, uri: &str) -> Value {
    let (head, told) = ask(scene, "GET", uri).await;
    assert_eq!(head.status(), StatusCode::OK, "{uri}: {told}");
    told
}

#[tokio::test]
async fn the_overview_adds_up_what_nodes_count() {
    let scene = Scene::with(&[("m", MemberRole::Mirror), ("seed", MemberRole::Seed)]).await;
    let tallies = &scene.api.tallies;
    tallies.heard(key("m", MemberRole::Mirror), told(60, 0));
    tallies.heard(key("seed", MemberRole::Seed), told(20, 20));
    let overview = get(&scene, "/api/v1/overview").await;
    let part = |key: &str| overview[key].clone();
    assert_eq!((part("mirrors"), part("seeds")), (json!(1), json!(1)));
    assert_eq!(part("served_bytes")["store"], 80);
    assert_eq!(
        (part("saved_bytes"), part("hit_ratio")),
        (json!(80), json!(0.8))
    );
    assert_eq!((part("running"), part("held_bytes")), (json!(2), json!(14)));
    assert_eq!(
        (part("reporting"), part("upstream_requests")),
        (json!(2), json!(4))
    );
    assert_eq!(part("insecure"), true);
    let remarks = part("remarks").to_string();
    for remark in ["INSECURE", "no scheduler", "docker.io allows no more"] {
        assert!(remarks.contains(remark), "{remark}: {remarks}");
    }
    let upstreams = get(&scene, "/api/v1/upstreams").await;
    let expected = json!([{
        "registry": "docker.io", "nodes": 2, "requests": 4, "bytes": 20, "errors": 0,
        "limit": 100, "remaining": 0, "quiet_until": null,
    }]);
    assert_eq!(upstreams["items"], expected);

    let node = get(&scene, "/api/v1/nodes/seed").await;
    assert_eq!(
        (&node["role"], &node["counted"]["upstream_bytes"]),
        (&json!("seed"), &json!(20))
    );
    scene.api.members.deregister(key("m", MemberRole::Mirror));
    let (head, _) = ask(&scene, "GET", "/api/v1/nodes/m").await;
    assert_eq!(head.status(), StatusCode::NOT_FOUND);
}

/// What a stream says, event by event.
struct Heard {
    body: BodyDataStream,
    text: String,
}

impl Heard {
    async fn next(&mut self) -> Option<(String, Value)> {
        loop {
            if let Some((event, rest)) = self.text.split_once("\n\n") {
                let field = |name: &str| {
                    let mut lines = event.lines();
                    let line = lines.find_map(|line| line.strip_prefix(name));
                    line.unwrap_or_default().trim().to_owned()
                };
                let told = (field("event:"), field("data:"));
                self.text = rest.to_owned();
                let data = serde_json::from_str(&told.1).unwrap_or(Value::Null);
                return Some((told.0, data));
            }
            let more = self.body.next().await?.unwrap();
            self.text.push_str(std::str::from_utf8(&more).unwrap());
        }
    }
}

async fn follow(scene: &Scene, uri: &str) -> Heard {
    let token = format!("Bearer {}", scene.token(Role::Viewer));
    let request = Request::get(uri).header("authorization", token);
    let request = request.body(Body::empty()).unwrap();
    let answered = routes(scene.api.clone()).oneshot(request).await.unwrap();
    assert_eq!(answered.status(), StatusCode::OK);
    assert_eq!(
        answered.headers()[header::CONTENT_TYPE],
        "text/event-stream"
    );
    Heard {
        body: answered.into_body().into_data_stream(),
        text: String::new(),
    }
}

#[tokio::test]
async fn changes_are_told_as_they_come_and_streams_are_counted() {
    let scene = Scene::with(&[("m", MemberRole::Mirror)]).await;
    let mut heard = follow(&scene, "/api/v1/overview/events").await;
    let (name, first) = heard.next().await.unwrap();
    assert_eq!((name.as_str(), &first["running"]), ("overview", &json!(0)));
    scene
        .api
        .tallies
        .heard(key("m", MemberRole::Mirror), told(1, 0));
    let (_, second) = heard.next().await.unwrap();
    assert_eq!(second["running"], 1);

    let mut others = Vec::new();
    for _ in 1..MAX_CONNECTIONS / 2 {
        others.push(follow(&scene, "/api/v1/overview/events").await);
    }
    let (head, _) = ask(&scene, "GET", "/api/v1/overview/events").await;
    assert_eq!(head.status(), StatusCode::SERVICE_UNAVAILABLE);
    drop(others);
    follow(&scene, "/api/v1/overview/events").await;
}

#[tokio::test]
async fn a_job_is_followed_to_its_end() {
    let scene = Scene::with(&[("seed", MemberRole::Seed)]).await;
    let new = json!({ "images": ["r.test/a:b"], "to": "seeds" });
    let token = format!("Bearer {}", scene.token(Role::Operator));
    let create = async |key: &str, body: &Value| {
        let headers = [("authorization", token.as_str()), ("idempotency-key", key)];
        scene
            .ask("POST", "/api/v1/jobs", &headers, body.clone())
            .await
    };
    let (head, job) = create("one", &new).await;
    assert_eq!(head.status(), StatusCode::CREATED);
    let place = head.headers()[header::LOCATION]
        .to_str()
        .unwrap()
        .to_owned();
    assert_eq!(
        place,
        format!("/api/v1/jobs/{}", job["id"].as_str().unwrap())
    );
    let (head, again) = create("one", &new).await;
    assert_eq!((head.status(), &again["id"]), (StatusCode::OK, &job["id"]));
    let other = json!({ "images": ["r.test/other:b"], "to": "seeds" });
    assert_eq!(create("one", &other).await.0.status(), 422);
    assert_eq!(create("", &new).await.0.status(), 400);

    let mut heard = follow(&scene, &format!("{place}/events")).await;
    let (name, now) = heard.next().await.unwrap();
    assert_eq!((name.as_str(), &now["phase"]), ("job", &json!("running")));
    let (head, _) = scene
        .ask_as(
            Role::Operator,
            "POST",
            &format!("{place}/cancel"),
            Value::Null,
        )
        .await;
    assert_eq!(head.status(), StatusCode::OK);
    assert_eq!(heard.next().await.unwrap().1["phase"], "cancelled");
    assert_eq!(heard.next().await.unwrap().0, "end");
    assert_eq!(heard.next().await, None);
    let (head, _) = ask(&scene, "GET", "/api/v1/jobs/none/events").await;
    assert_eq!(head.status(), StatusCode::NOT_FOUND);
}

#[tokio::test]
async fn join_tokens_are_made_listed_and_revoked_and_that_is_audited() {
    for place in Place::each() {
        let mut scene = Scene::over(place).await;
        let ask = async |scene: &Scene, method: &str, uri: &str, body: Value| {
            scene.ask_as(Role::Admin, method, uri, body).await
        };
        let uri = "/api/v1/join-tokens";
        let (head, _) = ask(&scene, "GET", uri, Value::Null).await;
        assert_eq!(head.status(), StatusCode::CONFLICT, "in plain text");
        let database = scene.api.database.clone();
        let authority = crate::authority::tests::over(database).await;
        scene.api.authority = Some(authority);
        let new = |uses: u64, life: u64| json!({ "role": "seed", "uses": uses, "expires_in_seconds": life });
        for (uses, life) in [(0, 60), (10_001, 60), (1, 59), (1, u64::MAX)] {
            let (head, _) = ask(&scene, "POST", uri, new(uses, life)).await;
            assert_eq!(head.status(), StatusCode::BAD_REQUEST, "{uses} {life}");
        }
        let (head, made) = ask(&scene, "POST", uri, new(2, 3600)).await;
        assert_eq!(head.status(), StatusCode::CREATED);
        let token = made["token"].as_str().unwrap();
        let id = made["id"].as_str().unwrap();
        assert!(token.contains(id));
        let (_, list) = ask(&scene, "GET", uri, Value::Null).await;
        let mut shown = made.clone();
        shown.as_object_mut().unwrap().remove("token");
        assert_eq!(list["items"], json!([shown]));
        assert!(!list.to_string().contains(token));
        let revoke = format!("{uri}/{id}");
        assert_eq!(
            ask(&scene, "DELETE", &revoke, Value::Null).await.0.status(),
            204
        );
        assert_eq!(
            ask(&scene, "DELETE", &revoke, Value::Null).await.0.status(),
            404
        );
        let (head, _) = ask(&scene, "POST", "/api/v1/nodes/n/revoke", Value::Null).await;
        assert_eq!(head.status(), StatusCode::NO_CONTENT);

        let (_, lines) = ask(&scene, "GET", "/api/v1/audit?limit=3", Value::Null).await;
        let lines = lines["items"].as_array().unwrap().iter();
        let lines: Vec<_> = lines
            .map(|line| {
                (
                    line["action"].as_str().unwrap(),
                    line["object"].as_str().unwrap(),
                )
            })
            .collect();
        let expected = [
            ("certificates.revoke", "n"),
            ("join-token.revoke", id),
            ("join-token.create", id),
        ];
        assert_eq!(lines, expected);
    }
}

#[tokio::test]
async fn clusters_are_made_changed_and_removed_by_administrators() {
    let scene = Scene::with(&[("m", MemberRole::Mirror)]).await;
    let all = "/api/v1/clusters";
    let new = json!({ "name": "west", "members": { "labels": { "zone": "a" } } });
    let (head, _) = scene.ask_as(Role::Operator, "POST", all, new.clone()).await;
    assert_eq!(head.status(), StatusCode::FORBIDDEN);
    let (head, made) = scene.ask_as(Role::Admin, "POST", all, new.clone()).await;
    assert_eq!(head.status(), StatusCode::CREATED, "{made}");
    assert_eq!(head.headers()[header::ETAG], "\"1\"");
    assert_eq!(made["members"]["labels"], json!({ "zone": "a" }));
    let (head, _) = scene.ask_as(Role::Admin, "POST", all, new).await;
    assert_eq!(head.status(), StatusCode::CONFLICT);
    for bad in [
        json!({ "name": "east", "members": {} }),
        json!({ "name": "default", "members": { "hosts": ["a"] } }),
        json!({ "name": "east", "members": { "networks": ["10.1"] } }),
        json!({ "name": "default", "rules": { "blocked": ["nothing"] } }),
        json!({ "name": "default", "rules": { "limits": { "upload": 0 } } }),
        json!({ "name": "default", "rules": { "upstreams": [{ "registry": "r.example" }] } }),
        json!({ "name": "default", "passwords": { "r.example": "canary" } }),
    ] {
        let (head, told) = scene.ask_as(Role::Admin, "POST", all, bad).await;
        assert_eq!(head.status(), StatusCode::BAD_REQUEST, "{told}");
    }
    let nodes = get(&scene, "/api/v1/nodes").await;
    assert_eq!(nodes["items"][0]["cluster"], "west");

    let one = "/api/v1/clusters/west";
    let token = format!("Bearer {}", scene.token(Role::Admin));
    let with = |tag: &'static str| [("authorization", token.as_str()), ("if-match", tag)];
    let other = json!({ "position": 3, "members": { "hosts": ["x-*"] } });
    let put = async |tag| {
        let (head, _) = scene.ask("PUT", one, &with(tag), other.clone()).await;
        head
    };
    assert_eq!(put("\"7\"").await.status(), StatusCode::PRECONDITION_FAILED);
    assert_eq!(put("\"1\"").await.headers()[header::ETAG], "\"2\"");
    assert_eq!(get(&scene, one).await["position"], 3);
    let node = get(&scene, "/api/v1/nodes/m").await;
    assert_eq!(node["cluster"], "default");
    let (head, _) = scene.ask("DELETE", one, &with("\"1\""), Value::Null).await;
    assert_eq!(head.status(), StatusCode::PRECONDITION_FAILED);
    let (head, _) = scene.ask("DELETE", one, &with("\"2\""), Value::Null).await;
    assert_eq!(head.status(), StatusCode::NO_CONTENT);
    assert_eq!(get(&scene, all).await["items"], json!([]));

    // What is set for the nodes of no other cluster.
    let rules = json!({
        "upstreams": [{ "registry": "docker.io", "tag_ttl_seconds": 7 }],
        "limits": { "upload": 1000 }, "blocked": ["docker.io/evil/*"],
    });
    let new = json!({ "name": "default", "rules": rules });
    let (head, made) = scene.ask_as(Role::Admin, "POST", all, new).await;
    assert_eq!(head.status(), StatusCode::CREATED, "{made}");
    assert_eq!(made["rules"], rules);
    // Passwords are kept sealed or not at all.
    let user = json!({
        "rules": { "upstreams": [{ "registry": "docker.io", "username": "ann" }] },
        "passwords": { "docker.io": "canary" },
    });
    let one = "/api/v1/clusters/default";
    let (head, told) = scene.ask("PUT", one, &with("*"), user).await;
    assert_eq!(head.status(), StatusCode::BAD_REQUEST);
    let told = told.to_string();
    assert!(
        told.contains("seal_key_file") && !told.contains("canary"),
        "{told}"
    );
}

#[tokio::test]
async fn what_has_not_changed_is_not_sent_again() {
    let scene = Scene::with(&[("m", MemberRole::Mirror)]).await;
    let token = format!("Bearer {}", scene.token(Role::Admin));
    let bare = [("authorization", token.as_str())];
    for path in [
        "/api/v1/nodes",
        "/api/v1/configuration",
        "/api/openapi.json",
    ] {
        let (head, told) = scene.ask("GET", path, &bare, Value::Null).await;
        let tag = head.headers()[header::ETAG].to_str().unwrap().to_owned();
        let again = [bare[0], ("if-none-match", tag.as_str())];
        let (same, nothing) = scene.ask("GET", path, &again, Value::Null).await;
        assert_eq!(same.status(), StatusCode::NOT_MODIFIED, "{path}: {told}");
        assert_eq!(
            (&same.headers()[header::ETAG], nothing),
            (&tag.parse::<header::HeaderValue>().unwrap(), Value::Null)
        );
        let other = [bare[0], ("if-none-match", "\"other\"")];
        let (head, _) = scene.ask("GET", path, &other, Value::Null).await;
        assert_eq!(head.status(), StatusCode::OK);
    }
    // Nobody learns by it what they may not see.
    let any = [("if-none-match", "*")];
    let (head, _) = scene.ask("GET", "/api/v1/nodes", &any, Value::Null).await;
    assert_eq!(head.status(), StatusCode::UNAUTHORIZED);
}
