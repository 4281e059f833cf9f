//! Carries out what a host's tasks decide, as the mirror's driver does.

use std::ops::Range;
use std::time::Duration;

use darner_mirror::pieces::uploads::Event as Upload;
use darner_mirror::swarm::sessions::{Input, TaskEvent as Heard};
use darner_mirror::task::state::{Action, Event as TaskEvent, Task};
use darner_proto::id::Role;
use darner_proto::piece_set::PieceSet;
use darner_proto::scheduler::{Join, Lease, LeaseClaim, Outcome};

use super::exchange::Exchange;
use super::node::{ContentId, Download, Nature, Offer};
use super::queue::Time;
use super::world::{Event, Todo, World};

/// The model's clients are told apart by nothing.
const READER: u64 = 1;

impl World {
    /// The host's clients ask for their images.
    pub(super) fn begin(&mut self, host: u32) {
        if self.is_gone(host) {
            return;
        }
        let now = self.queue.now;
        self.nodes[host as usize].started = Some(now);
        self.ask_next(host);
    }

    /// The host's clients ask for as many layers as they pull at a time; what has come is not wanted any
    /// more.
    fn ask_next(&mut self, host: u32) {
        let wanted = &self.nodes[host as usize].wanted;
        let asked: Vec<_> = wanted.iter().take(self.plan.at_once).copied().collect();
        for content in asked {
            let downloads = &self.nodes[host as usize].downloads;
            if !downloads.contains_key(&content) {
                self.begin_download(host, content, None, false);
            }
            let downloads = &self.nodes[host as usize].downloads;
            let read = downloads
                .get(&content)
                .is_none_or(|one| one.cursor.is_some());
            if self.plan.in_order && !read {
                self.move_cursor(host, content, 0);
            }
        }
    }

    /// Begins a download, under a lease or not.
    pub(super) fn begin_download(
        &mut self,
        host: u32,
        content: ContentId,
        lease: Option<Lease>,
        clean: bool,
    ) {
        let described = &self.contents[usize::from(content)];
        let (id, geometry) = (described.task, described.geometry);
        let held = PieceSet::empty(geometry.pieces());
        let source = described.source.clone();
        let node = &mut self.nodes[host as usize];
        let me = node.host.id.clone();
        let join = Join {
            task: id,
            size: geometry.size(),
            sources: vec![source.clone()],
            held: held.clone(),
            lease: lease.as_ref().map(|lease| LeaseClaim {
                lease: lease.lease,
                ranges: lease.ranges.clone(),
            }),
        };
        let sources = vec![source.into()];
        let task = Task::new(Duration::ZERO, id, me, held.clone(), geometry, sources);
        let download = Download {
            task,
            began: self.queue.now,
            parents: Vec::new(),
            exchanges: Vec::new(),
            signers: Vec::new(),
            cursor: None,
            tainted: false,
            received: 0,
            wake: Time::MAX,
        };
        node.downloads.insert(content, download);
        self.share(host);
        let node = &mut self.nodes[host as usize];
        let source = node.host.role == Role::Seed;
        node.offers.insert(content, Offer::new(held, source));
        self.todo.push_back(Todo::Input(host, Input::Join(join)));
        if let Some(download) = self.nodes[host as usize].downloads.get_mut(&content) {
            let actions = download.task.start(Duration::ZERO, clean).into_iter();
            self.todo
                .extend(actions.map(|action| Todo::Task(host, content, action)));
        }
        if let Some(lease) = lease {
            let leased = TaskEvent::Scheduler(Heard::Lease(lease));
            self.task_event(host, content, leased);
        }
    }

    /// A lease has come for something the host does not have.
    pub(super) fn take_lease(&mut self, host: u32, lease: Lease) {
        let Some(content) = self.content_of(&lease.task) else {
            return;
        };
        let node = &self.nodes[host as usize];
        if node.stored.contains(&content) {
            let held = Input::Held(vec![lease.task]);
            self.todo.push_back(Todo::Input(host, held));
        } else if node.downloads.contains_key(&content) {
            let leased = TaskEvent::Scheduler(Heard::Lease(lease));
            self.task_event(host, content, leased);
        } else {
            self.begin_download(host, content, Some(lease), false);
        }
    }

    /// Whoever the scheduler names as a signer counts; without one, the seeds it named before.
    pub(super) fn note_signers(&mut self, host: u32, content: ContentId, event: &Heard) {
        let named: Vec<_> = match event {
            Heard::Parents { signers, .. } => signers.iter().map(|(id, _)| id).collect(),
            Heard::Alone { owners, .. } => owners.iter().map(|owner| &owner.id).collect(),
            _ => return,
        };
        let named: Vec<_> = named
            .into_iter()
            .filter_map(|id| self.number_of(id))
            .collect();
        if let Some(download) = self.nodes[host as usize].downloads.get_mut(&content) {
            for signer in named {
                if !download.signers.contains(&signer) {
                    download.signers.push(signer);
                }
            }
        }
    }

    /// Time passes for a host.
    pub(super) fn tick(&mut self, host: u32) {
        if self.is_gone(host) {
            return;
        }
        self.heartbeat(host);
        self.todo.push_back(Todo::Input(host, Input::Turn));
        self.tick_streams(host);
        self.tick_exchanges(host);
        let contents = self.nodes[host as usize].downloads.keys();
        for content in contents.copied().collect::<Vec<_>>() {
            self.task_event(host, content, TaskEvent::Tick);
        }
        self.queue.after(Self::TICK, Event::Tick(host));
    }

    /// Does what a task has decided.
    pub(super) fn do_task(&mut self, host: u32, content: ContentId, action: Action) {
        match action {
            Action::Subscribe(parent) => {
                if let Some(parent) = self.number_of(&parent.id) {
                    self.follow(host, parent, content);
                }
            }
            Action::Unsubscribe(parent) => {
                if let Some(parent) = self.number_of(&parent) {
                    self.unfollow(host, parent, content);
                }
            }
            Action::Fetch {
                request,
                parent,
                want,
                at_once,
            } => {
                let Some(parent) = self.number_of(&parent.id) else {
                    return;
                };
                let exchange = Exchange {
                    parent: Some(parent),
                    want: want.into_iter().collect(),
                    at_once,
                    ..self.exchange(host, content, request, 0..0)
                };
                let id = self.open_exchange(exchange);
                let way = self.latency(host, parent);
                self.queue.after(way, Event::Asked(id));
            }
            Action::Read { read, pieces, .. } => {
                let id = self.open_exchange(self.exchange(host, content, read, pieces));
                let wait = self.plan.upstream_latency;
                self.queue.after(wait, Event::ReadAnswered(id));
            }
            Action::CancelFetch(number) | Action::CancelRead(number) => {
                self.cancel(host, content, number);
            }
            Action::Tell(input) => self.todo.push_back(Todo::Input(host, input)),
            // A liar does not look at its copy.
            Action::Doubt(_) => self.counts.doubts += 1,
            Action::Unvouch => self.counts.unvouched += 1,
            Action::Complete => self.complete(host, content),
            Action::Fail(_) => self.download_failed(host, content),
        }
    }

    fn exchange(
        &self,
        child: u32,
        content: ContentId,
        number: u64,
        pieces: Range<u32>,
    ) -> Exchange {
        Exchange {
            child,
            content,
            number,
            parent: None,
            want: Vec::new(),
            at_once: false,
            piece: pieces.start,
            pieces,
            answered: None,
            received: 0,
            got: 0,
            transfer: None,
            holds_slot: false,
            heard: self.queue.now,
        }
    }

    /// Every download of the host is told how many there are.
    fn share(&mut self, host: u32) {
        let downloads = &self.nodes[host as usize].downloads;
        let count = u32::try_from(downloads.len()).unwrap_or(u32::MAX);
        for content in downloads.keys().copied().collect::<Vec<_>>() {
            self.task_event(host, content, TaskEvent::Beside { downloads: count });
        }
    }

    /// A piece is verified and written.
    pub(super) fn gained(&mut self, host: u32, content: ContentId, index: u32) {
        self.offer_piece(host, content, index);
        let node = &self.nodes[host as usize];
        let (Some(download), Some(offer)) =
            (node.downloads.get(&content), node.offers.get(&content))
        else {
            return;
        };
        if download.cursor == Some(index) {
            let next = offer.held.end_of_run(index);
            if next < offer.held.pieces() {
                self.move_cursor(host, content, next);
            }
        }
    }

    fn move_cursor(&mut self, host: u32, content: ContentId, piece: u32) {
        if let Some(download) = self.nodes[host as usize].downloads.get_mut(&content) {
            download.cursor = Some(piece);
        }
        let moved = TaskEvent::Cursor {
            reader: READER,
            piece: Some(piece),
        };
        self.task_event(host, content, moved);
    }

    /// Every piece is there: the whole digest decides.
    fn complete(&mut self, host: u32, content: ContentId) {
        let task = self.contents[usize::from(content)].task;
        let node = &mut self.nodes[host as usize];
        let Some(download) = node.downloads.remove(&content) else {
            return;
        };
        if download.tainted {
            self.counts.mismatches += 1;
            let failed = Input::Leave(task, Outcome::Failed);
            self.todo.push_back(Todo::Input(host, failed));
            return self.begin_download(host, content, None, true);
        }
        self.share(host);
        let node = &mut self.nodes[host as usize];
        node.stored.push(content);
        let before = node.wanted.len();
        node.wanted.retain(|wanted| *wanted != content);
        let last = before > 0 && node.wanted.is_empty();
        let asks = node.started.is_some() && !node.failed;
        for input in [
            Input::Held(vec![task]),
            Input::Leave(task, Outcome::Complete),
        ] {
            self.todo.push_back(Todo::Input(host, input));
        }
        if last {
            self.nodes[host as usize].finished = Some(self.queue.now);
            self.ended(host);
        } else if asks {
            self.ask_next(host);
        }
    }

    fn download_failed(&mut self, host: u32, content: ContentId) {
        let task = self.contents[usize::from(content)].task;
        let node = &mut self.nodes[host as usize];
        node.downloads.remove(&content);
        self.share(host);
        let node = &mut self.nodes[host as usize];
        let children = node.offers.remove(&content);
        for child in children.into_iter().flat_map(|offer| offer.children) {
            let failure = Some(darner_proto::scheduler::FailureKind::Slow);
            let ended = Event::Ended(child.child, host, content, failure);
            self.queue.after(self.latency(host, child.child), ended);
        }
        let lost = Upload::Lost { task };
        self.upload_event(host, lost);
        let failed = Input::Leave(task, Outcome::Failed);
        self.todo.push_back(Todo::Input(host, failed));
        let node = &mut self.nodes[host as usize];
        if node.wanted.contains(&content) && !node.failed {
            node.failed = true;
            self.ended(host);
        }
    }

    /// Nothing more is expected of the host.
    fn ended(&mut self, host: u32) {
        if self.counts_for(host) {
            self.counts.unfinished -= 1;
        }
    }

    /// Whether the host is one whose pull is measured.
    pub(super) fn counts_for(&self, host: u32) -> bool {
        let node = &self.nodes[host as usize];
        node.nature == Nature::Honest && node.host.role == Role::Mirror
    }
}
