//! The figures as a picture: what costs how much beside others, and how cost grows. Plain SVG.

use std::fmt::Write as _;

const WIDTH: f64 = 860.0;
/// Where names end and bars begin.
const LEFT: f64 = 470.0;
const LINE: f64 = 20.0;
const PANEL: f64 = 190.0;

/// How a figure grows with something.
#[derive(Debug)]
pub(crate) struct Series {
    pub(crate) name: String,
    pub(crate) along: &'static str,
    pub(crate) unit: &'static str,
    pub(crate) points: Vec<(f64, f64)>,
}

/// A figure of Darner's over another's.
#[derive(Debug)]
pub(crate) struct Ratio {
    pub(crate) name: String,
    pub(crate) ratio: f64,
}

/// One picture of all.
pub(crate) fn picture(ratios: &[Ratio], series: &[Series]) -> String {
    let bars = 50.0 + ratios.len() as f64 * LINE;
    let height = bars + series.len() as f64 * (PANEL + 30.0) + 20.0;
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {height:.0}\" \
         font-family=\"sans-serif\" font-size=\"12\" fill=\"#222\">\n\
         <rect width=\"100%\" height=\"100%\" fill=\"#fff\"/>\n"
    );
    text(
        &mut svg,
        (10.0, 20.0),
        "Darner's figure over the other's; the line is 1",
    );
    let most = ratios.iter().map(|one| one.ratio).fold(1.5, f64::max);
    let scale = (WIDTH - LEFT - 60.0) / most;
    for (rank, one) in ratios.iter().enumerate() {
        let y = 40.0 + rank as f64 * LINE;
        text(&mut svg, (10.0, y + 12.0), &one.name);
        rectangle(&mut svg, (LEFT, y), one.ratio * scale, LINE - 5.0);
        let end = LEFT + one.ratio * scale + 5.0;
        text(&mut svg, (end, y + 12.0), &format!("{:.2}", one.ratio));
    }
    if !ratios.is_empty() {
        let x = LEFT + scale;
        line(&mut svg, &[(x, 34.0), (x, bars - 10.0)], "#b00");
    }
    for (rank, one) in series.iter().enumerate() {
        panel(&mut svg, bars + rank as f64 * (PANEL + 30.0), one);
    }
    svg.push_str("</svg>\n");
    svg
}

/// The points of a series, from nothing upwards, along a scale of doublings.
fn panel(svg: &mut String, top: f64, series: &Series) {
    let title = format!("{}, {}, along {}", series.name, series.unit, series.along);
    text(svg, (10.0, top + 15.0), &title);
    let (left, right, floor) = (60.0, WIDTH - 60.0, top + PANEL);
    let steps = (series.points.len().max(2) - 1) as f64;
    let most = series.points.iter().map(|(_, y)| *y).fold(0.0, f64::max);
    let most = most.max(f64::MIN_POSITIVE) * 1.15;
    let place = |(rank, (_, y)): (usize, &(f64, f64))| {
        let x = left + rank as f64 * (right - left) / steps;
        (x, floor - y / most * (PANEL - 30.0))
    };
    let places: Vec<_> = series.points.iter().enumerate().map(place).collect();
    line(svg, &[(left, floor), (right, floor)], "#888");
    line(svg, &places, "#06c");
    for ((x, y), (at, value)) in places.iter().zip(&series.points) {
        text(svg, (*x - 12.0, y - 6.0), &format!("{value:.3}"));
        text(svg, (*x - 8.0, floor + 14.0), &format!("{at}"));
    }
}

fn text(svg: &mut String, (x, y): (f64, f64), text: &str) {
    let text = text.replace('&', "&amp;").replace('<', "&lt;");
    // Writing to a string cannot fail.
    let _ = writeln!(svg, "<text x=\"{x:.1}\" y=\"{y:.1}\">{text}</text>");
}

fn rectangle(svg: &mut String, (x, y): (f64, f64), width: f64, height: f64) {
    let _ = writeln!(
        svg,
        "<rect x=\"{x:.1}\" y=\"{y:.1}\" width=\"{width:.1}\" height=\"{height:.1}\" fill=\"#06c\"/>"
    );
}

fn line(svg: &mut String, points: &[(f64, f64)], colour: &str) {
    let points = points.iter().map(|(x, y)| format!("{x:.1},{y:.1}"));
    let points = points.collect::<Vec<_>>().join(" ");
    let _ = writeln!(
        svg,
        "<polyline points=\"{points}\" fill=\"none\" stroke=\"{colour}\" stroke-width=\"1.5\"/>"
    );
}
