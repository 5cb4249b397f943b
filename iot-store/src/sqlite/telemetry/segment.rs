//! The log as a row of tables, of which the last takes appends.

use iot_core::{event::StoredEvent, store::Series};
use rusqlite::{Connection, OptionalExtension, params};

use super::{
    rows::{COLUMNS, stored_event},
    window::Place,
};
use crate::sqlite::fault::Fault;

/// A table of the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Segment {
    pub(super) id: i64,
    /// The lowest sequence that it may hold; those of the one before are lower.
    pub(super) first: i64,
    pub(super) closed: bool,
    /// The series up to this number are sealed.
    pub(super) sealed: i64,
}

/// All series of a segment are sealed.
pub(super) const ALL_SEALED: i64 = i64::MAX;

/// All of them, as one transaction sees them, in order.
pub(super) struct Segments(pub(super) Vec<Segment>);

impl Segments {
    pub(super) fn read(connection: &Connection) -> Result<Self, Fault> {
        let sql = "SELECT id, first, closed, sealed FROM segment ORDER BY id";
        let mut statement = connection.prepare_cached(sql)?;
        let rows = statement.query_map([], |row| {
            Ok(Segment { id: row.get(0)?, first: row.get(1)?, closed: row.get(2)?, sealed: row.get(3)? })
        })?;
        Ok(Self(rows.collect::<Result<_, _>>()?))
    }

    /// The highest sequence that a segment may hold.
    pub(super) fn last_of(&self, id: i64) -> i64 {
        let next = self.0.iter().find(|segment| segment.id > id);
        next.map_or(i64::MAX, |next| next.first.saturating_sub(1))
    }

    /// The event of a series at a place in the log; `None` if it is sealed.
    pub(super) fn event(
        &self,
        connection: &Connection,
        (id, series): (i64, &Series),
        (_, sequence): Place,
    ) -> Result<Option<StoredEvent>, Fault> {
        let holder = self.0.iter().rev().find(|segment| segment.first <= sequence);
        let Some(segment) = holder.filter(|segment| segment.sealed < id) else { return Ok(None) };
        event_at(connection, segment.id, series, sequence)
    }
}

/// The event with a sequence in a segment.
pub(super) fn event_at(
    connection: &Connection,
    segment: i64,
    series: &Series,
    sequence: i64,
) -> Result<Option<StoredEvent>, Fault> {
    let sql = format!("SELECT {COLUMNS} FROM event_{segment} WHERE sequence = ?1");
    let mut statement = connection.prepare_cached(&sql)?;
    let mut rows = statement.query([sequence])?;
    rows.next()?.map(|row| stored_event(row, series)).transpose()
}

/// Makes the segment that takes appends from now on; its events have sequences above `last`.
pub(super) fn open(connection: &Connection, last: i64) -> Result<i64, Fault> {
    connection.prepare_cached("UPDATE segment SET closed = 1 WHERE closed = 0")?.execute([])?;
    let id: i64 = connection
        .prepare_cached(
            "INSERT INTO segment (id, first) SELECT coalesce(max(id), 0) + 1, ?1 FROM segment RETURNING id",
        )?
        .query_row([last + 1], |row| row.get(0))?;
    connection.execute_batch(&format!(
        "CREATE TABLE event_{id} (sequence INTEGER PRIMARY KEY, node INTEGER NOT NULL, series INTEGER NOT NULL,
            at INTEGER NOT NULL, received INTEGER NOT NULL, device_sequence INTEGER, product TEXT NOT NULL, home TEXT,
            body BLOB NOT NULL)"
    ))?;
    Ok(id)
}

/// The one that takes appends.
pub(super) fn find_open(connection: &Connection) -> Result<Option<i64>, Fault> {
    let mut statement = connection.prepare_cached("SELECT id FROM segment WHERE closed = 0")?;
    Ok(statement.query_row([], |row| row.get(0)).optional()?)
}

/// Forgets the oldest segment, if all its series are sealed and no consumer waits for it, or if its first event was received
/// before `abandoned`; `true` if it did.
pub(super) fn drop_oldest(connection: &Connection, abandoned: i64) -> Result<bool, Fault> {
    let sql = "SELECT id, opened FROM segment WHERE closed = 1 AND sealed = ?1 AND id = (SELECT min(id) FROM segment)";
    let oldest: Option<(i64, Option<i64>)> =
        connection.prepare_cached(sql)?.query_row([ALL_SEALED], |row| Ok((row.get(0)?, row.get(1)?))).optional()?;
    let Some((id, opened)) = oldest else { return Ok(false) };
    if opened.is_some_and(|opened| opened >= abandoned) && is_awaited(connection, id)? {
        return Ok(false);
    }
    connection.execute_batch(&format!("DROP TABLE event_{id}"))?;
    connection.prepare_cached("DELETE FROM segment WHERE id = ?1")?.execute([id])?;
    Ok(true)
}

fn is_awaited(connection: &Connection, id: i64) -> Result<bool, Fault> {
    let last: Option<i64> =
        connection.query_row(&format!("SELECT max(sequence) FROM event_{id}"), [], |row| row.get(0))?;
    let Some(last) = last else { return Ok(false) };
    let behind = "SELECT node.id, min(sequence) FROM checkpoint JOIN node ON node.name = checkpoint.node
        WHERE sequence < ?1 GROUP BY node.id";
    let mut statement = connection.prepare_cached(behind)?;
    let behind = statement.query_map([last], |row| Ok((row.get::<_, i64>(0)?, row.get::<_, i64>(1)?)))?;
    for one in behind {
        let (node, sequence) = one?;
        let sql = format!("SELECT EXISTS (SELECT 1 FROM event_{id} WHERE sequence > ?1 AND node = ?2)");
        if connection.prepare(&sql)?.query_row(params![sequence, node], |row| row.get(0))? {
            return Ok(true);
        }
    }
    Ok(false)
}
