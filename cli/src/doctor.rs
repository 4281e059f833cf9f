//! `darner doctor`: looks at everything that has to be right for a mirror on this host, and changes
//! nothing. Every line says what was found, and what is wrong also why and what to do.
//!
//! ```text
//! doctor --> machine     ports, disk, whether a closed port refuses
//!        |--> upstreams   each registry, its credentials, what it still lets us ask, the clock
//!        |--> runtimes    versions, what they were told
//!        |     |--> fallback    what they do without the mirror
//!        |     '--> proxies     what stands between them and it
//!        |--> tls         whom they take for the mirror
//!        '--> finding     one line
//! ```

use std::path::PathBuf;
use std::process::ExitCode;

use clap::ValueEnum;
use darner_service::config::Command;
use darner_service::identity::local::{AUTHORITY, DIRECTORY};
use darner_service::settings::Settings;

mod fallback;
mod finding;
mod machine;
mod proxies;
mod runtimes;
mod tls;
mod upstreams;

use crate::pull::Image;
use crate::run::{self, Args};
use crate::setup::prove::{self, ProofError};
use crate::setup::{Host, Runtime};
use crate::up::reachable;
use finding::{Finding, Level};

/// Flags of `darner doctor`
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Exit status: 0 nothing is broken, 1 something is, 2 wrong usage or settings."
)]
pub(crate) struct Doctor {
    /// What runs here, or is to run here
    #[arg(default_value = "up")]
    role: Role,
    /// An image that has to come through, such as a private one; may be repeated [default:
    /// hello-world of Docker Hub]
    #[arg(long, value_name = "IMAGE")]
    image: Vec<Image>,
    /// How the findings are told
    #[arg(long, short, value_name = "FORM", default_value = "text")]
    output: Output,
    /// Ask no registry
    #[arg(long)]
    offline: bool,
    /// The root directory of the host whose runtimes are looked at
    #[arg(long, value_name = "DIR", default_value = "/", hide = true)]
    root: PathBuf,
    #[command(flatten)]
    args: Args,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Role {
    Up,
    Mirror,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Output {
    Text,
    Json,
}

/// Looks, and tells.
pub(crate) async fn run(doctor: Doctor) -> ExitCode {
    let command = match doctor.role {
        Role::Up => Command::Up,
        Role::Mirror => Command::Mirror,
    };
    let settings = match run::settings(command, doctor.args.clone()) {
        Ok(settings) => settings,
        Err(status) => return status,
    };
    let findings = doctor.look(command, &settings).await;
    match doctor.output {
        Output::Text => findings.iter().for_each(|finding| print!("{finding}")),
        Output::Json => println!("{}", finding::json(&findings)),
    }
    let broken = findings
        .iter()
        .any(|finding| finding.level == Level::Failure);
    if broken {
        ExitCode::FAILURE
    } else {
        ExitCode::SUCCESS
    }
}

/// Whether the mirror answers: without TLS, where it does that.
async fn ping(settings: &Settings, mirror: &str) -> Result<(), ProofError> {
    let registry = &settings.registry;
    if !registry.tls || registry.listen.ip().is_loopback() {
        return prove::ping(prove::Mirror::plain(mirror)).await;
    }
    let directory = settings.data_dir.join(DIRECTORY);
    let ca = std::fs::read_to_string(directory.join(AUTHORITY)).ok();
    let url = mirror.replacen("http://", "https://", 1);
    let mirror = prove::Mirror {
        url: &url,
        ca: ca.as_deref(),
    };
    prove::ping(mirror).await
}

impl Doctor {
    async fn look(&self, command: Command, settings: &Settings) -> Vec<Finding> {
        let listen = reachable(settings.registry.listen);
        let mirror = format!("http://{listen}");
        let host = Host::new(self.root.clone());
        let answers = ping(settings, &mirror).await;
        let is_up = answers.is_ok();
        let mut findings = vec![match answers {
            Ok(()) => Finding::ok("mirror", &mirror, "answers"),
            Err(ProofError::Unreachable { why, .. }) => {
                Finding::failure("mirror", &mirror, format!("does not answer: {why}"))
                    .fix("start it: `darner up`, or `darner mirror` as a service")
            }
            Err(error) => Finding::failure("mirror", &mirror, error.to_string())
                .fix("what listens there is no mirror; end it, or set registry.listen"),
        }];
        findings.extend(machine::ports(command, settings, is_up));
        findings.push(machine::disk(settings));
        findings.extend(machine::refusal(listen, is_up));
        findings.extend(runtimes::look(&host, &mirror));
        findings.extend(tls::look(&host, settings, (&mirror, is_up)).await);
        if self.offline {
            findings.push(Finding::note("upstream", "", "not asked: --offline"));
            return findings;
        }
        findings.extend(upstreams::look(settings, &self.image).await);
        if is_up {
            findings.extend(self.round_trip(&mirror).await);
        }
        findings
    }

    /// Each image as every kind of runtime asks for it.
    async fn round_trip(&self, mirror: &str) -> Vec<Finding> {
        let mut images = self.image.clone();
        if images.is_empty() {
            images.extend(prove::image());
        }
        let mut findings = Vec::new();
        for image in &images {
            let asked = prove::ask(prove::Mirror::plain(mirror), image, &Runtime::ALL).await;
            let subject = image.to_string();
            findings.push(match asked {
                Ok(_) => Finding::ok("round-trip", subject, "the mirror has it for every runtime"),
                Err(ProofError::Status { status, .. })
                    if matches!(status.as_u16(), 401 | 403) =>
                {
                    let found = format!("private: whoever shows no credentials is answered {status}");
                    Finding::note("round-trip", subject, found)
                }
                // A host that cannot reach Docker Hub is told so by its upstreams already.
                Err(error) if self.image.is_empty() => {
                    Finding::warning("round-trip", subject, error.to_string())
                        .fix("name an image that this host can get with --image")
                }
                Err(error) => Finding::failure("round-trip", subject, error.to_string()).fix(
                    "look for its registry among the lines on upstreams; the mirror's log says more",
                ),
            });
        }
        findings
    }
}
