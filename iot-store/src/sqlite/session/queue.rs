//! What waits for a session, and its way out.

use std::collections::HashMap;

use iot_core::{
    session::{Position, SessionEpoch, SessionId},
    store::{Queued, Settled, Settlement},
};
use rusqlite::{Connection, params};

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
    bytes: usize,
) -> Result<Vec<Queued>, Fault> {
    let sql = "SELECT position, qos, retain, identifiers, released, coalesce(queue.body, message.body), size FROM queue
        LEFT JOIN message ON message.id = queue.message
        WHERE session = (SELECT id FROM session WHERE name = ?1) AND position > ?2 ORDER BY position LIMIT ?3";
    let mut statement = connection.prepare_cached(sql)?;
    let mut rows = statement.query(params![session.as_str(), after.map_or(-1, |after| ordered(after.0)), limit])?;
    let (mut queued, mut size) = (Vec::new(), 0);
    while size < bytes
        && let Some(row) = rows.next()?
    {
        size += usize::try_from(row.get::<_, i64>(6)?).unwrap_or(0);
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
    let mut steps: HashMap<(&SessionId, SessionEpoch), Vec<Settled>> = HashMap::new();
    for Settlement { session, epoch, step } in settlements {
        steps.entry((session, *epoch)).or_default().push(*step);
    }
    for ((session, epoch), steps) in steps {
        if let Some(id) = current(connection, session, epoch)? {
            settle_one(connection, id, &steps)?;
        }
    }
    Ok(())
}

/// Carries out steps of one session. What is finished comes in runs, as clients acknowledge in order: each goes at once.
fn settle_one(connection: &Connection, id: i64, steps: &[Settled]) -> Result<(), Fault> {
    let mut gone = Gone::default();
    let mut rest = steps;
    while let Some((first, others)) = rest.split_first() {
        rest = others;
        match first {
            Settled::Finished(first) => {
                let mut last = *first;
                while let Some((Settled::Finished(next), others)) = rest.split_first()
                    && next.0 == last.0.saturating_add(1)
                {
                    (last, rest) = (*next, others);
                }
                gone.add(&finish(connection, id, *first, last)?);
            }
            Settled::Released(position) => {
                let sql = "UPDATE queue SET released = 1 WHERE session = ?1 AND position = ?2";
                connection.prepare_cached(sql)?.execute([id, ordered(position.0)])?;
            }
            Settled::Forgotten(packet_id) => {
                let sql = "DELETE FROM received WHERE session = ?1 AND packet_id = ?2";
                connection.prepare_cached(sql)?.execute(params![id, packet_id])?;
            }
        }
    }
    if gone.messages > 0 {
        let sql = "UPDATE session SET queued = queued - ?2, queued_size = queued_size - ?3 WHERE id = ?1";
        connection.prepare_cached(sql)?.execute([id, gone.messages, gone.size])?;
    }
    Ok(())
}

/// What has left a queue.
#[derive(Default)]
struct Gone {
    messages: i64,
    size: i64,
}

impl Gone {
    fn add(&mut self, other: &Self) {
        self.messages += other.messages;
        self.size += other.size;
    }
}

fn finish(connection: &Connection, id: i64, first: Position, last: Position) -> Result<Gone, Fault> {
    let range = [id, ordered(first.0), ordered(last.0)];
    let sql = "SELECT message, size FROM queue WHERE session = ?1 AND position BETWEEN ?2 AND ?3";
    let mut statement = connection.prepare_cached(sql)?;
    let mut rows = statement.query(range)?;
    let (mut gone, mut shared) = (Gone::default(), Vec::new());
    while let Some(row) = rows.next()? {
        gone.add(&Gone { messages: 1, size: row.get(1)? });
        shared.extend(Some(row.get::<_, i64>(0)?).filter(|message| *message != 0));
    }
    drop(rows);
    if gone.messages > 0 {
        // RETURNING would copy the rows to a table of its own.
        let sql = "DELETE FROM queue WHERE session = ?1 AND position BETWEEN ?2 AND ?3";
        connection.prepare_cached(sql)?.execute(range)?;
    }
    shared.into_iter().try_for_each(|message| unuse(connection, message))?;
    Ok(gone)
}

/// Removes all that waits for a session.
pub(super) fn clear(connection: &Connection, id: i64) -> Result<(), Fault> {
    let mut statement = connection.prepare_cached("SELECT message FROM queue WHERE session = ?1 AND message <> 0")?;
    let messages: Vec<i64> = statement.query_map([id], |row| row.get(0))?.collect::<Result<_, _>>()?;
    connection.prepare_cached("DELETE FROM queue WHERE session = ?1")?.execute([id])?;
    messages.into_iter().try_for_each(|message| unuse(connection, message))
}

fn unuse(connection: &Connection, message: i64) -> Result<(), Fault> {
    let sql = "DELETE FROM message WHERE id = ?1 AND uses = 1";
    if connection.prepare_cached(sql)?.execute([message])? == 0 {
        connection.prepare_cached("UPDATE message SET uses = uses - 1 WHERE id = ?1")?.execute([message])?;
    }
    Ok(())
}
