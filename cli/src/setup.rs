//! `darner setup` and `darner teardown`: the container runtimes of this host pull through a mirror,
//! or do so no more.
//!
//! Only what is needed is written, other people's keys, comments and order stay, and a journal knows
//! what was there before. A run is done wholly or not at all, wherever it is cut off; nothing is
//! restarted.
//!
//! ```text
//! setup --> session     one run: recover, plan, do, prove, keep or take back
//!            |--> runtimes   which there are, and what each is to be told
//!            |--> plan       from what is there and what is wished to changes of files
//!            |     '--> edit      one text into another
//!            |--> apply      the changes, with a journal that undoes them
//!            |     |--> journal   what stood there before, what is under way
//!            |     '--> step      what the file system does as one
//!            |--> prove      asks the mirror as the runtimes will
//!            '--> report     what the user sees
//! ```

use std::path::PathBuf;
use std::process::ExitCode;

use clap::ValueEnum;
use darner_proto::invalid::Invalid;
use darner_proto::name::RegistryName;
use darner_service::telemetry::with_causes;

mod apply;
mod authority;
mod edit;
mod host;
mod journal;
mod kind;
mod node;
mod plan;
pub(crate) mod prove;
mod report;
mod runtimes;
mod session;
mod step;
#[cfg(test)]
mod tests;

use crate::pull::Image;
use crate::run::say;
use report::Report;
use runtimes::Choice;
use session::{Session, SetupError};

// What `darner doctor` looks at the same host with.
pub(crate) use edit::yaml::says as yaml_says;
pub(crate) use host::Host;
pub(crate) use journal::{Entry, Journal, Records, digest};
pub(crate) use plan::Standing;
pub(crate) use runtimes::containerd::{HOSTS_FILE, configuration};
pub(crate) use runtimes::containers::files as containers_files;
pub(crate) use runtimes::docker::FILE as DAEMON;
pub(crate) use runtimes::k3s::DIRECTORIES as K3S_DIRECTORIES;
pub(crate) use runtimes::{CA_FILE, Effect, Found, Runtime, Terms};
pub(crate) use session::JOURNAL;

/// Something would change, and `--dry-run` was given.
const WOULD_CHANGE: u8 = 6;

/// Flags of `darner setup`
#[derive(Debug, clap::Args)]
#[command(
    args_conflicts_with_subcommands = true,
    after_help = "Exit status: 0 done or nothing to do, 1 failed and everything as before, 2 wrong usage, \
                  4 the mirror cannot be reached, 6 with --dry-run: something would change, 130 \
                  interrupted and everything as before."
)]
pub(crate) struct Setup {
    #[command(subcommand)]
    node: Option<node::Node>,
    #[command(flatten)]
    run: Run,
    /// Where the mirror listens
    #[arg(long, value_name = "URL", default_value = "http://127.0.0.1:7420", value_parser = mirror_url)]
    mirror: String,
    /// Have the runtimes speak TLS to the mirror, and trust nobody else in its place: where programs
    /// on this host that are not trusted could take its port. The mirror needs `[registry] tls = true`
    #[arg(long)]
    tls: bool,
    /// The mirror's authority, which the runtimes are to trust [default: /var/lib/darner/registry-tls/authority.pem]
    #[arg(long, value_name = "FILE", requires = "tls")]
    ca: Option<PathBuf>,
    /// A registry to pull through the mirror; may be repeated [default: every one]
    #[arg(long, value_name = "HOST")]
    registry: Vec<RegistryName>,
    /// Put the mirror before the hosts in hosts.toml files of others too
    #[arg(long)]
    adopt: bool,
    /// The image that is pulled through the mirror as a proof [default: hello-world of Docker Hub,
    /// if that registry is set up]
    #[arg(long, value_name = "IMAGE", conflicts_with = "no_proof")]
    probe: Option<Image>,
    /// Do not ask the mirror for anything, since it is not running yet
    #[arg(long)]
    no_proof: bool,
}

/// Flags of `darner teardown`
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Exit status: 0 done or nothing to do, 1 failed and everything as before, 2 wrong usage, \
                  6 with --dry-run: something would change."
)]
pub(crate) struct Teardown {
    #[command(flatten)]
    run: Run,
}

#[derive(Debug, clap::Args)]
struct Run {
    /// The runtimes it is about
    #[arg(default_value = "all")]
    runtime: Choice,
    /// Show what would change, and change nothing
    #[arg(long)]
    dry_run: bool,
    /// How the result is told
    #[arg(long, short, value_name = "FORM", default_value = "text")]
    output: Output,
    /// The host's root directory: a host in a directory, such as an image being built, is neither
    /// asked for versions nor told to reload, and proves nothing unless --probe says what
    #[arg(long, value_name = "DIR", default_value = "/")]
    root: PathBuf,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Output {
    Text,
    Json,
}

/// Sets up, and tells how that went.
pub(crate) async fn setup(args: Setup) -> ExitCode {
    if let Some(node) = args.node {
        return match node.run() {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => {
                say(format_args!("error: {}", with_causes(&error)));
                ExitCode::FAILURE
            }
        };
    }
    let Run {
        runtime, output, ..
    } = args.run;
    let session = args.run.session();
    let ca = args.tls.then(|| session.authority(args.ca.as_deref()));
    let ca = match ca.transpose() {
        Ok(ca) => ca,
        Err(error) => return tell(output, Err(error)),
    };
    let terms = Terms {
        mirror: match ca {
            Some(_) => args.mirror.replacen("http://", "https://", 1),
            None => args.mirror,
        },
        ca,
        registries: args.registry,
        adopt: args.adopt,
    };
    let probe = match (args.probe, args.no_proof) {
        (_, true) => None,
        (Some(image), false) => Some(prove::Probe::Image(Box::new(image))),
        (None, false) if !session.is_of_running_host() => None,
        (None, false) => Some(prove::Probe::fitting(&terms.registries)),
    };
    tell(
        output,
        session.set_up(runtime, &terms, probe.as_ref()).await,
    )
}

/// Takes back what was set up, and tells how that went.
pub(crate) fn teardown(args: &Teardown) -> ExitCode {
    let Run {
        runtime, output, ..
    } = args.run;
    tell(output, args.run.session().tear_down(runtime))
}

/// Where a mirror is: `http://host:port`, or `https://`, which means the same under `--tls`.
fn mirror_url(text: &str) -> Result<String, Invalid> {
    match text.strip_prefix("https://") {
        Some(rest) => node::mirror_url(&format!("http://{rest}")),
        None => node::mirror_url(text),
    }
}

impl Run {
    fn session(&self) -> Session {
        Session::new(self.root.clone(), self.dry_run)
    }
}

fn tell(output: Output, done: Result<Report, SetupError>) -> ExitCode {
    match done {
        Ok(report) => {
            match output {
                Output::Text => print!("{report}"),
                Output::Json => println!("{}", report.json()),
            }
            if report.would_change() {
                ExitCode::from(WOULD_CHANGE)
            } else {
                ExitCode::SUCCESS
            }
        }
        Err(error) => {
            say(format_args!("error: {}", with_causes(&error)));
            ExitCode::from(error.exit_status())
        }
    }
}
