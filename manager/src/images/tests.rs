use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use darner_proto::digest::Digest;
use darner_proto::holdings::{
    Blob, Facts, Held, HoldingsReport, ImageKey, MAX_FACTS, MAX_IMAGES, Name, Share, TagName,
};
use darner_proto::id::Role;
use darner_proto::name::Source;
use proptest::prelude::*;

use super::catalog::Catalog;
use super::*;

pub(crate) fn node(id: &str) -> MemberKey {
    MemberKey {
        role: Role::Mirror,
        id: id.parse().unwrap(),
    }
}

pub(crate) fn digest(name: &str) -> Digest {
    Digest::sha256(name.as_bytes())
}

pub(crate) fn source(repository: &str) -> Source {
    Source {
        registry: "docker.io".parse().unwrap(),
        repository: repository.parse().unwrap(),
    }
}

/// `image`, called `repository:latest` since `checked_ms`.
pub(crate) fn held(image: &str, repository: &str, private: bool, blobs: &[bool]) -> Arc<Held> {
    Arc::new(Held {
        key: ImageKey {
            digest: digest(image),
            private,
        },
        names: vec![Name {
            source: source(repository),
            tags: vec![TagName {
                tag: "latest".parse().unwrap(),
                named: digest(image),
                checked_ms: 1,
            }],
        }],
        blobs: Share::of(blobs.iter().copied()),
    })
}

/// Two layers and a configuration.
pub(crate) fn facts(image: &str) -> Arc<Facts> {
    let blobs = (1..=3_u64).map(|n| Blob {
        digest: digest(&format!("{image}-{n}")),
        size: n * 100,
        config: n == 1,
    });
    Arc::new(Facts {
        digest: digest(image),
        platform: "linux/amd64".to_owned(),
        blobs: blobs.collect(),
    })
}

pub(crate) fn anew(held: Vec<Arc<Held>>, facts: Vec<Arc<Facts>>) -> HoldingsReport {
    HoldingsReport {
        sequence: 1,
        anew: true,
        held,
        facts,
        ..HoldingsReport::default()
    }
}

fn names(catalog: &Catalog, sees: Sees, filter: &Filter) -> Vec<String> {
    let rows = catalog.list(sees, filter, None, 100);
    let names = rows
        .iter()
        .map(|row| format!("{}:{}", row.source(), row.tags.join(",")));
    names.collect()
}

#[test]
fn reports_follow_one_another_or_all_is_told_anew() {
    let mut catalog = Catalog::default();
    let me = node("a");
    let next = |sequence| HoldingsReport {
        sequence,
        gone: vec![held("x", "x", false, &[]).key],
        ..HoldingsReport::default()
    };
    assert!(catalog.apply(&me, next(1)).again, "nothing is known of it");
    let first = anew(vec![held("x", "x", false, &[true])], Vec::new());
    assert!(!catalog.apply(&me, first.clone()).again);
    assert_eq!(catalog.sequence(&me), 1);
    assert!(catalog.apply(&me, next(3)).again, "one was lost");
    assert_eq!(names(&catalog, Sees::All, &Filter::default()).len(), 1);
    assert!(!catalog.apply(&me, next(2)).again);
    assert!(names(&catalog, Sees::All, &Filter::default()).is_empty());
    catalog.apply(&me, first);
    catalog.only(|_| false);
    assert!(names(&catalog, Sees::All, &Filter::default()).is_empty());
    assert_eq!((catalog.sequence(&me), catalog.nodes()), (0, 0));
}

#[test]
fn what_images_consist_of_is_asked_of_who_holds_them() {
    let mut catalog = Catalog::default();
    let report = anew(
        vec![held("x", "x", false, &[true, false, true])],
        vec![facts("y")],
    );
    let reply = catalog.apply(&node("a"), report);
    assert_eq!(reply.unknown, [digest("x")]);
    assert!(catalog.image(Sees::All, &digest("y")).is_none());
    let told = HoldingsReport {
        sequence: 2,
        facts: vec![facts("x")],
        ..HoldingsReport::default()
    };
    assert!(catalog.apply(&node("a"), told).unknown.is_empty());
    let all = anew(vec![held("x", "x", false, &[])], Vec::new());
    assert!(catalog.apply(&node("b"), all).unknown.is_empty());
    let image = catalog.image(Sees::Public, &digest("x")).unwrap();
    let nodes: Vec<_> = image.blobs.iter().map(|blob| blob.nodes).collect();
    assert_eq!(nodes, [2, 1, 2]);
    assert_eq!((image.nodes, image.complete), (2, 1));
    let holders = catalog.holders(Sees::Public, &digest("x"));
    assert_eq!(holders[0].share, [true, false, true]);
    assert!(holders[1].is_complete());
    // Of many, some at a time.
    let many: Vec<_> = (0..MAX_FACTS + 2)
        .map(|n| held(&n.to_string(), "x", false, &[]))
        .collect();
    assert_eq!(
        catalog
            .apply(&node("c"), anew(many, Vec::new()))
            .unknown
            .len(),
        MAX_FACTS
    );
}

#[test]
fn what_is_not_public_is_there_for_those_alone_who_may_see_it() {
    let mut catalog = Catalog::default();
    let images = vec![
        held("x", "open", false, &[]),
        held("x", "secret", true, &[]),
        held("y", "secret", true, &[]),
    ];
    catalog.apply(&node("a"), anew(images, vec![facts("x"), facts("y")]));
    let all = Filter::default();
    assert_eq!(
        names(&catalog, Sees::Public, &all),
        ["docker.io/open:latest"]
    );
    assert_eq!(names(&catalog, Sees::All, &all).len(), 3);
    let image = catalog.image(Sees::Public, &digest("x")).unwrap();
    assert_eq!(image.names.len(), 1);
    assert_eq!(
        catalog.image(Sees::All, &digest("x")).unwrap().names.len(),
        2
    );
    assert!(catalog.image(Sees::Public, &digest("y")).is_none());
    assert!(catalog.holders(Sees::Public, &digest("y")).is_empty());
}

#[test]
fn lists_are_filtered_and_go_on_after_a_cursor() {
    let mut catalog = Catalog::default();
    let images = vec![held("x", "a", false, &[]), held("y", "b", true, &[])];
    catalog.apply(&node("n-1"), anew(images, vec![facts("x"), facts("y")]));
    catalog.apply(
        &node("n-2"),
        anew(vec![held("x", "a", false, &[])], Vec::new()),
    );
    let found = |filter: Filter| names(&catalog, Sees::All, &filter).len();
    let named = |name: &str| Filter {
        name: Some(name.to_owned()),
        ..Filter::default()
    };
    assert_eq!(
        [
            found(named("docker.io")),
            found(named("b:lat")),
            found(named("zzz"))
        ],
        [2, 1, 0]
    );
    let of = |digest: Digest| Filter {
        digest: Some(digest),
        ..Filter::default()
    };
    assert_eq!(
        [
            found(of(digest("x"))),
            found(of(digest("y-3"))),
            found(of(digest("z")))
        ],
        [1, 1, 0]
    );
    let on = |id: &str| Filter {
        node: Some(id.parse().unwrap()),
        ..Filter::default()
    };
    assert_eq!(
        [found(on("n-1")), found(on("n-2")), found(on("n-3"))],
        [2, 1, 0]
    );

    let first = catalog.list(Sees::All, &Filter::default(), None, 1);
    let cursor: Cursor = first[0].at.to_string().parse().unwrap();
    assert_eq!(cursor, first[0].at);
    let second = catalog.list(Sees::All, &Filter::default(), Some(&cursor), 1);
    assert_eq!(second[0].source(), &source("b"));
    let cursor: Cursor = second[0].at.to_string().parse().unwrap();
    assert!(
        catalog
            .list(Sees::All, &Filter::default(), Some(&cursor), 1)
            .is_empty()
    );
    assert!("b@".parse::<Cursor>().is_err());
}

#[test]
fn a_tag_is_shown_where_upstream_has_it_now() {
    let mut catalog = Catalog::default();
    let mut new = (*held("new", "a", false, &[])).clone();
    new.names[0].tags[0].checked_ms = 2;
    catalog.apply(&node("n-1"), anew(vec![Arc::new(new)], Vec::new()));
    catalog.apply(
        &node("n-2"),
        anew(vec![held("old", "a", false, &[])], Vec::new()),
    );
    let tags = |catalog: &Catalog, image: &str| {
        catalog.image(Sees::All, &digest(image)).unwrap().names[0]
            .tags
            .clone()
    };
    assert_eq!(tags(&catalog, "new"), ["latest"]);
    assert!(tags(&catalog, "old").is_empty());
    catalog.only(|key| *key == node("n-2"));
    assert_eq!(
        tags(&catalog, "old"),
        ["latest"],
        "nobody knows better any more"
    );
}

#[test]
fn a_node_that_tells_too_much_is_heard_in_part() {
    let mut catalog = Catalog::default();
    let many: Vec<_> = (0..MAX_IMAGES + 5)
        .map(|n| held(&n.to_string(), "a", false, &[]))
        .collect();
    catalog.apply(&node("a"), anew(many, Vec::new()));
    assert_eq!(names(&catalog, Sees::All, &Filter::default()).len(), 100);
    let all = catalog.list(Sees::All, &Filter::default(), None, usize::MAX);
    assert_eq!(all.len(), MAX_IMAGES);
}

proptest! {
    /// Whatever nodes tell in whatever order, what is shown is what they last said.
    #[test]
    fn what_is_shown_is_what_nodes_last_said(
        steps in proptest::collection::vec((0..3_u8, 0..4_u8, 0..3_u8), 1..40)
    ) {
        let mut catalog = Catalog::default();
        let mut said: BTreeMap<u8, BTreeSet<u8>> = BTreeMap::new();
        let image = |n: u8| held(&n.to_string(), "a", n.is_multiple_of(2), &[]);
        for (who, what, how) in steps {
            let key = node(&format!("n-{who}"));
            let holds = said.entry(who).or_default();
            let mut report = HoldingsReport { sequence: catalog.sequence(&key) + 1, ..HoldingsReport::default() };
            match how {
                0 => { report.held = vec![image(what)]; }
                1 => { report.gone = vec![image(what).key]; }
                _ => { report.anew = true; report.held = vec![image(what)]; }
            }
            if report.anew { holds.clear(); }
            if catalog.apply(&key, report).again { continue; }
            match how {
                1 => { holds.remove(&what); }
                _ => { holds.insert(what); }
            }
        }
        for what in 0..4 {
            let holders = catalog.holders(Sees::All, &digest(&what.to_string()));
            let shown: Vec<_> = holders.iter().map(|one| one.node.to_string()).collect();
            let expected = said.iter().filter(|(_, holds)| holds.contains(&what));
            let expected: Vec<_> = expected.map(|(who, _)| format!("n-{who}")).collect();
            prop_assert_eq!(shown, expected);
        }
    }
}
