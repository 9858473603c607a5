//! Who waits for whom, drawn: a box a task, from top to bottom, an arrow for each wait with what is
//! waited for beside it. The way back, and every other one that skips a box, is in a lane of its own.

use super::chart::{escape, push};
use libgnt::inspect::WaitEdge;

const LEFT: f64 = 16.0;
const WIDTH: f64 = 400.0;
const HEIGHT: f64 = 74.0;
const GAP: f64 = 64.0;
const LANE: f64 = 22.0;
/// Where the words beside the lanes end.
const PAGE: f64 = 960.0;
/// Letters that fit into a box, and between the boxes.
const BOX_LETTERS: usize = 58;
const GAP_LETTERS: usize = 52;
const LANE_LETTERS: usize = 44;
const LINE: f64 = 15.0;

/// The picture; nothing without edges.
pub(super) fn draw(edges: &[WaitEdge]) -> String {
    let names = names(edges);
    if names.is_empty() {
        return String::new();
    }
    let number = |name: &String| names.iter().position(|other| other == name).unwrap_or(0);
    let height = LEFT + names.len() as f64 * (HEIGHT + GAP) - GAP + 16.0;
    let mut svg = format!(
        "<svg class=\"cycle\" viewBox=\"0 0 {PAGE} {height}\" role=\"img\" aria-label=\"Who waits for whom\">\
         <defs><marker id=\"arrow\" viewBox=\"0 0 8 8\" refX=\"7\" refY=\"4\" markerWidth=\"8\" markerHeight=\"8\" orient=\"auto-start-reverse\">\
         <path class=\"head\" d=\"M0 0 L8 4 L0 8 Z\"/></marker></defs>"
    );
    for (at, name) in names.iter().enumerate() {
        let waits = edges.iter().find(|edge| edge.waiter == *name);
        task(&mut svg, name, waits, top_of(at));
    }
    let lanes = edges
        .iter()
        .filter(|edge| !is_next(number(&edge.waiter), number(&edge.owner)));
    let lanes = lanes.count();
    let mut lane = 0;
    for edge in edges {
        let (from, to) = (number(&edge.waiter), number(&edge.owner));
        let what = format!("waits for {}", edge.waits_for);
        if is_next(from, to) {
            down(&mut svg, &what, from);
        } else {
            around(&mut svg, &what, (from, to), (lane, lanes));
            lane += 1;
        }
    }
    svg.push_str("</svg>");
    svg
}

/// Everybody, in the order of the edges.
fn names(edges: &[WaitEdge]) -> Vec<String> {
    let mut names: Vec<String> = Vec::new();
    let waiters = edges.iter().map(|edge| &edge.waiter);
    for name in waiters.chain(edges.iter().map(|edge| &edge.owner)) {
        if !names.contains(name) {
            names.push(name.clone());
        }
    }
    names
}

fn is_next(from: usize, to: usize) -> bool {
    to == from + 1
}

fn top_of(at: usize) -> f64 {
    LEFT + at as f64 * (HEIGHT + GAP)
}

fn task(svg: &mut String, name: &str, waits: Option<&WaitEdge>, top: f64) {
    let middle = LEFT + WIDTH / 2.0;
    push(
        svg,
        format_args!(
            "<rect class=\"who\" x=\"{LEFT}\" y=\"{top}\" width=\"{WIDTH}\" height=\"{HEIGHT}\" rx=\"6\"/>"
        ),
    );
    let mut lines = vec![("who-name", name.to_owned())];
    if let Some(edge) = waits {
        // The call, then where in the kernel.
        let (call, rest) = edge.call.split_once(" (").unwrap_or((&edge.call, ""));
        lines.push(("who-call", format!("in {call}")));
        let rest = rest.strip_suffix(')').unwrap_or(rest);
        let wrapped = wrap(rest, BOX_LETTERS).into_iter().take(2);
        lines.extend(wrapped.map(|line| ("who-call", line)));
    }
    let first = top + (HEIGHT - lines.len() as f64 * LINE) / 2.0 + 12.0;
    for (at, (class, line)) in lines.iter().enumerate() {
        let y = first + at as f64 * LINE;
        push(
            svg,
            format_args!(
                "<text class=\"{class}\" x=\"{middle}\" y=\"{y:.0}\" text-anchor=\"middle\">{}</text>",
                escape(line)
            ),
        );
    }
}

/// To the box below.
fn down(svg: &mut String, what: &str, from: usize) {
    let (x, y) = (LEFT + 60.0, top_of(from) + HEIGHT);
    arrow(svg, &format!("M{x} {y} V{}", y + GAP - 2.0));
    words(svg, what, x + 12.0, y + GAP / 2.0, GAP_LETTERS);
}

/// To any other box, on the right of all.
fn around(svg: &mut String, what: &str, (from, to): (usize, usize), (lane, lanes): (usize, usize)) {
    let right = LEFT + WIDTH;
    let x = right + LANE * (lane + 1) as f64;
    // Each lane leaves and arrives at a height of its own.
    let step = HEIGHT / (lanes + 1) as f64 * (lane + 1) as f64;
    let (y, end) = (top_of(from) + step, top_of(to) + step);
    // To itself: a loop.
    let end = if from == to { end + 12.0 } else { end };
    arrow(
        svg,
        &format!("M{right} {y:.1} H{x} V{end:.1} H{}", right + 2.0),
    );
    let beside = right + LANE * (lanes + 1) as f64;
    words(svg, what, beside, y, LANE_LETTERS);
}

fn arrow(svg: &mut String, path: &str) {
    push(
        svg,
        format_args!("<path class=\"wait\" d=\"{path}\" marker-end=\"url(#arrow)\"/>"),
    );
}

/// Lines around a height.
fn words(svg: &mut String, text: &str, x: f64, middle: f64, letters: usize) {
    let lines = wrap(text, letters);
    let first = middle - (lines.len() as f64 - 1.0) * LINE / 2.0 + 4.0;
    for (at, line) in lines.iter().enumerate() {
        let y = first + at as f64 * LINE;
        push(
            svg,
            format_args!(
                "<text class=\"what\" x=\"{x:.0}\" y=\"{y:.0}\">{}</text>",
                escape(line)
            ),
        );
    }
}

/// Lines of so many letters at most; a longer word has one of its own.
fn wrap(text: &str, letters: usize) -> Vec<String> {
    let mut lines: Vec<String> = Vec::new();
    for word in text.split_whitespace() {
        match lines.last_mut() {
            Some(line) if line.chars().count() + 1 + word.chars().count() <= letters => {
                line.push(' ');
                line.push_str(word);
            }
            _ => lines.push(word.to_owned()),
        }
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::verdict::tests::edges;

    fn count(svg: &str, class: &str) -> usize {
        svg.matches(&format!("class=\"{class}\"")).count()
    }

    #[test]
    fn a_cycle_has_a_box_and_an_arrow_for_each_edge() {
        let svg = draw(&edges());
        assert_eq!((count(&svg, "who"), count(&svg, "wait")), (2, 2));
        assert!(
            svg.contains(">in munmap<") && svg.contains("waits for the end of the invalidation")
        );
        assert_eq!(draw(&[]), "");
    }

    #[test]
    fn three_in_a_cycle_and_one_that_waits_with_them() {
        let edge = |waiter: &str, owner: &str| WaitEdge {
            waiter: waiter.into(),
            owner: owner.into(),
            ..edges()[0].clone()
        };
        let edges = [
            edge("a", "b"),
            edge("b", "c"),
            edge("c", "a"),
            edge("d", "a"),
            edge("d", "<e>"),
        ];
        let svg = draw(&edges);
        assert_eq!((count(&svg, "who"), count(&svg, "wait")), (5, 5));
        assert!(svg.contains("&lt;e&gt;"));
        // Each arrow ends at a box of its own height, inside of the picture.
        assert!(!svg.contains("NaN") && !svg.contains("V-"));
    }

    #[test]
    fn words_are_kept_whole() {
        assert_eq!(wrap("a bc def", 4), ["a bc", "def"]);
        assert_eq!(wrap("abcdef g", 3), ["abcdef", "g"]);
        assert!(wrap("", 3).is_empty());
    }
}
