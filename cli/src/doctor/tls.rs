//! Whether runtimes know who answers at the mirror's port: what they trust, what the mirror has, and
//! when plain HTTP is not enough.

use std::fs;
use std::path::Path;

use darner_service::identity::local::{AUTHORITY, DIRECTORY};
use darner_service::settings::Settings;

use super::finding::Finding;
use super::runtimes::address;
use crate::setup::prove::{self, Mirror};
use crate::setup::{CA_FILE, Host, JOURNAL, Records};

const SETUP: &str = "`darner setup --tls`";

/// What is there for the mirror at `mirror`, which may answer.
pub(super) async fn look(
    host: &Host,
    settings: &Settings,
    (mirror, is_up): (&str, bool),
) -> Vec<Finding> {
    let records = Records::look(host, Path::new(JOURNAL));
    // What is wrong with it is said elsewhere.
    let journal = records.load().unwrap_or_default();
    let mirrors = || journal.files.values().map(|entry| entry.mirror.as_str());
    let secured = mirrors().any(|mirror| mirror.starts_with("https://"));
    let plain = mirrors().any(|mirror| mirror.starts_with("http://"));
    if !settings.registry.tls {
        return without(mirror, secured, plain);
    }
    let path = settings.data_dir.join(DIRECTORY).join(AUTHORITY);
    let authority = match fs::read_to_string(&path) {
        Ok(authority) => authority,
        Err(error) => {
            let found = format!(
                "the authority in {} cannot be read: {error}",
                path.display()
            );
            let finding = Finding::warning("tls", "", found);
            return vec![finding.fix("start the mirror, which makes it; or run this as root")];
        }
    };
    let mut findings = Vec::new();
    if is_up {
        findings.push(answers(mirror, &authority).await);
    }
    for path in journal.files.keys().filter(|path| path.ends_with(CA_FILE)) {
        let told = host.text(path).unwrap_or_default();
        if !told.contains(authority.trim()) {
            let found = "is not the authority that the mirror has now: runtimes refuse it, and go to \
                         the registry themselves";
            let path = path.display().to_string();
            findings.push(Finding::failure("tls", path, found).fix(format!("{SETUP} again")));
        }
    }
    if plain {
        let found = "the mirror speaks TLS, and some runtimes were set up without";
        findings.push(Finding::warning("tls", "", found).fix(SETUP));
    }
    findings
}

/// The mirror speaks none.
fn without(mirror: &str, secured: bool, plain: bool) -> Vec<Finding> {
    if secured {
        let found = "runtimes are set up for TLS, and the mirror's settings have none";
        let fix = "set `[registry] tls = true` and start it again, or `darner setup` without --tls";
        return vec![Finding::failure("tls", "", found).fix(fix)];
    }
    if !plain {
        return Vec::new();
    }
    let found = format!(
        "runtimes speak plain HTTP to {mirror}: whoever takes that port while the mirror is away is \
         shown the tokens and passwords that they have for registries"
    );
    let fix = format!(
        "nothing, where all programs on this host are trusted; else `[registry] tls = true` and {SETUP}"
    );
    vec![Finding::note("tls", "", found).fix(fix)]
}

/// Whether the mirror is who runtimes are to trust.
async fn answers(mirror: &str, authority: &str) -> Finding {
    let url = format!("https://{}", address(mirror));
    let asked = Mirror {
        url: &url,
        ca: Some(authority),
    };
    match prove::ping(asked).await {
        Ok(()) => Finding::ok("tls", url, "answers, with a certificate of its authority"),
        Err(error) => Finding::failure("tls", url, error.to_string())
            .fix("what listens there is another mirror, or none; start this one again"),
    }
}
