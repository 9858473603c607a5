//! A hang, in HTML: who waits for whom, what SIGKILL changed, every task that a kernel keeps.

use super::chart::{escape, push};
use super::graph;
use crate::checks::AfterKill;
use crate::verdict::{Outcome, Verdict};
use pv_harness::processes::{Autopsy, Blocked, Thread};

/// All of it; nothing for a run that did not hang.
pub(super) fn section(page: &mut String, verdict: &Verdict) {
    deadlock(page, verdict);
    if let Some(why) = &verdict.no_cycle {
        push(
            page,
            format_args!("<p>Why there is no cycle: {}.</p>\n", escape(why)),
        );
    }
    if let Some(after) = verdict
        .standstill
        .as_ref()
        .and_then(|s| s.after_kill.as_ref())
    {
        after_kill(page, after);
    }
    for process in &verdict.hung {
        hung(page, process);
    }
    for kernel in &verdict.blocked {
        blocked(page, kernel);
    }
}

fn deadlock(page: &mut String, verdict: &Verdict) {
    if verdict.edges.is_empty() {
        return;
    }
    let is_open = (verdict.standstill.as_ref()).is_some_and(|found| found.in_cycle == 0);
    let title = match verdict.outcome {
        Outcome::Passed => "The deadlock, as it must be here",
        _ if is_open => "Who waits for whom",
        _ => "The deadlock",
    };
    push(
        page,
        format_args!(
            "<h3>{title}</h3><div class=\"scroll\">{}</div><ol>\n",
            graph::draw(&verdict.edges)
        ),
    );
    items(page, verdict.edges.iter().map(|edge| format!("{edge}.")));
    page.push_str("</ol>\n");
    if let Some(found) = &verdict.standstill {
        push(
            page,
            format_args!("<p>In words: {}.</p>\n", escape(&found.form.to_string())),
        );
        page.push_str("<p>The functions that wait:</p><ul>\n");
        items(page, found.functions.iter().cloned());
        page.push_str("</ul>\n");
    }
}

fn after_kill(page: &mut String, after: &AfterKill) {
    page.push_str("<h3>After SIGKILL</h3><ul>\n");
    items(page, after.killed.iter().map(|said| format!("{said}.")));
    page.push_str("</ul>\n");
    if !after.tried.is_empty() {
        page.push_str("<h3>And after that</h3><ul>\n");
        items(page, after.tried.iter().map(|said| format!("{said}.")));
        page.push_str("</ul>\n");
    }
    let left = match after.left.len() {
        0 => "no grant, no event channel".to_owned(),
        _ => after.left.join("; "),
    };
    push(
        page,
        format_args!("<p>What stays in use: {}.</p>\n", escape(&left)),
    );
    page.push_str("<p>What an operator can do:</p><ul>\n");
    items(page, after.cures.iter().map(|cure| format!("{cure}.")));
    page.push_str("</ul>\n");
}

fn hung(page: &mut String, process: &Autopsy) {
    push(
        page,
        format_args!(
            "<p class=\"fail\">Hung: {}</p>\n",
            escape(&process.to_string())
        ),
    );
    for thread in &process.threads {
        stack(page, thread);
    }
}

fn blocked(page: &mut String, kernel: &Blocked) {
    push(
        page,
        format_args!(
            "<h3>Blocked tasks of {}</h3>\n",
            escape(&kernel.to_string())
        ),
    );
    if kernel.tasks.is_empty() {
        page.push_str("<p>No task is in state D.</p>\n");
    }
    for task in &kernel.tasks {
        let thread = &task.thread;
        push(
            page,
            format_args!(
                "<p><b>{}</b> (pid {}), {}: state {}{}</p>\n",
                escape(&thread.name),
                thread.tid,
                escape(&task.whose()),
                escape(&thread.state),
                escape(
                    &thread
                        .wchan
                        .as_ref()
                        .map_or_else(String::new, |w| format!(" in {w}"))
                )
            ),
        );
        stack(page, thread);
    }
    items_or_none(page, "Not among them", &kernel.missing);
}

fn stack(page: &mut String, thread: &Thread) {
    if !thread.stack.is_empty() {
        push(
            page,
            format_args!("<pre>{}</pre>\n", escape(&thread.stack.join("\n"))),
        );
    }
}

fn items_or_none(page: &mut String, title: &str, items: &[String]) {
    if !items.is_empty() {
        let items = escape(&items.join("; "));
        push(page, format_args!("<p>{title}: {items}.</p>\n"));
    }
}

fn items(page: &mut String, items: impl Iterator<Item = String>) {
    for item in items {
        push(page, format_args!("<li>{}</li>\n", escape(&item)));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::tests::{hang, report};

    #[test]
    fn a_hang_is_told_in_full() {
        let mut page = String::new();
        section(&mut page, &hang().verdicts[0]);
        for part in [
            "<h3>The deadlock</h3>",
            "exact cycle of QubesOS/qubes-issues#7481",
            "drivers/xen/grant-table.c",
            "<h3>After SIGKILL</h3>",
            "did not end within 10 s of SIGKILL",
            "0x9 of domain 1",
            "hung_task_panic",
            "Blocked tasks of domain back, Linux 7.2.13 (PV)",
            "<b>kworker/u5:0+rxe_wq</b> (pid 44), the kernel&#39;s own",
            "rxe_receiver+0x1/0x2",
        ] {
            assert!(page.contains(part), "{part}: {page}");
        }
        assert_eq!(page.matches("class=\"who\"").count(), 3);
    }

    #[test]
    fn an_open_wait_is_not_called_a_deadlock_and_an_empty_kernel_is_said_to_be() {
        let mut verdict = hang().verdicts.remove(0);
        verdict.standstill.as_mut().unwrap().in_cycle = 0;
        verdict.blocked[0].tasks.clear();
        verdict.blocked[0].missing.push("8 more".into());
        let mut page = String::new();
        section(&mut page, &verdict);
        assert!(page.contains("<h3>Who waits for whom</h3>"));
        assert!(page.contains("No task is in state D.") && page.contains("8 more"));
        let mut page = String::new();
        section(&mut page, &report().verdicts[0]);
        assert_eq!(page, "", "it passed");
    }
}
