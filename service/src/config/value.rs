//! Values as given, before anybody knows what they should be, each with its origin.

use std::collections::BTreeMap;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::fault::Origin;

/// Keys and what they were given.
pub(super) type Table = BTreeMap<String, Item>;

/// A value and where it was given.
#[derive(Debug, Clone)]
pub(super) struct Item {
    pub(super) value: Value,
    pub(super) origin: Origin,
}

/// A value of TOML, or the text of a variable or flag, which is nothing in particular until it is
/// known what it is for.
#[derive(Debug, Clone)]
pub(super) enum Value {
    Raw(String),
    Text(String),
    Integer(i128),
    Boolean(bool),
    List(Vec<Item>),
    Table(Table),
    /// A kind no setting has, by its name.
    Other(&'static str),
}

impl Item {
    /// `value`, with origins made from places in the TOML text.
    fn new(value: &Spanned<DeValue<'_>>, origin: &impl Fn(usize) -> Origin) -> Self {
        Self {
            origin: origin(value.span().start),
            value: match value.get_ref() {
                DeValue::String(text) => Value::Text(text.clone().into_owned()),
                DeValue::Integer(integer) => {
                    let parsed = i128::from_str_radix(integer.as_str(), integer.radix());
                    parsed.map_or(Value::Other("an integer out of range"), Value::Integer)
                }
                DeValue::Boolean(boolean) => Value::Boolean(*boolean),
                DeValue::Float(_) => Value::Other("a number with a fraction"),
                DeValue::Datetime(_) => Value::Other("a date or time"),
                DeValue::Array(items) => {
                    let items = items.iter().map(|item| Self::new(item, origin));
                    Value::List(items.collect())
                }
                DeValue::Table(entries) => Value::Table(table(entries, origin)),
            },
        }
    }

    /// The item with text that is written like a list or table of TOML taken as one. The text of a
    /// variable or flag stays the origin of everything in it.
    pub(super) fn expanded(self) -> Result<Self, String> {
        let text = match &self.value {
            Value::Raw(text) if text.trim_start().starts_with(['[', '{']) => text.trim(),
            _ => return Ok(self),
        };
        let parsed = DeValue::parse(text).map_err(|error| {
            let column = error.span().map_or(0, |span| span.start) + 1;
            format!("is not TOML at character {column}: {}", error.message())
        })?;
        let origin = self.origin.clone();
        Ok(Self::new(&parsed, &|_| origin.clone()))
    }

    /// What kind of value it is, for messages.
    pub(super) fn kind(&self) -> &'static str {
        match &self.value {
            Value::Raw(_) => "plain text",
            Value::Text(_) => "a string",
            Value::Integer(_) => "an integer",
            Value::Boolean(_) => "a boolean",
            Value::List(_) => "a list",
            Value::Table(_) => "a table",
            Value::Other(kind) => kind,
        }
    }
}

/// The entries of a table of TOML; an entry's origin is where its key is.
pub(super) fn table(entries: &DeTable<'_>, origin: &impl Fn(usize) -> Origin) -> Table {
    let entry = |(key, value): (&Spanned<_>, &Spanned<_>)| {
        let name: &std::borrow::Cow<'_, str> = key.get_ref();
        let mut item = Item::new(value, origin);
        item.origin = origin(key.span().start);
        (name.clone().into_owned(), item)
    };
    entries.iter().map(entry).collect()
}

/// Puts `upper` over `lower`: tables are joined, everything else is replaced.
pub(super) fn overlay(lower: &mut Table, upper: Table) {
    for (key, item) in upper {
        match (lower.get_mut(&key), item) {
            (
                Some(Item {
                    value: Value::Table(below),
                    ..
                }),
                Item {
                    value: Value::Table(above),
                    ..
                },
            ) => overlay(below, above),
            (_, item) => {
                lower.insert(key, item);
            }
        }
    }
}

/// A table that has `item` at `path`, which is not empty.
pub(super) fn nested(path: &[&str], item: Item) -> Table {
    let Some((first, rest)) = path.split_first() else {
        return Table::new();
    };
    let origin = item.origin.clone();
    let item = match rest {
        [] => item,
        _ => Item {
            value: Value::Table(nested(rest, item)),
            origin,
        },
    };
    Table::from([((*first).to_owned(), item)])
}
