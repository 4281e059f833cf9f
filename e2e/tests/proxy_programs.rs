//! The forward proxy, with the programs that people set `HTTP_PROXY` for: pip, apt and containerd.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use darner_e2e::cluster::{Cluster, seeds, up_settings};
use darner_e2e::containerd::Containerd;
use darner_e2e::darner::Darner;
use darner_e2e::place;
use darner_e2e::process::run;
use darner_e2e::scene::{self, Scene};
use darner_e2e::upstream::{NAME, Upstream};
use darner_e2e::web::Web;
use darner_proto::digest::Digest;

const MIB: u64 = 1 << 20;

/// A cluster of one seed and two mirrors, beside a web server.
async fn beside(scene: &Scene, web: &Web) -> Result<Cluster> {
    let upstream = Upstream::start(scene).await?;
    Cluster::start_beside(scene, &upstream, seeds(1).mirrors(2), web).await
}

/// A file was sent once, whoever asked for it.
fn sent_once(web: &Web, path: &str, size: u64) -> Result<()> {
    let ratio = web.bytes_of(path)? as f64 / size as f64;
    ensure!(
        (1.0..=1.01).contains(&ratio),
        "{path}: {ratio}: {:#?}",
        web.sent()?
    );
    Ok(())
}

/// Writes the index of a package's files, as PyPI does.
fn index(web: &Web, wheel: &str, digest: &Digest) -> Result<()> {
    let page = format!(
        "<!DOCTYPE html><html><body><a href=\"../../{wheel}#sha256={}\">{wheel}</a></body></html>",
        digest.hex()
    );
    web.write("open/simple/demo/index.html", page.as_bytes())
}

#[test]
fn pip_installs_what_the_cluster_read_once() {
    scene::run_for("proxy_pip", Duration::from_secs(180), async |scene| {
        let web = Web::start(scene, "0").await?;
        let name = "demo-1.0-py3-none-any.whl";
        let wheel = scene.path(name);
        let mut make = Command::new(place::required_tool("python3")?);
        make.args(["-c", WHEEL]).arg(&wheel);
        run(make).await?;
        let bytes = std::fs::read(&wheel)?;
        web.write(&format!("open/{name}"), &bytes)?;
        index(&web, name, &Digest::sha256(&bytes))?;
        let cluster = beside(scene, &web).await?;
        let python = scene.path("python");
        let mut make = Command::new(place::required_tool("python3")?);
        make.args(["-m", "venv"]).arg(&python);
        run(make).await?;
        for node in &cluster.mirrors {
            let target = scene.path(format!("site-{}", node.name()));
            let mut pip = Command::new(python.join("bin/python"));
            pip.args(["-m", "pip", "--isolated", "--disable-pip-version-check"]);
            pip.args(["install", "--no-cache-dir", "--trusted-host", "localhost"]);
            pip.arg("--index-url").arg(web.url("open/simple/"));
            pip.arg("--target").arg(&target).arg("demo");
            // As an operator sets it: for programs, not for pip.
            pip.env("HTTP_PROXY", node.url("proxy")?);
            pip.env("http_proxy", node.url("proxy")?);
            pip.env_remove("NO_PROXY").env_remove("no_proxy");
            pip.env("PIP_CONFIG_FILE", "/dev/null");
            run(pip).await?;
            ensure!(target.join("demo/data").metadata()?.len() == 8 * MIB);
        }
        sent_once(&web, &format!("open/{name}"), bytes.len() as u64)
    });
}

/// Writes a wheel with eight MiB of data in it.
const WHEEL: &str = r#"
import random, sys, zipfile
with zipfile.ZipFile(sys.argv[1], "w") as wheel:
    wheel.writestr("demo/__init__.py", "")
    wheel.writestr("demo/data", random.Random(1).randbytes(8 << 20))
    info = "demo-1.0.dist-info/"
    wheel.writestr(info + "METADATA", "Metadata-Version: 2.1\nName: demo\nVersion: 1.0\n")
    wheel.writestr(info + "WHEEL", "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
    wheel.writestr(info + "RECORD", "demo/__init__.py,,\ndemo/data,,\n" + info + "METADATA,,\n" + info + "WHEEL,,\n" + info + "RECORD,,\n")
"#;

/// A package of eight MiB, and a repository with it alone.
async fn repository(scene: &Scene, web: &Web) -> Result<u64> {
    let tree = scene.make_directory("package")?;
    std::fs::create_dir_all(tree.join("DEBIAN"))?;
    std::fs::create_dir_all(tree.join("usr/share/demo"))?;
    let control = "Package: demo\nVersion: 1.0\nArchitecture: all\nMaintainer: A <a@test.invalid>\nDescription: data\n";
    std::fs::write(tree.join("DEBIAN/control"), control)?;
    // What does not become smaller.
    web.put("scratch/data", 8 * MIB, (5, 100))?;
    std::fs::copy(web.file("scratch/data"), tree.join("usr/share/demo/data"))?;
    let package = scene.path("demo.deb");
    let mut build = Command::new(place::required_tool("dpkg-deb")?);
    build.args(["--root-owner-group", "-Znone", "--build"]);
    build.arg(&tree).arg(&package);
    run(build).await?;
    let bytes = std::fs::read(&package)?;
    web.write("open/apt/demo.deb", &bytes)?;
    let digest = Digest::sha256(&bytes);
    let size = bytes.len();
    let packages = format!(
        "{control}Filename: ./demo.deb\nSize: {size}\nSHA256: {}\n",
        digest.hex()
    );
    web.write("open/apt/Packages", packages.as_bytes())?;
    Ok(size as u64)
}

/// apt with nothing of this machine's.
fn apt(directory: &Path, proxy: &str, arguments: &[&str]) -> Result<Command> {
    let mut apt = Command::new(place::required_tool("apt-get")?);
    for (key, value) in [
        ("Dir::Etc", "etc"),
        ("Dir::State", "state"),
        ("Dir::State::status", "status"),
        ("Dir::Cache", "cache"),
        ("Dir::Log", "log"),
    ] {
        let value = directory.join(value).display().to_string();
        apt.arg("-o").arg(format!("{key}={value}"));
    }
    apt.args(["-o", "APT::Sandbox::User=root", "-o", "Debug::NoLocking=1"]);
    apt.args(arguments).current_dir(directory);
    apt.env("APT_CONFIG", "/dev/null").env("http_proxy", proxy);
    apt.env_remove("no_proxy").env_remove("NO_PROXY");
    Ok(apt)
}

fn installed_nothing(scene: &Scene, web: &Web, node: &Darner) -> Result<PathBuf> {
    let directory = scene.make_directory(format!("apt-{}", node.name()))?;
    for inner in ["etc/apt.conf.d", "etc/preferences.d", "state/lists/partial"] {
        std::fs::create_dir_all(directory.join(inner))?;
    }
    std::fs::create_dir_all(directory.join("cache/archives/partial"))?;
    std::fs::create_dir_all(directory.join("log"))?;
    std::fs::write(directory.join("status"), "")?;
    let source = format!("deb [trusted=yes] {} ./\n", web.url("open/apt"));
    std::fs::write(directory.join("etc/sources.list"), source)?;
    Ok(directory)
}

#[test]
fn apt_downloads_what_the_cluster_read_once() {
    scene::run("proxy_apt", async |scene| {
        let web = Web::start(scene, "0").await?;
        let size = repository(scene, &web).await?;
        let cluster = beside(scene, &web).await?;
        for node in &cluster.mirrors {
            let directory = installed_nothing(scene, &web, node)?;
            let proxy = node.url("proxy")?;
            run(apt(&directory, &proxy, &["update"])?).await?;
            run(apt(&directory, &proxy, &["download", "demo"])?).await?;
            let found = std::fs::read_dir(&directory)?;
            let mut found = found.filter_map(|entry| Some(entry.ok()?.path()));
            let package = found.find(|path| path.extension().is_some_and(|end| end == "deb"));
            let package = package.context("no package")?;
            ensure!(package.metadata()?.len() == size, "{}", package.display());
        }
        sent_once(&web, "open/apt/demo.deb", size)
    });
}

#[test]
fn containerd_pulls_through_it_without_any_mirror_configured() {
    scene::run("proxy_containerd", async |scene| {
        let upstream = Upstream::start(scene).await?;
        let settings = up_settings(scene, &upstream)?.set("proxy.listen", "127.0.0.1:0");
        let up = Darner::start(scene, "up", "up", &settings).await?;
        let proxy = up.url("proxy")?;
        let containerd = Containerd::start_through(scene, "containerd", &proxy).await?;
        containerd.reach(NAME, &format!("http://{NAME}"))?;
        let image = &upstream.images.middle;
        let reference = image.reference(NAME);
        containerd.pull(&reference).await?;
        containerd.check_blobs(&image.blobs)?;
        upstream.read_once(image)?;
        // Again, from what is held.
        containerd.remove(image, &reference).await?;
        containerd.pull(&reference).await?;
        upstream.read_once(image)?;
        let served = up.metrics().await?.sum("darner_served_bytes_total", "");
        ensure!(served >= 2.0 * image.bytes() as f64, "{served}");
        Ok(())
    });
}
