//! Arrival: generated messages into checked ones.

use super::*;
use wire::node_message::Body as NodeBody;
use wire::scheduler_message::Body as SchedulerBody;

impl TryFrom<wire::NodeMessage> for NodeMessage {
    type Error = Invalid;

    fn try_from(message: wire::NodeMessage) -> Result<Self, Invalid> {
        Ok(match message.body.ok_or_else(missing_body)? {
            NodeBody::Hello(hello) => {
                check_protocol(hello.protocol)?;
                Self::Hello(required("host", hello.host)?.try_into()?)
            }
            NodeBody::Heartbeat(_) => Self::Heartbeat,
            NodeBody::Load(load) => Self::Load(Load {
                busy: load.busy,
                sent_bytes: load.sent_bytes,
            }),
            NodeBody::Inventory(inventory) => Self::Inventory {
                keys: digests(&inventory.keys)?,
                listed: inventory.listed,
            },
            NodeBody::Withdraw(withdraw) => Self::Withdraw(digests(&withdraw.keys)?),
            NodeBody::Join(join) => Self::Join(join.try_into()?),
            NodeBody::Progress(progress) => Self::Progress(progress.try_into()?),
            NodeBody::Leave(leave) => Self::Leave {
                task: Digest::from_wire(&leave.task)?,
                outcome: leave.outcome().try_into()?,
            },
            NodeBody::ParentFailed(failed) => Self::ParentFailed {
                task: Digest::from_wire(&failed.task)?,
                kind: failed.kind().try_into()?,
                parent: failed.parent.parse()?,
            },
            NodeBody::LeaseReturn(returned) => Self::LeaseReturn {
                task: Digest::from_wire(&returned.task)?,
                lease: returned.lease,
                reason: returned.reason().try_into()?,
            },
            NodeBody::Find(find) => Self::Find {
                request: find.request,
                key: Digest::from_wire(&find.key)?,
            },
        })
    }
}

impl TryFrom<wire::Join> for Join {
    type Error = Invalid;

    fn try_from(join: wire::Join) -> Result<Self, Invalid> {
        check_size(join.size)?;
        let lease = join.lease.map(LeaseClaim::try_from).transpose()?;
        Ok(Self {
            task: Digest::from_wire(&join.task)?,
            size: join.size,
            held: PieceSet::from_wire(&join.held, Geometry::of(join.size).pieces())?,
            sources: sources(join.sources)?,
            lease,
        })
    }
}

impl TryFrom<wire::LeaseClaim> for LeaseClaim {
    type Error = Invalid;

    fn try_from(claim: wire::LeaseClaim) -> Result<Self, Invalid> {
        Ok(Self {
            lease: claim.lease,
            ranges: ranges_from_wire(&claim.ranges)?,
        })
    }
}

impl TryFrom<wire::Progress> for Progress {
    type Error = Invalid;

    fn try_from(progress: wire::Progress) -> Result<Self, Invalid> {
        Ok(Self {
            task: Digest::from_wire(&progress.task)?,
            gained: ranges_from_wire(&progress.gained)?,
            upstream_bytes: progress.upstream_bytes,
            upstream_ranges: match progress.upstream_ranges() {
                wire::RangeSupport::Unknown => None,
                wire::RangeSupport::Yes => Some(true),
                wire::RangeSupport::No => Some(false),
            },
            rates: rates(progress.rates)?,
        })
    }
}

impl TryFrom<wire::ParentRate> for ParentRate {
    type Error = Invalid;

    fn try_from(rate: wire::ParentRate) -> Result<Self, Invalid> {
        Ok(Self {
            parent: rate.parent.parse()?,
            bytes_per_second: rate.bytes_per_second,
        })
    }
}

impl TryFrom<wire::SchedulerMessage> for SchedulerMessage {
    type Error = Invalid;

    fn try_from(message: wire::SchedulerMessage) -> Result<Self, Invalid> {
        Ok(match message.body.ok_or_else(missing_body)? {
            SchedulerBody::Welcome(welcome) => {
                check_protocol(welcome.protocol)?;
                Self::Welcome {
                    scheduler: welcome.scheduler.parse()?,
                }
            }
            SchedulerBody::Members(members) => Self::Members(hosts(members.owners)?),
            SchedulerBody::Parents(parents) => Self::Parents {
                task: Digest::from_wire(&parents.task)?,
                parents: collect(parents.parents)?,
                signers: parents
                    .signers
                    .into_iter()
                    .map(signer)
                    .collect::<Result<_, _>>()?,
            },
            SchedulerBody::Lease(lease) => Self::Lease(lease.try_into()?),
            SchedulerBody::LeaseRevoked(revoked) => Self::LeaseRevoked {
                task: Digest::from_wire(&revoked.task)?,
                lease: revoked.lease,
            },
            SchedulerBody::Ask(ask) => Self::Ask(Digest::from_wire(&ask.key)?),
            SchedulerBody::Found(found) => Self::Found {
                request: found.request,
                holders: hosts(found.holders)?,
            },
            SchedulerBody::NoSource(none) => Self::NoSource {
                task: Digest::from_wire(&none.task)?,
                reason: none.reason().try_into()?,
            },
        })
    }
}

impl TryFrom<wire::Parent> for Parent {
    type Error = Invalid;

    fn try_from(parent: wire::Parent) -> Result<Self, Invalid> {
        Ok(Self {
            host: required("host", parent.host)?.try_into()?,
            complete: parent.complete,
        })
    }
}

impl TryFrom<wire::Lease> for Lease {
    type Error = Invalid;

    fn try_from(lease: wire::Lease) -> Result<Self, Invalid> {
        check_size(lease.size)?;
        Ok(Self {
            size: lease.size,
            task: Digest::from_wire(&lease.task)?,
            lease: lease.lease,
            ranges: ranges_from_wire(&lease.ranges)?,
            expires_ms: lease.expires_ms,
            sources: sources(lease.sources)?,
        })
    }
}

impl TryFrom<wire::Outcome> for Outcome {
    type Error = Invalid;

    fn try_from(outcome: wire::Outcome) -> Result<Self, Invalid> {
        match outcome {
            wire::Outcome::Complete => Ok(Self::Complete),
            wire::Outcome::Failed => Ok(Self::Failed),
            wire::Outcome::Abandoned => Ok(Self::Abandoned),
            wire::Outcome::Unspecified => Err(Invalid::new("outcome", "is missing")),
        }
    }
}

impl TryFrom<wire::FailureKind> for FailureKind {
    type Error = Invalid;

    fn try_from(kind: wire::FailureKind) -> Result<Self, Invalid> {
        match kind {
            wire::FailureKind::Unreachable => Ok(Self::Unreachable),
            wire::FailureKind::Slow => Ok(Self::Slow),
            wire::FailureKind::WrongBytes => Ok(Self::WrongBytes),
            wire::FailureKind::WrongLength => Ok(Self::WrongLength),
            wire::FailureKind::NotHeld => Ok(Self::NotHeld),
            wire::FailureKind::Unspecified => Err(Invalid::new("failure", "is missing")),
        }
    }
}

impl TryFrom<wire::LeaseReturnReason> for ReturnReason {
    type Error = Invalid;

    fn try_from(reason: wire::LeaseReturnReason) -> Result<Self, Invalid> {
        match reason {
            wire::LeaseReturnReason::Unavailable => Ok(Self::Unavailable),
            wire::LeaseReturnReason::Refused => Ok(Self::Refused),
            wire::LeaseReturnReason::Reader => Ok(Self::Reader),
            wire::LeaseReturnReason::Unspecified => Err(Invalid::new("reason", "is missing")),
        }
    }
}

fn missing_body() -> Invalid {
    Invalid::new(
        "message",
        "is empty or of a kind this version does not know",
    )
}

/// Both sides of a session name their protocol version first.
pub fn check_protocol(theirs: u32) -> Result<(), Invalid> {
    if theirs == crate::PROTOCOL {
        return Ok(());
    }
    Err(Invalid::new(
        "protocol",
        format!(
            "is version {theirs}, this side speaks version {}",
            crate::PROTOCOL
        ),
    ))
}

fn check_size(size: u64) -> Result<(), Invalid> {
    if size > MAX_SIZE {
        return Err(Invalid::new("size", "is above 64 GiB"));
    }
    Ok(())
}

fn required<T>(what: &'static str, value: Option<T>) -> Result<T, Invalid> {
    value.ok_or_else(|| Invalid::new(what, "is missing"))
}

fn digests(keys: &[impl AsRef<[u8]>]) -> Result<Vec<Digest>, Invalid> {
    if keys.len() > MAX_KEYS_PER_MESSAGE {
        return Err(Invalid::new("keys", "are more than 4096 in one message"));
    }
    keys.iter()
        .map(|key| Digest::from_wire(key.as_ref()))
        .collect()
}

fn sources(sources: Vec<wire::Source>) -> Result<Vec<Source>, Invalid> {
    if sources.len() > MAX_SOURCES {
        return Err(Invalid::new("sources", "are more than 16"));
    }
    collect(sources)
}

fn rates(rates: Vec<wire::ParentRate>) -> Result<Vec<ParentRate>, Invalid> {
    if rates.len() > MAX_RATES {
        return Err(Invalid::new("rates", "are more than 8"));
    }
    collect(rates)
}

fn hosts(hosts: Vec<wire::Host>) -> Result<Vec<Host>, Invalid> {
    collect(hosts)
}

fn collect<W, T: TryFrom<W, Error = Invalid>>(items: Vec<W>) -> Result<Vec<T>, Invalid> {
    items.into_iter().map(T::try_from).collect()
}

fn signer(signer: wire::Signer) -> Result<(HostId, SigningKey), Invalid> {
    let key = signer.key.as_ref().try_into();
    let key = key.map_err(|_| Invalid::new("signing key", "is not 32 bytes"))?;
    Ok((signer.host.parse()?, SigningKey(key)))
}
