//! Jobs of a cluster as somebody who began them sees them, by the commands.

use anyhow::{Context as _, Result};
use serde_json::Value;

use crate::cluster::Cluster;
use crate::image::Image;
use crate::operator::{self, told};
use crate::scene::Scene;
use crate::upstream::NAME;
use crate::wait;

/// Slow enough for a job to be seen on its way, in bytes a second of an upstream.
pub const SLOW: u64 = 2 << 20;

/// Somebody is logged in to the cluster's manager, which knows every node.
pub async fn operated(scene: &Scene, cluster: Cluster) -> Result<Cluster> {
    operator::set_up(scene, &cluster.manager)?;
    // The scheduler is one too.
    let all = 1 + cluster.seeds.len() + cluster.mirrors.len();
    let members = async || {
        let nodes = told(scene, &["nodes"]).ok()?;
        (nodes.as_array()?.len() == all).then_some(())
    };
    wait::until("every node to be a member", members).await?;
    Ok(cluster)
}

/// The image as a job names it.
pub fn name(image: &Image) -> String {
    format!("{NAME}/{}:{}", image.repository, image.tag)
}

/// Begins to bring an image everywhere: the job's id.
pub fn begin(scene: &Scene, image: &str) -> Result<String> {
    begin_with(scene, &[image])
}

/// Begins what `darner preheat` with these arguments does: the job's id.
pub fn begin_with(scene: &Scene, arguments: &[&str]) -> Result<String> {
    let job = told(scene, &[&["preheat"], arguments].concat())?;
    Ok(job["id"].as_str().context("no id")?.to_owned())
}

/// Looks at a job until `seen` likes it. Nothing may ever become less.
pub async fn until(
    scene: &Scene,
    id: &str,
    what: &str,
    seen: impl Fn(&Value) -> bool,
) -> Result<Value> {
    let mut most = 0;
    let job = wait::until(what, async || {
        let job = told(scene, &["job", "show", id]).ok()?;
        let bytes = sum(&job, "bytes");
        assert!(bytes >= most, "{most} bytes, then {bytes}");
        most = bytes;
        seen(&job).then_some(job)
    });
    job.await
}

/// A number of every node's part in a job, added up.
pub fn sum(job: &Value, key: &str) -> u64 {
    let items = job["items"].as_array().into_iter().flatten();
    items.filter_map(|item| item[key].as_u64()).sum()
}
