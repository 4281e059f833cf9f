use super::*;
use darner_proto::piece_set::PieceSet;
use darner_proto::scheduler::ParentRate;

fn id(name: &str) -> HostId {
    name.parse().expect("valid")
}

fn join(content: &[u8]) -> Join {
    Join {
        task: Digest::sha256(content),
        size: 4 << 20,
        sources: Vec::new(),
        held: PieceSet::empty(4),
        lease: None,
    }
}

fn two_schedulers() -> Sessions {
    let mut sessions = Sessions::default();
    sessions.apply(Input::Schedulers(vec![
        (id("s-1"), "http://s-1".to_owned()),
        (id("s-2"), "http://s-2".to_owned()),
    ]));
    sessions
}

fn alone() -> TaskEvent {
    TaskEvent::Alone {
        owners: Vec::new(),
        expected: true,
    }
}

fn up(sessions: &mut Sessions, name: &str) -> Vec<Output> {
    sessions.apply(Input::Up {
        scheduler: id(name),
        keys: Vec::new(),
    })
}

fn joined_at(out: &[Output]) -> Option<(HostId, Join)> {
    out.iter().find_map(|output| match output {
        Output::Send(to, NodeMessage::Join(join)) => Some((to.clone(), join.clone())),
        _ => None,
    })
}

/// A content whose task belongs to s-2 when both schedulers are up.
fn owned_by_second() -> Join {
    (0u32..)
        .map(|n| join(&n.to_be_bytes()))
        .find(|join| {
            rendezvous::rank(&join.task, &id("s-2")) > rendezvous::rank(&join.task, &id("s-1"))
        })
        .expect("some content")
}

#[test]
fn a_task_without_a_scheduler_is_told_so_and_joins_when_one_comes() {
    let mut sessions = two_schedulers();
    let join = join(b"content");
    let out = sessions.apply(Input::Join(join.clone()));
    assert_eq!(out, [Output::Notify(join.task, alone())]);
    assert_eq!(
        joined_at(&up(&mut sessions, "s-1")),
        Some((id("s-1"), join))
    );
}

#[test]
fn a_reconnect_tells_everything_gained_and_the_lease() {
    let mut sessions = two_schedulers();
    up(&mut sessions, "s-1");
    let join = join(b"content");
    let task = join.task;
    sessions.apply(Input::Join(join));
    let lease = Lease {
        task,
        size: 4 << 20,
        lease: 3,
        ranges: vec![0..4],
        expires_ms: 5000,
        sources: Vec::new(),
    };
    sessions.apply(Input::Received(id("s-1"), SchedulerMessage::Lease(lease)));
    sessions.apply(Input::Gained(Progress {
        task,
        gained: vec![0..2],
        upstream_bytes: 9,
        upstream_ranges: None,
        rates: Vec::new(),
    }));
    let out = sessions.apply(Input::Down(id("s-1")));
    assert!(out.contains(&Output::Notify(task, alone())));
    let (_, again) = joined_at(&up(&mut sessions, "s-1")).expect("joins again");
    assert_eq!(again.held.runs(), [0..2]);
    assert_eq!(
        again.lease,
        Some(LeaseClaim {
            lease: 3,
            ranges: vec![0..4]
        })
    );
}

#[test]
fn what_parents_sent_is_told_with_the_next_progress_and_once() {
    let mut sessions = two_schedulers();
    up(&mut sessions, "s-1");
    let join = join(b"content");
    let task = join.task;
    sessions.apply(Input::Join(join));
    let fetched = Input::Fetched {
        task,
        parent: id("m-1"),
        bytes: 3 << 20,
        took: Duration::from_millis(1500),
    };
    assert!(sessions.apply(fetched).is_empty(), "it costs no message");
    let mut gain = |piece| {
        let gained = Input::Gained(Progress {
            task,
            gained: vec![piece..piece + 1],
            upstream_bytes: 0,
            upstream_ranges: None,
            rates: Vec::new(),
        });
        match sessions.apply(gained).pop() {
            Some(Output::Send(_, NodeMessage::Progress(progress))) => progress.rates,
            other => panic!("{other:?}"),
        }
    };
    let rate = ParentRate {
        parent: id("m-1"),
        bytes_per_second: 2 << 20,
    };
    assert_eq!(gain(0), [rate]);
    assert_eq!(gain(1), []);
}

#[test]
fn a_task_moves_to_its_owner_when_that_comes_up_and_away_when_it_goes() {
    let mut sessions = two_schedulers();
    up(&mut sessions, "s-1");
    let join = owned_by_second();
    let task = join.task;
    let out = sessions.apply(Input::Join(join));
    assert_eq!(joined_at(&out).expect("joins").0, id("s-1"));
    let out = up(&mut sessions, "s-2");
    assert_eq!(joined_at(&out).expect("moves").0, id("s-2"));
    let left = NodeMessage::Leave {
        task,
        outcome: Outcome::Abandoned,
    };
    assert!(out.contains(&Output::Send(id("s-1"), left)));
    let out = sessions.apply(Input::Down(id("s-2")));
    assert_eq!(joined_at(&out).expect("moves back").0, id("s-1"));
}

#[test]
fn a_lease_for_an_unknown_task_begins_one() {
    let mut sessions = two_schedulers();
    up(&mut sessions, "s-1");
    let task = Digest::sha256(b"new");
    let lease = Lease {
        task,
        size: 1,
        lease: 1,
        ranges: vec![0..1],
        expires_ms: 1,
        sources: Vec::new(),
    };
    let out = sessions.apply(Input::Received(
        id("s-1"),
        SchedulerMessage::Lease(lease.clone()),
    ));
    assert_eq!(out, [Output::Begin(lease)]);
}

#[test]
fn a_lease_of_another_views_scheduler_is_met_by_what_comes_and_not_read() {
    let mut sessions = two_schedulers();
    up(&mut sessions, "s-1");
    up(&mut sessions, "s-2");
    let join = owned_by_second();
    let task = join.task;
    sessions.apply(Input::Join(join));
    let lease = Lease {
        task,
        size: 4 << 20,
        lease: 9,
        ranges: vec![0..4],
        expires_ms: 4000,
        sources: Vec::new(),
    };
    let out = sessions.apply(Input::Received(id("s-1"), SchedulerMessage::Lease(lease)));
    let (to, told) = joined_at(&out).expect("tells it of its part");
    assert_eq!((to, told.lease.map(|one| one.lease)), (id("s-1"), Some(9)));
    assert!(
        !out.iter()
            .any(|output| matches!(output, Output::Notify(..)))
    );
    let progress = Progress {
        task,
        gained: vec![0..1],
        upstream_bytes: 0,
        upstream_ranges: None,
        rates: Vec::new(),
    };
    let out = sessions.apply(Input::Gained(progress));
    let told: BTreeSet<_> = out
        .iter()
        .filter_map(|output| match output {
            Output::Send(to, NodeMessage::Progress(_)) => Some(to.clone()),
            _ => None,
        })
        .collect();
    assert_eq!(told, [id("s-1"), id("s-2")].into());
    let none = SchedulerMessage::NoSource {
        task,
        reason: ReturnReason::Unavailable,
    };
    assert_eq!(sessions.apply(Input::Received(id("s-1"), none)), []);
}

#[test]
fn a_task_begun_under_another_views_lease_is_told_to_both() {
    let mut sessions = two_schedulers();
    up(&mut sessions, "s-1");
    up(&mut sessions, "s-2");
    let mut join = owned_by_second();
    let lease = Lease {
        task: join.task,
        size: 4 << 20,
        lease: 9,
        ranges: vec![0..4],
        expires_ms: 4000,
        sources: Vec::new(),
    };
    sessions.apply(Input::Received(id("s-1"), SchedulerMessage::Lease(lease)));
    join.lease = Some(LeaseClaim {
        lease: 9,
        ranges: vec![0..4],
    });
    let out = sessions.apply(Input::Join(join));
    let told: BTreeSet<_> = out
        .iter()
        .filter_map(|output| match output {
            Output::Send(to, NodeMessage::Join(_)) => Some(to.clone()),
            _ => None,
        })
        .collect();
    assert_eq!(told, [id("s-1"), id("s-2")].into());
}

#[test]
fn a_search_ends_when_its_scheduler_does() {
    let mut sessions = two_schedulers();
    up(&mut sessions, "s-1");
    sessions.apply(Input::Find {
        request: 5,
        key: Digest::sha256(b"x"),
    });
    assert!(
        sessions
            .apply(Input::Down(id("s-1")))
            .contains(&Output::Found(5, Vec::new()))
    );
    let out = sessions.apply(Input::Find {
        request: 6,
        key: Digest::sha256(b"x"),
    });
    assert_eq!(out, [Output::Found(6, Vec::new())]);
}

/// Whom a question is put to.
fn asked(out: &[Output]) -> Vec<HostId> {
    let asked = |output: &Output| match output {
        Output::Send(to, NodeMessage::Find { .. }) => Some(to.clone()),
        _ => None,
    };
    out.iter().filter_map(asked).collect()
}

fn found(sessions: &mut Sessions, scheduler: &HostId, holders: &[Host]) -> Vec<Output> {
    let holders = holders.to_vec();
    let answer = SchedulerMessage::Found {
        request: 5,
        holders,
    };
    sessions.apply(Input::Received(scheduler.clone(), answer))
}

fn holder() -> Host {
    Host {
        id: id("m-1"),
        address: "m-1:7421".to_owned(),
        role: darner_proto::id::Role::Mirror,
        labels: BTreeMap::new(),
        signing_key: None,
        upload_slots: 8,
    }
}

#[test]
fn a_search_goes_to_the_second_that_knows_when_the_first_knows_nobody_is_gone_or_is_silent() {
    let join = owned_by_second();
    for what in ["knows nobody", "is gone", "is silent"] {
        let mut sessions = two_schedulers();
        up(&mut sessions, "s-1");
        up(&mut sessions, "s-2");
        let key = join.task;
        let out = sessions.apply(Input::Find { request: 5, key });
        assert_eq!(asked(&out), [id("s-2")]);
        let out = match what {
            "knows nobody" => found(&mut sessions, &id("s-2"), &[]),
            "is gone" => sessions.apply(Input::Down(id("s-2"))),
            _ => (0..3).flat_map(|_| sessions.apply(Input::Turn)).collect(),
        };
        assert_eq!(asked(&out), [id("s-1")], "{what}");
        let out = found(&mut sessions, &id("s-1"), &[holder()]);
        assert_eq!(out, [Output::Found(5, vec![holder()])]);
        // What comes late is nobody's answer any more.
        assert!(found(&mut sessions, &id("s-2"), &[holder()]).is_empty());
    }
}

#[test]
fn a_search_that_neither_knows_ends_with_nobody_and_a_stranger_has_no_answer() {
    let mut sessions = two_schedulers();
    up(&mut sessions, "s-1");
    up(&mut sessions, "s-2");
    let key = owned_by_second().task;
    sessions.apply(Input::Find { request: 5, key });
    // It was not asked.
    assert!(found(&mut sessions, &id("s-1"), &[holder()]).is_empty());
    assert_eq!(asked(&found(&mut sessions, &id("s-2"), &[])), [id("s-1")]);
    let out = found(&mut sessions, &id("s-1"), &[]);
    assert_eq!(out, [Output::Found(5, Vec::new())]);
}

#[test]
fn the_word_of_a_scheduler_on_a_task_that_is_not_its_own_changes_nothing() {
    let mut sessions = two_schedulers();
    up(&mut sessions, "s-1");
    up(&mut sessions, "s-2");
    let join = owned_by_second();
    let task = join.task;
    sessions.apply(Input::Join(join));
    let notified = |out: Vec<Output>| {
        out.iter()
            .any(|output| matches!(output, Output::Notify(..)))
    };
    let lies = [
        SchedulerMessage::Parents {
            task,
            parents: Vec::new(),
            signers: Vec::new(),
        },
        SchedulerMessage::Lease(Lease {
            task,
            size: 4 << 20,
            lease: 9,
            ranges: vec![0..4],
            expires_ms: 5000,
            sources: Vec::new(),
        }),
        SchedulerMessage::LeaseRevoked { task, lease: 9 },
        SchedulerMessage::NoSource {
            task,
            reason: ReturnReason::Refused,
        },
    ];
    for lie in lies {
        let out = sessions.apply(Input::Received(id("s-1"), lie.clone()));
        assert!(!notified(out), "{lie:?}");
        let out = sessions.apply(Input::Received(id("nobody"), lie.clone()));
        assert!(!notified(out), "{lie:?} of a scheduler that nobody named");
    }
    let parents = SchedulerMessage::Parents {
        task,
        parents: Vec::new(),
        signers: Vec::new(),
    };
    let out = sessions.apply(Input::Received(id("s-2"), parents));
    assert!(notified(out), "its own scheduler's word counts");
}

#[test]
fn a_scheduler_that_leaves_the_set_is_disconnected() {
    let mut sessions = two_schedulers();
    let out = sessions.apply(Input::Schedulers(vec![(
        id("s-1"),
        "http://s-1".to_owned(),
    )]));
    assert_eq!(out, [Output::Disconnect(id("s-2"))]);
    assert!(up(&mut sessions, "s-2").is_empty());
}
