//! What a seed hands to nodes on the strength of a decision, and what it takes back from them: real
//! tickets, against a note of what each may be good for.

use std::collections::VecDeque;

use darner_proto::digest::Digest;
use darner_proto::id::HostId;
use darner_proto::name::Source;

use super::super::super::tickets::{TICKET_FOR, TicketError, Tickets};
use super::Random;
use super::{Duration, MINUTE};

const NODES: usize = 2;
const CONTENTS: usize = 3;
/// Tickets that may be shown again.
const KEPT: usize = 16;

/// A seed, and the nodes with what they were given.
pub(super) struct Seed {
    tickets: Tickets,
    /// Of another seed, or of this one before it was started again.
    foreign: Tickets,
    nodes: Vec<HostId>,
    contents: Vec<Digest>,
    given: VecDeque<Given>,
    pub(super) honoured: u64,
    pub(super) refused: u64,
}

/// A ticket, and what is known of it that it does not say itself.
struct Given {
    ticket: String,
    node: usize,
    content: usize,
    source: Source,
    ends: Duration,
    /// When upstream said yes to the caller behind it.
    proved: Duration,
    foreign: bool,
}

impl Seed {
    pub(super) fn new() -> Self {
        let nodes = (0..NODES).map(|node| format!("node-{node}").parse().unwrap());
        let contents = (0..CONTENTS).map(|content| Digest::sha256(&[content as u8]));
        Self {
            tickets: Tickets::new().unwrap(),
            foreign: Tickets::new().unwrap(),
            nodes: nodes.collect(),
            contents: contents.collect(),
            given: VecDeque::new(),
            honoured: 0,
            refused: 0,
        }
    }

    /// The seed has said yes about `repository`, by what upstream said at `proved`, and `left` of that
    /// yes is left.
    pub(super) fn give(
        &mut self,
        random: &mut Random,
        repository: usize,
        (now, proved, left): (Duration, Duration, Duration),
    ) {
        let (node, content) = (random.below(NODES as u64), random.below(CONTENTS as u64));
        let (node, content) = (node as usize, content as usize);
        let source = Source {
            registry: "reg.test".parse().unwrap(),
            repository: format!("tenant-{repository}/app").parse().unwrap(),
        };
        let foreign = random.below(8) == 0;
        let by = if foreign {
            &self.foreign
        } else {
            &self.tickets
        };
        let ticket = by.issue_at(
            now,
            (&self.nodes[node], &self.contents[content], &source),
            left,
        );
        if self.given.len() == KEPT {
            self.given.pop_front();
        }
        self.given.push_back(Given {
            ticket,
            node,
            content,
            source,
            ends: now + left.min(MINUTE),
            proved,
            foreign,
        });
    }

    /// Somebody shows one of them: who it was given to or another node, for what it is for or for
    /// something else, as it was or changed.
    pub(super) fn show(&mut self, random: &mut Random, now: Duration) {
        if self.given.is_empty() {
            return;
        }
        let given = &self.given[random.below(self.given.len() as u64) as usize];
        let mut ticket = given.ticket.clone().into_bytes();
        let node = match random.below(3) {
            0 => random.below(NODES as u64) as usize,
            _ => given.node,
        };
        let content = match random.below(3) {
            0 => random.below(CONTENTS as u64) as usize,
            _ => given.content,
        };
        let changed = random.below(8) == 0;
        if changed {
            let at = random.below(ticket.len() as u64) as usize;
            ticket[at] = if ticket[at] == b'A' { b'B' } else { b'A' };
        }
        let own = !changed && !given.foreign && (node, content) == (given.node, given.content);
        let expected = match own {
            false => Err(TicketError::NotOurs),
            true if now >= given.ends => Err(TicketError::Over),
            true => Ok(given.source.clone()),
        };
        let found =
            self.tickets
                .check_at(now, &ticket, (&self.nodes[node], &self.contents[content]));
        assert_eq!(found, expected, "at {now:?}, until {:?}", given.ends);
        match found {
            Ok(_) => {
                // An hour while upstream is away, and the ticket's own time.
                assert!(now - given.proved <= 60 * MINUTE + TICKET_FOR);
                self.honoured += 1;
            }
            Err(_) => self.refused += 1,
        }
    }
}
