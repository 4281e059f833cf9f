//! A person at a manager: the commands that ask it, with a login file of the scene's own.

use std::io::Write as _;
use std::process::{Child, Output, Stdio};

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;

use crate::darner::{self, Darner};
use crate::scene::Scene;

/// The first administrator.
pub const NAME: &str = "ann";
/// And what it types when asked for its password.
pub const PASSWORD: &str = "correct horse battery\n";

/// Begins to run `darner` with `input`.
pub fn start(scene: &Scene, arguments: &[&str], input: &str) -> Result<Child> {
    let mut command = darner::command()?;
    command.args(arguments);
    command.arg("--login-file").arg(scene.path("login.json"));
    command.stdin(Stdio::piped());
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn()?;
    let mut stdin = child.stdin.take().context("no standard input")?;
    // It may end without reading.
    let _ = stdin.write_all(input.as_bytes());
    Ok(child)
}

/// Runs `darner` with `input`.
pub fn ask(scene: &Scene, arguments: &[&str], input: &str) -> Result<Output> {
    Ok(start(scene, arguments, input)?.wait_with_output()?)
}

/// What a command that succeeds writes as JSON.
pub fn told(scene: &Scene, arguments: &[&str]) -> Result<Value> {
    let output = ask(scene, &[arguments, &["-o", "json"]].concat(), "")?;
    ensure!(output.status.success(), "{arguments:?}: {output:?}");
    Ok(serde_json::from_slice(&output.stdout)?)
}

/// The link that a manager's first start prints.
pub fn setup_link(manager: &Darner) -> Result<String> {
    let output = manager.output();
    let link = output.lines().find_map(|line| {
        let (_, link) = line.split_once("darner login --setup '")?;
        link.strip_suffix('\'')
    });
    link.map(str::to_owned).context("no link was printed")
}

/// Makes the first administrator, and keeps its token in the login file.
pub fn set_up(scene: &Scene, manager: &Darner) -> Result<()> {
    let link = setup_link(manager)?;
    let made = ask(
        scene,
        &["login", "--user", NAME, "--setup", &link],
        PASSWORD,
    )?;
    ensure!(made.status.success(), "{made:?}");
    Ok(())
}
