//! Files as people leave them, made up at random: what was theirs stays, line by line.

use proptest::collection::vec;
use proptest::prelude::*;
use serde_json::Value;

use super::{hosts, json, toml, yaml};

const MIRROR: &str = "http://127.0.0.1:7420";

/// Whether all lines of `text` are in `edited`, in their order.
fn keeps_lines(text: &str, edited: &str) -> bool {
    let mut lines = edited.lines();
    text.lines().all(|line| lines.any(|there| there == line))
}

/// What stands between things that mean something.
fn filler() -> impl Strategy<Value = String> {
    let line = prop_oneof![
        Just(String::new()),
        Just("   ".to_owned()),
        "# [a-z =\\[\\]\"{}:]{0,20}",
        "  # [a-z]{0,8}",
    ];
    vec(line, 0..3).prop_map(|lines| lines.iter().map(|line| format!("{line}\n")).collect())
}

fn spaces() -> impl Strategy<Value = String> {
    "[ \\t\\n]{0,3}"
}

/// An object of Docker's, in whatever layout.
fn daemon() -> impl Strategy<Value = String> {
    let member = prop_oneof![
        "[a-z]{1,6}".prop_map(|name| format!("\"x-{name}\"")),
        Just("\"\\\"odd, {name}\"".to_owned()),
    ];
    let value = prop_oneof![
        Just("true".to_owned()),
        Just("{\"a\": [1,  2]}".to_owned()),
        Just("\"text, with } and ]\"".to_owned()),
        Just("[ ]".to_owned()),
    ];
    let ours = prop_oneof![
        Just(None),
        Just(Some("[]".to_owned())),
        Just(Some("[ \"https://a.example\" ]".to_owned())),
        Just(Some(
            "[\n  \"https://a.example\",\n  \"https://b.example/\"\n]".to_owned()
        )),
    ];
    (
        vec((member, value, spaces()), 0..5),
        ours,
        spaces(),
        0..5usize,
    )
        .prop_map(|(members, ours, gap, at)| {
            let mut parts: Vec<String> = Vec::new();
            for (number, (name, value, gap)) in members.into_iter().enumerate() {
                // No name twice.
                let name = name.replacen('"', &format!("\"{number}"), 1);
                parts.push(format!("{gap}{name}{gap}:{gap}{value}"));
            }
            if let Some(list) = ours {
                let at = at.min(parts.len());
                parts.insert(at, format!("{gap}\"registry-mirrors\":{gap}{list}"));
            }
            format!("{gap}{{{}{gap}}}{gap}", parts.join(","))
        })
}

/// containerd's configuration of any form, with or without the key.
fn config() -> impl Strategy<Value = String> {
    let plugin = prop_oneof![
        Just((2, "io.containerd.grpc.v1.cri")),
        Just((3, "io.containerd.cri.v1.images")),
    ];
    let section = prop_oneof![
        Just(""),
        Just("[{plugin}]\n  snapshotter = \"overlayfs\" # theirs\n"),
        Just("[{plugin}.registry]\n  config_path = \"\"   # empty\n"),
        Just("[{plugin}.registry.configs.\"a.example\".tls]\n  ca_file = '/a' \n"),
    ];
    let other = prop_oneof![
        Just("[debug]\n  level = \"info\"\n"),
        Just("[plugins.\"io.containerd.gc.v1.scheduler\"]\n\tstartup_delay = \"1s\"\n"),
        Just(""),
    ];
    (plugin, section, other, vec(filler(), 4)).prop_map(
        |((version, plugin), section, other, gaps)| {
            let section = section.replace("{plugin}", &format!("plugins.\"{plugin}\""));
            format!(
                "{}version = {version}\n{}{other}{}{section}{}",
                gaps[0], gaps[1], gaps[2], gaps[3]
            )
        },
    )
}

fn host_file() -> impl Strategy<Value = String> {
    let server = prop_oneof![Just(""), Just("server = \"https://a.example\" # kept\n")];
    let host = ("[a-z]{1,5}", filler()).prop_map(|(name, gap)| {
        format!("{gap}[host.\"https://{name}.example\"]\n  capabilities = [\"pull\"]\n")
    });
    (filler(), server, vec(host, 0..4)).prop_filter_map("a host twice", |(gap, server, hosts)| {
        let mut names: Vec<_> = hosts
            .iter()
            .filter_map(|host| host.split('"').rev().nth(3))
            .collect();
        names.sort_unstable();
        let before = names.len();
        names.dedup();
        (names.len() == before).then(|| format!("{gap}{server}{}", hosts.concat()))
    })
}

fn registries() -> impl Strategy<Value = String> {
    let configs = prop_oneof![
        Just(""),
        Just("configs:\n  a.example:\n    auth: {username: u}\n")
    ];
    let mirrors = (0..3usize, 1..5usize, filler()).prop_map(|(entries, indent, gap)| {
        let pad = " ".repeat(indent);
        let entries: String = (0..entries)
            .map(|number| {
                format!("{pad}r{number}.example:\n{pad}{pad}endpoint: [\"https://b\"] # b\n")
            })
            .collect();
        format!("mirrors:\n{gap}{entries}")
    });
    let mirrors = prop_oneof![Just(String::new()), mirrors];
    (filler(), configs, mirrors, filler(), any::<bool>()).prop_map(
        |(gap, configs, mirrors, last, first)| match first {
            true => format!("{gap}{configs}{mirrors}{last}"),
            false => format!("{gap}{mirrors}{configs}{last}"),
        },
    )
}

proptest! {
    #[test]
    fn daemon_json(text in daemon()) {
        let before: Value = serde_json::from_str(&text).unwrap();
        let added = json::add(Some(&text), MIRROR).unwrap();
        let after: Value = serde_json::from_str(&added).unwrap();
        prop_assert_eq!(&after["registry-mirrors"][0], MIRROR);
        prop_assert_eq!(json::add(Some(&added), MIRROR).unwrap(), added.clone());
        let left = json::strip(&added, MIRROR).unwrap();
        let mut left: Value = left.map_or(serde_json::json!({}), |left| serde_json::from_str(&left).unwrap());
        let mut before = before;
        // An empty list and none are the same.
        for value in [&mut left, &mut before] {
            let object = value.as_object_mut().unwrap();
            if object.get("registry-mirrors").is_some_and(|list| list == &serde_json::json!([])) {
                object.remove("registry-mirrors");
            }
        }
        prop_assert_eq!(left, before);
    }

    #[test]
    fn config_toml(text in config()) {
        let edited = toml::set_config_path(&text).unwrap();
        let found = toml::Registries::read(&edited).unwrap();
        prop_assert_eq!(found.config_path.as_deref(), Some("/etc/containerd/certs.d"));
        let rest: String = text.lines().filter(|line| !line.contains("config_path")).map(|line| format!("{line}\n")).collect();
        prop_assert!(keeps_lines(&rest, &edited), "{}", edited);
        prop_assert!(edited.lines().count() <= text.lines().count() + 3, "{}", edited);
        if text.contains("config_path") {
            prop_assert!(edited.contains("# empty"), "{}", edited);
        }
    }

    #[test]
    fn hosts_toml(text in host_file()) {
        let adopted = hosts::adopt(&text, MIRROR, None).unwrap();
        prop_assert!(hosts::names(&adopted, MIRROR).unwrap());
        prop_assert!(keeps_lines(&text, &adopted), "{}", adopted);
        prop_assert_eq!(hosts::strip(&adopted).unwrap(), text);
    }

    #[test]
    fn registries_yaml(text in registries()) {
        // What cannot be edited safely is refused, and that is no edit.
        if let Ok(added) = yaml::add(&text, &["*".to_owned()], (MIRROR, None)) {
            prop_assert_eq!(yaml::endpoints(&added, "*").unwrap(), [MIRROR]);
            prop_assert!(keeps_lines(&text, &added), "{}", added);
            let left = yaml::strip(&added).unwrap().unwrap_or_default();
            prop_assert_eq!(left.trim(), text.trim());
        }
    }
}

#[test]
fn files_as_nobody_leaves_them_are_refused_or_come_back() {
    let good = [
        "server = \"https://a.example\"\n\n[host.\"https://m.example\"]\n  capabilities = [\"pull\"]\n",
        "version = 2\n[plugins.\"io.containerd.grpc.v1.cri\".registry]\n  config_path = \"\" # empty\n",
        "version = 3\r\n[plugins.'io.containerd.cri.v1.images'.registry]\r\n",
        "{\n  \"registry-mirrors\": [\"https://a.example\"],\n  \"x\": {\"y\": [1]}\n}\n",
        "mirrors:\n  docker.io:\n    endpoint:\n      - \"https://a.example\"\nconfigs: {}\n",
        "mirrors: {\"*\": {endpoint: [a]}} # flow\n",
        "unqualified-search-registries = [\"a\"]\n[[registry]]\nprefix = \"a\"\nlocation = \"a\"\n",
    ];
    darner_mutate::each_text(&good, |text| {
        if let Ok(adopted) = hosts::adopt(text, MIRROR, None) {
            assert!(hosts::names(&adopted, MIRROR).unwrap());
            assert!(hosts::strip(&adopted).is_ok(), "{adopted}");
        }
        let _ = toml::Registries::read(text);
        if let Ok(edited) = toml::set_config_path(text) {
            assert!(toml::unset(&edited).is_ok(), "{edited}");
        }
        if let Ok(added) = json::add(Some(text), MIRROR) {
            assert!(json::strip(&added, MIRROR).is_ok(), "{added}");
        }
        if let Ok(added) = yaml::add(text, &["*".to_owned()], (MIRROR, None)) {
            assert!(yaml::strip(&added).is_ok(), "{added}");
        }
    });
}
