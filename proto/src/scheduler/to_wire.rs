//! Departure: checked messages into generated ones.

use super::*;
use wire::node_message::Body as NodeBody;
use wire::scheduler_message::Body as SchedulerBody;

impl From<&NodeMessage> for wire::NodeMessage {
    fn from(message: &NodeMessage) -> Self {
        let body = match message {
            NodeMessage::Hello(host) => NodeBody::Hello(wire::Hello {
                protocol: crate::PROTOCOL,
                host: Some(host.into()),
            }),
            NodeMessage::Heartbeat => NodeBody::Heartbeat(wire::Heartbeat {}),
            NodeMessage::Load(load) => NodeBody::Load(wire::Load {
                busy: load.busy,
                sent_bytes: load.sent_bytes,
            }),
            NodeMessage::Inventory { keys, listed } => NodeBody::Inventory(wire::Inventory {
                keys: keys.iter().map(wire_digest).collect(),
                listed: *listed,
            }),
            NodeMessage::Withdraw(keys) => NodeBody::Withdraw(wire::Withdraw {
                keys: keys.iter().map(wire_digest).collect(),
            }),
            NodeMessage::Join(join) => NodeBody::Join(join.into()),
            NodeMessage::Progress(progress) => NodeBody::Progress(progress.into()),
            NodeMessage::Leave { task, outcome } => NodeBody::Leave(wire::Leave {
                task: wire_digest(task),
                outcome: wire::Outcome::from(*outcome).into(),
            }),
            NodeMessage::ParentFailed { task, parent, kind } => {
                NodeBody::ParentFailed(wire::ParentFailed {
                    task: wire_digest(task),
                    parent: parent.to_string(),
                    kind: wire::FailureKind::from(*kind).into(),
                })
            }
            NodeMessage::LeaseReturn {
                task,
                lease,
                reason,
            } => NodeBody::LeaseReturn(wire::LeaseReturn {
                task: wire_digest(task),
                lease: *lease,
                reason: wire::LeaseReturnReason::from(*reason).into(),
            }),
            NodeMessage::Find { request, key } => NodeBody::Find(wire::Find {
                request: *request,
                key: wire_digest(key),
            }),
        };
        Self { body: Some(body) }
    }
}

impl From<&Join> for wire::Join {
    fn from(join: &Join) -> Self {
        Self {
            task: wire_digest(&join.task),
            size: join.size,
            sources: join.sources.iter().map(Into::into).collect(),
            held: join.held.to_wire(),
            lease: join.lease.as_ref().map(|claim| wire::LeaseClaim {
                lease: claim.lease,
                ranges: ranges_to_wire(&claim.ranges),
            }),
        }
    }
}

impl From<&Progress> for wire::Progress {
    fn from(progress: &Progress) -> Self {
        let ranges = match progress.upstream_ranges {
            None => wire::RangeSupport::Unknown,
            Some(true) => wire::RangeSupport::Yes,
            Some(false) => wire::RangeSupport::No,
        };
        Self {
            task: wire_digest(&progress.task),
            gained: ranges_to_wire(&progress.gained),
            upstream_bytes: progress.upstream_bytes,
            upstream_ranges: ranges.into(),
            rates: progress.rates.iter().map(Into::into).collect(),
        }
    }
}

impl From<&ParentRate> for wire::ParentRate {
    fn from(rate: &ParentRate) -> Self {
        Self {
            parent: rate.parent.to_string(),
            bytes_per_second: rate.bytes_per_second,
        }
    }
}

impl From<&SchedulerMessage> for wire::SchedulerMessage {
    fn from(message: &SchedulerMessage) -> Self {
        let body = match message {
            SchedulerMessage::Welcome { scheduler } => SchedulerBody::Welcome(wire::Welcome {
                protocol: crate::PROTOCOL,
                scheduler: scheduler.to_string(),
            }),
            SchedulerMessage::Members(owners) => SchedulerBody::Members(wire::Members {
                owners: owners.iter().map(Into::into).collect(),
            }),
            SchedulerMessage::Parents {
                task,
                parents,
                signers,
            } => SchedulerBody::Parents(wire::Parents {
                task: wire_digest(task),
                parents: parents.iter().map(Into::into).collect(),
                signers: signers.iter().map(wire_signer).collect(),
            }),
            SchedulerMessage::Lease(lease) => SchedulerBody::Lease(lease.into()),
            SchedulerMessage::LeaseRevoked { task, lease } => {
                SchedulerBody::LeaseRevoked(wire::LeaseRevoked {
                    task: wire_digest(task),
                    lease: *lease,
                })
            }
            SchedulerMessage::Ask(key) => SchedulerBody::Ask(wire::Ask {
                key: wire_digest(key),
            }),
            SchedulerMessage::Found { request, holders } => SchedulerBody::Found(wire::Found {
                request: *request,
                holders: holders.iter().map(Into::into).collect(),
            }),
            SchedulerMessage::NoSource { task, reason } => {
                SchedulerBody::NoSource(wire::NoSource {
                    task: wire_digest(task),
                    reason: wire::LeaseReturnReason::from(*reason).into(),
                })
            }
        };
        Self { body: Some(body) }
    }
}

impl From<&Parent> for wire::Parent {
    fn from(parent: &Parent) -> Self {
        Self {
            host: Some((&parent.host).into()),
            complete: parent.complete,
        }
    }
}

impl From<&Lease> for wire::Lease {
    fn from(lease: &Lease) -> Self {
        Self {
            task: wire_digest(&lease.task),
            lease: lease.lease,
            ranges: ranges_to_wire(&lease.ranges),
            size: lease.size,
            expires_ms: lease.expires_ms,
            sources: lease.sources.iter().map(Into::into).collect(),
        }
    }
}

impl From<Outcome> for wire::Outcome {
    fn from(outcome: Outcome) -> Self {
        match outcome {
            Outcome::Complete => Self::Complete,
            Outcome::Failed => Self::Failed,
            Outcome::Abandoned => Self::Abandoned,
        }
    }
}

impl From<FailureKind> for wire::FailureKind {
    fn from(kind: FailureKind) -> Self {
        match kind {
            FailureKind::Unreachable => Self::Unreachable,
            FailureKind::Slow => Self::Slow,
            FailureKind::WrongBytes => Self::WrongBytes,
            FailureKind::WrongLength => Self::WrongLength,
            FailureKind::NotHeld => Self::NotHeld,
        }
    }
}

impl From<ReturnReason> for wire::LeaseReturnReason {
    fn from(reason: ReturnReason) -> Self {
        match reason {
            ReturnReason::Unavailable => Self::Unavailable,
            ReturnReason::Refused => Self::Refused,
            ReturnReason::Reader => Self::Reader,
        }
    }
}

fn wire_digest<B: From<Vec<u8>>>(digest: &Digest) -> B {
    digest.to_wire().into()
}

fn wire_signer((host, key): &(HostId, SigningKey)) -> wire::Signer {
    wire::Signer {
        host: host.to_string(),
        key: key.0.to_vec().into(),
    }
}
