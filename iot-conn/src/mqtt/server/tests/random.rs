//! Whatever a client sends and whatever the caller does, in any order.

use proptest::prelude::*;

use super::*;
use crate::mqtt::server::{Delivered, PacketId as Id};

#[derive(Debug, Clone)]
enum Step {
    Bytes(Vec<u8>),
    Packet(u8, u16),
    Accept(Vec<u16>),
    Refuse,
    Answer(usize, ReasonCode),
    Deliver(QoS, Option<u16>),
    Release(u16),
    Write,
    Events,
    Pass(u64),
    Disconnect,
}

fn step() -> impl Strategy<Value = Step> {
    let reason = prop::sample::select(ReasonCode::ALL);
    let qos = prop::sample::select(&[QoS::AtMostOnce, QoS::AtLeastOnce, QoS::ExactlyOnce][..]);
    prop_oneof![
        1 => prop::collection::vec(any::<u8>(), 0..12).prop_map(Step::Bytes),
        40 => (0_u8..12, 0_u16..6).prop_map(|(kind, packet_id)| Step::Packet(kind, packet_id)),
        3 => prop::collection::vec(0_u16..6, 0..3).prop_map(Step::Accept),
        1 => Just(Step::Refuse),
        15 => (0_usize..4, reason).prop_map(|(at, reason)| Step::Answer(at, reason)),
        10 => (qos, prop::option::of(0_u16..6)).prop_map(|(qos, packet_id)| Step::Deliver(qos, packet_id)),
        5 => (0_u16..6).prop_map(Step::Release),
        5 => Just(Step::Write),
        10 => Just(Step::Events),
        2 => (0_u64..40).prop_map(Step::Pass),
        1 => Just(Step::Disconnect),
    ]
}

/// Well-formed packets, so that the steps get past the codec.
fn packet(kind: u8, packet_id: u16) -> Packet<'static> {
    let known = packet_id.max(1);
    match kind {
        0 => publish(QoS::AtMostOnce, 0),
        1 | 2 => publish(QoS::AtLeastOnce, known),
        3 | 4 => publish(QoS::ExactlyOnce, known),
        5 => puback(known),
        6 => pubrec(known),
        7 => pubrel(known),
        8 => pubcomp(known),
        9 => disconnect(ReasonCode::Success),
        _ => Packet::PingReq,
    }
}

/// A server that keeps the tickets it got, and checks what it is told.
struct Caller {
    server: Server,
    open: Vec<Ticket>,
    closed: usize,
}

impl Caller {
    fn new(version: Version) -> Self {
        let limits = ConnectionLimits {
            receive_maximum: 3,
            unreleased_max: 4,
            events_max: 4,
            output_bytes_max: 64,
            packet_bytes_max: 64,
            inflight_max: 3,
            ..limits()
        };
        Self { server: Server::new(version, limits), open: Vec::new(), closed: 0 }
    }

    fn take(&mut self, step: Step) {
        let Server { connection, now, .. } = &mut self.server;
        match step {
            Step::Bytes(bytes) => self.server.receive_bytes(&bytes),
            Step::Packet(kind, packet_id) => self.server.receive(&packet(kind, packet_id)),
            Step::Accept(received) => connection.accept(*now, Accepted { received, ..Accepted::default() }),
            Step::Refuse => connection.refuse(ReasonCode::NotAuthorized),
            Step::Answer(at, reason) => {
                if let Some(ticket) = self.open.get(at) {
                    connection.published(*ticket, reason);
                    connection.released(*ticket);
                    connection.subscribed(*ticket, &[reason]);
                    connection.unsubscribed(*ticket, &[reason]);
                    self.open.remove(at);
                }
            }
            Step::Deliver(qos, packet_id) => {
                let packet_id = packet_id.and_then(PacketId::new).map_or(Id::Assign, Id::Use);
                let window = connection.window();
                let result = connection.deliver(*now, &Delivery { packet_id, ..delivery(qos, 1) });
                let taken = usize::from(result == Delivered::Written && qos != QoS::AtMostOnce);
                assert_eq!(connection.window() + taken, window);
            }
            Step::Release(packet_id) => connection.release(packet_id, 2),
            Step::Write => connection.output().clear(),
            Step::Events => self.drain(),
            Step::Pass(seconds) => self.server.pass(Duration::from_secs(seconds)),
            Step::Disconnect => connection.disconnect(ReasonCode::ServerBusy),
        }
    }

    fn drain(&mut self) {
        for event in self.server.events() {
            assert_eq!(self.closed, 0, "nothing comes after the end: {event:?}");
            match event {
                Event::Publish(publish) => self.open.extend(publish.ticket),
                Event::Release { ticket, .. } | Event::Subscribe { ticket, .. } | Event::Unsubscribe { ticket, .. } => {
                    self.open.push(ticket);
                }
                Event::Closed(_) => self.closed += 1,
                Event::Connect(_) | Event::Received { .. } | Event::Finished { .. } => {}
            }
        }
        assert_eq!(self.closed, usize::from(self.server.connection.is_closed()));
    }
}

proptest! {
    #[test]
    fn nothing_panics_and_the_end_comes_once(
        version in prop::sample::select(&BOTH[..]),
        connects in prop::bool::weighted(0.9),
        steps in prop::collection::vec(step(), 0..120),
    ) {
        let mut caller = Caller::new(version);
        if connects {
            caller.server.receive(&Packet::Connect(connect(version)));
            caller.take(Step::Accept(vec![5]));
        }
        for step in steps {
            caller.take(step);
        }
        caller.drain();
        caller.server.connection.disconnect(ReasonCode::ServerShuttingDown);
        caller.drain();
        prop_assert_eq!(caller.closed, 1);
    }

    #[test]
    fn chunks_do_not_matter(
        version in prop::sample::select(&BOTH[..]),
        packets in prop::collection::vec((0_u8..12, 0_u16..6), 0..30),
        garbage in prop::collection::vec(any::<u8>(), 0..6),
        chunk in 1_usize..40,
    ) {
        let mut bytes = BytesMut::new();
        for (kind, packet_id) in packets {
            encode(&packet(kind, packet_id), version, &mut bytes).unwrap();
        }
        bytes.extend_from_slice(&garbage);
        let mut whole = Server::online(version, limits());
        whole.receive_bytes(&bytes);
        let mut parts = Server::online(version, limits());
        for part in bytes.chunks(chunk) {
            parts.receive_bytes(part);
        }
        prop_assert_eq!(format!("{:?}", whole.events()), format!("{:?}", parts.events()));
        prop_assert_eq!(whole.connection.output().split(), parts.connection.output().split());
    }
}
