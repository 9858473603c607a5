//! The traits of the crate xenstore-rs, so that what is written for them runs over this client: `Xs` and
//! `XsTransaction` for [`Client`], `Xs` and `XsTransactionSpan` for [`TransactionSpan`].
//!
//! xenstore-rs is GPL-3.0-only, and so is a program that is built with this feature.

use crate::client::{Client, TransactionSpan};
use crate::error::Error;
use std::io;
use xenstore_rs::{Xs, XsTransaction, XsTransactionSpan};

/// The kind is the errno's; the error inside names the operation, the path and the cure.
impl From<Error> for io::Error {
    fn from(error: Error) -> io::Error {
        let kind = match (&error, error.errno()) {
            (_, Some(errno)) => io::Error::from_raw_os_error(errno.raw_os_error()).kind(),
            (Error::Timeout { .. }, _) => io::ErrorKind::TimedOut,
            (Error::Disconnected { .. }, _) => io::ErrorKind::NotConnected,
            (Error::BadValue { .. } | Error::Protocol { .. }, _) => io::ErrorKind::InvalidData,
            (Error::Invalid(_), _) => io::ErrorKind::InvalidInput,
            (Error::Busy { .. } | Error::Conflict { .. }, _) => io::ErrorKind::ResourceBusy,
            (Error::NotOffered { .. }, _) => io::ErrorKind::Unsupported,
            _ => io::ErrorKind::Other,
        };
        io::Error::new(kind, error)
    }
}

macro_rules! xs {
    ($of:ty) => {
        impl Xs for $of {
            fn directory(&self, path: &str) -> io::Result<Vec<Box<str>>> {
                let names = <$of>::directory(self, path)?;
                Ok(names.into_iter().map(String::into_boxed_str).collect())
            }

            fn read(&self, path: &str) -> io::Result<Box<str>> {
                Ok(self.read_string(path)?.into_boxed_str())
            }

            fn write(&self, path: &str, data: &str) -> io::Result<()> {
                Ok(<$of>::write(self, path, data)?)
            }

            fn rm(&self, path: &str) -> io::Result<()> {
                Ok(<$of>::rm(self, path)?)
            }
        }
    };
}

xs!(Client);
xs!(TransactionSpan);

impl XsTransaction for Client {
    type Span = TransactionSpan;

    fn transaction(&self) -> io::Result<TransactionSpan> {
        Ok(self.begin()?)
    }
}

impl XsTransactionSpan for TransactionSpan {
    fn commit(self) -> io::Result<()> {
        Ok(TransactionSpan::commit(self)?)
    }
}
