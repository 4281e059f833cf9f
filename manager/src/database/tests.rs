use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use darner_proto::id::{Host, Role, SigningKey};
use sqlx::sqlite::{SqliteConnectOptions, SqliteJournalMode};
use sqlx::{ConnectOptions as _, Connection as _};

use super::backup::backup;
use super::members::{Changes, Remembered};
use super::testing::Place;
use super::*;
use crate::membership::{Elsewhere, MemberKey, Record, Snapshot};

fn record(id: &str, role: Role, last_seen: u64) -> (MemberKey, Record) {
    let host = Host {
        id: id.parse().unwrap(),
        address: format!("{id}.example:7421"),
        role,
        labels: [("zone".to_owned(), "ä \" '); DROP TABLE host".to_owned())].into(),
        signing_key: (role != Role::Scheduler).then_some(SigningKey([7; 32])),
        upload_slots: 16,
    };
    let key = MemberKey::of(&host);
    let host = std::sync::Arc::new(host);
    (key, Record { host, last_seen })
}

fn snapshot(version: u64, hosts: &[(MemberKey, Record)]) -> Snapshot {
    Snapshot {
        version,
        hosts: hosts.iter().cloned().collect(),
    }
}

fn path(place: &Place) -> &Path {
    match &place.location {
        Location::File(path) => path,
        Location::Postgres(_) => panic!("not a file"),
    }
}

async fn open(path: &Path) -> Result<Database, DatabaseError> {
    Database::open(Location::File(path.to_owned()), Counter::default()).await
}

async fn stored(database: &Database) -> Snapshot {
    Remembered::read(database).await.unwrap().1
}

async fn write(database: &Database, wanted: &Snapshot) {
    let (mut remembered, _) = Remembered::read(database).await.unwrap();
    remembered.write(database, wanted).await.unwrap();
}

async fn execute(path: &Path, sql: &'static str) {
    let options = SqliteConnectOptions::new().filename(path);
    let mut connection = options.connect().await.unwrap();
    sqlx::raw_sql(sql).execute(&mut connection).await.unwrap();
    connection.close().await.unwrap();
}

#[tokio::test]
async fn what_is_written_is_read_again() {
    for place in Place::each() {
        let database = place.open().await;
        let (mut remembered, empty) = Remembered::read(&database).await.unwrap();
        assert_eq!(empty, Snapshot::default());
        let hosts = [
            record("node", Role::Mirror, 5),
            record("node", Role::Seed, 6),
            record("s", Role::Scheduler, 7),
        ];
        let first = snapshot(1_800_000_000_000, &hosts);
        remembered.write(&database, &first).await.unwrap();
        // Not closed: as after a crash.
        let database = place.open().await;
        assert_eq!(stored(&database).await, first);

        let moved = record("node", Role::Mirror, 60_005);
        let second = snapshot(1_800_000_000_001, &[moved, hosts[2].clone()]);
        remembered.write(&database, &second).await.unwrap();
        database.close().await;
        let database = place.open().await;
        assert_eq!(stored(&database).await, second);
    }
}

#[tokio::test]
async fn a_step_that_is_not_committed_was_not_made() {
    for place in Place::each() {
        let database = place.open().await;
        let sql = "UPDATE configuration SET version = 7";
        let mut step = database.begin().await.unwrap();
        sqlx::query(sql).execute(&mut *step).await.unwrap();
        drop(step);
        assert_eq!(stored(&database).await.version, 0);
        let mut step = database.begin().await.unwrap();
        sqlx::query(sql).execute(&mut *step).await.unwrap();
        step.commit(&database).await.unwrap();
        assert_eq!(stored(&database).await.version, 7);
    }
}

#[tokio::test]
async fn however_many_open_a_new_database_at_once_each_finds_it_whole() {
    for place in Place::each() {
        let opened = futures_util::future::join_all((0..8).map(|_| place.open())).await;
        for database in opened {
            assert_eq!(stored(&database).await.version, 0);
        }
    }
}

#[tokio::test]
async fn several_managers_hear_of_each_others_hosts() {
    let place = Place::postgres();
    let (one, other) = (place.open().await, place.open().await);
    let (mut at_one, _) = Remembered::read(&one).await.unwrap();
    let (mut at_other, _) = Remembered::read(&other).await.unwrap();
    let (a, b) = (record("a", Role::Seed, 5), record("b", Role::Seed, 6));
    let heard = |hosts: &Elsewhere| hosts.hosts.keys().cloned().collect::<Vec<_>>();

    let hears = at_one
        .write(&one, &snapshot(100, std::slice::from_ref(&a)))
        .await;
    assert_eq!(heard(&hears.unwrap().unwrap()), []);
    let hears = at_other
        .write(&other, &snapshot(90, std::slice::from_ref(&b)))
        .await;
    let hears = hears.unwrap().unwrap();
    assert_eq!((heard(&hears), hears.version), (vec![a.0.clone()], 100));

    // The host moves: whoever heard it last has it, and the other does not take it back.
    let moved = record("a", Role::Seed, 9);
    let at = snapshot(101, &[b.clone(), moved.clone()]);
    at_other.write(&other, &at).await.unwrap();
    let hears = at_one
        .write(&one, &snapshot(100, std::slice::from_ref(&a)))
        .await;
    assert_eq!(
        heard(&hears.unwrap().unwrap()),
        [moved.0.clone(), b.0.clone()]
    );
    at_one.write(&one, &snapshot(100, &[])).await.unwrap();
    let all = stored(&one).await;
    assert_eq!(all.hosts.keys().collect::<Vec<_>>(), [&moved.0, &b.0]);
    assert_eq!(all.version, 101);
}

#[tokio::test]
async fn only_its_owner_can_read_it() {
    let place = Place::file();
    let database = place.open().await;
    write(&database, &snapshot(1, &[record("node", Role::Mirror, 5)])).await;
    let mode = |path: &Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
    let directory = path(&place).parent().unwrap();
    assert_eq!(mode(directory), 0o700);
    for file in ["manager.db", "manager.db-wal", "manager.db-shm"] {
        assert_eq!(mode(&directory.join(file)), 0o600, "{file}");
    }
}

#[tokio::test]
async fn a_crash_leaves_what_was_committed() {
    let place = Place::file();
    let database = place.open().await;
    let before = snapshot(7, &[record("node", Role::Mirror, 5)]);
    write(&database, &before).await;
    // Its log has what was committed and a part of what was not: more than is kept in memory.
    let mut step = database.begin().await.unwrap();
    let sql = "PRAGMA cache_size = 1; UPDATE configuration SET version = 8;
        CREATE TABLE much (bytes); INSERT INTO much VALUES (zeroblob(1000000))";
    sqlx::raw_sql(sql).execute(&mut *step).await.unwrap();
    let crashed = tempfile::tempdir().unwrap();
    for name in ["manager.db", "manager.db-wal"] {
        let from = path(&place).with_file_name(name);
        std::fs::copy(from, crashed.path().join(name)).unwrap();
    }
    let log = std::fs::metadata(crashed.path().join("manager.db-wal"));
    assert!(log.unwrap().len() > 500_000);
    let database = open(&crashed.path().join("manager.db")).await.unwrap();
    assert_eq!(stored(&database).await, before);
}

/// Databases of earlier versions have one, and some file systems have nothing else.
#[tokio::test]
async fn a_crash_with_a_rollback_journal_leaves_what_was_there_before() {
    let place = Place::file();
    let database = place.open().await;
    let before = snapshot(7, &[record("node", Role::Mirror, 5)]);
    write(&database, &before).await;
    database.close().await;

    let options = SqliteConnectOptions::new().filename(path(&place));
    let options = options.journal_mode(SqliteJournalMode::Delete);
    let mut writer = options.connect().await.unwrap();
    let mut write = writer.begin_with("BEGIN IMMEDIATE").await.unwrap();
    let sql = "PRAGMA cache_size = 1; UPDATE configuration SET version = 8;
        CREATE TABLE much (bytes); INSERT INTO much VALUES (zeroblob(1000000))";
    sqlx::raw_sql(sql).execute(&mut *write).await.unwrap();
    let crashed = tempfile::tempdir().unwrap();
    for name in ["manager.db", "manager.db-journal"] {
        let from = path(&place).with_file_name(name);
        std::fs::copy(from, crashed.path().join(name)).unwrap();
    }
    write.rollback().await.unwrap();
    let database = open(&crashed.path().join("manager.db")).await.unwrap();
    assert_eq!(stored(&database).await, before);
}

#[tokio::test]
async fn being_heard_is_written_once_a_minute() {
    let stored = snapshot(1, &[record("node", Role::Mirror, 100_000)]);
    let heard = |last_seen| snapshot(1, &[record("node", Role::Mirror, last_seen)]);
    assert!(Changes::between(&stored, &heard(159_999)).is_empty());
    assert!(!Changes::between(&stored, &heard(160_000)).is_empty());
}

#[tokio::test]
async fn a_database_of_a_later_version_is_left_as_it_is() {
    let place = Place::file();
    place.open().await.close().await;
    execute(
        path(&place),
        "PRAGMA journal_mode = DELETE;
         INSERT INTO _sqlx_migrations (version, description, success, checksum, execution_time)
         VALUES (900, 'later', 1, x'00', 1);
         ALTER TABLE host RENAME TO member;",
    )
    .await;
    let before = std::fs::read(path(&place)).unwrap();
    let refused = open(path(&place)).await.unwrap_err();
    assert!(
        matches!(refused, DatabaseError::Newer { found: 900, .. }),
        "{refused:?}"
    );
    assert_eq!(std::fs::read(path(&place)).unwrap(), before);

    let place = Place::postgres();
    let database = place.open().await;
    let sql =
        "INSERT INTO _sqlx_migrations (version, description, success, checksum, execution_time)
        VALUES (900, 'later', true, ''::bytea, 1)";
    let mut step = database.begin().await.unwrap();
    sqlx::query(sql).execute(&mut *step).await.unwrap();
    step.commit(&database).await.unwrap();
    let refused = Database::open(place.location.clone(), Counter::default()).await;
    let refused = refused.unwrap_err();
    assert!(
        matches!(refused, DatabaseError::Newer { found: 900, .. }),
        "{refused:?}"
    );
}

/// Not one schema for the one and another for the other.
#[test]
fn both_schemas_have_the_same_steps() {
    let steps = |migrations: &'static Migrator| {
        let steps = migrations.iter();
        steps
            .map(|step| (step.version, step.description.clone()))
            .collect::<Vec<_>>()
    };
    assert_eq!(steps(&sqlite::MIGRATIONS), steps(&postgres::MIGRATIONS));
}

#[tokio::test]
async fn what_is_no_database_is_refused_and_left_as_it_is() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("manager.db");
    let text = "not a database ".repeat(1000);
    std::fs::write(&path, &text).unwrap();
    let refused = open(&path).await.unwrap_err();
    assert!(matches!(refused, DatabaseError::Open { .. }), "{refused:?}");
    assert_eq!(std::fs::read_to_string(&path).unwrap(), text);
}

#[tokio::test]
async fn a_server_that_is_away_is_named_without_its_password() {
    let url = Secret::new("postgres://darner:hunter2@127.0.0.1:1/darner");
    let refused = Database::open(Location::Postgres(url), Counter::default()).await;
    let said = format!("{:?} {}", refused, refused.as_ref().unwrap_err());
    assert!(
        said.contains("127.0.0.1:1, darner cannot be opened"),
        "{said}"
    );
    assert!(!said.contains("hunter2"), "{said}");
}

#[tokio::test]
async fn a_file_taken_away_is_noticed_and_made_anew() {
    let place = Place::file();
    let database = place.open().await;
    let wanted = snapshot(3, &[record("node", Role::Mirror, 5)]);
    let (mut remembered, _) = Remembered::read(&database).await.unwrap();
    remembered.write(&database, &wanted).await.unwrap();
    std::fs::remove_file(path(&place)).unwrap();
    assert_eq!(stored(&database).await, Snapshot::default());
    assert_eq!(database.generation(), 1);
    remembered.write(&database, &wanted).await.unwrap();
    assert_eq!(stored(&database).await, wanted);
}

#[tokio::test]
async fn a_row_that_makes_no_sense_costs_that_row() {
    for place in Place::each() {
        let database = place.open().await;
        let hosts = [record("a", Role::Seed, 5), record("b", Role::Seed, 5)];
        write(&database, &snapshot(9, &hosts)).await;
        let mut step = database.begin().await.unwrap();
        let sql = "UPDATE host SET address = 'nowhere' WHERE id = 'a'";
        sqlx::query(sql).execute(&mut *step).await.unwrap();
        step.commit(&database).await.unwrap();
        assert_eq!(stored(&database).await, snapshot(9, &hosts[1..]));
    }
}

#[tokio::test]
async fn a_backup_is_whole_and_private_and_overwrites_nothing() {
    let place = Place::file();
    let database = place.open().await;
    let wanted = snapshot(3, &[record("node", Role::Mirror, 5)]);
    write(&database, &wanted).await;
    let dir = tempfile::tempdir().unwrap();
    let to = dir.path().join("it's a copy.db");
    // Somebody is writing meanwhile.
    let step = database.begin().await.unwrap();
    let size = backup(&place.location, &to).await.unwrap();
    drop(step);
    let file = std::fs::metadata(&to).unwrap();
    assert_eq!(
        (file.len(), file.permissions().mode() & 0o777),
        (size, 0o600)
    );
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1);

    let refused = backup(&place.location, &to).await.unwrap_err().to_string();
    assert!(refused.contains("File exists"), "{refused}");
    assert_eq!(std::fs::metadata(&to).unwrap().len(), size);
    let copy = open(&to).await.unwrap();
    assert_eq!(stored(&copy).await, wanted);

    let nowhere = Location::File(dir.path().join("nowhere.db"));
    let refused = backup(&nowhere, &dir.path().join("b")).await.unwrap_err();
    assert!(refused.to_string().contains("there is no database"));
    assert!(!dir.path().join("nowhere.db").exists());
    assert!(!dir.path().join("b").exists());
}
