//! Clusters over each kind of database.

use darner_proto::id::{Host, Role};

use super::passwords::GivenPasswords;
use super::settings::{MemberRule, NodeRules, RegistryRule};
use super::*;
use crate::database::testing::Place;
use crate::membership::{Snapshot, Timing};
use crate::metrics::ManagerMetrics;
use crate::users::audit;

fn members() -> Members {
    let metrics = ManagerMetrics::default();
    Members::new(Snapshot::default(), false, Timing::default(), metrics)
}

fn host(zone: &str) -> Host {
    Host {
        id: "m".parse().unwrap(),
        address: "10.0.0.1:7421".into(),
        role: Role::Mirror,
        labels: [("zone".to_owned(), zone.to_owned())].into(),
        signing_key: None,
        upload_slots: 16,
    }
}

fn of_zone(zone: &str) -> ClusterSettings {
    ClusterSettings {
        position: 0,
        members: MemberRule {
            labels: host(zone).labels,
            ..MemberRule::default()
        },
        ..ClusterSettings::default()
    }
}

fn cluster_of(members: &Members, zone: &str) -> String {
    members.look(|members| members.clusters().of(&host(zone)).to_owned())
}

fn version(members: &Members) -> u64 {
    members.look(|members| members.told().version)
}

#[tokio::test]
async fn a_change_counts_here_at_once_and_elsewhere_after_a_look() {
    for place in Place::each() {
        let database = place.open().await;
        let one = Clusters::new(database.clone(), members(), None);
        let other = Clusters::new(database.clone(), members(), None);
        let name: Name = "west".parse().unwrap();
        let change = |expected| Change {
            actor: "ann",
            name: &name,
            expected,
        };
        let before = version(&one.members);
        let made = one
            .create(change(None), &of_zone("w"), Passwords::default())
            .await
            .unwrap();
        assert_eq!(made, Changed::Yes);
        assert!(version(&one.members) > before, "everybody is told");
        assert_eq!(cluster_of(&one.members, "w"), "west");
        assert_eq!(cluster_of(&other.members, "w"), "default");
        other.look().await.unwrap();
        assert_eq!(cluster_of(&other.members, "w"), "west");
        let same = version(&other.members);
        other.look().await.unwrap();
        assert_eq!(version(&other.members), same, "nothing is new");

        let stale = other
            .change(change(Some(7)), &of_zone("v"), Passwords::default())
            .await
            .unwrap();
        assert_eq!(stale, Changed::Stale);
        let empty = ClusterSettings::default();
        let bad = other
            .change(change(None), &empty, Passwords::default())
            .await;
        assert!(matches!(bad, Err(ClusterError::Invalid(_))));
        assert_eq!(cluster_of(&other.members, "w"), "west");
        other
            .change(change(Some(1)), &of_zone("v"), Passwords::default())
            .await
            .unwrap();
        assert_eq!(cluster_of(&other.members, "w"), "default");
        let kept = one.get(&name).await.unwrap().unwrap();
        assert_eq!((kept.settings, kept.version), (of_zone("v"), 2));

        assert_eq!(one.remove(change(None)).await.unwrap(), Changed::Yes);
        assert_eq!(cluster_of(&one.members, "v"), "default");
        let lines = audit::read(&database, audit::Filter::default(), None, 10)
            .await
            .unwrap();
        let lines: Vec<_> = lines.iter().map(|line| line.action.as_str()).collect();
        assert_eq!(
            lines,
            ["cluster.remove", "cluster.change", "cluster.create"]
        );
    }
}

fn with_registry(url: &str) -> ClusterSettings {
    ClusterSettings {
        rules: NodeRules {
            upstreams: vec![RegistryRule {
                registry: "r.example".into(),
                url: Some(url.into()),
                username: Some("ann".into()),
                ..RegistryRule::default()
            }],
            ..NodeRules::default()
        },
        ..of_zone("w")
    }
}

fn given(password: &str) -> Passwords {
    let given = format!(r#"{{"r.example": "{password}"}}"#);
    let given: GivenPasswords = serde_json::from_str(&given).unwrap();
    given.into()
}

fn seal(digit: &str) -> Option<Arc<Seal>> {
    let digits = darner_service::secret::Secret::new(digit.repeat(64));
    Some(Arc::new(Seal::new(&digits).unwrap()))
}

fn password_told(members: &Members) -> Option<String> {
    members.look(|members| {
        let told = members
            .clusters()
            .narrow(members.told(), Some(&host("w")), true);
        let login = told.rules.upstreams.first()?.login.clone();
        login.map(|login| login.password)
    })
}

#[tokio::test]
async fn passwords_are_sealed_kept_over_changes_and_shown_to_nobody() {
    for place in Place::each() {
        let database = place.open().await;
        let one = Clusters::new(database.clone(), members(), seal("7"));
        let name: Name = "west".parse().unwrap();
        let change = Change {
            actor: "ann",
            name: &name,
            expected: None,
        };
        let at = with_registry("https://r.example");
        let unsealed = Clusters::new(database.clone(), members(), None);
        let refused = unsealed.create(change, &at, given("canary")).await;
        assert!(matches!(refused, Err(ClusterError::NoSeal)), "{refused:?}");
        let made = one.create(change, &at, given("canary")).await.unwrap();
        assert_eq!(made, Changed::Yes);
        assert_eq!(password_told(&one.members), Some("canary".into()));

        let kept = one.get(&name).await.unwrap().unwrap();
        let shown = serde_json::to_string(&kept).unwrap();
        let lines = audit::read(&database, audit::Filter::default(), None, 10)
            .await
            .unwrap();
        for told in [shown, kept.passwords.clone(), format!("{lines:?} {kept:?}")] {
            assert!(!told.contains("canary"), "{told}");
        }

        let mut other = at.clone();
        other.position = 7;
        let none = Passwords::default();
        one.change(change, &other, none.clone()).await.unwrap();
        assert_eq!(password_told(&one.members), Some("canary".into()));
        let moved = with_registry("https://thief.example");
        let refused = one.change(change, &moved, none).await;
        assert!(
            matches!(refused, Err(ClusterError::Invalid(_))),
            "{refused:?}"
        );
        one.change(change, &moved, given("new")).await.unwrap();
        assert_eq!(password_told(&one.members), Some("new".into()));

        // Another manager with the same key, and with another.
        let same = Clusters::new(database.clone(), members(), seal("7"));
        same.look().await.unwrap();
        assert_eq!(password_told(&same.members), Some("new".into()));
        let another = Clusters::new(database.clone(), members(), seal("8"));
        let error = another.look().await.unwrap_err();
        assert!(error.to_string().contains("r.example"), "{error}");
    }
}
