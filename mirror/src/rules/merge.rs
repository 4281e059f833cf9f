//! What becomes of a node's own settings and the manager's rules together. Pure.

use darner_proto::id::Role;
use darner_proto::name::RegistryName;
use darner_proto::rules::{LimitRules, Rules, UpstreamRule};
use darner_service::config::{default_connections, is_given, known_url};
use darner_service::settings::{Limits, Upstream};

use crate::upstream::Setup;

/// The registries: those of the node's file as they stand there, then those of the rules, then those
/// that everybody knows.
pub(super) fn setups(own: &[Upstream], role: Role, rules: &Rules) -> Vec<Setup> {
    let all = own.iter();
    let (given, known): (Vec<_>, Vec<_>) = all.partition(|upstream| is_given(upstream, role));
    let is_own = |name: &RegistryName| given.iter().any(|own| own.name == *name);
    let of_rules = rules.upstreams.iter();
    let of_rules = of_rules.filter(|rule| !is_own(&rule.registry));
    let of_rules = of_rules.filter_map(|rule| setup(rule, default_connections(role)));
    let is_ruled = |name: &RegistryName| rules.upstreams.iter().any(|rule| rule.registry == *name);
    let known = known.iter().filter(|known| !is_ruled(&known.name));
    let given = given.iter().copied().map(Setup::from);
    let known = known.copied().map(Setup::from);
    given.chain(of_rules).chain(known).collect()
}

/// `None` for a registry of which nobody says where it is.
fn setup(rule: &UpstreamRule, connections: usize) -> Option<Setup> {
    let known = known_url(&rule.registry).map(str::to_owned);
    let url = rule.url.clone().or(known)?;
    let mut settings = Upstream::new(rule.registry.clone(), url, connections);
    settings.mirrors.clone_from(&rule.mirrors);
    settings.tag_ttl = rule.tag_ttl.unwrap_or(settings.tag_ttl);
    settings.tag_stale = rule.tag_stale.unwrap_or(settings.tag_stale);
    if let Some(most) = rule.max_connections {
        settings.max_connections = usize::try_from(most).unwrap_or(connections);
    }
    Some(Setup {
        settings,
        ca: rule.ca.as_deref().map(Into::into),
        login: rule.login.clone(),
    })
}

/// The node's own limits, and of those that it does not set, the rules'.
pub(super) fn limits(own: &Limits, rules: &LimitRules) -> Limits {
    Limits {
        upload: own.upload.or(rules.upload),
        download: own.download.or(rules.download),
        upstream: own.upstream.or(rules.upstream),
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use darner_proto::rules::Login;
    use darner_service::config::KNOWN;

    use super::*;

    fn settings(given: &[(&str, &str)]) -> Vec<Upstream> {
        let connections = default_connections(Role::Mirror);
        let upstream =
            |(name, url): &(&str, &str)| Upstream::new(name.parse().unwrap(), *url, connections);
        let known = KNOWN
            .iter()
            .filter(|(name, _)| given.iter().all(|(own, _)| own != name));
        given.iter().chain(known).map(upstream).collect()
    }

    fn rule(registry: &str, url: Option<&str>) -> UpstreamRule {
        UpstreamRule {
            registry: registry.parse().unwrap(),
            url: url.map(str::to_owned),
            mirrors: Vec::new(),
            ca: None,
            tag_ttl: None,
            tag_stale: None,
            max_connections: None,
            login: None,
        }
    }

    fn found<'a>(setups: &'a [Setup], name: &str) -> Vec<&'a Setup> {
        let named = |setup: &&Setup| setup.settings.name.as_str() == name;
        setups.iter().filter(named).collect()
    }

    #[test]
    fn the_nodes_own_file_counts_more_and_the_rules_more_than_what_everybody_knows() {
        let own = [
            ("own.example", "https://own.example"),
            ("quay.io", "https://here.example"),
        ];
        let login = Some(Login {
            username: "a".into(),
            password: "b".into(),
        });
        let rules = Rules {
            upstreams: vec![
                rule("own.example", Some("https://other.example")),
                rule("quay.io", Some("https://other.example")),
                UpstreamRule {
                    tag_ttl: Some(Duration::ZERO),
                    max_connections: Some(3),
                    login: login.clone(),
                    ..rule("docker.io", None)
                },
                rule("new.example", Some("https://new.example/prefix")),
                rule("nowhere.example", None),
            ],
            ..Rules::default()
        };
        let setups = setups(&settings(&own), Role::Mirror, &rules);
        let one = |name: &str| match &found(&setups, name)[..] {
            [setup] => (*setup).clone(),
            other => panic!("{name}: {other:?}"),
        };
        assert_eq!(one("own.example").settings.url, "https://own.example");
        assert_eq!(one("quay.io").settings.url, "https://here.example");
        let hub = one("docker.io");
        assert_eq!(hub.settings.url, "https://registry-1.docker.io");
        assert_eq!(hub.settings.tag_ttl, Duration::ZERO);
        assert_eq!((hub.settings.max_connections, hub.login), (3, login));
        assert_eq!(
            one("new.example").settings.url,
            "https://new.example/prefix"
        );
        assert_eq!(one("ghcr.io").settings.url, "https://ghcr.io");
        assert!(found(&setups, "nowhere.example").is_empty());
    }

    #[test]
    fn limits_of_the_node_itself_stay() {
        let own = Limits {
            upload: Some(1),
            ..Limits::default()
        };
        let rules = LimitRules {
            upload: Some(5),
            upstream: Some(7),
            download: None,
        };
        let both = limits(&own, &rules);
        assert_eq!(
            (both.upload, both.download, both.upstream),
            (Some(1), None, Some(7))
        );
    }
}
