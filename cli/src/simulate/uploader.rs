//! The parent's side of requests for pieces: gives the uploads core its events and carries out what
//! it decides, as the desk of the pieces listener does.

use std::time::Duration;

use darner_mirror::pieces::uploads::{Action, Child, Event as Upload, Holding, Uploads};
use darner_mirror::task::state::RequestEnd;
use darner_proto::peer::Wait;
use darner_proto::piece_set::PieceSet;
use darner_proto::scheduler::FailureKind;

use super::exchange::ExchangeId;
use super::node::{Content, ContentId, Node, Offer};
use super::queue::{Time, nanos};
use super::world::{Event, World};

/// One host's uploads.
#[derive(Debug)]
pub(super) struct Uploader {
    pub(super) uploads: Uploads,
    /// When the timer that is set goes off.
    timer: Time,
}

impl Uploader {
    pub(super) fn new(slots: u32) -> Self {
        Self {
            uploads: Uploads::new(slots),
            timer: Time::MAX,
        }
    }
}

impl World {
    /// A child asks for pieces.
    pub(super) fn upload_asked(&mut self, parent: u32, id: ExchangeId) {
        let Some(exchange) = self.exchanges.get(id) else {
            return;
        };
        let content = exchange.content;
        let mut want = Vec::with_capacity(exchange.want.len());
        for (index, _) in &exchange.want {
            super::offer::extend(&mut want, *index);
        }
        let child = Child(u64::from(exchange.child));
        let wait = if exchange.at_once {
            Wait::Not
        } else {
            Wait::InTurn
        };
        let Node {
            uploader, offers, ..
        } = &mut self.nodes[parent as usize];
        let Some(offer) = offers.get(&content) else {
            return self.refuse(id, FailureKind::NotHeld);
        };
        let asked = Upload::Asked {
            request: id.number(),
            child,
            wait,
            holding: holding(&self.contents[usize::from(content)], offer),
            want: &want,
        };
        let now = Duration::from_nanos(self.queue.now);
        let actions = uploader.uploads.apply(now, asked);
        self.uploads_decided(parent, actions);
    }

    /// A child follows what the host has of a content.
    pub(super) fn upload_watched(&mut self, host: u32, content: ContentId, child: u32) {
        let Node {
            uploader, offers, ..
        } = &mut self.nodes[host as usize];
        let Some(offer) = offers.get(&content) else {
            return;
        };
        let holding = holding(&self.contents[usize::from(content)], offer);
        let child = Child(u64::from(child));
        let now = Duration::from_nanos(self.queue.now);
        let watched = Upload::Watched { child, holding };
        let actions = uploader.uploads.apply(now, watched);
        self.uploads_decided(host, actions);
    }

    /// Something else that the uploads are to know.
    pub(super) fn upload_event(&mut self, host: u32, event: Upload<'_>) {
        let now = Duration::from_nanos(self.queue.now);
        let actions = self.nodes[host as usize].uploader.uploads.apply(now, event);
        self.uploads_decided(host, actions);
    }

    /// A timer goes off.
    pub(super) fn patience(&mut self, host: u32) {
        let now = self.queue.now;
        let uploader = &mut self.nodes[host as usize].uploader;
        if now < uploader.timer {
            return;
        }
        uploader.timer = Time::MAX;
        if uploader
            .uploads
            .next()
            .is_some_and(|next| nanos(next) <= now)
        {
            self.upload_event(host, Upload::Tick);
        } else {
            self.set_timer(host);
        }
    }

    fn set_timer(&mut self, host: u32) {
        let uploader = &mut self.nodes[host as usize].uploader;
        if let Some(next) = uploader.uploads.next().map(nanos)
            && next < uploader.timer
        {
            uploader.timer = next;
            self.queue.at(next, Event::Patience(host));
        }
    }

    fn uploads_decided(&mut self, parent: u32, actions: Vec<Action>) {
        for action in actions {
            match action {
                Action::Busy { request, again } => {
                    self.counts.busy += 1;
                    // The header carries whole milliseconds.
                    let again = u64::try_from(again.as_millis()).unwrap_or(u64::MAX);
                    let again = Some(Duration::from_millis(again));
                    let id = ExchangeId::numbered(request);
                    self.refuse_with(id, RequestEnd::Busy { again });
                }
                Action::NotHeld { request } => {
                    self.refuse(ExchangeId::numbered(request), FailureKind::NotHeld);
                }
                Action::Send { request, pieces } => {
                    self.send_run(parent, ExchangeId::numbered(request), pieces);
                }
            }
        }
        self.set_timer(parent);
    }

    /// What a child is not to be told of yet, and until when.
    pub(super) fn withheld(
        &self,
        host: u32,
        content: ContentId,
        child: u32,
    ) -> Option<(PieceSet, Time)> {
        let now = Duration::from_nanos(self.queue.now);
        let task = &self.contents[usize::from(content)].task;
        let uploads = &self.nodes[host as usize].uploader.uploads;
        let withheld = uploads.withheld(now, task, Child(u64::from(child)))?;
        Some((withheld.pieces, nanos(withheld.until)))
    }
}

fn holding<'a>(content: &Content, offer: &'a Offer) -> Holding<'a> {
    Holding {
        task: content.task,
        geometry: content.geometry,
        held: &offer.held,
        source: offer.source,
    }
}
