//! What the reports of a chunk have in common.

use std::{collections::HashMap, hash::Hash};

use iot_core::{
    event::{Report, StoredEvent, Value},
    id::Metric,
};

use super::{
    CHUNK_VALUES_MAX, ChunkError,
    layout::{Column, Kind, Layout},
    page::is_whole,
};

/// The dictionaries, and the shape of each report.
pub(super) struct Plan {
    pub(super) layout: Layout,
    pub(super) shapes: Vec<usize>,
}

impl Plan {
    pub(super) fn of(events: &[StoredEvent]) -> Result<Self, ChunkError> {
        let mut names = Names::default();
        let mut ids = Vec::with_capacity(events.len() * 4);
        for stored in events {
            match &stored.event.report {
                Report::Telemetry(values) => {
                    for (position, (metric, value)) in values.iter().enumerate() {
                        ids.push(names.id(position, metric));
                        names.note(ids[ids.len() - 1], value);
                    }
                }
                Report::Event { name, .. } => ids.push(names.id(0, name)),
            }
            if ids.len() > CHUNK_VALUES_MAX {
                return Err(ChunkError::TooLarge { what: "values", max: CHUNK_VALUES_MAX });
            }
        }
        let (mut columns, mut shapes) = (Dictionary::default(), Dictionary::default());
        let (mut ids, mut shape, mut of_rows) = (ids.into_iter(), Vec::new(), Vec::with_capacity(events.len()));
        for stored in events {
            shape.clear();
            match &stored.event.report {
                Report::Telemetry(values) => shape.extend(
                    values
                        .iter()
                        .zip(&mut ids)
                        .map(|((_, value), metric)| columns.index(&Column { metric, kind: names.kind(metric, value) })),
                ),
                Report::Event { .. } => {
                    shape.extend(ids.next().map(|metric| columns.index(&Column { metric, kind: Kind::Event })));
                }
            }
            of_rows.push(shapes.index(&shape));
        }
        let layout = Layout {
            rows: events.len(),
            last: events[events.len() - 1].event.at.as_micros(),
            products: Dictionary::of(events.iter().map(|stored| &stored.event.product)),
            homes: Dictionary::of(events.iter().map(|stored| &stored.event.home)),
            metrics: names.metrics.into_iter().cloned().collect(),
            columns: columns.entries,
            shapes: shapes.entries,
            ..Layout::default()
        };
        Ok(Self { layout, shapes: of_rows })
    }
}

/// Gives each of its entries a number.
pub(super) struct Dictionary<T> {
    pub(super) entries: Vec<T>,
    indices: HashMap<T, usize>,
    last: usize,
}

impl<T> Default for Dictionary<T> {
    fn default() -> Self {
        Self { entries: Vec::new(), indices: HashMap::new(), last: 0 }
    }
}

impl<T: Clone + Eq + Hash> Dictionary<T> {
    pub(super) fn of<'a>(entries: impl Iterator<Item = &'a T>) -> Vec<T>
    where
        T: 'a,
    {
        let mut dictionary = Self::default();
        for entry in entries {
            dictionary.index(entry);
        }
        dictionary.entries
    }

    /// That has these entries already.
    pub(super) fn with(entries: &[T]) -> Self {
        let indices = (0..).zip(entries).map(|(index, entry)| (entry.clone(), index)).collect();
        Self { entries: entries.to_vec(), indices, last: 0 }
    }

    pub(super) fn index(&mut self, entry: &T) -> usize {
        if self.entries.get(self.last) == Some(entry) {
            return self.last;
        }
        self.last = match self.indices.get(entry) {
            Some(index) => *index,
            None => {
                self.entries.push(entry.clone());
                self.indices.insert(entry.clone(), self.entries.len() - 1);
                self.entries.len() - 1
            }
        };
        self.last
    }
}

/// The metrics, and which types each has.
#[derive(Default)]
struct Names<'a> {
    metrics: Vec<&'a Metric>,
    ids: HashMap<&'a Metric, usize>,
    /// What stood at each position of a report last: what most likely stands there again.
    recent: Vec<usize>,
    types: Vec<Types>,
}

#[derive(Default)]
struct Types {
    ints: bool,
    floats: bool,
    /// An integer that is no float, or a float that would be read as an integer.
    ambiguous: bool,
}

impl<'a> Names<'a> {
    fn id(&mut self, position: usize, metric: &'a Metric) -> usize {
        if let Some(recent) = self.recent.get(position)
            && self.metrics[*recent] == metric
        {
            return *recent;
        }
        let id = *self.ids.entry(metric).or_insert(self.metrics.len());
        if id == self.metrics.len() {
            self.metrics.push(metric);
            self.types.push(Types::default());
        }
        match self.recent.get_mut(position) {
            Some(recent) => *recent = id,
            None => self.recent.push(id),
        }
        id
    }

    fn note(&mut self, metric: usize, value: &Value) {
        let types = &mut self.types[metric];
        match value {
            Value::Int(int) => {
                types.ints = true;
                types.ambiguous |= int.unsigned_abs() > 1 << 53;
            }
            Value::Float(float) => {
                types.floats = true;
                types.ambiguous |= is_whole(*float);
            }
            Value::Bool(_) | Value::Text(_) | Value::Json(_) => {}
        }
    }

    fn kind(&self, metric: usize, value: &Value) -> Kind {
        let types = &self.types[metric];
        match value {
            Value::Int(_) | Value::Float(_) if types.ints && types.floats && !types.ambiguous => Kind::Number,
            Value::Bool(_) => Kind::Bool,
            Value::Int(_) => Kind::Int,
            Value::Float(_) => Kind::Float,
            Value::Text(_) => Kind::Text,
            Value::Json(_) => Kind::Json,
        }
    }
}
