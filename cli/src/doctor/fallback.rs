//! What each runtime does when the mirror is away, read from its own settings: it is to go on to the
//! registry itself, and some settings keep it from that.

use std::path::{Path, PathBuf};

use toml::{Table, Value};

use super::finding::Finding;
use super::runtimes::address;
use crate::setup::{
    DAEMON, Found, HOSTS_FILE, K3S_DIRECTORIES, Runtime, Standing, configuration, containers_files,
    yaml_says,
};

/// Where host files are when the configuration does not say.
const PLACE: &str = "/etc/containerd/certs.d";
/// With it k3s and RKE2 ask nobody but the endpoints that are named.
const NO_DEFAULT: &str = "disable-default-registry-endpoint";

/// For a runtime that is there.
pub(super) fn look(standing: Standing<'_>, found: &Found, mirror: &str) -> Vec<Finding> {
    let mirror = address(mirror);
    let seen = match found.runtime {
        Runtime::Containerd => host_files(standing, found, mirror),
        Runtime::Docker => docker(standing, mirror),
        Runtime::Containers => tables(standing, mirror),
        Runtime::K3s => k3s(standing, mirror),
    };
    let Seen { named, broken, how } = seen;
    if named == 0 || !broken.is_empty() {
        return broken;
    }
    vec![Finding::ok("fall-back", found.runtime.to_string(), how)]
}

/// What was seen of one runtime.
#[derive(Debug, Default)]
struct Seen {
    /// Places that name the mirror.
    named: usize,
    broken: Vec<Finding>,
    /// What happens when the mirror is away and nothing is broken.
    how: &'static str,
}

/// containerd's host files that name the mirror, whoever wrote them.
fn host_files(standing: Standing<'_>, found: &Found, mirror: &str) -> Seen {
    let mut seen = Seen {
        how: "without the mirror it goes on to the registry itself, request by request",
        ..Seen::default()
    };
    let version = found
        .programs
        .first()
        .and_then(|(_, version)| version.as_ref());
    let Ok(configuration) = configuration(standing, version) else {
        return seen;
    };
    let place = configuration.registries.config_path.unwrap_or_default();
    let place = match place.split(':').next() {
        Some(place) if !place.is_empty() => PathBuf::from(place),
        _ => PathBuf::from(PLACE),
    };
    for name in standing.host.list(&place) {
        let path = place.join(name).join(HOSTS_FILE);
        let text = standing.host.text(&path).unwrap_or_default();
        let Ok(table) = text.parse::<Table>() else {
            continue;
        };
        let (names, trap) = trap(&table, mirror);
        seen.named += usize::from(names);
        if let Some((found, fix)) = trap {
            let path = path.display().to_string();
            seen.broken
                .push(Finding::failure("hosts.toml", path, found).fix(fix));
        }
    }
    seen
}

/// Whether a host file names the mirror, and what is wrong with how it does.
fn trap(table: &Table, mirror: &str) -> (bool, Option<(&'static str, &'static str)>) {
    let server = table.get("server").and_then(Value::as_str);
    if server.is_some_and(|server| address(server) == mirror) {
        let trap = (
            "has the mirror as its `server`: containerd 1.x ignores it there, and 2.x does not go \
             on to the registry when the mirror is away",
            "name it in a [host] table in place of `server`",
        );
        return (true, Some(trap));
    }
    let hosts = table.get("host").and_then(Value::as_table);
    let ours = hosts.into_iter().flatten();
    let ours = ours.filter(|(url, _)| address(url) == mirror);
    let mut names = false;
    for (url, host) in ours {
        names = true;
        let of_tls = host.get("ca").is_some() || host.get("skip_verify").is_some();
        if of_tls && !url.starts_with("https://") {
            let trap = (
                "has `ca` or `skip_verify` for a mirror on plain http: containerd 1.7 and later \
                 speak TLS to it first",
                "remove both from the mirror's table, or use https:// (`darner setup --tls`)",
            );
            return (true, Some(trap));
        }
        if host.get("skip_verify").and_then(Value::as_bool) == Some(true) {
            let trap = (
                "has `skip_verify` for the mirror: whoever takes its port is taken for it",
                "pin the mirror's authority instead: `darner setup --tls`",
            );
            return (true, Some(trap));
        }
    }
    (names, None)
}

/// Docker always ends at Docker Hub.
fn docker(standing: Standing<'_>, mirror: &str) -> Seen {
    let text = standing.host.text(DAEMON).unwrap_or_default();
    Seen {
        named: usize::from(text.contains(mirror)),
        how: "without the mirror it goes on to Docker Hub; what it had of an image from the mirror \
              it fetches again",
        ..Seen::default()
    }
}

/// Tables of Podman and its kin that lead to the mirror.
fn tables(standing: Standing<'_>, mirror: &str) -> Seen {
    let mut seen = Seen {
        how: "without the mirror they go on to the registry itself; a pull that the mirror breaks \
              off in the middle fails, and has to be repeated",
        ..Seen::default()
    };
    for path in containers_files(standing) {
        let text = standing.host.text(&path).unwrap_or_default();
        let Ok(parsed) = text.parse::<Table>() else {
            continue;
        };
        let tables = parsed.get("registry").and_then(Value::as_array);
        for table in tables.into_iter().flatten() {
            let text = |key: &str| table.get(key).and_then(Value::as_str).unwrap_or_default();
            let leads = |place: &str| place.split('/').next() == Some(mirror);
            let mirrors = table.get("mirror").and_then(Value::as_array);
            let mirrors = mirrors.into_iter().flatten();
            let named = mirrors.filter_map(|entry| entry.get("location")?.as_str());
            let is_mirrored = named.into_iter().any(leads);
            seen.named += usize::from(is_mirrored);
            let name = match text("prefix") {
                "" => text("location"),
                prefix => prefix,
            };
            if leads(text("location")) && !leads(name) {
                let subject = format!("{} in {}", name, path.display());
                let found = "has the mirror as its `location`: nobody else is asked when the mirror \
                             is away";
                seen.broken.push(
                    Finding::failure("fall-back", subject, found)
                        .fix("name the registry there, and the mirror in a [[registry.mirror]]"),
                );
            }
            if is_mirrored && table.get("blocked").and_then(Value::as_bool) == Some(true) {
                let subject = format!("{} in {}", name, path.display());
                let found = "is `blocked`, so it is pulled neither from the registry nor from a \
                             mirror";
                seen.broken.push(
                    Finding::failure("fall-back", subject, found).fix("remove `blocked` there"),
                );
            }
        }
    }
    seen
}

/// k3s and RKE2 ask the registry last, unless they are told not to.
fn k3s(standing: Standing<'_>, mirror: &str) -> Seen {
    let mut seen = Seen {
        how: "without the mirror it goes on to the registry itself",
        ..Seen::default()
    };
    for directory in K3S_DIRECTORIES.map(Path::new) {
        let file = |name: &str| standing.host.text(directory.join(name)).unwrap_or_default();
        if !file("registries.yaml").contains(mirror) {
            continue;
        }
        seen.named += 1;
        let drop_ins = standing.host.list(&directory.join("config.yaml.d"));
        let drop_ins = drop_ins.iter().map(|name| format!("config.yaml.d/{name}"));
        for name in std::iter::once("config.yaml".to_owned()).chain(drop_ins) {
            if yaml_says(&file(&name), NO_DEFAULT) {
                let subject = directory.join(name).display().to_string();
                let found =
                    format!("has `{NO_DEFAULT}`: no registry is asked when the mirror is away");
                seen.broken.push(
                    Finding::failure("fall-back", subject, found)
                        .fix("remove it there, and restart k3s or RKE2"),
                );
            }
        }
    }
    seen
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn traps_of_host_files_are_seen() {
        let mirror = "127.0.0.1:7420";
        let seen = |text: &str| trap(&text.parse().unwrap(), mirror);
        let said = |text: &str| seen(text).1.map(|(found, _)| found);
        let server = said("server = \"http://127.0.0.1:7420/\"");
        assert!(server.unwrap().contains("server"));
        let tls = said("[host.\"http://127.0.0.1:7420\"]\nskip_verify = true");
        assert!(tls.unwrap().contains("TLS"));
        let anybody = said("[host.\"https://127.0.0.1:7420\"]\nskip_verify = true");
        assert!(anybody.unwrap().contains("whoever"));
        for fine in [
            "server = \"https://a\"\n[host.\"http://127.0.0.1:7420\"]\ncapabilities = [\"pull\"]",
            "[host.\"https://127.0.0.1:7420\"]\nca = \"/a.crt\"",
        ] {
            assert_eq!(seen(fine), (true, None), "{fine}");
        }
        let other = "[host.\"https://other\"]\nskip_verify = true";
        assert_eq!(seen(other), (false, None));
    }
}
