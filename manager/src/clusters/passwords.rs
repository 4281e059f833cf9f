//! The passwords that seeds read registries with. They come beside the document that names their users, are
//! never shown again, and are kept only sealed, with the key of `[manager] seal_key_file`: a copy of the
//! database tells none of them.

use std::collections::BTreeMap;
use std::sync::Arc;

use darner_service::secret::Secret;
use serde::Deserialize;
use utoipa::ToSchema;

use super::ClusterError;
use super::settings::{NodeRules, RegistryRule};
use crate::authority::seal::{Seal, SealError};
use crate::random;

/// Passwords by registry. They are not shown.
#[derive(Debug, Clone, Default)]
pub struct Passwords(BTreeMap<String, Secret>);

/// As they come in a request.
#[derive(Default, Deserialize, ToSchema)]
#[serde(transparent)]
pub struct GivenPasswords(BTreeMap<String, String>);

impl std::fmt::Debug for GivenPasswords {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_set().entries(self.0.keys()).finish()
    }
}

impl From<GivenPasswords> for Passwords {
    fn from(GivenPasswords(given): GivenPasswords) -> Self {
        let secrets = given.into_iter();
        Self(
            secrets
                .map(|(name, password)| (name, Secret::new(password)))
                .collect(),
        )
    }
}

impl Passwords {
    /// One, for a registry.
    pub fn one(registry: &str, password: String) -> Self {
        Self([(registry.to_owned(), Secret::new(password))].into())
    }

    /// The one for a registry.
    pub fn get(&self, registry: &str) -> Option<&Secret> {
        self.0.get(registry)
    }

    /// Which registries there is one for.
    pub fn registries(&self) -> impl Iterator<Item = &str> {
        self.0.keys().map(String::as_str)
    }

    /// These, and of those `before` what goes on to be meant: for a registry that is still at the same
    /// place, with the same user. Whoever moves a registry shows that they know its password.
    #[must_use]
    pub fn or_kept(mut self, rules: &NodeRules, before: (&NodeRules, &Self)) -> Self {
        let (rules_before, kept) = before;
        for rule in &rules.upstreams {
            let same = rules_before.upstreams.iter().find(|was| {
                let place = |rule: &RegistryRule| {
                    (
                        rule.registry.clone(),
                        rule.url.clone(),
                        rule.username.clone(),
                    )
                };
                rule.username.is_some() && place(was) == place(rule)
            });
            if same.is_some()
                && let Some(password) = kept.get(&rule.registry)
            {
                let own = self.0.entry(rule.registry.clone());
                own.or_insert_with(|| password.clone());
            }
        }
        self
    }

    /// As they are kept: JSON, each sealed for `cluster` and its registry.
    ///
    /// # Errors
    /// There is nothing to seal them with.
    pub(super) fn seal(
        &self,
        cluster: &str,
        seal: Option<&Arc<Seal>>,
    ) -> Result<String, ClusterError> {
        let mut sealed = BTreeMap::new();
        for (registry, password) in &self.0 {
            let seal = seal.ok_or(ClusterError::NoSeal)?;
            let bytes = seal.seal(&bound(cluster, registry), password.reveal().as_bytes());
            let bytes = bytes.map_err(ClusterError::Seal)?;
            sealed.insert(registry, random::hex(&bytes));
        }
        serde_json::to_string(&sealed).map_err(|error| super::no_cluster(&error).into())
    }

    /// From how they are kept.
    ///
    /// # Errors
    /// They were sealed with a key that is not here.
    pub(super) fn open(
        cluster: &str,
        kept: &str,
        seal: Option<&Arc<Seal>>,
    ) -> Result<Self, ClusterError> {
        let kept: BTreeMap<String, String> =
            serde_json::from_str(kept).map_err(|error| super::no_cluster(&error))?;
        let mut passwords = BTreeMap::new();
        for (registry, sealed) in kept {
            let sealed_by = |error| ClusterError::Sealed {
                cluster: cluster.to_owned(),
                registry: registry.clone(),
                source: error,
            };
            let seal = seal.ok_or(SealError::Sealed);
            let bytes = random::from_hex(&sealed).unwrap_or_default();
            let opened = seal.and_then(|seal| seal.open(&bound(cluster, &registry), &bytes));
            let opened = opened.map_err(sealed_by)?;
            let password = String::from_utf8_lossy(&opened).into_owned();
            passwords.insert(registry, Secret::new(password));
        }
        Ok(Self(passwords))
    }
}

fn bound(cluster: &str, registry: &str) -> String {
    format!("upstream {cluster} {registry}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seal(digit: &str) -> Arc<Seal> {
        Arc::new(Seal::new(&Secret::new(digit.repeat(64))).unwrap())
    }

    fn passwords(of: &[(&str, &str)]) -> Passwords {
        let of = of.iter();
        let of = of.map(|(name, password)| ((*name).to_owned(), (*password).to_owned()));
        GivenPasswords(of.collect()).into()
    }

    #[test]
    fn they_are_kept_sealed_and_open_with_the_same_key_for_the_same_cluster() {
        let some = passwords(&[("r.example", "canary")]);
        let key = seal("7");
        let kept = some.seal("west", Some(&key)).unwrap();
        assert!(!kept.contains("canary"), "{kept}");
        let opened = Passwords::open("west", &kept, Some(&key)).unwrap();
        assert_eq!(opened.get("r.example").unwrap().reveal(), "canary");
        for (cluster, key) in [
            ("east", Some(&key)),
            ("west", Some(&seal("8"))),
            ("west", None),
        ] {
            let error = Passwords::open(cluster, &kept, key).unwrap_err();
            assert!(error.to_string().contains("r.example"), "{error}");
        }
        assert!(matches!(some.seal("west", None), Err(ClusterError::NoSeal)));
        let none = Passwords::default();
        assert_eq!(none.seal("west", None).unwrap(), "{}");
        assert!(!format!("{some:?}").contains("canary"));
    }

    #[test]
    fn a_password_goes_on_only_to_the_place_and_the_user_it_was_given_for() {
        let at = |url: &str, user: Option<&str>| NodeRules {
            upstreams: vec![RegistryRule {
                registry: "r.example".into(),
                url: Some(url.into()),
                username: user.map(Into::into),
                ..RegistryRule::default()
            }],
            ..NodeRules::default()
        };
        let before = at("https://r.example", Some("ann"));
        let kept = passwords(&[("r.example", "old")]);
        let after = |rules: &NodeRules, given: Passwords| {
            let all = given.or_kept(rules, (&before, &kept));
            all.get("r.example")
                .map(|secret| secret.reveal().to_owned())
        };
        let none = Passwords::default;
        assert_eq!(after(&before, none()), Some("old".into()));
        let new = passwords(&[("r.example", "new")]);
        assert_eq!(after(&before, new), Some("new".into()));
        assert_eq!(
            after(&at("https://thief.example", Some("ann")), none()),
            None
        );
        assert_eq!(after(&at("https://r.example", Some("bob")), none()), None);
        assert_eq!(after(&at("https://r.example", None), none()), None);
    }
}
