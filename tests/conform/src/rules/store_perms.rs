//! xenstore's permissions: whose a node is, and who else may read and write it.

use crate::bench::{Bench, Partner};
use crate::outcome::Outcome;
use crate::rule::Rule;
use crate::store::{Scratch, denied, says_no, says_yes, unique};
use crate::things::same;
use pv_harness::hand::StoreOrder;
use pv_xenstore::{Client, Permission, Rights};
use rustix::io::Errno;

pub(super) const RULES: &[Rule] = &[
    Rule::new(
        "store-home-is-the-toolstacks",
        "A domain may not write in its own directory, but in `data` and the others that it was given there.",
        "tools/libs/light/libxl_create.c: libxl__domain_make; tools/xenstore/xenstored_core.c: get_node",
        home,
    ),
    Rule::new(
        "store-elsewhere-is-eacces",
        "In other domains' directories, dom0's and the root all is EACCES, there or not.",
        "tools/xenstore/xenstored_core.c: errno_from_parents",
        elsewhere,
    ),
    Rule::new(
        "store-node-is-private-until-shared",
        "Another domain may read a node when it has `r`, write it when it has `w`, both when it has `b`, else neither.",
        "tools/xenstore/xenstored_core.c: perm_for_conn",
        private_until_shared,
    ),
    Rule::new(
        "store-first-entry-is-for-everybody-else",
        "The first permission names the owner, and what those may do whom no other one names.",
        "tools/xenstore/xenstored_core.c: perm_for_conn",
        everybody_else,
    ),
    Rule::new(
        "store-only-the-owner-sets-permissions",
        "Who may write a node may not change its permissions; its owner may, but not give it away.",
        "tools/xenstore/xenstored_core.c: do_set_perms",
        only_the_owner,
    ),
    Rule::new(
        "store-child-has-its-parents-permissions",
        "A new node has its parent's permissions of that moment; later changes of those do not reach it.",
        "tools/xenstore/xenstored_core.c: construct_node",
        inherits,
    ),
    Rule::new(
        "store-child-is-its-makers",
        "A node that another domain makes is that domain's, and the parent's owner may not read it, but removes it with the parent.",
        "tools/xenstore/xenstored_core.c: construct_node, delete_node",
        makers,
    ),
    Rule::new(
        "store-permission-limit",
        "A node has at most five permissions; more is ENOSPC.",
        "tools/xenstore/xenstored_core.c: do_set_perms (quota_nb_perms_per_node)",
        permission_limit,
    ),
];

fn read(path: &str) -> StoreOrder {
    StoreOrder::Read(path.into())
}

fn write(path: &str, value: &str) -> StoreOrder {
    StoreOrder::Write(path.into(), value.into())
}

/// Lets the other domain have rights on a node of this one's.
fn share(bench: &Bench, client: &Client, path: &str, rights: Rights) -> Outcome {
    let perms = [
        Permission::new(Rights::None, bench.own()),
        Permission::new(rights, bench.peer_id()),
    ];
    Ok(client.set_perms(path, &perms)?)
}

fn home(bench: &Bench) -> Outcome {
    let client = Client::connect(bench.platform())?;
    let domid = client.read("domid")?;
    denied("writing domid", client.write("domid", "0"), Errno::ACCESS)?;
    denied("removing it", client.rm("domid"), Errno::ACCESS)?;
    denied("a new node", client.mkdir("pvpair-conform"), Errno::ACCESS)?;
    denied("device", client.write("device/x", ""), Errno::ACCESS)?;
    same("domid", client.read("domid")?, domid)?;
    // What is not there is not hidden from who may read there.
    denied(
        "what is not there",
        client.read("pvpair-conform"),
        Errno::NOENT,
    )
}

fn elsewhere(bench: &Bench) -> Outcome {
    let client = Client::connect(bench.platform())?;
    let theirs = format!("/local/domain/{}", bench.peer_id().0);
    for dir in [theirs.as_str(), "/local/domain/0", "/local/domain", ""] {
        for below in ["domid", "data", "pvpair-conform", "pvpair/conform"] {
            let path = format!("{dir}/{below}");
            denied(&path, client.read(&path), Errno::ACCESS)?;
            denied(&path, client.directory(&path), Errno::ACCESS)?;
            denied(&path, client.write(&path, "x"), Errno::ACCESS)?;
            denied(&path, client.mkdir(&path), Errno::ACCESS)?;
            denied(&path, client.rm(&path), Errno::ACCESS)?;
        }
    }
    denied("listing the root", client.directory("/"), Errno::ACCESS)
}

fn private_until_shared(bench: &Bench) -> Outcome {
    let scratch = Scratch::new(bench)?;
    let (client, peer) = (scratch.client(), bench.peer()?);
    let path = scratch.path();
    let afar = scratch.seen_from_afar(bench);
    client.write(path, "old")?;
    let own = vec![Permission::new(Rights::None, bench.own())];
    same("a new node's permissions", client.get_perms(path)?, own)?;
    for (rights, reads, writes) in [
        (None, false, false),
        (Some(Rights::Read), true, false),
        (Some(Rights::Write), false, true),
        (Some(Rights::Both), true, true),
        (Some(Rights::None), false, false),
    ] {
        if let Some(rights) = rights {
            share(bench, client, path, rights)?;
        }
        client.write(path, "old")?;
        allowed(
            peer,
            read(&afar),
            reads,
            &format!("reading with {rights:?}"),
        )?;
        allowed(
            peer,
            write(&afar, "new"),
            writes,
            &format!("writing with {rights:?}"),
        )?;
        let value = if writes { "new" } else { "old" };
        same("the value", client.read_string(path)?, value.into())?;
    }
    Ok(())
}

fn allowed(peer: &Partner, order: StoreOrder, is: bool, what: &str) -> Outcome {
    let reply = peer.store(order)?;
    if is {
        says_yes(what, reply).map(drop)
    } else {
        says_no(what, reply, Errno::ACCESS)
    }
}

fn everybody_else(bench: &Bench) -> Outcome {
    let scratch = Scratch::new(bench)?;
    let (client, peer) = (scratch.client(), bench.peer()?);
    let afar = scratch.seen_from_afar(bench);
    client.write(scratch.path(), "x")?;
    let everybody = Permission::new(Rights::Read, bench.own());
    client.set_perms(scratch.path(), &[everybody])?;
    let value = says_yes("reading what all may read", peer.store(read(&afar))?)?;
    same("the value", value, b"x".to_vec())?;
    let but_not = Permission::new(Rights::None, bench.peer_id());
    client.set_perms(scratch.path(), &[everybody, but_not])?;
    let reply = peer.store(read(&afar))?;
    says_no(
        "reading what all but this one may read",
        reply,
        Errno::ACCESS,
    )?;
    // The owner is not bound by what it lets others do.
    same("the value", client.read(scratch.path())?, b"x".to_vec())
}

fn only_the_owner(bench: &Bench) -> Outcome {
    let scratch = Scratch::new(bench)?;
    let (client, peer) = (scratch.client(), bench.peer()?);
    share(bench, client, scratch.path(), Rights::Both)?;
    let perms = client.get_perms(scratch.path())?;
    let texts: Vec<String> = perms.iter().map(ToString::to_string).collect();
    let order = StoreOrder::SetPerms(scratch.seen_from_afar(bench), texts);
    says_no("a writer's change", peer.store(order)?, Errno::ACCESS)?;
    let away = [Permission::new(Rights::Both, bench.peer_id())];
    let given = client.set_perms(scratch.path(), &away);
    denied("giving it away", given, Errno::PERM)?;
    same("its permissions", client.get_perms(scratch.path())?, perms)
}

fn inherits(bench: &Bench) -> Outcome {
    let scratch = Scratch::new(bench)?;
    let client = scratch.client();
    share(bench, client, scratch.path(), Rights::Read)?;
    let perms = client.get_perms(scratch.path())?;
    client.write(&scratch.at("a/b"), "x")?;
    same("a's", client.get_perms(&scratch.at("a"))?, perms.clone())?;
    share(bench, client, scratch.path(), Rights::None)?;
    same("a/b's", client.get_perms(&scratch.at("a/b"))?, perms)?;
    // No need to read what is above.
    let afar = format!("{}/a/b", scratch.seen_from_afar(bench));
    let value = says_yes("reading below", bench.peer()?.store(read(&afar))?)?;
    same("the value", value, b"x".to_vec())
}

fn makers(bench: &Bench) -> Outcome {
    let scratch = Scratch::new(bench)?;
    let (client, peer) = (scratch.client(), bench.peer()?);
    let gift = scratch.at("gift");
    client.mkdir(&gift)?;
    share(bench, client, &gift, Rights::Write)?;
    let afar = format!("{}/gift/theirs", scratch.seen_from_afar(bench));
    says_yes("writing below", peer.store(write(&afar, "x"))?)?;
    let listed = client.directory(&gift)?;
    same("the children", listed, vec!["theirs".into()])?;
    let theirs = format!("{gift}/theirs");
    denied("reading it", client.read(&theirs), Errno::ACCESS)?;
    denied("writing it", client.write(&theirs, ""), Errno::ACCESS)?;
    let value = says_yes("its maker's read", peer.store(read(&afar))?)?;
    same("the value", value, b"x".to_vec())?;
    client.rm(&gift)?;
    denied("the tree", client.read(&theirs), Errno::NOENT)
}

fn permission_limit(bench: &Bench) -> Outcome {
    let scratch = Scratch::new(bench)?;
    let client = scratch.client();
    let mut perms = vec![Permission::new(Rights::None, bench.own())];
    perms.resize(5, Permission::new(Rights::Read, bench.peer_id()));
    client.set_perms(scratch.path(), &perms)?;
    perms.push(Permission::new(Rights::Read, bench.peer_id()));
    let six = client.set_perms(scratch.path(), &perms);
    denied("six permissions", six, Errno::NOSPC)?;
    denied("none", client.set_perms(scratch.path(), &[]), Errno::INVAL)?;
    let absent = client.set_perms(&unique(), &perms[..1]);
    denied("those of nothing", absent, Errno::NOENT)
}
