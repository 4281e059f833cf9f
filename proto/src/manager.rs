//! What the manager tells the cluster, checked: the domain form of `manager.proto`.

use std::sync::Arc;

use crate::id::{Host, Role};
use crate::invalid::Invalid;
use crate::rules::Rules;
use crate::trust::Trust;
use crate::wire;

/// More schedulers than this are refused: every node holds a stream to each of them.
pub const MAX_SCHEDULERS: usize = 128;
/// More seeds than this are refused: the list travels whole, to every node, on every change.
pub const MAX_SEEDS: usize = 512;

/// Who schedules and who seeds in a cluster, and what is set for its nodes, as of a version.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Configuration {
    /// Grows with every change and never goes backwards.
    pub version: u64,
    /// The schedulers, by id.
    pub schedulers: Vec<Host>,
    /// The seeds, by id.
    pub seeds: Vec<Host>,
    /// Whose certificates count. Empty from a manager that talks in plain text.
    pub trust: Arc<Trust>,
    /// What is set for nodes.
    pub rules: Arc<Rules>,
}

impl From<&Configuration> for wire::Configuration {
    fn from(configuration: &Configuration) -> Self {
        Self {
            version: configuration.version,
            schedulers: configuration.schedulers.iter().map(Into::into).collect(),
            seeds: configuration.seeds.iter().map(Into::into).collect(),
            trust: Some(configuration.trust.as_ref().into()),
            rules: Some(configuration.rules.as_ref().into()),
        }
    }
}

impl TryFrom<wire::Configuration> for Configuration {
    type Error = Invalid;

    fn try_from(configuration: wire::Configuration) -> Result<Self, Invalid> {
        Ok(Self {
            version: configuration.version,
            schedulers: hosts(configuration.schedulers, Role::Scheduler, MAX_SCHEDULERS)?,
            seeds: hosts(configuration.seeds, Role::Seed, MAX_SEEDS)?,
            trust: Arc::new(configuration.trust.unwrap_or_default().try_into()?),
            rules: Arc::new(configuration.rules.unwrap_or_default().try_into()?),
        })
    }
}

fn hosts(hosts: Vec<wire::Host>, role: Role, most: usize) -> Result<Vec<Host>, Invalid> {
    if hosts.len() > most {
        return Err(Invalid::new(
            "configuration",
            format!("has more than {most} hosts of role {role}"),
        ));
    }
    let hosts: Vec<Host> = hosts
        .into_iter()
        .map(Host::try_from)
        .collect::<Result<_, _>>()?;
    if let Some(other) = hosts.iter().find(|host| host.role != role) {
        let why = format!("lists {} as {role}, which is a {}", other.id, other.role);
        return Err(Invalid::new("configuration", why));
    }
    Ok(hosts)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn host(id: &str, role: Role) -> Host {
        Host {
            id: id.parse().expect("valid"),
            address: "10.0.0.1:7422".into(),
            role,
            labels: [("zone".to_owned(), "a".to_owned())].into(),
            signing_key: None,
            upload_slots: 4,
        }
    }

    #[test]
    fn a_configuration_survives_the_wire() {
        let configuration = Configuration {
            version: 7,
            schedulers: vec![host("s1", Role::Scheduler)],
            seeds: vec![host("seed-1", Role::Seed), host("seed-2", Role::Seed)],
            trust: Arc::new(Trust {
                authorities: vec![bytes::Bytes::from_static(b"DER")],
                revoked: [("mirror-1".parse().expect("valid"), 7)].into(),
            }),
            rules: Arc::new(Rules {
                blocked: vec!["docker.io/evil/*".parse().expect("valid")],
                ..Rules::default()
            }),
        };
        let wire = wire::Configuration::from(&configuration);
        assert_eq!(Configuration::try_from(wire), Ok(configuration));
    }

    #[test]
    fn a_host_in_the_wrong_list_is_refused() {
        let wire = wire::Configuration {
            version: 1,
            schedulers: vec![(&host("m", Role::Mirror)).into()],
            ..Default::default()
        };
        assert!(Configuration::try_from(wire).is_err());
    }

    #[test]
    fn a_list_without_end_is_refused() {
        let seeds = vec![(&host("m", Role::Seed)).into(); MAX_SEEDS + 1];
        let wire = wire::Configuration {
            seeds,
            ..Default::default()
        };
        assert!(Configuration::try_from(wire).is_err());
    }
}
