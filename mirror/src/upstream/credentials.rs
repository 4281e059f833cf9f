//! The operator's credentials for one registry: those the manager has told, a user name with a password
//! file, a file in the form of Docker's `config.json`, or a credential helper. Of files nothing is kept
//! here: they are read and helpers asked whenever credentials are needed, so that a change counts from
//! the next token on.

mod config;

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use darner_proto::name::RegistryName;
use darner_proto::rules;
use darner_service::secret::Secret;
use darner_service::settings;
use serde::Deserialize;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::process::Command;
use tokio::time::timeout;

use super::error::Fault;
use super::origin::Origin;
use super::setup::Setup;
use config::{DockerConfig, Entry};

/// A client waits for what is asked with these credentials.
const HELPER_TIMEOUT: Duration = Duration::from_secs(5);
/// Tokens of cloud registries have some kilobytes.
const MAX_REPLY: u64 = 64 << 10;
const MAX_FILE: u64 = 1 << 20;
const HELPER_PREFIX: &str = "docker-credential-";
/// What a helper calls the user when its secret is a refresh token.
const TOKEN_USER: &str = "<token>";
/// What the credentials of Docker Hub are kept under.
const HUB: &str = "docker.io";
const HUB_HOSTS: [&str; 3] = ["index.docker.io", "docker.io", "registry-1.docker.io"];
const HUB_SERVER: &str = "https://index.docker.io/v1/";

/// Where the credentials of one registry come from.
#[derive(Debug)]
pub(super) struct Keyring {
    told: Option<rules::Login>,
    given: Option<settings::Credentials>,
    file: Option<PathBuf>,
    helper: Option<String>,
    /// The registry, as files may call it.
    hosts: Vec<String>,
    /// The registry, as helpers are told of it.
    server: String,
}

/// What to show to a registry or its token service.
#[derive(Debug)]
pub(super) enum Login {
    Password {
        username: String,
        password: Secret,
    },
    /// Is traded for tokens (OAuth 2 refresh token).
    Identity(Secret),
    /// Is shown as it is.
    Bearer(Secret),
}

/// A helper's answer. It has no way to be printed.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Reply {
    username: String,
    secret: String,
}

impl Keyring {
    pub(super) fn new(setup: &Setup, origin: &Origin) -> Self {
        let Setup {
            settings, login, ..
        } = setup;
        let (hosts, server) = hosts(&settings.name, origin);
        Self {
            told: login.clone(),
            given: settings.credentials.clone(),
            file: settings.credentials_file.clone(),
            helper: settings.credential_helper.clone(),
            hosts,
            server,
        }
    }

    /// Whether there is nowhere to look.
    pub(super) fn is_empty(&self) -> bool {
        let of_files = self.given.is_some() || self.file.is_some() || self.helper.is_some();
        self.told.is_none() && !of_files
    }

    /// The credentials for a repository, as they are now.
    pub(super) async fn login(&self, repository: &str) -> Result<Option<Login>, Fault> {
        if let Some(told) = &self.told {
            return Ok(Some(Login::Password {
                username: told.username.clone(),
                password: Secret::new(told.password.clone()),
            }));
        }
        if let Some(given) = &self.given {
            let password = Secret::read(&given.password_file).map_err(Fault::CredentialsFile)?;
            return Ok(Some(Login::Password {
                username: given.username.clone(),
                password,
            }));
        }
        if let Some(path) = &self.file {
            let config = DockerConfig::parse(&read(path).await?)
                .ok_or(Fault::Credentials("credentials_file is not Docker's JSON"))?;
            match config.find(&self.hosts, repository) {
                Some(Entry::Login(login)) => return Ok(Some(login)),
                Some(Entry::Helper(name)) => return ask(&name, &self.server).await,
                None => {}
            }
        }
        match &self.helper {
            Some(name) => ask(name, &self.server).await,
            None => Ok(None),
        }
    }
}

fn hosts(name: &RegistryName, origin: &Origin) -> (Vec<String>, String) {
    if name.as_str() == HUB && origin.is_known_as(&HUB_HOSTS) {
        return (HUB_HOSTS.map(str::to_owned).to_vec(), HUB_SERVER.to_owned());
    }
    let mut hosts = vec![origin.host_and_port()];
    if hosts[0] != name.as_str() {
        hosts.push(name.as_str().to_owned());
    }
    let server = hosts[0].clone();
    (hosts, server)
}

async fn read(path: &Path) -> Result<Vec<u8>, Fault> {
    let open = async {
        let file = tokio::fs::File::open(path).await?;
        let mut bytes = Vec::new();
        file.take(MAX_FILE).read_to_end(&mut bytes).await?;
        Ok(bytes)
    };
    open.await.map_err(Fault::CredentialsFile)
}

/// Asks `docker-credential-<name> get`. A helper that has nothing says so by its exit status.
async fn ask(name: &str, server: &str) -> Result<Option<Login>, Fault> {
    ask_program(format!("{HELPER_PREFIX}{name}").as_ref(), server).await
}

pub(super) async fn ask_program(program: &Path, server: &str) -> Result<Option<Login>, Fault> {
    let asked = timeout(HELPER_TIMEOUT, run(program, server)).await;
    let asked = asked.map_err(|_| Fault::Credentials("the credential helper does not answer"))?;
    let Some(reply) = asked.map_err(Fault::CredentialHelper)? else {
        return Ok(None);
    };
    // The parser's own error may quote what it found.
    let reply: Reply = serde_json::from_slice(&reply)
        .map_err(|_| Fault::Credentials("the credential helper's answer is not its JSON"))?;
    let secret = Secret::new(reply.secret);
    Ok(Some(match reply.username.as_str() {
        TOKEN_USER => Login::Identity(secret),
        _ => Login::Password {
            username: reply.username,
            password: secret,
        },
    }))
}

async fn run(program: &Path, server: &str) -> std::io::Result<Option<Vec<u8>>> {
    let mut helper = Command::new(program)
        .arg("get")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .kill_on_drop(true)
        .spawn()?;
    if let Some(mut input) = helper.stdin.take() {
        input.write_all(server.as_bytes()).await?;
    }
    let mut reply = Vec::new();
    if let Some(output) = helper.stdout.take() {
        output.take(MAX_REPLY).read_to_end(&mut reply).await?;
    }
    Ok(helper.wait().await?.success().then_some(reply))
}
