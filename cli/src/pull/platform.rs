//! Which of an index's images is for a platform.

use std::fmt;
use std::str::FromStr;

use darner_proto::invalid::Invalid;
use oci_distribution::manifest;

/// An operating system and a processor, in Go's words as images use them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Platform {
    os: String,
    architecture: String,
    /// Never empty; `None` is the architecture's common one.
    variant: Option<String>,
}

impl Platform {
    /// What containers on this machine are: Linux on its processor.
    pub(crate) fn host() -> Self {
        let (architecture, variant) = match std::env::consts::ARCH {
            "x86_64" => ("amd64", None),
            "x86" => ("386", None),
            "aarch64" => ("arm64", None),
            "arm" => ("arm", Some("v7")),
            "powerpc64" => ("ppc64le", None),
            "loongarch64" => ("loong64", None),
            other => (other, None),
        };
        Self {
            os: "linux".to_owned(),
            architecture: architecture.to_owned(),
            variant: variant.map(str::to_owned),
        }
    }

    /// What an index or an image says it is for.
    pub(crate) fn new(os: &str, architecture: &str, variant: Option<&str>) -> Self {
        Self {
            os: os.to_owned(),
            architecture: architecture.to_owned(),
            variant: variant
                .filter(|variant| !variant.is_empty())
                .map(str::to_owned),
        }
    }

    /// How well an image for `self` runs on `wanted`: `None` not at all, more is better. A newer
    /// variant's instructions are not there on an older one; an older one's are on a newer.
    fn rank_on(&self, wanted: &Self) -> Option<(u32, u32)> {
        if (&self.os, &self.architecture) != (&wanted.os, &wanted.architecture) {
            return None;
        }
        let (mine, limit) = (self.level(), wanted.level());
        match (mine, limit) {
            (Some(mine), Some(limit)) => (mine <= limit).then_some(mine),
            // Variants that are no versions are only like themselves.
            _ => (self.variant == wanted.variant).then_some((0, 0)),
        }
    }

    /// The variant as a version, with what each architecture means by none.
    fn level(&self) -> Option<(u32, u32)> {
        let default = match self.architecture.as_str() {
            "arm64" => "v8",
            "arm" => "v7",
            "amd64" => "v1",
            _ => "v0",
        };
        let variant = self.variant.as_deref().unwrap_or(default);
        let version = variant.strip_prefix('v').unwrap_or(variant);
        let (major, minor) = version.split_once('.').unwrap_or((version, "0"));
        Some((major.parse().ok()?, minor.parse().ok()?))
    }

    /// Whether an image for `self` is what was asked for.
    pub(crate) fn runs_on(&self, wanted: &Self) -> bool {
        self.rank_on(wanted).is_some()
    }
}

/// The best for `wanted`, the first of equals; indexes put what they mean first.
pub(crate) fn choose<'a, T>(
    wanted: &Platform,
    offered: impl IntoIterator<Item = (Platform, &'a T)>,
) -> Option<&'a T> {
    let mut best: Option<((u32, u32), &T)> = None;
    for (platform, item) in offered {
        let Some(rank) = platform.rank_on(wanted) else {
            continue;
        };
        if best.is_none_or(|(other, _)| other < rank) {
            best = Some((rank, item));
        }
    }
    best.map(|(_, item)| item)
}

impl From<&manifest::Platform> for Platform {
    fn from(platform: &manifest::Platform) -> Self {
        Self::new(
            &platform.os.to_string(),
            &platform.architecture.to_string(),
            platform.variant.as_deref(),
        )
    }
}

impl FromStr for Platform {
    type Err = Invalid;

    fn from_str(text: &str) -> Result<Self, Invalid> {
        let bad = || {
            Invalid::new(
                "platform",
                "is not OS/ARCH or OS/ARCH/VARIANT, such as linux/amd64 or linux/arm/v7",
            )
        };
        let word = |part: &&str| {
            let fits =
                |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-');
            !part.is_empty() && part.bytes().all(fits)
        };
        let parts: Vec<_> = text.split('/').collect();
        if !parts.iter().all(word) {
            return Err(bad());
        }
        let (os, architecture, variant) = match parts[..] {
            [os, architecture] => (os, architecture, None),
            [os, architecture, variant] => (os, architecture, Some(variant)),
            _ => return Err(bad()),
        };
        // The names that `uname` has.
        let architecture = match architecture.to_ascii_lowercase().as_str() {
            "x86_64" => "amd64".to_owned(),
            "aarch64" => "arm64".to_owned(),
            other => other.to_owned(),
        };
        Ok(Self::new(&os.to_ascii_lowercase(), &architecture, variant))
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

#[cfg(test)]
mod tests {
    use super::*;

    fn chosen(wanted: &str, offered: &[&'static str]) -> Option<&'static str> {
        let wanted: Platform = wanted.parse().unwrap();
        let offered = offered.iter().map(|text| (text.parse().unwrap(), text));
        choose(&wanted, offered).copied()
    }

    #[test]
    fn the_platform_asked_for_is_chosen_and_no_other() {
        let index = ["linux/arm64", "linux/amd64", "windows/amd64"];
        assert_eq!(chosen("linux/amd64", &index), Some("linux/amd64"));
        assert_eq!(chosen("linux/x86_64", &index), Some("linux/amd64"));
        assert_eq!(chosen("linux/aarch64", &index), Some("linux/arm64"));
        assert_eq!(chosen("linux/s390x", &index), None);
        assert_eq!(chosen("linux/amd64", &["unknown/unknown"]), None);
    }

    #[test]
    fn the_highest_variant_that_runs_is_chosen() {
        let arm = [
            "linux/arm/v5",
            "linux/arm/v7",
            "linux/arm/v6",
            "linux/arm/v8",
        ];
        assert_eq!(chosen("linux/arm", &arm), Some("linux/arm/v7"));
        assert_eq!(chosen("linux/arm/v6", &arm), Some("linux/arm/v6"));
        assert_eq!(chosen("linux/arm/v5", &arm[1..]), None);
        let amd64 = ["linux/amd64/v3", "linux/amd64", "linux/amd64/v2"];
        assert_eq!(chosen("linux/amd64", &amd64), Some("linux/amd64"));
        assert_eq!(chosen("linux/amd64/v2", &amd64), Some("linux/amd64/v2"));
        assert_eq!(
            chosen("linux/arm64", &["linux/arm64/v8"]),
            Some("linux/arm64/v8")
        );
        assert_eq!(
            chosen("linux/arm64/v8", &["linux/arm64"]),
            Some("linux/arm64")
        );
        assert_eq!(
            chosen("linux/riscv64", &["linux/riscv64"]),
            Some("linux/riscv64")
        );
    }

    #[test]
    fn the_first_of_equals_is_chosen() {
        let (one, other) = (1, 2);
        let wanted: Platform = "linux/amd64".parse().unwrap();
        let offered = [(wanted.clone(), &one), (wanted.clone(), &other)];
        assert_eq!(choose(&wanted, offered), Some(&1));
    }

    #[test]
    fn what_is_no_platform_is_refused() {
        for text in ["", "linux", "linux/", "/amd64", "a/b/c/d", "linux/a b"] {
            assert!(text.parse::<Platform>().is_err(), "{text:?}");
        }
        assert_eq!(
            "Linux/ARM/v7".parse::<Platform>().unwrap().to_string(),
            "linux/arm/v7"
        );
    }
}
