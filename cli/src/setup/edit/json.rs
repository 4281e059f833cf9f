//! Docker's `daemon.json`: the mirror first among `registry-mirrors`.

use jsonc_parser::ParseOptions;
use jsonc_parser::cst::{CstArray, CstInputValue, CstNode, CstObject, CstRootNode};
use serde_json::Value;

use super::EditError;

const KEY: &str = "registry-mirrors";

/// The text with `mirror` in it. One that names it already is left as it is.
pub(crate) fn add(text: Option<&str>, mirror: &str) -> Result<String, EditError> {
    let text = text.unwrap_or_default();
    if text.trim().is_empty() {
        // Docker takes an empty file for none.
        return Ok(format!("{{\n  \"{KEY}\": [\"{mirror}\"]\n}}\n"));
    }
    let mut expected = parse(text)?;
    let mirrors = mirrors(&expected)?;
    if mirrors.iter().any(|there| is(there, mirror)) {
        return Ok(text.to_owned());
    }
    let wanted = [vec![mirror.to_owned()], mirrors].concat();
    expected[KEY] = wanted.into();
    let (root, object) = tree(text)?;
    match object.get(KEY).and_then(|property| property.array_value()) {
        Some(array) => {
            array.insert(0, CstInputValue::String(mirror.to_owned()));
        }
        None => {
            let value = CstInputValue::Array(vec![CstInputValue::String(mirror.to_owned())]);
            object.append(KEY, value);
        }
    }
    checked(root.to_string(), &expected)
}

/// The text without `mirror`; `None` when nothing else is in it.
pub(crate) fn strip(text: &str, mirror: &str) -> Result<Option<String>, EditError> {
    if text.trim().is_empty() {
        return Ok(Some(text.to_owned()));
    }
    let mut expected = parse(text)?;
    let mut left = mirrors(&expected)?;
    if !left.iter().any(|there| is(there, mirror)) {
        return Ok(Some(text.to_owned()));
    }
    left.retain(|there| !is(there, mirror));
    let (root, object) = tree(text)?;
    if left.is_empty() {
        if let Some(object) = expected.as_object_mut() {
            object.remove(KEY);
        }
        if let Some(property) = object.get(KEY) {
            property.remove();
        }
    } else {
        expected[KEY] = left.into();
        let array = object.get(KEY).and_then(|property| property.array_value());
        for element in array.iter().flat_map(CstArray::elements) {
            if decoded(&element).is_some_and(|there| is(&there, mirror)) {
                element.remove();
            }
        }
    }
    if expected.as_object().is_some_and(serde_json::Map::is_empty) {
        return Ok(None);
    }
    checked(root.to_string(), &expected).map(Some)
}

fn parse(text: &str) -> Result<Value, EditError> {
    let value: Value =
        serde_json::from_str(text).map_err(|error| EditError::broken("JSON", error))?;
    if value.is_object() {
        Ok(value)
    } else {
        Err(EditError::broken("JSON for Docker", "it is no object"))
    }
}

fn mirrors(value: &Value) -> Result<Vec<String>, EditError> {
    let bad = || EditError::shape(format!("its {KEY} is not a list of strings"));
    let Some(list) = value.get(KEY) else {
        return Ok(Vec::new());
    };
    let list = list.as_array().ok_or_else(bad)?;
    let texts = list.iter().map(|item| item.as_str().map(str::to_owned));
    texts.collect::<Option<_>>().ok_or_else(bad)
}

fn tree(text: &str) -> Result<(CstRootNode, CstObject), EditError> {
    let root = CstRootNode::parse(text, &ParseOptions::default())
        .map_err(|error| EditError::broken("JSON", error))?;
    let object = root
        .object_value()
        .ok_or_else(|| EditError::broken("JSON for Docker", "it is no object"))?;
    let same = object.properties().into_iter();
    let names = same.filter_map(|property| property.decoded_name());
    if names.filter(|name| name == KEY).count() > 1 {
        return Err(EditError::shape(format!("{KEY} stands in it twice")));
    }
    Ok((root, object))
}

fn decoded(node: &CstNode) -> Option<String> {
    node.as_string_lit()?.decoded_value().ok()
}

/// Docker itself adds the slash.
fn is(there: &str, mirror: &str) -> bool {
    there.trim_end_matches('/') == mirror
}

fn checked(text: String, expected: &Value) -> Result<String, EditError> {
    if serde_json::from_str::<Value>(&text).is_ok_and(|found| found == *expected) {
        Ok(text)
    } else {
        Err(EditError::shape(
            "it is written in a way that cannot be edited safely",
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIRROR: &str = "http://127.0.0.1:7420";

    fn added(text: &str) -> String {
        add(Some(text), MIRROR).unwrap()
    }

    #[test]
    fn what_others_wrote_stays_byte_for_byte() {
        for (text, wanted) in [
            (
                "",
                "{\n  \"registry-mirrors\": [\"http://127.0.0.1:7420\"]\n}\n",
            ),
            (
                "{}",
                "{\n  \"registry-mirrors\": [\"http://127.0.0.1:7420\"]\n}",
            ),
            (
                "{\n    \"debug\":true,\n\n    \"log-opts\": { \"max-size\":  \"10m\" }\n}\n",
                "{\n    \"debug\":true,\n\n    \"log-opts\": { \"max-size\":  \"10m\" },\n    \"registry-mirrors\": [\"http://127.0.0.1:7420\"]\n}\n",
            ),
            (
                "{\"registry-mirrors\":[\"https://theirs.example\"],\"debug\":true}",
                "{\"registry-mirrors\":[\"http://127.0.0.1:7420\", \"https://theirs.example\"],\"debug\":true}",
            ),
            (
                "{\n\t\"registry-mirrors\": [\n\t\t\"https://theirs.example/\"\n\t]\n}\n",
                "{\n\t\"registry-mirrors\": [\n\t\t\"http://127.0.0.1:7420\",\n\t\t\"https://theirs.example/\"\n\t]\n}\n",
            ),
        ] {
            assert_eq!(added(text), wanted);
        }
    }

    #[test]
    fn a_second_time_nothing_changes() {
        for text in ["{}", "{ \"registry-mirrors\": [ \"https://a.example\" ] }"] {
            let once = added(text);
            assert_eq!(added(&once), once);
        }
        let theirs = "{\"registry-mirrors\": [\"https://a.example\", \"http://127.0.0.1:7420/\"]}";
        assert_eq!(added(theirs), theirs);
    }

    #[test]
    fn only_the_mirror_is_taken_out_again() {
        let text = added("{\n  \"debug\": true\n}\n");
        let edited = text.replace("true", "false");
        let left = strip(&edited, MIRROR).unwrap().unwrap();
        let left: Value = serde_json::from_str(&left).unwrap();
        assert_eq!(left, serde_json::json!({"debug": false}));
        let text = "{\"registry-mirrors\": [\"http://127.0.0.1:7420\", \"https://a.example\"]}";
        let left = strip(text, MIRROR).unwrap().unwrap();
        let left: Value = serde_json::from_str(&left).unwrap();
        assert_eq!(
            left,
            serde_json::json!({"registry-mirrors": ["https://a.example"]})
        );
        assert_eq!(strip(&added(""), MIRROR).unwrap(), None);
        assert_eq!(strip("{\"a\": 1}", MIRROR).unwrap().unwrap(), "{\"a\": 1}");
    }

    #[test]
    fn what_docker_could_not_read_is_refused() {
        for text in [
            "{",
            "[]",
            "{\"registry-mirrors\": \"http://a\"}",
            "{\"registry-mirrors\": [1]}",
            "{\"registry-mirrors\": null}",
            "{\"registry-mirrors\": [], \"registry-mirrors\": []}",
            "{ // why\n \"debug\": true }",
            "{\"debug\": true,}",
            "\u{feff}{}",
        ] {
            assert!(add(Some(text), MIRROR).is_err(), "{text}");
        }
    }
}
