//! nginx in front of a registry: as Docker Hub, with names and certificates of the test's own, and
//! as a registry that keeps its blobs at another host.

use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result};
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};

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
    async fn start(scene: &Scene, name: &str, servers: &str, listens: SocketAddr) -> Result<Self> {
        let directory = scene.make_directory(name)?;
        let path = |name: &str| directory.join(name).display().to_string();
        let log = directory.join("access.log");
        let text = format!(
            "daemon off; worker_processes 1; pid {pid}; error_log stderr;\n\
             events {{}}\nhttp {{\n\
             log_format who '$server_addr $request_method $uri $status \"$http_authorization\"';\n\
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

    /// The lines of its access log: address, method, path, status and the `Authorization` header in
    /// quotes.
    pub fn asked(&self) -> Result<Vec<String>> {
        let text = std::fs::read_to_string(&self.log)?;
        Ok(text.lines().map(str::to_owned).collect())
    }
}

/// Docker Hub at an address of this machine, for programs with [`Hub::hosts`] and [`Hub::authority`].
#[derive(Debug)]
pub struct Hub {
    _nginx: Nginx,
    hosts: PathBuf,
    authority: PathBuf,
}

impl Hub {
    /// Passes everything on to `registry`, an `http://` URL.
    pub async fn start(scene: &Scene, registry: &str) -> Result<Self> {
        let address = free_https_address()?;
        let (authority, certificate, key) = certificates(scene)?;
        let hosts = scene.path("hosts");
        let names = HUB.join(" ");
        let text = format!("127.0.0.1 localhost\n{} {names}\n", address.ip());
        std::fs::write(&hosts, text)?;
        let server = format!(
            "server {{ listen {address} ssl; ssl_certificate {}; ssl_certificate_key {};\n\
             location / {{ proxy_pass {registry}; }} }}\n",
            certificate.display(),
            key.display()
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
        &self.authority
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
        let free = |host: &str| -> Result<SocketAddr> {
            Ok(TcpListener::bind(format!("{host}:0"))?.local_addr()?)
        };
        let (address, storage) = (free("127.0.0.1")?, free("127.0.0.2")?);
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
    pub fn asked_of_storage(&self) -> Result<Vec<String>> {
        let mut lines = self.nginx.asked()?;
        let storage = self.storage.ip().to_string();
        lines.retain(|line| line.starts_with(&storage));
        Ok(lines)
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

/// The files of an authority, of the certificate that it gave to the names of Docker Hub, and of
/// that one's key.
fn certificates(scene: &Scene) -> Result<(PathBuf, PathBuf, PathBuf)> {
    let mut parameters = CertificateParams::default();
    parameters.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let authority_key = KeyPair::generate()?;
    let authority = parameters.self_signed(&authority_key)?;
    let issuer = Issuer::new(parameters, authority_key);
    let key = KeyPair::generate()?;
    let names: Vec<_> = HUB.iter().map(|name| (*name).to_owned()).collect();
    let certificate = CertificateParams::new(names)?.signed_by(&key, &issuer)?;
    let file = |name: &str, text: &str| -> Result<PathBuf> {
        let path = scene.path(name);
        std::fs::write(&path, text)?;
        Ok(path)
    };
    Ok((
        file("hub-authority.pem", &authority.pem())?,
        file("hub.pem", &certificate.pem())?,
        file("hub-key.pem", &key.serialize_pem())?,
    ))
}
