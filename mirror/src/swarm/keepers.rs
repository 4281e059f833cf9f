//! Whom this node takes for its schedulers: those named, or the members that keep the table among
//! themselves when none of those can be reached. Pure.
//!
//! ```text
//! named --(none connected for a while)--> kept among members --(one connected)--> named
//! ```
//! Those named are dialled all the while. The first that is back takes over what the keepers had
//! before these are left, so no download is without a scheduler in between. Where nobody is named
//! the members keep the table from the beginning.
//!
//! Membership takes a slow member for dead now and then, on one node sooner than on another. A keeper with
//! which a session is open stays one for a while all the same, so that nodes do not differ for so little:
//! a session with one that is dead ends by itself.
//!
//! When the keepers take over, all nodes connect to all of them at once. Until a node is connected to
//! each, or a while has passed, it counts none as connected: otherwise a download would be moved from
//! one to the next as they come, and two nodes would have it at different ones.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use darner_proto::gossip::Member;
use darner_proto::id::HostId;
use darner_service::gossip::members::{KEEPERS, rank};

use super::sessions::Input;

/// Turns, tenths of a second, without any scheduler before the keepers are attended. Sooner than a
/// download without one helps itself.
const PATIENCE: u32 = 3;
/// At the start those named get this long to be connected to.
const FIRST_PATIENCE: u32 = 20;
/// Turns that keepers are waited for when they take over.
const GATHERING: u32 = 8;
/// Turns that a keeper which membership has dropped stays one while the session with it is open. Who was
/// wrongly taken for dead is back among the members sooner.
const LINGERING: u32 = 150;
/// What a keeper goes by: never the name of a scheduler of the same node.
const SUFFIX: &str = ".mirror";

/// Who counts as a scheduler.
#[derive(Debug)]
pub struct Table {
    scheme: &'static str,
    named: BTreeMap<HostId, String>,
    /// By membership.
    members: BTreeMap<HostId, Keeper>,
    /// And those that count: some that membership has just dropped are among them.
    keepers: BTreeMap<HostId, Keeper>,
    /// Keepers with which a session is open.
    attended: BTreeSet<HostId>,
    /// Of those named.
    connected: BTreeSet<HostId>,
    /// Turns left before the keepers are attended.
    patience: u32,
    /// Whether the keepers are attended.
    kept: bool,
    /// Something has changed that nobody has been told.
    stale: bool,
    /// Keepers that are connected and do not count yet; `None` once they do.
    gathered: Option<BTreeSet<HostId>>,
    /// Turns left to wait for more of them.
    gathering: u32,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Keeper {
    member: HostId,
    url: String,
    /// Turns left once membership has dropped it.
    lingering: u32,
}

impl Table {
    /// Nobody counts yet. Keepers are dialled with `scheme`.
    pub fn new(scheme: &'static str) -> Self {
        Self {
            scheme,
            named: BTreeMap::new(),
            members: BTreeMap::new(),
            keepers: BTreeMap::new(),
            attended: BTreeSet::new(),
            connected: BTreeSet::new(),
            patience: FIRST_PATIENCE,
            kept: false,
            stale: true,
            gathered: Some(BTreeSet::new()),
            gathering: GATHERING,
        }
    }

    /// The schedulers that are named are now these: id and URL.
    pub fn name(&mut self, schedulers: Vec<(HostId, String)>) {
        self.named = schedulers.into_iter().collect();
        let named = &self.named;
        self.connected.retain(|id| named.contains_key(id));
        self.stale = true;
    }

    /// The members that keep the table are now these.
    pub fn keep(&mut self, members: &[Arc<Member>]) {
        let keeper = |member: &Arc<Member>| {
            let scheduler = member.place.as_ref()?.scheduler();
            let keeper = Keeper {
                member: member.id.clone(),
                url: format!("{}://{scheduler}", self.scheme),
                lingering: LINGERING,
            };
            let id = format!("{}{SUFFIX}", member.id).parse();
            Some((id.unwrap_or_else(|_| member.id.clone()), keeper))
        };
        self.members = members.iter().filter_map(keeper).collect();
        self.choose();
    }

    /// Of the members, and of those that only membership takes for dead, the first ones keep the table.
    fn choose(&mut self) {
        let Self {
            members, attended, ..
        } = self;
        let dropped = self.keepers.iter().filter(|(id, keeper)| {
            !members.contains_key(*id) && attended.contains(*id) && keeper.lingering > 0
        });
        let mut chosen: Vec<_> = members.iter().chain(dropped).collect();
        chosen.sort_by_key(|(_, keeper)| Reverse(rank(&keeper.member)));
        let chosen = chosen.into_iter().take(KEEPERS);
        let chosen: BTreeMap<_, _> = chosen
            .map(|(id, keeper)| (id.clone(), keeper.clone()))
            .collect();
        let url = |(id, keeper): (&HostId, &Keeper)| (id.clone(), keeper.url.clone());
        let is_new = !chosen.iter().map(url).eq(self.keepers.iter().map(url));
        self.stale |= self.kept && is_new;
        self.keepers = chosen;
    }

    /// Whose certificate a keeper has to show; `None` for a scheduler that is named.
    pub fn member(&self, scheduler: &HostId) -> Option<&HostId> {
        if self.named.contains_key(scheduler) {
            return None;
        }
        self.keepers.get(scheduler).map(|keeper| &keeper.member)
    }

    /// Takes in what has happened, and says what of it the sessions are to be told, and what else.
    pub fn apply(&mut self, input: Input) -> Vec<Input> {
        match &input {
            Input::Up { scheduler, .. } if self.named.contains_key(scheduler) => {
                self.connected.insert(scheduler.clone());
            }
            Input::Up { scheduler, .. } => {
                self.attended.insert(scheduler.clone());
                if let Some(gathered) = &mut self.gathered {
                    gathered.insert(scheduler.clone());
                    return self.count_in();
                }
            }
            Input::Down(scheduler) => {
                if self.connected.remove(scheduler) {
                    self.patience = PATIENCE;
                }
                if let Some(gathered) = &mut self.gathered {
                    gathered.remove(scheduler);
                }
                if self.attended.remove(scheduler) {
                    self.choose();
                }
            }
            Input::Turn => self.turn(),
            _ => {}
        }
        let mut out = vec![input];
        out.extend(self.decide());
        out.extend(self.count_in());
        out
    }

    /// Whether a turn would bring anything nearer. Where not, there is no need of one.
    pub fn waits(&self) -> bool {
        let mut dropped = self.keepers.iter();
        self.stale
            || self.are_gathered()
            || (self.connected.is_empty() && self.patience > 0)
            || (self.kept && self.gathering > 0)
            || dropped.any(|(id, keeper)| !self.members.contains_key(id) && keeper.lingering > 0)
    }

    fn turn(&mut self) {
        if self.connected.is_empty() {
            self.patience = self.patience.saturating_sub(1);
        }
        if self.kept {
            self.gathering = self.gathering.saturating_sub(1);
        }
        let mut is_over = false;
        for (id, keeper) in &mut self.keepers {
            if !self.members.contains_key(id) {
                keeper.lingering = keeper.lingering.saturating_sub(1);
                is_over |= keeper.lingering == 0;
            }
        }
        if is_over {
            self.choose();
        }
    }

    fn decide(&mut self) -> Option<Input> {
        let alone = self.connected.is_empty();
        let kept = alone && (self.named.is_empty() || self.kept || self.patience == 0);
        if kept != self.kept {
            self.stale = true;
            self.gathered = Some(BTreeSet::new());
            self.gathering = GATHERING;
        }
        self.kept = kept;
        std::mem::take(&mut self.stale).then(|| Input::Schedulers(self.schedulers()))
    }

    /// The keepers that are connected, once they count. What they are to know is for the caller to say.
    fn count_in(&mut self) -> Vec<Input> {
        if !self.are_gathered() {
            return Vec::new();
        }
        let up = |scheduler| Input::Up {
            scheduler,
            keys: Vec::new(),
        };
        let gathered = self.gathered.take().unwrap_or_default();
        gathered.into_iter().map(up).collect()
    }

    fn are_gathered(&self) -> bool {
        self.gathered.as_ref().is_some_and(|gathered| {
            let all = self.keepers.keys().all(|keeper| gathered.contains(keeper));
            !gathered.is_empty() && (all || self.gathering == 0)
        })
    }

    fn schedulers(&self) -> Vec<(HostId, String)> {
        let named = self.named.iter().map(|(id, url)| (id.clone(), url.clone()));
        let keepers = self.keepers.iter().filter(|_| self.kept);
        let keepers = keepers.map(|(id, keeper)| (id.clone(), keeper.url.clone()));
        named.chain(keepers).collect()
    }
}

#[cfg(test)]
mod tests {
    use darner_proto::gossip::Place;
    use darner_proto::id::Role;
    use proptest::prelude::*;

    use super::*;

    fn id(name: &str) -> HostId {
        name.parse().expect("valid")
    }

    fn keepers(names: &[&str]) -> Vec<Arc<Member>> {
        let member = |name: &&str| {
            Arc::new(Member {
                id: id(name),
                generation: 1,
                place: Some(Place {
                    address: format!("{name}:7421"),
                    scheduler_port: 7422,
                    role: Role::Mirror,
                    labels: BTreeMap::new(),
                }),
            })
        };
        names.iter().map(member).collect()
    }

    fn up(name: &str) -> Input {
        Input::Up {
            scheduler: id(name),
            keys: Vec::new(),
        }
    }

    /// The schedulers that the sessions are told of, if any.
    fn told(inputs: Vec<Input>) -> Option<Vec<String>> {
        inputs.into_iter().find_map(|input| match input {
            Input::Schedulers(schedulers) => {
                Some(schedulers.iter().map(|(id, _)| id.to_string()).collect())
            }
            _ => None,
        })
    }

    /// Who counts as connected from now on.
    fn counted(inputs: Vec<Input>) -> Vec<String> {
        let up = |input| match input {
            Input::Up { scheduler, .. } => Some(scheduler.to_string()),
            _ => None,
        };
        inputs.into_iter().filter_map(up).collect()
    }

    fn strings(names: &[&str]) -> Option<Vec<String>> {
        Some(names.iter().map(|name| (*name).to_owned()).collect())
    }

    #[test]
    fn without_schedulers_the_members_keep_the_table_from_the_beginning() {
        let mut table = Table::new("https");
        table.name(Vec::new());
        table.keep(&keepers(&["a", "b"]));
        assert_eq!(
            told(table.apply(Input::Turn)),
            strings(&["a.mirror", "b.mirror"])
        );
        assert_eq!(table.member(&id("a.mirror")), Some(&id("a")));
        assert_eq!(told(table.apply(Input::Turn)), None);
        table.keep(&keepers(&["b", "c"]));
        assert_eq!(
            told(table.apply(Input::Turn)),
            strings(&["b.mirror", "c.mirror"])
        );
    }

    #[test]
    fn members_take_over_when_the_last_scheduler_is_gone_and_hand_back_to_the_first_that_is_there()
    {
        let mut table = Table::new("https");
        table.name(vec![(id("s"), "u".to_owned()), (id("t"), "u".to_owned())]);
        table.keep(&keepers(&["s", "b"]));
        assert_eq!(told(table.apply(Input::Turn)), strings(&["s", "t"]));
        assert_eq!(counted(table.apply(up("s"))), ["s"]);
        assert_eq!(counted(table.apply(up("t"))), ["t"]);
        assert_eq!(told(table.apply(Input::Down(id("s")))), None);
        for _ in 0..100 {
            assert_eq!(told(table.apply(Input::Turn)), None, "one is left");
        }
        assert_eq!(told(table.apply(Input::Down(id("t")))), None);
        assert_eq!(told(table.apply(Input::Turn)), None);
        assert_eq!(told(table.apply(Input::Turn)), None);
        let all = told(table.apply(Input::Turn));
        assert_eq!(all, strings(&["s", "t", "b.mirror", "s.mirror"]));
        assert_eq!(table.member(&id("s")), None);
        assert_eq!(table.member(&id("s.mirror")), Some(&id("s")));
        assert_eq!(
            told(table.apply(up("s.mirror"))),
            None,
            "a keeper is no scheduler"
        );
        assert_eq!(told(table.apply(up("t"))), strings(&["s", "t"]));
    }

    #[test]
    fn keepers_count_together_when_all_are_there_or_have_had_their_time() {
        for all in [true, false] {
            let mut table = Table::new("https");
            table.keep(&keepers(&["a", "b", "c"]));
            assert!(told(table.apply(Input::Turn)).is_some());
            assert!(table.apply(up("a.mirror")).is_empty());
            assert!(table.apply(up("c.mirror")).is_empty());
            if all {
                let counted = counted(table.apply(up("b.mirror")));
                assert_eq!(counted, ["a.mirror", "b.mirror", "c.mirror"]);
            } else {
                table.apply(Input::Down(id("a.mirror")));
                let late = (0..GATHERING).map(|_| counted(table.apply(Input::Turn)));
                let late: Vec<_> = late.flatten().collect();
                assert_eq!(late, ["c.mirror"]);
            }
            assert_eq!(counted(table.apply(up("a.mirror"))), ["a.mirror"]);
        }
    }

    #[test]
    fn a_keeper_that_membership_drops_stays_one_while_its_session_is_open() {
        let names = ["a", "b", "c", "d", "e", "f"];
        let mut order = names;
        order.sort_by_key(|name| Reverse(rank(&id(name))));
        let slow = order[0];
        let mut first: Vec<_> = order[..5].to_vec();
        first.sort_unstable();
        let mut without: Vec<_> = order[1..].to_vec();
        without.sort_unstable();
        let with_suffix = |names: &[&str]| -> Option<Vec<String>> {
            Some(names.iter().map(|name| format!("{name}.mirror")).collect())
        };
        for ends in [true, false] {
            let mut table = Table::new("https");
            table.keep(&keepers(&first));
            assert_eq!(told(table.apply(Input::Turn)), with_suffix(&first));
            for name in &first {
                table.apply(up(&format!("{name}.mirror")));
            }
            table.keep(&keepers(&without));
            assert_eq!(told(table.apply(Input::Turn)), None, "it is only slow");
            table.keep(&keepers(&first));
            assert_eq!(told(table.apply(Input::Turn)), None);
            // It is dead for good, or membership says so for long.
            table.keep(&keepers(&without));
            let after = if ends {
                told(table.apply(Input::Down(id(&format!("{slow}.mirror")))))
            } else {
                (0..LINGERING).find_map(|_| told(table.apply(Input::Turn)))
            };
            assert_eq!(after, with_suffix(&without));
        }
        // One that comes before the others takes the place of the last of them at once.
        let mut table = Table::new("https");
        table.keep(&keepers(&without));
        table.apply(Input::Turn);
        for name in &without {
            table.apply(up(&format!("{name}.mirror")));
        }
        table.keep(&keepers(&first));
        assert_eq!(told(table.apply(Input::Turn)), with_suffix(&first));
    }

    #[test]
    fn schedulers_that_were_never_there_are_waited_for_a_little() {
        let mut table = Table::new("https");
        table.name(vec![(id("s"), "u".to_owned())]);
        table.keep(&keepers(&["a"]));
        assert_eq!(told(table.apply(Input::Turn)), strings(&["s"]));
        for _ in 2..FIRST_PATIENCE {
            assert_eq!(told(table.apply(Input::Turn)), None);
        }
        assert_eq!(told(table.apply(Input::Turn)), strings(&["s", "a.mirror"]));
    }

    proptest! {
        /// A turn is left out where nothing waits for one: so it must change nothing there.
        #[test]
        fn where_nothing_waits_a_turn_changes_nothing(steps in prop::collection::vec((0u8..10, 0usize..4), 0..100)) {
            const NAMES: [&str; 4] = ["a", "b", "c", "d"];
            let mut table = Table::new("http");
            for (what, which) in steps {
                let scheduler = |suffix: &str| id(&format!("{}{suffix}", NAMES[which]));
                match what {
                    0 => table.keep(&keepers(&NAMES[..which])),
                    1 => table.name(vec![(scheduler(""), "http://named".to_owned())]),
                    2 => table.name(Vec::new()),
                    3 => drop(table.apply(up(NAMES[which]))),
                    4 => drop(table.apply(Input::Up { scheduler: scheduler(SUFFIX), keys: Vec::new() })),
                    5 => drop(table.apply(Input::Down(scheduler(SUFFIX)))),
                    6 => drop(table.apply(Input::Down(scheduler("")))),
                    _ => drop(table.apply(Input::Turn)),
                }
                if !table.waits() {
                    let before = format!("{table:?}");
                    prop_assert_eq!(table.apply(Input::Turn), [Input::Turn]);
                    prop_assert_eq!(format!("{table:?}"), before);
                }
            }
        }
    }
}
