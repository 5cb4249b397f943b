//! A server that stops in the middle of a rollout and starts again over the same files.

#![cfg(feature = "server")]
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

use std::{path::Path, sync::Arc};

use iot_core::store::{BlobStore, MetaStore};
use iot_ota::{
    rollout::{Phase, State, Votes, Walk},
    wire::{Down, ReportState},
};
use iot_store::{StoreLimits, blobs::Blobs, sqlite::Sqlite};
use support::{Cloud, first_then_all, image};

async fn open(folder: &Path, blobs: &Arc<dyn BlobStore>) -> (Cloud, Sqlite) {
    let store = Sqlite::open(folder, StoreLimits::default()).await.unwrap();
    let meta: Arc<dyn MetaStore> = Arc::new(store.clone());
    (Cloud::over(meta, blobs.clone()).await, store)
}

#[tokio::test]
async fn a_rollout_goes_on_where_it_was() {
    let folder = tempfile::tempdir().unwrap();
    let blobs: Arc<dyn BlobStore> = Arc::new(Blobs::memory());
    let (cloud, store) = open(folder.path(), &blobs).await;
    cloud.with_devices("lamp", 3).await;
    let release = cloud.released(2, &image(10_000)).await;
    let rollout = cloud.started(&release, first_then_all(&["lamp-0"])).await;
    // It stops before the first group was gone through.
    store.close().await;

    let (cloud, store) = open(folder.path(), &blobs).await;
    assert_eq!(cloud.rollout(&rollout).await.groups[0].walk, Walk::Begin);
    cloud.tick().await;
    assert_eq!(cloud.part(&rollout, "lamp-0").await.unwrap().phase, Phase::Pending);
    let offer = cloud.offered("lamp-0", 1).await;
    cloud.report("lamp-0", &rollout, ReportState::Installed).await;
    // It stops while the first device tries the image.
    store.close().await;

    let (cloud, store) = open(folder.path(), &blobs).await;
    let link = offer.url.strip_prefix(support::ADDRESS).unwrap();
    assert!(link.starts_with("/v1/firmware/"));
    cloud.report("lamp-0", &rollout, ReportState::Confirmed).await;
    assert_eq!(cloud.rollout(&rollout).await.groups[0].votes, Votes { succeeded: 1, failed: 0 });
    // The second group is open, and nobody has been told of it.
    store.close().await;

    let (cloud, store) = open(folder.path(), &blobs).await;
    assert_eq!(cloud.hello("lamp-2", 2).await, Down::Nothing {});
    cloud.hello("lamp-1", 1).await;
    cloud.radio.connect("lamp-1");
    cloud.tick().await;
    cloud.tick().await;
    assert_eq!(cloud.part(&rollout, "lamp-1").await.unwrap().phase, Phase::Offered);
    cloud.report("lamp-1", &rollout, ReportState::Confirmed).await;
    cloud.tick().await;
    assert_eq!(cloud.rollout(&rollout).await.state, State::Completed);
    assert_eq!(cloud.phases(&rollout).await, [(Phase::Confirmed, 2), (Phase::Skipped, 1)]);
    store.close().await;
}
