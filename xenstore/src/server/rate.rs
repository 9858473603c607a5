//! How fast domains may write: xenstored's limit (XSA-206; `wrl_…`, `tools/xenstored/domain.c`).
//!
//! A domain whose writes can be in the way of others' transactions pays for each with credit, which
//! comes back with time. Without credit its requests wait. What one does not use others may borrow.

use libgnt::DomId;
use libgnt::machine::Now;
use std::collections::BTreeMap;
use std::time::Duration;

/// How credit comes and goes. A write costs 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct WriteRate {
    /// Writes a second, of all domains together.
    pub rate: u32,
    /// Writes that one domain may save up.
    pub domain_burst: u32,
    /// Writes that all together may save up.
    pub shared_burst: u32,
    /// New domains that get a full burst at once, though nobody has saved it up.
    pub new_domains: u32,
}

impl Default for WriteRate {
    fn default() -> WriteRate {
        WriteRate {
            rate: 200,
            domain_burst: 10,
            shared_burst: 1000,
            new_domains: 5,
        }
    }
}

/// Of credit, so that milliseconds need no fractions.
const WRITE: i64 = 1000;

#[derive(Clone, Copy, Debug)]
struct Account {
    credit: i64,
    counted: Now,
}

/// The accounts of all domains but dom0.
#[derive(Debug)]
pub(super) struct Rates {
    rate: WriteRate,
    accounts: BTreeMap<DomId, Account>,
    shared: i64,
}

/// As much as `from` may give down to `floor` and `to` may take up to `ceiling`.
fn pass(from: &mut i64, floor: i64, to: &mut i64, ceiling: i64) {
    let passed = (*from - floor).min(ceiling - *to).max(0);
    *from -= passed;
    *to += passed;
}

impl Rates {
    pub(super) fn new(rate: WriteRate) -> Rates {
        Rates {
            rate,
            accounts: BTreeMap::new(),
            shared: 0,
        }
    }

    fn burst(&self) -> i64 {
        i64::from(self.rate.domain_burst) * WRITE
    }

    pub(super) fn come(&mut self, domid: DomId, now: Now) {
        let mut account = Account {
            credit: 0,
            counted: now,
        };
        let lent = -i64::from(self.rate.new_domains) * self.burst();
        let burst = self.burst();
        pass(&mut self.shared, lent, &mut account.credit, burst);
        self.accounts.insert(domid, account);
    }

    pub(super) fn go(&mut self, domid: DomId) {
        if let Some(mut account) = self.accounts.remove(&domid) {
            let burst = self.burst();
            pass(&mut account.credit, 0, &mut self.shared, burst);
        }
    }

    /// Counts so many writes.
    pub(super) fn pay(&mut self, domid: DomId, writes: usize, now: Now) {
        self.count(domid, now);
        if let Some(account) = self.accounts.get_mut(&domid) {
            // A message makes or removes far fewer nodes than this can count.
            let writes = i64::try_from(writes).unwrap_or(i64::MAX / WRITE);
            account.credit = account.credit.saturating_sub(writes.saturating_mul(WRITE));
        }
    }

    /// How long the domain has to wait before its next request; `None`: not at all.
    pub(super) fn wait(&mut self, domid: DomId, now: Now) -> Option<Duration> {
        // The usual case needs no clock.
        if self.accounts.get(&domid)?.credit >= 0 {
            return None;
        }
        self.count(domid, now);
        let credit = self.accounts.get(&domid)?.credit;
        let a_second = i64::from(self.rate.rate) * WRITE;
        let owed = credit.unsigned_abs() * 1000 * self.accounts.len() as u64;
        let milliseconds = owed.div_ceil(a_second.max(1).unsigned_abs());
        (credit < 0).then(|| Duration::from_millis(milliseconds.max(1)))
    }

    /// Credit for the time since it was counted last, in whole milliseconds.
    fn count(&mut self, domid: DomId, now: Now) {
        let (domains, burst) = (self.accounts.len() as i64, self.burst());
        let Some(account) = self.accounts.get_mut(&domid) else {
            return;
        };
        // What is more fills every account.
        let passed = now.saturating_sub(account.counted).as_millis().min(1 << 30) as i64;
        account.counted += Duration::from_millis(passed.unsigned_abs());
        account.credit += passed * i64::from(self.rate.rate) / domains.max(1);
        pass(&mut self.shared, 0, &mut account.credit, 0);
        let mut surplus = 0;
        pass(&mut account.credit, burst, &mut surplus, i64::MAX);
        let ceiling = i64::from(self.rate.shared_burst) * WRITE;
        pass(&mut surplus, 0, &mut self.shared, ceiling);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ONE: DomId = DomId(1);

    fn at(milliseconds: u64) -> Now {
        Now::from_millis(milliseconds)
    }

    /// Writes as fast as it is let, and says how many in so many seconds.
    fn writes(rates: &mut Rates, domid: DomId, from: u64, seconds: u64) -> u64 {
        let (mut now, mut count) = (at(from), 0);
        while now < at(from) + Duration::from_secs(seconds) {
            match rates.wait(domid, now) {
                Some(wait) => now += wait,
                None => {
                    rates.pay(domid, 1, now);
                    count += 1;
                }
            }
        }
        count
    }

    #[test]
    fn a_flood_is_slowed_to_the_rate_after_a_burst() {
        let mut rates = Rates::new(WriteRate::default());
        rates.come(ONE, at(0));
        let count = writes(&mut rates, ONE, 0, 10);
        assert!((2000..2020).contains(&count), "{count}");
    }

    #[test]
    fn domains_share_the_rate_and_may_use_what_others_saved() {
        let mut rates = Rates::new(WriteRate::default());
        for domid in 1..=4 {
            rates.come(DomId(domid), at(0));
        }
        let count = writes(&mut rates, ONE, 0, 10);
        assert!((500..520).contains(&count), "a quarter: {count}");
        // Ten minutes in which nobody writes fill what is shared, not more.
        rates.pay(DomId(2), 1, at(600_000));
        let count = writes(&mut rates, ONE, 600_000, 1);
        assert!((1000..1100).contains(&count), "{count}");
    }

    #[test]
    fn who_has_no_account_does_not_wait() {
        let mut rates = Rates::new(WriteRate::default());
        rates.come(ONE, at(0));
        rates.go(ONE);
        rates.pay(ONE, 1, at(0));
        assert_eq!(rates.wait(ONE, at(0)), None);
        assert_eq!(rates.wait(DomId::DOM0, at(0)), None);
    }
}
