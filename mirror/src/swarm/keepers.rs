//! Whom this node takes for its schedulers: those named, or the members that keep the table among
//! themselves when none of those can be reached. Pure.
//!
//! ```text
//! named --(none connected for a while)--> kept among members --(one connected)--> named
//! ```
//! Those named are dialled all the while. The first that is back takes over what the keepers had
//! before these are left, so no download is without a scheduler in between. Where nobody is named
//! the members keep the table from the beginning.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use darner_proto::gossip::Member;
use darner_proto::id::HostId;

use super::sessions::Input;

/// Turns, tenths of a second, without any scheduler before the keepers are attended. Sooner than a
/// download without one helps itself.
const PATIENCE: u32 = 3;
/// At the start those named get this long to be connected to.
const FIRST_PATIENCE: u32 = 20;
/// What a keeper goes by: never the name of a scheduler of the same node.
const SUFFIX: &str = ".mirror";

/// Who counts as a scheduler.
#[derive(Debug)]
pub(super) struct Table {
    scheme: &'static str,
    named: BTreeMap<HostId, String>,
    keepers: BTreeMap<HostId, Keeper>,
    /// Of those named.
    connected: BTreeSet<HostId>,
    /// Turns left before the keepers are attended.
    patience: u32,
    /// Whether the keepers are attended.
    kept: bool,
    /// Something has changed that nobody has been told.
    stale: bool,
}

#[derive(Debug)]
struct Keeper {
    member: HostId,
    url: String,
}

impl Table {
    /// Nobody counts yet. Keepers are dialled with `scheme`.
    pub(super) fn new(scheme: &'static str) -> Self {
        Self {
            scheme,
            named: BTreeMap::new(),
            keepers: BTreeMap::new(),
            connected: BTreeSet::new(),
            patience: FIRST_PATIENCE,
            kept: false,
            stale: true,
        }
    }

    /// The schedulers that are named are now these: id and URL.
    pub(super) fn name(&mut self, schedulers: Vec<(HostId, String)>) {
        self.named = schedulers.into_iter().collect();
        let named = &self.named;
        self.connected.retain(|id| named.contains_key(id));
        self.stale = true;
    }

    /// The members that keep the table are now these.
    pub(super) fn keep(&mut self, members: &[Arc<Member>]) {
        let keeper = |member: &Arc<Member>| {
            let scheduler = member.place.as_ref()?.scheduler();
            let keeper = Keeper {
                member: member.id.clone(),
                url: format!("{}://{scheduler}", self.scheme),
            };
            let id = format!("{}{SUFFIX}", member.id).parse();
            Some((id.unwrap_or_else(|_| member.id.clone()), keeper))
        };
        self.keepers = members.iter().filter_map(keeper).collect();
        self.stale |= self.kept;
    }

    /// Whose certificate a keeper has to show; `None` for a scheduler that is named.
    pub(super) fn member(&self, scheduler: &HostId) -> Option<&HostId> {
        if self.named.contains_key(scheduler) {
            return None;
        }
        self.keepers.get(scheduler).map(|keeper| &keeper.member)
    }

    /// Takes in what the sessions are told, and says what they are to be told after it.
    pub(super) fn apply(&mut self, input: &Input) -> Option<Input> {
        match input {
            Input::Up { scheduler, .. } if self.named.contains_key(scheduler) => {
                self.connected.insert(scheduler.clone());
            }
            Input::Down(scheduler) if self.connected.remove(scheduler) => {
                self.patience = PATIENCE;
            }
            Input::Turn if self.connected.is_empty() => {
                self.patience = self.patience.saturating_sub(1);
            }
            _ => {}
        }
        let alone = self.connected.is_empty();
        let kept = alone && (self.named.is_empty() || self.kept || self.patience == 0);
        self.stale |= kept != self.kept;
        self.kept = kept;
        std::mem::take(&mut self.stale).then(|| Input::Schedulers(self.schedulers()))
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

    fn told(input: Option<Input>) -> Vec<String> {
        match input {
            Some(Input::Schedulers(schedulers)) => {
                schedulers.iter().map(|(id, _)| id.to_string()).collect()
            }
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn without_schedulers_the_members_keep_the_table_from_the_beginning() {
        let mut table = Table::new("https");
        table.name(Vec::new());
        table.keep(&keepers(&["a", "b"]));
        assert_eq!(told(table.apply(&Input::Turn)), ["a.mirror", "b.mirror"]);
        assert_eq!(table.member(&id("a.mirror")), Some(&id("a")));
        assert_eq!(table.apply(&Input::Turn), None);
        table.keep(&keepers(&["b", "c"]));
        assert_eq!(told(table.apply(&Input::Turn)), ["b.mirror", "c.mirror"]);
    }

    #[test]
    fn members_take_over_when_the_last_scheduler_is_gone_and_hand_back_to_the_first_that_is_there()
    {
        let mut table = Table::new("https");
        table.name(vec![(id("s"), "u".to_owned()), (id("t"), "u".to_owned())]);
        table.keep(&keepers(&["s", "b"]));
        assert_eq!(told(table.apply(&Input::Turn)), ["s", "t"]);
        assert_eq!(table.apply(&up("s")), None);
        assert_eq!(table.apply(&up("t")), None);
        assert_eq!(table.apply(&Input::Down(id("s"))), None);
        for _ in 0..100 {
            assert_eq!(table.apply(&Input::Turn), None, "one is left");
        }
        assert_eq!(table.apply(&Input::Down(id("t"))), None);
        assert_eq!(table.apply(&Input::Turn), None);
        assert_eq!(table.apply(&Input::Turn), None);
        let all = told(table.apply(&Input::Turn));
        assert_eq!(all, ["s", "t", "b.mirror", "s.mirror"]);
        assert_eq!(table.member(&id("s")), None);
        assert_eq!(table.member(&id("s.mirror")), Some(&id("s")));
        assert_eq!(
            table.apply(&up("s.mirror")),
            None,
            "a keeper is no scheduler"
        );
        assert_eq!(told(table.apply(&up("t"))), ["s", "t"]);
    }

    #[test]
    fn schedulers_that_were_never_there_are_waited_for_a_little() {
        let mut table = Table::new("https");
        table.name(vec![(id("s"), "u".to_owned())]);
        table.keep(&keepers(&["a"]));
        assert_eq!(told(table.apply(&Input::Turn)), ["s"]);
        for _ in 2..FIRST_PATIENCE {
            assert_eq!(table.apply(&Input::Turn), None);
        }
        assert_eq!(told(table.apply(&Input::Turn)), ["s", "a.mirror"]);
    }
}
