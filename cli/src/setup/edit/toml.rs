//! containerd's own `config.toml`: where it is told to read host files.

use toml_edit::{DocumentMut, Item, Table, TableLike, value};

use super::EditError;

const KEY: &str = "config_path";
/// What is written when nothing is set.
const PLACE: &str = "/etc/containerd/certs.d";

/// The CRI plugin's names, any of which switches it off.
const CRI: [&str; 3] = [
    "cri",
    "io.containerd.grpc.v1.cri",
    "io.containerd.cri.v1.images",
];

/// What a configuration says of the registries.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Registries {
    /// The number of its form; 1 when it has none.
    pub(crate) version: i64,
    /// Directories of host files, as it stands there; empty: none are read.
    pub(crate) config_path: Option<String>,
    /// Whether there are mirrors in the form from before host files. With `config_path` beside
    /// them the CRI plugin does not load.
    pub(crate) old_mirrors: bool,
    /// Whether the CRI plugin is switched off: images come in by Docker or `ctr` only.
    pub(crate) cri_disabled: bool,
    /// Whether there is any setting of the plugin.
    pub(crate) has_section: bool,
    /// Further files, which replace sections of this one.
    pub(crate) imports: Vec<String>,
}

impl Registries {
    pub(crate) fn read(text: &str) -> Result<Self, EditError> {
        let document = parse(text)?;
        let version = version(&document);
        let path = section(version)?;
        let plugin = dig(document.as_table(), &path[..path.len() - 1]);
        let registry = plugin.and_then(|plugin| plugin.get("registry")?.as_table_like());
        let list = |key: &str| {
            let items = document.get(key).and_then(Item::as_array);
            let texts = items.into_iter().flatten();
            texts
                .filter_map(|item| item.as_str().map(str::to_owned))
                .collect::<Vec<_>>()
        };
        Ok(Self {
            version,
            config_path: registry
                .and_then(|registry| registry.get(KEY)?.as_str())
                .map(str::to_owned),
            old_mirrors: registry
                .and_then(|registry| registry.get("mirrors")?.as_table_like())
                .is_some_and(|mirrors| !mirrors.is_empty()),
            cri_disabled: list("disabled_plugins")
                .iter()
                .any(|plugin| CRI.contains(&plugin.as_str())),
            has_section: plugin.is_some(),
            imports: list("imports"),
        })
    }
}

/// The text with the key set where it was unset or empty.
pub(crate) fn set_config_path(text: &str) -> Result<String, EditError> {
    let mut document = parse(text)?;
    let path = section(version(&document))?;
    let mut table: &mut dyn TableLike = document.as_table_mut();
    for name in path {
        let item = table.entry(name).or_insert_with(|| {
            let mut table = Table::new();
            // Only the last of them gets a line of its own.
            table.set_implicit(true);
            Item::Table(table)
        });
        table = item
            .as_table_like_mut()
            .ok_or_else(|| EditError::shape(format!("its `{name}` is not a table")))?;
    }
    match table.get_mut(KEY) {
        Some(there) => match there.as_value_mut() {
            Some(there) if there.as_str() == Some("") => {
                let decor = there.decor().clone();
                *there = PLACE.into();
                *there.decor_mut() = decor;
            }
            _ => return Err(EditError::shape(format!("its {KEY} is set already"))),
        },
        None => {
            table.insert(KEY, value(PLACE));
        }
    }
    Ok(document.to_string())
}

/// A whole file, for a containerd that has none.
pub(crate) fn new_file(version: i64) -> Result<String, EditError> {
    let plugin = match version {
        2 => "io.containerd.grpc.v1.cri",
        _ => "io.containerd.cri.v1.images",
    };
    Ok(format!(
        "version = {version}\n\n[plugins.\"{plugin}\".registry]\nconfig_path = \"{PLACE}\"\n"
    ))
}

/// The text with the key as it was before; for a text that was changed since.
pub(crate) fn unset(text: &str) -> Result<String, EditError> {
    let mut document = parse(text)?;
    let path = section(version(&document))?;
    let mut table: &mut dyn TableLike = document.as_table_mut();
    for name in path {
        match table.get_mut(name).and_then(Item::as_table_like_mut) {
            Some(next) => table = next,
            None => return Ok(text.to_owned()),
        }
    }
    if table.get(KEY).and_then(Item::as_str) == Some(PLACE) {
        table.remove(KEY);
    }
    Ok(document.to_string())
}

fn parse(text: &str) -> Result<DocumentMut, EditError> {
    text.parse()
        .map_err(|error| EditError::broken("TOML", error))
}

fn version(document: &DocumentMut) -> i64 {
    document
        .get("version")
        .and_then(Item::as_integer)
        .unwrap_or(1)
}

/// Where a configuration of this form keeps it.
fn section(version: i64) -> Result<&'static [&'static str], EditError> {
    match version {
        1 => Ok(&["plugins", "cri", "registry"]),
        2 => Ok(&["plugins", "io.containerd.grpc.v1.cri", "registry"]),
        3 => Ok(&["plugins", "io.containerd.cri.v1.images", "registry"]),
        other => Err(EditError::shape(format!(
            "it is of version {other}, and this program knows 1 to 3"
        ))),
    }
}

fn dig<'a>(table: &'a dyn TableLike, path: &[&str]) -> Option<&'a dyn TableLike> {
    let mut at = table;
    for name in path {
        at = at.get(name)?.as_table_like()?;
    }
    Some(at)
}

#[cfg(test)]
mod tests {
    use super::*;

    const V2: &str = r#"# of the house
version = 2
disabled_plugins = []   # none

[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "pause:3.9"   # pinned
  [plugins."io.containerd.grpc.v1.cri".registry]
    # credentials
    [plugins."io.containerd.grpc.v1.cri".registry.configs."a.example".auth]
      username = "u"
[plugins."io.containerd.grpc.v1.cri".cni]
  bin_dir = "/opt/cni/bin"
"#;

    #[test]
    fn one_line_is_added_and_every_other_stays() {
        let edited = set_config_path(V2).unwrap();
        let added: Vec<_> = edited.lines().filter(|line| !V2.contains(*line)).collect();
        assert_eq!(
            added,
            ["config_path = \"/etc/containerd/certs.d\""],
            "{edited}"
        );
        assert_eq!(edited.lines().count(), V2.lines().count() + 1);
        let found = Registries::read(&edited).unwrap();
        assert_eq!(found.config_path.as_deref(), Some(PLACE));
    }

    #[test]
    fn every_form_is_read_after_it_was_set() {
        for text in [
            "",
            "[plugins.cri]\n",
            "version = 2\n",
            "version = 2\n[plugins]\n  [plugins.\"io.containerd.grpc.v1.cri\"]\n",
            "version = 2\n[plugins.\"io.containerd.grpc.v1.cri\".registry]\nconfig_path = \"\" # none\n",
            "version = 3\n[plugins.'io.containerd.cri.v1.images'.registry]\n  config_path = ''\n",
            "version = 3\nplugins = {}\n",
        ] {
            let edited = set_config_path(text).unwrap_or_else(|error| panic!("{text}: {error}"));
            let found = Registries::read(&edited).unwrap();
            assert_eq!(found.config_path.as_deref(), Some(PLACE), "{edited}");
            let unset = Registries::read(&unset(&edited).unwrap()).unwrap();
            assert_eq!(unset.config_path, None);
        }
        for version in [2, 3] {
            let found = Registries::read(&new_file(version).unwrap()).unwrap();
            assert_eq!(
                (found.version, found.config_path.as_deref()),
                (version, Some(PLACE))
            );
        }
    }

    #[test]
    fn traps_are_seen() {
        let text = "version = 2\ndisabled_plugins = [\"cri\"]\nimports = [\"/etc/containerd/conf.d/*.toml\"]\n\
            [plugins.\"io.containerd.grpc.v1.cri\".registry.mirrors.\"docker.io\"]\nendpoint = [\"https://a\"]\n";
        let found = Registries::read(text).unwrap();
        assert!(found.old_mirrors && found.cri_disabled && found.has_section);
        assert_eq!(found.imports, ["/etc/containerd/conf.d/*.toml"]);
        assert_eq!(found.config_path, None);
        assert!(Registries::read("version = 4\n").is_err());
        assert!(Registries::read("version = \n").is_err());
        let set =
            "version = 2\n[plugins.\"io.containerd.grpc.v1.cri\".registry]\nconfig_path = \"/a\"\n";
        assert!(set_config_path(set).is_err());
    }
}
