//! Takes settings out of tables, notes what is wrong, and knows from what was asked for which keys
//! there are.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use super::fault::{ConfigError, Fault, Origin};
use super::value::{Item, Table, Value};

/// Below this likeness (0 to 1) a key is not what somebody meant.
const ALIKE: f64 = 0.8;
/// This many letters wrong in a variable's name are still a slip.
const SLIPS: usize = 2;

/// What one reading of the settings has found so far.
#[derive(Debug, Default)]
pub(super) struct Reading {
    faults: RefCell<BTreeSet<Fault>>,
    /// Settings with a fault, such as `registry.listen`.
    bad: RefCell<BTreeSet<String>>,
    /// Every setting there is, by name.
    known: RefCell<BTreeSet<String>>,
    /// Where what was given was given.
    places: RefCell<BTreeMap<String, Origin>>,
    /// What nobody asked for: section, key, origin.
    unasked: RefCell<Vec<(String, String, Origin)>>,
    /// Lines whose TOML is wrong: what else is wrong with them follows from that.
    broken: RefCell<BTreeSet<Origin>>,
    /// Layers have been read.
    parsed: Cell<bool>,
}

/// A table of settings that are being read.
#[derive(Debug)]
pub(super) struct Section<'a> {
    /// Such as `registry`; empty for what is outside any section.
    name: &'static str,
    /// Where it begins.
    pub(super) origin: Origin,
    table: Table,
    reading: &'a Reading,
}

impl Reading {
    /// Notes a fault. `setting` as in `registry.listen`, or empty.
    pub(super) fn fault(&self, origin: &Origin, setting: &str, message: String) {
        if !self.parsed.get() {
            self.broken.borrow_mut().insert(origin.clone());
        } else if self.broken.borrow().contains(origin) {
            return;
        }
        self.bad.borrow_mut().insert(setting.to_owned());
        self.faults.borrow_mut().insert(Fault {
            origin: origin.clone(),
            setting: title(setting),
            message,
        });
    }

    /// Notes a fault of a setting where it was given, or of the file where it should be.
    pub(super) fn fault_of(&self, setting: &str, file: Option<&Path>, message: String) {
        let given = self.places.borrow().get(setting).cloned();
        let origin = given.unwrap_or_else(|| match file {
            Some(path) => Origin::File {
                path: path.to_owned(),
                line: None,
            },
            None => Origin::Default,
        });
        self.fault(&origin, setting, message);
    }

    pub(super) fn is_clean(&self) -> bool {
        self.faults.borrow().is_empty()
    }

    /// Whether something is wrong with the setting itself.
    pub(super) fn is_bad(&self, setting: &str) -> bool {
        self.bad.borrow().contains(setting)
    }

    /// The settings outside any section. From here on what is wrong is so with single settings.
    pub(super) fn top(&self, table: Table) -> Section<'_> {
        self.parsed.set(true);
        Section {
            name: "",
            origin: Origin::Default,
            table,
            reading: self,
        }
    }

    /// `item` as a table of settings, if it is one.
    pub(super) fn section(&self, name: &'static str, item: Item) -> Option<Section<'_>> {
        let origin = item.origin.clone();
        let wrong = match item.expanded() {
            Ok(Item {
                value: Value::Table(table),
                origin,
            }) => {
                return Some(Section {
                    name,
                    origin,
                    table,
                    reading: self,
                });
            }
            Ok(item) => format!("is {}, not a table of settings", item.kind()),
            Err(wrong) => wrong,
        };
        self.fault(&origin, name, wrong);
        None
    }

    /// `settings`, when nothing was wrong.
    pub(super) fn finish<T>(self, settings: Option<T>) -> Result<T, ConfigError> {
        for (section, key, origin) in self.unasked.take() {
            self.unknown(&section, &key, &origin);
        }
        let faults: Vec<_> = self.faults.into_inner().into_iter().collect();
        match settings {
            Some(settings) if faults.is_empty() => Ok(settings),
            _ => Err(ConfigError { faults }),
        }
    }

    fn unknown(&self, section: &str, key: &str, origin: &Origin) {
        let name = joined(section, key);
        let suggestion = match origin {
            // Other variables may begin with DARNER_ too: Kubernetes names some after services.
            Origin::Environment(_) if section.is_empty() => match self.slip_of(key) {
                Some(meant) => Some(meant),
                None => return,
            },
            _ => self.alike(section, key),
        };
        let message = match suggestion {
            Some(meant) => format!("no such setting; did you mean {}?", spelled(&meant, origin)),
            None => "no such setting".to_owned(),
        };
        self.fault(origin, &name, message);
    }

    /// The setting that a variable with single underscores, or a letter wrong, was meant for.
    fn slip_of(&self, key: &str) -> Option<String> {
        let known = self.known.borrow();
        let slips = |name: &String| {
            let distance = strsim::damerau_levenshtein(&name.replace('.', "_"), key);
            (distance <= SLIPS.min(key.len() / 3)).then(|| (distance, name.clone()))
        };
        let closest = known.iter().filter_map(slips).min();
        closest.map(|(_, name)| name)
    }

    /// The key most like `key` in its section, or the same key in another.
    fn alike(&self, section: &str, key: &str) -> Option<String> {
        let known = self.known.borrow();
        let within = |name: &String| {
            let (of, own) = split(name);
            let likeness = strsim::jaro_winkler(own, key);
            (of == section && likeness >= ALIKE).then(|| (likeness, name.clone()))
        };
        let closest = known
            .iter()
            .filter_map(within)
            .max_by(|left, right| left.0.total_cmp(&right.0));
        let elsewhere = || known.iter().find(|name| split(name).1 == key).cloned();
        closest.map(|(_, name)| name).or_else(elsewhere)
    }
}

impl<'a> Section<'a> {
    /// An empty section that was not given, so that its keys are known all the same.
    pub(super) fn absent(name: &'static str, reading: &'a Reading) -> Self {
        Self {
            name,
            origin: Origin::Default,
            table: Table::new(),
            reading,
        }
    }

    /// Takes `key` as it is.
    pub(super) fn take(&mut self, key: &'static str) -> Option<Item> {
        let name = joined(self.name, key);
        let item = self.table.remove(key);
        if let Some(item) = &item {
            let mut places = self.reading.places.borrow_mut();
            places.insert(name.clone(), item.origin.clone());
        }
        self.reading.known.borrow_mut().insert(name);
        item
    }

    /// Takes `key`, if it is given and right.
    pub(super) fn read<T>(
        &mut self,
        key: &'static str,
        parse: impl FnOnce(&Item) -> Result<T, String>,
    ) -> Option<T> {
        let item = self.take(key)?;
        let origin = item.origin.clone();
        match item.expanded().and_then(|item| parse(&item)) {
            Ok(value) => Some(value),
            Err(message) => {
                let name = joined(self.name, key);
                self.reading.fault(&origin, &name, message);
                None
            }
        }
    }

    /// Takes the table `name`.
    pub(super) fn section(&mut self, name: &'static str) -> Section<'a> {
        let given = self.take(name);
        let section = given.and_then(|item| self.reading.section(name, item));
        section.unwrap_or_else(|| Section::absent(name, self.reading))
    }

    /// Notes what was given and never asked for.
    pub(super) fn close(self) {
        let name = self.name.to_owned();
        let rest = self.table.into_iter();
        let rest = rest.map(|(key, item)| (name.clone(), key, item.origin));
        self.reading.unasked.borrow_mut().extend(rest);
    }
}

fn joined(section: &str, key: &str) -> String {
    match section {
        "" => key.to_owned(),
        _ => format!("{section}.{key}"),
    }
}

fn split(name: &str) -> (&str, &str) {
    name.split_once('.').unwrap_or(("", name))
}

/// `registry.listen` as the file has it: `[registry] listen`.
fn title(name: &str) -> String {
    match split(name) {
        (list @ ("upstream" | "route"), key) => format!("[[{list}]] {key}"),
        ("", list @ ("upstream" | "route")) => format!("[[{list}]]"),
        ("", key) => key.to_owned(),
        (section, key) => format!("[{section}] {key}"),
    }
}

/// `registry.listen` as it would be written at `origin`.
fn spelled(name: &str, origin: &Origin) -> String {
    match origin {
        Origin::Environment(_) => format!("DARNER_{}", name.replace('.', "__").to_uppercase()),
        Origin::Flag(_) => name.to_owned(),
        Origin::File { .. } | Origin::Default => title(name),
    }
}
