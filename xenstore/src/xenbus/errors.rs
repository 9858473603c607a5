//! Where drivers leave the reason of a failure: `error/<device>/error` in their own home
//! (`xenbus_dev_error`, Linux `drivers/xen/xenbus/xenbus_client.c`).

use crate::client::Client;
use crate::error::{Error, Result};

/// Longer texts are cut: a node of a domain holds 2048 bytes.
const TEXT_MAX_BYTES: usize = 1024;

/// The error node of a device. `own_path` is the device's directory on the driver's side, such as
/// `device/vbd/51712`, or in full, `/local/domain/1/device/vbd/51712`; the result is relative or
/// absolute alike.
pub fn error_path(own_path: &str) -> String {
    let mut parts = own_path.splitn(5, '/');
    match (
        parts.next(),
        parts.next(),
        parts.next(),
        parts.next(),
        parts.next(),
    ) {
        (Some(""), Some("local"), Some("domain"), Some(domid), Some(rest)) => {
            format!("/local/domain/{domid}/error/{rest}/error")
        }
        _ => format!("error/{own_path}/error"),
    }
}

/// Writes the reason of a failure where tools look for it.
///
/// # Errors
/// The connection's, and EACCES if the domain has no `error` directory of its own.
pub fn report_error(client: &Client, own_path: &str, text: &str) -> Result<()> {
    let mut end = text.len().min(TEXT_MAX_BYTES);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    client.write(&error_path(own_path), &text[..end])
}

/// The reason of the last failure, if there is one. A guest may have written it: what would act on a
/// terminal is escaped.
///
/// # Errors
/// The connection's.
pub fn read_error(client: &Client, own_path: &str) -> Result<Option<String>> {
    let text = client.read_unless_gone(&error_path(own_path))?;
    Ok(text.map(|text| printable(&String::from_utf8_lossy(&text))))
}

fn printable(text: &str) -> String {
    let mut printable = String::new();
    for c in text.trim_end_matches('\0').chars() {
        if c.is_control() {
            printable.extend(c.escape_default());
        } else {
            printable.push(c);
        }
    }
    printable
}

/// Forgets the reason of a failure, and the directories that only held it.
///
/// # Errors
/// The connection's.
pub fn clear_error(client: &Client, own_path: &str) -> Result<()> {
    let node = error_path(own_path);
    client.transaction(|tx| {
        let mut path = node.as_str();
        // Up to, and without, the `error` directory itself.
        while let Some((parent, _)) = path.rsplit_once('/') {
            match tx.rm(path) {
                Ok(()) => {}
                Err(error) if error.is_gone() => {}
                Err(error) => return Err(error),
            }
            let root =
                parent == "error" || parent.matches('/').count() == 4 && parent.ends_with("/error");
            match tx.directory(parent) {
                Ok(names) if names.is_empty() && !root => path = parent,
                Err(error) if error.is_gone() && !root => path = parent,
                Ok(_) => break,
                Err(error) if error.is_gone() => break,
                Err(error) => return Err(error),
            }
        }
        Ok::<_, Error>(())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn where_errors_go() {
        assert_eq!(
            error_path("device/vbd/51712"),
            "error/device/vbd/51712/error"
        );
        assert_eq!(
            error_path("/local/domain/3/backend/vbd/7/51712"),
            "/local/domain/3/error/backend/vbd/7/51712/error"
        );
    }
}
