//! Transactions.

use crate::case::{Case, Connect, Many};
use pv_xenstore::Error;
use pv_xenstore::client::Attempts;
use rustix::io::Errno;
use std::time::Duration;

pub const CASES: &[Case] = &[
    Case::new("counter", transactions_collide_and_all_increments_count),
    Case::new(
        "limit",
        a_transaction_that_always_collides_ends_at_its_limit,
    ),
    Case::new("dropped", what_is_not_committed_is_not_seen),
    Case::new("span", a_transaction_of_ones_own),
];

fn transactions_collide_and_all_increments_count(connect: &Connect<'_>, node: &str, many: Many) {
    const THREADS: usize = 4;
    let each = many.of(25);
    let patient = Attempts {
        most: 1000,
        ..Attempts::default()
    };
    let shared = connect();
    shared.write(node, "0").unwrap();
    std::thread::scope(|scope| {
        for thread in 0..THREADS {
            // Two threads share a connection, two have their own.
            let client = if thread % 2 == 0 {
                shared.clone()
            } else {
                connect()
            };
            scope.spawn(move || {
                for _ in 0..each {
                    let added = client.transaction_with(patient, |tx| {
                        let n: usize = tx.read_parsed(node)?;
                        tx.write(node, (n + 1).to_string())
                    });
                    added.unwrap();
                }
            });
        }
    });
    assert_eq!(shared.read_parsed::<usize>(node).unwrap(), THREADS * each);
}

fn a_transaction_that_always_collides_ends_at_its_limit(
    connect: &Connect<'_>,
    node: &str,
    _: Many,
) {
    let (one, other) = (connect(), connect());
    for most in [1, 3] {
        let attempts = Attempts {
            most,
            pause_max: Duration::ZERO,
        };
        let mut tries = 0;
        let error = one.transaction_with(attempts, |tx| {
            tries += 1;
            tx.read(node)?;
            tx.write(&format!("{node}/x"), "1")?;
            other.write(node, format!("{most} {tries}"))
        });
        let error = error.unwrap_err();
        assert!(
            matches!(error, Error::Conflict { attempts } if attempts == most),
            "{error}"
        );
        assert_eq!(tries, most);
    }
    assert!(!one.exists(&format!("{node}/x")).unwrap());
}

fn what_is_not_committed_is_not_seen(connect: &Connect<'_>, node: &str, _: Many) {
    let client = connect();
    let (x, none) = (format!("{node}/x"), format!("{node}/none"));
    for _ in 0..30 {
        // More than any daemon lets be open: they are really closed.
        let error = client.transaction(|tx| {
            tx.write(&x, "1")?;
            tx.read(&none).map(|_| ())
        });
        assert_eq!(error.unwrap_err().errno(), Some(Errno::NOENT));
        drop(client.begin().unwrap());
    }
    assert!(!client.exists(&x).unwrap());
}

fn a_transaction_of_ones_own(connect: &Connect<'_>, node: &str, _: Many) {
    let (client, other) = (connect(), connect());
    // A daemon may say EAGAIN for reasons of its own: oxenstored does with `test-eagain`.
    let committed = (0..100).any(|_| {
        let span = client.begin().unwrap();
        span.write(node, "inside").unwrap();
        assert_eq!(other.read(node).unwrap(), b"");
        assert_eq!(span.read(node).unwrap(), b"inside");
        match span.commit() {
            Ok(()) => true,
            Err(error) => {
                assert_eq!(error.errno(), Some(Errno::AGAIN), "{error}");
                false
            }
        }
    });
    assert!(committed);
    assert_eq!(other.read(node).unwrap(), b"inside");

    let span = client.begin().unwrap();
    span.read(node).unwrap();
    span.write(node, "lost").unwrap();
    other.write(node, "won").unwrap();
    assert_eq!(span.commit().unwrap_err().errno(), Some(Errno::AGAIN));
    assert_eq!(client.read(node).unwrap(), b"won");
}
