//! One line of what was found.

use std::fmt;

use serde::Serialize;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Level {
    Ok,
    /// Worth knowing, and nobody's fault.
    Note,
    /// Works, perhaps not as wished or not for long.
    Warning,
    /// Does not work.
    Failure,
}

/// What was looked at, what was found, and what to do about it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(super) struct Finding {
    /// The check; the same in every version.
    pub(super) check: &'static str,
    /// What it was about, if there are several.
    pub(super) subject: String,
    pub(super) level: Level,
    pub(super) found: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) fix: Option<String>,
}

impl Finding {
    fn new(
        level: Level,
        check: &'static str,
        subject: impl Into<String>,
        found: impl Into<String>,
    ) -> Self {
        Self {
            check,
            subject: subject.into(),
            level,
            found: found.into(),
            fix: None,
        }
    }

    pub(super) fn ok(
        check: &'static str,
        subject: impl Into<String>,
        found: impl Into<String>,
    ) -> Self {
        Self::new(Level::Ok, check, subject, found)
    }

    pub(super) fn note(
        check: &'static str,
        subject: impl Into<String>,
        found: impl Into<String>,
    ) -> Self {
        Self::new(Level::Note, check, subject, found)
    }

    pub(super) fn warning(
        check: &'static str,
        subject: impl Into<String>,
        found: impl Into<String>,
    ) -> Self {
        Self::new(Level::Warning, check, subject, found)
    }

    pub(super) fn failure(
        check: &'static str,
        subject: impl Into<String>,
        found: impl Into<String>,
    ) -> Self {
        Self::new(Level::Failure, check, subject, found)
    }

    pub(super) fn fix(self, fix: impl Into<String>) -> Self {
        Self {
            fix: Some(fix.into()),
            ..self
        }
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let level = match self.level {
            Level::Ok => "ok",
            Level::Note => "note",
            Level::Warning => "WARNING",
            Level::Failure => "BROKEN",
        };
        let found = self.found.replace('\n', "\n         ");
        let subject = &self.subject;
        let gap = if subject.is_empty() { "" } else { " " };
        writeln!(f, "{level:<8} {}{gap}{subject}: {found}", self.check)?;
        match &self.fix {
            Some(fix) => writeln!(f, "         to do: {fix}"),
            None => Ok(()),
        }
    }
}

/// All of them, and the worst of their levels.
pub(super) fn json(findings: &[Finding]) -> String {
    let count = |level| {
        findings
            .iter()
            .filter(|finding| finding.level == level)
            .count()
    };
    let told = serde_json::json!({
        "broken": count(Level::Failure),
        "warnings": count(Level::Warning),
        "findings": findings,
    });
    serde_json::to_string_pretty(&told).unwrap_or_default()
}
