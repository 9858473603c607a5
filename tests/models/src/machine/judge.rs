//! What must hold after each step.

use super::state::{Driven, LAWS, MAPPER, State};
use libgnt::grant::unmap::UnmapState;
use std::collections::BTreeMap;

impl Driven {
    pub(super) fn breaks(&self, state: &mut State, law: &str) {
        if let Some(at) = LAWS.iter().position(|(key, _)| *key == law) {
            state.broken |= 1 << at;
        }
    }

    /// After each step: the machine's own check, and what can be seen from outside.
    pub(super) fn judge(&self, state: &mut State) {
        if let Err(why) = state.machine.check() {
            let letter = why.strip_prefix('(').and_then(|rest| rest.get(..1));
            let law = letter.filter(|l| LAWS.iter().any(|(key, _)| key == l));
            self.breaks(state, law.unwrap_or("books"));
            state.why = Some(why);
            state.crashed = true;
            return;
        }
        let inspection = state.machine.inspect(state.now);
        if let Some(damage) = inspection.damage.first() {
            // Nothing sensible follows.
            self.breaks(state, "g");
            state.why = Some(damage.to_string());
            state.crashed = true;
            return;
        }
        let asynchronous = self.setup.asynchronous;
        if asynchronous && state.pending[MAPPER].is_some() {
            self.breaks(state, "a");
        }
        let mapped: BTreeMap<_, u32> = (inspection.grants.iter())
            .map(|grant| (grant.grant, grant.maps))
            .collect();
        for (unmap, map) in state.unmaps.iter().zip(&self.setup.maps) {
            let still = map
                .grants
                .iter()
                .any(|g| mapped.get(g).is_some_and(|maps| *maps > 0));
            if unmap.state() == UnmapState::Released && still {
                state.why = Some(format!("{:?} are still mapped", map.grants));
                state.crashed = true;
            }
        }
        if state.crashed {
            self.breaks(state, "released");
        }
    }
}
