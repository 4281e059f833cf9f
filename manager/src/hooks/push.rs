//! What registries tell of a push: Harbor's webhooks (its own form and CloudEvents), the notifications of
//! distribution, and GitHub's `package` events. Pure.
//!
//! Of a notification nothing is believed but which repository, tag and digest it is about: which
//! registry that is in is for the operator to say. A push without a tag is one part of an image for
//! several platforms, and a tag such as `sha256-….sig` is a signature: neither is anything to pull.

use darner_proto::digest::Digest;
use darner_proto::invalid::Invalid;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use utoipa::ToSchema;

/// Pushes in one notification; more are not looked at.
const MAX_PUSHES: usize = 256;

/// Who notifies.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// A webhook of a Harbor project.
    Harbor,
    /// `notifications` in the configuration of a distribution registry.
    Distribution,
    /// A webhook of a GitHub organisation or repository, for packages.
    Github,
}

/// A tag was pushed.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Push {
    /// The repository, without its registry.
    pub repository: String,
    /// What the tag means now; the tag itself where the notification does not say.
    pub reference: String,
}

impl Kind {
    /// As written.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Harbor => "harbor",
            Self::Distribution => "distribution",
            Self::Github => "github",
        }
    }

    /// The pushes that a notification tells of.
    ///
    /// # Errors
    /// It is no notification of this kind.
    pub fn pushes(self, body: &[u8]) -> Result<Vec<Push>, Invalid> {
        let told: Value = serde_json::from_slice(body)
            .map_err(|error| Invalid::new("body", format!("is no JSON: {error}")))?;
        let mut pushes = match self {
            Self::Harbor => harbor(&told),
            Self::Distribution => distribution(&told),
            Self::Github => github(&told),
        }?;
        pushes.sort();
        pushes.dedup();
        Ok(pushes)
    }
}

impl std::str::FromStr for Kind {
    type Err = Invalid;

    fn from_str(text: &str) -> Result<Self, Invalid> {
        let all = [Self::Harbor, Self::Distribution, Self::Github];
        let found = all.into_iter().find(|kind| kind.as_str() == text);
        found.ok_or_else(|| Invalid::new("kind", format!("{text:?} is none")))
    }
}

fn harbor(told: &Value) -> Result<Vec<Push>, Invalid> {
    let kind = text(told, "/type");
    let data = match kind {
        "PUSH_ARTIFACT" => &told["event_data"],
        "harbor.artifact.pushed" => &told["data"],
        "" => return Err(Invalid::new("body", "has no type")),
        _ => return Ok(Vec::new()),
    };
    let repository = text(data, "/repository/repo_full_name");
    let resources = list(data, "/resources")?;
    let pushes = resources.iter().take(MAX_PUSHES);
    let pushes = pushes.filter_map(|one| push(repository, text(one, "/tag"), text(one, "/digest")));
    Ok(pushes.collect())
}

fn distribution(told: &Value) -> Result<Vec<Push>, Invalid> {
    let events = list(told, "/events")?.iter().take(MAX_PUSHES);
    let pushes = events.filter(|event| text(event, "/action") == "push");
    let pushes = pushes.filter_map(|event| {
        push(
            text(event, "/target/repository"),
            text(event, "/target/tag"),
            text(event, "/target/digest"),
        )
    });
    Ok(pushes.collect())
}

fn github(told: &Value) -> Result<Vec<Push>, Invalid> {
    let package = ["package", "registry_package"]
        .into_iter()
        .map(|name| &told[name])
        .find(|package| package.is_object());
    let Some(package) = package else {
        // GitHub asks whether anybody is there.
        return match told["zen"].is_string() {
            true => Ok(Vec::new()),
            false => Err(Invalid::new("body", "tells of no package")),
        };
    };
    let published = ["published", "updated"].contains(&text(told, "/action"));
    let kind = text(package, "/package_type");
    if !published || !kind.eq_ignore_ascii_case("container") {
        return Ok(Vec::new());
    }
    let repository = format!("{}/{}", text(package, "/namespace"), text(package, "/name"));
    let metadata = "/package_version/container_metadata";
    let tag = text(package, &format!("{metadata}/tag/name"));
    let digest = text(package, &format!("{metadata}/tag/digest"));
    // Names are in lower case in images, whatever the account is called.
    Ok(push(&repository.to_lowercase(), tag, digest)
        .into_iter()
        .collect())
}

/// A push of a tag, unless it is of something else.
fn push(repository: &str, tag: &str, digest: &str) -> Option<Push> {
    let is_image = !tag.is_empty() && !tag.starts_with("sha256-") && !tag.starts_with("sha256:");
    if !is_image || repository.is_empty() {
        return None;
    }
    let reference = match digest.parse::<Digest>() {
        Ok(digest) => format!("@{digest}"),
        Err(_) => format!(":{tag}"),
    };
    Some(Push {
        repository: repository.to_owned(),
        reference,
    })
}

fn text<'a>(value: &'a Value, pointer: &str) -> &'a str {
    let found = value.pointer(pointer).and_then(Value::as_str);
    found.unwrap_or_default()
}

fn list<'a>(value: &'a Value, pointer: &str) -> Result<&'a [Value], Invalid> {
    let found = value.pointer(pointer).and_then(Value::as_array);
    found
        .map(Vec::as_slice)
        .ok_or_else(|| Invalid::new("body", format!("has no list {pointer}")))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    fn digest(byte: u8) -> String {
        Digest::sha256(&[byte]).to_string()
    }

    fn told(kind: Kind, body: &Value) -> Vec<(String, String)> {
        let pushes = kind.pushes(body.to_string().as_bytes()).unwrap();
        let named = pushes.into_iter();
        named
            .map(|push| (push.repository, push.reference))
            .collect()
    }

    #[test]
    fn harbor_tells_in_two_forms() {
        let data = json!({
            "resources": [
                { "digest": digest(1), "tag": "v1", "resource_url": "evil.test/team/app:v1" },
                { "digest": digest(2), "tag": "sha256-ab.sig", "resource_url": "" },
                { "digest": digest(3), "tag": "" },
            ],
            "repository": { "name": "app", "namespace": "team", "repo_full_name": "team/app" }
        });
        let expected = [("team/app".to_owned(), format!("@{}", digest(1)))];
        let own =
            json!({ "type": "PUSH_ARTIFACT", "occur_at": 1, "operator": "a", "event_data": data });
        assert_eq!(told(Kind::Harbor, &own), expected);
        let cloud = json!({ "specversion": "1.0", "type": "harbor.artifact.pushed", "data": data });
        assert_eq!(told(Kind::Harbor, &cloud), expected);
        let pulled = json!({ "type": "PULL_ARTIFACT", "event_data": data });
        assert_eq!(told(Kind::Harbor, &pulled), []);
    }

    #[test]
    fn distribution_tells_of_every_part() {
        let event = |action: &str, tag: Option<&str>, byte| {
            json!({ "id": "x", "action": action, "target": {
                "repository": "library/debian", "digest": digest(byte), "tag": tag } })
        };
        let envelope = json!({ "events": [
            event("push", None, 1), event("push", Some("12"), 2), event("pull", Some("12"), 3),
            event("push", Some("12"), 2),
        ]});
        let expected = [("library/debian".to_owned(), format!("@{}", digest(2)))];
        assert_eq!(told(Kind::Distribution, &envelope), expected);
    }

    #[test]
    fn github_tells_of_packages() {
        let package = json!({
            "name": "App", "namespace": "Octo", "package_type": "CONTAINER",
            "package_version": { "version": digest(9),
                "container_metadata": { "tag": { "name": "v2", "digest": digest(1) } } },
        });
        let expected = [("octo/app".to_owned(), format!("@{}", digest(1)))];
        for name in ["package", "registry_package"] {
            let event = json!({ "action": "published", name: package });
            assert_eq!(told(Kind::Github, &event), expected);
        }
        let other =
            json!({ "action": "published", "package": { "package_type": "npm", "name": "a" } });
        assert_eq!(told(Kind::Github, &other), []);
        assert_eq!(told(Kind::Github, &json!({ "zen": "Keep it simple" })), []);
    }

    #[test]
    fn a_tag_counts_where_no_digest_is_told() {
        let body = json!({ "type": "PUSH_ARTIFACT", "event_data": {
            "resources": [{ "tag": "v1" }], "repository": { "repo_full_name": "a" } } });
        assert_eq!(
            told(Kind::Harbor, &body),
            [("a".to_owned(), ":v1".to_owned())]
        );
    }

    fn any_json() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<i64>().prop_map(Value::from),
            "[a-z:@/-]{0,12}".prop_map(Value::from),
            Just(json!("PUSH_ARTIFACT")),
            Just(json!("push")),
        ];
        let keys = prop::sample::select(vec![
            "type",
            "event_data",
            "resources",
            "repository",
            "repo_full_name",
            "tag",
            "events",
            "action",
            "target",
            "package",
            "package_version",
            "container_metadata",
            "name",
        ]);
        leaf.prop_recursive(5, 64, 4, move |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
                prop::collection::vec((keys.clone(), inner), 0..4).prop_map(|pairs| {
                    Value::Object(pairs.into_iter().map(|(k, v)| (k.to_owned(), v)).collect())
                }),
            ]
        })
    }

    proptest! {
        /// Whatever a stranger sends: an answer, and nothing without a repository and a reference.
        #[test]
        fn nonsense_is_refused_or_tells_of_nothing(body in any_json(), bytes: Vec<u8>) {
            for kind in [Kind::Harbor, Kind::Distribution, Kind::Github] {
                let _ = kind.pushes(&bytes);
                for push in kind.pushes(body.to_string().as_bytes()).unwrap_or_default() {
                    prop_assert!(!push.repository.is_empty() && push.reference.len() > 1);
                }
            }
        }
    }
}
