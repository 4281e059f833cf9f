//! The body of an answer on its way to the client: counts what is sent, and holds what must live as
//! long as the answer does.

use std::pin::Pin;
use std::task::{Context, Poll};

use axum::body::{Body, Bytes};
use http_body::{Frame, SizeHint};
use prometheus_client::metrics::counter::Counter;
use tokio::sync::OwnedSemaphorePermit;

use super::metrics::{RegistryMetrics, Trouble};

/// A body that is being sent.
#[derive(Debug)]
pub(super) struct Outgoing {
    body: Body,
    sent: Option<Counter>,
    metrics: RegistryMetrics,
    _place: Option<OwnedSemaphorePermit>,
}

impl Outgoing {
    /// `sent` counts the bytes, when they are content.
    pub(super) fn new(
        body: Body,
        sent: Option<Counter>,
        metrics: RegistryMetrics,
        place: Option<OwnedSemaphorePermit>,
    ) -> Self {
        Self {
            body,
            sent,
            metrics,
            _place: place,
        }
    }
}

impl http_body::Body for Outgoing {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        let frame = Pin::new(&mut self.body).poll_frame(context);
        match &frame {
            Poll::Ready(Some(Ok(frame))) => {
                if let (Some(sent), Some(bytes)) = (&self.sent, frame.data_ref()) {
                    sent.inc_by(bytes.len() as u64);
                }
            }
            // The server breaks the connection: the client must not take this for the end.
            Poll::Ready(Some(Err(error))) => {
                tracing::warn!(%error, "an answer is cut off: its content does not go on");
                self.metrics.trouble(Trouble::Cut);
            }
            Poll::Ready(None) | Poll::Pending => {}
        }
        frame
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
