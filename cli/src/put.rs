//! `darner put`: a file into the cluster, by way of the mirror of this host.

use std::fs::File;
use std::io::{self, IsTerminal as _, Read as _, Write as _};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use darner_mirror::files::local;
use darner_proto::digest::Digest;
use futures_util::stream;
use reqwest::header::CONTENT_LENGTH;
use reqwest::{StatusCode, Url};

use crate::get::{GetError, blocking, path, progress::Progress, shown};
use crate::pull::client::parse_mirror;
use crate::run::say;

/// Read and sent at once.
const CHUNK: usize = 1 << 20;
/// A mirror on this host is there at once, or not at all.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// Flags of `darner put`
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Prints the digest that `darner get` takes on any node of the cluster. Exit status: 0 done, \
                  1 failed, 2 wrong usage, 4 the mirror cannot be reached, 5 access denied."
)]
pub(crate) struct Args {
    /// The file
    file: PathBuf,
    /// How long it is kept on each node that has it, such as 12h or 7d: until then it is not
    /// dropped for want of room, and after that it goes
    #[arg(long, value_name = "TIME", value_parser = parse_ttl)]
    ttl: Option<Duration>,
    /// Return when so many other nodes hold it, too
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u8).range(1..=64))]
    replicas: Option<u8>,
    /// The mirror that takes it
    #[arg(long, value_name = "URL", default_value = "http://127.0.0.1:7420", value_parser = parse_mirror)]
    via: Box<Url>,
}

fn parse_ttl(text: &str) -> Result<Duration, String> {
    let ttl = humantime::parse_duration(text).map_err(|error| error.to_string())?;
    match ttl.as_secs() {
        0 => Err("less than a second is no time".to_owned()),
        _ => Ok(ttl),
    }
}

/// Puts the file, and says how that went.
pub(crate) async fn run(args: Args) -> ExitCode {
    match put(&args).await {
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

async fn put(args: &Args) -> Result<Digest, GetError> {
    let file = args.file.clone();
    let (digest, size) = blocking(move || digest_of(&file)).await?;
    let client = reqwest::Client::builder()
        .user_agent(concat!("darner/", env!("CARGO_PKG_VERSION")))
        .connect_timeout(CONNECT_TIMEOUT)
        .redirect(reqwest::redirect::Policy::none())
        .no_proxy()
        .build()
        .map_err(GetError::Client)?;
    let progress = Arc::new(Progress::new(io::stderr().is_terminal()));
    progress.opened(0, Some(size), None);
    let body = reqwest::Body::wrap_stream(chunks(&args.file, progress.clone())?);
    let mut request = client
        .put(path(&args.via, &format!("file/{digest}")))
        .header(CONTENT_LENGTH, size)
        .body(body);
    if let Some(ttl) = args.ttl {
        request = request.header(local::TTL, ttl.as_secs());
    }
    if let Some(replicas) = args.replicas {
        request = request.header(local::REPLICAS, u16::from(replicas));
    }
    let whom = format!("the mirror at {}", shown(&args.via));
    let answer = request.send().await.map_err(|source| {
        let whom = whom.clone();
        GetError::Unreachable { whom, source }
    })?;
    let status = answer.status();
    if status != StatusCode::CREATED {
        let words = answer.text().await.unwrap_or_default();
        let words = words.trim().trim_start_matches("darner: ");
        let detail = match words {
            "" => String::new(),
            words => format!(": {words}"),
        };
        return Err(GetError::Status {
            whom,
            status,
            detail,
        });
    }
    progress.done();
    Ok(digest)
}

fn digest_of(path: &Path) -> Result<(Digest, u64), GetError> {
    let mut file = File::open(path).map_err(GetError::file(path, "opened"))?;
    let mut hasher = Digest::Sha256([0; 32]).hasher();
    let (mut buffer, mut size) = (vec![0; CHUNK], 0);
    loop {
        let read = file.read(&mut buffer);
        match read.map_err(GetError::file(path, "read"))? {
            0 => return Ok((hasher.finish(), size)),
            read => {
                hasher.update(&buffer[..read]);
                size += read as u64;
            }
        }
    }
}

/// The file in order, as it is sent.
fn chunks(
    path: &Path,
    progress: Arc<Progress>,
) -> Result<impl stream::Stream<Item = io::Result<Bytes>> + Send + use<>, GetError> {
    let file = File::open(path).map_err(GetError::file(path, "opened"))?;
    let file = Arc::new(file);
    Ok(stream::try_unfold(
        (file, progress),
        async |(file, progress)| {
            let reading = file.clone();
            let read = tokio::task::spawn_blocking(move || {
                let mut buffer = vec![0; CHUNK];
                let length = (&*reading).read(&mut buffer)?;
                buffer.truncate(length);
                Ok::<_, io::Error>(Bytes::from(buffer))
            });
            let chunk = read.await.map_err(io::Error::other)??;
            progress.received(chunk.len() as u64);
            Ok((!chunk.is_empty()).then_some((chunk, (file, progress))))
        },
    ))
}
