//! What stands before several managers: one address, and whoever of them answers.

use std::net::SocketAddr;

use anyhow::Result;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;

/// A balancer of TCP connections. It ends, and its connections with it, when this is dropped.
#[derive(Debug)]
pub struct Balancer {
    address: SocketAddr,
    _serving: JoinSet<()>,
}

impl Balancer {
    /// Gives each connection to the next of `backends` that takes it.
    pub async fn start(backends: Vec<SocketAddr>) -> Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let address = listener.local_addr()?;
        let mut serving = JoinSet::new();
        serving.spawn(async move {
            let mut connections = JoinSet::new();
            for turn in 0.. {
                let Ok((client, _)) = listener.accept().await else {
                    continue;
                };
                let mut order = backends.clone();
                order.rotate_left(turn % backends.len());
                connections.spawn(pass(client, order));
                while connections.try_join_next().is_some() {}
            }
        });
        Ok(Self {
            address,
            _serving: serving,
        })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }
}

async fn pass(mut client: TcpStream, backends: Vec<SocketAddr>) {
    for backend in backends {
        if let Ok(mut server) = TcpStream::connect(backend).await {
            // Either side may end it.
            let _ = tokio::io::copy_bidirectional(&mut client, &mut server).await;
            return;
        }
    }
}
