//! What is announced of updates: with the vote, once for each end that a device comes to.

#![cfg(feature = "server")]
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

use std::time::Duration;

use iot_core::{
    id::{OwnershipEpoch, RolloutId},
    push::{Announcement, FieldValue, Kind, Notification},
    store::{Document, MetaStoreExt, Revision},
};
use iot_ota::{
    rollout::{Assignment, NO_PROGRESS},
    wire::ReportState,
};
use support::{Cloud, device_id, first_then_all, image, tenant};

const PATIENCE: Duration = Duration::from_secs(3_600);

async fn announced(cloud: &Cloud) -> Vec<Notification> {
    let page = cloud.meta.page::<Announcement>("waiting", Announcement::WAITING, None, 1_000).await.unwrap();
    page.items.into_iter().map(|stored| stored.document.notification).collect()
}

fn text(told: &Notification, field: &str) -> String {
    match &told.fields[field] {
        FieldValue::Text(text) => text.clone(),
        other => panic!("{other:?}"),
    }
}

/// Devices that are offered a release.
async fn offered(count: usize) -> (Cloud, RolloutId) {
    let cloud = Cloud::new().await;
    cloud.with_devices("lamp", count).await;
    let release = cloud.released(2, &image(10_000)).await;
    let names: Vec<_> = (0..count).map(|n| format!("lamp-{n}")).collect();
    let names: Vec<_> = names.iter().map(String::as_str).collect();
    let rollout = cloud.started(&release, first_then_all(&names)).await;
    cloud.tick().await;
    for name in names {
        cloud.offered(name, 1).await;
    }
    (cloud, rollout)
}

#[tokio::test]
async fn the_end_of_an_update_is_announced_in_the_commit_of_its_vote() {
    let (cloud, rollout) = offered(2).await;
    for state in [ReportState::Downloading, ReportState::Verified, ReportState::Installed] {
        assert_eq!(cloud.report("lamp-0", &rollout, state).await, None);
    }
    assert_eq!(announced(&cloud).await, [], "under way is no end");
    for _repeat in 0..2 {
        assert_eq!(cloud.report("lamp-0", &rollout, ReportState::Confirmed).await, None);
        cloud.refused("lamp-1", &rollout, "hardware").await;
    }
    let told = announced(&cloud).await;
    let [confirmed, failed] = &told[..] else { panic!("{told:?}") };
    assert_eq!(
        (confirmed.kind, confirmed.id.as_str()),
        (Kind::UpdateConfirmed, &*format!("update-confirmed-{rollout}-lamp-0"))
    );
    assert_eq!(confirmed.device, Some((device_id("lamp-0"), OwnershipEpoch(0))));
    assert_eq!((failed.kind, failed.id.as_str()), (Kind::UpdateFailed, &*format!("update-failed-{rollout}-lamp-1")));
    assert_eq!((text(failed, "version"), text(failed, "reason")), (text(confirmed, "version"), "hardware".to_owned()));

    let changes = cloud.meta.changes(Revision::default(), 10_000).await.unwrap();
    for (told, device) in [(confirmed, "lamp-0"), (failed, "lamp-1")] {
        let key = Announcement { notification: told.clone() }.key();
        let change = changes.iter().find(|change| change.keys.contains(&key)).unwrap();
        assert!(change.keys.contains(&Assignment::key_of(&tenant(), &rollout, &device_id(device))), "{change:?}");
    }
}

#[tokio::test]
async fn a_device_that_was_given_up_and_is_well_after_all_is_told_of_twice() {
    let (cloud, rollout) = offered(1).await;
    assert_eq!(cloud.report("lamp-0", &rollout, ReportState::Installed).await, None);
    cloud.clock.advance(PATIENCE);
    cloud.tick().await;
    let told = announced(&cloud).await;
    let [failed] = &told[..] else { panic!("{told:?}") };
    assert_eq!((failed.kind, text(failed, "reason")), (Kind::UpdateFailed, NO_PROGRESS.to_owned()));
    assert_eq!(cloud.report("lamp-0", &rollout, ReportState::Confirmed).await, None);
    let kinds: Vec<_> = announced(&cloud).await.iter().map(|told| told.kind).collect();
    assert_eq!(kinds, [Kind::UpdateConfirmed, Kind::UpdateFailed]);
}

#[tokio::test]
async fn who_takes_no_part_is_not_told_of() {
    let cloud = Cloud::new().await;
    cloud.with_devices("lamp", 1).await;
    let release = cloud.released(2, &image(10_000)).await;
    let rollout = cloud.started(&release, first_then_all(&["lamp-0"])).await;
    cloud.tick().await;
    cloud.hello("lamp-0", 2).await;
    assert_eq!(cloud.part(&rollout, "lamp-0").await.unwrap().phase, iot_ota::rollout::Phase::Skipped);
    assert_eq!(announced(&cloud).await, []);
}
