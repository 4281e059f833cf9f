//! What is on its way, as people are shown it. Looking changes nothing and takes a bounded time: of
//! very many participants only the first are counted in detail.

use std::collections::BTreeMap;

use darner_proto::id::{HostId, TaskId};
use darner_proto::piece_set::PieceSet;
use darner_proto::swarms::{LinkView, MAX_LINKS, MAX_PARTS, MAX_VIEWS, PartView, Swarms, TaskView};

use super::tasks::Task;
use super::{SessionId, Swarm};

/// Participants that one look goes through: a few milliseconds.
const MAX_VISITED: usize = 10_000;

impl Swarm {
    /// Everything at a glance.
    pub fn view(&self) -> Swarms {
        let mut largest: Vec<_> = self.tasks.iter().collect();
        largest.sort_by_key(|(_, task)| std::cmp::Reverse(task.participants.len()));
        largest.truncate(MAX_VIEWS);
        let mut left = MAX_VISITED;
        let mut links = BTreeMap::new();
        let views = largest.into_iter().map(|(id, task)| {
            self.count_links(task, left, &mut links);
            let view = self.task_view(id, task, left);
            left = left.saturating_sub(task.participants.len());
            view
        });
        let views = views.collect();
        let links = links.into_iter().take(MAX_LINKS);
        let named = links.filter_map(|((parent, child), tasks)| {
            Some(LinkView {
                parent: self.name_of(parent)?,
                child: self.name_of(child)?,
                tasks,
            })
        });
        Swarms {
            tasks: u32::try_from(self.tasks.len()).unwrap_or(u32::MAX),
            views,
            links: named.collect(),
        }
    }

    /// One task, with those who take part.
    pub fn view_of(&self, id: &TaskId) -> Swarms {
        let Some(task) = self.tasks.get(id) else {
            return Swarms::default();
        };
        let mut view = self.task_view(id, task, MAX_VISITED);
        let parts = task.participants.keys().take(MAX_PARTS);
        view.parts = parts
            .filter_map(|session| self.part_view(task, *session))
            .collect();
        Swarms {
            tasks: 1,
            views: vec![view],
            links: Vec::new(),
        }
    }

    fn task_view(&self, id: &TaskId, task: &Task, visited: usize) -> TaskView {
        let count = |number: usize| u32::try_from(number).unwrap_or(u32::MAX);
        let seen = || task.participants.values().take(visited);
        let complete = seen().filter(|one| one.held.is_full()).count();
        TaskView {
            task: *id,
            size: task.size,
            sources: task.sources.clone(),
            participants: count(task.participants.len()),
            complete: count(complete),
            holders: count(self.inventory.count(id)),
            leases: count(task.leases.len()),
            held_pieces: seen().map(|one| u64::from(one.held.len())).sum(),
            parts: Vec::new(),
        }
    }

    fn part_view(&self, task: &Task, session: SessionId) -> Option<PartView> {
        let participant = task.participants.get(&session)?;
        let host = &self.hosts.get(session)?.host;
        let mut reading = PieceSet::empty(task.pieces());
        for lease in task.leases.iter().filter(|lease| lease.holder == session) {
            reading.union(&lease.missing);
        }
        let parents = participant.parents().iter();
        let parents = parents.filter_map(|parent| self.hosts.numbered(*parent));
        Some(PartView {
            host: host.id.clone(),
            role: host.role,
            held: participant.held.clone(),
            parents: parents.map(|parent| parent.host.id.clone()).collect(),
            reading,
        })
    }

    fn count_links(
        &self,
        task: &Task,
        visited: usize,
        links: &mut BTreeMap<(SessionId, SessionId), u32>,
    ) {
        for (child, participant) in task.participants.iter().take(visited) {
            // Who has everything fetches nothing, whatever it was told before.
            if participant.held.is_full() {
                continue;
            }
            let parents = participant.parents().iter();
            for parent in parents.filter_map(|parent| self.hosts.numbered(*parent)) {
                *links.entry((parent.session(), *child)).or_default() += 1;
            }
        }
    }

    fn name_of(&self, session: SessionId) -> Option<HostId> {
        Some(self.hosts.get(session)?.host.id.clone())
    }
}
