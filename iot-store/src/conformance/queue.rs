//! What [`SessionStore`] promises about queues and what is on its way.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use iot_core::{
    id::{DeviceId, OwnershipEpoch},
    message::{Message, Properties, QoS},
    session::{Position, SessionEpoch},
    store::{Fenced, Opening, Placed, Publication, SessionStore, Settled, Settlement, Target},
};

use super::{
    LIMITS,
    samples::{at, closing, message, offer, open, opening, payloads, publication, session, target},
};

type Store = Arc<dyn SessionStore>;

/// Within an offer and from one to the next.
pub async fn a_queue_keeps_order_and_is_paged(store: &Store) {
    open(store, "s").await;
    for n in (0..10).step_by(2) {
        let both = [publication(&n.to_string(), &["s"]), publication(&(n + 1).to_string(), &["s"])];
        store.offer(&both).await.unwrap();
    }
    assert_eq!(payloads(store, "s").await, (0..10).map(|n| n.to_string()).collect::<Vec<_>>());
    let (mut seen, mut last) = (0, None);
    loop {
        let page = store.peek(&session("s"), last, 3, usize::MAX).await.unwrap();
        assert!(page.len() <= 3 && page.iter().all(|queued| Some(queued.position) > last));
        let Some(newest) = page.last() else { break };
        last = Some(newest.position);
        seen += page.len();
    }
    assert_eq!(seen, 10);
    assert_eq!(store.peek(&session("s"), Some(Position(u64::MAX)), 3, usize::MAX).await.unwrap(), []);
}

/// As published and as targeted, with the largest of numbers and no bytes refused.
pub async fn a_queued_message_survives_with_every_field(store: &Store) {
    open(store, "s").await;
    let full = Message {
        payload: Bytes::from_static(b"\x00\xff"),
        qos: QoS::ExactlyOnce,
        properties: Some(Arc::new(Properties {
            utf8_payload: true,
            content_type: Some("a/b".to_owned()),
            response_topic: Some(String::new()),
            correlation_data: Some(Bytes::from_static(b"\x01")),
            user: vec![("a".to_owned(), "1".to_owned()), ("a".to_owned(), String::new())],
        })),
        published: at(-5),
        expires: Some(at(99)),
        device: Some((DeviceId::parse("lamp").unwrap(), OwnershipEpoch(u64::MAX))),
        ..message("d/lamp/é", "")
    };
    let bare = Message { qos: QoS::AtMostOnce, ..message("a", "") };
    for (sent, identifiers) in [(full, vec![1, u32::MAX]), (bare, vec![])] {
        let to = Target { qos: QoS::ExactlyOnce, retain: true, identifiers, ..target("s") };
        let position =
            placed_one(store, Publication { message: sent.clone(), to: vec![to.clone()], received: None }).await;
        let queued = store.peek(&session("s"), Some(Position(position.0 - 1)), 9, usize::MAX).await.unwrap().remove(0);
        assert_eq!(queued.message, sent);
        assert_eq!((queued.position, queued.qos, queued.retain), (position, to.qos, to.retain));
        assert_eq!((queued.identifiers, queued.released), (to.identifiers, false));
    }
}

/// The others still get it; what is taken makes room.
pub async fn a_full_queue_refuses_and_takes_again(store: &Store) {
    let epoch = open(store, "s").await.epoch;
    open(store, "t").await;
    for n in 0..LIMITS.queue_messages_max {
        placed_one(store, publication(&n.to_string(), &["s"])).await;
    }
    let placed = offer(store, publication("more", &["s", "t"])).await.placed;
    assert_eq!(placed[0], Placed::Full);
    assert!(matches!(placed[1], Placed::At(..)));
    let many: Vec<Publication> = (0..LIMITS.queue_messages_max + 1).map(|_| publication("t", &["t"])).collect();
    let full = store.offer(&many).await.unwrap();
    assert_eq!(full.iter().filter(|offered| offered.placed == [Placed::Full]).count(), 2);
    let first = store.peek(&session("s"), None, 1, usize::MAX).await.unwrap().remove(0).position;
    settle(store, "s", epoch, &[Settled::Finished(first), Settled::Finished(first)]).await;
    let position = placed_one(store, publication("again", &["s"])).await;
    assert_eq!(position.0, first.0 + LIMITS.queue_messages_max as u64);
    assert_eq!(offer(store, publication("more", &["s"])).await.placed, [Placed::Full]);
    assert_eq!(payloads(store, "s").await.len(), LIMITS.queue_messages_max);
}

/// One message may go beyond, of the queue and of the page; what is taken makes room.
pub async fn bytes_bound_a_queue_and_a_page(store: &Store) {
    let epoch = open(store, "s").await.epoch;
    open(store, "t").await;
    let payload = "x".repeat(LIMITS.queue_bytes_max / 4);
    let size = message("a", &payload).size();
    let mut positions = Vec::new();
    for _ in 0..4 {
        positions.push(placed_one(store, publication(&payload, &["s"])).await);
    }
    // Nothing would be too much, as little as it is: it is bytes that are bounded here, and not what is still to come.
    assert_eq!(offer(store, publication("", &["s", "t"])).await.placed[0], Placed::Full);
    for (bytes, count) in [(1, 1), (size, 1), (size + 1, 2), (3 * size, 3), (usize::MAX, 4)] {
        assert_eq!(store.peek(&session("s"), None, 9, bytes).await.unwrap().len(), count, "{bytes} bytes");
    }
    assert_eq!(store.peek(&session("s"), Some(positions[2]), 9, 1).await.unwrap()[0].position, positions[3]);
    settle(store, "s", epoch, &[Settled::Finished(positions[1]), Settled::Finished(positions[2])]).await;
    let both = offer(store, publication(&payload, &["s", "t"])).await.placed;
    assert!(matches!(both[..], [Placed::At(..), Placed::At(..)]), "{both:?}");
    placed_one(store, publication(&payload.repeat(9), &["s"])).await;
    assert_eq!(offer(store, publication("", &["s"])).await.placed, [Placed::Full]);
    assert_eq!(payloads(store, "t").await, ["", payload.as_str()]);
}

/// Never there, or not any more.
pub async fn a_session_that_is_gone_is_said(store: &Store) {
    let epoch = open(store, "s").await.epoch;
    assert!(matches!(offer(store, publication("x", &["x", "s"])).await.placed[..], [Placed::Gone, Placed::At(..)]));
    assert_eq!(store.close(closing("s", epoch, at(1), Duration::ZERO)).await.unwrap(), Fenced::Done);
    assert_eq!(offer(store, publication("x", &["s"])).await.placed, [Placed::Gone]);
    open(store, "s").await;
    assert_eq!(payloads(store, "s").await, [""; 0]);
}

/// Steps in delivery; a step about what is not there is no error.
pub async fn finished_released_and_forgotten_are_kept(store: &Store) {
    let epoch = open(store, "s").await.epoch;
    let mut positions = Vec::new();
    for n in 0..4 {
        positions.push(placed_one(store, publication(&n.to_string(), &["s"])).await);
    }
    for id in [1, 2, u16::MAX] {
        offer(store, Publication { received: Some((session("s"), epoch, id)), ..publication("in", &[]) }).await;
    }
    let steps = [
        Settled::Released(positions[2]),
        Settled::Finished(positions[1]),
        Settled::Forgotten(2),
        Settled::Forgotten(77),
        Settled::Finished(Position(999)),
        Settled::Released(Position(999)),
    ];
    settle(store, "s", epoch, &steps).await;
    let left = store.peek(&session("s"), None, 10, usize::MAX).await.unwrap();
    let left: Vec<_> = left.iter().map(|queued| (queued.position, queued.released)).collect();
    assert_eq!(left, [(positions[0], false), (positions[2], true), (positions[3], false)]);
    let resumed = open(store, "s").await.resumed.unwrap();
    assert_eq!(sorted(resumed.received), [1, u16::MAX]);
    assert!(store.peek(&session("s"), Some(positions[1]), 1, usize::MAX).await.unwrap()[0].released);
}

/// While those of the present one beside them are carried out.
pub async fn steps_of_an_old_epoch_are_ignored(store: &Store) {
    let former = open(store, "s").await.epoch;
    let other = open(store, "t").await.epoch;
    let placed = offer(store, publication("x", &["s", "t"])).await.placed;
    let [Placed::At(_, in_s), Placed::At(_, in_t)] = placed[..] else { panic!("{placed:?}") };
    offer(store, Publication { received: Some((session("s"), former, 5)), ..publication("in", &[]) }).await;
    open(store, "s").await;
    let step = |name: &str, epoch, step| Settlement { session: session(name), epoch, step };
    let steps = [
        step("s", former, Settled::Finished(in_s)),
        step("s", former, Settled::Released(in_s)),
        step("t", other, Settled::Finished(in_t)),
        step("s", former, Settled::Forgotten(5)),
        step("gone", other, Settled::Forgotten(5)),
    ];
    store.settle(&steps).await.unwrap();
    let left = store.peek(&session("s"), None, 10, usize::MAX).await.unwrap();
    assert_eq!((left.len(), left[0].released), (1, false));
    assert_eq!(payloads(store, "t").await, [""; 0]);
    assert_eq!(open(store, "s").await.resumed.unwrap().received, [5]);
}

/// A position means one message of a session for ever.
pub async fn positions_grow_also_when_the_queue_is_empty(store: &Store) {
    let mut epoch = open(store, "s").await.epoch;
    let mut last = Position(0);
    for _ in 0..3 {
        let position = placed_one(store, publication("x", &["s"])).await;
        assert!(position > last);
        last = position;
        settle(store, "s", epoch, &[Settled::Finished(position)]).await;
        epoch = open(store, "s").await.epoch;
    }
}

/// Whoever hands it to a connection knows whether it is in that connection's session.
pub async fn a_message_is_placed_with_the_epoch_of_its_session(store: &Store) {
    for clean in [false, false, true, true] {
        let epoch = store.open(Opening { clean, ..opening("s", at(1)) }).await.unwrap().epoch;
        for _ in 0..2 {
            let placed = offer(store, publication("x", &["s"])).await.placed;
            assert!(
                matches!(placed[..], [Placed::At(in_epoch, _)] if in_epoch == epoch),
                "{placed:?} and not {epoch:?}"
            );
        }
    }
}

/// Each of three sessions takes it or goes; the others still have it.
pub async fn a_message_is_shared_until_the_last_has_it(store: &Store) {
    let mut epochs = Vec::new();
    for name in ["a", "b", "c"] {
        epochs.push(open(store, name).await.epoch);
    }
    let placed = offer(store, publication("shared", &["a", "b", "c"])).await.placed;
    let Placed::At(_, in_a) = placed[0] else { panic!("{placed:?}") };
    settle(store, "a", epochs[0], &[Settled::Finished(in_a)]).await;
    assert_eq!(payloads(store, "b").await, ["shared"]);
    assert_eq!(store.close(closing("b", epochs[1], at(1), Duration::ZERO)).await.unwrap(), Fenced::Done);
    assert_eq!(payloads(store, "c").await, ["shared"]);
    offer(store, publication("own", &["c"])).await;
    store.open(Opening { clean: true, ..opening("c", at(1)) }).await.unwrap();
    for name in ["a", "b", "c"] {
        assert_eq!(payloads(store, name).await, [""; 0]);
    }
}

/// Once for each of its subscriptions, if the node so wishes.
pub async fn a_session_named_twice_gets_it_twice(store: &Store) {
    let epoch = open(store, "s").await.epoch;
    let placed = offer(store, publication("x", &["s", "s"])).await.placed;
    let [Placed::At(_, first), Placed::At(_, second)] = placed[..] else { panic!("{placed:?}") };
    assert!(first < second);
    settle(store, "s", epoch, &[Settled::Finished(second)]).await;
    assert_eq!(payloads(store, "s").await, ["x"]);
    offer(store, publication("y", &["s", "s"])).await;
    store.open(Opening { clean: true, ..opening("s", at(1)) }).await.unwrap();
    assert_eq!(payloads(store, "s").await, [""; 0]);
}

/// Its client will send it again to the present owner; once is enough.
pub async fn a_publication_of_a_former_owner_is_not_carried_out(store: &Store) {
    let former = open(store, "s").await.epoch;
    open(store, "t").await;
    let epoch = open(store, "s").await.epoch;
    let from = |epoch: SessionEpoch| Publication {
        message: Message { retain: true, ..message("a", "x") },
        received: Some((session("s"), epoch, 7)),
        ..publication("", &["t"])
    };
    let offered = offer(store, from(former)).await;
    assert!(offered.superseded && offered.placed == [Placed::Gone], "{offered:?}");
    assert_eq!(payloads(store, "t").await, [""; 0]);
    assert_eq!(store.retained(&message("a", "").tenant, "#", None, 9, at(0)).await.unwrap(), []);
    let offered = offer(store, from(epoch)).await;
    assert!(!offered.superseded && matches!(offered.placed[..], [Placed::At(..)]), "{offered:?}");
    assert_eq!(open(store, "s").await.resumed.unwrap().received, [7]);
}

/// And survive until they are forgotten.
pub async fn received_ids_belong_to_the_session(store: &Store) {
    let (s, t) = (open(store, "s").await.epoch, open(store, "t").await.epoch);
    for (name, epoch, id) in [("s", s, 1), ("s", s, 2), ("t", t, 1), ("s", s, 2)] {
        offer(store, Publication { received: Some((session(name), epoch, id)), ..publication("in", &[]) }).await;
    }
    settle(store, "s", s, &[Settled::Forgotten(1)]).await;
    assert_eq!(open(store, "s").await.resumed.unwrap().received, [2]);
    assert_eq!(open(store, "t").await.resumed.unwrap().received, [1]);
}

/// Answers are in the order of the publications, however many there are.
pub async fn many_publications_go_in_one_offer(store: &Store) {
    let mut epochs = Vec::new();
    for n in 0..300 {
        epochs.push(open(store, &n.to_string()).await.epoch);
    }
    let publications: Vec<Publication> =
        (0..3_000).map(|n| publication(&n.to_string(), &[&(n % 300).to_string(), "nobody"])).collect();
    let offered = store.offer(&publications).await.unwrap();
    assert_eq!(offered.len(), 3_000);
    for (n, offered) in offered.iter().enumerate() {
        assert_eq!(offered.placed, [Placed::At(epochs[n % 300], Position(n as u64 / 300 + 1)), Placed::Gone]);
    }
    let expected: Vec<String> = (0..10).map(|n| (n * 300 + 7).to_string()).collect();
    assert_eq!(payloads(store, "7").await, expected);
}

async fn placed_one(store: &Store, publication: Publication) -> Position {
    match offer(store, publication).await.placed[..] {
        [Placed::At(_, position)] => position,
        ref other => panic!("{other:?}"),
    }
}

async fn settle(store: &Store, name: &str, epoch: SessionEpoch, steps: &[Settled]) {
    let settlements: Vec<Settlement> =
        steps.iter().map(|step| Settlement { session: session(name), epoch, step: *step }).collect();
    store.settle(&settlements).await.unwrap();
}

fn sorted(mut ids: Vec<u16>) -> Vec<u16> {
    ids.sort_unstable();
    ids
}
