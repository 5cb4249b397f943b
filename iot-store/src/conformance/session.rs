//! What [`SessionStore`] promises about the life of sessions.

use std::{sync::Arc, time::Duration};

use iot_core::{
    message::QoS,
    session::{Position, SessionEpoch},
    store::{Closing, Due, Fenced, Opening, Publication, Resumed, SessionStore, StoredSession, StoredSubscription},
    time::Timestamp,
};
use tokio::task::JoinSet;

use super::samples::{HOUR, at, closing, message, offer, open, opening, payloads, publication, session, subscription};

type Store = Arc<dyn SessionStore>;

/// `None`, which is not the same as a session that is empty.
pub async fn a_new_session_has_nothing_to_resume(store: &Store) {
    assert_eq!(open(store, "s").await.resumed, None);
    assert_eq!(open(store, "s").await.resumed, Some(Resumed::default()));
    assert_eq!(payloads(store, "x").await, [""; 0]);
}

/// Subscriptions, packet ids, what was sent, and the queue.
pub async fn a_session_is_resumed_with_all_it_had(store: &Store) {
    let epoch = open(store, "s").await.epoch;
    let detailed = StoredSubscription {
        no_local: true,
        retain_as_published: true,
        identifier: Some(7),
        ..subscription("$share/g/b", QoS::ExactlyOnce)
    };
    let subscriptions = [detailed, subscription("a/#", QoS::AtMostOnce)];
    assert_eq!(store.subscribe(&session("s"), epoch, &subscriptions).await.unwrap(), Fenced::Done);
    offer(store, Publication { received: Some((session("s"), epoch, 9)), ..publication("x", &["s"]) }).await;
    let leaving = Closing { sent_through: Position(1), ..closing("s", epoch, at(10), HOUR) };
    assert_eq!(store.close(leaving).await.unwrap(), Fenced::Done);
    offer(store, publication("y", &["s"])).await;
    let resumed = store.open(opening("s", at(20))).await.unwrap().resumed.unwrap();
    let mut found = resumed.subscriptions;
    found.sort_by(|a, b| a.filter.cmp(&b.filter));
    assert_eq!(found, subscriptions);
    assert_eq!((resumed.received, resumed.sent_through), (vec![9], Position(1)));
    assert_eq!(payloads(store, "s").await, ["x", "y"]);
}

/// Of one session, whatever became of it in between.
pub async fn a_later_opening_has_a_higher_epoch_also_after_removal(store: &Store) {
    let mut last = SessionEpoch(0);
    let none = Duration::ZERO;
    for (clean, keep) in [(false, HOUR), (true, HOUR), (false, none), (true, none), (false, HOUR)] {
        let opened = store.open(Opening { clean, keep, ..opening("s", at(0)) }).await.unwrap();
        assert!(opened.epoch > last);
        last = opened.epoch;
    }
    assert_eq!(store.close(closing("s", last, at(1), Duration::ZERO)).await.unwrap(), Fenced::Done);
    assert!(open(store, "s").await.epoch > last);
}

/// Whatever it writes with its old epoch has no effect.
pub async fn the_former_owner_is_fenced(store: &Store) {
    let former = open(store, "s").await.epoch;
    let epoch = open(store, "s").await.epoch;
    assert_eq!(
        store.subscribe(&session("s"), epoch, &[subscription("kept", QoS::AtLeastOnce)]).await.unwrap(),
        Fenced::Done
    );
    let added = [subscription("added", QoS::AtLeastOnce)];
    for old in [former, SessionEpoch(epoch.0 + 1), SessionEpoch(0)] {
        assert_eq!(store.subscribe(&session("s"), old, &added).await.unwrap(), Fenced::Superseded);
        assert_eq!(store.unsubscribe(&session("s"), old, &["kept".to_owned()]).await.unwrap(), Fenced::Superseded);
        assert_eq!(store.close(closing("s", old, at(1), Duration::ZERO)).await.unwrap(), Fenced::Superseded);
    }
    assert_eq!(store.subscribe(&session("x"), epoch, &added).await.unwrap(), Fenced::Superseded);
    let expected = StoredSession {
        session: session("s"),
        epoch,
        subscriptions: vec![subscription("kept", QoS::AtLeastOnce)],
        open: true,
        keep: HOUR,
    };
    assert_eq!(store.sessions(None, 10).await.unwrap(), [expected]);
}

/// Queue, subscriptions, packet ids and will.
pub async fn a_clean_opening_drops_everything(store: &Store) {
    let with_will = Opening { will: Some((message("w", "gone"), Duration::ZERO)), ..opening("s", at(0)) };
    let epoch = store.open(with_will).await.unwrap().epoch;
    assert_eq!(
        store.subscribe(&session("s"), epoch, &[subscription("a", QoS::AtLeastOnce)]).await.unwrap(),
        Fenced::Done
    );
    offer(store, Publication { received: Some((session("s"), epoch, 9)), ..publication("x", &["s"]) }).await;
    let opened = store.open(Opening { clean: true, ..opening("s", at(0)) }).await.unwrap();
    assert_eq!(opened.resumed, None);
    assert_eq!(payloads(store, "s").await, [""; 0]);
    assert_eq!(store.close(closing("s", opened.epoch, at(1), HOUR)).await.unwrap(), Fenced::Done);
    assert_eq!(store.due(at(2), 10).await.unwrap(), []);
    assert_eq!(open(store, "s").await.resumed, Some(Resumed::default()));
}

/// It is told once, by the opening that ends the session; one without delay is its connection's own.
pub async fn an_opening_that_ends_a_session_tells_its_waiting_will(store: &Store) {
    let with_will = |delay| Opening { will: Some((message("w", "bye"), delay)), ..opening("s", at(0)) };
    let clean = || Opening { clean: true, ..opening("s", at(1)) };
    store.open(with_will(Duration::ZERO)).await.unwrap();
    assert_eq!(store.open(clean()).await.unwrap().will, None);
    store.open(with_will(Duration::from_secs(5))).await.unwrap();
    assert_eq!(store.open(clean()).await.unwrap().will, Some(message("w", "bye")));
    assert_eq!(store.open(clean()).await.unwrap().will, None);
    let epoch = store.open(with_will(Duration::from_secs(5))).await.unwrap().epoch;
    assert_eq!(store.close(closing("s", epoch, at(1), HOUR)).await.unwrap(), Fenced::Done);
    assert_eq!(store.open(opening("s", at(2))).await.unwrap().will, None, "resumed: it comes to nothing");
    let epoch = store.open(with_will(Duration::from_secs(5))).await.unwrap().epoch;
    assert_eq!(store.close(closing("s", epoch, at(1), HOUR)).await.unwrap(), Fenced::Done);
    let late = opening("s", at(1).plus(HOUR));
    assert_eq!(store.open(late).await.unwrap().will, Some(message("w", "bye")), "expired");
}

/// Nothing is resumed, and nothing is left.
pub async fn a_passing_opening_takes_the_session_away(store: &Store) {
    let epoch = open(store, "s").await.epoch;
    assert_eq!(
        store.subscribe(&session("s"), epoch, &[subscription("a", QoS::AtLeastOnce)]).await.unwrap(),
        Fenced::Done
    );
    offer(store, publication("x", &["s"])).await;
    let passing = store.open(Opening { keep: Duration::ZERO, ..opening("s", at(0)) }).await.unwrap();
    assert_eq!(passing.resumed, None);
    assert_eq!(store.sessions(None, 10).await.unwrap(), []);
    assert_eq!(payloads(store, "s").await, [""; 0]);
    assert_eq!(store.subscribe(&session("s"), epoch, &[]).await.unwrap(), Fenced::Superseded);
    assert_eq!(open(store, "s").await.resumed, None);
}

/// To the microsecond; an open one does not.
pub async fn a_session_expires_by_the_time_of_the_opening(store: &Store) {
    let end = at(10).plus(HOUR);
    for (when, there) in [(Timestamp::from_micros(end.as_micros() - 1), true), (end, false)] {
        let epoch = store.open(Opening { clean: true, ..opening("s", at(0)) }).await.unwrap().epoch;
        offer(store, publication("x", &["s"])).await;
        assert_eq!(store.close(closing("s", epoch, at(10), HOUR)).await.unwrap(), Fenced::Done);
        assert_eq!(store.open(opening("s", when)).await.unwrap().resumed.is_some(), there);
        assert_eq!(payloads(store, "s").await.len(), usize::from(there));
    }
    assert!(store.open(opening("s", Timestamp::MAX)).await.unwrap().resumed.is_some());
}

/// Will included.
pub async fn a_session_that_is_not_kept_is_removed(store: &Store) {
    let with_will = Opening { will: Some((message("w", "gone"), HOUR)), ..opening("s", at(0)) };
    let epoch = store.open(with_will).await.unwrap().epoch;
    offer(store, publication("x", &["s"])).await;
    assert_eq!(store.close(closing("s", epoch, at(1), Duration::ZERO)).await.unwrap(), Fenced::Done);
    assert_eq!(store.sessions(None, 10).await.unwrap(), []);
    assert_eq!(store.due(Timestamp::MAX, 10).await.unwrap(), []);
    assert_eq!(payloads(store, "s").await, [""; 0]);
}

/// By filter; removing what is not there is no error.
pub async fn subscriptions_are_replaced_and_removed(store: &Store) {
    let epoch = open(store, "s").await.epoch;
    let first =
        [subscription("a", QoS::AtMostOnce), subscription("b", QoS::AtLeastOnce), subscription("A", QoS::AtLeastOnce)];
    assert_eq!(store.subscribe(&session("s"), epoch, &first).await.unwrap(), Fenced::Done);
    let replaced = StoredSubscription { identifier: Some(3), ..subscription("a", QoS::ExactlyOnce) };
    assert_eq!(store.subscribe(&session("s"), epoch, std::slice::from_ref(&replaced)).await.unwrap(), Fenced::Done);
    let gone = ["b".to_owned(), "x".to_owned()];
    assert_eq!(store.unsubscribe(&session("s"), epoch, &gone).await.unwrap(), Fenced::Done);
    let mut found = open(store, "s").await.resumed.unwrap().subscriptions;
    found.sort_by(|a, b| a.filter.cmp(&b.filter));
    assert_eq!(found, [subscription("A", QoS::AtLeastOnce), replaced]);
}

/// Of a session that was never closed anything in the queue may have been sent.
pub async fn sent_through_is_all_after_a_crash(store: &Store) {
    open(store, "s").await;
    offer(store, publication("x", &["s", "s"])).await;
    assert_eq!(open(store, "s").await.resumed.unwrap().sent_through, Position(2));
}

/// Whether open or not, page by page.
pub async fn sessions_are_listed_by_id(store: &Store) {
    for name in ["c", "a", "é", "b", "B"] {
        open(store, name).await;
    }
    let epoch = open(store, "c").await.epoch;
    assert_eq!(store.close(closing("c", epoch, at(1), HOUR)).await.unwrap(), Fenced::Done);
    let (mut found, mut last) = (Vec::new(), None);
    loop {
        let page = store.sessions(last.as_ref(), 2).await.unwrap();
        assert!(page.len() <= 2);
        let Some(newest) = page.last() else { break };
        last = Some(newest.session.clone());
        found.extend(page.into_iter().map(|stored| (stored.session, stored.open)));
    }
    let mut expected = ["B", "a", "b", "c", "é"].map(|name| (session(name), name != "c"));
    expected.sort();
    assert_eq!(found, expected);
}

/// Each gets its own epoch; the highest is the session's.
pub async fn one_of_many_openings_is_the_last(store: &Store) {
    let mut openings = JoinSet::new();
    for _ in 0..16 {
        let store = Arc::clone(store);
        openings.spawn(async move { open(&store, "s").await });
    }
    let opened = openings.join_all().await;
    let mut epochs: Vec<SessionEpoch> = opened.iter().map(|opened| opened.epoch).collect();
    epochs.sort_unstable();
    epochs.dedup();
    assert_eq!(epochs.len(), 16);
    assert_eq!(opened.iter().filter(|opened| opened.resumed.is_none()).count(), 1);
    for epoch in &epochs {
        let fenced = store.subscribe(&session("s"), *epoch, &[]).await.unwrap();
        assert_eq!(fenced == Fenced::Done, Some(epoch) == epochs.last());
    }
}

/// And then forgotten, while the session stays.
pub async fn a_will_is_due_after_its_delay(store: &Store) {
    let will = message("w", "bye");
    let with_will = Opening { will: Some((will.clone(), Duration::from_secs(5))), ..opening("s", at(0)) };
    let epoch = store.open(with_will).await.unwrap().epoch;
    assert_eq!(store.due(Timestamp::MAX, 10).await.unwrap(), []);
    assert_eq!(store.close(closing("s", epoch, at(10), HOUR)).await.unwrap(), Fenced::Done);
    assert_eq!(store.due(Timestamp::from_micros(at(15).as_micros() - 1), 10).await.unwrap(), []);
    let due = Due { session: session("s"), epoch, will: Some(will), expired: false };
    assert_eq!(store.due(at(15), 10).await.unwrap(), std::slice::from_ref(&due));
    assert_eq!(store.discharge(&due).await.unwrap(), Fenced::Done);
    assert_eq!(store.due(at(15), 10).await.unwrap(), []);
    let expired = Due { will: None, expired: true, ..due };
    assert_eq!(store.due(at(10).plus(HOUR), 10).await.unwrap(), std::slice::from_ref(&expired));
    assert_eq!(store.discharge(&expired).await.unwrap(), Fenced::Done);
    assert_eq!(store.sessions(None, 10).await.unwrap(), []);
}

/// If that is before its delay is over.
pub async fn a_will_is_due_when_its_session_ends(store: &Store) {
    let will = message("w", "bye");
    let with_will = Opening { will: Some((will.clone(), HOUR)), ..opening("s", at(0)) };
    let epoch = store.open(with_will).await.unwrap().epoch;
    offer(store, publication("x", &["s"])).await;
    assert_eq!(store.close(closing("s", epoch, at(10), Duration::from_secs(5))).await.unwrap(), Fenced::Done);
    assert_eq!(store.due(Timestamp::from_micros(at(15).as_micros() - 1), 10).await.unwrap(), []);
    let due = Due { session: session("s"), epoch, will: Some(will), expired: true };
    assert_eq!(store.due(at(15), 10).await.unwrap(), std::slice::from_ref(&due));
    assert_eq!(store.discharge(&due).await.unwrap(), Fenced::Done);
    assert_eq!(store.due(Timestamp::MAX, 10).await.unwrap(), []);
    assert_eq!(payloads(store, "s").await, [""; 0]);
}

/// By an orderly end, and by the next opening.
pub async fn a_will_is_forgotten_or_replaced(store: &Store) {
    let with_will =
        |payload: &str| Opening { will: Some((message("w", payload), Duration::ZERO)), ..opening("s", at(0)) };
    let epoch = store.open(with_will("1")).await.unwrap().epoch;
    let orderly = Closing { will: false, ..closing("s", epoch, at(1), HOUR) };
    assert_eq!(store.close(orderly).await.unwrap(), Fenced::Done);
    assert_eq!(store.due(at(2), 10).await.unwrap(), []);
    let epoch = store.open(with_will("2")).await.unwrap().epoch;
    assert_eq!(store.close(closing("s", epoch, at(1), HOUR)).await.unwrap(), Fenced::Done);
    let epoch = store.open(with_will("3")).await.unwrap().epoch;
    assert_eq!(store.close(closing("s", epoch, at(1), HOUR)).await.unwrap(), Fenced::Done);
    assert_eq!(store.due(at(1), 10).await.unwrap()[0].will, Some(message("w", "3")));
    let epoch = open(store, "s").await.epoch;
    assert_eq!(store.close(closing("s", epoch, at(1), HOUR)).await.unwrap(), Fenced::Done);
    assert_eq!(store.due(at(2), 10).await.unwrap(), []);
}

/// A client that has come back keeps its session, whatever a sweeper has read before.
pub async fn discharging_is_fenced(store: &Store) {
    let epoch = open(store, "s").await.epoch;
    assert_eq!(store.close(closing("s", epoch, at(1), HOUR)).await.unwrap(), Fenced::Done);
    let due = store.due(Timestamp::MAX, 10).await.unwrap().remove(0);
    assert!(due.expired && due.epoch == epoch);
    open(store, "s").await;
    assert_eq!(store.discharge(&due).await.unwrap(), Fenced::Superseded);
    assert_eq!(store.sessions(None, 10).await.unwrap().len(), 1);
}

/// So that a sweeper with a budget does not starve anyone.
pub async fn due_is_limited_and_earliest_first(store: &Store) {
    for (name, seconds) in [("a", 30), ("b", 10), ("c", 20), ("d", 40)] {
        let epoch = open(store, name).await.epoch;
        let leaving = closing(name, epoch, at(0), Duration::from_secs(seconds));
        assert_eq!(store.close(leaving).await.unwrap(), Fenced::Done);
    }
    let due = |due: Vec<Due>| due.into_iter().map(|due| due.session).collect::<Vec<_>>();
    assert_eq!(due(store.due(at(35), 2).await.unwrap()), ["b", "c"].map(session));
    assert_eq!(due(store.due(at(35), 9).await.unwrap()), ["b", "c", "a"].map(session));
}
