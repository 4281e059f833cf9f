//! The parents of a task by their ids, in the order of the ids.
//!
//! They are some fourteen, and one of them is looked up for whatever happens: ids lie side by side and
//! are mostly clones of each other, so that one is found without a look at the text of any.

use darner_proto::id::HostId;

use super::Link;

/// All parents of one task.
#[derive(Debug, Default)]
pub(in super::super) struct Links {
    ids: Vec<HostId>,
    links: Vec<Link>,
}

impl Links {
    fn place(&self, id: &HostId) -> Option<usize> {
        let clone = self.ids.iter().position(|one| one.is_clone_of(id));
        clone.or_else(|| self.ids.binary_search(id).ok())
    }

    pub(in super::super) fn len(&self) -> usize {
        self.links.len()
    }

    pub(in super::super) fn get(&self, id: &HostId) -> Option<&Link> {
        self.place(id).map(|at| &self.links[at])
    }

    pub(in super::super) fn get_mut(&mut self, id: &HostId) -> Option<&mut Link> {
        self.place(id).map(|at| &mut self.links[at])
    }

    pub(super) fn contains(&self, id: &HostId) -> bool {
        self.place(id).is_some()
    }

    pub(in super::super) fn values(&self) -> impl Iterator<Item = &Link> {
        self.links.iter()
    }

    pub(in super::super) fn values_mut(&mut self) -> impl Iterator<Item = &mut Link> {
        self.links.iter_mut()
    }

    /// In place of the one with the same id, if there is one.
    pub(super) fn insert(&mut self, id: HostId, link: Link) {
        match self.ids.binary_search(&id) {
            Ok(at) => self.links[at] = link,
            Err(at) => {
                self.ids.insert(at, id);
                self.links.insert(at, link);
            }
        }
    }

    pub(super) fn remove(&mut self, id: &HostId) {
        if let Some(at) = self.place(id) {
            self.ids.remove(at);
            self.links.remove(at);
        }
    }

    /// Forgets all of them and says who they were.
    pub(in super::super) fn take_ids(&mut self) -> Vec<HostId> {
        self.links = Vec::new();
        std::mem::take(&mut self.ids)
    }
}
