//! The figures: a table and a picture for people, JSON for programs.

use std::path::Path;

use anyhow::Result;
use serde_json::{Value, json};

use crate::plot::{self, Ratio, Series};

/// A figure with its unit.
#[derive(Debug)]
pub(crate) struct Figure {
    unit: String,
    value: f64,
}

impl Figure {
    pub(crate) fn new(unit: &str, value: f64) -> Self {
        Self {
            unit: unit.to_owned(),
            value,
        }
    }
}

/// What has been measured.
#[derive(Debug, Default)]
pub(crate) struct Report {
    rows: Vec<Row>,
    series: Vec<Series>,
}

#[derive(Debug)]
struct Row {
    name: String,
    figure: Figure,
    beside: Option<(String, f64)>,
}

impl Report {
    /// Darner's figure beside another's.
    pub(crate) fn beside(&mut self, name: &str, other: &str, unit: &str, theirs: f64, ours: f64) {
        self.push(Row {
            name: name.to_owned(),
            figure: Figure::new(unit, ours),
            beside: Some((other.to_owned(), theirs)),
        });
    }

    /// A figure with nothing beside it.
    pub(crate) fn alone(&mut self, name: &str, figure: Figure) {
        self.push(Row {
            name: name.to_owned(),
            figure,
            beside: None,
        });
    }

    /// How a figure grows.
    pub(crate) fn grows(&mut self, series: Series) {
        for (at, value) in &series.points {
            let name = format!("{}, {at} {}", series.name, series.along);
            self.alone(&name, Figure::new(series.unit, *value));
        }
        self.series.push(series);
    }

    fn push(&mut self, row: Row) {
        eprintln!("{}", row.line());
        self.rows.push(row);
    }

    /// Prints the table and writes the JSON.
    pub(crate) fn write(&self, json: &Path) -> Result<()> {
        println!("| what | unit | darner | beside | its figure | ratio |");
        println!("|---|---|---|---|---|---|");
        for row in &self.rows {
            println!("{}", row.line());
        }
        let rows: Vec<_> = self.rows.iter().map(Row::json).collect();
        let kernel = std::fs::read_to_string("/proc/sys/kernel/osrelease")?;
        let load = std::fs::read_to_string("/proc/loadavg")?;
        let processors = std::thread::available_parallelism()?.get();
        let report = json!({
            "kernel": kernel.trim(),
            "processors": processors,
            "load_average": load.split(' ').next(),
            "figures": rows,
        });
        std::fs::write(json, serde_json::to_string_pretty(&report)?)?;
        let ratios: Vec<_> = self.rows.iter().filter_map(Row::ratio).collect();
        let svg = json.with_extension("svg");
        std::fs::write(&svg, plot::picture(&ratios, &self.series))?;
        println!("\n{}\n{}", json.display(), svg.display());
        Ok(())
    }
}

impl Row {
    fn line(&self) -> String {
        let Figure { unit, value } = &self.figure;
        let (other, theirs, ratio) = match &self.beside {
            Some((other, theirs)) => (
                other.as_str(),
                format!("{theirs:.3}"),
                format!("{:.2}", value / theirs),
            ),
            None => ("", String::new(), String::new()),
        };
        format!(
            "| {} | {unit} | {value:.3} | {other} | {theirs} | {ratio} |",
            self.name
        )
    }

    fn ratio(&self) -> Option<Ratio> {
        let (other, theirs) = self.beside.as_ref()?;
        Some(Ratio {
            name: format!("{}: {}, {other}", self.name, self.figure.unit),
            ratio: self.figure.value / theirs,
        })
    }

    fn json(&self) -> Value {
        json!({
            "name": self.name,
            "unit": self.figure.unit,
            "darner": self.figure.value,
            "beside": self.beside.as_ref().map(|(name, _)| name),
            "its_figure": self.beside.as_ref().map(|(_, figure)| figure),
            "ratio": self.beside.as_ref().map(|(_, figure)| self.figure.value / figure),
        })
    }
}

/// The middle one.
pub(crate) fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}
