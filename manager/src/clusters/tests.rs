//! Clusters over each kind of database.

use darner_proto::id::{Host, Role};

use super::settings::MemberRule;
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
        let one = Clusters::new(database.clone(), members());
        let other = Clusters::new(database.clone(), members());
        let name: Name = "west".parse().unwrap();
        let change = |expected| Change {
            actor: "ann",
            name: &name,
            expected,
        };
        let before = version(&one.members);
        let made = one.create(change(None), &of_zone("w")).await.unwrap();
        assert_eq!(made, Changed::Yes);
        assert!(version(&one.members) > before, "everybody is told");
        assert_eq!(cluster_of(&one.members, "w"), "west");
        assert_eq!(cluster_of(&other.members, "w"), "default");
        other.look().await.unwrap();
        assert_eq!(cluster_of(&other.members, "w"), "west");
        let same = version(&other.members);
        other.look().await.unwrap();
        assert_eq!(version(&other.members), same, "nothing is new");

        let stale = other.change(change(Some(7)), &of_zone("v")).await.unwrap();
        assert_eq!(stale, Changed::Stale);
        let empty = ClusterSettings::default();
        let bad = other.change(change(None), &empty).await;
        assert!(matches!(bad, Err(ClusterError::Invalid(_))));
        assert_eq!(cluster_of(&other.members, "w"), "west");
        other.change(change(Some(1)), &of_zone("v")).await.unwrap();
        assert_eq!(cluster_of(&other.members, "w"), "default");
        let kept = one.get(&name).await.unwrap().unwrap();
        assert_eq!((kept.settings, kept.version), (of_zone("v"), 2));

        assert_eq!(one.remove(change(None)).await.unwrap(), Changed::Yes);
        assert_eq!(cluster_of(&one.members, "v"), "default");
        let lines = audit::read(&database, None, 10).await.unwrap();
        let lines: Vec<_> = lines.iter().map(|line| line.action.as_str()).collect();
        assert_eq!(
            lines,
            ["cluster.remove", "cluster.change", "cluster.create"]
        );
    }
}
