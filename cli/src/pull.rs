//! `darner pull`: an image, through a mirror, into an OCI image-layout directory.
//!
//! The mirror is asked as a container runtime asks it, with `?ns=` naming the registry, and nothing
//! it says is believed: every manifest and blob is checked against its digest and size before it is
//! in the layout. What an earlier pull left there is used again, halves of blobs included.
//!
//! ```text
//! run --> pull --> client   one request to the mirror
//!          |--> manifests   what an image consists of, on which platform
//!          |--> blob        one blob, however often it is cut
//!          |--> layout      the directory
//!          '--> progress    what the user sees
//! ```

use std::io::{self, IsTerminal as _, Write as _};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use darner_proto::digest::Digest;
use futures_util::stream::{self, StreamExt as _, TryStreamExt as _};
use reqwest::Url;

mod blob;
pub(crate) mod client;
mod error;
mod image;
mod layout;
mod manifests;
mod platform;
pub(crate) mod progress;
#[cfg(test)]
mod tests;

pub(crate) use client::MANIFEST_TYPES;
pub(crate) use error::PullError;
pub(crate) use image::Image;
pub(crate) use platform::Platform;

use crate::run::say;
use client::Client;
use layout::Layout;
use manifests::{Blob, Content};
use progress::{Bars, Event, Lines, Watch};

/// Blobs fetched at once, as containerd does; the mirror fetches each from many sides at once.
const BLOBS_AT_ONCE: usize = 3;

/// Flags of `darner pull`
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Prints the digest of what index.json of the layout names. Exit status: 0 done, 1 failed, \
                  2 wrong usage, 4 the mirror cannot be reached, 5 access denied."
)]
pub(crate) struct Args {
    /// Such as debian:12, ghcr.io/owner/name or name@sha256:…
    image: Image,
    /// The mirror to pull through
    #[arg(long, value_name = "URL", default_value = "http://127.0.0.1:7420", value_parser = client::parse_mirror)]
    via: Box<Url>,
    /// The OCI image-layout directory to pull into; made if it is not there
    #[arg(long, short, value_name = "DIR")]
    output: PathBuf,
    /// Which of an index's images, as OS/ARCH[/VARIANT] [default: this machine's]
    #[arg(long, value_name = "PLATFORM", conflicts_with = "all_platforms")]
    platform: Option<Platform>,
    /// The index with the images of every platform
    #[arg(long)]
    all_platforms: bool,
}

/// Which images of an index are meant.
#[derive(Debug, Clone)]
pub(crate) enum Choice {
    /// The best for this machine; an image that is of no index is taken whatever it is for.
    Host,
    /// One, and no other.
    Only(Platform),
    /// Every one, and the index itself.
    All,
}

/// What is to be pulled, through which mirror, and to where.
#[derive(Debug)]
pub(crate) struct Request<'a> {
    pub(crate) image: &'a Image,
    pub(crate) via: &'a Url,
    /// The only authority to trust, PEM; without it the system's.
    pub(crate) ca: Option<&'a str>,
    pub(crate) output: &'a Path,
    pub(crate) choice: Choice,
}

/// What has been pulled.
#[derive(Debug)]
pub(crate) struct Pulled {
    /// Of the manifest or index that `index.json` names.
    pub(crate) digest: Digest,
    /// All blobs together.
    pub(crate) bytes: u64,
    /// What of them came through the mirror this time; the rest was in the layout.
    pub(crate) fetched: u64,
}

/// What becomes of blobs.
#[derive(Debug, Clone, Copy)]
enum Blobs {
    Kept,
    Checked,
}

/// Reads all of what `request` says through the mirror, checks every byte, and keeps nothing but the
/// manifests, in its output directory.
pub(crate) async fn check(request: &Request<'_>, watch: &impl Watch) -> Result<Pulled, PullError> {
    let (_, _, pulled) = bring(request, Blobs::Checked, watch).await?;
    Ok(pulled)
}

/// Pulls, and says how that went.
pub(crate) async fn run(args: Args) -> ExitCode {
    let choice = match args.platform {
        Some(platform) => Choice::Only(platform),
        None if args.all_platforms => Choice::All,
        None => Choice::Host,
    };
    let request = Request {
        image: &args.image,
        via: &args.via,
        ca: None,
        output: &args.output,
        choice,
    };
    let pulled = if io::stderr().is_terminal() {
        pull(&request, &Bars::new()).await
    } else {
        pull(&request, &Lines::new()).await
    };
    match pulled {
        Ok(pulled) => match writeln!(io::stdout(), "{}", pulled.digest) {
            Ok(()) => ExitCode::SUCCESS,
            Err(_) => ExitCode::FAILURE,
        },
        Err(error) => {
            say(format_args!("error: {}", error.in_full()));
            ExitCode::from(error.exit_status())
        }
    }
}

/// Pulls what `request` says and tells `watch` of it. The layout names the image only once all of
/// it is there.
pub(crate) async fn pull(request: &Request<'_>, watch: &impl Watch) -> Result<Pulled, PullError> {
    let (layout, content, pulled) = bring(request, Blobs::Kept, watch).await?;
    layout.name(&content.top, request.image).await?;
    watch.see(Event::Done { pulled: &pulled });
    Ok(pulled)
}

async fn bring(
    request: &Request<'_>,
    blobs_are: Blobs,
    watch: &impl Watch,
) -> Result<(Layout, Content, Pulled), PullError> {
    let client = Client::new(request.via, request.ca, &request.image.source)?;
    let layout = Layout::open(request.output).await?;
    let content = manifests::fetch(&client, &layout, request, watch).await?;
    let Content { top, blobs } = &content;
    watch.see(Event::Planned { blobs });
    let one = async |blob| match blobs_are {
        Blobs::Kept => blob::fetch(&client, &layout, blob, watch).await,
        Blobs::Checked => blob::check(&client, blob, watch).await,
    };
    let fetched = stream::iter(blobs)
        .map(one)
        .buffer_unordered(BLOBS_AT_ONCE)
        .try_fold(0, async |sum, bytes| Ok(sum + bytes))
        .await?;
    let pulled = Pulled {
        digest: top.digest,
        bytes: blobs.iter().map(|blob: &Blob| blob.size).sum(),
        fetched,
    };
    Ok((layout, content, pulled))
}
