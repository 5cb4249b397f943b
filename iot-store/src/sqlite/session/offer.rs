//! Placing publications in queues.

use std::collections::HashMap;

use iot_core::{
    session::{Position, SessionEpoch, SessionId},
    store::{Offered, Placed, Publication, Target},
};
use rusqlite::{CachedStatement, Connection, OptionalExtension, params};

use super::{
    super::{fault::Fault, ordered},
    current,
    retained::Retaining,
};
use crate::{StoreLimits, codec};

pub(super) fn offer(
    connection: &Connection,
    publications: &[Publication],
    limits: &StoreLimits,
) -> Result<Vec<Offered>, Fault> {
    let mut queues = Queues::new(connection, limits)?;
    let retaining = Retaining::new(connection, limits);
    let offered = publications
        .iter()
        .map(|publication| {
            if !receive(connection, publication)? {
                return Ok(Offered::superseded(publication));
            }
            let message = &publication.message;
            let placed = queues.place(publication)?;
            let retained_full = message.retain && !retaining.retain(message)?;
            Ok(Offered { placed, retained_full, superseded: false })
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
    add: CachedStatement<'a>,
    limits: &'a StoreLimits,
    ends: HashMap<&'a SessionId, Option<End>>,
}

struct End {
    id: i64,
    epoch: SessionEpoch,
    last_position: i64,
    queued: usize,
    size: usize,
    moved: bool,
}

impl<'a> Queues<'a> {
    fn new(connection: &'a Connection, limits: &'a StoreLimits) -> Result<Self, Fault> {
        let sql = "INSERT INTO queue (session, position, message, qos, retain, identifiers, size, body)
            VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)";
        Ok(Self { connection, add: connection.prepare_cached(sql)?, limits, ends: HashMap::new() })
    }

    fn place(&mut self, publication: &'a Publication) -> Result<Vec<Placed>, Fault> {
        let size = publication.message.size();
        let mut rows = Vec::with_capacity(publication.to.len());
        let mut placed = Vec::with_capacity(publication.to.len());
        for target in &publication.to {
            let limits = self.limits;
            placed.push(match self.end(&target.session)? {
                None => Placed::Gone,
                Some(end) if end.is_full(limits) => Placed::Full,
                Some(end) => {
                    let position = end.append(size);
                    rows.push((end.id, position, target));
                    Placed::At(end.epoch, Position(position.cast_unsigned()))
                }
            });
        }
        self.write(publication, size, &rows)?;
        Ok(placed)
    }

    /// The message is stored once, however many wait for it: with the one that does, or on its own.
    fn write(&mut self, publication: &Publication, size: usize, rows: &[(i64, i64, &Target)]) -> Result<(), Fault> {
        if rows.is_empty() {
            return Ok(());
        }
        let body = codec::message(&publication.message);
        let size = ordered(size as u64);
        let (message, body) = match rows {
            [_] => (0, Some(body)),
            _ => {
                let sql = "INSERT INTO message (uses, body) VALUES (?1, ?2)";
                let uses = ordered(rows.len() as u64);
                (self.connection.prepare_cached(sql)?.insert(params![uses, body])?, None)
            }
        };
        for (session, position, target) in rows {
            let identifiers = codec::identifiers(&target.identifiers);
            let qos = target.qos as u8;
            self.add.execute(params![session, position, message, qos, target.retain, identifiers, size, body])?;
        }
        Ok(())
    }

    /// The end of a queue; `None` if there is no such session.
    fn end(&mut self, session: &'a SessionId) -> Result<Option<&mut End>, Fault> {
        if !self.ends.contains_key(session) {
            let sql = "SELECT id, last_position, queued, queued_size, epoch FROM session WHERE name = ?1";
            let mut statement = self.connection.prepare_cached(sql)?;
            let count = |value: i64| usize::try_from(value).unwrap_or(0);
            let end = statement.query_row([session.as_str()], |row| {
                let (queued, size) = (count(row.get(2)?), count(row.get(3)?));
                let epoch = SessionEpoch(row.get::<_, i64>(4)?.cast_unsigned());
                Ok(End { id: row.get(0)?, epoch, last_position: row.get(1)?, queued, size, moved: false })
            });
            self.ends.insert(session, end.optional()?);
        }
        Ok(self.ends.get_mut(session).and_then(Option::as_mut))
    }

    fn finish(self) -> Result<(), Fault> {
        let sql = "UPDATE session SET last_position = ?2, queued = ?3, queued_size = ?4 WHERE id = ?1";
        let mut update = self.connection.prepare_cached(sql)?;
        for end in self.ends.into_values().flatten().filter(|end| end.moved) {
            update.execute([end.id, end.last_position, ordered(end.queued as u64), ordered(end.size as u64)])?;
        }
        Ok(())
    }
}

impl End {
    fn is_full(&self, limits: &StoreLimits) -> bool {
        self.queued >= limits.queue_messages_max || self.size >= limits.queue_bytes_max
    }

    /// Makes room for one; where it is.
    fn append(&mut self, size: usize) -> i64 {
        self.last_position += 1;
        self.queued += 1;
        self.size += size;
        self.moved = true;
        self.last_position
    }
}
