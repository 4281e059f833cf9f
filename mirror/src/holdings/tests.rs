use darner_proto::name::Source;
use serde_json::json;

use super::testing::{Fixture, entry, fixture, source};
use super::*;
use crate::store::{LinkRecord, TagRecord};

impl Fixture {
    /// As the resolver keeps it.
    async fn manifest(&self, source: &Source, text: &str) -> Digest {
        let digest = self.put(text).await;
        let link = LinkRecord {
            manifest: true,
            media_type: String::new(),
            size: text.len() as u64,
        };
        self.store.add_links(source, &[(digest, link)]).unwrap();
        digest
    }

    fn tag(&self, source: &Source, tag: &str, digest: Digest) {
        let record = TagRecord {
            digest,
            checked_ms: 7,
        };
        let tag = tag.parse().unwrap();
        self.store.set_tag(source, &tag, &record).unwrap();
    }

    fn look(&self) -> Snapshot {
        look(&(self.store.clone(), None), &mut Known::new())
    }
}

fn image(layers: &[&str]) -> String {
    let layers: Vec<_> = layers.iter().map(|layer| entry(layer)).collect();
    let config = entry(CONFIG);
    json!({ "schemaVersion": 2, "config": config, "layers": layers }).to_string()
}

const CONFIG: &str = r#"{"os":"linux","architecture":"amd64"}"#;

#[tokio::test]
async fn an_image_is_told_by_its_tags_its_platform_and_the_share_that_is_held() {
    let fixture = fixture();
    let debian = source("library/debian");
    let manifest = fixture.manifest(&debian, &image(&["one", "two"])).await;
    fixture.tag(&debian, "12", manifest);
    fixture.put("one").await;
    let told = fixture.look();
    let key = ImageKey {
        digest: manifest,
        private: true,
    };
    let held = &told.images[&key];
    let shares = [0, 1, 2].map(|at| held.blobs.has(at));
    assert_eq!(shares, [false, true, false]);
    assert_eq!(told.facts[&manifest].platform, "");
    assert_eq!(held.names[0].tags[0].tag.as_str(), "12");

    // Upstream lets anybody read it, and the rest has come.
    fixture.store.set_public(&debian, 1).unwrap();
    fixture.put("two").await;
    fixture.put(CONFIG).await;
    let told = fixture.look();
    let key = ImageKey {
        private: false,
        ..key
    };
    assert!(told.images[&key].blobs.is_all());
    assert_eq!(told.facts[&manifest].platform, "linux/amd64");
    assert_eq!(told.images.len(), 1);
}

#[tokio::test]
async fn an_index_is_told_by_the_images_it_lists() {
    let fixture = fixture();
    let repository = source("a/b");
    let held = image(&["one"]);
    let mut listed = entry(&held);
    listed["platform"] = json!({ "os": "linux", "architecture": "arm64" });
    let index = json!({ "schemaVersion": 2, "manifests": [listed, entry("not here")] });
    let index = fixture.manifest(&repository, &index.to_string()).await;
    fixture.tag(&repository, "latest", index);
    let manifest = fixture.manifest(&repository, &held).await;
    fixture.tag(&repository, "arm", manifest);
    // The same image in another repository, where nothing has a name.
    fixture.manifest(&source("c"), &held).await;
    let told = fixture.look();
    assert_eq!(told.images.len(), 1, "{told:?}");
    let image = told.images.values().next().unwrap();
    let names = image.names.iter().map(|name| {
        let tags = name.tags.iter().map(|tag| tag.tag.to_string());
        (name.source.repository.to_string(), tags.collect::<Vec<_>>())
    });
    let names: BTreeMap<_, _> = names.collect();
    assert_eq!(names["a/b"], ["arm", "latest"]);
    assert!(names["c"].is_empty());
    assert_eq!(told.facts[&manifest].platform, "linux/arm64");
}

#[tokio::test]
async fn what_is_told_is_bounded() {
    let fixture = fixture();
    for n in 0..MAX_IMAGES + 3 {
        let layer = n.to_string();
        let repository = source(&format!("a/r{n}"));
        fixture.manifest(&repository, &image(&[&layer])).await;
    }
    let told = fixture.look();
    assert_eq!((told.images.len(), told.left_off), (MAX_IMAGES, 3));
    assert_eq!(told.facts.len(), MAX_IMAGES);
}
