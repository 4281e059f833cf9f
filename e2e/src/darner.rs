//! A `darner` process: its settings file, start, readiness, addresses, and every way to end it.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus};

use anyhow::{Context as _, Result, bail, ensure};
use rustix::process::Signal;
use serde_json::Value;

use crate::place;
use crate::process::Process;
use crate::scene::Scene;

/// What signs URLs: of the web server that is tested with, of Amazon's, Google's and Azure's storage.
const SIGNATURES: [&str; 9] = [
    "X-Sig", "X-Amz-*", "X-Goog-*", "sv", "sp", "st", "se", "sr", "sig",
];

/// A settings file in the making.
#[derive(Debug, Clone, Default)]
pub struct Settings {
    table: toml::Table,
}

impl Settings {
    /// Settings of a process that keeps its state in `data_dir`, with listeners at free ports.
    pub fn new(data_dir: &Path) -> Self {
        Self::default()
            .set("data_dir", data_dir.display().to_string())
            .set("admin.listen", "127.0.0.1:0")
    }

    /// Sets `section.key` or a key outside any section.
    pub fn set(mut self, key: &str, value: impl Into<toml::Value>) -> Self {
        let value = value.into();
        match key.split_once('.') {
            None => {
                self.table.insert(key.to_owned(), value);
            }
            Some((section, key)) => {
                let section = self
                    .table
                    .entry(section)
                    .or_insert_with(|| toml::Table::new().into());
                if let Some(section) = section.as_table_mut() {
                    section.insert(key.to_owned(), value);
                }
            }
        }
        self
    }

    /// Adds an `[[upstream]]`.
    pub fn upstream(mut self, name: &str, url: &str) -> Self {
        let mut upstream = toml::Table::new();
        upstream.insert("name".to_owned(), name.into());
        upstream.insert("url".to_owned(), url.into());
        let list = self
            .table
            .entry("upstream")
            .or_insert_with(|| toml::Value::Array(Vec::new()));
        if let Some(list) = list.as_array_mut() {
            list.push(upstream.into());
        }
        self
    }

    /// Sets a key of the last `[[upstream]]`.
    pub fn of_upstream(mut self, key: &str, value: impl Into<toml::Value>) -> Self {
        let list = self.table.get_mut("upstream");
        let last = list.and_then(|list| list.as_array_mut()?.last_mut()?.as_table_mut());
        if let Some(last) = last {
            last.insert(key.to_owned(), value.into());
        }
        self
    }

    /// Adds a `[[route]]` to the swarm for a host on this machine, whatever it signs URLs by.
    pub fn route(self, host: &str) -> Self {
        let ignored = SIGNATURES.map(toml::Value::from).to_vec();
        let ignored = toml::Value::Array(ignored);
        self.routed(host, &[("private", true.into()), ("ignore_query", ignored)])
    }

    /// Adds a `[[route]]` to the swarm for a host, with further settings of it.
    pub fn routed(mut self, host: &str, settings: &[(&str, toml::Value)]) -> Self {
        let mut route = toml::Table::new();
        route.insert("host".to_owned(), host.into());
        route.insert("to".to_owned(), "swarm".into());
        for (key, value) in settings {
            route.insert((*key).to_owned(), value.clone());
        }
        let list = self
            .table
            .entry("route")
            .or_insert_with(|| toml::Value::Array(Vec::new()));
        if let Some(list) = list.as_array_mut() {
            list.push(route.into());
        }
        self
    }

    /// The file's text.
    pub fn text(&self) -> String {
        self.table.to_string()
    }
}

/// A `darner` process that has said it is ready, or had.
#[derive(Debug)]
pub struct Darner {
    name: String,
    subcommand: String,
    directory: PathBuf,
    starts: u32,
    process: Process,
    addresses: BTreeMap<String, SocketAddr>,
}

impl Darner {
    /// Starts `darner <subcommand> --config FILE` and waits until it is ready.
    pub async fn start(
        scene: &Scene,
        name: &str,
        subcommand: &str,
        settings: &Settings,
    ) -> Result<Self> {
        Self::start_in(scene, name, subcommand, settings, &[]).await
    }

    /// As [`Darner::start`], with these variables in its environment, at this start only.
    pub async fn start_in(
        scene: &Scene,
        name: &str,
        subcommand: &str,
        settings: &Settings,
        environment: &[(&str, &str)],
    ) -> Result<Self> {
        let mut command = command()?;
        command.envs(environment.iter().copied());
        Self::start_by(scene, name, subcommand, settings, command).await
    }

    /// As [`Darner::start`], by a command that goes on with the subcommand, at this start only.
    pub async fn start_by(
        scene: &Scene,
        name: &str,
        subcommand: &str,
        settings: &Settings,
        command: Command,
    ) -> Result<Self> {
        let directory = scene.path("");
        std::fs::write(directory.join(format!("{name}.toml")), settings.text())?;
        let process = spawn(command, &directory, name, subcommand, 1)?;
        let mut new = Self {
            name: name.to_owned(),
            subcommand: subcommand.to_owned(),
            directory,
            starts: 1,
            process,
            addresses: BTreeMap::new(),
        };
        new.wait_ready().await?;
        Ok(new)
    }

    /// Starts it again after it has ended, with the same settings.
    pub async fn restart(&mut self) -> Result<()> {
        ensure!(!self.process.is_running(), "{} still runs", self.name);
        self.starts += 1;
        self.process = spawn(
            command()?,
            &self.directory,
            &self.name,
            &self.subcommand,
            self.starts,
        )?;
        self.wait_ready().await
    }

    async fn wait_ready(&mut self) -> Result<()> {
        self.process
            .wait_output("message \"ready\"", |output| {
                messages(output)
                    .any(|message| field(&message, "message") == Some("ready"))
                    .then_some(())
            })
            .await?;
        self.addresses = messages(&self.process.output())
            .filter(|message| field(message, "message") == Some("listening"))
            .filter_map(|message| {
                let what = field(&message, "what")?.to_owned();
                Some((what, field(&message, "address")?.parse().ok()?))
            })
            .collect();
        Ok(())
    }

    /// Its name in the scene, which is its node id in a cluster.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The bound address of `registry`, `pieces`, `scheduler`, `manager`, `api` or `admin`.
    pub fn address(&self, what: &str) -> Result<SocketAddr> {
        let found = self.addresses.get(what).copied();
        found.with_context(|| format!("{} said nothing of listening for {what}", self.name))
    }

    /// A join token of the cluster of this manager: for any number of processes of `role`, in a
    /// file of its own.
    pub fn join_token(&self, role: &str) -> Result<PathBuf> {
        let token = self.manage(&["token", "create", "--role", role, "--uses", "10000"])?;
        let path = self.directory.join(format!("{role}.token"));
        std::fs::write(&path, token)?;
        Ok(path)
    }

    /// What an operator does with `darner manager`, beside this manager while it runs; says what
    /// was printed.
    pub fn manage(&self, arguments: &[&str]) -> Result<String> {
        let file = self.directory.join(format!("{}.toml", self.name));
        let mut command = command()?;
        command.arg("manager").args(arguments);
        let output = command.arg("--config").arg(file).output()?;
        ensure!(
            output.status.success(),
            "darner manager {arguments:?}: {}",
            String::from_utf8_lossy(&output.stderr)
        );
        Ok(String::from_utf8(output.stdout)?)
    }

    /// `http://` and the bound address.
    pub fn url(&self, what: &str) -> Result<String> {
        Ok(format!("http://{}", self.address(what)?))
    }

    /// The number of the running process.
    pub fn id(&self) -> u32 {
        self.process.id()
    }

    /// What the running process has written so far.
    pub fn output(&self) -> String {
        self.process.output()
    }

    /// `kill -9`.
    pub fn kill(&mut self) -> Result<()> {
        self.process.kill()
    }

    /// Sends a signal.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        self.process.signal(signal)
    }

    /// Asks it to end with `signal` and waits for that.
    pub async fn end(&mut self, signal: Signal) -> Result<ExitStatus> {
        self.process.signal(signal)?;
        self.process.wait().await
    }

    /// Ends it as an operator does; anything but exit status 0 is an error.
    pub async fn stop(&mut self) -> Result<()> {
        let status = self.end(Signal::TERM).await?;
        ensure!(status.success(), "{} ended with {status}", self.name);
        Ok(())
    }

    /// Whether it runs.
    pub fn is_running(&mut self) -> bool {
        self.process.is_running()
    }

    /// A page of the admin listener: its status and body.
    pub async fn admin(&self, path: &str) -> Result<(u16, String)> {
        let url = format!("{}{path}", self.url("admin")?);
        let answer = reqwest::get(url).await?;
        Ok((answer.status().as_u16(), answer.text().await?))
    }

    /// Its metrics now.
    pub async fn metrics(&self) -> Result<Metrics> {
        let (status, text) = self.admin("/metrics").await?;
        ensure!(status == 200, "/metrics of {} answered {status}", self.name);
        Ok(Metrics { text })
    }
}

fn spawn(
    mut command: Command,
    directory: &Path,
    name: &str,
    subcommand: &str,
    start: u32,
) -> Result<Process> {
    command.arg(subcommand).arg("--config");
    command.arg(directory.join(format!("{name}.toml")));
    let log = directory.join(format!("{name}-{start}.log"));
    Process::start(name, command, &log)
}

/// The binary under test, in an environment that sets nothing of its settings.
pub fn command() -> Result<Command> {
    let mut command = Command::new(place::darner()?);
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("DARNER_") {
            command.env_remove(name);
        }
    }
    Ok(command)
}

/// The JSON lines of an output.
pub fn messages(output: &str) -> impl Iterator<Item = Value> {
    output
        .lines()
        .filter_map(|line| serde_json::from_str(line).ok())
}

/// A field of a log line, whether fields stand by themselves or beside the rest.
pub fn field<'a>(message: &'a Value, name: &str) -> Option<&'a str> {
    message
        .get("fields")
        .and_then(|fields| fields.get(name))
        .or_else(|| message.get(name))?
        .as_str()
}

/// A scrape.
#[derive(Debug, Clone)]
pub struct Metrics {
    /// As scraped.
    pub text: String,
}

impl Metrics {
    /// The sum of all series of `name` whose labels include `labels`, such as `source="peer"`.
    pub fn sum(&self, name: &str, labels: &str) -> f64 {
        self.text
            .lines()
            .filter_map(|line| series(line, name))
            .filter(|(found, _)| found.contains(labels))
            .map(|(_, value)| value)
            .sum()
    }

    /// As [`Metrics::sum`], for a metric that must be there.
    pub fn require(&self, name: &str) -> Result<f64> {
        if !self.text.lines().any(|line| series(line, name).is_some()) {
            bail!("no metric {name} in:\n{}", self.text);
        }
        Ok(self.sum(name, ""))
    }
}

/// The labels and value of a line, if it is one of `name`.
fn series<'a>(line: &'a str, name: &str) -> Option<(&'a str, f64)> {
    let rest = line.strip_prefix(name)?;
    let (labels, value) = match rest.strip_prefix('{') {
        Some(rest) => rest.rsplit_once("} ")?,
        None => ("", rest.strip_prefix(' ')?),
    };
    Some((labels, value.split(' ').next()?.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_come_out_as_written_in_the_manual() {
        let text = Settings::new(Path::new("/d"))
            .set("node.id", "n")
            .upstream("docker.io", "http://127.0.0.1:1")
            .of_upstream("tag_ttl", "1s")
            .text();
        let table: toml::Table = text.parse().unwrap();
        assert_eq!(table["node"]["id"].as_str(), Some("n"));
        assert_eq!(table["upstream"][0]["tag_ttl"].as_str(), Some("1s"));
    }

    #[test]
    fn metrics_are_summed_over_labels() {
        let metrics = Metrics {
            text: "a_total{source=\"peer\"} 2\na_total{source=\"store\"} 3\na_total_x 9\n".into(),
        };
        assert_eq!(metrics.sum("a_total", "source=\"peer\""), 2.0);
        assert_eq!(metrics.require("a_total").unwrap(), 5.0);
        assert!(metrics.require("b").is_err());
    }

    #[test]
    fn fields_are_found_in_both_forms_of_a_log_line() {
        let nested = r#"{"level":"INFO","fields":{"message":"listening","what":"admin"}}"#;
        let flat = r#"{"message":"listening","what":"admin"}"#;
        for line in [nested, flat] {
            let message = messages(line).next().unwrap();
            assert_eq!(field(&message, "what"), Some("admin"));
        }
    }
}
