//! `registries.yaml` of k3s and RKE2: the mirror as the endpoint of a registry, or of every one.

use std::path::{Path, PathBuf};

use saphyr::{LoadableYamlNode as _, MarkedYaml, Yaml};

use super::{BEGIN, EditError, block, insert_line, without_blocks};

/// What stands for every registry that has no entry of its own.
pub(crate) const EVERY: &str = "*";

/// The text with `mirror` as the endpoint of `registries`; under TLS with the authority in a file.
pub(crate) fn add(
    text: &str,
    registries: &[String],
    (mirror, ca): (&str, Option<&Path>),
) -> Result<String, EditError> {
    let entries: Vec<_> = registries
        .iter()
        .map(|name| (name.clone(), entry(name, mirror)))
        .collect();
    let mut edited = under(text, "mirrors", &entries)?;
    if let Some(ca) = ca {
        let host = mirror.trim_start_matches("https://").to_owned();
        let trusted = format!("\"{host}\":\n  tls:\n    ca_file: \"{}\"\n", ca.display());
        edited = under(&edited, "configs", &[(host, trusted)])?;
    }
    check(&edited, text, registries, (mirror, ca))?;
    Ok(edited)
}

/// The text with entries, by name, in the mapping `section`, which is made if it is not there.
fn under(text: &str, section: &str, entries: &[(String, String)]) -> Result<String, EditError> {
    let document = parse(text)?;
    let top = document.as_ref();
    if top.is_some_and(|top| !top.data.is_mapping() && !top.data.is_null()) {
        return Err(EditError::shape("it is not a mapping"));
    }
    let there = top.and_then(|top| top.data.as_mapping_get(section));
    let taken = |(name, _): &&(String, String)| {
        there.is_some_and(|there| there.data.as_mapping_get(name).is_some())
    };
    if let Some((name, lines)) = entries.iter().find(taken) {
        return Err(EditError::shape(format!(
            "it has an entry for {name:?} in {section} already; add this to that by hand, before \
             what is there:\n{lines}"
        )));
    }
    let lines: String = entries.iter().map(|(_, lines)| lines.as_str()).collect();
    match there {
        None => {
            let lines: String = lines.lines().map(|line| format!("  {line}\n")).collect();
            let ours = block("", &format!("{section}:\n{lines}"));
            Ok(insert_line(text, text.lines().count(), &ours))
        }
        Some(there) => within(text, (section, there), &lines),
    }
}

/// Below the line that begins the section, indented as the first entry that is there.
fn within(
    text: &str,
    (section, there): (&str, &MarkedYaml<'_>),
    entries: &str,
) -> Result<String, EditError> {
    let flow = || EditError::shape(format!("its `{section}` is not written one entry a line"));
    let begins = format!("{section}:");
    let header = text
        .lines()
        .position(|line| line.starts_with(&begins))
        .ok_or_else(flow)?;
    let indent = match there.data.as_mapping() {
        Some(there) => {
            let (first, _) = there.iter().next().ok_or_else(flow)?;
            if first.span.start.line() == header + 1 {
                return Err(flow());
            }
            first.span.start.col()
        }
        None if there.data.is_null() => 2,
        None => return Err(flow()),
    };
    Ok(insert_line(
        text,
        header + 1,
        &block(&" ".repeat(indent), entries),
    ))
}

/// The text without what [`add`] put in; `None` when nothing else is in it.
pub(crate) fn strip(text: &str) -> Result<Option<String>, EditError> {
    let left = without_blocks(text);
    parse(&left)?;
    Ok((!left.trim().is_empty() || !text.contains(BEGIN)).then_some(left))
}

/// The endpoints of a registry, in their order.
pub(crate) fn endpoints(text: &str, registry: &str) -> Result<Vec<String>, EditError> {
    let document = parse(text)?;
    let list = document.as_ref().and_then(|top| {
        let mirrors = top.data.as_mapping_get("mirrors")?;
        let of = mirrors.data.as_mapping_get(registry)?;
        of.data.as_mapping_get("endpoint")?.data.as_vec()
    });
    let texts = list.into_iter().flatten();
    Ok(texts
        .filter_map(|item| item.data.as_str().map(str::to_owned))
        .collect())
}

/// Whether the mirror's authority is the one in this file.
fn trusts(text: &str, mirror: &str, ca: &Path) -> bool {
    let named = |text| {
        let document = parse(text).ok()??;
        let host = mirror.trim_start_matches("https://");
        let configs = document.data.as_mapping_get("configs")?;
        let tls = configs.data.as_mapping_get(host)?;
        let tls = tls.data.as_mapping_get("tls")?;
        let file = tls.data.as_mapping_get("ca_file")?;
        file.data.as_str().map(PathBuf::from)
    };
    named(text).is_some_and(|named| named == ca)
}

/// Whether a document says `key: true`. One that cannot be read says nothing.
pub(crate) fn says(text: &str, key: &str) -> bool {
    let document = parse(text).ok().flatten();
    let said = document
        .as_ref()
        .and_then(|top| top.data.as_mapping_get(key)?.data.as_bool());
    said == Some(true)
}

fn entry(registry: &str, mirror: &str) -> String {
    format!("\"{registry}\":\n  endpoint:\n    - \"{mirror}\"\n")
}

fn parse(text: &str) -> Result<Option<MarkedYaml<'_>>, EditError> {
    let documents =
        MarkedYaml::load_from_str(text).map_err(|error| EditError::broken("YAML", error))?;
    if documents.len() > 1 {
        return Err(EditError::shape("it has several documents"));
    }
    Ok(documents.into_iter().next())
}

/// Without what was added the text means what it did, and with it what was wanted.
fn check(
    edited: &str,
    text: &str,
    registries: &[String],
    (mirror, ca): (&str, Option<&Path>),
) -> Result<(), EditError> {
    let unsafe_to_edit = || EditError::shape("it is written in a way that cannot be edited safely");
    let plain = |text: &str| Yaml::load_from_str(text).map_err(|_| unsafe_to_edit());
    let added = registries.iter().all(|registry| {
        endpoints(edited, registry).is_ok_and(|there| there == [mirror.to_owned()])
    });
    let trusted = ca.is_none_or(|ca| trusts(edited, mirror, ca));
    let before = plain(text)?;
    let others = |documents: &[Yaml<'_>]| {
        let top = documents.first().and_then(Yaml::as_mapping);
        let rest = top.into_iter().flatten();
        rest.filter(|(key, _)| !matches!(key.as_str(), Some("mirrors" | "configs")))
            .count()
    };
    let same =
        others(&plain(edited)?) == others(&before) && plain(&without_blocks(edited))? == before;
    if added && trusted && same {
        Ok(())
    } else {
        Err(unsafe_to_edit())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIRROR: &str = "http://127.0.0.1:7420";

    fn every(text: &str) -> Result<String, EditError> {
        add(text, &[EVERY.to_owned()], (MIRROR, None))
    }

    #[test]
    fn the_mirror_is_added_and_taken_out_again() {
        for text in [
            "# credentials\nconfigs:\n  a.example:\n    auth: {username: u}   # theirs\n",
            "mirrors:\n    docker.io:   # theirs\n        endpoint:\n            - https://a.example\nconfigs: {}\n",
            "---\nconfigs:\n  a.example: {}\nmirrors:\n  \"a.example\":\n    endpoint: [ \"https://b.example\" ]\n",
            "mirrors:\n",
            "mirrors:\n# a note\n  docker.io:\n    endpoint:\n      - https://a.example\n",
        ] {
            let added = every(text).unwrap_or_else(|error| panic!("{text}: {error}"));
            assert_eq!(endpoints(&added, EVERY).unwrap(), [MIRROR]);
            assert_eq!(strip(&added).unwrap().unwrap(), text);
            for line in text.lines() {
                assert!(
                    added.lines().any(|there| there == line),
                    "{line} of {added}"
                );
            }
        }
    }

    #[test]
    fn an_authority_is_trusted_for_the_mirror_alone() {
        let secured = "https://127.0.0.1:7420";
        let ca = Path::new("/etc/rancher/k3s/darner-ca.crt");
        for text in [
            "",
            "configs:\n",
            "mirrors:\n  a.example:\n    endpoint: [ \"https://b.example\" ]\n",
            "# theirs\nconfigs:\n    a.example:\n        auth: {username: u}\nother: 1\n",
        ] {
            let every = [EVERY.to_owned()];
            let added = add(text, &every, (secured, Some(ca)));
            let added = added.unwrap_or_else(|error| panic!("{text}: {error}"));
            assert!(trusts(&added, secured, ca), "{added}");
            assert!(!trusts(&added, "https://127.0.0.1:1", ca), "{added}");
            assert_eq!(endpoints(&added, EVERY).unwrap(), [secured]);
            assert_eq!(strip(&added).unwrap().unwrap_or_default(), text);
        }
        let taken = "configs:\n  \"127.0.0.1:7420\":\n    tls: {}\n";
        assert!(add(taken, &[EVERY.to_owned()], (secured, Some(ca))).is_err());
    }

    #[test]
    fn a_new_file_and_several_registries() {
        let two = ["docker.io".to_owned(), "ghcr.io".to_owned()];
        for text in ["", "# only a note\n", "configs: {a: {}}"] {
            let added = add(text, &two, (MIRROR, None)).unwrap();
            for registry in &two {
                assert_eq!(endpoints(&added, registry).unwrap(), [MIRROR], "{added}");
            }
        }
        assert_eq!(strip(&every("").unwrap()).unwrap(), None);
    }

    #[test]
    fn what_cannot_be_edited_safely_is_refused() {
        for text in [
            "{mirrors: {}}",
            "mirrors: {docker.io: {endpoint: [a]}}\n",
            "mirrors:\n  \"*\":\n    endpoint: [a]\n",
            "- a\n",
            "mirrors: [a]\n",
            "a: b\n---\nc: d\n",
            "a: [\n",
            "\"mirrors\":\n  docker.io: {}\n",
        ] {
            assert!(every(text).is_err(), "{text}");
        }
    }
}
