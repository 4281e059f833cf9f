use std::fs;
use std::path::Path;

use darner_proto::id::Role;
use proptest::prelude::*;

use super::*;

mod refused;

struct Given {
    directory: tempfile::TempDir,
    sources: Sources,
}

/// A file, and a machine that has a name and a home.
fn given(file: &str) -> Given {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("darner.toml");
    fs::write(&path, file).unwrap();
    let sources = Sources {
        file: Some(path),
        environment: vec![("HOME".into(), "/home/me".into())],
        flags: Vec::new(),
        machine: Machine {
            host_name: Some("Node_7.example".into()),
            root: false,
        },
    };
    Given { directory, sources }
}

impl Given {
    fn variable(mut self, name: &str, value: &str) -> Self {
        let variable = (name.into(), value.into());
        self.sources.environment.push(variable);
        self
    }

    fn set(mut self, argument: &str) -> Self {
        self.sources.flags.push(Flag::set(argument));
        self
    }

    fn with_file(self, name: &str, text: &str) -> Self {
        fs::write(self.directory.path().join(name), text).unwrap();
        self
    }

    fn load(&self, command: Command) -> Settings {
        load(command, &self.sources).unwrap_or_else(|error| panic!("{error}"))
    }

    /// The faults, with the directory left out.
    fn faults(&self, command: Command) -> Vec<String> {
        let error = load(command, &self.sources).expect_err("is refused");
        let directory = format!("{}/", self.directory.path().display());
        let text = error.to_string().replace(&directory, "");
        text.lines().map(str::to_owned).collect()
    }

    /// That there is one fault, which begins and goes on as told.
    fn refused(&self, command: Command, origin: &str, message: &str) {
        let faults = self.faults(command);
        let as_told = |fault: &String| {
            let said = fault.strip_prefix(origin);
            said.is_some_and(|said| said.contains(message))
        };
        assert!(
            faults.len() == 1 && faults.iter().all(as_told),
            "{faults:#?} is not only {origin} … {message}"
        );
    }
}

const INSECURE: &str = "identity.insecure=true";

#[test]
fn nothing_given_is_enough_for_up() {
    let mut given = given("");
    given.sources.file = None;
    let settings = given.load(Command::Up);
    assert_eq!(settings.data_dir, Path::new("/home/me/.local/state/darner"));
    assert_eq!(settings.node.id.as_str(), "node_7.example");
    assert_eq!(settings.mirror.role, Role::Seed);
    assert!(settings.scheduler.settle.is_zero());
    for (listen, port) in [
        (settings.registry.listen, 7420),
        (settings.pieces.listen, 7421),
        (settings.scheduler.listen, 7422),
        (settings.manager.listen, 7423),
        (settings.manager.api_listen, 7424),
        (settings.admin.listen, 7430),
    ] {
        assert!(listen.ip().is_loopback());
        assert_eq!(listen.port(), port);
    }
    let names: Vec<_> = settings
        .upstreams
        .iter()
        .map(|one| one.name.as_str())
        .collect();
    assert_eq!(names.len(), 9);
    assert_eq!(names[0], "docker.io");
    assert_eq!(settings.upstreams[0].url, "https://registry-1.docker.io");
    assert_eq!(settings.upstreams[0].max_connections, 64);
}

#[test]
fn roles_have_their_own_defaults() {
    let mut given = given("")
        .set(INSECURE)
        .set("pieces.advertise=10.0.0.5:7421");
    given.sources.machine.root = true;
    let mirror = given.load(Command::Mirror);
    assert_eq!(mirror.data_dir, Path::new("/var/lib/darner"));
    assert_eq!(mirror.mirror.role, Role::Mirror);
    assert_eq!(mirror.pieces.listen.to_string(), "0.0.0.0:7421");
    assert_eq!(mirror.upstreams[0].max_connections, 16);
    assert_eq!(given.load(Command::Scheduler).admin.listen.port(), 7431);
    assert_eq!(given.load(Command::Manager).admin.listen.port(), 7432);
    assert_eq!(given.load(Command::Scheduler).scheduler.settle.as_secs(), 2);
    // A laptop's own state, even when root starts it.
    let up = given.load(Command::Up);
    assert_eq!(up.data_dir, Path::new("/home/me/.local/state/darner"));
}

const EVERY_KEY: &str = r#"
data_dir = "/data"
[node]
id = "node-1"
labels = { zone = "a", rack = "b" }
[mirror]
role = "seed"
[registry]
listen = "127.0.0.1:1"
default_upstream = "registry.example:5000"
first_byte_timeout = "5s"
max_requests = 7
tls = true
logins = ["docker.io", "registry.example:5000"]
[[upstream]]
name = "registry.example:5000"
url = "http://10.0.0.9:5000/prefix/"
ca_file = "ca.pem"
username = "me"
password_file = "password"
tag_ttl = "0s"
max_connections = 3
[[upstream]]
name = "docker.io"
tag_ttl = "5m"
[pieces]
listen = "0.0.0.0:2"
advertise = "[fd00::5]:7421"
upload_slots = 5
[scheduler]
listen = "127.0.0.1:3"
advertise = "scheduler.example:7422"
addresses = ["http://10.0.0.3:7422", "http://10.0.0.4:7422/"]
settle = "100ms"
[manager]
listen = "127.0.0.1:4"
api_listen = "127.0.0.1:5"
address = "http://10.0.0.2:7423"
database = "sub/manager.db"
[store]
capacity = "20 GiB"
[limits]
upload = "50 MB"
download = 100000000
upstream = "10 MiB"
[admin]
listen = "127.0.0.1:0"
[identity]
insecure = true
[shutdown]
grace = "1m 30s"
[log]
filter = "debug"
format = "human"
"#;

#[test]
fn every_key_is_read() {
    let given = given(EVERY_KEY)
        .with_file("ca.pem", "x\n-----BEGIN CERTIFICATE-----\n")
        .with_file("password", "hunter2\r\n");
    let directory = given.directory.path().to_owned();
    let settings = given.load(Command::Mirror);
    assert_eq!(settings.node.labels["rack"], "b");
    assert_eq!(settings.registry.max_requests, 7);
    assert!(settings.registry.tls);
    assert_eq!(
        settings.registry.logins[1].as_str(),
        "registry.example:5000"
    );
    let upstream = &settings.upstreams[0];
    assert_eq!(upstream.url, "http://10.0.0.9:5000/prefix");
    assert_eq!(upstream.ca_file, Some(directory.join("ca.pem")));
    let credentials = upstream.credentials.as_ref().unwrap();
    let password = crate::secret::Secret::read(&credentials.password_file);
    assert_eq!(password.unwrap().reveal(), "hunter2");
    assert!(upstream.tag_ttl.is_zero());
    assert_eq!(upstream.max_connections, 3);
    assert_eq!(settings.upstreams[1].url, "https://registry-1.docker.io");
    assert_eq!(settings.upstreams[1].tag_ttl.as_secs(), 300);
    assert_eq!(settings.upstreams.len(), 10);
    assert_eq!(settings.scheduler.addresses[1], "http://10.0.0.4:7422");
    assert_eq!(
        settings.manager.database,
        Some(directory.join("sub/manager.db"))
    );
    assert_eq!(settings.store.capacity, Some(20 << 30));
    assert_eq!(settings.limits.upload, Some(50_000_000));
    assert_eq!(settings.limits.download, Some(100_000_000));
    assert_eq!(settings.limits.upstream, Some(10 << 20));
    assert_eq!(settings.shutdown.grace.as_secs(), 90);
    assert_eq!(settings.log.format, crate::settings::LogFormat::Human);
}

#[test]
fn a_database_elsewhere_is_named_by_a_file() {
    let url = "postgres://darner:hunter2@db.example/darner";
    let settings = given("[manager]\npostgres_url_file = \"url\"\n[identity]\ninsecure = true\n")
        .with_file("url", &format!("{url}\n"))
        .load(Command::Manager);
    let read = settings.manager.postgres_url.unwrap();
    assert_eq!(read.reveal(), url);
}

#[test]
fn flags_win_over_variables_over_the_file() {
    let file = "[registry]\nlisten = \"127.0.0.1:1\"\nmax_requests = 1\n[store]\ncapacity = 1\n";
    let settings = given(file)
        .variable("DARNER_REGISTRY__LISTEN", "127.0.0.1:2")
        .variable("DARNER_REGISTRY__MAX_REQUESTS", "2")
        .variable("DARNER_LOG", "warn")
        .set("registry.listen=127.0.0.1:3")
        .load(Command::Up);
    assert_eq!(settings.registry.listen.port(), 3);
    assert_eq!(settings.registry.max_requests, 2);
    assert_eq!(settings.store.capacity, Some(1));
    assert_eq!(settings.log.filter, "warn");
}

#[test]
fn of_two_flags_the_later_wins() {
    let settings = given("")
        .set("data_dir=/a")
        .set("data_dir=/b")
        .load(Command::Up);
    assert_eq!(settings.data_dir, Path::new("/b"));
}

#[test]
fn variables_hold_lists_and_labels_too() {
    let file = "[node]\nlabels = { zone = \"a\", rack = \"r\" }\n";
    let settings = given(file)
        .variable("DARNER_NODE__LABELS__ZONE", "b")
        .variable(
            "DARNER_SCHEDULER__ADDRESSES",
            "[\"http://a:1\", \"http://b:2\"]",
        )
        .variable(
            "DARNER_UPSTREAM",
            "[{name = \"r.example\", url = \"http://r:5\"}]",
        )
        .load(Command::Up);
    assert_eq!(settings.node.labels["zone"], "b");
    assert_eq!(settings.node.labels["rack"], "r");
    assert_eq!(settings.scheduler.addresses, ["http://a:1", "http://b:2"]);
    assert_eq!(settings.upstreams[0].name.as_str(), "r.example");

    for (labels, addresses) in [
        ("zone=a, rack=b", "http://a:1,http://b:2"),
        (
            "{zone = \"a\", rack = \"b\"}",
            "['http://a:1', 'http://b:2']",
        ),
    ] {
        let settings = given("")
            .set(&format!("node.labels={labels}"))
            .set(&format!("scheduler.addresses={addresses}"))
            .load(Command::Up);
        assert_eq!(settings.node.labels["zone"], "a");
        assert_eq!(settings.node.labels["rack"], "b");
        assert_eq!(settings.scheduler.addresses.len(), 2);
    }
}

/// Text that looks like settings, and text that does not.
fn any_line() -> impl Strategy<Value = String> {
    prop_oneof![
        "[a-z_.]{0,10} ?= ?[\"'\\[{a-z0-9:./, ]{0,20}",
        "\\[{0,2}[a-z]{0,9}\\]{0,2}",
        "(registry|upstream|node|store|pieces)",
        "\\[\\[?(registry|upstream|node|store|pieces|scheduler)\\]?\\]",
        "(listen|name|url|capacity|labels|addresses|tag_ttl) = .{0,24}",
        ".{0,30}",
    ]
}

proptest! {
    #[test]
    fn no_input_panics(
        lines in prop::collection::vec(any_line(), 0..20),
        name in "[A-Z_]{0,24}",
        value in ".{0,30}",
        set in "([a-z.]{0,20}=)?.{0,30}",
    ) {
        let mut given = given(&lines.join("\n"))
            .variable(&format!("DARNER_{name}"), &value)
            .set(&set);
        given.sources.environment.push(("DARNER_NODE__LABELS".into(), value.into()));
        for command in [Command::Up, Command::Mirror] {
            if let Err(error) = load(command, &given.sources) {
                prop_assert!(!error.faults.is_empty());
                prop_assert!(!error.to_string().is_empty());
            }
        }
    }

    #[test]
    fn sizes_and_durations_are_read_back(bytes in 1u64..1 << 60, seconds in 0u64..10_000_000) {
        let duration = std::time::Duration::from_secs(seconds);
        let settings = given("")
            .set(&format!("store.capacity={bytes}"))
            .set(&format!("registry.first_byte_timeout={}s", seconds + 1))
            .set(&format!("shutdown.grace={}", humantime::format_duration(duration)))
            .load(Command::Up);
        prop_assert_eq!(settings.store.capacity, Some(bytes));
        prop_assert_eq!(settings.shutdown.grace, duration);
    }
}

#[test]
fn files_of_settings_as_nobody_writes_them_are_read_or_all_their_faults_named() {
    let good = [
        "data_dir = \"/d\"\n[registry]\nlisten = \"127.0.0.1:1\"\nfirst_byte_timeout = \"9s\"\n",
        "[[upstream]]\nname = \"a.example\"\nurl = \"https://a.example\"\nmirrors = [\"https://m.example/x\"]\n",
        "[node]\nid = \"n\"\nlabels = { zone = \"a\" }\n[store]\ncapacity = \"5GiB\"\n",
        "[scheduler]\naddresses = [\"http://b:1\"]\n[manager]\naddress = \"https://m:7424\"\n",
    ];
    let given = given("");
    let path = given.sources.file.clone().unwrap();
    let mut count = 0;
    darner_mutate::each_text(&good, |text| {
        // Each is a file to write and to read.
        count += 1;
        if !darner_mutate::GUIDED && count % 40 != 0 {
            return;
        }
        fs::write(&path, text).unwrap();
        if let Err(error) = load(Command::Mirror, &given.sources) {
            assert!(!error.faults.is_empty(), "{text}");
        }
    });
}
