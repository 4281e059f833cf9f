//! `darner up` as a process: ready on free ports, asked to end, started again, in the way of others.

#![allow(clippy::unwrap_used, reason = "a test stops at what it did not expect")]

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, ChildStderr, Command, ExitStatus, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

mod metrics;

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

/// More than anything here takes on a busy machine.
const PATIENCE: Duration = Duration::from_secs(30);

/// A process, killed when a test gives up on it.
struct Up {
    child: Child,
    log: BufReader<ChildStderr>,
}

impl Up {
    fn start(data_dir: &Path, more: &[&str]) -> Self {
        let mut child = Command::new(assert_cmd::cargo::cargo_bin!("darner"))
            .args(["up", "--data-dir"])
            .arg(data_dir)
            .args(more)
            .env_clear()
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let log = BufReader::new(child.stderr.take().unwrap());
        Self { child, log }
    }

    /// On free ports.
    fn somewhere(data_dir: &Path, more: &[&str]) -> Self {
        let mut args = FREE_PORTS.to_vec();
        args.extend(more);
        Self::start(data_dir, &args)
    }

    /// The log up to and with the first line whose message is `message`.
    fn log_until(&mut self, message: &str) -> Vec<Value> {
        let mut lines = Vec::new();
        loop {
            let mut line = String::new();
            let length = self.log.read_line(&mut line).unwrap();
            assert!(length > 0, "the log ends before {message:?}: {lines:#?}");
            // The invitation of the first administrator is for people.
            if line.starts_with("Make the first administrator") {
                continue;
            }
            let line: Value = serde_json::from_str(&line).unwrap();
            let found = line["message"] == message;
            lines.push(line);
            if found {
                return lines;
            }
        }
    }

    fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).unwrap();
    }

    /// How it ended, and what it had written to standard output.
    fn end(mut self) -> (ExitStatus, String) {
        let mut text = String::new();
        let mut rest = Vec::new();
        self.log.read_to_end(&mut rest).unwrap();
        let mut output = self.child.stdout.take().unwrap();
        output.read_to_string(&mut text).unwrap();
        (self.child.wait().unwrap(), text)
    }
}

impl Drop for Up {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

const FREE_PORTS: [&str; 12] = [
    "--set",
    "registry.listen=127.0.0.1:0",
    "--set",
    "pieces.listen=127.0.0.1:0",
    "--set",
    "scheduler.listen=127.0.0.1:0",
    "--set",
    "manager.listen=127.0.0.1:0",
    "--set",
    "manager.api_listen=127.0.0.1:0",
    "--set",
    "admin.listen=127.0.0.1:0",
];

fn address(log: &[Value], what: &str) -> SocketAddr {
    let line = log
        .iter()
        .find(|line| line["message"] == "listening" && line["what"] == what);
    let line = line.unwrap_or_else(|| panic!("{what} is not in {log:#?}"));
    line["address"].as_str().unwrap().parse().unwrap()
}

fn get(address: SocketAddr, path: &str) -> String {
    let mut tcp = TcpStream::connect(address).unwrap();
    tcp.set_read_timeout(Some(PATIENCE)).unwrap();
    let request = format!("GET {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n");
    tcp.write_all(request.as_bytes()).unwrap();
    let mut answer = String::new();
    tcp.read_to_string(&mut answer).unwrap();
    answer
}

/// Runs `test`, which waits for a process, and gives up on it after a while.
fn within_patience(test: impl FnOnce() + Send + 'static) {
    let (done, wait) = mpsc::channel();
    let running = thread::spawn(move || {
        test();
        let _ = done.send(());
    });
    if let Err(mpsc::RecvTimeoutError::Timeout) = wait.recv_timeout(PATIENCE) {
        panic!("no end after {PATIENCE:?}");
    }
    if let Err(panic) = running.join() {
        std::panic::resume_unwind(panic);
    }
}

#[test]
fn it_serves_says_where_and_ends_when_asked() {
    within_patience(|| {
        let data_dir = tempfile::tempdir().unwrap();
        for signal in [Signal::INT, Signal::TERM] {
            let mut up = Up::somewhere(data_dir.path(), &[]);
            let log = up.log_until("ready");
            for what in ["registry", "pieces", "scheduler", "manager", "api", "admin"] {
                let address = address(&log, what);
                assert!(address.ip().is_loopback() && address.port() != 0);
                drop(TcpStream::connect(address).unwrap());
            }
            let admin = address(&log, "admin");
            assert!(get(admin, "/healthz").starts_with("HTTP/1.1 200"));
            assert!(get(admin, "/readyz").starts_with("HTTP/1.1 200"));
            assert!(get(admin, "/metrics").contains("darner_build_info{"));
            let registry = address(&log, "registry");
            up.signal(signal);
            let (status, text) = up.end();
            assert_eq!(status.code(), Some(0));
            for runtime in [
                format!("[host.\"http://{registry}\"]"),
                format!("\"registry-mirrors\": [\"http://{registry}\"]"),
                format!("location = \"{registry}/docker.io\""),
            ] {
                assert!(text.contains(&runtime), "no {runtime} in {text}");
            }
        }
    });
}

#[test]
fn a_taken_port_is_named_with_the_setting_to_change() {
    within_patience(|| {
        let holder = TcpListener::bind("127.0.0.1:0").unwrap();
        let taken = holder.local_addr().unwrap().to_string();
        for (key, setting) in [
            ("manager.listen", "[manager] listen"),
            ("manager.api_listen", "[manager] api_listen"),
            ("scheduler.listen", "[scheduler] listen"),
            ("pieces.listen", "[pieces] listen"),
            ("registry.listen", "[registry] listen"),
            ("admin.listen", "[admin] listen"),
        ] {
            let data_dir = tempfile::tempdir().unwrap();
            let set = format!("{key}={taken}");
            let mut up = Up::somewhere(data_dir.path(), &["--set", &set]);
            let log = up.log_until("the process cannot start");
            let error = log.last().unwrap()["error"].as_str().unwrap().to_owned();
            assert!(error.contains(setting), "{setting} is not in {error}");
            assert_eq!(up.end().0.code(), Some(1));
        }
        drop(holder);
    });
}

#[test]
fn a_data_directory_that_cannot_be_made_is_said_so() {
    within_patience(|| {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("file");
        std::fs::write(&file, "").unwrap();
        let mut up = Up::somewhere(&file.join("data"), &[]);
        let log = up.log_until("the process cannot start");
        let error = log.last().unwrap()["error"].as_str().unwrap().to_owned();
        assert!(error.contains("set data_dir"), "{error}");
        assert_eq!(up.end().0.code(), Some(1));
    });
}
