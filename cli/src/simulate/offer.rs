//! Availability streams, both ends: what a host tells its children of a content as it grows.

use std::ops::Range;
use std::rc::Rc;
use std::sync::Arc;

use darner_mirror::pieces::uploads::{Child, Event as Upload};
use darner_mirror::task::state::Event as TaskEvent;
use darner_proto::id::Role;
use darner_proto::piece_map::PieceRun;
use darner_proto::piece_set::PieceSet;
use darner_proto::scheduler::FailureKind;

use super::node::{ContentId, Follower, Following, Gone, Nature};
use super::queue::Time;
use super::world::{Event, World};

/// A child hears something at least this often.
const HEARTBEAT: Time = 1_000_000_000;
/// A stream that is silent this long is dead.
const SILENCE: Time = 5_000_000_000;
/// Nobody answers at an address whose host is gone.
const CONNECT_TIMEOUT: Time = 2_000_000_000;

/// One frame.
#[derive(Debug)]
pub(super) struct News {
    parent: u32,
    available: Vec<Range<u32>>,
    statements: Vec<(u32, Arc<PieceRun>)>,
    received: u64,
    complete: bool,
}

impl World {
    /// A child asks to be told.
    pub(super) fn subscribed(&mut self, child: u32, parent: u32, content: ContentId) {
        let back = self.latency(parent, child);
        let (wait, failure) = match self.how_gone(parent) {
            Some(Gone::Left) => (back, FailureKind::Unreachable),
            Some(Gone::Died) => (CONNECT_TIMEOUT, FailureKind::Unreachable),
            None if self.offers(parent, content) => return self.follows(child, parent, content),
            None => (back, FailureKind::NotHeld),
        };
        let ended = Event::Ended(child, parent, content, Some(failure));
        self.queue.after(wait, ended);
    }

    /// Whether there is something to follow. A seed that is asked for what it does not have begins.
    fn offers(&mut self, host: u32, content: ContentId) -> bool {
        let node = &self.nodes[host as usize];
        if node.nature != Nature::Boaster
            && node.host.role == Role::Seed
            && !node.offers.contains_key(&content)
        {
            self.begin_download(host, content, None, false);
        }
        let node = &self.nodes[host as usize];
        node.offers.contains_key(&content) || node.nature == Nature::Boaster
    }

    fn follows(&mut self, child: u32, parent: u32, content: ContentId) {
        if self.nodes[parent as usize].nature == Nature::Boaster {
            let pieces = self.contents[usize::from(content)].geometry.pieces();
            let news = self.news(parent, content, vec![0..pieces]);
            return self.send_news(child, parent, content, Rc::new(news));
        }
        self.upload_watched(parent, content, child);
        self.followed(parent, content);
        let Some(offer) = self.nodes[parent as usize].offers.get(&content) else {
            return;
        };
        let mut told = offer.held.clone();
        let full = told.is_full();
        let mut owed = Vec::new();
        if let Some((withheld, until)) = self.withheld(parent, content, child) {
            owed = withheld.iter().collect();
            told.subtract(&withheld);
            self.frame_at(parent, content, until);
        }
        if let Some(offer) = self.nodes[parent as usize].offers.get_mut(&content)
            && !(full && owed.is_empty())
        {
            offer.children.push(Follower { child, owed });
        }
        let news = Rc::new(News {
            complete: told.is_full(),
            ..self.news(parent, content, told.runs())
        });
        self.send_news(child, parent, content, news);
    }

    fn send_news(&mut self, child: u32, parent: u32, content: ContentId, news: Rc<News>) {
        let latency = self.latency(parent, child);
        self.queue.after(latency, Event::Told(child, content, news));
    }

    fn news(&self, parent: u32, content: ContentId, available: Vec<Range<u32>>) -> News {
        let node = &self.nodes[parent as usize];
        let statements = &self.contents[usize::from(content)].statements;
        let known = available.iter().cloned().flatten();
        let known = known.filter_map(|index| statements[index as usize].clone());
        let boasts = node.nature == Nature::Boaster;
        News {
            parent,
            statements: if boasts { Vec::new() } else { known.collect() },
            received: node.downloads.get(&content).map_or(1, |one| one.received),
            complete: false,
            available,
        }
    }

    /// The host has another piece: its children hear of it one way's time later.
    pub(super) fn offer_piece(&mut self, host: u32, content: ContentId, index: u32) {
        let Some(offer) = self.nodes[host as usize].offers.get_mut(&content) else {
            return;
        };
        if !offer.held.insert(index) {
            return;
        }
        offer.fresh.push(index);
        let task = self.contents[usize::from(content)].task;
        let gained = Upload::Gained { task, piece: index };
        self.upload_event(host, gained);
        let at = self.queue.now + self.plan.latency.0;
        self.frame_at(host, content, at);
    }

    fn frame_at(&mut self, host: u32, content: ContentId, at: Time) {
        if let Some(offer) = self.nodes[host as usize].offers.get_mut(&content)
            && at < offer.frame_due
        {
            offer.frame_due = at;
            self.queue.at(at, Event::Frame(host, content));
        }
    }

    /// Tells what is new. Children that are further away hear it later.
    pub(super) fn frame(&mut self, host: u32, content: ContentId, heartbeat: bool) {
        let now = self.queue.now;
        if self.is_gone(host) {
            return;
        }
        let Some(offer) = self.nodes[host as usize].offers.get_mut(&content) else {
            return;
        };
        if !heartbeat && now < offer.frame_due {
            return;
        }
        offer.frame_due = Time::MAX;
        offer.last_frame = now;
        let mut fresh = std::mem::take(&mut offer.fresh);
        fresh.sort_unstable();
        let children = std::mem::take(&mut offer.children);
        let full = offer.held.is_full();
        // Nobody else keeps anything from anybody.
        let source = offer.source;
        let common = Rc::new(News {
            complete: full,
            ..self.news(host, content, runs(&fresh))
        });
        let mut stay = Vec::with_capacity(children.len());
        let mut next = Time::MAX;
        for mut follower in children {
            let child = follower.child;
            let withheld = source.then(|| self.withheld(host, content, child));
            let withheld = withheld.flatten();
            let plain = withheld.is_none() && follower.owed.is_empty();
            let news = if plain {
                common.clone()
            } else {
                follower.owed.extend(&fresh);
                let (told, owed, until) = part(follower.owed, withheld);
                follower.owed = owed;
                next = next.min(until);
                let complete = full && follower.owed.is_empty();
                Rc::new(News {
                    complete,
                    ..self.news(host, content, runs(&told))
                })
            };
            if news.complete {
                self.unwatch(host, content, child);
            } else {
                stay.push(follower);
            }
            if news.available.is_empty() && !heartbeat && !news.complete {
                continue;
            }
            let longer = self.latency(host, child) - self.plan.latency.0;
            if longer == 0 {
                self.told(child, content, &news);
            } else {
                let told = Event::Told(child, content, news);
                self.queue.after(longer, told);
            }
        }
        if let Some(offer) = self.nodes[host as usize].offers.get_mut(&content) {
            offer.children.extend(stay);
        }
        if next < Time::MAX {
            self.frame_at(host, content, next + self.plan.latency.0);
        }
    }

    /// A child hears a frame.
    pub(super) fn told(&mut self, child: u32, content: ContentId, news: &News) {
        let now = self.queue.now;
        if self.is_gone(child) {
            return;
        }
        let Some(download) = self.nodes[child as usize].downloads.get_mut(&content) else {
            return;
        };
        let parents = &mut download.parents;
        let Some(at) = parents.iter().position(|one| one.parent == news.parent) else {
            return;
        };
        parents[at].heard = now;
        // Nothing of it is new, and a task makes nothing of what it knows.
        let held = download.task.held();
        let has = |range: &Range<u32>| held.end_of_run(range.start) >= range.end;
        if !news.complete && !news.available.is_empty() && news.available.iter().all(has) {
            return;
        }
        let signers = &download.signers;
        let task = &download.task;
        let runs = news.statements.iter();
        let runs = runs.filter(|(_, run)| !task.knows(run.first));
        let runs = runs.map(|(signer, run)| (run.clone(), signers.contains(signer)));
        let runs = runs.collect();
        if news.complete {
            parents.swap_remove(at);
        }
        let parent = self.nodes[news.parent as usize].host.id.clone();
        let offered = TaskEvent::Offered {
            parent: parent.clone(),
            available: news.available.clone(),
            runs,
            received_bytes: news.received,
        };
        self.task_event(child, content, offered);
        if news.complete {
            let failure = None;
            self.task_event(child, content, TaskEvent::LinkClosed { parent, failure });
        }
    }

    pub(super) fn follow(&mut self, child: u32, parent: u32, content: ContentId) {
        let heard = self.queue.now;
        if let Some(download) = self.nodes[child as usize].downloads.get_mut(&content) {
            download.parents.retain(|one| one.parent != parent);
            download.parents.push(Following { parent, heard });
        }
        let subscribe = Event::Subscribe {
            child,
            parent,
            content,
        };
        self.queue.after(self.latency(child, parent), subscribe);
    }

    pub(super) fn unfollow(&mut self, child: u32, parent: u32, content: ContentId) {
        if let Some(download) = self.nodes[child as usize].downloads.get_mut(&content) {
            download.parents.retain(|one| one.parent != parent);
        }
        if let Some(offer) = self.nodes[parent as usize].offers.get_mut(&content) {
            offer.children.retain(|one| one.child != child);
        }
        self.unwatch(parent, content, child);
    }

    fn unwatch(&mut self, host: u32, content: ContentId, child: u32) {
        let task = self.contents[usize::from(content)].task;
        let child = Child(u64::from(child));
        self.upload_event(host, Upload::Unwatched { child, task });
        self.followed(host, content);
    }

    /// The host's own download is told how many follow it.
    fn followed(&mut self, host: u32, content: ContentId) {
        let task = self.contents[usize::from(content)].task;
        let children = self.nodes[host as usize].uploader.uploads.children(&task);
        self.task_event(host, content, TaskEvent::Followed { children });
    }

    /// A stream that was open has ended.
    pub(super) fn stream_ended(
        &mut self,
        child: u32,
        parent: u32,
        content: ContentId,
        failure: Option<FailureKind>,
    ) {
        let Some(download) = self.nodes[child as usize].downloads.get_mut(&content) else {
            return;
        };
        let before = download.parents.len();
        download.parents.retain(|one| one.parent != parent);
        if download.parents.len() < before {
            let parent = self.nodes[parent as usize].host.id.clone();
            self.task_event(child, content, TaskEvent::LinkClosed { parent, failure });
        }
    }

    /// Signs of life to children, and parents that give none.
    pub(super) fn tick_streams(&mut self, host: u32) {
        let now = self.queue.now;
        let node = &self.nodes[host as usize];
        let idle = node
            .offers
            .iter()
            .filter(|(_, offer)| !offer.children.is_empty() && now - offer.last_frame >= HEARTBEAT);
        let idle: Vec<_> = idle.map(|(content, _)| *content).collect();
        let mut silent = Vec::new();
        for (content, download) in &node.downloads {
            let parents = download.parents.iter();
            let dead = parents.filter(|one| {
                now - one.heard >= SILENCE
                    && self.nodes[one.parent as usize].nature != Nature::Boaster
            });
            silent.extend(dead.map(|one| (*content, one.parent)));
        }
        for content in idle {
            self.frame(host, content, true);
        }
        for (content, parent) in silent {
            self.stream_ended(host, parent, content, Some(FailureKind::Slow));
        }
    }
}

/// What of `pieces` may be told now, what may not, and until when.
fn part(mut pieces: Vec<u32>, withheld: Option<(PieceSet, Time)>) -> (Vec<u32>, Vec<u32>, Time) {
    pieces.sort_unstable();
    pieces.dedup();
    let Some((withheld, until)) = withheld else {
        return (pieces, Vec::new(), Time::MAX);
    };
    let (owed, told): (Vec<_>, Vec<_>) = pieces
        .into_iter()
        .partition(|index| withheld.contains(*index));
    let until = if owed.is_empty() { Time::MAX } else { until };
    (told, owed, until)
}

/// Ascending indexes as runs.
fn runs(indexes: &[u32]) -> Vec<Range<u32>> {
    let mut runs = Vec::new();
    for index in indexes {
        extend(&mut runs, *index);
    }
    runs
}

/// Adds an index that is behind all others.
pub(super) fn extend(runs: &mut Vec<Range<u32>>, index: u32) {
    match runs.last_mut() {
        Some(last) if last.end == index => last.end += 1,
        _ => runs.push(index..index + 1),
    }
}
