//! Every section, key by key, with its default.

use std::ffi::OsStr;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use darner_proto::id::{DEFAULT_WEIGHT, HostId, MAX_WEIGHT, Role};
use darner_proto::name::RegistryName;

use super::read::{Reading, Section};
use super::value::Table;
use super::{Command, Sources, oidc, parse, routes, upstreams};
use crate::settings::{
    Admin, Gossip, Identity, IdentityFiles, Limits, Log, Manager, Mirror, Node, Pieces, Proxy,
    ProxyAuthority, Registry, Scheduler, Settings, Shutdown, Store,
};

const REGISTRY_PORT: u16 = 7420;
const PIECES_PORT: u16 = 7421;
const SCHEDULER_PORT: u16 = 7422;
const MANAGER_PORT: u16 = 7423;
const API_PORT: u16 = 7424;
const MIRROR_ADMIN_PORT: u16 = 7430;
const SCHEDULER_ADMIN_PORT: u16 = 7431;
const MANAGER_ADMIN_PORT: u16 = 7432;

/// Where a pod finds the cluster's API, and who it is there.
const KUBERNETES_API: &str = "https://kubernetes.default.svc";
const KUBERNETES_ACCOUNT: &str = "/var/run/secrets/kubernetes.io/serviceaccount";

/// Where system services keep their state.
const SYSTEM_DATA_DIR: &str = "/var/lib/darner";
const DEFAULT_UPSTREAM: &str = "docker.io";
const FIRST_BYTE_TIMEOUT: Duration = Duration::from_secs(10);
const MAX_REQUESTS: u32 = 512;
const PRIVATE_CAPACITY: u64 = 10 << 30;
/// A disk that forgets does so over years.
const SCRUB_EVERY: Duration = Duration::from_secs(7 * 24 * 3600);
/// A disk that reads 500 MB/s reads two terabytes within a day.
const SCRUB_SHARE: u32 = 5;
const UPLOAD_SLOTS: u32 = 16;
/// Days of a manager's absence are outlived, and a stolen certificate does not count for long.
const CERTIFICATE_LIFETIME: Duration = Duration::from_secs(7 * 24 * 3600);
/// Long enough for every node to connect again and say what it holds.
const SETTLE: Duration = Duration::from_secs(2);

/// All settings; `None` when one that has no other default is wrong. What is wrong is noted in
/// `reading`.
pub(super) fn read(
    command: Command,
    sources: &Sources,
    table: Table,
    reading: &Reading,
) -> Option<Settings> {
    let mut top = reading.top(table);
    let data_dir = top.read("data_dir", parse::path);
    let data_dir = data_dir.or_else(|| default_data_dir(command, sources, reading));
    let node = node(top.section("node"), sources, reading);
    let mirror = mirror(top.section("mirror"), command);
    let registry = registry(top.section("registry"));
    let upstreams = upstreams::read(top.take("upstream"), mirror.role, reading);
    let routes = routes::read(top.take("route"), reading);
    let proxy = proxy(top.section("proxy"), sources.file.as_deref(), reading);
    let pieces = pieces(top.section("pieces"), command);
    let scheduler = scheduler(top.section("scheduler"), command);
    let manager = manager(top.section("manager"), command);
    let oidc = oidc::read(top.section("oidc"), sources.file.as_deref(), reading);
    let gossip = gossip(top.section("gossip"));
    let store = store(top.section("store"));
    let limits = limits(top.section("limits"));
    let admin = admin(top.section("admin"), command);
    let identity = identity(top.section("identity"), sources.file.as_deref(), reading);
    let shutdown = shutdown(top.section("shutdown"));
    let log = log(top.section("log"));
    top.close();
    Some(Settings {
        data_dir: data_dir?,
        node: node?,
        mirror,
        registry: registry?,
        upstreams,
        routes,
        proxy,
        pieces,
        scheduler,
        manager,
        oidc,
        gossip,
        store,
        limits,
        admin,
        identity,
        shutdown,
        log,
    })
}

fn node(mut section: Section<'_>, sources: &Sources, reading: &Reading) -> Option<Node> {
    let id = section.read("id", parse::named);
    let id = id.or_else(|| default_id(sources, reading));
    let labels = section.read("labels", parse::labels).unwrap_or_default();
    section.close();
    Some(Node { id: id?, labels })
}

fn mirror(mut section: Section<'_>, command: Command) -> Mirror {
    let role = section.read("role", parse::mirror_role);
    let weight = section.read("weight", |item| parse::count(item, 1..=MAX_WEIGHT));
    section.close();
    Mirror {
        weight: weight.unwrap_or(DEFAULT_WEIGHT),
        role: role.unwrap_or(match command {
            Command::Up => Role::Seed,
            Command::Manager | Command::Scheduler | Command::Mirror => Role::Mirror,
        }),
    }
}

fn registry(mut section: Section<'_>) -> Option<Registry> {
    let listen = section.read("listen", parse::socket);
    let default_upstream: Option<RegistryName> = section.read("default_upstream", parse::named);
    let first_byte_timeout = section.read("first_byte_timeout", parse::some_duration);
    let max_requests = section.read("max_requests", |item| parse::count(item, 1..=65_536));
    let tls = section.read("tls", parse::boolean);
    let logins = section.read("logins", parse::names);
    section.close();
    Some(Registry {
        listen: listen.unwrap_or(local(REGISTRY_PORT)),
        default_upstream: default_upstream.or_else(|| DEFAULT_UPSTREAM.parse().ok())?,
        first_byte_timeout: first_byte_timeout.unwrap_or(FIRST_BYTE_TIMEOUT),
        max_requests: max_requests.unwrap_or(MAX_REQUESTS) as usize,
        tls: tls.unwrap_or(false),
        logins: logins.unwrap_or_default(),
    })
}

fn proxy(mut section: Section<'_>, file: Option<&Path>, reading: &Reading) -> Proxy {
    let listen = section.read("listen", parse::loopback);
    let certificate = section.read("ca_certificate", parse::path);
    let key = section.read("ca_key", parse::path);
    section.close();
    let authority = match (certificate, key) {
        (Some(ca_certificate), Some(ca_key)) => Some(ProxyAuthority {
            ca_certificate,
            ca_key,
        }),
        (None, None) => None,
        _ => {
            let message = "ca_certificate and ca_key go together: set both or none";
            reading.fault_of("proxy.ca_certificate", file, message.to_owned());
            None
        }
    };
    Proxy { listen, authority }
}

fn pieces(mut section: Section<'_>, command: Command) -> Pieces {
    let listen = section.read("listen", parse::socket);
    let advertise = section.read("advertise", parse::advertised);
    let upload_slots = section.read("upload_slots", |item| parse::count(item, 1..=1024));
    section.close();
    Pieces {
        listen: listen.unwrap_or(internal(command, PIECES_PORT)),
        advertise,
        upload_slots: upload_slots.unwrap_or(UPLOAD_SLOTS),
    }
}

fn scheduler(mut section: Section<'_>, command: Command) -> Scheduler {
    let listen = section.read("listen", parse::socket);
    let advertise = section.read("advertise", parse::advertised);
    let addresses = section.read("addresses", parse::addresses);
    let settle = section.read("settle", parse::duration);
    section.close();
    Scheduler {
        listen: listen.unwrap_or(internal(command, SCHEDULER_PORT)),
        advertise,
        addresses: addresses.unwrap_or_default(),
        settle: settle.unwrap_or(match command {
            Command::Up => Duration::ZERO,
            Command::Manager | Command::Scheduler | Command::Mirror => SETTLE,
        }),
    }
}

fn manager(mut section: Section<'_>, command: Command) -> Manager {
    let listen = section.read("listen", parse::socket);
    let api_listen = section.read("api_listen", parse::socket);
    let api_certificate = section.read("api_certificate", parse::path);
    let api_key = section.read("api_key", parse::path);
    let address = section.read("address", parse::process_address);
    let database = section.read("database", parse::path);
    let lifetime = section.read("certificate_lifetime", parse::lifetime);
    let join_tokens_file = section.read("join_tokens_file", parse::path);
    let seal_key = section.read("seal_key_file", parse::seal_key);
    let postgres_url = section.read("postgres_url_file", parse::postgres_url);
    section.close();
    Manager {
        listen: listen.unwrap_or(internal(command, MANAGER_PORT)),
        api_listen: api_listen.unwrap_or(local(API_PORT)),
        api_certificate,
        api_key,
        address,
        database,
        certificate_lifetime: lifetime.unwrap_or(CERTIFICATE_LIFETIME),
        join_tokens_file,
        seal_key,
        postgres_url,
    }
}

fn gossip(mut section: Section<'_>) -> Gossip {
    let enabled = section.read("enabled", parse::boolean);
    let join = section.read("join", parse::reached);
    let service = section.read("kubernetes_service", parse::kubernetes_service);
    let api = section.read("kubernetes_api", parse::process_address);
    let account = section.read("kubernetes_account", parse::path);
    section.close();
    Gossip {
        enabled: enabled.unwrap_or(false),
        join: join.unwrap_or_default(),
        kubernetes_service: service,
        kubernetes_api: api.unwrap_or(KUBERNETES_API.to_owned()),
        kubernetes_account: account.unwrap_or(KUBERNETES_ACCOUNT.into()),
    }
}

fn store(mut section: Section<'_>) -> Store {
    let capacity = section.read("capacity", parse::size);
    let private_capacity = section.read("private_capacity", parse::size_or_none);
    let scrub_every = section.read("scrub_every", parse::duration);
    let scrub_share = section.read("scrub_share", |item| parse::count(item, 1..=100));
    section.close();
    Store {
        capacity,
        private_capacity: private_capacity.unwrap_or(PRIVATE_CAPACITY),
        scrub_every: scrub_every.unwrap_or(SCRUB_EVERY),
        scrub_share: scrub_share.unwrap_or(SCRUB_SHARE),
    }
}

fn limits(mut section: Section<'_>) -> Limits {
    let upload = section.read("upload", parse::size);
    let download = section.read("download", parse::size);
    let upstream = section.read("upstream", parse::size);
    section.close();
    Limits {
        upload,
        download,
        upstream,
    }
}

fn admin(mut section: Section<'_>, command: Command) -> Admin {
    let listen = section.read("listen", parse::socket);
    section.close();
    let port = match command {
        Command::Mirror | Command::Up => MIRROR_ADMIN_PORT,
        Command::Scheduler => SCHEDULER_ADMIN_PORT,
        Command::Manager => MANAGER_ADMIN_PORT,
    };
    Admin {
        listen: listen.unwrap_or(local(port)),
    }
}

fn identity(mut section: Section<'_>, file: Option<&Path>, reading: &Reading) -> Identity {
    let insecure = section.read("insecure", parse::boolean);
    let token_file = section.read("token_file", parse::path);
    let certificate = section.read("certificate", parse::path);
    let key = section.read("key", parse::path);
    let ca = section.read("ca", parse::path);
    let cluster_key = section.read("cluster_key_file", parse::seal_key);
    section.close();
    let files = match (certificate, key, &ca) {
        (Some(certificate), Some(key), Some(ca)) => Some(IdentityFiles {
            certificate,
            key,
            ca: ca.clone(),
        }),
        (None, None, _) => None,
        _ => {
            let message = "certificate, key and ca go together: set all three or none";
            reading.fault_of("identity.certificate", file, message.to_owned());
            None
        }
    };
    Identity {
        insecure: insecure.unwrap_or(false),
        token_file,
        ca,
        cluster_key,
        files,
    }
}

fn shutdown(mut section: Section<'_>) -> Shutdown {
    let grace = section.read("grace", parse::duration);
    section.close();
    Shutdown {
        grace: grace.unwrap_or(Shutdown::default().grace),
    }
}

fn log(mut section: Section<'_>) -> Log {
    let filter = section.read("filter", parse::log_filter);
    let format = section.read("format", parse::log_format);
    section.close();
    let default = Log::default();
    Log {
        filter: filter.unwrap_or(default.filter),
        format: format.unwrap_or(default.format),
    }
}

fn local(port: u16) -> SocketAddr {
    SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), port)
}

/// Where processes of other hosts connect to; in `darner up` there are none.
fn internal(command: Command, port: u16) -> SocketAddr {
    match command {
        Command::Up => local(port),
        Command::Manager | Command::Scheduler | Command::Mirror => {
            SocketAddr::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED), port)
        }
    }
}

/// The host's name made a host id: lower case, what does not fit replaced.
fn default_id(sources: &Sources, reading: &Reading) -> Option<HostId> {
    let fits = |letter: char| {
        if letter.is_ascii_alphanumeric() || matches!(letter, '.' | '-' | '_') {
            letter.to_ascii_lowercase()
        } else {
            '-'
        }
    };
    let name = sources.machine.host_name.as_deref().unwrap_or_default();
    let id: String = name.chars().map(fits).take(253).collect();
    let id = id.parse().ok();
    if id.is_none() && !reading.is_bad("node.id") {
        let message = "must be set: this host has no name".to_owned();
        reading.fault_of("node.id", sources.file.as_deref(), message);
    }
    id
}

/// By the XDG base directory specification, for a user; relative values count as unset there.
fn default_data_dir(command: Command, sources: &Sources, reading: &Reading) -> Option<PathBuf> {
    if sources.machine.root && command != Command::Up {
        return Some(PathBuf::from(SYSTEM_DATA_DIR));
    }
    let variable = |name: &str| {
        let mut all = sources.environment.iter();
        let found = all.find(|(key, _)| key == OsStr::new(name));
        found.map(|(_, value)| PathBuf::from(value))
    };
    let absolute = |path: &PathBuf| Path::is_absolute(path);
    let state = variable("XDG_STATE_HOME").filter(absolute);
    let home = || Some(variable("HOME").filter(absolute)?.join(".local/state"));
    let found = state.or_else(home).map(|state| state.join("darner"));
    if found.is_none() && !reading.is_bad("data_dir") {
        let message = "must be set: neither XDG_STATE_HOME nor HOME is".to_owned();
        reading.fault_of("data_dir", sources.file.as_deref(), message);
    }
    found
}
