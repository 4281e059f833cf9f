//! A store with a few texts in it, for the tests of all who look through what is held.

use bytes::Bytes;
use darner_proto::digest::Digest;
use darner_proto::name::Source;
use darner_service::metrics::Metrics;
use serde_json::json;

use crate::store::{Options, Store};

pub(crate) struct Fixture {
    pub(crate) store: Store,
    _directory: tempfile::TempDir,
}

pub(crate) fn fixture() -> Fixture {
    let directory = tempfile::tempdir().unwrap();
    let options = Options::new(directory.path().join("store"), Some(1 << 24));
    let store = Store::open(options, &Metrics::default()).unwrap();
    Fixture {
        store,
        _directory: directory,
    }
}

impl Fixture {
    pub(crate) async fn put(&self, text: &str) -> Digest {
        let digest = digest(text);
        let bytes = Bytes::from(text.to_owned());
        self.store.put(&digest, bytes).await.unwrap();
        digest
    }
}

pub(crate) fn digest(text: &str) -> Digest {
    Digest::sha256(text.as_bytes())
}

pub(crate) fn source(repository: &str) -> Source {
    Source {
        registry: "docker.io".parse().unwrap(),
        repository: repository.parse().unwrap(),
    }
}

/// How a manifest lists a text.
pub(crate) fn entry(text: &str) -> serde_json::Value {
    json!({ "digest": digest(text).to_string(), "size": text.len() })
}
