//! A part of an open file on its way out: what a connection sends from the file itself, or reads.
//!
//! The bytes of a span never change: content is complete, and a piece of a download that is held is
//! never written again. Whoever has a span has the file open, whatever the store does meanwhile.

use std::fs::File;
use std::io::{self, IoSliceMut};
use std::ops::Range;
use std::os::unix::fs::FileExt as _;

use bytes::Bytes;
use futures_util::Stream;
use rustix::fs::Advice;
use rustix::io::ReadWriteFlags;

use super::content::Content;
use super::disk::CHUNK;
use super::partial::Partial;
use super::{StoreError, blocking};

/// The longest span that a stream gives out: large enough that what is done once a span does not
/// count, small enough that a cold one is soon read.
pub const MAX_SPAN: u64 = CHUNK;
/// How far ahead of a reader the disk is told to read once a reader has met bytes that are not in
/// memory.
const READ_AHEAD: u64 = 4 << 20;
/// Bytes between the places at which a cold span is touched: what a kernel reads ahead by itself.
const TOUCH: u64 = 128 << 10;

/// Bytes of a file.
#[derive(Debug, Clone)]
pub struct Span {
    origin: Origin,
    range: Range<u64>,
}

#[derive(Debug, Clone)]
enum Origin {
    Content(Content),
    Partial(Partial),
}

/// The spans of `range`, as `cut` makes them.
pub(super) fn in_order(
    range: Range<u64>,
    cut: impl Fn(Range<u64>) -> Result<Span, StoreError> + Send + 'static,
) -> impl Stream<Item = io::Result<Span>> + Send + 'static {
    futures_util::stream::try_unfold((cut, range), |(cut, left)| async move {
        if left.is_empty() {
            return Ok(None);
        }
        let end = left.end.min(left.start + MAX_SPAN);
        let span = cut(left.start..end).map_err(io::Error::other)?;
        span.warm().await.map_err(io::Error::other)?;
        Ok(Some((span, (cut, end..left.end))))
    })
}

impl Span {
    pub(super) fn of_content(content: Content, range: Range<u64>) -> Self {
        let origin = Origin::Content(content);
        Self { origin, range }
    }

    pub(super) fn of_partial(partial: Partial, range: Range<u64>) -> Self {
        let origin = Origin::Partial(partial);
        Self { origin, range }
    }

    /// The open file.
    pub fn file(&self) -> &File {
        match &self.origin {
            Origin::Content(content) => content.file(),
            Origin::Partial(partial) => partial.file(),
        }
    }

    /// Where in the file it begins.
    pub fn start(&self) -> u64 {
        self.range.start
    }

    /// Bytes it has.
    pub fn len(&self) -> u64 {
        self.range.end - self.range.start
    }

    /// Takes the first `length` bytes off, or all there are.
    pub fn split_to(&mut self, length: u64) -> Self {
        let at = self.range.end.min(self.range.start.saturating_add(length));
        let first = Self {
            origin: self.origin.clone(),
            range: self.range.start..at,
        };
        self.range.start = at;
        first
    }

    /// Whether it has none.
    pub fn is_empty(&self) -> bool {
        self.range.is_empty()
    }

    /// Leaves out the next `bytes` bytes, which have been sent.
    pub fn advance(&mut self, bytes: u64) {
        self.range.start = self.range.end.min(self.range.start + bytes);
    }

    /// Its bytes, all of them.
    ///
    /// # Errors
    /// As [`Content::read`] and [`Partial::read`].
    pub async fn read(self) -> Result<Bytes, StoreError> {
        match self.origin {
            Origin::Content(content) => content.read(self.range).await,
            Origin::Partial(partial) => partial.read(self.range).await,
        }
    }

    /// Sees to it that sending it from the file does not wait for the disk: a thread of an
    /// asynchronous runtime would wait.
    ///
    /// # Errors
    /// When the disk cannot read it. Content is withdrawn then, so that it is had again.
    pub async fn warm(&self) -> Result<(), StoreError> {
        if self.is_resident() {
            return Ok(());
        }
        let span = self.clone();
        blocking(move || span.warm_now()).await?
    }

    /// Whether the file's first and last byte here are in memory. Files are read, and evicted from
    /// memory, in order, so those between rarely are not; then one thread waits for the disk once.
    fn is_resident(&self) -> bool {
        let last = self.range.end.saturating_sub(1);
        [self.range.start, last].into_iter().all(|at| {
            let mut byte = [0];
            let buffers = &mut [IoSliceMut::new(&mut byte)];
            // A file system that cannot tell is taken to be cold.
            rustix::io::preadv2(self.file(), buffers, at, ReadWriteFlags::NOWAIT).is_ok()
        })
    }

    fn warm_now(&self) -> Result<(), StoreError> {
        let ahead = std::num::NonZero::new(READ_AHEAD);
        // Advice: without it reading only takes longer.
        let _ = rustix::fs::fadvise(self.file(), self.range.start, ahead, Advice::WillNeed);
        let mut byte = [0];
        let last = self.range.end.saturating_sub(1);
        let mut at = self.range.start;
        loop {
            self.file()
                .read_exact_at(&mut byte, at)
                .map_err(|error| self.failed(error))?;
            if at >= last {
                return Ok(());
            }
            at = last.min(at + TOUCH);
        }
    }

    fn failed(&self, error: io::Error) -> StoreError {
        match &self.origin {
            Origin::Content(content) => content.unreadable(error),
            Origin::Partial(partial) => partial.unreadable(error),
        }
    }
}
