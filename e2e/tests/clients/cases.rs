//! What is tried with every client: the rows of the table.

use darner_e2e::image::{Image, Images};
use darner_e2e::runtime::Who;
use darner_e2e::upstream::NAME;

/// A registry that asks for a password.
pub(super) const BASIC: &str = "basic.test";
/// A registry that asks for a token, which everybody gets for some repositories. The same that
/// Docker daemons know as Docker Hub.
pub(super) const TOKEN: &str = "token.test";
/// A registry whose blobs are at another host.
pub(super) const ELSEWHERE: &str = "elsewhere.test";

/// What comes of a pull.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Outcome {
    Pulled,
    Refused,
}

/// One row of the table.
pub(super) struct Case {
    pub(super) name: &'static str,
    pub(super) registry: &'static str,
    pub(super) image: fn(&Images) -> &Image,
    pub(super) by_digest: bool,
    pub(super) who: Who,
    pub(super) outcome: Outcome,
}

fn multi(images: &Images) -> &Image {
    &images.multi
}

fn tiny(images: &Images) -> &Image {
    &images.tiny
}

/// Public content.
const fn public(name: &'static str, registry: &'static str, by_digest: bool) -> Case {
    Case {
        name,
        registry,
        image: multi,
        by_digest,
        who: Who::Anybody,
        outcome: Outcome::Pulled,
    }
}

/// Private content.
const fn private(name: &'static str, registry: &'static str, who: Who, outcome: Outcome) -> Case {
    Case {
        name,
        registry,
        image: tiny,
        by_digest: false,
        who,
        outcome,
    }
}

const fn by_digest(case: Case) -> Case {
    Case {
        by_digest: true,
        ..case
    }
}

/// With all there.
pub(super) const USUAL: [Case; 11] = [
    public("public", NAME, false),
    public("public, by digest", NAME, true),
    public("public, blobs elsewhere", ELSEWHERE, false),
    public("public, by token", TOKEN, false),
    private("private, nobody", BASIC, Who::Anybody, Outcome::Refused),
    private(
        "private, wrong password",
        BASIC,
        Who::Impostor,
        Outcome::Refused,
    ),
    private("private", BASIC, Who::Alice, Outcome::Pulled),
    private(
        "private, by token, nobody",
        TOKEN,
        Who::Anybody,
        Outcome::Refused,
    ),
    private(
        "private, by token, wrong",
        TOKEN,
        Who::Impostor,
        Outcome::Refused,
    ),
    private("private, by token", TOKEN, Who::Alice, Outcome::Pulled),
    by_digest(private(
        "private, by token, by digest",
        TOKEN,
        Who::Alice,
        Outcome::Pulled,
    )),
];
/// With the registries away: what is public is served by the mirror. For what is private a runtime
/// shows credentials only to whom asks for them, which is the registry's to do.
pub(super) const UPSTREAM_AWAY: [Case; 5] = [
    public("upstream away: public", NAME, false),
    public("upstream away: public, by digest", NAME, true),
    public("upstream away: public, by token", TOKEN, false),
    private(
        "upstream away: private, nobody",
        BASIC,
        Who::Anybody,
        Outcome::Refused,
    ),
    private(
        "upstream away: private",
        BASIC,
        Who::Alice,
        Outcome::Refused,
    ),
];
/// With the mirror stopped for some seconds.
pub(super) const HANGING: Case = public("mirror hangs for a while", TOKEN, false);
/// With the mirror gone: as without it.
pub(super) const MIRROR_AWAY: [Case; 4] = [
    public("mirror away: public", TOKEN, false),
    public("mirror away: public, by digest", TOKEN, true),
    private(
        "mirror away: private, by token",
        TOKEN,
        Who::Alice,
        Outcome::Pulled,
    ),
    private(
        "mirror away: private, wrong",
        TOKEN,
        Who::Impostor,
        Outcome::Refused,
    ),
];
