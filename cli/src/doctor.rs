//! `darner doctor`: looks at everything that has to be right for a mirror on this host, and changes
//! nothing. Every line says what was found, and what is wrong also why and what to do.
//!
//! ```text
//! doctor --> machine     ports, disk
//!        |--> upstreams   each registry, its credentials, what it still lets us ask, the clock
//!        |--> runtimes    versions, what they were told, traps in their settings
//!        '--> finding     one line
//! ```

use std::path::PathBuf;
use std::process::ExitCode;

use clap::ValueEnum;
use darner_service::config::Command;
use darner_service::settings::Settings;

mod finding;
mod machine;
mod runtimes;
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

impl Doctor {
    async fn look(&self, command: Command, settings: &Settings) -> Vec<Finding> {
        let mirror = format!("http://{}", reachable(settings.registry.listen));
        let host = Host::new(self.root.clone());
        let answers = prove::ping(&mirror).await;
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
        findings.extend(runtimes::look(&host, &mirror));
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
            let asked = prove::ask(mirror, image, &Runtime::ALL).await;
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
