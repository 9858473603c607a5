use super::*;

fn page() -> SharedPages {
    SharedPages::anonymous(EVENT_PAGES).expect("memory")
}

fn taken(words: &impl Words) -> Vec<u32> {
    let mut ports = Vec::new();
    take(words, &mut ports);
    ports.into_iter().map(|port| port.0).collect()
}

#[test]
fn one_wake_up_for_many_ports() {
    let page = page();
    assert!(raise(&page, EvtchnPort(1)), "first event wakes");
    for port in [1, 2, 63, 64, 4095] {
        assert!(
            !raise(&page, EvtchnPort(port)),
            "the receiver has a wake-up coming"
        );
    }
    assert_eq!(taken(&page), [1, 2, 63, 64, 4095]);
    assert_eq!(taken(&page), [0; 0]);
    assert!(
        raise(&page, EvtchnPort(5)),
        "drained: the next event wakes again"
    );
}

#[test]
fn a_delivered_port_waits_for_its_unmask() {
    let page = page();
    assert!(raise(&page, EvtchnPort(7)));
    assert_eq!(taken(&page), [7]);
    assert!(!raise(&page, EvtchnPort(7)), "masked");
    assert_eq!(taken(&page), [0; 0]);
    assert!(unmask(&page, EvtchnPort(7)), "it came meanwhile");
    assert_eq!(taken(&page), [7]);
    assert!(!unmask(&page, EvtchnPort(7)), "nothing came meanwhile");
    assert!(raise(&page, EvtchnPort(7)));
}

#[test]
fn a_number_used_again_starts_without_a_past() {
    let page = page();
    raise(&page, EvtchnPort(7));
    assert_eq!(taken(&page), [7]);
    raise(&page, EvtchnPort(7));
    clear(&page, EvtchnPort(7));
    assert_eq!(taken(&page), [0; 0], "the former port's event");
    assert!(raise(&page, EvtchnPort(7)), "the former port's mask");
    assert_eq!(taken(&page), [7]);
}

#[test]
fn ports_outside_the_table_do_nothing() {
    let page = page();
    for port in [PORTS as u32, u32::MAX] {
        assert!(!raise(&page, EvtchnPort(port)));
        assert!(!unmask(&page, EvtchnPort(port)));
    }
    assert_eq!(taken(&page), [0; 0]);
}
