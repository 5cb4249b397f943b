//! What the window is made of at the start.

use std::{collections::HashMap, sync::Arc};

use rusqlite::Connection;

use super::{
    counts,
    rows::series_of,
    segment::Segment,
    window::{Hot, Window},
};
use crate::{codec, sqlite::fault::Fault};

/// Adds what is not sealed of a segment; answers how many events it has.
pub(super) fn segment(connection: &Connection, segment: &Segment, window: &Window) -> Result<u64, Fault> {
    let mut known: HashMap<i64, Arc<Hot>> = HashMap::new();
    let sql = format!(
        "SELECT sequence, series, at, device_sequence, body FROM event_{} WHERE series > ?1 ORDER BY sequence",
        segment.id
    );
    let mut statement = connection.prepare(&sql)?;
    let mut rows = statement.query([segment.sealed])?;
    let mut count = 0;
    while let Some(row) = rows.next()? {
        let (sequence, id, at, counted): (i64, i64, i64, Option<i64>) =
            (row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?);
        let metrics = codec::read_metrics(row.get_ref(4)?.as_blob().map_err(rusqlite::Error::from)?)?;
        let hot = match known.get(&id) {
            Some(hot) => Arc::clone(hot),
            None => {
                let hot = hot(connection, id, window)?;
                known.insert(id, Arc::clone(&hot));
                hot
            }
        };
        hot.state().add((at, sequence), counted, &metrics);
        count += 1;
    }
    Ok(count)
}

fn hot(connection: &Connection, id: i64, window: &Window) -> Result<Arc<Hot>, Fault> {
    let mut statement = connection.prepare_cached("SELECT tenant, device, epoch FROM series WHERE id = ?1")?;
    let mut rows = statement.query([id])?;
    let row = rows.next()?.ok_or_else(|| Fault::damaged(format!("there is no series {id}")))?;
    let series = series_of(row, 0)?;
    if let Some(hot) = window.get(&series) {
        return Ok(hot);
    }
    let hot = Arc::new(Hot::new(id, counts::read(connection, id)?));
    window.insert(series, Arc::clone(&hot));
    Ok(hot)
}
