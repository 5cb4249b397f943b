//! What the clients know, and what they may therefore expect.

use std::collections::BTreeMap;

use iot_core::{message::QoS, topic};

/// The order of all that happens, counted.
pub(super) type Tick = u64;

#[derive(Debug)]
pub(super) struct Told {
    pub(super) publisher: usize,
    pub(super) topic: String,
    pub(super) qos: QoS,
    pub(super) retain: bool,
    pub(super) called: Tick,
    /// When its acknowledgement came, if that was a success.
    pub(super) acked: Option<Tick>,
    /// Its publisher can be told of a full queue.
    pub(super) is_told: bool,
}

/// A subscription, as well as its client can know it.
#[derive(Debug)]
pub(super) struct Span {
    pub(super) filter: String,
    pub(super) qos: QoS,
    /// SUBSCRIBE was sent.
    asked: Tick,
    /// SUBACK has come.
    sure_from: Option<Tick>,
    /// UNSUBSCRIBE was sent.
    sure_to: Option<Tick>,
    /// UNSUBACK has come, or the session has ended.
    over: Option<Tick>,
    /// The session has ended, and what waited for it.
    lost: bool,
}

impl Span {
    fn matches(&self, message: &Told) -> bool {
        let plain = topic::parse_share(&self.filter).ok().flatten().map_or(&*self.filter, |(_, plain)| plain);
        topic::matches(plain, &message.topic)
    }

    /// Whether it may have been there at some time from `called` on.
    fn may_have_seen(&self, message: &Told) -> bool {
        self.matches(message) && self.over.is_none_or(|over| over >= message.called)
    }

    fn was_there_for(&self, message: &Told) -> bool {
        let until = message.acked.unwrap_or(Tick::MAX);
        self.matches(message)
            && self.sure_from.is_some_and(|from| from <= message.called)
            && self.sure_to.is_none_or(|to| to >= until)
    }
}

#[derive(Debug, Default)]
pub(super) struct Subscriber {
    pub(super) name: String,
    pub(super) persistent: bool,
    pub(super) spans: Vec<Span>,
    /// How often each message came live, by the QoS that it came with.
    seen: BTreeMap<(u32, u8), u32>,
    /// The newest of a publisher on a topic that came.
    newest: BTreeMap<(usize, String, u8), u32>,
}

#[derive(Debug, Default)]
pub(super) struct Oracle {
    pub(super) tick: Tick,
    /// Since the beginning.
    pub(super) at_ms: u128,
    pub(super) trace: u64,
    pub(super) messages: Vec<Told>,
    pub(super) subscribers: Vec<Subscriber>,
    /// Queues are so short that messages are refused: what is missing must have been counted.
    pub(super) short_queues: bool,
    /// How often the node could not note what it had done.
    pub(super) crashes: u32,
    pub(super) complaints: Vec<String>,
}

impl Oracle {
    /// One thing more has happened.
    pub(super) fn note(&mut self, what: &str, who: usize, number: u64) -> Tick {
        self.tick += 1;
        let bytes = what.bytes().chain(who.to_le_bytes()).chain(number.to_le_bytes());
        self.trace = bytes.fold(self.trace, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3));
        if std::env::var_os("SIMULATION_TRACE").is_some() {
            self.tell(&format!("{} at {} ms: {what} {who} {number}", self.tick, self.at_ms));
        }
        self.tick
    }

    pub(super) fn tell(&self, line: &str) {
        eprintln!("{line}");
    }

    pub(super) fn complain(&mut self, complaint: impl std::fmt::Display) {
        let queues = if self.short_queues { " (short queues)" } else { "" };
        self.complaints.push(format!("tick {}{queues}: {complaint}", self.tick));
    }

    // === What publishers know ===

    pub(super) fn called(&mut self, publisher: usize, topic: &str, qos: QoS, retain: bool, is_told: bool) -> u32 {
        let id = u32::try_from(self.messages.len()).unwrap();
        let called = self.note("publish", publisher, u64::from(id));
        self.messages.push(Told { publisher, topic: topic.into(), qos, retain, called, acked: None, is_told });
        id
    }

    pub(super) fn acked(&mut self, id: u32) {
        let tick = self.note("acked", 0, u64::from(id));
        self.messages[id as usize].acked = Some(tick);
    }

    // === What subscribers know ===

    pub(super) fn subscribing(&mut self, who: usize, filter: &str, qos: QoS) {
        let asked = self.note("subscribe", who, 0);
        let filter = filter.into();
        self.subscribers[who].spans.push(Span {
            filter,
            qos,
            asked,
            sure_from: None,
            sure_to: None,
            over: None,
            lost: false,
        });
    }

    pub(super) fn subscribed(&mut self, who: usize, filter: &str) {
        let tick = self.note("subscribed", who, 0);
        let open = self.subscribers[who].spans.iter_mut().rev().find(|s| s.filter == filter && s.over.is_none());
        if let Some(span) = open {
            span.sure_from.get_or_insert(tick);
        }
    }

    pub(super) fn unsubscribing(&mut self, who: usize, filter: &str) {
        let tick = self.note("unsubscribe", who, 0);
        for span in self.subscribers[who].spans.iter_mut().filter(|s| s.filter == filter && s.over.is_none()) {
            span.sure_to.get_or_insert(tick);
        }
    }

    pub(super) fn unsubscribed(&mut self, who: usize, filter: &str) {
        let tick = self.note("unsubscribed", who, 0);
        for span in self.subscribers[who].spans.iter_mut().filter(|s| s.filter == filter && s.over.is_none()) {
            span.over = Some(tick);
        }
    }

    /// The session is gone, with all its subscriptions.
    pub(super) fn session_lost(&mut self, who: usize) {
        let tick = self.note("session lost", who, 0);
        for span in self.subscribers[who].spans.iter_mut().filter(|s| s.over.is_none()) {
            span.over = Some(tick);
        }
        // What waited for the session is gone with it, that of ended subscriptions too.
        self.subscribers[who].spans.iter_mut().for_each(|span| span.lost = true);
    }

    /// Whether it is subscribed for sure.
    pub(super) fn has(&self, who: usize, filter: &str) -> bool {
        let sure = |s: &Span| s.filter == filter && s.over.is_none() && s.sure_from.is_some() && s.sure_to.is_none();
        self.subscribers[who].spans.iter().any(sure)
    }

    pub(super) fn received(&mut self, who: usize, topic: &str, qos: QoS, retain: bool, payload: &[u8]) {
        let id = std::str::from_utf8(payload).ok().and_then(|text| text.split(':').next()?.parse::<u32>().ok());
        let tick = self.note("received", who, u64::from(id.unwrap_or(u32::MAX)) << 2 | qos as u64);
        let name = self.subscribers[who].name.clone();
        let Some((id, message)) = id.and_then(|id| Some((id, self.messages.get(id as usize)?))) else {
            return self.complain(format!("{name} got what nobody published, on {topic}"));
        };
        let mut complaints = Vec::new();
        if message.topic != topic {
            complaints.push(format!("{name} got message {id} on {topic} instead of {}", message.topic));
        }
        if qos > message.qos {
            complaints.push(format!("{name} got message {id} with {qos:?} above {:?}", message.qos));
        }
        let subscriber = &self.subscribers[who];
        if retain {
            let asked = subscriber.spans.iter().filter(|s| s.may_have_seen(message)).map(|s| s.asked).min();
            let newer = self.messages.iter().enumerate().skip(id as usize + 1).find(|(_, other)| {
                other.retain
                    && other.topic == message.topic
                    && other.acked.is_some_and(|acked| asked.is_some_and(|asked| acked < asked))
            });
            match (asked, newer) {
                (None, _) => complaints.push(format!("{name} got retained message {id} without a subscription")),
                (_, Some((newer, _))) => {
                    complaints
                        .push(format!("{name} got retained message {id}, older than {newer}, acknowledged before"));
                }
                _ => {}
            }
        } else {
            if !subscriber.spans.iter().any(|span| span.may_have_seen(message)) {
                complaints.push(format!("{name} got message {id} on {topic} without a subscription"));
            }
            let certain = subscriber.spans.iter().any(|s| s.over.is_none() && s.was_there_for(message));
            // With QoS 0 it overtakes what its publisher has to send again, which then comes by a later subscription with more.
            let waits = !subscriber.persistent || qos > QoS::AtMostOnce;
            let ordered = certain && waits && !self.short_queues && !topic.starts_with("s/");
            let key = (message.publisher, topic.to_owned(), message.qos as u8);
            let known = subscriber.seen.keys().any(|(seen, _)| *seen == id);
            let newest = subscriber.newest.get(&key).copied();
            if ordered && !known && newest.is_some_and(|newest| newest > id) {
                complaints
                    .push(format!("{name} got message {id} for the first time after {newest:?} of the same publisher"));
            }
            let (publisher, sent) = (message.publisher, message.qos);
            let (short_queues, repeats_wills) = (self.short_queues, self.crashes > 0);
            let subscriber = &mut self.subscribers[who];
            if waits {
                subscriber.newest.insert(key, newest.unwrap_or(0).max(id));
            }
            let count = subscriber.seen.entry((id, qos as u8)).or_default();
            *count += 1;
            // One that a full queue has refused is sent again as a new one, if its publisher did not hear of that (MQTT 5 §4.3.3).
            let once = qos == QoS::ExactlyOnce && !short_queues || sent == QoS::AtMostOnce;
            // One that is published by a node that cannot note it any more is published by the next again.
            let again = topic.starts_with("w/") && repeats_wills;
            if once && *count > 1 && !again {
                complaints
                    .push(format!("{name} got message {id} of {publisher} ({sent:?}) {count} times with {qos:?}"));
            }
        }
        complaints.into_iter().for_each(|complaint| self.complain(complaint));
        let _ = tick;
    }

    fn times(&self, who: usize, id: u32) -> u32 {
        let seen = &self.subscribers[who].seen;
        seen.range((id, 0)..=(id, 2)).map(|(_, count)| count).sum()
    }

    pub(super) fn has_seen(&self, who: usize, id: u32) -> bool {
        self.times(who, id) > 0
    }

    /// After everything was delivered: what was promised and is missing. Answers how many promises were kept.
    pub(super) fn complete(&mut self, dropped: u64) -> u64 {
        let (mut complaints, mut kept, mut missing) = (Vec::new(), 0, 0);
        for (id, message) in self.messages.iter().enumerate() {
            if message.qos == QoS::AtMostOnce || message.acked.is_none() || message.topic.starts_with("s/") {
                continue;
            }
            let id = u32::try_from(id).unwrap();
            for (who, subscriber) in self.subscribers.iter().enumerate().filter(|(_, s)| s.persistent) {
                let sure = subscriber.spans.iter().filter(|span| !span.lost && span.was_there_for(message));
                let Some(qos) = sure.map(|span| span.qos).max().filter(|qos| *qos > QoS::AtMostOnce) else { continue };
                let times = self.times(who, id);
                if times == 0 && self.short_queues && (!message.is_told || message.qos == QoS::ExactlyOnce) {
                    missing += 1;
                } else if times == 0 {
                    complaints.push(format!(
                        "{} never got message {id} ({:?} to {qos:?}) on {}, acknowledged at {:?}",
                        subscriber.name, message.qos, message.topic, message.acked
                    ));
                } else {
                    kept += 1;
                }
                let again = message.topic.starts_with("w/") && self.crashes > 0;
                if times > 1 && !again && qos.min(message.qos) == QoS::ExactlyOnce && !self.short_queues {
                    complaints.push(format!("{} got message {id} {times} times, which is of QoS 2", subscriber.name));
                }
            }
        }
        if missing > dropped {
            complaints.push(format!("{missing} deliveries are missing and {dropped} were counted"));
        }
        complaints.into_iter().for_each(|complaint| self.complain(complaint));
        kept
    }

    /// What was published to a group whose members all stay: each has come to one of them, and with QoS 2 once.
    pub(super) fn complete_shared(&mut self, members: &[usize]) {
        let mut complaints = Vec::new();
        for (id, message) in self.messages.iter().enumerate().filter(|(_, message)| message.topic.starts_with("s/")) {
            let id = u32::try_from(id).unwrap();
            let subscribed =
                |who: &usize| self.subscribers[*who].spans.iter().any(|s| !s.lost && s.was_there_for(message));
            if !members.iter().all(subscribed) || message.acked.is_none() || self.short_queues {
                continue;
            }
            let times: u32 = members.iter().map(|who| self.times(*who, id)).sum();
            let once = message.qos == QoS::ExactlyOnce;
            if message.qos > QoS::AtMostOnce && (times == 0 || once && times > 1) {
                complaints.push(format!("message {id} ({:?}) came {times} times to the group", message.qos));
            }
        }
        complaints.into_iter().for_each(|complaint| self.complain(complaint));
    }
}
