//! What a process runs on: every setting, valid by construction, with its default.
//!
//! One type serves all roles, so one file can describe a whole cluster and a typing error anywhere
//! in it is found by whichever role reads it. How settings are read and where they come from is
//! [`crate::config`]'s business; this module only says what they mean.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use darner_proto::id::{HostId, Role};
use darner_proto::name::RegistryName;

use crate::secret::Secret;

/// Long enough that a whole cluster asks once, short enough that a tag that moved is soon seen.
pub(crate) const TAG_TTL: Duration = Duration::from_secs(60);
/// What is older says little about what a tag means now.
pub(crate) const MAX_TAG_STALE: Duration = Duration::from_secs(24 * 60 * 60);

/// Everything that can be set.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Where all state lives. Created with mode 0700 if absent.
    pub data_dir: PathBuf,
    /// This process among others.
    pub node: Node,
    /// The mirror role.
    pub mirror: Mirror,
    /// The front end for container runtimes.
    pub registry: Registry,
    /// Registries that content comes from, configured ones first, then those known by default.
    pub upstreams: Vec<Upstream>,
    /// What becomes of URLs that are asked for.
    pub routes: Vec<Route>,
    /// The forward proxy.
    pub proxy: Proxy,
    /// The listener other peers fetch pieces from.
    pub pieces: Pieces,
    /// The scheduler role, and where schedulers are.
    pub scheduler: Scheduler,
    /// The manager role, and where the manager is.
    pub manager: Manager,
    /// Who may log in with an account of elsewhere; nobody without it.
    pub oidc: Option<Oidc>,
    /// Membership without servers.
    pub gossip: Gossip,
    /// The content store.
    pub store: Store,
    /// How much of the network the mirror may take.
    pub limits: Limits,
    /// Health and metrics.
    pub admin: Admin,
    /// How processes know each other.
    pub identity: Identity,
    /// How the process ends.
    pub shutdown: Shutdown,
    /// What is logged.
    pub log: Log,
}

/// `[node]`
#[derive(Debug, Clone)]
pub struct Node {
    /// Unique in the cluster. Default: the host's name.
    pub id: HostId,
    /// Where the node is, such as `zone` and `rack`.
    pub labels: BTreeMap<String, String>,
}

/// `[mirror]`
#[derive(Debug, Clone)]
pub struct Mirror {
    /// [`Role::Mirror`] or [`Role::Seed`].
    pub role: Role,
    /// A seed's share of what seeds read, in relation to the others'. Default 100.
    pub weight: u32,
}

/// `[registry]`
#[derive(Debug, Clone)]
pub struct Registry {
    /// Default 127.0.0.1:7420.
    pub listen: SocketAddr,
    /// The registry meant by requests that name none. Default `docker.io`.
    pub default_upstream: RegistryName,
    /// A client gets headers or an error within this time. Default 10 s.
    pub first_byte_timeout: Duration,
    /// Requests served at once; more wait. What is in the store counts until it goes out. Default 512.
    pub max_requests: usize,
    /// Speaks TLS with a certificate of an authority that this machine makes for itself, in
    /// `registry-tls` in the data directory. `darner setup --tls` tells the runtimes of it. On loopback
    /// plain HTTP is answered too; elsewhere it is refused. Default false.
    pub tls: bool,
    /// Registries for which clients may show the mirror credentials that they keep under its own
    /// address, as Podman, CRI-O, Skopeo and Buildah do. With any, `/v2/` asks every client for a
    /// token, which who has no credentials gets too. Needs `tls` where others can listen. Default none.
    pub logins: Vec<RegistryName>,
}

/// `[[upstream]]`
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Upstream {
    /// As clients call it, such as `docker.io`.
    pub name: RegistryName,
    /// `https://host[:port][/prefix]`, or `http://` when written out. Validated, no trailing slash.
    pub url: String,
    /// Other registries with the same content, as `url` is written, which are asked before `url`
    /// in this order. One that fails is left out for a while; callers' own credentials are never
    /// shown to them.
    pub mirrors: Vec<String>,
    /// A file of certificate authorities to trust in place of the system's, PEM.
    pub ca_file: Option<PathBuf>,
    /// The certificate that is shown to the registry and to no other host, PEM; with
    /// `client_key_file`.
    pub client_cert_file: Option<PathBuf>,
    /// The key of that certificate, PEM.
    pub client_key_file: Option<PathBuf>,
    /// Fetches bytes with these credentials; never stands in for a caller's own right to read.
    pub credentials: Option<Credentials>,
    /// A file in the form of Docker's `config.json` or Kubernetes' `.dockerconfigjson`, with
    /// credentials by host; also names credential helpers. Read anew whenever credentials are
    /// needed.
    pub credentials_file: Option<PathBuf>,
    /// What follows `docker-credential-` in the name of a program that is asked for credentials,
    /// such as `ecr-login`.
    pub credential_helper: Option<String>,
    /// How long a tag's answer counts as fresh. Default 60 s; 0 asks upstream every time.
    pub tag_ttl: Duration,
    /// While upstream cannot be asked, what it said of a tag goes on to be served for this long,
    /// with a `Warning` header. Default 24 h, which is also the most.
    pub tag_stale: Duration,
    /// Connections to this registry at once. Default 16, for seeds 64.
    pub max_connections: usize,
}

/// A user name and password for an upstream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Credentials {
    /// The user to read from this registry as; with `password_file`.
    pub username: String,
    /// The file that holds the password; a newline at its end does not count. Read anew whenever
    /// the password is needed.
    pub password_file: PathBuf,
}

/// `[[route]]`: of those given, the first that fits a URL says what becomes of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Route {
    /// `files.example.com`, `*.example.com` for what is below it, an address, or `*`; with `:port`,
    /// or else at ports 80 and 443. Names are meant as they stand in URLs.
    pub host: RouteHost,
    /// The path, in which `*` stands for anything. Default `*`.
    pub path: String,
    /// `swarm`: read once for the whole cluster. `straight`: passed on to the host. `refuse`: not
    /// asked for.
    pub to: RouteTo,
    /// Query parameters that do not say which file is meant, such as those of a signature: URLs
    /// that differ in them alone are one file. `*` at the end stands for anything. Each caller's
    /// own URL must still be accepted by the host.
    pub ignore_query: Vec<String>,
    /// Names may lead to addresses of private networks and of this machine. Default false.
    pub private: bool,
    /// A file of certificate authorities to trust in place of the system's, PEM.
    pub ca_file: Option<PathBuf>,
}

/// The hosts that a route is about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RouteHost {
    /// As it stands in a URL; with `*.` in front, or `*` alone.
    pub name: String,
    /// At this port only.
    pub port: Option<u16>,
}

/// `[[route]] to`
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RouteTo {
    /// Read once for the whole cluster.
    Swarm,
    /// Passed on.
    Straight,
    /// Refused.
    Refuse,
}

/// `[proxy]`
#[derive(Debug, Clone)]
pub struct Proxy {
    /// Where programs of this machine find the forward proxy, such as 127.0.0.1:7425. Default: there
    /// is none.
    pub listen: Option<SocketAddr>,
    /// With it, `https://` to the hosts it is limited to is looked into.
    pub authority: Option<ProxyAuthority>,
}

/// The keys `ca_certificate` and `ca_key` of `[proxy]`, which go together.
#[derive(Debug, Clone)]
pub struct ProxyAuthority {
    /// The certificate (PEM) of an authority of your own, which programs of this machine trust.
    /// `https://` to the names in its name constraints is answered in their hosts' place, so that it
    /// can be shared. Default: nothing is looked into.
    pub ca_certificate: PathBuf,
    /// Its private key (PEM).
    pub ca_key: PathBuf,
}

/// `[pieces]`
#[derive(Debug, Clone)]
pub struct Pieces {
    /// Default 0.0.0.0:7421; in `darner up` 127.0.0.1:7421.
    pub listen: SocketAddr,
    /// `host:port` that others reach `listen` at. Default: the bound address, when it is not a
    /// wildcard.
    pub advertise: Option<String>,
    /// Pieces sent at once. Default 16.
    pub upload_slots: u32,
}

/// `[scheduler]`
#[derive(Debug, Clone)]
pub struct Scheduler {
    /// Default 0.0.0.0:7422; in `darner up` 127.0.0.1:7422.
    pub listen: SocketAddr,
    /// `host:port` that nodes reach `listen` at. Default: the bound address, when it is not a
    /// wildcard.
    pub advertise: Option<String>,
    /// Schedulers' URLs, for a mirror that has no manager.
    pub addresses: Vec<String>,
    /// After a start, no upstream read is granted for this long, so that nodes can say what they
    /// hold. Default 2 s; in `darner up` zero, since its only node is in the same process.
    pub settle: Duration,
}

/// `[manager]`
#[derive(Debug, Clone)]
pub struct Manager {
    /// gRPC. Default 0.0.0.0:7423; in `darner up` 127.0.0.1:7423.
    pub listen: SocketAddr,
    /// REST API. Default 127.0.0.1:7424.
    pub api_listen: SocketAddr,
    /// The chain of the API's certificate, PEM, for `api_listen` to be reached from other hosts over
    /// https; read again when it changes. Default: none, and plain HTTP.
    pub api_certificate: Option<PathBuf>,
    /// The key of `api_certificate`, PEM.
    pub api_key: Option<PathBuf>,
    /// The manager's URL, for a mirror or scheduler. Without it there is no manager.
    pub address: Option<String>,
    /// The SQLite file. Default `manager.db` in the data directory.
    pub database: Option<PathBuf>,
    /// How long the certificates count that this manager issues; they are renewed after a third of
    /// that. Default 7 days.
    pub certificate_lifetime: Duration,
    /// A file of join tokens that are good for any number of processes at any time, one on each
    /// line; for orchestrators that cannot ask for one. Default: none.
    pub join_tokens_file: Option<PathBuf>,
    /// The file that holds 64 hexadecimal digits, as `openssl rand -hex 32` prints: the signing key of
    /// the certificate authority, the secrets of webhooks and the passwords of registries are sealed with
    /// them in the database. Default: nothing is sealed, and no password of a registry is taken.
    pub seal_key: Option<Secret>,
    /// The file that holds the URL of a PostgreSQL database to use in place of the SQLite file, as
    /// several managers over one database do: `postgres://user:password@host/database`. Add
    /// `?sslmode=verify-full` to have it talked to over TLS and its certificate checked.
    pub postgres_url: Option<Secret>,
}

/// `[oidc]`: people log in to the manager's console with OpenID Connect. Each has the role of the
/// highest of the three lists that names one of its groups, at every login anew; who is in none is not let
/// in.
#[derive(Debug, Clone)]
pub struct Oidc {
    /// The provider, as `iss` in its tokens says. Without it nobody logs in so.
    pub issuer: String,
    /// What the provider calls this manager.
    pub client_id: String,
    /// The file that holds what the provider gave it as a secret, if it did.
    pub client_secret: Option<Secret>,
    /// Where browsers find this manager's console: `https://darner.example`. The provider is to allow
    /// `/oidc/callback` there.
    pub public_url: String,
    /// What the provider is asked for. Default openid, profile and email; some need one more for
    /// groups.
    pub scopes: Vec<String>,
    /// The claim that is the account's name here. Default preferred_username.
    pub name_claim: String,
    /// The claim that lists groups. Default groups.
    pub groups_claim: String,
    /// Whose members are administrators.
    pub admin_groups: Vec<String>,
    /// Whose members are operators.
    pub operator_groups: Vec<String>,
    /// Whose members are viewers; `*` for everybody the provider knows.
    pub viewer_groups: Vec<String>,
}

/// `[gossip]`: mirrors that find each other by themselves and keep the table of who holds what among
/// them, in place of schedulers or for when none can be reached.
#[derive(Debug, Clone, Default)]
pub struct Gossip {
    /// Whether this mirror takes part. Each that does also listens at `[scheduler] listen`. Default
    /// false.
    pub enabled: bool,
    /// `host:port` of the pieces listeners of mirrors to begin with; a name may stand for many
    /// addresses, as that of a headless service does.
    pub join: Vec<String>,
    /// A Kubernetes service that the mirrors are behind, `service` or `namespace/service`: its
    /// EndpointSlices name mirrors to begin with. The pod's service account needs the right to list
    /// `endpointslices` of `discovery.k8s.io`. Default: none.
    pub kubernetes_service: Option<String>,
    /// The Kubernetes API. Default `https://kubernetes.default.svc`.
    pub kubernetes_api: String,
    /// The directory with `token`, `ca.crt` and `namespace` of the pod's service account. Default
    /// `/var/run/secrets/kubernetes.io/serviceaccount`.
    pub kubernetes_account: PathBuf,
}

/// `[store]`
#[derive(Debug, Clone)]
pub struct Store {
    /// Bytes of content kept at most. Default: half of what is free on the file system at start,
    /// at most 100 GiB.
    pub capacity: Option<u64>,
    /// Bytes of private content kept at most, apart from the rest; other nodes are sent it by seeds
    /// alone, each by its own proof of the right to it; 0 keeps none. Default 10 GiB.
    pub private_capacity: u64,
    /// Everything kept is read again and compared with its digest this often; what a disk has lost
    /// is set aside and had again from other nodes. 0 never does. Default 7 days.
    pub scrub_every: Duration,
    /// The part of the time, in percent, that is spent on that at most. Default 5.
    pub scrub_share: u32,
}

/// `[limits]`: sizes are bytes a second, such as `50 MB`.
#[derive(Debug, Clone, Default)]
pub struct Limits {
    /// Pieces to other nodes. Default: no limit.
    pub upload: Option<u64>,
    /// Everything that comes to this node, from other nodes and from registries. Default: no limit.
    pub download: Option<u64>,
    /// What comes from registries. Default: no limit.
    pub upstream: Option<u64>,
}

/// `[admin]`
#[derive(Debug, Clone)]
pub struct Admin {
    /// Default 127.0.0.1 and 7430 for a mirror, 7431 for a scheduler, 7432 for a manager.
    pub listen: SocketAddr,
}

/// `[identity]`
#[derive(Debug, Clone)]
pub struct Identity {
    /// Processes talk in plain text and believe what others say of themselves. Default false: every
    /// connection between processes is encrypted, and both sides show a certificate.
    pub insecure: bool,
    /// A file with a join token, for which the manager gives this process its first certificate.
    /// `darner manager token create` makes one.
    pub token_file: Option<PathBuf>,
    /// The authorities' certificates (PEM): of `certificate`, or of the manager while joining.
    pub ca: Option<PathBuf>,
    /// The file that holds 64 hexadecimal digits, as `openssl rand -hex 32` prints, the same for all
    /// processes: whoever has them is a member, and issues itself a certificate. For clusters without
    /// a manager. Default: none.
    pub cluster_key: Option<Secret>,
    /// A certificate that somebody else provides and renews.
    pub files: Option<IdentityFiles>,
}

/// The keys `certificate`, `key` and `ca` of `[identity]`, which go together.
#[derive(Debug, Clone)]
pub struct IdentityFiles {
    /// The certificate (PEM), and what leads from it to the authority. Its one URI name is
    /// `spiffe://<trust domain>/darner/<role>/<node id>`.
    pub certificate: PathBuf,
    /// Its private key (PEM).
    pub key: PathBuf,
    /// The authorities' certificates (PEM).
    pub ca: PathBuf,
}

/// `[shutdown]`
#[derive(Debug, Clone)]
pub struct Shutdown {
    /// What is being served may go on for this long after the process was asked to end. Default
    /// 30 s, as long as Kubernetes gives a container to end.
    pub grace: Duration,
}

/// `[log]`
#[derive(Debug, Clone)]
pub struct Log {
    /// What is logged, such as `info` or `info,darner_mirror=debug`; also from `DARNER_LOG`.
    /// Default `info`.
    pub filter: String,
    /// How it is written.
    pub format: LogFormat,
}

/// `[log] format`
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum LogFormat {
    /// For people when standard error is a terminal, else JSON.
    #[default]
    Auto,
    /// Lines for people.
    Human,
    /// One JSON object on each line.
    Json,
}

impl Upstream {
    /// A registry with nothing set but where it is and how many connections it is sent.
    pub fn new(name: RegistryName, url: impl Into<String>, max_connections: usize) -> Self {
        Self {
            name,
            url: url.into(),
            mirrors: Vec::new(),
            ca_file: None,
            client_cert_file: None,
            client_key_file: None,
            credentials: None,
            credentials_file: None,
            credential_helper: None,
            tag_ttl: TAG_TTL,
            tag_stale: MAX_TAG_STALE,
            max_connections,
        }
    }
}

impl Default for Shutdown {
    fn default() -> Self {
        Self {
            grace: Duration::from_secs(30),
        }
    }
}

impl Default for Log {
    fn default() -> Self {
        Self {
            filter: "info".to_owned(),
            format: LogFormat::Auto,
        }
    }
}
