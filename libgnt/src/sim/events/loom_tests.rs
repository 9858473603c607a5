use super::*;
use loom::sync::Arc;
use loom::sync::atomic::{AtomicU64, fence};
use loom::thread;

const PORT: EvtchnPort = EvtchnPort(3);

/// The three words that port 3 touches, the eventfd's counter, and what the raiser published.
struct Model {
    pending: AtomicU64,
    mask: AtomicU64,
    selector: AtomicU64,
    eventfd: AtomicU64,
    data: AtomicU64,
    fences: bool,
}

impl Model {
    fn new(fences: bool) -> Arc<Self> {
        let word = || AtomicU64::new(0);
        Arc::new(Model {
            pending: word(),
            mask: word(),
            selector: word(),
            eventfd: word(),
            data: word(),
            fences,
        })
    }

    fn at(&self, word: usize) -> &AtomicU64 {
        match word {
            PENDING => &self.pending,
            MASK => &self.mask,
            SELECTOR => &self.selector,
            _ => unreachable!("word {word}"),
        }
    }

    fn signal(&self) {
        self.eventfd.fetch_add(1, Ordering::AcqRel);
    }

    /// Publishes a value, then notifies: one side of a ring.
    fn send(&self, value: u64) {
        self.data.store(value, Ordering::Relaxed);
        if raise(self, PORT) {
            self.signal();
        }
    }

    /// A wake-up's work: drain, take, look at the data. The newest value seen.
    fn receive(&self, seen: &mut u64) -> bool {
        if self.eventfd.swap(0, Ordering::AcqRel) == 0 {
            return false;
        }
        let mut ports = Vec::new();
        if take(self, &mut ports) > 0 {
            *seen = self.data.load(Ordering::Relaxed);
            return true;
        }
        false
    }

    fn write_back(&self) {
        if unmask(self, PORT) {
            self.signal();
        }
    }
}

impl Words for Model {
    fn load(&self, word: usize, order: Ordering) -> u64 {
        self.at(word).load(order)
    }
    fn fetch_or(&self, word: usize, bits: u64, order: Ordering) -> u64 {
        self.at(word).fetch_or(bits, order)
    }
    fn fetch_and(&self, word: usize, bits: u64, order: Ordering) -> u64 {
        self.at(word).fetch_and(bits, order)
    }
    fn swap(&self, word: usize, value: u64, order: Ordering) -> u64 {
        self.at(word).swap(value, order)
    }
    fn fence(&self) {
        if self.fences {
            fence(Ordering::SeqCst);
        }
    }
}

/// A first event is delivered and masked; then a second is raised while the receiver unmasks.
/// Whatever the interleaving, following the eventfd to its end must show the second.
fn second_event_is_seen(fences: bool, write_back: fn(&Model)) {
    loom::model(move || {
        let model = Model::new(fences);
        let mut seen = 0;
        model.send(1);
        assert!(model.receive(&mut seen));
        let raiser = {
            let model = model.clone();
            thread::spawn(move || model.send(2))
        };
        write_back(&model);
        if model.receive(&mut seen) {
            model.write_back();
        }
        raiser.join().expect("raiser");
        while model.eventfd.load(Ordering::Acquire) > 0 {
            if model.receive(&mut seen) {
                model.write_back();
            }
        }
        assert_eq!(seen, 2, "lost wake-up");
    });
}

#[test]
fn loom_no_event_is_lost_across_an_unmask() {
    second_event_is_seen(true, Model::write_back);
}

#[test]
#[should_panic(expected = "lost wake-up")]
fn loom_catches_missing_fences() {
    second_event_is_seen(false, Model::write_back);
}

#[test]
#[should_panic(expected = "lost wake-up")]
fn loom_catches_an_unmask_that_does_not_look_again() {
    second_event_is_seen(true, |model| {
        model.mask.fetch_and(!(1 << PORT.0), Ordering::AcqRel);
    });
}

/// An event of a port is being taken while the host closes that port and binds its number
/// again; nobody writes the closed port back. The new port's event must be seen.
fn a_number_is_used_again(take_closed: bool, clears: bool) {
    loom::model(move || {
        let model = Model::new(true);
        let mut seen = 0;
        // A raiser that knew the former port.
        model.send(1);
        if take_closed {
            assert!(model.receive(&mut seen));
        }
        let host = {
            let model = model.clone();
            thread::spawn(move || {
                if clears {
                    clear(&*model, PORT);
                }
                model.send(2);
            })
        };
        if model.receive(&mut seen) && seen == 2 {
            model.write_back();
        }
        host.join().expect("host");
        while model.eventfd.load(Ordering::Acquire) > 0 {
            if model.receive(&mut seen) && seen == 2 {
                model.write_back();
            }
        }
        assert_eq!(seen, 2, "lost wake-up");
    });
}

#[test]
fn loom_no_event_is_lost_when_a_number_is_used_again() {
    a_number_is_used_again(false, true);
    a_number_is_used_again(true, true);
}

#[test]
#[should_panic(expected = "lost wake-up")]
fn loom_catches_a_number_used_again_without_a_clear() {
    a_number_is_used_again(true, false);
}

/// A raiser, and a receiver that is woken at any moment: nothing is left behind.
fn the_last_is_seen(last: u64, send: fn(&Model, u64)) {
    loom::model(move || {
        let model = Model::new(true);
        let raiser = {
            let model = model.clone();
            thread::spawn(move || (1..=last).for_each(|value| send(&model, value)))
        };
        let mut seen = 0;
        if model.receive(&mut seen) {
            model.write_back();
        }
        raiser.join().expect("raiser");
        while model.eventfd.load(Ordering::Acquire) > 0 {
            if model.receive(&mut seen) {
                model.write_back();
            }
        }
        assert_eq!(seen, last, "lost wake-up");
    });
}

#[test]
fn loom_no_event_is_lost_while_the_receiver_takes() {
    the_last_is_seen(2, Model::send);
}

#[test]
#[should_panic(expected = "lost wake-up")]
fn loom_catches_a_signal_before_the_pending_bit() {
    the_last_is_seen(1, |model, value| {
        model.data.store(value, Ordering::Relaxed);
        model.signal();
        raise(model, PORT);
    });
}
