use super::*;
use crate::timeline;

fn processes(dir: &Path, for_ms: u64) -> Processes {
    let deadline = Instant::now() + Duration::from_millis(for_ms);
    Processes::with_program(dir, deadline, "sh".into()).unwrap()
}

/// A shell script as a child: its standard input is the control socket, both ways.
fn script(processes: &mut Processes, name: &str, script: &str) -> ChildId {
    let timeline = processes.timeline_path(name);
    processes
        .start(name, vec!["-c".into(), script.into()], timeline)
        .unwrap()
}

fn alive(pid: u32) -> bool {
    Path::new(&format!("/proc/{pid}")).exists()
}

#[test]
fn news_come_through_whoever_is_asked_first() {
    let dir = tempfile::tempdir().unwrap();
    let mut processes = processes(dir.path(), 20_000);
    let ready = r#"printf '"ready"' >&0; exec sleep 1000"#;
    let a = script(&mut processes, "a", ready);
    let b = script(&mut processes, "b", ready);
    processes.await_ready(b).unwrap();
    processes.await_ready(a).unwrap();
    let meeting = processes.dir().to_owned();
    assert!(meeting.exists());
    processes.stop_grace = Duration::from_millis(10);
    let aftermath = processes.finish();
    assert!(!meeting.exists());
    assert_eq!(aftermath.exits.len(), 2);
    assert_eq!(
        aftermath.hung.len(),
        2,
        "sleep takes no orders: {aftermath:?}"
    );
}

#[test]
fn a_child_that_ends_badly_ends_the_wait_with_its_own_words() {
    let dir = tempfile::tempdir().unwrap();
    let mut processes = processes(dir.path(), 20_000);
    let a = script(&mut processes, "a", "echo no such image >&2; exit 2");
    let stopped = processes.await_ready(a).unwrap_err();
    assert_eq!(stopped.to_string(), "a: exit status 2: no such image");
    let aftermath = processes.finish();
    assert!(!aftermath.exits[0].expected);
}

#[test]
fn a_standstill_ends_the_wait_when_it_is_seen_twice_and_is_the_same() {
    let dir = tempfile::tempdir().unwrap();
    let step = std::time::Duration::from_millis(10);
    let mut stuck = processes(dir.path(), 60_000);
    stuck.end_at_standstill(step, |hung, _| Some(hung[0].process.clone()));
    let a = script(&mut stuck, "a", "sleep 1000");
    let Err(Stopped::Standstill { what, hung, .. }) = stuck.await_ready(a) else {
        panic!("it stands still")
    };
    assert_eq!((what.as_str(), hung.len()), ("a to be ready", 1));
    drop(stuck);
    // Tasks that wait for each other in another way each time go on.
    let looks = std::cell::Cell::new(0);
    let mut moves = processes(dir.path(), 100);
    moves.end_at_standstill(step, move |_, _| {
        looks.set(looks.get() + 1);
        Some(looks.get().to_string())
    });
    let b = script(&mut moves, "b", "sleep 1000");
    assert!(matches!(
        moves.await_ready(b),
        Err(Stopped::Deadline { .. })
    ));
}

#[test]
fn a_hung_child_is_described_and_killed_with_what_it_forked() {
    let dir = tempfile::tempdir().unwrap();
    let mut processes = processes(dir.path(), 300);
    let path = processes.timeline_path("a");
    timeline::Timeline::create(&path, "a")
        .unwrap()
        .waiting("a bus");
    let a = script(&mut processes, "a", "sleep 1000 & echo $!; wait");
    let Err(Stopped::Deadline { what, hung, .. }) = processes.await_ready(a) else {
        panic!("must hang")
    };
    assert_eq!(what, "a to be ready");
    assert!(hung[0].to_string().contains("a bus"), "{}", hung[0]);
    let pid = processes.child(a).pid();
    let forked: u32 = std::fs::read_to_string(dir.path().join("a.out"))
        .unwrap()
        .trim()
        .parse()
        .unwrap();
    assert!(alive(pid) && alive(forked));
    drop(processes);
    assert!(!alive(pid));
    // Reparented to init, which reaps it in its own time: a zombie has no command line.
    let gone = || {
        std::fs::read(format!("/proc/{forked}/cmdline"))
            .unwrap_or_default()
            .is_empty()
    };
    let until = Instant::now() + Duration::from_secs(10);
    while !gone() {
        assert!(Instant::now() < until, "{forked} survives");
        std::thread::yield_now();
    }
}

#[test]
fn a_child_killed_on_purpose_is_expected_to_be_dead() {
    let dir = tempfile::tempdir().unwrap();
    let mut processes = processes(dir.path(), 20_000);
    let a = script(&mut processes, "a", "exec sleep 1000");
    let exit = processes.kill(a).unwrap();
    assert_eq!(describe(exit), "killed by signal 9 (SIGKILL)");
    assert_eq!(processes.await_exit(a).unwrap(), exit);
    let aftermath = processes.finish();
    assert!(aftermath.exits[0].expected);
    assert!(aftermath.left_over.is_empty(), "{aftermath:?}");
}

#[test]
fn a_forgotten_socket_is_left_over() {
    let dir = tempfile::tempdir().unwrap();
    let processes = processes(dir.path(), 20_000);
    let sub = processes.dir().join("sim");
    std::fs::create_dir(&sub).unwrap();
    let _listener = std::os::unix::net::UnixListener::bind(sub.join("xen.sock")).unwrap();
    assert_eq!(processes.finish().left_over, ["the socket xen.sock"]);
}

#[test]
fn the_parent_must_be_the_one_that_was_named() {
    assert!(die_with_parent(1 << 30).is_err());
}

#[test]
fn a_hung_child_is_killed_and_its_end_is_timed() {
    let dir = tempfile::tempdir().unwrap();
    let mut processes = processes(dir.path(), 20_000);
    let a = script(&mut processes, "a", "exec sleep 1000");
    assert!(processes.autopsy(a).is_some());
    let took = processes.kill_hung(a, Duration::from_secs(10)).unwrap();
    assert!(took < Duration::from_secs(10));
    assert_eq!(processes.autopsy(a), None);
    assert!(processes.blocked().is_empty(), "nothing of ours is blocked");
    assert!(processes.finish().exits[0].expected);
}

/// Another machine, whose process does not end.
struct Kept;

impl Elsewhere for Kept {
    fn autopsy(&self, process: &str) -> Option<Autopsy> {
        let process = process.to_owned();
        Some(Autopsy {
            process,
            ..Autopsy::default()
        })
    }
    fn blocked(&self) -> Vec<Blocked> {
        vec![Blocked::default()]
    }
    fn await_end(&self, _: &str, _: Instant) -> bool {
        false
    }
    fn settle(&self) -> Vec<String> {
        Vec::new()
    }
}

#[test]
fn the_end_of_a_stand_in_is_not_the_end_of_its_process() {
    let dir = tempfile::tempdir().unwrap();
    let mut processes = processes(dir.path(), 20_000);
    processes.set_elsewhere(Arc::new(Kept));
    let a = script(&mut processes, "a", "exec sleep 1000");
    assert_eq!(processes.kill_hung(a, Duration::from_secs(10)), None);
    assert!(processes.autopsy(a).is_some());
    assert_eq!(processes.blocked().len(), 1);
}
