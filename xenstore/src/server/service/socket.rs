//! The socket on which dom0's clients come.

use super::error::ServiceError;
use mio::net::UnixListener;
use std::io::ErrorKind;
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};

/// Binds the socket; takes over a file that no server listens on any more.
pub(super) fn listen(path: &Path) -> Result<UnixListener, ServiceError> {
    let io = |operation| {
        move |source| ServiceError::Io {
            operation,
            path: Some(path.to_owned()),
            source,
        }
    };
    match UnixListener::bind(path) {
        Err(error) if error.kind() == ErrorKind::AddrInUse => {
            let kind = std::fs::symlink_metadata(path)
                .map_err(io("stat"))?
                .file_type();
            if !kind.is_socket() {
                return Err(ServiceError::NotASocket(path.to_owned()));
            }
            if std::os::unix::net::UnixStream::connect(path).is_ok() {
                return Err(ServiceError::InUse(path.to_owned()));
            }
            std::fs::remove_file(path).map_err(io("unlink"))?;
            UnixListener::bind(path).map_err(io("bind"))
        }
        other => other.map_err(io("bind")),
    }
}

/// Removes the socket's file when the service ends.
pub(super) struct SocketFile(pub(super) PathBuf);

impl Drop for SocketFile {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}
