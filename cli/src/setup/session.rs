//! One run of `darner setup` or `darner teardown`: what a run before it left half done is taken back,
//! then it is planned, done, proved, and kept or taken back.

use std::collections::BTreeSet;
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use rustix::process::{Pid, Signal, kill_process};
use tokio::signal::unix::{SignalKind, signal};

use super::apply::{ApplyError, Desk};
use super::authority::{self, AuthorityError};
use super::host::Host;
use super::journal::{JournalError, Records};
use super::plan::{Plan, PlanError, Standing};
use super::prove::{self, Probe, ProofError};
use super::report::{Report, Status};
use super::runtimes::{Choice, Effect, Found, Runtime, Terms};

/// Where the journal is.
pub(crate) const JOURNAL: &str = "/var/lib/darner-setup";

/// A run that is yet to be.
#[derive(Debug)]
pub(crate) struct Session {
    host: Host,
    dry_run: bool,
}

/// A run that failed. Every file is as it was before, unless the message says otherwise.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SetupError {
    /// Files that cannot be changed, or runtimes that cannot be told.
    #[error("nothing was changed:{}", lines(.0))]
    Refused(Vec<PlanError>),
    #[error(transparent)]
    Journal(#[from] JournalError),
    #[error(transparent)]
    Apply(#[from] ApplyError),
    /// What was asked for is not there.
    #[error("{0} was not found on this host: nothing of {1} is there")]
    Absent(String, String),
    /// The process could be ended in the middle.
    #[error("nothing was changed: signals cannot be listened for")]
    Signals(#[source] io::Error),
    /// There is no authority for the runtimes to trust.
    #[error(transparent)]
    Authority(#[from] AuthorityError),
    /// The mirror does not answer as it should.
    #[error("the changes were taken back: {0}")]
    Proof(ProofError),
}

fn lines(faults: &[PlanError]) -> String {
    let lines = faults
        .iter()
        .map(|fault| format!("\n  {}", darner_service::telemetry::with_causes(fault)));
    lines.collect()
}

impl SetupError {
    /// Of the command.
    pub(crate) fn exit_status(&self) -> u8 {
        match self {
            Self::Proof(error) => error.exit_status(),
            _ => 1,
        }
    }
}

impl Session {
    pub(crate) fn new(root: PathBuf, dry_run: bool) -> Self {
        let host = Host::new(root);
        Self { host, dry_run }
    }

    /// The authority that runtimes are to trust for the mirror.
    pub(crate) fn authority(&self, named: Option<&Path>) -> Result<String, SetupError> {
        Ok(authority::read(named, &self.host)?)
    }

    pub(crate) fn is_of_running_host(&self) -> bool {
        self.host.is_running()
    }

    /// Tells the runtimes of `choice` of the mirror.
    pub(crate) async fn set_up(
        self,
        choice: Choice,
        terms: &Terms,
        probe: Option<&Probe>,
    ) -> Result<Report, SetupError> {
        if self.dry_run {
            return self.look(|standing, report| plan_setup(standing, choice, terms, report));
        }
        let (desk, mut report) = self.open()?;
        let planned = plan_setup(desk.standing(), choice, terms, &mut report);
        let plan = match planned {
            Ok(plan) if !plan.is_empty() => plan,
            planned => {
                desk.close()?;
                return planned.map(|_| report);
            }
        };
        // From here on a signal must not end the process in the middle.
        let interrupt = interruption()?;
        let mut desk = begin(desk, &plan)?;
        reload(&desk.host, paths(&plan), &mut report);
        let runtimes = report.runtimes();
        let mirror = prove::Mirror {
            url: &terms.mirror,
            ca: terms.ca.as_deref(),
        };
        let proved = match check(&desk.host, &plan) {
            Ok(()) => tokio::select! {
                proved = prove::prove(mirror, probe, &runtimes) => proved,
                () = interrupt => Err(ProofError::Interrupted),
            },
            Err(error) => Err(error),
        };
        match proved {
            Ok(proof) => {
                report.proof = proof;
                desk.commit(&plan)?;
                desk.close()?;
                report.changed(&plan, Status::Changed);
                Ok(report)
            }
            Err(error) => {
                desk.roll_back()?;
                reload(&desk.host, paths(&plan), &mut report);
                desk.close()?;
                Err(SetupError::Proof(error))
            }
        }
    }

    /// Takes back what the runtimes of `choice` were told.
    pub(crate) fn tear_down(self, choice: Choice) -> Result<Report, SetupError> {
        if self.dry_run {
            return self.look(|standing, _| plan_teardown(standing, choice));
        }
        let (desk, mut report) = self.open()?;
        let plan = match plan_teardown(desk.standing(), choice) {
            Ok(plan) if !plan.is_empty() => plan,
            planned => {
                desk.close()?;
                return planned.map(|_| report);
            }
        };
        let mut desk = begin(desk, &plan)?;
        reload(&desk.host, paths(&plan), &mut report);
        desk.commit(&plan)?;
        desk.close()?;
        report.changed(&plan, Status::Changed);
        Ok(report)
    }

    /// Takes the journal, and takes back what was cut off.
    fn open(self) -> Result<(Desk, Report), SetupError> {
        let mut desk = Desk::open(self.host, Path::new(JOURNAL))?;
        let recovered = desk.recover()?;
        let mut report = Report::default();
        reload(&desk.host, recovered.iter().cloned(), &mut report);
        report.recovered = recovered;
        Ok((desk, report))
    }

    /// What a run would do.
    fn look(
        self,
        plan: impl FnOnce(Standing<'_>, &mut Report) -> Result<Plan, SetupError>,
    ) -> Result<Report, SetupError> {
        let records = Records::look(&self.host, Path::new(JOURNAL));
        let journal = records.load()?;
        let mut report = Report::default();
        if !journal.pending.is_empty() {
            report.would_recover(&journal.pending);
            return Ok(report);
        }
        let standing = Standing {
            host: &self.host,
            records: &records,
            journal: &journal,
        };
        let plan = plan(standing, &mut report)?;
        if !plan.changes.is_empty() {
            report.changed(&plan, Status::WouldChange);
        }
        Ok(report)
    }
}

/// Ends with the first signal that asks the process to end, which does not end it by itself any more.
fn interruption() -> Result<impl Future<Output = ()>, SetupError> {
    let listen = |kind| signal(kind).map_err(SetupError::Signals);
    let mut interrupt = listen(SignalKind::interrupt())?;
    let mut terminate = listen(SignalKind::terminate())?;
    Ok(async move {
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
        }
    })
}

pub(super) fn plan_setup(
    standing: Standing<'_>,
    choice: Choice,
    terms: &Terms,
    report: &mut Report,
) -> Result<Plan, SetupError> {
    let mut plan = Plan::default();
    let mut faults = Vec::new();
    let mut any = false;
    for runtime in choice.runtimes() {
        match runtime.find(standing, terms) {
            Ok(None) => {}
            Ok(Some(found)) => {
                any = true;
                match standing.plan(runtime.name(), &found.wishes, &terms.mirror) {
                    Ok(planned) => plan.extend(planned),
                    Err(more) => faults.extend(more),
                }
                report.found(found);
            }
            Err(fault) => faults.push(fault),
        }
    }
    if !faults.is_empty() {
        return Err(SetupError::Refused(faults));
    }
    if !any {
        return Err(absent(choice));
    }
    Ok(plan)
}

fn absent(choice: Choice) -> SetupError {
    let runtimes = choice.runtimes();
    let names: Vec<_> = runtimes.iter().map(Runtime::to_string).collect();
    let signs = runtimes.iter().flat_map(|runtime| {
        let (programs, paths) = runtime.signs();
        programs.iter().chain(paths).copied()
    });
    let signs: Vec<_> = signs.collect();
    SetupError::Absent(names.join(", "), signs.join(", "))
}

pub(super) fn plan_teardown(standing: Standing<'_>, choice: Choice) -> Result<Plan, SetupError> {
    let mut plan = Plan::default();
    let mut faults = Vec::new();
    for runtime in choice.runtimes() {
        match standing.plan(runtime.name(), &[], "") {
            Ok(planned) => plan.extend(planned),
            Err(more) => faults.extend(more),
        }
    }
    if faults.is_empty() {
        Ok(plan)
    } else {
        Err(SetupError::Refused(faults))
    }
}

/// Does it, or leaves everything as it was.
fn begin(mut desk: Desk, plan: &Plan) -> Result<Desk, SetupError> {
    if let Err(error) = desk.begin(plan) {
        desk.roll_back()?;
        desk.close()?;
        return Err(error.into());
    }
    Ok(desk)
}

fn paths(plan: &Plan) -> impl Iterator<Item = PathBuf> + '_ {
    plan.changes.iter().map(|planned| planned.path.clone())
}

/// Makes runtimes read what has changed, as far as that takes no restart.
fn reload(host: &Host, changed: impl Iterator<Item = PathBuf>, report: &mut Report) {
    let effects: BTreeSet<_> = changed.map(|path| Effect::of(&path)).collect();
    for effect in effects {
        match effect {
            Effect::AtOnce => {}
            Effect::Restart(how) => report.needs(how),
            Effect::Reload(name) => {
                let processes = host.processes(name);
                let pids = processes.into_iter().filter_map(Pid::from_raw);
                if pids
                    .map(|pid| kill_process(pid, Signal::HUP))
                    .any(|sent| sent.is_ok())
                {
                    report.reloads(name);
                }
            }
        }
    }
}

/// Whether containerd itself can still read its configuration.
fn check(host: &Host, plan: &Plan) -> Result<(), ProofError> {
    let of_containerd = |path: &PathBuf| matches!(Effect::of(path), Effect::Restart(how) if how.ends_with("containerd"));
    let program = host.program("containerd").filter(|_| host.is_running());
    let (Some(program), true) = (program, paths(plan).any(|path| of_containerd(&path))) else {
        return Ok(());
    };
    let mut command = Command::new(program);
    let command = command.args(["config", "dump"]).stdin(Stdio::null());
    match command.output() {
        Ok(said) if !said.status.success() => Err(ProofError::Configuration(
            String::from_utf8_lossy(&said.stderr).trim().to_owned(),
        )),
        _ => Ok(()),
    }
}

impl Desk {
    pub(crate) fn standing(&self) -> Standing<'_> {
        Standing {
            host: &self.host,
            records: &self.records,
            journal: &self.journal,
        }
    }
}

impl Report {
    fn runtimes(&self) -> Vec<Runtime> {
        let wished = self
            .runtimes
            .iter()
            .filter(|found| !found.wishes.is_empty());
        wished.map(|found: &Found| found.runtime).collect()
    }
}
