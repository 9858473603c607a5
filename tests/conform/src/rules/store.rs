//! xenstore's nodes: paths, values, directories, removal, limits.

use crate::bench::Bench;
use crate::conn::Conn;
use crate::outcome::Outcome;
use crate::rule::Rule;
use crate::store::{Scratch, denied, says_no, unique};
use crate::things::same;
use pv_xenstore::Client;
use pv_xenstore::wire::Kind;
use rustix::io::Errno;

const GET_NODE: &str = "tools/xenstore/xenstored_core.c: get_node";

pub(super) const RULES: &[Rule] = &[
    Rule::new(
        "store-relative-path-starts-at-home",
        "A path without a leading slash is below the domain's own directory, whose `domid` is its id.",
        "tools/xenstore/xenstored_core.c: canonicalize; xenstored_domain.c: get_implicit_path",
        relative_path,
    ),
    Rule::new(
        "store-absent-node-is-enoent",
        "Reading, listing, or asking the permissions of a node that is not there is ENOENT.",
        GET_NODE,
        absent_node,
    ),
    Rule::new(
        "store-write-makes-the-parents",
        "Writing a node makes the nodes above it that are missing, with empty values.",
        "tools/xenstore/xenstored_core.c: do_write, construct_node",
        makes_parents,
    ),
    Rule::new(
        "store-value-is-any-bytes",
        "A value is any bytes, NULs among them, or none.",
        "tools/xenstore/xenstored_core.c: do_write",
        any_bytes,
    ),
    Rule::new(
        "store-mkdir-keeps-what-is-there",
        "Making a node that is there already succeeds, and changes nothing.",
        "tools/xenstore/xenstored_core.c: do_mkdir",
        mkdir_keeps,
    ),
    Rule::new(
        "store-directory-lists-in-the-order-of-creation",
        "A directory lists its children, not theirs, oldest first; one that was removed and made again is the youngest.",
        "tools/xenstore/xenstored_core.c: send_directory, construct_node, remove_child_entry",
        order_of_creation,
    ),
    Rule::new(
        "store-rm-removes-the-tree",
        "Removing a node removes all below it.",
        "tools/xenstore/xenstored_core.c: delete_node",
        removes_tree,
    ),
    Rule::new(
        "store-rm-of-an-absent-node",
        "Removing a node that is not there succeeds if its parent is there, and is ENOENT if not.",
        "tools/xenstore/xenstored_core.c: do_rm",
        rm_absent,
    ),
    Rule::new(
        "store-bad-path-is-einval",
        "A character but letters, digits and -/_@, two slashes together, or one at the end, is EINVAL.",
        "tools/xenstore/xenstored_core.c: is_valid_nodename",
        bad_path,
    ),
    Rule::new(
        "store-path-limit",
        "A path may have 2048 bytes, those of a leading /local/domain/N/ not counted; more is EINVAL.",
        "tools/xenstore/xenstored_core.c: is_valid_nodename",
        path_limit,
    ),
    Rule::new(
        "store-node-limit",
        "A node's value, 8 bytes for each permission and 24 more stay below 2048; else it is ENOSPC, and the old value stays.",
        "tools/xenstore/xenstored_core.c: write_node_raw",
        node_limit,
    ),
    Rule::new(
        "store-node-limit-counts-the-children",
        "The names of its children, each with a NUL, count against a node's limit.",
        "tools/xenstore/xenstored_core.c: write_node_raw",
        node_limit_counts_children,
    ),
    Rule::new(
        "store-toolstack-requests-are-refused",
        "Introducing, releasing and the like is EACCES for a domain.",
        "tools/xenstore/xenstored_core.c: process_message (XS_FLAG_PRIV)",
        toolstack_requests,
    ),
];

fn relative_path(bench: &Bench) -> Outcome {
    let client = Client::connect(bench.platform())?;
    let own = bench.own().0.to_string();
    same("domid", client.read_string("domid")?, own.clone())?;
    let absolute = format!("/local/domain/{own}/domid");
    same(&absolute, client.read_string(&absolute)?, own)?;
    let home = client.domain_path(bench.own())?;
    same("home", home, format!("/local/domain/{}", bench.own().0))
}

fn absent_node(bench: &Bench) -> Outcome {
    let client = Client::connect(bench.platform())?;
    let path = unique();
    let below = format!("{path}/below");
    denied("reading", client.read(&path), Errno::NOENT)?;
    denied("reading below", client.read(&below), Errno::NOENT)?;
    denied("listing", client.directory(&path), Errno::NOENT)?;
    denied("permissions", client.get_perms(&path), Errno::NOENT)?;
    denied(
        "new permissions",
        client.set_perms(&path, &client.get_perms("data")?),
        Errno::NOENT,
    )
}

fn makes_parents(bench: &Bench) -> Outcome {
    let scratch = Scratch::new(bench)?;
    let client = scratch.client();
    client.write(&scratch.at("a/b/c"), "x")?;
    same(
        "a/b/c",
        client.read_string(&scratch.at("a/b/c"))?,
        "x".into(),
    )?;
    same("a/b", client.read(&scratch.at("a/b"))?, vec![])?;
    same("a", client.directory(&scratch.at("a"))?, vec!["b".into()])
}

fn any_bytes(bench: &Bench) -> Outcome {
    let scratch = Scratch::new(bench)?;
    let client = scratch.client();
    let all: Vec<u8> = (0..=255).collect();
    for value in [&all[..], b"", b"\0", b"end\0"] {
        client.write(scratch.path(), value)?;
        same("the value", client.read(scratch.path())?, value.to_vec())?;
    }
    Ok(())
}

fn mkdir_keeps(bench: &Bench) -> Outcome {
    let scratch = Scratch::new(bench)?;
    let client = scratch.client();
    client.write(&scratch.at("a"), "x")?;
    client.mkdir(&scratch.at("a"))?;
    client.mkdir(&scratch.at("b/c"))?;
    same("a", client.read_string(&scratch.at("a"))?, "x".into())?;
    same("b/c", client.read(&scratch.at("b/c"))?, vec![])
}

fn order_of_creation(bench: &Bench) -> Outcome {
    let scratch = Scratch::new(bench)?;
    let client = scratch.client();
    for name in ["m", "a/below", "z", "b"] {
        client.mkdir(&scratch.at(name))?;
    }
    let names = client.directory(scratch.path())?;
    same(
        "the children",
        names,
        ["m", "a", "z", "b"].map(String::from).to_vec(),
    )?;
    client.rm(&scratch.at("a"))?;
    client.write(&scratch.at("z"), "an old one")?;
    client.mkdir(&scratch.at("a"))?;
    let names = client.directory(scratch.path())?;
    same(
        "the children",
        names,
        ["m", "z", "b", "a"].map(String::from).to_vec(),
    )
}

fn removes_tree(bench: &Bench) -> Outcome {
    let scratch = Scratch::new(bench)?;
    let client = scratch.client();
    client.write(&scratch.at("top/a/b"), "x")?;
    client.write(&scratch.at("top/c"), "x")?;
    client.write(&scratch.at("topmost"), "x")?;
    client.rm(&scratch.at("top"))?;
    for gone in ["top/a/b", "top/a", "top/c", "top"] {
        denied(gone, client.read(&scratch.at(gone)), Errno::NOENT)?;
    }
    let left = client.directory(scratch.path())?;
    same("what is left", left, vec!["topmost".into()])
}

fn rm_absent(bench: &Bench) -> Outcome {
    let scratch = Scratch::new(bench)?;
    let client = scratch.client();
    client.rm(&scratch.at("none"))?;
    denied(
        "removing below what is not there",
        client.rm(&scratch.at("none/below")),
        Errno::NOENT,
    )
}

fn bad_path(bench: &Bench) -> Outcome {
    let scratch = Scratch::new(bench)?;
    let client = scratch.client();
    for bad in ["a b", "a.b", "a//b", "a/", "\u{e9}", "a:b", "a+b"] {
        let path = scratch.at(bad);
        denied(&path, client.write(&path, "x"), Errno::INVAL)?;
        denied(&path, client.read(&path), Errno::INVAL)?;
        denied(&path, client.watch(&path, "t"), Errno::INVAL)?;
    }
    denied("no path at all", client.read(""), Errno::INVAL)?;
    denied("//", client.read("//"), Errno::INVAL)?;
    let special = client.read("@releaseDomain");
    denied("a special watch's name", special, Errno::INVAL)?;
    same("what was made", client.directory(scratch.path())?, vec![])?;
    let good = scratch.at("AZaz09-_@");
    Ok(client.write(&good, "x")?)
}

fn path_limit(bench: &Bench) -> Outcome {
    let client = Client::connect(bench.platform())?;
    let home = client.domain_path(bench.own())?;
    // Each with the errno of a node that is not there, or is none of this domain's business.
    for (start, not_counted, absent) in [
        ("data/".to_owned(), 0, Errno::NOENT),
        (format!("{home}/data/"), home.len() + 1, Errno::NOENT),
        ("/".to_owned(), 0, Errno::ACCESS),
    ] {
        let path = |len: usize| format!("{start}{}", "x".repeat(len + not_counted - start.len()));
        let name = |len| format!("a path of {len} bytes from {start}");
        denied(&name(2048), client.read(&path(2048)), absent)?;
        denied(&name(2049), client.read(&path(2049)), Errno::INVAL)?;
    }
    Ok(())
}

fn node_limit(bench: &Bench) -> Outcome {
    let scratch = Scratch::new(bench)?;
    let client = scratch.client();
    let path = scratch.at("a");
    let value = |len| vec![b'v'; len];
    client.write(&path, value(2015))?;
    denied("2016 bytes", client.write(&path, value(2016)), Errno::NOSPC)?;
    same("the old value", client.read(&path)?.len(), 2015)?;
    let new = client.write(&scratch.at("b"), value(2016));
    denied("2016 bytes in a new node", new, Errno::NOSPC)?;
    denied("it", client.read(&scratch.at("b")), Errno::NOENT)?;
    let mut perms = client.get_perms(&path)?;
    perms.push(pv_xenstore::Permission::new(
        pv_xenstore::Rights::Read,
        bench.peer_id(),
    ));
    let more = client.set_perms(&path, &perms);
    denied("one permission more", more, Errno::NOSPC)?;
    client.write(&path, value(2007))?;
    Ok(client.set_perms(&path, &perms)?)
}

fn node_limit_counts_children(bench: &Bench) -> Outcome {
    let scratch = Scratch::new(bench)?;
    let client = scratch.client();
    let top = scratch.at("top");
    client.write(&top, vec![b'v'; 2010])?;
    client.mkdir(&format!("{top}/1234"))?;
    let one_more = client.mkdir(&format!("{top}/5"));
    denied("2015 bytes and a name", one_more, Errno::NOSPC)?;
    same("the children", client.directory(&top)?, vec!["1234".into()])?;
    client.write(&top, "shorter")?;
    Ok(client.mkdir(&format!("{top}/5"))?)
}

fn toolstack_requests(bench: &Bench) -> Outcome {
    let mut conn = Conn::open(bench)?;
    for (kind, args) in [
        (Kind::Introduce, &b"999\x001\x001\0"[..]),
        (Kind::Release, b"999\0"),
        (Kind::Resume, b"999\0"),
        (Kind::SetTarget, b"1\x002\0"),
        (Kind::IsDomainIntroduced, b"0\0"),
        (Kind::Control, b"help\0"),
    ] {
        let reply = conn.ask(kind, 0, args)?;
        says_no(kind.c_name(), reply, Errno::ACCESS)?;
    }
    Ok(())
}
