//! The requests of a task by their numbers. They are few and numbers only grow, so they are one short
//! run of memory in the order in which they were made.

use super::Request;

/// All requests under way.
#[derive(Debug, Default)]
pub(in super::super) struct Requests(Vec<(u64, Request)>);

impl Requests {
    fn place(&self, number: u64) -> Option<usize> {
        self.0.binary_search_by_key(&number, |(one, _)| *one).ok()
    }

    pub(in super::super) fn len(&self) -> usize {
        self.0.len()
    }

    pub(in super::super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(super) fn get_mut(&mut self, number: u64) -> Option<&mut Request> {
        self.place(number).map(|at| &mut self.0[at].1)
    }

    pub(in super::super) fn values(&self) -> impl Iterator<Item = &Request> {
        self.0.iter().map(|(_, request)| request)
    }

    pub(super) fn values_mut(&mut self) -> impl Iterator<Item = &mut Request> {
        self.0.iter_mut().map(|(_, request)| request)
    }

    pub(super) fn iter_mut(&mut self) -> impl Iterator<Item = (u64, &mut Request)> {
        self.0
            .iter_mut()
            .map(|(number, request)| (*number, request))
    }

    /// `number` is above all before it.
    pub(in super::super) fn add(&mut self, number: u64, request: Request) {
        self.0.push((number, request));
    }

    pub(super) fn remove(&mut self, number: u64) -> Option<Request> {
        self.place(number).map(|at| self.0.remove(at).1)
    }

    /// Forgets all of them and says which they were.
    pub(in super::super) fn take_numbers(&mut self) -> impl Iterator<Item = u64> {
        std::mem::take(&mut self.0)
            .into_iter()
            .map(|(number, _)| number)
    }
}
