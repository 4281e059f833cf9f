//! The front end of a whole mirror, as clients meet it.

use std::net::SocketAddr;
use std::time::Duration;

use axum::http::StatusCode;
use darner_service::config::{self, Command, Flag, Sources};
use darner_service::health::Health;
use darner_service::metrics::Metrics;
use darner_service::settings::Settings;
use darner_service::shutdown::Shutdown;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::resolve::tests::fake::{Fake, IMAGE};
use crate::server::Mirror;

mod connections;
mod content;
mod crowd;
mod lists;
mod private;
mod refusals;

struct Front {
    address: SocketAddr,
    pieces: SocketAddr,
    client: reqwest::Client,
    shutdown: Shutdown,
    _directory: tempfile::TempDir,
}

impl Front {
    async fn start(fake: &Fake) -> Self {
        Self::with(fake, |_| ()).await
    }

    async fn with(fake: &Fake, change: impl FnOnce(&mut Settings)) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let mut settings = settings(directory.path(), fake);
        settings.store.capacity = Some(1 << 30);
        change(&mut settings);
        let shutdown = Shutdown::default();
        let metrics = Metrics::default();
        let mirror = Mirror::bind(
            &settings,
            &metrics,
            &Health::default(),
            darner_service::identity::Identity::insecure(&Default::default()),
            &shutdown,
        )
        .await
        .unwrap();
        let [(_, address), (_, pieces)] = mirror.addresses()[..] else {
            panic!("there are two listeners");
        };
        mirror.serve();
        Self {
            address,
            pieces,
            client: reqwest::Client::builder().no_proxy().build().unwrap(),
            shutdown,
            _directory: directory,
        }
    }

    async fn get(&self, path: &str) -> reqwest::Response {
        self.send(reqwest::Method::GET, path, &[]).await
    }

    async fn send(
        &self,
        method: reqwest::Method,
        path: &str,
        headers: &[(&str, &str)],
    ) -> reqwest::Response {
        let url = format!("http://{}{path}", self.address);
        let mut request = self.client.request(method, url);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        request.send().await.unwrap()
    }

    /// Waits until what was just served has been written down as well.
    async fn until_kept(&self, path: &str, headers: &[(&str, &str)]) {
        let kept = async {
            loop {
                let served = self.send(reqwest::Method::GET, path, headers).await;
                assert_eq!(served.status(), 200);
                if text(&served, "x-darner-source") == "store" {
                    return;
                }
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        let kept = tokio::time::timeout(Duration::from_secs(30), kept).await;
        kept.expect("it is kept");
    }

    /// Sends bytes as they are and reads until the front end hangs up.
    async fn raw(&self, bytes: &[u8]) -> String {
        let mut stream = TcpStream::connect(self.address).await.unwrap();
        stream.write_all(bytes).await.unwrap();
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).await.unwrap();
        String::from_utf8_lossy(&answer).into_owned()
    }
}

fn settings(directory: &std::path::Path, fake: &Fake) -> Settings {
    let set = [
        format!("data_dir={}", directory.display()),
        "node.id=me".to_owned(),
        "mirror.role=seed".to_owned(),
        "registry.listen=127.0.0.1:0".to_owned(),
        "pieces.listen=127.0.0.1:0".to_owned(),
        "identity.insecure=true".to_owned(),
    ];
    let sources = Sources {
        flags: set.iter().map(|setting| Flag::set(setting)).collect(),
        ..Sources::default()
    };
    let mut settings = config::load(Command::Mirror, &sources).unwrap();
    settings.upstreams = vec![fake.settings(Duration::from_secs(60))];
    settings.registry.default_upstream = "reg.test".parse().unwrap();
    settings
}

fn text(response: &reqwest::Response, name: &str) -> String {
    let value = response.headers().get(name);
    value.map_or(String::new(), |value| value.to_str().unwrap().to_owned())
}

async fn code(response: reqwest::Response) -> (u16, String) {
    assert!(!response.headers().contains_key("x-darner-source"));
    let status = response.status().as_u16();
    let body: serde_json::Value = serde_json::from_slice(&response.bytes().await.unwrap()).unwrap();
    (
        status,
        body["errors"][0]["code"].as_str().unwrap().to_owned(),
    )
}
