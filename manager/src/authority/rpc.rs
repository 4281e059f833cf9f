//! The authority as processes ask it: `identity.proto`. Strangers may prove and join; who renews is
//! who its certificate names.

use darner_proto::PROTOCOL;
use darner_proto::id::{HostId, Role};
use darner_proto::wire;
use darner_proto::wire::authority_server::Authority as Service;
use darner_service::identity::issued::Issued;
use darner_service::identity::token::{JoinToken, proof};
use darner_service::identity::{Caller, PeerRole};
use darner_service::telemetry::with_causes;
use tonic::{Request, Response, Status};

use super::state::Refusal;
use super::{Authority, AuthorityError, issue};
use crate::members::Members;
use crate::membership::MemberKey;

/// A nonce of this length is used once.
const NONCE: usize = 32;

/// The service.
#[derive(Debug)]
pub(crate) struct Rpc {
    /// Without it nothing is issued.
    pub(crate) authority: Option<Authority>,
    /// Whoever is among them has a certificate, and nobody else gets one in its name.
    pub(crate) members: Members,
}

impl Rpc {
    fn authority(&self) -> Result<&Authority, Status> {
        let insecure = "this manager talks in plain text and issues no certificates";
        let authority = self.authority.as_ref();
        authority.ok_or_else(|| Status::failed_precondition(insecure))
    }
}

#[tonic::async_trait]
impl Service for Rpc {
    async fn prove(
        &self,
        request: Request<wire::ProveRequest>,
    ) -> Result<Response<wire::ProveReply>, Status> {
        let (authority, request) = (self.authority()?, request.into_inner());
        if request.nonce.len() != NONCE {
            return Err(Status::invalid_argument("nonce: is not 32 bytes"));
        }
        let hash = authority.token_hash(&request.token).await;
        let hash = hash.map_err(|error| status(&error))?;
        let hash = hash.ok_or_else(|| status(&Refusal::UnknownToken.into()))?;
        let trust = authority.trust().await.map_err(|error| status(&error))?;
        let proof = proof(&hash, &request.nonce, &trust.authorities);
        Ok(Response::new(wire::ProveReply {
            authorities: trust.authorities,
            proof: proof.into(),
        }))
    }

    async fn join(
        &self,
        request: Request<wire::JoinRequest>,
    ) -> Result<Response<wire::Issued>, Status> {
        let (authority, request) = (self.authority()?, request.into_inner());
        if request.protocol != PROTOCOL {
            return Err(Status::failed_precondition(format!(
                "protocol {} is not spoken here, only {PROTOCOL}: run the same release of darner on both sides",
                request.protocol
            )));
        }
        let role: Role = request.role().try_into()?;
        let id: HostId = request.id.parse()?;
        let token: JoinToken = request
            .token
            .parse()
            .map_err(|_| Status::invalid_argument("token: is not one"))?;
        let key = MemberKey {
            role,
            id: id.clone(),
        };
        if self.members.look(|membership| membership.has(&key)) {
            tracing::warn!(%id, %role, token = token.number(), "a process was not let in: it is a member that lives");
            return Err(Status::unavailable(format!(
                "{role} {id} is a member already and was heard from just now: give this one another [node] id, or wait until that one is gone"
            )));
        }
        let issued = authority.join(&token, &id, role, &request.request).await;
        match issued {
            Ok(issued) => Ok(Response::new(wire(issued))),
            Err(error) => {
                tracing::warn!(%id, %role, token = token.number(), %error, "a process was not let in");
                Err(status(&error))
            }
        }
    }

    async fn renew(
        &self,
        request: Request<wire::RenewRequest>,
    ) -> Result<Response<wire::Issued>, Status> {
        let authority = self.authority()?;
        let Caller::Known(peer) = Caller::of(&request) else {
            return Err(Status::unauthenticated(
                "a certificate is needed to renew it",
            ));
        };
        if peer.role == PeerRole::Manager {
            return Err(Status::permission_denied("a manager issues its own"));
        }
        let key = issue::requested_key(&request.into_inner().request);
        let key = key.map_err(|error| status(&error.into()))?;
        let issued = authority.renew(&peer, &key).await;
        let issued = issued.map_err(|error| status(&error))?;
        tracing::debug!(id = %peer.id, role = %peer.role, "certificate renewed");
        Ok(Response::new(wire(issued)))
    }
}

fn wire(issued: Issued) -> wire::Issued {
    wire::Issued {
        chain: issued.chain,
        authorities: issued.authorities,
    }
}

fn status(error: &AuthorityError) -> Status {
    let message = with_causes(error).to_string();
    match error {
        AuthorityError::Refused(Refusal::NotIssuing) => Status::failed_precondition(message),
        AuthorityError::Refused(Refusal::Full(_)) => Status::resource_exhausted(message),
        AuthorityError::Refused(_) => Status::permission_denied(message),
        AuthorityError::Issue(issue::IssueError::NoAuthority) => Status::unavailable(message),
        AuthorityError::Issue(_) => Status::invalid_argument(message),
        AuthorityError::Database(_) | AuthorityError::Busy => Status::unavailable(message),
        AuthorityError::Damaged(_) | AuthorityError::Tokens { .. } | AuthorityError::Seal(_) => {
            Status::internal(message)
        }
    }
}
