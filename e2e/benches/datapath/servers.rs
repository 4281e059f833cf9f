//! The processes: Debian's registry with the blobs, nginx over its storage, a mirror beside it, and
//! a cluster of a seed and another mirror.

use std::net::SocketAddr;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use darner_e2e::darner::{self, Settings};
use darner_e2e::place;
use darner_e2e::registry::Registry;

use crate::content::{Blob, push};
use crate::load::{self, Target};
use crate::secured::Member;
use crate::{MIB, local, wait, write};

pub(crate) const NAME: &str = "registry.test";
pub(crate) const COLD_SIZE: u64 = 256 * MIB;
const MANAGER: &str = "127.0.0.1:15110";
const NGINX_TLS: u16 = 15_201;
const SLICES: u16 = 15_202;
const PULL_THROUGH: u16 = 15_210;

/// Per second, in what `/proc` tells programs.
const TICKS: u64 = 100;

/// A server under test.
#[derive(Debug)]
pub(crate) struct Server {
    pub(crate) name: String,
    pub(crate) address: SocketAddr,
    /// Empty for one that is not measured.
    pub(crate) pids: Vec<u32>,
}

impl Server {
    /// User and system time of all its processes so far.
    pub(crate) fn processor_time(&self) -> Result<Duration> {
        let mut sum = 0;
        for pid in &self.pids {
            let stat = std::fs::read_to_string(format!("/proc/{pid}/stat"))?;
            // The name may hold anything, and ends with the last bracket.
            let (_, fields) = stat.rsplit_once(") ").context("/proc stat")?;
            let fields: Vec<_> = fields.split(' ').collect();
            let field = |number: usize| fields.get(number).context("/proc stat");
            sum += field(11)?.parse::<u64>()? + field(12)?.parse::<u64>()?;
        }
        Ok(Duration::from_millis(sum * 1000 / TICKS))
    }

    /// A line of `/proc/PID/status`, in bytes.
    pub(crate) fn memory(&self, line: &str) -> Result<u64> {
        let pid = self.pids.first().context("no process")?;
        let status = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
        let value = status.lines().find_map(|found| found.strip_prefix(line));
        let value = value.context("no such line")?;
        let number: String = value.chars().filter(char::is_ascii_digit).collect();
        Ok(number.parse::<u64>()? << 10)
    }
}

/// All of them. They end when dropped.
#[derive(Debug)]
pub(crate) struct Servers {
    pub(crate) directory: PathBuf,
    pub(crate) registry: Server,
    pub(crate) nginx: Server,
    /// The same files under TLS.
    pub(crate) nginx_tls: SocketAddr,
    pub(crate) mirror: Server,
    pub(crate) mirror_pieces: SocketAddr,
    pub(crate) seed: Server,
    pub(crate) seed_pieces: SocketAddr,
    /// Mirrors of the same cluster as the seed.
    pub(crate) parents: [Server; 3],
    pub(crate) child: Server,
    /// In the registry and nowhere else.
    pub(crate) cold: Vec<Blob>,
    /// The registry behind other caches.
    pub(crate) pull_through: Server,
    pub(crate) slices: Server,
    /// Pulled through each of the caches.
    pub(crate) caches: Vec<Blob>,
    /// Blobs by their size, pulled once.
    pub(crate) sizes: Vec<(u64, Vec<Blob>)>,
    /// 10 MiB.
    pub(crate) small: Blob,
    /// Held by the mirror.
    pub(crate) served: Blob,
    /// The path of a manifest that the mirror holds.
    pub(crate) manifest: String,
    children: Vec<std::process::Child>,
    _registry: Registry,
}

impl Servers {
    pub(crate) async fn start(directory: &Path) -> Result<Self> {
        let storage = directory.join("registry");
        std::fs::create_dir_all(&storage)?;
        let registry = Registry::start(directory, &storage, false).await?;
        let pusher = registry.pusher();
        let pushed = push(&pusher).await?;
        let mut children = Vec::new();
        let upstream = format!("http://{}", registry.address());
        let up = Settings::new(&directory.join("data-up"))
            .set("scheduler.listen", "127.0.0.1:0")
            .set("manager.listen", "127.0.0.1:0")
            .set("manager.api_listen", "127.0.0.1:0")
            .set("identity.insecure", true);
        let mirror = start(directory, "up", up, 15_000, &upstream, &mut children)?;
        manager(directory, &mut children)?;
        scheduler(directory, &mut children)?;
        let node = |name: &str| member(directory, name, "mirror");
        let seed = member(directory, "seed", "seed")?.set("mirror.role", "seed");
        let mut node_at = |name: &str, settings, port| {
            start(directory, name, settings, port, &upstream, &mut children)
        };
        let seed = node_at("seed", seed, 15_010)?;
        let child = node_at("child", node("child")?, 15_020)?;
        let parents = [
            node_at("parent1", node("parent1")?, 15_030)?,
            node_at("parent2", node("parent2")?, 15_040)?,
            node_at("parent3", node("parent3")?, 15_050)?,
        ];
        let nginx = nginx(directory, &storage, registry.address(), &mut children)?;
        let pull_through = pull_through(directory, registry.address(), &mut children)?;
        let servers = Self {
            directory: directory.to_owned(),
            registry: unmeasured(registry.address()),
            nginx,
            nginx_tls: local(NGINX_TLS),
            mirror,
            mirror_pieces: local(15_001),
            seed,
            seed_pieces: local(15_011),
            parents,
            child,
            pull_through,
            slices: unmeasured(local(SLICES)),
            caches: pushed.caches,
            sizes: pushed.sizes,
            small: pushed.small,
            cold: pushed.cold,
            served: pushed.served,
            manifest: pushed.manifest,
            children,
            _registry: registry,
        };
        // As a runtime does before it asks for blobs.
        let [first, second, third] = &servers.parents;
        let mirrors = [
            &servers.mirror,
            &servers.seed,
            &servers.child,
            first,
            second,
            third,
        ];
        for mirror in mirrors {
            load::read(&Target::file(mirror.address, &servers.manifest))?;
        }
        Ok(servers)
    }

    /// A member of the cluster, for clients in this process.
    pub(crate) fn member(&self) -> Result<Member> {
        Member::of(&certificate(&self.directory, "child"))
    }

    /// Waits until content is in a mirror's store: durable, and served from there.
    pub(crate) fn wait_held(&self, mirror: &Server, blob: &Blob) -> Result<()> {
        wait_held(&self.directory, mirror, blob)
    }

    /// Memory that so many bytes can be written to at once, and read from elsewhere. On a virtual machine the first touch of a page
    /// that has been free for some time costs ten times what it is used for, whoever touches it.
    pub(crate) fn warm_memory(&self, bytes: u64) -> Result<()> {
        let path = self.directory.join("warm");
        let file = std::fs::File::create(&path)?;
        let zeroes = vec![0; 1 << 20];
        for at in 0..2 * bytes.max(COLD_SIZE) / MIB {
            file.write_all_at(&zeroes, at * MIB)?;
        }
        drop(file);
        Ok(std::fs::remove_file(&path)?)
    }

    /// Ends all of them.
    pub(crate) fn stop(&mut self) {
        end(&mut self.children);
    }
}

impl Drop for Servers {
    fn drop(&mut self) {
        self.stop();
    }
}

pub(crate) fn wait_held(directory: &Path, mirror: &Server, blob: &Blob) -> Result<()> {
    let (algorithm, hex) = (blob.digest.algorithm(), blob.digest.hex());
    let store = directory.join(format!("data-{}/store", mirror.name));
    let path = store.join(format!("blobs/{algorithm}/{hex}"));
    wait("a blob to be held", || Ok(path.exists()))
}

/// Ends processes. A master that is killed would leave its workers behind.
pub(crate) fn end(children: &mut Vec<std::process::Child>) {
    for child in children.iter() {
        let pid = rustix::process::Pid::from_child(child);
        let _ = rustix::process::kill_process(pid, rustix::process::Signal::TERM);
    }
    for mut child in children.drain(..) {
        let ended = wait("a server to end", || Ok(child.try_wait()?.is_some()));
        if ended.is_err() {
            let _ = child.kill();
        }
        let _ = child.wait();
    }
}

/// A mirror with its front end at `port` and its pieces listener at the one after.
fn start(
    directory: &Path,
    name: &str,
    settings: Settings,
    port: u16,
    upstream: &str,
    children: &mut Vec<std::process::Child>,
) -> Result<Server> {
    let address = local(port);
    let settings = settings
        .set("registry.listen", address.to_string())
        .set("registry.default_upstream", NAME)
        .set("pieces.listen", local(port + 1).to_string())
        .upstream(NAME, upstream);
    let command = if name == "up" { "up" } else { "mirror" };
    let pid = spawn(directory, name, command, &settings, children)?;
    wait(name, || Ok(std::net::TcpStream::connect(address).is_ok()))?;
    Ok(Server {
        name: name.to_owned(),
        address,
        pids: vec![pid],
    })
}

fn manager(directory: &Path, children: &mut Vec<std::process::Child>) -> Result<()> {
    let settings = Settings::new(&directory.join("data-manager"))
        .set("node.id", "manager")
        .set("manager.listen", MANAGER)
        .set("manager.api_listen", "127.0.0.1:15111");
    write(&directory.join("manager.toml"), &settings.text())?;
    for role in ["scheduler", "seed", "mirror"] {
        let mut command = darner::command()?;
        command.args([
            "manager", "token", "create", "--uses", "10000", "--role", role,
        ]);
        command.arg("--config").arg(directory.join("manager.toml"));
        let output = command.output().context("darner")?;
        let said = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success(), "no join token: {said}");
        std::fs::write(token(directory, role), output.stdout)?;
    }
    // It takes up the database that holds them.
    spawn(directory, "manager", "manager", &settings, children)?;
    wait("the manager", || {
        Ok(std::net::TcpStream::connect(MANAGER).is_ok())
    })
}

fn token(directory: &Path, role: &str) -> PathBuf {
    directory.join(format!("{role}.token"))
}

/// Settings of a member of the cluster.
fn member(directory: &Path, name: &str, role: &str) -> Result<Settings> {
    let token = token(directory, role);
    Ok(Settings::new(&directory.join(format!("data-{name}")))
        .set("node.id", name)
        .set("manager.address", format!("https://{MANAGER}"))
        .set("identity.token_file", token.display().to_string()))
}

/// Where a mirror keeps its key and certificate.
fn certificate(directory: &Path, name: &str) -> PathBuf {
    directory.join(format!("data-{name}/identity-mirror.pem"))
}

fn scheduler(directory: &Path, children: &mut Vec<std::process::Child>) -> Result<()> {
    let settings = member(directory, "scheduler", "scheduler")?
        .set("scheduler.listen", "127.0.0.1:15100")
        .set("scheduler.settle", "0s");
    spawn(directory, "scheduler", "scheduler", &settings, children)?;
    wait("the scheduler", || {
        Ok(std::net::TcpStream::connect(local(15_100)).is_ok())
    })
}

pub(crate) fn spawn(
    directory: &Path,
    name: &str,
    subcommand: &str,
    settings: &Settings,
    children: &mut Vec<std::process::Child>,
) -> Result<u32> {
    let file = directory.join(format!("{name}.toml"));
    write(&file, &settings.text())?;
    let log = std::fs::File::create(directory.join(format!("{name}.log")))?;
    let mut command = darner::command()?;
    command.arg(subcommand).arg("--config").arg(file);
    command.stdout(log.try_clone()?).stderr(log);
    let child = command.spawn().context("darner")?;
    let pid = child.id();
    children.push(child);
    Ok(pid)
}

fn unmeasured(address: SocketAddr) -> Server {
    Server {
        name: address.to_string(),
        address,
        pids: Vec::new(),
    }
}

/// Debian's registry as a cache of the other one.
fn pull_through(
    directory: &Path,
    registry: SocketAddr,
    children: &mut Vec<std::process::Child>,
) -> Result<Server> {
    let address = local(PULL_THROUGH);
    let config = directory.join("pull-through.yml");
    write(
        &config,
        &format!(
            "version: 0.1\nlog: {{level: error, accesslog: {{disabled: true}}}}\n\
             http: {{addr: '{address}', secret: 'not used by one instance'}}\n\
             storage:\n  filesystem: {{rootdirectory: '{}'}}\n\
             proxy: {{remoteurl: 'http://{registry}'}}\n",
            directory.join("pull-through").display()
        ),
    )?;
    let log = std::fs::File::create(directory.join("pull-through.log"))?;
    let mut command = Command::new(place::required_tool("docker-registry")?);
    command.arg("serve").arg(&config);
    command.stdout(log.try_clone()?).stderr(log);
    let child = command.spawn().context("docker-registry")?;
    children.push(child);
    wait("docker-registry", || {
        Ok(std::net::TcpStream::connect(address).is_ok())
    })?;
    Ok(unmeasured(address))
}

fn nginx(
    directory: &Path,
    storage: &Path,
    registry: SocketAddr,
    children: &mut Vec<std::process::Child>,
) -> Result<Server> {
    let address = local(15_200);
    let config = directory.join("nginx.conf");
    let work = directory.display();
    // Any certificate will do.
    let pem = certificate(directory, "child");
    let pem = pem.display();
    write(
        &config,
        &format!(
            "user root;\nworker_processes auto;\ndaemon off;\npid {work}/nginx.pid;\n\
             error_log {work}/nginx.log;\nevents {{ worker_connections 1024; }}\n\
             http {{\n  access_log off;\n  sendfile on;\n  tcp_nodelay on;\n  \
             keepalive_requests 1000000;\n  default_type application/octet-stream;\n  \
             root {};\n  server {{ listen {address}; }}\n  \
             server {{ listen {} ssl; ssl_certificate {pem}; ssl_certificate_key {pem}; \
             ssl_protocols TLSv1.3; ssl_conf_command Ciphersuites TLS_AES_128_GCM_SHA256; }}\n  \
             proxy_cache_path {work}/slices keys_zone=slices:10m max_size=20g;\n  \
             server {{ listen {}; location / {{ slice 1m; proxy_cache slices; \
             proxy_cache_key $uri$slice_range; proxy_set_header Range $slice_range; \
             proxy_http_version 1.1; proxy_cache_valid 200 206 1h; \
             proxy_pass http://{registry}; }} }}\n}}\n",
            storage.display(),
            local(NGINX_TLS),
            local(SLICES)
        ),
    )?;
    let mut command = Command::new(place::required_tool("nginx").or_else(|_| {
        let path = PathBuf::from("/usr/sbin/nginx");
        path.is_file()
            .then_some(path)
            .context("nginx is not installed")
    })?);
    let child = command.arg("-c").arg(&config).spawn().context("nginx")?;
    let master = child.id();
    children.push(child);
    wait(
        "nginx",
        || Ok(std::net::TcpStream::connect(address).is_ok()),
    )?;
    let mut pids = vec![master];
    // It listens before it has started them.
    wait("nginx's workers", || {
        let children = std::fs::read_to_string(format!("/proc/{master}/task/{master}/children"))?;
        pids.truncate(1);
        for child in children.split_whitespace() {
            // Of those that look after its cache one ends after a minute.
            let command = std::fs::read_to_string(format!("/proc/{child}/cmdline"))?;
            if command.starts_with("nginx: worker process") {
                pids.push(child.parse()?);
            }
        }
        Ok(pids.len() > std::thread::available_parallelism()?.get())
    })?;
    Ok(Server {
        name: "nginx".to_owned(),
        address,
        pids,
    })
}
