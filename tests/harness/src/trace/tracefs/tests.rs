use super::*;

/// What looks like tracefs to who writes to it.
struct Fake {
    dir: tempfile::TempDir,
}

impl Fake {
    fn new(probes: &str, instances: &[&str]) -> Fake {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("instances")).unwrap();
        for instance in instances {
            fs::create_dir(dir.path().join("instances").join(instance)).unwrap();
        }
        fs::write(dir.path().join("kprobe_events"), probes).unwrap();
        Fake { dir }
    }

    fn root(&self) -> &Path {
        self.dir.path()
    }

    fn events(&self) -> String {
        fs::read_to_string(self.root().join("kprobe_events")).unwrap()
    }

    fn instances(&self) -> Vec<String> {
        let entries = fs::read_dir(self.root().join("instances")).unwrap();
        let mut names: Vec<_> = entries
            .map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned())
            .collect();
        names.sort();
        names
    }
}

const SET: &str = "\
p:pvstress_7_70/map gnttab_map_refs pages=%cx:u32
r16:pvstress_7_70/mapped gntdev_mmap ret=$retval:s32
p:pvstress_8_80/map gnttab_map_refs pages=%cx:u32
p:kprobes/somebodys do_exit
";

#[test]
fn what_dead_observers_left_is_removed_and_nothing_else() {
    let fake = Fake::new(SET, &["pvstress_7_70", "pvstress_8_80", "somebodys"]);
    remove_dead(fake.root(), &|pid, began| (pid, began) == (8, 80)).unwrap();
    assert_eq!(fake.instances(), ["pvstress_8_80", "somebodys"]);
    let removed = format!("{SET}-:pvstress_7_70/map\n-:pvstress_7_70/mapped\n");
    assert_eq!(fake.events(), removed);
}

#[test]
fn probes_without_their_instance_are_removed_too() {
    let fake = Fake::new(SET, &[]);
    remove_dead(fake.root(), &|_, _| false).unwrap();
    assert_eq!(fake.events().matches("-:pvstress_").count(), 3);
}

#[test]
fn an_owner_is_a_pid_and_its_beginning() {
    let me = std::process::id();
    let began = began(me).unwrap();
    assert!(owner_lives(me, began));
    assert!(
        !owner_lives(me, began + 1),
        "another process had the number"
    );
    assert_eq!(owner(&format!("{OURS}{me}_{began}")), Some((me, began)));
    for name in ["pvstress_", "pvstress_7", "pvstress_7_", "other_7_8"] {
        assert_eq!(owner(name), None, "{name}");
    }
}

#[test]
fn a_kernel_that_cannot_be_watched_says_what_is_missing_and_keeps_nothing() {
    // An instance here is an empty directory, where the kernel's would have files.
    let fake = Fake::new("", &[]);
    let set = Tracer::set(fake.root().to_owned(), "pvstress_1_2".into());
    let Unwatched(why) = set.unwrap_err();
    assert!(why.contains("trace_clock"), "{why}");
    assert!(fake.instances().is_empty(), "{:?}", fake.instances());
}

#[test]
fn a_probe_that_was_passed_unseen_is_a_gap() {
    let profile = "  map      12     0\n  unmap    11     3\n  ended1  7  1\n  other    1     9\n";
    let gaps = missed(profile, &PROBES);
    let told: Vec<_> = gaps
        .iter()
        .map(|gap| (gap.why.as_str(), gap.only_ends))
        .collect();
    let unmap = ("the probe unmap was passed 3 times unseen", false);
    let ended = ("the probe ended1 was passed 1 times unseen", true);
    assert_eq!(told, [unmap, ended]);
}

#[test]
fn lines_that_come_in_parts_are_put_together() {
    let fake = Fake::new("", &[]);
    let pipe = fake.root().join("pipe");
    fs::write(&pipe, "").unwrap();
    let mut tracer = Tracer {
        pipe: File::open(&pipe).unwrap(),
        probes: Probes {
            root: fake.root().to_owned(),
            name: "pvstress_1_2".into(),
            set: Vec::new(),
        },
        torn: Vec::new(),
    };
    let whole = "x-1 [000] ..... 1.000000: ask: (f+0x0/0x1) item=0x1\n";
    let mut give = |bytes: &str| {
        fs::write(&pipe, bytes).unwrap();
        tracer.pipe = File::open(&pipe).unwrap();
        tracer.read().unwrap()
    };
    assert_eq!(give(&whole[..20]), (vec![], 0));
    let (lines, unread) = give(&format!("{}nonsense\n", &whole[20..]));
    assert_eq!((lines.len(), unread), (1, 1));
}
