//! What is announced of bindings: in the commit of the change itself, once, and about the epoch that it begins.

#![cfg(feature = "server")]
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

use std::time::Duration;

use iot_auth::binding::{BindAsked, Bound};
use iot_core::{
    access::Principal,
    binding::{ATTEMPT_TOLD_EVERY, Owned},
    clock::Clock,
    device::Device,
    home::Ruling,
    id::{HomeId, OwnershipEpoch},
    push::{Announcement, Kind, Notification},
    secret::Secret,
    store::{Document, MetaStoreExt, Revision},
};
use support::{Cloud, device, peer, person};

const PRESENT: &str = r#"{"type":"present","for_s":120}"#;

async fn announced(cloud: &Cloud) -> Vec<Notification> {
    let page = cloud.meta.page::<Announcement>("waiting", Announcement::WAITING, None, 1_000).await.unwrap();
    let mut all: Vec<_> = page.items.into_iter().map(|stored| stored.document.notification).collect();
    all.sort_by_key(|told| told.at);
    all
}

async fn bind(cloud: &Cloud, by: &Principal, home: &HomeId, unit: &str) -> Device {
    let code = Some(Secret::new(cloud.shown_code(unit).await));
    let asked = BindAsked { code, home: home.clone(), device: Some(device(unit)), p_code: None };
    match cloud.auth.bind(by, &asked, peer().ip()).await.unwrap() {
        Bound::Done(device) => *device,
        Bound::Refused(why) => panic!("{why:?}"),
    }
}

/// Ada's home, with these units bound.
async fn owned(units: &[&str]) -> (Cloud, Principal, HomeId) {
    let cloud = Cloud::new().await;
    let ada = person("ada");
    let home = cloud.home_of(&ada).await;
    for unit in units {
        cloud.activated(unit).await;
        bind(&cloud, &ada, &home, unit).await;
    }
    (cloud, ada, home)
}

#[tokio::test]
async fn a_binding_and_a_release_are_announced_in_their_own_commit() {
    let (cloud, ada, home) = owned(&["lamp-1"]).await;
    let [bound] = &announced(&cloud).await[..] else { panic!() };
    assert_eq!((bound.kind, bound.id.as_str()), (Kind::DeviceBound, "bound-lamp-1-1"));
    assert_eq!((&bound.home, &bound.device), (&Some(home), &Some((device("lamp-1"), OwnershipEpoch(1)))));

    cloud.clock.advance(Duration::from_secs(5));
    assert!(matches!(cloud.auth.unbind(&ada, &device("lamp-1")).await.unwrap(), Owned::Changed(_)));
    let [_, unbound] = &announced(&cloud).await[..] else { panic!() };
    assert_eq!((unbound.kind, unbound.id.as_str()), (Kind::DeviceUnbound, "unbound-lamp-1-2"));
    assert_eq!((&unbound.home, &unbound.device), (&None, &Some((device("lamp-1"), OwnershipEpoch(2)))));

    let changes = cloud.meta.changes(Revision::default(), 1_000).await.unwrap();
    for told in [bound, unbound] {
        let key = Announcement { notification: told.clone() }.key();
        let change = changes.iter().find(|change| change.keys.contains(&key)).unwrap();
        assert!(change.keys.contains(&Device::key_of(&ada.tenant, &device("lamp-1"))), "{change:?}");
    }
}

#[tokio::test]
async fn what_is_refused_or_only_moves_is_not_announced() {
    let (cloud, ada, _) = owned(&["lamp-1"]).await;
    let before = announced(&cloud).await;
    for by in [person("eve"), support::operator("acme")] {
        assert_eq!(cloud.auth.unbind(&by, &device("lamp-1")).await.unwrap(), Owned::Forbidden);
    }
    let other = cloud.home_of(&ada).await;
    assert!(matches!(cloud.auth.move_bound(&ada, &device("lamp-1"), &other).await.unwrap(), Owned::Changed(_)));
    assert_eq!(announced(&cloud).await, before);
}

#[tokio::test]
async fn each_device_of_a_home_that_ends_is_announced() {
    let (cloud, ada, home) = owned(&["lamp-1", "lamp-2"]).await;
    assert!(matches!(cloud.auth.dissolve_home(&ada, &home).await.unwrap(), Ruling::Changed(_)));
    let told = announced(&cloud).await;
    let unbound = told.iter().filter(|told| told.kind == Kind::DeviceUnbound && told.home.is_none());
    let mut ids: Vec<_> = unbound.map(|told| told.id.as_str()).collect();
    ids.sort_unstable();
    assert_eq!(ids, ["unbound-lamp-1-2", "unbound-lamp-2-2"]);
}

/// BD-8: the owner is notified, and nobody can make that a nuisance.
#[tokio::test]
async fn bd_8_the_owner_is_notified_of_attempts_within_a_rate() {
    let (cloud, _ada, home) = owned(&["lamp-1"]).await;
    let begin = cloud.clock.timestamp();
    while cloud.clock.timestamp() <= begin.plus(2 * ATTEMPT_TOLD_EVERY) {
        let told = cloud.device_asks("lamp-1", PRESENT).await;
        assert_eq!(told["code"], "already_bound");
        cloud.clock.advance(Duration::from_secs(3));
    }
    let all = announced(&cloud).await;
    let attempts: Vec<_> = all.iter().filter(|told| told.kind == Kind::BindingAttempted).collect();
    assert_eq!(attempts.len(), 3, "{attempts:?}");
    for told in attempts {
        assert_eq!((&told.home, &told.device), (&Some(home.clone()), &Some((device("lamp-1"), OwnershipEpoch(1)))));
    }
}
