//! A body on its way: counted, watched for stalls, checked for its length, and holding its place
//! among the connections until it ends.

use std::time::Duration;

use bytes::{Bytes, BytesMut};
use futures_util::StreamExt as _;
use futures_util::stream::{self, BoxStream};
use prometheus_client::metrics::counter::Counter;
use tokio::time::{Instant, timeout};
use tokio_util::sync::CancellationToken;

use super::error::{Fault, UpstreamError};
use super::limit::Permit;
use crate::bandwidth::Bandwidth;

/// A body as callers get it. After an error nothing follows.
pub type ByteStream = BoxStream<'static, Result<Bytes, UpstreamError>>;

/// Time spent waiting for bytes is looked at in windows of this length. It is also the longest
/// silence.
const WINDOW: Duration = Duration::from_secs(20);
/// Fewer bytes in a window (16 KiB/s) are a stall: the rest is fetched better elsewhere.
const FLOOR: u64 = 20 * (16 << 10);
/// Once all bytes that are due have come, the end of the body is not waited for longer than this.
const END: Duration = Duration::from_secs(1);

/// Judges the rate of a body by the time it kept us waiting, so that a slow reader on our side is
/// never taken for a slow upstream.
#[derive(Debug, Default)]
struct Pace {
    waited: Duration,
    received: u64,
}

impl Pace {
    /// How long the next bytes may take.
    fn allowance(&self) -> Duration {
        if self.received < FLOOR {
            WINDOW.saturating_sub(self.waited)
        } else {
            WINDOW
        }
    }

    fn took(&mut self, waited: Duration, received: usize) {
        self.waited += waited;
        self.received += received as u64;
        if self.received >= FLOOR && self.waited >= WINDOW {
            *self = Self::default();
        }
    }
}

/// The body of an answer.
#[derive(Debug)]
pub(super) struct Body {
    response: reqwest::Response,
    pace: Pace,
    /// Bytes that must come, when that is known.
    due: Option<u64>,
    got: u64,
    received: Counter,
    stop: CancellationToken,
    _permit: Option<Permit>,
}

impl Body {
    /// `received` counts its bytes; `permit` is given back at its end.
    pub(super) fn new(
        response: reqwest::Response,
        received: Counter,
        stop: CancellationToken,
        permit: Option<Permit>,
    ) -> Self {
        Self {
            response,
            pace: Pace::default(),
            due: None,
            got: 0,
            received,
            stop,
            _permit: permit,
        }
    }

    /// The body must have this many bytes.
    pub(super) fn with_length(mut self, due: u64) -> Self {
        self.due = Some(due);
        self
    }

    /// The next bytes; `None` at the end of a body that has the length it should have.
    pub(super) async fn next(&mut self) -> Result<Option<Bytes>, Fault> {
        let Some(chunk) = self.chunk().await? else {
            return match self.due {
                Some(due) if self.got < due => Err(Fault::Short { got: self.got, due }),
                _ => Ok(None),
            };
        };
        self.got += chunk.len() as u64;
        self.received.inc_by(chunk.len() as u64);
        if self.due.is_some_and(|due| self.got > due) {
            return Err(Fault::Nonsense("a body longer than it should be"));
        }
        Ok(Some(chunk))
    }

    async fn chunk(&mut self) -> Result<Option<Bytes>, Fault> {
        if self.due == Some(self.got) {
            // What was due has come, so whether the end comes properly does not matter any more.
            let end = timeout(END, self.response.chunk()).await;
            return Ok(end.ok().and_then(Result::ok).flatten());
        }
        let began = Instant::now();
        let next = timeout(self.pace.allowance(), self.response.chunk());
        let next = self.stop.run_until_cancelled(next).await;
        let chunk = next
            .ok_or(Fault::Stopping)?
            .map_err(|_| Fault::Stalled {
                floor: FLOOR,
                window: WINDOW,
            })?
            .map_err(Fault::broken)?;
        let length = chunk.as_ref().map_or(0, Bytes::len);
        self.pace.took(began.elapsed(), length);
        Ok(chunk)
    }

    /// The whole body, when it is not longer than `limit`.
    pub(super) async fn collect(mut self, limit: usize) -> Result<Bytes, Fault> {
        let mut whole = BytesMut::new();
        while let Some(chunk) = self.next().await? {
            if whole.len() + chunk.len() > limit {
                return Err(Fault::Nonsense("a body larger than any of its kind may be"));
            }
            whole.extend_from_slice(&chunk);
        }
        Ok(whole.freeze())
    }

    /// The body as a stream whose errors `blame` makes, as fast as `bandwidth` allows. Its place
    /// among the connections is free once it has ended, well or not.
    pub(super) fn into_stream(
        self,
        bandwidth: &Bandwidth,
        blame: impl Fn(Fault) -> UpstreamError + Send + 'static,
    ) -> ByteStream {
        let limits = [bandwidth.upstream.clone(), bandwidth.download.clone()];
        stream::try_unfold(
            (self, blame, limits),
            |(mut body, blame, limits)| async move {
                let Some(chunk) = body.next().await.map_err(&blame)? else {
                    return Ok(None);
                };
                for limit in &limits {
                    limit.take(chunk.len() as u64).await;
                }
                Ok(Some((chunk, (body, blame, limits))))
            },
        )
        .boxed()
    }
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use futures_util::Stream;

    use super::*;
    use crate::bandwidth::Limit;

    /// A body that comes in the given pieces, each after its delay in milliseconds.
    fn body(pieces: Vec<(u64, usize)>) -> Body {
        let pieces = stream::iter(pieces).then(|(delay, length)| async move {
            tokio::time::sleep(Duration::from_millis(delay)).await;
            Ok::<_, Infallible>(Bytes::from(vec![7; length]))
        });
        of(pieces)
    }

    fn of(pieces: impl Stream<Item = Result<Bytes, Infallible>> + Send + 'static) -> Body {
        let response = http::Response::new(reqwest::Body::wrap_stream(pieces));
        let stop = CancellationToken::new();
        Body::new(response.into(), Counter::default(), stop, None)
    }

    async fn drain(mut body: Body) -> (u64, Option<Fault>) {
        loop {
            match body.next().await {
                Ok(Some(_)) => {}
                Ok(None) => return (body.got, None),
                Err(fault) => return (body.got, Some(fault)),
            }
        }
    }

    #[tokio::test(start_paused = true)]
    async fn silence_is_a_stall_after_twenty_seconds() {
        let began = Instant::now();
        let (got, fault) = drain(body(vec![(0, 1 << 20), (60_000, 1)])).await;
        assert_eq!(got, 1 << 20);
        assert!(matches!(fault, Some(Fault::Stalled { .. })), "{fault:?}");
        assert_eq!(began.elapsed().as_secs(), 20);
    }

    #[tokio::test(start_paused = true)]
    async fn a_trickle_is_a_stall_after_twenty_seconds() {
        let began = Instant::now();
        let (got, fault) = drain(body(vec![(1000, 15 << 10); 100])).await;
        assert!(matches!(fault, Some(Fault::Stalled { .. })), "{fault:?}");
        assert!((19..=20).contains(&(got / (15 << 10))), "{got}");
        assert_eq!(began.elapsed().as_secs(), 20);
    }

    #[tokio::test(start_paused = true)]
    async fn a_slow_but_steady_body_is_no_stall() {
        let (got, fault) = drain(body(vec![(1000, 20 << 10); 100])).await;
        assert!(fault.is_none(), "{fault:?}");
        assert_eq!(got, 100 * (20 << 10));
    }

    #[tokio::test(start_paused = true)]
    async fn a_slow_reader_is_not_blamed_on_upstream() {
        let mut body = body(vec![(0, 1024); 10]);
        for _ in 0..10 {
            tokio::time::sleep(Duration::from_secs(30)).await;
            assert_eq!(body.next().await.unwrap().unwrap().len(), 1024);
        }
        assert!(body.next().await.unwrap().is_none());
    }

    #[tokio::test(start_paused = true)]
    async fn lengths_are_held() {
        let (got, fault) = drain(body(vec![(0, 10)]).with_length(11)).await;
        assert!(matches!(fault, Some(Fault::Short { got: 10, due: 11 })));
        assert_eq!(got, 10);
        let (_, fault) = drain(body(vec![(0, 10), (0, 1)]).with_length(10)).await;
        assert!(matches!(fault, Some(Fault::Nonsense(_))));
        let (_, fault) = drain(body(vec![(0, 10)]).with_length(10)).await;
        assert!(fault.is_none());
    }

    #[tokio::test(start_paused = true)]
    async fn a_whole_body_does_not_wait_for_its_end() {
        let began = Instant::now();
        let endless = stream::iter([Ok(Bytes::from_static(b"all"))]).chain(stream::pending());
        let (got, fault) = drain(of(endless).with_length(3)).await;
        assert!(fault.is_none() && got == 3, "{fault:?}");
        assert_eq!(began.elapsed(), END);
    }

    #[tokio::test(start_paused = true)]
    async fn a_stop_ends_a_body() {
        let body = body(vec![(10_000, 1)]);
        body.stop.cancel();
        let (_, fault) = drain(body).await;
        assert!(matches!(fault, Some(Fault::Stopping)));
    }

    #[tokio::test(start_paused = true)]
    async fn a_limited_body_takes_its_time_and_is_no_stall() {
        let mut bandwidth = Bandwidth::default();
        bandwidth.upstream = Limit::of(1 << 10);
        let began = Instant::now();
        let name = "registry.test".parse().unwrap();
        let blame = move |fault| UpstreamError::new(&name, fault);
        let chunks = body(vec![(0, 1 << 10); 60]).into_stream(&bandwidth, blame);
        let chunks: Vec<_> = chunks.collect().await;
        assert!(chunks.len() == 60 && chunks.iter().all(Result::is_ok));
        assert!((58..=59).contains(&began.elapsed().as_secs()));
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_collected_is_bounded() {
        let whole = body(vec![(0, 6), (0, 4)]).collect(10).await.unwrap();
        assert_eq!(whole.len(), 10);
        assert!(body(vec![(0, 6), (0, 5)]).collect(10).await.is_err());
    }
}
