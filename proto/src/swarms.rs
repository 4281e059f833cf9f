//! What is on its way between nodes, as a scheduler tells the manager (`swarms.proto`).

use crate::geometry::Geometry;
use crate::id::{HostId, Role, TaskId};
use crate::invalid::Invalid;
use crate::name::Source;
use crate::piece_set::PieceSet;
use crate::scheduler::MAX_SOURCES;
use crate::wire;

/// Tasks at a glance in one answer.
pub const MAX_VIEWS: usize = 512;
/// Pairs of nodes in one answer.
pub const MAX_LINKS: usize = 4096;
/// Nodes of one task in one answer.
pub const MAX_PARTS: usize = 512;
/// Parents of one node in one task; a scheduler names a dozen.
const MAX_PARENTS: usize = 64;
/// The largest answer: [`MAX_PARTS`] nodes with names and parents of the usual length, and pieces in
/// some hundred ranges each; or [`MAX_VIEWS`] tasks and [`MAX_LINKS`] links of the longest names.
pub const MAX_REPLY: usize = 8 << 20;

/// What a scheduler knows to be on its way.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Swarms {
    /// Tasks it knows.
    pub tasks: u32,
    /// Those with the most participants.
    pub views: Vec<TaskView>,
    /// Who is told to fetch from whom.
    pub links: Vec<LinkView>,
}

/// One content on its way.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TaskView {
    /// Which.
    pub task: TaskId,
    /// Its size in bytes.
    pub size: u64,
    /// Where it may be read from.
    pub sources: Vec<Source>,
    /// Nodes that take part.
    pub participants: u32,
    /// Those of them that have every piece.
    pub complete: u32,
    /// Nodes that hold all of it.
    pub holders: u32,
    /// Leases by which upstream is read.
    pub leases: u32,
    /// Pieces that participants have, together.
    pub held_pieces: u64,
    /// Who takes part, where one task alone was asked for.
    pub parts: Vec<PartView>,
}

/// One node's part in a task.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PartView {
    /// The node.
    pub host: HostId,
    /// Its role.
    pub role: Role,
    /// Pieces it has.
    pub held: PieceSet,
    /// Whom it is told to fetch from.
    pub parents: Vec<HostId>,
    /// What it reads from upstream.
    pub reading: PieceSet,
}

/// A node that is told to fetch from another.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LinkView {
    /// The one that sends.
    pub parent: HostId,
    /// The one that fetches.
    pub child: HostId,
    /// In so many tasks.
    pub tasks: u32,
}

impl From<&Swarms> for wire::SwarmsReply {
    fn from(swarms: &Swarms) -> Self {
        let links = swarms.links.iter().take(MAX_LINKS);
        Self {
            tasks: swarms.tasks,
            views: swarms
                .views
                .iter()
                .take(MAX_VIEWS)
                .map(Into::into)
                .collect(),
            links: links
                .map(|link| wire::LinkView {
                    parent: link.parent.to_string(),
                    child: link.child.to_string(),
                    tasks: link.tasks,
                })
                .collect(),
        }
    }
}

impl TryFrom<wire::SwarmsReply> for Swarms {
    type Error = Invalid;

    fn try_from(reply: wire::SwarmsReply) -> Result<Self, Invalid> {
        let views = reply.views.into_iter().take(MAX_VIEWS);
        let links = reply.links.into_iter().take(MAX_LINKS).map(|link| {
            Ok(LinkView {
                parent: link.parent.parse()?,
                child: link.child.parse()?,
                tasks: link.tasks,
            })
        });
        Ok(Self {
            tasks: reply.tasks,
            views: views.map(TaskView::try_from).collect::<Result<_, _>>()?,
            links: links.collect::<Result<_, Invalid>>()?,
        })
    }
}

impl From<&TaskView> for wire::TaskView {
    fn from(view: &TaskView) -> Self {
        Self {
            task: view.task.to_wire().into(),
            size: view.size,
            sources: view.sources.iter().map(Into::into).collect(),
            participants: view.participants,
            complete: view.complete,
            holders: view.holders,
            leases: view.leases,
            held_pieces: view.held_pieces,
            parts: view.parts.iter().take(MAX_PARTS).map(Into::into).collect(),
        }
    }
}

impl TryFrom<wire::TaskView> for TaskView {
    type Error = Invalid;

    fn try_from(view: wire::TaskView) -> Result<Self, Invalid> {
        let pieces = Geometry::of(view.size).pieces();
        let sources = view.sources.into_iter().take(MAX_SOURCES);
        let parts = view.parts.into_iter().take(MAX_PARTS);
        Ok(Self {
            task: TaskId::from_wire(&view.task)?,
            size: view.size,
            sources: sources.map(Source::try_from).collect::<Result<_, _>>()?,
            participants: view.participants,
            complete: view.complete,
            holders: view.holders,
            leases: view.leases,
            held_pieces: view.held_pieces,
            parts: parts
                .map(|part| part_from_wire(part, pieces))
                .collect::<Result<_, _>>()?,
        })
    }
}

impl From<&PartView> for wire::PartView {
    fn from(part: &PartView) -> Self {
        Self {
            host: part.host.to_string(),
            role: wire::Role::from(part.role).into(),
            held: part.held.to_wire(),
            parents: part.parents.iter().map(ToString::to_string).collect(),
            reading: part.reading.to_wire(),
        }
    }
}

fn part_from_wire(part: wire::PartView, pieces: u32) -> Result<PartView, Invalid> {
    let parents = part.parents.iter().take(MAX_PARENTS);
    Ok(PartView {
        role: part.role().try_into()?,
        host: part.host.parse()?,
        held: PieceSet::from_wire(&part.held, pieces)?,
        parents: parents.map(|id| id.parse()).collect::<Result<_, _>>()?,
        reading: PieceSet::from_wire(&part.reading, pieces)?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::digest::Digest;

    fn swarms() -> Swarms {
        let pieces = Geometry::of(5 << 20).pieces();
        let mut held = PieceSet::empty(pieces);
        held.insert(3);
        let part = PartView {
            host: "m-1".parse().unwrap(),
            role: Role::Mirror,
            held,
            parents: vec!["seed-1".parse().unwrap()],
            reading: PieceSet::empty(pieces),
        };
        Swarms {
            tasks: 9,
            views: vec![TaskView {
                task: Digest::sha256(b"x"),
                size: 5 << 20,
                sources: Vec::new(),
                participants: 1,
                complete: 0,
                holders: 2,
                leases: 1,
                held_pieces: 1,
                parts: vec![part],
            }],
            links: vec![LinkView {
                parent: "seed-1".parse().unwrap(),
                child: "m-1".parse().unwrap(),
                tasks: 1,
            }],
        }
    }

    #[test]
    fn what_is_seen_survives_the_wire() {
        let told = Swarms::try_from(wire::SwarmsReply::from(&swarms()));
        assert_eq!(told, Ok(swarms()));
    }

    #[test]
    fn pieces_past_the_end_are_refused() {
        let mut reply = wire::SwarmsReply::from(&swarms());
        reply.views[0].parts[0].held[0].first = 1000;
        assert!(Swarms::try_from(reply).is_err());
        let many = wire::SwarmsReply {
            links: vec![wire::SwarmsReply::from(&swarms()).links[0].clone(); 2 * MAX_LINKS],
            ..Default::default()
        };
        assert_eq!(Swarms::try_from(many).unwrap().links.len(), MAX_LINKS);
    }
}
