//! The pages that come with the program say what it does: their settings are taken, their links lead
//! somewhere.

#![allow(clippy::unwrap_used, reason = "a test stops at what it did not expect")]

use std::fs;
use std::path::{Path, PathBuf};

use assert_cmd::Command;

fn workspace() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

fn is_picture(path: &Path) -> bool {
    path.extension().is_some_and(|end| end == "png")
}

/// README.md and everything in docs but pictures.
fn pages() -> Vec<PathBuf> {
    let mut pages = vec![workspace().join("README.md")];
    let mut directories = vec![workspace().join("docs")];
    while let Some(directory) = directories.pop() {
        for entry in fs::read_dir(directory).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                directories.push(path);
            } else if !is_picture(&path) {
                pages.push(path);
            }
        }
    }
    pages
}

/// As sites that show pages make it.
fn anchor(heading: &str) -> String {
    let kept = heading.trim_start_matches('#').trim().to_lowercase();
    let kept = kept.chars().filter_map(|char| match char {
        ' ' => Some('-'),
        '-' | '_' => Some(char),
        char => char.is_alphanumeric().then_some(char),
    });
    kept.collect()
}

#[test]
fn links_lead_to_files_and_headings_that_are_there() {
    let mut links = 0;
    for page in pages() {
        let text = fs::read_to_string(&page).unwrap();
        for after in text.split("](").skip(1) {
            let target = after.split(')').next().unwrap();
            if target.contains("://") {
                continue;
            }
            let (file, heading) = target.split_once('#').unwrap_or((target, ""));
            let file = match file {
                "" => page.clone(),
                file => page.parent().unwrap().join(file),
            };
            links += 1;
            if is_picture(&file) {
                assert!(file.is_file(), "{page:?}: {target}: no such picture");
                continue;
            }
            let there = fs::read_to_string(&file);
            let there = there.unwrap_or_else(|error| panic!("{page:?}: {target}: {error}"));
            let mut headings = there.lines().filter(|line| line.starts_with('#'));
            assert!(
                heading.is_empty() || headings.any(|line| anchor(line) == heading),
                "{page:?}: {target}: no such heading"
            );
        }
    }
    assert!(links > 5, "{links} links");
}

/// A block of settings begins with the name of its file, which is that of the command.
#[test]
fn settings_in_the_readme_are_taken() {
    let readme = fs::read_to_string(workspace().join("README.md")).unwrap();
    let directory = tempfile::tempdir().unwrap();
    let mut checked = Vec::new();
    for block in readme.split("```toml\n# ").skip(1) {
        let (name, rest) = block.split_once(".toml\n").unwrap();
        let file = directory.path().join("darner.toml");
        fs::write(&file, rest.split("```").next().unwrap()).unwrap();
        Command::new(assert_cmd::cargo::cargo_bin!("darner"))
            .env_clear()
            .args(["config", "check", name, "--config"])
            .arg(&file)
            .assert()
            .code(0);
        checked.push(name);
    }
    assert_eq!(checked, ["manager", "mirror", "scheduler"]);
}
