//! Reads each layer into a table and lays them over one another.

use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, Read as _};
use std::path::Path;

use toml::de::DeTable;

use super::fault::Origin;
use super::read::Reading;
use super::value::{Item, Table, Value, nested, overlay, table};
use super::{Flag, Sources};

/// A settings file or a secret is never this large; a device or a mistaken path may be.
const MAX_FILE: u64 = 1 << 20;
/// No setting lies deeper than `node.labels.zone`; a path that goes on for ever is not followed.
const MAX_DEPTH: usize = 4;
const PREFIX: &str = "DARNER_";
/// The variable with a name of its own: what people expect next to `RUST_LOG`.
const LOG_VARIABLE: &str = "DARNER_LOG";

pub(super) fn read(sources: &Sources, reading: &Reading) -> Table {
    let mut settings = Table::new();
    if let Some(path) = &sources.file {
        settings = file(path, reading);
    }
    // The environment has no order of its own; what is set twice should not depend on chance.
    let mut environment: Vec<_> = sources.environment.iter().collect();
    environment.sort();
    for (name, value) in environment {
        overlay(&mut settings, variable(name, value, reading));
    }
    for given in &sources.flags {
        overlay(&mut settings, flag(given, reading));
    }
    settings
}

fn file(path: &Path, reading: &Reading) -> Table {
    let whole = Origin::File {
        path: path.to_owned(),
        line: None,
    };
    let text = match read_text(path) {
        Ok(text) => text,
        Err(error) => {
            reading.fault(&whole, "", format!("cannot be read: {error}"));
            return Table::new();
        }
    };
    let starts = line_starts(&text);
    let at = |offset: usize| Origin::File {
        path: path.to_owned(),
        line: Some(starts.partition_point(|start| *start <= offset)),
    };
    let (parsed, errors) = DeTable::parse_recoverable(&text);
    for error in errors {
        let origin = error
            .span()
            .map_or_else(|| whole.clone(), |span| at(span.start));
        reading.fault(&origin, "", format!("is not TOML: {}", error.message()));
    }
    table(parsed.get_ref(), &at)
}

fn line_starts(text: &str) -> Vec<usize> {
    let after = text.match_indices('\n').map(|(offset, _)| offset + 1);
    std::iter::once(0).chain(after).collect()
}

/// The text of a small file.
pub(super) fn read_text(path: &Path) -> io::Result<String> {
    let mut text = String::new();
    File::open(path)?
        .take(MAX_FILE + 1)
        .read_to_string(&mut text)?;
    if text.len() as u64 > MAX_FILE {
        return Err(io::Error::other(format!("is larger than {MAX_FILE} bytes")));
    }
    Ok(text)
}

fn variable(name: &OsStr, value: &OsStr, reading: &Reading) -> Table {
    let Some((name, rest)) = name
        .to_str()
        .and_then(|name| Some((name, name.strip_prefix(PREFIX)?)))
    else {
        return Table::new();
    };
    let origin = Origin::Environment(name.to_owned());
    let Some(value) = value.to_str() else {
        reading.fault(&origin, "", "is not UTF-8".to_owned());
        return Table::new();
    };
    let path = match name {
        LOG_VARIABLE => "log__filter".to_owned(),
        _ => rest.to_lowercase(),
    };
    let path: Vec<_> = path.split("__").collect();
    placed(&path, origin, value, reading)
}

fn flag(flag: &Flag, reading: &Reading) -> Table {
    let origin = Origin::Flag(flag.name.clone());
    let Some(value) = &flag.value else {
        let message = "has no value: write --set section.key=value".to_owned();
        reading.fault(&origin, "", message);
        return Table::new();
    };
    let path: Vec<_> = flag.key.split('.').map(str::trim).collect();
    placed(&path, origin, value, reading)
}

fn placed(path: &[&str], origin: Origin, value: &str, reading: &Reading) -> Table {
    if path.len() > MAX_DEPTH || path.iter().any(|part| part.is_empty()) {
        reading.fault(&origin, "", "names no setting".to_owned());
        return Table::new();
    }
    let value = Value::Raw(value.to_owned());
    nested(path, Item { value, origin })
}
