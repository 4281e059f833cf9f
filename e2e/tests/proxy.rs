//! The forward proxy, with the programs that use one.

use std::net::SocketAddr;
use std::path::Path;
use std::process::Command;

use anyhow::{Result, ensure};
use darner_e2e::cluster::{Cluster, seeds, up_settings};
use darner_e2e::darner::Darner;
use darner_e2e::docker::Dockerd;
use darner_e2e::process::{self, run};
use darner_e2e::upstream::{Guard, NAME, Upstream};
use darner_e2e::web::Web;
use darner_e2e::{place, raw, scene};
use darner_proto::digest::Digest;
use futures_util::future::try_join_all;
use tokio::net::TcpListener;

const MIB: u64 = 1 << 20;
const LOGIN: &str = "alice:canary-password-of-a-caller";
const BASIC: &str = "Basic YWxpY2U6Y2FuYXJ5LXBhc3N3b3JkLW9mLWEtY2FsbGVy";

/// curl through a node's proxy; says the status on standard output.
fn curl(node: &Darner, url: &str, output: &Path) -> Result<Command> {
    let mut command = Command::new(place::required_tool("curl")?);
    command.args(["--silent", "--show-error", "--max-time", "50"]);
    command.args(["--write-out", "%{http_code} %{http_connect}"]);
    command.arg("--proxy").arg(node.url("proxy")?);
    // This machine has no proxy by nature, and a test has no variables.
    command.args(["--noproxy", ""]);
    command.arg("--output").arg(output).arg(url);
    Ok(command)
}

#[test]
fn curl_gets_a_file_of_the_swarm_and_nothing_that_no_route_allows() {
    scene::run("proxy_curl", async |scene| {
        let web = Web::start(scene, "0").await?;
        let size = 40 * MIB + 5;
        let digest = web.put("signed/file", size, (1, 100))?;
        let small = web.put("open/file", MIB, (2, 100))?;
        let upstream = Upstream::start(scene).await?;
        let shape = seeds(1).mirrors(3);
        let cluster = Cluster::start_beside(scene, &upstream, shape, &web).await?;
        let curls = cluster.mirrors.iter().map(async |node| {
            let url = web.signed("signed/file", node.name());
            let output = scene.path(format!("curl-{}", node.name()));
            let status = run(curl(node, &url, &output)?).await?.stdout;
            ensure!(status.starts_with(b"200"), "{status:?}");
            ensure!(Digest::sha256(&std::fs::read(&output)?) == digest);
            Ok(())
        });
        try_join_all(curls).await?;
        let ratio = web.bytes_of("signed/file")? as f64 / size as f64;
        ensure!((1.0..=1.01).contains(&ratio), "{ratio}: {:?}", web.sent()?);
        let node = &cluster.mirrors[0];
        // A tunnel is not looked into, and leads to the same host.
        let output = scene.path("tunnelled");
        let mut tunnelled = curl(node, &web.url("open/file"), &output)?;
        tunnelled.arg("--proxytunnel");
        let status = run(tunnelled).await?.stdout;
        ensure!(status == b"200 200", "{status:?}");
        ensure!(Digest::sha256(&std::fs::read(&output)?) == small);
        // A forged signature is the host's to refuse.
        let forged = format!("{}?X-Sig=forged", web.url("signed/file"));
        let status = run(curl(node, &forged, &output)?).await?.stdout;
        ensure!(status.starts_with(b"403"), "{status:?}");
        refused(node, &web).await
    });
}

/// What no route is about is refused, and never connected to.
async fn refused(node: &Darner, web: &Web) -> Result<()> {
    let sentinel = TcpListener::bind("127.0.0.1:0").await?;
    let port = sentinel.local_addr()?.port();
    let web_port = web
        .host()
        .rsplit_once(':')
        .map_or("", |(_, port)| port)
        .to_owned();
    let proxy: SocketAddr = node.address("proxy")?;
    for host in [
        "127.0.0.1",
        "localhost",
        "[::1]",
        "0x7f.1",
        "2130706433",
        "0",
    ] {
        for target in [format!("{host}:{port}"), format!("{host}:443")] {
            let answer = raw::request(proxy, "CONNECT", &target, "").await?;
            ensure!(answer.status == 403, "{target}: {}", answer.describe());
            let url = format!("http://{target}/");
            let answer = raw::request(proxy, "GET", &url, "").await?;
            ensure!(answer.status == 403, "{url}: {}", answer.describe());
        }
    }
    // The route is for the name.
    let target = format!("127.0.0.1:{web_port}");
    let answer = raw::request(proxy, "CONNECT", &target, "").await?;
    ensure!(answer.status == 403, "{}", answer.describe());
    for target in ["/", "/v2/", "https://localhost/", "ftp://localhost/"] {
        let answer = raw::request(proxy, "GET", target, "").await?;
        ensure!(answer.status == 400, "{target}: {}", answer.describe());
    }
    let came = tokio::time::timeout(std::time::Duration::ZERO, sentinel.accept()).await;
    ensure!(came.is_err(), "something was connected to");
    Ok(())
}

#[test]
fn dockerd_pulls_a_private_image_of_another_registry() {
    scene::run("proxy_dockerd", async |scene| {
        let upstream = Upstream::start(scene).await?;
        upstream.guard(Guard::Basic(BASIC.to_owned()));
        let settings = up_settings(scene, &upstream)?.set("proxy.listen", "127.0.0.1:0");
        let up = Darner::start(scene, "up", "up", &settings).await?;
        let proxy = up.url("proxy")?;
        let root = scene.make_directory("host")?;
        std::fs::create_dir_all(root.join("etc/docker"))?;
        std::fs::create_dir_all(root.join("var/lib"))?;
        let daemon = format!(r#"{{"insecure-registries": ["{NAME}"]}}"#);
        std::fs::write(root.join("etc/docker/daemon.json"), daemon)?;
        let environment = [("HTTP_PROXY", &*proxy), ("HTTPS_PROXY", &*proxy)];
        let dockerd = Dockerd::start_in(scene, &root, &environment).await?;
        let image = upstream.images.middle.clone();
        let name = format!("{NAME}/{}", image.repository);
        let refused = dockerd.pull_as(&name, &image.tag, "alice:wrong").await;
        ensure!(
            !refused.is_ok_and(|told| told.contains("Downloaded newer image")),
            "a wrong password pulls"
        );
        let told = dockerd.pull_as(&name, &image.tag, LOGIN).await?;
        ensure!(told.contains("Downloaded newer image"), "{told}");
        // It was read once, is kept for those who may read it, and for nobody else.
        upstream.read_once(&image)?;
        let blob = &image.blobs[0].digest;
        let url = format!("http://{NAME}/v2/{}/blobs/{blob}", image.repository);
        let mut again = curl(&up, &url, &scene.path("blob"))?;
        again.args(["--user", LOGIN]);
        let status = run(again).await?.stdout;
        ensure!(status.starts_with(b"200"), "{status:?}");
        upstream.read_once(&image)?;
        let nobody = process::finish(curl(&up, &url, &scene.path("none"))?).await?;
        ensure!(nobody.stdout.starts_with(b"401"), "{nobody:?}");
        Ok(())
    });
}
