//! What the board decides, and jobs over each kind of database.

use std::collections::BTreeSet;

use darner_proto::id::Host;
use darner_proto::preheat::{Coming, MAX_ORDERS, OrderId, Outcome, Progress, Target};
use proptest::prelude::*;

use super::board::{ABSENT_MS, AT_ONCE, PAUSE_MS, SILENT_MS};
use super::job::{ATTEMPTS, MIN_RATE, State};
use super::*;
use crate::database::testing::Place;
use crate::membership::{Snapshot, Timing};
use crate::metrics::ManagerMetrics;
use crate::users::audit;

mod earlier;
mod schedules;

fn job(nodes: &[(&str, bool)]) -> Job {
    let item = |(node, seed): &(&str, bool)| Item::new(0, (*node).to_owned(), *seed);
    Job {
        id: "1a".to_owned(),
        created_ms: 1,
        by: "ann".to_owned(),
        files: Vec::new(),
        images: vec!["r.test/a:b".to_owned()],
        platform: None,
        to: "nodes".to_owned(),
        limits: Limits::default(),
        items: nodes.iter().map(item).collect(),
    }
}

fn board(job: Job) -> Board {
    let mut board = Board::default();
    board.apply(0, Event::Take(job));
    board
}

fn heard(board: &mut Board, now: u64, node: &str, reports: Vec<Report>) -> Vec<OrderId> {
    let node = node.to_owned();
    let actions = board.apply(now, Event::Heard { node, reports });
    let orders = actions.into_iter().find_map(|action| match action {
        Action::Order(orders) => Some(orders),
        Action::Store(_) => None,
    });
    orders.unwrap().into_iter().map(|order| order.id).collect()
}

fn report(id: &OrderId, bytes: u64, outcome: Outcome) -> Report {
    let progress = Progress {
        bytes,
        total_bytes: 10,
        blobs: 0,
        total_blobs: 1,
        coming: vec![Coming {
            digest: darner_proto::digest::Digest::sha256(b"a"),
            bytes,
            total_bytes: 10,
        }],
    };
    Report {
        id: id.clone(),
        progress,
        outcome,
    }
}

fn failed(id: &OrderId, for_good: bool) -> Report {
    let why = "it rains".to_owned();
    report(id, 0, Outcome::Failed { why, for_good })
}

/// The database knows now what the board knows.
fn written(board: &mut Board) {
    let job = board.get("1a").unwrap().clone();
    board.apply(0, Event::Take(job));
}

fn state(board: &Board, index: usize) -> State {
    board.get("1a").unwrap().items[index].state.clone()
}

#[test]
fn seeds_come_first_and_an_order_stands_until_it_has_ended() {
    let mut board = board(job(&[("seed", true), ("mirror", false)]));
    assert_eq!(heard(&mut board, 0, "mirror", vec![]), []);
    let given = heard(&mut board, 0, "seed", vec![]);
    assert_eq!(heard(&mut board, 1, "seed", vec![]), given);
    let running = report(&given[0], 4, Outcome::Running);
    assert_eq!(heard(&mut board, 2, "seed", vec![running]), given);
    let less = report(&given[0], 3, Outcome::Running);
    heard(&mut board, 3, "seed", vec![less]);
    assert_eq!(board.get("1a").unwrap().items[0].held.bytes, 4);
    assert_eq!(board.get("1a").unwrap().items[0].coming[0].bytes, 4);
    assert_eq!(heard(&mut board, 4, "mirror", vec![]), []);
    let done = report(&given[0], 10, Outcome::Done);
    assert_eq!(heard(&mut board, 5, "seed", vec![done.clone()]), given);
    assert_eq!(heard(&mut board, 5, "seed", vec![done.clone()]), given);
    written(&mut board);
    assert_eq!(heard(&mut board, 5, "seed", vec![done]), []);
    let given = heard(&mut board, 0, "mirror", vec![]);
    let done = report(&given[0], 10, Outcome::Done);
    heard(&mut board, 7, "mirror", vec![done]);
    assert_eq!(board.get("1a").unwrap().phase(), Phase::Done);
    board.forget_ended("1a");
    assert_eq!(board.count(), 0);
}

#[test]
fn a_failure_is_tried_again_a_few_times_and_then_told() {
    let mut board = board(job(&[("mirror", false)]));
    let mut now = 0;
    for attempt in 1..=ATTEMPTS {
        let given = heard(&mut board, now, "mirror", vec![]);
        assert_eq!(given[0].attempt, attempt);
        let failed = failed(&given[0], false);
        let standing = heard(&mut board, now, "mirror", vec![failed.clone()]);
        assert_eq!(standing, given);
        let later = now + 2 * PAUSE_MS;
        assert_eq!(heard(&mut board, later, "mirror", vec![failed]), given);
        written(&mut board);
        // What is heard of an attempt that is over counts for nothing.
        let late = report(&given[0], 10, Outcome::Done);
        assert_eq!(heard(&mut board, now, "mirror", vec![late]), []);
        now += 2 * PAUSE_MS;
    }
    let State::Failed { why, .. } = state(&board, 0) else {
        panic!("{:?}", state(&board, 0));
    };
    assert_eq!(why, "it rains");
    let mut again = board.get("1a").unwrap().clone();
    again.retry();
    board.apply(now, Event::Take(again));
    let given = heard(&mut board, now, "mirror", vec![]);
    assert_eq!(given[0].attempt, ATTEMPTS + 1);
}

#[test]
fn what_no_seed_can_get_nobody_is_asked_for() {
    let mut board = board(job(&[("a", true), ("b", true), ("mirror", false)]));
    let given = heard(&mut board, 0, "a", vec![]);
    heard(&mut board, 0, "a", vec![failed(&given[0], true)]);
    assert!(!state(&board, 2).is_ended(), "the other seed may have it");
    let given = heard(&mut board, 0, "b", vec![]);
    heard(&mut board, 0, "b", vec![failed(&given[0], true)]);
    let expected = State::Failed {
        why: "it rains".to_owned(),
        for_good: true,
    };
    assert_eq!(state(&board, 2), expected);
    assert_eq!(board.get("1a").unwrap().phase(), Phase::Failed);
}

#[test]
fn a_node_that_stays_away_is_not_waited_for() {
    let mut board = board(job(&[("seed", true), ("mirror", false)]));
    heard(&mut board, 0, "seed", vec![]);
    let present = BTreeSet::from(["mirror".to_owned()]);
    let tick = |board: &mut Board, now| {
        let present = present.clone();
        let looked_ms = now;
        board.apply(now, Event::Tick { present, looked_ms })
    };
    assert_eq!(tick(&mut board, ABSENT_MS - 1), []);
    assert_eq!(
        tick(&mut board, ABSENT_MS),
        [Action::Store("1a".to_owned())]
    );
    assert!(state(&board, 0).is_ended());
    assert_eq!(heard(&mut board, ABSENT_MS, "mirror", vec![]).len(), 1);
}

#[test]
fn so_many_nodes_are_at_it_at_once() {
    let names: Vec<_> = (0..AT_ONCE + 1).map(|n| format!("m{n:03}")).collect();
    let nodes: Vec<_> = names.iter().map(|name| (name.as_str(), false)).collect();
    let mut board = board(job(&nodes));
    for name in &names[..AT_ONCE] {
        assert_eq!(heard(&mut board, 0, name, vec![]).len(), 1);
    }
    assert_eq!(heard(&mut board, 0, &names[AT_ONCE], vec![]), []);
    let id = OrderId {
        job: "1a".to_owned(),
        image: 0,
        attempt: 1,
    };
    let done = report(&id, 10, Outcome::Done);
    heard(&mut board, 0, &names[0], vec![done]);
    assert_eq!(heard(&mut board, 0, &names[AT_ONCE], vec![]).len(), 1);
}

/// Two managers over one database, the first of which dies at any moment.
#[test]
fn what_a_dead_manager_began_goes_on_and_is_dropped_for_nothing_else() {
    let all: Vec<_> = (0..2 * MAX_ORDERS)
        .map(|number| Job {
            id: format!("{number:02}"),
            ..job(&[("seed", true)])
        })
        .collect();
    let (mut one, mut other) = (Board::default(), Board::default());
    // The first one hears of the latest jobs first.
    for job in all.iter().rev().take(MAX_ORDERS) {
        one.apply(0, Event::Take(job.clone()));
    }
    for job in &all {
        other.apply(0, Event::Take(job.clone()));
    }
    let given = heard(&mut one, 0, "seed", vec![]);
    assert_eq!(given.len(), MAX_ORDERS);
    let mut reports: Vec<_> = given
        .iter()
        .map(|id| report(id, 1, Outcome::Running))
        .collect();
    assert_eq!(heard(&mut other, 1, "seed", reports.clone()), given);
    reports[0].outcome = Outcome::Done;
    let mut next = heard(&mut other, 2, "seed", reports.clone());
    next.sort();
    let mut same = given.clone();
    same.sort();
    assert_eq!(next, same, "its end is not known to the database");
    let job = other.get(&given[0].job).unwrap().clone();
    other.apply(2, Event::Take(job));
    let tick = Event::Tick {
        present: ["seed".to_owned()].into(),
        looked_ms: 2,
    };
    other.apply(2, tick);
    let next = heard(&mut other, 2, "seed", reports);
    assert_eq!(next.len(), MAX_ORDERS);
    assert!(given[1..].iter().all(|id| next.contains(id)), "{next:?}");
    assert!(!next.contains(&given[0]));
}

/// A node's answer is in the database before this manager has read it there.
#[test]
fn a_node_that_comes_from_another_manager_begins_nothing_before_its_jobs_were_read() {
    let mut board = board(job(&[("mirror", false)]));
    let tick = |looked_ms| Event::Tick {
        present: ["mirror".to_owned()].into(),
        looked_ms,
    };
    board.apply(10, tick(10));
    assert_eq!(heard(&mut board, 20, "mirror", vec![]), []);
    board.apply(30, tick(19));
    assert_eq!(heard(&mut board, 31, "mirror", vec![]), []);
    let mut done = board.get("1a").unwrap().clone();
    done.items[0].state = State::Done;
    board.apply(40, Event::Take(done));
    board.apply(40, tick(32));
    assert_eq!(heard(&mut board, 41, "mirror", vec![]), []);
    let other = Job {
        id: "2b".to_owned(),
        ..job(&[("mirror", false)])
    };
    board.apply(42, Event::Take(other));
    assert_eq!(heard(&mut board, 43, "mirror", vec![]).len(), 1);
    // It has been elsewhere meanwhile.
    let third = Job {
        id: "3c".to_owned(),
        ..job(&[("mirror", false)])
    };
    board.apply(44, Event::Take(third));
    assert_eq!(heard(&mut board, 43 + SILENT_MS, "mirror", vec![]).len(), 1);
    board.apply(44 + SILENT_MS, tick(44 + SILENT_MS));
    assert_eq!(heard(&mut board, 45 + SILENT_MS, "mirror", vec![]).len(), 2);
}

#[test]
fn a_job_says_how_many_are_at_it_at_once_and_how_fast() {
    let mut limited = job(&[("a", false), ("b", false)]);
    limited.limits = Limits {
        at_once: Some(1),
        bytes_per_second: Some(MIN_RATE),
    };
    let mut board = board(limited);
    let heard = Event::Heard {
        node: "a".to_owned(),
        reports: vec![],
    };
    let actions = board.apply(0, heard);
    let Some(Action::Order(orders)) = actions.first() else {
        panic!("{actions:?}");
    };
    let rate = orders[0].bytes_per_second.unwrap();
    assert_eq!(rate.get(), MIN_RATE);
    let other = self::heard(&mut board, 0, "b", vec![]);
    assert_eq!(other, []);
}

#[test]
fn a_label_is_named_with_or_without_the_word() {
    let plain: To = "zone=a".parse().unwrap();
    assert_eq!("label=zone=a".parse::<To>().unwrap(), plain);
    let own: To = "label=a".parse().unwrap();
    assert_eq!(own, To::Label("label".to_owned(), "a".to_owned()));
    assert!("label".parse::<To>().is_err());
}

fn item() -> impl Strategy<Value = Item> {
    let states = prop_oneof![
        Just(State::Running),
        Just(State::Done),
        Just(State::Cancelled),
        Just(State::Waiting {
            not_before_ms: 0,
            why: None
        }),
    ];
    (1u32..4, 0u64..4, states).prop_map(|(attempt, bytes, state)| {
        let mut item = Item::new(0, "n".to_owned(), false);
        item.attempt = attempt;
        item.held.bytes = bytes;
        item.state = state;
        item
    })
}

proptest! {
    /// So it does not matter which manager hears what first.
    #[test]
    fn copies_of_a_job_merge_in_any_order(items in prop::collection::vec(item(), 3)) {
        let copies: Vec<_> = items.into_iter().map(|item| Job { items: vec![item], ..job(&[]) }).collect();
        let merged = |order: [usize; 3]| {
            let mut all = copies[order[0]].clone();
            all.merge(&copies[order[1]]);
            all.merge(&copies[order[2]]);
            all
        };
        let one = merged([0, 1, 2]);
        prop_assert_eq!(&merged([2, 1, 0]), &one);
        prop_assert_eq!(&merged([1, 2, 0]), &one);
        prop_assert!(!one.clone().merge(&one));
    }
}

fn members() -> Members {
    let metrics = ManagerMetrics::default();
    let members = Members::new(Snapshot::default(), false, Timing::default(), metrics);
    for (id, role, zone) in [
        ("seed", Role::Seed, "a"),
        ("m1", Role::Mirror, "a"),
        ("m2", Role::Mirror, "b"),
        ("scheduler", Role::Scheduler, "a"),
    ] {
        let host = Host {
            id: id.parse().unwrap(),
            address: "10.0.0.1:7421".into(),
            role,
            labels: [("zone".to_owned(), zone.to_owned())].into(),
            signing_key: None,
            upload_slots: 16,
        };
        members.register(host).unwrap();
    }
    members
}

const ANN: By<'_> = By {
    actor: "ann",
    request: None,
};

fn wanted(to: &str) -> Wanted {
    Wanted {
        images: vec!["r.test/a:b".parse().unwrap()],
        files: Vec::new(),
        platform: None,
        to: to.parse().unwrap(),
        limits: Limits::default(),
    }
}

/// A node is heard that has been here for a while.
async fn orders(jobs: &Jobs, key: &MemberKey) -> Vec<Order> {
    jobs.heard(key, vec![]).await;
    jobs.step(&mut true).await.unwrap();
    jobs.heard(key, vec![]).await
}

fn key(role: Role, id: &str) -> MemberKey {
    let id = id.parse().unwrap();
    MemberKey { role, id }
}

#[tokio::test]
async fn another_manager_takes_a_job_up_and_both_hear_of_its_end() {
    for place in Place::each() {
        let database = place.open().await;
        let one = Jobs::new(database.clone(), members());
        let job = one.create(wanted("zone=a"), ANN).await.unwrap().job();
        let nodes: Vec<_> = job.items.iter().map(|item| item.node.as_str()).collect();
        assert_eq!(nodes, ["m1", "seed"]);
        let given = orders(&one, &key(Role::Seed, "seed")).await;
        let done = report(&given[0].id, 10, Outcome::Done);
        one.heard(&key(Role::Seed, "seed"), vec![done]).await;
        one.step(&mut true).await.unwrap();

        // The other one has not looked yet: a node that tells of the job goes on with it.
        let other = Jobs::new(database.clone(), members());
        let at_it = orders(&one, &key(Role::Mirror, "m1")).await;
        let running = report(&at_it[0].id, 4, Outcome::Running);
        let given = other.heard(&key(Role::Mirror, "m1"), vec![running]).await;
        assert_eq!(given, at_it);
        other.step(&mut false).await.unwrap();
        let given = other.heard(&key(Role::Mirror, "m1"), vec![]).await;
        assert_eq!(given.len(), 1, "the seed is done");
        let done = report(&given[0].id, 10, Outcome::Done);
        other.heard(&key(Role::Mirror, "m1"), vec![done]).await;
        other.step(&mut true).await.unwrap();
        let job = one.get(&job.id).await.unwrap().unwrap();
        assert_eq!(job.phase(), Phase::Done);
        if database.is_shared() {
            one.step(&mut true).await.unwrap();
            assert_eq!(lock(&one.shared.board).count(), 0, "it heard of the end");
        }
        assert_eq!(lock(&other.shared.board).count(), 0);
        let listed = one.list(Filter::default(), None, 10).await.unwrap();
        assert_eq!((listed[0].done, listed[0].items), (2, 2));
    }
}

#[tokio::test]
async fn cancel_and_retry_are_remembered_and_audited() {
    for place in Place::each() {
        let database = place.open().await;
        let jobs = Jobs::new(database.clone(), members());
        let job = jobs.create(wanted("seeds"), ANN).await.unwrap().job();
        assert_eq!(orders(&jobs, &key(Role::Seed, "seed")).await.len(), 1);
        let job = jobs.cancel(&job.id, "bob").await.unwrap();
        assert_eq!(job.phase(), Phase::Cancelled);
        assert_eq!(jobs.heard(&key(Role::Seed, "seed"), vec![]).await, []);
        jobs.step(&mut true).await.unwrap();
        let job = jobs.retry(&job.id, "bob").await.unwrap();
        assert_eq!(job.phase(), Phase::Running);
        let given = jobs.heard(&key(Role::Seed, "seed"), vec![]).await;
        assert_eq!(given[0].id.attempt, 2);
        let lines = audit::read(&database, audit::Filter::default(), None, 10)
            .await
            .unwrap();
        let lines: Vec<_> = lines
            .iter()
            .map(|line| (line.actor.as_str(), line.action.as_str()))
            .collect();
        let expected = [
            ("bob", "job.retry"),
            ("bob", "job.cancel"),
            ("ann", "job.create"),
        ];
        assert_eq!(lines, expected);
        let absent = jobs.cancel("none", "bob").await;
        assert!(matches!(absent, Err(JobError::Absent)));
        let nobody = jobs.create(wanted("zone=z"), ANN).await;
        assert_eq!(
            nobody.unwrap().job().items.len(),
            1,
            "seeds are always meant"
        );
    }
}

#[tokio::test]
async fn a_request_that_comes_again_is_the_same_job() {
    for place in Place::each() {
        let database = place.open().await;
        let jobs = Jobs::new(database.clone(), members());
        let (ann, bob): (Name, Name) = ("ann".parse().unwrap(), "bob".parse().unwrap());
        let key = RequestKey::new(&ann, "deploy 7");
        let by = By {
            actor: "ann",
            request: Some(&key),
        };
        let many = (0..8).map(|_| jobs.create(wanted("seeds"), by));
        let begun = futures_util::future::join_all(many).await;
        let mut new = 0;
        let mut ids = std::collections::BTreeSet::new();
        for begun in begun {
            let begun = begun.unwrap();
            new += usize::from(matches!(begun, Begun::New(_)));
            ids.insert(begun.job().id);
        }
        assert_eq!((new, ids.len()), (1, 1), "{ids:?}");
        let other = jobs.create(wanted("nodes"), by).await;
        assert!(matches!(other, Err(JobError::OtherRequest)));
        let key = RequestKey::new(&bob, "deploy 7");
        let by = By {
            actor: "bob",
            request: Some(&key),
        };
        let bobs = jobs.create(wanted("seeds"), by).await.unwrap();
        assert!(matches!(bobs, Begun::New(_)), "keys are each account's own");
        assert_eq!(kept::running(&database).await.unwrap().len(), 2);
    }
}

#[tokio::test]
async fn files_come_after_images_and_what_is_signed_is_not_shown() {
    let [place, _] = Place::each();
    let jobs = Jobs::new(place.open().await, members());
    let url = "https://f.test/model.bin?sig=secret";
    let wanted = Wanted {
        files: vec![url.parse().unwrap()],
        ..wanted("seeds")
    };
    let job = jobs.create(wanted, ANN).await.unwrap().job();
    let given = orders(&jobs, &key(Role::Seed, "seed")).await;
    let targets: Vec<_> = given.iter().map(|order| &order.target).collect();
    let [Target::Image { .. }, Target::File(file)] = targets[..] else {
        panic!("{targets:?}")
    };
    assert_eq!(file.url().as_str(), url, "a node needs all of it");
    let shown = "https://f.test/model.bin";
    assert_eq!((job.name(0), job.name(1)), ("r.test/a:b", shown));
    assert_eq!(job.summary().files, [shown]);
    assert_eq!(job.without_secrets().files, [shown]);
    let lines = audit::read(&jobs.shared.database, audit::Filter::default(), None, 10)
        .await
        .unwrap();
    let told = format!("{lines:?}");
    assert!(told.contains(shown) && !told.contains("secret"), "{told}");
}
