//! Which node has which pieces of one content: a bar for each node, cut as the content is.

use maud::{Markup, html};

const WIDTH: u64 = 600;
const HEIGHT: u64 = 14;

/// A node's pieces, as runs of first and count.
#[derive(Debug, Clone, Default)]
pub(in crate::console) struct Bar {
    pub(in crate::console) name: String,
    pub(in crate::console) held: Vec<(u32, u32)>,
    pub(in crate::console) reading: Vec<(u32, u32)>,
}

/// The whole bar is the content: full height where the node has it, half height where it reads it
/// from the registry.
pub(in crate::console) fn piece_map(name: &str, pieces: u32, bars: &[Bar]) -> Markup {
    let pieces = u64::from(pieces.max(1));
    html! {
        figure {
            figcaption { (name) }
            @for bar in bars {
                p.row { (bar.name) ": " (percent(&bar.held, pieces)) " %" }
                svg.pieces role="img" viewBox={ "0 0 " (WIDTH) " " (HEIGHT) } preserveAspectRatio="none"
                    aria-label={ (bar.name) " has " (percent(&bar.held, pieces)) " % of the pieces" } {
                    rect.empty width=(WIDTH) height=(HEIGHT) {}
                    path.part2 d=(path(&bar.reading, pieces, HEIGHT / 2)) {}
                    path.part1 d=(path(&bar.held, pieces, HEIGHT)) {}
                }
            }
            p.legend { "Full height: the node has these pieces. Half height: it is reading them from the registry. Empty: it lacks them." }
            details {
                summary { "Data" }
                table {
                    thead { tr { th scope="col" { "Node" } th scope="col" { "Has" } th scope="col" { "Reads" } } }
                    tbody {
                        @for bar in bars {
                            tr { th scope="row" { (bar.name) } td { (written(&bar.held)) } td { (written(&bar.reading)) } }
                        }
                    }
                }
            }
        }
    }
}

fn path(runs: &[(u32, u32)], pieces: u64, height: u64) -> String {
    let at = |piece: u64| {
        let tenths = piece * WIDTH * 10 / pieces;
        format!("{}.{}", tenths / 10, tenths % 10)
    };
    let rects = runs.iter().map(|(first, count)| {
        let (first, count) = (u64::from(*first), u64::from(*count));
        let (from, to) = (at(first), at(first + count));
        let top = HEIGHT - height;
        format!("M{from} {top}H{to}V{HEIGHT}H{from}z")
    });
    rects.collect()
}

fn percent(runs: &[(u32, u32)], pieces: u64) -> u64 {
    let held: u64 = runs.iter().map(|(_, count)| u64::from(*count)).sum();
    held * 100 / pieces
}

/// Runs beyond these are counted only.
const WRITTEN: usize = 20;

fn written(runs: &[(u32, u32)]) -> String {
    let each = runs.iter().take(WRITTEN).map(|(first, count)| match count {
        1 => first.to_string(),
        count => format!("{first}–{}", first + count - 1),
    });
    let mut written = each.collect::<Vec<_>>().join(", ");
    match runs.len() {
        0 => written.push_str("nothing"),
        many if many > WRITTEN => written.push_str(&format!(" and {} runs more", many - WRITTEN)),
        _ => {}
    }
    written
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn runs_are_drawn_and_written() {
        assert_eq!(
            path(&[(0, 1), (2, 2)], 4, HEIGHT),
            "M0.0 0H150.0V14H0.0zM300.0 0H600.0V14H300.0z"
        );
        assert_eq!(written(&[(0, 1), (2, 2)]), "0, 2–3");
        assert_eq!(written(&[]), "nothing");
        assert_eq!(percent(&[(0, 1)], 4), 25);
        let many: Vec<_> = (0..30).map(|n| (n * 2, 1)).collect();
        assert!(written(&many).ends_with("and 10 runs more"));
    }
}
