//! Which cluster a host is of, decided without clock, network or disk.
//!
//! A host says its labels and its address itself. They decide which schedulers and seeds it hears of, not
//! what it may do: that is its certificate's.

use std::net::IpAddr;
use std::str::FromStr as _;
use std::sync::Arc;

use darner_proto::id::Host;
use darner_proto::invalid::Invalid;
use darner_proto::manager::Configuration;
use darner_proto::pattern::is_like;
use darner_proto::rules::Rules;
use ipnet::IpNet;

use super::passwords::Passwords;
use super::rules;
use super::settings::{ClusterSettings, MemberRule};

/// The cluster of whoever fits no other.
pub const DEFAULT: &str = "default";
/// Room for as many clusters as there may be, between any two of them.
const MAX_POSITION: u32 = 1_000_000;
/// Networks, hosts, and labels of one rule.
const MAX_FITS: usize = 64;
/// The longest of each.
const MAX_TEXT: usize = 253;

/// The clusters that people have made, in the order they are looked through.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ClusterSet {
    clusters: Vec<Arc<Cluster>>,
    /// What is set for whoever fits none of them.
    others: Told,
}

/// A cluster.
#[derive(Debug, PartialEq, Eq)]
pub struct Cluster {
    /// Its name.
    pub name: String,
    position: u32,
    fits: Fits,
    told: Told,
}

/// What is set for nodes.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
struct Told {
    /// For those who read upstream for others.
    with_logins: Arc<Rules>,
    /// The same for everybody else.
    without: Arc<Rules>,
}

/// [`MemberRule`], as it is meant.
#[derive(Debug, Default, PartialEq, Eq)]
struct Fits {
    networks: Vec<IpNet>,
    rule: MemberRule,
}

impl Cluster {
    /// The cluster `name`, as set.
    ///
    /// # Errors
    /// What cannot be meant.
    pub fn new(
        name: &str,
        settings: &ClusterSettings,
        passwords: &Passwords,
    ) -> Result<Self, Invalid> {
        let fits = Fits::new(&settings.members)?;
        let says_nothing = fits.rule == MemberRule::default();
        if name == DEFAULT && !says_nothing {
            let why = format!("of {DEFAULT:?} are those that fit no other");
            return Err(Invalid::new("members", why));
        }
        if name != DEFAULT && says_nothing {
            let why = "are empty: say by networks, hosts or labels which hosts are of it";
            return Err(Invalid::new("members", why));
        }
        if settings.position > MAX_POSITION {
            let why = format!("is more than {MAX_POSITION}");
            return Err(Invalid::new("position", why));
        }
        Ok(Self {
            name: name.to_owned(),
            position: settings.position,
            fits,
            told: Told::new(rules::meant(&settings.rules, passwords)?),
        })
    }
}

impl ClusterSet {
    /// These, and the one of all others.
    pub fn new(clusters: impl IntoIterator<Item = Cluster>) -> Self {
        let all = clusters.into_iter().map(Arc::new);
        let (others, mut clusters): (Vec<_>, Vec<_>) =
            all.partition(|cluster| cluster.name == DEFAULT);
        let others = others.first().map(|cluster| cluster.told.clone());
        clusters.sort_by(|one, other| {
            let key = |cluster: &Cluster| (cluster.position, cluster.name.clone());
            key(one).cmp(&key(other))
        });
        Self {
            clusters,
            others: others.unwrap_or_default(),
        }
    }

    /// The name of the one that a host is of.
    pub fn of(&self, host: &Host) -> &str {
        self.find(host).map_or(DEFAULT, |cluster| &cluster.name)
    }

    /// Whether there is one of this name.
    pub fn has(&self, name: &str) -> bool {
        name == DEFAULT || self.clusters.iter().any(|cluster| cluster.name == name)
    }

    fn find(&self, host: &Host) -> Option<&Arc<Cluster>> {
        self.clusters.iter().find(|cluster| cluster.fits.fit(host))
    }

    /// Of what is told to all, what a host is told: the schedulers and seeds of its own cluster, and what
    /// is set for its nodes, with logins for who `reads` upstream for others. Who says nothing of itself is
    /// of [`DEFAULT`].
    pub fn narrow(
        &self,
        all: &Arc<Configuration>,
        host: Option<&Host>,
        reads: bool,
    ) -> Arc<Configuration> {
        if *self == Self::default() {
            return all.clone();
        }
        let own = host.and_then(|host| self.find(host));
        let told = own.map_or(&self.others, |cluster| &cluster.told);
        let own = own.map_or(DEFAULT, |cluster| &cluster.name);
        let of_own = |hosts: &[Host]| {
            let hosts = hosts.iter().filter(|host| self.of(host) == own);
            hosts.cloned().collect()
        };
        Arc::new(Configuration {
            version: all.version,
            schedulers: of_own(&all.schedulers),
            seeds: of_own(&all.seeds),
            trust: all.trust.clone(),
            rules: if reads {
                &told.with_logins
            } else {
                &told.without
            }
            .clone(),
        })
    }
}

impl Told {
    fn new(rules: Rules) -> Self {
        Self {
            without: Arc::new(rules.without_logins()),
            with_logins: Arc::new(rules),
        }
    }
}

impl Fits {
    fn new(rule: &MemberRule) -> Result<Self, Invalid> {
        let labels = rule.labels.iter().flat_map(|(name, value)| [name, value]);
        let texts = rule.hosts.iter().chain(labels);
        for text in texts.chain(&rule.networks) {
            if text.is_empty() || text.len() > MAX_TEXT {
                let why = format!("{text:?} is empty or too long");
                return Err(Invalid::new("members", why));
            }
        }
        let most = [rule.networks.len(), rule.hosts.len(), rule.labels.len()];
        if most.iter().any(|count| *count > MAX_FITS) {
            let why = format!("have more than {MAX_FITS} of a kind");
            return Err(Invalid::new("members", why));
        }
        let network = |text: &String| {
            let bad = |_| {
                let why = format!("{text:?} is no network such as 10.1.0.0/16");
                Invalid::new("networks", why)
            };
            IpNet::from_str(text).map(|net| net.trunc()).map_err(bad)
        };
        Ok(Self {
            networks: rule
                .networks
                .iter()
                .map(network)
                .collect::<Result<_, _>>()?,
            rule: rule.clone(),
        })
    }

    fn fit(&self, host: &Host) -> bool {
        let MemberRule { hosts, labels, .. } = &self.rule;
        let id = host.id.as_str();
        let of_host = hosts.is_empty() || hosts.iter().any(|pattern| is_like(pattern, id));
        let has = |(name, value): (&String, &String)| {
            let told = host.labels.get(name);
            told.is_some_and(|told| is_like(value, told))
        };
        of_host && labels.iter().all(has) && self.is_at(host)
    }

    fn is_at(&self, host: &Host) -> bool {
        if self.networks.is_empty() {
            return true;
        }
        let address = host.address.rsplit_once(':').map_or("", |(at, _)| at);
        let address = address.trim_start_matches('[').trim_end_matches(']');
        let Ok(address) = address.parse::<IpAddr>() else {
            return false;
        };
        let address = address.to_canonical();
        self.networks
            .iter()
            .any(|network| network.contains(&address))
    }
}

#[cfg(test)]
mod tests {
    use darner_proto::id::Role;

    use super::super::passwords::GivenPasswords;
    use super::super::settings::{NodeRules, RegistryRule};
    use super::*;

    fn host(id: &str, address: &str, labels: &[(&str, &str)]) -> Host {
        let labels = labels.iter();
        Host {
            id: id.parse().unwrap(),
            address: address.to_owned(),
            role: Role::Mirror,
            labels: labels
                .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
                .collect(),
            signing_key: None,
            upload_slots: 16,
        }
    }

    fn cluster(name: &str, position: u32, members: MemberRule) -> Cluster {
        let settings = ClusterSettings {
            position,
            members,
            ..ClusterSettings::default()
        };
        Cluster::new(name, &settings, &Passwords::default()).unwrap()
    }

    fn rule(networks: &[&str], hosts: &[&str], labels: &[(&str, &str)]) -> MemberRule {
        let all = |texts: &[&str]| texts.iter().map(|text| (*text).to_owned()).collect();
        MemberRule {
            networks: all(networks),
            hosts: all(hosts),
            labels: host("a", "a:1", labels).labels,
        }
    }

    #[test]
    fn a_host_is_of_the_first_cluster_that_it_fits() {
        let set = ClusterSet::new([
            cluster("edge", 2, rule(&["10.1.0.0/16", "fd00::/8"], &[], &[])),
            cluster("gpu", 1, rule(&[], &["gpu-*"], &[])),
            cluster(
                "west",
                2,
                rule(&["10.2.0.0/16"], &[], &[("zone", "west-*")]),
            ),
        ]);
        let of = |host: &Host| set.of(host).to_owned();
        assert_eq!(of(&host("a", "10.1.7.7:7421", &[])), "edge");
        assert_eq!(of(&host("a", "[fd00::1]:7421", &[])), "edge");
        assert_eq!(of(&host("a", "[::ffff:10.1.2.3]:7421", &[])), "edge");
        assert_eq!(of(&host("gpu-1", "10.1.7.7:7421", &[])), "gpu");
        assert_eq!(
            of(&host("a", "10.2.0.1:7421", &[("zone", "west-1")])),
            "west"
        );
        assert_eq!(
            of(&host("a", "10.2.0.1:7421", &[("zone", "east")])),
            DEFAULT
        );
        assert_eq!(
            of(&host("a", "10.3.0.1:7421", &[("zone", "west-1")])),
            DEFAULT
        );
        assert_eq!(of(&host("a", "name.example:7421", &[])), DEFAULT);
    }

    #[test]
    fn a_host_hears_of_its_own_schedulers_and_seeds() {
        let gpu = [("zone", "gpu")];
        let seeds = vec![host("a", "a:1", &[]), host("b", "b:1", &gpu)];
        let all = Arc::new(Configuration {
            version: 7,
            seeds: seeds.clone(),
            schedulers: seeds,
            ..Configuration::default()
        });
        let ids = |told: &Configuration| {
            let both = told.seeds.iter().chain(&told.schedulers);
            both.map(|host| host.id.to_string()).collect::<Vec<_>>()
        };
        let none = ClusterSet::default();
        assert!(Arc::ptr_eq(&none.narrow(&all, None, true), &all));
        let set = ClusterSet::new([cluster("gpu", 1, rule(&[], &[], &gpu))]);
        let told = set.narrow(&all, Some(&host("c", "c:1", &gpu)), false);
        assert_eq!(
            (ids(&told), told.version),
            (vec!["b".into(), "b".into()], 7)
        );
        let other = set.narrow(&all, Some(&host("c", "c:1", &[])), false);
        assert_eq!(ids(&other), ["a", "a"]);
        assert_eq!(set.narrow(&all, None, false), other);
    }

    #[test]
    fn nodes_are_told_what_is_set_for_theirs_and_seeds_the_passwords_too() {
        let settings = |members: MemberRule, registry: &str| ClusterSettings {
            members,
            rules: NodeRules {
                upstreams: vec![RegistryRule {
                    registry: registry.to_owned(),
                    url: Some(format!("https://{registry}")),
                    username: Some("ann".to_owned()),
                    ..RegistryRule::default()
                }],
                ..NodeRules::default()
            },
            ..ClusterSettings::default()
        };
        let made = |name: &str, members, registry: &str| {
            let given = format!(r#"{{"{registry}": "secret"}}"#);
            let given: GivenPasswords = serde_json::from_str(&given).unwrap();
            Cluster::new(name, &settings(members, registry), &given.into()).unwrap()
        };
        let gpu = [("zone", "gpu")];
        let set = ClusterSet::new([
            made("gpu", rule(&[], &[], &gpu), "gpu.example"),
            made(DEFAULT, MemberRule::default(), "all.example"),
        ]);
        assert_eq!(set.of(&host("a", "a:1", &[])), DEFAULT);
        let all = Arc::new(Configuration::default());
        let told = |labels: &[(&str, &str)], reads| {
            let told = set.narrow(&all, Some(&host("a", "a:1", labels)), reads);
            let upstream = told.rules.upstreams[0].clone();
            (upstream.registry.to_string(), upstream.login.is_some())
        };
        assert_eq!(told(&gpu, false), ("gpu.example".to_owned(), false));
        assert_eq!(told(&gpu, true), ("gpu.example".to_owned(), true));
        assert_eq!(told(&[], true), ("all.example".to_owned(), true));
        assert_eq!(told(&[], false), ("all.example".to_owned(), false));
    }

    #[test]
    fn who_is_of_a_cluster_has_to_be_said_and_to_mean_something() {
        let refused = |name: &str, members: MemberRule| {
            let settings = ClusterSettings {
                members,
                ..ClusterSettings::default()
            };
            let made = Cluster::new(name, &settings, &Passwords::default());
            made.unwrap_err().to_string()
        };
        assert!(refused("edge", MemberRule::default()).contains("empty"));
        assert!(refused(DEFAULT, rule(&[], &["a"], &[])).contains("members"));
        assert!(refused("edge", rule(&["10.1"], &[], &[])).contains("10.1"));
        assert!(refused("edge", rule(&[], &[""], &[])).contains("members"));
        refused("edge", rule(&[], &["a"; 65], &[]));
    }
}
