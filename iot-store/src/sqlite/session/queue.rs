//! What waits for a session, and its way out.

use std::collections::HashMap;

use iot_core::{
    session::{Position, SessionEpoch, SessionId},
    store::{Queued, Settled, Settlement},
};
use rusqlite::{Connection, OptionalExtension, params};

use super::{
    super::{fault::Fault, ordered},
    current,
    life::qos,
};
use crate::codec;

pub(super) fn peek(
    connection: &Connection,
    session: &SessionId,
    after: Option<Position>,
    limit: u32,
) -> Result<Vec<Queued>, Fault> {
    let sql = "SELECT position, qos, retain, identifiers, released, body FROM queue
        JOIN message ON message.id = queue.message
        WHERE session = (SELECT id FROM session WHERE name = ?1) AND position > ?2 ORDER BY position LIMIT ?3";
    let mut statement = connection.prepare_cached(sql)?;
    let mut rows = statement.query(params![session.as_str(), after.map_or(-1, |after| ordered(after.0)), limit])?;
    let mut queued = Vec::new();
    while let Some(row) = rows.next()? {
        let identifiers: Option<Vec<u8>> = row.get(3)?;
        queued.push(Queued {
            position: Position(row.get::<_, i64>(0)?.cast_unsigned()),
            message: codec::read_message(row.get_ref(5)?.as_blob().map_err(rusqlite::Error::from)?)?,
            qos: qos(row.get(1)?)?,
            retain: row.get(2)?,
            identifiers: codec::read_identifiers(identifiers.as_deref()),
            released: row.get(4)?,
        });
    }
    Ok(queued)
}

pub(super) fn settle(connection: &Connection, settlements: &[Settlement]) -> Result<(), Fault> {
    let mut rows: HashMap<(&SessionId, SessionEpoch), Option<i64>> = HashMap::new();
    for Settlement { session, epoch, step } in settlements {
        let row = match rows.get(&(session, *epoch)) {
            Some(row) => *row,
            None => *rows.entry((session, *epoch)).or_insert(current(connection, session, *epoch)?),
        };
        if let Some(id) = row {
            take(connection, id, *step)?;
        }
    }
    Ok(())
}

fn take(connection: &Connection, id: i64, step: Settled) -> Result<(), Fault> {
    match step {
        Settled::Finished(position) => finish(connection, id, position),
        Settled::Released(position) => {
            let sql = "UPDATE queue SET released = 1 WHERE session = ?1 AND position = ?2";
            connection.prepare_cached(sql)?.execute([id, ordered(position.0)])?;
            Ok(())
        }
        Settled::Forgotten(packet_id) => {
            let sql = "DELETE FROM received WHERE session = ?1 AND packet_id = ?2";
            connection.prepare_cached(sql)?.execute(params![id, packet_id])?;
            Ok(())
        }
    }
}

fn finish(connection: &Connection, id: i64, position: Position) -> Result<(), Fault> {
    let sql = "DELETE FROM queue WHERE session = ?1 AND position = ?2 RETURNING message";
    let mut delete = connection.prepare_cached(sql)?;
    let message: Option<i64> = delete.query_row([id, ordered(position.0)], |row| row.get(0)).optional()?;
    let Some(message) = message else { return Ok(()) };
    connection.prepare_cached("UPDATE session SET queued = queued - 1 WHERE id = ?1")?.execute([id])?;
    unuse(connection, message)
}

/// Removes all that waits for a session.
pub(super) fn clear(connection: &Connection, id: i64) -> Result<(), Fault> {
    let mut statement = connection.prepare_cached("SELECT message FROM queue WHERE session = ?1")?;
    let messages: Vec<i64> = statement.query_map([id], |row| row.get(0))?.collect::<Result<_, _>>()?;
    connection.prepare_cached("DELETE FROM queue WHERE session = ?1")?.execute([id])?;
    messages.into_iter().try_for_each(|message| unuse(connection, message))
}

fn unuse(connection: &Connection, message: i64) -> Result<(), Fault> {
    let sql = "UPDATE message SET uses = uses - 1 WHERE id = ?1 RETURNING uses";
    let uses: i64 = connection.prepare_cached(sql)?.query_row([message], |row| row.get(0))?;
    if uses == 0 {
        connection.prepare_cached("DELETE FROM message WHERE id = ?1")?.execute([message])?;
    }
    Ok(())
}
