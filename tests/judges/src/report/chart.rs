//! The lives of pages over time, as inline SVG. Colours are the page's CSS classes, so that they follow its light or dark theme.

use crate::checks::{RequestLife, spell};
use std::fmt::Write;

const WIDTH: f64 = 960.0;
const LABEL: f64 = 96.0;
const ROW: f64 = 18.0;
const AXIS: f64 = 22.0;

/// One row a request: from submission to the page's next use.
pub(super) fn lives(lives: &[RequestLife]) -> String {
    let times = || {
        lives
            .iter()
            .flat_map(|life| moments(life).into_iter().flatten())
    };
    let (Some(start), Some(end)) = (times().min(), times().max()) else {
        return String::new();
    };
    let span = (end - start).max(1) as f64;
    let x = |ns: u64| LABEL + (ns.saturating_sub(start)) as f64 / span * (WIDTH - LABEL - 8.0);
    let height = ROW * lives.len() as f64 + AXIS;
    let mut svg = format!(
        "<svg class=\"chart\" viewBox=\"0 0 {WIDTH} {height}\" role=\"img\" aria-label=\"Lives of pages over time\">"
    );
    for (row, life) in lives.iter().enumerate() {
        draw(&mut svg, life, row as f64 * ROW, &x, end);
    }
    let base = height - AXIS + 4.0;
    push(
        &mut svg,
        format_args!(
            "<line class=\"axis\" x1=\"{LABEL}\" y1=\"{base}\" x2=\"{WIDTH}\" y2=\"{base}\"/>"
        ),
    );
    for tick in 0..=4 {
        let at = LABEL + (WIDTH - LABEL - 8.0) * f64::from(tick) / 4.0;
        let ns = (span * f64::from(tick) / 4.0) as u64;
        let anchor = if tick == 4 { "end" } else { "middle" };
        push(
            &mut svg,
            format_args!(
                "<text class=\"tick\" x=\"{at:.1}\" y=\"{:.1}\" text-anchor=\"{anchor}\">{}</text>",
                height - 4.0,
                spell(ns)
            ),
        );
    }
    svg.push_str("</svg>");
    svg
}

fn moments(life: &RequestLife) -> [Option<u64>; 9] {
    [
        life.submitted,
        Some(life.mapped),
        life.held,
        life.unmap_began,
        life.hold_releasing,
        life.hold_released,
        life.released,
        life.acknowledged,
        life.reused,
    ]
}

fn draw(svg: &mut String, life: &RequestLife, y: f64, x: &dyn Fn(u64) -> f64, end: u64) {
    let middle = y + ROW / 2.0;
    push(
        svg,
        format_args!(
            "<text class=\"row\" x=\"{}\" y=\"{:.1}\" text-anchor=\"end\">request {}</text>",
            LABEL - 8.0,
            middle + 4.0,
            life.request
        ),
    );
    let mut bar = |class: &str, from: u64, to: u64, top: f64, height: f64, what: &str| {
        let (left, right) = (x(from), x(to));
        push(
            svg,
            format_args!(
                "<rect class=\"{class}\" x=\"{left:.2}\" y=\"{top:.1}\" width=\"{:.2}\" height=\"{height}\"><title>request {}: {what}, {}</title></rect>",
                (right - left).max(1.0),
                life.request,
                spell(to.saturating_sub(from))
            ),
        );
    };
    if let Some(submitted) = life.submitted {
        bar(
            "under-way",
            submitted,
            life.mapped,
            y + 3.0,
            6.0,
            "under way",
        );
    }
    let began = life.unmap_began.unwrap_or(end);
    bar("mapped", life.mapped, began, y + 3.0, 6.0, "data in place");
    if life.unmap_began.is_some() {
        let until = life.released.unwrap_or(end);
        bar("unmapping", began, until, y + 3.0, 6.0, "unmapping");
    }
    if let Some(held) = life.held {
        let until = life.hold_released.or(life.hold_releasing).unwrap_or(end);
        bar("held", held, until, y + 10.0, 5.0, "held by the consumer");
    }
    for (class, at, what) in [
        ("released", life.released, "released"),
        ("known", life.acknowledged, "the granter knows"),
        ("reused", life.reused, "a page is used again"),
    ] {
        if let Some(at) = at {
            push(
                svg,
                format_args!(
                    "<circle class=\"{class}\" cx=\"{:.2}\" cy=\"{:.1}\" r=\"3\"><title>request {}: {what}</title></circle>",
                    x(at),
                    y + 6.0,
                    life.request
                ),
            );
        }
    }
}

/// The colours' meaning.
pub(super) const LEGEND: &str = "<p class=\"legend\"><span class=\"key k-under-way\"></span>request under way \
    <span class=\"key k-mapped\"></span>data in place \
    <span class=\"key k-unmapping\"></span>unmap called, not yet done \
    <span class=\"key k-held\"></span>held by the third consumer \
    <span class=\"dot k-released\"></span>released \
    <span class=\"dot k-known\"></span>granter knows \
    <span class=\"dot k-reused\"></span>page used again</p>";

/// Text for XML and HTML.
pub(super) fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '&' => out.push_str("&amp;"),
            '"' => out.push_str("&quot;"),
            '\'' => out.push_str("&#39;"),
            c => out.push(c),
        }
    }
    out
}

/// Writing to a string does not fail.
pub(super) fn push(into: &mut String, text: std::fmt::Arguments<'_>) {
    let written = into.write_fmt(text);
    debug_assert!(written.is_ok());
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checks::fixture::evidence;

    #[test]
    fn every_life_has_its_row_and_every_hold_its_bar() {
        let svg = lives(&evidence().lives);
        assert_eq!(svg.matches("class=\"row\"").count(), 2);
        assert_eq!(svg.matches("class=\"held\"").count(), 1);
        assert_eq!(svg.matches("class=\"reused\"").count(), 1);
        assert!(!svg.contains("NaN"));
        assert_eq!(lives(&[]), "");
    }
}
