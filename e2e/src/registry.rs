//! The upstream registry itself: Debian's `docker-registry`, on a storage directory.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, ensure};
use bytes::Bytes;
use darner_proto::digest::Digest;
use http::StatusCode;

use crate::authority::Pair;
use crate::place;
use crate::process::Process;

/// Who may read.
#[derive(Debug, Clone, Default)]
pub enum Access {
    /// Anybody.
    #[default]
    Open,
    /// Who is in this file, in the form of Apache's htpasswd with bcrypt.
    Password(PathBuf),
    /// Who has a token.
    Token {
        /// Where tokens are had.
        realm: String,
        /// A file with the certificate of the key that signs them.
        certificate: PathBuf,
    },
    /// Who shows a certificate of this authority, to a registry that speaks TLS itself.
    Certificate {
        /// The registry's own.
        server: Pair,
        /// A file with the authority's.
        clients: PathBuf,
    },
}

/// The registry that tokens are for.
pub const SERVICE: &str = "registry-of-the-tests";
/// And who gives them out.
pub const ISSUER: &str = "tokens-of-the-tests";

impl Access {
    fn settings(&self) -> String {
        match self {
            Self::Open | Self::Certificate { .. } => String::new(),
            Self::Password(file) => format!(
                "auth: {{htpasswd: {{realm: registry, path: '{}'}}}}\n",
                file.display()
            ),
            Self::Token { realm, certificate } => format!(
                "auth: {{token: {{realm: '{realm}', service: {SERVICE}, issuer: {ISSUER}, \
                 rootcertbundle: '{}'}}}}\n",
                certificate.display()
            ),
        }
    }

    /// What is said of TLS beside the listener's address.
    fn tls(&self) -> String {
        match self {
            Self::Certificate { server, clients } => format!(
                ", tls: {{certificate: '{}', key: '{}', clientcas: ['{}']}}",
                server.certificate.display(),
                server.key.display(),
                clients.display()
            ),
            Self::Open | Self::Password(_) | Self::Token { .. } => String::new(),
        }
    }
}

/// A running registry.
#[derive(Debug)]
pub struct Registry {
    _process: Process,
    address: SocketAddr,
}

impl Registry {
    /// Starts a registry that keeps `storage`, with its configuration and log in `directory`.
    pub async fn start(directory: &Path, storage: &Path, read_only: bool) -> Result<Self> {
        let name = "docker-registry";
        Self::start_as((directory, name), storage, read_only, &Access::Open).await
    }

    /// As [`Registry::start`], with a name of its own in the directory, for whom `access` lets in.
    pub async fn start_as(
        (directory, name): (&Path, &str),
        storage: &Path,
        read_only: bool,
        access: &Access,
    ) -> Result<Self> {
        let config = directory.join(format!("{name}.yml"));
        let (tls, access) = (access.tls(), access.settings());
        let text = format!(
            "version: 0.1\n\
             log: {{level: info, accesslog: {{disabled: true}}}}\n\
             http: {{addr: '127.0.0.1:0', secret: 'not used by one instance'{tls}}}\n\
             storage:\n  filesystem: {{rootdirectory: '{}', maxthreads: 200}}\n  \
             maintenance: {{readonly: {{enabled: {read_only}}}, uploadpurging: {{enabled: false}}}}\n\
             validation: {{manifests: {{urls: {{allow: ['^https://elsewhere[.]example/']}}}}}}\n\
             {access}",
            storage.display()
        );
        std::fs::write(&config, text)?;
        let mut command = Command::new(place::required_tool("docker-registry")?);
        command.arg("serve").arg(&config);
        let log = directory.join(format!("{name}.log"));
        let mut process = Process::start("docker-registry", command, &log)?;
        let address = process
            .wait_output("its address", |output| {
                let (_, rest) = output.split_once("listening on ")?;
                let end =
                    rest.find(|byte: char| !(byte.is_ascii_digit() || ".:".contains(byte)))?;
                rest[..end].parse().ok()
            })
            .await?;
        Ok(Self {
            _process: process,
            address,
        })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// A client that pushes to it.
    pub fn pusher(&self) -> Pusher {
        Pusher {
            http: reqwest::Client::new(),
            base: format!("http://{}", self.address),
        }
    }
}

/// Pushes through the registry API.
#[derive(Debug)]
pub struct Pusher {
    http: reqwest::Client,
    base: String,
}

impl Pusher {
    /// Pushes a blob in one request.
    pub async fn blob(&self, repository: &str, bytes: Bytes) -> Result<Digest> {
        let digest = Digest::sha256(&bytes);
        self.blob_as(repository, digest, bytes).await
    }

    /// Pushes a blob under this digest of it.
    pub async fn blob_as(&self, repository: &str, digest: Digest, bytes: Bytes) -> Result<Digest> {
        let url = format!("{}/v2/{repository}/blobs/uploads/", self.base);
        let begun = self.http.post(url).send().await?;
        ensure!(
            begun.status() == StatusCode::ACCEPTED,
            "upload to {repository}: {}",
            begun.status()
        );
        let location = begun.headers().get("location").context("no location")?;
        let location = location.to_str()?;
        let separator = if location.contains('?') { '&' } else { '?' };
        let url = format!("{location}{separator}digest={digest}");
        let put = self.http.put(url).body(bytes).send().await?;
        ensure!(
            put.status() == StatusCode::CREATED,
            "blob of {repository}: {}",
            put.status()
        );
        Ok(digest)
    }

    /// Pushes a manifest under a tag or its digest.
    pub async fn manifest(
        &self,
        repository: &str,
        reference: &str,
        media_type: &str,
        bytes: Bytes,
    ) -> Result<Digest> {
        let digest = Digest::sha256(&bytes);
        let url = format!("{}/v2/{repository}/manifests/{reference}", self.base);
        let put = self.http.put(url).header("content-type", media_type);
        let put = put.body(bytes).send().await?;
        let status = put.status();
        ensure!(
            status == StatusCode::CREATED,
            "manifest of {repository}: {status} {}",
            put.text().await?
        );
        Ok(digest)
    }
}
