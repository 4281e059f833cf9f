//! Hosts in directories are set up and torn down again, by runs that end and by runs that are cut off
//! at every step.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use tempfile::TempDir;

use super::apply::{ApplyError, Desk};
use super::host::Host;
use super::prove::ProofError;
use super::report::Report;
use super::runtimes::{Choice, Terms};
use super::session::{JOURNAL, Session, SetupError, plan_setup, plan_teardown};

mod cut_off;
mod fixtures;

const MIRROR: &str = "http://127.0.0.1:7420";
const SECURED: &str = "https://127.0.0.1:7420";
const CA: &str = "-----BEGIN CERTIFICATE-----\nMIIB\n-----END CERTIFICATE-----\n";

/// A host in a directory.
struct Sandbox(TempDir);

/// All there is in it: the bytes and mode of files, the mode of directories.
type Snapshot = BTreeMap<PathBuf, (u32, Option<String>)>;

impl Sandbox {
    fn new(files: &[(&str, &str)]) -> Self {
        // In memory, where writing through to the disk takes no time.
        let directory = tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir());
        let sandbox = Self(directory.unwrap());
        fs::create_dir_all(sandbox.path("/var/lib")).unwrap();
        for (path, text) in files {
            sandbox.write(path, text);
        }
        sandbox
    }

    fn path(&self, path: &str) -> PathBuf {
        self.0.path().join(path.trim_start_matches('/'))
    }

    fn write(&self, path: &str, text: &str) {
        let path = self.path(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, text).unwrap();
        // Not the mode that a new file would get.
        fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).unwrap();
    }

    fn read(&self, path: &str) -> String {
        fs::read_to_string(self.path(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
    }

    fn snapshot(&self) -> Snapshot {
        let mut found = Snapshot::new();
        let mut directories = vec![self.0.path().to_owned()];
        while let Some(directory) = directories.pop() {
            for entry in fs::read_dir(directory).unwrap() {
                let path = entry.unwrap().path();
                let about = fs::symlink_metadata(&path).unwrap();
                let bytes = about.is_file().then(|| fs::read_to_string(&path).unwrap());
                found.insert(path.clone(), (about.permissions().mode(), bytes));
                if about.is_dir() {
                    directories.push(path);
                }
            }
        }
        found
    }

    fn host(&self) -> Host {
        Host::new(self.0.path().to_owned())
    }

    fn session(&self, dry_run: bool) -> Session {
        Session::new(self.0.path().to_owned(), dry_run)
    }

    async fn set_up(&self, terms: &Terms) -> Result<Report, SetupError> {
        self.session(false).set_up(Choice::All, terms, None).await
    }

    fn tear_down(&self) -> Result<Report, SetupError> {
        self.session(false).tear_down(Choice::All)
    }
}

fn terms(registries: &[&str]) -> Terms {
    Terms {
        mirror: MIRROR.to_owned(),
        registries: registries
            .iter()
            .map(|name| name.parse().unwrap())
            .collect(),
        adopt: false,
        ca: None,
    }
}

/// The same, of a mirror that speaks TLS.
fn secured(terms: Terms) -> Terms {
    Terms {
        mirror: terms.mirror.replace("http://", "https://"),
        ca: Some(CA.to_owned()),
        ..terms
    }
}

fn every_terms() -> [Terms; 5] {
    let adopt = Terms {
        adopt: true,
        ..terms(&["docker.io", "quay.io"])
    };
    [
        terms(&[]),
        terms(&["docker.io", "reg.example:5000"]),
        secured(terms(&[])),
        secured(adopt.clone()),
        adopt,
    ]
}

fn json(report: &Report) -> serde_json::Value {
    serde_json::from_str(&report.json()).unwrap()
}

#[tokio::test]
async fn torn_down_every_host_is_byte_for_byte_what_it_was() {
    let mut changed = 0;
    for (name, files) in fixtures::HOSTS {
        for terms in every_terms() {
            let sandbox = Sandbox::new(files);
            let before = sandbox.snapshot();
            let dry = sandbox
                .session(true)
                .set_up(Choice::All, &terms, None)
                .await;
            assert_eq!(
                sandbox.snapshot(),
                before,
                "{name}: a dry run changes nothing"
            );
            let report = match sandbox.set_up(&terms).await {
                Ok(report) => report,
                // Such as a foreign host file of a registry that is to be adopted only if asked to.
                Err(SetupError::Refused(_))
                    if name.contains("foreign")
                        || (terms.ca.is_some() && name.contains("without entries")) =>
                {
                    assert!(dry.is_err(), "{name}");
                    assert_eq!(sandbox.snapshot(), before, "{name}");
                    continue;
                }
                Err(error) => panic!("{name}: {error}"),
            };
            let would = json(&dry.unwrap());
            let did = json(&report);
            assert_eq!(would["changes"], did["changes"], "{name}");
            let up = sandbox.snapshot();
            assert_ne!(up, before, "{name}");
            changed += did["changes"].as_array().unwrap().len();

            let again = json(&sandbox.set_up(&terms).await.unwrap());
            assert_eq!(again["status"], "unchanged", "{name}: {again}");
            assert_eq!(
                sandbox.snapshot(),
                up,
                "{name}: a second run changes nothing"
            );

            sandbox.tear_down().unwrap();
            assert_eq!(sandbox.snapshot(), before, "{name}");
            let again = json(&sandbox.tear_down().unwrap());
            assert_eq!(again["status"], "unchanged", "{name}");
            assert_eq!(sandbox.snapshot(), before, "{name}");
        }
    }
    assert!(changed > 40, "{changed} files");
}

#[tokio::test]
async fn each_runtime_is_told_in_its_own_form() {
    let sandbox = Sandbox::new(fixtures::EVERYTHING);
    sandbox.set_up(&terms(&[])).await.unwrap();
    let hosts: toml::Table = sandbox
        .read("/etc/containerd/certs.d/_default/hosts.toml")
        .parse()
        .unwrap();
    assert!(hosts["host"].get(MIRROR).is_some(), "{hosts}");
    let config = sandbox.read("/etc/containerd/config.toml");
    assert!(
        config.contains("config_path = \"/etc/containerd/certs.d\""),
        "{config}"
    );
    let daemon: serde_json::Value =
        serde_json::from_str(&sandbox.read("/etc/docker/daemon.json")).unwrap();
    assert_eq!(
        daemon["registry-mirrors"],
        serde_json::json!([MIRROR, "https://theirs.example"])
    );
    let drop_in: toml::Table = sandbox
        .read("/etc/containers/registries.conf.d/50-darner.conf")
        .parse()
        .unwrap();
    let tables = drop_in["registry"].as_array().unwrap();
    let ghcr = tables
        .iter()
        .find(|table| table["prefix"].as_str() == Some("ghcr.io"))
        .unwrap();
    assert_eq!(
        ghcr["mirror"][0]["location"].as_str(),
        Some("127.0.0.1:7420/ghcr.io")
    );
    let theirs = tables
        .iter()
        .any(|table| table["prefix"].as_str() == Some("quay.io"));
    assert!(!theirs, "quay.io has a table of somebody else's");
    let k3s = sandbox.read("/etc/rancher/k3s/registries.yaml");
    assert!(k3s.contains("\"*\":") && k3s.contains(MIRROR), "{k3s}");
}

#[tokio::test]
async fn under_tls_each_runtime_is_told_whom_to_trust() {
    let sandbox = Sandbox::new(fixtures::EVERYTHING);
    let before = sandbox.snapshot();
    sandbox.set_up(&terms(&[])).await.unwrap();
    sandbox.set_up(&secured(terms(&[]))).await.unwrap();
    let place = "/etc/containerd/certs.d";
    let hosts: toml::Table = sandbox
        .read(&format!("{place}/_default/hosts.toml"))
        .parse()
        .unwrap();
    assert_eq!(hosts["host"].as_table().unwrap().len(), 1, "{hosts}");
    let ca = format!("{place}/darner-ca.crt");
    assert_eq!(hosts["host"][SECURED]["ca"].as_str(), Some(ca.as_str()));
    for place in [
        place.to_owned(),
        "/etc/docker/certs.d/127.0.0.1:7420".to_owned(),
        "/etc/containers/certs.d/127.0.0.1:7420".to_owned(),
        "/etc/rancher/k3s".to_owned(),
    ] {
        let text = sandbox.read(&format!("{place}/darner-ca.crt"));
        assert!(text.ends_with(CA), "{place}: {text}");
    }
    let daemon = sandbox.read("/etc/docker/daemon.json");
    assert!(
        daemon.contains(SECURED) && !daemon.contains(MIRROR),
        "{daemon}"
    );
    let drop_in = sandbox.read("/etc/containers/registries.conf.d/50-darner.conf");
    assert!(!drop_in.contains("insecure"), "{drop_in}");
    let k3s = sandbox.read("/etc/rancher/k3s/registries.yaml");
    assert!(
        k3s.contains("ca_file: \"/etc/rancher/k3s/darner-ca.crt\""),
        "{k3s}"
    );

    // Another authority is another file, and nothing else.
    let renewed = Terms {
        ca: Some(CA.replace("MIIB", "MIIC")),
        ..secured(terms(&[]))
    };
    let report = json(&sandbox.set_up(&renewed).await.unwrap());
    let changes = report["changes"].as_array().unwrap();
    assert_eq!(changes.len(), 4, "{report}");
    assert!(report["restart_needed"].as_array().unwrap().is_empty());
    sandbox.set_up(&terms(&[])).await.unwrap();
    assert!(!sandbox.path(&ca).exists());
    sandbox.tear_down().unwrap();
    assert_eq!(sandbox.snapshot(), before);
}

#[tokio::test]
async fn what_is_no_longer_wished_is_taken_back() {
    let sandbox = Sandbox::new(fixtures::EVERYTHING);
    let before = sandbox.snapshot();
    sandbox
        .set_up(&terms(&["docker.io", "ghcr.io"]))
        .await
        .unwrap();
    let place = |name: &str| format!("/etc/containerd/certs.d/{name}/hosts.toml");
    assert!(sandbox.path(&place("ghcr.io")).exists());
    sandbox.set_up(&terms(&["docker.io"])).await.unwrap();
    assert!(!sandbox.path(&place("ghcr.io")).parent().unwrap().exists());
    assert!(sandbox.path(&place("docker.io")).exists());
    let moved = Terms {
        mirror: "http://127.0.0.1:7999".to_owned(),
        ..terms(&["docker.io"])
    };
    sandbox.set_up(&moved).await.unwrap();
    let text = sandbox.read("/etc/docker/daemon.json");
    assert!(text.contains("7999") && !text.contains("7420"), "{text}");
    sandbox.session(false).tear_down(Choice::Docker).unwrap();
    assert!(!sandbox.read("/etc/docker/daemon.json").contains("7999"));
    assert!(
        sandbox.path(&place("docker.io")).exists(),
        "only Docker's was taken back"
    );
    sandbox.tear_down().unwrap();
    assert_eq!(sandbox.snapshot(), before);
}

#[tokio::test]
async fn what_others_change_meanwhile_stays() {
    let sandbox = Sandbox::new(fixtures::EVERYTHING);
    sandbox.set_up(&terms(&[])).await.unwrap();
    let config = "/etc/containerd/config.toml";
    let edited = format!("{}\n# a later note\n", sandbox.read(config));
    sandbox.write(config, &edited);
    let daemon = "/etc/docker/daemon.json";
    let edited = sandbox
        .read(daemon)
        .replace("\"debug\": true", "\"debug\": false");
    sandbox.write(daemon, &edited);
    sandbox.tear_down().unwrap();
    let text = sandbox.read(config);
    assert!(
        text.contains("# a later note") && !text.contains("config_path"),
        "{text}"
    );
    let text = sandbox.read(daemon);
    assert!(
        text.contains("\"debug\": false") && !text.contains(MIRROR),
        "{text}"
    );
    assert!(text.contains("https://theirs.example"), "{text}");
    assert!(!sandbox.path(JOURNAL).exists());
}

#[tokio::test]
async fn what_cannot_be_edited_is_refused_and_nothing_is_written() {
    for (path, text, said) in fixtures::REFUSED {
        let sandbox = Sandbox::new(fixtures::EVERYTHING);
        sandbox.write(path, text);
        let before = sandbox.snapshot();
        let refused = sandbox.set_up(&terms(&[])).await.unwrap_err();
        let shown = refused.to_string();
        assert!(
            shown.contains(path) && shown.contains(said),
            "{path}: {shown}"
        );
        assert_eq!(sandbox.snapshot(), before, "{path}");
    }
}

#[tokio::test]
async fn a_mirror_that_does_not_answer_takes_all_of_it_back() {
    let sandbox = Sandbox::new(fixtures::EVERYTHING);
    let before = sandbox.snapshot();
    // Nobody listens where a listener has just been.
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let terms = Terms {
        mirror: format!("http://{}", listener.local_addr().unwrap()),
        ..terms(&[])
    };
    drop(listener);
    let probe = super::prove::Probe::Ping;
    let failed = sandbox
        .session(false)
        .set_up(Choice::All, &terms, Some(&probe))
        .await;
    let failed = failed.unwrap_err();
    assert!(
        matches!(failed, SetupError::Proof(ProofError::Unreachable { .. })),
        "{failed}"
    );
    assert_eq!(failed.exit_status(), 4);
    assert_eq!(sandbox.snapshot(), before);
}

#[tokio::test]
async fn a_host_without_runtimes_is_told_so() {
    let sandbox = Sandbox::new(&[]);
    let before = sandbox.snapshot();
    let absent = sandbox.set_up(&terms(&[])).await.unwrap_err();
    assert!(matches!(absent, SetupError::Absent(..)), "{absent}");
    assert_eq!(sandbox.snapshot(), before);
}

#[tokio::test]
async fn one_run_at_a_time() {
    let sandbox = Sandbox::new(fixtures::EVERYTHING);
    let desk = Desk::open(sandbox.host(), Path::new(JOURNAL)).unwrap();
    let busy = sandbox.set_up(&terms(&[])).await.unwrap_err();
    assert!(busy.to_string().contains("another"), "{busy}");
    desk.close().unwrap();
    sandbox.set_up(&terms(&[])).await.unwrap();
}
