//! What an image consists of: from its name through an index to manifests, and from these to blobs.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;

use bytes::Bytes;
use darner_proto::digest::Digest;
use darner_proto::name::Reference;
use oci_distribution::manifest::{
    IMAGE_MANIFEST_LIST_MEDIA_TYPE, ImageIndexEntry, OCI_IMAGE_INDEX_MEDIA_TYPE, OciDescriptor,
    OciImageIndex, OciImageManifest,
};
use serde::Deserialize;
use serde::de::IgnoredAny;
use serde_json::Value;

use super::blob;
use super::client::{Client, MAX_MANIFEST, Manifest};
use super::layout::Layout;
use super::platform::{self, Platform};
use super::progress::{Event, Watch};
use super::{Choice, PullError, Request};

/// An index may name indexes; more than this below one another is nobody's image.
const MAX_DEPTH: usize = 4;
/// Manifests of one image; the largest indexes that are in use have some tens.
const MAX_MANIFESTS: usize = 512;
/// Blobs of one image, all platforms together.
const MAX_BLOBS: usize = 16 << 10;
/// A larger configuration is not read to see its platform.
const MAX_CONFIG: u64 = 8 << 20;

/// A blob of the image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Blob {
    pub(crate) digest: Digest,
    pub(crate) size: u64,
}

/// What `index.json` is to name.
#[derive(Debug)]
pub(super) struct Top {
    pub(super) digest: Digest,
    pub(super) media_type: String,
    pub(super) size: u64,
    /// As the index has it, when that was chosen from.
    pub(super) platform: Option<Value>,
}

/// An image whose manifests are in the layout.
#[derive(Debug)]
pub(super) struct Content {
    pub(super) top: Top,
    /// Each once, in the order of the manifests: the configuration, then the layers.
    pub(super) blobs: Vec<Blob>,
}

/// A manifest, understood.
enum Parsed {
    Image(Box<OciImageManifest>),
    Index(OciImageIndex),
}

/// Fetches the image's manifests into `layout`.
pub(super) async fn fetch(
    client: &Client,
    layout: &Layout,
    request: &Request<'_>,
    watch: &impl Watch,
) -> Result<Content, PullError> {
    let gathering = Gathering {
        client,
        layout,
        watch,
    };
    let image = request.image;
    let top = gathering.manifest(&image.reference, None).await?;
    match &request.choice {
        Choice::All => gathering.all(image, top).await,
        Choice::Only(wanted) => gathering.one(image, top, wanted, true).await,
        Choice::Host => gathering.one(image, top, &Platform::host(), false).await,
    }
}

struct Gathering<'a, W> {
    client: &'a Client,
    layout: &'a Layout,
    watch: &'a W,
}

impl<W: Watch> Gathering<'_, W> {
    /// From the layout if it is there, else through the mirror and into the layout.
    async fn manifest(
        &self,
        reference: &Reference,
        media_type: Option<&str>,
    ) -> Result<Manifest, PullError> {
        if let Reference::Digest(digest) = reference
            && let Some(bytes) = self.layout.read(digest, MAX_MANIFEST as u64).await
        {
            return Ok(Manifest {
                digest: *digest,
                media_type: media_type.unwrap_or_default().to_owned(),
                bytes: bytes.into(),
            });
        }
        let manifest = self.client.manifest(reference).await?;
        self.layout.put(&manifest.digest, &manifest.bytes).await?;
        Ok(manifest)
    }

    /// The image for `wanted`. `strict`: one that is of no index has to be for it too.
    async fn one(
        &self,
        image: &super::Image,
        mut manifest: Manifest,
        wanted: &Platform,
        strict: bool,
    ) -> Result<Content, PullError> {
        let mut platform = None;
        for _ in 0..MAX_DEPTH {
            let what = self.name(&manifest);
            match parse(&what, &manifest.bytes)? {
                Parsed::Image(parsed) => {
                    let mut blobs = Blobs::default();
                    self.add_image(&what, &parsed, &mut blobs)?;
                    if strict && platform.is_none() {
                        self.check_platform(image, blobs.in_order.first(), wanted)
                            .await?;
                    }
                    let top = Top::of(&manifest, image_type(&parsed, &manifest), platform);
                    self.watch.see(Event::Resolved {
                        image,
                        digest: &top.digest,
                    });
                    return Ok(Content {
                        top,
                        blobs: blobs.in_order,
                    });
                }
                Parsed::Index(index) => {
                    let entry = chosen(image, &index, wanted)?;
                    platform = serde_json::to_value(&entry.platform).ok();
                    manifest = self.child(&what, entry).await?;
                }
            }
        }
        Err(too_deep(image))
    }

    /// The index with everything it names; an image that is of no index is just that. One manifest
    /// is in memory at a time.
    async fn all(&self, image: &super::Image, top: Manifest) -> Result<Content, PullError> {
        let mut all = Everything::default();
        let media_type = self.take(image, &top, 1, &mut all)?;
        while let Some(named) = all.pending.pop() {
            let manifest = self.child(&named.by, &named.entry).await?;
            self.take(image, &manifest, named.depth, &mut all)?;
        }
        let top = Top::of(&top, media_type, None);
        let digest = &top.digest;
        self.watch.see(Event::Resolved { image, digest });
        Ok(Content {
            top,
            blobs: all.blobs.in_order,
        })
    }

    /// Adds what a manifest names, and gives its media type.
    fn take(
        &self,
        image: &super::Image,
        manifest: &Manifest,
        depth: usize,
        all: &mut Everything,
    ) -> Result<String, PullError> {
        let what = self.name(manifest);
        let index = match parse(&what, &manifest.bytes)? {
            Parsed::Image(parsed) => {
                self.add_image(&what, &parsed, &mut all.blobs)?;
                return Ok(image_type(&parsed, manifest));
            }
            Parsed::Index(index) => index,
        };
        if depth > MAX_DEPTH {
            return Err(too_deep(image));
        }
        let media_type = index_type(&index, manifest);
        all.manifests += index.manifests.len();
        if all.manifests > MAX_MANIFESTS {
            let why = format!("it and its like name more than {MAX_MANIFESTS} manifests");
            return Err(PullError::Nonsense { what, why });
        }
        // The first is taken first.
        let named = index.manifests.into_iter().rev().map(|entry| Named {
            entry,
            by: what.clone(),
            depth: depth + 1,
        });
        all.pending.extend(named);
        Ok(media_type)
    }

    fn name(&self, manifest: &Manifest) -> String {
        let reference = Reference::Digest(manifest.digest);
        self.client.manifest_name(&reference)
    }

    async fn child(&self, what: &str, entry: &ImageIndexEntry) -> Result<Manifest, PullError> {
        let blob = blob_of(what, &entry.digest, entry.size)?;
        let reference = Reference::Digest(blob.digest);
        let manifest = self.manifest(&reference, Some(&entry.media_type)).await?;
        let found = manifest.bytes.len() as u64;
        if found != blob.size {
            return Err(PullError::WrongSize {
                what: self.client.manifest_name(&reference),
                expected: blob.size,
                found,
            });
        }
        Ok(manifest)
    }

    fn add_image(
        &self,
        what: &str,
        manifest: &OciImageManifest,
        blobs: &mut Blobs,
    ) -> Result<(), PullError> {
        for descriptor in std::iter::once(&manifest.config).chain(&manifest.layers) {
            let blob = blob_of(what, &descriptor.digest, descriptor.size)?;
            if is_foreign(descriptor) {
                // Not in the registry, by its licence; skopeo and others leave it out too.
                self.watch.see(Event::Foreign { blob: &blob });
            } else {
                blobs.add(what, blob)?;
            }
        }
        Ok(())
    }

    /// What an image is for stands in its configuration.
    async fn check_platform(
        &self,
        image: &super::Image,
        config: Option<&Blob>,
        wanted: &Platform,
    ) -> Result<(), PullError> {
        let Some(config) = config.filter(|config| config.size <= MAX_CONFIG) else {
            return Ok(());
        };
        blob::fetch(self.client, self.layout, config, self.watch).await?;
        let bytes = self.layout.read(&config.digest, MAX_CONFIG).await;
        let parsed = bytes.and_then(|bytes| serde_json::from_slice::<Value>(&bytes).ok());
        let config = parsed.unwrap_or_default();
        // Artifacts that are no images say nothing.
        let (Some(os), Some(architecture)) =
            (config["os"].as_str(), config["architecture"].as_str())
        else {
            return Ok(());
        };
        let offered = Platform::new(os, architecture, config["variant"].as_str());
        if offered.runs_on(wanted) {
            return Ok(());
        }
        Err(PullError::Platform {
            what: image.to_string(),
            wanted: wanted.to_string(),
            offered: offered.to_string(),
        })
    }
}

/// All of an index, as far as it is known.
#[derive(Default)]
struct Everything {
    blobs: Blobs,
    manifests: usize,
    pending: Vec<Named>,
}

/// A manifest to be looked at.
struct Named {
    entry: ImageIndexEntry,
    /// The index that names it, for messages.
    by: String,
    depth: usize,
}

/// Blobs, each once.
#[derive(Default)]
struct Blobs {
    in_order: Vec<Blob>,
    sizes: BTreeMap<String, u64>,
}

impl Blobs {
    fn add(&mut self, what: &str, blob: Blob) -> Result<(), PullError> {
        let nonsense = |why| PullError::Nonsense {
            what: what.to_owned(),
            why,
        };
        match self.sizes.entry(blob.digest.to_string()) {
            Entry::Vacant(entry) => entry.insert(blob.size),
            Entry::Occupied(entry) if *entry.get() == blob.size => return Ok(()),
            Entry::Occupied(entry) => {
                return Err(nonsense(format!("it gives {} two sizes", entry.key())));
            }
        };
        if self.in_order.len() == MAX_BLOBS {
            return Err(nonsense(format!("it has more than {MAX_BLOBS} blobs")));
        }
        self.in_order.push(blob);
        Ok(())
    }
}

impl Top {
    fn of(manifest: &Manifest, media_type: String, platform: Option<Value>) -> Self {
        Self {
            digest: manifest.digest,
            media_type,
            size: manifest.bytes.len() as u64,
            platform: platform.filter(|platform| !platform.is_null()),
        }
    }
}

/// Understands a manifest by what it has in it. One that could be read both ways is refused: what
/// one reader takes for an image must not be another's index (CVE-2021-41190).
fn parse(what: &str, bytes: &Bytes) -> Result<Parsed, PullError> {
    #[derive(Deserialize)]
    struct Shape {
        manifests: Option<IgnoredAny>,
        config: Option<IgnoredAny>,
        layers: Option<IgnoredAny>,
    }
    let nonsense = |why: String| PullError::Nonsense {
        what: what.to_owned(),
        why,
    };
    let bad = |error: serde_json::Error| nonsense(error.to_string());
    let shape: Shape = serde_json::from_slice(bytes).map_err(bad)?;
    let is_image = shape.config.is_some() || shape.layers.is_some();
    match (shape.manifests.is_some(), is_image) {
        (true, false) => serde_json::from_slice(bytes)
            .map(Parsed::Index)
            .map_err(bad),
        (false, true) => serde_json::from_slice(bytes)
            .map(Parsed::Image)
            .map_err(bad),
        (true, true) => Err(nonsense("it is a manifest and an index at once".to_owned())),
        (false, false) => Err(nonsense(
            "it is neither an image manifest nor an index (Docker's schema 1 is not supported)"
                .to_owned(),
        )),
    }
}

fn image_type(parsed: &OciImageManifest, manifest: &Manifest) -> String {
    let stated = parsed
        .media_type
        .clone()
        .filter(|stated| !stated.is_empty());
    stated.unwrap_or_else(|| match manifest.media_type.as_str() {
        "" => oci_distribution::manifest::OCI_IMAGE_MEDIA_TYPE.to_owned(),
        told => told.to_owned(),
    })
}

fn index_type(parsed: &OciImageIndex, manifest: &Manifest) -> String {
    let stated = parsed
        .media_type
        .clone()
        .filter(|stated| !stated.is_empty());
    stated.unwrap_or_else(|| match manifest.media_type.as_str() {
        IMAGE_MANIFEST_LIST_MEDIA_TYPE => IMAGE_MANIFEST_LIST_MEDIA_TYPE.to_owned(),
        _ => OCI_IMAGE_INDEX_MEDIA_TYPE.to_owned(),
    })
}

fn chosen<'a>(
    image: &super::Image,
    index: &'a OciImageIndex,
    wanted: &Platform,
) -> Result<&'a ImageIndexEntry, PullError> {
    let offered = || {
        index.manifests.iter().filter_map(|entry| {
            let platform = entry.platform.as_ref()?;
            Some((Platform::from(platform), entry))
        })
    };
    platform::choose(wanted, offered()).ok_or_else(|| {
        let listed: Vec<_> = offered()
            .map(|(platform, _)| platform.to_string())
            .collect();
        // Attestations have a place in indexes, and no platform.
        let listed = listed.into_iter().filter(|text| text != "unknown/unknown");
        PullError::Platform {
            what: image.to_string(),
            wanted: wanted.to_string(),
            offered: listed.collect::<Vec<_>>().join(", "),
        }
    })
}

fn blob_of(what: &str, digest: &str, size: i64) -> Result<Blob, PullError> {
    let nonsense = |why: String| PullError::Nonsense {
        what: what.to_owned(),
        why,
    };
    Ok(Blob {
        digest: digest
            .parse()
            .map_err(|error| nonsense(format!("{error}")))?,
        size: u64::try_from(size).map_err(|_| nonsense(format!("{digest} has size {size}")))?,
    })
}

fn is_foreign(descriptor: &OciDescriptor) -> bool {
    let kind = &descriptor.media_type;
    kind.contains(".nondistributable.") || kind.contains("rootfs.foreign")
}

fn too_deep(image: &super::Image) -> PullError {
    PullError::Nonsense {
        what: image.to_string(),
        why: format!("its indexes are nested more than {MAX_DEPTH} deep"),
    }
}
