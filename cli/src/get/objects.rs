//! Objects in the storage of clouds: `s3://bucket/key`, `gs://bucket/key`, `az://container/key`.
//!
//! Who runs the command signs a URL for each, with the credentials of its own environment, and the
//! mirror is asked for what is at that URL as for any other. So the storage decides for whoever asks,
//! and no credential leaves this process: a signature is good for one object and for a while.

#[cfg(feature = "object-storage")]
mod azure;
#[cfg(feature = "object-storage")]
mod heard;
#[cfg(feature = "object-storage")]
mod storage;

use std::path::PathBuf;

use reqwest::Url;

use super::GetError;

/// How objects are called.
pub(super) const SCHEMES: [&str; 3] = ["s3", "gs", "az"];

/// Whoever reads objects, with its credentials.
#[derive(Debug)]
pub(super) struct Objects {
    #[cfg(feature = "object-storage")]
    profile: String,
}

impl Objects {
    /// With the credentials of `profile`, where the environment has none.
    pub(super) fn new(profile: &str) -> Self {
        #[cfg(feature = "object-storage")]
        let new = Self {
            profile: profile.to_owned(),
        };
        #[cfg(not(feature = "object-storage"))]
        let new = {
            let _ = profile;
            Self {}
        };
        new
    }

    /// A URL that the object at `url` can be read at.
    pub(super) async fn signed(&self, url: &Url) -> Result<Url, GetError> {
        #[cfg(feature = "object-storage")]
        return storage::Storage::of(url, &self.profile)?.signed(url).await;
        #[cfg(not(feature = "object-storage"))]
        return Err(unknown(url));
    }

    /// The objects below `start`, and where each goes; at most `most`.
    pub(super) async fn below(
        &self,
        start: &Url,
        most: usize,
    ) -> Result<Vec<(Url, PathBuf)>, GetError> {
        #[cfg(feature = "object-storage")]
        return storage::Storage::of(start, &self.profile)?
            .below(start, most)
            .await;
        #[cfg(not(feature = "object-storage"))]
        {
            let _ = most;
            return Err(unknown(start));
        }
    }
}

#[cfg(not(feature = "object-storage"))]
fn unknown(url: &Url) -> GetError {
    GetError::NoStorage {
        scheme: url.scheme().to_owned(),
    }
}
