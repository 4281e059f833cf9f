//! Podman, Buildah, Skopeo and CRI-O: a drop-in with a table for each registry. They have nothing
//! that stands for every registry, and name none in their requests, so it stands in the path.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use ::toml::{Table, Value};
use darner_service::config::KNOWN;

use super::{Terms, Wishes};
use crate::setup::edit::EditError;
use crate::setup::plan::{Edit, OURS, PlanError, Standing, Wish};

pub(super) const DIRECTORY: &str = "/etc/containers/registries.conf.d";
const MAIN: &str = "/etc/containers/registries.conf";
const FILE: &str = "50-darner.conf";
/// Directories by host and port.
const CERTIFICATES: &str = "/etc/containers/certs.d";

pub(super) fn wishes(standing: Standing<'_>, terms: &Terms) -> Result<Wishes, PlanError> {
    let path = Path::new(DIRECTORY).join(FILE);
    let taken = taken(standing, &path)?;
    let given = terms.registries.iter().map(|name| name.as_str());
    let mut names: Vec<_> = given.collect();
    let mut notes = Vec::new();
    if names.is_empty() {
        names.extend(KNOWN.iter().map(|(name, _)| *name));
        notes.push(
            "they have no mirror for every registry: those that a mirror knows by itself are set \
             up, others with --registry"
                .to_owned(),
        );
    }
    // The last file wins a registry for itself alone, and what somebody else says is not overruled.
    names.retain(|name| match taken.get(*name) {
        None => true,
        Some(file) => {
            notes.push(format!(
                "{name} has a table in {} already and does not go through the mirror; add this to \
                 it:\n{}",
                file.display(),
                mirror(name, terms)
            ));
            false
        }
    });
    if names.is_empty() {
        return Ok((Vec::new(), notes));
    }
    let tables: String = names.iter().map(|name| table(name, terms)).collect();
    let edit = Edit::Own(format!(
        "{OURS}`, which overwrites changes; `darner teardown` removes it.\n{tables}"
    ));
    let directory = Path::new(CERTIFICATES).join(terms.address());
    let mut wishes: Vec<_> = terms.ca_in(&directory).into_iter().collect();
    wishes.push(Wish { path, edit });
    Ok((wishes, notes))
}

fn table(name: &str, terms: &Terms) -> String {
    format!(
        "\n[[registry]]\nprefix = \"{name}\"\nlocation = \"{name}\"\n\n{}",
        mirror(name, terms)
    )
}

fn mirror(name: &str, terms: &Terms) -> String {
    let address = terms.address();
    let insecure = match terms.ca {
        Some(_) => "",
        None => "insecure = true\n",
    };
    format!("[[registry.mirror]]\nlocation = \"{address}/{name}\"\n{insecure}")
}

/// The files that they read, in their order.
pub(crate) fn files(standing: Standing<'_>) -> Vec<PathBuf> {
    let directory = Path::new(DIRECTORY);
    let names = standing.host.list(directory).into_iter();
    let drop_ins = names
        .filter(|name| name.ends_with(".conf"))
        .map(|name| directory.join(name));
    std::iter::once(PathBuf::from(MAIN))
        .chain(drop_ins)
        .collect()
}

/// Registries that somebody else has a table for, and where.
fn taken(standing: Standing<'_>, ours: &Path) -> Result<BTreeMap<String, PathBuf>, PlanError> {
    let mut taken = BTreeMap::new();
    for path in files(standing).into_iter().filter(|path| path != ours) {
        let Some(text) = standing.base_text(&path)? else {
            continue;
        };
        let parsed: Table = text.parse().map_err(|error| PlanError::Edit {
            path: path.clone(),
            why: EditError::broken("TOML", error),
        })?;
        let tables = parsed.get("registry").and_then(Value::as_array);
        for table in tables.into_iter().flatten() {
            let name = |key: &str| table.get(key).and_then(Value::as_str);
            if let Some(name) = name("prefix").or(name("location")) {
                taken.insert(name.to_owned(), path.clone());
            }
        }
    }
    Ok(taken)
}
