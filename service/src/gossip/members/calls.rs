//! Words to others that are no answer and no news: to the next of the ring, so that its end is noticed,
//! and to anybody, to compare.

use std::time::Duration;

use bytes::{BufMut as _, Bytes, BytesMut};
use foca::{Codec as _, Header, Message};
use rand::RngExt as _;

use super::Members;
use super::pace::FEW;
use super::wishes::{Wake, Wishes};
use crate::gossip::node::{Node, Wire};

/// The next of the ring hears from a member this often, news or not: if it is gone, that is noticed.
pub(super) const CALL: Duration = Duration::from_millis(500);
/// And this often where there are many, and most of the time there is news for it.
const CALL_OF_MANY: Duration = Duration::from_secs(1);
/// A member asks another whom it knows, soon after it began and then less and less often: what news
/// has missed is found in the end.
pub(super) const COMPARE: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(30));

impl Members {
    pub(super) fn call(&mut self, now: Duration, wishes: &mut Wishes) {
        let every = if self.count() > FEW {
            CALL_OF_MANY
        } else {
            CALL
        };
        wishes.timers.push((every, Wake::Call));
        // Where there is news, it calls.
        if now < self.called + every {
            return;
        }
        self.called = now;
        // A suspect too: the call may find it gone.
        if let Some(next) = self.after(1) {
            let packet = self.call_with(next, &[]);
            wishes
                .calls
                .extend(packet.map(|packet| (next.clone(), packet)));
        }
    }

    pub(super) fn compare(&mut self, wishes: &mut Wishes) {
        wishes.timers.push((self.compare, Wake::Compare));
        self.compare = COMPARE.1.min(self.compare * 2);
        let others = self.foca.num_members();
        if others == 0 {
            return;
        }
        let chosen = self.random.random_range(0..others);
        let chosen = self
            .foca
            .iter_members()
            .nth(chosen)
            .map(|one| one.id().clone());
        if let Some(chosen) = chosen {
            let _ = self.foca.announce(chosen, &mut *wishes);
        }
    }

    /// A packet for `to` with nothing but `said`.
    pub(super) fn call_with(&self, to: &Node, said: &[foca::Member<Node>]) -> Option<Bytes> {
        let header = Header {
            src: self.me.clone(),
            // What others know of is never above.
            src_incarnation: 0,
            dst: to.clone(),
            message: Message::Gossip,
        };
        let mut packet = BytesMut::from(self.encoded(&header)?.as_ref());
        if let Some(count) = u16::try_from(said.len()).ok().filter(|count| *count > 0) {
            packet.put_u16(count);
            for member in said {
                Wire::default().encode_member(member, &mut packet).ok()?;
            }
        }
        Some(packet.freeze())
    }

    pub(super) fn encoded(&self, header: &Header<Node>) -> Option<Bytes> {
        let mut wire = Wire {
            live: self.live.clone(),
        };
        let mut packet = BytesMut::new();
        wire.encode_header(header, &mut packet).ok()?;
        Some(packet.freeze())
    }
}
