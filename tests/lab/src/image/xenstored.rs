//! How dom0 starts its xenstore daemon.

use crate::ask::words::XenstoredName;

/// oxenstored's settings, as Debian ships them but for one (`oxenstored.conf`, package xen-utils-common).
const SETTINGS: &str = "\
pid-file = /run/xenstored/pid
conflict-burst-limit = 5.0
conflict-max-history-seconds = 0.05
conflict-rate-limit-is-aggregate = true
merge-activate = true
perms-activate = true
perms-watch-activate = true
quota-activate = true
quota-maxentity = 1000
quota-maxsize = 2048
quota-maxwatch = 100
quota-transaction = 10
quota-maxrequests = 1024
quota-path-max = 1024
quota-maxoutstanding = 1024
quota-maxwatchevents = 1024
persistent = false
xenstored-kva = /proc/xen/xsd_kva
xenstored-port = /proc/xen/xsd_port
";

/// A shell command, and what is in `oxenstored.conf`.
pub fn start(name: XenstoredName) -> (String, String) {
    let program = name.program();
    let eagain = name == XenstoredName::OxenstoredEagain;
    let settings = format!("{SETTINGS}test-eagain = {eagain}\n");
    let command = match name {
        XenstoredName::Xenstored => format!("{program} --pid-file /run/xenstored/pid\n"),
        // As a daemon it would close its standard error, and end without a word.
        _ => format!("{program} --no-fork --config-file /etc/xen/oxenstored.conf &\n"),
    };
    (command, settings)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_one_of_them_fails_transactions_at_random() {
        let (command, settings) = start(XenstoredName::OxenstoredEagain);
        assert!(command.starts_with("oxenstored "), "{command}");
        assert!(settings.contains("\ntest-eagain = true\n"), "{settings}");
        let (_, settings) = start(XenstoredName::Oxenstored);
        assert!(settings.contains("test-eagain = false"), "{settings}");
        let (command, _) = start(XenstoredName::Xenstored);
        assert!(command.starts_with("xenstored --pid-file"), "{command}");
    }
}
