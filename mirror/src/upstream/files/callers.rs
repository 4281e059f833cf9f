//! Files that are read in the name of a caller, with the headers it has shown. What a caller shows goes to
//! the host it was shown for: redirects are not followed.

use std::ops::Range;

use darner_proto::file::Located;
use http::{HeaderMap, Method};
use tokio::time::timeout;
use url::Url;

use super::{Fault, FileHead, Files, HEADERS_TIMEOUT, Inner, described, timely};
use crate::upstream::{BlobBody, UpstreamError};

impl Files {
    /// What the host says of the file at `url` to who shows these headers.
    pub async fn head_as(&self, url: &Url, shown: &HeaderMap) -> Result<FileHead, UpstreamError> {
        let head = self.inner().head_as(url, shown).await;
        head.map_err(|fault| self.blamed(url, fault))
    }

    /// As [`Files::read`], for who shows these headers.
    ///
    /// # Errors
    /// As there.
    pub async fn read_as(
        &self,
        located: &Located,
        part: (Range<u64>, u64),
        shown: &HeaderMap,
    ) -> Result<BlobBody, UpstreamError> {
        self.read_by(located, part, Some(shown)).await
    }
}

impl Inner {
    async fn head_as(&self, url: &Url, shown: &HeaderMap) -> Result<FileHead, Fault> {
        let permit = timeout(HEADERS_TIMEOUT, self.slots.take(false)).await;
        let _permit = permit.unwrap_or(Err(Fault::Full))?;
        let mut answer = timely(self.ask(&Method::HEAD, url, shown)).await?;
        Ok(described(&mut answer))
    }
}
