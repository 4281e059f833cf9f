//! containerd's `hosts.toml`: a `[host]` table of the mirror before those of others.

use std::path::Path;

use toml::Table;

use super::{EditError, block, insert_line, without_blocks};

/// A `[host]` table, not `server`: only so does containerd go on to the registry itself when the
/// mirror is away or does not have something.
///
/// `ca` is the file of the authority to trust for it, where it speaks TLS. For one that does not there
/// must be none: containerd would speak TLS first.
pub(crate) fn table(mirror: &str, ca: Option<&Path>) -> String {
    let ca = ca.map(|path| format!("  ca = \"{}\"\n", path.display()));
    let ca = ca.unwrap_or_default();
    format!("[host.\"{mirror}\"]\n  capabilities = [\"pull\", \"resolve\"]\n{ca}")
}

/// Whether the text has the mirror, whoever put it there.
pub(crate) fn names(text: &str, mirror: &str) -> Result<bool, EditError> {
    let parsed = parse(text)?;
    Ok(parsed
        .get("host")
        .is_some_and(|hosts| hosts.get(mirror).is_some()))
}

/// Somebody else's text, with the mirror's table before all others, in which order containerd asks.
pub(crate) fn adopt(text: &str, mirror: &str, ca: Option<&Path>) -> Result<String, EditError> {
    if names(text, mirror)? {
        return Ok(text.to_owned());
    }
    let mut expected = parse(text)?;
    let hosts = expected
        .entry("host")
        .or_insert_with(|| Table::new().into());
    let ours: Table = parse(&table(mirror, ca))?;
    let ours = ours["host"].as_table().cloned().unwrap_or_default();
    match hosts.as_table_mut() {
        Some(hosts) => hosts.extend(ours),
        None => return Err(EditError::shape("its `host` is not a table")),
    }
    let first = text
        .lines()
        .position(|line| line.trim_start().starts_with('['))
        .unwrap_or(text.lines().count());
    let edited = insert_line(text, first, &block("", &table(mirror, ca)));
    if parse(&edited).is_ok_and(|found| found == expected) {
        Ok(edited)
    } else {
        Err(EditError::shape(
            "it is written in a way that cannot be edited safely",
        ))
    }
}

/// The text without what [`adopt`] put in.
pub(crate) fn strip(text: &str) -> Result<String, EditError> {
    let left = without_blocks(text);
    parse(&left)?;
    Ok(left)
}

fn parse(text: &str) -> Result<Table, EditError> {
    text.parse()
        .map_err(|error| EditError::broken("TOML", error))
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIRROR: &str = "http://127.0.0.1:7420";
    const THEIRS: &str = "# proxy of the house\nserver = \"https://ghcr.io\"\n\n\
        [host.\"https://proxy.example\"]   # first\n  ca = \"/etc/ca.pem\"\n  skip_verify = true\n\
        [host.\"https://proxy.example\".header]\n  x-a = [\"b\"]\n";

    #[test]
    fn the_mirror_comes_first_and_the_rest_stays() {
        let adopted = adopt(THEIRS, MIRROR, None).unwrap();
        let hosts = adopted.find(MIRROR).unwrap();
        assert!(
            hosts < adopted.find("https://proxy.example").unwrap(),
            "{adopted}"
        );
        assert!(adopted.find("server").unwrap() < hosts);
        assert_eq!(strip(&adopted).unwrap(), THEIRS);
        assert_eq!(adopt(&adopted, MIRROR, None).unwrap(), adopted);
        let secured = "https://127.0.0.1:7420";
        let adopted = adopt(THEIRS, secured, Some(Path::new("/a/ca.crt"))).unwrap();
        let found = parse(&adopted).unwrap();
        assert_eq!(found["host"][secured]["ca"].as_str(), Some("/a/ca.crt"));
        assert_eq!(strip(&adopted).unwrap(), THEIRS);
    }

    #[test]
    fn other_forms() {
        for text in ["", "# nothing yet", "server = \"https://a.example\""] {
            let adopted = adopt(text, MIRROR, None).unwrap();
            assert!(names(&adopted, MIRROR).unwrap(), "{adopted}");
        }
        let odd = "host = { \"https://a.example\" = { skip_verify = true } }\n";
        assert!(adopt(odd, MIRROR, None).is_err());
        let hidden = "note = '''\n[not a table]\n'''\n[host.\"https://a.example\"]\n";
        assert!(adopt(hidden, MIRROR, None).is_err());
        let broken = adopt("[host", MIRROR, None).unwrap_err();
        assert!(matches!(broken, EditError::Broken { .. }), "{broken:?}");
    }
}
