//! The two netlink messages that a link needs, and the kernel's answer to either
//! (`include/uapi/linux/netlink.h`, `rdma/rdma_netlink.h`, `linux/rtnetlink.h`).

use rustix::io::Errno;

/// `RDMA_NL_GET_TYPE(RDMA_NL_NLDEV, RDMA_NLDEV_CMD_NEWLINK)`.
pub(super) const NEWLINK: u16 = (5 << 10) + 3;
/// `RDMA_NLDEV_ATTR_DEV_NAME`, `RDMA_NLDEV_ATTR_NDEV_NAME`, `RDMA_NLDEV_ATTR_LINK_TYPE`.
pub(super) const ATTR_DEV_NAME: u16 = 2;
pub(super) const ATTR_NDEV_NAME: u16 = 51;
pub(super) const ATTR_LINK_TYPE: u16 = 65;
/// `RTM_NEWLINK`, which changes an interface, too; `IFF_UP`; `sizeof(struct ifinfomsg)`.
pub(super) const RTM_NEWLINK: u16 = 16;
pub(super) const IFF_UP: u32 = 1;
pub(super) const INTERFACE_MESSAGE: usize = 16;
/// `NLM_F_REQUEST | NLM_F_ACK`.
pub(super) const ASKING: u16 = 1 | 4;
/// `NLMSG_ERROR`, which is what an acknowledgement is, too.
pub(super) const ERROR: u16 = 2;
/// `sizeof(struct nlmsghdr)`.
pub(super) const HEADER: usize = 16;

/// Asks for an RDMA link of the kind `rxe` over a network interface.
pub(super) fn new_link(name: &str, interface: &str) -> Vec<u8> {
    let mut body = Vec::new();
    for (id, text) in [
        (ATTR_DEV_NAME, name),
        (ATTR_LINK_TYPE, "rxe"),
        (ATTR_NDEV_NAME, interface),
    ] {
        attribute(&mut body, id, text);
    }
    message(NEWLINK, &body)
}

/// Asks for an interface to be up. `lo` is the first of its namespace (`LOOPBACK_IFINDEX`).
pub(super) fn up(interface: i32) -> Vec<u8> {
    let mut body = vec![0; 4];
    body.extend(interface.to_ne_bytes());
    // What the flags are to be, and which of them.
    body.extend(IFF_UP.to_ne_bytes());
    body.extend(IFF_UP.to_ne_bytes());
    debug_assert_eq!(body.len(), INTERFACE_MESSAGE);
    message(RTM_NEWLINK, &body)
}

/// One `struct nlattr` with a string, which ends with a zero, up to the next multiple of four.
fn attribute(into: &mut Vec<u8>, id: u16, text: &str) {
    let len = u16::try_from(4 + text.len() + 1).unwrap_or(u16::MAX);
    into.extend(len.to_ne_bytes());
    into.extend(id.to_ne_bytes());
    into.extend(text.as_bytes());
    into.push(0);
    into.resize(into.len().next_multiple_of(4), 0);
}

fn message(id: u16, body: &[u8]) -> Vec<u8> {
    let len = u32::try_from(HEADER + body.len()).unwrap_or(u32::MAX);
    let mut bytes = Vec::with_capacity(HEADER + body.len());
    bytes.extend(len.to_ne_bytes());
    bytes.extend(id.to_ne_bytes());
    bytes.extend(ASKING.to_ne_bytes());
    // Sequence and port: one question, one answer, on a socket of its own.
    bytes.extend([0; 8]);
    bytes.extend(body);
    bytes
}

/// What an answer says: `struct nlmsgerr` begins with 0 or a negative errno.
pub(super) fn acknowledged(answer: &[u8]) -> Result<(), Errno> {
    let id = answer.get(4..6).and_then(|id| id.try_into().ok());
    let code = answer
        .get(HEADER..HEADER + 4)
        .and_then(|code| code.try_into().ok());
    match (id.map(u16::from_ne_bytes), code.map(i32::from_ne_bytes)) {
        (Some(ERROR), Some(0)) => Ok(()),
        (Some(ERROR), Some(code)) => Err(Errno::from_raw_os_error(code.saturating_neg())),
        _ => Err(Errno::PROTO),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_new_link_is_asked_for_byte_by_byte() {
        let expected = [
            // nlmsghdr: length, type, flags, sequence, port.
            &[44, 0, 0, 0, 3, 20, 5, 0, 0, 0, 0, 0, 0, 0, 0, 0][..],
            b"\x0b\0\x02\0pvtest\0\0",
            b"\x08\0\x41\0rxe\0",
            b"\x07\0\x33\0lo\0\0",
        ]
        .concat();
        assert_eq!(new_link("pvtest", "lo"), expected);
    }

    #[test]
    fn an_interface_goes_up_byte_by_byte() {
        let expected = [
            &[32, 0, 0, 0, 16, 0, 5, 0, 0, 0, 0, 0, 0, 0, 0, 0][..],
            &[0, 0, 0, 0, 1, 0, 0, 0, 1, 0, 0, 0, 1, 0, 0, 0],
        ];
        assert_eq!(up(1), expected.concat());
    }

    #[test]
    fn answers_are_success_an_errno_or_nonsense() {
        let answer = |id: u16, code: i32| {
            let mut bytes = vec![36, 0, 0, 0];
            bytes.extend(id.to_ne_bytes());
            bytes.extend([0; 10]);
            bytes.extend(code.to_ne_bytes());
            bytes
        };
        assert_eq!(acknowledged(&answer(ERROR, 0)), Ok(()));
        assert_eq!(acknowledged(&answer(ERROR, -1)), Err(Errno::PERM));
        assert_eq!(acknowledged(&answer(NEWLINK, 0)), Err(Errno::PROTO));
        assert_eq!(acknowledged(&answer(ERROR, 0)[..18]), Err(Errno::PROTO));
        assert_eq!(acknowledged(&[]), Err(Errno::PROTO));
    }
}
