//! What members of a cluster without servers answer: who lives, and who holds what. Asked by a member
//! of the test's own.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use anyhow::{Result, bail, ensure};
use bytes::Bytes;
use darner_proto::digest::Digest;
use darner_proto::gossip;
use darner_proto::id::{Host, HostId};
use darner_proto::scheduler::{NodeMessage, SchedulerMessage};
use darner_proto::wire;
use futures_util::future::try_join_all;
use http::{Request, header};
use prost::Message as _;

use crate::attendant::Attendant;
use crate::darner::Darner;
use crate::guest::{Guest, Port};
use crate::wait;

/// Somebody who asks, and has a session with the scheduler beside each member it asks.
#[derive(Debug)]
pub struct Asker {
    guest: Guest,
    asked: Vec<Asked>,
    requests: u64,
    slowest: Duration,
}

#[derive(Debug)]
struct Asked {
    pieces: Port,
    session: Attendant,
    owners: Vec<Host>,
}

impl Asker {
    /// `guest` attends all of `members`.
    pub async fn start(guest: Guest, members: &[&Darner]) -> Result<Self> {
        let attend = async |member: &&Darner| {
            anyhow::Ok(Asked {
                pieces: Port::of(member, "pieces")?,
                session: guest.attend(&Port::of(member, "scheduler")?).await?,
                owners: Vec::new(),
            })
        };
        let asked = try_join_all(members.iter().map(attend)).await?;
        Ok(Self {
            guest,
            asked,
            requests: 0,
            slowest: Duration::ZERO,
        })
    }

    /// Waits until no member names `id`: not among those who live, nor as an owner of repositories,
    /// nor as a holder of `key`. Says when the last question was put to which it was part of the answer.
    pub async fn until_nobody_names(&mut self, id: &HostId, key: Digest) -> Result<Instant> {
        let mut last = Instant::now();
        for number in 0..self.asked.len() {
            wait::until(&format!("nobody names {id}"), async || {
                let put = Instant::now();
                let lives = self.live(number).await.ok()?;
                // A search may wait for others on purpose; this answer comes at once.
                self.slowest = self.slowest.max(put.elapsed());
                let holds = self.holders(number, key).await.ok()?;
                let owns = &self.asked[number].owners;
                let named = lives.contains(id)
                    || holds.contains(id)
                    || owns.iter().any(|owner| owner.id == *id);
                if named {
                    last = last.max(put);
                }
                (!named).then_some(())
            })
            .await?;
        }
        Ok(last)
    }

    /// How long the slowest list of who lives took to come.
    pub fn slowest(&self) -> Duration {
        self.slowest
    }

    /// Whom member `number` takes for alive.
    pub async fn live(&self, number: usize) -> Result<BTreeSet<HostId>> {
        let port = &self.asked[number].pieces;
        let request = Request::get(gossip::PATH).header(header::HOST, "member");
        let (status, body) = self.guest.ask(port, request.body(Bytes::new())?).await?;
        ensure!(status == 200, "{} answered {status}", port.name);
        let members = gossip::members(wire::GossipMembers::decode(body)?)?;
        Ok(members.into_iter().map(|member| member.id).collect())
    }

    /// Who holds `key`, as the scheduler beside member `number` says.
    pub async fn holders(&mut self, number: usize, key: Digest) -> Result<BTreeSet<HostId>> {
        self.requests += 1;
        let request = self.requests;
        let Asked {
            session, owners, ..
        } = &mut self.asked[number];
        session.say(NodeMessage::Find { request, key }).await?;
        loop {
            match session.hear().await? {
                SchedulerMessage::Found {
                    request: answered,
                    holders,
                } if answered == request => {
                    return Ok(holders.into_iter().map(|host| host.id).collect());
                }
                SchedulerMessage::Members(now) => *owners = now,
                SchedulerMessage::NoSource { reason, .. } => bail!("no source: {reason:?}"),
                _ => {}
            }
        }
    }
}
