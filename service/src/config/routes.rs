//! `[[route]]`: what becomes of the URLs that are asked for.

use std::path::PathBuf;

use url::Host;

use super::fault::Origin;
use super::parse;
use super::read::{Reading, Section};
use super::upstreams::{certificates, list};
use super::value::{Item, Value};
use crate::settings::{Route, RouteHost, RouteTo};

/// Each is looked at for every request.
const MAX_ROUTES: usize = 256;
/// As many parameters as a URL ever has.
const MAX_IGNORED: usize = 64;

/// In the order given.
pub(super) fn read(item: Option<Item>, reading: &Reading) -> Vec<Route> {
    let origin = item.as_ref().map(|item| item.origin.clone());
    let given = item
        .map(|item| list("route", item, reading))
        .unwrap_or_default();
    if given.is_empty() {
        // So that its keys are known, wherever somebody puts them.
        route(Section::absent("route", reading), reading);
    }
    if let (Some(origin), true) = (origin, given.len() > MAX_ROUTES) {
        reading.fault(&origin, "route", format!("are more than {MAX_ROUTES}"));
    }
    let sections = given
        .into_iter()
        .filter_map(|item| reading.section("route", item));
    sections
        .filter_map(|section| route(section, reading))
        .collect()
}

fn route(mut section: Section<'_>, reading: &Reading) -> Option<Route> {
    let origin = section.origin.clone();
    let (mut has_host, mut has_to) = (false, false);
    let host = section.read("host", |item| {
        has_host = true;
        host(item)
    });
    let path = section.read("path", path);
    let to = section.read("to", |item| {
        has_to = true;
        to(item)
    });
    let ignore_query = section.read("ignore_query", names);
    let private = section.read("private", parse::boolean);
    let ca_file = section.read("ca_file", certificates);
    section.close();
    for (setting, given) in [("route.host", has_host), ("route.to", has_to)] {
        if !given && origin != Origin::Default {
            reading.fault(&origin, setting, "is missing".to_owned());
        }
    }
    let ca_file: Option<PathBuf> = ca_file;
    Some(Route {
        host: host?,
        path: path.unwrap_or_else(|| "*".to_owned()),
        to: to?,
        ignore_query: ignore_query.unwrap_or_default(),
        private: private.unwrap_or(false),
        ca_file,
    })
}

fn host(item: &Item) -> Result<RouteHost, String> {
    let text = parse::text(item)?;
    parse_host(text).ok_or_else(|| {
        format!(
            "{text:?} is not a host such as \"files.example.com\", \"*.example.com\", \"10.0.0.9:8080\" or \"*\""
        )
    })
}

fn parse_host(text: &str) -> Option<RouteHost> {
    // The colons of an IPv6 address stand in brackets.
    let (host, port) = match text.rsplit_once(':') {
        Some((host, port)) if !port.ends_with(']') => (host, Some(port)),
        _ => (text, None),
    };
    let port: Option<u16> = match port {
        Some(port) => Some(port.parse().ok().filter(|port| *port != 0)?),
        None => None,
    };
    let name = match host.strip_prefix("*.") {
        _ if host == "*" => host.to_owned(),
        Some(domain) => match Host::parse(domain).ok()? {
            Host::Domain(domain) => format!("*.{domain}"),
            Host::Ipv4(_) | Host::Ipv6(_) => return None,
        },
        None => Host::parse(host).ok()?.to_string(),
    };
    // A star is of use at the beginning only.
    let odd = name
        .strip_prefix('*')
        .unwrap_or(&name)
        .contains(['*', '/', '@']);
    (!odd).then_some(RouteHost { name, port })
}

fn path(item: &Item) -> Result<String, String> {
    let text = parse::text(item)?;
    if !text.starts_with(['/', '*']) {
        return Err(format!(
            "{text:?} is not the path of a URL such as \"/models/*\""
        ));
    }
    Ok(text.to_owned())
}

fn to(item: &Item) -> Result<RouteTo, String> {
    match parse::text(item)? {
        "swarm" => Ok(RouteTo::Swarm),
        "straight" => Ok(RouteTo::Straight),
        "refuse" => Ok(RouteTo::Refuse),
        other => Err(format!(
            "{other:?} is not \"swarm\", \"straight\" or \"refuse\""
        )),
    }
}

fn names(item: &Item) -> Result<Vec<String>, String> {
    let names: Vec<String> = match &item.value {
        Value::List(items) => items
            .iter()
            .map(|item| parse::text(item).map(str::to_owned))
            .collect::<Result<_, _>>()?,
        _ => {
            return Err(format!(
                "is {}, not a list of names such as [\"X-Amz-*\", \"Expires\"]",
                item.kind()
            ));
        }
    };
    if names.len() > MAX_IGNORED {
        return Err(format!("has more than {MAX_IGNORED} names"));
    }
    match names
        .iter()
        .find(|name| name.trim_end_matches('*').is_empty())
    {
        Some(name) => Err(format!("{name:?} is no name of a query parameter")),
        None => Ok(names),
    }
}

#[cfg(test)]
mod tests {
    use super::parse_host;

    #[test]
    fn hosts() {
        for (text, name, port) in [
            ("files.example.com", "files.example.com", None),
            ("FILES.example.com:8080", "files.example.com", Some(8080)),
            ("*.example.com", "*.example.com", None),
            ("*", "*", None),
            ("*:8080", "*", Some(8080)),
            ("0x7f.1", "127.0.0.1", None),
            ("[::1]:80", "[::1]", Some(80)),
            ("[fd00::1]", "[fd00::1]", None),
            ("bücher.example", "xn--bcher-kva.example", None),
        ] {
            let host = parse_host(text).expect(text);
            assert_eq!((host.name.as_str(), host.port), (name, port), "{text}");
        }
        for text in [
            "",
            ":80",
            "a:0",
            "a:x",
            "a:99999",
            "*.10.0.0.1",
            "a*.b",
            "a/b",
            "http://a",
            "a b",
            "*.",
            "::1",
        ] {
            assert!(parse_host(text).is_none(), "{text}");
        }
    }
}
