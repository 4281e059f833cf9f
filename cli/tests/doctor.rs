//! `darner doctor` without a mirror and without a network: what it finds on a host in a directory.

#![allow(clippy::unwrap_used, reason = "a test stops at what it did not expect")]

use std::fs;
use std::net::TcpListener;
use std::path::Path;

use assert_cmd::Command;
use serde_json::Value;
use tempfile::TempDir;

struct Host {
    root: TempDir,
    taken: TcpListener,
}

impl Host {
    fn new(files: &[(&str, &str)]) -> Self {
        let root = tempfile::tempdir().unwrap();
        for (path, text) in files {
            let path = root.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        fs::create_dir_all(root.path().join("var/lib")).unwrap();
        Self {
            root,
            taken: TcpListener::bind("127.0.0.1:0").unwrap(),
        }
    }

    fn path(&self) -> &Path {
        self.root.path()
    }

    fn darner(&self, arguments: &[&str]) -> Command {
        let mut command = Command::cargo_bin("darner").unwrap();
        command.args(arguments).arg("--root").arg(self.path());
        command
    }

    /// The exit status, and what was found.
    fn doctor(&self) -> (i32, Vec<Value>) {
        let taken = self.taken.local_addr().unwrap();
        let mut command = self.darner(&["doctor", "--offline", "-o", "json"]);
        command.args(["--set", &format!("pieces.listen={taken}")]);
        command.args(["--set", "registry.listen=127.0.0.1:1"]);
        command.args(["--set", "admin.listen=192.0.2.1:7430"]);
        command
            .arg("--data-dir")
            .arg(self.path().join("var/lib/darner"));
        let output = command.output().unwrap();
        let told: Value = serde_json::from_slice(&output.stdout)
            .unwrap_or_else(|error| panic!("{error}: {output:?}"));
        let findings = told["findings"].as_array().unwrap().clone();
        (output.status.code().unwrap(), findings)
    }
}

fn find<'a>(findings: &'a [Value], check: &str, subject: &str) -> &'a Value {
    let fits = |finding: &&Value| {
        finding["check"] == check && finding["subject"].as_str().unwrap().contains(subject)
    };
    let found = findings.iter().find(fits);
    found.unwrap_or_else(|| panic!("no {check} {subject} in {findings:#?}"))
}

#[test]
fn what_is_broken_is_named_with_its_cause_and_what_to_do() {
    let host = Host::new(&[(
        "etc/containerd/config.toml",
        "version = 2\n[plugins.\"io.containerd.grpc.v1.cri\".registry.mirrors.\"docker.io\"]\nendpoint = [\"https://a\"]\n",
    )]);
    let (status, findings) = host.doctor();
    assert_eq!(status, 1);
    for (check, subject, word) in [
        ("mirror", "127.0.0.1:1", "does not answer"),
        ("port", "pieces.listen", "another process"),
        ("port", "admin.listen", "cannot be listened on"),
        ("runtime", "containerd", "registry.mirrors"),
    ] {
        let finding = find(&findings, check, subject);
        assert_eq!(finding["level"], "failure", "{finding}");
        assert!(
            finding["found"].as_str().unwrap().contains(word),
            "{finding}"
        );
        assert!(!finding["fix"].as_str().unwrap().is_empty(), "{finding}");
    }
    assert_eq!(find(&findings, "upstream", "")["level"], "note");
    find(&findings, "disk", "darner");
    let entries = fs::read_dir(host.path().join("var/lib")).unwrap().count();
    assert_eq!(entries, 0, "nothing was changed");
}

#[test]
fn a_runtime_is_followed_from_not_set_up_to_changed_since() {
    let host = Host::new(&[("etc/docker/daemon.json", "{}\n")]);
    let level = |word: &str| {
        let (_, findings) = host.doctor();
        let finding = find(&findings, "runtime", "Docker").clone();
        assert!(
            finding["found"].as_str().unwrap().contains(word),
            "{finding}"
        );
        finding["level"].as_str().unwrap().to_owned()
    };
    assert_eq!(level("does not pull through the mirror"), "warning");
    host.darner(&["setup", "--mirror", "http://127.0.0.1:2"])
        .assert()
        .success();
    assert_eq!(level("names the mirror http://127.0.0.1:2"), "warning");
    host.darner(&["setup", "--mirror", "http://127.0.0.1:1"])
        .assert()
        .success();
    assert_eq!(level("is set up"), "ok");
    fs::write(host.path().join("etc/docker/daemon.json"), "{}").unwrap();
    assert_eq!(level("was changed"), "warning");
}

#[test]
fn traps_in_host_files_are_named() {
    let host = Host::new(&[
        (
            "etc/containerd/config.toml",
            "version = 2\n[plugins.\"io.containerd.grpc.v1.cri\".registry]\nconfig_path = \"/srv/hosts\"\n",
        ),
        (
            "srv/hosts/ghcr.io/hosts.toml",
            "server = \"http://127.0.0.1:1\"\n",
        ),
        (
            "srv/hosts/quay.io/hosts.toml",
            "[host.\"http://127.0.0.1:1\"]\nskip_verify = true\n",
        ),
    ]);
    let (_, findings) = host.doctor();
    for (registry, word) in [("ghcr.io", "server"), ("quay.io", "TLS")] {
        let finding = find(&findings, "hosts.toml", registry);
        assert_eq!(finding["level"], "failure");
        assert!(
            finding["found"].as_str().unwrap().contains(word),
            "{finding}"
        );
    }
}
