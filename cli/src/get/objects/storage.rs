//! The library's clients for each kind of storage.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use futures_util::{StreamExt as _, TryStreamExt as _};
use object_store::ObjectStore;
use object_store::aws::{AmazonS3, AmazonS3Builder, AmazonS3ConfigKey};
use object_store::azure::{MicrosoftAzure, MicrosoftAzureBuilder};
use object_store::gcp::{GoogleCloudStorage, GoogleCloudStorageBuilder};
use object_store::path::Path;
use object_store::signer::Signer;
use reqwest::{Method, Url};

use super::super::GetError;
use super::super::listing;
use super::azure::Signing;
use super::heard::Heard;

/// How long a signature counts: a large file takes this long from a slow storage, and each node that
/// takes part reads with it.
const SIGNED_FOR: Duration = Duration::from_secs(6 * 3600);

/// A bucket.
pub(super) struct Storage {
    objects: Arc<dyn ObjectStore>,
    signer: Arc<dyn Signer>,
    heard: Heard,
}

impl Storage {
    /// The bucket of `url`, with the credentials of the environment.
    pub(super) fn of(url: &Url, profile: &str) -> Result<Self, GetError> {
        let heard = Heard::default();
        let bucket = match url.scheme() {
            "s3" => s3(url, profile, &heard).map(|bucket| Self::from(bucket, heard)),
            "gs" => google(url, &heard).map(|bucket| Self::from(bucket, heard)),
            _ => azure(url, &heard).map(|bucket| Self::from(bucket, heard)),
        };
        bucket.map_err(|error| unknown(&error))
    }

    fn from<S: ObjectStore + Signer>(storage: S, heard: Heard) -> Self {
        let storage = Arc::new(storage);
        Self {
            objects: storage.clone(),
            signer: storage,
            heard,
        }
    }

    pub(super) async fn signed(&self, url: &Url) -> Result<Url, GetError> {
        let signed = self
            .signer
            .signed_url(Method::GET, &key(url)?, SIGNED_FOR)
            .await;
        signed.map_err(|error| self.failed(&error))
    }

    pub(super) async fn below(
        &self,
        start: &Url,
        most: usize,
    ) -> Result<Vec<(Url, PathBuf)>, GetError> {
        let prefix = key(start)?;
        let listed = self.objects.list(Some(&prefix)).take(most + 1);
        let mut listed = listed.map_err(|error| self.failed(&error));
        let mut found = Vec::new();
        while let Some(object) = listed.try_next().await? {
            if found.len() == most {
                return Err(GetError::TooMany { most });
            }
            let Some(parts) = object.location.prefix_match(&prefix) else {
                continue;
            };
            let names: Vec<_> = parts.map(|part| part.as_ref().to_owned()).collect();
            if names.is_empty() || !names.iter().all(|name| listing::is_name(name)) {
                continue;
            }
            let mut url = start.clone();
            if let Ok(mut path) = url.path_segments_mut() {
                path.clear().extend(object.location.parts());
            }
            found.push((url, names.iter().collect()));
        }
        match found.is_empty() {
            true => Err(GetError::NoFiles),
            false => Ok(found),
        }
    }

    /// An answer tells more than the library's words for it.
    fn failed(&self, error: &object_store::Error) -> GetError {
        match self.heard.refusal() {
            Some((host, status)) => GetError::StorageRefuses { host, status },
            None => unknown(error),
        }
    }
}

fn key(url: &Url) -> Result<Path, GetError> {
    Path::from_url_path(url.path()).map_err(|error| unknown(&error.into()))
}

/// With the library's words; they have in them what led to it.
fn unknown(error: &object_store::Error) -> GetError {
    GetError::Storage(error.to_string())
}

/// The environment counts first, then the file that the tools of AWS keep; without either, what the
/// machine itself is given.
fn s3(url: &Url, profile: &str, heard: &Heard) -> object_store::Result<AmazonS3> {
    let mut builder = AmazonS3Builder::from_env().with_url(url.as_str());
    if builder
        .get_config_value(&AmazonS3ConfigKey::AccessKeyId)
        .is_none()
    {
        let home = std::env::home_dir().unwrap_or_default();
        let text = std::fs::read_to_string(home.join(".aws/credentials"));
        for (name, value) in in_profile(&text.unwrap_or_default(), profile) {
            // What else is in there is not about keys.
            if let Ok(key) = name.parse::<AmazonS3ConfigKey>() {
                builder = builder.with_config(key, value);
            }
        }
    }
    builder.with_http_connector(heard.clone()).build()
}

fn google(url: &Url, heard: &Heard) -> object_store::Result<GoogleCloudStorage> {
    let builder = GoogleCloudStorageBuilder::from_env().with_url(url.as_str());
    builder.with_http_connector(heard.clone()).build()
}

fn azure(url: &Url, heard: &Heard) -> object_store::Result<MicrosoftAzure> {
    let builder = MicrosoftAzureBuilder::from_env().with_url(url.as_str());
    let builder = builder.with_crypto_provider(Arc::new(Signing));
    builder.with_http_connector(heard.clone()).build()
}

/// What a file of the form that AWS uses says of a profile's keys.
fn in_profile<'a>(text: &'a str, profile: &str) -> Vec<(&'a str, &'a str)> {
    let header = format!("[{profile}]");
    let lines = text.lines().map(str::trim);
    let lines = lines.skip_while(|line| *line != header).skip(1);
    let lines = lines.take_while(|line| !line.starts_with('['));
    let pairs = lines.filter_map(|line| line.split_once('='));
    pairs
        .map(|(name, value)| (name.trim(), value.trim()))
        .filter(|(name, _)| name.starts_with("aws_"))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_those_of_the_profile() {
        let text = "# mine\n[default]\naws_access_key_id = A\naws_secret_access_key=B=\n\n[other]\naws_access_key_id=C\nregion = x\n";
        let expected = [("aws_access_key_id", "A"), ("aws_secret_access_key", "B=")];
        assert_eq!(in_profile(text, "default"), expected);
        assert_eq!(in_profile(text, "other"), [("aws_access_key_id", "C")]);
        assert_eq!(in_profile(text, "none"), []);
        for (name, _) in expected {
            assert!(name.parse::<AmazonS3ConfigKey>().is_ok(), "{name}");
        }
    }

    #[test]
    fn without_an_account_there_is_no_storage() {
        let url: Url = "az://container/key".parse().unwrap();
        assert!(Storage::of(&url, "none").is_err(), "no account is known");
    }
}
