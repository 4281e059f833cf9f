//! Proxies in the environment of the runtimes' daemons, through which they would look for the mirror.
//! They never use one for the machine's own loopback addresses; for any other they do, unless NO_PROXY
//! says otherwise.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::Path;

use super::finding::Finding;
use super::runtimes::address;
use crate::setup::{DAEMON, Host, Runtime};

/// Where systemd looks for a unit, what counts last behind.
const UNITS: [&str; 4] = [
    "/lib/systemd/system",
    "/usr/lib/systemd/system",
    "/run/systemd/system",
    "/etc/systemd/system",
];
const VARIABLES: [&str; 3] = ["HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY"];

/// Variables by name in capitals, and where they are from.
#[derive(Debug, Default)]
struct Environment {
    place: String,
    variables: BTreeMap<String, String>,
}

/// What the daemons of a runtime make of `mirrors`, by their URLs.
pub(super) fn look(host: &Host, runtime: Runtime, mirrors: &[&str]) -> Vec<Finding> {
    let daemons: &[(&str, &str)] = match runtime {
        Runtime::Containerd => &[("containerd", "containerd.service")],
        Runtime::Docker => &[("dockerd", "docker.service")],
        Runtime::Containers => &[("crio", "crio.service")],
        Runtime::K3s => &[
            ("k3s", "k3s.service"),
            ("k3s", "k3s-agent.service"),
            ("rke2", "rke2-server.service"),
            ("rke2", "rke2-agent.service"),
        ],
    };
    let environments = daemons.iter().flat_map(|(process, unit)| {
        let mut environment = of_process(host, process).unwrap_or_else(|| of_unit(host, unit));
        if runtime == Runtime::Docker {
            environment.of_docker(host);
        }
        let proxied = VARIABLES[..2]
            .iter()
            .any(|name| !environment.get(name).is_empty());
        proxied.then_some(environment)
    });
    environments
        .map(|environment| environment.finding(runtime, mirrors))
        .collect()
}

impl Environment {
    fn get(&self, name: &str) -> &str {
        self.variables.get(name).map_or("", String::as_str)
    }

    fn set(&mut self, name: &str, value: &str) {
        let name = name.to_ascii_uppercase();
        if VARIABLES.contains(&name.as_str()) {
            self.variables.insert(name, value.to_owned());
        }
    }

    /// A line of a unit.
    fn of_line(&mut self, host: &Host, line: &str) {
        if let Some(pairs) = line.strip_prefix("Environment=") {
            for (key, value) in words(pairs).iter().filter_map(|pair| pair.split_once('=')) {
                self.set(key, value);
            }
        } else if let Some(file) = line.strip_prefix("EnvironmentFile=") {
            let text = host.text(file.trim_start_matches('-')).unwrap_or_default();
            let pairs = text.lines().filter_map(|line| line.trim().split_once('='));
            for (key, value) in pairs {
                self.set(key, value.trim_matches(['"', '\'']));
            }
        }
    }

    /// What daemon.json says goes before the environment.
    fn of_docker(&mut self, host: &Host) {
        let text = host.text(DAEMON).unwrap_or_default();
        let said: serde_json::Value = serde_json::from_str(&text).unwrap_or_default();
        for name in VARIABLES {
            let key = name.to_ascii_lowercase().replace('_', "-");
            if let Some(value) = said["proxies"][key].as_str() {
                self.set(name, value);
                self.place = DAEMON.to_owned();
            }
        }
    }

    fn finding(&self, runtime: Runtime, mirrors: &[&str]) -> Finding {
        let subject = runtime.to_string();
        let through = mirrors.iter().find_map(|mirror| {
            let variable = self.proxies(mirror)?;
            Some((mirror, variable))
        });
        match through {
            None => {
                let found = format!(
                    "{} has a proxy, which is not asked for the mirror",
                    self.place
                );
                Finding::ok("proxy", subject, found)
            }
            Some((mirror, variable)) => {
                // What it is may have a password in it.
                let found = format!(
                    "{variable} in {} sends requests for the mirror {mirror} to a proxy",
                    self.place
                );
                let host = address(mirror);
                let host = host.rsplit_once(':').map_or(host, |(host, _)| host);
                Finding::failure("proxy", subject, found)
                    .fix(format!("add {host} to NO_PROXY there, and restart it"))
            }
        }
    }

    /// The variable whose proxy is asked for what is at `url`.
    fn proxies(&self, url: &str) -> Option<&'static str> {
        let variable = match url.starts_with("https://") {
            true => "HTTPS_PROXY",
            false => "HTTP_PROXY",
        };
        let is_set = !self.get(variable).is_empty();
        (is_set && !is_direct(address(url), self.get("NO_PROXY"))).then_some(variable)
    }
}

/// As Go's libraries decide it, in which all these daemons are written.
fn is_direct(address: &str, no_proxy: &str) -> bool {
    let (host, port) = address.rsplit_once(':').unwrap_or((address, ""));
    let host = host.trim_matches(['[', ']']).to_ascii_lowercase();
    let ip: Option<IpAddr> = host.parse().ok();
    if host == "localhost" || ip.is_some_and(|ip| ip.is_loopback()) {
        return true;
    }
    no_proxy.split(',').map(str::trim).any(|entry| {
        let (entry, wanted) = match entry.rsplit_once(':') {
            Some((entry, wanted)) if !entry.contains(':') => (entry, wanted),
            _ => (entry, port),
        };
        let entry = entry.trim_matches(['[', ']']).to_ascii_lowercase();
        match ip {
            _ if entry == "*" => true,
            _ if entry.is_empty() || wanted != port => false,
            Some(ip) => entry.parse() == Ok(ip) || is_in_block(ip, &entry),
            None => {
                let name = entry.trim_start_matches("*.").trim_start_matches('.');
                let above = host.strip_suffix(name);
                above.is_some_and(|above| {
                    above.ends_with('.') || (above.is_empty() && !entry.starts_with(['.', '*']))
                })
            }
        }
    })
}

/// Whether an address lies in a block such as `10.0.0.0/8`.
fn is_in_block(ip: IpAddr, block: &str) -> bool {
    let Some((network, bits)) = block.split_once('/') else {
        return false;
    };
    let (Ok(network), Ok(bits)) = (network.parse::<IpAddr>(), bits.parse::<u32>()) else {
        return false;
    };
    let (one, other, width) = match (ip, network) {
        (IpAddr::V4(one), IpAddr::V4(other)) => {
            (u128::from(one.to_bits()), u128::from(other.to_bits()), 32)
        }
        (IpAddr::V6(one), IpAddr::V6(other)) => (one.to_bits(), other.to_bits(), 128),
        _ => return false,
    };
    bits <= width && (one ^ other).checked_shr(width - bits).unwrap_or(0) == 0
}

/// The environment that a daemon has now.
fn of_process(host: &Host, name: &str) -> Option<Environment> {
    let pid = host.processes(name).into_iter().next()?;
    let text = host.text(format!("/proc/{pid}/environ"))?;
    let mut environment = Environment {
        place: format!("the environment of {name}"),
        ..Environment::default()
    };
    for (key, value) in text.split('\0').filter_map(|pair| pair.split_once('=')) {
        environment.set(key, value);
    }
    Some(environment)
}

/// The environment that systemd will give it.
fn of_unit(host: &Host, unit: &str) -> Environment {
    let mut environment = Environment {
        place: unit.to_owned(),
        ..Environment::default()
    };
    let own = UNITS.map(|directory| format!("{directory}/{unit}"));
    let own = own.into_iter().rev().find(|path| host.exists(path));
    let drop_ins = UNITS.iter().flat_map(|directory| {
        let directory = format!("{directory}/{unit}.d");
        let names = host.list(Path::new(&directory)).into_iter();
        names.map(move |name| format!("{directory}/{name}"))
    });
    let drop_ins = drop_ins.filter(|path| path.ends_with(".conf"));
    for path in own.into_iter().chain(drop_ins) {
        for line in host.text(&path).unwrap_or_default().lines() {
            environment.of_line(host, line.trim());
        }
    }
    environment
}

/// Divided at spaces, but not within quotation marks.
fn words(text: &str) -> Vec<String> {
    let mut words = vec![String::new()];
    let mut quote = None;
    for letter in text.chars() {
        match quote {
            Some(mark) if letter == mark => quote = None,
            None if matches!(letter, '"' | '\'') => quote = Some(letter),
            None if letter.is_whitespace() => words.push(String::new()),
            _ => words
                .last_mut()
                .into_iter()
                .for_each(|word| word.push(letter)),
        }
    }
    words.retain(|word| !word.is_empty());
    words
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_goes_to_a_proxy_is_decided_as_the_daemons_do() {
        for (address, no_proxy, direct) in [
            ("127.0.0.1:7420", "", true),
            ("localhost:7420", "", true),
            ("[::1]:7420", "", true),
            ("10.1.2.3:7420", "", false),
            ("10.1.2.3:7420", "10.0.0.0/8", true),
            ("10.1.2.3:7420", "11.0.0.0/8, 10.1.2.3", true),
            ("10.1.2.3:7420", "10.1.2.3:80", false),
            ("10.1.2.3:7420", "10.1.2.3:7420", true),
            ("[fd00::5]:7420", "fd00::/8", true),
            ("mirror.corp.example:7420", "*", true),
            ("mirror.corp.example:7420", "corp.example", true),
            ("mirror.corp.example:7420", ".corp.example", true),
            ("mirror.corp.example:7420", "*.corp.example", true),
            ("corp.example:7420", ".corp.example", false),
            ("xcorp.example:7420", "corp.example", false),
            ("10.1.2.3:7420", "0.0.0.0/0", true),
            ("10.1.2.3:7420", "10.1.2.3/99", false),
        ] {
            assert_eq!(is_direct(address, no_proxy), direct, "{address} {no_proxy}");
        }
    }

    #[test]
    fn units_are_read_as_systemd_does() {
        assert_eq!(
            words(r#""HTTP_PROXY=http://p:1" 'NO_PROXY=a, b' X=1"#),
            ["HTTP_PROXY=http://p:1", "NO_PROXY=a, b", "X=1"]
        );
    }
}
