use std::collections::BTreeSet;

use axum::body::{Body, to_bytes};
use axum::http::{Request, StatusCode};
use darner_proto::id::{Host, Role as MemberRole, SigningKey};
use darner_service::secret::Secret;
use serde_json::{Value, json};
use tower::ServiceExt as _;

use super::access::{COOKIE, Need, ROUTES};
use super::*;
use crate::database::testing::Place;
use crate::membership::{Snapshot, Timing};
use crate::metrics::ManagerMetrics;
use crate::users::accounts::{self, Change};
use crate::users::credentials::{self, By, Caller};
use crate::users::{Name, Role};

mod begun;
mod cluster;

pub(crate) const PASSWORD: &str = "correct horse battery";

/// An API with one account of each role, named like it, and their tokens.
pub(crate) struct Scene {
    pub(crate) api: Api,
    tokens: Vec<(Role, String)>,
    _place: Place,
}

fn api(members: Members, database: Database, passwords: Passwords) -> Api {
    let jobs = Jobs::new(database.clone(), members.clone());
    let parts = Parts {
        hooks: Hooks::new(database.clone(), jobs.clone(), None),
        jobs,
        members,
        tallies: Tallies::default(),
        authority: None,
        database,
        passwords,
        oidc: None,
    };
    Api::new(parts, Shutdown::default())
}

/// An answer: its head and its JSON.
type Told = (Response<()>, Value);

impl Scene {
    async fn over(place: Place) -> Self {
        let database = place.open().await;
        let passwords = Passwords::new().unwrap();
        let metrics = ManagerMetrics::default();
        let members = Members::new(Snapshot::default(), false, Timing::default(), metrics);
        let hash = passwords.hash(&Secret::new(PASSWORD)).await.unwrap();
        let mut tokens = Vec::new();
        for role in Role::ALL {
            let account: Name = role.as_str().parse().unwrap();
            accounts::create(&database, "test", &account, role, &hash)
                .await
                .unwrap();
            let csrf = String::new();
            let caller = Caller {
                account,
                role,
                by: By::Session { csrf },
            };
            let life = Duration::from_secs(60);
            let made = credentials::create_token(&database, &caller, "test", role, life).await;
            let (_, token) = made.unwrap().unwrap();
            tokens.push((role, token.reveal().to_owned()));
        }
        Self {
            api: api(members, database, passwords),
            tokens,
            _place: place,
        }
    }

    pub(crate) async fn with(hosts: &[(&str, MemberRole)]) -> Self {
        let scene = Self::over(Place::file()).await;
        for (id, role) in hosts {
            let host = Host {
                id: id.parse().unwrap(),
                address: "10.0.0.1:7421".into(),
                role: *role,
                labels: [("zone".to_owned(), "a".to_owned())].into(),
                signing_key: Some(SigningKey([0xab; 32])),
                upload_slots: 16,
            };
            scene.api.members.register(host).unwrap();
        }
        scene
    }

    pub(crate) fn token(&self, role: Role) -> &str {
        let found = self.tokens.iter().find(|(of, _)| *of == role);
        &found.unwrap().1
    }

    /// As `role` would, with its token.
    async fn ask_as(&self, role: Role, method: &str, uri: &str, body: Value) -> Told {
        let token = format!("Bearer {}", self.token(role));
        self.ask(method, uri, &[("authorization", &token)], body)
            .await
    }

    async fn ask(&self, method: &str, uri: &str, headers: &[(&str, &str)], body: Value) -> Told {
        let mut headers = headers.to_vec();
        let body = match body {
            Value::Null => String::new(),
            body => {
                headers.push(("content-type", "application/json"));
                body.to_string()
            }
        };
        let (head, text) = self.send(method, uri, &headers, body).await;
        (head, serde_json::from_str(&text).unwrap_or(Value::Null))
    }

    /// Sends a request; of an answer that goes on and on only the head is taken.
    pub(crate) async fn send(
        &self,
        method: &str,
        uri: &str,
        headers: &[(&str, &str)],
        body: String,
    ) -> (Response<()>, String) {
        let mut request = Request::builder().method(method).uri(uri);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let request = request.body(Body::from(body)).unwrap();
        let answered = routes(self.api.clone()).oneshot(request).await.unwrap();
        let (head, body) = answered.into_parts();
        let kind = head.headers.get(header::CONTENT_TYPE);
        let body = match kind.is_some_and(|kind| kind == "text/event-stream") {
            true => axum::body::Bytes::new(),
            false => to_bytes(body, 1 << 20).await.unwrap(),
        };
        let text = String::from_utf8(body.to_vec()).unwrap();
        (Response::from_parts(head, ()), text)
    }

    async fn log_in(&self, name: &str, password: &str) -> Told {
        let body = json!({ "name": name, "password": password });
        self.ask("POST", "/api/v1/session", &[], body).await
    }
}

/// As a viewer.
async fn ask(scene: &Scene, method: &str, uri: &str) -> Told {
    scene.ask_as(Role::Viewer, method, uri, Value::Null).await
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
        "id": "seed", "role": "seed", "address": "10.0.0.1:7421", "labels": { "zone": "a" },
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
        let uri = path.replace("{name}", "nobody").replace("{id}", "none");
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
async fn the_first_administrator_is_made_by_a_link_that_works_once() {
    for place in Place::each() {
        let database = place.open().await;
        let link = credentials::invite(&database).await.unwrap().unwrap();
        let link = link.reveal();
        let other = credentials::invite(&database).await.unwrap().unwrap();
        let members = Members::new(
            Snapshot::default(),
            false,
            Timing::default(),
            ManagerMetrics::default(),
        );
        let passwords = Passwords::new().unwrap();
        let scene = Scene {
            api: api(members, database, passwords),
            tokens: Vec::new(),
            _place: place,
        };
        let set_up = async |token: &str, password: &str| {
            let body = json!({ "token": token, "name": "root", "password": password });
            scene.ask("POST", "/api/v1/setup", &[], body).await
        };
        assert_eq!(set_up("guess", PASSWORD).await.0.status(), 403);
        assert_eq!(set_up(link, "short").await.0.status(), 400);
        let (head, begun) = set_up(link, PASSWORD).await;
        assert_eq!(
            (head.status(), &begun["role"]),
            (StatusCode::CREATED, &json!("admin"))
        );
        for used in [link, other.reveal()] {
            assert_eq!(set_up(used, PASSWORD).await.0.status(), 403);
        }
        assert!(
            credentials::invite(&scene.api.database)
                .await
                .unwrap()
                .is_none()
        );
        assert_eq!(scene.log_in("root", PASSWORD).await.0.status(), 201);
    }
}

#[tokio::test]
async fn a_session_changes_things_only_from_its_own_pages() {
    let scene = Scene::with(&[]).await;
    let (head, begun) = scene.log_in("admin", PASSWORD).await;
    assert_eq!(head.status(), StatusCode::CREATED);
    let set = head.headers()[header::SET_COOKIE].to_str().unwrap();
    for part in ["Path=/", "Secure", "HttpOnly", "SameSite=Strict"] {
        assert!(set.split("; ").any(|has| has == part), "{set}");
    }
    let cookie = set.split(';').next().unwrap();
    assert!(cookie.starts_with(COOKIE));
    let csrf = begun["csrf"].as_str().unwrap();
    let label = json!({ "label": "ci", "role": "viewer", "expires_in_seconds": 60 });
    let make = async |headers: &[(&str, &str)]| {
        let (head, _) = scene
            .ask("POST", "/api/v1/tokens", headers, label.clone())
            .await;
        head.status().as_u16()
    };
    assert_eq!(make(&[("cookie", cookie)]).await, 403);
    assert_eq!(
        make(&[("cookie", cookie), ("x-csrf-token", "guess")]).await,
        403
    );
    let elsewhere = [
        ("cookie", cookie),
        ("x-csrf-token", csrf),
        ("sec-fetch-site", "cross-site"),
    ];
    assert_eq!(make(&elsewhere).await, 403);
    let ours = [
        ("cookie", cookie),
        ("x-csrf-token", csrf),
        ("sec-fetch-site", "same-origin"),
    ];
    assert_eq!(make(&ours).await, 201);

    let me = async || {
        let (head, me) = scene
            .ask("GET", "/api/v1/me", &[("cookie", cookie)], Value::Null)
            .await;
        (head.status().as_u16(), me["user"].clone())
    };
    assert_eq!(me().await, (200, json!("admin")));
    let (head, _) = scene
        .ask("DELETE", "/api/v1/session", &ours, Value::Null)
        .await;
    assert_eq!(head.status(), StatusCode::NO_CONTENT);
    assert_eq!(me().await.0, 401);
}

#[tokio::test]
async fn guessing_passwords_becomes_slow_for_names_that_exist_or_not() {
    let scene = Scene::with(&[]).await;
    for name in ["viewer", "nobody"] {
        // However slow the machine is, at some guess the wait is longer than the guess takes.
        let mut guesses = 0;
        while scene.log_in(name, "wrong").await.0.status() == StatusCode::UNAUTHORIZED {
            guesses += 1;
            assert!(guesses < 16, "{name} can be guessed as fast as one likes");
        }
        assert!(guesses >= 5, "{name}: {guesses}");
        let (head, _) = scene.log_in(name, PASSWORD).await;
        assert_eq!(head.status(), StatusCode::TOO_MANY_REQUESTS, "{name}");
        assert!(head.headers().contains_key(header::RETRY_AFTER));
    }
    assert_eq!(scene.log_in("operator", PASSWORD).await.0.status(), 201);
    let in_order = json!(["operator", PASSWORD]);
    let (head, _) = scene.ask("POST", "/api/v1/session", &[], in_order).await;
    assert_eq!(head.status(), StatusCode::BAD_REQUEST);
}

#[tokio::test]
async fn a_token_does_what_it_is_for_until_it_is_revoked() {
    for place in Place::each() {
        let scene = Scene::over(place).await;
        let (head, begun) = scene.log_in("operator", PASSWORD).await;
        let set = head.headers()[header::SET_COOKIE].to_str().unwrap();
        let cookie = set.split(';').next().unwrap();
        let session = [
            ("cookie", cookie),
            ("x-csrf-token", begun["csrf"].as_str().unwrap()),
        ];
        let make = async |role: &str, life: u64| {
            let body = json!({ "label": "ci", "role": role, "expires_in_seconds": life });
            scene.ask("POST", "/api/v1/tokens", &session, body).await
        };
        assert_eq!(make("admin", 60).await.0.status(), 403, "above one's own");
        assert_eq!(make("viewer", 1).await.0.status(), 400);
        assert_eq!(make("viewer", u64::MAX).await.0.status(), 400);
        let (head, made) = make("viewer", 3600).await;
        assert_eq!(head.status(), StatusCode::CREATED);
        let bearer = format!("Bearer {}", made["token"].as_str().unwrap());
        let show = [("authorization", bearer.as_str())];
        let (_, me) = scene.ask("GET", "/api/v1/me", &show, Value::Null).await;
        assert_eq!(me, json!({ "user": "operator", "role": "viewer" }));
        let in_url = format!(
            "/api/v1/me?access_token={}",
            made["token"].as_str().unwrap()
        );
        let (head, _) = scene.ask("GET", &in_url, &[], Value::Null).await;
        assert_eq!(head.status(), StatusCode::UNAUTHORIZED);
        let renews = json!({ "label": "x", "role": "viewer", "expires_in_seconds": 60 });
        let (head, _) = scene.ask("POST", "/api/v1/tokens", &show, renews).await;
        assert_eq!(
            head.status(),
            StatusCode::FORBIDDEN,
            "a token makes no token"
        );

        // Nobody sees the tokens, nor those of others.
        let (_, list) = scene
            .ask_as(Role::Operator, "GET", "/api/v1/tokens", Value::Null)
            .await;
        assert_eq!(list["items"].as_array().unwrap().len(), 2);
        assert!(!list.to_string().contains("darner_pat_"));
        let revoke = format!("/api/v1/tokens/{}", made["id"].as_str().unwrap());
        let (head, _) = scene
            .ask_as(Role::Viewer, "DELETE", &revoke, Value::Null)
            .await;
        assert_eq!(head.status(), StatusCode::NOT_FOUND, "somebody else's");
        let (head, _) = scene
            .ask_as(Role::Operator, "DELETE", &revoke, Value::Null)
            .await;
        assert_eq!(head.status(), StatusCode::NO_CONTENT);
        let (head, _) = scene.ask("GET", "/api/v1/me", &show, Value::Null).await;
        assert_eq!(head.status(), StatusCode::UNAUTHORIZED);
    }
}

#[tokio::test]
async fn accounts_are_changed_with_care() {
    for place in Place::each() {
        let scene = Scene::over(place).await;
        let new = json!({ "name": "ann", "role": "viewer", "password": PASSWORD });
        let create = async || {
            scene
                .ask_as(Role::Admin, "POST", "/api/v1/users", new.clone())
                .await
        };
        assert_eq!(create().await.0.status(), StatusCode::CREATED);
        assert_eq!(create().await.0.status(), StatusCode::CONFLICT);
        let (head, ann) = scene
            .ask_as(Role::Admin, "GET", "/api/v1/users/ann", Value::Null)
            .await;
        let tag = head.headers()[header::ETAG].to_str().unwrap().to_owned();
        assert_eq!(ann["role"], "viewer");
        let token = format!("Bearer {}", scene.token(Role::Admin));
        let patch = async |tag: Option<&str>| {
            let mut headers = vec![("authorization", token.as_str())];
            headers.extend(tag.map(|tag| ("if-match", tag)));
            let body = json!({ "role": "operator" });
            let told = scene
                .ask("PATCH", "/api/v1/users/ann", &headers, body)
                .await;
            told.0.status().as_u16()
        };
        assert_eq!(patch(None).await, 428);
        assert_eq!(patch(Some("\"77\"")).await, 412);
        assert_eq!(patch(Some(&tag)).await, 200);
        assert_eq!(patch(Some(&tag)).await, 412, "changed meanwhile");
        let remove = async |name: &str| {
            let uri = format!("/api/v1/users/{name}");
            let (head, _) = scene.ask_as(Role::Admin, "DELETE", &uri, Value::Null).await;
            head.status().as_u16()
        };
        assert_eq!(remove("admin").await, 409, "the last one");
        assert_eq!(remove("ann").await, 204);
        assert_eq!(remove("ann").await, 404);

        let uri = "/api/v1/audit?limit=3";
        let (_, lines) = scene.ask_as(Role::Admin, "GET", uri, Value::Null).await;
        let actions: Vec<_> = lines["items"]
            .as_array()
            .unwrap()
            .iter()
            .map(|line| {
                (
                    line["action"].as_str().unwrap(),
                    line["object"].as_str().unwrap(),
                )
            })
            .collect();
        let expected = [
            ("user.remove", "ann"),
            ("user.change", "ann"),
            ("user.create", "ann"),
        ];
        assert_eq!(actions, expected);
        assert!(
            lines["items"][0]["actor"]
                .as_str()
                .unwrap()
                .starts_with("admin (token ")
        );
        assert!(lines["next"].is_string());
    }
}

#[tokio::test]
async fn the_audit_is_only_added_to() {
    for place in Place::each() {
        let scene = Scene::over(place).await;
        let database = &scene.api.database;
        for sql in ["DELETE FROM audit", "UPDATE audit SET actor = 'somebody'"] {
            let mut step = database.begin().await.unwrap();
            let refused = sqlx::query(sql).execute(&mut *step).await.unwrap_err();
            assert!(refused.to_string().contains("only added to"), "{refused}");
        }
    }
}

#[tokio::test]
async fn a_role_taken_away_is_gone_from_tokens_and_sessions() {
    let scene = Scene::with(&[]).await;
    let (head, _) = scene.log_in("operator", PASSWORD).await;
    let set = head.headers()[header::SET_COOKIE].to_str().unwrap();
    let cookie = set.split(';').next().unwrap().to_owned();
    let change = Change {
        role: Some(Role::Viewer),
        password: None,
    };
    let operator: Name = "operator".parse().unwrap();
    accounts::change(&scene.api.database, "test", &operator, Some(1), change)
        .await
        .unwrap();
    let (_, me) = scene
        .ask_as(Role::Operator, "GET", "/api/v1/me", Value::Null)
        .await;
    assert_eq!(me["role"], "viewer");
    let (head, _) = scene
        .ask("GET", "/api/v1/me", &[("cookie", &cookie)], Value::Null)
        .await;
    assert_eq!(head.status(), StatusCode::UNAUTHORIZED);
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
