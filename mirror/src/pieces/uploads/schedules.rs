//! Random schedules of asking, sending, hanging up and time passing.

use std::collections::{BTreeMap, BTreeSet};

use darner_proto::piece_set::PieceSet;
use proptest::prelude::*;

use super::tests::{at, holding, task};
use super::*;

const PIECES: u32 = 12;
const SLOTS: u32 = 3;

#[derive(Debug, Clone)]
enum Step {
    Ask {
        child: u64,
        wait: Wait,
        want: Range<u32>,
    },
    Gain(u32),
    Watch(u64),
    End {
        which: usize,
        sent: bool,
    },
    Pass(u64),
}

fn wait() -> impl Strategy<Value = Wait> {
    prop_oneof![Just(Wait::Idly), Just(Wait::InTurn), Just(Wait::Not)]
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => (0..5u64, wait(), 0..PIECES, 1..6u32).prop_map(|(child, wait, first, count)| Step::Ask {
            child,
            wait,
            want: first..(first + count).min(PIECES),
        }),
        2 => (0..PIECES).prop_map(Step::Gain),
        1 => (0..5u64).prop_map(Step::Watch),
        3 => (0..8usize, any::<bool>()).prop_map(|(which, sent)| Step::End { which, sent }),
        2 => (0..400u64).prop_map(Step::Pass),
    ]
}

/// What the driver knows, and what must always be true of it.
struct World {
    uploads: Uploads,
    source: bool,
    held: PieceSet,
    now: u64,
    last: u64,
    open: BTreeMap<u64, Range<u32>>,
    sending: BTreeSet<u64>,
    /// All that have ever been sent.
    served: BTreeSet<u64>,
}

impl World {
    fn new(source: bool) -> Self {
        Self {
            uploads: Uploads::new(SLOTS),
            source,
            held: PieceSet::empty(PIECES),
            now: 0,
            last: 0,
            open: BTreeMap::new(),
            sending: BTreeSet::new(),
            served: BTreeSet::new(),
        }
    }

    fn apply(&mut self, event: Event<'_>) {
        for action in self.uploads.apply(at(self.now), event) {
            match action {
                Action::Send { request, pieces } => {
                    let want = self.open.remove(&request).expect("it waited");
                    assert!(!pieces.is_empty());
                    for piece in pieces {
                        assert!(want.contains(&piece), "not wanted");
                        assert!(self.held.contains(piece), "not held");
                    }
                    self.sending.insert(request);
                    self.served.insert(request);
                }
                Action::Busy { request, .. } | Action::NotHeld { request } => {
                    self.open.remove(&request).expect("it waited");
                }
            }
        }
        assert!(self.sending.len() <= SLOTS as usize, "beyond its slots");
        assert_eq!(self.sending.len(), self.uploads.sending());
        assert_eq!(self.open.len(), self.uploads.waiting());
        let places = SLOTS as usize + WAITING_BESIDE_SLOTS;
        assert!(self.open.len() <= places, "the queue is too long");
    }

    fn take(&mut self, step: Step) {
        let held = self.held.clone();
        match step {
            Step::Ask { child, wait, want } => {
                self.last += 1;
                self.open.insert(self.last, want.clone());
                self.apply(Event::Asked {
                    request: self.last,
                    child: Child(child),
                    wait,
                    holding: holding(&held, self.source),
                    want: &[want],
                });
            }
            Step::Gain(piece) => {
                self.held.insert(piece);
                let task = task();
                self.apply(Event::Gained { task, piece });
            }
            Step::Watch(child) => self.apply(Event::Watched {
                child: Child(child),
                holding: holding(&held, self.source),
            }),
            Step::End { which, sent } => {
                let live: Vec<_> = self
                    .sending
                    .iter()
                    .chain(self.open.keys())
                    .copied()
                    .collect();
                let Some(request) = live.get(which).copied() else {
                    return;
                };
                self.open.remove(&request);
                let sent = self.sending.remove(&request) && sent;
                self.apply(if sent {
                    Event::Sent { request }
                } else {
                    Event::Gone { request }
                });
            }
            Step::Pass(ms) => {
                self.now += ms;
                self.apply(Event::Tick);
            }
        }
    }

    /// Whatever came before: as sendings end and time passes everybody is answered.
    fn settle(&mut self) {
        for _ in 0..100 {
            if let Some(request) = self.sending.pop_first() {
                self.apply(Event::Sent { request });
            } else if let Some(due) = self.uploads.next() {
                self.now = self.now.max(due.as_millis() as u64 + 1);
                self.apply(Event::Tick);
            } else {
                break;
            }
        }
        assert!(self.open.is_empty(), "a request was never answered");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(6000))]

    #[test]
    fn slots_hold_and_every_request_is_answered(
        source in any::<bool>(),
        steps in prop::collection::vec(step(), 1..60),
    ) {
        let mut world = World::new(source);
        for step in steps {
            world.take(step);
        }
        world.settle();
        // A piece that is here can be had, if only after asking again.
        let held: Vec<_> = world.held.iter().collect();
        for piece in held {
            let before = world.last;
            for _ in 0..2 {
                world.take(Step::Ask { child: 9, wait: Wait::Idly, want: piece..piece + 1 });
                world.settle();
                if world.served.contains(&world.last) {
                    break;
                }
            }
            prop_assert!(world.served.contains(&world.last), "{} from {before}", piece);
        }
    }
}
