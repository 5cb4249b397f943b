//! Statistics from the log, from chunks and from rollups, at one moment.

use std::collections::{BTreeMap, HashMap, VecDeque};

use deadpool_postgres::{Pool, Transaction};
use iot_core::{
    event::{Report, Sequence},
    store::{Aggregate, Bucket, Form},
    time::Timestamp,
};
use tokio_postgres::{IsolationLevel, Portal, Row, types::ToSql};

use super::{
    super::fault::Fault,
    part,
    read::{EVENTS_PER_FETCH, epoch},
};
use crate::{
    chunk::{Point, Rollups, Summary},
    codec,
    sealing::{self, Entry, Neighbours, Tally, era},
};

/// How many rows of the catalogue of chunks are read at once.
const ENTRIES_PER_FETCH: i32 = 256;
/// The bodies of how many chunks are read at once.
const BODIES_PER_FETCH: usize = 16;
/// How many rows of rollups are read at once.
const ROLLUPS_PER_FETCH: i32 = 64;

pub(super) async fn buckets(pool: &Pool, aggregate: &Aggregate, limit: u32) -> Result<Vec<Bucket>, Fault> {
    let mut client = pool.get().await?;
    let moment = client.build_transaction().isolation_level(IsolationLevel::RepeatableRead).read_only(true);
    let transaction = moment.start().await?;
    let mut tally = Tally::new(aggregate, limit);
    let Some(series) = series(&transaction, aggregate).await? else { return Ok(Vec::new()) };
    let hot = add_hot(&transaction, aggregate, series, &mut tally).await?;
    let (raw, rolled) = tally.spans((aggregate.from.as_micros(), aggregate.until.as_micros()));
    for span in raw.into_iter().filter(|(from, until)| from < until) {
        add_chunks(&transaction, aggregate, series, span, hot, &mut tally).await?;
    }
    if let Some((form, span)) = rolled {
        add_rollups(&transaction, aggregate, series, (form, span), &mut tally).await?;
    }
    transaction.commit().await?;
    Ok(tally.finish())
}

async fn series(transaction: &Transaction<'_>, aggregate: &Aggregate) -> Result<Option<i64>, Fault> {
    let sql = "SELECT id FROM series WHERE tenant = $1 AND device = $2 AND epoch = $3";
    let series = &aggregate.series;
    let key: [&(dyn ToSql + Sync); 3] = [&series.tenant.as_str(), &series.device.as_str(), &epoch(series)];
    let row = transaction.query_opt(&transaction.prepare_cached(sql).await?, &key).await?;
    Ok(row.map(|row| row.try_get(0)).transpose()?)
}

/// The first and last time of what is not sealed.
type Hot = Option<(i64, i64)>;

const EVENTS: &str = "SELECT at, body, sequence FROM event WHERE series = $1 AND NOT sealed AND at >= $2 AND at < $3
    ORDER BY at, sequence, node";

async fn add_hot(
    transaction: &Transaction<'_>,
    aggregate: &Aggregate,
    series: i64,
    tally: &mut Tally,
) -> Result<Hot, Fault> {
    let sql = transaction.prepare_cached(EVENTS).await?;
    // They need not be in memory at once.
    let portal = transaction.bind(&sql, &[&series, &aggregate.from.as_micros(), &aggregate.until.as_micros()]).await?;
    let mut hot: Hot = None;
    loop {
        let rows = transaction.query_portal(&portal, EVENTS_PER_FETCH).await?;
        for row in &rows {
            let at = row.try_get(0)?;
            if tally.is_complete_before(at) {
                return Ok(hot);
            }
            hot = Some((hot.map_or(at, |(first, _)| first), at));
            add_event(aggregate, at, row, tally)?;
        }
        if rows.is_empty() {
            return Ok(hot);
        }
    }
}

fn add_event(aggregate: &Aggregate, at: i64, row: &Row, tally: &mut Tally) -> Result<(), Fault> {
    let Report::Telemetry(values) = codec::read_report(row.try_get(1)?)? else { return Ok(()) };
    let sequence = Sequence(row.try_get::<_, i64>(2)?.cast_unsigned());
    let of_metric = values.iter().filter(|(metric, _)| *metric == aggregate.metric);
    for value in of_metric.filter_map(|(_, value)| value.as_f64()) {
        tally.add(at, &Summary::of(Point { at: Timestamp::from_micros(at), sequence, value }));
    }
    Ok(())
}

const CHUNKS: &str = "SELECT id, part, first_at, last_at, stats FROM chunk
    WHERE series = $1 AND first_at < $2 AND last_at >= $3 ORDER BY first_at";

async fn add_chunks(
    transaction: &Transaction<'_>,
    aggregate: &Aggregate,
    series: i64,
    span: (i64, i64),
    hot: Hot,
    tally: &mut Tally,
) -> Result<(), Fault> {
    let sql = transaction.prepare_cached(CHUNKS).await?;
    let portal = transaction.bind(&sql, &[&series, &span.1, &span.0]).await?;
    let mut catalogue = Catalogue { transaction, portal, entries: VecDeque::new(), bodies: HashMap::new() };
    let mut neighbours = Neighbours::none();
    while let Some(entry) = catalogue.next().await? {
        if tally.is_complete_before(entry.first) {
            break;
        }
        let is_alone = neighbours.is_alone(&entry, catalogue.entries.front())
            && hot.is_none_or(|(first, last)| last < entry.first || entry.last < first);
        if tally.is_known(&entry, span) {
            tally.add_entry(&entry, &aggregate.metric)?;
        } else {
            let body = catalogue.body(&entry, |entry| !tally.is_known(entry, span)).await?;
            tally.add_body(&body, &aggregate.metric, span, is_alone)?;
        }
    }
    Ok(())
}

/// The chunks of a series in the order of their beginnings.
struct Catalogue<'a> {
    transaction: &'a Transaction<'a>,
    portal: Portal,
    /// The next ones: there is at least one more if there is any.
    entries: VecDeque<Entry>,
    /// Of some of them.
    bodies: HashMap<i64, Vec<u8>>,
}

impl Catalogue<'_> {
    async fn next(&mut self) -> Result<Option<Entry>, Fault> {
        if self.entries.len() < 2 {
            for row in self.transaction.query_portal(&self.portal, ENTRIES_PER_FETCH).await? {
                self.entries.push_back(Entry {
                    id: row.try_get(0)?,
                    part: row.try_get(1)?,
                    first: row.try_get(2)?,
                    last: row.try_get(3)?,
                    stats: row.try_get(4)?,
                });
            }
        }
        Ok(self.entries.pop_front())
    }

    /// The body of a chunk, which is read together with those of the next ones that are wanted.
    async fn body(&mut self, entry: &Entry, is_wanted: impl Fn(&Entry) -> bool) -> Result<Vec<u8>, Fault> {
        if let Some(body) = self.bodies.remove(&entry.id) {
            return Ok(body);
        }
        let mut wanted: BTreeMap<i64, Vec<i64>> = BTreeMap::from([(entry.part, vec![entry.id])]);
        for entry in self.entries.iter().filter(|entry| is_wanted(entry)).take(BODIES_PER_FETCH - 1) {
            wanted.entry(entry.part).or_default().push(entry.id);
        }
        for (part, chunks) in wanted {
            self.bodies.extend(part::bodies(self.transaction, part, &chunks).await?);
        }
        self.bodies.remove(&entry.id).ok_or_else(|| Fault::Damaged(format!("chunk {} has no body", entry.id)))
    }
}

const ROLLUPS: &str = "SELECT body FROM rollup JOIN part ON part.id = rollup.part
    WHERE series = $1 AND metric = $2 AND form = $3 AND era BETWEEN $4 AND $5";

async fn add_rollups(
    transaction: &Transaction<'_>,
    aggregate: &Aggregate,
    series: i64,
    (form, (from, until)): (Form, (i64, i64)),
    tally: &mut Tally,
) -> Result<(), Fault> {
    let sql = transaction.prepare_cached(ROLLUPS).await?;
    let key: [&(dyn ToSql + Sync); 5] =
        [&series, &aggregate.metric.as_str(), &sealing::number(form), &era(form, from), &era(form, until)];
    let portal = transaction.bind(&sql, &key).await?;
    loop {
        let rows = transaction.query_portal(&portal, ROLLUPS_PER_FETCH).await?;
        for row in &rows {
            let rollups = Rollups::decode(row.try_get(0)?)?;
            for row in rollups.rows.iter().filter(|row| (from..until).contains(&row.start.as_micros())) {
                tally.add(row.start.as_micros(), &row.summary);
            }
        }
        if rows.is_empty() {
            return Ok(());
        }
    }
}
