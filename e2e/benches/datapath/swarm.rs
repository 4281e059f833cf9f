//! Eight mirrors and a seed, each in a network namespace of its own behind a slow link, and a registry
//! behind another: how long all of them take for a large image that nobody has, and for small ones,
//! through the cluster and straight from the registry.

use std::io::Write as _;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use bytes::Bytes;
use darner_e2e::darner::{self, Settings};
use darner_e2e::place;
use darner_e2e::registry::{Pusher, Registry};
use serde_json::json;

use crate::report::{Figure, Report};
use crate::{scale, wait, write};

const MIRRORS: u8 = 8;
/// Bits a second of each link, in each direction.
const LINK: u64 = 200_000_000;
/// Of a link's bits, what is left of a full Ethernet frame for the bytes of a stream over TCP with
/// timestamps.
const GOODPUT: f64 = 1448.0 / 1514.0;
/// The large image.
const LAYERS: u64 = 5;
const LAYER: u64 = 100_000_000;
/// The small ones.
const SMALL_IMAGES: u64 = 16;
const SMALL_BLOBS: u64 = 30;
/// As containerd does.
const AT_ONCE: &str = "3";
const REPOSITORY: &str = "bench/swarm";
const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
/// Where a node's mirror listens within its namespace, for its own clients and for others.
const FRONT: u16 = 16_500;
const PIECES: u16 = 16_501;
const REGISTRY: u16 = 16_600;
const BRIDGE: &str = "swarm0";

/// An image: its manifest and its blobs, by their paths, and the bytes of all.
struct Image {
    manifest: String,
    blobs: Vec<String>,
    bytes: u64,
}

/// A process behind a link of its own.
struct Node {
    child: Child,
    address: Ipv4Addr,
}

impl Drop for Node {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

pub(crate) fn compare(directory: &Path, report: &mut Report) -> Result<()> {
    let runtime = tokio::runtime::Runtime::new()?;
    let storage = directory.join("swarm-registry");
    std::fs::create_dir_all(&storage)?;
    let (large, small) = runtime.block_on(async {
        let registry = Registry::start(directory, &storage, false).await?;
        push(&registry.pusher()).await
    })?;
    let cluster = Cluster::start(directory, &storage)?;
    let link = LINK / scale();
    let name = format!(
        "8 mirrors and a seed at {} Mbit/s each, cold image of {} MB, all at once",
        link / 1_000_000,
        large.bytes / 1_000_000
    );
    let before = cluster.sent()?;
    let took = cluster.pull_all(std::slice::from_ref(&large), FRONT)?;
    let after = cluster.sent()?;
    // No scheme is faster: design, section 6, with the seed beside the registry.
    let rate = link as f64 / 8.0 * GOODPUT;
    let nodes = f64::from(MIRRORS) + 1.0;
    let (whole, bound) = (large.bytes as f64 / rate, nodes / (nodes + 1.0));
    let bound = whole.max(whole * bound);
    report.beside(&name, "bound", "s", bound, took.as_secs_f64());
    // Headers and what is acknowledged are counted too.
    let times = |sent: u64| sent as f64 / large.bytes as f64;
    for (what, after, before) in [
        ("bytes from upstream over the image's", after.0, before.0),
        ("bytes from the seed over the image's", after.1, before.1),
    ] {
        report.alone(&name, Figure::new(what, times(after - before)));
    }
    let bytes: u64 = small.iter().map(|image| image.bytes).sum();
    let name = format!(
        "16 small images, {} MB in all, 8 mirrors at once",
        bytes / 1_000_000
    );
    let through = cluster.pull_all(&small, FRONT)?;
    let straight = cluster.pull_all(&small, REGISTRY)?;
    let (straight, through) = (straight.as_secs_f64(), through.as_secs_f64());
    report.beside(&name, "straight", "s", straight, through);
    Ok(())
}

struct Cluster {
    mirrors: Vec<Node>,
    registry: Node,
    seed: Node,
    _others: Vec<Node>,
    directory: PathBuf,
}

impl Drop for Cluster {
    fn drop(&mut self) {
        let _ = ip(&["link", "del", BRIDGE]);
    }
}

impl Cluster {
    fn start(directory: &Path, storage: &Path) -> Result<Self> {
        ip(&["link", "add", BRIDGE, "type", "bridge"])?;
        ip(&["address", "add", "10.77.0.1/24", "dev", BRIDGE])?;
        ip(&["link", "set", BRIDGE, "up"])?;
        let registry = registry(directory, storage)?;
        let mut others = vec![manager(directory)?];
        others.push(scheduler(directory)?);
        let upstream = format!("http://{}:{REGISTRY}", registry.address);
        let seed = mirror(directory, 11, "seed", &upstream)?;
        let mirrors =
            (1..=MIRRORS).map(|number| mirror(directory, 11 + number, "mirror", &upstream));
        let cluster = Self {
            mirrors: mirrors.collect::<Result<_>>()?,
            registry,
            seed,
            _others: others,
            directory: directory.to_owned(),
        };
        // All are to know of each other.
        std::thread::sleep(Duration::from_secs(3));
        Ok(cluster)
    }

    /// Bytes that have come from the registry and from the seed, by their links.
    fn sent(&self) -> Result<(u64, u64)> {
        Ok((sent_by(self.registry.address)?, sent_by(self.seed.address)?))
    }

    /// How long it takes until every node has had all of them, one after the other: from its own mirror
    /// or from the registry, by the port.
    fn pull_all(&self, images: &[Image], port: u16) -> Result<Duration> {
        let begun = Instant::now();
        let clients = self.mirrors.iter().enumerate().map(|(number, node)| {
            let host = match port {
                REGISTRY => self.registry.address,
                _ => Ipv4Addr::LOCALHOST,
            };
            let script = self.directory.join(format!("pull-{number}.sh"));
            write(&script, &pulls(images, SocketAddr::from((host, port))))?;
            let mut client = Command::new("nsenter");
            client.args(["-t", &node.child.id().to_string(), "-n", "/bin/sh"]);
            client.arg(script).spawn().context("nsenter")
        });
        let clients: Vec<Child> = clients.collect::<Result<_>>()?;
        for mut client in clients {
            ensure!(client.wait()?.success(), "a pull has failed");
        }
        Ok(begun.elapsed())
    }
}

/// What a runtime asks for: a manifest, and then its blobs, a few at once.
fn pulls(images: &[Image], at: SocketAddr) -> String {
    let mut script = "set -e\n".to_owned();
    for image in images {
        let accepts = format!("-H 'Accept: {MANIFEST}'");
        let manifest = &image.manifest;
        script += &format!("curl -sSf {accepts} -o /dev/null http://{at}{manifest}\n");
        script += &format!("curl -sSf --parallel --parallel-immediate --parallel-max {AT_ONCE}");
        for blob in &image.blobs {
            script += &format!(" -o /dev/null http://{at}{blob}");
        }
        script += "\n";
    }
    script
}

async fn push(pusher: &Pusher) -> Result<(Image, Vec<Image>)> {
    let mut seed = 1 << 32;
    let mut blob = move |size: u64| {
        seed += 1;
        crate::content::random(seed, size)
    };
    let layers = (0..LAYERS).map(|_| blob(LAYER / scale())).collect();
    let large = push_image(pusher, "large", layers).await?;
    let mut small = Vec::new();
    for image in 0..SMALL_IMAGES {
        // From 10 to 500 KB.
        let size = |number| 10_000 + 490_000 * number / (SMALL_BLOBS - 1);
        let layers = (0..SMALL_BLOBS).map(|number| blob(size(number))).collect();
        small.push(push_image(pusher, &format!("small-{image}"), layers).await?);
    }
    Ok((large, small))
}

async fn push_image(pusher: &Pusher, tag: &str, layers: Vec<Vec<u8>>) -> Result<Image> {
    let bytes = layers.iter().map(|layer| layer.len() as u64).sum();
    let (mut blobs, mut listed) = (Vec::new(), Vec::new());
    for layer in layers {
        let size = layer.len();
        let digest = pusher.blob(REPOSITORY, layer.into()).await?;
        blobs.push(format!("/v2/{REPOSITORY}/blobs/{digest}"));
        let media_type = "application/vnd.oci.image.layer.v1.tar";
        listed.push(json!({"mediaType": media_type, "digest": digest.to_string(), "size": size}));
    }
    let config = pusher.blob(REPOSITORY, Bytes::from_static(b"{}")).await?;
    let config_type = "application/vnd.oci.image.config.v1+json";
    let config = json!({"mediaType": config_type, "digest": config.to_string(), "size": 2});
    let manifest = json!({
        "schemaVersion": 2, "mediaType": MANIFEST, "config": config, "layers": listed,
    });
    let manifest = Bytes::from(manifest.to_string());
    pusher.manifest(REPOSITORY, tag, MANIFEST, manifest).await?;
    Ok(Image {
        manifest: format!("/v2/{REPOSITORY}/manifests/{tag}"),
        blobs,
        bytes,
    })
}

/// Runs a program behind a link at `10.77.0.<number>`.
fn behind_link(directory: &Path, number: u8, program: &Path, arguments: &[&str]) -> Result<Node> {
    let address = Ipv4Addr::new(10, 77, 0, number);
    let log = std::fs::File::create(directory.join(format!("node-{number}.log")))?;
    let mut command = Command::new("unshare");
    // It begins once it is told that its link is there.
    let begin = "read -r go && exec \"$0\" \"$@\"";
    command
        .args(["--net", "--", "/bin/sh", "-c", begin])
        .arg(program);
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("DARNER_") {
            command.env_remove(name);
        }
    }
    let command = command.args(arguments).stdin(Stdio::piped());
    let child = command.stdout(log.try_clone()?).stderr(log).spawn();
    let mut node = Node {
        child: child.context("unshare")?,
        address,
    };
    let pid = node.child.id().to_string();
    // It has a namespace of its own once it has left ours.
    let ours = std::fs::read_link("/proc/self/ns/net")?;
    wait("a namespace", || {
        Ok(std::fs::read_link(format!("/proc/{pid}/ns/net"))? != ours)
    })?;
    link(&pid, address)?;
    let mut go = node.child.stdin.take().context("no input")?;
    go.write_all(b"\n")?;
    Ok(node)
}

/// Bytes that have left the link of the node at `address`.
fn sent_by(address: Ipv4Addr) -> Result<u64> {
    let device = format!("{}:", host_device(address));
    // Of this namespace, as `/sys` may not be.
    let devices = std::fs::read_to_string("/proc/self/net/dev")?;
    let mut lines = devices.lines().map(str::split_whitespace);
    let line = lines.find_map(|mut words| (words.next()? == device).then_some(words));
    let received = line.and_then(|mut words| words.next());
    Ok(received.context("no such device")?.parse()?)
}

fn host_device(address: Ipv4Addr) -> String {
    format!("swarm-{}", address.octets()[3])
}

/// A link between the bridge and the namespace of a process, slow in both directions.
fn link(pid: &str, address: Ipv4Addr) -> Result<()> {
    let device = host_device(address);
    let peer = ["type", "veth", "peer", "name", "eth0", "netns", pid];
    ip(&[&["link", "add", device.as_str()][..], &peer[..]].concat())?;
    ip(&["link", "set", device.as_str(), "master", BRIDGE, "up"])?;
    let rate = format!("{}bit", LINK / scale());
    let shaped = [
        "root", "tbf", "rate", &rate, "burst", "128kb", "latency", "50ms",
    ];
    let device = ["qdisc", "add", "dev", device.as_str()];
    run("tc", &[&device[..], &shaped[..]].concat())?;
    let within = ["-t", pid, "-n"];
    let address = format!("{address}/24");
    let commands: [&[&str]; 3] = [
        &["ip", "link", "set", "lo", "up"],
        &["ip", "address", "add", &address, "dev", "eth0"],
        &["ip", "link", "set", "eth0", "up"],
    ];
    for command in commands {
        run("nsenter", &[&within[..], command].concat())?;
    }
    let device = ["tc", "qdisc", "add", "dev", "eth0"];
    run("nsenter", &[&within[..], &device[..], &shaped[..]].concat())
}

fn ip(arguments: &[&str]) -> Result<()> {
    run("ip", arguments)
}

fn run(program: &str, arguments: &[&str]) -> Result<()> {
    let output = Command::new(program).args(arguments).output();
    let output = output.with_context(|| program.to_owned())?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(
        output.status.success(),
        "{program} {}: {}",
        arguments.join(" "),
        said.trim()
    );
    Ok(())
}

fn registry(directory: &Path, storage: &Path) -> Result<Node> {
    let config = directory.join("swarm-registry.yml");
    let text = format!(
        "version: 0.1\nlog: {{level: error, accesslog: {{disabled: true}}}}\n\
         http: {{addr: ':{REGISTRY}', secret: 'not used by one instance'}}\n\
         storage:\n  filesystem: {{rootdirectory: '{}', maxthreads: 200}}\n",
        storage.display()
    );
    write(&config, &text)?;
    let program = place::required_tool("docker-registry")?;
    let config = config.display().to_string();
    let node = behind_link(directory, 10, &program, &["serve", &config])?;
    is_up("the registry", (node.address, REGISTRY).into())?;
    Ok(node)
}

fn is_up(what: &str, address: SocketAddr) -> Result<()> {
    wait(what, || {
        let patience = Duration::from_millis(500);
        Ok(std::net::TcpStream::connect_timeout(&address, patience).is_ok())
    })
}

fn manager(directory: &Path) -> Result<Node> {
    let settings = Settings::new(&directory.join("swarm-manager"))
        .set("node.id", "manager")
        .set("manager.listen", "0.0.0.0:16110")
        .set("manager.api_listen", "127.0.0.1:16111");
    let file = directory.join("swarm-manager.toml");
    write(&file, &settings.text())?;
    for role in ["scheduler", "seed", "mirror"] {
        let mut command = darner::command()?;
        let wanted = ["--uses", "10000", "--role", role, "--config"];
        command
            .args(["manager", "token", "create"])
            .args(wanted)
            .arg(&file);
        let output = command.output().context("darner")?;
        let said = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success(), "no join token: {said}");
        std::fs::write(token(directory, role), output.stdout)?;
    }
    let file = file.display().to_string();
    let node = behind_link(
        directory,
        2,
        &place::darner()?,
        &["manager", "--config", &file],
    )?;
    is_up("the manager", (node.address, 16_110).into())?;
    Ok(node)
}

fn token(directory: &Path, role: &str) -> PathBuf {
    directory.join(format!("swarm-{role}.token"))
}

fn member(directory: &Path, name: &str, role: &str) -> Settings {
    let token = token(directory, role).display().to_string();
    Settings::new(&directory.join(format!("swarm-{name}")))
        .set("node.id", name)
        .set("manager.address", "https://10.77.0.2:16110")
        .set("identity.token_file", token)
}

fn scheduler(directory: &Path) -> Result<Node> {
    let settings = member(directory, "scheduler", "scheduler")
        .set("scheduler.listen", "10.77.0.3:16100")
        .set("scheduler.settle", "0s");
    let file = directory.join("swarm-scheduler.toml");
    write(&file, &settings.text())?;
    let file = file.display().to_string();
    let node = behind_link(
        directory,
        3,
        &place::darner()?,
        &["scheduler", "--config", &file],
    )?;
    is_up("the scheduler", (node.address, 16_100).into())?;
    Ok(node)
}

fn mirror(directory: &Path, number: u8, role: &str, upstream: &str) -> Result<Node> {
    let name = format!("{role}-{number}");
    let address = Ipv4Addr::new(10, 77, 0, number);
    let settings = member(directory, &name, role)
        .set("mirror.role", role)
        .set(
            "registry.listen",
            SocketAddr::from((Ipv4Addr::LOCALHOST, FRONT)).to_string(),
        )
        .set("registry.default_upstream", "registry.test")
        .set(
            "pieces.listen",
            SocketAddr::from((address, PIECES)).to_string(),
        )
        .upstream("registry.test", upstream);
    let file = directory.join(format!("swarm-{name}.toml"));
    write(&file, &settings.text())?;
    let file = file.display().to_string();
    let node = behind_link(
        directory,
        number,
        &place::darner()?,
        &["mirror", "--config", &file],
    )?;
    is_up(&name, (address, PIECES).into())?;
    Ok(node)
}
