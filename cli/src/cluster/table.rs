//! Tables for people: columns as wide as what is in them, and nothing but text.

use std::io::{self, Write as _};
use std::time::{Duration, UNIX_EPOCH};

use serde_json::Value;

/// A column: its title, and where its value is in an item.
pub(super) type Column = (&'static str, fn(&Value) -> String);

/// Writes `items` to standard output. That nobody may read it to the end is no reason to fail.
pub(super) fn print(columns: &[Column], items: &[Value]) {
    let _ = io::stdout()
        .lock()
        .write_all(text(columns, items).as_bytes());
}

/// Writes JSON to standard output.
pub(super) fn print_json(value: &Value) {
    let _ = writeln!(io::stdout().lock(), "{value:#}");
}

/// Writes a line to standard output.
pub(super) fn print_line(line: &str) {
    let _ = writeln!(io::stdout().lock(), "{line}");
}

/// A unix time in ms, as people read it.
pub(super) fn time(ms: &Value) -> String {
    let at = UNIX_EPOCH + Duration::from_millis(ms.as_u64().unwrap_or(0));
    humantime::format_rfc3339_seconds(at).to_string()
}

fn text(columns: &[Column], items: &[Value]) -> String {
    let head = columns.iter().map(|(title, _)| (*title).to_owned());
    let mut rows: Vec<Vec<String>> = vec![head.collect()];
    rows.extend(items.iter().map(|item| {
        let cells = columns.iter().map(|(_, cell)| plain(&cell(item)));
        cells.collect()
    }));
    let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max();
    let widths: Vec<usize> = (0..columns.len())
        .map(|column| width(column).unwrap_or(0))
        .collect();
    let line = |row: &Vec<String>| {
        let cells = row.iter().zip(&widths);
        let padded: Vec<_> = cells
            .map(|(cell, width)| format!("{cell:width$}"))
            .collect();
        format!("{}\n", padded.join("  ").trim_end())
    };
    rows.iter().map(line).collect()
}

/// What a member calls itself is not to move a terminal's cursor.
fn plain(text: &str) -> String {
    text.replace(char::is_control, "\u{fffd}")
}

/// The words of a list.
pub(super) fn words(list: &Value) -> String {
    let words = list.as_array().into_iter().flatten();
    let words = words.filter_map(Value::as_str);
    words.collect::<Vec<_>>().join(" ")
}

/// An item's labels.
pub(super) fn labels(item: &Value) -> String {
    let labels = item["labels"].as_object().into_iter().flatten();
    let labels = labels.map(|(key, value)| {
        let value = value.as_str().unwrap_or_default();
        format!("{key}={value}")
    });
    labels.collect::<Vec<_>>().join(",")
}

/// The text at `key`, or nothing.
pub(super) fn string(item: &Value, key: &str) -> String {
    match &item[key] {
        Value::String(text) => text.clone(),
        Value::Null => String::new(),
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_as_wide_as_what_is_in_them() {
        let columns: [Column; 2] = [
            ("ID", |item| string(item, "id")),
            ("ROLE", |item| string(item, "role")),
        ];
        let items = [
            serde_json::json!({ "id": "a-long-name", "role": "seed" }),
            serde_json::json!({ "id": "b\u{1b}[2J", "role": null }),
        ];
        let expected = "ID           ROLE\na-long-name  seed\nb\u{fffd}[2J\n";
        assert_eq!(text(&columns, &items), expected);
    }
}
