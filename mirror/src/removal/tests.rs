use serde_json::json;

use super::*;
use crate::holdings::testing::{Fixture, digest, entry, fixture, source};
use crate::store::{LinkRecord, TagRecord};

fn image(layers: &[&str]) -> String {
    let layers: Vec<_> = layers.iter().map(|layer| entry(layer)).collect();
    json!({ "schemaVersion": 2, "layers": layers }).to_string()
}

fn index(images: &[&str]) -> String {
    let images: Vec<_> = images.iter().map(|image| entry(image)).collect();
    json!({ "schemaVersion": 2, "manifests": images }).to_string()
}

impl Fixture {
    /// With the layers it lists, under this tag.
    async fn keep(&self, repository: &str, tag: &str, text: &str, layers: &[&str]) {
        let source = source(repository);
        let mut links = Vec::new();
        for (part, manifest) in layers
            .iter()
            .map(|part| (*part, false))
            .chain([(text, true)])
        {
            self.put(part).await;
            let size = part.len() as u64;
            let media_type = String::new();
            links.push((
                digest(part),
                LinkRecord {
                    manifest,
                    media_type,
                    size,
                },
            ));
        }
        self.store.add_links(&source, &links).unwrap();
        let record = TagRecord {
            digest: digest(text),
            checked_ms: 1,
        };
        self.store
            .set_tag(&source, &tag.parse().unwrap(), &record)
            .unwrap();
    }

    fn holds(&self, text: &str) -> bool {
        self.store.size_of(&digest(text)).is_some()
    }

    fn has_tag(&self, repository: &str, tag: &str) -> bool {
        self.store
            .tag(&source(repository), &tag.parse().unwrap())
            .is_some()
    }

    fn remove(&self, text: &str) -> u64 {
        remove(&self.store, &digest(text), SystemTime::now()).unwrap()
    }
}

#[tokio::test]
async fn an_image_goes_with_what_no_other_needs_and_its_names() {
    let fixture = fixture();
    let (one, other) = (image(&["own", "shared"]), image(&["other", "shared"]));
    fixture.keep("a", "1", &one, &["own", "shared"]).await;
    fixture.keep("b", "2", &other, &["other", "shared"]).await;
    let removed = fixture.remove(&one);
    assert_eq!(removed, (one.len() + "own".len()) as u64);
    assert!(!fixture.holds(&one) && !fixture.holds("own"));
    assert!(fixture.holds("shared") && fixture.holds(&other) && fixture.holds("other"));
    assert!(!fixture.has_tag("a", "1") && fixture.has_tag("b", "2"));
    assert!(fixture.store.link(&source("a"), &digest(&one)).is_none());
    assert_eq!(fixture.remove(&one), 0, "once");
    fixture.remove(&other);
    assert!(fixture.store.keys().is_empty(), "the last one takes all");
}

#[tokio::test]
async fn with_an_image_goes_the_index_that_names_it_and_with_an_index_its_images() {
    let fixture = fixture();
    let (amd, arm) = (image(&["amd"]), image(&["arm"]));
    let both = index(&[&amd, &arm]);
    fixture.keep("a", "amd", &amd, &["amd"]).await;
    fixture.keep("a", "arm", &arm, &["arm"]).await;
    fixture.keep("a", "latest", &both, &[]).await;
    fixture.remove(&arm);
    assert!(
        !fixture.has_tag("a", "latest"),
        "upstream is to be asked what it means"
    );
    assert!(!fixture.holds(&both) && !fixture.holds("arm"));
    assert!(fixture.holds(&amd) && fixture.holds("amd") && fixture.has_tag("a", "amd"));
    fixture.keep("a", "latest", &both, &[]).await;
    fixture.remove(&both);
    assert!(fixture.store.keys().is_empty());
    assert!(!fixture.has_tag("a", "amd"));
}

#[tokio::test]
async fn what_has_come_since_stays_and_any_content_can_go() {
    let fixture = fixture();
    let one = image(&["layer"]);
    fixture.keep("a", "1", &one, &["layer"]).await;
    let earlier = SystemTime::now() - Duration::from_secs(60);
    assert_eq!(remove(&fixture.store, &digest(&one), earlier).unwrap(), 0);
    assert!(fixture.holds(&one) && fixture.has_tag("a", "1"));
    assert_eq!(fixture.remove("layer"), "layer".len() as u64);
    assert!(fixture.holds(&one), "of an image the layer alone");
    assert!(fixture.store.link(&source("a"), &digest("layer")).is_none());
    assert_eq!(fixture.remove("nothing"), 0);
}
