//! temporary
use libgnt::SharedPages;
use libgnt::proto::blkif::*;
use libgnt::ring::{BackRing, FrontRing};
use std::sync::Arc;
#[inline(never)]
fn fill(ring: &mut FrontRing<X86_64>, sent: &mut u64, n: u8) {
    while ring.free_slots() > 0 {
        let mut request = Request {
            operation: Operation::Read,
            handle: 51712,
            id: *sent,
            sector: *sent * 8,
            segments: Segments::default(),
        };
        request.segments.extend((0..n).map(|n| Segment {
            gref: u32::from(n) + 8,
            first_sector: 0,
            last_sector: 7,
        }));
        ring.push(&request).unwrap();
        *sent += 1;
    }
    std::hint::black_box(ring.publish());
}
#[inline(never)]
fn handle(ring: &mut BackRing<X86_64>) {
    for _ in 0..ring.available().unwrap() {
        let request = ring.pop().unwrap().unwrap();
        let status = match request.operation {
            Operation::Read | Operation::Write | Operation::Flush => Status::Okay,
            Operation::Malformed { .. } => Status::Error,
            Operation::Other(_) => Status::NotSupported,
        };
        ring.push(&request.response(status));
    }
    std::hint::black_box(ring.publish());
}
#[inline(never)]
fn collect(ring: &mut FrontRing<X86_64>, answered: &mut u64) {
    for _ in 0..ring.available().unwrap() {
        let response = ring.pop().unwrap().unwrap();
        assert!(response.id == *answered && response.status == Status::Okay);
        *answered += 1;
    }
}
fn main() {
    for n in std::env::args().skip(1).map(|n| n.parse::<u8>().unwrap()) {
        let page = Arc::new(SharedPages::anonymous(1).unwrap());
        let mut front = FrontRing::new(page.clone(), X86_64);
        let mut back = BackRing::attach(page, X86_64);
        let (mut sent, mut answered) = (0, 0);
        let mut best = [f64::MAX; 3];
        for _ in 0..20 {
            let mut t = [0.0; 3];
            for _ in 0..2000 {
                let a = std::time::Instant::now();
                fill(&mut front, &mut sent, n);
                let b = std::time::Instant::now();
                handle(&mut back);
                let c = std::time::Instant::now();
                collect(&mut front, &mut answered);
                let d = std::time::Instant::now();
                t[0] += (b - a).as_secs_f64();
                t[1] += (c - b).as_secs_f64();
                t[2] += (d - c).as_secs_f64();
            }
            for i in 0..3 {
                best[i] = best[i].min(t[i] * 1e9 / 64000.0);
            }
        }
        println!(
            "{n} segments: ns/request fill {:.2} handle {:.2} collect {:.2}",
            best[0], best[1], best[2]
        );
    }
}
