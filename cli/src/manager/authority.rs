//! `darner manager token | revoke | rotate-authority`: an operator's say in who belongs to the cluster,
//! given where the manager's settings and database are. A manager that runs takes note within seconds.

use std::io::Write as _;
use std::process::ExitCode;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use clap::{Subcommand, ValueEnum};
use darner_manager::authority::Authority;
use darner_manager::database::{Database, Location};
use darner_proto::id::{HostId, Role};
use darner_service::config::Command;
use prometheus_client::metrics::counter::Counter;

use crate::run::{self, Args};

/// Who the audit names: whoever can read the manager's data.
const BY: &str = "darner manager";

/// What to do with join tokens.
#[derive(Debug, Subcommand)]
pub(super) enum Token {
    /// Make a token and print it: it is shown this once
    Create {
        #[command(flatten)]
        settings: Args,
        /// What its holder becomes
        #[arg(long)]
        role: JoinRole,
        /// How many processes may join with it
        #[arg(long, value_name = "COUNT", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=10_000))]
        uses: u32,
        /// How long it is good for
        #[arg(long, value_name = "TIME", default_value = "1h", value_parser = humantime::parse_duration)]
        expires: Duration,
    },
    /// List the tokens that are not over, without their secrets
    List {
        #[command(flatten)]
        settings: Args,
    },
    /// Remove a token; who joined with it stays
    Remove {
        #[command(flatten)]
        settings: Args,
        /// As it is listed
        #[arg(value_name = "NUMBER")]
        number: String,
    },
}

/// Whose certificates to take back.
#[derive(Debug, clap::Args)]
pub(super) struct Revoke {
    #[command(flatten)]
    settings: Args,
    /// The node's id
    #[arg(value_name = "NODE")]
    node: HostId,
}

/// Nothing but where the manager's data is.
#[derive(Debug, clap::Args)]
pub(super) struct Rotate {
    #[command(flatten)]
    settings: Args,
}

/// A role that is joined in.
#[derive(Debug, Clone, Copy, ValueEnum)]
pub(super) enum JoinRole {
    /// A node's mirror
    Mirror,
    /// A mirror that reads upstream for the others
    Seed,
    /// A scheduler
    Scheduler,
}

impl From<JoinRole> for Role {
    fn from(role: JoinRole) -> Self {
        match role {
            JoinRole::Mirror => Self::Mirror,
            JoinRole::Seed => Self::Seed,
            JoinRole::Scheduler => Self::Scheduler,
        }
    }
}

pub(super) async fn token(token: Token) -> ExitCode {
    match token {
        Token::Create {
            settings,
            role,
            uses,
            expires,
        } => {
            let create = async |authority: Authority| {
                let token = authority.create_token(role.into(), Some(uses), expires, BY);
                say(&token.await?.reveal());
                Ok(())
            };
            with(settings, create).await
        }
        Token::List { settings } => with(settings, list).await,
        Token::Remove { settings, number } => {
            let remove =
                async |authority: Authority| match authority.remove_token(&number, BY).await? {
                    true => Ok(()),
                    false => anyhow::bail!("there is no token {number}"),
                };
            with(settings, remove).await
        }
    }
}

pub(super) async fn revoke(revoke: Revoke) -> ExitCode {
    let Revoke { settings, node } = revoke;
    with(settings, async |authority: Authority| {
        Ok(authority.revoke(&node, BY).await?)
    })
    .await
}

pub(super) async fn rotate(rotate: Rotate) -> ExitCode {
    with(rotate.settings, async |authority: Authority| {
        Ok(authority.rotate(BY).await?)
    })
    .await
}

async fn list(authority: Authority) -> anyhow::Result<()> {
    say(&format!(
        "{:<18} {:<10} {:<10} EXPIRES",
        "NUMBER", "ROLE", "USED"
    ));
    for token in authority.tokens().await? {
        let uses = token.uses.map_or("any".to_owned(), |uses| uses.to_string());
        let used = format!("{}/{uses}", token.used);
        let at: SystemTime = UNIX_EPOCH + Duration::from_secs(token.expires);
        let at = humantime::format_rfc3339_seconds(at);
        say(&format!(
            "{:<18} {:<10} {used:<10} {at}",
            token.number, token.role
        ));
    }
    Ok(())
}

/// Does something with the authority of the manager that `args` are the settings of.
async fn with(args: Args, act: impl AsyncFnOnce(Authority) -> anyhow::Result<()>) -> ExitCode {
    let settings = match run::settings(Command::Manager, args) {
        Ok(settings) => settings,
        Err(ended) => return ended,
    };
    let acted = async {
        anyhow::ensure!(
            !settings.identity.insecure,
            "this manager talks in plain text ([identity] insecure = true): there are no certificates"
        );
        let database = Database::open(Location::of(&settings), Counter::default()).await?;
        let acted = match Authority::open(database.clone(), &settings).await {
            Ok(authority) => act(authority).await,
            Err(error) => Err(error.into()),
        };
        database.close().await;
        acted
    };
    match acted.await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            run::say(format_args!("error: {error:#}"));
            ExitCode::FAILURE
        }
    }
}

/// A line to standard output. Nobody may be there to read it.
fn say(line: &str) {
    let _ = writeln!(std::io::stdout(), "{line}");
}
