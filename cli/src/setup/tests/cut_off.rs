//! Runs that are cut off after every single step, and within it.

use super::super::journal::Records;
use super::super::plan::Plan;
use super::*;

/// A run that dies after `life` steps; whether it came to its end.
fn run(sandbox: &Sandbox, life: usize, plan: impl Fn(&Desk) -> Plan) -> bool {
    let mut desk = Desk::open(sandbox.host(), Path::new(JOURNAL)).unwrap();
    desk.recover().unwrap();
    let plan = plan(&desk);
    assert!(!plan.is_empty());
    desk.life.set(Some(life));
    let done = desk.begin(&plan).and_then(|()| desk.commit(&plan));
    let done = done.and_then(|()| desk.close());
    match done {
        Ok(()) => true,
        Err(ApplyError::Step { source, .. }) if source.to_string() == "dead" => false,
        Err(error) => panic!("{error}"),
    }
}

/// What the next run does first. It too may die.
fn recover(sandbox: &Sandbox, life: Option<usize>) -> bool {
    let mut desk = Desk::open(sandbox.host(), Path::new(JOURNAL)).unwrap();
    desk.life.set(life);
    desk.recover().and_then(|_| desk.close()).is_ok()
}

fn setting_up(terms: &Terms) -> impl Fn(&Desk) -> Plan {
    |desk| plan_setup(desk.standing(), Choice::All, terms, &mut Report::default()).unwrap()
}

fn tearing_down(desk: &Desk) -> Plan {
    plan_teardown(desk.standing(), Choice::All).unwrap()
}

/// Lets `plan` die at every step in turn. Before the journal says that it is over, everything is as
/// it was; afterwards as it was to be. Gives the number of steps until then.
fn walk(sandbox: &Sandbox, plan: impl Fn(&Desk) -> Plan) -> usize {
    let before = sandbox.snapshot();
    for life in 0.. {
        let ended = run(sandbox, life, &plan);
        let journal = Records::look(&sandbox.host(), Path::new(JOURNAL)).load();
        if journal.unwrap().pending.is_empty() {
            // What is left to be done is tidying up, which can be cut off too.
            assert!((0..100).any(|life| recover(sandbox, Some(life))));
        }
        assert!(recover(sandbox, None));
        if sandbox.snapshot() != before {
            return life;
        }
        assert!(!ended, "{life} steps, and nothing done");
    }
    unreachable!("a run that never ends")
}

#[tokio::test]
async fn a_run_cut_off_at_any_step_is_taken_back_by_the_next() {
    let mut steps = 0;
    for (name, files) in fixtures::HOSTS {
        let terms = terms(&[]);
        let sandbox = Sandbox::new(files);
        if sandbox
            .session(true)
            .set_up(Choice::All, &terms, None)
            .await
            .is_err()
        {
            assert!(name.contains("foreign"), "{name}");
            continue;
        }
        let before = sandbox.snapshot();
        steps += walk(&sandbox, setting_up(&terms));
        let up = sandbox.snapshot();
        assert_ne!(up, before, "{name}");
        let again = sandbox.set_up(&terms).await.unwrap();
        assert_eq!(json(&again)["status"], "unchanged", "{name}");
        steps += walk(&sandbox, tearing_down);
        assert_eq!(sandbox.snapshot(), before, "{name}");
    }
    assert!(steps > 100, "{steps} steps");
}

#[test]
fn a_change_of_what_was_set_up_is_taken_back_too() {
    let sandbox = Sandbox::new(fixtures::EVERYTHING);
    let before = sandbox.snapshot();
    walk(&sandbox, setting_up(&terms(&["docker.io", "ghcr.io"])));
    walk(&sandbox, setting_up(&terms(&["docker.io"])));
    walk(&sandbox, setting_up(&terms(&[])));
    walk(&sandbox, setting_up(&secured(terms(&[]))));
    walk(&sandbox, tearing_down);
    assert_eq!(sandbox.snapshot(), before);
}

#[test]
fn taking_back_can_be_cut_off_as_well() {
    let terms = terms(&[]);
    let setting_up = setting_up(&terms);
    let whole = Sandbox::new(fixtures::EVERYTHING);
    let steps = walk(&whole, &setting_up);
    for life in 0..steps {
        let sandbox = Sandbox::new(fixtures::EVERYTHING);
        let before = sandbox.snapshot();
        for again in 0.. {
            assert!(!run(&sandbox, life, &setting_up));
            if recover(&sandbox, Some(again)) {
                break;
            }
            assert!(recover(&sandbox, None));
            assert_eq!(sandbox.snapshot(), before, "{life}, {again}");
        }
        assert_eq!(sandbox.snapshot(), before, "{life}");
    }
}

#[test]
fn a_file_that_somebody_else_changes_in_between_is_left() {
    let sandbox = Sandbox::new(fixtures::EVERYTHING);
    let terms = terms(&[]);
    let setting_up = setting_up(&terms);
    let path = "/etc/docker/daemon.json";
    let theirs = "{\"debug\": false}";
    let written = |sandbox: &Sandbox| sandbox.read(path).contains(MIRROR);
    let life = (0..).find(|life| {
        assert!(!run(&sandbox, *life, &setting_up));
        written(&sandbox)
    });
    assert!(life.is_some());
    sandbox.write(path, theirs);
    let mut desk = Desk::open(sandbox.host(), Path::new(JOURNAL)).unwrap();
    let foreign = desk.recover().unwrap_err();
    assert!(
        matches!(&foreign, ApplyError::Foreign(there) if there == Path::new(path)),
        "{foreign}"
    );
    desk.close().unwrap();
    assert_eq!(sandbox.read(path), theirs);
    let before = fixtures::EVERYTHING
        .iter()
        .find(|file| file.0 == path)
        .unwrap()
        .1;
    assert_eq!(sandbox.read(&format!("{path}.darner-before")), before);
    assert!(
        !sandbox.path("/etc/containerd/certs.d").exists(),
        "the rest is taken back"
    );
}
