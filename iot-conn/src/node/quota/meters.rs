use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use iot_core::{
    id::TenantId,
    quota::{Quota, Scope},
};

use super::meter::Meter;
use crate::{recent::Recent, router::SubscriberId};

/// The most meters that are remembered without a connection: whoever comes back at once has no second burst. When as many are, the
/// half that was left longest ago is forgotten.
const LEFT_MAX: usize = 4_096;

/// Whose meter it is.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) enum MeterKey {
    Listener(&'static str),
    /// Never one that stands for each of several.
    Of(TenantId, Scope),
}

/// The meters on which connections have seats. Bounded by the connections, and [`LEFT_MAX`].
#[derive(Debug)]
pub(crate) struct Meters {
    // Small sections, never across an await. Locked before any meter.
    table: Mutex<Table>,
}

#[derive(Debug)]
struct Table {
    taken: HashMap<MeterKey, Arc<Meter>>,
    left: Recent<MeterKey, Arc<Meter>>,
}

impl Default for Meters {
    fn default() -> Self {
        Self { table: Mutex::new(Table { taken: HashMap::new(), left: Recent::new(LEFT_MAX) }) }
    }
}

impl Meters {
    fn table(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes a place on a meter, which holds to this quota from now on; `None` if there is none.
    pub(super) fn enter(
        &self,
        key: &MeterKey,
        quota: &Quota,
        session: SubscriberId,
        forced: bool,
    ) -> Option<Arc<Meter>> {
        let mut table = self.table();
        let meter = match table.taken.get(key) {
            Some(meter) => meter.clone(),
            None => {
                let meter = table.left.remove(key).unwrap_or_default();
                table.taken.insert(key.clone(), meter.clone());
                meter
            }
        };
        let mut state = meter.state();
        state.limit(quota);
        let entered = state.enter(session, forced);
        drop(state);
        // A quota lets at least one in, so that no meter stays without a connection.
        entered.then_some(meter)
    }

    /// Gives a place back.
    pub(super) fn leave(&self, key: &MeterKey, meter: &Arc<Meter>, session: SubscriberId) {
        let mut table = self.table();
        let mut state = meter.state();
        state.leave(session);
        let is_left = state.connections() == 0;
        drop(state);
        if is_left {
            table.taken.remove(key);
            table.left.insert(key.clone(), meter.clone());
        }
    }

    /// How many sessions have a place.
    pub(super) fn connections(&self, key: &MeterKey) -> u64 {
        self.table().taken.get(key).map_or(0, |meter| meter.state().connections() as u64)
    }

    #[cfg(test)]
    pub(super) fn len(&self) -> (usize, usize) {
        let table = self.table();
        (table.taken.len(), table.left.iter().count())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(device: &str) -> MeterKey {
        MeterKey::Of(TenantId::parse("t").unwrap(), Scope::Device(device.parse().unwrap()))
    }

    #[test]
    fn a_meter_is_shared_while_somebody_has_a_seat_and_remembered_for_who_comes_back() {
        let (meters, quota) = (Meters::default(), Quota { connections_max: Some(2), ..Quota::default() });
        let enter = |session| meters.enter(&key("a"), &quota, SubscriberId(session), false);
        let (first, second) = (enter(1).unwrap(), enter(2).unwrap());
        assert!(Arc::ptr_eq(&first, &second));
        assert!(enter(3).is_none());
        meters.leave(&key("a"), &first, SubscriberId(1));
        assert_eq!((meters.len(), meters.connections(&key("a"))), ((1, 0), 1));
        meters.leave(&key("a"), &second, SubscriberId(2));
        assert_eq!(meters.len(), (0, 1));
        assert!(Arc::ptr_eq(&enter(3).unwrap(), &first), "with all that it has counted");
        assert_eq!(meters.len(), (1, 0));
    }

    #[test]
    fn those_that_were_left_stay_bounded() {
        let (meters, quota) = (Meters::default(), Quota::default());
        for n in 0..3 * LEFT_MAX {
            let key = key(&n.to_string());
            let meter = meters.enter(&key, &quota, SubscriberId(1), false).unwrap();
            meters.leave(&key, &meter, SubscriberId(1));
            assert!(meters.len().0 == 0);
        }
        assert!(meters.len().1 <= LEFT_MAX);
    }
}
