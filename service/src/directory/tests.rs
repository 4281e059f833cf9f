use std::fs;
use std::os::unix::fs::PermissionsExt as _;

use darner_proto::id::Role;
use darner_proto::rules::{LimitRules, Login, Rules, UpstreamRule};
use proptest::prelude::*;

use crate::identity::{Identity, IdentityMetrics};

use super::*;

fn urls(urls: &[&str]) -> Vec<String> {
    urls.iter().map(|url| (*url).to_owned()).collect()
}

fn ids(directory: &Directory) -> Vec<String> {
    let known = directory.watch().borrow().clone();
    known
        .schedulers
        .iter()
        .map(|entry| entry.id.to_string())
        .collect()
}

fn host(id: &str, role: Role) -> Host {
    Host {
        id: id.parse().expect("valid"),
        address: "127.0.0.1:7422".into(),
        role,
        labels: [("zone".to_owned(), "a".to_owned())].into(),
        signing_key: Some(darner_proto::id::SigningKey([7; 32])),
        upload_slots: 16,
    }
}

fn configuration(version: u64, schedulers: &[&str], seeds: &[&str]) -> Configuration {
    let hosts = |ids: &[&str], role| ids.iter().map(|id| host(id, role)).collect();
    Configuration {
        version,
        schedulers: hosts(schedulers, Role::Scheduler),
        seeds: hosts(seeds, Role::Seed),
        trust: Arc::default(),
        rules: Arc::default(),
    }
}

fn rules() -> Rules {
    Rules {
        upstreams: vec![UpstreamRule {
            registry: "registry.example".parse().expect("valid"),
            url: Some("https://registry.example".to_owned()),
            mirrors: vec!["https://near.example".to_owned()],
            ca: Some("-----BEGIN CERTIFICATE-----".to_owned()),
            tag_ttl: Some(std::time::Duration::ZERO),
            tag_stale: None,
            max_connections: Some(3),
            login: Some(Login {
                username: "ann".to_owned(),
                password: "canary".to_owned(),
            }),
        }],
        limits: LimitRules {
            upload: Some(7),
            ..LimitRules::default()
        },
        blocked: vec!["docker.io/evil/*".parse().expect("valid")],
    }
}

#[test]
fn nodes_with_the_same_list_agree_however_it_is_written() {
    let one = Directory::fixed(&urls(&["http://10.0.0.3:7422", "http://S.example:7422/"]));
    let other = Directory::fixed(&urls(&[
        "http://s.example:7422",
        "http://10.0.0.3:7422/",
        "http://10.0.0.3:7422",
    ]));
    assert_eq!(ids(&one), ids(&other));
    assert_eq!(ids(&one), ["10.0.0.3_7422", "s.example_7422"]);
}

#[test]
fn schedulers_at_different_addresses_have_different_ids() {
    let list = urls(&[
        "http://10.0.0.3:7422",
        "http://10.0.0.3:7423",
        "http://[fd00::1]:7422",
        "http://[fd00::2]:7422",
        "http://example",
    ]);
    assert_eq!(ids(&Directory::fixed(&list)).len(), list.len());
}

#[test]
fn a_fixed_list_stays_open() {
    let directory = Directory::fixed(&urls(&["http://10.0.0.3:7422"]));
    let known = directory.watch();
    assert!(!known.has_changed().expect("open"));
}

#[tokio::test]
async fn an_address_that_cannot_work_is_refused_at_once() {
    let dir = tempfile::tempdir().expect("a directory");
    let managed = |url: &str| {
        let host = host("n", Role::Mirror);
        Directory::managed(
            url,
            host,
            dir.path(),
            &Identity::insecure(&IdentityMetrics::default()),
            &Shutdown::default(),
        )
        .err()
    };
    // The last one is encrypted, and this side talks in plain text.
    for url in [
        "10.0.0.1:7423",
        "ftp://m",
        "http://",
        "unix:/m.sock",
        "https://m:1",
    ] {
        let refused = managed(url);
        assert!(
            matches!(refused, Some(DirectoryError::Address { .. })),
            "{url}: {refused:?}"
        );
    }
}

#[test]
fn the_last_good_answer_is_kept_for_its_manager_only() {
    let dir = tempfile::tempdir().expect("a directory");
    let mut known = configuration(9, &["s1", "s2"], &["seed"]);
    known.rules = Arc::new(rules());
    let (file, nothing) = LastGood::open(dir.path(), Role::Mirror, "http://m:1").expect("opened");
    assert_eq!(nothing, Configuration::default());
    file.write(&known).expect("written");
    let mode = fs::metadata(file.path())
        .expect("there")
        .permissions()
        .mode();
    assert_eq!(mode & 0o777, 0o600);

    let (_, again) = LastGood::open(dir.path(), Role::Mirror, "http://m:1").expect("opened");
    let text = fs::read_to_string(file.path()).expect("there");
    assert!(!text.contains("canary"), "passwords stay in memory");
    known.rules = Arc::new(rules().without_logins());
    assert_eq!(again, known);
    let (_, other) = LastGood::open(dir.path(), Role::Mirror, "http://other:1").expect("opened");
    assert_eq!(other, Configuration::default());
}

#[test]
fn a_damaged_answer_is_done_without_and_a_later_format_is_left_alone() {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("membership-mirror.json");
    for damaged in ["", "{", "[]", "{\"format\":1}", "\u{0}\u{0}"] {
        fs::write(&path, damaged).expect("written");
        let (_, known) = LastGood::open(dir.path(), Role::Mirror, "http://m:1").expect("opened");
        assert_eq!(known, Configuration::default(), "{damaged:?}");
    }
    let later = "{\"format\":2,\"members\":\"elsewhere\"}";
    fs::write(&path, later).expect("written");
    let refused = LastGood::open(dir.path(), Role::Mirror, "http://m:1").expect_err("refused");
    assert!(matches!(
        refused,
        DirectoryError::NewerFormat { found: 2, .. }
    ));
    assert_eq!(fs::read_to_string(&path).expect("there"), later);
}

#[test]
fn known_schedulers_stay_until_others_are_named() {
    let known = configuration(5, &["s1"], &["seed"]);
    let kept = successor(&known, configuration(6, &[], &[]), false).expect("newer");
    assert_eq!(kept.version, 6);
    assert_eq!(kept.schedulers, known.schedulers);
    assert!(kept.seeds.is_empty());
    let replaced = successor(&kept, configuration(7, &["s2"], &[]), false).expect("newer");
    assert_eq!(replaced.schedulers, [host("s2", Role::Scheduler)]);
}

#[test]
fn what_was_read_from_disk_is_made_whole_by_the_same_version() {
    let mut read = configuration(5, &["s1"], &["seed"]);
    read.rules = Arc::new(rules().without_logins());
    let mut whole = read.clone();
    whole.rules = Arc::new(rules());
    assert_eq!(successor(&read, whole.clone(), false), None);
    assert_eq!(successor(&read, whole.clone(), true), Some(whole));
    let older = configuration(4, &["s2"], &[]);
    assert_eq!(successor(&read, older, true), None);
}

proptest! {
    #[test]
    fn versions_only_grow_and_schedulers_are_never_lost(
        answers in proptest::collection::vec((0u64..20, 0usize..3), 1..40)
    ) {
        let names = ["s1", "s2", "s3"];
        let mut held = Configuration::default();
        for (version, count) in answers {
            let before = held.clone();
            if let Some(next) = successor(&held, configuration(version, &names[..count], &[]), false) {
                held = next;
                prop_assert!(held.version > before.version);
            }
            prop_assert!(held.version >= before.version);
            prop_assert!(before.schedulers.is_empty() || !held.schedulers.is_empty());
        }
    }
}
