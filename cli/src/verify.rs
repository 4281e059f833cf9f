//! `darner verify`: an image read through the mirror, every byte checked, nothing kept; and for each
//! blob where it came from, how fast, and which nodes hold it now.

use std::fmt;
use std::process::ExitCode;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use bytesize::ByteSize;
use clap::ValueEnum;
use darner_proto::digest::Digest;
use futures_util::stream::{self, StreamExt as _};
use reqwest::Url;
use serde::{Deserialize, Serialize};

use crate::pull::progress::{Event, Watch};
use crate::pull::{self, Choice, Image, Platform, Pulled, client};
use crate::run::say;

/// A scheduler answers within a second, and is asked about so many at once.
const PATIENCE: Duration = Duration::from_secs(5);
const BLOBS_AT_ONCE: usize = 8;

/// Flags of `darner verify`
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Exit status: 0 every byte is right, 1 failed, 2 wrong usage, 4 the mirror cannot be \
                  reached, 5 access denied."
)]
pub(crate) struct Args {
    /// Such as debian:12, ghcr.io/owner/name or name@sha256:…
    image: Image,
    /// The mirror to read through
    #[arg(long, value_name = "URL", default_value = "http://127.0.0.1:7420", value_parser = client::parse_mirror)]
    via: Box<Url>,
    /// Which of an index's images, as OS/ARCH[/VARIANT] [default: this machine's]
    #[arg(long, value_name = "PLATFORM", conflicts_with = "all_platforms")]
    platform: Option<Platform>,
    /// The images of every platform
    #[arg(long)]
    all_platforms: bool,
    /// How the result is told
    #[arg(long, short = 'o', value_name = "FORM", default_value = "text")]
    output: Output,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Output {
    Text,
    Json,
}

/// Reads, and tells.
pub(crate) async fn run(args: Args) -> ExitCode {
    // For manifests, which are small.
    let directory = match tempfile::tempdir() {
        Ok(directory) => directory,
        Err(error) => {
            say(format_args!("error: no temporary directory: {error}"));
            return ExitCode::FAILURE;
        }
    };
    let request = pull::Request {
        image: &args.image,
        via: &args.via,
        ca: None,
        output: directory.path(),
        choice: match args.platform.clone() {
            Some(platform) => Choice::Only(platform),
            None if args.all_platforms => Choice::All,
            None => Choice::Host,
        },
    };
    let seen = Seen::default();
    let began = Instant::now();
    match pull::check(&request, &seen).await {
        Ok(pulled) => {
            let mut told = seen.told(&args.image, &pulled, began.elapsed());
            told.ask_for_holders(&args.via).await;
            match args.output {
                Output::Text => print!("{told}"),
                Output::Json => println!("{}", told.json()),
            }
            ExitCode::SUCCESS
        }
        Err(error) => {
            say(format_args!("error: {}", error.in_full()));
            ExitCode::from(error.exit_status())
        }
    }
}

/// What happens, by blob.
#[derive(Debug, Default)]
struct Seen {
    blobs: Mutex<Vec<Transfer>>,
}

#[derive(Debug)]
struct Transfer {
    digest: Digest,
    size: u64,
    /// Where the mirror said it had the first byte of each answer.
    sources: Vec<String>,
    began: Instant,
    took: Duration,
    cuts: u32,
}

impl Watch for Seen {
    fn see(&self, event: Event<'_>) {
        let mut blobs = self.blobs.lock().unwrap_or_else(PoisonError::into_inner);
        let mut with = |digest: &Digest, change: &dyn Fn(&mut Transfer)| {
            let known = blobs.iter_mut().find(|known| known.digest == *digest);
            known.map(change);
        };
        match event {
            Event::Planned { blobs: planned } => {
                let planned = planned.iter().map(|blob| Transfer {
                    digest: blob.digest,
                    size: blob.size,
                    sources: Vec::new(),
                    began: Instant::now(),
                    took: Duration::ZERO,
                    cuts: 0,
                });
                *blobs = planned.collect();
            }
            Event::Opened { blob, at, source } => with(&blob.digest, &|transfer| {
                if at == 0 {
                    transfer.began = Instant::now();
                }
                let source = source.unwrap_or("not told").to_owned();
                if !transfer.sources.contains(&source) {
                    transfer.sources.push(source);
                }
            }),
            Event::Cut { blob, .. } => with(&blob.digest, &|transfer| transfer.cuts += 1),
            Event::Finished { blob } => with(&blob.digest, &|transfer| {
                transfer.took = transfer.began.elapsed();
            }),
            _ => {}
        }
    }
}

/// The result, for programs as it is.
#[derive(Debug, Serialize)]
struct Told {
    image: String,
    digest: String,
    bytes: u64,
    seconds: f64,
    /// The configuration first, then the layers.
    blobs: Vec<ToldBlob>,
}

#[derive(Debug, Serialize)]
struct ToldBlob {
    digest: String,
    bytes: u64,
    /// `store`, `peer` or `upstream`; several when it was cut and went on from elsewhere.
    sources: Vec<String>,
    /// From the answer's head to its last byte.
    seconds: f64,
    cuts: u32,
    /// What the mirror says of who holds it now; `None` when it does not.
    #[serde(flatten)]
    held: Option<Holders>,
}

/// Who holds a blob, as `mirror/src/registry/holders.rs` says it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Holders {
    /// This node's own mirror.
    #[serde(rename(serialize = "held_here"))]
    here: bool,
    /// Others that the scheduler names.
    nodes: Vec<String>,
}

impl Seen {
    fn told(self, image: &Image, pulled: &Pulled, took: Duration) -> Told {
        let blobs = self.blobs.into_inner();
        let blobs = blobs.unwrap_or_else(PoisonError::into_inner);
        let blobs = blobs.into_iter().map(|transfer| ToldBlob {
            digest: transfer.digest.to_string(),
            bytes: transfer.size,
            sources: transfer.sources,
            seconds: transfer.took.as_secs_f64(),
            cuts: transfer.cuts,
            held: None,
        });
        Told {
            image: image.to_string(),
            digest: pulled.digest.to_string(),
            bytes: pulled.bytes,
            seconds: took.as_secs_f64(),
            blobs: blobs.collect(),
        }
    }
}

impl Told {
    /// Only a mirror of this machine says it.
    async fn ask_for_holders(&mut self, via: &Url) {
        let http = reqwest::Client::builder().no_proxy().timeout(PATIENCE);
        let Ok(http) = http.build() else { return };
        let asked = self.blobs.iter().map(async |blob| {
            let mut url = via.clone();
            url.set_path(&format!("/holders/{}", blob.digest));
            let answer = http.get(url).send().await.ok()?;
            let answer = answer.error_for_status().ok()?;
            serde_json::from_slice(&answer.bytes().await.ok()?).ok()
        });
        let held: Vec<Option<Holders>> =
            stream::iter(asked).buffered(BLOBS_AT_ONCE).collect().await;
        for (blob, held) in self.blobs.iter_mut().zip(held) {
            blob.held = held;
        }
    }

    fn json(&self) -> String {
        serde_json::to_string_pretty(self).unwrap_or_default()
    }

    /// Bytes by the source of the first of them.
    fn by_source(&self) -> Vec<(&str, u64)> {
        let mut sums: Vec<(&str, u64)> = Vec::new();
        for blob in &self.blobs {
            let source = blob.sources.first().map_or("not told", String::as_str);
            match sums.iter_mut().find(|(name, _)| *name == source) {
                Some((_, bytes)) => *bytes += blob.bytes,
                None => sums.push((source, blob.bytes)),
            }
        }
        sums
    }
}

/// Digits of a digest that are shown, its algorithm among them.
const SHORT: usize = 19;

impl fmt::Display for Told {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{} is {}", self.image, self.digest)?;
        for blob in &self.blobs {
            let digest: String = blob.digest.chars().take(SHORT).collect();
            let sources = blob.sources.join(", then ");
            write!(
                f,
                "{digest}  {}  from {sources}",
                Amount(blob.bytes, blob.seconds)
            )?;
            match blob.cuts {
                0 => writeln!(f)?,
                cuts => writeln!(f, ", cut {cuts} times")?,
            }
            if let Some(held) = &blob.held {
                writeln!(f, "{:SHORT$}  {held}", "")?;
            }
        }
        let sums = self.by_source().into_iter();
        let sums = sums.map(|(source, bytes)| format!("{source} {}", ByteSize(bytes)));
        let sums: Vec<_> = sums.collect();
        let whole = Amount(self.bytes, self.seconds);
        writeln!(f, "{:SHORT$}  {whole}  from {}", "in all", sums.join(", "))?;
        writeln!(f, "every byte is what its digest says")
    }
}

impl fmt::Display for Holders {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let own = self.here.then(|| "this node".to_owned());
        let all: Vec<_> = own.into_iter().chain(self.nodes.iter().cloned()).collect();
        match all.len() {
            0 => f.write_str("held by nobody"),
            count => write!(f, "held by {count}: {}", all.join(", ")),
        }
    }
}

/// Bytes, the seconds they took, and their rate.
struct Amount(u64, f64);

impl fmt::Display for Amount {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self(bytes, seconds) = self;
        // No larger than what was read.
        let rate = ByteSize((*bytes as f64 / seconds.max(1e-6)) as u64);
        let (bytes, rate) = (ByteSize(*bytes).to_string(), rate.to_string());
        write!(f, "{bytes:>10} in {seconds:>7.3} s  {rate:>10}/s")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_are_summed_by_where_they_came_from() {
        let blob = |bytes, sources: &[&str]| ToldBlob {
            digest: "sha256:0123456789abcdef0123".to_owned(),
            bytes,
            sources: sources.iter().map(|name| (*name).to_owned()).collect(),
            seconds: 0.5,
            cuts: u32::from(sources.len() > 1),
            held: Some(Holders {
                here: true,
                nodes: vec!["node-2".to_owned()],
            }),
        };
        let told = Told {
            image: "docker.io/library/a:1".to_owned(),
            digest: "sha256:ff".to_owned(),
            bytes: 6000,
            seconds: 2.0,
            blobs: vec![
                blob(1000, &["peer"]),
                blob(2000, &["store"]),
                blob(3000, &["peer", "upstream"]),
            ],
        };
        assert_eq!(told.by_source(), [("peer", 4000), ("store", 2000)]);
        let text = told.to_string();
        assert!(
            text.contains("from peer, then upstream, cut 1 times"),
            "{text}"
        );
        assert!(text.contains("in all"), "{text}");
        assert!(text.contains("held by 2: this node, node-2"), "{text}");
        let json: serde_json::Value = serde_json::from_str(&told.json()).unwrap();
        assert_eq!(json["blobs"][0]["held_here"], true);
        assert_eq!(json["blobs"][0]["nodes"][0], "node-2");
    }
}
