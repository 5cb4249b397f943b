//! What is known in memory of the events that are not sealed yet: where they are, how the devices counted them, and which is
//! the newest of each metric. It is changed after the file was, and made anew from it at the start.

use std::{
    collections::{BTreeSet, HashMap},
    sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock, atomic::AtomicI64},
};

use iot_core::{id::Metric, store::Series};

use crate::sealing::Counts;

/// Where an event is: the device's time in microseconds, then its sequence.
pub(super) type Place = (i64, i64);

/// By series, those with events that are not sealed.
#[derive(Default)]
pub(in crate::sqlite) struct Window {
    // Small sections, never across an await.
    series: RwLock<HashMap<Series, Arc<Hot>>>,
    /// How many segments wait to be sealed.
    pub(super) waiting: AtomicI64,
}

/// One series.
pub(super) struct Hot {
    /// Its number in the file.
    pub(super) id: i64,
    // Small sections, never across an await.
    state: Mutex<State>,
}

#[derive(Default)]
pub(super) struct State {
    // Not a list: a device may send what it has kept with the newest first.
    places: BTreeSet<Place>,
    /// How the device counted its events, sealed ones too.
    pub(super) counts: Counts,
    newest: Vec<(Metric, Place)>,
}

impl Window {
    pub(super) fn get(&self, series: &Series) -> Option<Arc<Hot>> {
        self.series.read().unwrap_or_else(PoisonError::into_inner).get(series).cloned()
    }

    pub(super) fn insert(&self, series: Series, hot: Arc<Hot>) {
        self.series.write().unwrap_or_else(PoisonError::into_inner).insert(series, hot);
    }

    pub(super) fn remove(&self, series: &Series) {
        self.series.write().unwrap_or_else(PoisonError::into_inner).remove(series);
    }

    /// Those that have events from `first` to `last`, by number.
    pub(super) fn with_events(&self, first: i64, last: i64) -> Vec<(Series, Arc<Hot>)> {
        let series = self.series.read().unwrap_or_else(PoisonError::into_inner);
        let has = |hot: &Hot| hot.state().places.iter().any(|(_, sequence)| (first..=last).contains(sequence));
        let found = series.iter().filter(|(_, hot)| has(hot));
        let mut found: Vec<_> = found.map(|(series, hot)| (series.clone(), Arc::clone(hot))).collect();
        found.sort_by_key(|(_, hot)| hot.id);
        found
    }
}

impl Hot {
    pub(super) fn new(id: i64, counts: Counts) -> Self {
        Self { id, state: Mutex::new(State { counts, ..State::default() }) }
    }

    pub(super) fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    pub(super) fn add(&mut self, place: Place, count: Option<i64>, metrics: &[Metric]) {
        self.places.insert(place);
        if let Some(count) = count {
            self.counts.insert(count);
        }
        for (index, metric) in metrics.iter().enumerate() {
            // A device that reports the same metrics each time finds each where it was.
            let known = match self.newest.get(index) {
                Some((name, _)) if name == metric => Some(index),
                _ => self.newest.iter().position(|(name, _)| name == metric),
            };
            match known {
                Some(known) => self.newest[known].1 = self.newest[known].1.max(place),
                None => self.newest.push((metric.clone(), place)),
            }
        }
    }

    /// Those from `from`, included, until `until`, excluded, in order.
    pub(super) fn between(&self, from: i64, until: i64) -> impl DoubleEndedIterator<Item = Place> {
        let span = (from < until).then_some((from, i64::MIN)..(until, i64::MIN));
        span.into_iter().flat_map(|span| self.places.range(span)).copied()
    }

    pub(super) fn newest(&self) -> &[(Metric, Place)] {
        &self.newest
    }

    /// The sequences from `first` to `last`, ascending.
    pub(super) fn sequences(&self, first: i64, last: i64) -> Vec<i64> {
        let sequences = self.places.iter().map(|(_, sequence)| *sequence);
        let mut sequences: Vec<i64> = sequences.filter(|sequence| (first..=last).contains(sequence)).collect();
        sequences.sort_unstable();
        sequences
    }

    /// Those from `first` to `last` are not here any more; `true` if none is left.
    pub(super) fn forget(&mut self, first: i64, last: i64) -> bool {
        let stays = |place: &Place| !(first..=last).contains(&place.1);
        self.places.retain(stays);
        self.newest.retain(|(_, place)| stays(place));
        self.places.is_empty()
    }
}
