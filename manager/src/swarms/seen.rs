//! What several schedulers tell, as one; and how fast it goes, by what was seen a moment before.

use std::collections::BTreeMap;
use std::time::Duration;

use darner_proto::geometry::Geometry;
use darner_proto::id::{HostId, Role, TaskId};
use darner_proto::swarms::{LinkView, PartView, Swarms as Told, TaskView};

/// Everything at a glance.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Seen {
    /// Schedulers in the cluster.
    pub schedulers: usize,
    /// Those that have answered.
    pub answering: usize,
    /// Tasks they know.
    pub tasks: u64,
    /// The largest of them, by size of the swarm.
    pub views: Vec<OnItsWay>,
    /// Who fetches from whom.
    pub links: Vec<LinkView>,
}

/// A task at a glance.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OnItsWay {
    /// As a scheduler tells.
    pub view: TaskView,
    /// What nodes gain together, where that is known yet.
    pub bytes_per_second: Option<u64>,
}

/// A task, with those who take part.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TaskSeen {
    /// As a scheduler tells.
    pub view: TaskView,
    /// What each node gains, where that is known yet.
    pub rates: BTreeMap<HostId, u64>,
}

/// What is held of a task by everybody.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Copies {
    /// Of the piece that is rarest.
    pub least: u32,
    /// On average.
    pub mean: f64,
}

impl Seen {
    /// What those who answered tell, and `before` so long ago.
    pub fn of(schedulers: usize, told: Vec<Told>, before: Option<(Duration, &Self)>) -> Self {
        let answering = told.len();
        let tasks = told.iter().map(|one| u64::from(one.tasks)).sum();
        let mut views: BTreeMap<TaskId, TaskView> = BTreeMap::new();
        let mut links: BTreeMap<(HostId, HostId), u32> = BTreeMap::new();
        for one in told {
            for view in one.views {
                // On its way from one scheduler to another a task is known to both.
                let known = views.get(&view.task);
                if known.is_none_or(|known| known.participants < view.participants) {
                    views.insert(view.task, view);
                }
            }
            for link in one.links {
                *links.entry((link.parent, link.child)).or_default() += link.tasks;
            }
        }
        let mut views: Vec<_> = views
            .into_values()
            .map(|view| OnItsWay {
                bytes_per_second: before.and_then(|before| rate_of(&view, before)),
                view,
            })
            .collect();
        views.sort_by_key(|one| std::cmp::Reverse(one.view.participants));
        let links = links.into_iter().map(|((parent, child), tasks)| LinkView {
            parent,
            child,
            tasks,
        });
        Self {
            schedulers,
            answering,
            tasks,
            views,
            links: links.collect(),
        }
    }
}

impl TaskSeen {
    /// The task, if anybody knows it.
    pub fn of(id: &TaskId, told: Vec<Told>, before: Option<(Duration, &Self)>) -> Option<Self> {
        let views = told.into_iter().flat_map(|one| one.views);
        let views = views.filter(|view| view.task == *id);
        let view = views.max_by_key(|view| view.participants)?;
        let mut rates = BTreeMap::new();
        if let Some((since, before)) = before {
            for part in &view.parts {
                let was = before.view.parts.iter().find(|one| one.host == part.host);
                if let Some(was) = was {
                    let gained = part.held.len().saturating_sub(was.held.len());
                    let rate = rate(&view, u64::from(gained), since);
                    rates.insert(part.host.clone(), rate);
                }
            }
        }
        Some(Self { view, rates })
    }

    /// How many copies there are of its pieces, those of holders who take no part among them.
    pub fn copies(&self) -> Copies {
        let pieces = Geometry::of(self.view.size).pieces();
        let full = self.view.parts.iter().filter(|part| part.held.is_full());
        // Who holds all of it may take part as well, and is counted once.
        let beside = self.view.holders.saturating_sub(count(full.count()));
        let each = (0..pieces).map(|piece| {
            let held = |part: &&PartView| part.held.contains(piece);
            count(self.view.parts.iter().filter(held).count()) + beside
        });
        let each: Vec<_> = each.collect();
        let sum: f64 = each.iter().map(|copies| f64::from(*copies)).sum();
        Copies {
            least: each.iter().copied().min().unwrap_or(0),
            mean: sum / f64::from(pieces.max(1)),
        }
    }

    /// Those who take part: seeds first, then by name.
    pub fn parts(&self) -> Vec<&PartView> {
        let mut parts: Vec<_> = self.view.parts.iter().collect();
        parts.sort_by(|one, other| {
            let seed = |part: &PartView| part.role != Role::Seed;
            (seed(one), &one.host).cmp(&(seed(other), &other.host))
        });
        parts
    }
}

fn rate_of(view: &TaskView, (since, before): (Duration, &Seen)) -> Option<u64> {
    let mut all = before.views.iter();
    let was = all.find(|one| one.view.task == view.task)?;
    let gained = view.held_pieces.saturating_sub(was.view.held_pieces);
    Some(rate(view, gained, since))
}

/// So many pieces in this time, in bytes a second.
fn rate(view: &TaskView, pieces: u64, since: Duration) -> u64 {
    let ms = u64::try_from(since.as_millis()).unwrap_or(u64::MAX).max(1);
    let bytes = pieces.saturating_mul(Geometry::of(view.size).piece_length());
    bytes
        .min(view.size.saturating_mul(view.participants.max(1).into()))
        .saturating_mul(1000)
        / ms
}

fn count(number: usize) -> u32 {
    u32::try_from(number).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use darner_proto::digest::Digest;
    use darner_proto::piece_set::PieceSet;

    const MIB: u64 = 1 << 20;

    fn part(host: &str, role: Role, held: &[u32]) -> PartView {
        let mut set = PieceSet::empty(4);
        for piece in held {
            set.insert(*piece);
        }
        PartView {
            host: host.parse().unwrap(),
            role,
            held: set,
            parents: Vec::new(),
            reading: PieceSet::empty(4),
        }
    }

    fn told(parts: Vec<PartView>, holders: u32) -> Told {
        let held = parts.iter().map(|part| u64::from(part.held.len())).sum();
        Told {
            tasks: 1,
            views: vec![TaskView {
                task: Digest::sha256(b"x"),
                size: 4 * MIB,
                sources: Vec::new(),
                participants: count(parts.len()),
                complete: 0,
                holders,
                leases: 0,
                held_pieces: held,
                parts,
            }],
            links: vec![LinkView {
                parent: "a".parse().unwrap(),
                child: "b".parse().unwrap(),
                tasks: 1,
            }],
        }
    }

    #[test]
    fn what_schedulers_tell_is_put_together() {
        let large = told(
            vec![part("a", Role::Mirror, &[0]), part("b", Role::Mirror, &[])],
            0,
        );
        let small = told(vec![part("a", Role::Mirror, &[0])], 0);
        let first = Seen::of(3, vec![small.clone(), large.clone()], None);
        assert_eq!((first.schedulers, first.answering, first.tasks), (3, 2, 2));
        assert_eq!(first.views.len(), 1, "on its way from one to the other");
        assert_eq!(first.views[0].view.participants, 2);
        assert_eq!(first.views[0].bytes_per_second, None);
        assert_eq!(first.links[0].tasks, 2);
        let more = told(
            vec![
                part("a", Role::Mirror, &[0, 1]),
                part("b", Role::Mirror, &[0]),
            ],
            0,
        );
        let then = Seen::of(1, vec![more], Some((Duration::from_secs(2), &first)));
        assert_eq!(then.views[0].bytes_per_second, Some(MIB));
    }

    #[test]
    fn a_task_is_seen_with_rates_and_copies() {
        let id = Digest::sha256(b"x");
        let parts = vec![
            part("m-2", Role::Mirror, &[0, 1]),
            part("m-1", Role::Mirror, &[]),
            part("seed", Role::Seed, &[0, 1, 2, 3]),
        ];
        let first = TaskSeen::of(&id, vec![told(parts, 2)], None).unwrap();
        assert!(first.rates.is_empty());
        let copies = first.copies();
        assert_eq!(copies.least, 2, "the seed, and a holder that takes no part");
        assert!((copies.mean - 2.5).abs() < 1e-9);
        let names: Vec<_> = first
            .parts()
            .iter()
            .map(|part| part.host.to_string())
            .collect();
        assert_eq!(names, ["seed", "m-1", "m-2"]);
        let later = vec![
            part("m-1", Role::Mirror, &[0, 1]),
            part("new", Role::Mirror, &[3]),
        ];
        let since = Some((Duration::from_secs(1), &first));
        let then = TaskSeen::of(&id, vec![told(later, 0)], since).unwrap();
        assert_eq!(then.rates, [("m-1".parse().unwrap(), 2 * MIB)].into());
        assert!(TaskSeen::of(&Digest::sha256(b"y"), vec![told(Vec::new(), 0)], None).is_none());
    }
}
