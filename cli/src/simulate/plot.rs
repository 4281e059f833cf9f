//! Completion curves as a picture: how many hosts have everything after what time, and the limit.

use std::fmt::Write as _;

use super::report::Report;

const WIDTH: f64 = 720.0;
const HEIGHT: f64 = 420.0;
const LEFT: f64 = 60.0;
const RIGHT: f64 = 20.0;
const TOP: f64 = 40.0;
const BOTTOM: f64 = 50.0;
/// More points than pixels show nothing more.
const MAX_POINTS: usize = 1000;

/// The picture as SVG text.
pub(super) fn draw(report: &Report, title: &str) -> String {
    let times = report.completions();
    let last = times.last().copied().unwrap_or(0.0);
    let longest = (last.max(report.bound()) * 1.05).max(f64::MIN_POSITIVE);
    let x = |time: f64| LEFT + time / longest * (WIDTH - LEFT - RIGHT);
    let y = |share: f64| HEIGHT - BOTTOM - share * (HEIGHT - TOP - BOTTOM);
    let mut svg = String::new();
    // Writing to a string cannot fail.
    let _ = write!(
        svg,
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {HEIGHT}\" \
         font-family=\"sans-serif\" font-size=\"12\">\n\
         <rect width=\"{WIDTH}\" height=\"{HEIGHT}\" fill=\"white\"/>\n\
         <text x=\"{LEFT}\" y=\"20\" font-size=\"14\">{}</text>\n",
        escape(title)
    );
    for tenth in (0..=10).step_by(2) {
        let share = f64::from(tenth) / 10.0;
        let (at, to) = (y(share), WIDTH - RIGHT);
        let _ = write!(
            svg,
            "<line x1=\"{LEFT}\" y1=\"{at:.1}\" x2=\"{to}\" y2=\"{at:.1}\" stroke=\"#ddd\"/>\n\
             <text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"end\">{} %</text>\n",
            LEFT - 6.0,
            at + 4.0,
            tenth * 10
        );
    }
    let base = y(0.0);
    for tick in ticks(longest) {
        let at = x(tick);
        let _ = write!(
            svg,
            "<line x1=\"{at:.1}\" y1=\"{base:.1}\" x2=\"{at:.1}\" y2=\"{:.1}\" stroke=\"#888\"/>\n\
             <text x=\"{at:.1}\" y=\"{:.1}\" text-anchor=\"middle\">{tick} s</text>\n",
            base + 5.0,
            base + 20.0
        );
    }
    let (bound, top) = (x(report.bound()), y(1.0));
    let _ = write!(
        svg,
        "<line x1=\"{bound:.1}\" y1=\"{base:.1}\" x2=\"{bound:.1}\" y2=\"{top:.1}\" \
         stroke=\"#c33\" stroke-dasharray=\"5 4\"/>\n\
         <text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"end\" fill=\"#c33\">no scheme is faster</text>\n\
         <polyline fill=\"none\" stroke=\"#06c\" stroke-width=\"2\" points=\"{:.1},{base:.1}",
        bound - 6.0,
        top + 14.0,
        x(0.0)
    );
    let every = times.len().div_ceil(MAX_POINTS).max(1);
    let mut before = 0.0;
    for (number, time) in times.iter().enumerate() {
        let share = (number + 1) as f64 / times.len() as f64;
        if (number + 1) % every == 0 || number + 1 == times.len() {
            let _ = write!(
                svg,
                " {:.1},{:.1} {:.1},{:.1}",
                x(*time),
                y(before),
                x(*time),
                y(share)
            );
            before = share;
        }
    }
    svg.push_str("\"/>\n</svg>\n");
    svg
}

/// Round numbers up to `longest`, at most eleven.
fn ticks(longest: f64) -> Vec<f64> {
    let mut step = 10f64.powf((longest / 10.0).log10().floor());
    for factor in [2.0, 2.5, 2.0] {
        if longest / step <= 10.0 {
            break;
        }
        step *= factor;
    }
    let count = (longest / step).floor() as u32;
    let rounded = |tick: f64| (tick * 1e6).round() / 1e6;
    (0..=count)
        .map(|tick| rounded(f64::from(tick) * step))
        .collect()
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_axis_has_a_handful_of_round_numbers() {
        assert_eq!(ticks(10.5), [0.0, 2.0, 4.0, 6.0, 8.0, 10.0]);
        assert_eq!(ticks(25.0)[1], 5.0);
        for longest in [0.013, 0.9, 1.0, 7.3, 99.0, 1234.0] {
            let count = ticks(longest).len();
            assert!((4..=11).contains(&count), "{longest}: {count}");
        }
    }
}
