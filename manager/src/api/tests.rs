use std::collections::BTreeSet;

use axum::body::{Body, to_bytes};
use axum::http::{Request, StatusCode};
use darner_proto::id::{Host, Role as MemberRole, SigningKey};
use darner_service::identity::{Identity, IdentityMetrics};
use darner_service::secret::Secret;
use serde_json::{Value, json};
use tower::ServiceExt as _;

use super::access::{COOKIE, Need, ROUTES};
use super::*;
use crate::clusters::Clusters;
use crate::database::testing::Place;
use crate::membership::{Snapshot, Timing};
use crate::metrics::ManagerMetrics;
use crate::users::accounts::{self, Change};
use crate::users::credentials::{self, By, Caller};
use crate::users::{Name, Role};

mod begun;
mod cluster;
mod filters;
mod images;
mod people;
mod routes;

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
        tallies: Tallies::default(),
        images: Images::default(),
        removals: Removals::new(database.clone(), members.clone()),
        swarms: Swarms::new(members.clone(), plain()),
        clusters: Clusters::new(database.clone(), members.clone(), None),
        members,
        authority: None,
        database,
        passwords,
        oidc: None,
    };
    Api::new(parts, Shutdown::default())
}

fn plain() -> Identity {
    Identity::insecure(&IdentityMetrics::default())
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
