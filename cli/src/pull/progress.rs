//! What the user sees of a pull: a bar for each blob on a terminal, else a line.

use std::collections::HashMap;
use std::fmt;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use darner_proto::digest::Digest;
use indicatif::{BinaryBytes, MultiProgress, ProgressBar, ProgressStyle};

use super::manifests::Blob;
use super::{Image, PullError, Pulled};
use crate::run::say;

/// A blob that takes long has a line this often.
const LINE_EVERY: Duration = Duration::from_secs(5);
/// Digits of a digest that are shown, as Docker does.
const SHORT: usize = 12;

/// Something that happened in a pull.
#[derive(Debug)]
pub(crate) enum Event<'a> {
    /// What the image is, for the platform asked for.
    Resolved {
        image: &'a Image,
        digest: &'a Digest,
    },
    /// A layer that no registry may give away is left out.
    Foreign { blob: &'a Blob },
    /// What it consists of.
    Planned { blobs: &'a [Blob] },
    /// The layout has the blob.
    Kept { blob: &'a Blob },
    /// The blob is coming, from where the mirror says it has its first byte.
    Opened {
        blob: &'a Blob,
        at: u64,
        source: Option<&'a str>,
    },
    /// New bytes of the blob are there.
    Received { blob: &'a Blob, bytes: u64 },
    /// The blob was cut off and is asked for again.
    Cut {
        blob: &'a Blob,
        at: u64,
        error: &'a PullError,
    },
    /// The blob is in the layout, its digest right.
    Finished { blob: &'a Blob },
    /// Everything is.
    Done { pulled: &'a Pulled },
}

/// Who is told what happens in a pull.
pub(crate) trait Watch {
    /// Takes note.
    fn see(&self, event: Event<'_>);
}

/// For nobody.
#[derive(Debug)]
pub(crate) struct Nobody;

impl Watch for Nobody {
    fn see(&self, _: Event<'_>) {}
}

/// For a terminal.
#[derive(Debug)]
pub(super) struct Bars {
    all: MultiProgress,
    bars: Mutex<HashMap<Digest, ProgressBar>>,
    began: Instant,
}

/// For a file or a pipe.
#[derive(Debug)]
pub(super) struct Lines {
    transfers: Mutex<HashMap<Digest, Transfer>>,
    began: Instant,
}

/// A blob on its way.
#[derive(Debug)]
struct Transfer {
    began: Instant,
    /// Of what is told.
    last: Instant,
    at: u64,
    came: u64,
    source: Option<String>,
}

impl Bars {
    pub(super) fn new() -> Self {
        Self {
            all: MultiProgress::new(),
            bars: Mutex::default(),
            began: Instant::now(),
        }
    }

    fn say(&self, line: fmt::Arguments<'_>) {
        // The terminal may be gone.
        let _ = self.all.println(line.to_string());
    }

    fn plan(&self, blobs: &[Blob]) {
        let mut bars = lock(&self.bars);
        for blob in blobs {
            let bar = ProgressBar::new(blob.size).with_style(style());
            bar.set_prefix(short(&blob.digest));
            bar.set_message("waiting");
            let bar = self.all.add(bar);
            bar.tick();
            bars.insert(blob.digest, bar);
        }
    }

    fn with(&self, blob: &Blob, change: impl FnOnce(&ProgressBar)) {
        if let Some(bar) = lock(&self.bars).get(&blob.digest) {
            change(bar);
        }
    }
}

impl Watch for Bars {
    fn see(&self, event: Event<'_>) {
        match event {
            Event::Resolved { image, digest } => self.say(format_args!("{image} is {digest}")),
            Event::Foreign { blob } => self.say(format_args!("{}", left_out(blob))),
            Event::Planned { blobs } => self.plan(blobs),
            Event::Kept { blob } => self.with(blob, |bar| {
                bar.set_position(blob.size);
                bar.finish_with_message("already there");
            }),
            Event::Opened { blob, at, source } => self.with(blob, |bar| {
                bar.reset_elapsed();
                bar.reset_eta();
                bar.set_position(at);
                bar.set_message(
                    source
                        .map(|source| format!("from {source}"))
                        .unwrap_or_default(),
                );
            }),
            Event::Received { blob, bytes } => self.with(blob, |bar| bar.inc(bytes)),
            Event::Cut { blob, at, .. } => self.with(blob, |bar| {
                bar.set_message(format!("cut at {}, asking again", BinaryBytes(at)));
            }),
            Event::Finished { blob } => self.with(blob, ProgressBar::finish),
            Event::Done { pulled } => self.say(format_args!("{}", done(pulled, self.began))),
        }
    }
}

impl Lines {
    pub(super) fn new() -> Self {
        Self {
            transfers: Mutex::default(),
            began: Instant::now(),
        }
    }

    fn opened(&self, blob: &Blob, at: u64, source: Option<&str>) {
        let now = Instant::now();
        let mut transfers = lock(&self.transfers);
        // The first attempt's time and source are the blob's.
        transfers.entry(blob.digest).or_insert(Transfer {
            began: now,
            last: now,
            at,
            came: 0,
            source: source.map(str::to_owned),
        });
        if at > 0 {
            say(format_args!(
                "{}  goes on at {}",
                short(&blob.digest),
                BinaryBytes(at)
            ));
        }
    }

    fn received(&self, blob: &Blob, bytes: u64) {
        let mut transfers = lock(&self.transfers);
        let Some(transfer) = transfers.get_mut(&blob.digest) else {
            return;
        };
        transfer.came += bytes;
        if transfer.last.elapsed() >= LINE_EVERY {
            transfer.last = Instant::now();
            say(format_args!("{}", transfer.line(blob)));
        }
    }

    fn finished(&self, blob: &Blob) {
        match lock(&self.transfers).remove(&blob.digest) {
            Some(transfer) => say(format_args!("{}, done", transfer.line(blob))),
            // Nothing was missing of it but its name.
            None => say(format_args!("{}  done", short(&blob.digest))),
        }
    }
}

impl Transfer {
    fn line(&self, blob: &Blob) -> String {
        let name = short(&blob.digest);
        let (there, size) = (BinaryBytes(self.at + self.came), BinaryBytes(blob.size));
        let seconds = self.began.elapsed().as_secs_f64();
        // Sums far below 2^53.
        let rate = BinaryBytes((self.came as f64 / seconds.max(0.001)) as u64);
        let source = self.source.as_deref();
        let from = source
            .map(|source| format!(" from {source}"))
            .unwrap_or_default();
        format!("{name}  {there} of {size}{from}, {rate}/s")
    }
}

impl Watch for Lines {
    fn see(&self, event: Event<'_>) {
        match event {
            Event::Resolved { image, digest } => say(format_args!("{image} is {digest}")),
            Event::Foreign { blob } => say(format_args!("{}", left_out(blob))),
            Event::Planned { .. } => {}
            Event::Kept { blob } => say(format_args!(
                "{}  {} already there",
                short(&blob.digest),
                BinaryBytes(blob.size)
            )),
            Event::Opened { blob, at, source } => self.opened(blob, at, source),
            Event::Received { blob, bytes } => self.received(blob, bytes),
            Event::Cut { blob, at, error } => say(format_args!(
                "{}  cut at {}, asking again ({error})",
                short(&blob.digest),
                BinaryBytes(at)
            )),
            Event::Finished { blob } => self.finished(blob),
            Event::Done { pulled } => say(format_args!("{}", done(pulled, self.began))),
        }
    }
}

fn style() -> ProgressStyle {
    let template = "{prefix:12} [{bar:30}] {binary_bytes:>10} / {binary_total_bytes:<10} {binary_bytes_per_sec:>12}  {msg}";
    let style = ProgressStyle::with_template(template);
    style
        .unwrap_or_else(|_| ProgressStyle::default_bar())
        .progress_chars("=> ")
}

fn short(digest: &Digest) -> String {
    let mut hex = digest.hex();
    hex.truncate(SHORT);
    hex
}

fn left_out(blob: &Blob) -> String {
    let name = short(&blob.digest);
    format!("{name}  left out: a layer that its licence keeps out of registries")
}

fn done(pulled: &Pulled, began: Instant) -> String {
    let seconds = began.elapsed().as_secs_f64();
    let (fetched, bytes) = (BinaryBytes(pulled.fetched), BinaryBytes(pulled.bytes));
    format!("{fetched} of {bytes} fetched in {seconds:.1} s; every digest is right")
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
