//! A forward proxy that does nothing but tunnel (`CONNECT`), to the one host that it knows.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::{Context as _, Result, ensure};
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader, copy_bidirectional};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;

/// A head has no more lines than this.
const MAX_LINES: usize = 50;

/// A running proxy; its tunnels end with it.
#[derive(Debug)]
pub struct Tunnel {
    address: SocketAddr,
    heads: Arc<Mutex<Vec<String>>>,
    _tasks: JoinSet<()>,
}

impl Tunnel {
    /// Starts one that leads to `target` whoever asks for `host`, and nowhere else.
    pub async fn start(host: &str, target: SocketAddr) -> Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let address = listener.local_addr()?;
        let heads = Arc::<Mutex<Vec<String>>>::default();
        let (host, heard) = (format!("CONNECT {host} "), heads.clone());
        let mut tasks = JoinSet::new();
        tasks.spawn(async move {
            let mut tunnels = JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                let (host, heard) = (host.clone(), heard.clone());
                // How a tunnel ends is its two ends' business.
                tunnels.spawn(async move { serve(stream, &host, target, &heard).await });
            }
        });
        Ok(Self {
            address,
            heads,
            _tasks: tasks,
        })
    }

    /// As the environment names it.
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Its `host:port`.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The heads of all requests.
    pub fn asked(&self) -> Vec<String> {
        let heads = self.heads.lock().unwrap_or_else(PoisonError::into_inner);
        heads.clone()
    }
}

async fn serve(
    stream: TcpStream,
    host: &str,
    target: SocketAddr,
    heads: &Mutex<Vec<String>>,
) -> Result<()> {
    let mut stream = BufReader::new(stream);
    let head = head(&mut stream).await?;
    let known = head.starts_with(host);
    heads
        .lock()
        .unwrap_or_else(PoisonError::into_inner)
        .push(head);
    if !known {
        let refusal = b"HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n\r\n";
        return Ok(stream.write_all(refusal).await?);
    }
    let mut onward = TcpStream::connect(target).await?;
    stream.write_all(b"HTTP/1.1 200 OK\r\n\r\n").await?;
    copy_bidirectional(&mut stream, &mut onward).await?;
    Ok(())
}

async fn head(stream: &mut BufReader<TcpStream>) -> Result<String> {
    let mut head = String::new();
    for _ in 0..MAX_LINES {
        let read = stream.read_line(&mut head).await.context("a head")?;
        ensure!(read > 0, "a head that breaks off");
        if head.ends_with("\r\n\r\n") {
            return Ok(head);
        }
    }
    anyhow::bail!("a head without an end")
}
