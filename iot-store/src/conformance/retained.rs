//! What [`SessionStore`] promises about retained messages.

use std::sync::Arc;

use iot_core::{message::Message, store::SessionStore};

use super::{
    LIMITS,
    samples::{at, message, retain, tenant},
};

type Store = Arc<dyn SessionStore>;

/// By topic; an empty payload removes, and removing what is not there is no error.
pub async fn a_retained_message_is_set_replaced_and_removed(store: &Store) {
    for payload in ["1", "2"] {
        assert!(retain(store, message("a/b", payload)).await);
        let expected = Message { retain: true, ..message("a/b", payload) };
        assert_eq!(store.retained(&tenant("t"), "a/b", None, 9, at(0)).await.unwrap(), [expected]);
    }
    for _ in 0..2 {
        assert!(retain(store, message("a/b", "")).await);
        assert_eq!(topics(store, "#").await, [""; 0]);
    }
}

/// MQTT 5 §4.7.1.
pub async fn wildcards_match_as_mqtt_says(store: &Store) {
    for topic in ["a", "a/b", "a/b/c", "ab", "/a"] {
        assert!(retain(store, message(topic, "x")).await);
    }
    for (filter, expected) in [
        ("#", vec!["/a", "a", "a/b", "a/b/c", "ab"]),
        ("a/#", vec!["a", "a/b", "a/b/c"]),
        ("a/b/#", vec!["a/b", "a/b/c"]),
        ("a/+", vec!["a/b"]),
        ("+", vec!["a", "ab"]),
        ("+/+", vec!["/a", "a/b"]),
        ("/+", vec!["/a"]),
        ("a/+/c", vec!["a/b/c"]),
        ("+/b/#", vec!["a/b", "a/b/c"]),
        ("a", vec!["a"]),
        ("b", vec![]),
    ] {
        assert_eq!(topics(store, filter).await, expected, "{filter}");
    }
}

/// MQTT 5 §4.7.2.
pub async fn dollar_topics_are_hidden_from_wildcards(store: &Store) {
    for topic in ["$SYS/x", "$SYS", "y/$x"] {
        assert!(retain(store, message(topic, "x")).await);
    }
    assert_eq!(topics(store, "#").await, ["y/$x"]);
    assert_eq!(topics(store, "+/x").await, [""; 0]);
    assert_eq!(topics(store, "+").await, [""; 0]);
    assert_eq!(topics(store, "$SYS/#").await, ["$SYS", "$SYS/x"]);
    assert_eq!(topics(store, "$SYS/+").await, ["$SYS/x"]);
    assert_eq!(topics(store, "$SYS").await, ["$SYS"]);
}

/// By the time that the reader names.
pub async fn expired_ones_are_left_out(store: &Store) {
    assert!(retain(store, Message { expires: Some(at(10)), ..message("a", "x") }).await);
    assert!(retain(store, message("b", "x")).await);
    for (now, expected) in [(9, vec!["a", "b"]), (10, vec!["b"]), (11, vec!["b"])] {
        let found = store.retained(&tenant("t"), "+", None, 9, at(now)).await.unwrap();
        assert_eq!(found.iter().map(|message| &*message.topic).collect::<Vec<_>>(), expected);
    }
}

/// In ascending order of bytes.
pub async fn retained_messages_are_paged_by_topic(store: &Store) {
    for topic in ["x/b", "x/é", "x/B", "x/a/a", "w"] {
        assert!(retain(store, message(topic, "x")).await);
    }
    let (mut seen, mut last) = (Vec::new(), None::<String>);
    loop {
        let page = store.retained(&tenant("t"), "x/#", last.as_deref(), 2, at(0)).await.unwrap();
        assert!(page.len() <= 2);
        let Some(newest) = page.last() else { break };
        last = Some(newest.topic.to_string());
        seen.extend(page.into_iter().map(|message| message.topic.to_string()));
    }
    assert_eq!(seen, ["x/B", "x/a/a", "x/b", "x/é"]);
}

/// A further topic is refused, a known one is replaced, and a removed one makes room.
pub async fn too_many_are_refused_by_tenant(store: &Store) {
    for n in 0..LIMITS.retained_max {
        assert!(retain(store, message(&n.to_string(), "x")).await);
    }
    assert!(!retain(store, message("more", "x")).await);
    assert!(retain(store, message("0", "y")).await);
    assert!(retain(store, Message { tenant: tenant("u"), ..message("more", "x") }).await);
    assert!(retain(store, message("never", "")).await);
    assert!(!retain(store, message("more", "x")).await);
    assert!(retain(store, message("1", "")).await);
    assert!(retain(store, message("more", "x")).await);
    assert!(!retain(store, message("1", "x")).await);
    assert_eq!(topics(store, "#").await, ["0", "2", "3", "4", "more"]);
}

/// One message may go beyond; what makes them no more is taken, and room comes from what is removed or expired.
pub async fn too_many_bytes_are_refused_by_tenant(store: &Store) {
    let large = "x".repeat(LIMITS.retained_bytes_max / 2);
    assert!(retain(store, Message { expires: Some(at(5)), ..message("a", &large) }).await);
    assert!(retain(store, message("b", &large)).await);
    assert!(!retain(store, message("c", "x")).await);
    assert!(retain(store, Message { tenant: tenant("u"), ..message("c", "x") }).await);
    assert!(!retain(store, message("b", &(large.clone() + "x"))).await, "it would grow");
    assert!(retain(store, message("b", &large)).await);
    assert!(retain(store, Message { published: at(5), ..message("c", "x") }).await, "one has expired");
    assert_eq!(topics(store, "#").await, ["b", "c"]);
    assert!(retain(store, message("c", &large)).await);
    assert!(!retain(store, message("d", "x")).await);
    assert!(retain(store, message("b", "")).await);
    assert!(retain(store, message("d", "x")).await);
    // Its own former one stays when the next has no room, expired or not.
    assert!(retain(store, Message { expires: Some(at(9)), ..message("d", &large) }).await);
    assert!(!retain(store, Message { published: at(9), ..message("d", &(large.clone() + "x")) }).await);
    assert_eq!(topics(store, "#").await, ["c", "d"]);
}

/// By the time at which the new one was published.
pub async fn expired_ones_make_room(store: &Store) {
    for n in 0..LIMITS.retained_max {
        assert!(
            retain(store, Message { expires: Some(at(10 + i64::from(n == 0))), ..message(&n.to_string(), "x") }).await
        );
    }
    assert!(!retain(store, Message { published: at(9), ..message("more", "x") }).await);
    assert!(retain(store, Message { published: at(10), ..message("more", "x") }).await);
    assert_eq!(topics(store, "#").await, ["0", "more"]);
    for n in 1..LIMITS.retained_max - 1 {
        assert!(retain(store, message(&n.to_string(), "x")).await);
    }
    assert!(!retain(store, message("again", "x")).await);
}

/// Nothing of another is seen or removed.
pub async fn tenants_are_apart(store: &Store) {
    let theirs = Message { tenant: tenant("u"), ..message("a", "theirs") };
    assert!(retain(store, theirs.clone()).await);
    assert!(retain(store, message("a", "mine")).await);
    assert!(retain(store, message("a", "")).await);
    assert_eq!(topics(store, "#").await, [""; 0]);
    let found = store.retained(&tenant("u"), "a", None, 9, at(0)).await.unwrap();
    assert_eq!(found, [Message { retain: true, ..theirs }]);
}

async fn topics(store: &Store, filter: &str) -> Vec<String> {
    let found = store.retained(&tenant("t"), filter, None, 100, at(0)).await.unwrap();
    found.into_iter().map(|message| message.topic.to_string()).collect()
}
