//! What people say of a cluster, as it is written: the document that the API takes and shows and the
//! database keeps. Passwords are in none of it: see [`super::passwords`].

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// A cluster: hosts that hear of each other's schedulers and seeds, and of no others.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ClusterSettings {
    /// Clusters are looked through in this order, the least first, and then by name: a host is of the
    /// first that it fits, or of `default`.
    #[serde(default)]
    #[schema(maximum = 1000000)]
    pub position: u32,
    /// Which hosts are of it; nothing for `default`.
    #[serde(default)]
    pub members: MemberRule,
    /// What is set for its nodes.
    #[serde(default)]
    pub rules: NodeRules,
}

/// Which hosts are of a cluster: of each kind that is given, one has to fit; of labels, all.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, default)]
pub struct MemberRule {
    /// Networks such as `10.1.0.0/16`, of the addresses that hosts are reached at.
    #[schema(max_items = 64)]
    pub networks: Vec<String>,
    /// Hosts' ids, in which `*` stands for anything.
    #[schema(max_items = 64)]
    pub hosts: Vec<String>,
    /// Labels such as `zone`, each with the value that a host has; `*` stands for anything.
    pub labels: BTreeMap<String, String>,
}

/// What is set for the nodes of a cluster. What a node's own settings say of the same thing counts more.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, default)]
pub struct NodeRules {
    /// Registries, each once.
    #[schema(max_items = 64)]
    pub upstreams: Vec<RegistryRule>,
    /// How much of the network each node may take.
    pub limits: NodeLimits,
    /// What is not served: digests, and `registry/repository` in which `*` stands for anything.
    #[schema(max_items = 1024)]
    pub blocked: Vec<String>,
}

/// A registry.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct RegistryRule {
    /// As clients call it.
    pub registry: String,
    /// `https://host[:port][/prefix]` or `http://`; may be left out for those that everybody knows.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub url: Option<String>,
    /// Asked before `url`, in this order; written as it is.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schema(max_items = 4)]
    pub mirrors: Vec<String>,
    /// Certificate authorities to trust in place of the system's, PEM.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ca: Option<String>,
    /// How many seconds a tag's answer counts as fresh; 0 asks every time. Default 60.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(maximum = 86400)]
    pub tag_ttl_seconds: Option<u32>,
    /// For how many seconds it goes on to be served while upstream cannot be asked. Default 86400, which
    /// is also the most.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(maximum = 86400)]
    pub tag_stale_seconds: Option<u32>,
    /// Connections of one node at once. Default 16, for seeds 64.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(minimum = 1, maximum = 1024)]
    pub max_connections: Option<u32>,
    /// The user that seeds read as; its password is given beside the document and is not shown.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub username: Option<String>,
}

/// Bytes a second of one node; what is left out is not limited.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, default)]
pub struct NodeLimits {
    /// Pieces to other nodes.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(minimum = 1)]
    pub upload: Option<u64>,
    /// All that comes to the node.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(minimum = 1)]
    pub download: Option<u64>,
    /// What comes from registries.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(minimum = 1)]
    pub upstream: Option<u64>,
}
