//! Ways to hold a reference to pages that somebody else has mapped.
//!
//! Each has two sides. [`Holder::hold`] runs in the mapper's process, where the pages are, and
//! makes an [`Export`]: a name or descriptors that can be sent elsewhere. [`Holder::import`] runs
//! in the third consumer's process and makes a [`Held`], which can look at the live pages and let
//! go of them. From `hold` on the pages are held, whether or not anybody imports.
//!
//! `pin` and `i915` are the simulated Xen's. The others are system calls of real kernels; they
//! hold gntdev's pages as they hold any others, on PVH and HVM guests. On a PV guest a held page
//! damages the kernel that unmaps it, so they are refused there unless somebody insists.

mod choose;
mod direct;
mod fetch;
mod fork;
mod pipe;
mod rdma;
mod sim;
mod uring;
mod vivid;
mod xdp;

pub use crate::settings::HoldName;
pub use choose::{can_be_on_pv, holder, kernel_holder};
pub(crate) use fetch::{allow, fetch};
pub use rdma::links_left;

use libgnt::{PAGE_SIZE, SharedPages};
use rustix::io::Errno;
use sha2::{Digest, Sha256};
use std::fmt;
use std::os::fd::OwnedFd;
use std::time::Duration;

/// What a mapper says in the end whose pages could not be held, and why follows.
pub const NOT_HELD: &str = "its pages cannot be held here: ";

/// How long a holder that depends on a device or another process may take to answer.
const PATIENCE: Duration = Duration::from_secs(10);

/// What cannot be held, and why.
#[derive(Debug, thiserror::Error)]
pub enum HoldError {
    /// This holder does not work here.
    #[error("--hold {kind} {cause}; {cure}")]
    NotHere {
        /// Which.
        kind: HoldName,
        /// Why.
        cause: String,
        /// What to do.
        cure: String,
    },
    /// A system call failed.
    #[error("--hold {kind}: {call}: {errno}{}", Hint(.kind, .call, .errno))]
    Call {
        /// Which holder.
        kind: HoldName,
        /// Which call.
        call: &'static str,
        /// What the kernel said.
        errno: Errno,
    },
    /// The simulated Xen refused.
    #[error(transparent)]
    Xen(#[from] libgnt::Error),
    /// The other side spoke nonsense.
    #[error("--hold {kind}: {what}")]
    Broken {
        /// Which holder.
        kind: HoldName,
        /// What is wrong.
        what: String,
    },
}

/// What an errno means for a holder, where that is not plain.
struct Hint<'a>(&'a HoldName, &'a str, &'a Errno);

impl fmt::Display for Hint<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match (self.0, *self.2) {
            (_, Errno::PERM) if self.1 == "pidfd_getfd" => {
                " (the consumer must be of the mapper's user; see /proc/sys/kernel/yama/ptrace_scope)"
            }
            (HoldName::Uring, Errno::OPNOTSUPP | Errno::NOMEM) => {
                " (Linux before 6.12 does not register gntdev's pages; ENOMEM may also be RLIMIT_MEMLOCK: see ulimit -l)"
            }
            (HoldName::Uring, Errno::FAULT) => " (io_uring registers writable pages only)",
            (HoldName::Uring, Errno::PERM) => " (see /proc/sys/kernel/io_uring_disabled)",
            (HoldName::Xdp, Errno::PERM) => " (CAP_NET_RAW is needed)",
            (HoldName::Xdp, Errno::AFNOSUPPORT) => " (this kernel has no AF_XDP)",
            (HoldName::Xdp, Errno::FAULT) => " (AF_XDP takes writable pages only)",
            (_, Errno::PERM) if self.1 == "unshare" || self.1 == "RDMA_NLDEV_CMD_NEWLINK" => {
                " (root is needed: a network namespace, CAP_SYS_ADMIN, and a link, CAP_NET_ADMIN)"
            }
            (_, Errno::NOENT) if self.1 == "RDMA_NLDEV_CMD_NEWLINK" => {
                " (rdma_rxe of an older Linux needs an algorithm: run `modprobe crc32_generic`)"
            }
            (_, Errno::INVAL) if self.1 == "unshare" => " (this kernel has no network namespaces)",
            (HoldName::Rdma, Errno::FAULT) => {
                " (an RDMA region pins writable pages only, and no page of gntdev on a PV guest)"
            }
            (_, Errno::NOMEM) if self.1 == "RDMA_NLDEV_CMD_NEWLINK" || self.1 == "REG_MR" => {
                " (give the machine more memory; see ulimit -l, too)"
            }
            (_, Errno::OPNOTSUPP) if self.1 == "ADVISE_MR" => {
                " (this kernel's rdma_rxe cannot prefetch; a newer Linux does)"
            }
            (_, Errno::INVAL) if self.1 == "ADVISE_MR" => {
                " (the process that registered the region is gone)"
            }
            (HoldName::Vivid, Errno::FAULT) => {
                " (Linux 6.1 pins every video buffer for writing: map the pages so, or use 6.12)"
            }
            (HoldName::VividCapture, Errno::FAULT) => " (a capture takes writable pages only)",
            (HoldName::Vivid | HoldName::VividCapture, Errno::BUSY) => {
                " (another program uses this instance of vivid)"
            }
            (HoldName::Direct, Errno::PERM | Errno::ACCESS) => " (CAP_SYS_ADMIN is needed)",
            _ => "",
        })
    }
}

/// Pages held, as something to send to another process.
#[derive(Debug)]
pub struct Export {
    /// How.
    pub kind: HoldName,
    /// How many pages.
    pub pages: u32,
    /// What the kind needs to know on the other side.
    pub words: Vec<u64>,
    /// Descriptors to send along.
    pub fds: Vec<OwnedFd>,
}

impl Export {
    fn new(kind: HoldName, pages: usize, words: Vec<u64>, fds: Vec<OwnedFd>) -> Export {
        // A range was checked to be in a mapping, so its page count is far below the limit.
        Export {
            kind,
            pages: u32::try_from(pages).unwrap_or(u32::MAX),
            words,
            fds,
        }
    }
}

/// Pages held, in the consumer's hands. Dropping it lets go, too.
pub trait Held: Send {
    /// What the pages hold now, or `None` where this kind cannot look, or not at the live pages.
    ///
    /// # Errors
    /// What the system calls say.
    fn see(&mut self) -> Result<Option<Vec<u8>>, HoldError> {
        Ok(None)
    }

    /// SHA-256 of what the holder sees of the pages, or `None` where this kind cannot look.
    ///
    /// # Errors
    /// What the system calls say.
    fn checksum(&mut self) -> Result<Option<String>, HoldError> {
        Ok(self.see()?.as_deref().map(sha256))
    }

    /// Has the device that holds the pages write this to them, all of it. False where it writes nothing
    /// to what it holds.
    ///
    /// # Errors
    /// What the system calls say; a picture of another size.
    fn paint(&mut self, picture: &[u8]) -> Result<bool, HoldError> {
        let _ = picture;
        Ok(false)
    }

    /// Lets go. When this returns the reference is gone.
    ///
    /// # Errors
    /// What the system calls say; a deadlock on the simulated Xen.
    fn release(self: Box<Self>) -> Result<(), HoldError>;
}

/// One way to hold.
pub trait Holder: Send {
    /// Takes references, in the mapper's process. It must not keep them alive by itself once the
    /// export's descriptors are closed or its name is abandoned.
    ///
    /// # Errors
    /// [`HoldError::Call`], with a hint where the errno alone says little.
    fn hold(&self, pages: &SharedPages, first: usize, count: usize) -> Result<Export, HoldError>;

    /// Takes an export over, in the consumer's process.
    ///
    /// # Errors
    /// As [`Holder::hold`]; [`HoldError::Broken`] for an export that is none.
    fn import(&self, export: Export) -> Result<Box<dyn Held>, HoldError>;

    /// Tries on a page of this process whether it can be had here, where making the holder does not
    /// tell already.
    ///
    /// # Errors
    /// As [`Holder::hold`].
    fn try_out(&self) -> Result<(), HoldError> {
        Ok(())
    }

    /// The consumer has taken an export over, given its `words`: what the mapper's process kept of
    /// it for that moment goes.
    fn taken(&self, words: &[u64]) {
        let _ = words;
    }

    /// Lets go of what was exported and not taken over, given the export's `words`. Where the
    /// reference lives in the descriptors there is nothing to do.
    ///
    /// # Errors
    /// As [`Held::release`].
    fn abandon(&self, words: &[u64]) -> Result<(), HoldError> {
        let _ = words;
        Ok(())
    }
}

/// SHA-256 in hexadecimal.
pub fn sha256(bytes: &[u8]) -> String {
    spell_digest(Sha256::digest(bytes).as_slice())
}

/// A digest in hexadecimal.
pub fn spell_digest(digest: &[u8]) -> String {
    digest.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn call(kind: HoldName, call: &'static str) -> impl Fn(Errno) -> HoldError {
    move |errno| HoldError::Call { kind, call, errno }
}

/// The address and length of a page range, which must be inside the mapping and not empty.
fn address_of(
    kind: HoldName,
    pages: &SharedPages,
    first: usize,
    count: usize,
) -> Result<(usize, usize), HoldError> {
    let inside = first
        .checked_add(count)
        .is_some_and(|end| count > 0 && end <= pages.pages());
    if !inside {
        let all = pages.pages();
        let what = format!("{count} pages from page {first} are not in a mapping of {all}");
        return Err(HoldError::Broken { kind, what });
    }
    Ok((pages.address() + first * PAGE_SIZE, count * PAGE_SIZE))
}

fn last_errno() -> Errno {
    Errno::from_io_error(&std::io::Error::last_os_error()).unwrap_or(Errno::IO)
}

/// Takes an export's parts: exactly so many descriptors and words.
fn parts<const F: usize, const W: usize>(
    export: Export,
) -> Result<([OwnedFd; F], [u64; W]), HoldError> {
    let (kind, fds, words) = (export.kind, export.fds.len(), export.words.len());
    let broken = || HoldError::Broken {
        kind,
        what: format!("an export with {fds} descriptors and {words} words, not {F} and {W}"),
    };
    let fds = export.fds.try_into().map_err(|_| broken())?;
    let words = export.words.try_into().map_err(|_| broken())?;
    Ok((fds, words))
}

#[cfg(test)]
mod tests;
