//! nginx in front of a registry: as Docker Hub, with names and certificates of the test's own, and
//! as a registry that keeps its blobs at another host. One that is strict is [`crate::strict`].

use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, bail};

use crate::authority::Authority;
use crate::process::Process;
use crate::scene::Scene;
use crate::{place, wait};

/// The names of Docker Hub's registry.
const HUB: [&str; 2] = ["registry-1.docker.io", "index.docker.io"];

/// A running nginx, whose access log says who was asked for what, and with which credentials.
#[derive(Debug)]
pub struct Nginx {
    _process: Process,
    log: PathBuf,
}

impl Nginx {
    /// One with these `server` blocks, and its files in a directory of this name; `listens` is where
    /// the last of them does.
    pub(crate) async fn start(
        scene: &Scene,
        name: &str,
        servers: &str,
        listens: SocketAddr,
    ) -> Result<Self> {
        let directory = scene.make_directory(name)?;
        let path = |name: &str| directory.join(name).display().to_string();
        let log = directory.join("access.log");
        let text = format!(
            "daemon off; worker_processes 1; pid {pid}; error_log stderr;\n\
             events {{}}\nhttp {{\n\
             log_format who '$server_addr $request_method $uri $status \"$http_authorization\" '\n\
             '$server_protocol $body_bytes_sent $ssl_client_verify';\n\
             access_log {log} who;\n\
             client_body_temp_path {body}; proxy_temp_path {proxy}; fastcgi_temp_path {other};\n\
             uwsgi_temp_path {other}; scgi_temp_path {other};\n\
             proxy_buffering off; proxy_http_version 1.1; proxy_set_header Host $http_host;\n\
             {servers}}}\n",
            pid = path("pid"),
            log = log.display(),
            body = path("body"),
            proxy = path("proxy"),
            other = path("other"),
        );
        let config = directory.join("nginx.conf");
        std::fs::write(&config, text)?;
        let mut command = Command::new(place::required_tool("nginx")?);
        command.arg("-e").arg("stderr").arg("-c").arg(&config);
        let log_file = scene.path(format!("{name}.log"));
        let process = Process::start(name, command, &log_file)?.polite();
        let what = format!("{name} listens");
        wait::until_true(&what, || std::net::TcpStream::connect(listens).is_ok()).await?;
        Ok(Self {
            _process: process,
            log,
        })
    }

    /// Every request whose answer has ended, in that order.
    pub fn asked(&self) -> Result<Vec<Asked>> {
        let text = std::fs::read_to_string(&self.log)?;
        text.lines().map(Asked::read).collect()
    }
}

/// A line of the access log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Asked {
    /// The server's address.
    pub server: String,
    /// The request's method.
    pub method: String,
    /// Its path.
    pub path: String,
    /// The answer's status.
    pub status: u16,
    /// The `Authorization` header.
    pub authorization: String,
    /// Such as `HTTP/1.1`.
    pub protocol: String,
    /// Bytes of the answer's body.
    pub bytes: u64,
    /// What became of the client's certificate: `SUCCESS`, or `NONE` when none was shown; `-` where
    /// TLS is not spoken.
    pub certificate: String,
}

impl Asked {
    fn read(line: &str) -> Result<Self> {
        let mut parts = line.split('"');
        let mut next = || parts.next().context("a line that breaks off");
        let (request, authorization, rest) = (next()?, next()?, next()?);
        let request: Vec<_> = request.trim_end().split(' ').collect();
        // The last field says in words why a certificate does not count.
        let rest: Vec<_> = rest.trim_start().splitn(3, ' ').collect();
        let [server, method, path, status] = request[..] else {
            bail!("{line}");
        };
        let [protocol, bytes, certificate] = rest[..] else {
            bail!("{line}");
        };
        Ok(Self {
            server: server.to_owned(),
            method: method.to_owned(),
            path: path.to_owned(),
            status: status.parse()?,
            authorization: authorization.to_owned(),
            protocol: protocol.to_owned(),
            bytes: bytes.parse()?,
            certificate: certificate.to_owned(),
        })
    }
}

/// Docker Hub at an address of this machine, for programs with [`Hub::hosts`] and [`Hub::authority`].
#[derive(Debug)]
pub struct Hub {
    _nginx: Nginx,
    hosts: PathBuf,
    authority: Authority,
}

impl Hub {
    /// Passes everything on to `registry`, an `http://` URL.
    pub async fn start(scene: &Scene, registry: &str) -> Result<Self> {
        let address = free_https_address()?;
        let authority = Authority::new(scene, "hub-authority")?;
        let pair = authority.certify("hub", &HUB)?;
        let hosts = scene.path("hosts");
        let names = HUB.join(" ");
        let text = format!("127.0.0.1 localhost\n{} {names}\n", address.ip());
        std::fs::write(&hosts, text)?;
        let server = format!(
            "server {{ listen {address} ssl; ssl_certificate {}; ssl_certificate_key {};\n\
             location / {{ proxy_pass {registry}; }} }}\n",
            pair.certificate.display(),
            pair.key.display()
        );
        Ok(Self {
            _nginx: Nginx::start(scene, "hub", &server, address).await?,
            hosts,
            authority,
        })
    }

    /// A hosts file with its names.
    pub fn hosts(&self) -> &Path {
        &self.hosts
    }

    /// A file with the authority of its certificate.
    pub fn authority(&self) -> &Path {
        self.authority.file()
    }
}

/// A registry that answers for blobs with the address of another host, where they are.
#[derive(Debug)]
pub struct Redirecting {
    /// The server of both hosts.
    pub nginx: Nginx,
    address: SocketAddr,
    storage: SocketAddr,
}

impl Redirecting {
    /// In front of `registry`.
    pub async fn start(scene: &Scene, registry: SocketAddr) -> Result<Self> {
        let address: SocketAddr = place::fixed_port()?.parse()?;
        let storage = SocketAddr::from(([127, 0, 0, 2], address.port()));
        let servers = format!(
            "server {{ listen {address};\n\
             location ~ /blobs/ {{ return 307 http://{storage}$request_uri; }}\n\
             location / {{ proxy_pass http://{registry}; }} }}\n\
             server {{ listen {storage}; location / {{ proxy_pass http://{registry}; }} }}\n"
        );
        Ok(Self {
            nginx: Nginx::start(scene, "redirecting", &servers, storage).await?,
            address,
            storage,
        })
    }

    /// For `[[upstream]] url`.
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// What was asked of the other host.
    pub fn asked_of_storage(&self) -> Result<Vec<Asked>> {
        let mut asked = self.nginx.asked()?;
        let storage = self.storage.ip().to_string();
        asked.retain(|asked| asked.server == storage);
        Ok(asked)
    }
}

/// Port 443 of a loopback address that nobody else listens on.
fn free_https_address() -> Result<SocketAddr> {
    let first = std::process::id();
    (0..100)
        .find_map(|number| {
            let [.., high, low] = (first + number).to_be_bytes();
            let address = SocketAddr::from(([127, 77, high, low], 443));
            TcpListener::bind(address).ok().map(|_| address)
        })
        .context("no loopback address with a free port 443")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_of_the_access_log_are_read() {
        let line = r#"127.0.0.1 GET /v2/ 200 "Bearer a b" HTTP/2.0 12 FAILED:self signed"#;
        let asked = Asked::read(line).unwrap();
        assert_eq!((asked.status, asked.bytes), (200, 12));
        assert_eq!(asked.authorization, "Bearer a b");
        assert_eq!(asked.certificate, "FAILED:self signed");
        assert!(Asked::read("127.0.0.1 GET").is_err());
    }
}
