//! A kernel stack as `/proc/PID/stack` spells it: `[<0>] function+0x8b/0xc0 [module]`. What the
//! scheduler and the kernel's locks add on top is not in it (`stack_trace_save_tsk`,
//! `kernel/stacktrace.c`): the first line is the function that called them.

/// A kernel stack, the innermost function first.
pub struct Stack<'a> {
    frames: Vec<&'a str>,
}

impl<'a> Stack<'a> {
    /// Reads the lines.
    pub fn of(lines: &'a [String]) -> Stack<'a> {
        Stack {
            frames: lines.iter().filter_map(|line| function(line)).collect(),
        }
    }

    /// The innermost function.
    pub fn top(&self) -> Option<&'a str> {
        self.frames.first().copied()
    }

    /// Is a function in it?
    pub fn has(&self, name: &str) -> bool {
        self.frames.contains(&name)
    }

    /// The first of these that is in it.
    pub fn first_of(&self, names: &[&'static str]) -> Option<&'static str> {
        names.iter().copied().find(|name| self.has(name))
    }

    /// The system call, or the other way into the kernel, that the task is in.
    pub fn way_in(&self) -> &'static str {
        const WAYS: [(&str, &str); 9] = [
            ("gntdev_ioctl", "ioctl of gntdev"),
            ("ib_uverbs_ioctl", "ioctl of uverbs"),
            ("do_exit", "exit"),
            ("__do_sys_munmap", "munmap"),
            ("__x64_sys_munmap", "munmap"),
            ("__x64_sys_mmap", "mmap"),
            ("__fput", "close"),
            ("worker_thread", "its queue's work"),
            ("__x64_sys_ioctl", "ioctl"),
        ];
        let found = WAYS.iter().find(|(function, _)| self.has(function));
        found.map_or("the kernel", |(_, way)| way)
    }
}

/// `[<0>] name.part.0+0x1/0x2 [module]`: the name, without what the compiler added.
fn function(line: &str) -> Option<&str> {
    let line = line.trim();
    let name = line.strip_prefix("[<0>]").unwrap_or(line).trim_start();
    let name = name.split(['+', ' ', '\t']).next()?;
    let name = name.split('.').next()?;
    (!name.is_empty() && !name.starts_with("0x")).then_some(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn functions_are_read_without_what_the_compiler_added() {
        let lines = [
            "[<0>] gnttab_unmap_refs_sync+0x8b/0xc0",
            "[<0>] unmap_grant_pages.part.0+0x1/0x2 [xen_gntdev]",
            "[<0>] 0xffffffff81000000",
            "",
            "[<0>] __x64_sys_munmap+0x1/0x2",
        ]
        .map(str::to_owned);
        let stack = Stack::of(&lines);
        assert_eq!(stack.top(), Some("gnttab_unmap_refs_sync"));
        assert!(stack.has("unmap_grant_pages") && !stack.has("unmap_grant"));
        assert_eq!(stack.way_in(), "munmap");
        assert_eq!(Stack::of(&[]).way_in(), "the kernel");
        assert_eq!(Stack::of(&[]).top(), None);
    }
}
