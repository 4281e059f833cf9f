//! `darner get`: a file, through the mirror of this host, or from its own server when there is none.
//!
//! ```text
//! run --> file --> source    one request: to the mirror, or to the file's own server
//!    |      |----> partial   what has come, beside the file until it is whole
//!    |      '----> progress  what the user sees
//!    '--> tree --> listing   the files of a directory, by its pages
//! objects                     URLs for what is in a cloud's storage
//! ```
//! What an earlier run left is gone on with if it is of the same version, which the server is asked
//! to make sure of. The file gets its name only when all of it is there and its digest is right.

use std::io::{self, IsTerminal as _, Write as _};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::str::FromStr;
use std::time::{Duration, SystemTime};

use darner_proto::digest::Digest;
use reqwest::Url;
use reqwest::header::{HeaderName, HeaderValue};

mod error;
mod listing;
mod objects;
mod partial;
pub(crate) mod progress;
mod source;
mod tree;

use crate::pull::client::parse_mirror;
use crate::run::say;
pub(crate) use error::GetError;
use objects::SCHEMES;
use partial::Partial;
pub(crate) use partial::blocking;
use progress::Progress;
use source::{Client, Part, Place};
pub(crate) use source::{path, shown};

/// Attempts in a row that may bring nothing: with the pauses, a server may be away for six seconds.
const FRUITLESS: u32 = 5;
/// Before the first new attempt; twice as long before each that follows.
const PAUSE: Duration = Duration::from_millis(200);

/// Flags of `darner get`
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Prints the file's digest, and with --recursive each file's. Exit status: 0 done, 1 failed, 2 wrong usage, 4 neither a mirror \
                  nor the file's server can be reached, 5 access denied."
)]
pub(crate) struct Args {
    /// An http:// or https:// URL, an object such as s3://bucket/key, gs://bucket/key or
    /// az://container/key, or the digest of a file that was put into the cluster
    what: What,
    /// Where the file goes; with --recursive, the directory that all files go below
    #[arg(long, short, value_name = "FILE")]
    output: PathBuf,
    /// Get every file below a directory, as the server's own pages list them
    #[arg(long, short, conflicts_with = "digest")]
    recursive: bool,
    /// With --recursive: so many directories deep
    #[arg(long, value_name = "N", default_value_t = 16, requires = "recursive")]
    depth: usize,
    /// With --recursive: fail if there are more files and directories than this
    #[arg(
        long,
        value_name = "N",
        default_value_t = 10_000,
        requires = "recursive"
    )]
    max_files: usize,
    /// The digest it must have, such as sha256:…
    #[arg(long)]
    digest: Option<Digest>,
    /// A header for the file's server, such as 'Authorization: Bearer …'; what is read with
    /// credentials is not shared
    #[arg(long = "header", short = 'H', value_name = "NAME: VALUE", value_parser = parse_header)]
    headers: Vec<(HeaderName, HeaderValue)>,
    /// Of ~/.aws/credentials, the profile whose keys s3:// is read with, where the environment has none
    #[arg(long, value_name = "NAME", default_value = "default")]
    profile: String,
    /// The mirror to get it through
    #[arg(long, value_name = "URL", default_value = "http://127.0.0.1:7420", value_parser = parse_mirror)]
    via: Box<Url>,
    /// Fail rather than read from the file's own server when no mirror answers
    #[arg(long)]
    only_mirror: bool,
}

/// What is to be had.
#[derive(Debug, Clone)]
pub(crate) enum What {
    /// What is at a URL.
    Url(Box<Url>),
    /// An object in a cloud's storage.
    Object(Box<Url>),
    /// What the cluster knows by a digest.
    Digest(Digest),
}

impl FromStr for What {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if let Ok(digest) = text.parse() {
            return Ok(Self::Digest(digest));
        }
        let example = "a file is called by a URL such as https://files.example.com/model.bin, or by its digest sha256:…";
        let url: Url = text
            .parse()
            .map_err(|error| format!("{error}; {example}"))?;
        match url.scheme() {
            "http" | "https" => Ok(Self::Url(Box::new(url))),
            scheme if SCHEMES.contains(&scheme) && url.has_host() => {
                Ok(Self::Object(Box::new(url)))
            }
            _ => Err(example.to_owned()),
        }
    }
}

/// Without what may be a secret.
impl std::fmt::Display for What {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Url(url) | Self::Object(url) => {
                let text = url.as_str();
                f.write_str(text.split(['?', '#']).next().unwrap_or(text))
            }
            Self::Digest(digest) => digest.fmt(f),
        }
    }
}

fn parse_header(text: &str) -> Result<(HeaderName, HeaderValue), String> {
    let (name, value) = text
        .split_once(':')
        .ok_or("a header is like 'Authorization: Bearer …'")?;
    let name = HeaderName::from_str(name.trim()).map_err(|error| error.to_string())?;
    let mut value = HeaderValue::from_str(value.trim()).map_err(|error| error.to_string())?;
    value.set_sensitive(true);
    Ok((name, value))
}

/// A file, and where it goes.
struct Wanted<'a> {
    what: &'a What,
    output: &'a Path,
    /// The digest it must have.
    expected: Option<Digest>,
    /// Whether it gets the date that the server tells, and is not brought again while it has it.
    dated: bool,
}

/// Gets the file, and says how that went.
pub(crate) async fn run(args: Args) -> ExitCode {
    let got = match (&args.what, args.recursive) {
        (What::Url(url) | What::Object(url), true) => tree::get(&args, url).await,
        (What::Digest(_), true) => Err(GetError::NoListing),
        (_, false) => get(&args).await.and_then(|digest| {
            let told = writeln!(io::stdout(), "{digest}");
            told.map_err(GetError::file(Path::new("standard output"), "written to"))
        }),
    };
    match got {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            say(format_args!("error: {}", error.in_full()));
            ExitCode::from(error.exit_status())
        }
    }
}

async fn get(args: &Args) -> Result<Digest, GetError> {
    let expected = match (&args.what, args.digest) {
        (What::Digest(digest), None) => Some(*digest),
        (What::Digest(digest), Some(given)) if given != *digest => {
            return Err(GetError::TwoDigests);
        }
        (_, given) => given,
    };
    let wanted = Wanted {
        what: &args.what,
        output: &args.output,
        expected,
        dated: false,
    };
    let progress = Progress::new(io::stderr().is_terminal());
    let got = file(&Client::new(args, expected)?, &wanted, &progress).await;
    got.inspect(|_| progress.done())
}

/// Brings one file to its place.
async fn file(
    client: &Client,
    wanted: &Wanted<'_>,
    progress: &Progress,
) -> Result<Digest, GetError> {
    let (output, expected) = (wanted.output, wanted.expected);
    let mut may_try_again = true;
    loop {
        let mut partial = Partial::open(output, wanted.what, expected).await?;
        let dated = wanted.dated && partial.len() == 0;
        let mut transfer = Transfer {
            client,
            what: wanted.what,
            place: Place::Mirror,
            since: dated.then(|| date_of(output)).flatten(),
            modified: None,
            partial: &mut partial,
            progress,
        };
        if transfer.complete().await? == Ended::Unchanged {
            return partial.leave().await;
        }
        let modified = transfer.modified.filter(|_| wanted.dated);
        may_try_again &= partial.resumed();
        match partial.finish(expected, modified).await {
            // What an earlier run had left may be to blame: once more, from nothing.
            Err(GetError::WrongBytes { .. }) if may_try_again => may_try_again = false,
            finished => return finished,
        }
    }
}

fn date_of(path: &Path) -> Option<SystemTime> {
    let found = std::fs::metadata(path).ok()?;
    found.modified().ok().filter(|_| found.is_file())
}

/// How a transfer ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Ended {
    /// All of the file is in the partial.
    Whole,
    /// What is in the file's place is what the server has.
    Unchanged,
}

/// A file on its way.
struct Transfer<'a> {
    client: &'a Client,
    what: &'a What,
    /// Where it is asked for.
    place: Place,
    /// The date of what is in the file's place already.
    since: Option<SystemTime>,
    /// The date that the server tells of the file.
    modified: Option<SystemTime>,
    partial: &'a mut Partial,
    progress: &'a Progress,
}

impl Transfer<'_> {
    /// Brings the partial to the file's size.
    async fn complete(&mut self) -> Result<Ended, GetError> {
        let mut fruitless = 0;
        loop {
            let before = self.partial.len();
            let error = match self.attempt().await {
                Ok(ended) => return Ok(ended),
                Err(error) => error,
            };
            if self.partial.len() > before {
                fruitless = 0;
            }
            fruitless += 1;
            if error.is_past_the_end() && self.partial.len() > 0 {
                self.partial.begin_anew(None).await?;
                continue;
            }
            let elsewhere = self.client.after(self.place, self.what, &error, fruitless);
            if let Some(place) = elsewhere {
                say(format_args!("{error}; reading from the file's own server"));
                self.place = place;
                fruitless = 0;
                continue;
            }
            if !error.may_pass() || fruitless > FRUITLESS {
                return Err(error);
            }
            self.progress.cut(self.partial.len(), &error);
            tokio::time::sleep(PAUSE * (1 << (fruitless - 1))).await;
        }
    }

    /// One request, from where the partial ends.
    async fn attempt(&mut self) -> Result<Ended, GetError> {
        let held = self.partial.len();
        let tag = self.partial.tag().map(str::to_owned);
        let from = tag.as_deref().filter(|_| held > 0).map(|tag| (held, tag));
        let since = self.since;
        let part = Part { from, since };
        let mut body = self.client.open(self.place, self.what, part).await?;
        if body.is_unchanged() {
            if body.modified == since {
                return Ok(Ended::Unchanged);
            }
            // Only older than what is here, which is another file then.
            self.since = None;
            let part = Part { from, since: None };
            body = self.client.open(self.place, self.what, part).await?;
        }
        self.modified = body.modified;
        if body.at == 0 {
            self.partial.begin_anew(body.tag.as_deref()).await?;
        }
        self.progress
            .opened(body.at, body.size, body.source.as_deref());
        while let Some(chunk) = body.chunk().await? {
            self.partial.write(&chunk).await?;
            self.progress.received(chunk.len() as u64);
        }
        match body.size {
            Some(size) if self.partial.len() != size => Err(GetError::Cut { source: None }),
            _ => Ok(Ended::Whole),
        }
    }
}

#[cfg(test)]
mod tests;
