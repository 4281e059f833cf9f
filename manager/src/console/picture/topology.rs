//! Who feeds whom: nodes on a circle, seeds on a smaller one inside, a line from each to those that
//! fetch from it.

use std::collections::BTreeMap;
use std::f64::consts::TAU;

use maud::{Markup, html};

const SIDE: f64 = 480.0;
/// Beyond this many nodes zones stand for those in them.
const MAX_NODES: usize = 200;
/// Names are written beside so many nodes at most.
const NAMED: usize = 40;

/// A node.
#[derive(Debug, Clone)]
pub(in crate::console) struct Node {
    pub(in crate::console) name: String,
    pub(in crate::console) seed: bool,
    pub(in crate::console) zone: String,
}

/// From the one that sends to the one that fetches, in so many tasks.
#[derive(Debug, Clone)]
pub(in crate::console) struct Link {
    pub(in crate::console) from: String,
    pub(in crate::console) to: String,
    pub(in crate::console) tasks: u32,
}

/// The picture, of zones where there are too many nodes.
pub(in crate::console) fn topology(name: &str, nodes: &[Node], links: &[Link]) -> Markup {
    if nodes.len() <= MAX_NODES {
        return drawn(name, nodes, links);
    }
    let (nodes, links) = by_zone(nodes, links);
    drawn(&format!("{name}, by zone"), &nodes, &links)
}

fn drawn(name: &str, nodes: &[Node], links: &[Link]) -> Markup {
    let places = places(nodes);
    let said = format!("{name}: {} nodes, {} links", nodes.len(), links.len());
    let lines: String = links
        .iter()
        .filter_map(|link| {
            let (from, to) = (places.get(&*link.from)?, places.get(&*link.to)?);
            Some(format!(
                "M{:.0} {:.0}L{:.0} {:.0}",
                from.0, from.1, to.0, to.1
            ))
        })
        .collect();
    html! {
        figure {
            figcaption { (name) }
            svg.topology role="img" aria-label=(said) viewBox={ "0 0 " (SIDE) " " (SIDE) } {
                path.link d=(lines) {}
                @for node in nodes {
                    @if let Some((x, y)) = places.get(&*node.name) {
                        @if node.seed {
                            rect.seed x=(format!("{:.0}", x - 6.0)) y=(format!("{:.0}", y - 6.0)) width="12" height="12" {}
                        } @else {
                            circle.mirror cx=(format!("{x:.0}")) cy=(format!("{y:.0}")) r="5" {}
                        }
                        @if nodes.len() <= NAMED {
                            text x=(format!("{x:.0}")) y=(format!("{:.0}", y - 9.0)) { (node.name) }
                        }
                    }
                }
            }
            p.legend { "Squares are seeds, circles are mirrors; a line joins two nodes of which one fetches from the other." }
        }
    }
}

/// Mirrors on a circle in the order of their zones, seeds on a smaller one.
fn places(nodes: &[Node]) -> BTreeMap<&str, (f64, f64)> {
    let mut places = BTreeMap::new();
    for (seed, radius) in [(false, 0.42), (true, 0.2)] {
        let mut ring: Vec<_> = nodes.iter().filter(|node| node.seed == seed).collect();
        ring.sort_by(|one, other| (&one.zone, &one.name).cmp(&(&other.zone, &other.name)));
        let count = f64::from(u32::try_from(ring.len()).unwrap_or(u32::MAX));
        for (at, node) in (0_u32..).zip(ring) {
            let angle = TAU * f64::from(at) / count;
            let (x, y) = (angle.sin() * radius * SIDE, -angle.cos() * radius * SIDE);
            places.insert(&*node.name, (SIDE / 2.0 + x, SIDE / 2.0 + y));
        }
    }
    places
}

fn by_zone(nodes: &[Node], links: &[Link]) -> (Vec<Node>, Vec<Link>) {
    let zone = |node: &Node| match (node.seed, node.zone.as_str()) {
        (true, "") => "seeds without a zone".to_owned(),
        (true, zone) => format!("seeds in {zone}"),
        (false, "") => "mirrors without a zone".to_owned(),
        (false, zone) => format!("mirrors in {zone}"),
    };
    let of: BTreeMap<_, _> = nodes.iter().map(|node| (&*node.name, zone(node))).collect();
    let zones: BTreeMap<_, _> = nodes.iter().map(|node| (zone(node), node.seed)).collect();
    let mut sums: BTreeMap<(&String, &String), u32> = BTreeMap::new();
    for link in links {
        if let (Some(from), Some(to)) = (of.get(&*link.from), of.get(&*link.to)) {
            *sums.entry((from, to)).or_default() += link.tasks;
        }
    }
    let links = sums.into_iter().map(|((from, to), tasks)| Link {
        from: from.clone(),
        to: to.clone(),
        tasks,
    });
    let links = links.collect();
    let zones = zones.into_iter().map(|(name, seed)| Node {
        zone: name.clone(),
        name,
        seed,
    });
    (zones.collect(), links)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn nodes(count: usize) -> Vec<Node> {
        let each = (0..count).map(|n| Node {
            name: format!("n-{n}"),
            seed: n == 0,
            zone: if n % 2 == 0 {
                "a".to_owned()
            } else {
                String::new()
            },
        });
        each.collect()
    }

    #[test]
    fn every_node_has_a_place_of_its_own_within_the_picture() {
        let nodes = nodes(MAX_NODES);
        let places = places(&nodes);
        assert_eq!(places.len(), MAX_NODES);
        let mut seen = std::collections::BTreeSet::new();
        for (x, y) in places.values() {
            assert!((0.0..SIDE).contains(x) && (0.0..SIDE).contains(y));
            assert!(seen.insert(format!("{x:.2} {y:.2}")));
        }
    }

    #[test]
    fn of_very_many_nodes_zones_are_drawn() {
        let nodes = nodes(MAX_NODES + 1);
        let link = |to: usize| Link {
            from: "n-0".to_owned(),
            to: format!("n-{to}"),
            tasks: 1,
        };
        let (zones, links) = by_zone(&nodes, &[link(1), link(2), link(3)]);
        let names: Vec<_> = zones.iter().map(|zone| zone.name.as_str()).collect();
        assert_eq!(
            names,
            ["mirrors in a", "mirrors without a zone", "seeds in a"]
        );
        let sums: Vec<_> = links.iter().map(|link| link.tasks).collect();
        assert_eq!(sums, [1, 2]);
        let drawn = topology("Swarm", &nodes, &[link(1)]).into_string();
        assert!(drawn.contains("by zone: 3 nodes, 1 links"), "{drawn}");
    }
}
