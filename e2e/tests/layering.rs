//! The rules of the layout: which crate may use which, which modules may not know each other, and
//! who owns each outside library.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, ensure};
use darner_e2e::place;

/// What each member may use of the others, other than for its own tests.
const CRATES: [(&str, &[&str]); 8] = [
    // For tests of the others.
    ("mutate", &[]),
    ("proto", &[]),
    ("service", &["darner-proto"]),
    ("mirror", &["darner-proto", "darner-service"]),
    ("scheduler", &["darner-proto", "darner-service"]),
    ("manager", &["darner-proto", "darner-service"]),
    (
        "cli",
        &[
            "darner-proto",
            "darner-service",
            "darner-mirror",
            "darner-scheduler",
            "darner-manager",
        ],
    ),
    (
        "e2e",
        &[
            "darner-proto",
            "darner-service",
            "darner-mirror",
            "darner-scheduler",
            "darner-manager",
        ],
    ),
];

/// Modules of the mirror that only `task` and what is above it joins.
const STRANGERS: [&str; 3] = ["store", "upstream", "swarm"];

/// Outside libraries that have owners, by path from the workspace's root. The rig and the demo talk
/// to the product from outside and are left out.
const OWNERS: [(&str, &[&str]); 8] = [
    ("maud", &["manager/src/console"]),
    (
        "axum",
        &[
            "mirror/src/registry",
            "mirror/src/pieces",
            "mirror/src/files",
            "mirror/src/proxy",
            "manager/src/api",
            "manager/src/console",
            "service/src/admin",
            "service/src/listener",
        ],
    ),
    (
        "tonic",
        &[
            "proto/",
            "service/src/directory",
            "service/src/identity",
            "service/src/listener",
            "mirror/src/swarm/link",
            "scheduler/src/driver",
            "scheduler/src/server",
            "manager/src/authority/rpc",
            "manager/src/rpc",
            "manager/src/server",
            "manager/src/swarms",
        ],
    ),
    ("foca", &["service/src/gossip"]),
    (
        "reqwest",
        &[
            "mirror/src/upstream",
            "service/src/gossip/endpoint_slices",
            "manager/src/oidc",
        ],
    ),
    ("redb", &["mirror/src/store"]),
    (
        "sqlx",
        &[
            "manager/src/database",
            "manager/src/users",
            "manager/src/jobs",
            "manager/src/removals",
            "manager/src/hooks",
            "manager/src/clusters",
        ],
    ),
    ("clap", &["cli/src"]),
];

/// Parts that decide and do nothing else.
const PURE: [&str; 12] = [
    "proto/src",
    "scheduler/src/swarm",
    "mirror/src/task/state",
    "mirror/src/swarm/keepers",
    "service/src/gossip/members",
    "manager/src/membership",
    "manager/src/clusters/rules",
    "manager/src/clusters/set",
    "mirror/src/rules/merge",
    "manager/src/jobs/board",
    "manager/src/jobs/job",
    "manager/src/images/catalog",
];

/// What such a part cannot have: waiting, a clock, the file system, the environment.
const IMPURE: [&str; 6] = [
    "tokio::",
    "Instant::now",
    "SystemTime::now",
    "std::fs",
    "std::env",
    "std::thread",
];

#[test]
fn crates_depend_only_downwards() -> Result<()> {
    let root: toml::Table = read(&place::workspace().join("Cargo.toml"))?.parse()?;
    let members = root["workspace"]["members"].as_array().context("members")?;
    let members: BTreeSet<_> = members
        .iter()
        .filter_map(|member| member.as_str())
        .collect();
    let ruled: BTreeSet<_> = CRATES.iter().map(|(name, _)| *name).collect();
    ensure!(members == ruled, "members {members:?}, rules for {ruled:?}");
    for (member, allowed) in CRATES {
        let manifest = place::workspace().join(member).join("Cargo.toml");
        let manifest: toml::Table = read(&manifest)?.parse()?;
        for table in ["dependencies", "build-dependencies"] {
            let Some(table) = manifest.get(table).and_then(toml::Value::as_table) else {
                continue;
            };
            for used in table.keys().filter(|name| name.starts_with("darner")) {
                ensure!(
                    allowed.contains(&used.as_str()),
                    "{member} depends on {used}"
                );
            }
        }
    }
    Ok(())
}

#[test]
fn store_upstream_and_swarm_do_not_know_each_other() -> Result<()> {
    let mut seen = BTreeSet::new();
    for (path, text) in sources(&["mirror"])? {
        let Some(module) = STRANGERS
            .iter()
            .find(|module| is_in(&path, "mirror/src", module))
        else {
            continue;
        };
        seen.insert(*module);
        for path_in_crate in crate_paths(&text) {
            let first = path_in_crate.split("::").next().unwrap_or_default();
            let fine = first == *module || !joins(first);
            ensure!(fine, "{} uses crate::{path_in_crate}", path.display());
        }
    }
    ensure!(seen.len() == STRANGERS.len(), "only {seen:?} were found");
    Ok(())
}

/// Modules of the mirror that are not for `store`, `upstream` and `swarm` to use.
fn joins(module: &str) -> bool {
    STRANGERS.contains(&module)
        || ["task", "resolve", "registry", "pieces", "server"].contains(&module)
}

#[test]
fn every_outside_library_has_its_owner() -> Result<()> {
    let sources = sources(&["proto", "service", "mirror", "scheduler", "manager", "cli"])?;
    for (library, owners) in OWNERS {
        let mut used = false;
        for (path, text) in &sources {
            if path.starts_with("cli") && library != "clap" {
                continue;
            }
            if !names(text, library) {
                continue;
            }
            used = true;
            let path = path.to_string_lossy();
            let owned = owners.iter().any(|owner| path.starts_with(owner));
            ensure!(owned, "{path} uses {library}, which belongs to {owners:?}");
        }
        ensure!(used, "nobody uses {library}: its rule is out of date");
    }
    Ok(())
}

#[test]
fn what_decides_does_not_wait_and_has_no_clock() -> Result<()> {
    let mut seen = BTreeSet::new();
    for (path, text) in sources(&["proto", "service", "scheduler", "mirror", "manager"])? {
        let path = path.to_string_lossy();
        let Some(part) = PURE.iter().find(|part| path.starts_with(**part)) else {
            continue;
        };
        seen.insert(*part);
        for word in IMPURE {
            let used = code_lines(&text).any(|line| line.contains(word));
            ensure!(!used, "{path} uses {word}");
        }
    }
    ensure!(seen.len() == PURE.len(), "only {seen:?} were found");
    Ok(())
}

#[test]
fn the_scanner_sees_what_it_is_meant_to_see() {
    let text = "use crate::{store::Store, task};\n// crate::upstream\nfn f() { crate::swarm::g() }";
    let found: Vec<_> = crate_paths(text).collect();
    assert_eq!(found, ["store::Store", "task", "swarm::g"]);
    assert!(names("use axum::Router;", "axum"));
    assert!(names("let x: axum::Body;", "axum"));
    assert!(!names("// axum::Body\nuse axum_extra::X;", "axum"));
    assert!(is_in(
        Path::new("mirror/src/store/index.rs"),
        "mirror/src",
        "store"
    ));
    assert!(is_in(
        Path::new("mirror/src/store.rs"),
        "mirror/src",
        "store"
    ));
    assert!(!is_in(
        Path::new("mirror/src/storage.rs"),
        "mirror/src",
        "store"
    ));
}

fn read(path: &Path) -> Result<String> {
    fs::read_to_string(path).with_context(|| path.display().to_string())
}

/// Every Rust file of these members, by its path from the workspace's root. Tests may use anything.
fn sources(members: &[&str]) -> Result<Vec<(PathBuf, String)>> {
    let mut found = Vec::new();
    for member in members {
        walk(Path::new(member), &mut found)?;
    }
    ensure!(found.len() > 10, "no sources in {members:?}");
    Ok(found)
}

fn walk(directory: &Path, found: &mut Vec<(PathBuf, String)>) -> Result<()> {
    let here = place::workspace().join(directory);
    for entry in fs::read_dir(&here).with_context(|| here.display().to_string())? {
        let entry = entry?;
        let path = directory.join(entry.file_name());
        let name = entry.file_name().to_string_lossy().into_owned();
        if entry.file_type()?.is_dir() {
            if !["tests", "benches", "target"].contains(&name.as_str()) {
                walk(&path, found)?;
            }
        } else if name.ends_with(".rs") && name != "tests.rs" {
            let text = read(&entry.path())?;
            found.push((path, without_tests(&text).to_owned()));
        }
    }
    Ok(())
}

fn without_tests(text: &str) -> &str {
    let end = text.find("#[cfg(test)]\nmod tests {");
    &text[..end.unwrap_or(text.len())]
}

fn is_in(path: &Path, directory: &str, module: &str) -> bool {
    let Ok(rest) = path.strip_prefix(directory) else {
        return false;
    };
    let first = rest.components().next();
    let first = first.map(|part| part.as_os_str().to_string_lossy().into_owned());
    first.is_some_and(|first| first == *module || first == format!("{module}.rs"))
}

fn code_lines(text: &str) -> impl Iterator<Item = &str> {
    text.lines()
        .map(|line| line.split("//").next().unwrap_or_default())
}

/// What follows `crate::` in the code, each part of a group by itself.
fn crate_paths(text: &str) -> impl Iterator<Item = String> {
    let code: String = code_lines(text).collect::<Vec<_>>().join("\n");
    let mut paths = Vec::new();
    for rest in code.split("crate::").skip(1) {
        match rest.strip_prefix('{') {
            Some(group) => {
                let group = group.split('}').next().unwrap_or_default();
                paths.extend(group.split(',').map(|part| part.trim().to_owned()));
            }
            None => paths.push(rest.chars().take_while(|c| is_path(*c)).collect()),
        }
    }
    paths.into_iter().filter(|path| !path.is_empty())
}

fn is_path(character: char) -> bool {
    character.is_alphanumeric() || matches!(character, '_' | ':')
}

/// Whether the code names the library itself, not one whose name ends or begins alike.
fn names(text: &str, library: &str) -> bool {
    let path = format!("{library}::");
    let whole = |line: &str, at: usize| {
        let before = line[..at].chars().next_back();
        before.is_none_or(|before| !before.is_alphanumeric() && before != '_' && before != ':')
    };
    code_lines(text).any(|line| line.match_indices(&path).any(|(at, _)| whole(line, at)))
}
