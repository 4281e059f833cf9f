//! Hooks over each kind of database.

use darner_proto::digest::Digest;
use darner_proto::id::{Host, Role};
use darner_service::secret::Secret;
use http::HeaderMap;
use serde_json::{Value, json};

use super::*;
use crate::database::testing::Place;
use crate::jobs::Filter;
use crate::members::Members;
use crate::membership::{Snapshot, Timing};
use crate::metrics::ManagerMetrics;
use crate::users::audit;

fn jobs(database: &Database) -> Jobs {
    let metrics = ManagerMetrics::default();
    let members = Members::new(Snapshot::default(), false, Timing::default(), metrics);
    let host = Host {
        id: "seed".parse().unwrap(),
        address: "10.0.0.1:7421".into(),
        role: Role::Seed,
        labels: Default::default(),
        signing_key: None,
        upload_slots: 16,
    };
    members.register(host).unwrap();
    Jobs::new(database.clone(), members)
}

fn wiring(kind: Kind) -> Wiring {
    Wiring {
        kind,
        registry: "harbor.test".to_owned(),
        repositories: vec!["team/*".to_owned(), "app".to_owned()],
        platform: None,
        to: "seeds".to_owned(),
        at_once: Some(8),
        bytes_per_second: None,
    }
}

fn pushed(repository: &str, byte: u8) -> Value {
    let digest = Digest::sha256(&[byte]).to_string();
    let url = format!("elsewhere.test/{repository}:v1");
    json!({ "type": "PUSH_ARTIFACT", "event_data": {
        "resources": [{ "tag": "v1", "digest": digest, "resource_url": url }],
        "repository": { "repo_full_name": repository } } })
}

fn with_secret(secret: &str) -> HeaderMap {
    let value = secret.parse().unwrap();
    [(http::header::AUTHORIZATION, value)].into_iter().collect()
}

fn named(name: &Name) -> Change<'_> {
    Change {
        actor: "ann",
        name,
        expected: None,
    }
}

#[tokio::test]
async fn a_push_begins_one_job_however_often_it_is_told() {
    for place in Place::each() {
        let database = place.open().await;
        let jobs = jobs(&database);
        let hooks = Hooks::new(database.clone(), jobs.clone(), None);
        let name: Name = "harbor".parse().unwrap();
        let made = hooks.create(named(&name), &wiring(Kind::Harbor)).await;
        let (changed, secret) = made.unwrap();
        assert_eq!(changed, Changed::Yes);
        let headers = with_secret(&secret);
        let body = pushed("team/web/api", 1).to_string();
        let told = (0..4).map(|_| hooks.receive("harbor", &headers, body.as_bytes()));
        let told = futures_util::future::join_all(told).await;
        let told: Vec<_> = told.into_iter().map(Result::unwrap).collect();
        assert!(told.iter().all(|one| *one == told[0]), "{told:?}");
        let listed = jobs.list(Filter::default(), None, 10).await.unwrap();
        assert_eq!(listed.len(), 1);
        assert_eq!(listed[0].by, "webhook/harbor");
        let digest = Digest::sha256(&[1]);
        assert_eq!(
            listed[0].images,
            [format!("harbor.test/team/web/api@{digest}")]
        );

        let other = pushed("elsewhere/app", 2).to_string();
        let ignored = hooks.receive("harbor", &headers, other.as_bytes()).await;
        let expected = Received {
            jobs: vec![],
            ignored: 1,
        };
        assert_eq!(ignored.unwrap(), expected);
        let next = pushed("app", 3).to_string();
        let began = hooks.receive("harbor", &headers, next.as_bytes()).await;
        assert_eq!(began.unwrap().jobs.len(), 1);
        let lines = audit(&database).await;
        assert_eq!(
            lines
                .iter()
                .filter(|line| *line == "webhook/harbor job.create")
                .count(),
            2
        );
        assert!(
            lines.contains(&"ann webhook.create".to_owned()),
            "{lines:?}"
        );
    }
}

async fn audit(database: &Database) -> Vec<String> {
    let lines = audit::read(database, audit::Filter::default(), None, 100)
        .await
        .unwrap();
    let lines = lines
        .iter()
        .map(|line| format!("{} {}", line.actor, line.action));
    lines.collect()
}

#[tokio::test]
async fn strangers_are_told_nothing() {
    let place = Place::file();
    let database = place.open().await;
    let hooks = Hooks::new(database.clone(), jobs(&database), None);
    let name: Name = "harbor".parse().unwrap();
    let (_, secret) = hooks
        .create(named(&name), &wiring(Kind::Harbor))
        .await
        .unwrap();
    let body = pushed("app", 1).to_string();
    for (at, headers) in [
        ("harbor", HeaderMap::new()),
        ("harbor", with_secret("another")),
        ("other", with_secret(&secret)),
        ("../x", with_secret(&secret)),
    ] {
        let refused = hooks.receive(at, &headers, body.as_bytes()).await;
        assert!(
            matches!(refused, Err(HookError::Stranger)),
            "{at}: {refused:?}"
        );
    }
    let nonsense = hooks.receive("harbor", &with_secret(&secret), b"x").await;
    assert!(matches!(nonsense, Err(HookError::Invalid(_))));
    let (again, _) = hooks
        .create(named(&name), &wiring(Kind::Harbor))
        .await
        .unwrap();
    assert_eq!(again, Changed::Taken);
    let stale = Change {
        expected: Some(7),
        ..named(&name)
    };
    let stale = hooks.change(stale, &wiring(Kind::Harbor)).await.unwrap();
    assert_eq!(stale, Changed::Stale);
    assert_eq!(hooks.remove(named(&name)).await.unwrap(), Changed::Yes);
    assert_eq!(hooks.remove(named(&name)).await.unwrap(), Changed::Absent);
    let gone = hooks
        .receive("harbor", &with_secret(&secret), body.as_bytes())
        .await;
    assert!(matches!(gone, Err(HookError::Stranger)));
}

/// No secret can be read out of the database.
#[tokio::test]
async fn secrets_are_hashed_or_sealed() {
    let place = Place::file();
    let database = place.open().await;
    let digits = "17".repeat(32);
    let seal = |digits: &str| Some(Arc::new(Seal::new(&Secret::new(digits)).unwrap()));
    let hooks = Hooks::new(database.clone(), jobs(&database), seal(&digits));
    let mut secrets = Vec::new();
    for kind in [Kind::Harbor, Kind::Distribution, Kind::Github] {
        let name: Name = kind.as_str().parse().unwrap();
        let (_, secret) = hooks.create(named(&name), &wiring(kind)).await.unwrap();
        let row: Vec<u8> = sqlx::query_scalar("SELECT secret FROM webhook WHERE name = $1")
            .bind(kind.as_str())
            .fetch_one(&mut *database.read().await.unwrap())
            .await
            .unwrap();
        assert!(
            !row.windows(8)
                .any(|part| secret.as_bytes().windows(8).any(|of| of == part))
        );
        secrets.push(secret);
    }
    let body = json!({ "zen": "Keep it" }).to_string();
    let key = aws_lc_rs::hmac::Key::new(aws_lc_rs::hmac::HMAC_SHA256, secrets[2].as_bytes());
    let signature = aws_lc_rs::hmac::sign(&key, body.as_bytes());
    let signature = format!("sha256={}", random::hex(signature.as_ref()));
    let headers: HeaderMap = [(
        http::HeaderName::from_static("x-hub-signature-256"),
        signature.parse().unwrap(),
    )]
    .into_iter()
    .collect();
    let told = hooks.receive("github", &headers, body.as_bytes()).await;
    assert_eq!(told.unwrap().jobs, Vec::<String>::new());
    for other in [None, seal(&"71".repeat(32))] {
        let hooks = Hooks::new(database.clone(), jobs(&database), other);
        let told = hooks.receive("github", &headers, body.as_bytes()).await;
        assert!(matches!(told, Err(HookError::Seal(_))), "{told:?}");
    }
}

#[test]
fn a_hook_names_repositories_of_one_registry() {
    let good = wiring(Kind::Harbor);
    assert_eq!(good.check(), Ok(()));
    for (repository, is) in [
        ("app", true),
        ("team/a", true),
        ("team/a/b", true),
        ("team", false),
        ("teams/a", false),
        ("app/a", false),
    ] {
        assert_eq!(good.is_for(repository), is, "{repository}");
    }
    let all = Wiring {
        repositories: vec!["*".to_owned()],
        ..good.clone()
    };
    assert_eq!(all.check(), Ok(()));
    assert!(all.is_for("any/thing"));
    let bad = |change: fn(&mut Wiring)| {
        let mut wiring = good.clone();
        change(&mut wiring);
        wiring.check().unwrap_err().to_string()
    };
    assert!(bad(|wiring| wiring.repositories.clear()).starts_with("repositories"));
    assert!(bad(|wiring| wiring.repositories[0] = "a*".to_owned()).starts_with("repositories"));
    assert!(bad(|wiring| wiring.registry = "a/b".to_owned()).contains("registry"));
    assert!(bad(|wiring| wiring.to = "moon".to_owned()).starts_with("to"));
    assert!(bad(|wiring| wiring.at_once = Some(0)).starts_with("at_once"));
}
