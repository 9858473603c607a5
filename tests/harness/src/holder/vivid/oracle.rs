//! C as the oracle: compiles a program against the system's own header and compares every number, size
//! and offset with ours.

use super::uapi::{self, *};
use std::collections::BTreeMap;
use std::fmt::Write;
use std::mem::offset_of;
use std::process::Command;

/// What a fact is called in C, and what it is here.
type Facts = BTreeMap<String, u64>;

macro_rules! layout {
    ($facts:ident, $c:literal, $ours:ty { $($field:ident $(= $c_field:literal)?),* }) => {
        $facts.insert(concat!("sizeof(", $c, ")").into(), size_of::<$ours>() as u64);
        $({
            let field = [$($c_field,)? stringify!($field)][0];
            let name = format!("offsetof({}, {field})", $c);
            $facts.insert(name, offset_of!($ours, $field) as u64);
        })*
    };
}

macro_rules! numbers {
    ($facts:ident, $($name:ident),*) => {
        $($facts.insert(concat!("V4L2_", stringify!($name)).into(), u64::from(uapi::$name));)*
    };
}

fn ours() -> Facts {
    let mut f: Facts = ALL.iter().map(|(name, n)| ((*name).into(), *n)).collect();
    numbers!(
        f,
        CAP_VIDEO_CAPTURE,
        CAP_VIDEO_OUTPUT,
        BUF_TYPE_VIDEO_CAPTURE,
        BUF_TYPE_VIDEO_OUTPUT,
        MEMORY_USERPTR,
        FIELD_NONE,
        PIX_FMT_GREY,
        SEL_TGT_CROP,
        SEL_TGT_COMPOSE,
        CTRL_FLAG_NEXT_CTRL,
        BUF_FLAG_ERROR
    );
    layout!(
        f,
        "struct v4l2_capability",
        Capability {
            driver,
            card,
            bus_info,
            version,
            capabilities,
            device_caps,
            reserved
        }
    );
    layout!(f, "struct v4l2_format", Format {
        kind = "type", width = "fmt.pix.width", height = "fmt.pix.height",
        pixelformat = "fmt.pix.pixelformat", field = "fmt.pix.field",
        bytesperline = "fmt.pix.bytesperline", sizeimage = "fmt.pix.sizeimage",
        rest = "fmt.pix.colorspace"
    });
    layout!(f, "struct v4l2_requestbuffers", RequestBuffers {
        count, kind = "type", memory, capabilities, flags
    });
    layout!(f, "struct v4l2_buffer", Buffer {
        index, kind = "type", bytesused, flags, field, timestamp, timecode, sequence, memory,
        userptr = "m.userptr", length, reserved2, request_fd
    });
    layout!(f, "struct v4l2_selection", Selection {
        kind = "type", target, flags, left = "r.left", top = "r.top", width = "r.width",
        height = "r.height", reserved
    });
    layout!(f, "struct v4l2_control", Control { id, value });
    layout!(f, "struct v4l2_queryctrl", QueryControl {
        id, kind = "type", name, minimum, maximum, step, default_value, flags, reserved
    });
    layout!(
        f,
        "struct v4l2_querymenu",
        QueryMenu {
            id,
            index,
            name,
            reserved
        }
    );
    layout!(f, "struct v4l2_input", Input {
        index, name, rest = "type", std, status, capabilities, reserved
    });
    layout!(f, "struct v4l2_output", Output {
        index, name, rest = "type", std, capabilities, reserved
    });
    f
}

/// The same names, as C has them.
fn theirs<'a>(names: impl Iterator<Item = &'a String>) -> Facts {
    let mut source = String::from(
        "#include <stddef.h>\n#include <stdio.h>\n#include <sys/time.h>\n#include <linux/videodev2.h>\nint main(void) {\n",
    );
    for name in names {
        let _ = writeln!(
            source,
            "printf(\"%s=%llu\\n\", \"{name}\", (unsigned long long)({name}));"
        );
    }
    source.push_str("return 0; }\n");
    let dir = tempfile::tempdir().unwrap();
    let (file, program) = (dir.path().join("oracle.c"), dir.path().join("oracle"));
    std::fs::write(&file, source).unwrap();
    let cc = std::env::var_os("CC").unwrap_or_else(|| "cc".into());
    let built = Command::new(cc)
        .arg("-o")
        .args([&program, &file])
        .output()
        .expect("a C compiler: install the package gcc, or set CC");
    let said = String::from_utf8_lossy(&built.stderr);
    assert!(
        built.status.success(),
        "the package linux-libc-dev has the header:\n{said}"
    );
    let run = Command::new(&program).output().unwrap();
    let text = String::from_utf8(run.stdout).unwrap();
    let fact = |line: &str| {
        let (name, value) = line.rsplit_once('=').unwrap();
        (name.to_owned(), value.parse().unwrap())
    };
    text.lines().map(fact).collect()
}

#[test]
fn every_number_size_and_offset_is_cs() {
    let ours = ours();
    assert!(ours.len() > 80, "{}", ours.len());
    assert_eq!(ours, theirs(ours.keys()));
}
