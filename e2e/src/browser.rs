//! A real browser without a window: Debian's Chromium, told what to do over its debugging pipe.
//!
//! It notes whatever a page asks for and complains of, so that a test can say that no request left the
//! site and no error was logged.

use std::process::Stdio;

use anyhow::{Context as _, Result, bail, ensure};
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};
use tokio::time::timeout;

use crate::place;
use crate::scene::Scene;
use crate::wait::{self, PATIENCE};

const PROGRAM: &str = "chromium-headless-shell";
/// Messages to the browser are read from descriptor 3, and its own come on 4.
const START: &str = "exec \"$0\" \"$@\" 3<&0 4>&1 >/dev/null 2>\"$LOG\"";

/// A browser with one tab. Ends when dropped.
#[derive(Debug)]
pub struct Browser {
    child: Child,
    stdin: ChildStdin,
    stdout: BufReader<ChildStdout>,
    tab: Option<String>,
    calls: u64,
    /// The addresses of everything that was asked for.
    pub requests: Vec<String>,
    /// What pages complained of.
    pub complaints: Vec<String>,
}

impl Browser {
    /// Starts it, with nothing remembered.
    pub async fn start(scene: &Scene) -> Result<Self> {
        let profile = scene.make_directory("browser")?;
        let mut command = Command::new("sh");
        command
            .args(["-c", START])
            .arg(place::required_tool(PROGRAM)?);
        command.args(["--remote-debugging-pipe", "--no-sandbox", "--disable-gpu"]);
        command.args(["--no-first-run", "--disable-background-networking"]);
        command.args(["--disable-dev-shm-usage", "--hide-scrollbars"]);
        command.arg(format!("--user-data-dir={}", profile.display()));
        command.env("LOG", scene.path("browser.log"));
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.kill_on_drop(true).spawn()?;
        let stdin = child.stdin.take().context("no way to the browser")?;
        let stdout = child.stdout.take().context("no way from the browser")?;
        let mut browser = Self {
            child,
            stdin,
            stdout: BufReader::new(stdout),
            tab: None,
            calls: 0,
            requests: Vec::new(),
            complaints: Vec::new(),
        };
        browser.open_tab().await?;
        Ok(browser)
    }

    async fn open_tab(&mut self) -> Result<()> {
        let made = self
            .call("Target.createTarget", json!({ "url": "about:blank" }))
            .await?;
        let attach = json!({ "targetId": made["targetId"], "flatten": true });
        let attached = self.call("Target.attachToTarget", attach).await?;
        let session = attached["sessionId"].as_str().context("no session")?;
        self.tab = Some(session.to_owned());
        for domain in ["Page", "Runtime", "Network", "Log"] {
            self.call(&format!("{domain}.enable"), json!({})).await?;
        }
        Ok(())
    }

    /// Tells the browser to do something, and waits for its answer.
    pub async fn call(&mut self, method: &str, parameters: Value) -> Result<Value> {
        self.calls += 1;
        let id = self.calls;
        let mut message = json!({ "id": id, "method": method, "params": parameters });
        if let Some(tab) = &self.tab {
            message["sessionId"] = json!(tab);
        }
        let mut bytes = message.to_string().into_bytes();
        bytes.push(0);
        self.stdin.write_all(&bytes).await?;
        loop {
            let told = timeout(PATIENCE, self.hear()).await;
            let told = told.with_context(|| format!("no answer to {method}"))??;
            if told["id"] != id {
                continue;
            }
            ensure!(told["error"].is_null(), "{method}: {}", told["error"]);
            return Ok(told["result"].clone());
        }
    }

    async fn hear(&mut self) -> Result<Value> {
        let mut bytes = Vec::new();
        let read = self.stdout.read_until(0, &mut bytes).await?;
        if read == 0 {
            bail!("the browser ended: {:?}", self.child.try_wait()?);
        }
        bytes.pop();
        let told: Value = serde_json::from_slice(&bytes)?;
        self.note(&told);
        Ok(told)
    }

    fn note(&mut self, told: &Value) {
        let of = &told["params"];
        match told["method"].as_str() {
            Some("Network.requestWillBeSent") => {
                let url = of["request"]["url"].as_str().unwrap_or_default();
                self.requests.push(url.to_owned());
            }
            Some("Runtime.exceptionThrown") => self.complaints.push(of.to_string()),
            Some("Runtime.consoleAPICalled")
                if of["type"] == "error" || of["type"] == "warning" =>
            {
                self.complaints.push(of.to_string());
            }
            Some("Log.entryAdded") if of["entry"]["level"] == "error" => {
                self.complaints.push(of["entry"].to_string());
            }
            _ => {}
        }
    }

    /// Goes to an address, as if it was typed.
    pub async fn open(&mut self, url: &str) -> Result<()> {
        // Another fragment of the same page would not load it.
        self.call("Page.navigate", json!({ "url": "about:blank" }))
            .await?;
        let gone = self.call("Page.navigate", json!({ "url": url })).await?;
        ensure!(gone["errorText"].is_null(), "{url}: {}", gone["errorText"]);
        let loaded = "document.readyState === 'complete' && location.href !== 'about:blank'";
        self.until("the page", loaded).await.map(drop)
    }

    /// What a script says.
    pub async fn evaluate(&mut self, script: &str) -> Result<Value> {
        let ask = json!({ "expression": script, "returnByValue": true, "awaitPromise": true });
        let told = self.call("Runtime.evaluate", ask).await?;
        let failed = &told["exceptionDetails"];
        ensure!(failed.is_null(), "{script}: {failed}");
        Ok(told["result"]["value"].clone())
    }

    /// Asks a script until what it says counts as true, whatever page that is on.
    pub async fn until(&mut self, what: &str, script: &str) -> Result<Value> {
        wait::until(what, async || {
            let told = self.evaluate(script).await.ok()?;
            let counts =
                !matches!(told, Value::Null | Value::Bool(false)) && told != 0 && told != "";
            counts.then_some(told)
        })
        .await
    }

    /// Puts a value into what a selector finds, as if it was typed there.
    pub async fn fill(&mut self, selector: &str, value: &str) -> Result<()> {
        let focus = format!(
            "(() => {{ const one = document.querySelector({selector:?}); one.focus(); one.select?.(); return document.activeElement === one; }})()"
        );
        ensure!(
            self.evaluate(&focus).await? == true,
            "{selector} cannot be typed in"
        );
        self.call("Input.insertText", json!({ "text": value }))
            .await?;
        Ok(())
    }

    /// Presses a button, found by the words on it or its name, with the keyboard; waits for the page
    /// that follows.
    pub async fn press(&mut self, words: &str) -> Result<()> {
        let find = format!(
            "(() => {{ const one = [...document.querySelectorAll('button')].find((one) => (one.ariaLabel ?? one.textContent) === {words:?}); one?.focus(); window.pressed = true; return document.activeElement === one; }})()"
        );
        ensure!(
            self.evaluate(&find).await? == true,
            "there is no button {words:?}"
        );
        for kind in ["keyDown", "keyUp"] {
            let key = json!({ "type": kind, "key": "Enter", "code": "Enter", "text": if kind == "keyDown" { "\r" } else { "" }, "windowsVirtualKeyCode": 13 });
            self.call("Input.dispatchKeyEvent", key).await?;
        }
        let follows = "!window.pressed && document.readyState === 'complete'";
        self.until("the page that follows", follows).await.map(drop)
    }
}
