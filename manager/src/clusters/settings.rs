//! What people say of a cluster, as it is written: the document that the API takes and shows and the
//! database keeps.

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
    /// Which hosts are of it.
    pub members: MemberRule,
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
