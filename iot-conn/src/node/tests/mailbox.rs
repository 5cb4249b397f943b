use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    task::{Wake, Waker},
};

use bytes::Bytes;
use iot_core::{
    id::TenantId,
    message::{Message, Properties, QoS},
    session::Position,
    time::Timestamp,
};
use proptest::prelude::*;

use crate::{
    mqtt::ReasonCode,
    node::{
        gate::Gate,
        mailbox::{
            APART_BEHIND, Completion, HARD_FACTOR, Kind, Letters, Mailbox, Outgoing, Posted, QUEUED_IN_MEMORY_MAX,
            SOFT_MESSAGES_MAX, mailbox,
        },
    },
    router::Identifiers,
};

fn outgoing(text: &str, qos: QoS, kind: Kind) -> Outgoing {
    let message = Message {
        tenant: TenantId::parse("t").unwrap(),
        topic: "x".into(),
        payload: Bytes::copy_from_slice(text.as_bytes()),
        qos,
        retain: false,
        properties: None,
        published: Timestamp::EPOCH,
        expires: None,
        device: None,
    };
    Outgoing { message, qos, retain: false, identifiers: Identifiers::default(), kind }
}

fn passing(text: &str, qos: QoS) -> Outgoing {
    outgoing(text, qos, Kind::Passing)
}

fn command(text: &str) -> Outgoing {
    outgoing(text, QoS::AtLeastOnce, Kind::Command(text.parse().unwrap()))
}

fn queued(position: u64) -> Outgoing {
    let kind = Kind::Queued { position: Position(position), released: false, dup: false };
    outgoing(&position.to_string(), QoS::AtLeastOnce, kind)
}

fn texts(mailbox: &Mailbox, window: bool) -> Vec<String> {
    std::iter::from_fn(|| mailbox.next(window))
        .map(|outgoing| String::from_utf8(outgoing.message.payload.to_vec()).unwrap())
        .collect()
}

fn look(mailbox: &Mailbox) -> Letters {
    mailbox.look(Waker::noop())
}

/// A connection that sleeps.
#[derive(Default)]
struct Sleeper(AtomicBool);

impl Wake for Sleeper {
    fn wake(self: Arc<Self>) {
        self.0.store(true, Ordering::Relaxed);
    }
}

const DONE: Completion = Completion::Release { packet_id: 1, tag: 1 };

fn post(to: &Mailbox, from: &Arc<Mailbox>, qos: QoS) -> Posted {
    let gate = Gate::new(from, DONE);
    let posted = to.post(passing("x", qos), || gate.part());
    if let Some(done) = gate.finish(ReasonCode::Success) {
        from.complete(done);
    }
    posted
}

fn fill(mailbox: &Mailbox, count: usize) {
    for _ in 0..count {
        assert_eq!(mailbox.post(passing("x", QoS::AtLeastOnce), || Gate::open().part()), Posted::Taken);
    }
}

#[test]
fn control_goes_before_data() {
    let mailbox = mailbox();
    assert_eq!(mailbox.post(passing("data", QoS::AtLeastOnce), || Gate::open().part()), Posted::Taken);
    mailbox.post_queued(queued(1));
    assert_eq!(mailbox.post_control(command("control")), Posted::Taken);
    assert_eq!(texts(&mailbox, true), ["control", "data", "1"]);
}

#[test]
fn without_a_window_only_quality_0_goes() {
    let mailbox = mailbox();
    assert_eq!(mailbox.post_control(command("control")), Posted::Taken);
    assert_eq!(mailbox.post(passing("quick", QoS::AtMostOnce), || Gate::open().part()), Posted::Taken);
    assert_eq!(mailbox.post(passing("safe", QoS::AtLeastOnce), || Gate::open().part()), Posted::Taken);
    assert_eq!(texts(&mailbox, false), ["quick"]);
    assert_eq!(texts(&mailbox, true), ["control", "safe"]);
}

#[test]
fn what_is_put_back_is_the_next() {
    let mailbox = mailbox();
    for text in ["a", "b"] {
        assert_eq!(mailbox.post(passing(text, QoS::AtLeastOnce), || Gate::open().part()), Posted::Taken);
        assert_eq!(mailbox.post_control(command(text)), Posted::Taken);
    }
    (1..=2).for_each(|n| mailbox.post_queued(queued(n)));
    for _ in 0..6 {
        let next = mailbox.next(true).unwrap();
        mailbox.put_back(next);
        mailbox.next(true).unwrap();
    }
    assert!(mailbox.next(true).is_none());
    let (first, _second) = (command("a"), mailbox.post_control(command("b")));
    mailbox.put_back(first);
    assert_eq!(texts(&mailbox, true), ["a", "b"]);
}

#[test]
fn above_the_soft_bound_quality_0_is_shed_and_senders_wait_until_half_is_gone() {
    let (mailbox, sender) = (mailbox(), mailbox());
    fill(&mailbox, SOFT_MESSAGES_MAX - 1);
    assert_eq!(post(&mailbox, &sender, QoS::AtLeastOnce), Posted::Taken);
    assert_eq!(sender.completions(), [DONE]);
    assert_eq!(post(&mailbox, &sender, QoS::AtMostOnce), Posted::Shed);
    assert_eq!(sender.completions(), [DONE], "nobody waits for what was shed");
    assert_eq!(post(&mailbox, &sender, QoS::AtLeastOnce), Posted::Taken);
    assert!(sender.completions().is_empty() && mailbox.is_congested());
    for _ in 0..SOFT_MESSAGES_MAX / 2 + 1 {
        assert!(sender.completions().is_empty());
        mailbox.next(true).unwrap();
    }
    mailbox.next(true).unwrap();
    assert_eq!((sender.completions(), mailbox.is_congested()), (vec![DONE], false));
}

#[test]
fn a_connection_that_sleeps_is_told_that_senders_wait() {
    let (mailbox, sender) = (mailbox(), mailbox());
    fill(&mailbox, SOFT_MESSAGES_MAX);
    let sleeper = Arc::new(Sleeper::default());
    mailbox.look(&Waker::from(sleeper.clone()));
    assert_eq!(post(&mailbox, &sender, QoS::AtLeastOnce), Posted::Taken);
    assert!(sleeper.0.load(Ordering::Relaxed));
}

#[test]
fn the_hard_bound_ends_the_connection_and_frees_the_sender() {
    let (mailbox, sender) = (mailbox(), mailbox());
    fill(&mailbox, HARD_FACTOR * SOFT_MESSAGES_MAX);
    assert!(look(&mailbox).close.is_none());
    assert_eq!(post(&mailbox, &sender, QoS::AtLeastOnce), Posted::Closed);
    assert_eq!(sender.completions(), [DONE]);
    assert_eq!(look(&mailbox).close, Some(ReasonCode::QuotaExceeded));
}

#[test]
fn shutting_frees_who_waits_and_takes_nothing_more() {
    let (mailbox, sender) = (mailbox(), mailbox());
    fill(&mailbox, SOFT_MESSAGES_MAX);
    assert_eq!(post(&mailbox, &sender, QoS::AtLeastOnce), Posted::Taken);
    mailbox.shut();
    assert_eq!(sender.completions(), [DONE]);
    assert_eq!(post(&mailbox, &sender, QoS::AtLeastOnce), Posted::Closed);
    assert_eq!(sender.completions(), [DONE]);
    assert_eq!(mailbox.post_control(command("c")), Posted::Closed);
    mailbox.post_queued(queued(1));
    mailbox.post_read(queued(2));
    assert!(mailbox.next(true).is_none());
}

/// The last part of a gate may be finished where its own mailbox is emptied.
#[test]
fn a_sender_may_be_its_own_subscriber() {
    let mailbox = mailbox();
    fill(&mailbox, SOFT_MESSAGES_MAX);
    assert_eq!(post(&mailbox, &mailbox, QoS::AtLeastOnce), Posted::Taken);
    let (told, tells) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        while mailbox.next(true).is_some() {}
        told.send(mailbox.completions())
    });
    assert_eq!(tells.recv_timeout(std::time::Duration::from_secs(10)), Ok(vec![DONE]));
}

#[test]
fn an_empty_mailbox_that_rests_holds_no_queue() {
    let mailbox = mailbox();
    fill(&mailbox, 1);
    mailbox.rest();
    assert_eq!(texts(&mailbox, true), ["x"]);
    mailbox.rest();
    assert!(!mailbox.has_queues());
}

#[test]
fn the_highest_reason_is_told() {
    let sender = mailbox();
    let mut connection = crate::mqtt::server::Connection::new(
        iot_core::time::Monotonic::ZERO,
        crate::mqtt::server::ConnectionLimits::default(),
    );
    let ticket = ticket(&mut connection);
    let completion = |reason| Completion::Published { ticket, received: Some(7), reason };
    for own_reason in [ReasonCode::Success, ReasonCode::QuotaExceeded] {
        let gate = Gate::new(&sender, completion(ReasonCode::Success));
        let (low, high) = (gate.part(), gate.part());
        high.finish(ReasonCode::NotAuthorized);
        assert_eq!(gate.finish(own_reason), None);
        low.finish(ReasonCode::NoMatchingSubscribers);
        assert_eq!(sender.completions(), [completion(own_reason.max(ReasonCode::NotAuthorized))]);
        let gate = Gate::new(&sender, completion(ReasonCode::Success));
        assert_eq!(gate.finish(own_reason), Some(completion(own_reason)));
    }
}

/// A ticket, from a message that a client has sent.
fn ticket(connection: &mut crate::mqtt::server::Connection) -> crate::mqtt::server::Ticket {
    use crate::mqtt::server::{Accepted, Event};
    let now = iot_core::time::Monotonic::ZERO;
    let bytes = b"\x10\x10\0\x04MQTT\x04\x02\0\x3c\0\x04lamp\x32\x05\0\x01x\0\x01";
    let mut input = bytes::BytesMut::from(&bytes[..]);
    connection.handle_input(now, &mut input);
    assert!(matches!(connection.poll_event(), Some(Event::Connect(_))));
    connection.accept(now, Accepted::default());
    connection.handle_input(now, &mut input);
    match connection.poll_event() {
        Some(Event::Publish(request)) => request.ticket.unwrap(),
        other => panic!("{other:?}"),
    }
}

// === The queue in the store, and the part of it in memory ===

/// What may happen between a worker that stores and hands out, and a connection that reads and writes.
#[derive(Debug, Clone, Copy)]
enum Happening {
    /// The worker stores so many messages.
    Store(u64),
    /// It hands so many of those out.
    HandOut(u64),
    /// The connection begins to read, if it is behind.
    Begin,
    /// The store answers it.
    Answer,
    /// What was answered is taken in.
    TakeIn,
    /// It writes so many.
    Write(u64),
}

fn happening() -> impl Strategy<Value = Happening> {
    prop_oneof![
        (1..400u64).prop_map(Happening::Store),
        (1..400u64).prop_map(Happening::HandOut),
        Just(Happening::Begin),
        Just(Happening::Answer),
        Just(Happening::TakeIn),
        (1..400u64).prop_map(Happening::Write),
    ]
}

#[derive(Default)]
struct Model {
    stored: BTreeMap<u64, ()>,
    handed_out: u64,
    reading: bool,
    answer: Option<Vec<u64>>,
    read: u64,
    last: u64,
    written: Vec<u64>,
}

const PAGE: usize = 256;

impl Model {
    fn happens(&mut self, mailbox: &Mailbox, happening: Happening) {
        match happening {
            Happening::Store(count) => {
                let next = self.stored.len() as u64 + 1;
                self.stored.extend((next..next + count).map(|n| (n, ())));
            }
            Happening::HandOut(count) => {
                let until = (self.handed_out + count).min(self.stored.len() as u64);
                (self.handed_out + 1..=until).for_each(|n| mailbox.post_queued(queued(n)));
                self.handed_out = until;
            }
            Happening::Begin if !self.reading && look(mailbox).behind => {
                mailbox.begin_read();
                self.reading = true;
            }
            Happening::Answer if self.reading && self.answer.is_none() => {
                let after = self.read.max(self.last);
                self.answer = Some(self.stored.range(after + 1..).take(PAGE).map(|(n, ())| *n).collect());
            }
            Happening::TakeIn => {
                let Some(page) = self.answer.take() else { return };
                let end = page.len() < PAGE;
                for n in page {
                    self.read = n;
                    mailbox.post_read(queued(n));
                }
                if end {
                    mailbox.caught_up();
                }
                self.reading = false;
            }
            // A connection that reads does nothing else.
            Happening::Write(count) if !self.reading => (0..count).for_each(|_| self.write(mailbox)),
            _ => {}
        }
    }

    fn write(&mut self, mailbox: &Mailbox) {
        let Some(Kind::Queued { position, .. }) = mailbox.next(true).map(|outgoing| outgoing.kind) else { return };
        if position.0 > self.last {
            self.last = position.0;
            self.written.push(position.0);
        }
    }

    /// Lets everything that is under way come to its end.
    fn settle(&mut self, mailbox: &Mailbox) {
        let rest = [Happening::HandOut(u64::MAX / 2), Happening::Answer, Happening::TakeIn];
        rest.into_iter().for_each(|happening| self.happens(mailbox, happening));
        let rounds = self.stored.len() / PAGE + 3;
        for _ in 0..rounds {
            let all = self.stored.len() as u64 * 2 + 1;
            for happening in [Happening::Write(all), Happening::Begin, Happening::Answer, Happening::TakeIn] {
                self.happens(mailbox, happening);
            }
        }
    }
}

proptest! {
    #[test]
    fn nothing_of_a_queue_is_lost_or_repeated_or_out_of_order(
        begins_behind: bool,
        happenings in prop::collection::vec(happening(), 0..60),
    ) {
        let (mailbox, mut model) = (mailbox(), Model::default());
        if begins_behind {
            mailbox.fall_behind();
        }
        for happening in happenings {
            model.happens(&mailbox, happening);
            prop_assert!(mailbox.queued_len() <= QUEUED_IN_MEMORY_MAX + PAGE);
        }
        model.settle(&mailbox);
        prop_assert_eq!(model.written, model.stored.into_keys().collect::<Vec<_>>());
    }
}

#[test]
fn properties_take_room_as_payloads_do() {
    let mailbox = mailbox();
    let mut bomb = passing("x", QoS::AtMostOnce);
    // As many as fit into a packet.
    let user = vec![(String::new(), String::new()); 50_000];
    bomb.message.properties = Some(Arc::new(Properties { user, ..Properties::default() }));
    assert_eq!(mailbox.post(bomb.clone(), || Gate::open().part()), Posted::Taken);
    assert!(!mailbox.has_room());
    assert_eq!(mailbox.post(bomb, || Gate::open().part()), Posted::Shed);
    assert!(mailbox.next(true).is_some() && mailbox.has_room());
}

#[test]
fn a_stored_queue_is_in_memory_up_to_so_many_bytes() {
    let mailbox = mailbox();
    let large = |position| {
        let mut large = queued(position);
        large.message.payload = Bytes::from(vec![0; 200 * 1_024]);
        large
    };
    (1..=10).for_each(|position| mailbox.post_queued(large(position)));
    assert_eq!(mailbox.queued_len(), 6, "what goes beyond a MiB is left in the store");
    assert!((1..=6).all(|_| mailbox.next(true).is_some()) && mailbox.is_behind());
    mailbox.begin_read();
    (7..=10).for_each(|position| mailbox.post_read(large(position)));
    assert!(mailbox.caught_up());
    mailbox.post_queued(large(11));
    assert_eq!(mailbox.queued_len(), 5, "what was taken makes room");
}

#[test]
fn a_small_message_that_waits_keeps_no_read_alive() {
    let mailbox = mailbox();
    let of_a_read = |kind, qos| {
        let read = Bytes::from(vec![b'x'; 16 * 1_024]);
        let mut outgoing = outgoing("", qos, kind);
        outgoing.message.payload = read.slice(100..101);
        (read, outgoing)
    };
    let mut reads = Vec::new();
    for position in 0..100 {
        let (read, data) = of_a_read(Kind::Passing, QoS::AtMostOnce);
        assert_eq!(mailbox.post(data, || Gate::open().part()), Posted::Taken);
        reads.push(read);
        let queued = Kind::Queued { position: Position(position + 1), released: false, dup: false };
        let (read, queued) = of_a_read(queued, QoS::AtLeastOnce);
        mailbox.post_queued(queued);
        reads.push(read);
    }
    let kept = reads.iter().filter(|read| !read.is_unique()).count();
    assert_eq!(kept, 2 * APART_BEHIND);
    assert_eq!(texts(&mailbox, true), vec!["x"; 200]);
}
