//! What other members of a cluster without servers ask: packets, and who lives. It is passed on; what
//! it means is [`darner_service::gossip`]'s business.

use axum::body::Body;
use axum::extract::{Extension, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse as _, Response};
use darner_proto::gossip::MAX_PACKET;
use darner_proto::invalid::Invalid;
use darner_service::identity::Caller;
use tokio::time::timeout;

use super::{REQUEST_TIMEOUT, Refusal, Serving};

/// Takes in a packet.
pub(super) async fn receive(
    State(serving): State<Serving>,
    Extension(caller): Extension<Caller>,
    body: Body,
) -> Result<Response, Refusal> {
    let gossip = serving.gossip.ok_or(Refusal::NotHeld)?;
    let packet = timeout(REQUEST_TIMEOUT, axum::body::to_bytes(body, MAX_PACKET)).await;
    let Ok(Ok(packet)) = packet else {
        return Err(Invalid::new("packet", "does not come, or is longer than 8 KiB").into());
    };
    Ok(match gossip.receive(&caller, packet).await {
        Some(answer) => answer.into_response(),
        None => StatusCode::SERVICE_UNAVAILABLE.into_response(),
    })
}

/// Says who lives.
pub(super) async fn list(State(serving): State<Serving>) -> Result<Response, Refusal> {
    let gossip = serving.gossip.ok_or(Refusal::NotHeld)?;
    Ok(match gossip.listing().await {
        Some(members) => members.into_response(),
        None => StatusCode::SERVICE_UNAVAILABLE.into_response(),
    })
}
