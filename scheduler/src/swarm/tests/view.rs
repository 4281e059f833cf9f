//! What people are shown.

use super::*;

#[test]
fn a_task_is_shown_with_who_has_what_and_feeds_whom() {
    let mut cluster = Cluster::of(&["s-1"], &["m-1", "m-2"]);
    cluster.join("m-1", join(10, &[0..3]));
    cluster.join("m-2", join(10, &[]));
    // It waits for those that may have more, before anybody is to read.
    cluster.pass(1000);
    let lease = cluster.lease("s-1").expect("leased");
    cluster.join("s-1", claim(10, &[], lease.lease, 3..10));
    let seen = cluster.swarm.view_of(&task());
    let [view] = &seen.views[..] else {
        panic!("{seen:?}");
    };
    assert_eq!((view.participants, view.complete, view.leases), (3, 0, 1));
    assert_eq!((view.size, view.held_pieces), (10 * MIB, 3));
    let part = |name: &str| {
        let found = view.parts.iter().find(|part| part.host == id(name));
        found.expect("takes part")
    };
    assert_eq!(part("m-1").held, held(10, &[0..3]));
    assert!(part("m-2").parents.contains(&id("m-1")));
    assert!(!part("s-1").reading.is_empty());
    assert_eq!(cluster.swarm.view_of(&Digest::sha256(b"other")).views, []);
}

#[test]
fn all_tasks_are_shown_at_a_glance_with_the_links_between_nodes() {
    let mut cluster = Cluster::of(&["s-1"], &["m-1", "m-2"]);
    cluster.list("s-1", &[task()]);
    cluster.join("m-1", join(10, &[]));
    cluster.join("m-2", join(10, &[]));
    let seen = cluster.swarm.view();
    assert_eq!((seen.tasks, seen.views.len()), (1, 1));
    assert_eq!((seen.views[0].holders, seen.views[0].participants), (1, 2));
    assert!(seen.views[0].parts.is_empty());
    let fed: Vec<_> = seen
        .links
        .iter()
        .filter(|link| link.parent == id("s-1"))
        .collect();
    assert_eq!(fed.len(), 2, "{seen:?}");
}
