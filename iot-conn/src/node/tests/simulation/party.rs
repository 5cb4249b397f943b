//! A client that uses our engine: publishes, subscribes, comes back.

use std::{collections::BTreeMap, time::Duration};

use bytes::BytesMut;
use iot_core::{message::QoS, secret::Secret, time::Monotonic};

use super::{network::Link, oracle::Oracle, rng::Rng};
use crate::mqtt::{
    client::{Client as Engine, ClientOptions, Event, Publication, Token},
    packet::{Subscription, Version},
    reason::ReasonCode,
};

#[derive(Debug, Clone)]
enum Request {
    Subscribe(Vec<String>),
    Unsubscribe(Vec<String>),
}

pub(super) struct Party {
    pub(super) who: usize,
    pub(super) engine: Engine,
    pub(super) link: Option<Link>,
    pub(super) expiry_s: u32,
    pub(super) version: Version,
    /// Filters and the QoS that it asks for, always the same for one filter.
    pub(super) wishes: Vec<(String, QoS)>,
    /// Until then it reads nothing.
    pub(super) asleep_until: Monotonic,
    /// When it was certainly connected last.
    heard: Option<Monotonic>,
    input: BytesMut,
    pending: BTreeMap<u64, u32>,
    requests: BTreeMap<u64, Request>,
}

fn number(token: Token) -> u64 {
    format!("{token:?}").bytes().filter(u8::is_ascii_digit).fold(0, |n, digit| n * 10 + u64::from(digit - b'0'))
}

impl Party {
    pub(super) fn new(who: usize, rng: &mut Rng, oracle: &mut Oracle) -> Self {
        let version = if rng.once_in(3) { Version::V311 } else { Version::V5 };
        let persistent = !rng.once_in(4);
        let expiry_s = match (persistent, version) {
            (false, _) => 0,
            (true, Version::V311) => 7 * 24 * 3_600,
            (true, Version::V5) if rng.once_in(4) => 20,
            (true, Version::V5) => 3_600,
        };
        let options = ClientOptions {
            version,
            clean_start: !persistent,
            session_expiry_s: expiry_s,
            keep_alive_s: u16::try_from(4 + rng.below(8)).unwrap(),
            username: Some("app".into()),
            password: Some(Secret::new(format!("app-{who}"))),
            receive_maximum: u16::try_from(2 + rng.below(30)).unwrap(),
            in_flight_max: u16::try_from(1 + rng.below(20)).unwrap(),
            response_timeout: Duration::from_secs(4),
            ..ClientOptions::new(format!("party-{who}"))
        };
        let all = [QoS::AtMostOnce, QoS::AtLeastOnce, QoS::ExactlyOnce, QoS::ExactlyOnce];
        let filters = ["a/0", "a/1", "a/#", "a/+", "r/#", "f/0"];
        let wishes = filters.iter().map(|filter| ((*filter).to_owned(), *rng.pick(&all))).collect();
        let subscriber = &mut oracle.subscribers[who];
        (subscriber.name, subscriber.persistent) = (format!("party {who}"), persistent);
        Self::with(who, options, wishes)
    }

    /// One that keeps its session, whatever happens.
    pub(super) fn lasting(who: usize, wishes: Vec<(String, QoS)>, oracle: &mut Oracle) -> Self {
        let subscriber = &mut oracle.subscribers[who];
        (subscriber.name, subscriber.persistent) = (format!("party {who}"), true);
        let options = ClientOptions {
            session_expiry_s: 2 * 24 * 3_600,
            keep_alive_s: 5,
            username: Some("app".into()),
            password: Some(Secret::new(format!("app-{who}"))),
            response_timeout: Duration::from_secs(4),
            ..ClientOptions::new(format!("party-{who}"))
        };
        Self::with(who, options, wishes)
    }

    fn with(who: usize, options: ClientOptions, wishes: Vec<(String, QoS)>) -> Self {
        let persistent = !(options.clean_start && options.session_expiry_s == 0);
        Self {
            who,
            expiry_s: if persistent { options.session_expiry_s.max(1) } else { 0 },
            version: options.version,
            engine: Engine::new(options).unwrap(),
            link: None,
            wishes,
            asleep_until: Monotonic::ZERO,
            heard: None,
            input: BytesMut::new(),
            pending: BTreeMap::new(),
            requests: BTreeMap::new(),
        }
    }

    pub(super) fn is_persistent(&self) -> bool {
        self.expiry_s > 0
    }

    pub(super) fn is_online(&self) -> bool {
        self.engine.is_connected()
    }

    pub(super) fn connect(&mut self, now: Monotonic, link: Link) {
        self.input.clear();
        self.engine.handle_connected(now);
        self.link = Some(link);
    }

    pub(super) fn publish(
        &mut self,
        oracle: &mut Oracle,
        topic: &str,
        qos: QoS,
        retain: bool,
        padding: usize,
    ) -> Option<u32> {
        // QoS 0 that is published offline would be sent whenever: it is not ordered against anything.
        if self.engine.unpublished() > 300 || qos == QoS::AtMostOnce && !self.is_online() {
            return None;
        }
        let id = oracle.called(self.who, topic, qos, retain, self.version == Version::V5);
        let mut payload = format!("{id}:").into_bytes();
        payload.resize(payload.len() + padding, b'.');
        let publication = Publication { retain, ..Publication::new(topic, payload, qos) };
        let token = self.engine.publish(publication).unwrap();
        if qos > QoS::AtMostOnce {
            self.pending.insert(number(token), id);
        }
        Some(id)
    }

    pub(super) fn subscribe(&mut self, oracle: &mut Oracle, filters: &[(String, QoS)]) {
        let subscriptions: Vec<_> = filters.iter().map(|(filter, qos)| Subscription::new(filter, *qos)).collect();
        let Ok(token) = self.engine.subscribe(&subscriptions, None) else { return };
        filters.iter().for_each(|(filter, qos)| oracle.subscribing(self.who, filter, *qos));
        let filters = filters.iter().map(|(filter, _)| filter.clone()).collect();
        self.requests.insert(number(token), Request::Subscribe(filters));
    }

    /// Whether a SUBSCRIBE or UNSUBSCRIBE waits for its answer.
    pub(super) fn asks(&self) -> bool {
        !self.requests.is_empty()
    }

    pub(super) fn unsubscribe(&mut self, oracle: &mut Oracle, filter: &str) {
        let Ok(token) = self.engine.unsubscribe(&[filter]) else { return };
        oracle.unsubscribing(self.who, filter);
        self.requests.insert(number(token), Request::Unsubscribe(vec![filter.to_owned()]));
    }

    /// Ends the connection in order.
    pub(super) fn disconnect(&mut self, oracle: &mut Oracle) {
        self.engine.disconnect(ReasonCode::Success);
        self.write();
        self.events(Monotonic::ZERO, oracle);
    }

    /// The client gives the connection up without a word; what is on its way may still arrive.
    pub(super) fn abandon(&mut self, now: Monotonic, oracle: &mut Oracle) -> Option<Link> {
        self.engine.handle_disconnected(now);
        self.events(now, oracle);
        self.link.take()
    }

    fn write(&mut self) {
        if let Some(link) = &self.link {
            link.send(self.engine.output());
        }
    }

    /// Reads, writes, looks at the time.
    pub(super) fn turn(&mut self, now: Monotonic, oracle: &mut Oracle) -> Option<Link> {
        let link = self.link.as_ref()?;
        if now >= self.asleep_until {
            link.receive(&mut self.input);
            let (was_online, had) = (self.engine.is_connected(), self.input.len());
            self.engine.handle_input(now, &mut self.input);
            // Part of a packet tells a client nothing.
            if was_online && self.input.len() < had {
                self.heard = Some(now);
            }
            self.events(now, oracle);
        }
        if self.engine.poll_timeout().is_some_and(|due| due <= now) {
            self.engine.handle_timeout(now);
        }
        self.write();
        if self.link.as_ref().is_some_and(Link::is_over) {
            self.engine.handle_disconnected(now);
        }
        self.events(now, oracle);
        if self.engine.poll_timeout().is_none() {
            // Bytes that found no room are lost with it.
            let link = self.link.take();
            link.iter().for_each(Link::close);
            return link;
        }
        None
    }

    fn events(&mut self, now: Monotonic, oracle: &mut Oracle) {
        while let Some(event) = self.engine.poll_event() {
            match event {
                Event::Connected(connected) => self.connected(now, connected.session_present, oracle),
                Event::Refused(refused) => _ = oracle.note("refused", self.who, u64::from(refused.reason.value())),
                Event::Message(message) => {
                    oracle.received(self.who, &message.topic, message.qos, message.retain, &message.payload);
                }
                Event::Subscribed { token, reasons } => {
                    let Some(Request::Subscribe(filters)) = self.requests.remove(&number(token)) else { continue };
                    for (filter, reason) in filters.iter().zip(reasons) {
                        match reason.is_error() {
                            true => _ = oracle.note("not subscribed", self.who, u64::from(reason.value())),
                            false => oracle.subscribed(self.who, filter),
                        }
                    }
                }
                Event::Unsubscribed { token, reasons } => {
                    let Some(Request::Unsubscribe(filters)) = self.requests.remove(&number(token)) else { continue };
                    if reasons.iter().any(|reason| reason.is_error()) {
                        continue;
                    }
                    filters.iter().for_each(|filter| oracle.unsubscribed(self.who, filter));
                }
                Event::Published { token, reason } => {
                    let Some(id) = self.pending.remove(&number(token)) else { continue };
                    match reason.is_error() {
                        true => _ = oracle.note("refused publish", self.who, u64::from(id)),
                        false => oracle.acked(id),
                    }
                }
                Event::NotPublished { token, .. } => {
                    self.pending.remove(&number(token));
                }
                Event::Disconnected(cause) => {
                    self.requests.clear();
                    if let crate::mqtt::client::Cause::Violation(violation) = &cause {
                        oracle.complain(format!("party {}: the node broke the standard: {violation}", self.who));
                    }
                    oracle.note("disconnected", self.who, 0);
                    if !self.is_persistent() {
                        oracle.session_lost(self.who);
                    }
                }
            }
        }
    }

    fn connected(&mut self, now: Monotonic, session_present: bool, oracle: &mut Oracle) {
        oracle.note("connected", self.who, u64::from(session_present));
        if session_present {
            if !self.is_persistent() {
                oracle.complain(format!("party {} found a session that it never had", self.who));
            }
        } else {
            // What came last may have been under way for a while, and then have waited for a client that read nothing.
            let expired = |heard: Monotonic| now.since(heard).as_secs() + 9 >= u64::from(self.expiry_s);
            if self.is_persistent() && self.heard.is_some_and(|heard| !expired(heard)) {
                oracle.complain(format!("party {}: its session was lost before it expired", self.who));
            }
            oracle.session_lost(self.who);
        }
        self.heard = Some(now);
    }
}
