//! What the manager sets for the nodes of a cluster: the domain form of `rules.proto`.
//!
//! A value that arrives is bounded and well-formed. What becomes of it is the node's business: its own
//! settings count more.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use url::Url;

use crate::digest::Digest;
use crate::invalid::Invalid;
use crate::name::{RegistryName, Source};
use crate::pattern::is_like;
use crate::wire;

/// Registries that rules may be about: the list travels whole, to every node, on every change.
pub const MAX_UPSTREAMS: usize = 64;
/// Each is given time before the registry itself is asked, and a client waits.
pub const MAX_MIRRORS: usize = 4;
/// What may be blocked; as [`MAX_UPSTREAMS`].
pub const MAX_BLOCKED: usize = 1024;
/// The longest pattern: of the longest registry and repository.
const MAX_PATTERN: usize = 512;
/// The longest URL of a registry.
const MAX_URL: usize = 2048;
/// Authorities of one registry, PEM: a chain of long keys takes some 8 KiB.
pub const MAX_CA: usize = 16 << 10;
/// The longest user name, and the longest password: tokens that stand in for one take some KiB.
const MAX_LOGIN: usize = 4096;
/// Connections of one node to one registry.
pub const MAX_CONNECTIONS: u32 = 1024;
/// A tag's answer is fresh for no longer, and is served for no longer while upstream cannot be asked.
pub const MAX_TAG_TIME: Duration = Duration::from_secs(24 * 60 * 60);

/// What is set for nodes.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Rules {
    /// Registries, each once.
    pub upstreams: Vec<UpstreamRule>,
    /// Of one node.
    pub limits: LimitRules,
    /// What is not served.
    pub blocked: Vec<Blocked>,
}

/// A registry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UpstreamRule {
    /// As clients call it.
    pub registry: RegistryName,
    /// `https://host[:port][/prefix]` or `http://`; `None` for where everybody knows it to be.
    pub url: Option<String>,
    /// Asked before `url`, in this order; written as it is.
    pub mirrors: Vec<String>,
    /// Authorities to trust in place of the system's, PEM.
    pub ca: Option<String>,
    /// How long a tag's answer counts as fresh; 0 asks every time.
    pub tag_ttl: Option<Duration>,
    /// How long it goes on to be served while upstream cannot be asked.
    pub tag_stale: Option<Duration>,
    /// Connections of one node at once.
    pub max_connections: Option<u32>,
    /// Reads with these, where the receiver may.
    pub login: Option<Login>,
}

/// A user's name and password.
#[derive(Clone, PartialEq, Eq)]
pub struct Login {
    /// Without a colon (RFC 7617).
    pub username: String,
    /// Not printed.
    pub password: String,
}

/// Bytes a second of one node; `None` for as many as there are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct LimitRules {
    /// Pieces to other nodes.
    pub upload: Option<u64>,
    /// All that comes to the node.
    pub download: Option<u64>,
    /// What comes from registries.
    pub upstream: Option<u64>,
}

/// What is not served: the content of a digest, or repositories by a pattern.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Blocked {
    /// A manifest, or a blob.
    Digest(Digest),
    /// `registry/repository`, in which `*` stands for anything.
    Repository(String),
}

impl Rules {
    /// Whether content of `digest` is not to be served, whatever it is asked for as.
    pub fn blocks_digest(&self, digest: &Digest) -> bool {
        let mut blocked = self.blocked.iter();
        blocked.any(|blocked| matches!(blocked, Blocked::Digest(of) if of == digest))
    }

    /// Whether nothing of a repository is to be served.
    pub fn blocks_repository(&self, source: &Source) -> bool {
        let name = format!(
            "{}/{}",
            source.registry.as_str(),
            source.repository.as_str()
        );
        self.blocked.iter().any(|blocked| match blocked {
            Blocked::Repository(pattern) => is_like(pattern, &name),
            Blocked::Digest(_) => false,
        })
    }

    /// The same, for those who are not to have anybody's password.
    #[must_use]
    pub fn without_logins(&self) -> Self {
        let upstreams = self.upstreams.iter().map(|upstream| UpstreamRule {
            login: None,
            ..upstream.clone()
        });
        Self {
            upstreams: upstreams.collect(),
            limits: self.limits,
            blocked: self.blocked.clone(),
        }
    }
}

impl FromStr for Blocked {
    type Err = Invalid;

    fn from_str(text: &str) -> Result<Self, Invalid> {
        let bad = |why: &str| Err(Invalid::new("blocked", format!("{text:?} {why}")));
        if let Ok(digest) = text.parse() {
            return Ok(Self::Digest(digest));
        }
        let fits = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
        let fits = |byte: u8| fits(byte) || b"*/.-_:".contains(&byte);
        if text.len() > MAX_PATTERN || !text.bytes().all(fits) {
            return bad("is neither a digest nor registry/repository with * for anything");
        }
        match text.split_once('/') {
            Some((registry, repository)) if !registry.is_empty() && !repository.is_empty() => {
                Ok(Self::Repository(text.to_owned()))
            }
            _ if text == "*" => Ok(Self::Repository(text.to_owned())),
            _ => bad("names no repository: write registry/repository, or registry/*"),
        }
    }
}

impl fmt::Display for Blocked {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Digest(digest) => write!(f, "{digest}"),
            Self::Repository(pattern) => f.write_str(pattern),
        }
    }
}

impl fmt::Debug for Login {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut shown = f.debug_struct("Login");
        shown
            .field("username", &self.username)
            .finish_non_exhaustive()
    }
}

impl From<&Rules> for wire::Rules {
    fn from(rules: &Rules) -> Self {
        Self {
            upstreams: rules.upstreams.iter().map(Into::into).collect(),
            limits: Some(wire::LimitRules {
                upload: rules.limits.upload.unwrap_or(0),
                download: rules.limits.download.unwrap_or(0),
                upstream: rules.limits.upstream.unwrap_or(0),
            }),
            blocked: rules.blocked.iter().map(ToString::to_string).collect(),
        }
    }
}

impl From<&UpstreamRule> for wire::UpstreamRule {
    fn from(rule: &UpstreamRule) -> Self {
        let ms = |time: Duration| u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
        Self {
            registry: rule.registry.as_str().to_owned(),
            url: rule.url.clone().unwrap_or_default(),
            mirrors: rule.mirrors.clone(),
            ca: rule.ca.clone().unwrap_or_default(),
            tag_ttl_ms: rule.tag_ttl.map(ms),
            tag_stale_ms: rule.tag_stale.map(ms),
            max_connections: rule.max_connections.unwrap_or(0),
            login: rule.login.as_ref().map(|login| wire::Login {
                username: login.username.clone(),
                password: login.password.clone(),
            }),
        }
    }
}

impl TryFrom<wire::Rules> for Rules {
    type Error = Invalid;

    fn try_from(rules: wire::Rules) -> Result<Self, Invalid> {
        within("upstreams", rules.upstreams.len(), MAX_UPSTREAMS)?;
        within("blocked", rules.blocked.len(), MAX_BLOCKED)?;
        let upstreams = rules.upstreams.into_iter().map(UpstreamRule::try_from);
        let upstreams: Vec<_> = upstreams.collect::<Result<_, _>>()?;
        for (at, rule) in upstreams.iter().enumerate() {
            if upstreams[..at]
                .iter()
                .any(|other| other.registry == rule.registry)
            {
                let why = format!("{} is there twice", rule.registry.as_str());
                return Err(Invalid::new("upstreams", why));
            }
        }
        let limits = rules.limits.unwrap_or_default();
        let limit = |rate: u64| (rate > 0).then_some(rate);
        let blocked = rules.blocked.iter().map(|blocked| blocked.parse());
        Ok(Self {
            upstreams,
            limits: LimitRules {
                upload: limit(limits.upload),
                download: limit(limits.download),
                upstream: limit(limits.upstream),
            },
            blocked: blocked.collect::<Result<_, _>>()?,
        })
    }
}

impl TryFrom<wire::UpstreamRule> for UpstreamRule {
    type Error = Invalid;

    fn try_from(rule: wire::UpstreamRule) -> Result<Self, Invalid> {
        within("mirrors", rule.mirrors.len(), MAX_MIRRORS)?;
        within(
            "connections",
            rule.max_connections as usize,
            MAX_CONNECTIONS as usize,
        )?;
        let url = given(rule.url).map(|url| registry_url("url", &url));
        let mirrors = rule.mirrors.iter().map(|url| registry_url("mirrors", url));
        Ok(Self {
            registry: rule.registry.parse()?,
            url: url.transpose()?,
            mirrors: mirrors.collect::<Result<_, _>>()?,
            ca: given(rule.ca).map(authorities).transpose()?,
            tag_ttl: rule
                .tag_ttl_ms
                .map(|ms| tag_time("tag_ttl", ms))
                .transpose()?,
            tag_stale: rule
                .tag_stale_ms
                .map(|ms| tag_time("tag_stale", ms))
                .transpose()?,
            max_connections: (rule.max_connections > 0).then_some(rule.max_connections),
            login: rule.login.map(Login::try_from).transpose()?,
        })
    }
}

impl TryFrom<wire::Login> for Login {
    type Error = Invalid;

    fn try_from(login: wire::Login) -> Result<Self, Invalid> {
        let wire::Login { username, password } = login;
        if username.is_empty() || username.len() > MAX_LOGIN || username.contains(':') {
            let why = "is empty, has a colon (which ends a user's name) or is too long";
            return Err(Invalid::new("username", why));
        }
        if password.is_empty() || password.len() > MAX_LOGIN {
            return Err(Invalid::new("password", "is empty or too long"));
        }
        Ok(Self { username, password })
    }
}

/// `http` or `https`, a host, perhaps a port and a path, and nothing else; without a slash at the end.
fn registry_url(what: &'static str, text: &str) -> Result<String, Invalid> {
    let bad = |why: &str| {
        Err(Invalid::new(
            what,
            format!("{:?} {why}", crate::file::shown(text)),
        ))
    };
    let Ok(url) = Url::parse(text) else {
        return bad("is not a URL such as https://registry.example");
    };
    if text.len() > MAX_URL || !matches!(url.scheme(), "http" | "https") || !url.has_host() {
        return bad("is not a URL such as https://registry.example");
    }
    if !url.username().is_empty() || url.password().is_some() {
        return Err(Invalid::new(what, "has a user or a password in it"));
    }
    if url.query().is_some() || url.fragment().is_some() {
        return bad("has a query or a fragment, which means nothing here");
    }
    Ok(url.as_str().trim_end_matches('/').to_owned())
}

fn authorities(pem: String) -> Result<String, Invalid> {
    let fits = pem.len() <= MAX_CA && pem.contains("-----BEGIN CERTIFICATE-----");
    if !fits {
        let why = "is no certificate in PEM form, or longer than 16 KiB";
        return Err(Invalid::new("ca", why));
    }
    Ok(pem)
}

fn tag_time(what: &'static str, ms: u64) -> Result<Duration, Invalid> {
    let time = Duration::from_millis(ms);
    if time > MAX_TAG_TIME {
        return Err(Invalid::new(what, "is more than 24 hours"));
    }
    Ok(time)
}

fn given(text: String) -> Option<String> {
    (!text.is_empty()).then_some(text)
}

fn within(what: &'static str, count: usize, most: usize) -> Result<(), Invalid> {
    match count <= most {
        true => Ok(()),
        false => Err(Invalid::new(what, format!("are {count}, more than {most}"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rules() -> Rules {
        Rules {
            upstreams: vec![UpstreamRule {
                registry: "registry.example:5000".parse().unwrap(),
                url: Some("https://registry.example/prefix".to_owned()),
                mirrors: vec!["http://10.0.0.1:5000".to_owned()],
                ca: Some("-----BEGIN CERTIFICATE-----\n".to_owned()),
                tag_ttl: Some(Duration::ZERO),
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
            blocked: vec!["docker.io/evil/*".parse().unwrap()],
        }
    }

    #[test]
    fn rules_survive_the_wire_and_tell_no_password() {
        let wire = wire::Rules::from(&rules());
        assert_eq!(Rules::try_from(wire).unwrap(), rules());
        assert!(!format!("{:?}", rules()).contains("canary"));
        let without = rules().without_logins();
        assert_eq!(without.upstreams[0].login, None);
        assert_eq!(without.upstreams[0].url, rules().upstreams[0].url);
    }

    #[test]
    fn what_is_blocked_is_a_digest_or_repositories() {
        let digest = Digest::sha256(b"a");
        let rules = Rules {
            blocked: ["docker.io/evil/*", "quay.io/a/b", &digest.to_string()]
                .iter()
                .map(|text| text.parse().unwrap())
                .collect(),
            ..Rules::default()
        };
        let source = |registry: &str, repository: &str| Source {
            registry: registry.parse().unwrap(),
            repository: repository.parse().unwrap(),
        };
        assert!(rules.blocks_repository(&source("docker.io", "evil/a")));
        assert!(rules.blocks_repository(&source("quay.io", "a/b")));
        assert!(!rules.blocks_repository(&source("quay.io", "a/bc")));
        assert!(!rules.blocks_repository(&source("ghcr.io", "evil/a")));
        assert!(rules.blocks_digest(&digest));
        assert!(!rules.blocks_digest(&Digest::sha256(b"b")));
        for bad in ["", "docker.io", "/a", "a/", "a b/c", "A/b"] {
            assert!(bad.parse::<Blocked>().is_err(), "{bad}");
        }
    }

    #[test]
    fn what_cannot_be_is_refused() {
        let refused = |change: fn(&mut wire::Rules)| {
            let mut wire = wire::Rules::from(&rules());
            change(&mut wire);
            Rules::try_from(wire).unwrap_err().to_string()
        };
        let twice = refused(|rules| rules.upstreams.push(rules.upstreams[0].clone()));
        assert!(twice.contains("twice"), "{twice}");
        let url = refused(|rules| rules.upstreams[0].url = "https://u:canary@h".to_owned());
        assert!(url.contains("password") && !url.contains("canary"), "{url}");
        refused(|rules| rules.upstreams[0].url = "ftp://h".to_owned());
        refused(|rules| rules.upstreams[0].url = "https://h/?a=b".to_owned());
        refused(|rules| rules.upstreams[0].registry = "A B".to_owned());
        refused(|rules| rules.upstreams[0].ca = "none".to_owned());
        refused(|rules| rules.upstreams[0].tag_ttl_ms = Some(u64::MAX));
        refused(|rules| rules.upstreams[0].max_connections = 5000);
        refused(|rules| rules.upstreams[0].mirrors = vec!["http://a".to_owned(); 5]);
        refused(|rules| rules.upstreams[0].login.as_mut().unwrap().username = "a:b".to_owned());
        refused(|rules| rules.upstreams[0].login.as_mut().unwrap().password = String::new());
        refused(|rules| rules.blocked = vec!["a/b".to_owned(); 2000]);
    }
}
