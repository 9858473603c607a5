//! The sockets on which clients come.

use super::error::ServiceError;
use libgnt::DomId;
use mio::net::UnixListener;
use rustix::fs::Mode;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};
use std::io;
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};

/// Connections that may wait to be accepted.
const BACKLOG: i32 = 128;

/// Where programs connect that have a domain's rights: the embedded server's stand-in for the
/// domain's ring page.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct DomainSocket {
    /// Whose rights.
    pub domid: DomId,
    /// Where.
    pub path: PathBuf,
}

impl DomainSocket {
    /// One for a domain.
    pub fn new(domid: DomId, path: PathBuf) -> DomainSocket {
        DomainSocket { domid, path }
    }
}

/// A socket with its file, which goes when this does.
pub(super) struct Listener {
    pub(super) socket: UnixListener,
    pub(super) domid: DomId,
    path: PathBuf,
}

impl Listener {
    /// Binds the socket; takes over a file that no server listens on any more. Only the file's owner
    /// may connect, from the first moment on.
    pub(super) fn bind(domid: DomId, path: &Path) -> Result<Listener, ServiceError> {
        let error = |operation| {
            move |source: rustix::io::Errno| ServiceError::Io {
                operation,
                path: Some(path.to_owned()),
                source: source.into(),
            }
        };
        let address = SocketAddrUnix::new(path).map_err(error("bind"))?;
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let socket = rustix::net::socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)
            .map_err(error("socket"))?;
        if let Err(errno) = rustix::net::bind(&socket, &address) {
            if errno != rustix::io::Errno::ADDRINUSE {
                return Err(error("bind")(errno));
            }
            remove_stale(path)?;
            rustix::net::bind(&socket, &address).map_err(error("bind"))?;
        }
        let listener = Listener {
            socket: UnixListener::from_std(std::os::unix::net::UnixListener::from(
                socket.try_clone().map_err(|source| ServiceError::Io {
                    operation: "dup",
                    path: Some(path.to_owned()),
                    source,
                })?,
            )),
            domid,
            path: path.to_owned(),
        };
        // Before `listen` nobody can connect.
        rustix::fs::chmod(path, Mode::RUSR | Mode::WUSR).map_err(error("chmod"))?;
        rustix::net::listen(&socket, BACKLOG).map_err(error("listen"))?;
        Ok(listener)
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.path);
    }
}

fn remove_stale(path: &Path) -> Result<(), ServiceError> {
    let error = |operation| {
        move |source: io::Error| ServiceError::Io {
            operation,
            path: Some(path.to_owned()),
            source,
        }
    };
    let kind = std::fs::symlink_metadata(path)
        .map_err(error("stat"))?
        .file_type();
    if !kind.is_socket() {
        return Err(ServiceError::NotASocket(path.to_owned()));
    }
    match std::os::unix::net::UnixStream::connect(path) {
        // Nobody has it open.
        Err(refused) if refused.kind() == io::ErrorKind::ConnectionRefused => {
            std::fs::remove_file(path).map_err(error("unlink"))
        }
        Ok(_) => Err(ServiceError::InUse(path.to_owned())),
        // Such as EACCES: somebody else's, alive or not.
        Err(other) => Err(error("connect")(other)),
    }
}
