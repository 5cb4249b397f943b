//! What the thread that writes does with events.

use std::{
    collections::{HashMap, HashSet},
    sync::{Arc, atomic::Ordering},
};

use iot_core::{
    event::Sequence,
    id::{HomeId, Metric, NodeId},
    store::Series,
};
use rusqlite::{Connection, params};

use super::{
    counts,
    rows::{Prepared, find_series},
    seal::Sealing,
    segment::{self, Segments},
    window::{Hot, Place, Window},
};
use crate::{
    sealing::Counts,
    sqlite::{fault::Fault, writer::Memo},
};

/// How many events one segment of the log holds; then the next one begins.
pub(super) const SEGMENT_ROWS_MAX: u64 = 1_000_000;

/// What the writer knows of the file.
pub(in crate::sqlite) struct Known {
    pub(super) window: Arc<Window>,
    nodes: HashMap<NodeId, i64>,
    /// The segment that takes appends, and how many it took since it was looked up.
    open: Option<(i64, u64)>,
    /// The segments below this one take no appends, and what they took is in the window.
    pub(super) settled: i64,
    pub(super) sealing: Option<Sealing>,
    /// The oldest segment that is not sealed.
    pub(super) unsealed: i64,
    /// What goes into the window when the group is committed.
    changes: Vec<Change>,
    /// Series that are not in the window yet, device counts that are not, and series that are still there.
    pub(super) made: HashMap<Series, Arc<Hot>>,
    pub(super) counted: HashSet<(i64, i64)>,
    pub(super) erased: HashSet<Series>,
}

enum Change {
    Added { hot: Arc<Hot>, place: Place, count: Option<i64>, metrics: Vec<Metric> },
    Sealed { series: Series, hot: Arc<Hot>, first: i64, last: i64 },
}

impl Known {
    pub(super) fn new(window: Arc<Window>, open: i64, rows: u64, unsealed: i64) -> Self {
        let known = Self {
            window,
            nodes: HashMap::new(),
            open: Some((open, rows)),
            settled: open,
            sealing: None,
            unsealed,
            changes: Vec::new(),
            made: HashMap::new(),
            counted: HashSet::new(),
            erased: HashSet::new(),
        };
        known.count_waiting(open);
        known
    }

    pub(in crate::sqlite) fn window(&self) -> Arc<Window> {
        Arc::clone(&self.window)
    }

    fn count_waiting(&self, open: i64) {
        self.window.waiting.store(open.saturating_sub(self.unsealed).max(0), Ordering::Relaxed);
    }

    pub(super) fn append(
        &mut self,
        connection: &Connection,
        node: &NodeId,
        events: Vec<Prepared>,
    ) -> Result<Vec<Option<Sequence>>, Fault> {
        let node = self.node(connection, node)?;
        let mut sequence = sequence(connection)?;
        let mut segment = self.writable(connection, sequence, events.first().map(|event| event.received))?;
        let mut placed = Vec::with_capacity(events.len());
        let mut rest = events.into_iter().peekable();
        while let Some(next) = rest.peek() {
            if self.open.is_some_and(|(_, rows)| rows >= SEGMENT_ROWS_MAX) {
                self.open = None;
                segment::open(connection, sequence)?;
                segment = self.writable(connection, sequence, Some(next.received))?;
            }
            let sql = format!(
                "INSERT INTO event_{segment} (sequence, node, series, at, received, device_sequence, product, home, body)
                VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9)"
            );
            let mut insert = connection.prepare_cached(&sql)?;
            let room = self.open.map_or(0, |(_, rows)| SEGMENT_ROWS_MAX.saturating_sub(rows));
            for event in rest.by_ref().take(usize::try_from(room).unwrap_or(usize::MAX)) {
                let hot = self.hot(connection, &event.series)?;
                if event.device_sequence.is_some_and(|count| self.is_repeat(&hot, count)) {
                    placed.push(None);
                    continue;
                }
                sequence += 1;
                let Prepared { at, received, device_sequence, product, home, body, metrics, .. } = event;
                let home = home.as_ref().map(HomeId::as_str);
                insert.execute(params![
                    sequence,
                    node,
                    hot.id,
                    at,
                    received,
                    device_sequence,
                    product.as_str(),
                    home,
                    body
                ])?;
                placed.push(Some(Sequence(sequence.cast_unsigned())));
                if let Some((_, rows)) = &mut self.open {
                    *rows += 1;
                }
                self.changes.push(Change::Added { hot, place: (at, sequence), count: device_sequence, metrics });
            }
        }
        connection.prepare_cached("UPDATE counter SET value = ?1 WHERE name = 'sequence'")?.execute([sequence])?;
        Ok(placed)
    }

    /// The segment that takes appends, which remembers when it took its first.
    fn writable(&mut self, connection: &Connection, last: i64, received: Option<i64>) -> Result<i64, Fault> {
        let (id, rows) = match self.open {
            Some(open) => open,
            None => {
                let id = match segment::find_open(connection)? {
                    Some(id) => id,
                    None => segment::open(connection, last)?,
                };
                let sql = format!("SELECT count(*) FROM event_{id}");
                let rows: i64 = connection.query_row(&sql, [], |row| row.get(0))?;
                (id, rows.unsigned_abs())
            }
        };
        if rows == 0 {
            let sql = "UPDATE segment SET opened = ?1 WHERE id = ?2 AND opened IS NULL";
            connection.prepare_cached(sql)?.execute(params![received, id])?;
        }
        self.open = Some((id, rows));
        Ok(id)
    }

    /// Closes the segment that takes appends if its first event was received before `before`.
    pub(super) fn close_old(&mut self, connection: &Connection, before: i64) -> Result<(), Fault> {
        let sql = "SELECT count(*) FROM segment WHERE closed = 0 AND opened < ?1";
        let old: i64 = connection.prepare_cached(sql)?.query_row([before], |row| row.get(0))?;
        if old > 0 {
            let id = segment::open(connection, sequence(connection)?)?;
            self.open = Some((id, 0));
        }
        Ok(())
    }

    /// The series' events are in chunks now, in the transaction that is under way.
    pub(super) fn sealed(&mut self, series: Series, hot: Arc<Hot>, first: i64, last: i64) {
        self.changes.push(Change::Sealed { series, hot, first, last });
    }

    fn is_repeat(&mut self, hot: &Hot, count: i64) -> bool {
        hot.state().counts.contains(count) || !self.counted.insert((hot.id, count))
    }

    fn node(&mut self, connection: &Connection, node: &NodeId) -> Result<i64, Fault> {
        if let Some(id) = self.nodes.get(node) {
            return Ok(*id);
        }
        let sql = "INSERT INTO node (name) VALUES (?1) ON CONFLICT DO UPDATE SET name = name RETURNING id";
        let id = connection.prepare_cached(sql)?.query_row([node.as_str()], |row| row.get(0))?;
        self.nodes.insert(node.clone(), id);
        Ok(id)
    }

    fn hot(&mut self, connection: &Connection, series: &Series) -> Result<Arc<Hot>, Fault> {
        if let Some(hot) = self.find(series) {
            return Ok(hot);
        }
        let (id, counts) = match find_series(connection, series)? {
            Some(id) => (id, counts::read(connection, id)?),
            None => {
                let mut insert =
                    connection.prepare_cached("INSERT INTO series (tenant, device, epoch) VALUES (?1, ?2, ?3)")?;
                let key = params![series.tenant.as_str(), series.device.as_str(), series.epoch.0.cast_signed()];
                (insert.insert(key)?, Counts::default())
            }
        };
        let hot = Arc::new(Hot::new(id, counts));
        self.made.insert(series.clone(), Arc::clone(&hot));
        Ok(hot)
    }
}

impl Memo for Known {
    fn committed(&mut self) {
        self.erased.drain().for_each(|series| self.window.remove(&series));
        self.made.drain().for_each(|(series, hot)| self.window.insert(series, hot));
        for change in self.changes.drain(..) {
            match change {
                Change::Added { hot, place, count, metrics } => hot.state().add(place, count, &metrics),
                Change::Sealed { series, hot, first, last } => {
                    if hot.state().forget(first, last) {
                        self.window.remove(&series);
                    }
                }
            }
        }
        self.counted.clear();
        if let Some((open, _)) = self.open {
            self.settled = open;
            self.count_waiting(open);
        }
    }

    fn undone(&mut self) {
        self.nodes.clear();
        self.open = None;
        self.sealing = None;
        self.changes.clear();
        self.made.clear();
        self.counted.clear();
        self.erased.clear();
    }
}

/// The last one that was given away.
fn sequence(connection: &Connection) -> Result<i64, Fault> {
    let mut statement = connection.prepare_cached("SELECT value FROM counter WHERE name = 'sequence'")?;
    Ok(statement.query_row([], |row| row.get(0))?)
}

/// Makes the window of a file that was just opened.
pub(in crate::sqlite) fn recover(connection: &Connection) -> Result<Known, Fault> {
    let window = Arc::new(Window::default());
    let open = match segment::find_open(connection)? {
        Some(id) => id,
        None => segment::open(connection, sequence(connection)?)?,
    };
    let (mut rows_of_open, mut unsealed) = (0, open);
    for segment in Segments::read(connection)?.0 {
        if segment.sealed < segment::ALL_SEALED {
            unsealed = unsealed.min(segment.id);
        }
        let rows = super::recover::segment(connection, &segment, &window)?;
        if segment.id == open {
            rows_of_open = rows;
        }
    }
    Ok(Known::new(window, open, rows_of_open, unsealed))
}
