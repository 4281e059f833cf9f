//! Docker's `config.json`, Kubernetes' `.dockerconfigjson` and the older `.dockercfg`: which entry is
//! a registry's. Pure.

use std::collections::HashMap;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use darner_service::secret::Secret;
use serde::Deserialize;

use super::Login;

/// A file's content. It has no way to be printed.
#[derive(Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(super) struct DockerConfig {
    auths: HashMap<String, Auth>,
    cred_helpers: HashMap<String, String>,
    creds_store: Option<String>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Auth {
    auth: String,
    username: String,
    password: String,
    identitytoken: String,
    registrytoken: String,
}

/// What a file says of a registry.
#[derive(Debug)]
pub(super) enum Entry {
    Login(Login),
    /// The helper of this name knows.
    Helper(String),
}

impl DockerConfig {
    /// `None` for what is not of the format.
    pub(super) fn parse(json: &[u8]) -> Option<Self> {
        let value: serde_json::Value = serde_json::from_slice(json).ok()?;
        let known = ["auths", "credHelpers", "credsStore"];
        let object = value.as_object()?;
        let new = object.is_empty() || known.iter().any(|key| object.contains_key(*key));
        if new {
            return serde_json::from_value(value).ok();
        }
        // The older file is what is now below "auths". Other settings of Docker's have another shape.
        let auths = serde_json::from_value(value).unwrap_or_default();
        Some(Self {
            auths,
            ..Self::default()
        })
    }

    /// The entry for a repository of a registry that is called any of `hosts`: a helper of its own,
    /// else the entry with the longest path, else the store for all.
    pub(super) fn find(&self, hosts: &[String], repository: &str) -> Option<Entry> {
        for host in hosts {
            let helper = self.cred_helpers.iter();
            let mut helper = helper.filter(|(key, _)| parts(key) == (host.as_str(), ""));
            if let Some((_, name)) = helper.next() {
                return is_name(name).then(|| Entry::Helper(name.clone()));
            }
        }
        let best = self.auths.iter().filter_map(|(key, auth)| {
            let rank = rank(key, hosts, repository)?;
            Some((rank, auth.login()?))
        });
        let best = best.max_by_key(|(rank, _)| *rank);
        if let Some((_, login)) = best {
            return Some(Entry::Login(login));
        }
        let store = self.creds_store.as_ref().filter(|name| is_name(name));
        store.cloned().map(Entry::Helper)
    }
}

impl Auth {
    fn login(&self) -> Option<Login> {
        if !self.registrytoken.is_empty() {
            return Some(Login::Bearer(Secret::new(&self.registrytoken)));
        }
        if !self.identitytoken.is_empty() {
            return Some(Login::Identity(Secret::new(&self.identitytoken)));
        }
        if self.auth.is_empty() {
            return password(&self.username, &self.password);
        }
        let decoded = STANDARD.decode(self.auth.trim()).ok()?;
        let decoded = String::from_utf8(decoded).ok()?;
        let (username, secret) = decoded.split_once(':')?;
        // Docker pads what it writes with zeros.
        password(username, secret.trim_end_matches('\0'))
    }
}

fn password(username: &str, password: &str) -> Option<Login> {
    (!username.is_empty()).then(|| Login::Password {
        username: username.to_owned(),
        password: Secret::new(password),
    })
}

/// How well a key fits: an exact host before a pattern, then by the length of its path.
fn rank(key: &str, hosts: &[String], repository: &str) -> Option<(bool, usize)> {
    let (host, path) = parts(key);
    let exact = hosts.iter().any(|known| known == host);
    if !exact && !hosts.iter().any(|known| matches(host, known)) {
        return None;
    }
    let rest = repository.strip_prefix(path)?;
    let fits = path.is_empty() || rest.is_empty() || rest.starts_with('/');
    fits.then_some((exact, path.len()))
}

/// A key's host and path: `https://index.docker.io/v1/` is a host alone.
fn parts(key: &str) -> (&str, &str) {
    let key = key.split_once("://").map_or(key, |(_, rest)| rest);
    let (host, path) = key.split_once('/').unwrap_or((key, ""));
    let path = path.trim_matches('/');
    match path {
        "v1" | "v2" => (host, ""),
        path => (host, path),
    }
}

/// Kubernetes' patterns: `*` within a label, as many labels as the host has.
fn matches(pattern: &str, host: &str) -> bool {
    let (labels, parts) = (host.split('.'), pattern.split('.'));
    pattern.contains('*')
        && labels.clone().count() == parts.clone().count()
        && parts
            .zip(labels)
            .all(|(part, label)| match part.split_once('*') {
                None => part == label,
                Some((before, after)) => {
                    label.len() >= before.len() + after.len()
                        && label.starts_with(before)
                        && label.ends_with(after)
                }
            })
}

fn is_name(name: &str) -> bool {
    let fits = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
    !name.is_empty() && name.bytes().all(fits)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn find(json: &str, hosts: &[&str], repository: &str) -> Option<String> {
        let hosts: Vec<_> = hosts.iter().map(|host| (*host).to_owned()).collect();
        let entry = DockerConfig::parse(json.as_bytes())?.find(&hosts, repository)?;
        Some(match entry {
            Entry::Helper(name) => format!("helper {name}"),
            Entry::Login(Login::Password { username, password }) => {
                format!("{username} {}", password.reveal())
            }
            Entry::Login(Login::Identity(token)) => format!("identity {}", token.reveal()),
            Entry::Login(Login::Bearer(token)) => format!("bearer {}", token.reveal()),
        })
    }

    #[test]
    fn every_form_of_entry_is_read() {
        // "me:pw" and "me:p:w" with Docker's padding.
        for (entry, expected) in [
            (r#"{"auth":"bWU6cHc="}"#, Some("me pw")),
            (r#"{"auth":"bWU6cDp3AAA="}"#, Some("me p:w")),
            (r#"{"username":"me","password":"pw"}"#, Some("me pw")),
            (
                r#"{"auth":"bWU6cHc=","identitytoken":"t"}"#,
                Some("identity t"),
            ),
            (r#"{"registrytoken":"t"}"#, Some("bearer t")),
            (r#"{"auth":"not base64"}"#, None),
            ("{}", None),
        ] {
            for json in [
                format!(r#"{{"auths":{{"r.test":{entry}}},"HttpHeaders":{{"a":"b"}}}}"#),
                format!(r#"{{"https://r.test/v1/":{entry}}}"#),
            ] {
                assert_eq!(find(&json, &["r.test"], "a").as_deref(), expected, "{json}");
            }
        }
    }

    #[test]
    fn the_closest_entry_counts() {
        let user = |name: &str| format!(r#"{{"username":"{name}","password":"x"}}"#);
        let json = format!(
            r#"{{"auths":{{"https://index.docker.io/v1/":{},"r.test":{},"r.test/team":{},"*.azurecr.test":{},"r.test:5000":{}}}}}"#,
            user("hub"),
            user("all"),
            user("team"),
            user("azure"),
            user("port")
        );
        let user = |hosts: &[&str], repository| {
            let found = find(&json, hosts, repository)?;
            Some(found.split(' ').next()?.to_owned())
        };
        assert_eq!(
            user(&["index.docker.io"], "library/x").as_deref(),
            Some("hub")
        );
        assert_eq!(user(&["r.test"], "other/x").as_deref(), Some("all"));
        assert_eq!(user(&["r.test"], "team/x").as_deref(), Some("team"));
        assert_eq!(user(&["r.test"], "teams").as_deref(), Some("all"));
        assert_eq!(user(&["r.test:5000"], "team/x").as_deref(), Some("port"));
        assert_eq!(user(&["me.azurecr.test"], "x").as_deref(), Some("azure"));
        assert_eq!(user(&["a.b.azurecr.test"], "x"), None);
        assert_eq!(user(&["r.test.evil.test"], "x"), None);
    }

    #[test]
    fn helpers_come_before_entries_and_the_store_after_them() {
        let json = r#"{"auths":{"a.test":{"username":"u","password":"p"}},"credHelpers":{"b.test":"ecr-login","c.test":"../evil"},"credsStore":"pass"}"#;
        assert_eq!(find(json, &["a.test"], "x").as_deref(), Some("u p"));
        assert_eq!(
            find(json, &["b.test"], "x").as_deref(),
            Some("helper ecr-login")
        );
        assert_eq!(find(json, &["c.test"], "x"), None);
        assert_eq!(find(json, &["d.test"], "x").as_deref(), Some("helper pass"));
    }

    proptest! {
        #[test]
        fn any_bytes_are_taken(bytes in prop::collection::vec(any::<u8>(), 0..80), key in "[ -~]{0,20}") {
            let _ = DockerConfig::parse(&bytes);
            let json = serde_json::json!({"auths": {key: {"auth": "bWU6cHc="}}});
            let config = DockerConfig::parse(json.to_string().as_bytes()).unwrap();
            let _ = config.find(&["r.test".to_owned()], "a/b");
        }
    }
}
