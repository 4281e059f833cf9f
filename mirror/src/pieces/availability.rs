//! What this node has of a content, told to a child as it grows: the parent's side of an
//! availability stream.

use std::sync::Arc;
use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::extract::{Path, RawQuery, State};
use axum::http::HeaderMap;
use axum::response::Response;
use darner_proto::digest::Digest;
use darner_proto::file::{FILE_URL, FILE_VALIDATOR, Located, Supply, Validator};
use darner_proto::geometry::{Geometry, MAX_SIZE};
use darner_proto::id::Role;
use darner_proto::invalid::Invalid;
use darner_proto::name::Source;
use darner_proto::peer::{Availability, ENDS_IN, ResolveReply};
use darner_proto::piece_map::{self, PieceRun};
use darner_proto::piece_set::PieceSet;
use tokio::sync::watch;

use super::desk::Watch;
use super::uploads::{Child, Holding};
use super::{Refusal, Serving, child};
use crate::store::Content;
use crate::swarm::peers::encode_frame;
use crate::task::Reading;
use crate::task::shared::{Phase, Shared};

/// A child hears something at least this often, if only that bytes are still coming.
const HEARTBEAT: Duration = Duration::from_secs(1);
/// Runs in one frame: far below the longest frame even when each is signed by itself.
const RUNS_PER_FRAME: usize = 1024;

pub(super) async fn follow(
    State(serving): State<Serving>,
    Path(task): Path<String>,
    RawQuery(query): RawQuery,
    headers: HeaderMap,
) -> Result<Response, Refusal> {
    let task = Digest::parse_key(&task)?;
    let query = query.unwrap_or_default();
    let child = child(&headers);
    let ends_in = serving.store.term(&task).map(|term| term.left());
    let Some(file) = located(&headers)?.map(Arc::new) else {
        let found = public(&serving, &task, &query);
        let mut response = follow_or_begin(&serving, &task, child, found).await?;
        if let Some(left) = ends_in {
            let left = u64::try_from(left.as_millis()).unwrap_or(u64::MAX);
            response.headers_mut().insert(ENDS_IN, left.into());
        }
        return Ok(response);
    };
    if let Some(running) = serving.tasks.running(&task)
        && serving.files.vet(&task, running.geometry.size(), &file)
    {
        serving
            .tasks
            .supply(&task, Supply::File(file.clone()))
            .await;
    }
    let found = async { vetted(&serving, &task, &query, file) };
    follow_or_begin(&serving, &task, child, found).await
}

/// A seed that is asked for what it does not have gets it, provided anyone may read it.
async fn public(serving: &Serving, task: &Digest, query: &str) -> Result<(u64, Supply), Refusal> {
    let (size, source) = parse_query(query)?;
    let ResolveReply::Found(found) = serving.resolver.blob(&source, task).await else {
        return Err(Refusal::NotHeld);
    };
    if found.size != size {
        return Err(Invalid::new("size", "is not the content's").into());
    }
    Ok((size, source.into()))
}

/// A seed that is told where a file lies gets it, if its own routes let it.
fn vetted(
    serving: &Serving,
    task: &Digest,
    query: &str,
    file: Arc<Located>,
) -> Result<(u64, Supply), Refusal> {
    let size = parse_size(query)?;
    if !serving.files.vet(task, size, &file) {
        tracing::warn!(%task, %file, "another node's file is not read here: the routes of the two differ, or refuse it");
        return Err(Refusal::NotHeld);
    }
    Ok((size, Supply::File(file)))
}

/// What there is of `task`. A seed that has nothing begins with it, once `found` says how long it is
/// and where it can be read.
pub(super) async fn follow_or_begin(
    serving: &Serving,
    task: &Digest,
    child: Child,
    found: impl Future<Output = Result<(u64, Supply), Refusal>>,
) -> Result<Response, Refusal> {
    if let Some(content) = serving.store.get(task) {
        let frames = everything(serving, &content).await?;
        return Ok(Response::new(Body::from(frames)));
    }
    let running = match serving.tasks.running(task) {
        Some(running) => running,
        None if serving.role != Role::Seed => return Err(Refusal::NotHeld),
        None => {
            let (size, supply) = found.await?;
            begin(serving, task, size, supply).await?
        }
    };
    let held = running.view().held.clone();
    let growing = Growing {
        watch: serving.desk.watch(child, holding(serving, &running, &held)),
        serving: serving.clone(),
        changes: running.watch(),
        told: PieceSet::empty(running.geometry.pieces()),
        shared: running,
        ended: false,
    };
    growing.tell_children(0);
    let frames = futures_util::stream::unfold(growing, |mut growing| async move {
        let frame = growing.next().await?;
        Some((Ok::<_, std::io::Error>(frame), growing))
    });
    Ok(Response::new(Body::from_stream(frames)))
}

async fn begin(
    serving: &Serving,
    task: &Digest,
    size: u64,
    supply: Supply,
) -> Result<Arc<Shared>, Refusal> {
    match serving.tasks.open_from(task, size, vec![supply]).await {
        Ok(Reading::Arriving(_)) => serving.tasks.running(task).ok_or(Refusal::NotHeld),
        _ => Err(Refusal::NotHeld),
    }
}

/// Where a child says that the file lies.
fn located(headers: &HeaderMap) -> Result<Option<Located>, Invalid> {
    let text = |name: &'static str| match headers.get(name) {
        Some(value) => {
            let text = value.to_str();
            text.map(Some)
                .map_err(|_| Invalid::new(name, "is no plain text"))
        }
        None => Ok(None),
    };
    let validator: Option<Validator> = text(FILE_VALIDATOR)?.map(str::parse).transpose()?;
    Ok(text(FILE_URL)?.map(|url| Located {
        url: url.to_owned(),
        validator,
    }))
}

pub(super) fn value(query: &str, name: &'static str) -> Result<String, Invalid> {
    let mut pairs = url::form_urlencoded::parse(query.as_bytes());
    let found = pairs.find(|(key, _)| key == name);
    let found = found.map(|(_, value)| value.into_owned());
    found.ok_or_else(|| Invalid::new(name, "is missing"))
}

pub(super) fn parse_size(query: &str) -> Result<u64, Invalid> {
    let size = value(query, "size")?.parse().ok();
    size.filter(|size| *size <= MAX_SIZE)
        .ok_or_else(|| Invalid::new("size", "is not one that content has"))
}

fn parse_query(query: &str) -> Result<(u64, Source), Invalid> {
    let source = Source {
        registry: value(query, "registry")?.parse()?,
        repository: value(query, "repository")?.parse()?,
    };
    Ok((parse_size(query)?, source))
}

/// The frames about complete content. A map that was lost is made anew and signed by this node,
/// which has the whole digest to go by.
async fn everything(serving: &Serving, content: &Content) -> Result<Bytes, Refusal> {
    let digest = content.digest();
    let geometry = Geometry::of(content.size());
    let mut runs = serving.store.piece_map(&digest).unwrap_or_default();
    if !covers(&runs, &geometry) {
        runs = make_map(serving, content).await?;
    }
    let mut frames = Vec::new();
    let parts = runs.chunks(RUNS_PER_FRAME).count().max(1);
    for part in 0..parts {
        let from = part * RUNS_PER_FRAME;
        let last = part + 1 == parts;
        frames.extend(encode_frame(&Availability {
            size: content.size(),
            available: if last && geometry.pieces() > 0 {
                std::iter::once(0..geometry.pieces()).collect()
            } else {
                Vec::new()
            },
            runs: runs[from..runs.len().min(from + RUNS_PER_FRAME)].to_vec(),
            complete: last,
            received_bytes: content.size(),
        }));
    }
    Ok(frames.into())
}

fn covers(runs: &[PieceRun], geometry: &Geometry) -> bool {
    let mut covered = PieceSet::empty(geometry.pieces());
    for run in runs {
        covered.insert_range(run.indexes());
    }
    covered.is_full()
}

async fn make_map(serving: &Serving, content: &Content) -> Result<Vec<PieceRun>, Refusal> {
    let geometry = Geometry::of(content.size());
    let mut hashes = Vec::with_capacity(geometry.pieces() as usize);
    let mut whole = content.digest().hasher();
    for index in 0..geometry.pieces() {
        let range = geometry.bytes_of(index);
        let piece = content
            .read(range.clone())
            .await
            .map_err(|_| Refusal::Unreadable)?;
        if piece.len() as u64 != range.end - range.start {
            return Err(Refusal::Unreadable);
        }
        hashes.push(piece_map::hash(&piece));
        whole.update(&piece);
    }
    // What is signed here, others believe.
    if serving.store.content_digest(&content.digest()) != Some(whole.finish()) {
        return Err(Refusal::Unreadable);
    }
    let runs = if hashes.is_empty() {
        Vec::new()
    } else {
        vec![
            serving
                .signer
                .sign(&content.digest(), content.size(), 0, hashes),
        ]
    };
    if let Err(error) = serving.store.set_piece_map(&content.digest(), &runs) {
        tracing::warn!(digest = %content.digest(), %error, "a piece map could not be kept");
    }
    Ok(runs)
}

fn holding<'a>(serving: &Serving, shared: &Shared, held: &'a PieceSet) -> Holding<'a> {
    Holding {
        task: shared.task,
        geometry: shared.geometry,
        held,
        source: serving.role == Role::Seed || shared.view().reads,
    }
}

/// One child's view of a download.
struct Growing {
    serving: Serving,
    shared: Arc<Shared>,
    watch: Watch,
    changes: watch::Receiver<u64>,
    told: PieceSet,
    ended: bool,
}

/// What there is to tell a child.
enum News {
    Frame(Bytes),
    /// The download has failed.
    End,
    /// Nothing, for as long as nothing comes: at most this long.
    None {
        withheld: Option<Duration>,
    },
}

impl Drop for Growing {
    fn drop(&mut self) {
        self.tell_children(1);
    }
}

impl Growing {
    /// A reader keeps near to its children while it has some; `leaving` of them go now.
    fn tell_children(&self, leaving: u32) {
        let children = self.watch.children().saturating_sub(leaving);
        self.serving.tasks.followed(&self.shared.task, children);
    }

    /// The next frame: when there are new pieces, or a second has passed.
    async fn next(&mut self) -> Option<Bytes> {
        if self.ended {
            return None;
        }
        let heartbeat = tokio::time::sleep(HEARTBEAT);
        tokio::pin!(heartbeat);
        loop {
            self.changes.mark_unchanged();
            let withheld = match self.news() {
                News::Frame(frame) => return Some(frame),
                News::End => return None,
                News::None { withheld } => withheld.unwrap_or(HEARTBEAT),
            };
            tokio::select! {
                _ = self.changes.changed() => {}
                () = tokio::time::sleep(withheld) => {}
                () = self.serving.shutdown.draining() => return None,
                () = &mut heartbeat => {
                    let nothing = PieceSet::empty(self.told.pieces());
                    return Some(self.frame(&nothing, Vec::new()));
                }
            }
        }
    }

    fn news(&mut self) -> News {
        let (held, phase) = {
            let view = self.shared.view();
            (view.held.clone(), view.phase.clone())
        };
        if matches!(phase, Phase::Failed(_)) {
            return News::End;
        }
        let holding = holding(&self.serving, &self.shared, &held);
        let (mut new, withheld) = self.watch.tellable(holding);
        new.subtract(&self.told);
        if new.is_empty() {
            return News::None { withheld };
        }
        let (available, runs) = self.first_of(&new);
        self.told.union(&available);
        self.ended = self.told.is_full();
        News::Frame(self.frame(&available, runs))
    }

    /// As much of `new` as one frame takes, with the statements about it.
    fn first_of(&self, new: &PieceSet) -> (PieceSet, Vec<PieceRun>) {
        let mut available = PieceSet::empty(new.pieces());
        for index in new.iter().take(RUNS_PER_FRAME) {
            available.insert(index);
        }
        let runs = self.shared.runs_of(&available);
        (available, runs)
    }

    fn frame(&self, available: &PieceSet, runs: Vec<PieceRun>) -> Bytes {
        encode_frame(&Availability {
            size: self.shared.geometry.size(),
            available: available.runs(),
            runs,
            complete: self.ended,
            received_bytes: self.shared.view().received_bytes,
        })
    }
}
