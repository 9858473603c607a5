//! The field's own numbers, as types: domains, grant references, event-channel ports, and
//! Xen's grant status codes.

use std::fmt;

/// Bytes in a grant frame. Xen grants are always 4 KiB on x86 (`XEN_PAGE_SIZE`,
/// `include/xen/page.h`), whatever the kernel's own page size.
pub const PAGE_SIZE: usize = 4096;

// The numbers here are plain integers, so that nobody has to name the crate that has Xen's own types.
// This fails to compile if they ever differ.
const _: fn(xen_sys::domid_t) -> u16 = |domid| domid;
const _: fn(xen_sys::evtchn_port_t) -> u32 = |port| port;

/// A domain id (`domid_t`, `xen/include/public/xen.h`).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[cfg_attr(
    feature = "serde",
    derive(serde::Serialize, serde::Deserialize),
    serde(transparent)
)]
pub struct DomId(pub u16);

impl DomId {
    /// dom0, where the toolstack and most back ends run.
    pub const DOM0: DomId = DomId(0);
    /// The caller's own domain, whatever its number (`DOMID_SELF`).
    pub const SELF: DomId = DomId(0x7ff0);
    /// The first id that is no ordinary domain (`DOMID_FIRST_RESERVED`).
    pub const FIRST_RESERVED: DomId = DomId(0x7ff0);
}

impl fmt::Display for DomId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if *self == DomId::SELF {
            f.write_str("own domain")
        } else {
            write!(f, "domain {}", self.0)
        }
    }
}

impl fmt::Debug for DomId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "d{}", self.0)
    }
}

/// A grant reference: an index into the granter's grant table
/// (`grant_ref_t`, `xen/include/public/grant_table.h`).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[cfg_attr(
    feature = "serde",
    derive(serde::Serialize, serde::Deserialize),
    serde(transparent)
)]
pub struct GrantRef(pub u32);

impl fmt::Display for GrantRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "grant {:#x}", self.0)
    }
}

impl fmt::Debug for GrantRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "g{:#x}", self.0)
    }
}

/// An event-channel port of the caller's domain
/// (`evtchn_port_t`, `xen/include/public/event_channel.h`). Port 0 is never valid.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[cfg_attr(
    feature = "serde",
    derive(serde::Serialize, serde::Deserialize),
    serde(transparent)
)]
pub struct EvtchnPort(pub u32);

impl fmt::Display for EvtchnPort {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "event channel {}", self.0)
    }
}

impl fmt::Debug for EvtchnPort {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "p{}", self.0)
    }
}

/// A grant of another domain: what a mapper names.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct ForeignGrant {
    /// The granter.
    pub domid: DomId,
    /// The reference in the granter's table.
    pub gref: GrantRef,
}

impl fmt::Display for ForeignGrant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} of {}", self.gref, self.domid)
    }
}

/// Several grants, in a message: the first, and how many more.
pub(crate) struct Grants<'a>(pub &'a [ForeignGrant]);

impl fmt::Display for Grants<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            [] => f.write_str("no grants"),
            [one] => write!(f, "{one}"),
            [first, rest @ ..] => write!(f, "{first} and {} more", rest.len()),
        }
    }
}

/// What a mapping, or the peer of a grant, may do with a page.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub enum Access {
    /// `PROT_READ`; `GTF_readonly` on the granter's side.
    ReadOnly,
    /// `PROT_READ | PROT_WRITE`.
    ReadWrite,
}

impl Access {
    /// True for [`Access::ReadWrite`].
    pub fn writable(self) -> bool {
        self == Access::ReadWrite
    }
}

/// What the kernel does by itself when a mapping (gntdev) or a grant (gntalloc) goes
/// (`UNMAP_NOTIFY_*`, `include/uapi/xen/gntdev.h`).
///
/// On gntdev the byte is cleared when the unmap *begins*; the event is sent when the
/// hypervisor has unmapped, so the event, not the byte, means "released".
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct UnmapNotify {
    /// `UNMAP_NOTIFY_CLEAR_BYTE`: set the byte that the notify's offset names to zero.
    pub clear_byte: bool,
    /// `UNMAP_NOTIFY_SEND_EVENT`: notify this local port. It must be open on an
    /// [`Evtchn`](crate::platform::Evtchn) of this process.
    pub send_event: Option<EvtchnPort>,
}

impl UnmapNotify {
    /// `UNMAP_NOTIFY_CLEAR_BYTE`
    pub const CLEAR_BYTE: u32 = 1;
    /// `UNMAP_NOTIFY_SEND_EVENT`
    pub const SEND_EVENT: u32 = 2;

    /// The `action` word of the ioctl.
    pub fn action_bits(self) -> u32 {
        (if self.clear_byte { Self::CLEAR_BYTE } else { 0 })
            | (if self.send_event.is_some() {
                Self::SEND_EVENT
            } else {
                0
            })
    }
}

/// Xen's result for one grant operation (`GNTST_*`, `xen/include/public/grant_table.h`).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[cfg_attr(
    feature = "serde",
    derive(serde::Serialize, serde::Deserialize),
    serde(transparent)
)]
pub struct GrantStatus(pub i16);

impl GrantStatus {
    /// Done.
    pub const OKAY: GrantStatus = GrantStatus(0);
    /// `GNTST_general_error`
    pub const GENERAL_ERROR: GrantStatus = GrantStatus(-1);
    /// `GNTST_bad_domain`
    pub const BAD_DOMAIN: GrantStatus = GrantStatus(-2);
    /// `GNTST_bad_gntref`
    pub const BAD_GNTREF: GrantStatus = GrantStatus(-3);
    /// `GNTST_bad_virt_addr`
    pub const BAD_VIRT_ADDR: GrantStatus = GrantStatus(-5);
    /// `GNTST_permission_denied`
    pub const PERMISSION_DENIED: GrantStatus = GrantStatus(-8);
    /// `GNTST_bad_page`
    pub const BAD_PAGE: GrantStatus = GrantStatus(-9);
    /// `GNTST_bad_copy_arg`
    pub const BAD_COPY_ARG: GrantStatus = GrantStatus(-10);
    /// `GNTST_eagain`: the granter's page is paged out; try again.
    pub const EAGAIN: GrantStatus = GrantStatus(-12);

    /// True for [`GrantStatus::OKAY`].
    pub fn is_okay(self) -> bool {
        self == Self::OKAY
    }

    /// What the code means, in words.
    pub fn meaning(self) -> &'static str {
        match self.0 {
            0 => "okay",
            // What Xen says of an entry that is not granted, granted to another domain, or read-only and
            // written (`_set_status_v1`, xen/common/grant_table.c).
            -1 => "not granted to this domain, or not for this access",
            -2 => "no such domain",
            -3 => "no such grant: the granter's table is not that long",
            -4 => "bad handle",
            -5 => "bad virtual address",
            -6 => "bad device address",
            -7 => "no space in the I/O MMU",
            -8 => "permission denied",
            -9 => "bad page",
            -10 => "the range does not fit in the page",
            -11 => "address too big",
            -12 => "the granter's page is paged out",
            -13 => "no space",
            _ => "unknown status",
        }
    }
}

impl fmt::Display for GrantStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} (GNTST {})", self.meaning(), self.0)
    }
}

impl fmt::Debug for GrantStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}
