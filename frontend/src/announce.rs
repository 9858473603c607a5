//! What a front end says about its ring in xenstore, and what it must not leave there.

use crate::link::{FRONT_ALIVE_BYTE, Link};
use crate::nodes::LIVENESS_NODE;

/// The only slot layout that is spoken.
const PROTOCOL: &str = "x86_64-abi";

/// What a ring is announced with, in the front end's directory.
pub(crate) const RING_NODES: [&str; 5] = [
    "ring-ref",
    "event-channel",
    "protocol",
    "feature-persistent",
    LIVENESS_NODE,
];

/// The announcement: names and values.
pub(crate) fn ring(link: &Link) -> [(&'static str, String); RING_NODES.len()] {
    let [ring_ref, event_channel, protocol, persistent, liveness] = RING_NODES;
    [
        (ring_ref, link.ring_grant().0.to_string()),
        (event_channel, link.channel.port().0.to_string()),
        (protocol, PROTOCOL.into()),
        (persistent, u8::from(link.persistent).to_string()),
        (liveness, FRONT_ALIVE_BYTE.to_string()),
    ]
}

/// Does a node of a front end's announce rings, or requests, that this one does not have: of
/// several pages, in several queues, in other units than 512 bytes
/// (`xen/include/public/io/blkif.h`)?
pub(crate) fn is_other_form(node: &str) -> bool {
    let numbered = |prefix: &str| {
        let number = node.strip_prefix(prefix);
        number.is_some_and(|n| !n.is_empty() && n.bytes().all(|b| b.is_ascii_digit()))
    };
    matches!(
        node,
        "ring-page-order"
            | "num-ring-pages"
            | "multi-queue-num-queues"
            | "feature-large-sector-size"
    ) || numbered("ring-ref")
        || numbered("queue-")
}
