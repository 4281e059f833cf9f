//! The manager's API, as a caller with a token.

use std::fs::{self, DirBuilder, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use darner_service::config::Sources;
use reqwest::{Method, RequestBuilder, Response, StatusCode};
use serde::{Deserialize, Serialize};
use serde_json::Value;

const UNREACHABLE: u8 = 4;
const DENIED: u8 = 5;
/// The manager answers, or says that its database does not, well before.
const PATIENCE: Duration = Duration::from_secs(30);
/// Pages of a list that are read before something must be wrong: ten million items.
const MAX_PAGES: usize = 10_000;

/// Where the manager is, and the token to show it.
#[derive(Serialize, Deserialize)]
pub(super) struct Kept {
    /// `http://host:port`
    pub(super) manager: String,
    /// The account.
    pub(super) user: String,
    /// The token's id, to revoke it by.
    pub(super) id: String,
    /// The token.
    pub(super) token: String,
}

/// A caller.
pub(super) struct Client {
    http: reqwest::Client,
    manager: String,
    token: Option<String>,
}

/// What was asked for is not to be had.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ClientError {
    /// HTTP cannot be spoken.
    #[error("HTTP cannot be spoken from here")]
    Http(#[source] reqwest::Error),
    /// Nobody is there.
    #[error("the manager at {manager} cannot be reached; is it running, and is that its API?")]
    Unreachable {
        /// Its address.
        manager: String,
        /// What went wrong.
        #[source]
        source: reqwest::Error,
    },
    /// There is no login file.
    #[error("{path} cannot be read; log in first: darner login URL --user NAME")]
    NotLoggedIn {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// Others can read it.
    #[error(
        "{path} can be read by others (mode {mode:o}): revoke its token, remove it, log in again"
    )]
    Exposed {
        /// The file.
        path: PathBuf,
        /// Its mode.
        mode: u32,
    },
    /// It is not ours.
    #[error("{path} is not what `darner login` writes: {why}")]
    BadLogin {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        why: String,
    },
    /// The login cannot be kept.
    #[error("{path} cannot be written")]
    Keep {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The manager says no.
    #[error("{detail} ({status})")]
    Refused {
        /// Its status.
        status: StatusCode,
        /// Its reason.
        detail: String,
    },
    /// What was given makes no sense.
    #[error("{0}")]
    Usage(String),
}

impl ClientError {
    /// It may be over when one asks again.
    pub(super) fn is_passing(&self) -> bool {
        self.exit_status() == UNREACHABLE
    }

    pub(super) fn exit_status(&self) -> u8 {
        match self {
            Self::Unreachable { .. } => UNREACHABLE,
            Self::Refused {
                status: StatusCode::SERVICE_UNAVAILABLE,
                ..
            } => UNREACHABLE,
            Self::NotLoggedIn { .. } | Self::Exposed { .. } => DENIED,
            Self::Refused {
                status: StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN,
                ..
            } => DENIED,
            Self::Usage(_) => 2,
            _ => 1,
        }
    }
}

impl Client {
    /// Nobody yet, at the manager of this address.
    pub(super) fn stranger(manager: &str) -> Result<Self, ClientError> {
        let http = reqwest::Client::builder()
            .timeout(PATIENCE)
            // A token goes to the manager and nowhere else.
            .redirect(reqwest::redirect::Policy::none())
            .build();
        Ok(Self {
            http: http.map_err(ClientError::Http)?,
            manager: manager.trim_end_matches('/').to_owned(),
            token: None,
        })
    }

    /// Whoever logged in.
    pub(super) fn logged_in(file: Option<&Path>) -> Result<Self, ClientError> {
        let kept = Kept::read(&login_file(file)?)?;
        let mut client = Self::stranger(&kept.manager)?;
        client.token = Some(kept.token);
        Ok(client)
    }

    pub(super) fn request(&self, method: Method, path: &str) -> RequestBuilder {
        let request = self.http.request(method, format!("{}{path}", self.manager));
        match &self.token {
            Some(token) => request.bearer_auth(token),
            None => request,
        }
    }

    /// The answer, when it is a success.
    pub(super) async fn send(&self, request: RequestBuilder) -> Result<Response, ClientError> {
        let unreachable = |source: reqwest::Error| ClientError::Unreachable {
            manager: self.manager.clone(),
            source: source.without_url(),
        };
        let response = request.send().await.map_err(unreachable)?;
        let status = response.status();
        if status.is_success() {
            return Ok(response);
        }
        let told = response.json::<Value>().await.ok();
        let detail = told.as_ref().and_then(|told| told["detail"].as_str());
        let detail = detail.unwrap_or("the manager refuses").to_owned();
        Err(ClientError::Refused { status, detail })
    }

    pub(super) async fn json(&self, request: RequestBuilder) -> Result<Value, ClientError> {
        let response = self.send(request).await?;
        self.read(response).await
    }

    /// What an answer says.
    pub(super) async fn read(&self, response: Response) -> Result<Value, ClientError> {
        let read = response.json().await;
        read.map_err(|source| ClientError::Unreachable {
            manager: self.manager.clone(),
            source: source.without_url(),
        })
    }

    pub(super) async fn get(&self, path: &str) -> Result<Value, ClientError> {
        self.json(self.request(Method::GET, path)).await
    }

    /// Every item of a list, page by page.
    pub(super) async fn list(&self, path: &str) -> Result<Vec<Value>, ClientError> {
        self.list_of(path, &[]).await
    }

    /// Those items of a list that `wanted` asks for.
    pub(super) async fn list_of(
        &self,
        path: &str,
        wanted: &[(&str, &str)],
    ) -> Result<Vec<Value>, ClientError> {
        let mut items = Vec::new();
        let mut after: Option<String> = None;
        for _ in 0..MAX_PAGES {
            let mut query = wanted.to_vec();
            query.extend(after.iter().map(|after| ("after", after.as_str())));
            let request = self.request(Method::GET, path).query(&query);
            let mut page = self.json(request).await?;
            if let Some(Value::Array(found)) = page.get_mut("items").map(Value::take) {
                items.extend(found);
            }
            after = page["next"].as_str().map(str::to_owned);
            if after.is_none() {
                break;
            }
        }
        Ok(items)
    }
}

impl Kept {
    fn read(path: &Path) -> Result<Self, ClientError> {
        let absent = |source| ClientError::NotLoggedIn {
            path: path.to_owned(),
            source,
        };
        let mode = fs::metadata(path).map_err(absent)?.mode() & 0o777;
        if mode & 0o077 != 0 {
            let path = path.to_owned();
            return Err(ClientError::Exposed { path, mode });
        }
        let text = fs::read(path).map_err(absent)?;
        serde_json::from_slice(&text).map_err(|error| ClientError::BadLogin {
            path: path.to_owned(),
            why: error.to_string(),
        })
    }

    /// Readable by its owner only from the first byte on; in place of an older one in one step.
    pub(super) fn write(&self, path: &Path) -> Result<(), ClientError> {
        let write = || -> io::Result<()> {
            if let Some(directory) = path.parent().filter(|path| !path.as_os_str().is_empty()) {
                DirBuilder::new()
                    .recursive(true)
                    .mode(0o700)
                    .create(directory)?;
            }
            let new = path.with_extension("new");
            let _ = fs::remove_file(&new);
            let mut options = OpenOptions::new();
            let mut file = options
                .write(true)
                .create_new(true)
                .mode(0o600)
                .open(&new)?;
            file.write_all(&serde_json::to_vec_pretty(self)?)?;
            file.sync_all()?;
            fs::rename(&new, path)
        };
        write().map_err(|source| ClientError::Keep {
            path: path.to_owned(),
            source,
        })
    }
}

/// The one given, else `darner/login.json` in the user's configuration directory.
pub(super) fn login_file(given: Option<&Path>) -> Result<PathBuf, ClientError> {
    if let Some(path) = given {
        return Ok(path.to_owned());
    }
    let environment = Sources::of_process(None, Vec::new()).environment;
    let variable = |wanted: &str| {
        let found = environment.iter().find(|(name, _)| name == wanted);
        found
            .map(|(_, value)| PathBuf::from(value))
            .filter(|path| path.is_absolute())
    };
    let home = || Some(variable("HOME")?.join(".config"));
    let directory = variable("XDG_CONFIG_HOME").or_else(home);
    let directory = directory.ok_or_else(|| {
        ClientError::Usage("neither XDG_CONFIG_HOME nor HOME is set: give --login-file".to_owned())
    })?;
    Ok(directory.join("darner/login.json"))
}
