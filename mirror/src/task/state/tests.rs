mod elsewhere;
mod giving_way;
mod reading;
mod seeds;

use super::*;
use darner_proto::digest::Digest;
use darner_proto::id::Role;
use darner_proto::name::Source;
use darner_proto::piece_map::PieceRun;
use darner_proto::scheduler::{FailureKind, Parent, ReturnReason};
use std::collections::BTreeSet;
use std::sync::Arc;

const MIB: u64 = 1 << 20;

pub(super) fn at(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

fn host(name: &str, role: Role) -> Host {
    Host {
        id: name.parse().expect("valid"),
        address: format!("{name}:7421"),
        role,
        labels: BTreeMap::new(),
        signing_key: None,
        upload_slots: 8,
    }
}

pub(super) fn task(pieces: u64) -> Task {
    let geometry = Geometry::of(pieces * MIB);
    let me = "me".parse().expect("valid");
    let held = PieceSet::empty(geometry.pieces());
    Task::new(
        at(0),
        Digest::sha256(b"content"),
        me,
        held,
        geometry,
        vec![source("a").into()],
    )
}

pub(super) fn geometry_of(pieces: u32) -> Geometry {
    Geometry::of(u64::from(pieces) * MIB)
}

fn source(repository: &str) -> Source {
    Source {
        registry: "docker.io".parse().expect("valid"),
        repository: repository.parse().expect("valid"),
    }
}

pub(super) fn parents(names: &[(&str, Role)]) -> Event {
    let parents = names.iter().map(|(name, role)| Parent {
        host: host(name, *role),
        complete: false,
    });
    Event::Scheduler(TaskEvent::Parents {
        parents: parents.collect(),
        signers: Vec::new(),
    })
}

pub(super) fn offer(parent: &str, pieces: Range<u32>, trusted: bool) -> Event {
    let run = Arc::new(PieceRun {
        first: pieces.start,
        hashes: vec![[0; 32]; pieces.len()],
        signer: "seed".parse().expect("valid"),
        signature: Vec::new(),
    });
    Event::Offered {
        parent: parent.parse().expect("valid"),
        available: vec![pieces],
        runs: vec![(run, trusted)],
        received_bytes: 1,
    }
}

fn lease(number: u64, ranges: Vec<Range<u32>>) -> Event {
    Event::Scheduler(TaskEvent::Lease(Lease {
        task: Digest::sha256(b"content"),
        size: 0,
        lease: number,
        ranges,
        expires_ms: 5000,
        sources: vec![source("b")],
    }))
}

/// What each parent was asked for.
pub(super) fn fetches(actions: &[Action]) -> Vec<(u64, String, Vec<u32>)> {
    actions
        .iter()
        .filter_map(|action| match action {
            Action::Fetch {
                request,
                parent,
                want,
                ..
            } => Some((
                *request,
                parent.id.to_string(),
                want.keys().copied().collect(),
            )),
            _ => None,
        })
        .collect()
}

fn reads(actions: &[Action]) -> Vec<(u64, Range<u32>)> {
    actions
        .iter()
        .filter_map(|action| match action {
            Action::Read { read, pieces, .. } => Some((*read, pieces.clone())),
            _ => None,
        })
        .collect()
}

fn told(actions: &[Action], kind: FailureKind) -> bool {
    actions.iter().any(
        |action| matches!(action, Action::Tell(Input::ParentFailed(_, _, told)) if *told == kind),
    )
}

#[test]
fn parents_are_asked_for_different_pieces_and_peers_before_seeds() {
    let mut task = task(100);
    task.apply(
        at(0),
        parents(&[("seed", Role::Seed), ("peer", Role::Mirror)]),
    );
    task.apply(at(1), offer("peer", 0..4, true));
    let asked = fetches(&task.apply(at(2), offer("seed", 0..100, true)));
    let mut all: Vec<_> = asked
        .iter()
        .flat_map(|(_, _, pieces)| pieces.clone())
        .collect();
    let count = all.len();
    all.sort_unstable();
    all.dedup();
    assert_eq!(all.len(), count, "a piece was asked for twice: {asked:?}");
    assert!(
        asked
            .iter()
            .all(|(_, parent, pieces)| parent == "seed" && pieces[0] >= 4),
        "{asked:?}"
    );
}

#[test]
fn downloads_of_one_node_share_its_requests() {
    let asked = |downloads: u32| {
        let mut task = task(1000);
        task.apply(at(0), Event::Beside { downloads });
        let names: Vec<_> = (0..30).map(|n| format!("p-{n}")).collect();
        let named: Vec<_> = names
            .iter()
            .map(|name| (name.as_str(), Role::Mirror))
            .collect();
        task.apply(at(1), parents(&named));
        let offers = names.iter();
        let actions = offers.flat_map(|name| task.apply(at(2), offer(name, 0..1000, true)));
        fetches(&actions.collect::<Vec<_>>()).len()
    };
    assert_eq!((asked(1), asked(2), asked(4)), (32, 16, 8));
    // Every download goes on, however many there are.
    assert_eq!(asked(1000), 2);
}

#[test]
fn what_the_parent_did_not_choose_is_asked_for_again() {
    let mut task = task(8);
    task.apply(at(0), parents(&[("seed", Role::Seed)]));
    let mut open = fetches(&task.apply(at(1), offer("seed", 0..8, true)));
    let (_, _, left) = open[0].clone();
    let mut again = BTreeSet::new();
    while let Some((request, _, wanted)) = open.pop() {
        let index = wanted[0];
        let pieces = index..index + 1;
        let end = RequestEnd::Done;
        for event in [
            Event::Chosen { request, pieces },
            Event::Arrived { index },
            Event::RequestEnded { request, end },
        ] {
            let asked = fetches(&task.apply(at(2), event));
            again.extend(asked.iter().flat_map(|(_, _, wanted)| wanted.clone()));
            open.extend(asked);
        }
    }
    assert!(
        left[1..].iter().all(|index| again.contains(index)),
        "{again:?}"
    );
    assert!(task.held().is_full());
}

#[test]
fn a_piece_is_not_asked_for_before_its_hash_is_trusted() {
    let mut task = task(4);
    task.apply(at(0), parents(&[("peer", Role::Mirror)]));
    assert_eq!(fetches(&task.apply(at(1), offer("peer", 0..4, false))), []);
    let actions = task.apply(at(2000), Event::Tick);
    assert!(actions.contains(&Action::Unvouch), "{actions:?}");
    assert!(!fetches(&actions).is_empty());
}

#[test]
fn readers_come_first() {
    let mut task = task(100);
    task.apply(
        at(0),
        Event::Cursor {
            reader: 1,
            piece: Some(50),
        },
    );
    task.apply(at(0), parents(&[("seed", Role::Seed)]));
    let asked = fetches(&task.apply(at(1), offer("seed", 0..100, true)));
    assert!(asked[0].2.starts_with(&[50, 51, 52, 53]), "{asked:?}");
}

#[test]
fn a_wrong_byte_ends_a_parent_for_the_task() {
    let mut task = task(8);
    task.apply(at(0), parents(&[("liar", Role::Mirror)]));
    task.apply(at(1), offer("liar", 0..8, true));
    let end = RequestEnd::Failed(FailureKind::WrongBytes);
    let actions = task.apply(at(2), Event::RequestEnded { request: 1, end });
    assert!(told(&actions, FailureKind::WrongBytes));
    assert!(actions.contains(&Action::Doubt(host("liar", Role::Mirror))));
    assert!(fetches(&actions).is_empty());
    assert_eq!(fetches(&task.apply(at(3), offer("liar", 0..8, true))), []);
}

#[test]
fn a_busy_parent_is_asked_again_soon_without_a_strike() {
    let mut task = task(2);
    task.apply(at(0), parents(&[("seed", Role::Seed)]));
    task.apply(at(1), offer("seed", 0..2, true));
    let actions = task.apply(
        at(2),
        Event::RequestEnded {
            request: 1,
            end: RequestEnd::Busy { again: None },
        },
    );
    assert!(fetches(&actions).is_empty());
    assert_eq!(fetches(&task.apply(at(102), Event::Tick)).len(), 1);
}

#[test]
fn a_late_request_is_hedged_at_another_parent_once() {
    let mut task = task(1);
    task.apply(
        at(0),
        parents(&[("slow", Role::Mirror), ("other", Role::Mirror)]),
    );
    assert_eq!(
        fetches(&task.apply(at(1), offer("slow", 0..1, true))).len(),
        1
    );
    let (request, pieces) = (1, 0..1);
    task.apply(at(2), Event::Chosen { request, pieces });
    assert_eq!(fetches(&task.apply(at(3), offer("other", 0..1, true))), []);
    let actions = task.apply(at(2100), Event::Tick);
    assert_eq!(fetches(&actions), [(2, "other".to_owned(), vec![0])]);
    assert!(told(&actions, FailureKind::Slow));
    assert_eq!(fetches(&task.apply(at(2200), Event::Tick)), []);
}

#[test]
fn what_waits_at_one_parent_is_asked_of_another_that_is_idle() {
    let mut task = task(1);
    task.apply(
        at(0),
        parents(&[("seed", Role::Seed), ("peer", Role::Mirror)]),
    );
    task.apply(at(1), offer("seed", 0..1, true));
    let actions = task.apply(at(2), offer("peer", 0..1, true));
    assert!(actions.contains(&Action::CancelFetch(1)), "{actions:?}");
    assert_eq!(fetches(&actions), [(2, "peer".to_owned(), vec![0])]);
}

/// Two parents that have vanished without a word do not pass a request to and fro while a third has the piece.
#[test]
fn a_request_goes_to_everybody_before_it_comes_back_to_who_let_it_lie() {
    let mut task = task(1);
    task.start(at(0), false);
    let named = [
        ("a", Role::Mirror),
        ("b", Role::Mirror),
        ("c", Role::Mirror),
    ];
    task.apply(at(0), parents(&named));
    let mut asked = Vec::new();
    for name in ["a", "b", "c"] {
        asked.extend(fetches(&task.apply(at(1), offer(name, 0..1, true))));
    }
    for tick in 1..65 {
        asked.extend(fetches(&task.apply(at(tick * 100), Event::Tick)));
    }
    let order: Vec<_> = asked.iter().map(|(_, parent, _)| parent.as_str()).collect();
    assert_eq!(order, ["a", "b", "c", "a"]);
}

#[test]
fn a_read_that_fails_gives_the_lease_back() {
    let mut task = task(4);
    task.apply(at(0), lease(7, vec![0..4]));
    let result = Err(ReturnReason::Unavailable);
    let actions = task.apply(at(1), Event::ReadEnded { read: 1, result });
    let returned = Input::LeaseReturn(Digest::sha256(b"content"), 7, ReturnReason::Unavailable);
    assert_eq!(actions, [Action::Tell(returned)]);
}

#[test]
fn without_a_scheduler_the_seeds_are_asked_in_order_then_upstream() {
    let mut task = task(4);
    task.apply(
        at(0),
        Event::Cursor {
            reader: 1,
            piece: Some(0),
        },
    );
    let owners = vec![host("s-1", Role::Seed), host("s-2", Role::Seed)];
    task.apply(
        at(0),
        Event::Scheduler(TaskEvent::Alone {
            owners,
            expected: true,
        }),
    );
    assert_eq!(task.apply(at(500), Event::Tick), []);
    let asked = task.apply(at(1000), Event::Tick);
    assert_eq!(asked, [Action::Subscribe(host("s-1", Role::Seed))]);
    let asked = task.apply(at(4000), Event::Tick);
    assert_eq!(asked, [Action::Subscribe(host("s-2", Role::Seed))]);
    assert_eq!(reads(&task.apply(at(7000), Event::Tick)).len(), 1);
}

#[test]
fn where_no_scheduler_is_configured_upstream_is_read_at_once() {
    let mut task = task(4);
    let alone = TaskEvent::Alone {
        owners: Vec::new(),
        expected: false,
    };
    task.apply(at(0), Event::Scheduler(alone));
    assert_eq!(reads(&task.apply(at(100), Event::Tick)), []);
    assert_eq!(reads(&task.apply(at(500), Event::Tick)), [(1, 0..4)]);
}

#[test]
fn a_stuck_task_reads_upstream_itself_only_when_a_client_waits() {
    for waits in [true, false] {
        let mut task = task(4);
        if waits {
            task.apply(
                at(0),
                Event::Cursor {
                    reader: 1,
                    piece: Some(0),
                },
            );
        }
        let actions = task.apply(at(5000), Event::Tick);
        assert_eq!(!reads(&actions).is_empty(), waits);
    }
}

#[test]
fn the_last_piece_completes_the_task_and_releases_everything() {
    let mut task = task(2);
    task.apply(at(0), parents(&[("seed", Role::Seed)]));
    task.apply(at(1), offer("seed", 0..2, true));
    task.apply(at(2), Event::Arrived { index: 0 });
    let actions = task.apply(at(3), Event::Arrived { index: 1 });
    assert_eq!(actions.last(), Some(&Action::Complete));
    assert!(actions.contains(&Action::Unsubscribe("seed".parse().expect("valid"))));
    assert_eq!(task.apply(at(9000), Event::Tick), []);
}

#[test]
fn no_source_fails_a_task_that_has_nothing_under_way() {
    let mut task = task(2);
    let none = Event::Scheduler(TaskEvent::NoSource(ReturnReason::Refused));
    let actions = task.apply(at(1), none);
    assert_eq!(
        actions.last(),
        Some(&Action::Fail(Failure::NoSource(ReturnReason::Refused)))
    );
}

#[test]
fn a_parent_that_could_not_be_reached_gets_another_chance() {
    let mut task = task(8);
    task.apply(at(0), parents(&[("seed", Role::Seed)]));
    let gone = || Event::LinkClosed {
        parent: "seed".parse().expect("valid"),
        failure: Some(FailureKind::Unreachable),
    };
    let mut now = 0;
    let mut subscribed = |task: &mut Task, until: u64| {
        while now < until {
            now += 100;
            let actions = task.apply(at(now), Event::Tick);
            if actions
                .iter()
                .any(|one| matches!(one, Action::Subscribe(_)))
            {
                return true;
            }
        }
        false
    };
    for _ in 0..3 {
        task.apply(at(1), gone());
        assert!(subscribed(&mut task, 20_000));
    }
    // The fourth failure drops it, for a while.
    let actions = task.apply(at(3_000), gone());
    assert!(
        actions
            .iter()
            .any(|one| matches!(one, Action::Unsubscribe(_)))
    );
    assert!(!subscribed(&mut task, 7_900));
    assert!(subscribed(&mut task, 8_200));
}
