//! What a front end says about its ring.

use super::{
    BACK_ALIVE_BYTE, EVENT_CHANNEL, FEATURE_LARGE_SECTOR_SIZE, FEATURE_PERSISTENT, LIVENESS,
    MULTI_QUEUE_NUM_QUEUES, NUM_RING_PAGES, Node, NodeError, PROTOCOL, Publisher, RING_PAGE_ORDER,
    RING_REF, RING_REF_0, X86_64_ABI, digit, missing,
};
use crate::proto::value;
use crate::ring::layout;
use crate::types::{EvtchnPort, GrantRef};

/// How to reach a front end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FrontNodes {
    /// The ring's only page.
    pub ring_ref: GrantRef,
    /// The port that the front end keeps for the back end.
    pub event_channel: EvtchnPort,
    /// The front end keeps its grants for reuse.
    pub persistent: bool,
    /// Where its liveness byte is, if it has one (a Linux front end has none).
    pub liveness: Option<usize>,
}

impl FrontNodes {
    /// The names that [`FrontNodes::write`] uses.
    pub const NAMES: [&'static str; 5] = [
        RING_REF,
        EVENT_CHANNEL,
        PROTOCOL,
        FEATURE_PERSISTENT,
        LIVENESS,
    ];

    /// Reads and checks them. `read` gives a node's value below the front end's directory.
    ///
    /// # Errors
    /// The first bad node, or what `read` says.
    pub fn read<E: From<NodeError>>(
        mut read: impl FnMut(&'static str) -> Result<Option<Vec<u8>>, E>,
    ) -> Result<Self, E> {
        if let Some(protocol) = read(PROTOCOL)?
            && value::trimmed(&protocol) != X86_64_ABI.as_bytes()
        {
            let what = format!("protocol {}", value::shown(&protocol));
            return Err(NodeError::NotOffered(what).into());
        }
        let order = read(RING_PAGE_ORDER)?;
        let queues = read(MULTI_QUEUE_NUM_QUEUES)?;
        for (name, value, most) in [
            (RING_PAGE_ORDER, &order, 0),
            (MULTI_QUEUE_NUM_QUEUES, &queues, 1),
        ] {
            if let Some(value) = value
                && node(name, value).number::<u32>()? > most
            {
                let what = format!("{name} {}", value::shown(value));
                return Err(NodeError::NotOffered(what).into());
            }
        }
        // A front end that speaks of the ring's order numbers even the only page. The other name may
        // be an earlier front end's, of a page that is gone; Linux' back end decides alike.
        let name = match order {
            Some(_) => RING_REF_0,
            None => RING_REF,
        };
        let value = read(name)?.ok_or(missing(Publisher::FrontEnd, name))?;
        let ring_ref = node(name, &value).number()?;
        let value = read(EVENT_CHANNEL)?.ok_or(missing(Publisher::FrontEnd, EVENT_CHANNEL))?;
        let port = node(EVENT_CHANNEL, &value);
        let event_channel = port.number()?;
        if event_channel == 0 {
            return Err(port.bad("no port").into());
        }
        let persistent = match read(FEATURE_PERSISTENT)? {
            Some(value) => node(FEATURE_PERSISTENT, &value).flag()?,
            None => false,
        };
        let liveness = read(LIVENESS)?.map(|value| liveness(&value)).transpose()?;
        Ok(FrontNodes {
            ring_ref: GrantRef(ring_ref),
            event_channel: EvtchnPort(event_channel),
            persistent,
            liveness,
        })
    }

    /// What a front end publishes: names and values, to be written all at once with its state.
    pub fn write(&self) -> Vec<(&'static str, String)> {
        let mut nodes = vec![
            (RING_REF, self.ring_ref.0.to_string()),
            (EVENT_CHANNEL, self.event_channel.0.to_string()),
            (PROTOCOL, X86_64_ABI.into()),
            (FEATURE_PERSISTENT, digit(self.persistent)),
        ];
        nodes.extend(self.liveness.map(|place| (LIVENESS, place.to_string())));
        nodes
    }

    /// Does a node of a front end's announce rings, or requests, in a form that [`FrontNodes::write`]
    /// does not use: of several pages, in several queues, in other units than 512 bytes?
    pub fn is_other_form(name: &str) -> bool {
        let numbered = |prefix: &str| {
            let number = name.strip_prefix(prefix);
            number.is_some_and(|n| !n.is_empty() && n.bytes().all(|b| b.is_ascii_digit()))
        };
        matches!(
            name,
            RING_PAGE_ORDER | NUM_RING_PAGES | MULTI_QUEUE_NUM_QUEUES | FEATURE_LARGE_SECTOR_SIZE
        ) || numbered(RING_REF)
            || numbered("queue-")
    }
}

fn node<'a>(name: &'static str, value: &'a [u8]) -> Node<'a> {
    Node {
        by: Publisher::FrontEnd,
        name,
        value,
    }
}

/// In the header, behind the indices, and not the back end's own.
fn liveness(value: &[u8]) -> Result<usize, NodeError> {
    let node = node(LIVENESS, value);
    let place = node.number::<u32>()? as usize;
    if (layout::RESERVED..BACK_ALIVE_BYTE).contains(&place) {
        return Ok(place);
    }
    Err(node.bad("outside the reserved part of the ring's header"))
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
        let ours = [("ring-ref", "8"), ("event-channel", "17"), (LIVENESS, "62")];
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
            (LIVENESS, "62\0"),
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
        assert_eq!(read(&stale), Err(missing(Publisher::FrontEnd, "ring-ref0")));
        assert_eq!(
            read(&both[1..3]),
            Err(missing(Publisher::FrontEnd, "ring-ref"))
        );
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
            (LIVENESS, "63"),
            (LIVENESS, "12"),
            (LIVENESS, "4095"),
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
        let absent = read(&good[..1]);
        assert_eq!(absent, Err(missing(Publisher::FrontEnd, "event-channel")));
        let long = "9".repeat(5000);
        let error = read(&[("ring-ref", &long)]).expect_err("long").to_string();
        assert!(error.len() < 200, "{error}");
    }

    #[test]
    fn what_is_written_is_read_and_nothing_of_another_form() {
        let nodes = FrontNodes {
            ring_ref: GrantRef(8),
            event_channel: EvtchnPort(17),
            persistent: true,
            liveness: Some(crate::proto::blkif::nodes::FRONT_ALIVE_BYTE),
        };
        let written = nodes.write();
        let text: Vec<_> = written.iter().map(|(n, v)| (*n, v.as_str())).collect();
        assert_eq!(read(&text), Ok(nodes));
        assert!(text.iter().map(|(name, _)| *name).eq(FrontNodes::NAMES));
        assert!(!text.iter().any(|(name, _)| FrontNodes::is_other_form(name)));
        for other in ["ring-ref0", "ring-page-order", "queue-1", "num-ring-pages"] {
            assert!(FrontNodes::is_other_form(other), "{other}");
        }
    }
}
