//! Live streams of applications.

use iot_core::{
    access::{Grants, Principal, Relation, Standing, Subject},
    id::OwnershipEpoch,
    message::QoS,
};

use super::{
    client::{Client, soon},
    cloud::{Cloud, tenant},
};
use crate::node::{
    LIVE_STREAMS_MAX, LiveChange, LiveError, LiveEvent, LiveFilter, LiveKind, LiveStream, live::LIVE_CHANGES_MAX,
};

fn account(name: &str) -> Principal {
    Principal {
        tenant: tenant(),
        subject: Subject::Account { account: name.parse().unwrap(), login: "login".parse().unwrap() },
    }
}

fn app() -> Principal {
    Principal { tenant: tenant(), subject: Subject::Token("app-a".parse().unwrap()) }
}

async fn grants(cloud: &Cloud, principal: &Principal) -> Grants {
    match cloud.node.inner.access.standing(principal).await.unwrap() {
        Standing::Current(grants) => grants,
        Standing::Revoked => panic!("revoked"),
    }
}

async fn stream(cloud: &Cloud, who: &Principal, filter: LiveFilter) -> LiveStream {
    cloud.node.live(who.clone(), grants(cloud, who).await, filter, None).await.unwrap()
}

fn only(kinds: &[LiveKind]) -> LiveFilter {
    LiveFilter { kinds: kinds.iter().copied().collect(), ..LiveFilter::default() }
}

async fn next(stream: &mut LiveStream) -> LiveEvent {
    soon("an event", stream.next()).await.expect("the stream has not ended")
}

async fn report(device: &mut Client, n: u64) {
    device.publish("up/telemetry", &format!(r#"{{"values":{{"n":{n}}}}}"#), QoS::AtLeastOnce).await;
}

/// The value of a report and its device.
fn shown(event: &LiveEvent) -> (&str, u64) {
    (event.data["device"].as_str().unwrap(), event.data["values"]["n"].as_u64().unwrap())
}

#[tokio::test]
async fn a_stream_goes_on_after_an_event_and_misses_nothing() {
    let cloud = Cloud::start().await;
    let mut lamp = cloud.client("dev-lamp", "lamp").await;
    let telemetry = only(&[LiveKind::Telemetry]);
    let mut first = stream(&cloud, &app(), telemetry.clone()).await;
    for n in 0..5 {
        report(&mut lamp, n).await;
    }
    assert_eq!(shown(&next(&mut first).await), ("lamp", 0));
    let seen = next(&mut first).await;
    drop(first);
    report(&mut lamp, 5).await;
    let all = grants(&cloud, &app()).await;
    let mut second = cloud.node.live(app(), all.clone(), telemetry.clone(), seen.id.clone()).await.unwrap();
    for n in 2..=5 {
        assert_eq!(shown(&next(&mut second).await), ("lamp", n));
    }
    let foreign = iot_core::event::EventId { node: "other".parse().unwrap(), ..seen.id.unwrap() };
    assert!(matches!(cloud.node.live(app(), all, telemetry, Some(foreign)).await, Err(LiveError::ForeignPosition)));
}

#[tokio::test]
async fn a_stream_begins_with_what_is_so_and_tells_what_changes() {
    let cloud = Cloud::start().await;
    let mut lamp = cloud.client("dev-lamp", "lamp").await;
    let mut live = stream(&cloud, &app(), only(&[LiveKind::Presence])).await;
    assert_eq!(next(&mut live).await.data["online"], true);
    lamp.cut();
    let gone = next(&mut live).await;
    assert_eq!((gone.kind, &gone.data["online"]), (LiveKind::Presence, &false.into()));
    assert!(gone.data["cause"].is_string());
}

#[tokio::test]
async fn a_member_sees_the_home_a_guest_only_its_state_and_who_is_removed_nothing() {
    let cloud = Cloud::start().await;
    cloud.change("lamp", |lamp| lamp.home = Some("h".parse().unwrap())).await;
    cloud.grant("ann", Some(Relation::Member), None).await;
    cloud.grant("eve", Some(Relation::Guest), None).await;
    let (mut lamp, mut door) = (cloud.client("dev-lamp", "lamp").await, cloud.client("dev-door", "door").await);
    let mut ann = stream(&cloud, &account("ann"), only(&[LiveKind::Telemetry])).await;
    let mut eve = stream(&cloud, &account("eve"), LiveFilter::default()).await;
    let greeting = next(&mut eve).await;
    assert_eq!((greeting.kind, &greeting.data["device"]), (LiveKind::Presence, &"lamp".into()));
    report(&mut door, 1).await;
    report(&mut lamp, 2).await;
    assert_eq!(shown(&next(&mut ann).await), ("lamp", 2));
    cloud.grant("ann", None, None).await;
    cloud.settled().await;
    report(&mut lamp, 3).await;
    door.cut();
    lamp.cut();
    let gone = next(&mut eve).await;
    assert_eq!((gone.kind, &gone.data["device"]), (LiveKind::Presence, &"lamp".into()), "and no report before it");
    cloud.revoke("ann").await;
    while let Some(event) = soon("the end of the stream", ann.next()).await {
        assert_eq!(event.kind, LiveKind::Resync, "nothing of the lamp");
    }
}

#[tokio::test]
async fn bd_17_a_stream_of_a_former_owner_shows_nothing_of_the_next() {
    let cloud = Cloud::start().await;
    cloud.change("lamp", |lamp| lamp.home = Some("h".parse().unwrap())).await;
    cloud.grant("ann", Some(Relation::Owner), None).await;
    let mut lamp = cloud.client("dev-lamp", "lamp").await;
    let mut ann = stream(&cloud, &account("ann"), only(&[LiveKind::Telemetry])).await;
    report(&mut lamp, 1).await;
    let first = next(&mut ann).await;
    cloud
        .change("lamp", |lamp| {
            lamp.home = Some("other".parse().unwrap());
            lamp.epoch = OwnershipEpoch(1);
        })
        .await;
    lamp.ended().await;
    cloud.grant("bob", Some(Relation::Owner), None).await;
    let all = grants(&cloud, &account("ann")).await;
    let before = first.id.map(|id| iot_core::event::EventId { sequence: iot_core::event::Sequence(0), ..id });
    let mut again = cloud.node.live(account("ann"), all, only(&[LiveKind::Telemetry]), before).await.unwrap();
    let mut door = cloud.client("dev-door", "door").await;
    cloud.change("door", |door| door.home = Some("h".parse().unwrap())).await;
    door.ended().await;
    door.connect().await;
    report(&mut door, 7).await;
    for stream in [&mut ann, &mut again] {
        assert_eq!(shown(&next(stream).await), ("door", 7), "neither the old report nor a new one of the lamp");
    }
}

#[tokio::test]
async fn who_reads_too_slowly_is_told_and_gets_the_present_state() {
    let cloud = Cloud::start().await;
    let _lamp = cloud.client("dev-lamp", "lamp").await;
    let mut live = stream(&cloud, &app(), only(&[LiveKind::Presence, LiveKind::Twin])).await;
    assert_eq!(next(&mut live).await.kind, LiveKind::Presence);
    for version in 0..=LIVE_CHANGES_MAX {
        cloud.node.live_hub().tell(LiveChange {
            tenant: tenant(),
            device: "lamp".parse().unwrap(),
            epoch: None,
            kind: LiveKind::Twin,
            data: serde_json::json!({"version": version}),
        });
    }
    assert_eq!(next(&mut live).await.kind, LiveKind::Resync);
    assert_eq!(next(&mut live).await.kind, LiveKind::Presence);
    assert_eq!(next(&mut live).await.data["version"], 1, "of the changes the newest are still there");
}

#[tokio::test]
async fn streams_are_bounded_and_end_with_the_node() {
    let cloud = Cloud::start().await;
    let all = grants(&cloud, &app()).await;
    let mut streams = Vec::new();
    for _ in 0..LIVE_STREAMS_MAX {
        streams.push(cloud.node.live(app(), all.clone(), LiveFilter::default(), None).await.unwrap());
    }
    let one_more = cloud.node.live(app(), all.clone(), LiveFilter::default(), None).await;
    assert!(matches!(one_more, Err(LiveError::TooMany)));
    streams.truncate(1);
    assert!(cloud.node.live(app(), all, LiveFilter::default(), None).await.is_ok());
    let mut last = streams.remove(0);
    cloud.stop().await;
    assert!(soon("the stream to end", last.next()).await.is_none());
}
