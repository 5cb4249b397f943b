//! What one connection is limited by.

use std::{
    fmt,
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use iot_core::time::Monotonic;

use super::{
    Holder, Limit, Limits, Tally,
    meter::{Counts, Meter, QUOTA_WAIT_MAX, RATES, Share},
    meters::{MeterKey, Meters},
};
use crate::{mqtt::server::PublishRequest, router::SubscriberId};

/// A listener, a tenant, and a product and a device, or a user.
const SEATS_MAX: usize = 4;

/// How often a device is told of the same, at most.
const TOLD_EVERY: Duration = Duration::from_secs(10);

/// The limits of one connection, and what it waits for because of them.
#[derive(Debug)]
pub(crate) struct Metering {
    meters: Arc<Meters>,
    session: SubscriberId,
    pub(super) listener: Option<&'static str>,
    /// In the order of their holders: so that of two connections neither waits for the other.
    seats: Vec<Seat>,
    payload_bytes: Option<(usize, u32)>,
    subscriptions: Option<(usize, u32)>,
    inflight_max: Option<u16>,
    held: Option<Held>,
    /// When a device was last told that it is slowed, and that something was refused.
    told: [Option<Monotonic>; 2],
}

#[derive(Debug)]
struct Seat {
    holder: Holder,
    key: MeterKey,
    meter: Arc<Meter>,
    tally: Arc<Tally>,
    share: Share,
}

/// A message that waits for its time.
#[derive(Debug)]
struct Held {
    request: Box<PublishRequest>,
    until: Monotonic,
}

/// What is beyond which limit, for metrics and for people.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Reached {
    seat: usize,
    pub(super) holder: Holder,
    pub(super) limit: Limit,
    most: Most,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Most {
    Rate { per_s: u32, burst: u32 },
    Bytes(u32),
}

impl fmt::Display for Reached {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (holder, limit) = (self.holder.code(), self.limit.code());
        match self.most {
            Most::Rate { per_s, burst } => {
                write!(f, "{limit} of the {holder} are limited to {per_s} a second and {burst} at once")
            }
            Most::Bytes(max) => write!(f, "{limit}s of the {holder} are limited to {max} bytes"),
        }
    }
}

/// The answer to a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[must_use]
pub(super) enum Answer {
    /// It goes on.
    Passes,
    /// It goes on then.
    Waits(Reached, Monotonic),
    /// It does not.
    Refused(Reached),
}

impl Metering {
    /// Takes a seat for each limit; `None` if there is none, and who has no place left if not `forced`.
    pub(super) fn seat(
        meters: &Arc<Meters>,
        limits: &Limits,
        session: SubscriberId,
        forced: bool,
    ) -> Result<Option<Box<Self>>, Holder> {
        if limits.wanted.is_empty() {
            return Ok(None);
        }
        let mut metering = Box::new(Self {
            meters: meters.clone(),
            session,
            listener: limits.listener,
            seats: Vec::with_capacity(limits.wanted.len()),
            payload_bytes: None,
            subscriptions: None,
            inflight_max: None,
            held: None,
            told: [None; 2],
        });
        for (at, wanted) in limits.wanted.iter().enumerate() {
            let quota = &wanted.limited.quota;
            let Some(meter) = meters.enter(&wanted.key, quota, session, forced) else {
                wanted.limited.tally.connections_refused.fetch_add(1, Ordering::Relaxed);
                return Err(wanted.holder);
            };
            let (key, tally) = (wanted.key.clone(), wanted.limited.tally.clone());
            metering.seats.push(Seat { holder: wanted.holder, key, meter, tally, share: Share::default() });
            least(&mut metering.payload_bytes, at, quota.payload_bytes_max);
            least(&mut metering.subscriptions, at, quota.subscriptions_max);
            metering.inflight_max = [metering.inflight_max, quota.inflight_max].into_iter().flatten().min();
        }
        debug_assert!(metering.seats.len() <= SEATS_MAX, "one for each kind of holder at most");
        Ok(Some(metering))
    }

    /// Without a limit, for what still waits because of a former one.
    fn unlimited(former: &Self) -> Self {
        Self {
            meters: former.meters.clone(),
            session: former.session,
            listener: former.listener,
            seats: Vec::new(),
            payload_bytes: None,
            subscriptions: None,
            inflight_max: None,
            held: None,
            told: [None; 2],
        }
    }

    /// Comes in place of `former`: what waits goes on waiting, and what was told was told.
    pub(super) fn instead_of(fresh: Option<Box<Self>>, former: Option<Box<Self>>) -> Option<Box<Self>> {
        let Some(mut former) = former else { return fresh };
        if fresh.is_none() && former.held.is_none() {
            return None;
        }
        let mut fresh = fresh.unwrap_or_else(|| Box::new(Self::unlimited(&former)));
        (fresh.held, fresh.told) = (former.held.take(), former.told);
        Some(fresh)
    }

    /// Whether it limits nothing any more.
    pub(super) fn is_over(&self) -> bool {
        self.seats.is_empty() && self.held.is_none()
    }

    /// How many messages may be in flight, if that is limited.
    pub(crate) fn inflight_max(&self) -> Option<u16> {
        self.inflight_max
    }

    /// How many subscriptions the session may have, if that is limited.
    pub(crate) fn subscriptions_max(&self) -> Option<usize> {
        self.subscriptions.map(|(_, max)| max as usize)
    }

    /// A subscription was refused because of that.
    pub(crate) fn subscription_refused(&self) {
        if let Some((seat, _)) = self.subscriptions {
            self.seats[seat].tally.subscriptions_refused.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Whether a payload of this size is too large.
    pub(crate) fn is_too_large(&self, bytes: usize) -> bool {
        self.payload_bytes.is_some_and(|(_, max)| bytes > max as usize)
    }

    /// Asks for a message, and counts what is answered. If it cannot wait it is refused where it would have to.
    pub(super) fn ask(&mut self, request: &PublishRequest, now: Monotonic, can_wait: bool) -> Answer {
        let answer = self.decide(request, now, can_wait);
        let (count, reached) = match &answer {
            Answer::Passes => return answer,
            Answer::Waits(reached, _) => (&self.seats[reached.seat].tally.publishes_slowed, reached),
            Answer::Refused(reached) => (&self.seats[reached.seat].tally.publishes_refused, reached),
        };
        count.fetch_add(1, Ordering::Relaxed);
        let (scope, limit) = (reached.holder.code(), reached.limit.code());
        match answer {
            Answer::Waits(..) => metrics::counter!("iot_publishes_slowed_total", "scope" => scope, "limit" => limit),
            _ => {
                metrics::counter!("iot_publishes_refused_total", "reason" => "quota", "scope" => scope, "limit" => limit)
            }
        }
        .increment(1);
        answer
    }

    fn decide(&mut self, request: &PublishRequest, now: Monotonic, can_wait: bool) -> Answer {
        if let Some((seat, max)) = self.payload_bytes.filter(|_| self.is_too_large(request.payload.len())) {
            let holder = self.seats[seat].holder;
            return Answer::Refused(Reached { seat, holder, limit: Limit::Payload, most: Most::Bytes(max) });
        }
        let counts = counts(request);
        // All at once, so that a message takes room everywhere or nowhere.
        let mut places = [const { None }; SEATS_MAX];
        let mut longest: Option<(Duration, Reached)> = None;
        for (at, (seat, place)) in self.seats.iter_mut().zip(&mut places).enumerate() {
            let (state, share) = place.insert((seat.meter.state(), &mut seat.share));
            let waits = state.waits(share, now, counts);
            for (kind, wait) in waits.into_iter().enumerate() {
                let Some(rate) = state.rate(kind).filter(|_| wait != Some(Duration::ZERO)) else { continue };
                let limit = [Limit::Publishes, Limit::Bytes][kind];
                let most = Most::Rate { per_s: rate.per_s, burst: rate.burst };
                let wait = wait.unwrap_or(Duration::MAX);
                if longest.is_none_or(|(longest, _)| wait > longest) {
                    longest = Some((wait, Reached { seat: at, holder: seat.holder, limit, most }));
                }
            }
        }
        if let Some((wait, reached)) = longest
            && (wait > QUOTA_WAIT_MAX || !can_wait)
        {
            return Answer::Refused(reached);
        }
        places.iter_mut().flatten().for_each(|(state, share)| state.take(share, now, counts));
        longest.map_or(Answer::Passes, |(wait, reached)| Answer::Waits(reached, now.plus(wait)))
    }

    /// Counts a message that is neither slowed nor refused.
    pub(super) fn charge(&mut self, request: &PublishRequest, now: Monotonic) {
        let counts = counts(request);
        self.seats.iter().for_each(|seat| seat.meter.state().charge(now, counts));
    }

    /// Keeps a message until its time.
    pub(super) fn hold(&mut self, request: PublishRequest, until: Monotonic) {
        debug_assert!(self.held.is_none(), "nothing is taken from the client while a message waits");
        self.held = Some(Held { request: Box::new(request), until });
    }

    /// Until when a message waits, if one does.
    pub(crate) fn held_until(&self) -> Option<Monotonic> {
        self.held.as_ref().map(|held| held.until)
    }

    /// The message whose time has come. `at_once`: it does not wait any more.
    pub(super) fn take_held(&mut self, now: Monotonic, at_once: bool) -> Option<Box<PublishRequest>> {
        self.held.take_if(|held| at_once || held.until <= now).map(|held| held.request)
    }

    /// Whether the device is to be told, which counts as done.
    pub(super) fn tells(&mut self, refused: bool, now: Monotonic) -> bool {
        let told = &mut self.told[usize::from(refused)];
        let tells = told.is_none_or(|at| now.since(at) >= TOLD_EVERY);
        if tells {
            *told = Some(now);
        }
        tells
    }
}

impl Drop for Metering {
    fn drop(&mut self) {
        for seat in &self.seats {
            self.meters.leave(&seat.key, &seat.meter, self.session);
        }
    }
}

fn counts(request: &PublishRequest) -> Counts {
    let bytes = request.topic.len() + request.payload.len();
    let counts: [u32; RATES] = [1, u32::try_from(bytes).unwrap_or(u32::MAX)];
    counts
}

fn least(least: &mut Option<(usize, u32)>, seat: usize, max: Option<u32>) {
    if let Some(max) = max
        && least.is_none_or(|(_, known)| max < known)
    {
        *least = Some((seat, max));
    }
}
