//! The client against a registry that answers as each test says.

mod auth;
mod blobs;
mod certificates;
mod faults;
mod files;
mod logins;
mod manifests;
mod mirrors;
mod relays;
mod replaced;
mod scripted;

use std::sync::LazyLock;

use darner_service::settings::Credentials;
use http::{HeaderMap, Method};
use scripted::Scripted;

use super::*;

/// What no error and no log may show.
const CANARY: &str = "canary-5ecre7";

struct Client {
    upstreams: Upstreams,
    metrics: Metrics,
    upstream: Upstream,
}

fn settings(url: String) -> settings::Upstream {
    settings::Upstream::new("r.example".parse().unwrap(), url, 4)
}

fn credentials() -> Option<Credentials> {
    static FILE: LazyLock<tempfile::TempPath> = LazyLock::new(|| file(CANARY));
    Some(Credentials {
        username: "operator".to_owned(),
        password_file: FILE.to_path_buf(),
    })
}

/// A file with this text.
fn file(text: &str) -> tempfile::TempPath {
    let path = tempfile::NamedTempFile::new().unwrap().into_temp_path();
    std::fs::write(&path, text).unwrap();
    path
}

fn client(settings: settings::Upstream) -> Client {
    let metrics = Metrics::default();
    let name = settings.name.clone();
    let upstreams = Upstreams::new(&[settings], &metrics, &Shutdown::default()).unwrap();
    let upstream = upstreams.get(&name).unwrap();
    Client {
        upstreams,
        metrics,
        upstream,
    }
}

/// A client of `registry` without credentials.
fn plain(registry: &Scripted) -> Upstream {
    client(settings(registry.url())).upstream
}

/// A client of `registry` with the operator's credentials.
fn configured(registry: &Scripted) -> Upstream {
    let settings = settings::Upstream {
        credentials: credentials(),
        ..settings(registry.url())
    };
    client(settings).upstream
}

fn repository() -> RepositoryName {
    "team/app".parse().unwrap()
}

fn tag() -> Reference {
    "latest".parse().unwrap()
}

/// An error and everything below it, as logs could show it.
fn everything(error: &UpstreamError) -> String {
    let mut text = format!("{error:?} {error}");
    let mut cause = std::error::Error::source(error);
    while let Some(error) = cause {
        text = format!("{text} {error:?} {error}");
        cause = error.source();
    }
    text
}

impl Client {
    fn exposition(&self) -> String {
        let mut text = String::new();
        self.metrics
            .register(|registry| prometheus_client::encoding::text::encode(&mut text, registry))
            .unwrap();
        text
    }
}
