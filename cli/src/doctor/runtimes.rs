//! The container runtimes: their versions, what they were told of the mirror, and the traps in their
//! settings that keep pulls from going through it, or from going on without it.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use darner_service::telemetry::with_causes;

use super::finding::Finding;
use super::{fallback, proxies};
use crate::setup::{
    Effect, Entry, Found, Host, JOURNAL, Journal, Records, Runtime, Standing, Terms, digest,
};

pub(super) fn look(host: &Host, mirror: &str) -> Vec<Finding> {
    let records = Records::look(host, Path::new(JOURNAL));
    let journal = match records.load() {
        Ok(journal) => journal,
        Err(error) => {
            return vec![
                Finding::failure("setup", "", with_causes(&error))
                    .fix("run this as root, or see what the message says"),
            ];
        }
    };
    let mut findings = Vec::new();
    if !journal.pending.is_empty() {
        findings.push(
            Finding::failure("setup", "", "a run was cut off and is left half done")
                .fix("run `darner setup` or `darner teardown`, which takes it back first"),
        );
    }
    let standing = Standing {
        host,
        records: &records,
        journal: &journal,
    };
    for runtime in Runtime::ALL {
        findings.extend(one(standing, runtime, mirror));
    }
    if !findings.iter().any(|finding| finding.check == "runtime") {
        findings.push(Finding::note("runtime", "", "none was found on this host"));
    }
    findings
}

fn one(standing: Standing<'_>, runtime: Runtime, mirror: &str) -> Vec<Finding> {
    let terms = Terms {
        mirror: mirror.to_owned(),
        registries: Vec::new(),
        adopt: false,
        ca: None,
    };
    let had: Vec<_> = of(standing.journal, runtime).collect();
    let found = match runtime.find(standing, &terms) {
        Ok(None) => return Vec::new(),
        Ok(Some(found)) => found,
        Err(fault) => {
            return vec![
                Finding::failure("runtime", runtime.to_string(), with_causes(&fault))
                    .fix("do as the message says; until then `darner setup` changes nothing"),
            ];
        }
    };
    let programs = programs(&found);
    let subject = format!("{runtime}{programs}");
    let mut findings = if had.is_empty() {
        vec![not_by_us(standing, &found, &terms, subject)]
    } else {
        told(standing, &had, mirror, &subject)
    };
    let notes = found.notes.iter();
    findings.extend(notes.map(|note| Finding::note("runtime", runtime.to_string(), note)));
    let named = had.iter().map(|(_, entry)| entry.mirror.as_str());
    let named: BTreeSet<_> = named.filter(|mirror| !mirror.is_empty()).collect();
    findings.extend(far(&named, &runtime));
    let mirrors: Vec<_> = match named.is_empty() {
        true => vec![mirror],
        false => named.into_iter().collect(),
    };
    findings.extend(proxies::look(standing.host, runtime, &mirrors));
    findings.extend(fallback::look(standing, &found, mirror));
    findings
}

fn of(journal: &Journal, runtime: Runtime) -> impl Iterator<Item = (&PathBuf, &Entry)> {
    let files = journal.files.iter();
    files.filter(move |(_, entry)| entry.runtime == runtime.name())
}

fn programs(found: &Found) -> String {
    let programs = found.programs.iter().map(|(name, version)| match version {
        Some(version) => format!("; {name} {}", version.text),
        None => format!("; {name}"),
    });
    programs.collect()
}

/// Nothing of it is in the journal.
fn not_by_us(standing: Standing<'_>, found: &Found, terms: &Terms, subject: String) -> Finding {
    match standing.plan(found.runtime.name(), &found.wishes, &terms.mirror) {
        Ok(plan) if plan.changes.is_empty() => {
            Finding::ok("runtime", subject, "knows the mirror, set up by hand")
        }
        Ok(_) => Finding::warning("runtime", subject, "does not pull through the mirror")
            .fix("`darner setup`; --dry-run shows what that would change"),
        Err(faults) => {
            let faults: Vec<_> = faults.iter().map(|fault| with_causes(fault)).collect();
            Finding::failure("runtime", subject, faults.join("\n"))
                .fix("do as the message says; until then `darner setup` changes nothing")
        }
    }
}

/// What was set up: whether it is still so, names this mirror, and counts.
fn told(
    standing: Standing<'_>,
    had: &[(&PathBuf, &Entry)],
    mirror: &str,
    subject: &str,
) -> Vec<Finding> {
    let mut findings = Vec::new();
    for (path, entry) in had {
        let now = standing.host.read(path).ok().flatten();
        if now.is_none_or(|now| digest(&now.bytes) != entry.written) {
            let found = format!(
                "{} was changed or removed after it was set up",
                path.display()
            );
            findings.push(
                Finding::warning("runtime", subject, found)
                    .fix("`darner setup` again, or `darner teardown`"),
            );
        } else if address(&entry.mirror) != address(mirror) {
            let found = format!(
                "{} names the mirror {}, not {mirror}",
                path.display(),
                entry.mirror
            );
            findings.push(
                Finding::warning("runtime", subject, found)
                    .fix(format!("`darner setup --mirror {mirror}`")),
            );
        }
        findings.extend(stale(standing.host, path, entry, subject));
    }
    if findings.is_empty() {
        let files = had.len();
        findings.push(Finding::ok(
            "runtime",
            subject,
            format!("is set up, in {files} files"),
        ));
    }
    findings
}

/// Mirrors that another machine has: one that is switched off refuses nobody.
fn far(mirrors: &BTreeSet<&str>, runtime: &Runtime) -> Option<Finding> {
    let near = |url: &&&str| {
        let address = address(url).replace("localhost", "127.0.0.1");
        let address = address.parse::<SocketAddr>();
        address.is_ok_and(|address| address.ip().is_loopback())
    };
    let far = mirrors.iter().find(|url| !near(url))?;
    let found = format!(
        "its mirror {far} is not on loopback: when that machine is gone, each connection takes 15 \
         (Docker) to 60 s (Podman) before the registry is asked"
    );
    let fix = "run a mirror on this host; or, for containerd 2.1 and later, set dial_timeout for it in \
               hosts.toml";
    Some(Finding::warning("fall-back", runtime.to_string(), found).fix(fix))
}

/// Whether a process has not read yet what was written.
fn stale(host: &Host, path: &Path, entry: &Entry, subject: &str) -> Option<Finding> {
    let Effect::Restart(how) = Effect::of(path) else {
        return None;
    };
    let name = &entry.runtime;
    let written = host.place(path).metadata().ok()?.modified().ok()?;
    let since = host
        .processes(name)
        .into_iter()
        .filter_map(|pid| host.started(pid));
    (since.max()? < written).then(|| {
        let found = format!("has run since before {} was changed", path.display());
        Finding::warning("runtime", subject, found).fix(how)
    })
}

/// `host:port` of a mirror's URL.
pub(super) fn address(url: &str) -> &str {
    let plain = url.strip_prefix("http://");
    let rest = plain.or(url.strip_prefix("https://")).unwrap_or(url);
    rest.trim_end_matches('/')
}
