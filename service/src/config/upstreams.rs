//! `[[upstream]]`: the registries content comes from, and those that everybody knows.

use std::path::PathBuf;
use std::time::Duration;

use darner_proto::id::Role;
use darner_proto::name::RegistryName;

use super::fault::Origin;
use super::parse;
use super::read::{Reading, Section};
use super::value::{Item, Value};
use crate::settings::{Credentials, MAX_TAG_STALE, TAG_TTL, Upstream};

/// Registries that need no configuration: their names, and where they are. Docker Hub's host is not
/// its name.
pub const KNOWN: [(&str, &str); 9] = [
    ("docker.io", "https://registry-1.docker.io"),
    ("ghcr.io", "https://ghcr.io"),
    ("quay.io", "https://quay.io"),
    ("registry.k8s.io", "https://registry.k8s.io"),
    ("gcr.io", "https://gcr.io"),
    ("mcr.microsoft.com", "https://mcr.microsoft.com"),
    ("public.ecr.aws", "https://public.ecr.aws"),
    ("nvcr.io", "https://nvcr.io"),
    ("registry.gitlab.com", "https://registry.gitlab.com"),
];
/// Each is given time before the registry itself is asked, and a client waits.
const MAX_MIRRORS: usize = 4;
const MAX_CONNECTIONS: u32 = 16;
/// A seed reads for everybody.
const MAX_CONNECTIONS_OF_SEED: u32 = 64;

/// Those given, then those known that were not given.
pub(super) fn read(item: Option<Item>, role: Role, reading: &Reading) -> Vec<Upstream> {
    let mut upstreams: Vec<Upstream> = Vec::new();
    let given = item
        .map(|item| list("upstream", item, reading))
        .unwrap_or_default();
    if given.is_empty() {
        // So that its keys are known, wherever somebody puts them.
        upstream(Section::absent("upstream", reading), role, reading);
    }
    for item in given {
        let origin = item.origin.clone();
        let section = reading.section("upstream", item);
        let Some(new) = section.and_then(|section| upstream(section, role, reading)) else {
            continue;
        };
        if upstreams.iter().any(|other| other.name == new.name) {
            let message = format!("{} is listed before already", new.name.as_str());
            reading.fault(&origin, "upstream.name", message);
        } else {
            upstreams.push(new);
        }
    }
    for (name, url) in KNOWN {
        let Ok(name) = name.parse::<RegistryName>() else {
            continue;
        };
        if !upstreams.iter().any(|other| other.name == name) {
            upstreams.push(Upstream::new(name, url, default_connections(role)));
        }
    }
    upstreams
}

/// Where everybody knows a registry to be.
pub fn known_url(name: &RegistryName) -> Option<&'static str> {
    let known = KNOWN.iter().find(|(known, _)| *known == name.as_str());
    known.map(|(_, url)| *url)
}

/// Whether somebody has set something of a registry, beyond what everybody knows of it.
pub fn is_given(upstream: &Upstream, role: Role) -> bool {
    let name = upstream.name.clone();
    let known = known_url(&name);
    known.is_none_or(|url| *upstream != Upstream::new(name, url, default_connections(role)))
}

/// Connections to one registry where nobody sets them.
pub fn default_connections(role: Role) -> usize {
    let connections = match role {
        Role::Seed => MAX_CONNECTIONS_OF_SEED,
        Role::Mirror | Role::Scheduler => MAX_CONNECTIONS,
    };
    connections as usize
}

/// The tables of a list such as `[[upstream]]`.
pub(super) fn list(name: &str, item: Item, reading: &Reading) -> Vec<Item> {
    let origin = item.origin.clone();
    let message = match item.expanded() {
        Ok(Item {
            value: Value::List(items),
            ..
        }) => return items,
        Ok(Item {
            value: Value::Table(_),
            ..
        }) => format!("is a list: write [[{name}]], with two brackets, for each"),
        Ok(item) => format!("is {}, not a list of tables", item.kind()),
        Err(message) => message,
    };
    reading.fault(&origin, name, message);
    Vec::new()
}

/// `None` when it has no usable name or URL; both are noted.
fn upstream(mut section: Section<'_>, role: Role, reading: &Reading) -> Option<Upstream> {
    let origin = section.origin.clone();
    let required = |setting: &str, given: bool| {
        if !given && origin != Origin::Default {
            reading.fault(&origin, setting, "is missing".to_owned());
        }
    };
    let (mut has_name, mut has_url) = (false, false);
    let name: Option<RegistryName> = section.read("name", |item| {
        has_name = true;
        parse::named(item)
    });
    let url = section.read("url", |item| {
        has_url = true;
        parse::registry_url(item)
    });
    let known_url = name.as_ref().and_then(known_url).map(str::to_owned);
    required("upstream.name", has_name);
    required("upstream.url", has_url || known_url.is_some());
    let mirrors = section.read("mirrors", mirrors);
    let ca_file = section.read("ca_file", certificates);
    let (client_cert_file, client_key_file) = client_certificate(&mut section, &origin, reading);
    let credentials = credentials(&mut section, &origin, reading);
    let credentials_file = section.read("credentials_file", existing);
    let credential_helper = section.read("credential_helper", helper);
    let tag_ttl = section.read("tag_ttl", parse::duration);
    let tag_stale = section.read("tag_stale", tag_stale);
    let connections = section.read("max_connections", |item| parse::count(item, 1..=1024));
    section.close();
    Some(Upstream {
        name: name?,
        url: url.or(known_url)?,
        mirrors: mirrors.unwrap_or_default(),
        ca_file,
        client_cert_file,
        client_key_file,
        credentials,
        credentials_file,
        credential_helper,
        tag_ttl: tag_ttl.unwrap_or(TAG_TTL),
        tag_stale: tag_stale.unwrap_or(MAX_TAG_STALE),
        max_connections: connections.map_or(default_connections(role), |given| given as usize),
    })
}

fn credentials(
    section: &mut Section<'_>,
    origin: &Origin,
    reading: &Reading,
) -> Option<Credentials> {
    let mut given = (false, false);
    let username = section.read("username", |item| {
        given.0 = true;
        match parse::text(item)? {
            "" => Err("is empty".to_owned()),
            // RFC 7617: the first colon ends the user's name.
            name if name.contains(':') => Err("has a colon, which no user name may".to_owned()),
            name => Ok(name.to_owned()),
        }
    });
    let password_file = section.read("password_file", |item| {
        given.1 = true;
        secret(item)
    });
    both_or_none(
        reading,
        origin,
        [
            ("upstream.username", given.0),
            ("upstream.password_file", given.1),
        ],
    );
    Some(Credentials {
        username: username?,
        password_file: password_file?,
    })
}

pub(super) fn certificates(item: &Item) -> Result<PathBuf, String> {
    let path = parse::path(item)?;
    let text = parse::readable(&path)?;
    if !text.contains("-----BEGIN CERTIFICATE-----") {
        return Err(format!("{} has no certificate in PEM form", path.display()));
    }
    Ok(path)
}

/// The path of a file that holds a secret: it is read again whenever the file changes.
fn secret(item: &Item) -> Result<PathBuf, String> {
    parse::secret(item)?;
    parse::path(item)
}

fn existing(item: &Item) -> Result<PathBuf, String> {
    let path = parse::path(item)?;
    parse::readable(&path)?;
    Ok(path)
}

/// A program's name ends in it: nothing that leads out of the directories programs are in.
fn helper(item: &Item) -> Result<String, String> {
    let name = parse::text(item)?;
    let fits = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
    if name.is_empty() || !name.bytes().all(fits) {
        return Err(
            "is not what follows docker-credential- in a program's name, such as \"ecr-login\""
                .to_owned(),
        );
    }
    Ok(name.to_owned())
}

fn mirrors(item: &Item) -> Result<Vec<String>, String> {
    let urls = parse::registry_urls(item)?;
    if urls.len() > MAX_MIRRORS {
        return Err(format!("has more than {MAX_MIRRORS} mirrors"));
    }
    Ok(urls)
}

fn tag_stale(item: &Item) -> Result<Duration, String> {
    let stale = parse::duration(item)?;
    if stale > MAX_TAG_STALE {
        return Err("is more than 24h".to_owned());
    }
    Ok(stale)
}

fn client_certificate(
    section: &mut Section<'_>,
    origin: &Origin,
    reading: &Reading,
) -> (Option<PathBuf>, Option<PathBuf>) {
    let mut given = (false, false);
    let certificate = section.read("client_cert_file", |item| {
        given.0 = true;
        certificates(item)
    });
    let key = section.read("client_key_file", |item| {
        given.1 = true;
        let path = parse::path(item)?;
        if !parse::readable(&path)?.contains("PRIVATE KEY-----") {
            return Err(format!("{} has no private key in PEM form", path.display()));
        }
        Ok(path)
    });
    both_or_none(
        reading,
        origin,
        [
            ("upstream.client_cert_file", given.0),
            ("upstream.client_key_file", given.1),
        ],
    );
    (certificate, key)
}

/// Notes a fault when one of two settings is given without the other.
fn both_or_none(reading: &Reading, origin: &Origin, settings: [(&str, bool); 2]) {
    let [(one, has_one), (other, has_other)] = settings;
    let (missing, present) = match (has_one, has_other) {
        (true, false) => (other, one),
        (false, true) => (one, other),
        _ => return,
    };
    let (_, present) = present.split_once('.').unwrap_or(("", present));
    let message = format!("is missing, though {present} is set");
    reading.fault(origin, missing, message);
}
