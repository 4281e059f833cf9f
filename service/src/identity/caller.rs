//! Whether a caller may make a call: its role and its name are its certificate's, whatever the
//! message says.

use darner_proto::id::{Host, HostId, Role};
use tonic::{Request, Status};

use super::peer::{Peer, PeerRole};
use super::stream::Caller;

impl Caller {
    /// Who sent `request`; one that came over no connection of ours is a stranger's.
    pub fn of<T>(request: &Request<T>) -> Self {
        let caller = request.extensions().get::<Self>();
        caller.cloned().unwrap_or(Self::Stranger)
    }

    /// The caller, when it has one of `roles`; none in plain text, where nothing is proved.
    ///
    /// # Errors
    /// Without a certificate, or with one of another role.
    #[allow(clippy::result_large_err, reason = "the error of every call")]
    pub fn require(&self, roles: &[PeerRole]) -> Result<Option<&Peer>, Status> {
        match self {
            Self::Unproved => Ok(None),
            Self::Known(peer) if roles.contains(&peer.role) => Ok(Some(peer)),
            Self::Known(peer) => Err(Status::permission_denied(format!(
                "{} {} may not do this",
                peer.role, peer.id
            ))),
            Self::Stranger => Err(Status::unauthenticated(
                "a certificate of this cluster is needed",
            )),
        }
    }

    /// Whether the caller is the member `id` in `role`.
    ///
    /// # Errors
    /// It is somebody else.
    #[allow(clippy::result_large_err, reason = "the error of every call")]
    pub fn require_member(&self, role: Role, id: &HostId) -> Result<(), Status> {
        match self.require(&[role.into()])? {
            Some(peer) if peer.id != *id => Err(Status::permission_denied(format!(
                "{} {} may not speak for {id}",
                peer.role, peer.id
            ))),
            _ => Ok(()),
        }
    }

    /// Whether the caller is `host`.
    ///
    /// # Errors
    /// It is somebody else.
    #[allow(clippy::result_large_err, reason = "the error of every call")]
    pub fn require_host(&self, host: &Host) -> Result<(), Status> {
        self.require_member(host.role, &host.id)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mirror() -> Caller {
        Caller::Known(Peer {
            id: "m-1".parse().unwrap(),
            role: Role::Mirror.into(),
            not_before: 0,
            not_after: 1,
        })
    }

    #[test]
    fn a_role_is_the_certificates_and_no_other() {
        assert!(mirror().require(PeerRole::NODES).is_ok());
        for roles in [PeerRole::SCHEDULER, PeerRole::MANAGER, &[]] {
            let status = mirror().require(roles).unwrap_err();
            assert_eq!(status.code(), tonic::Code::PermissionDenied);
        }
        let status = Caller::Stranger.require(PeerRole::NODES).unwrap_err();
        assert_eq!(status.code(), tonic::Code::Unauthenticated);
    }

    #[test]
    fn nobody_speaks_for_another() {
        let (me, other) = ("m-1".parse().unwrap(), "m-2".parse().unwrap());
        assert!(mirror().require_member(Role::Mirror, &me).is_ok());
        assert!(mirror().require_member(Role::Mirror, &other).is_err());
        assert!(mirror().require_member(Role::Seed, &me).is_err());
        assert!(Caller::Unproved.require_member(Role::Seed, &me).is_ok());
    }

    #[test]
    fn a_request_from_nowhere_is_a_strangers() {
        assert!(matches!(Caller::of(&Request::new(())), Caller::Stranger));
    }
}
