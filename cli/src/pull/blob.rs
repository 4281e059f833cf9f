//! One blob, from the mirror into the layout, or past its digest to nowhere, however often it is cut
//! on the way.

use std::time::Duration;

use darner_proto::digest::Hasher;

use super::PullError;
use super::client::{Client, blob_name, cut};
use super::layout::{Finished, Layout, Partial};
use super::manifests::Blob;
use super::progress::{Event, Watch};

/// Attempts in a row that may bring nothing: with the pauses, a mirror may be away for six seconds.
const FRUITLESS: u32 = 5;
/// Before the first new attempt; twice as long before each that follows.
const PAUSE: Duration = Duration::from_millis(200);

/// Makes the layout hold `blob`; gives the bytes that had to come through the mirror for it.
pub(super) async fn fetch(
    client: &Client,
    layout: &Layout,
    blob: &Blob,
    watch: &impl Watch,
) -> Result<u64, PullError> {
    if layout.holds(&blob.digest, blob.size).await? {
        watch.see(Event::Kept { blob });
        return Ok(0);
    }
    let partial = layout.begin(&blob.digest, blob.size).await?;
    let left = partial.len();
    let mut transfer = Transfer {
        client,
        blob,
        watch,
        partial,
        brought: 0,
    };
    transfer.complete().await?;
    let found = match transfer.partial.finish().await? {
        Finished::Held => {
            watch.see(Event::Finished { blob });
            return Ok(transfer.brought);
        }
        Finished::Wrong(found) => found,
    };
    let what = blob_name(&blob.digest);
    if left == 0 {
        return Err(PullError::WrongBytes { what, found });
    }
    // What an earlier pull had left may be to blame: once more, from nothing.
    transfer.partial = layout.begin(&blob.digest, blob.size).await?;
    transfer.complete().await?;
    match transfer.partial.finish().await? {
        Finished::Held => {
            watch.see(Event::Finished { blob });
            Ok(transfer.brought)
        }
        Finished::Wrong(found) => Err(PullError::WrongBytes { what, found }),
    }
}

/// Reads `blob` and keeps nothing of it; gives the bytes that came.
pub(super) async fn check(
    client: &Client,
    blob: &Blob,
    watch: &impl Watch,
) -> Result<u64, PullError> {
    let mut transfer = Transfer {
        client,
        blob,
        watch,
        partial: Read {
            hasher: blob.digest.hasher(),
            len: 0,
        },
        brought: 0,
    };
    transfer.complete().await?;
    let found = transfer.partial.hasher.finish();
    if found != blob.digest {
        let what = blob_name(&blob.digest);
        return Err(PullError::WrongBytes { what, found });
    }
    watch.see(Event::Finished { blob });
    Ok(transfer.brought)
}

/// Where the bytes of a blob go, in order.
trait Sink {
    /// Bytes that are there.
    fn len(&self) -> u64;

    /// Adds bytes.
    async fn write(&mut self, bytes: &[u8]) -> Result<(), PullError>;
}

impl Sink for Partial {
    fn len(&self) -> u64 {
        self.len()
    }

    async fn write(&mut self, bytes: &[u8]) -> Result<(), PullError> {
        self.write(bytes).await
    }
}

/// Bytes that were read, and are gone.
struct Read {
    hasher: Hasher,
    len: u64,
}

impl Sink for Read {
    fn len(&self) -> u64 {
        self.len
    }

    async fn write(&mut self, bytes: &[u8]) -> Result<(), PullError> {
        self.hasher.update(bytes);
        self.len += bytes.len() as u64;
        Ok(())
    }
}

struct Transfer<'a, W, S> {
    client: &'a Client,
    blob: &'a Blob,
    watch: &'a W,
    partial: S,
    /// Bytes that came, those that were there already or came twice included.
    brought: u64,
}

impl<W: Watch, S: Sink> Transfer<'_, W, S> {
    /// Brings the partial to the blob's size.
    async fn complete(&mut self) -> Result<(), PullError> {
        let mut fruitless = 0;
        while self.partial.len() < self.blob.size {
            let before = self.partial.len();
            let Err(error) = self.attempt().await else {
                continue;
            };
            if self.partial.len() > before {
                fruitless = 0;
            }
            fruitless += 1;
            if !error.may_pass() || fruitless > FRUITLESS {
                return Err(error);
            }
            let blob = self.blob;
            self.watch.see(Event::Cut {
                blob,
                at: self.partial.len(),
                error: &error,
            });
            tokio::time::sleep(PAUSE * (1 << (fruitless - 1))).await;
        }
        Ok(())
    }

    /// One request, from where the partial ends.
    async fn attempt(&mut self) -> Result<(), PullError> {
        let Blob { digest, size } = self.blob;
        let what = blob_name(digest);
        let held = self.partial.len();
        let mut body = self.client.blob(digest, held, *size).await?;
        self.watch.see(Event::Opened {
            blob: self.blob,
            at: held,
            source: body.source.as_deref(),
        });
        // A mirror without ranges begins from the beginning.
        let mut known = held - body.at;
        let mut came = body.at;
        loop {
            let chunk = body.response.chunk().await;
            let Some(mut chunk) = chunk.map_err(|error| cut(&what, Some(error)))? else {
                break;
            };
            let length = chunk.len() as u64;
            came += length;
            self.brought += length;
            if came > *size {
                return Err(PullError::WrongSize {
                    what,
                    expected: *size,
                    found: came,
                });
            }
            let skipped = known.min(length);
            known -= skipped;
            // No larger than the chunk.
            let fresh = chunk.split_off(skipped as usize);
            self.partial.write(&fresh).await?;
            self.watch.see(Event::Received {
                blob: self.blob,
                bytes: fresh.len() as u64,
            });
        }
        if self.partial.len() < *size {
            return Err(cut(&what, None));
        }
        Ok(())
    }
}
