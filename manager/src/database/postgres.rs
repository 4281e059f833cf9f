//! PostgreSQL, 15 or later: for several managers over one database.

use std::time::Duration;

use darner_service::secret::Secret;
use sqlx::any::{AnyConnectOptions, AnyPoolOptions};
use sqlx::migrate::Migrator;
use sqlx::postgres::PgConnectOptions;
use sqlx::{AnyPool, ConnectOptions as _};

use super::{CONNECTIONS, DatabaseError};

/// The schema, version by version, with the numbers of the SQLite one.
pub(super) static MIGRATIONS: Migrator = sqlx::migrate!("migrations/postgres");

/// For a connection, new or free. A database that has none by then counts as away.
const PATIENCE: Duration = Duration::from_secs(3);
/// A database that goes away while nobody uses it is noticed when it is used; connections are made
/// anew this often so that a change of the database's address is, too.
const LIFETIME: Duration = Duration::from_secs(600);
/// A statement here is short. One that is not, or waits for another's lock, is given up.
const LIMITS: &str = "SET statement_timeout = '5s'; SET lock_timeout = '3s'; \
    SET idle_in_transaction_session_timeout = '10s'";

pub(super) async fn open(url: &Secret) -> Result<AnyPool, DatabaseError> {
    let name = || name(url);
    let unopened = |source| DatabaseError::Open {
        name: name(),
        source,
    };
    let pool = pool(url).map_err(unopened)?;
    let sql = "SELECT count(*) FROM pg_tables
        WHERE schemaname = current_schema() AND tablename = '_sqlx_migrations'";
    let tables: i64 = sqlx::query_scalar(sql)
        .fetch_one(&pool)
        .await
        .map_err(unopened)?;
    if tables > 0 {
        let sql = "SELECT max(version) FROM _sqlx_migrations";
        let found = sqlx::query_scalar(sql).fetch_one(&pool).await;
        super::refuse_newer(name(), found.map_err(unopened)?, &MIGRATIONS)?;
    }
    // Holds a lock meanwhile, so that of several managers that start at once one does it.
    let migrated = MIGRATIONS.run(&pool).await;
    migrated.map_err(|source| DatabaseError::Migrate {
        name: name(),
        source,
    })?;
    Ok(pool)
}

fn pool(url: &Secret) -> Result<AnyPool, sqlx::Error> {
    let options: AnyConnectOptions = url.reveal().parse()?;
    let pool = AnyPoolOptions::new()
        .max_connections(CONNECTIONS)
        .acquire_timeout(PATIENCE)
        .max_lifetime(LIFETIME)
        .after_connect(|connection, _| {
            Box::pin(async move {
                sqlx::raw_sql(LIMITS).execute(connection).await?;
                Ok(())
            })
        });
    Ok(pool.connect_lazy_with(options.disable_statement_logging()))
}

/// Host, port and name of the database that a URL leads to, without user and password.
pub(super) fn name(url: &Secret) -> String {
    let options: Result<PgConnectOptions, _> = url.reveal().parse();
    match options {
        Ok(options) => {
            let database = options.get_database().unwrap_or("the user's database");
            let (host, port) = (options.get_host(), options.get_port());
            format!("PostgreSQL at {host}:{port}, {database}")
        }
        Err(_) => "PostgreSQL".to_owned(),
    }
}
