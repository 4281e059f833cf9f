//! What a cluster's document means for its nodes. Pure.

use darner_proto::invalid::Invalid;
use darner_proto::name::RegistryName;
use darner_proto::rules::Rules;
use darner_proto::wire;
use darner_service::config::known_url;
use rustls::RootCertStore;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;

use super::passwords::Passwords;
use super::settings::{NodeLimits, NodeRules, RegistryRule};

/// `rules` as nodes take them.
///
/// # Errors
/// What cannot be meant.
pub(super) fn meant(rules: &NodeRules, passwords: &Passwords) -> Result<Rules, Invalid> {
    let mut upstreams = Vec::with_capacity(rules.upstreams.len());
    for rule in &rules.upstreams {
        check(rule)?;
        upstreams.push(upstream(rule, passwords)?);
    }
    let has_user = |registry: &str| {
        let mut rules = rules.upstreams.iter();
        rules.any(|rule| rule.registry == registry && rule.username.is_some())
    };
    if let Some(registry) = passwords.registries().find(|registry| !has_user(registry)) {
        let why = format!("are given for {registry:?}, of which no username is");
        return Err(Invalid::new("passwords", why));
    }
    Rules::try_from(wire::Rules {
        upstreams,
        limits: Some(limits(&rules.limits)?),
        blocked: rules.blocked.clone(),
    })
}

/// What nodes cannot check, or not as well.
fn check(rule: &RegistryRule) -> Result<(), Invalid> {
    let name: RegistryName = rule.registry.parse()?;
    if rule.url.is_none() && known_url(&name).is_none() {
        let why = format!("of {name} is missing: not everybody knows where that is");
        return Err(Invalid::new("url", why));
    }
    if let Some(pem) = &rule.ca {
        let mut roots = RootCertStore::empty();
        let mut count = 0;
        for certificate in CertificateDer::pem_slice_iter(pem.as_bytes()) {
            let added = certificate.map_err(drop);
            let added = added.and_then(|der| roots.add(der).map_err(drop));
            let bad = |()| Invalid::new("ca", format!("of {name} is no certificate in PEM form"));
            added.map_err(bad)?;
            count += 1;
        }
        if count == 0 {
            let why = format!("of {name} holds no certificate in PEM form");
            return Err(Invalid::new("ca", why));
        }
    }
    if rule.max_connections == Some(0) {
        return Err(Invalid::new("max_connections", "is 0"));
    }
    Ok(())
}

fn upstream(rule: &RegistryRule, passwords: &Passwords) -> Result<wire::UpstreamRule, Invalid> {
    let ms = |seconds: u32| u64::from(seconds) * 1000;
    let login = |username: &String| {
        let password = passwords.get(&rule.registry).ok_or_else(|| {
            let why = format!(
                "of {} has none: give it in `passwords`, also after a change of url or username",
                rule.registry
            );
            Invalid::new("username", why)
        })?;
        Ok(wire::Login {
            username: username.clone(),
            password: password.reveal().to_owned(),
        })
    };
    Ok(wire::UpstreamRule {
        registry: rule.registry.clone(),
        url: rule.url.clone().unwrap_or_default(),
        mirrors: rule.mirrors.clone(),
        ca: rule.ca.clone().unwrap_or_default(),
        tag_ttl_ms: rule.tag_ttl_seconds.map(ms),
        tag_stale_ms: rule.tag_stale_seconds.map(ms),
        max_connections: rule.max_connections.unwrap_or(0),
        login: rule.username.as_ref().map(login).transpose()?,
    })
}

fn limits(limits: &NodeLimits) -> Result<wire::LimitRules, Invalid> {
    let rate = |what, rate: Option<u64>| match rate {
        Some(0) => Err(Invalid::new(what, "is 0: leave it out for no limit")),
        rate => Ok(rate.unwrap_or(0)),
    };
    Ok(wire::LimitRules {
        upload: rate("upload", limits.upload)?,
        download: rate("download", limits.download)?,
        upstream: rate("upstream", limits.upstream)?,
    })
}

#[cfg(test)]
mod tests {
    use super::super::passwords::GivenPasswords;
    use super::*;

    fn registry(change: impl FnOnce(&mut RegistryRule)) -> NodeRules {
        let mut rule = RegistryRule {
            registry: "r.example".into(),
            url: Some("https://r.example".into()),
            ..RegistryRule::default()
        };
        change(&mut rule);
        NodeRules {
            upstreams: vec![rule],
            ..NodeRules::default()
        }
    }

    fn given(json: &str) -> Passwords {
        serde_json::from_str::<GivenPasswords>(json).unwrap().into()
    }

    #[test]
    fn a_document_becomes_what_nodes_take() {
        let mut rules = registry(|rule| {
            rule.tag_ttl_seconds = Some(0);
            rule.username = Some("ann".into());
        });
        rules.limits.upload = Some(5);
        rules.blocked = vec!["docker.io/evil/*".into()];
        let rules = meant(&rules, &given(r#"{"r.example": "secret"}"#)).unwrap();
        assert_eq!(rules.upstreams[0].tag_ttl, Some(std::time::Duration::ZERO));
        assert_eq!(
            rules.upstreams[0].login.as_ref().unwrap().password,
            "secret"
        );
        assert_eq!(
            (rules.limits.upload, rules.limits.download),
            (Some(5), None)
        );
        assert_eq!(rules.blocked.len(), 1);
        let known = registry(|rule| {
            rule.registry = "docker.io".into();
            rule.url = None;
        });
        assert!(meant(&known, &Passwords::default()).is_ok());
    }

    #[test]
    fn what_cannot_be_meant_is_named() {
        let refused = |rules: &NodeRules, passwords: &str| {
            meant(rules, &given(passwords)).unwrap_err().to_string()
        };
        let of = |change: fn(&mut RegistryRule)| refused(&registry(change), "{}");
        assert!(of(|rule| rule.url = None).contains("r.example"));
        assert!(of(|rule| rule.ca = Some("none".into())).starts_with("ca"));
        let broken = "-----BEGIN CERTIFICATE-----\naGVsbG8=\n-----END CERTIFICATE-----\n";
        let mut rules = registry(|_| {});
        rules.upstreams[0].ca = Some(broken.into());
        assert!(refused(&rules, "{}").starts_with("ca"));
        assert!(of(|rule| rule.username = Some("ann".into())).contains("passwords"));
        assert!(refused(&registry(|_| {}), r#"{"r.example": "a"}"#).contains("r.example"));
        of(|rule| rule.max_connections = Some(0));
        of(|rule| rule.tag_ttl_seconds = Some(86_401));
        let mut rules = NodeRules::default();
        rules.limits.download = Some(0);
        assert!(refused(&rules, "{}").starts_with("download"));
        rules = NodeRules {
            blocked: vec!["nothing".into()],
            ..NodeRules::default()
        };
        assert!(refused(&rules, "{}").starts_with("blocked"));
    }
}
