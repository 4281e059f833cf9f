//! `darner token` and `darner user`.

use std::io::{self, BufRead as _};
use std::process::ExitCode;
use std::time::Duration;

use clap::{Args, Subcommand, ValueEnum};
use reqwest::{Method, header};
use serde_json::{Value, json};

use super::client::{Client, ClientError};
use super::table::{self, string};
use super::{Common, Output};

/// What somebody may do.
#[derive(Debug, Clone, Copy, ValueEnum)]
enum Role {
    Viewer,
    Operator,
    Admin,
}

/// Tokens for programs.
#[derive(Debug, Args)]
pub(crate) struct Token {
    #[command(subcommand)]
    what: OfTokens,
}

/// What a process becomes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum Becomes {
    /// A node's mirror
    Mirror,
    /// A mirror that reads upstream for the others
    Seed,
    /// A scheduler
    Scheduler,
}

#[derive(Debug, Subcommand)]
enum OfJoin {
    /// Make a token and print it: it is shown this once
    Create {
        #[command(flatten)]
        common: Common,
        /// What its holder becomes
        #[arg(long)]
        role: Becomes,
        /// How many processes may join with it
        #[arg(long, value_name = "COUNT", default_value_t = 1)]
        uses: u32,
        /// How long it is good for
        #[arg(long, value_name = "TIME", default_value = "1h", value_parser = humantime::parse_duration)]
        expires: Duration,
    },
    /// See the tokens that are not over, without their secrets
    List {
        #[command(flatten)]
        common: Common,
    },
    /// Revoke a token; who joined with it stays
    Revoke {
        #[command(flatten)]
        common: Common,
        /// As `darner token join list` shows it
        id: String,
    },
}

#[derive(Debug, Subcommand)]
enum OfTokens {
    /// Make, see and revoke tokens that processes join the cluster with
    #[command(subcommand)]
    Join(OfJoin),
    /// See your tokens; as an administrator, everybody's
    List {
        #[command(flatten)]
        common: Common,
    },
    /// Revoke a token; it ends at once
    Revoke {
        #[command(flatten)]
        common: Common,
        /// As `darner token list` shows it
        id: String,
    },
}

/// Accounts.
#[derive(Debug, Args)]
pub(crate) struct User {
    #[command(subcommand)]
    what: OfUsers,
}

#[derive(Debug, Subcommand)]
enum OfUsers {
    /// See all accounts
    List {
        #[command(flatten)]
        common: Common,
        /// Only those that may do this
        #[arg(long, value_enum)]
        role: Option<Role>,
    },
    /// Make an account; its password is read from standard input
    Create {
        #[command(flatten)]
        common: Common,
        name: String,
        #[arg(long, value_enum, default_value = "viewer")]
        role: Role,
    },
    /// Give an account another role; its sessions end
    Role {
        #[command(flatten)]
        common: Common,
        name: String,
        #[arg(value_enum)]
        role: Role,
    },
    /// Remove an account, with its tokens and sessions
    Remove {
        #[command(flatten)]
        common: Common,
        name: String,
    },
}

impl Role {
    fn as_str(self) -> &'static str {
        match self {
            Self::Viewer => "viewer",
            Self::Operator => "operator",
            Self::Admin => "admin",
        }
    }
}

impl Becomes {
    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::Mirror => "mirror",
            Self::Seed => "seed",
            Self::Scheduler => "scheduler",
        }
    }
}

impl OfJoin {
    async fn run(self) -> Result<(), ClientError> {
        const PATH: &str = "/api/v1/join-tokens";
        match self {
            Self::Create {
                common,
                role,
                uses,
                expires,
            } => {
                let client = common.client()?;
                let seconds = expires.as_secs();
                let body =
                    json!({ "role": role.as_str(), "uses": uses, "expires_in_seconds": seconds });
                let request = client.request(Method::POST, PATH).json(&body);
                let made = client.json(request).await?;
                match common.output {
                    Output::Json => table::print_json(&made),
                    // Nothing but the token, for a file.
                    Output::Table => table::print_line(&string(&made, "token")),
                }
            }
            Self::List { common } => {
                let tokens = common.client()?.list(PATH).await?;
                let columns: &[table::Column] = &[
                    ("ID", |item| string(item, "id")),
                    ("ROLE", |item| string(item, "role")),
                    ("USED", |item| format!("{}/{}", item["used"], uses(item))),
                    ("EXPIRES", |item| table::time(&item["expires_ms"])),
                ];
                print(&common, columns, tokens);
            }
            Self::Revoke { common, id } => {
                let client = common.client()?;
                let path = format!("{PATH}/{}", segment(&id)?);
                client.send(client.request(Method::DELETE, &path)).await?;
            }
        }
        Ok(())
    }
}

fn uses(item: &Value) -> String {
    item["uses"]
        .as_u64()
        .map_or("any".to_owned(), |uses| uses.to_string())
}

impl Token {
    pub(super) async fn run(self) -> Result<ExitCode, ClientError> {
        match self.what {
            OfTokens::Join(join) => join.run().await?,
            OfTokens::List { common } => {
                let tokens = common.client()?.list("/api/v1/tokens").await?;
                let columns: &[table::Column] = &[
                    ("ID", |item| string(item, "id")),
                    ("USER", |item| string(item, "user")),
                    ("ROLE", |item| string(item, "role")),
                    ("LABEL", |item| string(item, "label")),
                ];
                print(&common, columns, tokens);
            }
            OfTokens::Revoke { common, id } => {
                let client = common.client()?;
                let path = format!("/api/v1/tokens/{}", segment(&id)?);
                client.send(client.request(Method::DELETE, &path)).await?;
            }
        }
        Ok(ExitCode::SUCCESS)
    }
}

impl User {
    pub(super) async fn run(self) -> Result<ExitCode, ClientError> {
        match self.what {
            OfUsers::List { common, role } => {
                let wanted: Vec<_> = role.iter().map(|role| ("role", role.as_str())).collect();
                let client = common.client()?;
                let users = client.list_of("/api/v1/users", &wanted).await?;
                let columns: &[table::Column] = &[
                    ("NAME", |item| string(item, "name")),
                    ("ROLE", |item| string(item, "role")),
                ];
                print(&common, columns, users);
            }
            OfUsers::Create { common, name, role } => {
                let client = common.client()?;
                let mut password = String::new();
                let read = io::stdin().lock().read_line(&mut password);
                read.map_err(|error| ClientError::Usage(format!("no password: {error}")))?;
                let password = password.trim_end_matches(['\r', '\n']);
                let body = json!({ "name": name, "role": role.as_str(), "password": password });
                let request = client.request(Method::POST, "/api/v1/users").json(&body);
                client.send(request).await?;
            }
            OfUsers::Role { common, name, role } => {
                change_role(&common.client()?, &name, role).await?;
            }
            OfUsers::Remove { common, name } => {
                let client = common.client()?;
                let path = format!("/api/v1/users/{}", segment(&name)?);
                client.send(client.request(Method::DELETE, &path)).await?;
            }
        }
        Ok(ExitCode::SUCCESS)
    }
}

async fn change_role(client: &Client, name: &str, role: Role) -> Result<(), ClientError> {
    let path = format!("/api/v1/users/{}", segment(name)?);
    let shown = client.send(client.request(Method::GET, &path)).await?;
    let version = shown.headers().get(header::ETAG).cloned();
    let mut request = client.request(Method::PATCH, &path);
    if let Some(version) = version {
        request = request.header(header::IF_MATCH, version);
    }
    client
        .send(request.json(&json!({ "role": role.as_str() })))
        .await?;
    Ok(())
}

pub(super) fn print(common: &Common, columns: &[table::Column], items: Vec<Value>) {
    match common.output {
        Output::Json => table::print_json(&Value::Array(items)),
        Output::Table => table::print(columns, &items),
    }
}

/// A part of a path: names and ids have no letter that would need quoting.
pub(super) fn segment(text: &str) -> Result<&str, ClientError> {
    let fits = |byte: u8| byte.is_ascii_alphanumeric() || b"._@-".contains(&byte);
    match !text.is_empty() && text.bytes().all(fits) && text != "." && text != ".." {
        true => Ok(text),
        false => Err(ClientError::Usage(format!("{text:?} is no name or id"))),
    }
}
