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

/// What is there, and what is said of it: the check, a word of its subject, its level, a word of it.
type Trap = (&'static [(&'static str, &'static str)], [&'static str; 4]);

const ONE: &str = "version = 3\n[plugins.'io.containerd.cri.v1.images'.registry]\nconfig_path = \"/etc/containerd/certs.d\"\n";
const TWO: &str = "version = 3\n[plugins.'io.containerd.cri.v1.images'.registry]\nconfig_path = \"/etc/containerd/certs.d:/etc/docker/certs.d\"\n";
const DROP_IN: &str = "[Service]\nEnvironment=\"HTTP_PROXY=http://u:canary@proxy.test:3128\" 'NO_PROXY=a.test,10.0.0.0/8'\n";
const FAR: &str = "[host.\"http://192.0.2.9:7420\"]\n";

const TRAPS: &[Trap] = &[
    (
        &[("etc/containerd/config.toml", TWO)],
        ["runtime", "containerd", "note", "several directories"],
    ),
    (
        &[("etc/containerd/config.toml", ONE)],
        ["runtime", "containerd", "note", "--hosts-dir"],
    ),
    (
        &[(
            "etc/containerd/config.toml",
            "disabled_plugins = [\"cri\"]\n",
        )],
        ["runtime", "containerd", "note", "switched off"],
    ),
    (
        &[
            ("etc/containerd/config.toml", ONE),
            ("etc/containerd/certs.d/quay.io/hosts.toml", "# none\n"),
        ],
        ["runtime", "containerd", "note", "directory of their own"],
    ),
    (
        &[("etc/containerd/config.toml", "version = 7\n")],
        ["runtime", "containerd", "failure", "version 7"],
    ),
    (
        &[(
            "etc/containers/registries.conf",
            "[[registry]]\nprefix = \"quay.io\"\nlocation = \"127.0.0.1:1/quay.io\"\n",
        )],
        ["fall-back", "quay.io", "failure", "nobody else is asked"],
    ),
    (
        &[(
            "etc/containers/registries.conf",
            "[[registry]]\nlocation = \"quay.io\"\nblocked = true\n[[registry.mirror]]\nlocation = \"127.0.0.1:1/quay.io\"\n",
        )],
        ["fall-back", "quay.io", "failure", "blocked"],
    ),
    (
        &[
            (
                "etc/containers/registries.conf.d/1.conf",
                "[[registry]]\nlocation = \"quay.io\"\n[[registry.mirror]]\nlocation = \"127.0.0.1:1/quay.io\"\n",
            ),
            ("etc/containers/registries.conf", ""),
        ],
        ["fall-back", "Podman", "ok", "go on to the registry"],
    ),
    (
        &[
            (
                "etc/rancher/k3s/registries.yaml",
                "mirrors:\n  \"*\":\n    endpoint: [\"http://127.0.0.1:1\"]\n",
            ),
            (
                "etc/rancher/k3s/config.yaml.d/10.yaml",
                "disable-default-registry-endpoint: true\n",
            ),
        ],
        [
            "fall-back",
            "config.yaml.d/10.yaml",
            "failure",
            "no registry is asked",
        ],
    ),
    (
        &[
            (
                "etc/docker/daemon.json",
                "{\"registry-mirrors\": [\"http://127.0.0.1:1\"]}",
            ),
            ("etc/systemd/system/docker.service.d/proxy.conf", DROP_IN),
        ],
        ["proxy", "Docker", "ok", "not asked for the mirror"],
    ),
    (
        &[(
            "etc/docker/daemon.json",
            "{\"registry-mirrors\": [\"http://127.0.0.1:1\"]}",
        )],
        ["fall-back", "Docker", "ok", "goes on to Docker Hub"],
    ),
    (
        &[
            ("etc/containerd/config.toml", ONE),
            ("etc/containerd/certs.d/_default/hosts.toml", FAR),
        ],
        ["runtime", "containerd", "failure", "not written by darner"],
    ),
];

#[test]
fn every_trap_is_named_with_what_to_do() {
    for (files, [check, subject, level, word]) in TRAPS {
        let host = Host::new(files);
        let (_, findings) = host.doctor();
        let fits = findings.iter().any(|finding| {
            let has = |key: &str, word: &str| finding[key].as_str().unwrap_or("").contains(word);
            has("check", check)
                && has("subject", subject)
                && has("level", level)
                && has("found", word)
        });
        assert!(fits, "no {check} {subject} {level} {word} in {findings:#?}");
        assert!(
            !format!("{findings:?}").contains("canary"),
            "a secret is told"
        );
    }
}

#[test]
fn a_mirror_elsewhere_is_warned_of_and_must_not_be_asked_by_way_of_a_proxy() {
    let unit = "[Service]\nEnvironmentFile=-/etc/default/docker\n";
    let host = Host::new(&[
        ("etc/docker/daemon.json", "{}\n"),
        ("lib/systemd/system/docker.service", unit),
        (
            "etc/default/docker",
            "# of the house\nhttp_proxy=\"http://u:canary@proxy.test:3128\"\n",
        ),
    ]);
    let far = [
        "setup",
        "docker",
        "--mirror",
        "http://192.0.2.9:7420",
        "--no-proof",
    ];
    host.darner(&far).assert().success();
    let (_, findings) = host.doctor();
    let proxied = find(&findings, "proxy", "Docker");
    assert_eq!(proxied["level"], "failure");
    let found = proxied["found"].as_str().unwrap();
    assert!(found.contains("HTTP_PROXY in docker.service"), "{found}");
    assert!(proxied["fix"].as_str().unwrap().contains("192.0.2.9"));
    assert!(
        !format!("{findings:?}").contains("canary"),
        "a secret is told"
    );
    let far = find(&findings, "fall-back", "Docker");
    assert_eq!(far["level"], "warning");
    let defaults = host.path().join("etc/default/docker");
    fs::write(defaults, "http_proxy=http://p.test\nno_proxy=192.0.2.9\n").unwrap();
    let (_, findings) = host.doctor();
    assert_eq!(find(&findings, "proxy", "Docker")["level"], "ok");
}

#[test]
fn whom_runtimes_take_for_the_mirror_is_followed() {
    let host = Host::new(&[("etc/docker/daemon.json", "{}\n")]);
    let mirror = [
        "setup",
        "docker",
        "--mirror",
        "http://127.0.0.1:1",
        "--no-proof",
    ];
    host.darner(&mirror).assert().success();
    let (_, findings) = host.doctor();
    let plain = find(&findings, "tls", "");
    assert_eq!(plain["level"], "note");
    assert!(plain["found"].as_str().unwrap().contains("plain HTTP"));
    let certificate = nobodys_certificate();
    let ca = host.path().join("ca.pem");
    fs::write(&ca, certificate).unwrap();
    let mut secured = host.darner(&mirror);
    secured.arg("--tls").arg("--ca").arg(&ca).assert().success();
    let (_, findings) = host.doctor();
    let secured = find(&findings, "tls", "");
    assert_eq!(secured["level"], "failure");
    assert!(
        secured["found"]
            .as_str()
            .unwrap()
            .contains("settings have none")
    );
}

/// Of nobody: made for this test, and long over.
fn nobodys_certificate() -> &'static str {
    include_str!("doctor/nobody.pem")
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
