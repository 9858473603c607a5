//! What a client, and a transaction of it, can do with nodes.

use super::about::{About, text_of};
use super::handle::{Call, Client};
use super::protocol::DIRECTORY_MAX_BYTES;
use super::submit::{Request, Ticket, all, read_many, submit};
use super::transaction::{Transaction, TransactionSpan};
use crate::error::{Error, Result};
use crate::perms::Permission;
use crate::value;
use crate::wire::{Kind, strings};
use rustix::io::Errno;
use std::str::FromStr;

/// A directory that changes all the time while its parts are read is given up after so many tries.
const DIRECTORY_ATTEMPTS: u32 = 16;

fn directory(to: &impl Call, path: &str) -> Result<Vec<String>> {
    let about = About {
        operation: "directory",
        path,
    };
    let names = match to.request(about, Kind::Directory, &[path.as_bytes(), b"\0"]) {
        Err(Error::Refused {
            errno: Errno::TOOBIG,
            ..
        }) => directory_in_parts(to, about)?,
        other => other?,
    };
    names_of(about, &names)
}

fn directory_in_parts(to: &impl Call, about: About<'_>) -> Result<Vec<u8>> {
    'again: for _ in 0..DIRECTORY_ATTEMPTS {
        let (mut names, mut generation) = (Vec::new(), None);
        loop {
            let offset = names.len().to_string();
            let parts = [about.path.as_bytes(), b"\0", offset.as_bytes(), b"\0"];
            let part = match to.request(about, Kind::DirectoryPart, &parts) {
                Err(error) if error.errno() == Some(Errno::NOSYS) => {
                    let what = "a list of names that is longer than a message: oxenstored does so over its socket alone";
                    return Err(Error::NotOffered { what });
                }
                part => part?,
            };
            let nul = part
                .iter()
                .position(|b| *b == 0)
                .ok_or_else(|| about.nonsense("no generation"))?;
            let (now, rest) = (part[..nul].to_vec(), &part[nul + 1..]);
            if generation.get_or_insert_with(|| now.clone()) != &now {
                continue 'again;
            }
            if rest.is_empty() {
                return Err(about.nonsense("an empty part"));
            }
            names.extend_from_slice(rest);
            if names.len() > DIRECTORY_MAX_BYTES {
                return Err(about.nonsense("a directory without an end"));
            }
            // The last part ends with an empty name.
            if names == b"\0" || names.ends_with(b"\0\0") {
                names.pop();
                return Ok(names);
            }
        }
    }
    Err(Error::Conflict {
        attempts: DIRECTORY_ATTEMPTS,
    })
}

fn names_of(about: About<'_>, names: &[u8]) -> Result<Vec<String>> {
    let names = strings(names).ok_or_else(|| about.nonsense("a name without an end"))?;
    names
        .into_iter()
        .map(|name| text_of(about, name.to_vec()))
        .collect()
}

fn get_perms(to: &impl Call, path: &str) -> Result<Vec<Permission>> {
    let about = About {
        operation: "get-perms",
        path,
    };
    let answer = to.request(about, Kind::GetPerms, &[path.as_bytes(), b"\0"])?;
    let parse = |text: String| {
        Permission::from_wire(&text).map_err(|error| about.nonsense(error.to_string()))
    };
    names_of(about, &answer)?.into_iter().map(parse).collect()
}

fn set_perms(to: &impl Call, path: &str, perms: &[Permission]) -> Result<()> {
    let list: String = perms.iter().map(|p| format!("{p}\0")).collect();
    let about = About {
        operation: "set-perms",
        path,
    };
    to.request(
        about,
        Kind::SetPerms,
        &[path.as_bytes(), b"\0", list.as_bytes()],
    )?;
    Ok(())
}

fn bad_value(path: &str, value: &[u8], expected: &'static str) -> Error {
    Error::BadValue {
        path: path.to_owned(),
        value: value::shown(value),
        expected,
    }
}

/// White space may belong to a text; NULs behind it never do.
fn text(path: &str, mut value: Vec<u8>) -> Result<String> {
    while value.last() == Some(&0) {
        value.pop();
    }
    String::from_utf8(value).map_err(|error| bad_value(path, error.as_bytes(), "text"))
}

fn parsed<T: FromStr>(path: &str, value: &[u8]) -> Result<T> {
    let text = std::str::from_utf8(value::trimmed(value)).ok();
    // `parse` alone would take a number's plus sign, which no node has.
    text.filter(|text| !text.starts_with('+'))
        .and_then(|text| text.parse().ok())
        .ok_or_else(|| bad_value(path, value, std::any::type_name::<T>()))
}

macro_rules! operations {
    ($on:ty) => {
        impl $on {
            /// A node's value.
            ///
            /// # Errors
            /// ENOENT, EACCES, and the connection's.
            pub fn read(&self, path: &str) -> Result<Vec<u8>> {
                let about = About {
                    operation: "read",
                    path,
                };
                self.request(about, Kind::Read, &[path.as_bytes(), b"\0"])
            }

            /// A node's value; `None` if there is no such node.
            ///
            /// # Errors
            /// EACCES, and the connection's.
            pub fn try_read(&self, path: &str) -> Result<Option<Vec<u8>>> {
                match self.read(path) {
                    Ok(value) => Ok(Some(value)),
                    Err(Error::Refused {
                        errno: Errno::NOENT,
                        ..
                    }) => Ok(None),
                    Err(error) => Err(error),
                }
            }

            /// A node's value; `None` if it is not there, or not there for this domain
            /// ([`Error::is_gone`]).
            ///
            /// # Errors
            /// The connection's.
            pub fn read_unless_gone(&self, path: &str) -> Result<Option<Vec<u8>>> {
                match self.read(path) {
                    Ok(value) => Ok(Some(value)),
                    Err(error) if error.is_gone() => Ok(None),
                    Err(error) => Err(error),
                }
            }

            /// A node's value as text, without the NUL bytes that some toolstacks write behind it.
            ///
            /// # Errors
            /// As `read`; [`Error::BadValue`] if it is no UTF-8.
            pub fn read_string(&self, path: &str) -> Result<String> {
                text(path, self.read(path)?)
            }

            /// A node's value as a number or whatever else can be parsed, without what
            /// [`value::trimmed`] takes away.
            ///
            /// # Errors
            /// As `read`; [`Error::BadValue`] if it does not parse.
            pub fn read_parsed<T: FromStr>(&self, path: &str) -> Result<T> {
                parsed(path, &self.read(path)?)
            }

            /// As `read_parsed`; `None` if there is no such node.
            ///
            /// # Errors
            /// As `read_parsed`.
            pub fn try_read_parsed<T: FromStr>(&self, path: &str) -> Result<Option<T>> {
                match self.read_parsed(path) {
                    Ok(value) => Ok(Some(value)),
                    Err(Error::Refused {
                        errno: Errno::NOENT,
                        ..
                    }) => Ok(None),
                    Err(error) => Err(error),
                }
            }

            /// Sets a node's value; creates it, and nodes above it that are missing.
            ///
            /// # Errors
            /// EACCES, EINVAL, ENOSPC, and the connection's.
            pub fn write(&self, path: &str, value: impl AsRef<[u8]>) -> Result<()> {
                let about = About {
                    operation: "write",
                    path,
                };
                self.request(
                    about,
                    Kind::Write,
                    &[path.as_bytes(), b"\0", value.as_ref()],
                )?;
                Ok(())
            }

            /// Creates a node, and nodes above it that are missing. It may be there already.
            ///
            /// # Errors
            /// As `write`.
            pub fn mkdir(&self, path: &str) -> Result<()> {
                let about = About {
                    operation: "mkdir",
                    path,
                };
                self.request(about, Kind::Mkdir, &[path.as_bytes(), b"\0"])?;
                Ok(())
            }

            /// Removes a node and all below it. It may be gone already, if its parent is there.
            ///
            /// # Errors
            /// ENOENT (no parent), EACCES, and the connection's.
            pub fn rm(&self, path: &str) -> Result<()> {
                let about = About {
                    operation: "rm",
                    path,
                };
                self.request(about, Kind::Rm, &[path.as_bytes(), b"\0"])?;
                Ok(())
            }

            /// The values of many nodes, in the order of the paths; `None` for a node that is not
            /// there. Many requests are in flight at once, so it takes little longer than one.
            ///
            /// # Errors
            /// EACCES, and the connection's.
            pub fn read_many<P: AsRef<str>>(
                &self,
                paths: impl IntoIterator<Item = P>,
            ) -> Result<Vec<Option<Vec<u8>>>> {
                read_many(self, paths)
            }

            /// Performs requests in order, many of them in flight at once, and gives what became of
            /// each.
            ///
            /// # Errors
            /// [`Error::Invalid`] for one that cannot be sent, and the connection's; the earlier ones
            /// may have been done.
            pub fn perform_all(
                &self,
                requests: impl IntoIterator<Item = Request>,
            ) -> Result<Vec<Result<Vec<u8>>>> {
                all(self, requests)
            }

            /// Sends a request, and does not wait for its answer. Answers of one connection come in
            /// whatever order the daemon gives them: in that of the requests, as all daemons do now.
            ///
            /// # Errors
            /// [`Error::Busy`], [`Error::Invalid`], [`Error::Disconnected`].
            pub fn submit(&self, request: Request) -> Result<Ticket> {
                submit(self, request)
            }

            /// The names of a node's children, in order; however many.
            ///
            /// # Errors
            /// ENOENT, EACCES, and the connection's.
            pub fn directory(&self, path: &str) -> Result<Vec<String>> {
                directory(self, path)
            }

            /// Is there such a node?
            ///
            /// # Errors
            /// EACCES, and the connection's.
            pub fn exists(&self, path: &str) -> Result<bool> {
                self.try_read(path).map(|value| value.is_some())
            }

            /// A node's permissions, the owner's entry first.
            ///
            /// # Errors
            /// ENOENT, EACCES, and the connection's.
            pub fn get_perms(&self, path: &str) -> Result<Vec<Permission>> {
                get_perms(self, path)
            }

            /// Replaces a node's permissions; the first entry names the owner.
            ///
            /// # Errors
            /// ENOENT, EACCES, EPERM (a new owner, but not dom0), and the connection's.
            pub fn set_perms(&self, path: &str, perms: &[Permission]) -> Result<()> {
                set_perms(self, path, perms)
            }
        }
    };
}

operations!(Client);
operations!(Transaction<'_>);
operations!(TransactionSpan);
