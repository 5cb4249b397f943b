//! Placing publications in queues.

use std::collections::HashMap;

use iot_core::{
    session::{Position, SessionId},
    store::{Offered, Placed, Publication, Target},
};
use rusqlite::{Connection, OptionalExtension, params};

use super::{super::fault::Fault, current, retained::Retaining};
use crate::{StoreLimits, codec};

pub(super) fn offer(
    connection: &Connection,
    publications: &[Publication],
    limits: &StoreLimits,
) -> Result<Vec<Offered>, Fault> {
    let mut queues = Queues { connection, queue_messages_max: limits.queue_messages_max, ends: HashMap::new() };
    let retaining = Retaining::new(connection, limits.retained_max);
    let offered = publications
        .iter()
        .map(|publication| {
            if !receive(connection, publication)? {
                return Ok(Offered { placed: vec![Placed::Gone; publication.to.len()], retained_full: false });
            }
            let message = &publication.message;
            let placed = queues.place(publication)?;
            let retained_full = message.retain && !retaining.retain(message)?;
            Ok(Offered { placed, retained_full })
        })
        .collect::<Result<_, Fault>>()?;
    queues.finish()?;
    Ok(offered)
}

/// Remembers the packet id of a QoS 2 publication; `false` if its sender's session was taken over.
fn receive(connection: &Connection, publication: &Publication) -> Result<bool, Fault> {
    let Some((sender, epoch, packet_id)) = &publication.received else { return Ok(true) };
    let Some(id) = current(connection, sender, *epoch)? else { return Ok(false) };
    let sql = "INSERT OR IGNORE INTO received (session, packet_id) VALUES (?1, ?2)";
    connection.prepare_cached(sql)?.execute(params![id, packet_id])?;
    Ok(true)
}

/// The ends of the queues that one offer has touched; written back once.
struct Queues<'a> {
    connection: &'a Connection,
    queue_messages_max: usize,
    ends: HashMap<SessionId, Option<End>>,
}

struct End {
    id: i64,
    last_position: i64,
    queued: usize,
    moved: bool,
}

impl Queues<'_> {
    fn place(&mut self, publication: &Publication) -> Result<Vec<Placed>, Fault> {
        let mut message = None;
        let mut placed = Vec::with_capacity(publication.to.len());
        for target in &publication.to {
            let connection = self.connection;
            placed.push(match self.end(&target.session)? {
                None => Placed::Gone,
                Some(None) => Placed::Full,
                Some(Some(end)) => {
                    let message = match message {
                        Some(id) => id,
                        None => *message.insert(add_message(connection, publication)?),
                    };
                    end.append(connection, message, target)?
                }
            });
        }
        if let Some(message) = message {
            let uses = placed.iter().filter(|placed| matches!(placed, Placed::At(_))).count();
            let uses = i64::try_from(uses).unwrap_or(i64::MAX);
            self.connection.prepare_cached("UPDATE message SET uses = ?2 WHERE id = ?1")?.execute([message, uses])?;
        }
        Ok(placed)
    }

    /// The end of a queue; `None` if there is no such session, `Some(None)` if the queue is full.
    fn end(&mut self, session: &SessionId) -> Result<Option<Option<&mut End>>, Fault> {
        if !self.ends.contains_key(session) {
            let sql = "SELECT id, last_position, queued FROM session WHERE name = ?1";
            let mut statement = self.connection.prepare_cached(sql)?;
            let end = statement.query_row([session.as_str()], |row| {
                let queued = usize::try_from(row.get::<_, i64>(2)?).unwrap_or(usize::MAX);
                Ok(End { id: row.get(0)?, last_position: row.get(1)?, queued, moved: false })
            });
            self.ends.insert(session.clone(), end.optional()?);
        }
        let max = self.queue_messages_max;
        Ok(self.ends.get_mut(session).and_then(Option::as_mut).map(|end| (end.queued < max).then_some(end)))
    }

    fn finish(self) -> Result<(), Fault> {
        let sql = "UPDATE session SET last_position = ?2, queued = ?3 WHERE id = ?1";
        let mut update = self.connection.prepare_cached(sql)?;
        for end in self.ends.into_values().flatten().filter(|end| end.moved) {
            update.execute([end.id, end.last_position, i64::try_from(end.queued).unwrap_or(i64::MAX)])?;
        }
        Ok(())
    }
}

impl End {
    fn append(&mut self, connection: &Connection, message: i64, target: &Target) -> Result<Placed, Fault> {
        self.last_position += 1;
        self.queued += 1;
        self.moved = true;
        let sql = "INSERT INTO queue (session, position, message, qos, retain, identifiers)
            VALUES (?1, ?2, ?3, ?4, ?5, ?6)";
        let identifiers = codec::identifiers(&target.identifiers);
        let row = params![self.id, self.last_position, message, target.qos as u8, target.retain, identifiers];
        connection.prepare_cached(sql)?.execute(row)?;
        Ok(Placed::At(Position(self.last_position.cast_unsigned())))
    }
}

fn add_message(connection: &Connection, publication: &Publication) -> Result<i64, Fault> {
    let mut insert = connection.prepare_cached("INSERT INTO message (uses, body) VALUES (0, ?1)")?;
    Ok(insert.insert([codec::message(&publication.message)])?)
}
