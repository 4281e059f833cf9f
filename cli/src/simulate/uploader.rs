//! The parent's side of requests for pieces, as the pieces listener does it: which are sent, and
//! which are told to ask elsewhere.

use std::collections::{BTreeMap, VecDeque};
use std::ops::Range;

use darner_mirror::swarm::peers::MAX_RUN;
use darner_proto::piece_set::PieceSet;

use super::exchange::ExchangeId;
use super::node::ContentId;
use super::queue::Time;

/// What the pieces listener waits for a slot.
pub(super) const PATIENCE: Time = 50_000_000;

/// What is to be done about a request.
#[derive(Debug, PartialEq)]
pub(super) enum Answer {
    Send(ExchangeId, Range<u32>),
    Busy(ExchangeId),
    NotHeld(ExchangeId),
}

/// A request for pieces.
#[derive(Debug)]
struct Asked {
    id: ExchangeId,
    content: ContentId,
    want: PieceSet,
    until: Time,
}

/// One host's uploads.
#[derive(Debug)]
pub(super) struct Uploader {
    free: u32,
    waiting: VecDeque<Asked>,
    sent: BTreeMap<ContentId, Vec<u32>>,
}

impl Uploader {
    pub(super) fn new(slots: u32) -> Self {
        Self {
            free: slots,
            waiting: VecDeque::new(),
            sent: BTreeMap::new(),
        }
    }

    /// A child asks. `held` says what there is of a content.
    pub(super) fn asked(
        &mut self,
        now: Time,
        (id, content, want): (ExchangeId, ContentId, PieceSet),
        held: impl Fn(ContentId) -> Option<PieceSet>,
    ) -> Vec<Answer> {
        let until = now + PATIENCE;
        self.waiting.push_back(Asked {
            id,
            content,
            want,
            until,
        });
        self.serve(now, held)
    }

    /// Everything was sent, or the child has hung up: the slot is free.
    pub(super) fn ended(
        &mut self,
        now: Time,
        held: impl Fn(ContentId) -> Option<PieceSet>,
    ) -> Vec<Answer> {
        self.free += 1;
        self.serve(now, held)
    }

    /// The child no longer waits. Says whether it did.
    pub(super) fn forget(&mut self, id: ExchangeId) -> bool {
        let before = self.waiting.len();
        self.waiting.retain(|asked| asked.id != id);
        self.waiting.len() < before
    }

    /// Whoever has waited too long is told.
    pub(super) fn tick(&mut self, now: Time) -> Vec<Answer> {
        let mut out = Vec::new();
        while let Some(first) = self.waiting.pop_front_if(|first| first.until <= now) {
            out.push(Answer::Busy(first.id));
        }
        out
    }

    fn serve(&mut self, now: Time, held: impl Fn(ContentId) -> Option<PieceSet>) -> Vec<Answer> {
        let mut out = self.tick(now);
        while self.free > 0
            && let Some(asked) = self.waiting.pop_front()
        {
            match self.choose(&asked, held(asked.content)) {
                Some(pieces) => {
                    self.free -= 1;
                    out.push(Answer::Send(asked.id, pieces));
                }
                None => out.push(Answer::NotHeld(asked.id)),
            }
        }
        out
    }

    fn choose(&mut self, asked: &Asked, held: Option<PieceSet>) -> Option<Range<u32>> {
        let mut have = held?;
        have.intersect(&asked.want);
        let sent = self.sent.entry(asked.content).or_default();
        sent.resize(have.pieces() as usize, 0);
        let first = have.iter().min_by_key(|index| sent[*index as usize])?;
        let least = sent[first as usize];
        let mut end = first + 1;
        while end - first < MAX_RUN && have.contains(end) && sent[end as usize] == least {
            end += 1;
        }
        for index in first..end {
            sent[index as usize] += 1;
        }
        Some(first..end)
    }
}
