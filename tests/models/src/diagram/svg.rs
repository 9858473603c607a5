//! As a picture.

use super::{Kind, columns, rows, wrap};
use crate::history::History;
use std::fmt::Write;

const COLUMN: usize = 210;
const LINE: usize = 15;
const CHARS: usize = 30;

/// The diagram as an SVG document. Colours follow the reader's light or dark scheme.
pub fn svg(history: &History, title: &str) -> String {
    let rows = rows(history);
    let columns = columns(history, &rows);
    let x = |column: usize| {
        let at = columns.iter().position(|c| *c == column).unwrap_or(0);
        40 + at * COLUMN
    };
    let mut body = String::new();
    let mut y = 78;
    for row in &rows {
        let class = match row.kind {
            Kind::Did => "did",
            Kind::Broke => "broke",
            Kind::Waits => "waits",
            Kind::Goes => "goes",
        };
        let lines = wrap(&row.text, CHARS);
        let holds = row
            .holds
            .as_ref()
            .map_or(Vec::new(), |holds| wrap(holds, CHARS));
        let height = (lines.len() + holds.len()) * LINE + 6;
        let left = x(row.column);
        if let Some(number) = row.number {
            let _ = writeln!(
                body,
                r#"<text class="number" x="28" y="{}">{number}</text>"#,
                y + 13
            );
        }
        let _ = writeln!(
            body,
            r#"<rect class="{class}" x="{left}" y="{y}" width="{}" height="{height}" rx="4"/>"#,
            COLUMN - 16
        );
        let all = lines
            .iter()
            .map(|l| (l, class))
            .chain(holds.iter().map(|h| (h, "holds")));
        for (i, (line, class)) in all.enumerate() {
            let _ = writeln!(
                body,
                r#"<text class="{class}" x="{}" y="{}">{}</text>"#,
                left + 7,
                y + 14 + i * LINE,
                escape(line)
            );
        }
        for whom in row.whom.iter().filter(|whom| columns.contains(whom)) {
            let (from, to) = if x(*whom) > left {
                (left + COLUMN - 16, x(*whom) + 8)
            } else {
                (left, x(*whom) + COLUMN - 24)
            };
            if *whom != row.column {
                let at = y + height / 2;
                let _ = writeln!(
                    body,
                    r#"<line class="wait" x1="{from}" y1="{at}" x2="{to}" y2="{at}" marker-end="url(#tip)"/>"#
                );
            }
        }
        y += height + 6;
    }
    // Bold letters of 14 pixels are about 8.5 wide.
    let width = (40 + columns.len().max(1) * COLUMN).max(32 + title.chars().count() * 17 / 2);
    let height = y + 20;
    let mut out = String::new();
    let _ = write!(
        out,
        r#"<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}" role="img">
<title>{}</title>
<style>
svg {{ background: #fff; }}
text {{ font: 12px system-ui, sans-serif; fill: #1c1e21; }}
text.head {{ font-weight: 600; }}
text.number {{ fill: #6a6f76; text-anchor: end; }}
text.holds {{ fill: #00617a; font-style: italic; }}
text.title {{ font-size: 14px; font-weight: 600; }}
line.life {{ stroke: #c4c8ce; }}
line.wait {{ stroke: #9a6400; stroke-dasharray: 4 3; stroke-width: 1.5; }}
#tip path {{ fill: #9a6400; }}
rect {{ fill: #f2f4f7; stroke: #c4c8ce; }}
rect.waits {{ fill: #fff4dc; stroke: #9a6400; stroke-dasharray: 4 3; }}
rect.goes {{ fill: #fff; }}
rect.broke {{ fill: #ffe3e1; stroke: #b3261e; stroke-width: 2; }}
text.broke {{ fill: #8c1d18; font-weight: 600; }}
@media (prefers-color-scheme: dark) {{
svg {{ background: #16181b; }}
text {{ fill: #e4e6ea; }}
text.number {{ fill: #9aa0a8; }}
text.holds {{ fill: #7fd3ea; }}
rect {{ fill: #24272c; stroke: #444a52; }}
rect.waits {{ fill: #3a2f16; stroke: #d9a441; }}
rect.goes {{ fill: #16181b; }}
rect.broke {{ fill: #4a1c1a; stroke: #f2867e; }}
text.broke {{ fill: #ffb4ad; }}
line.life {{ stroke: #444a52; }}
line.wait {{ stroke: #d9a441; }}
#tip path {{ fill: #d9a441; }}
}}
</style>
<defs><marker id="tip" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="8" markerHeight="8" orient="auto"><path d="M0 0 8 4 0 8z"/></marker></defs>
<text class="title" x="16" y="24">{}</text>
"#,
        escape(title),
        escape(title)
    );
    for column in &columns {
        let at = x(*column) + (COLUMN - 16) / 2;
        let _ = writeln!(
            out,
            r#"<text class="head" x="{at}" y="56" text-anchor="middle">{}</text><line class="life" x1="{at}" y1="64" x2="{at}" y2="{}"/>"#,
            escape(&history.actors[*column]),
            height - 10
        );
    }
    out + &body + "</svg>\n"
}

/// Text as it may stand in XML.
pub fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            c => out.push(c),
        }
    }
    out
}
