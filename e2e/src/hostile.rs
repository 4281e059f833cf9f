//! A peer that lies: a member of the swarm that claims to hold content, passes on a true piece map
//! when there is one to be had, and sends what it likes.

mod attend;

use std::collections::HashSet;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anyhow::Result;
use axum::Router;
use axum::body::Body;
use axum::extract::{Path, RawQuery, State};
use axum::response::Response;
use axum::routing::get;
use bytes::Bytes;
use darner_proto::digest::Digest;
use darner_proto::peer::{CONTENT_SIZE, FIRST_PIECE, PATH_PREFIX, PIECE_COUNT};
use futures_util::{StreamExt as _, stream};
use http::{StatusCode, header};
use tokio::net::TcpListener;
use tokio::task::JoinSet;

use crate::image::Blob;

/// What is wrong with the pieces it sends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lie {
    /// One byte of each piece is another.
    WrongBytes,
    /// The body ends early, cleanly.
    TooFew,
    /// The body goes on after the last byte.
    TooMany,
    /// A byte now and then.
    Trickle,
    /// It says it does not hold what it said it holds.
    NotHeld,
}

/// A lying peer, attending a scheduler. Gone when dropped.
#[derive(Debug)]
pub struct Liar {
    asked: Arc<AtomicU64>,
    _tasks: JoinSet<()>,
}

#[derive(Debug, Clone)]
struct Lying {
    lie: Lie,
    honest: SocketAddr,
    http: reqwest::Client,
    asked: Arc<AtomicU64>,
    claimed: Arc<HashSet<Digest>>,
}

impl Liar {
    /// Attends `scheduler` and claims to hold `blobs`. What it knows of them it has from `honest`,
    /// the pieces listener of a peer that does hold them.
    pub async fn start(
        lie: Lie,
        scheduler: &str,
        honest: SocketAddr,
        blobs: &[Blob],
    ) -> Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let address = listener.local_addr()?;
        let asked = Arc::new(AtomicU64::new(0));
        let lying = Lying {
            lie,
            honest,
            http: reqwest::Client::builder().no_proxy().build()?,
            asked: asked.clone(),
            claimed: Arc::new(blobs.iter().map(|blob| blob.digest).collect()),
        };
        let digests = lying.claimed.iter().copied().collect();
        let routes = Router::new()
            .route(
                &format!("{PATH_PREFIX}/tasks/{{task}}/availability"),
                get(availability),
            )
            .route(&format!("{PATH_PREFIX}/tasks/{{task}}/pieces"), get(pieces))
            .with_state(lying);
        let mut tasks = JoinSet::new();
        tasks.spawn(async move {
            let _ = axum::serve(listener, routes).await;
        });
        attend::attend(scheduler, address, digests, &mut tasks).await?;
        Ok(Self {
            asked,
            _tasks: tasks,
        })
    }

    /// How often it was asked for pieces.
    pub fn asked(&self) -> u64 {
        self.asked.load(Ordering::Relaxed)
    }
}

type Refused = (StatusCode, String);

fn refused(error: impl std::fmt::Display) -> Refused {
    (StatusCode::BAD_GATEWAY, error.to_string())
}

/// The honest peer's own statements: complete, and the map is true.
async fn availability(
    State(lying): State<Lying>,
    Path(task): Path<String>,
    RawQuery(query): RawQuery,
) -> Result<Response, Refused> {
    let answer = lying.ask(&task, "availability", query).await?;
    Ok(Response::new(Body::from_stream(answer.bytes_stream())))
}

async fn pieces(
    State(lying): State<Lying>,
    Path(task): Path<String>,
    RawQuery(query): RawQuery,
) -> Result<Response, Refused> {
    lying.asked.fetch_add(1, Ordering::Relaxed);
    if lying.lie == Lie::NotHeld {
        return Err((StatusCode::NOT_FOUND, String::new()));
    }
    let answer = lying.ask(&task, "pieces", query).await?;
    let mut response = Response::builder();
    for name in [FIRST_PIECE, PIECE_COUNT, CONTENT_SIZE] {
        if let Some(value) = answer.headers().get(name) {
            response = response.header(name, value);
        }
    }
    let mut bytes = answer.bytes().await.map_err(refused)?.to_vec();
    let length = bytes.len();
    match lying.lie {
        Lie::WrongBytes => {
            for piece in bytes.chunks_mut(1 << 20) {
                piece[0] ^= 1;
            }
        }
        Lie::TooFew => bytes.truncate(length - 1),
        Lie::TooMany => bytes.extend([0; 4096]),
        Lie::Trickle => {
            let response = response.header(header::CONTENT_LENGTH, length);
            return response.body(trickle(bytes.into())).map_err(refused);
        }
        Lie::NotHeld => {}
    }
    response.body(Body::from(bytes)).map_err(refused)
}

/// One KiB a second.
fn trickle(bytes: Bytes) -> Body {
    let parts = stream::unfold(bytes, |mut rest| async move {
        if rest.is_empty() {
            return None;
        }
        let part = rest.split_to(rest.len().min(1024));
        tokio::time::sleep(Duration::from_secs(1)).await;
        Some((part, rest))
    });
    Body::from_stream(parts.map(Ok::<_, std::io::Error>))
}

impl Lying {
    async fn ask(
        &self,
        task: &str,
        what: &str,
        query: Option<String>,
    ) -> Result<reqwest::Response, Refused> {
        let digest: Digest = task.parse().map_err(refused)?;
        if !self.claimed.contains(&digest) {
            return Err((StatusCode::NOT_FOUND, String::new()));
        }
        let query = query.unwrap_or_default();
        let url = format!(
            "http://{}{PATH_PREFIX}/tasks/{task}/{what}?{query}",
            self.honest
        );
        let answer = self.http.get(url).send().await.map_err(refused)?;
        answer.error_for_status().map_err(refused)
    }
}
