use proptest::prelude::*;

use super::*;

/// A wall clock reading far above the versions the tests count by hand.
const NOW_MS: u64 = 1_800_000_000_000;

fn at(seconds: f64) -> Time {
    let up = Duration::from_secs_f64(seconds);
    Time {
        up,
        unix_ms: NOW_MS + up.as_millis() as u64,
    }
}

fn host(id: &str, role: Role) -> Host {
    Host {
        id: id.parse().unwrap(),
        address: "10.0.0.1:7422".into(),
        role,
        labels: BTreeMap::new(),
        signing_key: None,
        upload_slots: 4,
    }
}

fn key(id: &str, role: Role) -> MemberKey {
    let id = id.parse().unwrap();
    MemberKey { role, id }
}

fn remembered(version: u64, hosts: &[Host]) -> Snapshot {
    let record = |host: &Host| Record {
        host: Arc::new(host.clone()),
        last_seen: 1,
    };
    Snapshot {
        version,
        hosts: hosts
            .iter()
            .map(|host| (MemberKey::of(host), record(host)))
            .collect(),
    }
}

fn started(snapshot: Snapshot) -> Membership {
    Membership::new(snapshot, false, Timing::default(), at(0.0))
}

fn published(actions: &[Action]) -> Option<Arc<Configuration>> {
    actions.iter().find_map(|action| match action {
        Action::Publish(configuration) => Some(configuration.clone()),
        _ => None,
    })
}

fn ids(hosts: &[Host]) -> Vec<&str> {
    hosts.iter().map(|host| host.id.as_str()).collect()
}

#[test]
fn a_change_of_the_lists_is_told_once_with_the_clock_as_version() {
    let mut members = started(Snapshot::default());
    let seed = host("seed", Role::Seed);
    let told = published(&members.apply(at(1.0), Event::Register(seed.clone()))).unwrap();
    assert_eq!(told.version, NOW_MS + 1000);
    assert_eq!(ids(&told.seeds), ["seed"]);

    let again = members.apply(at(2.0), Event::Register(seed.clone()));
    assert_eq!(again, [Action::Store], "nothing is new");
    let mirror = members.apply(at(2.0), Event::Register(host("m", Role::Mirror)));
    assert_eq!(mirror, [Action::Store], "mirrors are not in the lists");
    let alive = members.apply(at(3.0), Event::KeepAlive(key("seed", Role::Seed)));
    assert_eq!(alive, []);

    let moved = Host {
        address: "10.0.0.9:7422".into(),
        ..seed
    };
    let told = published(&members.apply(at(3.0), Event::Register(moved))).unwrap();
    assert_eq!(told.seeds[0].address, "10.0.0.9:7422", "the later counts");
    assert_eq!(told.seeds.len(), 1);
}

#[test]
fn one_id_in_two_roles_is_two_members() {
    let mut members = started(Snapshot::default());
    members.apply(at(0.0), Event::Register(host("node", Role::Seed)));
    members.apply(at(0.0), Event::Register(host("node", Role::Scheduler)));
    let gone = members.apply(at(0.1), Event::Deregister(key("node", Role::Seed)));
    let told = published(&gone).unwrap();
    assert_eq!(ids(&told.schedulers), ["node"]);
    assert!(told.seeds.is_empty());
}

#[test]
fn a_host_is_dropped_after_three_missed_keep_alives() {
    let mut members = started(Snapshot::default());
    members.apply(at(0.0), Event::Register(host("s", Role::Scheduler)));
    members.apply(at(1.0), Event::Tick);
    members.apply(at(2.0), Event::KeepAlive(key("s", Role::Scheduler)));
    for second in [2.5, 4.0, 5.0, 6.0, 7.0, 7.9] {
        assert_eq!(members.apply(at(second), Event::Tick), [], "at {second}");
    }
    let told = published(&members.apply(at(8.0), Event::Tick)).unwrap();
    assert!(told.schedulers.is_empty());
    let late = members.apply(at(8.1), Event::KeepAlive(key("s", Role::Scheduler)));
    assert_eq!(late, [Action::Unknown]);
    let late = members.apply(at(8.1), Event::Deregister(key("s", Role::Scheduler)));
    assert_eq!(late, [], "gone already");
}

#[test]
fn a_manager_that_did_not_run_does_not_blame_its_members() {
    let mut members = started(Snapshot::default());
    members.apply(at(0.0), Event::Register(host("s", Role::Scheduler)));
    members.apply(at(1.0), Event::Tick);
    assert_eq!(members.apply(at(600.0), Event::Tick), []);
    assert_eq!(members.count(Role::Scheduler), 1);
    for second in 601..604 {
        assert_eq!(members.apply(at(f64::from(second)), Event::Tick), []);
    }
    members.apply(at(605.0), Event::Tick);
    members.apply(at(606.0), Event::Tick);
    assert_eq!(members.count(Role::Scheduler), 0, "its own silence counts");
}

#[test]
fn after_a_restart_the_remembered_members_have_time_to_report() {
    let old = [host("seed-1", Role::Seed), host("seed-2", Role::Seed)];
    let mut members = started(remembered(77, &old));
    let answer = members.apply(at(0.1), Event::Watch { known_version: 77 });
    assert_eq!(answer, [], "answered at once");
    assert_eq!(members.told().version, 77);
    assert_eq!(ids(&members.told().seeds), ["seed-1", "seed-2"]);

    let again = members.apply(at(8.0), Event::Register(old[0].clone()));
    assert_eq!(again, [Action::Store]);
    for second in 1..10 {
        assert_eq!(members.apply(at(f64::from(second)), Event::Tick), []);
    }
    let actions = members.apply(at(10.0), Event::Tick);
    let told = published(&actions).unwrap();
    assert_eq!(ids(&told.seeds), ["seed-1"], "the other did not report");
    assert_eq!(actions.last(), Some(&Action::Settled));
}

#[test]
fn a_lost_database_is_not_told_to_those_who_know_better() {
    // Empty, or an older backup than what the member holds.
    for remembered in [Snapshot::default(), remembered(50, &[])] {
        let mut members = started(remembered);
        let ask = Event::Watch { known_version: 60 };
        assert_eq!(members.apply(at(0.1), ask.clone()), [Action::Wait]);
        let first = members.apply(at(0.2), Event::Register(host("seed-1", Role::Seed)));
        let first = published(&first).unwrap();
        assert!(first.version > 60);
        // A second one holds the same old version, which is below what was told by now.
        assert_eq!(members.apply(at(0.3), ask), [Action::Wait]);
        // Who heard this process already is answered at once.
        let known_version = first.version;
        assert_eq!(
            members.apply(at(0.3), Event::Watch { known_version }),
            [],
            "told by this process"
        );
        members.apply(at(9.0), Event::Register(host("seed-2", Role::Seed)));
        members.apply(at(9.0), Event::Register(host("seed-1", Role::Seed)));
        for second in 1..10 {
            members.apply(at(f64::from(second)), Event::Tick);
        }
        let actions = members.apply(at(10.0), Event::Tick);
        assert_eq!(actions, [Action::Settled], "what was told is above already");
        assert_eq!(ids(&members.told().seeds), ["seed-1", "seed-2"]);
    }
}

#[test]
fn a_clock_set_back_does_not_take_versions_back() {
    let ahead = NOW_MS + 1_000_000_000;
    let mut members = started(Snapshot::default());
    members.apply(at(0.0), Event::Register(host("seed", Role::Seed)));
    let known_version = ahead;
    let waits = members.apply(at(0.1), Event::Watch { known_version });
    assert_eq!(waits, [Action::Wait]);
    for second in 1..10 {
        members.apply(
            at(f64::from(second)),
            Event::KeepAlive(key("seed", Role::Seed)),
        );
        members.apply(at(f64::from(second)), Event::Tick);
    }
    let actions = members.apply(at(10.0), Event::Tick);
    assert_eq!(published(&actions).unwrap().version, ahead + 1);
    assert_eq!(actions.last(), Some(&Action::Settled));

    // Later still, somebody with more: nobody has to wait any more.
    let known_version = ahead + 10;
    let actions = members.apply(at(11.0), Event::Watch { known_version });
    assert_eq!(published(&actions).unwrap().version, ahead + 11);
    assert!(!actions.contains(&Action::Wait));
}

#[test]
fn a_version_that_no_manager_told_is_refused() {
    let mut members = started(Snapshot::default());
    for known_version in [MAX_VERSION, u64::MAX] {
        assert_eq!(
            members.apply(at(0.0), Event::Watch { known_version }),
            [Action::Refuse(Refusal::Version(known_version))]
        );
    }
    let told = members.apply(at(0.0), Event::Register(host("seed", Role::Seed)));
    assert_eq!(published(&told).unwrap().version, NOW_MS);
}

#[test]
fn a_role_that_is_full_is_refused_but_its_members_may_come_again() {
    let mut members = started(Snapshot::default());
    for number in 0..MAX_SCHEDULERS {
        let host = host(&format!("s{number}"), Role::Scheduler);
        assert!(published(&members.apply(at(0.0), Event::Register(host))).is_some());
    }
    let more = members.apply(at(0.0), Event::Register(host("more", Role::Scheduler)));
    let most = MAX_SCHEDULERS;
    let role = Role::Scheduler;
    assert_eq!(more, [Action::Refuse(Refusal::Full { role, most })]);
    let again = members.apply(at(0.0), Event::Register(host("s7", Role::Scheduler)));
    assert_eq!(again, [Action::Store]);
}

#[derive(Debug, Clone)]
enum Step {
    Event(Event),
    Wait(u64),
    Restart,
    ClockBack(u64),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let role = prop_oneof![Just(Role::Mirror), Just(Role::Seed), Just(Role::Scheduler)];
    let host = (0..4u8, role).prop_map(|(id, role)| host(&format!("h{id}"), role));
    let step = prop_oneof![
        host.clone()
            .prop_map(|host| Step::Event(Event::Register(host))),
        host.clone()
            .prop_map(|host| Step::Event(Event::KeepAlive(MemberKey::of(&host)))),
        host.prop_map(|host| Step::Event(Event::Deregister(MemberKey::of(&host)))),
        (0..NOW_MS * 2).prop_map(|known_version| Step::Event(Event::Watch { known_version })),
        (0..4000u64).prop_map(Step::Wait),
        Just(Step::Restart),
        (0..NOW_MS).prop_map(Step::ClockBack),
    ];
    proptest::collection::vec(step, 1..60)
}

proptest! {
    #[test]
    fn versions_only_grow_and_differ_only_with_the_lists(steps in steps()) {
        let mut time = at(0.0);
        let mut members = started(Snapshot::default());
        let mut asked = 0;
        for step in steps {
            let before = members.told().clone();
            let actions = match step {
                Step::Event(event) => {
                    if let Event::Watch { known_version } = &event {
                        asked = asked.max(*known_version);
                    }
                    members.apply(time, event)
                }
                Step::Wait(ms) => {
                    time.up += Duration::from_millis(ms);
                    time.unix_ms += ms;
                    members.apply(time, Event::Tick)
                }
                Step::Restart => {
                    members = Membership::new(members.snapshot(), false, Timing::default(), time);
                    asked = 0;
                    prop_assert_eq!(&before, members.told(), "a restart tells the same");
                    continue;
                }
                Step::ClockBack(to) => {
                    time.unix_ms = to;
                    Vec::new()
                }
            };
            let told = members.told();
            match published(&actions) {
                Some(new) => {
                    prop_assert!(new.version > before.version);
                    prop_assert!(new.version > asked, "above what anybody holds");
                    prop_assert_eq!(&new, told);
                }
                None => prop_assert_eq!(&before, told),
            }
            if actions.contains(&Action::Settled) {
                prop_assert!(told.version >= asked);
            }
            let lists = members.configuration(told.version);
            prop_assert_eq!(&lists, &**told, "what is told is what is");
        }
    }
}

#[test]
fn in_a_crowd_a_mirror_has_longer_and_a_seed_has_not() {
    let mut membership = started(Snapshot::default());
    for number in 0..5000 {
        let host = host(&format!("m-{number}"), Role::Mirror);
        membership.apply(at(0.0), Event::Register(host));
    }
    for number in 0..5000 {
        let key = key(&format!("m-{number}"), Role::Mirror);
        membership.apply(at(0.0), Event::KeepAlive(key));
    }
    membership.apply(at(1.0), Event::Register(host("seed", Role::Seed)));
    let heard = key("m-7", Role::Mirror);
    membership.apply(at(1.0), Event::KeepAlive(heard.clone()));
    let mut tick_until = |from: u32, to: u32| {
        for second in from..to {
            membership.apply(at(f64::from(second)), Event::Tick);
        }
        let seed = membership.has(&key("seed", Role::Seed));
        (membership.has(&heard), seed, membership.count(Role::Mirror))
    };
    assert_eq!(tick_until(2, 7), (true, true, 5000));
    assert!(!tick_until(7, 12).1, "six seconds after it was heard");
    assert_eq!(
        tick_until(12, 13),
        (true, false, 1),
        "twelve after most were"
    );
    assert_eq!(tick_until(13, 14), (false, false, 0));
}
