//! Pictures as inline SVG. Each has a name for who does not see it and a table of its data behind it,
//! and says nothing by colour alone.

use maud::{Markup, html};

use super::text;

pub(super) mod heat;

const WIDTH: u64 = 600;
const HEIGHT: u64 = 160;

/// A part of a whole.
#[derive(Debug, Clone, Copy)]
pub(super) struct Part {
    pub(super) name: &'static str,
    pub(super) value: u64,
}

/// One bar, divided; each part with its own pattern of `console.css`.
pub(super) fn bar(name: &str, parts: &[Part]) -> Markup {
    let whole: u64 = parts.iter().map(|part| part.value).sum();
    let mut from = 0;
    let mut pieces = Vec::new();
    for (at, part) in parts.iter().enumerate() {
        let width = text::hundredths(part.value, whole) * WIDTH / 100;
        pieces.push((at, from, width));
        from += width;
    }
    let said = parts.iter().map(|part| {
        let hundredths = text::hundredths(part.value, whole);
        format!("{} {hundredths} %", part.name)
    });
    let said = said.collect::<Vec<_>>().join(", ");
    html! {
        figure {
            figcaption { (name) }
            svg.bar role="img" aria-label={ (name) ": " (said) } viewBox={ "0 0 " (WIDTH) " 24" }
                preserveAspectRatio="none" {
                rect.empty width=(WIDTH) height="24" {}
                @for (at, from, width) in pieces {
                    rect class={ "part part" (at) } x=(from) width=(width) height="24" {}
                }
            }
            ul.legend {
                @for (at, part) in parts.iter().enumerate() {
                    li {
                        svg.key viewBox="0 0 12 12" aria-hidden="true" { rect class={ "part part" (at) } width="12" height="12" {} }
                        (part.name) " " (text::hundredths(part.value, whole)) " %"
                    }
                }
            }
            details {
                summary { "Data" }
                table {
                    thead { tr { th scope="col" { "From" } th scope="col" { "Bytes" } } }
                    tbody {
                        @for part in parts {
                            tr { th scope="row" { (part.name) } td.number { (text::bytes(part.value)) } }
                        }
                    }
                }
            }
        }
    }
}

/// Two values over time.
#[derive(Debug, Clone, Copy)]
pub(super) struct Moment {
    /// Unix time in ms.
    pub(super) at_ms: u64,
    /// Bytes a second.
    pub(super) values: [u64; 2],
}

/// Two lines over time: the first drawn through, the second dashed.
pub(super) fn lines(name: &str, names: [&str; 2], moments: &[Moment]) -> Markup {
    let most = moments.iter().flat_map(|moment| moment.values).max();
    let most = most.unwrap_or(0);
    let line = |which: usize| {
        let last = u64::try_from(moments.len().saturating_sub(1)).unwrap_or(0);
        let points = (0_u64..).zip(moments).map(|(at, moment)| {
            let x = (at * WIDTH).checked_div(last).unwrap_or(0);
            let y = HEIGHT - text::hundredths(moment.values[which], most) * (HEIGHT - 4) / 100 - 2;
            format!("{x},{y}")
        });
        points.collect::<Vec<_>>().join(" ")
    };
    // A row a minute is enough to read.
    let rows: Vec<_> = moments.iter().rev().step_by(12).collect();
    let highest = text::bytes(most);
    html! {
        figure {
            figcaption { (name) ", at most " (highest) "/s" }
            svg.lines role="img" viewBox={ "0 0 " (WIDTH) " " (HEIGHT) } preserveAspectRatio="none"
                aria-label={ (name) ": at most " (highest) " a second" } {
                @for which in 0..2 {
                    polyline class={ "line line" (which) } points=(line(which)) {}
                }
            }
            ul.legend {
                @for (at, name) in names.iter().enumerate() {
                    li {
                        svg.key viewBox="0 0 12 12" aria-hidden="true" { path class={ "line line" (at) } d="M0 6h12" {} }
                        (name)
                    }
                }
            }
            details {
                summary { "Data" }
                table {
                    thead { tr { th scope="col" { "Time (UTC)" } @for name in names { th scope="col" { (name) } } } }
                    tbody {
                        @for moment in rows {
                            tr {
                                th scope="row" { (text::clock(moment.at_ms)) }
                                @for value in moment.values { td.number { (text::bytes(value)) "/s" } }
                            }
                        }
                    }
                }
            }
        }
    }
}

/// A square of a grid.
#[derive(Debug, Clone)]
pub(super) struct Square {
    /// What it stands for, in words.
    pub(super) name: String,
    /// Its class in `console.css`: `done`, `failed`, `cancelled`, `waiting` or `running`.
    pub(super) state: &'static str,
    /// How much of it is there, in hundredths.
    pub(super) filled: u64,
}

/// One row of squares for each of `rows`. Squares fill up from below, and bear a letter.
pub(super) fn grid(name: &str, rows: &[(String, Vec<Square>)]) -> Markup {
    const SIDE: u64 = 16;
    const PITCH: u64 = 18;
    const ACROSS: usize = 32;
    let height = |squares: &[Square]| {
        let lines = squares.len().div_ceil(ACROSS).max(1);
        u64::try_from(lines).unwrap_or(1) * PITCH
    };
    let place = |at: usize| {
        let (x, y) = (at % ACROSS, at / ACROSS);
        let to = |of: usize| u64::try_from(of).unwrap_or(0) * PITCH;
        (to(x), to(y))
    };
    let width = u64::try_from(ACROSS).unwrap_or(0) * PITCH;
    html! {
        figure {
            figcaption { (name) }
            @for (row, squares) in rows {
                p.row { (row) }
                svg.grid role="img" viewBox={ "0 0 " (width) " " (height(squares)) } aria-label={ (row) ": " (tally(squares)) } {
                    @for (at, square) in squares.iter().enumerate() {
                        @let (x, y) = place(at);
                        @let filled = square.filled.min(100) * SIDE / 100;
                        g class=(square.state) {
                            title { (square.name) }
                            rect.empty x=(x) y=(y) width=(SIDE) height=(SIDE) {}
                            rect.full x=(x) y=(y + SIDE - filled) width=(SIDE) height=(filled) {}
                            text x=(x + SIDE / 2) y=(y + SIDE - 4) { (letter(square.state)) }
                        }
                    }
                }
            }
            p.legend { "✓ done, ▸ running, · waiting, × failed, – called off; a square fills up as bytes arrive." }
        }
    }
}

fn letter(state: &str) -> &'static str {
    match state {
        "done" => "✓",
        "running" => "▸",
        "failed" => "×",
        "cancelled" => "–",
        _ => "·",
    }
}

fn tally(squares: &[Square]) -> String {
    let count = |state: &str| {
        squares
            .iter()
            .filter(|square| square.state == state)
            .count()
    };
    let states = ["done", "running", "waiting", "failed", "cancelled"];
    let counts = states.map(|state| (state, count(state)));
    let counts = counts.iter().filter(|(_, count)| *count > 0);
    let said: Vec<_> = counts
        .map(|(state, count)| format!("{count} {state}"))
        .collect();
    format!("{} of {} nodes", said.join(", "), squares.len())
}
