//! The lane of records: two round trips for a group.

use std::borrow::Cow;

use async_trait::async_trait;
use deadpool_postgres::Client;
use iot_core::store::{Audit, Committed, Key};

use super::{
    super::{
        fault::Fault,
        lane::Work,
        ordered,
        pipeline::{Parameter, Pipeline, parameters},
        pool::number,
        text,
    },
    group::{self, Group, Prepared, State},
    key,
};
use crate::{StoreLimits, rules::distinct};

/// Forgetting old changes costs a statement, which is done once in so many revisions.
const REVISIONS_PER_FORGETTING: u64 = 256;

/// What the lane of records does.
pub(in crate::postgres) struct Records {
    changes_kept: u64,
}

impl Records {
    pub(in crate::postgres) fn new(limits: StoreLimits) -> Self {
        Self { changes_kept: limits.changes_kept }
    }
}

#[async_trait]
impl Work for Records {
    type Job = Prepared;
    type Answer = Committed;

    fn weight(batch: &Prepared) -> usize {
        batch.weight()
    }

    async fn carry_out(&self, client: &Client, batches: &[Prepared]) -> Result<Vec<Committed>, Fault> {
        let mut group = begin(client, batches).await?;
        let first = group.revision;
        let answers = batches.iter().map(|batch| group.decide(batch)).collect();
        if group.revision == first {
            // The lock of the counter is all that there is to undo.
            client.batch_execute("ROLLBACK").await?;
        } else {
            self.end(client, first, &group).await?;
        }
        Ok(answers)
    }
}

/// Locks the revision until the end of the transaction, so that no other group is decided meanwhile, and reads what this one
/// looks at. The statements are sent at once; each sees what was committed before it got its turn.
async fn begin<'a>(client: &Client, batches: &'a [Prepared]) -> Result<Group<'a>, Fault> {
    let (keys, wanted) = (group::keys(batches), group::wanted(batches));
    let kinds: Vec<_> = keys.iter().map(|key| text::stored(&key.kind)).collect();
    let names: Vec<_> = keys.iter().map(|key| text::stored(&key.key)).collect();
    let mut pipeline = Pipeline::begin();
    let revision = pipeline.add(LOCK, Vec::new());
    let versions = pipeline.add(VERSIONS, parameters![kinds, names]);
    let holders = (!wanted.is_empty()).then(|| {
        let kinds: Vec<_> = wanted.iter().map(|(kind, ..)| text::stored(kind)).collect();
        let indexes: Vec<_> = wanted.iter().map(|(_, index, _)| text::stored(index)).collect();
        let values: Vec<_> = wanted.iter().map(|(.., value)| text::stored(value)).collect();
        pipeline.add(HOLDERS, parameters![kinds, indexes, values])
    });
    let answers = pipeline.run(client).await?;
    let mut group = Group::new(number(&answers[revision])?.cast_unsigned());
    for row in &answers[versions] {
        group.found(key(row, 0)?, row.try_get::<_, i64>(2)?.cast_unsigned());
    }
    for row in holders.map_or(&[][..], |holders| &answers[holders]) {
        group.hold(text::read(row.try_get(2)?), text::read(row.try_get(3)?), key(row, 0)?);
    }
    Ok(group)
}

const LOCK: &str = "SELECT value FROM counter WHERE name = 'revision' FOR UPDATE";
const VERSIONS: &str =
    "SELECT record.kind, record.key, version FROM unnest($1::text[], $2::text[]) AS wanted (kind, key)
    JOIN record ON record.kind = wanted.kind AND record.key = wanted.key";
const HOLDERS: &str = "SELECT held.kind, key, held.name, held.value
    FROM unnest($1::text[], $2::text[], $3::text[]) AS wanted (kind, name, value)
    JOIN index_key AS held ON held.kind = wanted.kind AND held.name = wanted.name AND held.value = wanted.value
    WHERE is_unique";

const FORGET_INDEX_KEYS: &str = "DELETE FROM index_key USING unnest($1::text[], $2::text[]) AS gone (kind, key)
    WHERE index_key.kind = gone.kind AND index_key.key = gone.key";
const DELETE: &str = "DELETE FROM record USING unnest($1::text[], $2::text[]) AS gone (kind, key)
    WHERE record.kind = gone.kind AND record.key = gone.key";
const PUT: &str = "INSERT INTO record (kind, key, version, format, body)
    SELECT * FROM unnest($1::text[], $2::text[], $3::bigint[], $4::int[], $5::text[])
    ON CONFLICT (kind, key) DO UPDATE SET version = excluded.version, format = excluded.format, body = excluded.body";
const ADD_INDEX_KEYS: &str = "INSERT INTO index_key (kind, key, name, value, is_unique)
    SELECT * FROM unnest($1::text[], $2::text[], $3::text[], $4::text[], $5::bool[])";
const ADD_CHANGES: &str = "INSERT INTO change (revision, place, kind, key)
    SELECT * FROM unnest($1::bigint[], $2::int[], $3::text[], $4::text[])";
const ADD_AUDIT: &str = "INSERT INTO audit (at, tenant, actor, action, subject, refused)
    SELECT at, tenant, actor, action, subject, refused
    FROM unnest($1::bigint[], $2::text[], $3::text[], $4::text[], $5::text[], $6::text[])
    WITH ORDINALITY AS entry (at, tenant, actor, action, subject, refused, place) ORDER BY place";
const FORGET_CHANGES: &str = "WITH forgotten AS (DELETE FROM change WHERE revision <= $1)
    UPDATE counter SET value = $1 WHERE name = 'changes_forgotten' AND value < $1";
const COUNT: &str = "UPDATE counter SET value = $1 WHERE name = 'revision'";

impl Records {
    /// Writes what the group has come to, and commits.
    async fn end(&self, client: &Client, first: u64, group: &Group<'_>) -> Result<(), Fault> {
        let mut pipeline = Pipeline::default();
        if !group.written.is_empty() {
            add_records(&mut pipeline, group);
            add_index_keys(&mut pipeline, group);
            add_changes(&mut pipeline, group);
        }
        if !group.audit.is_empty() {
            pipeline.add(ADD_AUDIT, audit_columns(&group.audit));
        }
        if first / REVISIONS_PER_FORGETTING != group.revision / REVISIONS_PER_FORGETTING {
            let forgotten = group.revision.saturating_sub(self.changes_kept);
            pipeline.add(FORGET_CHANGES, parameters![ordered(forgotten)]);
        }
        pipeline.add(COUNT, parameters![ordered(group.revision)]);
        pipeline.commit(client).await?;
        Ok(())
    }
}

fn columns<'a>(keys: impl Iterator<Item = &'a Key>) -> (Vec<Cow<'a, str>>, Vec<Cow<'a, str>>) {
    keys.map(|key| (text::stored(&key.kind), text::stored(&key.key))).unzip()
}

fn add_records<'a>(pipeline: &mut Pipeline<'a>, group: &Group<'a>) {
    let (kinds, names) = columns(group.written.keys().copied());
    pipeline.add(FORGET_INDEX_KEYS, parameters![kinds, names]);
    let deleted = group.written.iter().filter(|(_, state)| matches!(state, State::Deleted));
    let (kinds, names) = columns(deleted.map(|(key, _)| *key));
    if !kinds.is_empty() {
        pipeline.add(DELETE, parameters![kinds, names]);
    }
    let put = || group.written.iter().filter_map(|(key, state)| Some((*key, state.put()?)));
    let (kinds, names) = columns(put().map(|(key, _)| key));
    if !kinds.is_empty() {
        let versions: Vec<i64> = put().map(|(_, put)| ordered(put.version)).collect();
        let formats: Vec<i32> = put().map(|(_, put)| put.format.into()).collect();
        let bodies: Vec<_> = put().map(|(_, put)| text::stored(put.body)).collect();
        pipeline.add(PUT, parameters![kinds, names, versions, formats, bodies]);
    }
}

fn add_index_keys<'a>(pipeline: &mut Pipeline<'a>, group: &Group<'a>) {
    let put = group.written.iter().filter_map(|(key, state)| Some((*key, state.put()?)));
    let index_keys: Vec<_> =
        put.flat_map(|(key, put)| distinct(put.index_keys).into_iter().map(move |entry| (key, entry))).collect();
    if index_keys.is_empty() {
        return;
    }
    let (kinds, names) = columns(index_keys.iter().map(|(key, _)| *key));
    let indexes: Vec<_> = index_keys.iter().map(|(_, ((index, _), _))| text::stored(index)).collect();
    let values: Vec<_> = index_keys.iter().map(|(_, ((_, value), _))| text::stored(value)).collect();
    let unique: Vec<bool> = index_keys.iter().map(|(_, (_, unique))| *unique).collect();
    pipeline.add(ADD_INDEX_KEYS, parameters![kinds, names, indexes, values, unique]);
}

fn add_changes<'a>(pipeline: &mut Pipeline<'a>, group: &Group<'a>) {
    let changes = || {
        group.changes.iter().flat_map(|(revision, writes)| {
            writes.iter().enumerate().map(move |(place, write)| (*revision, place, write.key()))
        })
    };
    let revisions: Vec<i64> = changes().map(|(revision, ..)| ordered(revision)).collect();
    let places: Vec<i32> = changes().map(|(_, place, _)| i32::try_from(place).unwrap_or(i32::MAX)).collect();
    let (kinds, names) = columns(changes().map(|(.., key)| key));
    pipeline.add(ADD_CHANGES, parameters![revisions, places, kinds, names]);
}

fn audit_columns<'a>(entries: &[&'a Audit]) -> Vec<Parameter<'a>> {
    let texts =
        |column: fn(&Audit) -> &str| entries.iter().map(|entry| text::stored(column(entry))).collect::<Vec<_>>();
    let at: Vec<i64> = entries.iter().map(|entry| entry.at.as_micros()).collect();
    let refused: Vec<_> = entries.iter().map(|entry| entry.refused.as_deref().map(text::stored)).collect();
    parameters![
        at,
        texts(|entry| entry.tenant.as_str()),
        texts(|entry| &entry.actor),
        texts(|entry| &entry.action),
        texts(|entry| &entry.subject),
        refused,
    ]
}
