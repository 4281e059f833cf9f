//! What the user sees of a file on its way: a bar on a terminal, else a line now and then.

use std::fmt;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use indicatif::{BinaryBytes, ProgressBar, ProgressStyle};

use crate::run::say;

/// A file that takes long has a line this often.
const LINE_EVERY: Duration = Duration::from_secs(5);

/// How far a file is.
#[derive(Debug)]
pub(crate) struct Progress {
    bar: Option<ProgressBar>,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    began: Instant,
    told: Instant,
    at: u64,
    came: u64,
    size: Option<u64>,
    /// Of several files, how many there are and how many are here.
    many: Option<(usize, usize)>,
}

impl Progress {
    pub(crate) fn new(terminal: bool) -> Self {
        Self::of(terminal, style(FILE), None)
    }

    /// Of several files at once.
    pub(crate) fn of_many(terminal: bool, files: usize) -> Self {
        Self::of(terminal, style(FILES), Some((files, 0)))
    }

    fn of(terminal: bool, style: ProgressStyle, many: Option<(usize, usize)>) -> Self {
        let now = Instant::now();
        Self {
            bar: terminal.then(|| ProgressBar::no_length().with_style(style)),
            state: Mutex::new(State {
                began: now,
                told: now,
                at: 0,
                came: 0,
                size: None,
                many,
            }),
        }
    }

    /// One of several files is here.
    pub(crate) fn one_done(&self) {
        let text = self.change(|state| {
            let (files, done) = state.many.get_or_insert_default();
            *done += 1;
            format!("{done} of {files} files")
        });
        if let Some(bar) = &self.bar {
            bar.set_message(text);
        }
    }

    /// The file is coming, from where the mirror says it has its first byte.
    pub(crate) fn opened(&self, at: u64, size: Option<u64>, source: Option<&str>) {
        let alone = self.change(|state| {
            if state.many.is_none() {
                (state.at, state.size) = (at, size);
            }
            state.many.is_none()
        });
        if !alone {
            return;
        }
        let from = source
            .map(|source| format!("from {source}"))
            .unwrap_or_default();
        match &self.bar {
            Some(bar) => {
                bar.set_length(size.unwrap_or(0));
                bar.set_position(at);
                bar.reset_eta();
                bar.set_message(from);
            }
            None if at > 0 => say(format_args!("goes on at {}", BinaryBytes(at))),
            None => {}
        }
    }

    pub(crate) fn received(&self, bytes: u64) {
        if let Some(bar) = &self.bar {
            bar.inc(bytes);
        }
        let line = self.change(|state| {
            state.at += bytes;
            state.came += bytes;
            if state.told.elapsed() < LINE_EVERY {
                return None;
            }
            state.told = Instant::now();
            Some(state.line())
        });
        if let (Some(line), None) = (line, &self.bar) {
            say(format_args!("{line}"));
        }
    }

    pub(crate) fn cut(&self, at: u64, error: &impl fmt::Display) {
        let text = format!("cut at {}, asking again ({error})", BinaryBytes(at));
        match &self.bar {
            Some(bar) => bar.set_message(text),
            None => say(format_args!("{text}")),
        }
    }

    pub(crate) fn done(&self) {
        let line = self.change(|state| state.line());
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
        say(format_args!("{line}, done"));
    }

    fn change<T>(&self, change: impl FnOnce(&mut State) -> T) -> T {
        change(&mut self.state.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl State {
    fn line(&self) -> String {
        let seconds = self.began.elapsed().as_secs_f64().max(0.001);
        // Sums far below 2^53.
        let rate = BinaryBytes((self.came as f64 / seconds) as u64);
        let there = BinaryBytes(self.at);
        if let Some((files, done)) = self.many {
            return format!("{done} of {files} files, {there}, {rate}/s");
        }
        match self.size {
            Some(size) => format!("{there} of {}, {rate}/s", BinaryBytes(size)),
            None => format!("{there}, {rate}/s"),
        }
    }
}

const FILE: &str =
    "[{bar:30}] {binary_bytes:>10} / {binary_total_bytes:<10} {binary_bytes_per_sec:>12}  {msg}";
const FILES: &str = "{spinner} {binary_bytes:>10} {binary_bytes_per_sec:>12}  {msg}";

fn style(template: &str) -> ProgressStyle {
    let style = ProgressStyle::with_template(template);
    style
        .unwrap_or_else(|_| ProgressStyle::default_bar())
        .progress_chars("=> ")
}
