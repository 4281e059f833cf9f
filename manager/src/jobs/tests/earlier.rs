//! Jobs that a manager of an earlier version left in the database.

use super::*;

/// What the schema has had since jobs can be looked for.
const SINCE: &[&str] = &[
    "ALTER TABLE job DROP COLUMN phase",
    "ALTER TABLE job DROP COLUMN made_by",
    "DROP INDEX audit_by_time",
    "DROP INDEX audit_by_actor",
    "DROP INDEX audit_by_action",
    "DROP INDEX audit_by_object",
    "DELETE FROM _sqlx_migrations WHERE version = 43",
];

#[tokio::test]
async fn jobs_of_an_earlier_version_are_found_by_what_they_are() {
    for place in Place::each() {
        let database = place.open().await;
        let jobs = Jobs::new(database.clone(), members());
        let one = jobs.create(wanted("seeds"), ANN).await.unwrap().job();
        let other = jobs.create(wanted("seeds"), ANN).await.unwrap().job();
        jobs.cancel(&one.id, "bob").await.unwrap();
        let mut step = database.begin().await.unwrap();
        for sql in SINCE {
            sqlx::query(*sql).execute(&mut *step).await.unwrap();
        }
        step.commit(&database).await.unwrap();
        database.close().await;

        let database = place.open().await;
        let jobs = Jobs::new(database, members());
        let found = async |phase, by| {
            let filter = Filter { phase, by };
            let found = jobs.list(filter, None, 10).await.unwrap();
            let ids = found.into_iter().map(|job| job.id);
            ids.collect::<Vec<_>>()
        };
        let id = |job: &Job| job.id.clone();
        assert_eq!(found(Some(Phase::Cancelled), None).await, [id(&one)]);
        assert_eq!(found(Some(Phase::Running), None).await, [id(&other)]);
        assert_eq!(found(None, Some(ANN.actor)).await.len(), 2);
        assert_eq!(found(None, Some("bob")).await.len(), 0);
    }
}
