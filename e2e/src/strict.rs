//! A registry that is strict: it speaks TLS by an authority that nobody else knows, answers only who
//! shows a certificate, lies below a path, and speaks HTTP/2 with who can. Debian's `docker-registry`
//! behind an nginx, with another host beside it that takes everybody, with a certificate or without.

use std::net::SocketAddr;
use std::path::Path;

use anyhow::Result;

use crate::authority::{Authority, Pair};
use crate::darner::Settings;
use crate::nginx::{Asked, Nginx};
use crate::place;
use crate::registry::{Access, Registry};
use crate::scene::Scene;

/// What precedes `/v2/` in the path.
const PREFIX: &str = "/team/registry";
/// A name of it beside its address. No such host is known.
pub const HOST: &str = "registry.behind-the-proxy.example";

/// What the registry's other host is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Other {
    /// Has the same content.
    Mirror,
    /// Keeps the blobs: the registry sends everybody there for them.
    Storage,
}

/// A running one.
#[derive(Debug)]
pub struct Strict {
    /// Whose certificate it has.
    authority: Authority,
    /// What it wants to be shown.
    pair: Pair,
    address: SocketAddr,
    other: SocketAddr,
    // In this order: nginx ends before what is behind it.
    nginx: Nginx,
    _registry: Registry,
}

impl Strict {
    /// Starts one that holds all images, for whom `access` lets in besides.
    pub async fn start(scene: &Scene, access: &Access, other: Other) -> Result<Self> {
        let directory = scene.path("");
        let place = (directory.as_path(), "registry-strict");
        let registry = Registry::start_as(place, &scene.images().storage, true, access).await?;
        let address: SocketAddr = place::fixed_port()?.parse()?;
        let beside = SocketAddr::from(([127, 0, 0, 2], address.port()));
        let authority = Authority::new(scene, "strict-authority")?;
        let hosts = ["127.0.0.1", "127.0.0.2", HOST];
        let own = authority.certify("strict", &hosts)?;
        let clients = Authority::new(scene, "strict-clients")?;
        let pair = clients.certify("strict-client", &[])?;
        let blobs = match other {
            Other::Mirror => String::new(),
            Other::Storage => format!(
                "location ~ ^{PREFIX}/(v2/.+/blobs/.+)$ {{ return 307 https://{beside}/$1; }}\n"
            ),
        };
        let servers = format!(
            "ssl_certificate {}; ssl_certificate_key {}; ssl_client_certificate {};\n\
             server {{ listen {address} ssl http2; ssl_verify_client on;\n\
             location {PREFIX}/v2/ {{ proxy_pass http://{behind}/v2/; }}\n{blobs}\
             location / {{ return 404; }} }}\n\
             server {{ listen {beside} ssl http2; ssl_verify_client optional;\n\
             location / {{ proxy_pass http://{behind}; }} }}\n",
            own.certificate.display(),
            own.key.display(),
            clients.file().display(),
            behind = registry.address(),
        );
        Ok(Self {
            nginx: Nginx::start(scene, "strict", &servers, beside).await?,
            authority,
            pair,
            address,
            other: beside,
            _registry: registry,
        })
    }

    /// Where it is.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// For `[[upstream]] url`.
    pub fn url(&self) -> String {
        self.url_of("127.0.0.1")
    }

    /// As [`Strict::url`], under another name of its host.
    pub fn url_of(&self, host: &str) -> String {
        format!("https://{host}:{}{PREFIX}", self.address.port())
    }

    /// The other host's.
    pub fn other_url(&self) -> String {
        format!("https://{}", self.other)
    }

    /// A file with the authority of its certificate.
    pub fn authority(&self) -> &Path {
        self.authority.file()
    }

    /// A certificate that it wants to be shown.
    pub fn pair(&self) -> &Pair {
        &self.pair
    }

    /// Makes the last `[[upstream]]` one that trusts it, and that it lets in.
    pub fn let_in(&self, settings: Settings) -> Settings {
        shows(trusts(settings, self.authority()), &self.pair)
    }

    /// What was asked of the registry itself.
    pub fn asked(&self) -> Result<Vec<Asked>> {
        self.asked_of(self.address)
    }

    /// What was asked of the other host.
    pub fn asked_of_other(&self) -> Result<Vec<Asked>> {
        self.asked_of(self.other)
    }

    fn asked_of(&self, server: SocketAddr) -> Result<Vec<Asked>> {
        let mut asked = self.nginx.asked()?;
        asked.retain(|asked| asked.server == server.ip().to_string());
        Ok(asked)
    }
}

/// Makes the last `[[upstream]]` trust this authority alone.
pub fn trusts(settings: Settings, authority: &Path) -> Settings {
    settings.of_upstream("ca_file", authority.display().to_string())
}

/// Has the last `[[upstream]]` shown this certificate.
pub fn shows(settings: Settings, pair: &Pair) -> Settings {
    settings
        .of_upstream("client_cert_file", pair.certificate.display().to_string())
        .of_upstream("client_key_file", pair.key.display().to_string())
}
