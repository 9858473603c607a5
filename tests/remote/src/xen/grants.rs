//! The hypervisor's own list of grants in use, as `xl debug-keys g` makes Xen print it
//! (`gnttab_usage_print`, `xen/common/grant_table.c`, Xen 4.14 to 4.20).

use libgnt::inspect::GrantState;
use libgnt::types::{Access, DomId, ForeignGrant, GrantRef};

/// The end of a listing.
pub const END: &str = "gnttab_usage_print_all ] done";
/// `GTF_readonly` (`xen/include/public/grant_table.h`).
const READ_ONLY: u32 = 1 << 2;

/// The entries of the last complete listing in Xen's console, or `None` if there is none.
pub fn parse(dmesg: &str) -> Option<Vec<GrantState>> {
    let end = dmesg.rfind(END)?;
    let start = dmesg[..end].rfind("gnttab_usage_print_all [")?;
    let mut granter = None;
    let mut grants = Vec::new();
    for line in dmesg[start..end].lines() {
        let line = line.strip_prefix("(XEN)").unwrap_or(line).trim();
        if let Some(rest) = line.strip_prefix("grant-table for remote d") {
            let digits = rest.split(|c: char| !c.is_ascii_digit()).next()?;
            granter = digits.parse().ok().map(DomId);
        } else if let Some(entry) = granter.and_then(|granter| entry(line, granter)) {
            grants.push(entry);
        }
    }
    Some(grants)
}

/// `[0x00a]      2 0x00b1f3 0x00000101          2 0x000c21 0x19`: the reference; who maps it, the
/// frame and how often; then the shared entry: for whom, which frame, its flags.
fn entry(line: &str, domid: DomId) -> Option<GrantState> {
    let (gref, rest) = line.strip_prefix('[')?.split_once(']')?;
    let fields: Vec<&str> = rest.split_ascii_whitespace().collect();
    let [peer, _mfn, pin, _for, _frame, flags] = fields[..] else {
        return None;
    };
    let pin = hex(pin)?;
    // Four counters in one word: read and write, of hosts and of devices.
    let maps = pin.to_le_bytes().into_iter().max().unwrap_or(0);
    let access = if hex(flags)? & READ_ONLY == 0 {
        Access::ReadWrite
    } else {
        Access::ReadOnly
    };
    Some(GrantState {
        grant: ForeignGrant {
            domid,
            gref: GrantRef(hex(gref)?),
        },
        peer: DomId(peer.parse().ok()?),
        access,
        maps: u32::from(maps),
        ending: false,
    })
}

fn hex(text: &str) -> Option<u32> {
    let digits = text.strip_prefix("0x")?;
    u32::from_str_radix(digits, 16).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    const LISTING: &str = "\
(XEN) gnttab_usage_print_all [ key 'g' pressed
(XEN)       -------- active --------       -------- shared --------
(XEN) [ref] localdom mfn      pin          localdom gmfn     flags
(XEN) grant-table for remote d0 (v1)
(XEN)   1 frames (64 max), 2 maptrack frames (1024 max)
(XEN) no active grant table entries
(XEN) grant-table for remote d1 (v1)
(XEN)   1 frames (64 max), 0 maptrack frames (1024 max)
(XEN) [0x001]      0 0x0bf7fe 0x00000002          0 0x0feffc 0x19
(XEN) [0x00b]      2 0x0b1f32 0x00000101          2 0x000c21 0x1d
(XEN) gnttab_usage_print_all ] done
";

    #[test]
    fn a_listing_is_read() {
        let grants = parse(LISTING).unwrap();
        assert_eq!(grants.len(), 2);
        assert_eq!(
            grants[1].grant,
            ForeignGrant {
                domid: DomId(1),
                gref: GrantRef(0xb)
            }
        );
        assert_eq!((grants[1].peer, grants[1].maps), (DomId(2), 1));
        assert_eq!((grants[0].access, grants[0].maps), (Access::ReadWrite, 2));
        assert_eq!(grants[1].access, Access::ReadOnly);
    }

    #[test]
    fn the_last_complete_listing_counts() {
        let empty = LISTING
            .lines()
            .filter(|line| !line.contains("[0x"))
            .collect::<Vec<_>>();
        let both = format!("{LISTING}{}\n", empty.join("\n"));
        assert_eq!(parse(&both), Some(vec![]));
        let cut = &both[..both.len() - 30];
        assert_eq!(
            parse(cut).map(|grants| grants.len()),
            Some(2),
            "the second has no end"
        );
        assert_eq!(parse("(XEN) nothing"), None);
    }
}
