//! The lane of sessions: two round trips for a group, and a third where sessions end or retained messages crowd.

use std::collections::{BTreeMap, BTreeSet};

use async_trait::async_trait;
use deadpool_postgres::Client;
use iot_core::{
    id::TenantId,
    session::SessionId,
    store::{Settled, Settlement, StoredSubscription},
};
use tokio_postgres::Row;

use super::{
    super::{
        fault::Fault,
        lane::Work,
        ordered,
        pipeline::{Answers, Pipeline, Place, parameters},
        text,
    },
    job::{Answer, Job},
    read,
    retained::{self, Retained},
    state::{Head, NewMessage, Session, State, Touched},
};
use crate::{StoreLimits, codec};

/// What the lane of sessions does.
pub(in crate::postgres) struct Sessions {
    limits: StoreLimits,
}

impl Sessions {
    pub(in crate::postgres) fn new(limits: StoreLimits) -> Self {
        Self { limits }
    }
}

#[async_trait]
impl Work for Sessions {
    type Job = Job;
    type Answer = Answer;

    fn weight(job: &Job) -> usize {
        job.weight()
    }

    async fn carry_out(&self, client: &Client, jobs: &[Job]) -> Result<Vec<Answer>, Fault> {
        let (mut state, mut unused) = begin(client, jobs, self.limits).await?;
        let epoch = state.epoch;
        let answers = jobs.iter().map(|job| state.decide(job)).collect::<Result<_, Fault>>()?;
        wipe(client, &state, &mut unused).await?;
        end(client, &state, epoch, &unused).await?;
        Ok(answers)
    }
}

// === begin ===

const LOCK_EPOCH: &str = "SELECT value FROM counter WHERE name = 'session_epoch' FOR UPDATE";
const LOCK_SESSIONS: &str =
    "SELECT name, id, epoch, last_position, queued, queued_size, sent_through, will_delay, keep,
        expires_at, due_at, CASE WHEN name = ANY($2::text[]) THEN will END
    FROM session WHERE name = ANY($1::text[]) ORDER BY name FOR UPDATE";
const FINISH: &str = "DELETE FROM queue
    USING session, unnest($1::text[], $2::bigint[], $3::bigint[]) AS step (name, epoch, position)
    WHERE session.name = step.name AND session.epoch = step.epoch
    AND queue.session = session.id AND queue.position = step.position
    RETURNING session.name, queue.message, queue.size";
const RELEASE: &str = "UPDATE queue SET released = TRUE
    FROM session, unnest($1::text[], $2::bigint[], $3::bigint[]) AS step (name, epoch, position)
    WHERE session.name = step.name AND session.epoch = step.epoch
    AND queue.session = session.id AND queue.position = step.position";
const FORGET: &str = "DELETE FROM received
    USING session, unnest($1::text[], $2::bigint[], $3::bigint[]) AS step (name, epoch, packet_id)
    WHERE session.name = step.name AND session.epoch = step.epoch
    AND received.session = session.id AND received.packet_id = step.packet_id";
const SUBSCRIPTIONS: &str = "SELECT name, filter, qos, no_local, retain_as_published, identifier
    FROM subscription JOIN session ON session.id = subscription.session WHERE name = ANY($1::text[])";
const RECEIVED: &str = "SELECT name, packet_id
    FROM received JOIN session ON session.id = received.session WHERE name = ANY($1::text[])";
const IDS: &str = "SELECT nextval('row_id') FROM generate_series(1, $1)";
const COUNT_TENANTS: &str = "INSERT INTO retained_count (tenant, messages, size) SELECT unnest($1::text[]), 0, 0
    ON CONFLICT DO NOTHING";
const LOCK_TENANTS: &str = "SELECT tenant, messages, size FROM retained_count WHERE tenant = ANY($1::text[])
    ORDER BY tenant FOR UPDATE";
const TOPICS: &str = "SELECT retained.tenant, retained.topic, retained.size FROM retained
    JOIN unnest($1::text[], $2::text[]) AS named (tenant, topic)
    ON retained.tenant = named.tenant AND retained.topic = named.topic";
const EXPIRING: &str = "SELECT topic, expires, size FROM retained WHERE tenant = $1 AND expires <= $2";

/// Messages that have lost so many of their uses.
type Unused = BTreeMap<i64, i64>;

/// Locks what the group looks at, always in one order: the epochs, the sessions by name, the tenants by name; carries out
/// the steps of deliveries, and reads the rest.
async fn begin<'a>(client: &Client, jobs: &'a [Job], limits: StoreLimits) -> Result<(State<'a>, Unused), Fault> {
    let mut named = BTreeSet::new();
    jobs.iter().for_each(|job| job.sessions(&mut named));
    let opened: Vec<_> = jobs.iter().filter_map(Job::opened).map(name).collect();
    let whole: Vec<_> = jobs.iter().filter_map(Job::whole).map(name).collect();
    let mut pipeline = Pipeline::begin();
    let opens = !opened.is_empty();
    let epoch = opens.then(|| pipeline.add(LOCK_EPOCH, Vec::new()));
    let names: Vec<_> = named.iter().copied().map(name).collect();
    let sessions = pipeline.add(LOCK_SESSIONS, parameters![names, whole]);
    let finished = add_settlements(&mut pipeline, jobs);
    let belongings = opens.then(|| {
        (pipeline.add(SUBSCRIPTIONS, parameters![opened.clone()]), pipeline.add(RECEIVED, parameters![opened]))
    });
    let rows = jobs.iter().map(Job::rows).sum::<usize>();
    let ids = (rows > 0).then(|| pipeline.add(IDS, parameters![i32::try_from(rows).unwrap_or(i32::MAX)]));
    let tenants = add_tenants(&mut pipeline, jobs);
    let answers = pipeline.run(client).await?;

    let mut state = State {
        limits,
        epoch: epoch.and_then(|epoch| answers[epoch].first()).map_or(Ok(0), |row| row.try_get(0))?,
        ids: numbers(ids.map_or(&[], |ids| &answers[ids]))?.into_iter(),
        heads: named.into_iter().map(|session| (session, Head::default())).collect(),
        messages: BTreeMap::new(),
        retained: Retained::new(&limits),
    };
    let mut unused = Unused::new();
    find_sessions(&mut state, &answers[sessions])?;
    if let Some((subscriptions, received)) = belongings {
        find_belongings(&mut state, &answers[subscriptions], &answers[received])?;
    }
    for row in finished.map_or(&[][..], |finished| &answers[finished]) {
        *unused.entry(row.try_get(1)?).or_default() += 1;
        if let Some((head, session)) = found(&mut state, row)? {
            session.queued -= 1;
            session.queued_size -= row.try_get::<_, i64>(2)?;
            *head = Touched::Moved.max(*head);
        }
    }
    if let Some(tenants) = tenants {
        find_retained(client, &mut state, jobs, &answers, tenants).await?;
    }
    Ok((state, unused))
}

fn name(session: &SessionId) -> std::borrow::Cow<'_, str> {
    text::stored(session.as_str())
}

fn numbers(rows: &[Row]) -> Result<Vec<i64>, Fault> {
    Ok(rows.iter().map(|row| row.try_get(0)).collect::<Result<_, _>>()?)
}

/// The statement that finds what was finished, if anything.
fn add_settlements<'a>(pipeline: &mut Pipeline<'a>, jobs: &'a [Job]) -> Option<Place> {
    let steps = |number: fn(Settled) -> Option<u64>| {
        let steps = jobs.iter().flat_map(Job::settlements).filter_map(|Settlement { session, epoch, step }| {
            Some(((name(session), ordered(epoch.0)), ordered(number(*step)?)))
        });
        steps.unzip::<_, _, Vec<_>, Vec<_>>()
    };
    let mut add = |sql, number| {
        let (sessions, numbers) = steps(number);
        let (names, epochs): (Vec<_>, Vec<_>) = sessions.into_iter().unzip();
        (!numbers.is_empty()).then(|| pipeline.add(sql, parameters![names, epochs, numbers]))
    };
    add(RELEASE, |step| if let Settled::Released(position) = step { Some(position.0) } else { None });
    add(FORGET, |step| if let Settled::Forgotten(packet_id) = step { Some(packet_id.into()) } else { None });
    add(FINISH, |step| if let Settled::Finished(position) = step { Some(position.0) } else { None })
}

/// The statements that find the counts of tenants and the topics that have a retained message.
fn add_tenants<'a>(pipeline: &mut Pipeline<'a>, jobs: &'a [Job]) -> Option<(Place, Place)> {
    let messages: Vec<_> = retained::messages(jobs.iter().flat_map(Job::offers)).collect();
    if messages.is_empty() {
        return None;
    }
    let tenants: BTreeSet<&str> = messages.iter().map(|message| message.tenant.as_str()).collect();
    let tenants: Vec<&str> = tenants.into_iter().collect();
    pipeline.add(COUNT_TENANTS, parameters![tenants.clone()]);
    let counts = pipeline.add(LOCK_TENANTS, parameters![tenants]);
    let of: Vec<&str> = messages.iter().map(|message| message.tenant.as_str()).collect();
    let topics: Vec<_> = messages.iter().map(|message| text::stored(&message.topic)).collect();
    Some((counts, pipeline.add(TOPICS, parameters![of, topics])))
}

fn find_sessions(state: &mut State<'_>, rows: &[Row]) -> Result<(), Fault> {
    for row in rows {
        let id = SessionId::from_stored(&text::read(row.try_get(0)?));
        let Some(head) = state.heads.get_mut(&id) else { continue };
        head.row = Some(row.try_get(1)?);
        head.session = Some(Session {
            id: row.try_get(1)?,
            epoch: row.try_get(2)?,
            last_position: row.try_get(3)?,
            queued: row.try_get(4)?,
            queued_size: row.try_get(5)?,
            sent_through: row.try_get(6)?,
            will_delay: row.try_get(7)?,
            keep: row.try_get(8)?,
            expires_at: row.try_get(9)?,
            due_at: row.try_get(10)?,
            will: row.try_get(11)?,
            ..Session::default()
        });
    }
    Ok(())
}

fn find_belongings(state: &mut State<'_>, subscriptions: &[Row], received: &[Row]) -> Result<(), Fault> {
    for row in subscriptions {
        if let Some((_, session)) = found(state, row)? {
            let subscription = read::subscription(row, 1)?;
            session.subscriptions.insert(subscription.filter.clone(), subscription);
        }
    }
    for row in received {
        let packet_id: i32 = row.try_get(1)?;
        if let Some((_, session)) = found(state, row)? {
            session.received.extend(u16::try_from(packet_id));
        }
    }
    Ok(())
}

/// The session that a row begins with.
fn found<'s, 'a>(state: &'s mut State<'a>, row: &Row) -> Result<Option<(&'s mut Touched, &'s mut Session<'a>)>, Fault> {
    let id = SessionId::from_stored(&text::read(row.try_get(0)?));
    let head = state.heads.get_mut(&id);
    Ok(head.and_then(|head| Some((&mut head.touched, head.session.as_mut()?))))
}

async fn find_retained<'a>(
    client: &Client,
    state: &mut State<'a>,
    jobs: &'a [Job],
    answers: &Answers,
    (counts, topics): (Place, Place),
) -> Result<(), Fault> {
    let messages = || retained::messages(jobs.iter().flat_map(Job::offers));
    let tenants = &mut state.retained.tenants;
    for message in messages() {
        tenants.entry(&message.tenant).or_default();
    }
    for row in &answers[counts] {
        if let Some(found) = tenants.get_mut(&tenant(row)?) {
            (found.count, found.size) = (row.try_get(1)?, row.try_get(2)?);
        }
    }
    for row in &answers[topics] {
        if let Some(found) = tenants.get_mut(&tenant(row)?) {
            found.there.insert(text::read(row.try_get(1)?), row.try_get(2)?);
        }
    }
    for (tenant, at) in state.retained.crowded(messages()) {
        let statement = client.prepare_cached(EXPIRING).await?;
        let expiries = client.query(&statement, &[&tenant.as_str(), &at.as_micros()]).await?;
        let found = state.retained.tenants.entry(tenant).or_default();
        for row in &expiries {
            let topic = text::read(row.try_get(0)?);
            found.expiries.insert(topic.clone(), row.try_get(1)?);
            // It is there, whether or not it was in question.
            found.there.insert(topic, row.try_get(2)?);
        }
    }
    Ok(())
}

fn tenant(row: &Row) -> Result<TenantId, Fault> {
    TenantId::parse(row.try_get(0)?).map_err(|error| Fault::Damaged(error.to_string()))
}

// === end ===

const WIPE_QUEUES: &str = "DELETE FROM queue WHERE session = ANY($1::bigint[]) RETURNING message";
const WIPE_SUBSCRIPTIONS: &str = "DELETE FROM subscription WHERE session = ANY($1::bigint[])";
const WIPE_RECEIVED: &str = "DELETE FROM received WHERE session = ANY($1::bigint[])";
const DELETE_SESSIONS: &str = "DELETE FROM session WHERE id = ANY($1::bigint[])";
const LOCK_MESSAGES: &str = "SELECT FROM message WHERE id = ANY($1::bigint[]) ORDER BY id FOR UPDATE";
const UNUSE: &str = "UPDATE message SET uses = message.uses - unused.uses
    FROM unnest($1::bigint[], $2::bigint[]) AS unused (id, uses) WHERE message.id = unused.id";
const DELETE_MESSAGES: &str = "DELETE FROM message WHERE id = ANY($1::bigint[]) AND uses <= 0";
const ADD_MESSAGES: &str = "INSERT INTO message (id, uses, body)
    SELECT * FROM unnest($1::bigint[], $2::bigint[], $3::bytea[])";
const ADD_QUEUED: &str = "INSERT INTO queue (session, position, message, qos, retain, identifiers, size)
    SELECT * FROM unnest($1::bigint[], $2::bigint[], $3::bigint[], $4::smallint[], $5::bool[], $6::bytea[], $7::bigint[])";
const MOVE: &str = "UPDATE session SET last_position = moved.last_position, queued = moved.queued,
        queued_size = moved.queued_size
    FROM unnest($1::bigint[], $2::bigint[], $3::bigint[], $4::bigint[]) AS moved (id, last_position, queued, queued_size)
    WHERE session.id = moved.id";
const PUT: &str = "INSERT INTO session
        (id, name, epoch, last_position, queued, queued_size, sent_through, will, will_delay, keep, expires_at, due_at)
    SELECT * FROM unnest($1::bigint[], $2::text[], $3::bigint[], $4::bigint[], $5::bigint[], $6::bigint[],
        $7::bigint[], $8::bytea[], $9::bigint[], $10::bigint[], $11::bigint[], $12::bigint[])
    ON CONFLICT (id) DO UPDATE SET epoch = excluded.epoch, last_position = excluded.last_position,
        queued = excluded.queued, queued_size = excluded.queued_size, sent_through = excluded.sent_through, will = excluded.will,
        will_delay = excluded.will_delay, keep = excluded.keep, expires_at = excluded.expires_at,
        due_at = excluded.due_at";
const UNSUBSCRIBE: &str = "DELETE FROM subscription USING unnest($1::bigint[], $2::text[]) AS gone (session, filter)
    WHERE subscription.session = gone.session AND subscription.filter = gone.filter";
const SUBSCRIBE: &str = "INSERT INTO subscription (session, filter, qos, no_local, retain_as_published, identifier)
    SELECT * FROM unnest($1::bigint[], $2::text[], $3::smallint[], $4::bool[], $5::bool[], $6::bigint[])
    ON CONFLICT (session, filter) DO UPDATE SET qos = excluded.qos, no_local = excluded.no_local,
        retain_as_published = excluded.retain_as_published, identifier = excluded.identifier";
const RECEIVE: &str = "INSERT INTO received (session, packet_id) SELECT * FROM unnest($1::bigint[], $2::int[])
    ON CONFLICT DO NOTHING";
const COUNT_EPOCH: &str = "UPDATE counter SET value = $1 WHERE name = 'session_epoch'";
const UNRETAIN: &str = "DELETE FROM retained USING unnest($1::text[], $2::text[]) AS gone (tenant, topic)
    WHERE retained.tenant = gone.tenant AND retained.topic = gone.topic";
const RETAIN: &str = "INSERT INTO retained (tenant, topic, expires, body, size)
    SELECT * FROM unnest($1::text[], $2::text[], $3::bigint[], $4::bytea[], $5::bigint[])
    ON CONFLICT (tenant, topic) DO UPDATE SET expires = excluded.expires, body = excluded.body, size = excluded.size";
const COUNT_RETAINED: &str = "UPDATE retained_count SET messages = counted.messages, size = counted.size
    FROM unnest($1::text[], $2::bigint[], $3::bigint[]) AS counted (tenant, messages, size) WHERE retained_count.tenant = counted.tenant";

/// Removes what belongs to sessions that have ended or begin anew.
async fn wipe(client: &Client, state: &State<'_>, unused: &mut Unused) -> Result<(), Fault> {
    let wiped: Vec<i64> = state.heads.values().filter(|head| head.wiped).filter_map(|head| head.row).collect();
    if wiped.is_empty() {
        return Ok(());
    }
    let mut pipeline = Pipeline::default();
    let messages = pipeline.add(WIPE_QUEUES, parameters![wiped.clone()]);
    pipeline.add(WIPE_SUBSCRIPTIONS, parameters![wiped.clone()]);
    pipeline.add(WIPE_RECEIVED, parameters![wiped]);
    for message in numbers(&pipeline.run(client).await?[messages])? {
        *unused.entry(message).or_default() += 1;
    }
    Ok(())
}

/// Writes what the group has come to, and commits.
async fn end(client: &Client, state: &State<'_>, epoch: i64, unused: &Unused) -> Result<(), Fault> {
    let mut pipeline = Pipeline::default();
    add_messages(&mut pipeline, state, unused);
    add_sessions(&mut pipeline, state);
    add_subscriptions(&mut pipeline, state);
    add_retained(&mut pipeline, state);
    if state.epoch != epoch {
        pipeline.add(COUNT_EPOCH, parameters![state.epoch]);
    }
    pipeline.commit(client).await?;
    Ok(())
}

/// The sessions that are there.
fn sessions<'s, 'a>(state: &'s State<'a>) -> impl Iterator<Item = (&'a SessionId, &'s Head<'a>, &'s Session<'a>)> {
    state.heads.iter().filter_map(|(id, head)| Some((*id, head, head.session.as_ref()?)))
}

fn add_messages<'s>(pipeline: &mut Pipeline<'s>, state: &'s State<'_>, unused: &Unused) {
    if !unused.is_empty() {
        let (ids, uses): (Vec<i64>, Vec<i64>) = unused.iter().unzip();
        pipeline.add(LOCK_MESSAGES, parameters![ids.clone()]);
        pipeline.add(UNUSE, parameters![ids.clone(), uses]);
        pipeline.add(DELETE_MESSAGES, parameters![ids]);
    }
    let used: Vec<(i64, &NewMessage<'_>)> =
        state.messages.iter().filter(|(_, message)| message.uses > 0).map(|(id, message)| (*id, message)).collect();
    if used.is_empty() {
        return;
    }
    let ids: Vec<i64> = used.iter().map(|(id, _)| *id).collect();
    let uses: Vec<i64> = used.iter().map(|(_, message)| message.uses).collect();
    let bodies: Vec<&[u8]> = used.iter().map(|(_, message)| message.body).collect();
    pipeline.add(ADD_MESSAGES, parameters![ids, uses, bodies]);
    let queued = || sessions(state).flat_map(|(_, _, session)| session.queues.iter().map(move |row| (session.id, row)));
    let ids: Vec<i64> = queued().map(|(id, _)| id).collect();
    let positions: Vec<i64> = queued().map(|(_, row)| row.position).collect();
    let messages: Vec<i64> = queued().map(|(_, row)| row.message).collect();
    let qos: Vec<i16> = queued().map(|(_, row)| row.target.qos as i16).collect();
    let retain: Vec<bool> = queued().map(|(_, row)| row.target.retain).collect();
    let identifiers: Vec<_> = queued().map(|(_, row)| codec::identifiers(&row.target.identifiers)).collect();
    let sizes: Vec<i64> = queued().map(|(_, row)| row.size).collect();
    pipeline.add(ADD_QUEUED, parameters![ids, positions, messages, qos, retain, identifiers, sizes]);
}

fn add_sessions<'s>(pipeline: &mut Pipeline<'s>, state: &'s State<'_>) {
    let gone: Vec<i64> =
        state.heads.values().filter(|head| head.session.is_none()).filter_map(|head| head.row).collect();
    if !gone.is_empty() {
        pipeline.add(DELETE_SESSIONS, parameters![gone]);
    }
    let moved: Vec<_> = sessions(state).filter(|(_, head, _)| head.touched == Touched::Moved).collect();
    if !moved.is_empty() {
        let column = |of: fn(&Session<'_>) -> i64| moved.iter().map(|(_, _, session)| of(session)).collect::<Vec<_>>();
        pipeline.add(
            MOVE,
            parameters![
                column(|session| session.id),
                column(|session| session.last_position),
                column(|session| session.queued),
                column(|session| session.queued_size),
            ],
        );
    }
    let whole: Vec<_> = sessions(state).filter(|(_, head, _)| head.touched == Touched::Whole).collect();
    if !whole.is_empty() {
        let column = |of: fn(&Session<'_>) -> i64| whole.iter().map(|(_, _, session)| of(session)).collect::<Vec<_>>();
        let optional =
            |of: fn(&Session<'_>) -> Option<i64>| whole.iter().map(|(_, _, session)| of(session)).collect::<Vec<_>>();
        let names: Vec<_> = whole.iter().map(|(id, ..)| name(id)).collect();
        let wills: Vec<_> = whole.iter().map(|(_, _, session)| session.will.as_deref()).collect();
        pipeline.add(
            PUT,
            parameters![
                column(|session| session.id),
                names,
                column(|session| session.epoch),
                column(|session| session.last_position),
                column(|session| session.queued),
                column(|session| session.queued_size),
                column(|session| session.sent_through),
                wills,
                optional(|session| session.will_delay),
                column(|session| session.keep),
                optional(|session| session.expires_at),
                optional(|session| session.due_at),
            ],
        );
    }
}

fn add_subscriptions<'s>(pipeline: &mut Pipeline<'s>, state: &'s State<'_>) {
    let changed = || {
        sessions(state).flat_map(|(_, _, session)| session.subscribed.iter().map(move |(f, s)| (session.id, *f, *s)))
    };
    let gone = changed().filter(|(.., subscription)| subscription.is_none());
    let (ids, filters): (Vec<i64>, Vec<_>) = gone.map(|(id, filter, _)| (id, text::stored(filter))).unzip();
    if !ids.is_empty() {
        pipeline.add(UNSUBSCRIBE, parameters![ids, filters]);
    }
    let put: Vec<(i64, &StoredSubscription)> =
        changed().filter_map(|(id, _, subscription)| Some((id, subscription?))).collect();
    if !put.is_empty() {
        let ids: Vec<i64> = put.iter().map(|(id, _)| *id).collect();
        let filters: Vec<_> = put.iter().map(|(_, put)| text::stored(&put.filter)).collect();
        let qos: Vec<i16> = put.iter().map(|(_, put)| put.qos as i16).collect();
        let no_local: Vec<bool> = put.iter().map(|(_, put)| put.no_local).collect();
        let as_published: Vec<bool> = put.iter().map(|(_, put)| put.retain_as_published).collect();
        let identifiers: Vec<_> = put.iter().map(|(_, put)| put.identifier.map(i64::from)).collect();
        pipeline.add(SUBSCRIBE, parameters![ids, filters, qos, no_local, as_published, identifiers]);
    }
    let received = sessions(state).flat_map(|(_, _, session)| session.receives.iter().map(move |id| (session.id, *id)));
    let (ids, packets): (Vec<i64>, Vec<i32>) = received.map(|(id, packet_id)| (id, i32::from(packet_id))).unzip();
    if !ids.is_empty() {
        pipeline.add(RECEIVE, parameters![ids, packets]);
    }
}

fn add_retained<'s>(pipeline: &mut Pipeline<'s>, state: &'s State<'_>) {
    let tenants = &state.retained.tenants;
    let changed = || {
        tenants.iter().flat_map(|(id, tenant)| tenant.changed.iter().map(|(topic, kept)| (id.as_str(), topic, kept)))
    };
    let gone = changed().filter(|(.., kept)| kept.is_none());
    let (of, topics): (Vec<&str>, Vec<_>) = gone.map(|(tenant, topic, _)| (tenant, text::stored(topic))).unzip();
    if !of.is_empty() {
        pipeline.add(UNRETAIN, parameters![of, topics]);
    }
    let put: Vec<_> = changed().filter_map(|(tenant, topic, kept)| Some((tenant, topic, kept.as_ref()?))).collect();
    if !put.is_empty() {
        let of: Vec<&str> = put.iter().map(|(tenant, ..)| *tenant).collect();
        let topics: Vec<_> = put.iter().map(|(_, topic, _)| text::stored(topic)).collect();
        let expires: Vec<Option<i64>> = put.iter().map(|(.., kept)| kept.expires).collect();
        let bodies: Vec<&[u8]> = put.iter().map(|(.., kept)| kept.body).collect();
        let sizes: Vec<i64> = put.iter().map(|(.., kept)| kept.size).collect();
        pipeline.add(RETAIN, parameters![of, topics, expires, bodies, sizes]);
    }
    if !tenants.is_empty() {
        let of: Vec<&str> = tenants.keys().map(|tenant| tenant.as_str()).collect();
        let counts: Vec<i64> = tenants.values().map(|found| found.count).collect();
        let sizes: Vec<i64> = tenants.values().map(|found| found.size).collect();
        pipeline.add(COUNT_RETAINED, parameters![of, counts, sizes]);
    }
}
