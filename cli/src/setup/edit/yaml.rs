//! `registries.yaml` of k3s and RKE2: the mirror as the endpoint of a registry, or of every one.

use saphyr::{LoadableYamlNode as _, MarkedYaml, Yaml};

use super::{BEGIN, EditError, block, insert_line, without_blocks};

/// What stands for every registry that has no entry of its own.
pub(crate) const EVERY: &str = "*";

/// The text with `mirror` as the endpoint of `registries`.
pub(crate) fn add(text: &str, registries: &[String], mirror: &str) -> Result<String, EditError> {
    let document = parse(text)?;
    let top = document.as_ref();
    if top.is_some_and(|top| !top.data.is_mapping() && !top.data.is_null()) {
        return Err(EditError::shape("it is not a mapping"));
    }
    let mirrors = top.and_then(|top| top.data.as_mapping_get("mirrors"));
    let taken = |registry: &&String| {
        mirrors.is_some_and(|there| there.data.as_mapping_get(registry).is_some())
    };
    if let Some(registry) = registries.iter().find(taken) {
        let line = entry(registry, mirror);
        return Err(EditError::shape(format!(
            "it has an entry for {registry:?} already; add the endpoint to that by hand, first:\n{line}"
        )));
    }
    let entries: String = registries.iter().map(|name| entry(name, mirror)).collect();
    let edited = match mirrors {
        None => {
            let lines: String = entries.lines().map(|line| format!("  {line}\n")).collect();
            let ours = block("", &format!("mirrors:\n{lines}"));
            insert_line(text, text.lines().count(), &ours)
        }
        Some(mirrors) => within(text, mirrors, &entries)?,
    };
    check(&edited, text, registries, mirror)?;
    Ok(edited)
}

/// Below the line `mirrors:`, indented as the first entry that is there.
fn within(text: &str, mirrors: &MarkedYaml<'_>, entries: &str) -> Result<String, EditError> {
    let flow = || EditError::shape("its `mirrors` is not written one entry a line");
    let header = text
        .lines()
        .position(|line| line.starts_with("mirrors:"))
        .ok_or_else(flow)?;
    let indent = match mirrors.data.as_mapping() {
        Some(there) => {
            let (first, _) = there.iter().next().ok_or_else(flow)?;
            if first.span.start.line() == header + 1 {
                return Err(flow());
            }
            first.span.start.col()
        }
        None if mirrors.data.is_null() => 2,
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
fn check(edited: &str, text: &str, registries: &[String], mirror: &str) -> Result<(), EditError> {
    let unsafe_to_edit = || EditError::shape("it is written in a way that cannot be edited safely");
    let plain = |text: &str| Yaml::load_from_str(text).map_err(|_| unsafe_to_edit());
    let added = registries.iter().all(|registry| {
        endpoints(edited, registry).is_ok_and(|there| there == [mirror.to_owned()])
    });
    let before = plain(text)?;
    let others = |documents: &[Yaml<'_>]| {
        let top = documents.first().and_then(Yaml::as_mapping);
        let rest = top.into_iter().flatten();
        rest.filter(|(key, _)| key.as_str() != Some("mirrors"))
            .count()
    };
    let same =
        others(&plain(edited)?) == others(&before) && plain(&without_blocks(edited))? == before;
    if added && same {
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
        add(text, &[EVERY.to_owned()], MIRROR)
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
    fn a_new_file_and_several_registries() {
        let two = ["docker.io".to_owned(), "ghcr.io".to_owned()];
        for text in ["", "# only a note\n", "configs: {a: {}}"] {
            let added = add(text, &two, MIRROR).unwrap();
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
