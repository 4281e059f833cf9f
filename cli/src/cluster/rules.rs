//! `darner cluster show|limit|block|registry`: what is set for the nodes of a cluster.

use std::path::PathBuf;
use std::process::ExitCode;

use bytesize::ByteSize;
use clap::Args;
use serde_json::{Map, Value, json};

use super::client::ClientError;
use super::clusters::edit;
use super::login::password;
use super::table::{self, string};
use super::{Common, Output};

/// See what is set for a cluster's nodes
#[derive(Debug, Args)]
pub(super) struct Show {
    #[command(flatten)]
    common: Common,
    /// The cluster; `default` is that of all hosts that fit no other
    name: String,
}

/// Say how many bytes a second each node may take, such as 50MiB; what is not said stays as it is
#[derive(Debug, Args)]
pub(super) struct Limit {
    #[command(flatten)]
    common: Common,
    /// The cluster
    name: String,
    /// Pieces to other nodes
    #[arg(long, value_name = "RATE|none", value_parser = rate)]
    upload: Option<Rate>,
    /// All that comes to the node
    #[arg(long, value_name = "RATE|none", value_parser = rate)]
    download: Option<Rate>,
    /// What comes from registries
    #[arg(long, value_name = "RATE|none", value_parser = rate)]
    upstream: Option<Rate>,
}

/// Say what nodes do not serve
#[derive(Debug, Args)]
pub(super) struct Block {
    #[command(flatten)]
    common: Common,
    /// The cluster
    name: String,
    /// Digests, and registry/repository, in which * stands for anything
    #[arg(required = true)]
    what: Vec<String>,
    /// Let it be served again
    #[arg(long)]
    undo: bool,
}

/// Say where a registry is and how it is read; what was said of it before no longer counts
#[derive(Debug, Args)]
pub(super) struct Registry {
    #[command(flatten)]
    common: Common,
    /// The cluster
    name: String,
    /// The registry, as clients call it
    registry: String,
    /// Where it is: https://host[:port][/prefix]
    #[arg(long)]
    url: Option<String>,
    /// Asked before it, in this order
    #[arg(long = "mirror", value_name = "URL")]
    mirrors: Vec<String>,
    /// A file of certificate authorities to trust in place of the system's, PEM
    #[arg(long, value_name = "FILE")]
    ca: Option<PathBuf>,
    /// How long a tag's answer counts as fresh, such as 60s; 0s asks every time
    #[arg(long, value_name = "TIME")]
    tag_ttl: Option<humantime::Duration>,
    /// For how long it goes on to be served while upstream cannot be asked
    #[arg(long, value_name = "TIME")]
    tag_stale: Option<humantime::Duration>,
    /// Connections of one node at once
    #[arg(long, value_name = "COUNT")]
    max_connections: Option<u32>,
    /// Seeds read as this user; the password is read from standard input. An empty line keeps the one
    /// that the manager has
    #[arg(long, value_name = "NAME")]
    username: Option<String>,
    /// Say nothing of it any more
    #[arg(long)]
    remove: bool,
}

/// `None` for no limit.
type Rate = Option<u64>;

impl Show {
    pub(super) async fn run(self) -> Result<ExitCode, ClientError> {
        let client = self.common.client()?;
        let path = super::clusters::path(&self.name)?;
        print(&self.common, &client.get(&path).await?);
        Ok(ExitCode::SUCCESS)
    }
}

impl Limit {
    pub(super) async fn run(self) -> Result<ExitCode, ClientError> {
        let rates = [
            ("upload", self.upload),
            ("download", self.download),
            ("upstream", self.upstream),
        ];
        if rates.iter().all(|(_, rate)| rate.is_none()) {
            let why = "say one of --upload, --download and --upstream".to_owned();
            return Err(ClientError::Usage(why));
        }
        let client = self.common.client()?;
        let set = edit(&client, &self.name, |cluster| {
            let mut limits = object(&mut cluster["rules"]["limits"]);
            for (direction, rate) in rates {
                match rate {
                    None => {}
                    Some(Some(rate)) => drop(limits.insert(direction.to_owned(), json!(rate))),
                    Some(None) => drop(limits.remove(direction)),
                }
            }
            cluster["rules"]["limits"] = limits.into();
        });
        print(&self.common, &set.await?);
        Ok(ExitCode::SUCCESS)
    }
}

impl Block {
    pub(super) async fn run(self) -> Result<ExitCode, ClientError> {
        let client = self.common.client()?;
        let set = edit(&client, &self.name, |cluster| {
            let mut blocked = list(&mut cluster["rules"]["blocked"]);
            blocked.retain(|known| !self.what.iter().any(|what| known == what));
            if !self.undo {
                blocked.extend(self.what.iter().map(|what| json!(what)));
            }
            cluster["rules"]["blocked"] = blocked.into();
        });
        print(&self.common, &set.await?);
        Ok(ExitCode::SUCCESS)
    }
}

impl Registry {
    pub(super) async fn run(self) -> Result<ExitCode, ClientError> {
        let rule = match self.remove {
            true => None,
            false => Some(self.rule()?),
        };
        let password = match &self.username {
            Some(_) if !self.remove => Some(password()?),
            _ => None,
        };
        let client = self.common.client()?;
        let set = edit(&client, &self.name, |cluster| {
            let mut upstreams = list(&mut cluster["rules"]["upstreams"]);
            upstreams.retain(|known| known["registry"] != *self.registry);
            upstreams.extend(rule);
            cluster["rules"]["upstreams"] = upstreams.into();
            if let Some(password) = password.filter(|password| !password.reveal().is_empty()) {
                cluster["passwords"] = json!({ &self.registry: password.reveal() });
            }
        });
        print(&self.common, &set.await?);
        Ok(ExitCode::SUCCESS)
    }

    fn rule(&self) -> Result<Value, ClientError> {
        let read = |path: &PathBuf| {
            let read = std::fs::read_to_string(path);
            read.map_err(|error| {
                ClientError::Usage(format!("{} cannot be read: {error}", path.display()))
            })
        };
        let ca = self.ca.as_ref().map(read).transpose()?;
        let seconds = |time: Option<humantime::Duration>| time.map(|time| time.as_secs());
        let rule = json!({
            "registry": self.registry,
            "url": self.url,
            "mirrors": self.mirrors,
            "ca": ca,
            "tag_ttl_seconds": seconds(self.tag_ttl),
            "tag_stale_seconds": seconds(self.tag_stale),
            "max_connections": self.max_connections,
            "username": self.username,
        });
        let mut rule = object(&mut { rule });
        rule.retain(|_, value| !value.is_null());
        Ok(rule.into())
    }
}

fn print(common: &Common, cluster: &Value) {
    if common.output == Output::Json {
        table::print_json(cluster);
        return;
    }
    let rules = &cluster["rules"];
    let limits = rules["limits"].as_object().into_iter().flatten();
    for (direction, rate) in limits {
        let rate = ByteSize(rate.as_u64().unwrap_or(0)).display().iec();
        table::print_line(&format!("{direction} of each node: {rate} a second"));
    }
    for blocked in rules["blocked"].as_array().into_iter().flatten() {
        table::print_line(&format!(
            "blocked: {}",
            blocked.as_str().unwrap_or_default()
        ));
    }
    let upstreams = rules["upstreams"].as_array().cloned().unwrap_or_default();
    table::print(COLUMNS, &upstreams);
}

const COLUMNS: &[table::Column] = &[
    ("REGISTRY", |item| string(item, "registry")),
    ("URL", |item| string(item, "url")),
    ("MIRRORS", |item| table::words(&item["mirrors"])),
    ("TAGS FRESH", |item| seconds(&item["tag_ttl_seconds"])),
    ("STALE", |item| seconds(&item["tag_stale_seconds"])),
    ("CONNECTIONS", |item| string(item, "max_connections")),
    ("USER", |item| string(item, "username")),
    ("CA", |item| match &item["ca"] {
        Value::Null => String::new(),
        _ => "given".to_owned(),
    }),
];

fn seconds(value: &Value) -> String {
    let seconds = value.as_u64();
    seconds.map_or_else(String::new, |seconds| format!("{seconds}s"))
}

fn rate(text: &str) -> Result<Rate, String> {
    if text == "none" {
        return Ok(None);
    }
    let rate: ByteSize = text.parse()?;
    match rate.as_u64() {
        0 => Err("is 0: write none for no limit".to_owned()),
        rate => Ok(Some(rate)),
    }
}

/// The object that `value` is, which has to be put back; empty where it is none.
fn object(value: &mut Value) -> Map<String, Value> {
    match value.take() {
        Value::Object(object) => object,
        _ => Map::new(),
    }
}

/// The list that `value` is, which has to be put back; empty where it is none.
fn list(value: &mut Value) -> Vec<Value> {
    match value.take() {
        Value::Array(list) => list,
        _ => Vec::new(),
    }
}
