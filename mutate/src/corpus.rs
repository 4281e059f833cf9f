//! Inputs that are kept, by the name of the test they are for, and the runs that find them.

use std::path::{Path, PathBuf};

/// What the thread is called where tests run one at a time, whichever test it is.
const UNNAMED: &str = "main";

/// The running test: its thread has its name.
fn test() -> String {
    std::thread::current().name().unwrap_or(UNNAMED).to_owned()
}

/// Where the inputs for the running test are.
fn directory() -> PathBuf {
    let fuzz = Path::new(env!("CARGO_MANIFEST_DIR")).join("../fuzz");
    fuzz.join("corpus").join(test().replace("::", "."))
}

/// Those of the running test, always in the same order.
pub(crate) fn kept() -> Vec<Vec<u8>> {
    let Ok(entries) = std::fs::read_dir(directory()) else {
        return Vec::new();
    };
    let mut paths: Vec<_> = entries.flatten().map(|entry| entry.path()).collect();
    paths.sort();
    let read = |path: &PathBuf| std::fs::read(path).ok();
    paths.iter().filter_map(read).collect()
}

/// Runs the test as libFuzzer's arguments in `DARNER_FUZZ` say, one to a line, and ends the process.
/// New inputs go to the directory named there; what the test calls good is put in it first.
#[cfg(fuzzing)]
#[allow(
    clippy::disallowed_methods,
    reason = "how a test is fuzzed is no setting of a process"
)]
pub(crate) fn guided<P: FnMut(&[u8])>(good: &[&[u8]], mut parse: P) -> P {
    let Ok(asked) = std::env::var("DARNER_FUZZ") else {
        return parse;
    };
    let mut arguments = vec!["fuzz".to_owned()];
    arguments.extend(asked.lines().map(str::to_owned));
    let found = arguments
        .iter()
        .skip(1)
        .find(|argument| !argument.starts_with('-'));
    if let Some(found) = found {
        for (number, input) in good.iter().enumerate() {
            // What is missing is only found later.
            let _ = std::fs::write(Path::new(found).join(format!("good-{number}")), input);
        }
    }
    darner_fuzz::run(&arguments, &mut parse)
}
