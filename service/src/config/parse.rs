//! Single values: from what was given to what a setting holds. A refusal says what was expected.
//!
//! URLs are not repeated in messages: somebody may have put a password into one.

use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::Duration;

use bytesize::ByteSize;
use darner_proto::id::{Role, parse_address};
use darner_proto::invalid::Invalid;
use url::Url;

use super::fault::Origin;
use super::layers::read_text;
use super::value::{Item, Value};
use crate::secret::Secret;
use crate::settings::LogFormat;
use crate::telemetry;

/// As many as a node may have, by the wire.
const MAX_LABELS: usize = 32;
/// A label is a name, not a document; it travels with every registration.
const MAX_LABEL: usize = 128;
/// Longer than this nobody waits on purpose, and arithmetic with it stays far from overflow.
const MAX_DURATION: Duration = Duration::from_secs(366 * 24 * 3600);

/// Shorter than this, a certificate would be over before it was renewed.
const SHORTEST_LIFETIME: Duration = Duration::from_secs(10);

pub(super) fn text(item: &Item) -> Result<&str, String> {
    match &item.value {
        Value::Raw(text) | Value::Text(text) => Ok(text),
        _ => Err(format!("is {}, not a string", item.kind())),
    }
}

pub(super) fn boolean(item: &Item) -> Result<bool, String> {
    match &item.value {
        Value::Boolean(value) => Ok(*value),
        Value::Raw(text) => text
            .parse()
            .map_err(|_| format!("{text:?} is neither true nor false")),
        _ => Err(format!("is {}, not true or false", item.kind())),
    }
}

/// A whole number within `range`.
pub(super) fn count(item: &Item, range: RangeInclusive<u32>) -> Result<u32, String> {
    let bad = |given: &dyn std::fmt::Display| {
        let (low, high) = (range.start(), range.end());
        format!("{given} is not a whole number from {low} to {high}")
    };
    let number = match &item.value {
        Value::Integer(number) => *number,
        Value::Raw(text) => text.parse().map_err(|_| bad(&format!("{text:?}")))?,
        _ => return Err(bad(&item.kind())),
    };
    let fits = u32::try_from(number).ok();
    fits.filter(|number| range.contains(number))
        .ok_or_else(|| bad(&number))
}

/// A number of bytes, more than none.
pub(super) fn size(item: &Item) -> Result<u64, String> {
    match size_or_none(item)? {
        0 => Err("must be more than zero".to_owned()),
        bytes => Ok(bytes),
    }
}

/// A number of bytes, none included.
pub(super) fn size_or_none(item: &Item) -> Result<u64, String> {
    let example = "a size such as \"20 GiB\" or a number of bytes";
    let bytes = match &item.value {
        Value::Integer(bytes) => u64::try_from(*bytes).ok(),
        Value::Raw(text) | Value::Text(text) => {
            text.trim().parse::<ByteSize>().ok().map(|size| size.0)
        }
        _ => return Err(format!("is {}, not {example}", item.kind())),
    };
    bytes.ok_or_else(|| match &item.value {
        Value::Raw(text) | Value::Text(text) => format!("{text:?} is not {example}"),
        _ => format!("is not {example}"),
    })
}

/// A span of time, none included.
pub(super) fn duration(item: &Item) -> Result<Duration, String> {
    let example = "a span of time such as \"30s\" or \"1h 30m\"";
    let text = text(item).map_err(|_| format!("is {}, not {example}", item.kind()))?;
    let duration =
        humantime::parse_duration(text.trim()).map_err(|_| format!("{text:?} is not {example}"))?;
    if duration > MAX_DURATION {
        return Err(format!("{text:?} is more than a year"));
    }
    Ok(duration)
}

/// A span of time, more than none.
pub(super) fn some_duration(item: &Item) -> Result<Duration, String> {
    match duration(item)? {
        Duration::ZERO => Err("must be more than zero".to_owned()),
        duration => Ok(duration),
    }
}

/// How long a certificate counts.
pub(super) fn lifetime(item: &Item) -> Result<Duration, String> {
    match duration(item)? {
        short if short < SHORTEST_LIFETIME => Err("must be at least 10s".to_owned()),
        lifetime => Ok(lifetime),
    }
}

pub(super) fn socket(item: &Item) -> Result<SocketAddr, String> {
    let text = text(item)?;
    text.parse().map_err(|_| {
        format!(
            "{text:?} is not an IP address and port such as \"127.0.0.1:7420\" or \"[::]:7421\""
        )
    })
}

/// `["a:7421", "b:7421"]`, or the same without brackets and quotes in a variable or flag.
pub(super) fn reached(item: &Item) -> Result<Vec<String>, String> {
    match &item.value {
        Value::List(items) => items.iter().map(advertised).collect(),
        Value::Raw(text) => text
            .split(',')
            .map(str::trim)
            .filter(|part| !part.is_empty())
            .map(reachable)
            .collect(),
        _ => Err(format!("is {}, not a list of host:port", item.kind())),
    }
}

/// `service` or `namespace/service` of a Kubernetes cluster, by its rules for such names (RFC 1123
/// labels).
pub(super) fn kubernetes_service(item: &Item) -> Result<String, String> {
    let text = text(item)?;
    let (namespace, name) = match text.split_once('/') {
        Some((namespace, name)) => (Some(namespace), name),
        None => (None, text),
    };
    let is_label = |label: &str| {
        let fits = |letter: char| matches!(letter, 'a'..='z' | '0'..='9' | '-');
        let ends = [label.chars().next(), label.chars().next_back()];
        (1..=63).contains(&label.len())
            && label.chars().all(fits)
            && ends.iter().all(|end| *end != Some('-'))
    };
    if !namespace.into_iter().chain([name]).all(is_label) {
        return Err(format!(
            "{text:?} is not a service such as \"darner-mirrors\" or \"darner/darner-mirrors\""
        ));
    }
    Ok(text.to_owned())
}

/// Names of a kind, such as registries.
pub(super) fn names<T: FromStr<Err = Invalid>>(item: &Item) -> Result<Vec<T>, String> {
    let name = |text: &str| {
        let parsed = text.parse();
        parsed.map_err(|invalid: Invalid| format!("{text:?} is no name: {invalid}"))
    };
    match &item.value {
        Value::List(items) => items.iter().map(|item| name(text(item)?)).collect(),
        Value::Raw(given) => given
            .split(',')
            .map(str::trim)
            .filter(|part| !part.is_empty())
            .map(name)
            .collect(),
        _ => Err(format!("is {}, not a list of names", item.kind())),
    }
}

/// A socket that only this machine reaches.
pub(super) fn loopback(item: &Item) -> Result<SocketAddr, String> {
    let socket = socket(item)?;
    if !socket.ip().is_loopback() {
        return Err(format!(
            "{socket} can be reached from other hosts: whoever reaches it acts from this one; set it to 127.0.0.1 and a port"
        ));
    }
    Ok(socket)
}

/// `host:port` that others are told to connect to.
pub(super) fn advertised(item: &Item) -> Result<String, String> {
    reachable(text(item)?)
}

fn reachable(text: &str) -> Result<String, String> {
    let refused = |why: &str| format!("{text:?} {why}");
    let address = parse_address(text.to_owned())
        .map_err(|_| refused("is not host:port, such as \"10.0.0.5:7421\""))?;
    let socket: Option<SocketAddr> = address.parse().ok();
    if socket.is_some_and(|socket| socket.ip().is_unspecified()) {
        return Err(refused("is no address others could connect to"));
    }
    if address.ends_with(":0") {
        return Err(refused("has no port others could connect to"));
    }
    Ok(address)
}

/// A name of the wire's own grammar.
pub(super) fn named<T: FromStr<Err = Invalid>>(item: &Item) -> Result<T, String> {
    let text = text(item)?;
    text.parse()
        .map_err(|Invalid { what, why }| format!("{text:?} as {what} {why}"))
}

/// A path; one in a file is meant from where the file is.
pub(super) fn path(item: &Item) -> Result<PathBuf, String> {
    let path = PathBuf::from(text(item)?);
    if path.as_os_str().is_empty() {
        return Err("is empty, not a path".to_owned());
    }
    if path.to_string_lossy().contains('\0') {
        return Err("is not a path: it has a NUL character".to_owned());
    }
    Ok(match &item.origin {
        Origin::File { path: file, .. } => match file.parent() {
            Some(directory) => directory.join(path),
            None => path,
        },
        _ => path,
    })
}

pub(super) fn mirror_role(item: &Item) -> Result<Role, String> {
    match text(item)? {
        "mirror" => Ok(Role::Mirror),
        "seed" => Ok(Role::Seed),
        other => Err(format!("{other:?} is neither \"mirror\" nor \"seed\"")),
    }
}

pub(super) fn log_filter(item: &Item) -> Result<String, String> {
    let text = text(item)?;
    telemetry::check_filter(text).map_err(|error| {
        format!("{text:?} is not a filter such as \"info,darner_mirror=debug\": {error}")
    })?;
    Ok(text.to_owned())
}

pub(super) fn log_format(item: &Item) -> Result<LogFormat, String> {
    match text(item)? {
        "auto" => Ok(LogFormat::Auto),
        "human" => Ok(LogFormat::Human),
        "json" => Ok(LogFormat::Json),
        other => Err(format!("{other:?} is not \"auto\", \"human\" or \"json\"")),
    }
}

/// `{ zone = "a" }`, or `zone=a,rack=b` in a variable or flag.
pub(super) fn labels(item: &Item) -> Result<BTreeMap<String, String>, String> {
    let labels: BTreeMap<_, _> = match &item.value {
        Value::Table(entries) => entries
            .iter()
            .map(|(key, item)| match text(item) {
                Ok(value) => Ok((key.clone(), value.to_owned())),
                Err(why) => Err(format!("label {key:?} {why}")),
            })
            .collect::<Result<_, _>>()?,
        Value::Raw(text) => text
            .split(',')
            .filter(|pair| !pair.trim().is_empty())
            .map(|pair| match pair.split_once('=') {
                Some((key, value)) => Ok((key.trim().to_owned(), value.trim().to_owned())),
                None => Err(format!("{pair:?} is not label=value")),
            })
            .collect::<Result<_, _>>()?,
        _ => {
            return Err(format!(
                "is {}, not labels such as {{ zone = \"a\" }}",
                item.kind()
            ));
        }
    };
    if labels.len() > MAX_LABELS {
        return Err(format!("has more than {MAX_LABELS} labels"));
    }
    let wrong = labels
        .iter()
        .find(|(key, value)| key.is_empty() || key.len() > MAX_LABEL || value.len() > MAX_LABEL);
    match wrong {
        Some((key, _)) => Err(format!(
            "label {key:?} or its value is empty or longer than {MAX_LABEL} bytes"
        )),
        None => Ok(labels),
    }
}

/// `["http://a:1", "http://b:1"]`, or the same without brackets and quotes in a variable or flag.
pub(super) fn addresses(item: &Item) -> Result<Vec<String>, String> {
    match &item.value {
        Value::List(items) => items.iter().map(process_address).collect(),
        Value::Raw(text) => text
            .split(',')
            .map(str::trim)
            .filter(|part| !part.is_empty())
            .map(process_url)
            .collect(),
        _ => Err(format!("is {}, not a list of addresses", item.kind())),
    }
}

/// The URL of a process of ours.
pub(super) fn process_address(item: &Item) -> Result<String, String> {
    process_url(text(item)?)
}

fn process_url(text: &str) -> Result<String, String> {
    let expected = "is not a URL such as \"https://10.0.0.2:7423\"";
    let url = plain_url(text, expected)?;
    if url.path() != "/" {
        return Err("has a path: only https://host:port is meant".to_owned());
    }
    Ok(text.trim_end_matches('/').to_owned())
}

/// The URL of a registry, without a slash at its end.
pub(super) fn registry_url(item: &Item) -> Result<String, String> {
    registry(text(item)?)
}

/// `["a", "b"]`, or the same without brackets and quotes in a variable or flag.
pub(super) fn words(item: &Item) -> Result<Vec<&str>, String> {
    match &item.value {
        Value::List(items) => items.iter().map(text).collect(),
        Value::Raw(raw) => {
            let words = raw.split(',').map(str::trim);
            Ok(words.filter(|word| !word.is_empty()).collect())
        }
        _ => Err("is not a list".to_owned()),
    }
}

/// `["https://a", "https://b"]`, or the same without brackets and quotes in a variable or flag.
pub(super) fn registry_urls(item: &Item) -> Result<Vec<String>, String> {
    match &item.value {
        Value::List(items) => items.iter().map(registry_url).collect(),
        Value::Raw(text) => text
            .split(',')
            .map(str::trim)
            .filter(|part| !part.is_empty())
            .map(registry)
            .collect(),
        _ => Err(format!("is {}, not a list of URLs", item.kind())),
    }
}

fn registry(text: &str) -> Result<String, String> {
    let url = plain_url(text, "is not a URL such as \"https://registry.example\"")?;
    Ok(url.as_str().trim_end_matches('/').to_owned())
}

/// `http` or `https`, a host, perhaps a port and a path, and nothing else.
fn plain_url(text: &str, expected: &str) -> Result<Url, String> {
    let url = Url::parse(text).map_err(|error| format!("{expected}: {error}"))?;
    let web = matches!(url.scheme(), "http" | "https");
    if !web || url.host_str().is_none_or(str::is_empty) {
        return Err(expected.to_owned());
    }
    if !url.username().is_empty() || url.password().is_some() {
        let message = "has a user or password in it: for a registry these are set by username and password_file";
        return Err(message.to_owned());
    }
    if url.query().is_some() || url.fragment().is_some() {
        return Err("has a query or fragment, which means nothing here".to_owned());
    }
    Ok(url)
}
/// What a file holds, without the newline that editors end it with.
pub(super) fn secret(item: &Item) -> Result<Secret, String> {
    let path = path(item)?;
    Secret::read(&path).map_err(|error| match error.kind() {
        io::ErrorKind::InvalidData => format!("{} is empty", path.display()),
        _ => format!("{} cannot be read: {error}", path.display()),
    })
}

/// A key to seal with, from a file.
pub(super) fn seal_key(item: &Item) -> Result<Secret, String> {
    let secret = secret(item)?;
    let digits = secret.reveal();
    match digits.len() == 64 && digits.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        true => Ok(secret),
        false => Err(
            "is a file that does not hold 64 hexadecimal digits, as `openssl rand -hex 32` prints"
                .to_owned(),
        ),
    }
}

/// The URL of a PostgreSQL database, from a file since it may hold a password.
pub(super) fn postgres_url(item: &Item) -> Result<Secret, String> {
    let secret = secret(item)?;
    let url = Url::parse(secret.reveal());
    match url {
        Ok(url) if matches!(url.scheme(), "postgres" | "postgresql") => Ok(secret),
        _ => Err(
            "is a file that does not hold a URL such as postgres://user:password@host/database"
                .to_owned(),
        ),
    }
}

/// The text of a file that a setting names.
pub(super) fn readable(path: &Path) -> Result<String, String> {
    read_text(path).map_err(|error| format!("{} cannot be read: {error}", path.display()))
}
