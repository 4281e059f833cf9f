//! Orders to bring an image or a file to a node ahead of time, and what the node reports of them: they travel
//! in keep-alives (`manager.proto`).
//!
//! Both are levels. A reply names every order of the host, a request tells of every order it was
//! given, so that neither side has to remember what the other heard.

use std::fmt;
use std::num::NonZeroU64;
use std::str::FromStr;

use crate::digest::Digest;
use crate::file::FileUrl;
use crate::invalid::Invalid;
use crate::name::{Reference, RegistryName, Source};
use crate::wire;

/// Orders a host has at once: their reports fit a keep-alive.
pub const MAX_ORDERS: usize = 8;
/// Of a reason, so many bytes are told.
pub const MAX_WHY: usize = 256;
/// Blobs of an order that are told of while they are on their way: as many as a node brings at once.
pub const MAX_COMING: usize = 3;
/// What a job's id has at most.
const MAX_JOB: usize = 32;
/// The registry of names without one.
const DOCKER: &str = "docker.io";
/// Longer words name no operating system, architecture or variant.
const MAX_WORD: usize = 32;

/// An image by its full name, as people write it: `registry/repository[:tag][@digest]`. As everywhere
/// a first word without a dot or port is no registry, and the registry is `docker.io` then.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Image {
    /// Its repository.
    pub source: Source,
    /// What of it; a digest counts more than a tag.
    pub reference: Reference,
}

/// `os/architecture[/variant]`
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Platform {
    /// Such as `linux`.
    pub os: String,
    /// Such as `arm64`.
    pub architecture: String,
    /// Such as `v8`.
    pub variant: Option<String>,
}

/// Which order: a new attempt is another one.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct OrderId {
    /// The job.
    pub job: String,
    /// Which of its images, or of its files after these.
    pub image: u32,
    /// From 1.
    pub attempt: u32,
}

/// What is to be held.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Target {
    /// Every blob of an image.
    Image {
        /// Which.
        image: Image,
        /// Of an index, this; without it the host's own.
        platform: Option<Platform>,
    },
    /// What is at a URL.
    File(FileUrl),
}

/// Hold something.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Order {
    /// Which.
    pub id: OrderId,
    /// What.
    pub target: Target,
    /// Bytes a second that may come to the host for all orders of the job together; without it as many
    /// as there are.
    pub bytes_per_second: Option<NonZeroU64>,
}

/// What came of an order so far.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Report {
    /// Which.
    pub id: OrderId,
    /// How much is held.
    pub progress: Progress,
    /// How far it is.
    pub outcome: Outcome,
}

/// What is held and verified, of what there is; nothing of nothing before the manifest is known.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Progress {
    /// Bytes.
    pub bytes: u64,
    /// Of so many.
    pub total_bytes: u64,
    /// Whole blobs.
    pub blobs: u32,
    /// Of so many.
    pub total_blobs: u32,
    /// Blobs that are on their way, [`MAX_COMING`] at most.
    pub coming: Vec<Coming>,
}

/// A blob that is on its way, or what is at a URL.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Coming {
    /// Which: the key of its task.
    pub digest: Digest,
    /// Held and verified.
    pub bytes: u64,
    /// Of so many.
    pub total_bytes: u64,
}

/// How far an order is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// On its way.
    Running,
    /// All of it is held.
    Done,
    /// It could not be had.
    Failed {
        /// Why.
        why: String,
        /// Trying again would not help.
        for_good: bool,
    },
}

impl FromStr for Image {
    type Err = Invalid;

    fn from_str(text: &str) -> Result<Self, Invalid> {
        let (name, digest) = match text.split_once('@') {
            Some((name, digest)) => (name, Some(digest)),
            None => (text, None),
        };
        let last = name.rsplit('/').next().unwrap_or(name);
        let (name, tag) = match last.rsplit_once(':') {
            Some((_, tag)) => (&name[..name.len() - tag.len() - 1], tag),
            None => (name, "latest"),
        };
        let registry = name
            .split_once('/')
            .filter(|(first, _)| first.contains(['.', ':']) || *first == "localhost");
        let (registry, repository) = match registry {
            Some((registry, rest)) => (registry, rest.to_owned()),
            None => (DOCKER, name.to_owned()),
        };
        let repository = match registry == DOCKER && !repository.contains('/') {
            true => format!("library/{repository}"),
            false => repository,
        };
        let registry: RegistryName = registry.parse()?;
        let reference = match digest {
            Some(digest) => Reference::Digest(digest.parse()?),
            None => Reference::Tag(tag.parse()?),
        };
        let source = Source {
            registry,
            repository: repository.parse()?,
        };
        Ok(Self { source, reference })
    }
}

impl fmt::Display for Image {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let separator = match self.reference {
            Reference::Tag(_) => ':',
            Reference::Digest(_) => '@',
        };
        write!(f, "{}{separator}{}", self.source, self.reference)
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Image { image, .. } => image.fmt(f),
            Self::File(url) => url.fmt(f),
        }
    }
}

impl FromStr for Platform {
    type Err = Invalid;

    fn from_str(text: &str) -> Result<Self, Invalid> {
        let fits = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
        let is_word = |word: &str| (1..=MAX_WORD).contains(&word.len()) && word.bytes().all(fits);
        let mut words = text.split('/');
        match (words.next(), words.next(), words.next(), words.next()) {
            (Some(os), Some(architecture), variant, None) if text.split('/').all(is_word) => {
                Ok(Self {
                    os: os.to_owned(),
                    architecture: architecture.to_owned(),
                    variant: variant.map(str::to_owned),
                })
            }
            _ => Err(Invalid::new("platform", "is not os/architecture[/variant]")),
        }
    }
}

impl fmt::Display for Platform {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.os, self.architecture)?;
        match &self.variant {
            Some(variant) => write!(f, "/{variant}"),
            None => Ok(()),
        }
    }
}

impl From<&OrderId> for wire::OrderId {
    fn from(id: &OrderId) -> Self {
        Self {
            job: id.job.clone(),
            image: id.image,
            attempt: id.attempt,
        }
    }
}

impl TryFrom<Option<wire::OrderId>> for OrderId {
    type Error = Invalid;

    fn try_from(id: Option<wire::OrderId>) -> Result<Self, Invalid> {
        let id = id.ok_or_else(|| Invalid::new("order", "has no id"))?;
        let fits = |byte: u8| byte.is_ascii_alphanumeric();
        if id.job.is_empty() || id.job.len() > MAX_JOB || !id.job.bytes().all(fits) {
            return Err(Invalid::new("order", "names no job"));
        }
        Ok(Self {
            job: id.job,
            image: id.image,
            attempt: id.attempt,
        })
    }
}

impl From<&Order> for wire::Order {
    fn from(order: &Order) -> Self {
        let mut told = Self {
            id: Some((&order.id).into()),
            bytes_per_second: order.bytes_per_second.map_or(0, NonZeroU64::get),
            ..Self::default()
        };
        match &order.target {
            Target::Image { image, platform } => {
                told.image = image.to_string();
                let platform = platform.as_ref().map(ToString::to_string);
                told.platform = platform.unwrap_or_default();
            }
            Target::File(url) => url.url().as_str().clone_into(&mut told.url),
        }
        told
    }
}

impl TryFrom<wire::Order> for Order {
    type Error = Invalid;

    fn try_from(order: wire::Order) -> Result<Self, Invalid> {
        let platform = Some(order.platform).filter(|platform| !platform.is_empty());
        let target = match order.url.is_empty() {
            true => Target::Image {
                image: order.image.parse()?,
                platform: platform.map(|platform| platform.parse()).transpose()?,
            },
            false => Target::File(order.url.parse()?),
        };
        Ok(Self {
            id: order.id.try_into()?,
            target,
            bytes_per_second: NonZeroU64::new(order.bytes_per_second),
        })
    }
}

impl From<&Report> for wire::OrderReport {
    fn from(report: &Report) -> Self {
        let (outcome, why) = match &report.outcome {
            Outcome::Running => (wire::OrderOutcome::Running, ""),
            Outcome::Done => (wire::OrderOutcome::Done, ""),
            Outcome::Failed {
                why,
                for_good: false,
            } => (wire::OrderOutcome::Failed, why.as_str()),
            Outcome::Failed {
                why,
                for_good: true,
            } => (wire::OrderOutcome::FailedForGood, why.as_str()),
        };
        let progress = &report.progress;
        let coming = progress.coming.iter().take(MAX_COMING);
        Self {
            coming: coming.map(Into::into).collect(),
            id: Some((&report.id).into()),
            bytes: progress.bytes,
            total_bytes: progress.total_bytes,
            blobs: progress.blobs,
            total_blobs: progress.total_blobs,
            outcome: outcome.into(),
            why: shortened(why),
        }
    }
}

impl TryFrom<wire::OrderReport> for Report {
    type Error = Invalid;

    fn try_from(report: wire::OrderReport) -> Result<Self, Invalid> {
        let why = shortened(&report.why);
        let outcome = match report.outcome() {
            wire::OrderOutcome::Running => Outcome::Running,
            wire::OrderOutcome::Done => Outcome::Done,
            wire::OrderOutcome::Failed => Outcome::Failed {
                why,
                for_good: false,
            },
            wire::OrderOutcome::FailedForGood => Outcome::Failed {
                why,
                for_good: true,
            },
        };
        let coming = report.coming.into_iter().take(MAX_COMING);
        Ok(Self {
            progress: Progress {
                bytes: report.bytes.min(report.total_bytes),
                total_bytes: report.total_bytes,
                blobs: report.blobs.min(report.total_blobs),
                total_blobs: report.total_blobs,
                coming: coming.map(TryInto::try_into).collect::<Result<_, _>>()?,
            },
            id: report.id.try_into()?,
            outcome,
        })
    }
}

impl From<&Coming> for wire::Coming {
    fn from(coming: &Coming) -> Self {
        Self {
            digest: coming.digest.to_wire().into(),
            bytes: coming.bytes,
            total_bytes: coming.total_bytes,
        }
    }
}

impl TryFrom<wire::Coming> for Coming {
    type Error = Invalid;

    fn try_from(coming: wire::Coming) -> Result<Self, Invalid> {
        Ok(Self {
            digest: Digest::from_wire(&coming.digest)?,
            bytes: coming.bytes.min(coming.total_bytes),
            total_bytes: coming.total_bytes,
        })
    }
}

fn shortened(why: &str) -> String {
    let end = why.floor_char_boundary(MAX_WHY);
    why[..end].to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn images_are_named_as_people_do() {
        let digest = format!("sha256:{}", "ab".repeat(32));
        for (text, full) in [
            ("debian", "docker.io/library/debian:latest".to_owned()),
            ("debian:12", "docker.io/library/debian:12".to_owned()),
            ("bitnami/redis:7", "docker.io/bitnami/redis:7".to_owned()),
            ("localhost/a", "localhost/a:latest".to_owned()),
            ("r.test:5000/a/b:c", "r.test:5000/a/b:c".to_owned()),
            (
                &format!("r.test/a:t@{digest}"),
                format!("r.test/a@{digest}"),
            ),
        ] {
            let image: Image = text.parse().unwrap();
            assert_eq!(image.to_string(), full);
            assert_eq!(full.parse(), Ok(image));
        }
        for bad in [
            "",
            "r.test/",
            "r.test/A",
            "a:",
            "a@sha256:12",
            "r.test/a:b/c:d:e",
            "a b",
        ] {
            assert!(bad.parse::<Image>().is_err(), "{bad}");
        }
    }

    #[test]
    fn platforms_have_two_or_three_words() {
        for good in ["linux/amd64", "linux/arm/v7"] {
            assert_eq!(good.parse::<Platform>().unwrap().to_string(), good);
        }
        for bad in ["", "linux", "linux/", "linux/arm/v7/x", "linux/a b"] {
            assert!(bad.parse::<Platform>().is_err(), "{bad}");
        }
    }

    #[test]
    fn orders_and_reports_survive_the_wire() {
        let id = OrderId {
            job: "0a1".to_owned(),
            image: 3,
            attempt: 2,
        };
        let image = Target::Image {
            image: "r.test/a:b".parse().unwrap(),
            platform: Some("linux/arm64".parse().unwrap()),
        };
        let file = Target::File("https://f.test/a?b=c".parse().unwrap());
        for target in [image, file] {
            let order = Order {
                id: id.clone(),
                target,
                bytes_per_second: NonZeroU64::new(1 << 20),
            };
            assert_eq!(Order::try_from(wire::Order::from(&order)), Ok(order));
        }
        let why = "é".repeat(MAX_WHY);
        let mut report = Report {
            id,
            progress: Progress {
                bytes: 1,
                total_bytes: 2,
                blobs: 0,
                total_blobs: 1,
                coming: vec![Coming {
                    digest: Digest::sha256(b"a"),
                    bytes: 3,
                    total_bytes: 4,
                }],
            },
            outcome: Outcome::Failed {
                why,
                for_good: true,
            },
        };
        let told = Report::try_from(wire::OrderReport::from(&report)).unwrap();
        let why = "é".repeat(MAX_WHY / 2);
        report.outcome = Outcome::Failed {
            why,
            for_good: true,
        };
        assert_eq!(told, report);
        let nobody = wire::OrderReport::default();
        assert!(Report::try_from(nobody).is_err());
    }
}
