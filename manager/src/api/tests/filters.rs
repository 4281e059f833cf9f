//! Lists of which a part is asked for.

use darner_proto::digest::Digest;
use darner_proto::name::Source;
use darner_proto::swarms::TaskView;

use super::*;
use crate::api::tasks::{self, Which};
use crate::swarms::seen::{OnItsWay, Seen};

/// What is at `key` of each item of a list, page by page; each page but the last is full.
async fn walk(scene: &Scene, uri: &str, key: &str) -> Vec<String> {
    let joint = if uri.contains('?') { "&" } else { "?" };
    let (mut found, mut after) = (Vec::new(), String::new());
    loop {
        let page = format!("{uri}{joint}limit=2{after}");
        let (head, told) = scene.ask_as(Role::Admin, "GET", &page, Value::Null).await;
        assert_eq!(head.status(), StatusCode::OK, "{page}: {told}");
        let items = told["items"].as_array().unwrap();
        found.extend(
            items
                .iter()
                .map(|item| item[key].as_str().unwrap().to_owned()),
        );
        let Some(next) = told["next"].as_str() else {
            return found;
        };
        assert_eq!(items.len(), 2, "{page}");
        after = format!("&after={next}");
    }
}

/// Each is refused, and the refusal names the parameter.
async fn refused(scene: &Scene, path: &str, queries: &[&str]) {
    for query in queries {
        let uri = format!("{path}?{query}");
        let (head, problem) = scene.ask_as(Role::Admin, "GET", &uri, Value::Null).await;
        assert_eq!(head.status(), StatusCode::BAD_REQUEST, "{uri}: {problem}");
        let kind = &head.headers()[header::CONTENT_TYPE];
        assert_eq!(kind, "application/problem+json", "{uri}");
        let name = query.split('=').next().unwrap();
        let detail = problem["detail"].as_str().unwrap();
        assert!(detail.contains(name), "{uri}: {detail}");
    }
}

fn register(scene: &Scene, id: &str, role: MemberRole, labels: &[(&str, &str)]) {
    let labels = labels.iter();
    let host = Host {
        id: id.parse().unwrap(),
        address: "10.0.0.1:7421".into(),
        role,
        labels: labels
            .map(|(key, value)| ((*key).to_owned(), (*value).to_owned()))
            .collect(),
        signing_key: None,
        upload_slots: 16,
    };
    scene.api.members.register(host).unwrap();
}

#[tokio::test]
async fn members_are_found_by_what_they_say_of_themselves() {
    let scene = Scene::with(&[]).await;
    for at in 0..5 {
        let id = format!("a-{at}");
        register(
            &scene,
            &id,
            MemberRole::Mirror,
            &[("zone", "a"), ("disk", "fast")],
        );
        let id = format!("b-{at}");
        register(&scene, &id, MemberRole::Mirror, &[("zone", "b")]);
    }
    register(&scene, "a-seed", MemberRole::Seed, &[("zone", "a")]);
    register(&scene, "a-sched", MemberRole::Scheduler, &[("zone", "a")]);
    register(&scene, "b-sched", MemberRole::Scheduler, &[("zone", "b")]);
    let west = json!({ "name": "west", "members": { "labels": { "zone": "b" } } });
    let (head, told) = scene
        .ask_as(Role::Admin, "POST", "/api/v1/clusters", west)
        .await;
    assert_eq!(head.status(), StatusCode::CREATED, "{told}");
    for (query, expected) in [
        ("", 11),
        ("role=seed", 1),
        ("role=mirror", 10),
        ("label=zone=a", 6),
        ("label=zone=a,disk=fast", 5),
        ("label=zone=a,zone=b", 0),
        ("label=zone=", 0),
        ("label=zone%3Da&role=seed", 1),
        ("id=a-", 6),
        ("id=A", 0),
        ("id=b-3", 1),
        ("cluster=west", 5),
        ("cluster=default", 6),
        ("cluster=west&id=b-&label=zone=b&role=mirror", 5),
        ("cluster=west&label=zone=a", 0),
    ] {
        let found = walk(&scene, &format!("/api/v1/nodes?{query}"), "id").await;
        assert_eq!(found.len(), expected, "{query}: {found:?}");
        let once: BTreeSet<_> = found.iter().collect();
        assert_eq!(once.len(), expected, "{query}: {found:?}");
    }
    let schedulers = walk(&scene, "/api/v1/schedulers?cluster=west", "id").await;
    assert_eq!(schedulers, ["b-sched"]);
    let seeds = walk(&scene, "/api/v1/seeds?label=zone=a&id=a-s", "id").await;
    assert_eq!(seeds, ["a-seed"]);

    let long = format!("id={}", "x".repeat(513));
    let many = format!("label={}", ["a=b"; 33].join(","));
    let nodes = [
        "role=scheduler",
        "role=",
        "label=zone",
        "label==a",
        "label=",
        "label=a=b&label=c=d",
        "cluster=wets",
        "id=",
        "id=a%00",
        &long,
        &many,
        "state=up",
    ];
    refused(&scene, "/api/v1/nodes", &nodes).await;
    refused(&scene, "/api/v1/nodes", &["after=mirror:a&role=seed"]).await;
    refused(&scene, "/api/v1/seeds", &["role=seed", "cluster=wets"]).await;
}

/// An account was made and changed by each of these.
const ACTORS: [&str; 6] = [
    "ann",
    "ann (token 1)",
    "Ann",
    "anna",
    "ann (token 2)",
    "ann.b",
];

async fn audited(place: Place) -> Scene {
    let scene = Scene::over(place).await;
    let database = &scene.api.database;
    for (at, actor) in ACTORS.into_iter().enumerate() {
        let name = format!("u{at}").parse().unwrap();
        let made = accounts::create(database, actor, &name, Role::Viewer, "-");
        made.await.unwrap();
        let change = Change {
            role: Some(Role::Operator),
            password: None,
        };
        let changed = accounts::change(database, actor, &name, None, change);
        changed.await.unwrap();
    }
    scene
}

#[tokio::test]
async fn the_audit_is_looked_through_by_who_what_and_when() {
    for place in Place::each() {
        let scene = audited(place).await;
        let uri = |query: &str| format!("/api/v1/audit?{query}");
        for (query, expected) in [
            ("actor=ann", 6),
            ("actor=ann%20(token%202)", 2),
            ("actor=ann%20(token", 0),
            ("actor=an", 0),
            ("actor=Ann", 2),
            ("actor=ann&action=user.create", 3),
            ("action=user.change", 6),
            ("object=u1", 2),
            ("object=u1&actor=anna", 0),
            ("actor=ann&since=0&until=4102444800000", 6),
            ("actor=ann&since=2000-01-01T00:00", 6),
            ("actor=ann&since=2000-01-01T00:00:00%2B02:00", 6),
            ("actor=ann&until=2000-01-01T00:00:00Z", 0),
            ("since=2100-01-01T00:00:00.5Z", 0),
            ("action=nothing", 0),
        ] {
            let found = walk(&scene, &uri(query), "action").await;
            assert_eq!(found.len(), expected, "{query}: {found:?}");
        }
        let newest = walk(&scene, &uri("actor=ann"), "object").await;
        assert_eq!(newest, ["u4", "u4", "u1", "u1", "u0", "u0"]);

        // The beginning is in it, the end is not.
        let one = uri("object=u1&action=user.create");
        let (_, told) = scene.ask_as(Role::Admin, "GET", &one, Value::Null).await;
        let at = told["items"][0]["at_ms"].as_i64().unwrap();
        for (query, expected) in [
            (format!("{one}&since={at}"), 1),
            (format!("{one}&since={}", at + 1), 0),
            (format!("{one}&until={at}"), 0),
            (format!("{one}&until={}", at + 1), 1),
        ] {
            let found = walk(&scene, &query, "object").await;
            assert_eq!(found.len(), expected, "{query}");
        }
        let audit = [
            "since=yesterday",
            "until=2026-13-01T00:00",
            "since=",
            "actor=",
            "action=a%00",
            "object=",
            "who=ann",
        ];
        refused(&scene, "/api/v1/audit", &audit).await;
    }
}

#[tokio::test]
async fn accounts_are_found_by_what_they_may_do() {
    for place in Place::each() {
        let scene = audited(place).await;
        refused(&scene, "/api/v1/users", &["after=%00", "role=root"]).await;
        let operators = walk(&scene, "/api/v1/users?role=operator", "name").await;
        assert_eq!(operators, ["operator", "u0", "u1", "u2", "u3", "u4", "u5"]);
        let admins = walk(&scene, "/api/v1/users?role=admin", "name").await;
        assert_eq!(admins, ["admin"]);
    }
}

#[tokio::test]
async fn jobs_are_found_by_how_far_they_are_and_who_asked() {
    for place in Place::each() {
        let scene = Scene::over(place).await;
        register(&scene, "seed", MemberRole::Seed, &[]);
        let all = "/api/v1/jobs";
        let mut ids = Vec::new();
        for role in [Role::Operator, Role::Admin, Role::Operator, Role::Operator] {
            let new = json!({ "images": ["r.test/a:b"], "to": "seeds" });
            let (head, job) = scene.ask_as(role, "POST", all, new).await;
            assert_eq!(head.status(), StatusCode::CREATED, "{job}");
            ids.push(job["id"].as_str().unwrap().to_owned());
        }
        let cancel = format!("{all}/{}/cancel", ids[0]);
        let (head, _) = scene
            .ask_as(Role::Admin, "POST", &cancel, Value::Null)
            .await;
        assert_eq!(head.status(), StatusCode::OK);
        for (query, expected) in [
            ("", &[0, 1, 2, 3][..]),
            ("phase=running", &[1, 2, 3]),
            ("phase=cancelled", &[0]),
            ("phase=done", &[]),
            ("by=operator", &[0, 2, 3]),
            ("by=oper", &[]),
            ("by=operator&phase=running", &[2, 3]),
            ("by=admin&phase=cancelled", &[]),
        ] {
            let found: BTreeSet<_> = walk(&scene, &format!("{all}?{query}"), "id")
                .await
                .into_iter()
                .collect();
            let expected: BTreeSet<_> =
                expected.iter().map(|at: &usize| ids[*at].clone()).collect();
            assert_eq!(found, expected, "{query}");
        }
        let retry = format!("{all}/{}/retry", ids[0]);
        let (head, _) = scene.ask_as(Role::Admin, "POST", &retry, Value::Null).await;
        assert_eq!(head.status(), StatusCode::OK);
        let running = walk(&scene, &format!("{all}?phase=running"), "id").await;
        assert_eq!(running.len(), 4);
        refused(&scene, all, &["phase=over", "by=", "by=a%00", "kind=image"]).await;
    }
}

fn view(task: &str, size: u64, sources: &[&str]) -> OnItsWay {
    let source = |name: &&str| {
        let (registry, repository) = name.split_once('/').unwrap();
        Source {
            registry: registry.parse().unwrap(),
            repository: repository.parse().unwrap(),
        }
    };
    let view = TaskView {
        task: Digest::parse_key(task).unwrap(),
        size,
        sources: sources.iter().map(source).collect(),
        participants: 1,
        complete: 0,
        holders: 0,
        leases: 0,
        held_pieces: 0,
        parts: Vec::new(),
    };
    OnItsWay {
        view,
        bytes_per_second: None,
    }
}

#[tokio::test]
async fn tasks_are_found_by_where_they_are_from() {
    let content = Digest::sha256(b"x").to_string();
    let file = format!("file:{}", Digest::sha256(b"x").hex());
    let seen = Seen {
        views: vec![
            view(&content, 1, &["docker.io/a/b"]),
            view(&content, 2, &["quay.io/a/b", "docker.io/c"]),
            view(&file, 3, &[]),
            view(&content, 4, &["docker.io/c"]),
        ],
        tasks: 4,
        ..Seen::default()
    };
    for (query, expected) in [
        (json!({}), &[1, 2, 3, 4][..]),
        (json!({ "registry": "docker.io" }), &[1, 2, 4]),
        (json!({ "repository": "a/b" }), &[1, 2]),
        // Of one place, not of two.
        (
            json!({ "registry": "docker.io", "repository": "a/b" }),
            &[1],
        ),
        (json!({ "kind": "file" }), &[3]),
        (json!({ "kind": "layer", "registry": "quay.io" }), &[2]),
        (json!({ "kind": "file", "registry": "quay.io" }), &[]),
    ] {
        let which: Which = serde_json::from_value(query.clone()).unwrap();
        let filter = which.filter().unwrap();
        let (mut found, mut from) = (Vec::new(), Some(0));
        while let Some(at) = from {
            let list = tasks::listed(&seen, &filter, at, 2);
            found.extend(list.items.iter().map(|task| task.size_bytes));
            from = list.next.map(|next| next.parse().unwrap());
            assert!(from.is_none() || list.items.len() == 2, "{query}");
        }
        assert_eq!(found, expected, "{query}");
    }
    let past = tasks::listed(&seen, &Which::default().filter().unwrap(), usize::MAX, 1000);
    assert!(past.items.is_empty() && past.next.is_none());
    let scene = Scene::with(&[]).await;
    let bad = [
        "registry=",
        "registry=a%20b",
        "repository=A",
        "kind=image",
        "node=m-1",
    ];
    refused(&scene, "/api/v1/tasks", &bad).await;
}
