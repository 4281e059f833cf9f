//! The distribution specification's pull and content-discovery parts, rule by rule, in front of a
//! real registry.

use anyhow::{Context as _, Result, ensure};
use bytes::Bytes;
use darner_e2e::client::{Answer, Client};
use darner_e2e::cluster::up_settings_at;
use darner_e2e::darner::Darner;
use darner_e2e::registry::{Pusher, Registry};
use darner_e2e::scene::Scene;
use darner_e2e::upstream::NAME;
use darner_e2e::{raw, scene};
use darner_proto::digest::{Digest, Hasher};
use serde_json::{Value, json};

const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const INDEX: &str = "application/vnd.oci.image.index.v1+json";
const EMPTY: &str = "application/vnd.oci.empty.v1+json";

/// A registry that can be pushed to, a mirror of it, and a client of that.
struct Rig {
    _registry: Registry,
    pusher: Pusher,
    up: Darner,
    client: Client,
}

impl Rig {
    async fn start(scene: &Scene) -> Result<Self> {
        let storage = scene.make_directory("storage")?;
        let registry = Registry::start(&scene.path(""), &storage, false).await?;
        let url = format!("http://{}", registry.address());
        // What is pushed under a tag again is to be seen at once.
        let settings = up_settings_at(scene, &url)?.of_upstream("tag_ttl", "0s");
        let up = Darner::start(scene, "up", "up", &settings).await?;
        Ok(Self {
            pusher: registry.pusher(),
            client: Client::new(&up, NAME)?,
            _registry: registry,
            up,
        })
    }

    /// A request whose target is written out.
    async fn raw(&self, method: &str, target: &str) -> Result<Answer> {
        raw::request(self.up.address("registry")?, method, target, "").await
    }

    /// Pushes a manifest of these layers; `more` is merged into it.
    async fn artifact(&self, reference: &str, layers: &[Value], more: Value) -> Result<Pushed> {
        let config = self.pusher.blob("a/b", Bytes::from_static(b"{}")).await?;
        let mut manifest = json!({
            "schemaVersion": 2,
            "mediaType": MANIFEST,
            "config": {"mediaType": EMPTY, "digest": config.to_string(), "size": 2},
            "layers": layers,
        });
        let (Some(manifest), Value::Object(more)) = (manifest.as_object_mut(), more) else {
            anyhow::bail!("not an object");
        };
        manifest.extend(more);
        let bytes = Bytes::from(serde_json::to_vec(manifest)?);
        let digest = Digest::sha256(&bytes);
        let by_digest = digest.to_string();
        let reference = if reference.is_empty() {
            &by_digest
        } else {
            reference
        };
        let pushed = self
            .pusher
            .manifest("a/b", reference, MANIFEST, bytes.clone());
        pushed.await?;
        Ok(Pushed { digest, bytes })
    }

    async fn layer(&self, media_type: &str, bytes: &[u8]) -> Result<Value> {
        let bytes = Bytes::copy_from_slice(bytes);
        let (digest, size) = (Digest::sha256(&bytes), bytes.len());
        self.pusher.blob("a/b", bytes).await?;
        Ok(json!({"mediaType": media_type, "digest": digest.to_string(), "size": size}))
    }
}

struct Pushed {
    digest: Digest,
    bytes: Bytes,
}

fn sha512(bytes: &[u8]) -> Digest {
    let mut hasher: Hasher = Digest::Sha512([0; 64]).hasher();
    hasher.update(bytes);
    hasher.finish()
}

fn ok(answer: &Answer, status: u16) -> Result<()> {
    ensure!(answer.status == status, "{}", answer.describe());
    Ok(())
}

#[test]
fn whatever_is_stored_comes_back_byte_for_byte() {
    scene::run("semantics_bytes", async |scene| {
        let rig = Rig::start(scene).await?;
        // A Helm chart, an SBOM, a signature, zstd and encrypted layers: blobs like any other.
        let kinds = [
            "application/vnd.cncf.helm.chart.content.v1.tar+gzip",
            "application/spdx+json",
            "application/vnd.dev.cosign.simplesigning.v1+json",
            "application/vnd.oci.image.layer.v1.tar+zstd",
            "application/vnd.oci.image.layer.v1.tar+gzip+encrypted",
        ];
        let mut layers = Vec::new();
        for kind in kinds {
            layers.push(
                rig.layer(kind, format!("content of {kind}").as_bytes())
                    .await?,
            );
        }
        // Spaces and an order of keys of its own: what is stored is not to be written anew.
        let more = json!({"annotations": {"z": "  1 ", "a": "\u{e9}"}, "artifactType": "x/y"});
        let pushed = rig.artifact("v1", &layers, more).await?;
        for reference in ["v1".to_owned(), pushed.digest.to_string()] {
            let path = format!("a/b/manifests/{reference}");
            let (head, get) = (rig.client.head(&path).await?, rig.client.get(&path).await?);
            for answer in [&head, &get] {
                ok(answer, 200)?;
                ensure!(answer.header("content-type")? == MANIFEST);
                ensure!(answer.header("docker-content-digest")? == pushed.digest.to_string());
                ensure!(answer.header("content-length")? == pushed.bytes.len().to_string());
                ensure!(answer.header("oci-namespace")? == NAME);
            }
            ensure!(head.body.is_empty() && get.body == pushed.bytes);
        }
        for (kind, layer) in kinds.iter().zip(&layers) {
            let digest = layer["digest"].as_str().context("no digest")?;
            let blob = rig.client.get(&format!("a/b/blobs/{digest}")).await?;
            ok(&blob, 200)?;
            ensure!(blob.body == format!("content of {kind}"), "{kind}");
            ensure!(blob.header("docker-content-digest")? == digest);
        }
        Ok(())
    });
}

#[test]
fn a_manifest_may_have_four_mebibytes_and_a_foreign_layer() {
    scene::run("semantics_large", async |scene| {
        let rig = Rig::start(scene).await?;
        // A layer that is not in this registry at all.
        let foreign = json!({
            "mediaType": "application/vnd.oci.image.layer.nondistributable.v1.tar+gzip",
            "digest": Digest::sha256(b"elsewhere").to_string(),
            "size": 9,
            "urls": ["https://elsewhere.example/layer"],
        });
        let bare = rig.artifact("small", std::slice::from_ref(&foreign), json!({}));
        let bare = bare.await?.bytes.len();
        // `"annotations":{"a":""},` and no byte more.
        let filling = (4 << 20) - bare - 24;
        let more = json!({"annotations": {"a": "x".repeat(filling)}});
        let pushed = rig.artifact("large", &[foreign], more).await?;
        ensure!((4 << 20) - 8 <= pushed.bytes.len() && pushed.bytes.len() <= 4 << 20);
        let answer = rig.client.get("a/b/manifests/large").await?;
        ok(&answer, 200)?;
        ensure!(answer.body == pushed.bytes);
        let elsewhere = format!("a/b/blobs/{}", Digest::sha256(b"elsewhere"));
        let missing = rig.client.get(&elsewhere).await?;
        ok(&missing, 404)?;
        ensure!(missing.error_code()? == "BLOB_UNKNOWN");
        Ok(())
    });
}

#[test]
fn empty_blobs_and_sha512() {
    scene::run("semantics_digests", async |scene| {
        let rig = Rig::start(scene).await?;
        let empty = rig.pusher.blob("a/b", Bytes::new()).await?;
        let content = Bytes::from("some content".repeat(10_000));
        let long = sha512(&content);
        rig.pusher.blob_as("a/b", long, content.clone()).await?;
        for (digest, bytes) in [(empty, Bytes::new()), (long, content.clone())] {
            let path = format!("a/b/blobs/{digest}");
            // Cold, then from the store.
            for _ in 0..2 {
                let get = rig.client.get(&path).await?;
                ok(&get, 200)?;
                ensure!(get.body == bytes, "{} bytes", get.body.len());
                ensure!(get.header("docker-content-digest")? == digest.to_string());
            }
            let head = rig.client.head(&path).await?;
            ok(&head, 200)?;
            ensure!(head.header("content-length")? == bytes.len().to_string());
            ensure!(head.body.is_empty());
        }
        let part = rig.client.range(&format!("a/b/blobs/{long}"), "4-").await?;
        ok(&part, 206)?;
        ensure!(part.body == content.slice(4..));
        Ok(())
    });
}

#[test]
fn ranges_as_the_conformance_suite_asks_for_them() {
    scene::run("semantics_ranges", async |scene| {
        let rig = Rig::start(scene).await?;
        let content: Bytes = (0..2048u32).map(|n| (n % 253) as u8).collect();
        let digest = rig.pusher.blob("a/b", content.clone()).await?;
        let path = format!("a/b/blobs/{digest}");
        for (range, expected) in [
            ("500-1499", Some((500, 1499))),
            ("500-", Some((500, 2047))),
            ("-500", Some((1548, 2047))),
            ("2000-5000", Some((2000, 2047))),
            ("0-0", Some((0, 0))),
            ("500-0", None),
            ("5000-10000", None),
        ] {
            let answer = rig.client.range(&path, range).await?;
            let Some((first, last)) = expected else {
                ok(&answer, 416)?;
                ensure!(answer.header("content-range")? == "bytes */2048", "{range}");
                continue;
            };
            ok(&answer, 206)?;
            let told = answer.header("content-range")?;
            ensure!(told == format!("bytes {first}-{last}/2048"), "{told}");
            ensure!(answer.header("content-length")? == (last - first + 1).to_string());
            ensure!(answer.body == content.slice(first..=last), "{range}");
        }
        Ok(())
    });
}

#[test]
fn tags_are_listed_by_pages_that_stay_on_this_mirror() {
    scene::run("semantics_tags", async |scene| {
        let rig = Rig::start(scene).await?;
        let all = ["a", "b", "latest", "v1", "v10", "v2"];
        for tag in all {
            rig.artifact(tag, &[], json!({})).await?;
        }
        let tags = |answer: &Answer| -> Result<Vec<String>> {
            let body: Value = serde_json::from_slice(&answer.body)?;
            ensure!(body["name"] == "a/b", "{body}");
            Ok(serde_json::from_value(body["tags"].clone())?)
        };
        let list = format!("/v2/a/b/tags/list?ns={NAME}");
        let listed = tags(&rig.raw("GET", &list).await?)?;
        ensure!(listed == all, "{listed:?}");
        // The registry in the path, and in the parameter: both are kept on every page.
        for first in [
            format!("/v2/a/b/tags/list?n=2&ns={NAME}"),
            format!("/v2/{NAME}/a/b/tags/list?n=2"),
        ] {
            let (mut next, mut seen) = (Some(first), Vec::new());
            while let Some(target) = next.take() {
                let page = rig.raw("GET", &target).await?;
                ok(&page, 200)?;
                let tags = tags(&page)?;
                ensure!(tags.len() <= 2, "{tags:?}");
                seen.extend(tags);
                let Ok(link) = page.header("link") else {
                    break;
                };
                let end = link.find('>').context("no target")?;
                ensure!(&link[end..] == ">; rel=\"next\"", "{link}");
                ensure!(link.starts_with("</v2/") && link.contains(NAME), "{link}");
                next = Some(link[1..end].to_owned());
            }
            ensure!(seen == all, "{seen:?}");
        }
        let after = rig.raw("GET", &format!("{list}&last=latest")).await?;
        ensure!(tags(&after)? == ["v1", "v10", "v2"]);
        let unknown = format!("/v2/no/such/tags/list?ns={NAME}");
        let unknown = rig.raw("GET", &unknown).await?;
        ok(&unknown, 404)?;
        ensure!(unknown.error_code()? == "NAME_UNKNOWN");
        Ok(())
    });
}

#[test]
fn referrers_of_a_registry_without_the_api_come_from_their_tag() {
    scene::run("semantics_referrers", async |scene| {
        let rig = Rig::start(scene).await?;
        let subject = rig.artifact("v1", &[], json!({})).await?;
        let referrers = |digest: String, filter: &str| {
            let target = format!("/v2/a/b/referrers/{digest}?ns={NAME}{filter}");
            let rig = &rig;
            async move { rig.raw("GET", &target).await }
        };
        let entries = |answer: &Answer| -> Result<usize> {
            ok(answer, 200)?;
            ensure!(answer.header("content-type")? == INDEX);
            let body: Value = serde_json::from_slice(&answer.body)?;
            ensure!(
                body["schemaVersion"] == 2 && body["mediaType"] == INDEX,
                "{body}"
            );
            Ok(body["manifests"].as_array().context("no list")?.len())
        };
        // Nothing refers to it, and to what does not exist: an empty list, never 404.
        ensure!(entries(&referrers(subject.digest.to_string(), "").await?)? == 0);
        let unknown = Digest::sha256(b"unknown").to_string();
        ensure!(entries(&referrers(unknown, "").await?)? == 0);
        ensure!(entries(&referrers(sha512(b"unknown").to_string(), "").await?)? == 0);

        let mut list = Vec::new();
        for kind in [
            "application/vnd.example.sbom",
            "application/vnd.example.sig",
        ] {
            let of = json!({"mediaType": MANIFEST, "digest": subject.digest.to_string(), "size": subject.bytes.len()});
            let more = json!({"artifactType": kind, "subject": of, "annotations": {"kind": kind}});
            let pushed = rig.artifact("", &[], more).await?;
            list.push(json!({
                "mediaType": MANIFEST,
                "digest": pushed.digest.to_string(),
                "size": pushed.bytes.len(),
                "artifactType": kind,
                "annotations": {"kind": kind},
            }));
        }
        let index = json!({"schemaVersion": 2, "mediaType": INDEX, "manifests": list});
        let tag = format!("sha256-{}", subject.digest.hex());
        let bytes = Bytes::from(serde_json::to_vec(&index)?);
        rig.pusher.manifest("a/b", &tag, INDEX, bytes).await?;
        ensure!(entries(&referrers(subject.digest.to_string(), "").await?)? == 2);
        let filter = "&artifactType=application%2Fvnd.example.sig";
        let some = referrers(subject.digest.to_string(), filter).await?;
        ensure!(entries(&some)? == 1);
        ensure!(some.header("oci-filters-applied")? == "artifactType");
        let bad = referrers("sha256:0".to_owned(), "").await?;
        ok(&bad, 400)
    });
}

#[test]
fn writes_are_refused_as_unsupported() {
    scene::run("semantics_writes", async |scene| {
        let rig = Rig::start(scene).await?;
        let digest = Digest::sha256(b"x");
        for (method, path) in [
            ("POST", "a/b/blobs/uploads/".to_owned()),
            ("PATCH", "a/b/blobs/uploads/1".to_owned()),
            ("PUT", "a/b/manifests/v1".to_owned()),
            ("DELETE", "a/b/manifests/v1".to_owned()),
            ("DELETE", format!("a/b/blobs/{digest}")),
        ] {
            let answer = rig.raw(method, &format!("/v2/{path}?ns={NAME}")).await?;
            ok(&answer, 405)?;
            ensure!(answer.error_code()? == "UNSUPPORTED", "{method} {path}");
            ensure!(answer.header("allow")? == "GET, HEAD");
        }
        Ok(())
    });
}
