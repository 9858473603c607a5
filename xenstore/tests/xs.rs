//! Code that is written for the traits of xenstore-rs, over this client.
#![allow(clippy::unwrap_used, reason = "a test")]

mod common;

use common::Xenstore;
use std::io::{ErrorKind, Result};
use xenstore_rs::{Xs, XsTransaction, XsTransactionSpan};

/// As a guest agent does it.
fn publish(
    xs: &impl XsTransaction<Span: XsTransactionSpan>,
    values: &[(&str, &str)],
) -> Result<()> {
    let span = xs.transaction()?;
    for (path, value) in values {
        span.write(path, value)?;
    }
    span.commit()
}

#[test]
fn what_is_written_for_the_traits_runs() {
    let xenstore = Xenstore::new();
    let dom0 = xenstore.dom0();
    publish(&dom0, &[("/a/x", "1"), ("/a/y", "2")]).unwrap();
    let xs: &dyn Xs = &dom0;
    let names = xs.directory("/a").unwrap();
    assert_eq!(names.iter().map(|n| &**n).collect::<Vec<_>>(), ["x", "y"]);
    assert_eq!(&*xs.read("/a/y").unwrap(), "2");
    xs.rm("/a/y").unwrap();
    let error = xs.read("/a/y").unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound);
    assert!(error.to_string().contains("read /a/y"), "{error}");
    dom0.write("/a/x", b"\xff").unwrap();
    assert_eq!(xs.read("/a/x").unwrap_err().kind(), ErrorKind::InvalidData);
    // A span that is dropped is aborted.
    let span = XsTransaction::transaction(&dom0).unwrap();
    Xs::write(&span, "/a/z", "3").unwrap();
    drop(span);
    assert!(!dom0.exists("/a/z").unwrap());
}
