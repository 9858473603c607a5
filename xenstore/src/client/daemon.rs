//! Requests that are about watches, domains and the daemon, and not about nodes.

use super::about::{About, text_of};
use super::handle::Client;
use crate::error::{Error, Result};
use crate::wire::{Kind, strings};
use libgnt::DomId;
use rustix::io::Errno;
use std::str::FromStr;

/// What a daemon can do, or what it lets a domain use (`XENSTORE_SERVER_FEATURE_*`). Since Xen 4.22, from
/// the documentation (`docs/misc/xenstore-ring.txt`): no daemon that Debian has was asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Features(pub u32);

impl Features {
    /// A ring can be begun anew.
    pub const RECONNECTION: Features = Features(1);
    /// The ring page says why a connection ended.
    pub const ERROR: Features = Features(2);
    /// A watch may have a depth.
    pub const WATCH_DEPTH: Features = Features(4);

    /// Are these all among them?
    pub fn has(self, features: Features) -> bool {
        self.0 & features.0 == features.0
    }
}

/// Whose quota.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum QuotaOf {
    /// What new domains get.
    Default,
    /// This domain's.
    Domain(DomId),
}

/// Arguments, each with a NUL.
fn payload(arguments: &[&str]) -> Vec<u8> {
    arguments
        .iter()
        .flat_map(|argument| [argument.as_bytes(), b"\0"].concat())
        .collect()
}

impl Client {
    fn ask(
        &self,
        operation: &'static str,
        kind: Kind,
        shown: &str,
        arguments: &[&str],
    ) -> Result<Vec<u8>> {
        let path = shown;
        let about = About { operation, path };
        if let Some(bad) = arguments.iter().find(|argument| argument.contains('\0')) {
            return Err(Error::Invalid(format!(
                "xenstore {operation} {path}: a NUL in {bad:?}"
            )));
        }
        self.call(about, kind, 0, &[&payload(arguments)])
    }

    fn tell_of(&self, operation: &'static str, kind: Kind, domid: DomId) -> Result<()> {
        let text = domid.0.to_string();
        self.ask(operation, kind, &text, &[&text]).map(|_| ())
    }

    /// Watches a node and all below it. An event comes at once, whether the node is there or not
    /// ([`WatchEvent::first`](super::WatchEvent::first)).
    ///
    /// # Errors
    /// EEXIST: watched with this token already. E2BIG: the domain's quota of watches.
    pub fn watch(&self, path: &str, token: &str) -> Result<()> {
        let arguments = [path, token];
        self.ask("watch", Kind::Watch, path, &arguments).map(|_| ())
    }

    /// As [`Client::watch`], but for changes no deeper below than this: 0 is the node alone. Since Xen 4.22,
    /// from the documentation.
    ///
    /// # Errors
    /// [`Error::NotOffered`] by an older daemon, and as [`Client::watch`].
    pub fn watch_to_depth(&self, path: &str, token: &str, depth: u32) -> Result<()> {
        if !self
            .features()?
            .is_some_and(|f| f.has(Features::WATCH_DEPTH))
        {
            let what = "watches with a depth; Xen 4.22 or later is needed";
            return Err(Error::NotOffered { what });
        }
        let arguments = [path, token, &depth.to_string()];
        self.ask("watch", Kind::Watch, path, &arguments).map(|_| ())
    }

    /// Stops a watch. Events already queued still come.
    ///
    /// # Errors
    /// ENOENT: no such watch.
    pub fn unwatch(&self, path: &str, token: &str) -> Result<()> {
        let arguments = [path, token];
        self.ask("unwatch", Kind::Unwatch, path, &arguments)
            .map(|_| ())
    }

    /// Ends all watches and transactions of the caller. Over `/dev/xen/xenbus` the caller is the whole
    /// domain, with its kernel's watches: whoever shares it with a kernel should not do this.
    ///
    /// # Errors
    /// [`Error::Refused`] and the connection's.
    pub fn reset_watches(&self) -> Result<()> {
        self.ask("reset-watches", Kind::ResetWatches, "", &[""])
            .map(|_| ())
    }

    /// A domain's home directory, `/local/domain/N`.
    ///
    /// # Errors
    /// [`Error::Refused`] and the connection's.
    pub fn domain_path(&self, domid: DomId) -> Result<String> {
        let path = &domid.0.to_string();
        let operation = "get-domain-path";
        let answer = self.ask(operation, Kind::GetDomainPath, path, &[path])?;
        text_of(About { operation, path }, answer)
    }

    /// Does xenstore know the domain? xenstored lets only dom0 ask.
    ///
    /// # Errors
    /// [`Error::Refused`] and the connection's.
    pub fn is_domain_introduced(&self, domid: DomId) -> Result<bool> {
        let text = domid.0.to_string();
        let operation = "is-domain-introduced";
        let answer = self.ask(operation, Kind::IsDomainIntroduced, &text, &[&text])?;
        Ok(answer.starts_with(b"T"))
    }

    /// A domain is there: the frame of its ring page, and the event channel that it offers xenstore. dom0
    /// only.
    ///
    /// # Errors
    /// EACCES; EINVAL for dom0 or no real domain; the connection's.
    pub fn introduce(&self, domid: DomId, frame: u64, port: u32) -> Result<()> {
        let arguments = [&*domid.0.to_string(), &frame.to_string(), &port.to_string()];
        self.ask("introduce", Kind::Introduce, arguments[0], &arguments)
            .map(|_| ())
    }

    /// A domain is gone: xenstore lets go of its ring. dom0 only.
    ///
    /// # Errors
    /// EACCES; ENOENT: it was not introduced; the connection's.
    pub fn release(&self, domid: DomId) -> Result<()> {
        self.tell_of("release", Kind::Release, domid)
    }

    /// A domain runs again after a suspend, and its next end is told anew. dom0 only.
    ///
    /// # Errors
    /// As [`Client::release`].
    pub fn resume(&self, domid: DomId) -> Result<()> {
        self.tell_of("resume", Kind::Resume, domid)
    }

    /// `domid`, a stub domain, gets all rights of `target`, which it serves. dom0 only.
    ///
    /// # Errors
    /// As [`Client::release`].
    pub fn set_target(&self, domid: DomId, target: DomId) -> Result<()> {
        let (domid, target) = (domid.0.to_string(), target.0.to_string());
        let arguments = [&*domid, &*target];
        self.ask("set-target", Kind::SetTarget, &domid, &arguments)
            .map(|_| ())
    }

    /// A command for the daemon, and its arguments; each daemon has its own. dom0 only.
    ///
    /// # Errors
    /// EACCES; EINVAL: no such command (oxenstored says OK to those, too); the connection's.
    pub fn control(&self, command: &[&str]) -> Result<Vec<u8>> {
        let Some(shown) = command.first().copied() else {
            return Err(Error::Invalid("xenstore control: no command".into()));
        };
        self.ask("control", Kind::Control, shown, command)
    }

    /// What the daemon can do; `None`: it is older than Xen 4.22, and does not say. From the documentation.
    ///
    /// # Errors
    /// The connection's.
    pub fn features(&self) -> Result<Option<Features>> {
        let (operation, kind) = ("get-feature", Kind::GetFeature);
        // Does it know the request? With an argument that no daemon takes, for oxenstored of 4.14 and
        // 4.17 leaves a message without a payload unanswered.
        match self.ask(operation, kind, "", &[""]) {
            Err(error) if error.errno() == Some(Errno::NOSYS) => return Ok(None),
            Ok(_) | Err(Error::Refused { .. }) => {}
            Err(error) => return Err(error),
        }
        match self.number(operation, kind, "", &[]) {
            Ok(bits) => Ok(Some(Features(bits))),
            Err(Error::Refused { .. }) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// What a domain may use. dom0 only. Since Xen 4.22, from the documentation.
    ///
    /// # Errors
    /// ENOSYS from an older daemon; ENOENT; EACCES; the connection's.
    pub fn features_of(&self, domid: DomId) -> Result<Features> {
        let text = domid.0.to_string();
        self.number("get-feature", Kind::GetFeature, &text, &[&text])
            .map(Features)
    }

    /// Sets what a domain may use, before it runs. dom0 only. Since Xen 4.22, from the documentation.
    ///
    /// # Errors
    /// [`Error::NotOffered`] by an older daemon, or by one that does not know them all; EBUSY: it runs
    /// already; EACCES; the connection's.
    pub fn set_features(&self, domid: DomId, features: Features) -> Result<()> {
        if !self
            .features()?
            .is_some_and(|offered| offered.has(features))
        {
            let what = "these features of a domain; Xen 4.22 or later is needed";
            return Err(Error::NotOffered { what });
        }
        let (domid, bits) = (domid.0.to_string(), features.0.to_string());
        self.ask("set-feature", Kind::SetFeature, &domid, &[&domid, &bits])
            .map(|_| ())
    }

    /// The names of the quotas that the daemon has. Since Xen 4.22, from the documentation.
    ///
    /// # Errors
    /// [`Error::NotOffered`] by an older daemon; the connection's.
    pub fn quotas(&self) -> Result<Vec<String>> {
        self.needs_4_22()?;
        let (operation, path) = ("get-quota", "");
        let answer = self.ask(operation, Kind::GetQuota, path, &[])?;
        let names = text_of(About { operation, path }, answer)?;
        Ok(names
            .split([',', ' '])
            .filter(|n| !n.is_empty())
            .map(str::to_owned)
            .collect())
    }

    /// A quota; 0 is none. Since Xen 4.22, from the documentation.
    ///
    /// # Errors
    /// [`Error::NotOffered`] by an older daemon; EINVAL: no such quota; ENOENT: no such domain; EACCES; the
    /// connection's.
    pub fn quota(&self, of: QuotaOf, name: &str) -> Result<u32> {
        self.needs_4_22()?;
        let domid = of.text();
        let arguments: Vec<&str> = domid.as_deref().into_iter().chain([name]).collect();
        self.number("get-quota", Kind::GetQuota, name, &arguments)
    }

    /// Sets a quota; 0 is none. dom0 only. Since Xen 4.22, from the documentation.
    ///
    /// # Errors
    /// As [`Client::quota`].
    pub fn set_quota(&self, of: QuotaOf, name: &str, quota: u32) -> Result<()> {
        self.needs_4_22()?;
        let (domid, quota) = (of.text(), quota.to_string());
        let rest = [name, quota.as_str()];
        let arguments: Vec<&str> = domid.as_deref().into_iter().chain(rest).collect();
        self.ask("set-quota", Kind::SetQuota, name, &arguments)
            .map(|_| ())
    }

    fn needs_4_22(&self) -> Result<()> {
        let what = "quotas of a domain; Xen 4.22 or later is needed";
        match self.features()? {
            Some(_) => Ok(()),
            None => Err(Error::NotOffered { what }),
        }
    }

    fn number<T: FromStr>(
        &self,
        operation: &'static str,
        kind: Kind,
        path: &str,
        arguments: &[&str],
    ) -> Result<T> {
        let about = About { operation, path };
        let answer = self.ask(operation, kind, path, arguments)?;
        let text = match strings(&answer).as_deref() {
            Some([text]) => String::from_utf8_lossy(text).into_owned(),
            _ => String::from_utf8_lossy(&answer).into_owned(),
        };
        text.parse()
            .map_err(|_| about.nonsense(format!("{text:?} is no number")))
    }
}

impl QuotaOf {
    fn text(self) -> Option<String> {
        match self {
            QuotaOf::Default => None,
            QuotaOf::Domain(domid) => Some(domid.0.to_string()),
        }
    }
}

impl Error {
    /// The daemon does not know the request: it is of another make, or older.
    pub fn is_unknown_request(&self) -> bool {
        self.errno() == Some(Errno::NOSYS) || matches!(self, Error::NotOffered { .. })
    }
}
