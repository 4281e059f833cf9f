//! Random schedules: parents that serve, are busy, fail, stall and go, until one honest one is left.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::tests::{at, geometry_of, offer, parents, task};
use super::*;
use darner_proto::id::Role;
use darner_proto::scheduler::FailureKind;

const PIECES: u32 = 10;
const NAMES: [(&str, Role); 4] = [
    ("a", Role::Mirror),
    ("b", Role::Mirror),
    ("c", Role::Mirror),
    ("seed", Role::Seed),
];

#[derive(Debug, Clone)]
enum Step {
    Offer {
        parent: usize,
        first: u32,
        count: u32,
    },
    Answer {
        which: usize,
        choice: usize,
    },
    Deliver(usize),
    End {
        which: usize,
        end: RequestEnd,
    },
    Close(usize),
    Pass(u64),
}

fn step() -> impl Strategy<Value = Step> {
    let end = prop_oneof![
        Just(RequestEnd::Busy { again: None }),
        Just(RequestEnd::Failed(FailureKind::Unreachable)),
        Just(RequestEnd::Failed(FailureKind::NotHeld)),
        Just(RequestEnd::Failed(FailureKind::WrongBytes)),
    ];
    prop_oneof![
        3 => (0..4usize, 0..PIECES, 1..6u32)
            .prop_map(|(parent, first, count)| Step::Offer { parent, first, count }),
        3 => (0..9usize, 0..9usize).prop_map(|(which, choice)| Step::Answer { which, choice }),
        3 => (0..9usize).prop_map(Step::Deliver),
        1 => (0..9usize, end).prop_map(|(which, end)| Step::End { which, end }),
        1 => (0..3usize).prop_map(Step::Close),
        2 => (0..900u64).prop_map(Step::Pass),
    ]
}

struct Asked {
    parent: String,
    want: Vec<u32>,
    chosen: Option<u32>,
}

struct World {
    task: Task,
    now: u64,
    trusted: PieceSet,
    open: BTreeMap<u64, Asked>,
    ended: bool,
}

impl World {
    fn new() -> Self {
        let mut world = Self {
            task: task(u64::from(PIECES)),
            now: 0,
            trusted: PieceSet::empty(geometry_of(PIECES).pieces()),
            open: BTreeMap::new(),
            ended: false,
        };
        world.apply(parents(&NAMES));
        world
    }

    fn apply(&mut self, event: Event) {
        for action in self.task.apply(at(self.now), event) {
            match action {
                Action::Fetch {
                    request,
                    parent,
                    want,
                    ..
                } => {
                    for index in want.keys() {
                        assert!(self.trusted.contains(*index), "its hash is not trusted");
                    }
                    let asked = Asked {
                        parent: parent.id.to_string(),
                        want: want.keys().copied().collect(),
                        chosen: None,
                    };
                    assert!(!asked.want.is_empty());
                    self.open.insert(request, asked);
                }
                Action::CancelFetch(request) => {
                    self.open.remove(&request);
                }
                Action::Complete | Action::Fail(_) => self.ended = true,
                _ => {}
            }
        }
        for (name, _) in NAMES {
            let of = self.open.values().filter(|asked| asked.parent == name);
            assert!(of.count() <= 2, "too many requests to {name}");
        }
    }

    fn nth(&self, which: usize) -> Option<u64> {
        self.open.keys().nth(which).copied()
    }

    fn take(&mut self, step: Step) {
        match step {
            Step::Offer {
                parent,
                first,
                count,
            } => {
                let pieces = first..(first + count).min(PIECES);
                self.trusted.insert_range(pieces.clone());
                self.apply(offer(NAMES[parent].0, pieces, true));
            }
            Step::Answer { which, choice } => {
                let Some(request) = self.nth(which) else {
                    return;
                };
                let asked = self.open.get_mut(&request).expect("open");
                if asked.chosen.is_none() {
                    let piece = asked.want[choice % asked.want.len()];
                    asked.chosen = Some(piece);
                    let pieces = piece..piece + 1;
                    self.apply(Event::Chosen { request, pieces });
                }
            }
            Step::Deliver(which) => {
                let Some(request) = self.nth(which) else {
                    return;
                };
                if let Some(index) = self.open[&request].chosen {
                    self.open.remove(&request);
                    self.apply(Event::Arrived { index });
                    let end = RequestEnd::Done;
                    self.apply(Event::RequestEnded { request, end });
                }
            }
            Step::End { which, end } => {
                let Some(request) = self.nth(which) else {
                    return;
                };
                // The honest one does not fail.
                let wrong = matches!(end, RequestEnd::Failed(_));
                if !(wrong && self.open[&request].parent == "seed") {
                    self.open.remove(&request);
                    self.apply(Event::RequestEnded { request, end });
                }
            }
            Step::Close(parent) => self.apply(Event::LinkClosed {
                parent: NAMES[parent].0.parse().expect("valid"),
                failure: Some(FailureKind::Unreachable),
            }),
            Step::Pass(ms) => {
                self.now += ms;
                self.apply(Event::Tick);
            }
        }
    }

    /// From now on the seed has everything and serves, and nobody else answers at all.
    fn finish(&mut self) {
        self.trusted.insert_range(0..PIECES);
        self.apply(offer("seed", 0..PIECES, true));
        for _ in 0..400 {
            if self.ended {
                return;
            }
            let seed = |(_, asked): &(&u64, &Asked)| asked.parent == "seed";
            let at = self.open.iter().position(|one| seed(&one));
            match at {
                Some(which) => {
                    self.take(Step::Answer { which, choice: 0 });
                    if let Some(request) = self.nth(which)
                        && self.open[&request].parent == "seed"
                    {
                        self.take(Step::Deliver(which));
                    }
                }
                None => self.take(Step::Pass(100)),
            }
            // What others were asked for and do not send ends as the driver ends it.
            if self.now % 3000 < 100 {
                let silent = self
                    .open
                    .iter()
                    .position(|(_, asked)| asked.parent != "seed");
                let end = RequestEnd::Failed(FailureKind::Slow);
                if let Some(which) = silent {
                    self.take(Step::End { which, end });
                }
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(6000))]

    #[test]
    fn while_a_holder_lives_the_task_completes(steps in prop::collection::vec(step(), 1..60)) {
        let mut world = World::new();
        for step in steps {
            if !world.ended {
                world.take(step);
            }
        }
        world.finish();
        prop_assert!(world.ended, "it never ended: {:?}", world.task);
        let failed = world.now >= 30_000;
        prop_assert!(failed || world.task.held().is_full(), "it failed with a holder alive");
    }
}
