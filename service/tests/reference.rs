//! `docs/reference/settings.md` is made from the comments in `service/src/settings.rs`. This holds
//! the page to them, and the keys on it to what the reader of settings takes. To make it anew:
//! `DARNER_WRITE_REFERENCE=1 cargo test -p darner-service --test reference`.

use std::fmt::Write as _;
use std::path::Path;

use darner_service::config::{Command, Flag, Machine, Sources, load};

const SETTINGS: &str = include_str!("../src/settings.rs");
const PAGE: &str = "../docs/reference/settings.md";
/// What the reader of settings says about a key it does not know.
const UNKNOWN: &str = "no such setting";
const HEAD: &str = "# Settings

Made from `service/src/settings.rs`; do not edit.

Settings come from defaults, then the TOML file given with `--config`, then `DARNER_SECTION__KEY`
variables, then flags (`--set section.key=value`); what comes later wins. One file can serve every
role. A key that does not exist, a value that does not fit and a file that cannot be read keep the
process from starting (exit status 2), all of them named at once.
";

struct Key {
    name: String,
    meaning: String,
}

struct Section {
    /// As in `[[upstream]]`; empty for keys outside any.
    title: String,
    keys: Vec<Key>,
}

impl Section {
    fn path(&self, key: &Key) -> String {
        let section = self.title.trim_matches(['[', ']']);
        if section.is_empty() {
            key.name.clone()
        } else {
            format!("{section}.{}", key.name)
        }
    }
}

/// The structs that stand for sections, in order. `Credentials` are two keys of their upstream, and
/// `IdentityFiles` keys of theirs.
fn sections() -> Vec<Section> {
    let mut sections: Vec<Section> = vec![Section {
        title: String::new(),
        keys: Vec::new(),
    }];
    let (mut comment, mut reading) = (Vec::new(), false);
    for line in SETTINGS.lines().map(str::trim) {
        if let Some(text) = line.strip_prefix("///") {
            comment.push(text.trim().to_owned());
            continue;
        }
        if line.starts_with("#[") {
            continue;
        }
        let said = std::mem::take(&mut comment).join(" ");
        if let Some(rest) = line.strip_prefix("pub struct ") {
            let name = rest.trim_end_matches(" {");
            let title = said
                .strip_prefix('`')
                .and_then(|rest| Some(rest.split_once('`')?.0.to_owned()));
            let within = ["Settings", "Credentials", "IdentityFiles"].contains(&name);
            reading = within || title.is_some();
            if let Some(title) = title {
                sections.push(Section {
                    title,
                    keys: Vec::new(),
                });
            }
        } else if let Some(field) = line.strip_prefix("pub ").filter(|_| reading) {
            let Some((name, kind)) = field.trim_end_matches(',').split_once(": ") else {
                continue;
            };
            let is_section = sections.len() == 1 && name != "data_dir";
            let is_within = ["Option<Credentials>", "Option<IdentityFiles>"].contains(&kind);
            if !is_section && !is_within {
                let name = match kind {
                    "Option<Secret>" => format!("{name}_file"),
                    _ => name.to_owned(),
                };
                let last = sections.last_mut().expect("there is one");
                // The authorities are told of where they are of use without the other files too.
                if last.keys.iter().all(|key| key.name != name) {
                    last.keys.push(Key {
                        name,
                        meaning: plain(&said),
                    });
                }
            }
        } else if line == "}" {
            reading = false;
        }
    }
    sections
}

/// Links of the compiler's documentation mean nothing on a page.
fn plain(text: &str) -> String {
    text.replace("[`Role::Mirror`] or [`Role::Seed`]", "`mirror` or `seed`")
        .replace("[`", "`")
        .replace("`]", "`")
        .replace('|', "\\|")
}

fn page() -> String {
    let mut page = HEAD.to_owned();
    for section in sections() {
        if section.title.is_empty() {
            page.push_str("\n## Outside any section\n\n");
        } else {
            let _ = write!(page, "\n## `{}`\n\n", section.title);
        }
        page.push_str("| key | meaning |\n|---|---|\n");
        for key in &section.keys {
            let _ = writeln!(page, "| `{}` | {} |", key.name, key.meaning);
        }
    }
    page
}

#[test]
fn the_page_is_what_the_comments_say() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(PAGE);
    let page = page();
    if std::env::var_os("DARNER_WRITE_REFERENCE").is_some() {
        std::fs::write(&path, &page).expect("written");
    }
    let committed = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(
        committed == page,
        "{PAGE} is out of date: see the top of this test's file"
    );
}

/// What is wrong with `path = 1979-05-27`: no setting takes a date, so that of a key that is known
/// the value is complained of.
fn faults_of(path: &str) -> String {
    let sources = Sources {
        flags: vec![Flag::set(&format!("{path}=1979-05-27"))],
        machine: Machine {
            host_name: Some("here".to_owned()),
            root: true,
        },
        ..Sources::default()
    };
    match load(Command::Up, &sources) {
        Ok(_) => String::new(),
        Err(error) => error.to_string(),
    }
}

#[test]
fn every_key_on_the_page_is_one_that_is_read() {
    assert!(faults_of("registry.nonsense").contains(UNKNOWN));
    for section in sections() {
        assert!(!section.keys.is_empty(), "{} has no keys", section.title);
        if section.title.starts_with("[[") {
            continue;
        }
        for key in &section.keys {
            let path = section.path(key);
            let faults = faults_of(&path);
            assert!(!faults.contains(UNKNOWN), "{path}: {faults}");
        }
    }
}

#[test]
fn every_key_of_an_upstream_is_read() {
    every_key_of_a_list_is_read("[[upstream]]");
}

#[test]
fn every_key_of_a_route_is_read() {
    every_key_of_a_list_is_read("[[route]]");
}

fn every_key_of_a_list_is_read(title: &str) {
    let sections = sections();
    let list = sections.iter().find(|section| section.title == title);
    let keys = &list.expect("documented").keys;
    assert!(keys.len() > 5);
    let table: Vec<_> = keys
        .iter()
        .map(|key| format!("{} = 1979-05-27", key.name))
        .collect();
    let directory = tempfile::tempdir().expect("a directory");
    let file = directory.path().join("darner.toml");
    std::fs::write(&file, format!("{title}\n{}\n", table.join("\n"))).expect("written");
    let sources = Sources {
        file: Some(file),
        ..Sources::default()
    };
    let faults = load(Command::Up, &sources).expect_err("dates").to_string();
    assert!(!faults.contains(UNKNOWN), "{faults}");
}
