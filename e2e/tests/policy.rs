//! Holds `deny.toml` against what Cargo.lock brings in: licences, banned crates, where they come
//! from. Needs nothing but cargo.

use std::process::Command;

use darner_e2e::place::workspace as root;

fn policy() -> toml::Table {
    let text = std::fs::read_to_string(root().join("deny.toml")).expect("deny.toml");
    text.parse().expect("deny.toml is TOML")
}

struct Package {
    name: String,
    version: Vec<u64>,
    licence: String,
    /// Where it comes from, as cargo prints it: nothing for the registry.
    origin: Option<String>,
}

/// Everything that is built for this machine, tests included. (The lock file alone also names what
/// no feature of ours turns on.)
fn packages() -> Vec<Package> {
    let output = Command::new(env!("CARGO"))
        .args([
            "tree",
            "--workspace",
            "--locked",
            "--edges",
            "normal,build,dev",
        ])
        .args(["--prefix", "none", "--format", "{p}|{l}"])
        .current_dir(root())
        .output()
        .expect("cargo runs");
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{errors}");
    let text = String::from_utf8(output.stdout).expect("UTF-8");
    let packages: Vec<_> = text.lines().filter_map(package).collect();
    assert!(packages.len() > 100, "only {} packages", packages.len());
    packages
}

/// `name v1.2.3 (origin)|licence (*)`, with origin and star where they apply.
fn package(line: &str) -> Option<Package> {
    let (package, licence) = line.split_once('|')?;
    let mut words = package.split_whitespace();
    let name = words.next()?.to_owned();
    let version = numbers(words.next()?.strip_prefix('v')?);
    let origin = words.find(|word| *word != "(proc-macro)");
    Some(Package {
        name,
        version,
        licence: licence.trim_end_matches(" (*)").to_owned(),
        origin: origin.map(str::to_owned),
    })
}

fn strings<'a>(table: &'a toml::Table, section: &str, key: &str) -> Vec<&'a str> {
    let list = table[section][key].as_array().expect("a list");
    list.iter()
        .map(|item| item.as_str().expect("a string"))
        .collect()
}

/// Whether an SPDX expression can be met with licences of `allowed`. `/` is how crates from before
/// SPDX wrote OR; AND binds more tightly than OR.
fn is_met(expression: &str, allowed: &[&str]) -> bool {
    let spaced = expression
        .replace('/', " OR ")
        .replace('(', " ( ")
        .replace(')', " ) ");
    let words: Vec<_> = spaced.split_whitespace().collect();
    let mut at = 0;
    let met = any_of(&words, &mut at, allowed);
    met && at == words.len()
}

fn any_of(words: &[&str], at: &mut usize, allowed: &[&str]) -> bool {
    let mut met = all_of(words, at, allowed);
    while words.get(*at) == Some(&"OR") {
        *at += 1;
        met |= all_of(words, at, allowed);
    }
    met
}

fn all_of(words: &[&str], at: &mut usize, allowed: &[&str]) -> bool {
    let mut met = one(words, at, allowed);
    while words.get(*at) == Some(&"AND") {
        *at += 1;
        met &= one(words, at, allowed);
    }
    met
}

fn one(words: &[&str], at: &mut usize, allowed: &[&str]) -> bool {
    if words.get(*at) == Some(&"(") {
        *at += 1;
        let met = any_of(words, at, allowed);
        *at += 1;
        return met;
    }
    let mut licence = words.get(*at).copied().unwrap_or_default().to_owned();
    *at += 1;
    if words.get(*at) == Some(&"WITH") {
        licence = format!("{licence} WITH {}", words.get(*at + 1).unwrap_or(&""));
        *at += 2;
    }
    allowed.contains(&licence.as_str())
}

#[test]
fn expressions_are_read_as_spdx_means_them() {
    let allowed = ["MIT", "ISC", "Apache-2.0 WITH LLVM-exception"];
    for met in [
        "MIT",
        "GPL-3.0 OR MIT",
        "GPL-3.0/MIT",
        "MIT AND ISC",
        "(GPL-3.0 OR MIT) AND ISC",
        "Apache-2.0 WITH LLVM-exception OR GPL-3.0",
    ] {
        assert!(is_met(met, &allowed), "{met}");
    }
    for unmet in [
        "",
        "GPL-3.0",
        "MIT AND GPL-3.0",
        "Apache-2.0",
        "(MIT OR ISC) AND GPL-3.0",
    ] {
        assert!(!is_met(unmet, &allowed), "{unmet}");
    }
}

#[test]
fn every_licence_is_one_we_may_ship() {
    let policy = policy();
    let allowed = strings(&policy, "licenses", "allow");
    let exceptions = policy["licenses"]["exceptions"].as_array().expect("a list");
    let excepted = |package: &Package| {
        let mut of_it = exceptions
            .iter()
            .filter(|exception| exception["crate"].as_str() == Some(&package.name));
        of_it.any(|exception| {
            let also = exception["allow"].as_array().expect("a list");
            let also: Vec<_> = also.iter().filter_map(toml::Value::as_str).collect();
            is_met(&package.licence, &also)
        })
    };
    let refused: Vec<_> = packages()
        .iter()
        .filter(|package| !is_met(&package.licence, &allowed) && !excepted(package))
        .map(|package| format!("{}: {}", package.name, package.licence))
        .collect();
    assert!(refused.is_empty(), "{refused:#?}");
}

#[test]
fn no_banned_crate_and_no_second_copy_of_a_big_one() {
    let policy = policy();
    let bans = policy["bans"]["deny"].as_array().expect("a list");
    let packages = packages();
    for ban in bans {
        let rule = ban["crate"].as_str().expect("a crate");
        let (name, below) = match rule.split_once(":<") {
            Some((name, version)) => (name, Some(numbers(version))),
            None => (rule, None),
        };
        for package in packages.iter().filter(|package| package.name == name) {
            let banned = below.as_ref().is_none_or(|below| package.version < *below);
            let (reason, found) = (&ban["reason"], &package.version);
            assert!(!banned, "{rule} is banned ({reason}), found {found:?}");
        }
    }
}

fn numbers(version: &str) -> Vec<u64> {
    let release = version.split(['-', '+']).next().unwrap_or_default();
    release
        .split('.')
        .map(|number| number.parse().expect("a number"))
        .collect()
}

#[test]
fn everything_comes_from_the_registry_or_from_here() {
    let root = format!("({}", root().display());
    for package in packages() {
        let known = package
            .origin
            .as_ref()
            .is_none_or(|origin| origin.starts_with(&root));
        assert!(known, "{} comes from {:?}", package.name, package.origin);
    }
}
