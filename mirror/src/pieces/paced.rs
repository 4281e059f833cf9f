//! Content on its way to peers, as fast as the node's limit allows.

use std::io;

use futures_util::stream::{self, BoxStream};
use futures_util::{Stream, StreamExt as _};

use crate::bandwidth::Limit;
use crate::store::{MAX_SPAN, Span};

/// The same bytes, as fast as `limit` allows, in parts that leave others their turn.
pub(super) fn paced(
    spans: BoxStream<'static, io::Result<Span>>,
    limit: Limit,
) -> impl Stream<Item = io::Result<Span>> + Send + 'static {
    let begin = (spans, None::<Span>, limit);
    stream::try_unfold(begin, |(mut spans, left, limit)| async move {
        let next = match left {
            Some(left) => Some(left),
            None => spans.next().await.transpose()?,
        };
        let Some(mut span) = next else {
            return Ok(None);
        };
        let part = span.split_to(limit.turn(MAX_SPAN));
        limit.take(part.len()).await;
        let left = (!span.is_empty()).then_some(span);
        Ok(Some((part, (spans, left, limit))))
    })
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use super::*;
    use crate::store::{Options, Store};
    use bytes::Bytes;
    use darner_proto::digest::Digest;
    use darner_service::metrics::Metrics;

    #[tokio::test]
    async fn a_limit_cuts_and_delays_and_loses_nothing() {
        let directory = tempfile::tempdir().unwrap();
        let options = Options::new(directory.path().join("store"), Some(1 << 30));
        let store = Store::open(options, &Metrics::default()).unwrap();
        let bytes = Bytes::from(vec![7; 300_001]);
        let digest = Digest::sha256(&bytes);
        store.put(&digest, bytes).await.unwrap();
        let spans = || store.get(&digest).unwrap().spans(0..300_001).boxed();

        let whole: Vec<_> = paced(spans(), Limit::default()).collect().await;
        assert_eq!(whole.len(), 1);
        let limit = Limit::of(1_000_000);
        let begun = Instant::now();
        let mut next = 0;
        let mut parts = std::pin::pin!(paced(spans(), limit.clone()));
        while let Some(part) = parts.next().await {
            let part = part.unwrap();
            assert_eq!(part.start(), next);
            assert!(part.len() <= limit.turn(MAX_SPAN));
            next += part.len();
        }
        assert_eq!(next, 300_001);
        // The last part goes out when all before it are paid for, less what a pause has left.
        assert!(begun.elapsed() >= Duration::from_millis(250));
    }
}
