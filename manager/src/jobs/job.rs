//! A job: images and files that are to be on nodes, and how far each is on each.
//!
//! A job is a document that every manager over one database may change at once. Each of its items
//! only grows: a later attempt counts more than an earlier one, within an attempt what has ended
//! counts more than what has not, and more bytes count more than fewer. So two copies of a job are
//! [merged](Job::merge) item by item, in any order, and nobody has to lead.

use darner_proto::file::shown;
use darner_proto::invalid::Invalid;
use darner_proto::preheat::{Coming, Progress, Target};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// Mirrors that may be told to be at it at once: more would be all of a large cluster.
pub const MAX_AT_ONCE: u32 = 1000;
/// A job may not be slower than so many bytes a second on a node: a large piece would not come within
/// the time after which a node gives an order up.
pub const MIN_RATE: u64 = 1 << 20;
/// Attempts before an item has failed; retrying a job gives as many again.
pub const ATTEMPTS: u32 = 3;

/// A job.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Job {
    /// Its id; later jobs have greater ones.
    pub id: String,
    /// Unix time in ms.
    pub created_ms: u64,
    /// Who asked for it.
    pub by: String,
    /// The images, by their full names.
    pub images: Vec<String>,
    /// The URLs of files, without queries where they are shown.
    #[serde(default)]
    pub files: Vec<String>,
    /// Of an index, this platform; without it each node's own.
    pub platform: Option<String>,
    /// `seeds`, `nodes` or a label.
    pub to: String,
    /// How much of the cluster it may take up.
    #[serde(flatten)]
    pub limits: Limits,
    /// Every image and file on every node it is to be on.
    pub items: Vec<Item>,
}

/// How much of the cluster a job may take up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, ToSchema)]
#[serde(default)]
pub struct Limits {
    /// Mirrors that are at it at once; without it 64.
    #[schema(minimum = 1, maximum = 1000)]
    pub at_once: Option<u32>,
    /// Bytes a second that each node takes in for it; without it as many as there are.
    #[schema(minimum = 1048576)]
    pub bytes_per_second: Option<u64>,
}

/// An image or a file on a node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Item {
    /// Which of the job's images, from 0; its files come after these.
    pub image: u32,
    /// The node.
    pub node: String,
    /// Whether the node is a seed: those come first.
    pub seed: bool,
    /// The attempt it is at, from 1.
    pub attempt: u32,
    /// The last attempt there will be.
    pub last_attempt: u32,
    /// What the node holds.
    #[serde(flatten)]
    pub held: Held,
    /// Of that, the layers that are on their way while the node is at it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schema(max_items = 3)]
    pub coming: Vec<Layer>,
    /// How far it is.
    #[serde(flatten)]
    pub state: State,
}

/// What a node holds of an image, verified.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default, Serialize, Deserialize, ToSchema,
)]
pub struct Held {
    /// Bytes.
    pub bytes: u64,
    /// Of so many; 0 while that is not known.
    pub total_bytes: u64,
    /// Blobs.
    pub blobs: u32,
    /// Of so many; 0 while that is not known.
    pub total_blobs: u32,
}

/// A layer on its way to a node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Layer {
    /// Its digest; of a file, what its task is called.
    pub digest: String,
    /// Bytes that the node holds, verified.
    pub bytes: u64,
    /// Of so many.
    pub total_bytes: u64,
}

/// How far an item is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(tag = "state", rename_all = "lowercase")]
pub enum State {
    /// It has not begun, or is to begin again.
    Waiting {
        /// Not before this unix time in ms.
        not_before_ms: u64,
        /// Why the attempt before failed.
        why: Option<String>,
    },
    /// The node is at it.
    Running,
    /// It could not be had.
    Failed {
        /// Why.
        why: String,
        /// Trying again would not help.
        for_good: bool,
    },
    /// Somebody called it off.
    Cancelled,
    /// Every blob is held by the node, verified.
    Done,
}

/// How far a job is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum Phase {
    /// Some item has not ended.
    Running,
    /// Every item is done.
    Done,
    /// Some item has failed.
    Failed,
    /// It was called off before it was done.
    Cancelled,
}

/// A job at a glance.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Summary {
    /// Its id; later jobs have greater ones.
    pub id: String,
    /// Unix time in ms.
    pub created_ms: u64,
    /// Who asked for it.
    pub by: String,
    /// The images, by their full names.
    pub images: Vec<String>,
    /// The URLs of files, without queries.
    #[serde(default)]
    pub files: Vec<String>,
    /// `seeds`, `nodes` or a label.
    pub to: String,
    /// How far it is.
    pub phase: Phase,
    /// Images on nodes, in all.
    pub items: usize,
    /// How many of those are done.
    pub done: usize,
    /// How many have failed.
    pub failed: usize,
    /// Bytes held by all nodes.
    pub bytes: u64,
    /// Of so many that are known of.
    pub total_bytes: u64,
    /// A reason of a failure.
    pub why: Option<String>,
}

impl From<&Coming> for Layer {
    fn from(coming: &Coming) -> Self {
        Self {
            digest: coming.digest.to_string(),
            bytes: coming.bytes,
            total_bytes: coming.total_bytes,
        }
    }
}

impl From<&Progress> for Held {
    fn from(progress: &Progress) -> Self {
        Self {
            bytes: progress.bytes,
            total_bytes: progress.total_bytes,
            blobs: progress.blobs,
            total_blobs: progress.total_blobs,
        }
    }
}

impl Limits {
    /// # Errors
    /// No job can be so limited.
    pub fn check(&self) -> Result<(), Invalid> {
        let fits = |at_once| (1..=MAX_AT_ONCE).contains(&at_once);
        if !self.at_once.is_none_or(fits) {
            return Err(Invalid::new(
                "at_once",
                format!("is not 1 to {MAX_AT_ONCE}"),
            ));
        }
        if self.bytes_per_second.is_some_and(|rate| rate < MIN_RATE) {
            let why = format!("is less than {MIN_RATE}");
            return Err(Invalid::new("bytes_per_second", why));
        }
        Ok(())
    }
}

impl Phase {
    /// As written.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Running => "running",
            Self::Done => "done",
            Self::Failed => "failed",
            Self::Cancelled => "cancelled",
        }
    }
}

impl State {
    /// Nothing comes after it but another attempt.
    pub fn is_ended(&self) -> bool {
        !matches!(self, Self::Waiting { .. } | Self::Running)
    }

    fn rank(&self) -> u8 {
        match self {
            Self::Waiting { .. } => 0,
            Self::Running => 1,
            Self::Failed { .. } => 2,
            Self::Cancelled => 3,
            Self::Done => 4,
        }
    }
}

impl Item {
    /// As it begins.
    pub fn new(image: u32, node: String, seed: bool) -> Self {
        Self {
            image,
            node,
            seed,
            attempt: 1,
            last_attempt: ATTEMPTS,
            held: Held::default(),
            coming: Vec::new(),
            state: State::Waiting {
                not_before_ms: 0,
                why: None,
            },
        }
    }

    /// What its node says. What is held stays held while the attempt lasts.
    pub fn hear(&mut self, progress: &Progress) {
        let held = Held::from(progress);
        if held >= self.held {
            self.held = held;
            self.coming = progress.coming.iter().map(Into::into).collect();
        }
    }

    fn progress(&self) -> (u32, u8, Held) {
        (self.attempt, self.state.rank(), self.held)
    }

    /// Whether it says that this attempt is over.
    pub fn knows_end(&self, attempt: u32) -> bool {
        self.attempt > attempt || (self.attempt == attempt && self.state.is_ended())
    }

    /// To be tried anew, with all attempts.
    fn again(&mut self) {
        self.attempt += 1;
        self.last_attempt = self.attempt + ATTEMPTS - 1;
        self.held = Held::default();
        self.coming.clear();
        self.state = State::Waiting {
            not_before_ms: 0,
            why: None,
        };
    }
}

impl Job {
    /// Whether every item has ended.
    pub fn is_ended(&self) -> bool {
        self.items.iter().all(|item| item.state.is_ended())
    }

    /// What is to be held for an item. `None` for what another version wrote and this one does not
    /// understand.
    pub fn wanted(&self, image: u32) -> Option<Target> {
        let at = usize::try_from(image).ok()?;
        let Some(named) = self.images.get(at) else {
            let url = self.files.get(at - self.images.len())?;
            return Some(Target::File(url.parse().ok()?));
        };
        let platform = self.platform.as_ref().map(|platform| platform.parse());
        Some(Target::Image {
            image: named.parse().ok()?,
            platform: platform.transpose().ok()?,
        })
    }

    /// What the image or file of an item is called, as it may be shown.
    pub fn name(&self, image: u32) -> &str {
        let at = usize::try_from(image).unwrap_or(usize::MAX);
        match self.images.get(at) {
            Some(image) => image,
            None => self
                .files
                .get(at.saturating_sub(self.images.len()))
                .map_or("", |url| shown(url)),
        }
    }

    /// The job as it may be shown: what is signed in a file's URL is in its query.
    #[must_use]
    pub fn without_secrets(mut self) -> Self {
        self.files = self.shown_files();
        self
    }

    fn shown_files(&self) -> Vec<String> {
        let files = self.files.iter();
        files.map(|url| shown(url).to_owned()).collect()
    }

    /// Takes over what `other`, a copy of the same job, knows better. Says whether anything changed.
    pub fn merge(&mut self, other: &Self) -> bool {
        let mut changed = false;
        for (mine, theirs) in self.items.iter_mut().zip(&other.items) {
            if theirs.progress() > mine.progress() {
                mine.clone_from(theirs);
                changed = true;
            }
        }
        changed
    }

    /// Calls off what has not ended.
    pub fn cancel(&mut self) {
        for item in self.items.iter_mut().filter(|item| !item.state.is_ended()) {
            item.state = State::Cancelled;
            item.coming.clear();
        }
    }

    /// Begins again with what failed or was called off.
    pub fn retry(&mut self) {
        for item in &mut self.items {
            if matches!(item.state, State::Failed { .. } | State::Cancelled) {
                item.again();
            }
        }
    }

    /// How far it is.
    pub fn phase(&self) -> Phase {
        let any = |is: fn(&State) -> bool| self.items.iter().any(|item| is(&item.state));
        if !self.is_ended() {
            Phase::Running
        } else if any(|state| *state == State::Cancelled) {
            Phase::Cancelled
        } else if any(|state| matches!(state, State::Failed { .. })) {
            Phase::Failed
        } else {
            Phase::Done
        }
    }

    /// The job at a glance.
    pub fn summary(&self) -> Summary {
        let count = |is: fn(&State) -> bool| {
            let items = self.items.iter();
            items.filter(|item| is(&item.state)).count()
        };
        let why = self.items.iter().find_map(|item| match &item.state {
            State::Failed { why, .. } => Some(format!("{}: {why}", item.node)),
            _ => None,
        });
        Summary {
            id: self.id.clone(),
            created_ms: self.created_ms,
            by: self.by.clone(),
            images: self.images.clone(),
            files: self.shown_files(),
            to: self.to.clone(),
            phase: self.phase(),
            items: self.items.len(),
            done: count(|state| *state == State::Done),
            failed: count(|state| matches!(state, State::Failed { .. })),
            bytes: self.items.iter().map(|item| item.held.bytes).sum(),
            total_bytes: self.items.iter().map(|item| item.held.total_bytes).sum(),
            why,
        }
    }
}
