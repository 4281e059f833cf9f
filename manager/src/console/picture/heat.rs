//! Who has what: a row for each holder, a column for each part.

use maud::{Markup, html};

const SIDE: usize = 12;
const PITCH: usize = 14;
/// Where the squares begin, after the rows' names.
const NAMES: usize = 180;
/// Letters of a name that fit before them.
const LETTERS: usize = 24;

/// A row: who, and which parts it has.
#[derive(Debug, Clone)]
pub(in crate::console) struct Row {
    pub(in crate::console) name: String,
    pub(in crate::console) has: Vec<bool>,
}

/// What is there is a full square, what is not an empty one with a dot.
pub(in crate::console) fn heat(name: &str, columns: &[String], rows: &[Row]) -> Markup {
    let width = NAMES + columns.len() * PITCH;
    let height = (rows.len() + 1) * PITCH;
    let (mut full, mut empty) = (String::new(), String::new());
    let mut dots = String::new();
    for (down, row) in rows.iter().enumerate() {
        for (across, has) in row.has.iter().enumerate() {
            let (x, y) = (NAMES + across * PITCH, (down + 1) * PITCH);
            let square = format!("M{x} {y}h{SIDE}v{SIDE}h-{SIDE}z");
            if *has {
                full.push_str(&square);
            } else {
                empty.push_str(&square);
                let middle = SIDE / 2 - 1;
                dots.push_str(&format!("M{} {}h2v2h-2z", x + middle, y + middle));
            }
        }
    }
    let whole = rows.iter().filter(|row| row.has.iter().all(|has| *has));
    let said = format!("{name}: {} of {} have all of it", whole.count(), rows.len());
    html! {
        figure {
            figcaption { (name) }
            div.scroll role="region" aria-label={ (name) ", picture" } tabindex="0" {
                svg.heat role="img" aria-label=(said) width=(width) height=(height)
                    viewBox={ "0 0 " (width) " " (height) } {
                    @for (across, _) in columns.iter().enumerate() {
                        text.column x=(NAMES + across * PITCH + SIDE / 2) y=(SIDE - 2) { (across) }
                    }
                    @for (down, row) in rows.iter().enumerate() {
                        text x="0" y=((down + 1) * PITCH + SIDE - 2) { (shortened(&row.name)) }
                    }
                    path.empty d=(empty) {}
                    path.dots d=(dots) {}
                    path.part1 d=(full) {}
                }
            }
            p.legend { "A full square is there, an empty one with a dot is not. The number of a column is the number of a layer below." }
            details {
                summary { "Data" }
                table {
                    thead { tr { th scope="col" { "Node" } th scope="col" { "Has" } th scope="col" { "Lacks" } } }
                    tbody {
                        @for row in rows {
                            tr {
                                th scope="row" { (row.name) }
                                td.number { (row.has.iter().filter(|has| **has).count()) " of " (row.has.len()) }
                                td { (lacks(row)) }
                            }
                        }
                    }
                }
            }
        }
    }
}

fn lacks(row: &Row) -> String {
    let lacking = row.has.iter().enumerate().filter(|(_, has)| !**has);
    let lacking: Vec<_> = lacking.map(|(at, _)| at.to_string()).collect();
    match lacking.is_empty() {
        true => "nothing".to_owned(),
        false => lacking.join(", "),
    }
}

fn shortened(name: &str) -> String {
    match name.chars().count() > LETTERS {
        true => name.chars().take(LETTERS - 1).chain(['…']).collect(),
        false => name.to_owned(),
    }
}
