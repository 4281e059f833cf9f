//! The authority that the mirror of this machine has made for itself, as the runtimes are to be told
//! of it: its certificate, and nothing else that may stand in the same file.

use std::fs;
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};

use super::host::Host;

/// Of a mirror that runs as a service.
const PLACE: &str = "/var/lib/darner/registry-tls/authority.pem";
const BEGIN: &str = "-----BEGIN CERTIFICATE-----";
const END: &str = "-----END CERTIFICATE-----";
/// A few certificates.
const MAX: u64 = 64 << 10;

/// There is no authority to trust.
#[derive(Debug, thiserror::Error)]
pub(crate) enum AuthorityError {
    /// The mirror has made none, or elsewhere.
    #[error(
        "nothing was changed: the mirror's authority {path} cannot be read; set `[registry] tls = true` in its settings and start it again, or name the file with --ca: it is registry-tls/authority.pem in the mirror's data directory"
    )]
    Absent {
        /// Where it should be.
        path: PathBuf,
        /// Why it cannot be had.
        #[source]
        source: io::Error,
    },
    /// Something else is in the file.
    #[error("nothing was changed: {0} has no certificate in PEM form in it")]
    NoCertificate(PathBuf),
}

/// The certificates in the file named, or in the one where a service's mirror has it.
pub(crate) fn read(named: Option<&Path>, host: &Host) -> Result<String, AuthorityError> {
    let path = match named {
        Some(path) => path.to_owned(),
        None => host.place(Path::new(PLACE)),
    };
    let mut text = String::new();
    let read = fs::File::open(&path).and_then(|file| file.take(MAX).read_to_string(&mut text));
    if let Err(source) = read {
        return Err(AuthorityError::Absent { path, source });
    }
    let certificates = certificates(&text);
    match certificates.is_empty() || reqwest_takes(&certificates).is_none() {
        true => Err(AuthorityError::NoCertificate(path)),
        false => Ok(certificates),
    }
}

/// A private key may stand beside them, and goes nowhere.
fn certificates(text: &str) -> String {
    let mut found = String::new();
    let mut rest = text;
    while let Some(begin) = rest.find(BEGIN) {
        let Some(length) = rest[begin..].find(END) else {
            break;
        };
        let end = begin + length + END.len();
        found.push_str(&rest[begin..end]);
        found.push('\n');
        rest = &rest[end..];
    }
    found
}

fn reqwest_takes(pem: &str) -> Option<()> {
    let taken = reqwest::Certificate::from_pem_bundle(pem.as_bytes()).ok()?;
    (!taken.is_empty()).then_some(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_certificates_are_taken_from_a_file() {
        let pem = format!("{BEGIN}\nMIIB\n{END}");
        let text = format!(
            "a note\n-----BEGIN PRIVATE KEY-----\ncanary\n-----END PRIVATE KEY-----\n{pem}\n{pem}\n{BEGIN}\nhalf"
        );
        assert_eq!(certificates(&text), format!("{pem}\n{pem}\n"));
        assert_eq!(certificates("nothing"), "");
    }

    #[test]
    fn what_is_missing_or_no_certificate_is_said_with_what_to_do() {
        let directory = tempfile::tempdir().unwrap();
        let host = Host::new(directory.path().to_owned());
        let absent = read(None, &host).unwrap_err();
        assert!(absent.to_string().contains("tls = true"), "{absent}");
        let file = directory.path().join("ca.pem");
        fs::write(&file, "nothing").unwrap();
        let none = read(Some(&file), &host).unwrap_err();
        assert!(matches!(none, AuthorityError::NoCertificate(_)), "{none}");
    }
}
