//! Mirrors that find each other by themselves: no scheduler, no manager, no seed.

use std::path::PathBuf;

use anyhow::Result;
use darner_service::gossip::members::KEEPERS;
use futures_util::future::try_join_all;

use crate::client::Client;
use crate::cluster::mirror_settings;
use crate::darner::{Darner, Settings};
use crate::image::Image;
use crate::place;
use crate::scene::Scene;
use crate::upstream::{NAME, Upstream};
use crate::wait;

/// The key that makes members of one scene, 64 hexadecimal digits.
const KEY: &str = "6e6f7420612073656372657420627574206f6620612074657374206f6e6c7921";

/// `member-1` and so on, who know each other; each joins by the first.
pub async fn start(scene: &Scene, upstream: &Upstream, count: usize) -> Result<Vec<Darner>> {
    let first = join(scene, upstream, "member-1", None).await?;
    let names = (2..=count).map(|number| format!("member-{number}"));
    let others = names.map(async |name| join(scene, upstream, &name, Some(&first)).await);
    let others = try_join_all(others).await?;
    let members: Vec<_> = std::iter::once(first).chain(others).collect();
    settled(&members.iter().collect::<Vec<_>>()).await?;
    Ok(members)
}

/// Starts a member that looks for others at `by`.
pub async fn join(
    scene: &Scene,
    upstream: &Upstream,
    name: &str,
    by: Option<&Darner>,
) -> Result<Darner> {
    let settings = settings(scene, upstream, name, by)?;
    Darner::start(scene, name, "mirror", &settings).await
}

/// Settings of such a member.
pub fn settings(
    scene: &Scene,
    upstream: &Upstream,
    name: &str,
    by: Option<&Darner>,
) -> Result<Settings> {
    let key = key(scene)?.display().to_string();
    let settings = mirror_settings(scene, upstream, name)?;
    gossiping(settings.set("identity.cluster_key_file", key), by)
}

/// The file with the key that makes members of a scene.
pub fn key(scene: &Scene) -> Result<PathBuf> {
    let key = scene.path("cluster.key");
    if !key.exists() {
        std::fs::write(&key, KEY)?;
    }
    Ok(key)
}

/// Makes `settings` of a mirror those of a member that looks for others at `by`.
pub fn gossiping(settings: Settings, by: Option<&Darner>) -> Result<Settings> {
    let by: Vec<toml::Value> = match by {
        Some(other) => vec![other.address("pieces")?.to_string().into()],
        None => Vec::new(),
    };
    Ok(settings
        .set("scheduler.listen", place::fixed_port()?)
        .set("gossip.enabled", true)
        .set("gossip.join", by))
}

/// Waits until all of them know as many as they are, and attend those who keep the table.
pub async fn settled(members: &[&Darner]) -> Result<()> {
    let keepers = members.len().min(KEEPERS);
    let sessions = (keepers * members.len()) as f64;
    wait::until(
        "members know each other and attend the keepers",
        async || {
            let mut attended = 0.0;
            for member in members {
                let metrics = member.metrics().await.ok()?;
                if metrics.sum("darner_gossip_members", "") != members.len() as f64 {
                    return None;
                }
                attended += metrics.sum("darner_scheduler_hosts", "");
            }
            (attended == sessions).then_some(())
        },
    )
    .await
}

/// A client of each.
pub fn clients(members: &[Darner]) -> Result<Vec<Client>> {
    let clients = members.iter().map(|member| Client::new(member, NAME));
    clients.collect()
}

/// All of them pull at the same moment.
pub async fn pull_everywhere(members: &[Darner], image: &Image) -> Result<()> {
    let clients = clients(members)?;
    try_join_all(clients.iter().map(|client| client.pull(image))).await?;
    Ok(())
}
