//! Bytes from upstream that go to a client without being stored.
//!
//! The whole of a content keeps its tail back until the digest has matched, as a download does: a
//! client can see a broken connection, but never a complete wrong blob. A part cannot be checked
//! here; the client that puts the parts together does.

use std::io;
use std::ops::Range;

use axum::body::Bytes;
use bytes::BytesMut;
use darner_proto::digest::{Digest, Hasher};
use futures_util::{Stream, StreamExt as _};

use crate::task::follower::HELD_BACK;

/// The bytes of `range` out of `chunks`, which begin at `offset`. An end before they are all there
/// is an error.
pub(super) fn cut<S>(
    chunks: S,
    offset: u64,
    range: Range<u64>,
) -> impl Stream<Item = io::Result<Bytes>> + Send + Unpin
where
    S: Stream<Item = io::Result<Bytes>> + Send + Unpin,
{
    let skip = range.start.saturating_sub(offset);
    let left = range.end - range.start;
    let state = (chunks, skip, left);
    Box::pin(futures_util::stream::try_unfold(
        state,
        |(mut chunks, mut skip, mut left)| async move {
            while left > 0 {
                let Some(chunk) = chunks.next().await else {
                    return Err(io::ErrorKind::UnexpectedEof.into());
                };
                let bytes = clip(chunk?, &mut skip, &mut left);
                if !bytes.is_empty() {
                    return Ok(Some((bytes, (chunks, skip, left))));
                }
            }
            Ok(None)
        },
    ))
}

/// What of `chunk` lies beyond the next `skip` bytes and within the `left` after those.
fn clip(mut chunk: Bytes, skip: &mut u64, left: &mut u64) -> Bytes {
    let skipped = (*skip).min(chunk.len() as u64);
    let kept = (*left).min(chunk.len() as u64 - skipped);
    *skip -= skipped;
    *left -= kept;
    // Both are at most the chunk's length.
    let (skipped, kept) = (skipped as usize, kept as usize);
    chunk.split_off(skipped).slice(..kept)
}

/// All of `chunks`, the last bytes only if the whole has the digest.
pub(super) fn checked<S>(chunks: S, digest: Digest) -> impl Stream<Item = io::Result<Bytes>> + Send
where
    S: Stream<Item = io::Result<Bytes>> + Send + Unpin,
{
    let state = Some((chunks, Tail::new(digest)));
    futures_util::stream::unfold(state, |state| async move {
        let (mut chunks, mut tail) = state?;
        loop {
            match chunks.next().await {
                Some(Ok(chunk)) => {
                    let bytes = tail.push(&chunk);
                    if !bytes.is_empty() {
                        return Some((Ok(bytes), Some((chunks, tail))));
                    }
                }
                Some(Err(error)) => return Some((Err(error), None)),
                None => return Some((tail.finish(), None)),
            }
        }
    })
}

struct Tail {
    digest: Digest,
    hasher: Hasher,
    held: BytesMut,
}

impl Tail {
    fn new(digest: Digest) -> Self {
        Self {
            hasher: digest.hasher(),
            digest,
            held: BytesMut::new(),
        }
    }

    /// Takes bytes in and gives out those that need not be held any more.
    fn push(&mut self, chunk: &[u8]) -> Bytes {
        self.hasher.update(chunk);
        self.held.extend_from_slice(chunk);
        let free = self.held.len().saturating_sub(HELD_BACK as usize);
        self.held.split_to(free).freeze()
    }

    fn finish(self) -> io::Result<Bytes> {
        if self.hasher.finish() == self.digest {
            Ok(self.held.freeze())
        } else {
            Err(io::Error::new(
                io::ErrorKind::InvalidData,
                "the registry's bytes do not have the digest",
            ))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures_util::stream;
    use proptest::prelude::*;

    fn chunks(
        bytes: &[u8],
        size: usize,
    ) -> impl Stream<Item = io::Result<Bytes>> + Send + Unpin + use<> {
        let chunks: Vec<_> = bytes
            .chunks(size)
            .map(|chunk| Ok(Bytes::copy_from_slice(chunk)))
            .collect();
        stream::iter(chunks)
    }

    async fn drain(
        stream: impl Stream<Item = io::Result<Bytes>>,
    ) -> (Vec<u8>, Option<io::ErrorKind>) {
        let mut stream = std::pin::pin!(stream);
        let mut bytes = Vec::new();
        while let Some(chunk) = stream.next().await {
            match chunk {
                Ok(chunk) => bytes.extend_from_slice(&chunk),
                Err(error) => return (bytes, Some(error.kind())),
            }
        }
        (bytes, None)
    }

    fn run<T>(future: impl Future<Output = T>) -> T {
        let runtime = tokio::runtime::Builder::new_current_thread().build();
        runtime.unwrap().block_on(future)
    }

    proptest! {
        #[test]
        fn a_range_is_cut_out_of_any_chunks(
            length in 1usize..300,
            size in 1usize..40,
            start in 0usize..300,
            end in 0usize..300,
            offset in 0usize..300,
        ) {
            let bytes: Vec<_> = (0..length).map(|n| n as u8).collect();
            let start = start.min(length);
            let end = end.clamp(start, length);
            let offset = offset.min(start);
            let cut = cut(chunks(&bytes[offset..], size), offset as u64, start as u64..end as u64);
            prop_assert_eq!(run(drain(cut)), (bytes[start..end].to_vec(), None));
        }

        #[test]
        fn right_bytes_come_through_whole(length in 0usize..200_000, size in 1usize..100_000) {
            let bytes = vec![7; length];
            let checked = checked(chunks(&bytes, size), Digest::sha256(&bytes));
            prop_assert_eq!(run(drain(checked)), (bytes, None));
        }
    }

    #[test]
    fn an_early_end_is_an_error() {
        let cut = cut(chunks(b"abc", 2), 0, 1..5);
        assert_eq!(
            run(drain(cut)),
            (b"bc".to_vec(), Some(io::ErrorKind::UnexpectedEof))
        );
    }

    #[test]
    fn wrong_bytes_never_come_through_whole() {
        let bytes = vec![7; 100_000];
        let checked = checked(chunks(&bytes, 1000), Digest::sha256(b"other"));
        let (sent, error) = run(drain(checked));
        assert_eq!(sent.len(), 100_000 - HELD_BACK as usize);
        assert_eq!(error, Some(io::ErrorKind::InvalidData));
    }
}
