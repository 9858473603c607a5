use super::*;
use crate::timeline;

fn world(dir: &Path, for_ms: u64) -> World {
    let deadline = Instant::now() + Duration::from_millis(for_ms);
    World::with_program(dir, deadline, "sh".into()).unwrap()
}

/// A shell script as a child: its standard input is the control socket, both ways.
fn script(world: &mut World, name: &str, script: &str) -> ChildId {
    let timeline = world.timeline_path(name);
    world
        .start(name, vec!["-c".into(), script.into()], timeline)
        .unwrap()
}

fn alive(pid: u32) -> bool {
    Path::new(&format!("/proc/{pid}")).exists()
}

#[test]
fn news_come_through_whoever_is_asked_first() {
    let dir = tempfile::tempdir().unwrap();
    let mut world = world(dir.path(), 20_000);
    let ready = r#"printf '"ready"' >&0; exec sleep 1000"#;
    let a = script(&mut world, "a", ready);
    let b = script(&mut world, "b", ready);
    world.await_ready(b).unwrap();
    world.await_ready(a).unwrap();
    let meeting = world.dir().to_owned();
    assert!(meeting.exists());
    world.stop_grace = Duration::from_millis(10);
    let aftermath = world.finish();
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
    let mut world = world(dir.path(), 20_000);
    let a = script(&mut world, "a", "echo no such image >&2; exit 2");
    let stopped = world.await_ready(a).unwrap_err();
    assert_eq!(stopped.to_string(), "a: exit status 2: no such image");
    let aftermath = world.finish();
    assert!(!aftermath.exits[0].expected);
}

#[test]
fn a_hung_child_is_described_and_killed_with_what_it_forked() {
    let dir = tempfile::tempdir().unwrap();
    let mut world = world(dir.path(), 300);
    let path = world.timeline_path("a");
    timeline::Timeline::create(&path, "a")
        .unwrap()
        .waiting("a bus");
    let a = script(&mut world, "a", "sleep 1000 & echo $!; wait");
    let Err(Stopped::Deadline { what, hung }) = world.await_ready(a) else {
        panic!("must hang")
    };
    assert_eq!(what, "a to be ready");
    assert!(hung[0].to_string().contains("a bus"), "{}", hung[0]);
    let pid = world.child(a).pid();
    let forked: u32 = std::fs::read_to_string(dir.path().join("a.out"))
        .unwrap()
        .trim()
        .parse()
        .unwrap();
    assert!(alive(pid) && alive(forked));
    drop(world);
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
    let mut world = world(dir.path(), 20_000);
    let a = script(&mut world, "a", "exec sleep 1000");
    let exit = world.kill(a).unwrap();
    assert_eq!(describe(exit), "killed by signal 9 (SIGKILL)");
    assert_eq!(world.await_exit(a).unwrap(), exit);
    let aftermath = world.finish();
    assert!(aftermath.exits[0].expected);
    assert!(aftermath.left_over.is_empty(), "{aftermath:?}");
}

#[test]
fn a_forgotten_socket_is_left_over() {
    let dir = tempfile::tempdir().unwrap();
    let world = world(dir.path(), 20_000);
    let sub = world.dir().join("sim");
    std::fs::create_dir(&sub).unwrap();
    let _listener = std::os::unix::net::UnixListener::bind(sub.join("xen.sock")).unwrap();
    assert_eq!(world.finish().left_over, ["the socket xen.sock"]);
}

#[test]
fn the_parent_must_be_the_one_that_was_named() {
    assert!(die_with_parent(1 << 30).is_err());
}
