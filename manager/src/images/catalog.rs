//! What nodes hold of which images, decided without clock, network or disk.
//!
//! A node tells changes in numbered reports; one that does not follow the last is answered with the
//! wish to hear everything anew. What an image consists of is asked of whoever holds it. Images and
//! nodes are known by small numbers here, so that a pair of them takes a few dozen bytes.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use darner_proto::digest::Digest;
use darner_proto::holdings::{
    Facts, Held, HoldingsReply, HoldingsReport, ImageKey, MAX_FACTS, MAX_IMAGES, Share, TagName,
};
use darner_proto::name::{Source, Tag};

use crate::membership::MemberKey;

/// Images that are known at once; of those beyond nothing is kept.
pub const MAX_CATALOG: usize = 100_000;
/// Repositories in which one image is known, of all that nodes tell.
const MAX_REPOSITORIES: usize = 64;
/// Tags of one image in one repository.
const MAX_TAGS: usize = 64;

pub(super) type ImageId = u32;
pub(super) type NodeId = u32;

/// What nodes hold.
#[derive(Debug, Default)]
pub struct Catalog {
    pub(super) ids: HashMap<ImageKey, ImageId>,
    pub(super) images: HashMap<ImageId, Image>,
    /// In the order in which people read them.
    pub(super) by_name: BTreeMap<(Source, ImageKey), ImageId>,
    /// What each tag meant when upstream was asked last.
    tags: HashMap<(Source, Tag), Meaning>,
    pub(super) node_ids: BTreeMap<MemberKey, NodeId>,
    pub(super) nodes: HashMap<NodeId, Node>,
    last_image: ImageId,
    last_node: NodeId,
}

#[derive(Debug)]
pub(super) struct Node {
    pub(super) key: MemberKey,
    sequence: u64,
    pub(super) images: BTreeSet<ImageId>,
    pub(super) left_off: u32,
}

#[derive(Debug)]
pub(super) struct Image {
    pub(super) key: ImageKey,
    pub(super) facts: Option<Arc<Facts>>,
    pub(super) names: BTreeMap<Source, BTreeMap<Tag, Meaning>>,
    pub(super) holders: BTreeMap<NodeId, Share>,
    /// How many of them hold all of it.
    pub(super) complete: usize,
}

/// What upstream said of a tag, and when.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Meaning {
    named: Digest,
    checked_ms: u64,
}

impl Catalog {
    /// A node tells what it holds.
    pub fn apply(&mut self, key: &MemberKey, report: HoldingsReport) -> HoldingsReply {
        if report.anew {
            self.forget(key);
        }
        let follows = report.anew || report.sequence == self.sequence(key) + 1;
        if !follows || (!report.anew && !self.node_ids.contains_key(key)) {
            return HoldingsReply {
                again: true,
                unknown: Vec::new(),
            };
        }
        let id = self.node(key);
        if let Some(node) = self.nodes.get_mut(&id) {
            node.sequence = report.sequence;
            node.left_off = report.left_off;
        }
        for gone in &report.gone {
            if let Some(image) = self.ids.get(gone).copied() {
                self.drop_held(id, image);
            }
        }
        for held in report.held {
            self.hold(id, &held);
        }
        for facts in report.facts {
            self.describe(id, &facts);
        }
        HoldingsReply {
            again: false,
            unknown: self.unknown(id),
        }
    }

    /// The last report of the node that was heard.
    pub fn sequence(&self, key: &MemberKey) -> u64 {
        let id = self.node_ids.get(key);
        let node = id.and_then(|id| self.nodes.get(id));
        node.map_or(0, |node| node.sequence)
    }

    /// Keeps those that are members.
    pub fn only(&mut self, is_member: impl Fn(&MemberKey) -> bool) {
        let left = self.node_ids.keys().filter(|key| !is_member(key));
        let left: Vec<_> = left.cloned().collect();
        for key in left {
            self.forget(&key);
        }
    }

    /// Nodes that have told what they hold.
    pub fn nodes(&self) -> usize {
        self.nodes.len()
    }

    /// Images that some nodes hold beyond those they tell of.
    pub fn left_off(&self) -> u64 {
        self.nodes
            .values()
            .map(|node| u64::from(node.left_off))
            .sum()
    }

    /// Whether upstream said last that the tag means this.
    pub(super) fn is_current(&self, source: &Source, tag: &Tag, meaning: &Meaning) -> bool {
        let last = self.tags.get(&(source.clone(), tag.clone()));
        last.is_none_or(|last| last.named == meaning.named)
    }

    fn node(&mut self, key: &MemberKey) -> NodeId {
        if let Some(id) = self.node_ids.get(key) {
            return *id;
        }
        self.last_node += 1;
        let node = Node {
            key: key.clone(),
            sequence: 0,
            images: BTreeSet::new(),
            left_off: 0,
        };
        self.nodes.insert(self.last_node, node);
        self.node_ids.insert(key.clone(), self.last_node);
        self.last_node
    }

    fn forget(&mut self, key: &MemberKey) {
        let Some(id) = self.node_ids.remove(key) else {
            return;
        };
        let images = self.nodes.get(&id).map(|node| node.images.clone());
        for image in images.unwrap_or_default() {
            self.drop_held(id, image);
        }
        self.nodes.remove(&id);
    }

    fn id_of(&mut self, key: &ImageKey) -> Option<ImageId> {
        if let Some(id) = self.ids.get(key) {
            return Some(*id);
        }
        if self.images.len() >= MAX_CATALOG {
            return None;
        }
        self.last_image += 1;
        let other = ImageKey {
            private: !key.private,
            ..*key
        };
        let facts = self.ids.get(&other).and_then(|id| self.images.get(id));
        let image = Image {
            key: *key,
            facts: facts.and_then(|image| image.facts.clone()),
            names: BTreeMap::new(),
            holders: BTreeMap::new(),
            complete: 0,
        };
        self.images.insert(self.last_image, image);
        self.ids.insert(*key, self.last_image);
        Some(self.last_image)
    }

    fn hold(&mut self, node_id: NodeId, held: &Held) {
        let Some(node) = self.nodes.get(&node_id) else {
            return;
        };
        let known = self.ids.get(&held.key);
        let is_new = known.is_none_or(|id| !node.images.contains(id));
        if is_new && node.images.len() >= MAX_IMAGES {
            return;
        }
        let Some(id) = self.id_of(&held.key) else {
            return;
        };
        if let Some(node) = self.nodes.get_mut(&node_id) {
            node.images.insert(id);
        }
        if let Some(image) = self.images.get_mut(&id) {
            image.complete += usize::from(held.blobs.is_all());
            let before = image.holders.insert(node_id, held.blobs.clone());
            image.complete -= usize::from(before.is_some_and(|share| share.is_all()));
        }
        for name in &held.names {
            self.name(id, &name.source, &name.tags);
        }
    }

    fn name(&mut self, id: ImageId, source: &Source, tags: &[TagName]) {
        let Some(image) = self.images.get_mut(&id) else {
            return;
        };
        if !image.names.contains_key(source) {
            if image.names.len() >= MAX_REPOSITORIES {
                return;
            }
            self.by_name.insert((source.clone(), image.key), id);
        }
        let known = image.names.entry(source.clone()).or_default();
        for told in tags {
            let new = Meaning {
                named: told.named,
                checked_ms: told.checked_ms,
            };
            let is_full = known.len() >= MAX_TAGS && !known.contains_key(&told.tag);
            if !is_full {
                later(known.entry(told.tag.clone()).or_insert(new), new);
                let key = (source.clone(), told.tag.clone());
                later(self.tags.entry(key).or_insert(new), new);
            }
        }
    }

    fn describe(&mut self, node: NodeId, facts: &Arc<Facts>) {
        for private in [false, true] {
            let digest = facts.digest;
            let id = self.ids.get(&ImageKey { digest, private });
            let image = id.and_then(|id| self.images.get_mut(id));
            // Who does not hold it has nothing to say about it.
            if let Some(image) = image.filter(|image| image.holders.contains_key(&node)) {
                image.facts = Some(facts.clone());
            }
        }
    }

    /// What the node can say more about.
    fn unknown(&self, id: NodeId) -> Vec<Digest> {
        let images = self.nodes.get(&id).into_iter();
        let images = images.flat_map(|node| &node.images);
        let images = images.filter_map(|id| self.images.get(id));
        let unknown = images.filter(|image| image.facts.is_none());
        let digests: BTreeSet<_> = unknown.map(|image| image.key.digest).collect();
        digests.into_iter().take(MAX_FACTS).collect()
    }

    fn drop_held(&mut self, node_id: NodeId, id: ImageId) {
        if let Some(node) = self.nodes.get_mut(&node_id) {
            node.images.remove(&id);
        }
        let Some(image) = self.images.get_mut(&id) else {
            return;
        };
        let share = image.holders.remove(&node_id);
        image.complete -= usize::from(share.is_some_and(|share| share.is_all()));
        if image.holders.is_empty()
            && let Some(image) = self.images.remove(&id)
        {
            self.drop_image(&image);
        }
    }

    /// What nobody holds has no name.
    fn drop_image(&mut self, image: &Image) {
        self.ids.remove(&image.key);
        for (source, tags) in &image.names {
            self.by_name.remove(&(source.clone(), image.key));
            for (tag, meaning) in tags {
                let key = (source.clone(), tag.clone());
                if self
                    .tags
                    .get(&key)
                    .is_some_and(|last| last.named == meaning.named)
                {
                    self.tags.remove(&key);
                }
            }
        }
    }
}

fn later(known: &mut Meaning, new: Meaning) {
    if new.checked_ms >= known.checked_ms {
        *known = new;
    }
}
