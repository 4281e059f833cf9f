//! A crowd that asks for the same at once: whoever comes last finds as many parents as whoever came
//! first.

use super::super::selection::MAX_PARENTS;
use super::*;

const CROWD: usize = 200;

fn crowd() -> (Cluster, Vec<String>) {
    let names: Vec<_> = (0..CROWD).map(|number| format!("m{number}")).collect();
    let mirrors: Vec<_> = names.iter().map(String::as_str).collect();
    let mut cluster = Cluster::of(&["s"], &mirrors);
    for name in &mirrors {
        cluster.join(name, join(1000, &[]));
    }
    (cluster, names)
}

/// How many mirrors each is to fetch from.
fn links(cluster: &Cluster) -> Vec<usize> {
    let task = &cluster.swarm.tasks[&task()];
    let mirrors = task.participants.iter().filter(|(session, _)| {
        let node = cluster.swarm.hosts.get(**session);
        node.is_some_and(|node| node.host.role == Role::Mirror)
    });
    let count = |me: &tasks::Participant| {
        let parents = cluster.swarm.parents_of(me);
        parents.filter(|one| !cluster.swarm.is_seed(*one)).count()
    };
    mirrors.map(|(_, me)| count(me)).collect()
}

#[test]
fn the_last_of_a_crowd_has_all_its_parents_at_once() {
    let (mut cluster, _) = crowd();
    let told = cluster.parents(&format!("m{}", CROWD - 1));
    let mirrors = told.into_iter().flatten().filter(|name| name != "s");
    assert!(mirrors.count() >= MAX_PARENTS - 1);
    let links = links(&cluster);
    assert_eq!(links.len(), CROWD);
    assert!(
        links.iter().all(|count| *count >= MAX_PARENTS - 2),
        "{links:?}"
    );
}

#[test]
fn everybody_is_told_though_nobody_says_anything() {
    let (mut cluster, names) = crowd();
    cluster.pass(100);
    let mut turns = 0;
    while cluster.swarm.is_behind() && turns < 1000 {
        cluster.now += TURN;
        cluster.apply(Event::Turn);
        turns += 1;
    }
    assert!((1..1000).contains(&turns), "{turns} turns");
    let few = names.iter().filter(|name| {
        let told = cluster.parents(name).unwrap_or_default();
        told.len() < MAX_PARENTS - 2
    });
    assert_eq!(few.count(), 0);
}
