//! k3s and RKE2, which write the host files of the containerd inside them from a file of their own.

use std::path::{Path, PathBuf};

use super::{Terms, Wishes};
use crate::setup::edit::yaml;
use crate::setup::host::Version;
use crate::setup::plan::{Edit, PlanError, Standing, Wish};

pub(crate) const DIRECTORIES: [&str; 2] = ["/etc/rancher/k3s", "/etc/rancher/rke2"];
const PROGRAMS: [&str; 2] = ["k3s", "rke2"];
const FILE: &str = "registries.yaml";

pub(super) fn wishes(
    standing: Standing<'_>,
    terms: &Terms,
    version: Option<&Version>,
) -> Result<Wishes, PlanError> {
    let names = terms.registries.iter().map(|name| name.as_str().to_owned());
    let mut names: Vec<_> = names.collect();
    let mut notes = Vec::new();
    if names.is_empty() {
        names.push(yaml::EVERY.to_owned());
        if version.is_none_or(|version| !version.is_at_least(1, 29)) {
            notes.push(
                "an entry for every registry is read by versions of January 2024 and later \
                 (v1.26.13, v1.27.10, v1.28.6, v1.29.1); with an older one name the registries with \
                 --registry"
                    .to_owned(),
            );
        }
    }
    let mut wishes = Vec::new();
    for (program, directory) in PROGRAMS.iter().zip(DIRECTORIES) {
        let is_there = standing.host.program(program).is_some() || standing.host.exists(directory);
        if is_there {
            let ca = terms.ca_in(Path::new(directory));
            let path = Path::new(directory).join(FILE);
            let ca_path = ca.as_ref().map(|wish| wish.path.clone());
            let wish = missing(standing, terms, &names, (path, ca_path))?;
            // Before what names it.
            wishes.extend(ca.filter(|_| wish.is_some()));
            wishes.extend(wish);
        }
    }
    Ok((wishes, notes))
}

/// The registries of a file for which somebody has not named the mirror already.
fn missing(
    standing: Standing<'_>,
    terms: &Terms,
    names: &[String],
    (path, ca): (PathBuf, Option<PathBuf>),
) -> Result<Option<Wish>, PlanError> {
    let base = standing.base_text(&path)?.unwrap_or_default();
    let mut missing = Vec::new();
    for name in names {
        let there = yaml::endpoints(&base, name).map_err(|why| PlanError::Edit {
            path: path.clone(),
            why,
        })?;
        if there.first() != Some(&terms.mirror) {
            missing.push(name.clone());
        }
    }
    Ok((!missing.is_empty()).then_some(Wish {
        path,
        edit: Edit::RegistriesYaml(missing, ca),
    }))
}
