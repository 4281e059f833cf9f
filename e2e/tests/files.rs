//! Files that are no images: each version leaves its server once, and nobody gets a mixture.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use darner_e2e::cluster::{Cluster, seeds};
use darner_e2e::darner::{self, Darner};
use darner_e2e::getting::{digest_of, get, printed};
use darner_e2e::place;
use darner_e2e::process::{self, run};
use darner_e2e::scene::{self, Scene};
use darner_e2e::upstream::Upstream;
use darner_e2e::wait;
use darner_e2e::web::Web;
use darner_proto::digest::Digest;
use futures_util::future::try_join_all;
use reqwest::StatusCode;

const MIB: u64 = 1 << 20;
/// Large enough that a file takes many reads, and some of them are under way when it changes.
const LARGE: u64 = 256 * MIB + 12_345;

/// A request for what is at a URL, to a node itself. All by one client: to make one takes long enough
/// for a server to lose patience with the others' connections.
fn asked(node: &Darner, url: &str) -> Result<reqwest::RequestBuilder> {
    static CLIENT: OnceLock<reqwest::Client> = OnceLock::new();
    let client = match CLIENT.get() {
        Some(client) => client,
        None => {
            let new = reqwest::Client::builder().no_proxy();
            // Each test has a runtime of its own, and no connection outlives its runtime.
            let new = new.pool_max_idle_per_host(0).build()?;
            CLIENT.get_or_init(|| new)
        }
    };
    let path = format!("{}/file", node.url("registry")?);
    Ok(client.get(path).header("darner-url", url))
}

/// Reads a file in ranges, out of order, and puts them together.
async fn in_ranges(node: &Darner, url: &str, size: u64) -> Result<Digest> {
    let parts = 7;
    let bounds: Vec<_> = (0..=parts).map(|part| part * size / parts).collect();
    let mut ranges: Vec<_> = bounds.windows(2).map(|pair| (pair[0], pair[1])).collect();
    ranges.reverse();
    let parts = ranges.into_iter().map(async |(start, end)| {
        let range = format!("bytes={start}-{}", end - 1);
        let answer = asked(node, url)?.header("range", range).send().await?;
        ensure!(answer.status() == StatusCode::PARTIAL_CONTENT, "{answer:?}");
        Ok((start, answer.bytes().await?))
    });
    let mut parts = try_join_all(parts).await?;
    parts.sort_by_key(|(start, _)| *start);
    let mut hasher = Digest::Sha256([0; 32]).hasher();
    for (_, bytes) in parts {
        hasher.update(&bytes);
    }
    Ok(hasher.finish())
}

/// What has been sent of a file is the file, once.
fn sent_once(web: &Web, path: &str, size: u64) -> Result<()> {
    let sent = web.bytes_of(path)?;
    let ratio = sent as f64 / size as f64;
    ensure!(
        (1.0..=1.01).contains(&ratio),
        "{path} was sent {ratio} times: {:#?}",
        web.sent()?
    );
    Ok(())
}

async fn cluster_of(scene: &Scene, web: &Web, mirrors: usize) -> Result<Cluster> {
    let upstream = Upstream::start(scene).await?;
    Cluster::start_beside(scene, &upstream, seeds(2).mirrors(mirrors), web).await
}

/// curl, through a node's proxy.
fn curl(node: &Darner, url: &str, output: &Path) -> Result<Command> {
    let mut command = Command::new(place::required_tool("curl")?);
    command.args(["--silent", "--show-error", "--fail", "--noproxy", ""]);
    command.arg("--proxy").arg(node.url("proxy")?);
    command.arg("--output").arg(output).arg(url);
    Ok(command)
}

/// A node's readers of one file, each with a signature of its own: `darner get`, curl through the
/// proxy, and one that reads ranges.
async fn readers(
    scene: &Scene,
    node: &Darner,
    web: &Web,
    (size, digest): (u64, Digest),
) -> Result<()> {
    let url = |reader: &str| web.signed("signed/model.bin", &format!("{}-{reader}", node.name()));
    let path = |reader: &str| scene.path(format!("{}-{reader}", node.name()));
    let got = async {
        let got = run(get(node, &url("get"), &path("get"))?).await?;
        ensure!(printed(&got) == digest.to_string(), "{got:?}");
        ensure!(digest_of(&path("get"))? == digest, "{}", node.name());
        Ok(std::fs::remove_file(path("get"))?)
    };
    let curled = async {
        run(curl(node, &url("curl"), &path("curl"))?).await?;
        ensure!(digest_of(&path("curl"))? == digest, "{}", node.name());
        Ok(std::fs::remove_file(path("curl"))?)
    };
    let ranged = async {
        let ranged = in_ranges(node, &url("ranges"), size).await?;
        ensure!(ranged == digest, "ranges make another file");
        Ok(())
    };
    tokio::try_join!(got, curled, ranged).map(drop)
}

/// Bytes of the large file: e2e/bench makes it a gigabyte.
fn large() -> Result<u64> {
    match place::setting("DARNER_FILE_MIB") {
        Some(mib) => Ok(mib.parse::<u64>()? * MIB),
        None => Ok(LARGE),
    }
}

#[test]
fn a_signed_file_leaves_its_server_once() {
    scene::run_for("files_signed", Duration::from_secs(300), async |scene| {
        let web = Web::start(scene, "0").await?;
        let size = large()?;
        let digest = web.put("signed/model.bin", size, (1, 100))?;
        let upstream = Upstream::start(scene).await?;
        let shape = seeds(1).mirrors(4);
        let cluster = Cluster::start_beside(scene, &upstream, shape, &web).await?;
        let began = Instant::now();
        let all = cluster.mirrors.iter();
        let all = all.map(|node| readers(scene, node, &web, (size, digest)));
        try_join_all(all).await?;
        let (took, sent) = (began.elapsed(), web.bytes_of("signed/model.bin")?);
        println!(
            "{} MiB to 12 readers on 4 nodes: {sent} bytes sent of {size}, {:.1} s",
            size / MIB,
            took.as_secs_f64()
        );
        sent_once(&web, "signed/model.bin", size)?;
        // Whoever the server refuses is refused, though everybody holds it.
        for url in [
            format!("{}?id=1&X-Sig=forged", web.url("signed/model.bin")),
            web.url("signed/model.bin"),
        ] {
            for node in cluster.mirrors.iter().chain(&cluster.seeds) {
                let answer = asked(node, &url)?.send().await?;
                ensure!(answer.status() == StatusCode::FORBIDDEN, "{answer:?}");
                ensure!(!answer.headers().contains_key("x-darner-source"));
            }
        }
        // Nor is what is behind a signature known by its digest.
        let by_digest = format!("{}/file/{digest}", cluster.mirrors[0].url("registry")?);
        let answer = reqwest::get(by_digest).await?;
        ensure!(answer.status() == StatusCode::NOT_FOUND, "{answer:?}");
        Ok(())
    });
}

/// The file at `path` changes while a cluster reads it.
fn changed(name: &str, path: &str) {
    scene::run(name, async |scene| {
        // Slow enough to be changed in the middle.
        let web = Web::start(scene, "10m").await?;
        let size = 60 * MIB;
        let old = web.put(path, size, (1, 200))?;
        let upstream = Upstream::start(scene).await?;
        let shape = seeds(1).mirrors(3);
        let cluster = Cluster::start_beside(scene, &upstream, shape, &web).await?;
        let url = web.url(path);
        let change = async {
            darner_e2e::wait::until("the file is being read", async || {
                let metrics = cluster.seeds[0].metrics().await.ok()?;
                let read = metrics.sum("darner_fetched_bytes_total", "");
                (read >= (8 * MIB) as f64).then_some(())
            })
            .await?;
            web.put(path, size, (2, 100))
        };
        let early = cluster.mirrors.iter().map(async |node| {
            let answer = asked(node, &url)?.send().await?;
            let served = answer.status().is_success();
            let bytes = answer.bytes().await.ok().filter(|_| served);
            Ok::<_, anyhow::Error>(bytes.map(|bytes| Digest::sha256(&bytes)))
        });
        let commands = cluster.mirrors.iter().flat_map(|node| {
            let path = |reader: &str| scene.path(format!("{}-{reader}", node.name()));
            let (got, curled) = (path("get"), path("curl"));
            [
                (get(node, &url, &got), got),
                (curl(node, &url, &curled), curled),
            ]
        });
        let commands = commands.map(async |(command, output)| {
            let ended = process::finish(command?).await?;
            let whole = ended.status.success();
            whole.then(|| digest_of(&output)).transpose()
        });
        let (new, early, told) = tokio::join!(change, try_join_all(early), try_join_all(commands));
        let new = new?;
        ensure!(new != old, "another version");
        for found in early?.into_iter().chain(told?).flatten() {
            ensure!(found == old || found == new, "a mixture of both versions");
        }
        // Whoever asks now gets what is there now.
        let late = cluster.mirrors.iter().map(async |node| {
            let answer = asked(node, &url)?.send().await?;
            ensure!(answer.status() == StatusCode::OK, "{answer:?}");
            Ok(Digest::sha256(&answer.bytes().await?))
        });
        for found in try_join_all(late).await? {
            ensure!(found == new, "the new version is not served");
        }
        Ok(())
    });
}

#[test]
fn a_file_that_changes_is_read_whole_or_not_at_all() {
    changed("files_changed", "open/tagged");
}

#[test]
fn so_is_one_that_is_known_by_its_date() {
    changed("files_changed_dated", "plain/dated");
}

#[test]
fn what_cannot_be_told_apart_or_is_one_callers_is_not_shared() {
    scene::run("files_not_shared", async |scene| {
        let web = Web::start(scene, "0").await?;
        let size = 3 * MIB;
        let bare = web.put("bare/file", size, (1, 100))?;
        let mine = web.put("mine/file", size, (2, 100))?;
        let moved = web.put("open/file", size, (3, 100))?;
        let cluster = cluster_of(scene, &web, 2).await?;
        for node in &cluster.mirrors {
            let answer = asked(node, &web.url("bare/file"))?.send().await?;
            ensure!(!answer.headers().contains_key("x-darner-source"));
            ensure!(Digest::sha256(&answer.bytes().await?) == bare);
            // With the digest told, it is known by that.
            let answer = asked(node, &web.url("bare/file"))?;
            let answer = answer.header("darner-digest", bare.to_string());
            let answer = answer.send().await?;
            ensure!(answer.headers().contains_key("x-darner-source"));
            ensure!(Digest::sha256(&answer.bytes().await?) == bare);
            // What is one caller's is kept on this node, and the server is asked for each.
            let right = async || {
                let right = asked(node, &web.url("mine/file"))?;
                Ok::<_, anyhow::Error>(right.header("authorization", "Bearer right").send().await?)
            };
            ensure!(Digest::sha256(&right().await?.bytes().await?) == mine);
            wait::until("it to be kept", async || {
                let again = right().await.ok()?;
                (again.headers().get("x-darner-source")? == "store").then_some(())
            })
            .await?;
            ensure!(Digest::sha256(&right().await?.bytes().await?) == mine);
            for wrong in [Some("Bearer wrong"), None] {
                let request = asked(node, &web.url("mine/file"))?;
                let request = match wrong {
                    Some(wrong) => request.header("authorization", wrong),
                    None => request,
                };
                let answer = request.send().await?;
                ensure!(answer.status() == StatusCode::UNAUTHORIZED, "{answer:?}");
            }
            // Redirects are followed, but not to where only this machine gets.
            let answer = asked(node, &web.url("moved/file"))?.send().await?;
            ensure!(Digest::sha256(&answer.bytes().await?) == moved);
            let answer = asked(node, &web.url("inside/file"))?.send().await?;
            ensure!(answer.status() == StatusCode::BAD_GATEWAY, "{answer:?}");
            let answer = asked(node, &web.url("open/none"))?.send().await?;
            ensure!(answer.status() == StatusCode::NOT_FOUND, "{answer:?}");
        }
        // Each node has read for itself what is one caller's.
        let sent = web.sent()?;
        let of_mine = sent
            .iter()
            .filter(|sent| sent.path == "/mine/file" && sent.bytes >= size);
        ensure!(of_mine.count() == 2, "{sent:?}");
        // Twice straight, and once for the cluster.
        ensure!(web.bytes_of("bare/file")? == 3 * size, "{:?}", web.sent()?);
        sent_once(&web, "open/file", size)
    });
}

#[test]
fn what_is_put_on_one_node_is_had_on_another() {
    scene::run("files_put", async |scene| {
        let web = Web::start(scene, "0").await?;
        let cluster = cluster_of(scene, &web, 3).await?;
        let source: PathBuf = scene.path("source");
        let bytes: Vec<u8> = (0..5 * MIB + 7).map(|byte| (byte % 251) as u8).collect();
        std::fs::write(&source, &bytes)?;
        let mut put = darner::command()?;
        put.arg("put").arg(&source);
        put.arg("--via").arg(cluster.mirrors[0].url("registry")?);
        let digest = printed(&run(put).await?);
        ensure!(digest == Digest::sha256(&bytes).to_string(), "{digest}");
        for node in cluster.mirrors.iter().chain(&cluster.seeds) {
            let output = scene.path(format!("got-{}", node.name()));
            run(get(node, &digest, &output)?).await?;
            ensure!(std::fs::read(&output)? == bytes, "{}", node.name());
        }
        let none = Digest::sha256(b"nobody has this").to_string();
        let failed = process::finish(get(&cluster.mirrors[1], &none, &scene.path("none"))?).await?;
        ensure!(failed.status.code() == Some(1), "{failed:?}");
        ensure!(!scene.path("none").exists());
        Ok(())
    });
}

#[test]
fn without_a_mirror_the_file_comes_from_its_server() {
    scene::run("files_without_mirror", async |scene| {
        let web = Web::start(scene, "0").await?;
        let digest = web.put("open/file", 3 * MIB, (1, 100))?;
        let output = scene.path("got");
        let mut command = darner::command()?;
        command.arg("get").arg(web.url("open/file")).arg("-o");
        command.arg(&output).args(["--via", "http://127.0.0.1:9"]);
        command.arg("--digest").arg(digest.to_string());
        run(command).await?;
        ensure!(digest_of(&output)? == digest);
        let mut command = darner::command()?;
        command.arg("get").arg(web.url("open/file")).arg("-o");
        command.arg(scene.path("other"));
        command.args(["--via", "http://127.0.0.1:9", "--only-mirror"]);
        let failed = process::finish(command).await?;
        ensure!(failed.status.code() == Some(4), "{failed:?}");
        let mut command = darner::command()?;
        command.arg("get").arg(web.url("open/file")).arg("-o");
        command
            .arg(scene.path("wrong"))
            .args(["--via", "http://127.0.0.1:9"]);
        command
            .arg("--digest")
            .arg(Digest::sha256(b"x").to_string());
        let failed = process::finish(command).await?;
        ensure!(failed.status.code() == Some(1), "{failed:?}");
        ensure!(!scene.path("wrong").exists());
        Ok(())
    });
}
