//! The frame of a test: a directory, a time limit, and the logs when it fails.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Once;
use std::time::Duration;

use anyhow::{Context as _, Result, anyhow, ensure};

use crate::image::{Images, images};
use crate::place;

/// No test may take longer.
const LIMIT: Duration = Duration::from_secs(60);
/// Of each log, this many last lines are shown on failure, and as many warnings and errors before them.
const SHOWN_LINES: usize = 30;
/// No more of a line is shown: whoever keeps only a part of a failed run's output should have all
/// that matters in it.
const SHOWN_WIDTH: usize = 400;

/// Where a test keeps what it makes. Kept on failure, removed otherwise.
#[derive(Debug)]
pub struct Scene {
    directory: PathBuf,
    images: Images,
}

/// Runs a test in a scene of its own.
///
/// # Panics
/// When the test fails or takes longer than a minute; what the scene's processes wrote is printed
/// first.
pub fn run<T>(name: &str, test: impl AsyncFnOnce(&Scene) -> Result<T>) -> T {
    run_for(name, LIMIT, test)
}

/// As [`run`], with a time limit of its own: for what measures.
///
/// # Panics
/// As [`run`].
pub fn run_for<T>(name: &str, limit: Duration, test: impl AsyncFnOnce(&Scene) -> Result<T>) -> T {
    static CRYPTO: Once = Once::new();
    CRYPTO.call_once(|| {
        // Fails only when somebody else has installed a provider, which serves as well.
        let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    });
    let outcome = prepare(name).and_then(|directory| {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build()?;
        // Before the clock starts: the first test on a machine makes them.
        let images = runtime.block_on(images())?;
        let scene = Scene { directory, images };
        let ended = runtime.block_on(async {
            let limited = tokio::time::timeout(limit, test(&scene)).await;
            limited.unwrap_or_else(|_| Err(anyhow!("not done after {limit:?}")))
        });
        runtime.shutdown_background();
        match ended {
            Ok(result) => {
                fs::remove_dir_all(&scene.directory).context("the scene cannot be cleared away")?;
                Ok(result)
            }
            Err(error) => {
                eprintln!("--- {name}: {error:?}");
                scene.show_logs();
                Err(error.context(format!("scene kept in {}", scene.directory.display())))
            }
        }
    });
    outcome.unwrap_or_else(|error| panic!("{name}: {error:?}"))
}

fn prepare(name: &str) -> Result<PathBuf> {
    let directory = place::target()?.join("e2e/scenes").join(name);
    if directory.exists() {
        fs::remove_dir_all(&directory)
            .with_context(|| format!("an earlier scene in {}", directory.display()))?;
    }
    fs::create_dir_all(&directory)?;
    Ok(directory)
}

impl Scene {
    /// What the upstream registry holds.
    pub fn images(&self) -> &Images {
        &self.images
    }

    /// A path in the scene.
    pub fn path(&self, name: impl AsRef<Path>) -> PathBuf {
        self.directory.join(name)
    }

    /// No file in this directory of the scene, or below it, holds any of `secrets`.
    pub fn holds_none_of(&self, name: impl AsRef<Path>, secrets: &[&str]) -> Result<()> {
        let mut left = vec![self.path(name)];
        while let Some(directory) = left.pop() {
            for entry in fs::read_dir(directory)? {
                let path = entry?.path();
                if path.is_dir() {
                    left.push(path);
                    continue;
                }
                let bytes = fs::read(&path)?;
                for secret in secrets.iter().map(|secret| secret.as_bytes()) {
                    let there = bytes.windows(secret.len()).any(|place| place == secret);
                    ensure!(!there, "a secret is in {}", path.display());
                }
            }
        }
        Ok(())
    }

    /// A new directory in the scene.
    pub fn make_directory(&self, name: impl AsRef<Path>) -> Result<PathBuf> {
        let path = self.path(name);
        fs::create_dir_all(&path).with_context(|| path.display().to_string())?;
        Ok(path)
    }

    fn log_files(&self) -> Result<Vec<PathBuf>> {
        let mut files = Vec::new();
        for entry in fs::read_dir(&self.directory)? {
            let path = entry?.path();
            if path.extension().is_some_and(|extension| extension == "log") {
                files.push(path);
            }
        }
        files.sort();
        Ok(files)
    }

    fn show_logs(&self) {
        for path in self.log_files().unwrap_or_default() {
            let text = fs::read(&path).unwrap_or_default();
            let text = String::from_utf8_lossy(&text);
            let lines: Vec<_> = text.lines().collect();
            let (before, last) = lines.split_at(lines.len().saturating_sub(SHOWN_LINES));
            let bad = before.iter().filter(|line| is_bad(line));
            let bad: Vec<_> = bad.take(SHOWN_LINES).collect();
            eprintln!("--- {} ({} lines)", path.display(), lines.len());
            for line in bad.into_iter().chain(last) {
                let cut = line.floor_char_boundary(SHOWN_WIDTH);
                eprintln!("{}", &line[..cut]);
            }
        }
    }
}

/// Whether a line of a log warns of something or names an error.
fn is_bad(line: &str) -> bool {
    ["\"WARN\"", "\"ERROR\"", "level=warn", "level=error"]
        .iter()
        .any(|level| line.contains(level))
}
