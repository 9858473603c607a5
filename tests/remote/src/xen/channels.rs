//! A domain's event channels, as Xen's own tool lists them (`lsevtchn`, `tools/xcutils/lsevtchn.c`, Xen
//! 4.14 to 4.20).

use libgnt::DomId;
use std::process::Command;

/// Those that are open; `None`: the tool is not there, or Xen refuses.
pub fn of(name: &str, domid: DomId) -> Option<Vec<String>> {
    let number = domid.0.to_string();
    let output = Command::new("lsevtchn").arg(number).output().ok()?;
    let text = String::from_utf8_lossy(&output.stdout);
    output.status.success().then(|| parse(name, &text))
}

/// `  12: VCPU 0: Interdomain (Connected) - Remote Domain 2, Port 7`. The processor may change while the
/// channel stays.
fn parse(name: &str, text: &str) -> Vec<String> {
    let channel = |line: &str| {
        let (port, rest) = line.trim().split_once(':')?;
        let (_vcpu, kind) = rest.split_once(':')?;
        let port: u32 = port.parse().ok()?;
        Some(format!("port {port} of domain {name}: {}", kind.trim()))
    };
    text.lines().filter_map(channel).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn channels_are_told_apart_by_port_and_peer_but_not_by_processor() {
        let list = "   1: VCPU 0: Interdomain (Connected) - Remote Domain 0, Port 9\n   2: VCPU 1: IPI\nnonsense\n";
        let channels = parse("back", list);
        assert_eq!(channels.len(), 2);
        assert_eq!(
            channels[0],
            "port 1 of domain back: Interdomain (Connected) - Remote Domain 0, Port 9"
        );
        assert_eq!(parse("back", &list.replace("VCPU 1", "VCPU 0")), channels);
        assert_ne!(parse("back", &list.replace("Port 9", "Port 8")), channels);
    }
}
