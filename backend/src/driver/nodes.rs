//! What the front says about itself in xenstore: read once, checked, and only then used.

use libgnt::ring::layout;
use libgnt::{EvtchnPort, GrantRef};
use pv_xenstore::value;

/// Our own liveness byte in the ring page's reserved header: cleared by the kernel when we go.
pub const BACK_LIVENESS: usize = 63;
/// The node by which either side announces the place of its liveness byte.
pub const LIVENESS_NODE: &str = "pvpair-liveness";
/// The only slot layout that is served.
pub const PROTOCOL: &str = "x86_64-abi";

/// How to reach the front.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FrontNodes {
    /// The ring's only page.
    pub ring_ref: GrantRef,
    /// The port that the front keeps for us.
    pub event_channel: EvtchnPort,
    /// The front keeps its grants for reuse.
    pub persistent: bool,
    /// Where its liveness byte is, if it has one (a Linux front has none).
    pub liveness: Option<usize>,
}

/// A node that does not say what it must. Fatal for the connection.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NodeError {
    /// Not there.
    #[error("the front end's node {0} is missing")]
    Missing(&'static str),
    /// There, but nonsense.
    #[error("the front end's node {node} is \"{value}\", which is {what}")]
    Bad {
        /// Which.
        node: &'static str,
        /// What it says, as [`value::shown`].
        value: String,
        /// What is wrong.
        what: &'static str,
    },
    /// Something that was not offered.
    #[error("the front end asks for {0}, which this back end does not offer")]
    NotOffered(String),
}

impl FrontNodes {
    /// Reads and checks them. `read` gives a node's value below the front's directory.
    ///
    /// # Errors
    /// The first bad node, or what `read` says.
    pub fn read<E: From<NodeError>>(
        mut read: impl FnMut(&'static str) -> Result<Option<Vec<u8>>, E>,
    ) -> Result<Self, E> {
        if let Some(protocol) = read("protocol")?
            && value::trimmed(&protocol) != PROTOCOL.as_bytes()
        {
            let what = format!("protocol {}", value::shown(&protocol));
            return Err(NodeError::NotOffered(what).into());
        }
        let order = read("ring-page-order")?;
        let queues = read("multi-queue-num-queues")?;
        for (node, value, most) in [
            ("ring-page-order", &order, 0),
            ("multi-queue-num-queues", &queues, 1),
        ] {
            if let Some(value) = value
                && number(node, value)? > most
            {
                let what = format!("{node} {}", value::shown(value));
                return Err(NodeError::NotOffered(what).into());
            }
        }
        // A front that speaks of the ring's order numbers even the only page. The other name may
        // be an earlier front's, of a page that is gone; Linux' back end decides alike.
        let node = match order {
            Some(_) => "ring-ref0",
            None => "ring-ref",
        };
        let value = read(node)?.ok_or(NodeError::Missing(node))?;
        let ring_ref = number(node, &value)?;
        let port = read("event-channel")?.ok_or(NodeError::Missing("event-channel"))?;
        let event_channel = number("event-channel", &port)?;
        if event_channel == 0 {
            return Err(bad("event-channel", &port, "no port").into());
        }
        let persistent = match read("feature-persistent")? {
            Some(value) => value::boolean(&value)
                .ok_or_else(|| bad("feature-persistent", &value, "neither 0 nor 1"))?,
            None => false,
        };
        let liveness = read(LIVENESS_NODE)?
            .map(|value| liveness(&value))
            .transpose()?;
        Ok(FrontNodes {
            ring_ref: GrantRef(ring_ref),
            event_channel: EvtchnPort(event_channel),
            persistent,
            liveness,
        })
    }
}

/// In the header, behind the indices, and not our own.
fn liveness(value: &[u8]) -> Result<usize, NodeError> {
    let place = number(LIVENESS_NODE, value)? as usize;
    if (layout::RESERVED..BACK_LIVENESS).contains(&place) {
        return Ok(place);
    }
    Err(bad(
        LIVENESS_NODE,
        value,
        "outside the reserved part of the ring's header",
    ))
}

fn number(node: &'static str, value: &[u8]) -> Result<u32, NodeError> {
    value::number(value).ok_or_else(|| bad(node, value, "no number of 32 bits"))
}

fn bad(node: &'static str, value: &[u8], what: &'static str) -> NodeError {
    NodeError::Bad {
        node,
        value: value::shown(value),
        what,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashMap;

    fn read(nodes: &[(&'static str, &str)]) -> Result<FrontNodes, NodeError> {
        let nodes: HashMap<_, _> = nodes.iter().copied().collect();
        FrontNodes::read(|node| Ok(nodes.get(node).map(|value| value.as_bytes().to_vec())))
    }

    #[test]
    fn a_linux_front_and_our_own() {
        let linux = [
            ("ring-ref", "8"),
            ("event-channel", "17"),
            ("protocol", "x86_64-abi"),
            ("feature-persistent", "1"),
        ];
        let expected = FrontNodes {
            ring_ref: GrantRef(8),
            event_channel: EvtchnPort(17),
            persistent: true,
            liveness: None,
        };
        assert_eq!(read(&linux), Ok(expected));
        let ours = [
            ("ring-ref", "8"),
            ("event-channel", "17"),
            (LIVENESS_NODE, "62"),
        ];
        let expected = FrontNodes {
            persistent: false,
            liveness: Some(62),
            ..expected
        };
        assert_eq!(read(&ours), Ok(expected));
        let others = [
            ("ring-ref", "8\0"),
            ("event-channel", " 017\n"),
            ("protocol", "x86_64-abi\0"),
            (LIVENESS_NODE, "62\0"),
            ("feature-persistent", "0\0"),
        ];
        assert_eq!(read(&others), Ok(expected));
        let order_zero = [
            ("ring-page-order", "0"),
            ("ring-ref0", "9"),
            ("event-channel", "1"),
        ];
        assert_eq!(read(&order_zero).map(|n| n.ring_ref), Ok(GrantRef(9)));
    }

    #[test]
    fn what_an_earlier_front_left_does_not_mislead() {
        let both = [
            ("ring-ref", "8"),
            ("ring-ref0", "9"),
            ("event-channel", "1"),
            ("ring-page-order", "0"),
        ];
        assert_eq!(read(&both).map(|n| n.ring_ref), Ok(GrantRef(9)));
        assert_eq!(read(&both[..3]).map(|n| n.ring_ref), Ok(GrantRef(8)));
        let stale = [both[0], both[2], both[3]];
        assert_eq!(read(&stale), Err(NodeError::Missing("ring-ref0")));
        assert_eq!(read(&both[1..3]), Err(NodeError::Missing("ring-ref")));
    }

    #[test]
    fn nonsense_is_refused_with_its_name() {
        let good = [("ring-ref", "8"), ("event-channel", "17")];
        for (node, value) in [
            ("ring-ref", ""),
            ("ring-ref", "-1"),
            ("ring-ref", "+1"),
            ("ring-ref", "4294967296"),
            ("ring-ref", "8 8"),
            ("event-channel", "0"),
            ("event-channel", "x\u{1b}[2J"),
            ("feature-persistent", "yes"),
            ("protocol", "x86_32-abi"),
            ("ring-page-order", "1"),
            ("multi-queue-num-queues", "2"),
            (LIVENESS_NODE, "63"),
            (LIVENESS_NODE, "12"),
            (LIVENESS_NODE, "4095"),
        ] {
            let mut nodes: HashMap<_, _> = good.into_iter().collect();
            nodes.insert(node, value);
            let nodes: Vec<_> = nodes.into_iter().collect();
            let error = read(&nodes).expect_err(value).to_string();
            assert!(
                error.contains(node.trim_end_matches("-abi")),
                "{node} {value:?}: {error}"
            );
            assert!(error.is_ascii() && !error.contains('\u{1b}'), "{error:?}");
        }
        let missing = read(&good[..1]);
        assert_eq!(missing, Err(NodeError::Missing("event-channel")));
        let long = "9".repeat(5000);
        let error = read(&[("ring-ref", &long)]).expect_err("long").to_string();
        assert!(error.len() < 200, "{error}");
    }
}
