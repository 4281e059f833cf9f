//! Objects in the storage of clouds: `darner get` with the credentials of whoever runs it.

use std::path::Path;

use anyhow::{Result, ensure};
use darner_e2e::cluster::{Cluster, seeds};
use darner_e2e::darner::Darner;
use darner_e2e::getting::{digest_of, files_below, get, printed};
use darner_e2e::objects::{Objects, Whose};
use darner_e2e::process::{self, run};
use darner_e2e::scene::{self, Scene};
use darner_e2e::upstream::Upstream;
use darner_proto::digest::Digest;

const MIB: u64 = 1 << 20;
const MODEL: &str = "a/model.bin";
/// A name that a URL spells otherwise.
const OTHER: &str = "deep/other file é";

#[test]
fn objects_of_amazon_leave_it_once_and_credentials_never_leave_their_owner() {
    scene::run("objects_s3", async |scene| {
        leave_once(scene, Objects::s3().await?).await
    });
}

#[test]
fn objects_of_google_leave_it_once_and_credentials_never_leave_their_owner() {
    scene::run("objects_google", async |scene| {
        leave_once(scene, Objects::google(scene).await?).await
    });
}

#[test]
fn objects_of_azure_leave_it_once_and_credentials_never_leave_their_owner() {
    scene::run("objects_azure", async |scene| {
        leave_once(scene, Objects::azure().await?).await
    });
}

async fn leave_once(scene: &Scene, storage: Objects) -> Result<()> {
    let bytes: Vec<u8> = (0..12 * MIB + 5).map(|byte| (byte % 249) as u8).collect();
    let digest = Digest::sha256(&bytes);
    let least = bytes.len() as u64;
    storage.put(MODEL, bytes);
    storage.put(&format!("a/{OTHER}"), vec![1; 1000]);
    storage.put("b", vec![2; 1000]);
    let upstream = Upstream::start(scene).await?;
    let shape = seeds(1).mirrors(2);
    let host = storage.host();
    let cluster = Cluster::start_beside_host(scene, &upstream, shape, host).await?;
    for node in &cluster.mirrors {
        let output = scene.path(format!("got-{}", node.name()));
        let mut command = get(node, &storage.url(MODEL), &output)?;
        command.arg("--only-mirror");
        command.envs(storage.environment(Whose::Reader));
        ensure!(printed(&run(command).await?) == digest.to_string());
        ensure!(digest_of(&output)? == digest);
    }
    // And the one byte that each asks for to know the version.
    let sent = storage.sent(MODEL);
    ensure!((least..=least + 16).contains(&sent), "{sent} of {least}");
    all_below(scene, &storage, &cluster.mirrors[0], digest).await?;
    ensure!(storage.sent(MODEL) <= least + 16);
    refused(scene, &storage, &cluster.mirrors[0]).await?;
    for node in cluster.mirrors.iter().chain(&cluster.seeds) {
        for secret in storage.secrets() {
            ensure!(!node.output().contains(&secret), "{} tells", node.name());
        }
    }
    Ok(())
}

/// All below a name, and once more with nothing that has to come again.
async fn all_below(scene: &Scene, storage: &Objects, node: &Darner, model: Digest) -> Result<()> {
    let output = scene.path("below");
    let all = || -> Result<_> {
        let mut command = get(node, &storage.url("a/"), &output)?;
        command.args(["--recursive", "--only-mirror"]);
        command.envs(storage.environment(Whose::Reader));
        Ok(command)
    };
    run(all()?).await?;
    let found = files_below(&output)?;
    let found = |name| found.get(Path::new(name)).filter(|_| found.len() == 2);
    ensure!(found("model.bin") == Some(&model));
    ensure!(found(OTHER) == Some(&Digest::sha256(&[1; 1000])));
    let sent = storage.sent(&format!("a/{OTHER}"));
    std::fs::remove_file(output.join("model.bin"))?;
    run(all()?).await?;
    ensure!(digest_of(&output.join("model.bin"))? == model);
    // For its version alone it is asked again.
    let again = storage.sent(&format!("a/{OTHER}")) - sent;
    ensure!(again <= 1, "{again} bytes came again");
    Ok(())
}

/// What is not there, and whoever has other credentials, held or not.
async fn refused(scene: &Scene, storage: &Objects, node: &Darner) -> Result<()> {
    let output = scene.path("none");
    for (key, flags, whose, status, says) in [
        ("a/none", &[][..], Whose::Reader, 1, "404 Not Found"),
        (MODEL, &[], Whose::Stranger, 5, "403 Forbidden"),
        ("a/", &["--recursive"], Whose::Stranger, 5, "403 Forbidden"),
    ] {
        for way in [&["--only-mirror"][..], &[]] {
            let mut command = get(node, &storage.url(key), &output)?;
            command.args(flags).args(way);
            command.envs(storage.environment(whose));
            let refused = process::finish(command).await?;
            let why = String::from_utf8_lossy(&refused.stderr);
            ensure!(refused.status.code() == Some(status), "{key}: {refused:?}");
            ensure!(why.contains(says), "{key}: {why}");
            ensure!(!output.exists(), "{key} leaves something");
            for secret in storage.secrets() {
                ensure!(!why.contains(&secret), "{key}: {why}");
            }
        }
    }
    Ok(())
}
