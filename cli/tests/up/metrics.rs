//! `docs/reference/metrics.md` is made from where the parts register their metrics, and, for what
//! every process has, from a running one. This holds the page to both. To make it anew:
//! `DARNER_WRITE_REFERENCE=1 cargo test -p darner --test up metrics`.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};

use super::{Up, address, get, within_patience};

const PAGE: &str = "docs/reference/metrics.md";
const HEAD: &str = "# Metrics

Made from the code; do not edit.

Every role answers `GET /metrics` on its `[admin] listen` in the Prometheus text format: by default
127.0.0.1 and port 7430 (mirror, seed, `darner up`), 7431 (scheduler) or 7432 (manager). A metric with
labels appears once there is something to count. `darner up` has those of every role.

The share of bytes that did not come from upstream is
`1 - sum(rate(darner_upstream_bytes_total[5m])) / sum(rate(darner_served_bytes_total[5m]))`.
";
/// A crate, and how the page calls the processes it is in.
const PARTS: [(&str, &str); 4] = [
    ("mirror", "Mirrors and seeds"),
    ("scheduler", "Schedulers"),
    ("manager", "Managers"),
    ("service", "Every process"),
];
/// The library's types.
const KINDS: [&str; 3] = ["Counter", "Gauge", "Histogram"];
const PREFIX: &str = "darner_";

#[derive(Debug, PartialEq, Eq)]
struct Metric {
    kind: String,
    labels: String,
    help: String,
}

type Metrics = BTreeMap<String, Metric>;

fn workspace() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// What a crate's code registers.
fn registered(part: &str) -> Metrics {
    let mut metrics = Metrics::new();
    let mut directories = vec![workspace().join(part).join("src")];
    while let Some(directory) = directories.pop() {
        for entry in fs::read_dir(directory).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                directories.push(path);
            } else {
                let text = fs::read_to_string(&path).unwrap();
                // Tests register what is nobody's.
                let code = text.split("#[cfg(test)]\nmod tests {").next().unwrap();
                if code.contains("registry.register(") && !path.ends_with("tests.rs") {
                    metrics.extend(registrations(code));
                }
            }
        }
    }
    metrics
}

/// Of `("name", "help", new.field.clone())`, wherever it stands, whoever is called with it.
fn registrations(code: &str) -> Vec<(String, Metric)> {
    let calls = code.split('(').skip(1);
    calls
        .filter_map(|call| {
            let (name, rest) = literal(call)?;
            let (help, rest) = literal(rest.strip_prefix(',')?)?;
            let field = rest.strip_prefix(',')?.split([',', ')', '(']).next()?;
            let field = field.trim().trim_end_matches(".clone");
            let field = field.rsplit(['.', '&']).next()?;
            let declared = declared(code, field);
            let kind = KINDS.into_iter().find(|kind| declared.contains(kind))?;
            let total = if kind == "Counter" { "_total" } else { "" };
            let metric = Metric {
                kind: kind.to_lowercase(),
                labels: labels(code, &declared),
                help: format!("{help}."),
            };
            Some((format!("{PREFIX}{name}{total}"), metric))
        })
        .collect()
}

/// The string that `text` starts with, and what comes after it.
fn literal(text: &str) -> Option<(&str, &str)> {
    text.trim_start().strip_prefix('"')?.split_once('"')
}

/// The type that a field or variable is declared with.
fn declared(code: &str, field: &str) -> String {
    let name = format!("{field}: ");
    let declarations = code.lines().filter_map(|line| {
        let (before, rest) = line.split_once(&name)?;
        let whole = !before.ends_with(|last: char| last.is_alphanumeric() || last == '_');
        // What stands behind the name of a field in an expression is no type.
        let declared = rest.split(" = ").next()?;
        (whole && !declared.contains("::")).then_some(declared)
    });
    let mut types =
        declarations.filter(|declared| KINDS.iter().any(|kind| declared.contains(kind)));
    types.next().unwrap_or_default().to_owned()
}

/// The fields of the labels' struct.
fn labels(code: &str, declared: &str) -> String {
    let Some((_, rest)) = declared.split_once("Family<") else {
        return String::new();
    };
    let name = rest.split(',').next().unwrap();
    let (_, body) = code.split_once(&format!("struct {name} {{")).unwrap();
    let fields = body.split('}').next().unwrap().lines();
    let names: Vec<_> = fields
        .filter_map(|line| line.trim().split_once(": "))
        .map(|(field, _)| format!("`{field}`"))
        .collect();
    names.join(", ")
}

/// What a process says of the metrics it has.
fn told(text: &str) -> Metrics {
    let mut metrics = Metrics::new();
    for line in text.lines() {
        let Some((what, rest)) = line
            .strip_prefix("# ")
            .and_then(|line| line.split_once(' '))
        else {
            continue;
        };
        let (name, said) = rest.split_once(' ').unwrap();
        let metric = metrics.entry(name.to_owned()).or_insert_with(|| Metric {
            kind: String::new(),
            labels: String::new(),
            help: String::new(),
        });
        match what {
            "HELP" => said.clone_into(&mut metric.help),
            "TYPE" => said.clone_into(&mut metric.kind),
            other => panic!("{other} in {line}"),
        }
    }
    metrics
}

fn page(told: &Metrics) -> String {
    let mut page = HEAD.to_owned();
    for (part, title) in PARTS {
        let metrics = registered(part);
        assert!(!metrics.is_empty(), "{part} registers nothing");
        let _ = write!(page, "\n## {title}\n\n");
        page.push_str("| metric | type | labels | meaning |\n|---|---|---|---|\n");
        for (name, metric) in &metrics {
            row(&mut page, name, metric);
        }
        if part == "service" {
            let system = told.iter().filter(|(name, _)| !name.starts_with(PREFIX));
            for (name, metric) in system {
                row(&mut page, name, metric);
            }
        }
    }
    page
}

fn row(page: &mut String, name: &str, metric: &Metric) {
    let Metric { kind, labels, help } = metric;
    let _ = writeln!(page, "| `{name}` | {kind} | {labels} | {help} |");
}

/// The text of `/metrics` of a fresh `darner up`, which has all roles.
fn running() -> String {
    let data_dir = tempfile::tempdir().unwrap();
    let mut up = Up::somewhere(data_dir.path(), &[]);
    let log = up.log_until("ready");
    get(address(&log, "admin"), "/metrics")
}

#[test]
fn the_page_is_what_the_code_registers_and_a_process_tells() {
    within_patience(|| {
        let told = told(&running());
        let page = page(&told);
        let path = workspace().join(PAGE);
        if std::env::var_os("DARNER_WRITE_REFERENCE").is_some() {
            fs::write(&path, &page).unwrap();
        }
        let committed = fs::read_to_string(&path).unwrap_or_default();
        assert!(
            committed == page,
            "{PAGE} is out of date: see the top of this test's file"
        );
        assert!(told.len() > 20, "{told:?}");
        for (name, metric) in &told {
            let named = format!("| `{name}` | {} | ", metric.kind);
            let row = page.lines().find(|line| line.starts_with(&named));
            let row =
                row.unwrap_or_else(|| panic!("{name}, a {}, is not on the page", metric.kind));
            assert!(row.ends_with(&format!(" | {} |", metric.help)), "{row}");
        }
    });
}
