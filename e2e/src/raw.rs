//! Requests that no well-behaved HTTP client would send, written to a socket as they are.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context as _, Result};
use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::client::Answer;

/// An answer to nonsense comes at once; a server that waits for more is cut off.
const PATIENCE: Duration = Duration::from_secs(15);

/// Sends `request` and reads until the server closes; what came may be nothing at all.
pub async fn exchange(address: SocketAddr, request: &[u8]) -> Result<Vec<u8>> {
    let mut stream = TcpStream::connect(address).await?;
    let mut answer = Vec::new();
    let exchange = async {
        // The server may close before it has read everything: what it said before that counts.
        let _ = stream.write_all(request).await;
        let _ = stream.read_to_end(&mut answer).await;
    };
    tokio::time::timeout(PATIENCE, exchange)
        .await
        .with_context(|| format!("no end to {:?}", String::from_utf8_lossy(request)))?;
    Ok(answer)
}

/// Sends a request of `method` for `target`, not normalised in any way, with `headers` (each line
/// ending in CR LF) and reads the answer.
pub async fn request(
    address: SocketAddr,
    method: &str,
    target: &str,
    headers: &str,
) -> Result<Answer> {
    let text = format!(
        "{method} {target} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n{headers}\r\n"
    );
    let answer = exchange(address, text.as_bytes()).await?;
    parse(&answer).with_context(|| format!("answer to {method} {target:.200}"))
}

fn parse(answer: &[u8]) -> Result<Answer> {
    let end = answer
        .windows(4)
        .position(|window| window == b"\r\n\r\n")
        .with_context(|| format!("no HTTP: {:?}", String::from_utf8_lossy(answer)))?;
    let head = std::str::from_utf8(&answer[..end])?;
    let mut lines = head.split("\r\n");
    let status = lines
        .next()
        .and_then(|line| line.split(' ').nth(1)?.parse().ok())
        .with_context(|| format!("no status in {head}"))?;
    let mut headers = HeaderMap::new();
    for line in lines {
        let (name, value) = line.split_once(':').context("header")?;
        headers.append(
            HeaderName::from_bytes(name.as_bytes())?,
            HeaderValue::from_str(value.trim())?,
        );
    }
    Ok(Answer {
        status,
        headers,
        body: Bytes::copy_from_slice(&answer[end + 4..]),
    })
}
