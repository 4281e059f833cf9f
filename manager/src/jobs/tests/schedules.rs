//! What schedules begin, over each kind of database.

use super::*;
use crate::database::named::{Change, Changed};
use crate::jobs::plan::Plan;
use crate::jobs::schedules::{Schedules, Timed};

fn change(name: &Name) -> Change<'_> {
    Change {
        actor: "ann",
        name,
        expected: None,
    }
}

fn timed(cron: &str) -> Timed {
    let plan = Plan {
        images: vec!["r.test/a:b".to_owned()],
        files: Vec::new(),
        platform: None,
        to: "seeds".to_owned(),
        at_once: None,
        bytes_per_second: None,
    };
    Timed {
        cron: cron.parse().unwrap(),
        plan,
    }
}

const DAY: i64 = 24 * 3_600_000;

/// Two managers over one database, and one that died between its two steps.
#[tokio::test]
async fn a_schedule_fires_once_for_all_managers_and_once_for_all_it_missed() {
    for place in Place::each() {
        let database = place.open().await;
        let open = || Jobs::new(database.clone(), members());
        let (one, other) = (open(), open());
        let managers = [&one, &other].map(|jobs| Schedules::new(database.clone(), jobs.clone()));
        let name: Name = "nightly".parse().unwrap();
        let made = managers[0].create(change(&name), &timed("0 3 * * *")).await;
        assert_eq!(made.unwrap(), Changed::Yes);
        let made = managers[1].create(change(&name), &timed("0 4 * * *")).await;
        assert_eq!(made.unwrap(), Changed::Taken);
        let due = managers[0].get(&name).await.unwrap().unwrap().next_ms;
        managers[0].fire(due - 1).await.unwrap();
        assert_eq!(
            one.list(Filter::default(), None, 10).await.unwrap().len(),
            0,
            "not yet"
        );

        // Five days were missed.
        let now = due + 5 * DAY + 1;
        let fired = managers
            .iter()
            .chain(&managers)
            .map(|manager| manager.fire(now));
        for fired in futures_util::future::join_all(fired).await {
            fired.unwrap();
        }
        let jobs = one.list(Filter::default(), None, 10).await.unwrap();
        assert_eq!(jobs.len(), 1);
        assert_eq!(jobs[0].by, "schedule/nightly");
        let after = managers[1].get(&name).await.unwrap().unwrap();
        assert_eq!(after.next_ms, due + 6 * DAY);
        assert_eq!(after.last_ms, Some(due));
        assert_eq!(after.last_job.as_ref(), Some(&jobs[0].id));

        // While that job goes on there is no other, and that is told.
        managers[0].fire(after.next_ms).await.unwrap();
        let told = managers[0].get(&name).await.unwrap().unwrap();
        assert!(told.trouble.unwrap().contains("has not ended"));
        assert_eq!(told.next_ms, due + 7 * DAY);
        assert_eq!(
            one.list(Filter::default(), None, 10).await.unwrap().len(),
            1
        );
        one.cancel(&jobs[0].id, "ann").await.unwrap();
        managers[1].fire(told.next_ms).await.unwrap();
        assert_eq!(
            one.list(Filter::default(), None, 10).await.unwrap().len(),
            2
        );
    }
}

#[tokio::test]
async fn a_manager_that_died_before_it_said_so_has_fired() {
    for place in Place::each() {
        let database = place.open().await;
        let jobs = Jobs::new(database.clone(), members());
        let schedules = Schedules::new(database.clone(), jobs.clone());
        let name: Name = "a".parse().unwrap();
        let timed = timed("* * * * *");
        schedules.create(change(&name), &timed).await.unwrap();
        let due = schedules.get(&name).await.unwrap().unwrap().next_ms;
        // The job is begun; when it is next due is not set.
        let request = RequestKey::of("schedule", "a", due);
        let by = By {
            actor: "schedule/a",
            request: Some(&request),
        };
        let begun = jobs.create(wanted("seeds"), by).await.unwrap().job();
        schedules.fire(due).await.unwrap();
        let told = schedules.get(&name).await.unwrap().unwrap();
        assert_eq!(told.last_job, Some(begun.id));
        assert_eq!(
            jobs.list(Filter::default(), None, 10).await.unwrap().len(),
            1
        );
    }
}

#[tokio::test]
async fn a_schedule_is_changed_by_its_version_and_audited() {
    for place in Place::each() {
        let database = place.open().await;
        let schedules = Schedules::new(database.clone(), Jobs::new(database.clone(), members()));
        let name: Name = "a".parse().unwrap();
        schedules
            .create(change(&name), &timed("* * * * *"))
            .await
            .unwrap();
        let version = schedules.get(&name).await.unwrap().unwrap().version;
        let expecting = |expected| Change {
            expected: Some(expected),
            ..change(&name)
        };
        let later = timed("0 0 1 1 *");
        for (expected, came) in [(version, Changed::Yes), (version, Changed::Stale)] {
            let changed = schedules.change(expecting(expected), &later).await;
            assert_eq!(changed.unwrap(), came);
        }
        let stale = schedules.remove(expecting(version)).await.unwrap();
        assert_eq!(stale, Changed::Stale);
        let removed = schedules.remove(expecting(version + 1)).await.unwrap();
        assert_eq!(removed, Changed::Yes);
        let absent = schedules.change(change(&name), &later).await.unwrap();
        assert_eq!(absent, Changed::Absent);
        let lines = audit::read(&database, audit::Filter::default(), None, 10)
            .await
            .unwrap();
        let actions: Vec<_> = lines.iter().map(|line| line.action.as_str()).collect();
        assert_eq!(
            actions,
            ["schedule.remove", "schedule.change", "schedule.create"]
        );
    }
}

/// What is signed in a URL goes to nodes, and is shown to nobody.
#[tokio::test]
async fn the_files_of_a_schedule_are_brought_whole_and_shown_without_queries() {
    let [place, _] = Place::each();
    let database = place.open().await;
    let jobs = Jobs::new(database.clone(), members());
    let schedules = Schedules::new(database.clone(), jobs.clone());
    let mut timed = timed("0 3 * * *");
    let url = "https://f.test/model.bin?sig=secret";
    timed.plan.files.push(url.to_owned());
    let name: Name = "nightly".parse().unwrap();
    schedules.create(change(&name), &timed).await.unwrap();
    let shown = schedules.get(&name).await.unwrap().unwrap();
    assert_eq!(shown.job.files, ["https://f.test/model.bin"]);
    assert_eq!(schedules.list("", 10).await.unwrap()[0], shown);
    schedules.fire(shown.next_ms).await.unwrap();
    let begun = jobs.list(Filter::default(), None, 10).await.unwrap();
    let job = jobs.get(&begun[0].id).await.unwrap().unwrap();
    assert_eq!(job.files, [url]);
    let lines = audit::read(&database, audit::Filter::default(), None, 10)
        .await
        .unwrap();
    assert!(!format!("{lines:?}").contains("secret"), "{lines:?}");
}
