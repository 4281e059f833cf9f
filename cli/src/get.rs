//! `darner get`: a file, through the mirror of this host, or from its own server when there is none.
//!
//! ```text
//! run --> get --> source    one request: to the mirror, or to the file's own server
//!          |----> partial   what has come, beside the file until it is whole
//!          '----> progress  what the user sees
//! ```
//! What an earlier run left is gone on with if it is of the same version, which the server is asked
//! to make sure of. The file gets its name only when all of it is there and its digest is right.

use std::io::{self, IsTerminal as _, Write as _};
use std::path::PathBuf;
use std::process::ExitCode;
use std::str::FromStr;
use std::time::Duration;

use darner_proto::digest::Digest;
use reqwest::Url;
use reqwest::header::{HeaderName, HeaderValue};

mod error;
mod partial;
pub(crate) mod progress;
mod source;

use crate::pull::client::parse_mirror;
use crate::run::say;
pub(crate) use error::GetError;
use partial::Partial;
pub(crate) use partial::blocking;
use progress::Progress;
use source::{Client, Place};
pub(crate) use source::{path, shown};

/// Attempts in a row that may bring nothing: with the pauses, a server may be away for six seconds.
const FRUITLESS: u32 = 5;
/// Before the first new attempt; twice as long before each that follows.
const PAUSE: Duration = Duration::from_millis(200);

/// Flags of `darner get`
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Prints the file's digest. Exit status: 0 done, 1 failed, 2 wrong usage, 4 neither a mirror \
                  nor the file's server can be reached, 5 access denied."
)]
pub(crate) struct Args {
    /// An http:// or https:// URL, or the digest of a file that was put into the cluster
    what: What,
    /// Where the file goes
    #[arg(long, short, value_name = "FILE")]
    output: PathBuf,
    /// The digest it must have, such as sha256:…
    #[arg(long)]
    digest: Option<Digest>,
    /// A header for the file's server, such as 'Authorization: Bearer …'; what is read with
    /// credentials is not shared
    #[arg(long = "header", short = 'H', value_name = "NAME: VALUE", value_parser = parse_header)]
    headers: Vec<(HeaderName, HeaderValue)>,
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
            _ => Err(example.to_owned()),
        }
    }
}

/// Without what may be a secret.
impl std::fmt::Display for What {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Url(url) => {
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

/// Gets the file, and says how that went.
pub(crate) async fn run(args: Args) -> ExitCode {
    match get(&args).await {
        Ok(digest) => match writeln!(io::stdout(), "{digest}") {
            Ok(()) => ExitCode::SUCCESS,
            Err(_) => ExitCode::FAILURE,
        },
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
    let client = Client::new(args, expected)?;
    let progress = Progress::new(io::stderr().is_terminal());
    let mut may_try_again = true;
    loop {
        let mut partial = Partial::open(&args.output, &args.what, expected).await?;
        let mut transfer = Transfer {
            client: &client,
            what: &args.what,
            place: Place::Mirror,
            partial: &mut partial,
            progress: &progress,
        };
        transfer.complete().await?;
        may_try_again &= partial.resumed();
        match partial.finish(expected).await {
            // What an earlier run had left may be to blame: once more, from nothing.
            Err(GetError::WrongBytes { .. }) if may_try_again => may_try_again = false,
            finished => return finished.inspect(|_| progress.done()),
        }
    }
}

/// A file on its way.
struct Transfer<'a> {
    client: &'a Client,
    what: &'a What,
    /// Where it is asked for.
    place: Place,
    partial: &'a mut Partial,
    progress: &'a Progress,
}

impl Transfer<'_> {
    /// Brings the partial to the file's size.
    async fn complete(&mut self) -> Result<(), GetError> {
        let mut fruitless = 0;
        loop {
            let before = self.partial.len();
            let Err(error) = self.attempt().await else {
                return Ok(());
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
    async fn attempt(&mut self) -> Result<(), GetError> {
        let held = self.partial.len();
        let tag = self.partial.tag().map(str::to_owned);
        let from = tag.as_deref().filter(|_| held > 0).map(|tag| (held, tag));
        let mut body = self.client.open(self.place, self.what, from).await?;
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
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests;
