//! What a client asks for, parsed from the method, path and query as they came: pure.
//!
//! Nothing beyond this parser sees a path. Names that pass are of the specification's grammar, and
//! the registry is one that may be contacted.

use std::fmt;

use axum::http::{HeaderMap, Method, StatusCode, Uri, header};
use darner_proto::digest::Digest;
use darner_proto::name::{Reference, RegistryName, RepositoryName, Source};

use super::refusal::{Code, Refusal};

/// Longer paths and queries have no use.
const MAX_URI: usize = 4 << 10;
/// What clients and users call Docker Hub.
const HUB: &str = "docker.io";
const HUB_ALIASES: [&str; 2] = ["index.docker.io", "registry-1.docker.io"];
/// Where Docker Hub keeps what has a name of one part.
const HUB_LIBRARY: &str = "library/";

/// A request that makes sense.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Asked {
    /// Whether this is a registry at all.
    Ping,
    /// Something in a repository.
    Of(Question),
}

/// What is asked about a repository.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Question {
    pub(super) source: Source,
    pub(super) object: Object,
    /// The registry as the `ns` parameter named it, to be echoed.
    pub(super) namespace: Option<String>,
    /// Query parameters other than `ns`, encoded anew.
    pub(super) query: Option<String>,
}

/// Something that a repository has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Object {
    Manifest(Reference),
    Blob(Digest),
    Tags,
    Referrers(Digest),
}

/// As in a path.
impl fmt::Display for Object {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Manifest(reference) => write!(f, "manifests/{reference}"),
            Self::Blob(digest) => write!(f, "blobs/{digest}"),
            Self::Tags => f.write_str("tags/list"),
            Self::Referrers(digest) => write!(f, "referrers/{digest}"),
        }
    }
}

/// The registries that requests can mean.
#[derive(Debug, Clone, Copy)]
pub(super) struct Registries<'a, F> {
    /// Whether this one may be contacted.
    pub(super) known: F,
    /// The one meant by requests that name none.
    pub(super) default: &'a RegistryName,
}

/// Refuses what no path can make right: writing methods, and bodies where none can be.
pub(super) fn check_method(method: &Method, headers: &HeaderMap) -> Result<(), Refusal> {
    if method != Method::GET && method != Method::HEAD {
        let message = "this mirror is read-only; push to the registry itself";
        // The body that comes with a write is not read.
        return Err(
            Refusal::new(StatusCode::METHOD_NOT_ALLOWED, Code::Unsupported, message).and_close(),
        );
    }
    let mut lengths = headers.get_all(header::CONTENT_LENGTH).iter();
    if headers.contains_key(header::TRANSFER_ENCODING) || lengths.any(|length| length != "0") {
        let message = "a request without a body was expected";
        return Err(Refusal::new(StatusCode::BAD_REQUEST, Code::Unsupported, message).and_close());
    }
    Ok(())
}

/// Understands a path and query.
pub(super) fn parse<F>(uri: &Uri, registries: Registries<'_, F>) -> Result<Asked, Refusal>
where
    F: Fn(&RegistryName) -> bool,
{
    if uri
        .path_and_query()
        .is_some_and(|text| text.as_str().len() > MAX_URI)
    {
        let message = "the path and query are longer than 4 KiB";
        return Err(Refusal::new(
            StatusCode::URI_TOO_LONG,
            Code::NameInvalid,
            message,
        ));
    }
    if is_ping(uri.path()) {
        return Ok(Asked::Ping);
    }
    let Some(rest) = uri.path().strip_prefix("/v2/") else {
        let message = "paths begin with /v2/";
        return Err(Refusal::new(
            StatusCode::NOT_FOUND,
            Code::Unsupported,
            message,
        ));
    };
    let rest = decode(rest)?;
    let (name, object) = split(&rest)?;
    let (namespace, query) = split_query(uri.query().unwrap_or_default())?;
    let source = source(name, namespace.as_deref(), registries)?;
    Ok(Asked::Of(Question {
        source,
        object: object.parse()?,
        namespace,
        query,
    }))
}

/// Whether a path asks if this is a registry at all.
pub(super) fn is_ping(path: &str) -> bool {
    matches!(path, "/v2" | "/v2/")
}

/// Undoes the one escape that clients put into these paths: the colon of a digest or a port.
fn decode(path: &str) -> Result<String, Refusal> {
    let plain = path.replace("%3A", ":").replace("%3a", ":");
    if plain.contains('%') {
        let message = "the path has escaped characters, which no name has";
        return Err(Refusal::new(
            StatusCode::BAD_REQUEST,
            Code::NameInvalid,
            message,
        ));
    }
    Ok(plain)
}

/// The last part of a path, not yet checked.
enum Unchecked<'a> {
    Manifest(&'a str),
    Blob(&'a str),
    Tags,
    Referrers(&'a str),
}

/// Divides a path at the last place it can be divided: any of the words can stand in a name too.
fn split(path: &str) -> Result<(&str, Unchecked<'_>), Refusal> {
    if let Some(name) = path.strip_suffix("/tags/list") {
        return Ok((name, Unchecked::Tags));
    }
    let at = |word: &str| path.rfind(word).map(|place| (place, word.len()));
    let words = ["/manifests/", "/blobs/", "/referrers/"];
    let last = words.iter().filter_map(|word| at(word)).max();
    let Some((place, length)) = last else {
        let message = "the path is neither a manifest's, a blob's, tags/list nor referrers";
        return Err(Refusal::new(
            StatusCode::NOT_FOUND,
            Code::Unsupported,
            message,
        ));
    };
    let (name, word, rest) = (
        &path[..place],
        &path[place..place + length],
        &path[place + length..],
    );
    Ok((
        name,
        match word {
            "/manifests/" => Unchecked::Manifest(rest),
            "/blobs/" => Unchecked::Blob(rest),
            _ => Unchecked::Referrers(rest),
        },
    ))
}

impl Unchecked<'_> {
    fn parse(self) -> Result<Object, Refusal> {
        let digest = |text: &str| {
            text.parse::<Digest>().map_err(|invalid| {
                let message = invalid.to_string();
                Refusal::new(StatusCode::BAD_REQUEST, Code::DigestInvalid, message)
            })
        };
        Ok(match self {
            Self::Manifest(text) if text.contains(':') => {
                Object::Manifest(Reference::Digest(digest(text)?))
            }
            // The specification's own test suite wants "no such manifest" for a tag that cannot be.
            Self::Manifest(text) => Object::Manifest(
                text.parse()
                    .map_err(|invalid| Refusal::no_manifest(format!("{invalid}")))?,
            ),
            Self::Blob(text) => Object::Blob(digest(text)?),
            Self::Tags => Object::Tags,
            Self::Referrers(text) => Object::Referrers(digest(text)?),
        })
    }
}

/// The `ns` parameter, and everything else.
fn split_query(query: &str) -> Result<(Option<String>, Option<String>), Refusal> {
    let mut namespace = None;
    let mut others = url::form_urlencoded::Serializer::new(String::new());
    for (name, value) in url::form_urlencoded::parse(query.as_bytes()) {
        if name != "ns" {
            others.append_pair(&name, &value);
        } else if namespace.replace(value.into_owned()).is_some() {
            return Err(bad_name("the parameter ns stands twice"));
        }
    }
    let others = others.finish();
    Ok((namespace, (!others.is_empty()).then_some(others)))
}

/// Which repository of which registry is meant: the one that `ns` names, else the one that begins
/// the path, else the default one.
fn source<F>(
    path: &str,
    namespace: Option<&str>,
    registries: Registries<'_, F>,
) -> Result<Source, Refusal>
where
    F: Fn(&RegistryName) -> bool,
{
    let first = path.split_once('/');
    let prefix = first.and_then(|(first, rest)| Some((registry(first).ok()?, rest)));
    let (registry, repository) = match namespace {
        Some(text) => {
            let named = registry(text)?;
            // containerd's `override_path` can name the registry in both places.
            match prefix {
                Some((prefix, rest)) if prefix == named => (named, rest),
                _ => (named, path),
            }
        }
        None => match prefix {
            Some((prefix, rest)) if (registries.known)(&prefix) => (prefix, rest),
            _ => (registries.default.clone(), path),
        },
    };
    if !(registries.known)(&registry) {
        let message = format!("{registry} is not a registry this mirror is configured for");
        return Err(Refusal::new(
            StatusCode::NOT_FOUND,
            Code::NameUnknown,
            message,
        ));
    }
    let repository = if registry.as_str() == HUB && !repository.contains('/') {
        format!("{HUB_LIBRARY}{repository}")
    } else {
        repository.to_owned()
    };
    let repository: RepositoryName = repository
        .parse()
        .map_err(|invalid| bad_name(format!("{invalid}")))?;
    Ok(Source {
        registry,
        repository,
    })
}

fn registry(text: &str) -> Result<RegistryName, Refusal> {
    let text = if HUB_ALIASES.contains(&text) {
        HUB
    } else {
        text
    };
    text.parse()
        .map_err(|invalid| bad_name(format!("{invalid}")))
}

fn bad_name(message: impl Into<String>) -> Refusal {
    Refusal::new(StatusCode::BAD_REQUEST, Code::NameInvalid, message)
}

#[cfg(test)]
mod tests;
