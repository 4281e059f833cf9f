//! `darner get` and `darner put`, and what they leave.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use anyhow::{Context as _, Result};
use darner_proto::digest::Digest;

use crate::darner::{self, Darner};
use crate::process;

/// `darner get`, through a node.
pub fn get(node: &Darner, what: &str, output: &Path) -> Result<Command> {
    let mut command = darner::command()?;
    command.arg("get").arg(what).arg("-o").arg(output);
    command.arg("--via").arg(node.url("registry")?);
    Ok(command)
}

/// Puts a file by way of a node, whatever comes of it.
pub async fn put(node: &Darner, file: &Path, flags: &[&str]) -> Result<Output> {
    let mut put = darner::command()?;
    put.arg("put").arg(file).args(flags);
    put.arg("--via").arg(node.url("registry")?);
    process::finish(put).await
}

/// What a command has printed.
pub fn printed(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).trim().to_owned()
}

/// The digest of a file.
pub fn digest_of(path: &Path) -> Result<Digest> {
    let bytes = std::fs::read(path).with_context(|| path.display().to_string())?;
    Ok(Digest::sha256(&bytes))
}

/// Every file below a directory, by its path there.
pub fn files_below(root: &Path) -> Result<BTreeMap<PathBuf, Digest>> {
    let mut found = BTreeMap::new();
    let mut due = vec![root.to_owned()];
    while let Some(directory) = due.pop() {
        for entry in std::fs::read_dir(&directory)? {
            let path = entry?.path();
            match path.is_dir() {
                true => due.push(path),
                false => {
                    let digest = digest_of(&path)?;
                    found.insert(path.strip_prefix(root)?.to_owned(), digest);
                }
            }
        }
    }
    Ok(found)
}
