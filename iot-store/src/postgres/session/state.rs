//! Deciding about a group of jobs, one after the other, over what was read for all of them.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
    vec,
};

use iot_core::{
    session::{Position, SessionEpoch, SessionId},
    store::{Closing, Due, Fenced, Offered, Opened, Opening, Placed, Resumed, StoredSubscription, Target},
};

use super::{
    super::{fault::Fault, ordered},
    job::{Answer, Job, Offer, Step},
    retained::Retained,
};
use crate::{StoreLimits, codec};

/// What was found, and what the jobs so far have made of it.
pub(super) struct State<'a> {
    pub(super) limits: StoreLimits,
    /// Counts for all sessions, so that epochs grow also when a session is removed and made again.
    pub(super) epoch: i64,
    /// For new rows.
    pub(super) ids: vec::IntoIter<i64>,
    /// All sessions that are named.
    pub(super) heads: BTreeMap<&'a SessionId, Head<'a>>,
    pub(super) messages: BTreeMap<i64, NewMessage<'a>>,
    pub(super) retained: Retained<'a>,
}

/// A session before and now.
#[derive(Default)]
pub(super) struct Head<'a> {
    /// Its row.
    pub(super) row: Option<i64>,
    /// Whether what belongs to the row is to be removed.
    pub(super) wiped: bool,
    pub(super) touched: Touched,
    /// `None` if it is not there.
    pub(super) session: Option<Session<'a>>,
}

/// How much of a row has changed.
#[derive(Default, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Touched {
    #[default]
    No,
    /// Its queue.
    Moved,
    Whole,
}

/// The columns of a row, and what belongs to it.
#[derive(Default)]
pub(super) struct Session<'a> {
    pub(super) id: i64,
    pub(super) epoch: i64,
    pub(super) last_position: i64,
    pub(super) queued: i64,
    pub(super) queued_size: i64,
    pub(super) sent_through: i64,
    pub(super) will: Option<Vec<u8>>,
    pub(super) will_delay: Option<i64>,
    pub(super) keep: i64,
    pub(super) expires_at: Option<i64>,
    pub(super) due_at: Option<i64>,
    /// As stored; read for sessions that are opened only, as is the next.
    pub(super) subscriptions: BTreeMap<String, StoredSubscription>,
    pub(super) received: BTreeSet<u16>,
    pub(super) subscribed: BTreeMap<&'a str, Option<&'a StoredSubscription>>,
    pub(super) receives: BTreeSet<u16>,
    pub(super) queues: Vec<NewQueued<'a>>,
}

/// A row of a queue.
pub(super) struct NewQueued<'a> {
    pub(super) position: i64,
    pub(super) message: i64,
    pub(super) size: i64,
    pub(super) target: &'a Target,
}

/// A message with the number of rows that refer to it.
pub(super) struct NewMessage<'a> {
    pub(super) body: &'a [u8],
    pub(super) uses: i64,
}

impl<'a> State<'a> {
    pub(super) fn decide(&mut self, job: &'a Job) -> Result<Answer, Fault> {
        Ok(match job {
            Job::Open(opening) => Answer::Opened(self.open(opening)?),
            Job::Fenced(session, epoch, step) => Answer::Fenced(self.fenced(session, *epoch, step)),
            Job::Offer(offers) => {
                Answer::Offered(offers.iter().map(|offer| self.offer(offer)).collect::<Result<_, Fault>>()?)
            }
            // Carried out while the state was read.
            Job::Settle(_) => Answer::Settled,
        })
    }

    fn open(&mut self, opening: &'a Opening) -> Result<Opened, Fault> {
        self.epoch += 1;
        let persistent = !opening.keep.is_zero();
        let head = self.heads.entry(&opening.session).or_default();
        let resumes = |session: &Session<'_>| {
            persistent && !opening.clean && session.expires_at.is_none_or(|at| at > opening.at.as_micros())
        };
        let (former, ended) = match head.session.take() {
            Some(former) if resumes(&former) => (Some(former), None),
            ended => (None, ended),
        };
        let resumed = former.as_ref().map(Session::resumed);
        let will = ended.and_then(|ended| head.wipe(ended, &mut self.messages));
        let will = will.map(|body| codec::read_message(&body)).transpose()?;
        if persistent {
            let mut session = former.unwrap_or_default();
            if resumed.is_none() {
                session.id = head.row.map_or_else(|| next(&mut self.ids), Ok)?;
            }
            session.take(opening, self.epoch);
            head.session = Some(session);
            head.touched = Touched::Whole;
        }
        Ok(Opened { epoch: SessionEpoch(self.epoch.cast_unsigned()), resumed, will })
    }

    fn fenced(&mut self, session: &'a SessionId, epoch: SessionEpoch, step: &'a Step) -> Fenced {
        let head = self.heads.entry(session).or_default();
        let Some(mut current) = head.session.take_if(|session| session.epoch == ordered(epoch.0)) else {
            return Fenced::Superseded;
        };
        match step {
            Step::Subscribe(subscriptions) => {
                current.subscribed.extend(subscriptions.iter().map(|added| (added.filter.as_str(), Some(added))));
            }
            Step::Unsubscribe(filters) => {
                current.subscribed.extend(filters.iter().map(|filter| (filter.as_str(), None)));
            }
            Step::Close(Closing { keep: Duration::ZERO, .. }) | Step::Discharge(Due { expired: true, .. }) => {
                head.wipe(current, &mut self.messages);
                return Fenced::Done;
            }
            Step::Close(closing) => {
                current.close(closing);
                head.touched = Touched::Whole;
            }
            Step::Discharge(_) => {
                current.will = None;
                current.will_delay = None;
                current.due_at = current.expires_at;
                head.touched = Touched::Whole;
            }
        }
        head.session = Some(current);
        Fenced::Done
    }

    fn offer(&mut self, Offer { publication, body }: &'a Offer) -> Result<Offered, Fault> {
        if let Some((sender, epoch, packet_id)) = &publication.received {
            let sender = self.heads.get_mut(sender).and_then(|head| head.session.as_mut());
            let Some(sender) = sender.filter(|sender| sender.epoch == ordered(epoch.0)) else {
                return Ok(Offered::superseded(publication));
            };
            sender.receives.insert(*packet_id);
        }
        let mut message = None;
        let mut placed = Vec::with_capacity(publication.to.len());
        let size = ordered(publication.message.size() as u64);
        for target in &publication.to {
            placed.push(self.place(target, size, &mut message)?);
        }
        if let Some(message) = message {
            let uses = placed.iter().filter(|placed| matches!(placed, Placed::At(..))).count();
            self.messages.insert(message, NewMessage { body, uses: ordered(uses as u64) });
        }
        let retained_full = publication.message.retain && !self.retained.retain(&publication.message, body);
        Ok(Offered { placed, retained_full, superseded: false })
    }

    fn place(&mut self, target: &'a Target, size: i64, message: &mut Option<i64>) -> Result<Placed, Fault> {
        let head = self.heads.get_mut(&target.session);
        let Some((touched, session)) = head.and_then(|head| Some((&mut head.touched, head.session.as_mut()?))) else {
            return Ok(Placed::Gone);
        };
        let StoreLimits { queue_messages_max, queue_bytes_max, .. } = self.limits;
        if session.queued >= ordered(queue_messages_max as u64)
            || session.queued_size >= ordered(queue_bytes_max as u64)
        {
            return Ok(Placed::Full);
        }
        let id = match *message {
            Some(id) => id,
            None => *message.insert(next(&mut self.ids)?),
        };
        session.last_position += 1;
        session.queued += 1;
        session.queued_size += size;
        session.queues.push(NewQueued { position: session.last_position, message: id, size, target });
        *touched = Touched::Moved.max(*touched);
        Ok(Placed::At(SessionEpoch(session.epoch.cast_unsigned()), Position(session.last_position.cast_unsigned())))
    }
}

impl Head<'_> {
    /// Forgets a session with all that belongs to it; answers the will that waited, if any.
    fn wipe(&mut self, ended: Session<'_>, messages: &mut BTreeMap<i64, NewMessage<'_>>) -> Option<Vec<u8>> {
        self.wiped = self.row.is_some();
        for queued in &ended.queues {
            if let Some(message) = messages.get_mut(&queued.message) {
                message.uses -= 1;
            }
        }
        let waits = ended.expires_at.is_some() || ended.will_delay.is_some_and(|delay| delay > 0);
        ended.will.filter(|_| waits)
    }
}

impl Session<'_> {
    fn take(&mut self, opening: &Opening, epoch: i64) {
        self.epoch = epoch;
        self.will = opening.will.as_ref().map(|(message, _)| codec::message(message));
        self.will_delay = opening.will.as_ref().map(|(_, delay)| micros(*delay));
        self.keep = micros(opening.keep);
        self.expires_at = None;
        self.due_at = None;
    }

    /// Of a session that was never closed anything in the queue may have been sent.
    fn resumed(&self) -> Resumed {
        let mut subscriptions: BTreeMap<&str, &StoredSubscription> =
            self.subscriptions.iter().map(|(filter, subscription)| (filter.as_str(), subscription)).collect();
        for (filter, changed) in &self.subscribed {
            match changed {
                Some(subscription) => subscriptions.insert(filter, subscription),
                None => subscriptions.remove(filter),
            };
        }
        let sent_through = if self.expires_at.is_some() { self.sent_through } else { self.last_position };
        Resumed {
            subscriptions: subscriptions.into_values().cloned().collect(),
            received: self.received.union(&self.receives).copied().collect(),
            sent_through: Position(sent_through.cast_unsigned()),
        }
    }

    fn close(&mut self, closing: &Closing) {
        let expires_at = closing.at.plus(closing.keep).as_micros();
        self.will_delay = self.will_delay.filter(|_| closing.will);
        self.will = self.will.take().filter(|_| self.will_delay.is_some());
        self.sent_through = ordered(closing.sent_through.0);
        self.expires_at = Some(expires_at);
        let will_at = self.will_delay.map(|delay| closing.at.as_micros().saturating_add(delay));
        self.due_at = Some(will_at.map_or(expires_at, |at| at.min(expires_at)));
    }
}

fn next(ids: &mut vec::IntoIter<i64>) -> Result<i64, Fault> {
    ids.next().ok_or_else(|| Fault::Damaged("the sequence row_id gives too few numbers".to_owned()))
}

fn micros(duration: Duration) -> i64 {
    i64::try_from(duration.as_micros()).unwrap_or(i64::MAX)
}
