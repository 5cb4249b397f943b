use std::cell::RefCell;
use std::collections::HashMap;
use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;

use proptest::prelude::*;

use super::*;

const TENANT: &str = "acme";

fn online(_: &&'static str) -> bool {
    true
}

fn at(qos: QoS) -> Subscription {
    Subscription { qos, ..Subscription::default() }
}

fn identified(identifier: u32) -> Subscription {
    Subscription { identifier: Some(identifier), ..Subscription::default() }
}

fn subscribed(filters: &[(&str, u64)]) -> Router<&'static str> {
    let router = Router::default();
    for (filter, id) in filters {
        assert_eq!(router.subscribe(TENANT, filter, SubscriberId(*id), &"", Subscription::default()), Subscribed::New);
    }
    router
}

fn found<H: Clone>(router: &Router<H>, topic: &str, sender: Option<u64>) -> Vec<Match<H>> {
    let mut out = Vec::new();
    router.matches(TENANT, topic, sender.map(SubscriberId), &|_| true, &mut out);
    out.sort_by_key(|found| found.subscriber);
    out
}

fn ids<H: Clone>(router: &Router<H>, topic: &str) -> Vec<u64> {
    found(router, topic, None).iter().map(|found| found.subscriber.0).collect()
}

#[test]
fn a_route_is_of_one_tenant_topic_and_sender() {
    let router: Router<u64> = Router::default();
    let quiet = Subscription { no_local: true, ..Subscription::default() };
    assert_eq!(router.subscribe(TENANT, "a/b", SubscriberId(1), &1, quiet), Subscribed::New);
    assert_eq!(router.subscribe("acmea", "/b", SubscriberId(2), &2, quiet), Subscribed::New);
    let mut route = Route::default();
    let mut found = |tenant: &str, topic: &str, sender: Option<u64>| -> Vec<u64> {
        let matches = router.route(tenant, topic, sender.map(SubscriberId), &|_| true, &mut route);
        matches.iter().map(|found| found.handle).collect()
    };
    assert_eq!(found(TENANT, "a/b", None), [1]);
    assert_eq!(found("acmea", "/b", None), [2]);
    assert_eq!(found("acme", "a/c", None), [0; 0]);
    assert_eq!(found(TENANT, "a/b", Some(1)), [0; 0]);
    assert_eq!(found(TENANT, "a/b", Some(2)), [1]);
}

#[test]
fn a_route_is_searched_again_when_a_subscription_that_may_match_has_changed() {
    let router = subscribed(&[("a/b", 1)]);
    let mut route = Route::default();
    let mut searched_anew = |router: &Router<&'static str>| {
        let generations = |place: usize| router.generations[place].get();
        let is_new = !route.holds(TENANT, "a/b", None, generations);
        router.route(TENANT, "a/b", None, &online, &mut route);
        is_new
    };
    assert!(searched_anew(&router));
    assert!(!searched_anew(&router));
    for filter in ["a/b", "a/+", "#", "+/b", "a/#"] {
        assert_eq!(router.subscribe(TENANT, filter, SubscriberId(2), &"", at(QoS::AtLeastOnce)), Subscribed::New);
        assert!(searched_anew(&router), "{filter}");
        assert!(router.unsubscribe(TENANT, filter, SubscriberId(2)));
        assert!(searched_anew(&router), "{filter}");
        assert!(!searched_anew(&router), "{filter}");
    }
    // Members of a group take turns: nothing of it is remembered.
    assert_eq!(
        router.subscribe(TENANT, "$share/g/a/b", SubscriberId(2), &"", Subscription::default()),
        Subscribed::New
    );
    assert!(searched_anew(&router) && searched_anew(&router));
}

/// What a router holds beyond its shards: exact filters and nodes.
fn held<H>(router: &Router<H>) -> (usize, usize) {
    let mut held = (0, 0);
    for shard in &router.shards {
        let shard = shard.read().unwrap();
        held = (held.0 + shard.exact.len(), held.1 + shard.wildcard.nodes());
    }
    held
}

#[test]
fn filters_match_as_the_standard_says() {
    for (filter, topic, expected) in [
        ("sport/tennis/player1/#", "sport/tennis/player1", true),
        ("sport/tennis/player1/#", "sport/tennis/player1/ranking", true),
        ("sport/tennis/player1/#", "sport/tennis/player1/score/wimbledon", true),
        ("sport/tennis/player1/#", "sport/tennis/player10", false),
        ("sport/#", "sport", true),
        ("sport/#", "sports", false),
        ("#", "a", true),
        ("#", "/", true),
        ("sport/tennis/+", "sport/tennis/player1", true),
        ("sport/tennis/+", "sport/tennis/player1/ranking", false),
        ("sport/+", "sport", false),
        ("sport/+", "sport/", true),
        ("+/tennis/#", "sport/tennis", true),
        ("sport/+/player1", "sport/tennis/player1", true),
        ("+/+", "/finance", true),
        ("/+", "/finance", true),
        ("+", "/finance", false),
        ("/#", "/", true),
        ("/#", "a", false),
        ("#", "$SYS/x", false),
        ("+/monitor/Clients", "$SYS/monitor/Clients", false),
        ("+/#", "$SYS", false),
        ("$SYS/#", "$SYS/x", true),
        ("$SYS/monitor/+", "$SYS/monitor/Clients", true),
        ("a/+", "a/$b", true),
        ("ACCOUNTS", "Accounts", false),
        ("Accounts payable", "Accounts payable", true),
        ("/finance", "finance", false),
        ("a//b", "a//b", true),
        ("a/+/b", "a//b", true),
        ("a/b", "a/b/", false),
    ] {
        let router = subscribed(&[(filter, 1)]);
        assert_eq!(ids(&router, topic), if expected { vec![1] } else { vec![] }, "{filter} {topic}");
        assert_eq!(topic::matches(filter, topic), expected, "{filter} {topic}");
        assert!(router.unsubscribe(TENANT, filter, SubscriberId(1)));
        assert!(ids(&router, topic).is_empty(), "{filter} {topic}");
    }
}

#[test]
fn tenants_do_not_hear_each_other() {
    let router = subscribed(&[("d/lamp/#", 1), ("d/lamp/status", 2), ("#", 3), ("$share/g/#", 4)]);
    let mut out = Vec::new();
    router.matches("other", "d/lamp/status", None, &online, &mut out);
    assert_eq!(out, []);
    assert!(!router.unsubscribe("other", "#", SubscriberId(3)));
    assert_eq!(ids(&router, "d/lamp/status"), [1, 2, 3, 4]);
}

#[test]
fn a_second_subscription_with_the_same_filter_replaces_the_first() {
    let router = Router::default();
    for filter in ["a/b", "a/+", "$share/g/a/b", "$share/g/#"] {
        let id = SubscriberId(7);
        assert_eq!(router.subscribe(TENANT, filter, id, &"old", at(QoS::ExactlyOnce)), Subscribed::New);
        assert_eq!(router.subscribe(TENANT, filter, id, &"new", at(QoS::AtLeastOnce)), Subscribed::Replaced);
        assert_eq!(router.len(), 1);
        let [only] = &found(&router, "a/b", None)[..] else { panic!("{filter} is one delivery") };
        assert_eq!((only.handle, only.qos), ("new", QoS::AtLeastOnce));
        assert!(router.unsubscribe(TENANT, filter, id));
        assert!(!router.unsubscribe(TENANT, filter, id));
        assert!(router.is_empty());
    }
}

#[test]
fn overlapping_subscriptions_are_one_delivery() {
    let router = Router::default();
    let preserve = Subscription { retain_as_published: true, ..identified(5) };
    for (filter, subscription) in [
        ("d/lamp/status", identified(3)),
        ("d/lamp/+", Subscription { qos: QoS::ExactlyOnce, ..preserve }),
        ("d/+/status", at(QoS::AtLeastOnce)),
        ("#", identified(3)),
        ("d/stove/#", identified(9)),
    ] {
        let _new = router.subscribe(TENANT, filter, SubscriberId(1), &"one", subscription);
    }
    let _new = router.subscribe(TENANT, "#", SubscriberId(2), &"two", at(QoS::AtLeastOnce));

    let found = found(&router, "d/lamp/status", None);
    assert_eq!(found.len(), 2);
    let mut identifiers = found[0].identifiers.to_vec();
    identifiers.sort_unstable();
    assert_eq!(identifiers, [3, 3, 5]);
    assert_eq!((found[0].handle, found[0].qos, found[0].retain_as_published), ("one", QoS::ExactlyOnce, true));
    assert_eq!((found[1].handle, found[1].qos, found[1].retain_as_published), ("two", QoS::AtLeastOnce, false));
    assert!(found[1].identifiers.is_empty());
}

#[test]
fn what_was_in_the_list_before_stays_as_it_was() {
    let router = subscribed(&[("a", 1), ("#", 1), ("+", 2)]);
    let mut out = Vec::new();
    for expected in [2, 4] {
        router.matches(TENANT, "a", None, &online, &mut out);
        assert_eq!(out.len(), expected);
    }
    router.matches(TENANT, "x/y/z", None, &online, &mut out);
    router.matches("other", "a", None, &online, &mut out);
    assert_eq!(out.len(), 5);
}

#[test]
fn a_shared_and_a_plain_subscription_are_two_deliveries() {
    let router = subscribed(&[("a/#", 1), ("a/b", 1), ("$share/g/a/#", 1), ("$share/h/a/#", 1), ("$share/g/a/b", 1)]);
    assert_eq!(ids(&router, "a/b"), [1; 4]);
    assert!(router.unsubscribe(TENANT, "a/#", SubscriberId(1)));
    assert!(router.unsubscribe(TENANT, "a/b", SubscriberId(1)));
    assert_eq!(ids(&router, "a/b"), [1; 3]);
    assert!(!router.unsubscribe(TENANT, "$share/h/a/b", SubscriberId(1)));
}

#[test]
fn no_local_drops_only_the_sender_s_own_subscription() {
    let router = Router::default();
    let no_local = Subscription { no_local: true, qos: QoS::ExactlyOnce, ..identified(1) };
    let _new = router.subscribe(TENANT, "a/+", SubscriberId(1), &"", no_local);
    let _new = router.subscribe(TENANT, "a/+", SubscriberId(2), &"", no_local);
    assert_eq!(ids(&router, "a/b"), [1, 2]);
    assert_eq!(found(&router, "a/b", Some(1)).len(), 1);

    let _new = router.subscribe(TENANT, "#", SubscriberId(1), &"", identified(2));
    let found = found(&router, "a/b", Some(1));
    assert_eq!(found.len(), 2);
    assert_eq!((found[0].qos, &found[0].identifiers[..]), (QoS::AtMostOnce, &[2][..]));
    assert_eq!(found[1].subscriber, SubscriberId(2));
}

#[test]
fn members_of_a_group_take_turns() {
    for (members, filter) in [(3, "$share/g/a/b"), (3, "$share/g/a/+"), (100, "$share/g/#")] {
        let router = Router::default();
        for id in 0..members {
            let _new = router.subscribe(TENANT, filter, SubscriberId(id), &"", Subscription::default());
        }
        let served: Vec<u64> = (0..3 * members).flat_map(|_| ids(&router, "a/b")).collect();
        let expected: Vec<u64> = (0..3 * members).map(|turn| turn % members).collect();
        assert_eq!(served, expected);
    }
}

#[test]
fn groups_take_turns_apart_from_each_other() {
    let router =
        subscribed(&[("$share/g/a", 1), ("$share/g/a", 2), ("$share/h/a", 3), ("$share/h/a", 4), ("$share/h/+", 5)]);
    assert_eq!(ids(&router, "a"), [1, 3, 5]);
    assert_eq!(ids(&router, "a"), [2, 4, 5]);
    assert_eq!(ids(&router, "a"), [1, 3, 5]);
}

#[test]
fn members_who_are_offline_are_passed_over_unless_all_are() {
    let router: Router<u64> = Router::default();
    for id in 0..4 {
        let _new = router.subscribe(TENANT, "$share/g/a/#", SubscriberId(id), &id, Subscription::default());
    }
    let served = |online: &[u64]| -> Vec<u64> {
        let mut out = Vec::new();
        for _ in 0..4 {
            router.matches(TENANT, "a/b", None, &|id| online.contains(id), &mut out);
        }
        out.iter().map(|found| found.subscriber.0).collect()
    };
    assert_eq!(served(&[0, 3]), [0, 3, 0, 3]);
    assert_eq!(served(&[2]), [2, 2, 2, 2]);
    assert_eq!(served(&[]), [3, 0, 1, 2]);
    assert_eq!(served(&[0, 1, 2, 3]), [3, 0, 1, 2]);
}

#[test]
fn a_leaving_member_does_not_cost_another_its_turn() {
    let router = subscribed(&[("$share/g/a", 1), ("$share/g/a", 2), ("$share/g/a", 3), ("$share/g/a", 4)]);
    assert_eq!(ids(&router, "a"), [1]);
    assert_eq!(ids(&router, "a"), [2]);
    assert!(router.unsubscribe(TENANT, "$share/g/a", SubscriberId(1)));
    assert!(router.unsubscribe(TENANT, "$share/g/a", SubscriberId(2)));
    assert_eq!(ids(&router, "a"), [3]);
    assert_eq!(ids(&router, "a"), [4]);
    assert_eq!(ids(&router, "a"), [3]);
}

#[test]
fn turns_are_fair_between_threads() {
    let router: Router<u64> = Router::default();
    for id in 0..8 {
        let _new = router.subscribe(TENANT, "$share/g/a", SubscriberId(id), &id, Subscription::default());
    }
    let served: Vec<u64> = std::thread::scope(|scope| {
        let threads: Vec<_> =
            (0..4).map(|_| scope.spawn(|| (0..400).flat_map(|_| ids(&router, "a")).collect())).collect();
        threads.into_iter().flat_map(|thread| -> Vec<u64> { thread.join().unwrap() }).collect()
    });
    for id in 0..8 {
        assert_eq!(served.iter().filter(|served| **served == id).count(), 200);
    }
}

#[test]
fn nothing_stays_behind_what_was_removed() {
    let handle = Arc::new(());
    let router = Router::default();
    let filters =
        ["a", "a/b/c", "a/+/c", "a/b/#", "#", "+", "+/+/+", "$share/g/a/+", "$share/h/a", "a/b/+/d/+/f", "/#"];
    let each = || {
        (0..3).flat_map(|tenant| filters.iter().flat_map(move |filter| (0..50).map(move |id| (tenant, *filter, id))))
    };
    for (tenant, filter, id) in each() {
        let tenant = format!("tenant{tenant}");
        let _new = router.subscribe(&tenant, filter, SubscriberId(id), &handle, Subscription::default());
    }
    assert_eq!(router.len(), 3 * filters.len() * 50);
    assert_eq!(Arc::strong_count(&handle), 1 + router.len());

    let (exact, nodes) = held(&router);
    assert!(exact == 3 * 2 && nodes > 3 * 3, "{exact} {nodes}");
    for (tenant, filter, id) in each() {
        assert!(router.unsubscribe(&format!("tenant{tenant}"), filter, SubscriberId(id)), "{filter}");
    }
    assert_eq!(held(&router), (0, 0));
    assert_eq!((router.len(), Arc::strong_count(&handle)), (0, 1));
}

#[test]
fn removing_one_filter_keeps_the_nodes_of_others() {
    let router = subscribed(&[("+/b/c/+", 1)]);
    let before = held(&router);
    for filter in ["+/b/c/+/e", "+/b/#", "+/x", "+/b/c/d", "+/b/c/+/#"] {
        let _new = router.subscribe(TENANT, filter, SubscriberId(2), &"", Subscription::default());
        assert!(!router.unsubscribe(TENANT, filter, SubscriberId(1)));
        assert!(router.unsubscribe(TENANT, filter, SubscriberId(2)));
        assert_eq!(held(&router), before, "{filter}");
    }
    assert_eq!(ids(&router, "a/b/c/d"), [1]);
}

#[test]
fn the_longest_filter_needs_no_deep_stack() {
    let longest = "/".repeat(65_534);
    let router = subscribed(&[(&format!("{longest}+"), 1), (&format!("+{longest}"), 2), (&format!("+{longest}"), 3)]);
    assert_eq!(ids(&router, &format!("{longest}x")), [1]);
    assert_eq!(ids(&router, &longest), [1, 2, 3]);
    assert!(router.unsubscribe(TENANT, &format!("{longest}+"), SubscriberId(1)));
    drop(router);
}

/// A handle whose drop leads back into the router.
type Leaving = Option<Arc<Departure>>;

struct Departure(Arc<Router<Leaving>>);

impl Drop for Departure {
    fn drop(&mut self) {
        self.0.unsubscribe(TENANT, "a/b", SubscriberId(2));
    }
}

#[test]
fn a_handle_may_call_the_router_when_it_is_dropped() {
    let router = Arc::new(Router::default());
    for replace in [false, true] {
        let leaving: Leaving = Some(Arc::new(Departure(Arc::clone(&router))));
        let _new = router.subscribe(TENANT, "a/b", SubscriberId(1), &leaving, Subscription::default());
        let _new = router.subscribe(TENANT, "a/b", SubscriberId(2), &None, Subscription::default());
        drop(leaving);
        if replace {
            let _old = router.subscribe(TENANT, "a/b", SubscriberId(1), &None, Subscription::default());
            assert_eq!(ids(&router, "a/b"), [1]);
        } else {
            assert!(router.unsubscribe(TENANT, "a/b", SubscriberId(1)));
            assert!(router.is_empty());
        }
    }
}

// === Against a naive matcher ===

#[derive(Debug, Clone)]
enum Step {
    Subscribe { tenant: usize, group: Option<&'static str>, filter: String, id: u64, subscription: Subscription },
    Unsubscribe { any: prop::sample::Index },
    Publish { tenant: usize, topic: String, sender: Option<u64>, online: HashSet<u64> },
}

fn levels(level: impl Strategy<Value = &'static str>) -> impl Strategy<Value = String> {
    prop::collection::vec(level, 1..5)
        .prop_map(|levels| levels.join("/"))
        .prop_filter("not empty", |text| !text.is_empty())
}

fn names() -> impl Strategy<Value = &'static str> {
    prop::sample::select(vec!["a", "a", "b", "b", "", "$s"])
}

fn filters() -> impl Strategy<Value = String> {
    let level = prop_oneof![3 => names(), 2 => Just("+")];
    (levels(level), 0..4).prop_map(|(filter, end)| match end {
        0 => format!("{filter}/#"),
        1 if filter.starts_with('+') => "#".into(),
        _ => filter,
    })
}

fn subscriptions() -> impl Strategy<Value = Subscription> {
    let qos = prop::sample::select(vec![QoS::AtMostOnce, QoS::AtLeastOnce, QoS::ExactlyOnce]);
    (qos, any::<bool>(), any::<bool>(), prop::option::of(1..9u32)).prop_map(
        |(qos, no_local, retain_as_published, identifier)| Subscription {
            qos,
            no_local,
            retain_as_published,
            identifier,
        },
    )
}

fn steps() -> impl Strategy<Value = Step> {
    let group = prop_oneof![3 => Just(None), 1 => Just(Some("g")), 1 => Just(Some("h"))];
    prop_oneof![
        4 => (0..2usize, group, filters(), 0..5u64, subscriptions()).prop_map(
            |(tenant, group, filter, id, subscription)| Step::Subscribe { tenant, group, filter, id, subscription }
        ),
        2 => any::<prop::sample::Index>().prop_map(|any| Step::Unsubscribe { any }),
        4 => (0..2usize, levels(names()), prop::option::of(0..5u64), prop::collection::hash_set(0..5u64, 0..5)).prop_map(
            |(tenant, topic, sender, online)| Step::Publish { tenant, topic, sender, online }
        ),
    ]
}

type Key = (usize, Option<&'static str>, String, u64);

/// Subscriptions in a list, and whose turn it was in each group.
#[derive(Default)]
struct Naive {
    subscriptions: BTreeMap<Key, Subscription>,
    served: BTreeMap<(usize, &'static str, String), u64>,
}

impl Naive {
    fn matches(&mut self, tenant: usize, topic: &str, sender: Option<u64>, online: &HashSet<u64>) -> Vec<Delivery> {
        let mut plain: BTreeMap<u64, Delivery> = BTreeMap::new();
        let mut groups: BTreeMap<(&'static str, &str), Vec<(u64, Subscription)>> = BTreeMap::new();
        for ((of, group, filter, id), subscription) in &self.subscriptions {
            if *of != tenant || !topic::matches(filter, topic) {
                continue;
            }
            if let Some(group) = group {
                groups.entry((group, filter)).or_default().push((*id, *subscription));
            } else if !(subscription.no_local && sender == Some(*id)) {
                let delivery = plain.entry(*id).or_insert((*id, QoS::AtMostOnce, false, Vec::new()));
                delivery.1 = delivery.1.max(subscription.qos);
                delivery.2 |= subscription.retain_as_published;
                delivery.3.extend(subscription.identifier);
            }
        }
        let mut all: Vec<Delivery> = plain.into_values().collect();
        for ((group, filter), members) in groups {
            let served = self.served.get(&(tenant, group, filter.to_owned())).copied();
            let later = members.partition_point(|(id, _)| served.is_some_and(|served| *id <= served));
            let mut turns = members.iter().cycle().skip(later).take(members.len());
            let first = turns.clone().next().unwrap();
            let (id, subscription) = turns.find(|(id, _)| online.contains(id)).unwrap_or(first);
            self.served.insert((tenant, group, filter.to_owned()), *id);
            let identifiers = subscription.identifier.into_iter().collect();
            all.push((*id, subscription.qos, subscription.retain_as_published, identifiers));
        }
        normal(all)
    }

    fn remove(&mut self, key: &Key) {
        self.subscriptions.remove(key);
        let (tenant, group, filter, _) = key;
        let Some(group) = group else { return };
        if !self.subscriptions.keys().any(|other| (other.0, other.1, &other.2) == (*tenant, Some(*group), filter)) {
            self.served.remove(&(*tenant, *group, filter.clone()));
        }
    }
}

type Delivery = (u64, QoS, bool, Vec<u32>);

fn normal(mut deliveries: Vec<Delivery>) -> Vec<Delivery> {
    deliveries.iter_mut().for_each(|delivery| delivery.3.sort_unstable());
    deliveries.sort();
    deliveries
}

fn written(group: Option<&str>, filter: &str) -> String {
    group.map_or(filter.to_owned(), |group| format!("$share/{group}/{filter}"))
}

proptest! {
    #![proptest_config(ProptestConfig { cases: if std::env::var_os("IOT_LONG").is_some() { 20 * 512 } else { 512 }, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn the_router_agrees_with_a_naive_one(steps in prop::collection::vec(steps(), 1..120)) {
        const TENANTS: [&str; 2] = ["acme", "other"];
        let router: Router<u64> = Router::default();
        let mut naive = Naive::default();
        let mut routes: HashMap<(usize, String), Route<u64>> = HashMap::new();
        for step in steps {
            match step {
                Step::Subscribe { tenant, group, filter, id, subscription } => {
                    let text = written(group, &filter);
                    let did = router.subscribe(TENANTS[tenant], &text, SubscriberId(id), &id, subscription);
                    let old = naive.subscriptions.insert((tenant, group, filter, id), subscription);
                    prop_assert_eq!(did == Subscribed::Replaced, old.is_some());
                }
                Step::Unsubscribe { any } => {
                    let keys: Vec<Key> = naive.subscriptions.keys().cloned().collect();
                    let Some(key) = (!keys.is_empty()).then(|| any.get(&keys)) else { continue };
                    naive.remove(key);
                    let text = written(key.1, &key.2);
                    prop_assert!(router.unsubscribe(TENANTS[key.0], &text, SubscriberId(key.3)));
                    prop_assert!(!router.unsubscribe(TENANTS[key.0], &text, SubscriberId(key.3)));
                }
                Step::Publish { tenant, topic, sender, online } => {
                    let from = sender.map(SubscriberId);
                    let route = routes.entry((tenant, topic.clone())).or_default();
                    // Searched, then found where it was left by an earlier message or this one.
                    for is_searched in [true, false, false] {
                        let calls = RefCell::new(0);
                        let is_online = |id: &u64| {
                            *calls.borrow_mut() += 1;
                            online.contains(id)
                        };
                        let mut searched = Vec::new();
                        let out = match is_searched {
                            true => {
                                router.matches(TENANTS[tenant], &topic, from, &is_online, &mut searched);
                                &searched[..]
                            }
                            false => router.route(TENANTS[tenant], &topic, from, &is_online, route),
                        };
                        prop_assert!(out.iter().all(|found| found.handle == found.subscriber.0));
                        prop_assert!(calls.into_inner() <= naive.subscriptions.len());
                        let found = out.iter().map(|found| {
                            (found.subscriber.0, found.qos, found.retain_as_published, found.identifiers.to_vec())
                        });
                        prop_assert_eq!(normal(found.collect()), naive.matches(tenant, &topic, sender, &online));
                    }
                }
            }
            prop_assert_eq!(router.len(), naive.subscriptions.len());
        }
        for (tenant, group, filter, id) in naive.subscriptions.keys() {
            prop_assert!(router.unsubscribe(TENANTS[*tenant], &written(*group, filter), SubscriberId(*id)));
        }
        prop_assert_eq!(held(&router), (0, 0));
    }
}
