//! Whom to ask about a repository, in which order: pure.

use darner_proto::id::{Host, HostId, repository_key};
use darner_proto::name::Source;
use darner_proto::rendezvous;

/// Owners that are tried before this node asks upstream itself. The second is there for the moment
/// in which the first is gone and nobody has noticed yet.
const MAX_OWNERS: usize = 2;
/// Holders of records that are asked while upstream is out of reach.
const MAX_HOLDERS: usize = 4;

/// Who is to be asked next.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Step {
    /// Another node, as the repository's owner.
    Owner(Host),
    /// Upstream, by this node.
    Here,
}

/// The repository's owners in rendezvous order up to this node, which always comes last.
pub(super) fn owners(source: &Source, owners: &[Host], me: &HostId) -> Vec<Step> {
    let key = repository_key(source);
    let mut steps: Vec<_> = rendezvous::order_by_weight(&key, owners, |host| host)
        .into_iter()
        .take(MAX_OWNERS)
        .take_while(|host| host.id != *me)
        .cloned()
        .map(Step::Owner)
        .collect();
    steps.push(Step::Here);
    steps
}

/// Those who hold what is asked for, each once and without this node. Who holds the content itself
/// comes before who holds only its repository's records.
pub(super) fn holders(of_content: Vec<Host>, of_records: Vec<Host>, me: &HostId) -> Vec<Host> {
    let mut chosen: Vec<Host> = Vec::new();
    for host in of_content.into_iter().chain(of_records) {
        if chosen.len() == MAX_HOLDERS {
            break;
        }
        if host.id != *me && chosen.iter().all(|known| known.id != host.id) {
            chosen.push(host);
        }
    }
    chosen
}

#[cfg(test)]
mod tests {
    use super::*;
    use darner_proto::id::Role;
    use proptest::prelude::*;

    fn host(name: &str) -> Host {
        Host {
            id: name.parse().unwrap(),
            address: "127.0.0.1:1".to_owned(),
            role: Role::Seed,
            labels: Default::default(),
            signing_key: None,
            upload_slots: 1,
        }
    }

    fn source(name: &str) -> Source {
        Source {
            registry: "docker.io".parse().unwrap(),
            repository: name.parse().unwrap(),
        }
    }

    #[test]
    fn without_owners_this_node_asks() {
        let me = host("me").id;
        assert_eq!(owners(&source("a"), &[], &me), [Step::Here]);
    }

    #[test]
    fn holders_are_asked_once_and_content_first() {
        let me = host("me");
        let asked = holders(
            vec![host("a"), me.clone()],
            vec![host("b"), host("a"), host("c"), host("d"), host("e")],
            &me.id,
        );
        let names: Vec<_> = asked.iter().map(|host| host.id.as_str()).collect();
        assert_eq!(names, ["a", "b", "c", "d"]);
    }

    proptest! {
        #[test]
        fn every_node_names_the_same_owner(name in "[a-z]{1,12}", count in 1usize..7) {
            let seeds: Vec<_> = (0..count).map(|n| host(&format!("seed-{n}"))).collect();
            let first = |me: &Host| match &owners(&source(&name), &seeds, &me.id)[0] {
                Step::Owner(owner) => owner.id.clone(),
                Step::Here => me.id.clone(),
            };
            let owner = first(&host("mirror"));
            for seed in &seeds {
                prop_assert_eq!(first(seed), owner.clone());
            }
        }

        #[test]
        fn an_owner_never_asks_those_behind_it(name in "[a-z]{1,12}") {
            let seeds: Vec<_> = (0..5).map(|n| host(&format!("seed-{n}"))).collect();
            let all = owners(&source(&name), &seeds, &host("mirror").id);
            prop_assert_eq!(all.len(), MAX_OWNERS + 1);
            let Step::Owner(second) = &all[1] else { panic!("no second owner") };
            let its = owners(&source(&name), &seeds, &second.id);
            prop_assert_eq!(&its[..1], &all[..1]);
            prop_assert_eq!(&its[1..], &[Step::Here]);
        }
    }
}
