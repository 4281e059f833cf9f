//! What is to be done, at once or at a time: what the library asks for, and what waits.

use std::time::Duration;

use bytes::Bytes;
use foca::{Notification, Timer};

use crate::gossip::node::Node;

/// Something to be done at a time; in the order in which it was found out.
pub(super) struct Due {
    pub(super) at: Duration,
    pub(super) number: u64,
    pub(super) what: Wake,
}

pub(super) enum Wake {
    /// A timer of the library's.
    Protocol(Timer<Node>),
    /// The time is over in which a suspect of this incarnation could object. The library counts it
    /// only where the suspicion arose.
    Objected(Node, u16),
    /// The time is over by which that was put off.
    PutOff(Node, u16),
    /// The next of the ring is to hear from this process.
    Call,
    /// Somebody is to be asked whom it knows.
    Compare,
}

/// What the library asks for in one call.
#[derive(Default)]
pub(super) struct Wishes {
    pub(super) sends: Vec<(Node, Bytes)>,
    /// Packets that are for these and nobody else.
    pub(super) calls: Vec<(Node, Bytes)>,
    pub(super) timers: Vec<(Duration, Wake)>,
    pub(super) changed: Vec<Change>,
    pub(super) reborn: bool,
}

/// What has become of a member.
pub(super) enum Change {
    Up(Node),
    Down(Node),
    /// It has another life, and is as alive as in the one before.
    Renewed(Node),
}

impl foca::Runtime<Node> for &mut Wishes {
    fn notify(&mut self, notification: Notification<'_, Node>) {
        match notification {
            Notification::MemberUp(node) => self.changed.push(Change::Up(node.clone())),
            Notification::MemberDown(node) => self.changed.push(Change::Down(node.clone())),
            Notification::Rename(_, node) => self.changed.push(Change::Renewed(node.clone())),
            Notification::Rejoin(_) => self.reborn = true,
            Notification::Active | Notification::Idle | Notification::Defunct => {}
        }
    }

    fn send_to(&mut self, to: Node, data: &[u8]) {
        self.sends.push((to, Bytes::copy_from_slice(data)));
    }

    fn submit_after(&mut self, timer: Timer<Node>, after: Duration) {
        self.timers.push((after, Wake::Protocol(timer)));
    }
}

impl PartialEq for Due {
    fn eq(&self, other: &Self) -> bool {
        self.number == other.number
    }
}

impl Eq for Due {}

impl PartialOrd for Due {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Due {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        (self.at, self.number).cmp(&(other.at, other.number))
    }
}
