//! Podman, Buildah, Skopeo and CRI-O: a drop-in with a table for each registry. They have nothing
//! that stands for every registry, and name none in their requests, so it stands in the path.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use ::toml::{Table, Value};

use super::{Terms, Wishes};
use crate::setup::edit::EditError;
use crate::setup::plan::{Edit, OURS, PlanError, Standing, Wish};

pub(super) const DIRECTORY: &str = "/etc/containers/registries.conf.d";
const MAIN: &str = "/etc/containers/registries.conf";
const FILE: &str = "50-darner.conf";
/// Those that a mirror knows without settings.
const REGISTRIES: [&str; 9] = [
    "docker.io",
    "ghcr.io",
    "quay.io",
    "registry.k8s.io",
    "gcr.io",
    "mcr.microsoft.com",
    "public.ecr.aws",
    "nvcr.io",
    "registry.gitlab.com",
];

pub(super) fn wishes(standing: Standing<'_>, terms: &Terms) -> Result<Wishes, PlanError> {
    let path = Path::new(DIRECTORY).join(FILE);
    let taken = taken(standing, &path)?;
    let given = terms.registries.iter().map(|name| name.as_str());
    let mut names: Vec<_> = given.collect();
    let mut notes = Vec::new();
    if names.is_empty() {
        names.extend(REGISTRIES);
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
                mirror(name, &terms.mirror)
            ));
            false
        }
    });
    if names.is_empty() {
        return Ok((Vec::new(), notes));
    }
    let tables: String = names
        .iter()
        .map(|name| table(name, &terms.mirror))
        .collect();
    let edit = Edit::Own(format!(
        "{OURS}`, which overwrites changes; `darner teardown` removes it.\n{tables}"
    ));
    Ok((vec![Wish { path, edit }], notes))
}

fn table(name: &str, url: &str) -> String {
    format!(
        "\n[[registry]]\nprefix = \"{name}\"\nlocation = \"{name}\"\n\n{}",
        mirror(name, url)
    )
}

fn mirror(name: &str, url: &str) -> String {
    let address = url.trim_start_matches("http://");
    format!("[[registry.mirror]]\nlocation = \"{address}/{name}\"\ninsecure = true\n")
}

/// Registries that somebody else has a table for, and where.
fn taken(standing: Standing<'_>, ours: &Path) -> Result<BTreeMap<String, PathBuf>, PlanError> {
    let directory = Path::new(DIRECTORY);
    let names = standing.host.list(directory).into_iter();
    let drop_ins = names
        .filter(|name| name.ends_with(".conf"))
        .map(|name| directory.join(name))
        .filter(|path| path != ours);
    let mut taken = BTreeMap::new();
    for path in std::iter::once(PathBuf::from(MAIN)).chain(drop_ins) {
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
