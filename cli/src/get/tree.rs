//! All files of a directory on a web server, and of those below it: found first, then brought, a few
//! at a time.
//!
//! A file that is here from an earlier run, with the date that the server tells, is not brought again.

use std::collections::{BTreeSet, VecDeque};
use std::io::{self, IsTerminal as _, Write as _};
use std::path::{Path, PathBuf};

use futures_util::{StreamExt as _, stream};
use reqwest::Url;

use super::listing::{Entry, entries};
use super::objects::SCHEMES;
use super::progress::Progress;
use super::source::{Client, Part, Place};
use super::{Args, GetError, Wanted, What, blocking, file};
use crate::run::say;

/// Files that come at once, as many as a browser would fetch from one host.
const AT_ONCE: usize = 6;
/// The page of a directory with a hundred thousand files has less.
const MAX_PAGE: usize = 16 << 20;

/// Brings everything below `start`.
pub(super) async fn get(args: &Args, start: &Url) -> Result<(), GetError> {
    let client = Client::new(args, None)?;
    let mut start = start.clone();
    if !start.path().ends_with('/') {
        let path = format!("{}/", start.path());
        start.set_path(&path);
    }
    let is_object = SCHEMES.contains(&start.scheme());
    let files = match is_object {
        true => client.objects_below(&start, args.max_files).await?,
        false => found(&client, &start, args).await?,
    };
    let progress = Progress::of_many(io::stderr().is_terminal(), files.len());
    let outcomes = files.into_iter().map(async |(url, path)| {
        let what = match is_object {
            true => What::Object(Box::new(url)),
            false => What::Url(Box::new(url)),
        };
        let brought = one(&client, &what, &args.output.join(&path), &progress).await;
        (path, brought)
    });
    let mut outcomes = stream::iter(outcomes).buffer_unordered(AT_ONCE);
    let mut failed = None;
    while let Some((path, brought)) = outcomes.next().await {
        match brought {
            Ok(digest) => {
                let line = writeln!(io::stdout(), "{digest}  {}", path.display());
                line.map_err(GetError::file(Path::new("standard output"), "written to"))?;
            }
            Err(error) => {
                say(format_args!("{}: {}", path.display(), error.in_full()));
                failed = Some(error);
            }
        }
    }
    progress.done();
    failed.map_or(Ok(()), Err)
}

/// One file, whose directory is made.
async fn one(
    client: &Client,
    what: &What,
    output: &Path,
    progress: &Progress,
) -> Result<darner_proto::digest::Digest, GetError> {
    let directory = output.parent().map(Path::to_owned).unwrap_or_default();
    blocking(move || {
        let made = std::fs::create_dir_all(&directory);
        made.map_err(GetError::file(&directory, "made"))
    })
    .await?;
    let wanted = Wanted {
        what,
        output,
        expected: None,
        dated: true,
    };
    let digest = file(client, &wanted, progress).await?;
    progress.one_done();
    Ok(digest)
}

/// Every file below `start`, and where it goes.
async fn found(client: &Client, start: &Url, args: &Args) -> Result<Vec<(Url, PathBuf)>, GetError> {
    let mut files = Vec::new();
    let mut seen = BTreeSet::from([start.clone()]);
    let mut due = VecDeque::from([(start.clone(), 0)]);
    while let Some((page, depth)) = due.pop_front() {
        let html = text(client, &page).await?;
        for entry in entries(start, &page, &html) {
            match entry {
                Entry::Directory(url) => {
                    if depth < args.depth && seen.insert(url.clone()) {
                        due.push_back((url, depth + 1));
                    }
                }
                Entry::File(url, path) => {
                    if seen.insert(url.clone()) {
                        files.push((url, path));
                    }
                }
            }
            if seen.len() > args.max_files {
                let most = args.max_files;
                return Err(GetError::TooMany { most });
            }
        }
    }
    match files.is_empty() {
        true => Err(GetError::NoFiles),
        false => Ok(files),
    }
}

/// The page of a directory, by way of the mirror or else from its server.
async fn text(client: &Client, page: &Url) -> Result<String, GetError> {
    let what = What::Url(Box::new(page.clone()));
    let mut place = Place::Mirror;
    loop {
        match read(client, place, &what).await {
            Err(error) => match client.after(place, &what, &error, 2) {
                Some(next) => place = next,
                None => return Err(error),
            },
            read => return read,
        }
    }
}

async fn read(client: &Client, place: Place, what: &What) -> Result<String, GetError> {
    let mut body = client.open(place, what, Part::default()).await?;
    if !body.is_page {
        return Err(GetError::NoListing);
    }
    let mut page = Vec::new();
    while let Some(chunk) = body.chunk().await? {
        page.extend_from_slice(&chunk);
        if page.len() > MAX_PAGE {
            return Err(GetError::NoListing);
        }
    }
    Ok(String::from_utf8_lossy(&page).into_owned())
}
