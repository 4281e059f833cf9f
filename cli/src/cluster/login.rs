//! `darner login`: exchanges a password, or the link of a first start, for a token that is kept in a
//! file of mode 0600.

use std::io::{self, BufRead as _, IsTerminal as _};
use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;
use darner_service::config::Machine;
use darner_service::secret::Secret;
use reqwest::{Method, header};
use serde_json::{Value, json};

use super::client::{Client, ClientError, Kept, login_file};

/// The API of a manager on this machine.
const MANAGER: &str = "http://127.0.0.1:7424";
/// Thirty days: then one logs in again.
const LIFE_SECONDS: u64 = 30 * 24 * 3600;

/// Log in to the manager; its password is read from standard input
#[derive(Debug, Args)]
pub(crate) struct Login {
    /// The manager's API [default: http://127.0.0.1:7424, or that of the link]
    manager: Option<String>,
    /// The account; with --setup, the one to make
    #[arg(long, default_value = "admin")]
    user: String,
    /// Make the first administrator with the link that the manager printed
    #[arg(long, value_name = "LINK")]
    setup: Option<String>,
    /// Where to keep the token [default: ~/.config/darner/login.json]
    #[arg(long, value_name = "FILE")]
    login_file: Option<PathBuf>,
}

impl Login {
    /// Logs in.
    pub(crate) async fn run(self) -> ExitCode {
        super::ended_as(self.log_in().await)
    }

    async fn log_in(self) -> Result<ExitCode, ClientError> {
        let link = self.setup.as_deref().map(parse_link).transpose()?;
        let of_link = link.map(|(manager, _)| manager);
        let manager = self.manager.as_deref().or(of_link).unwrap_or(MANAGER);
        let path = login_file(self.login_file.as_deref())?;
        let client = Client::stranger(manager)?;
        let password = password()?;
        let (at, body) = match link {
            Some((_, token)) => (
                "/api/v1/setup",
                json!({ "token": token, "name": self.user, "password": password.reveal() }),
            ),
            None => (
                "/api/v1/session",
                json!({ "name": self.user, "password": password.reveal() }),
            ),
        };
        let begun = client
            .send(client.request(Method::POST, at).json(&body))
            .await?;
        let session = Session::of(begun).await?;
        let kept = session.token(&client, manager, &self.user).await?;
        kept.write(&path)?;
        crate::run::say(format_args!(
            "logged in to {manager} as {}; the token is in {}",
            self.user,
            path.display()
        ));
        Ok(ExitCode::SUCCESS)
    }
}

/// A session, for as long as it takes to make a token.
struct Session {
    cookie: String,
    csrf: String,
    role: String,
}

impl Session {
    async fn of(begun: reqwest::Response) -> Result<Self, ClientError> {
        let cookie = begun.headers().get(header::SET_COOKIE);
        let cookie = cookie.and_then(|set| set.to_str().ok()?.split(';').next());
        let cookie = cookie.unwrap_or_default().to_owned();
        let told: Value = begun.json().await.map_err(ClientError::Http)?;
        let text = |key: &str| told[key].as_str().unwrap_or_default().to_owned();
        Ok(Self {
            cookie,
            csrf: text("csrf"),
            role: text("role"),
        })
    }

    async fn token(self, client: &Client, manager: &str, user: &str) -> Result<Kept, ClientError> {
        let host = Machine::here().host_name.unwrap_or_default();
        let body = json!({
            "label": format!("darner login on {host}"),
            "role": self.role,
            "expires_in_seconds": LIFE_SECONDS,
        });
        let with = |method: Method, path: &str| {
            let request = client.request(method, path);
            let request = request.header(header::COOKIE, &self.cookie);
            request.header("x-csrf-token", &self.csrf)
        };
        let request = with(Method::POST, "/api/v1/tokens").json(&body);
        let made = client.json(request).await?;
        // The token is what counts from here on.
        let _ = client.send(with(Method::DELETE, "/api/v1/session")).await;
        let text = |key: &str| made[key].as_str().unwrap_or_default().to_owned();
        Ok(Kept {
            manager: manager.to_owned(),
            user: user.to_owned(),
            id: text("id"),
            token: text("token"),
        })
    }
}

/// `http://host:port/setup#secret`
fn parse_link(link: &str) -> Result<(&str, &str), ClientError> {
    link.split_once("/setup#").ok_or_else(|| {
        ClientError::Usage("--setup: is not the link that the manager printed".to_owned())
    })
}

/// One line of standard input. What is typed at a terminal shows there, so a pipe or a file is better.
pub(super) fn password() -> Result<Secret, ClientError> {
    if io::stdin().is_terminal() {
        crate::run::say(format_args!("Password (it shows as you type):"));
    }
    let mut line = String::new();
    let read = io::stdin().lock().read_line(&mut line);
    read.map_err(|error| ClientError::Usage(format!("no password can be read: {error}")))?;
    Ok(Secret::new(line.trim_end_matches(['\r', '\n'])))
}
