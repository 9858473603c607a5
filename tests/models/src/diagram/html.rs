//! As a page: the story, the picture, and what it shows.

use super::svg::{escape, svg};
use crate::history::History;
use std::fmt::Write;

/// A page that needs nothing else.
pub fn html(history: &History, title: &str, story: &[String], conclusion: &[String]) -> String {
    let mut out = format!(
        r#"<!doctype html>
<html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width">
<title>{}</title>
<style>
:root {{ color-scheme: light dark; }}
body {{ font: 16px/1.5 system-ui, sans-serif; max-width: 70rem; margin: 2rem auto; padding: 0 1rem; }}
p {{ max-width: 42rem; }}
.picture {{ overflow-x: auto; }}
</style>
<h1>{}</h1>
"#,
        escape(title),
        escape(title)
    );
    for paragraph in story {
        let _ = writeln!(out, "<p>{}</p>", escape(paragraph));
    }
    let _ = writeln!(
        out,
        "<div class=\"picture\">\n{}</div>",
        svg(history, title)
    );
    out.push_str("<ul>\n");
    for line in conclusion {
        let _ = writeln!(out, "<li>{}</li>", escape(line));
    }
    out + "</ul>\n</html>\n"
}
