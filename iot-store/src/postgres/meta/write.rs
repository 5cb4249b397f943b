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
        text,
    },
    group::{self, Group, Prepared, State},
    key, number,
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

type Text<'a> = Cow<'a, str>;

/// The columns of the rows to be written.
#[derive(Default)]
struct Columns<'a> {
    written: (Vec<Text<'a>>, Vec<Text<'a>>),
    deleted: (Vec<Text<'a>>, Vec<Text<'a>>),
    put: (Vec<Text<'a>>, Vec<Text<'a>>, Vec<i64>, Vec<i32>, Vec<Text<'a>>),
    index_keys: (Vec<Text<'a>>, Vec<Text<'a>>, Vec<Text<'a>>, Vec<Text<'a>>, Vec<bool>),
    changes: (Vec<i64>, Vec<i32>, Vec<Text<'a>>, Vec<Text<'a>>),
}

impl<'a> Columns<'a> {
    fn new(group: &Group<'a>) -> Self {
        let mut columns = Self::default();
        for (key, state) in &group.written {
            columns.add(key, state);
        }
        for (revision, writes) in &group.changes {
            for (place, write) in writes.iter().enumerate() {
                let (revisions, places, kinds, names) = &mut columns.changes;
                revisions.push(ordered(*revision));
                places.push(i32::try_from(place).unwrap_or(i32::MAX));
                kinds.push(text::stored(&write.key().kind));
                names.push(text::stored(&write.key().key));
            }
        }
        columns
    }

    fn add(&mut self, key: &'a Key, state: &State<'a>) {
        let (kind, name) = (text::stored(&key.kind), text::stored(&key.key));
        self.written.0.push(kind.clone());
        self.written.1.push(name.clone());
        let State::Put { version, format, body, index_keys } = state else {
            self.deleted.0.push(kind);
            self.deleted.1.push(name);
            return;
        };
        for ((index, value), unique) in distinct(index_keys) {
            self.index_keys.0.push(kind.clone());
            self.index_keys.1.push(name.clone());
            self.index_keys.2.push(text::stored(index));
            self.index_keys.3.push(text::stored(value));
            self.index_keys.4.push(unique);
        }
        self.put.0.push(kind);
        self.put.1.push(name);
        self.put.2.push(ordered(*version));
        self.put.3.push((*format).into());
        self.put.4.push(text::stored(body));
    }
}

impl Records {
    /// Writes what the group has come to, and commits.
    async fn end(&self, client: &Client, first: u64, group: &Group<'_>) -> Result<(), Fault> {
        let Columns { written, deleted, put, index_keys, changes } = Columns::new(group);
        let mut pipeline = Pipeline::default();
        if !written.0.is_empty() {
            pipeline.add(FORGET_INDEX_KEYS, parameters![written.0, written.1]);
            pipeline.add(PUT, parameters![put.0, put.1, put.2, put.3, put.4]);
            pipeline.add(ADD_CHANGES, parameters![changes.0, changes.1, changes.2, changes.3]);
        }
        if !deleted.0.is_empty() {
            pipeline.add(DELETE, parameters![deleted.0, deleted.1]);
        }
        if !index_keys.0.is_empty() {
            let (kinds, keys, names, values, unique) = index_keys;
            pipeline.add(ADD_INDEX_KEYS, parameters![kinds, keys, names, values, unique]);
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
