//! The images the tests pull: made once from files of this machine, pushed to a registry's storage
//! under `target/e2e`, and described beside it.

mod layer;

use std::fs::{self, File};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use bytes::Bytes;
use darner_proto::digest::Digest;
use serde_json::{Value, json};

use crate::place;
use crate::registry::{Pusher, Registry};
use layer::{Files, Layer};

/// Part of the storage's path: another number makes every machine build the images anew.
const VERSION: u32 = 1;
const MIB: u64 = 1 << 20;

/// An image in the upstream registry.
#[derive(Debug, Clone)]
pub struct Image {
    /// Its repository.
    pub repository: String,
    /// Its tag.
    pub tag: String,
    /// What the tag means: a manifest, or an index.
    pub digest: Digest,
    /// The index, if there is one, and every manifest.
    pub manifests: Vec<Blob>,
    /// Configurations and layers of all platforms, each once.
    pub blobs: Vec<Blob>,
}

/// Content of an image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Blob {
    /// Its digest.
    pub digest: Digest,
    /// Bytes.
    pub size: u64,
    /// As its manifest says.
    pub media_type: String,
}

impl Blob {
    fn is_config(&self) -> bool {
        self.media_type.contains("config") || self.media_type.contains("container.image")
    }
}

impl Image {
    /// Bytes of all blobs.
    pub fn bytes(&self) -> u64 {
        self.blobs.iter().map(|blob| blob.size).sum()
    }

    /// `<repository>:<tag>`, below a registry.
    pub fn reference(&self, registry: &str) -> String {
        format!("{registry}/{}:{}", self.repository, self.tag)
    }

    /// `<repository>@<digest>`, below a registry.
    pub fn digest_reference(&self, registry: &str) -> String {
        format!("{registry}/{}@{}", self.repository, self.digest)
    }

    /// The path of a blob below `/v2/`.
    pub fn blob_path(&self, blob: &Blob) -> String {
        format!("{}/blobs/{}", self.repository, blob.digest)
    }

    /// What a runtime of this machine, which is amd64, needs of it: of an index, the blobs of the
    /// first manifest, which come first.
    pub fn own_blobs(&self) -> Result<Vec<&Blob>> {
        let config = self.blobs.iter().position(Blob::is_config);
        let config = config.context("no configuration")?;
        Ok(self.blobs[..=config].iter().collect())
    }

    /// As [`Image::own_blobs`], the layers alone.
    pub fn own_layers(&self) -> Result<Vec<&Blob>> {
        let mut blobs = self.own_blobs()?;
        blobs.retain(|blob| !blob.is_config());
        Ok(blobs)
    }

    /// As [`Image::own_blobs`], the configuration alone.
    pub fn own_config(&self) -> Result<&Blob> {
        self.blobs
            .iter()
            .find(|blob| blob.is_config())
            .context("no configuration")
    }

    /// What a runtime of this machine runs: of an index, the first that it names.
    pub fn own_manifest(&self) -> Result<&Blob> {
        let named = self.manifests.get(1).or_else(|| self.manifests.first());
        named.context("no manifest")
    }

    /// The largest blob.
    pub fn largest(&self) -> Result<&Blob> {
        let largest = self.blobs.iter().max_by_key(|blob| blob.size);
        largest.context("an image without blobs")
    }
}

/// The images, and the storage that holds them.
#[derive(Debug, Clone)]
pub struct Images {
    /// For a registry that does not write.
    pub storage: PathBuf,
    /// OCI, six gzip layers, a few hundred MB.
    pub big: Image,
    /// Docker schema 2, three layers, some tens of MB.
    pub middle: Image,
    /// An OCI index of three platforms.
    pub multi: Image,
    /// OCI, one layer of some KB.
    pub tiny: Image,
}

/// The images of this machine, made now if they are not there yet.
pub async fn images() -> Result<Images> {
    let root = place::target()?.join(format!("e2e/images-{VERSION}"));
    fs::create_dir_all(&root)?;
    let list = root.join("images.json");
    // Held until the end of this function: one process makes them, others wait.
    let lock = File::create(root.join("lock"))?;
    tokio::task::spawn_blocking(move || lock.lock().map(|()| lock)).await??;
    if !list.exists() {
        let made = make(&root).await.context("test images cannot be made")?;
        let new = root.join("images.json.new");
        fs::write(&new, serde_json::to_vec_pretty(&made)?)?;
        fs::rename(&new, &list)?;
    }
    let text = fs::read(&list)?;
    read(root.join("storage"), &serde_json::from_slice(&text)?)
}

async fn make(root: &Path) -> Result<Value> {
    let storage = root.join("storage");
    if storage.exists() {
        fs::remove_dir_all(&storage)?;
    }
    let work = tempfile::tempdir_in(root)?;
    let registry = Registry::start(root, &storage, false).await?;
    let maker = Maker {
        pusher: registry.pusher(),
        work: work.path().to_owned(),
    };
    let mut files = Files::of_this_machine();
    let big = [280, 180, 120, 60, 30, 10].map(|mib| mib * MIB);
    let middle = [32, 14, 4].map(|mib| mib * MIB);
    // In this order: what comes first is made of programs, which do not compress to nothing.
    Ok(json!({
        "middle": maker.single("test/middle", Form::Docker, &mut files, &middle).await?,
        "big": maker.single("test/big", Form::Oci, &mut files, &big).await?,
        "multi": maker.index("test/multi", &mut files).await?,
        "tiny": maker.single("test/tiny", Form::Oci, &mut files, &[8 << 10]).await?,
    }))
}

/// An image of `mib` MiB in four layers of no files, which nobody could unpack, in a registry of the
/// scene's own.
pub async fn of_size(directory: &Path, mib: u64) -> Result<(Registry, Image)> {
    let storage = directory.join("storage-of-size");
    let registry = Registry::start(directory, &storage, false).await?;
    let maker = Maker {
        pusher: registry.pusher(),
        work: directory.to_owned(),
    };
    let length = usize::try_from(mib * MIB / 4)?;
    let layers = (1..=4).map(|number| Layer::noise(number, length));
    let layers: Vec<_> = layers.collect();
    let part = maker.part("test/of-size", (Form::Oci, "amd64"), &layers, TAG);
    let part = part.await?;
    let described = described("test/of-size", &part.manifest, &[&part]);
    Ok((registry, read_image(&described)?))
}

/// Whose media types a manifest has.
#[derive(Debug, Clone, Copy)]
enum Form {
    Oci,
    Docker,
}

impl Form {
    fn types(self) -> [&'static str; 3] {
        match self {
            Self::Oci => [
                "application/vnd.oci.image.manifest.v1+json",
                "application/vnd.oci.image.config.v1+json",
                "application/vnd.oci.image.layer.v1.tar+gzip",
            ],
            Self::Docker => [
                "application/vnd.docker.distribution.manifest.v2+json",
                "application/vnd.docker.container.image.v1+json",
                "application/vnd.docker.image.rootfs.diff.tar.gzip",
            ],
        }
    }
}

const TAG: &str = "v1";
const INDEX: &str = "application/vnd.oci.image.index.v1+json";

struct Maker {
    pusher: Pusher,
    work: PathBuf,
}

/// One platform's part of an image, as pushed.
struct Part {
    manifest: Value,
    blobs: Vec<Value>,
}

impl Maker {
    /// An image of one manifest, with a layer of about each of `sizes` bytes before compression.
    async fn single(
        &self,
        repository: &str,
        form: Form,
        files: &mut Files,
        sizes: &[u64],
    ) -> Result<Value> {
        let mut layers = Vec::new();
        for size in sizes {
            layers.push(files.layer(*size, &self.work).await?);
        }
        let part = self.part(repository, (form, "amd64"), &layers, TAG).await?;
        Ok(described(repository, &part.manifest, &[&part]))
    }

    /// An image for three platforms that share a layer.
    async fn index(&self, repository: &str, files: &mut Files) -> Result<Value> {
        let shared = files.layer(2 * MIB, &self.work).await?;
        let mut parts = Vec::new();
        for architecture in ["amd64", "arm64", "arm"] {
            let own = files.layer(MIB, &self.work).await?;
            let layers = [shared.clone(), own];
            let part = self.part(repository, (Form::Oci, architecture), &layers, "");
            parts.push((architecture, part.await?));
        }
        let manifests: Vec<_> = parts
            .iter()
            .map(|(architecture, part)| {
                let mut manifest = part.manifest.clone();
                manifest["platform"] = json!({"os": "linux", "architecture": architecture});
                if *architecture == "arm" {
                    manifest["platform"]["variant"] = "v7".into();
                }
                manifest
            })
            .collect();
        let index = json!({"schemaVersion": 2, "mediaType": INDEX, "manifests": manifests});
        let index = self.manifest(repository, TAG, INDEX, &index).await?;
        let parts: Vec<_> = parts.iter().map(|(_, part)| part).collect();
        Ok(described(repository, &index, &parts))
    }

    async fn part(
        &self,
        repository: &str,
        (form, architecture): (Form, &str),
        layers: &[Layer],
        reference: &str,
    ) -> Result<Part> {
        let [manifest_type, config_type, layer_type] = form.types();
        let mut blobs = Vec::new();
        for layer in layers {
            let digest = self.pusher.blob(repository, layer.bytes.clone()).await?;
            blobs.push(descriptor(layer_type, &digest, layer.bytes.len()));
        }
        let ids: Vec<_> = layers.iter().map(|layer| layer.id.to_string()).collect();
        let config = json!({
            "architecture": architecture,
            "os": "linux",
            "config": {"Cmd": ["/bin/true"]},
            "rootfs": {"type": "layers", "diff_ids": ids},
            "history": layers.iter().map(|_| json!({"created_by": "files"})).collect::<Vec<_>>(),
        });
        let config = Bytes::from(serde_json::to_vec(&config)?);
        let length = config.len();
        let digest = self.pusher.blob(repository, config).await?;
        let config = descriptor(config_type, &digest, length);
        let manifest = json!({
            "schemaVersion": 2,
            "mediaType": manifest_type,
            "config": config,
            "layers": blobs,
        });
        blobs.push(config);
        let manifest = self
            .manifest(repository, reference, manifest_type, &manifest)
            .await?;
        Ok(Part { manifest, blobs })
    }

    /// Pushes under `reference`, or if that is empty by digest.
    async fn manifest(
        &self,
        repository: &str,
        reference: &str,
        media_type: &str,
        manifest: &Value,
    ) -> Result<Value> {
        let bytes = Bytes::from(serde_json::to_vec_pretty(manifest)?);
        let digest = Digest::sha256(&bytes).to_string();
        let reference = if reference.is_empty() {
            &digest
        } else {
            reference
        };
        let length = bytes.len();
        let pushed = self
            .pusher
            .manifest(repository, reference, media_type, bytes);
        Ok(descriptor(media_type, &pushed.await?, length))
    }
}

fn descriptor(media_type: &str, digest: &Digest, size: usize) -> Value {
    json!({"mediaType": media_type, "digest": digest.to_string(), "size": size})
}

fn described(repository: &str, top: &Value, parts: &[&Part]) -> Value {
    let mut manifests = vec![top.clone()];
    let mut blobs: Vec<Value> = Vec::new();
    for part in parts {
        if part.manifest != *top {
            manifests.push(part.manifest.clone());
        }
        for blob in &part.blobs {
            if !blobs.contains(blob) {
                blobs.push(blob.clone());
            }
        }
    }
    json!({"repository": repository, "tag": TAG, "manifests": manifests, "blobs": blobs})
}

fn read(storage: PathBuf, list: &Value) -> Result<Images> {
    let image = |name: &str| read_image(&list[name]).with_context(|| format!("image {name}"));
    Ok(Images {
        storage,
        big: image("big")?,
        middle: image("middle")?,
        multi: image("multi")?,
        tiny: image("tiny")?,
    })
}

fn read_image(image: &Value) -> Result<Image> {
    let text = |value: &Value| value.as_str().map(str::to_owned).context("not text");
    let blobs = |list: &Value| -> Result<Vec<Blob>> {
        let list = list.as_array().context("not a list")?;
        list.iter()
            .map(|blob| {
                Ok(Blob {
                    digest: text(&blob["digest"])?.parse()?,
                    size: blob["size"].as_u64().context("no size")?,
                    media_type: text(&blob["mediaType"])?,
                })
            })
            .collect()
    };
    let manifests = blobs(&image["manifests"])?;
    Ok(Image {
        repository: text(&image["repository"])?,
        tag: text(&image["tag"])?,
        digest: manifests.first().context("no manifest")?.digest,
        manifests,
        blobs: blobs(&image["blobs"])?,
    })
}
