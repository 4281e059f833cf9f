//! Databases for tests: a SQLite file, and a database in a PostgreSQL server of this test process.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};

use darner_service::secret::Secret;
use prometheus_client::metrics::counter::Counter;

use super::{Database, Location};

/// A place for a database of one test.
pub(crate) struct Place {
    pub(crate) location: Location,
    /// Of a SQLite file.
    _directory: Option<tempfile::TempDir>,
}

impl Place {
    pub(crate) fn file() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("new/manager.db");
        Self {
            location: Location::File(path),
            _directory: Some(directory),
        }
    }

    pub(crate) fn postgres() -> Self {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let server = Server::of_process();
        let name = format!("test{}", NUMBER.fetch_add(1, Ordering::Relaxed));
        server.execute(&format!("CREATE DATABASE {name}"));
        Self {
            location: Location::Postgres(Secret::new(server.url(&name))),
            _directory: None,
        }
    }

    /// One of each kind.
    pub(crate) fn each() -> [Self; 2] {
        [Self::file(), Self::postgres()]
    }

    pub(crate) async fn open(&self) -> Database {
        Database::open(self.location.clone(), Counter::default())
            .await
            .unwrap()
    }
}

/// A PostgreSQL server on a socket in a directory of its own.
struct Server {
    directory: PathBuf,
    programs: PathBuf,
}

impl Server {
    /// The one of this process, started by the first who asks. It ends with the process.
    fn of_process() -> &'static Self {
        static SERVER: OnceLock<Server> = OnceLock::new();
        SERVER.get_or_init(|| {
            let (tell, hear) = std::sync::mpsc::channel();
            // The server is told to end when the thread that started it does: this one never does.
            std::thread::spawn(move || {
                tell.send(Self::start()).unwrap();
                loop {
                    std::thread::park();
                }
            });
            hear.recv().unwrap()
        })
    }

    #[allow(
        clippy::zombie_processes,
        reason = "it ends after this process, and clears up"
    )]
    fn start() -> Self {
        let directory = tempfile::tempdir().unwrap().keep();
        let data = directory.join("data");
        let server = Self {
            programs: programs(),
            directory,
        };
        server.give_away();
        let made = server
            .command("initdb")
            .args(["--no-sync", "--auth=trust", "--username=darner", "-D"])
            .arg(&data)
            .output()
            .unwrap();
        assert!(made.status.success(), "{made:?}");
        // Cleared up when the server has ended, which is after this process.
        let script = r#""$1" -D "$2/data" -k "$2" -h "" -F >"$2/log" 2>&1 & server=$!
            trap 'kill -INT $server' TERM; wait $server; wait $server; rm -rf "$2""#;
        server
            .command_of(Path::new("sh"))
            .args(["-c", script, "sh"])
            .arg(server.programs.join("postgres"))
            .arg(&server.directory)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let is_ready = || {
            let asked = server.command("pg_isready").arg("-q").status();
            asked.is_ok_and(|status| status.success())
        };
        let begun = std::time::Instant::now();
        while !is_ready() {
            assert!(begun.elapsed().as_secs() < 60, "PostgreSQL does not start");
            std::thread::sleep(std::time::Duration::from_millis(50));
        }
        server
    }

    /// It refuses to run as root, so it runs as nobody then.
    fn give_away(&self) {
        if is_root() {
            let given = Command::new("chown")
                .arg("nobody")
                .arg(&self.directory)
                .status();
            assert!(given.unwrap().success());
        }
    }

    fn command(&self, program: &str) -> Command {
        self.command_of(&self.programs.join(program))
    }

    fn command_of(&self, program: &Path) -> Command {
        let mut command = Command::new("setpriv");
        if is_root() {
            command.args(["--reuid=nobody", "--regid=nogroup", "--clear-groups"]);
        }
        command.args(["--pdeathsig=TERM", "--"]).arg(program);
        command.env("PGHOST", &self.directory);
        command.env("PGUSER", "darner");
        command.env("PGDATABASE", "postgres");
        command.current_dir(&self.directory);
        command
    }

    fn execute(&self, sql: &str) {
        let done = self.command("psql").args(["-qc", sql]).output().unwrap();
        assert!(done.status.success(), "{done:?}");
    }

    fn url(&self, database: &str) -> String {
        let host = self.directory.to_str().unwrap().replace('/', "%2F");
        format!("postgres://darner@{host}/{database}")
    }
}

fn is_root() -> bool {
    use std::os::unix::fs::MetadataExt as _;
    std::fs::metadata("/proc/self").unwrap().uid() == 0
}

/// Debian keeps them by version, out of the way.
fn programs() -> PathBuf {
    let versions = std::fs::read_dir("/usr/lib/postgresql");
    let mut found: Vec<PathBuf> = versions
        .into_iter()
        .flatten()
        .filter_map(|version| Some(version.ok()?.path().join("bin")))
        .filter(|programs| programs.join("postgres").exists())
        .collect();
    found.sort();
    found
        .pop()
        .expect("PostgreSQL is in /usr/lib/postgresql: run e2e/install")
}
