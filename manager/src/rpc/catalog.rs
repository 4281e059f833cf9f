//! What nodes say they hold: `catalog.proto`, checked and bounded.

use darner_proto::holdings::{HoldingsReport, MAX_REPORT};
use darner_proto::id::Role;
use darner_proto::wire;
use darner_proto::wire::catalog_server::{Catalog, CatalogServer};
use darner_service::identity::{Caller, PeerRole};
use tonic::{Request, Response, Status};

use crate::images::Images;
use crate::members::Members;

/// The service.
#[derive(Debug)]
pub(super) struct Rpc {
    pub(super) images: Images,
    pub(super) members: Members,
}

impl Rpc {
    pub(super) fn into_server(self) -> CatalogServer<Self> {
        CatalogServer::new(self).max_decoding_message_size(MAX_REPORT)
    }
}

#[tonic::async_trait]
impl Catalog for Rpc {
    async fn tell(
        &self,
        request: Request<wire::HoldingsReport>,
    ) -> Result<Response<wire::HoldingsReply>, Status> {
        let caller = Caller::of(&request);
        caller.require(PeerRole::NODES)?;
        let request = request.into_inner();
        let key = super::key(&request.id, request.role())?;
        caller.require_member(key.role, &key.id)?;
        if key.role == Role::Scheduler {
            return Err(Status::permission_denied("a scheduler holds no images"));
        }
        if !self.members.look(|members| members.has(&key)) {
            return Err(Status::failed_precondition(
                "the host is no member: it has to register first",
            ));
        }
        let reply = self.images.heard(&key, HoldingsReport::try_from(request)?);
        Ok(Response::new((&reply).into()))
    }
}
