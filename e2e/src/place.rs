//! Where things are on this machine: the build directory, the binary under test, tools.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, ensure};

/// The workspace's root.
pub fn workspace() -> PathBuf {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    here.parent().unwrap_or(here).to_owned()
}

/// Cargo's target directory: the tests' executables lie in `<target>/<profile>/deps`.
pub fn target() -> Result<PathBuf> {
    let me = std::env::current_exe().context("the test's own executable")?;
    let profile = profile_directory(&me)?;
    Ok(profile.parent().context("no target directory")?.to_owned())
}

/// The `darner` under test: `DARNER_BIN`, else what was built with the same profile.
pub fn darner() -> Result<PathBuf> {
    let path = match setting("DARNER_BIN") {
        Some(path) => PathBuf::from(path),
        None => {
            let me = std::env::current_exe().context("the test's own executable")?;
            profile_directory(&me)?.join("darner")
        }
    };
    ensure!(
        path.is_file(),
        "{} is not there; build it with `cargo build -p darner`",
        path.display()
    );
    Ok(path)
}

/// A tool that e2e/install provides: from `target/tools/bin`, else from the search path.
pub fn tool(name: &str) -> Option<PathBuf> {
    let built = target().ok()?.join("tools/bin").join(name);
    if built.is_file() {
        return Some(built);
    }
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path)
        .map(|directory| directory.join(name))
        .find(|candidate| candidate.is_file())
}

/// A tool without which the test cannot run.
pub fn required_tool(name: &str) -> Result<PathBuf> {
    tool(name).with_context(|| format!("{name} is not installed; run e2e/install as root"))
}

/// Whether a check that needs a tool built with Go may be skipped when the tool is missing.
pub fn may_skip_go_tools() -> bool {
    setting("CI").is_none() && setting("DARNER_REQUIRE_GO").is_none()
}

/// A variable that steers the tests themselves; the product's configuration is not read here.
pub fn setting(name: &str) -> Option<String> {
    let value = std::env::var_os(name)?.into_string().ok()?;
    (!value.is_empty()).then_some(value)
}

/// A port outside the range that the system gives to connections and to port 0, so that nobody
/// takes it while its process is away.
pub fn fixed_port() -> Result<String> {
    use std::net::TcpListener;
    use std::sync::atomic::{AtomicU16, Ordering};
    static NEXT: AtomicU16 = AtomicU16::new(0);
    let first = u16::try_from(std::process::id() % 100)? * 100;
    for _ in 0..2000 {
        let port = 12_000 + (first + NEXT.fetch_add(1, Ordering::Relaxed)) % 20_000;
        let address = format!("127.0.0.1:{port}");
        if TcpListener::bind(&address).is_ok() {
            return Ok(address);
        }
    }
    anyhow::bail!("no free port from 12000 to 32000")
}

fn profile_directory(executable: &Path) -> Result<PathBuf> {
    let deps = executable.parent().context("no directory")?;
    let profile = if deps.ends_with("deps") {
        deps.parent().context("no profile directory")?
    } else {
        deps
    };
    Ok(profile.to_owned())
}
