//! The container runtimes: their versions, what they were told of the mirror, and the traps in their
//! settings that keep pulls from going through it, or from going on without it.

use std::path::{Path, PathBuf};

use darner_service::telemetry::with_causes;
use toml::{Table, Value};

use super::finding::Finding;
use crate::setup::{
    Effect, Entry, Found, HOSTS_FILE, Host, JOURNAL, Journal, Records, Runtime, Standing, Terms,
    configuration, digest,
};

/// Where host files are when the configuration does not say.
const PLACE: &str = "/etc/containerd/certs.d";

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
    if runtime == Runtime::Containerd {
        findings.extend(host_files(standing, &found, mirror));
    }
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
        } else if entry.mirror != mirror {
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

/// Traps in containerd's host files that name the mirror, whoever wrote them.
fn host_files(standing: Standing<'_>, found: &Found, mirror: &str) -> Vec<Finding> {
    let version = found
        .programs
        .first()
        .and_then(|(_, version)| version.as_ref());
    let Ok(configuration) = configuration(standing, version) else {
        return Vec::new();
    };
    let place = configuration.registries.config_path.unwrap_or_default();
    let place = match place.split(':').next() {
        Some(place) if !place.is_empty() => PathBuf::from(place),
        _ => PathBuf::from(PLACE),
    };
    let names = standing.host.list(&place).into_iter();
    names
        .filter_map(|name| {
            let path = place.join(name).join(HOSTS_FILE);
            let table: Table = standing.host.text(&path)?.parse().ok()?;
            trap(&table, mirror).map(|(found, fix)| {
                Finding::failure("hosts.toml", path.display().to_string(), found).fix(fix)
            })
        })
        .collect()
}

fn trap(table: &Table, mirror: &str) -> Option<(&'static str, &'static str)> {
    let server = table
        .get("server")
        .and_then(Value::as_str)
        .unwrap_or_default();
    if server.trim_end_matches('/') == mirror {
        return Some((
            "has the mirror as its `server`: containerd 1.x ignores it there, and 2.x does not go \
             on to the registry when the mirror is away",
            "name it in a [host] table in place of `server`",
        ));
    }
    let host = table.get("host")?.get(mirror)?;
    (host.get("ca").is_some() || host.get("skip_verify").is_some()).then_some((
        "has `ca` or `skip_verify` for a mirror on plain http: containerd 1.7 and later speak TLS to \
         it first",
        "remove both from the mirror's table",
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn traps_of_host_files_are_seen() {
        let mirror = "http://127.0.0.1:7420";
        let seen = |text: &str| trap(&text.parse().unwrap(), mirror).map(|(found, _)| found);
        assert!(
            seen("server = \"http://127.0.0.1:7420/\"")
                .unwrap()
                .contains("server")
        );
        let tls = seen("[host.\"http://127.0.0.1:7420\"]\nskip_verify = true");
        assert!(tls.unwrap().contains("TLS"));
        let fine =
            "server = \"https://a\"\n[host.\"http://127.0.0.1:7420\"]\ncapabilities = [\"pull\"]";
        assert_eq!(seen(fine), None);
        assert_eq!(seen("[host.\"https://other\"]\nskip_verify = true"), None);
    }
}
