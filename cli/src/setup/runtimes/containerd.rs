//! containerd: a host file for each registry or for every one, and the key in its own configuration
//! that makes it read them.

use std::path::{Path, PathBuf};

use super::{Terms, Wishes};
use crate::setup::edit::{EditError, hosts, toml::Registries};
use crate::setup::host::Version;
use crate::setup::plan::{Edit, OURS, PlanError, Standing, Wish};

/// In the directory of a registry.
pub(crate) const HOSTS_FILE: &str = "hosts.toml";
/// The directory of every registry that has none of its own.
const EVERY: &str = "_default";
const CONFIG: &str = "/etc/containerd/config.toml";
/// Where host files are by custom.
const PLACE: &str = "/etc/containerd/certs.d";
const DROP_INS: &str = "/etc/containerd/conf.d/*.toml";

/// Its configuration: the file that counts, and what that says.
pub(crate) struct Configuration {
    pub(crate) path: PathBuf,
    pub(crate) registries: Registries,
}

pub(super) fn wishes(
    standing: Standing<'_>,
    terms: &Terms,
    version: Option<&Version>,
) -> Result<Wishes, PlanError> {
    let configuration = configuration(standing, version)?;
    let registries = &configuration.registries;
    let mut notes = Vec::new();
    if registries.cri_disabled {
        notes.push(format!(
            "its CRI plugin is switched off in {}, as Docker's package does: only nerdctl, and ctr \
             with --hosts-dir, pull through the mirror",
            configuration.path.display()
        ));
    }
    if registries.old_mirrors {
        return Err(PlanError::Edit {
            path: configuration.path,
            why: EditError::Shape(
                "it has `registry.mirrors`, and with `config_path` beside them the CRI plugin does \
                 not load; write each as a hosts.toml under /etc/containerd/certs.d, remove them, \
                 and run this again"
                    .to_owned(),
            ),
        });
    }
    if !registries.cri_disabled {
        notes.push(
            "`ctr` reads none of this: `ctr images pull --hosts-dir` names the directory"
                .to_owned(),
        );
    }
    let mut wishes = Vec::new();
    let directory = match registries.config_path.as_deref() {
        Some(path) if !path.is_empty() => first_of(path, &mut notes),
        _ if registries.cri_disabled => PathBuf::from(PLACE),
        _ => {
            let form = match version {
                Some(version) if version.major >= 2 => 3,
                _ => 2,
            };
            wishes.push(Wish {
                path: configuration.path.clone(),
                edit: Edit::ContainerdConfig(form),
            });
            PathBuf::from(PLACE)
        }
    };
    let mut names: Vec<_> = terms.registries.iter().map(|name| name.as_str()).collect();
    if names.is_empty() {
        names.push(EVERY);
        notes.extend(hiding(standing, &directory));
    }
    // Before what names it.
    let ca = terms.ca_in(&directory);
    let ca_path = ca.as_ref().map(|wish| wish.path.clone());
    wishes.extend(ca);
    for name in names {
        wishes.push(host_file(
            standing,
            terms,
            (directory.join(name).join(HOSTS_FILE), ca_path.as_deref()),
        )?);
    }
    Ok((wishes, notes))
}

/// From 2.2 on there is a directory of drop-ins when nothing is set. (Of the two directories of host
/// files that are set then, the transfer service reads neither, so one is set here in any case.)
fn has_drop_ins(version: Option<&Version>) -> bool {
    version.is_some_and(|version| version.is_at_least(2, 2))
}

fn host_file(
    standing: Standing<'_>,
    terms: &Terms,
    (path, ca): (PathBuf, Option<&Path>),
) -> Result<Wish, PlanError> {
    let base = standing.base_text(&path)?;
    let named = base
        .as_deref()
        .map(|text| hosts::names(text, &terms.mirror));
    let named = named.transpose().map_err(|why| PlanError::Edit {
        path: path.clone(),
        why,
    })?;
    let edit = match named {
        Some(named) if named || terms.adopt => Edit::Hosts(ca.map(Path::to_owned)),
        _ => Edit::Own(format!(
            "{OURS}`, which overwrites changes; `darner teardown` removes it.\n{}",
            hosts::table(&terms.mirror, ca)
        )),
    };
    Ok(Wish { path, edit })
}

/// The directory to write to, of a list of them.
fn first_of(path: &str, notes: &mut Vec<String>) -> PathBuf {
    if path.contains(':') {
        notes.push(format!(
            "its config_path {path:?} names several directories, which 2.x takes for one, that is not \
             there, when it pulls by its transfer service; if the mirror is not asked, name one"
        ));
    }
    path.split(':').next().unwrap_or(path).into()
}

/// What is to be said of registries whose own directory hides the one for every registry.
fn hiding(standing: Standing<'_>, directory: &Path) -> Option<String> {
    let names = standing.host.list(directory).into_iter().filter(|name| {
        let own = directory.join(name);
        let ours = standing.journal.files.contains_key(&own.join(HOSTS_FILE));
        name != EVERY && !ours && standing.host.place(&own).is_dir()
    });
    let names: Vec<_> = names.collect();
    (!names.is_empty()).then(|| {
        format!(
            "registries with a directory of their own in {} do not go through the mirror: {}; \
             name them with --registry, and --adopt",
            directory.display(),
            names.join(", ")
        )
    })
}

/// Imported files replace what the plugin has in the main one, the last one all others.
pub(crate) fn configuration(
    standing: Standing<'_>,
    version: Option<&Version>,
) -> Result<Configuration, PlanError> {
    let read = |path: &Path| -> Result<Option<Registries>, PlanError> {
        let text = standing.base_text(path)?;
        let read = text.as_deref().map(Registries::read).transpose();
        read.map_err(|why| PlanError::Edit {
            path: path.to_owned(),
            why,
        })
    };
    let main = read(Path::new(CONFIG))?;
    let mut found = Configuration {
        path: CONFIG.into(),
        registries: main.unwrap_or_default(),
    };
    let mut imports = found.registries.imports.clone();
    if imports.is_empty() && has_drop_ins(version) {
        imports.push(DROP_INS.to_owned());
    }
    let cri_disabled = found.registries.cri_disabled;
    for path in imports
        .iter()
        .flat_map(|pattern| matching(standing, pattern))
    {
        if let Some(registries) = read(&path)?.filter(|registries| registries.has_section) {
            found = Configuration { path, registries };
        }
    }
    found.registries.cri_disabled |= cri_disabled;
    Ok(found)
}

/// The files that an import names, which may have one `*` in its last part.
fn matching(standing: Standing<'_>, pattern: &str) -> Vec<PathBuf> {
    let pattern = Path::new("/etc/containerd").join(pattern);
    let name = pattern.file_name().and_then(|name| name.to_str());
    let (Some(directory), Some(name)) = (pattern.parent(), name) else {
        return Vec::new();
    };
    let Some((start, end)) = name.split_once('*') else {
        return vec![pattern];
    };
    let names = standing.host.list(directory).into_iter();
    let names = names.filter(|name| {
        name.len() >= start.len() + end.len() && name.starts_with(start) && name.ends_with(end)
    });
    names.map(|name| directory.join(name)).collect()
}
