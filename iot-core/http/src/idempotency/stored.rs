use std::{sync::Arc, time::Duration};

use axum::body::Bytes;
use data_encoding::BASE64;
use iot_core::{
    keys::Purpose,
    store::{Batch, Check, Document, Index, IndexKey, Key, MetaStore, MetaStoreExt, Record, StoreError, Stored, Write},
    time::Timestamp,
};
use serde::{Deserialize, Serialize};

use super::{Begun, KEPT, Kept, LEASE};
use crate::{problem::ProblemResponse, routes::GuardContext};

const DAY: Duration = Duration::from_secs(24 * 3_600);

/// How many records one commit of [`sweep`] deletes.
const SWEPT_AT_ONCE: u32 = 200;

/// A used key. Its record's key begins with the day on which it ends, so that a list is in the order of ends.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct UsedKey {
    /// Day of the end, counted from 1970.
    day: i64,
    /// Code of credential, path and key.
    name: String,
    /// Code of the body.
    body: String,
    /// When it ends: as a whole, or the lease of a request that is not answered yet.
    ends: Timestamp,
    answer: Option<Answer>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Answer {
    status: u16,
    content_type: String,
    /// Sealed for the name, base64.
    body: String,
}

impl UsedKey {
    fn key_of(day: i64, name: &str) -> Key {
        Key::new(Self::KIND, format!("{day:08}/{name}"))
    }
}

impl Document for UsedKey {
    const KIND: &'static str = "idempotency";
    const FORMAT: u16 = 1;

    fn key(&self) -> Key {
        Self::key_of(self.day, &self.name)
    }

    fn index_keys(&self) -> Vec<IndexKey> {
        vec![IndexKey::many("all", "")]
    }
}

/// A request that is being carried out, as it stands in the store.
#[derive(Debug)]
pub(super) struct First(Stored<UsedKey>);

/// Takes the key for this request, or says what there is.
pub(super) async fn begin(context: &GuardContext, name: &str, body: &str) -> Result<Begun<First>, ProblemResponse> {
    let now = context.clock.timestamp();
    let day = day_of(now.plus(KEPT));
    // Begun within the last day, it ends today or tomorrow.
    let keys = [UsedKey::key_of(day - 1, name), UsedKey::key_of(day, name)];
    let records = context.meta.get(&keys).await?;
    for used in records.iter().flatten().map(read) {
        let used = used?;
        if used.ends > now {
            return seen(context, used, body).await;
        }
    }
    let first = UsedKey { day, name: name.to_owned(), body: body.to_owned(), ends: now.plus(LEASE), answer: None };
    let mut batch = Batch { writes: vec![Write::put(&first)], ..Batch::default() };
    batch.checks.extend(keys.iter().zip(&records).map(|(key, record)| unchanged(key, record.as_ref())));
    let version = records[1].as_ref().map_or(1, |record| record.version + 1);
    match context.meta.commit_or_conflict(batch).await? {
        true => Ok(Begun::First(First(Stored { version, document: first }))),
        false => Ok(Begun::Busy),
    }
}

fn read(record: &Record) -> Result<UsedKey, StoreError> {
    serde_json::from_str(&record.body).map_err(|e| damaged(&e.to_string()))
}

fn unchanged(key: &Key, record: Option<&Record>) -> Check {
    match record {
        Some(record) => Check::Version(key.clone(), record.version),
        None => Check::Absent(key.clone()),
    }
}

async fn seen(context: &GuardContext, used: UsedKey, body: &str) -> Result<Begun<First>, ProblemResponse> {
    if used.body != body {
        return Ok(Begun::Mismatch);
    }
    let Some(answer) = used.answer else { return Ok(Begun::Busy) };
    let sealed = BASE64.decode(answer.body.as_bytes()).map_err(|e| damaged(&e.to_string()))?;
    let body = Bytes::from(context.keys.open(Purpose::Response, used.name.as_bytes(), &sealed).await?);
    Ok(Begun::Again(Kept { status: answer.status, content_type: answer.content_type, body }))
}

fn damaged(what: &str) -> StoreError {
    StoreError::Damaged { backend: "records", what: format!("idempotency: {what}") }
}

/// Keeps the answer, or frees the key if there is none to keep. Nothing if the lease has passed to another request.
pub(super) async fn finish(
    context: &GuardContext,
    First(stored): First,
    kept: Option<&Kept>,
) -> Result<(), ProblemResponse> {
    let Some(kept) = kept else {
        context.meta.commit_or_conflict(Batch::default().remove(&stored)).await?;
        return Ok(());
    };
    let sealed = context.keys.seal(Purpose::Response, stored.document.name.as_bytes(), &kept.body).await?;
    let answer = Answer { status: kept.status, content_type: kept.content_type.clone(), body: BASE64.encode(&sealed) };
    let ends = stored.document.ends.minus(LEASE).plus(KEPT);
    let answered = UsedKey { answer: Some(answer), ends, ..stored.document.clone() };
    context.meta.commit_or_conflict(Batch::default().replace(&stored, &answered)).await?;
    Ok(())
}

/// Deletes stored answers whose day is over; answers how many. To be called now and then, a few times a day.
pub async fn sweep(meta: &Arc<dyn MetaStore>, now: Timestamp) -> Result<u64, StoreError> {
    let today = UsedKey::key_of(day_of(now), "");
    let all = Index::new(UsedKey::KIND, "all", "");
    let mut swept = 0;
    loop {
        let page = meta.list(&all, None, SWEPT_AT_ONCE).await?;
        let over: Vec<_> = page.items.into_iter().map(|record| record.key).take_while(|key| *key < today).collect();
        if over.is_empty() {
            return Ok(swept);
        }
        swept += over.len() as u64;
        let writes = over.into_iter().map(Write::Delete).collect();
        // Without checks nothing can conflict: nobody takes a key of a day that is over.
        let _done = meta.commit(Batch { writes, ..Batch::default() }).await?;
    }
}

fn day_of(at: Timestamp) -> i64 {
    at.as_micros().div_euclid(i64::try_from(DAY.as_micros()).unwrap_or(i64::MAX))
}
