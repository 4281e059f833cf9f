//! Wrong usage and settings: exit status 2, everything that is wrong on standard error, nothing on
//! standard output, nothing started.

#![allow(clippy::unwrap_used, reason = "a test stops at what it did not expect")]

use std::fs;
use std::path::Path;

use assert_cmd::Command;

/// The program, with nothing of its settings in the environment but what `state` is for.
fn darner(state: &Path) -> Command {
    let mut command = Command::new(assert_cmd::cargo::cargo_bin!("darner"));
    command.env_clear().env("XDG_STATE_HOME", state);
    command
}

#[test]
fn every_fault_is_named_with_its_place() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("cluster.toml");
    let text = "[registry]\nlisen = \"127.0.0.1:1\"\n\n[store]\ncapacity = \"lots\"\n";
    fs::write(&file, text).unwrap();
    let state = directory.path().join("state");
    let output = darner(&state)
        .args(["mirror", "--data-dir", "", "--config"])
        .arg(&file)
        .env("DARNER_PIECES__LISTEN", "nowhere")
        .assert()
        .code(2)
        .stdout("")
        .get_output()
        .clone();
    let errors = String::from_utf8(output.stderr).unwrap();
    let errors = errors.replace(&format!("{}/", directory.path().display()), "");
    let starts = [
        "cluster.toml: [identity] certificate: has nowhere to come from",
        "cluster.toml: [pieces] advertise: must be set",
        "cluster.toml:2: [registry] lisen: no such setting; did you mean [registry] listen?",
        "cluster.toml:5: [store] capacity: \"lots\" is not a size",
        "DARNER_PIECES__LISTEN: \"nowhere\" is not an IP address and port",
        "--data-dir: is empty",
    ];
    assert_eq!(errors.lines().count(), starts.len(), "{errors}");
    for (line, start) in errors.lines().zip(starts) {
        assert!(line.starts_with(start), "{line} is not {start}");
    }
    assert!(!state.exists());
}

#[test]
fn roles_refuse_to_talk_in_plain_text_unasked() {
    let state = tempfile::tempdir().unwrap();
    for role in ["scheduler", "mirror"] {
        let assert = darner(state.path())
            .args([role, "--set", "pieces.advertise=10.0.0.5:7421"])
            .assert()
            .code(2);
        let errors = String::from_utf8_lossy(&assert.get_output().stderr).into_owned();
        assert_eq!(errors.lines().count(), 1, "{errors}");
        assert!(
            errors.contains("insecure = true for plain text"),
            "{errors}"
        );
    }
}

#[test]
fn wrong_usage_is_status_2_and_help_is_not() {
    let state = tempfile::tempdir().unwrap();
    for wrong in [&[][..], &["fly"], &["up", "--fast"], &["up", "--set"]] {
        darner(state.path()).args(wrong).assert().code(2);
    }
    for right in ["--help", "--version"] {
        darner(state.path()).arg(right).assert().code(0).stderr("");
    }
}

#[test]
fn settings_are_checked_without_starting_anything() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("darner.toml");
    let data_dir = directory.path().join("data");
    let text = format!("data_dir = {data_dir:?}\nidentity.insecure = true\n");
    let check = |text: &str, role: &str| {
        fs::write(&file, text).unwrap();
        darner(directory.path())
            .args(["config", "check", role, "--config"])
            .arg(&file)
            .assert()
    };
    for role in ["up", "scheduler", "manager"] {
        check(&text, role).code(0).stderr("");
    }
    let refused = check(&text, "mirror").code(2).stdout("");
    let errors = String::from_utf8_lossy(&refused.get_output().stderr).into_owned();
    assert!(errors.contains("[pieces] advertise"), "{errors}");
    let refused = check(&format!("{text}registry.lisen = 1\n"), "up").code(2);
    let errors = String::from_utf8_lossy(&refused.get_output().stderr).into_owned();
    assert!(
        errors.contains("darner.toml:3: [registry] lisen"),
        "{errors}"
    );
    assert!(!data_dir.exists());
}
