use darner_proto::id::{Host, Role, SigningKey};

use super::*;

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

async fn execute(path: &Path, sql: &'static str) {
    let options = SqliteConnectOptions::new().filename(path);
    let mut connection = options.connect().await.unwrap();
    sqlx::raw_sql(sql).execute(&mut connection).await.unwrap();
    connection.close().await.unwrap();
}

#[tokio::test]
async fn what_is_written_is_read_again() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("new/manager.db");
    let mut database = Database::open(&path).await.unwrap();
    assert_eq!(*database.stored(), Snapshot::default());
    let hosts = [
        record("node", Role::Mirror, 5),
        record("node", Role::Seed, 6),
        record("s", Role::Scheduler, 7),
    ];
    let first = snapshot(1_800_000_000_000, &hosts);
    database.write(&first).await.unwrap();
    // Not closed: as after a crash.
    drop(database);
    let mut database = Database::open(&path).await.unwrap();
    assert_eq!(*database.stored(), first);

    let moved = record("node", Role::Mirror, 8);
    let second = snapshot(1_800_000_000_001, &[moved, hosts[2].clone()]);
    database.write(&second).await.unwrap();
    database.close().await.unwrap();
    let database = Database::open(&path).await.unwrap();
    assert_eq!(database.stored().version, second.version);
    let left: Vec<_> = database.stored().hosts.keys().cloned().collect();
    assert_eq!(left, second.hosts.keys().cloned().collect::<Vec<_>>());
}

#[tokio::test]
async fn only_its_owner_can_read_it() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("new/manager.db");
    let mut database = Database::open(&path).await.unwrap();
    let hosts = [record("node", Role::Mirror, 5)];
    database.write(&snapshot(1, &hosts)).await.unwrap();
    let mode = |path: &Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(&dir.path().join("new")), 0o700);
    assert_eq!(mode(&path), 0o600);
}

#[tokio::test]
async fn a_crash_in_the_middle_of_a_write_leaves_what_was_there_before() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("manager.db");
    let mut database = Database::open(&path).await.unwrap();
    let before = snapshot(7, &[record("node", Role::Mirror, 5)]);
    database.write(&before).await.unwrap();
    database.close().await.unwrap();

    let options = SqliteConnectOptions::new().filename(&path);
    let mut writer = options.connect().await.unwrap();
    let mut write = writer.begin_with("BEGIN IMMEDIATE").await.unwrap();
    // More than it keeps in memory, so that part of it is in the file.
    let sql = "PRAGMA cache_size = 1; UPDATE configuration SET version = 8;
        CREATE TABLE much (bytes); INSERT INTO much VALUES (zeroblob(1000000))";
    sqlx::raw_sql(sql).execute(&mut *write).await.unwrap();
    let crashed = dir.path().join("crashed");
    std::fs::create_dir(&crashed).unwrap();
    for name in ["manager.db", "manager.db-journal"] {
        std::fs::copy(dir.path().join(name), crashed.join(name)).unwrap();
    }
    write.rollback().await.unwrap();

    let database = Database::open(&crashed.join("manager.db")).await.unwrap();
    assert_eq!(*database.stored(), before);
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
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("manager.db");
    Database::open(&path).await.unwrap().close().await.unwrap();
    execute(
        &path,
        "PRAGMA journal_mode = DELETE;
         INSERT INTO _sqlx_migrations (version, description, success, checksum, execution_time)
         VALUES (900, 'later', 1, x'00', 1);
         ALTER TABLE host RENAME TO member;",
    )
    .await;
    let before = std::fs::read(&path).unwrap();
    let refused = Database::open(&path).await.unwrap_err();
    assert!(
        matches!(
            refused,
            DatabaseError::Newer {
                found: 900,
                known: 1,
                ..
            }
        ),
        "{refused:?}"
    );
    assert_eq!(std::fs::read(&path).unwrap(), before);
}

#[tokio::test]
async fn what_is_no_database_is_refused_and_left_as_it_is() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("manager.db");
    let text = "not a database ".repeat(1000);
    std::fs::write(&path, &text).unwrap();
    let refused = Database::open(&path).await.unwrap_err();
    assert!(matches!(refused, DatabaseError::Open { .. }), "{refused:?}");
    assert_eq!(std::fs::read_to_string(&path).unwrap(), text);
}

#[tokio::test]
async fn a_file_taken_away_is_noticed() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("manager.db");
    let database = Database::open(&path).await.unwrap();
    assert!(database.is_in_place().await);
    std::fs::remove_file(&path).unwrap();
    assert!(!database.is_in_place().await);
    std::fs::write(&path, "").unwrap();
    assert!(!database.is_in_place().await, "another file");
}

#[tokio::test]
async fn a_row_that_makes_no_sense_costs_that_row() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("manager.db");
    let mut database = Database::open(&path).await.unwrap();
    let hosts = [record("a", Role::Seed, 5), record("b", Role::Seed, 5)];
    database.write(&snapshot(9, &hosts)).await.unwrap();
    database.close().await.unwrap();
    execute(&path, "UPDATE host SET address = 'nowhere' WHERE id = 'a'").await;
    let database = Database::open(&path).await.unwrap();
    assert_eq!(*database.stored(), snapshot(9, &hosts[1..]));
}
