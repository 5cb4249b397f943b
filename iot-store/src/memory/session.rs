use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    ops::Bound,
    sync::Arc,
    time::Duration,
};

use async_trait::async_trait;
use iot_core::{
    id::TenantId,
    message::Message,
    session::{Position, SessionEpoch, SessionId},
    store::{
        Closing, Due, Fenced, Offered, Opened, Opening, Placed, Publication, Queued, Resumed, SessionStore, Settled,
        Settlement, StoreError, StoredSession, StoredSubscription, Target,
    },
    time::Timestamp,
    topic,
};

use super::{Memory, lock};
use crate::StoreLimits;

#[derive(Debug, Default)]
pub(super) struct Sessions {
    epoch: u64,
    sessions: BTreeMap<SessionId, Session>,
    retained: HashMap<TenantId, Retained>,
}

#[derive(Debug, Default)]
struct Retained {
    messages: BTreeMap<Arc<str>, Message>,
    size: usize,
}

#[derive(Debug, Default)]
struct Session {
    epoch: SessionEpoch,
    keep: Duration,
    subscriptions: BTreeMap<String, StoredSubscription>,
    received: BTreeSet<u16>,
    queue: BTreeMap<Position, Queued>,
    queued_size: usize,
    last_position: Position,
    will: Option<(Message, Duration)>,
    /// `None` while it is open.
    closed: Option<Closed>,
}

#[derive(Debug)]
struct Closed {
    sent_through: Position,
    expires_at: Timestamp,
    /// When the will is due, or when the session expires if there is none.
    due_at: Timestamp,
}

#[async_trait]
impl SessionStore for Memory {
    async fn open(&self, opening: Opening) -> Result<Opened, StoreError> {
        Ok(lock(&self.sessions).open(opening))
    }

    async fn close(&self, closing: Closing) -> Result<Fenced, StoreError> {
        let mut sessions = lock(&self.sessions);
        let Some(session) = sessions.fenced(&closing.session, closing.epoch) else { return Ok(Fenced::Superseded) };
        session.close(&closing);
        if closing.keep.is_zero() {
            sessions.sessions.remove(&closing.session);
        }
        Ok(Fenced::Done)
    }

    async fn subscribe(
        &self,
        session: &SessionId,
        epoch: SessionEpoch,
        subscriptions: &[StoredSubscription],
    ) -> Result<Fenced, StoreError> {
        let mut sessions = lock(&self.sessions);
        let Some(session) = sessions.fenced(session, epoch) else { return Ok(Fenced::Superseded) };
        session.subscriptions.extend(subscriptions.iter().map(|added| (added.filter.clone(), added.clone())));
        Ok(Fenced::Done)
    }

    async fn unsubscribe(
        &self,
        session: &SessionId,
        epoch: SessionEpoch,
        filters: &[String],
    ) -> Result<Fenced, StoreError> {
        let mut sessions = lock(&self.sessions);
        let Some(session) = sessions.fenced(session, epoch) else { return Ok(Fenced::Superseded) };
        session.subscriptions.retain(|filter, _| !filters.contains(filter));
        Ok(Fenced::Done)
    }

    async fn offer(&self, publications: &[Publication]) -> Result<Vec<Offered>, StoreError> {
        let mut sessions = lock(&self.sessions);
        Ok(publications.iter().map(|publication| sessions.offer(publication, &self.limits)).collect())
    }

    async fn peek(
        &self,
        session: &SessionId,
        after: Option<Position>,
        limit: u32,
        bytes: usize,
    ) -> Result<Vec<Queued>, StoreError> {
        let sessions = lock(&self.sessions);
        let Some(session) = sessions.sessions.get(session) else { return Ok(Vec::new()) };
        let from = after.map_or(Bound::Unbounded, Bound::Excluded);
        let mut size = 0_usize;
        let is_next = |queued: &&Queued| {
            let fits = size < bytes;
            size += queued.message.size();
            fits
        };
        let queue = session.queue.range((from, Bound::Unbounded)).map(|(_, queued)| queued);
        Ok(queue.take(limit as usize).take_while(is_next).cloned().collect())
    }

    async fn settle(&self, settlements: &[Settlement]) -> Result<(), StoreError> {
        let mut sessions = lock(&self.sessions);
        for Settlement { session, epoch, step } in settlements {
            if let Some(session) = sessions.fenced(session, *epoch) {
                session.settle(*step);
            }
        }
        Ok(())
    }

    async fn retained(
        &self,
        tenant: &TenantId,
        filter: &str,
        after: Option<&str>,
        limit: u32,
        now: Timestamp,
    ) -> Result<Vec<Message>, StoreError> {
        let sessions = lock(&self.sessions);
        let Some(retained) = sessions.retained.get(tenant) else { return Ok(Vec::new()) };
        let from = after.map_or(Bound::Unbounded, Bound::Excluded);
        Ok(retained
            .messages
            .range::<str, _>((from, Bound::Unbounded))
            .map(|(_, message)| message)
            .filter(|message| topic::matches(filter, &message.topic) && !message.is_expired(now))
            .take(limit as usize)
            .cloned()
            .collect())
    }

    async fn sessions(&self, after: Option<&SessionId>, limit: u32) -> Result<Vec<StoredSession>, StoreError> {
        let from = after.map_or(Bound::Unbounded, Bound::Excluded);
        Ok(lock(&self.sessions)
            .sessions
            .range((from, Bound::Unbounded))
            .take(limit as usize)
            .map(|(id, session)| StoredSession {
                session: id.clone(),
                epoch: session.epoch,
                subscriptions: session.subscriptions.values().cloned().collect(),
                open: session.closed.is_none(),
                keep: session.keep,
            })
            .collect())
    }

    async fn due(&self, now: Timestamp, limit: u32) -> Result<Vec<Due>, StoreError> {
        let sessions = lock(&self.sessions);
        let closed = sessions.sessions.iter().filter_map(|(id, session)| Some((id, session, session.closed.as_ref()?)));
        let mut due: Vec<_> = closed.filter(|(_, _, closed)| closed.due_at <= now).collect();
        due.sort_by_key(|(id, _, closed)| (closed.due_at, *id));
        let due = due.into_iter().take(limit as usize).map(|(id, session, closed)| Due {
            session: id.clone(),
            epoch: session.epoch,
            will: session.will.as_ref().map(|(message, _)| message.clone()),
            expired: closed.expires_at <= now,
        });
        Ok(due.collect())
    }

    async fn discharge(&self, due: &Due) -> Result<Fenced, StoreError> {
        let mut sessions = lock(&self.sessions);
        let Some(session) = sessions.fenced(&due.session, due.epoch) else { return Ok(Fenced::Superseded) };
        session.will = None;
        if let Some(closed) = &mut session.closed {
            closed.due_at = closed.expires_at;
        }
        if due.expired {
            sessions.sessions.remove(&due.session);
        }
        Ok(Fenced::Done)
    }
}

impl Sessions {
    fn open(&mut self, opening: Opening) -> Opened {
        self.epoch += 1;
        let epoch = SessionEpoch(self.epoch);
        let former = self.sessions.remove(&opening.session);
        let persistent = !opening.keep.is_zero();
        let resumes = |session: &Session| persistent && !opening.clean && !session.has_expired(opening.at);
        let will = former.as_ref().filter(|session| !resumes(session)).and_then(Session::waiting_will);
        let former = former.filter(|session| resumes(session));
        let resumed = former.as_ref().map(Session::resumed);
        if persistent {
            let session =
                Session { epoch, keep: opening.keep, will: opening.will, closed: None, ..former.unwrap_or_default() };
            self.sessions.insert(opening.session, session);
        }
        Opened { epoch, resumed, will }
    }

    fn fenced(&mut self, session: &SessionId, epoch: SessionEpoch) -> Option<&mut Session> {
        self.sessions.get_mut(session).filter(|session| session.epoch == epoch)
    }

    fn offer(&mut self, publication: &Publication, limits: &StoreLimits) -> Offered {
        if let Some((sender, epoch, packet_id)) = &publication.received {
            let Some(sender) = self.fenced(sender, *epoch) else {
                return Offered::superseded(publication);
            };
            sender.received.insert(*packet_id);
        }
        let message = &publication.message;
        let placed = publication.to.iter().map(|target| self.place(message, target, limits)).collect();
        let retained_full =
            message.retain && !self.retained.entry(message.tenant.clone()).or_default().retain(message, limits);
        Offered { placed, retained_full, superseded: false }
    }

    fn place(&mut self, message: &Message, target: &Target, limits: &StoreLimits) -> Placed {
        let Some(session) = self.sessions.get_mut(&target.session) else { return Placed::Gone };
        if session.queue.len() >= limits.queue_messages_max || session.queued_size >= limits.queue_bytes_max {
            return Placed::Full;
        }
        let position = Position(session.last_position.0 + 1);
        session.last_position = position;
        session.queued_size += message.size();
        let Target { qos, retain, identifiers, .. } = target.clone();
        session
            .queue
            .insert(position, Queued { position, message: message.clone(), qos, retain, identifiers, released: false });
        Placed::At(session.epoch, position)
    }
}

impl Retained {
    /// Sets or removes the retained message; `false` if there is no room.
    fn retain(&mut self, message: &Message, limits: &StoreLimits) -> bool {
        if message.payload.is_empty() {
            self.size -= self.messages.remove(&message.topic).map_or(0, |former| former.size());
            return true;
        }
        let former = self.messages.get(&message.topic).map(Message::size);
        let has_room = |retained: &Self| match former {
            Some(former) if message.size() <= former => true,
            Some(_) => retained.size < limits.retained_bytes_max,
            None => retained.messages.len() < limits.retained_max && retained.size < limits.retained_bytes_max,
        };
        if !has_room(self) {
            // Not its own former one, which stays if there is no room for this one.
            self.messages.retain(|topic, kept| *topic == message.topic || !kept.is_expired(message.published));
            self.size = self.messages.values().map(Message::size).sum();
            if !has_room(self) {
                return false;
            }
        }
        self.size += message.size();
        let former = self.messages.insert(Arc::clone(&message.topic), message.clone());
        self.size -= former.map_or(0, |former| former.size());
        true
    }
}

impl Session {
    fn has_expired(&self, at: Timestamp) -> bool {
        self.closed.as_ref().is_some_and(|closed| closed.expires_at <= at)
    }

    fn waiting_will(&self) -> Option<Message> {
        let waits = |(_, delay): &&(Message, Duration)| self.closed.is_some() || !delay.is_zero();
        self.will.as_ref().filter(waits).map(|(message, _)| message.clone())
    }

    /// Of a session that was never closed anything in the queue may have been sent.
    fn resumed(&self) -> Resumed {
        Resumed {
            subscriptions: self.subscriptions.values().cloned().collect(),
            received: self.received.iter().copied().collect(),
            sent_through: self.closed.as_ref().map_or(self.last_position, |closed| closed.sent_through),
        }
    }

    fn close(&mut self, closing: &Closing) {
        self.will = self.will.take().filter(|_| closing.will);
        let expires_at = closing.at.plus(closing.keep);
        let will_at = self.will.as_ref().map(|(_, delay)| closing.at.plus(*delay));
        let due_at = will_at.map_or(expires_at, |will_at| will_at.min(expires_at));
        self.closed = Some(Closed { sent_through: closing.sent_through, expires_at, due_at });
    }

    fn settle(&mut self, step: Settled) {
        match step {
            Settled::Finished(position) => {
                if let Some(queued) = self.queue.remove(&position) {
                    self.queued_size -= queued.message.size();
                }
            }
            Settled::Released(position) => {
                if let Some(queued) = self.queue.get_mut(&position) {
                    queued.released = true;
                }
            }
            Settled::Forgotten(packet_id) => {
                self.received.remove(&packet_id);
            }
        }
    }
}
