//! What a job is to be, in the words of people: as the API takes it, and as schedules keep it.

use darner_proto::file::shown;
use darner_proto::invalid::Invalid;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::Wanted;
use super::job::Limits;

/// A job to be begun.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Plan {
    /// Images by their full names: `registry/repository:tag` or `registry/repository@digest`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schema(max_items = 32)]
    pub images: Vec<String>,
    /// Files by their `http://` or `https://` URLs. What is in a query may be a secret, and is not
    /// shown again.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schema(max_items = 32)]
    pub files: Vec<String>,
    /// Of an index, this platform, as `os/architecture[/variant]`; without it each node's own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub platform: Option<String>,
    /// `seeds`; `nodes` for every seed and mirror; or a label as `label=KEY=VALUE` or `KEY=VALUE` for
    /// every seed and the mirrors that have it.
    pub to: String,
    /// Mirrors that are at it at once; without it 64.
    #[schema(minimum = 1, maximum = 1000)]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub at_once: Option<u32>,
    /// Bytes a second that each node takes in for it; without it as many as there are.
    #[schema(minimum = 1048576)]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bytes_per_second: Option<u64>,
}

impl Plan {
    /// What it asks for.
    ///
    /// # Errors
    /// It makes no sense.
    pub fn wanted(&self) -> Result<Wanted, Invalid> {
        if self.images.is_empty() && self.files.is_empty() {
            return Err(Invalid::new("images", "there is none, and no files"));
        }
        let images = self.images.iter().map(|image| {
            let parsed = image.parse();
            parsed.map_err(|error: Invalid| Invalid::new("images", format!("{image:?}: {error}")))
        });
        let files = self.files.iter().map(|file| {
            let parsed = file.parse();
            parsed.map_err(|error: Invalid| {
                Invalid::new("files", format!("{:?}: {error}", shown(file)))
            })
        });
        let platform = self.platform.as_ref().map(|text| text.parse());
        let limits = Limits {
            at_once: self.at_once,
            bytes_per_second: self.bytes_per_second,
        };
        limits.check()?;
        Ok(Wanted {
            images: images.collect::<Result<_, _>>()?,
            files: files.collect::<Result<_, _>>()?,
            platform: platform.transpose()?,
            to: self.to.parse()?,
            limits,
        })
    }

    /// The plan as it may be shown: what is signed in a file's URL is in its query.
    #[must_use]
    pub fn without_secrets(mut self) -> Self {
        for file in &mut self.files {
            *file = shown(file).to_owned();
        }
        self
    }

    /// What is brought, as it may be shown.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        let files = self.files.iter().map(|file| shown(file));
        self.images.iter().map(String::as_str).chain(files)
    }
}
