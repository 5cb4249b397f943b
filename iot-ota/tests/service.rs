//! The service over records in memory: from a signed release to devices that run it, and what stops it.

#![cfg(feature = "server")]
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

use std::{sync::Arc, time::Duration};

use iot_core::{
    device::{Device, Stage},
    id::{ProductId, RolloutId},
    store::{Document, RecordNames, Revision},
    time::Timestamp,
};
use iot_ota::{
    release::{Refused, SignedRelease},
    rollout::{NO_PROGRESS, Order, Phase, State, Votes},
    server::{
        Created, RELEASES_MAX, ROLLOUTS_MAX, ReleaseRecord, ReleaseState, RolloutCreated, RolloutOrdered, Uploaded,
        Withdrawn, WrongImage,
    },
    wire::{Down, ReportState},
};
use support::{Cloud, first_then_all, hello, image, keys, load, manifest, operator, signed};

const PATIENCE: Duration = Duration::from_secs(3_600);

#[tokio::test]
async fn a_release_that_too_few_have_signed_is_refused_and_recorded() {
    let cloud = Cloud::new().await;
    cloud.with_devices("lamp", 0).await;
    let manifest = manifest(1, &image(3_000));
    let [one, two, _] = keys();
    let stranger = iot_ota::release::SigningKey::from_seed(&[9; 32]).unwrap();
    let cases = [
        (SignedRelease::sign(&manifest, &[]), 0),
        (SignedRelease::sign(&manifest, &[&one]), 1),
        (SignedRelease::sign(&manifest, &[&one, &stranger]), 1),
    ];
    for (signed, valid) in cases {
        let before = cloud.audit().await.len();
        assert_eq!(cloud.create(&signed.unwrap()).await, Created::Refused(Refused::Signatures { valid, needed: 2 }));
        let audit = cloud.audit().await;
        assert_eq!(audit.len(), before + 1);
        assert_eq!(audit[0].refused.as_deref(), Some("signatures_insufficient"));
    }
    let mut moved = SignedRelease::sign(&manifest, &[&one, &two]).unwrap();
    moved.manifest = moved.manifest.replace("1.1.0", "1.1.1");
    assert_eq!(cloud.create(&moved).await, Created::Refused(Refused::Signatures { valid: 0, needed: 2 }));
    assert!(matches!(cloud.create(&signed(&manifest)).await, Created::Done(_)));
    assert!(matches!(cloud.create(&signed(&manifest)).await, Created::AlreadyThere(_)));
    let other = support::manifest(1, &image(3_001));
    assert_eq!(cloud.create(&signed(&other)).await, Created::SequenceTaken(1));
}

#[tokio::test]
async fn a_release_needs_a_product_with_trust_and_a_future() {
    let cloud = Cloud::new().await;
    let lamp = manifest(1, &image(3_000));
    assert_eq!(cloud.create(&signed(&lamp)).await, Created::NoTrust(ProductId::parse("lamp").unwrap()));
    cloud.with_devices("lamp", 0).await;
    let foreign = iot_ota::release::Manifest { tenant: "other".parse().unwrap(), ..lamp.clone() };
    assert_eq!(cloud.create(&signed(&foreign)).await, Created::Refused(Refused::Product));
    cloud.clock.advance(Duration::from_secs(100 * 24 * 3_600));
    assert_eq!(cloud.create(&signed(&lamp)).await, Created::Expired);
}

#[tokio::test]
async fn an_image_must_be_the_one_that_was_signed() {
    let cloud = Cloud::new().await;
    cloud.with_devices("lamp", 0).await;
    let image = image(10_000);
    let Created::Done(release) = cloud.create(&signed(&manifest(1, &image))).await else { panic!() };
    let mut flipped = image.clone();
    flipped[2_500] ^= 1;
    let wrong = |wrong| Uploaded::Wrong(wrong);
    assert_eq!(cloud.upload(&release.id, &[&flipped]).await, wrong(WrongImage::Chunk(2)));
    assert_eq!(cloud.upload(&release.id, &[&image, b"x"]).await, wrong(WrongImage::TooLong(10_000)));
    let short = wrong(WrongImage::TooShort { has: 9_999, wants: 10_000 });
    assert_eq!(cloud.upload(&release.id, &[&image[..9_999]]).await, short);
    assert_eq!(cloud.upload(&release.id, &[]).await, wrong(WrongImage::TooShort { has: 0, wants: 10_000 }));
    assert!(cloud.blobs.stat(&release.image()).await.unwrap().is_none(), "nothing was kept");
    assert_eq!(cloud.audit().await[0].refused.as_deref(), Some("image_mismatch"));
    let Uploaded::Done(ready) = cloud.upload(&release.id, &[&image[..1], &image[1..5_000], &image[5_000..]]).await
    else {
        panic!()
    };
    assert_eq!(ready.state, ReleaseState::Ready);
    assert!(matches!(cloud.upload(&release.id, &[&flipped]).await, Uploaded::AlreadyThere(_)));
    let kept = load(&*cloud.blobs, &release.image()).await;
    assert_eq!(kept, image);
}

#[tokio::test]
async fn a_sender_that_breaks_off_leaves_nothing_and_may_begin_anew() {
    let cloud = Cloud::new().await;
    cloud.with_devices("lamp", 0).await;
    let image = image(10_000);
    let Created::Done(release) = cloud.create(&signed(&manifest(1, &image))).await else { panic!() };
    let pieces = [Ok(bytes::Bytes::copy_from_slice(&image[..5_000])), Err("gone".into())];
    let broken = cloud.ota.upload(&operator(), &release.id, futures_util::stream::iter(pieces)).await;
    assert!(broken.is_err());
    assert!(cloud.blobs.stat(&release.image()).await.unwrap().is_none());
    assert!(matches!(cloud.upload(&release.id, &[&image]).await, Uploaded::Done(_)));
}

/// The whole way: two groups, connected and sleeping devices, to the end.
#[tokio::test]
async fn a_rollout_goes_from_the_first_device_to_all() {
    let cloud = Cloud::new().await;
    cloud.with_devices("lamp", 4).await;
    let release = cloud.released(2, &image(10_000)).await;
    // Those that asked before it began got nothing; two of them stay connected.
    for n in 0..3 {
        assert_eq!(cloud.hello(&format!("lamp-{n}"), 1).await, Down::Nothing {});
    }
    assert_eq!(cloud.explained("lamp-0").await, "no_rollout");
    cloud.radio.connect("lamp-0");
    cloud.radio.connect("lamp-1");
    let rollout = cloud.started(&release, first_then_all(&["lamp-0"])).await;
    cloud.tick().await;
    let told = cloud.radio.told("lamp-0");
    let [Down::Offer(offer)] = &told[..] else { panic!("{told:?}") };
    assert_eq!(offer.rollout, rollout);
    assert_eq!(offer.release, signed(&manifest(2, &image(10_000))), "as it was signed");
    assert!(offer.url.starts_with(&format!("https://cloud.example:8443/v1/firmware/{release}?")), "{}", offer.url);
    assert_eq!(offer.expires, cloud.now().plus(Duration::from_secs(3_600)));
    assert_eq!(cloud.radio.told("lamp-1"), [], "its group is not open");
    assert_eq!(cloud.explained("lamp-1").await, "group_not_open");
    assert_eq!(cloud.hello("lamp-1", 1).await, Down::Nothing {});
    cloud.tick().await;
    assert_eq!(cloud.radio.told("lamp-0"), [], "told once");

    for state in [ReportState::Downloading, ReportState::Verified, ReportState::Installed] {
        assert_eq!(cloud.report("lamp-0", &rollout, state).await, None);
        assert_eq!(cloud.explained("lamp-0").await, "under_way");
    }
    assert_eq!(cloud.hello("lamp-0", 2).await, Down::Nothing {}, "what it tries it needs no offer of");
    cloud.tick().await;
    assert_eq!(cloud.radio.told("lamp-1"), [], "not confirmed");
    cloud.report("lamp-0", &rollout, ReportState::Confirmed).await;
    assert_eq!(cloud.explained("lamp-0").await, "confirmed");
    cloud.tick().await;
    let told = cloud.radio.told("lamp-1");
    assert!(matches!(&told[..], [Down::Offer(_)]), "its group is open: {told:?}");
    assert_eq!(cloud.explained("lamp-2").await, "not_reached");
    assert_eq!(cloud.explained("lamp-3").await, "not_heard_from");
    // One comes back, one comes for the first time and runs it already.
    cloud.offered("lamp-2", 1).await;
    assert_eq!(cloud.hello("lamp-3", 2).await, Down::Nothing {});
    assert_eq!(cloud.explained("lamp-3").await, "up_to_date");
    for device in ["lamp-1", "lamp-2"] {
        assert_ne!(cloud.rollout(&rollout).await.state, State::Completed);
        cloud.report(device, &rollout, ReportState::Confirmed).await;
    }
    cloud.tick().await;
    assert_eq!(cloud.rollout(&rollout).await.state, State::Completed);
    assert_eq!(cloud.phases(&rollout).await, [(Phase::Confirmed, 3), (Phase::Skipped, 1)]);
    let actions: Vec<_> = cloud.audit().await.into_iter().map(|entry| entry.action).collect();
    assert_eq!(actions[..4], ["rollout_complete", "rollout_open_group_1", "rollout_start", "rollout_create"]);
}

/// OT-16: it reports that it rolled back; that is a failure, the gate stops the rest, and it is not offered it again.
#[tokio::test]
async fn ot_16_a_device_that_rolled_back_stops_the_rest_and_is_not_asked_again() {
    let cloud = Cloud::new().await;
    cloud.with_devices("lamp", 3).await;
    let release = cloud.released(2, &image(10_000)).await;
    let rollout = cloud.started(&release, first_then_all(&["lamp-0", "lamp-1"])).await;
    cloud.tick().await;
    cloud.offered("lamp-0", 1).await;
    cloud.offered("lamp-1", 1).await;
    cloud.radio.connect("lamp-1");
    cloud.report("lamp-0", &rollout, ReportState::RolledBack).await;
    assert_eq!(cloud.rollout(&rollout).await.state, State::Running, "one of two has voted");
    cloud.report("lamp-1", &rollout, ReportState::RolledBack).await;
    let halted = State::Halted { group: 0, votes: Votes { succeeded: 0, failed: 2 } };
    assert_eq!(cloud.rollout(&rollout).await.state, halted, "at once, not at the next tick");
    assert_eq!(cloud.hello("lamp-2", 1).await, Down::Nothing {});
    assert_eq!(cloud.explained("lamp-2").await, "rollout_halted");
    assert_eq!(cloud.audit().await[0].action, "rollout_halt");
    // The same release once more: to the others, not to these.
    cloud.clock.advance(Duration::from_millis(5));
    let again = cloud.started(&release, first_then_all(&["lamp-0", "lamp-1"])).await;
    cloud.tick().await;
    assert_eq!(cloud.hello("lamp-0", 1).await, Down::Nothing {});
    assert_eq!(cloud.part(&again, "lamp-0").await.unwrap().phase, Phase::Skipped);
    assert_eq!(cloud.explained("lamp-0").await, "rolled_back_before");
    assert_eq!(cloud.rollout(&again).await.groups[0].skipped, 2, "neither");
}

#[tokio::test]
async fn a_refusal_of_what_was_reverted_is_the_rollback_that_it_was() {
    let cloud = Cloud::new().await;
    cloud.with_devices("lamp", 2).await;
    let release = cloud.released(2, &image(10_000)).await;
    let rollout = cloud.started(&release, first_then_all(&["lamp-0", "lamp-1"])).await;
    cloud.tick().await;
    cloud.offered("lamp-0", 1).await;
    cloud.offered("lamp-1", 1).await;
    cloud.refused("lamp-0", &rollout, Refused::Reverted.code()).await;
    cloud.refused("lamp-1", &rollout, Refused::Expired.code()).await;
    assert_eq!(cloud.phases(&rollout).await, [(Phase::RolledBack, 1), (Phase::Refused, 1)]);
    cloud.started(&release, first_then_all(&["lamp-0", "lamp-1"])).await;
    cloud.tick().await;
    assert_eq!(cloud.hello("lamp-0", 1).await, Down::Nothing {});
    cloud.offered("lamp-1", 1).await;
}

#[tokio::test]
async fn a_device_that_asks_before_its_group_was_gone_through_is_counted_once() {
    let cloud = Cloud::new().await;
    cloud.with_devices("lamp", 2).await;
    let release = cloud.released(2, &image(10_000)).await;
    let rollout = cloud.started(&release, first_then_all(&["lamp-0", "lamp-1"])).await;
    cloud.offered("lamp-0", 1).await;
    assert_eq!(cloud.rollout(&rollout).await.groups[0].assigned, 1);
    cloud.tick().await;
    assert_eq!(cloud.rollout(&rollout).await.groups[0].assigned, 2);
    assert_eq!(cloud.phases(&rollout).await, [(Phase::Pending, 1), (Phase::Offered, 1)]);
}

#[tokio::test]
async fn an_expired_release_is_offered_to_nobody() {
    let cloud = Cloud::new().await;
    cloud.with_devices("lamp", 1).await;
    let release = cloud.released(2, &image(10_000)).await;
    cloud.started(&release, first_then_all(&["lamp-0"])).await;
    let end = manifest(2, &image(10_000)).expires.since(cloud.now());
    cloud.clock.advance(end - Duration::from_micros(1));
    cloud.offered("lamp-0", 1).await;
    cloud.clock.advance(Duration::from_micros(1));
    assert_eq!(cloud.hello("lamp-0", 1).await, Down::Nothing {});
}

#[tokio::test]
async fn devices_that_still_load_learn_that_it_is_over() {
    let cloud = Cloud::new().await;
    cloud.with_devices("lamp", 3).await;
    let release = cloud.released(2, &image(10_000)).await;
    let rollout = cloud.started(&release, first_then_all(&["lamp-0", "lamp-1", "lamp-2"])).await;
    cloud.tick().await;
    for device in ["lamp-0", "lamp-1", "lamp-2"] {
        cloud.offered(device, 1).await;
    }
    cloud.radio.connect("lamp-0");
    cloud.ordered(&rollout, Order::Cancel).await;
    cloud.tick().await;
    let over = Down::Cancelled { rollout: rollout.clone() };
    assert_eq!(cloud.radio.told("lamp-0"), vec![over.clone()]);
    cloud.tick().await;
    assert_eq!(cloud.radio.told("lamp-0"), [], "told once");
    assert_eq!(cloud.hello("lamp-1", 1).await, over, "when it asks");
    assert_eq!(cloud.report("lamp-2", &rollout, ReportState::Downloading).await, Some(over), "when it reports");
    assert_eq!(cloud.report("lamp-2", &rollout, ReportState::Confirmed).await, None);
    assert_eq!(cloud.rollout(&rollout).await.groups[0].votes.succeeded, 1, "what happened is counted all the same");
}

#[tokio::test]
async fn a_paused_rollout_offers_nothing_and_goes_on_where_it_was() {
    let cloud = Cloud::new().await;
    cloud.with_devices("lamp", 2).await;
    let release = cloud.released(2, &image(10_000)).await;
    let rollout = cloud.started(&release, first_then_all(&["lamp-0", "lamp-1"])).await;
    cloud.tick().await;
    cloud.offered("lamp-0", 1).await;
    cloud.ordered(&rollout, Order::Pause).await;
    assert_eq!(cloud.hello("lamp-1", 1).await, Down::Nothing {});
    assert_eq!(cloud.explained("lamp-1").await, "rollout_paused");
    cloud.offered("lamp-0", 1).await;
    cloud.radio.connect("lamp-1");
    cloud.tick().await;
    assert_eq!(cloud.radio.told("lamp-1"), []);
    cloud.ordered(&rollout, Order::Resume).await;
    cloud.tick().await;
    assert!(matches!(cloud.radio.told("lamp-1")[..], [Down::Offer(_)]));
}

/// OT-17: a device reports for itself, whatever it writes; and a repeat changes nothing.
#[tokio::test]
async fn ot_17_no_device_reports_for_another_and_a_repeat_counts_once() {
    let cloud = Cloud::new().await;
    cloud.with_devices("lamp", 3).await;
    cloud.with_devices("plug", 1).await;
    let release = cloud.released(2, &image(10_000)).await;
    let rollout = cloud.started(&release, first_then_all(&["lamp-0", "lamp-1"])).await;
    cloud.tick().await;
    cloud.offered("lamp-0", 1).await;
    let before = cloud.meta.revision().await.unwrap();
    // Not assigned in this rollout, of another product, of no rollout.
    assert_eq!(cloud.report("lamp-2", &rollout, ReportState::RolledBack).await, None);
    assert_eq!(cloud.report("plug-0", &rollout, ReportState::RolledBack).await, None);
    let none = RolloutId::parse("r-none").unwrap();
    assert_eq!(cloud.report("lamp-0", &none, ReportState::RolledBack).await, None);
    // A message that names a victim is no message.
    let forged = format!(r#"{{"type":"report","rollout":"{rollout}","state":"failed","device":"lamp-0"}}"#);
    assert_eq!(cloud.ask("lamp-1", forged.as_bytes()).await, None);
    assert_eq!(cloud.meta.changes(before, 10).await.unwrap(), [], "nothing was written");
    cloud.report("lamp-0", &rollout, ReportState::Confirmed).await;
    let votes = cloud.rollout(&rollout).await.groups[0].votes;
    assert_eq!(votes, Votes { succeeded: 1, failed: 0 }, "the honest report counts");
    let after = cloud.meta.revision().await.unwrap();
    for state in [ReportState::Confirmed, ReportState::RolledBack, ReportState::Failed, ReportState::Downloading] {
        cloud.report("lamp-0", &rollout, state).await;
    }
    assert_eq!(cloud.meta.changes(after, 10).await.unwrap(), [], "an end is final");
}

#[tokio::test]
async fn silence_is_a_failure_once_patience_ends() {
    let cloud = Cloud::new().await;
    cloud.with_devices("lamp", 3).await;
    let release = cloud.released(2, &image(10_000)).await;
    let rollout = cloud.started(&release, first_then_all(&["lamp-0", "lamp-1"])).await;
    cloud.tick().await;
    cloud.offered("lamp-0", 1).await;
    cloud.clock.advance(PATIENCE - Duration::from_secs(1));
    cloud.tick().await;
    assert_eq!(cloud.part(&rollout, "lamp-0").await.unwrap().phase, Phase::Offered);
    cloud.report("lamp-0", &rollout, ReportState::Downloading).await;
    cloud.clock.advance(PATIENCE - Duration::from_secs(1));
    cloud.tick().await;
    assert_eq!(cloud.part(&rollout, "lamp-0").await.unwrap().phase, Phase::Downloading, "it made progress");
    cloud.clock.advance(PATIENCE);
    cloud.tick().await;
    let part = cloud.part(&rollout, "lamp-0").await.unwrap();
    assert_eq!((part.phase, part.reason.as_deref()), (Phase::Failed, Some(NO_PROGRESS)));
    assert_eq!(cloud.part(&rollout, "lamp-1").await.unwrap().phase, Phase::Pending, "it was offered nothing");
    assert_eq!(cloud.rollout(&rollout).await.groups[0].votes, Votes { succeeded: 0, failed: 1 });
    cloud.report("lamp-0", &rollout, ReportState::Confirmed).await;
    assert_eq!(cloud.rollout(&rollout).await.groups[0].votes, Votes { succeeded: 1, failed: 0 }, "late is not never");
}

#[tokio::test]
async fn what_does_not_fit_is_not_offered_and_has_no_vote() {
    let cloud = Cloud::new().await;
    cloud.with_devices("lamp", 4).await;
    let release = cloud.released(2, &image(10_000)).await;
    let rollout = cloud.started(&release, first_then_all(&["lamp-0", "lamp-1", "lamp-2"])).await;
    cloud.tick().await;
    assert_eq!(cloud.ask("lamp-0", &hello(1, "rev-z")).await, Some(Down::Nothing {}));
    assert_eq!(cloud.explained("lamp-0").await, "hardware_mismatch");
    assert_eq!(cloud.hello("lamp-1", 3).await, Down::Nothing {});
    assert_eq!(cloud.explained("lamp-1").await, "up_to_date");
    cloud.change(&Device { stage: Stage::Retired, ..cloud.device("lamp-2").await }).await;
    assert_eq!(cloud.hello("lamp-2", 1).await, Down::Nothing {});
    assert_eq!(cloud.explained("lamp-2").await, "retired");
    let group = &cloud.rollout(&rollout).await.groups[0];
    assert_eq!((group.assigned, group.skipped, group.votes), (3, 3, Votes::default()));
}

#[tokio::test]
async fn a_withdrawn_release_is_offered_to_nobody_and_a_product_has_one_rollout_at_a_time() {
    let cloud = Cloud::new().await;
    cloud.with_devices("lamp", 1).await;
    let Created::Done(waiting) = cloud.create(&signed(&manifest(5, &image(9)))).await else { panic!() };
    let draft = cloud.draft(&waiting.id, first_then_all(&["lamp-0"])).await;
    let start = async |id: &RolloutId| cloud.ota.order(&operator(), id, Order::Start).await.unwrap();
    assert_eq!(start(&draft).await, RolloutOrdered::ReleaseNotReady, "it has no image");
    let release = cloud.released(2, &image(10_000)).await;
    let first = cloud.started(&release, first_then_all(&["lamp-0"])).await;
    let second = cloud.draft(&release, first_then_all(&["lamp-0"])).await;
    assert_eq!(start(&second).await, RolloutOrdered::Another(first.clone()));
    cloud.tick().await;
    let withdrawn = cloud.ota.withdraw(&operator(), &release).await.unwrap();
    assert!(matches!(withdrawn, Withdrawn::Done(_)));
    assert_eq!(cloud.hello("lamp-0", 1).await, Down::Nothing {});
    assert_eq!(cloud.explained("lamp-0").await, "release_not_ready");
    cloud.ordered(&first, Order::Cancel).await;
    assert_eq!(start(&second).await, RolloutOrdered::ReleaseNotReady);
    assert_eq!(start(&RolloutId::parse("none").unwrap()).await, RolloutOrdered::NoSuchRollout);
}

/// It works by itself: an order wakes it, and it ends when it is told to.
#[tokio::test]
async fn it_runs_until_it_is_told_to_stop() {
    let cloud = Cloud::new().await;
    cloud.with_devices("lamp", 1).await;
    let release = cloud.released(2, &image(10_000)).await;
    assert_eq!(cloud.hello("lamp-0", 1).await, Down::Nothing {});
    cloud.radio.connect("lamp-0");
    let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    let running = tokio::spawn(cloud.ota.clone().run(cloud.radio.clone(), async move { drop(stopped.await) }));
    let rollout = cloud.started(&release, first_then_all(&["lamp-0"])).await;
    cloud.radio.speaks().await;
    assert!(matches!(cloud.radio.told("lamp-0")[..], [Down::Offer(_)]));
    cloud.ordered(&rollout, Order::Cancel).await;
    cloud.radio.speaks().await;
    assert_eq!(cloud.radio.told("lamp-0"), [Down::Cancelled { rollout }]);
    stop.send(()).unwrap();
    running.await.unwrap();
}

/// Votes that come at once, at two nodes, are all counted, whoever wins the race.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn counts_are_right_when_all_report_at_once() {
    let cloud = Arc::new(Cloud::new().await);
    cloud.with_devices("lamp", 60).await;
    let release = cloud.released(2, &image(10_000)).await;
    let named: Vec<String> = (0..60).map(|n| format!("lamp-{n}")).collect();
    let plan = first_then_all(&named.iter().map(String::as_str).collect::<Vec<_>>());
    let rollout = cloud.started(&release, plan).await;
    cloud.tick().await;
    let nodes = [cloud.clone(), Arc::new(cloud.another_node().await)];
    let mut all = tokio::task::JoinSet::new();
    for (n, device) in named.into_iter().enumerate() {
        let (cloud, rollout) = (nodes[n % 2].clone(), rollout.clone());
        all.spawn(async move {
            cloud.offered(&device, 1).await;
            let end = if n == 59 { ReportState::Refused } else { ReportState::Confirmed };
            cloud.report(&device, &rollout, end).await;
            cloud.report(&device, &rollout, end).await;
        });
    }
    all.join_all().await;
    let group = cloud.rollout(&rollout).await.groups[0].clone();
    assert_eq!((group.assigned, group.votes), (60, Votes { succeeded: 59, failed: 1 }));
    assert!(matches!(cloud.rollout(&rollout).await.state, State::Halted { group: 0, .. }));
    assert!(cloud.meta.revision().await.unwrap() > Revision(0));
}

/// More devices than one page, and some that come later.
#[tokio::test]
async fn a_large_fleet_is_gone_through_page_by_page() {
    let cloud = Cloud::new().await;
    cloud.with_devices("lamp", 450).await;
    let release = cloud.released(2, &image(10_000)).await;
    let mut plan = first_then_all(&["lamp-0"]);
    plan.groups[0].reach_per_mille = 400;
    let rollout = cloud.started(&release, plan).await;
    cloud.tick().await;
    let first = cloud.rollout(&rollout).await.groups[0].assigned;
    assert!((140..220).contains(&first), "{first} of 450 in a group of 400 of 1000");
    assert_eq!(cloud.phases(&rollout).await, [(Phase::Pending, u64::from(first))]);
    cloud.offered("lamp-0", 1).await;
    cloud.report("lamp-0", &rollout, ReportState::Confirmed).await;
    cloud.tick().await;
    let groups = cloud.rollout(&rollout).await.groups;
    assert_eq!(groups[0].assigned + groups[1].assigned, 450);
    let late = support::device("lamp", 450);
    let batch = iot_core::store::Batch::default().create(&late);
    assert!(iot_core::store::MetaStoreExt::commit_or_conflict(&*cloud.meta, batch).await.unwrap());
    cloud.offered("lamp-450", 1).await;
    let groups = cloud.rollout(&rollout).await.groups;
    assert_eq!(groups[0].assigned + groups[1].assigned, 451);
}

/// The bounds on what a product may have, reached.
#[tokio::test]
async fn a_product_has_so_many_releases_and_rollouts_and_no_more() {
    let cloud = Cloud::new().await;
    cloud.with_devices("lamp", 1).await;
    let image = image(100);
    let release = cloud.released(1, &image).await;
    for sequence in 2..=RELEASES_MAX {
        assert!(matches!(cloud.create(&signed(&manifest(sequence, &image))).await, Created::Done(_)));
    }
    assert_eq!(cloud.create(&signed(&manifest(RELEASES_MAX + 1, &image))).await, Created::TooMany);
    let by = operator();
    let draft = || cloud.ota.create_rollout(&by, &release, first_then_all(&["lamp-0"]));
    for _ in 0..ROLLOUTS_MAX {
        assert!(matches!(draft().await.unwrap(), RolloutCreated::Done(_)));
    }
    assert_eq!(draft().await.unwrap(), RolloutCreated::TooMany);
}

/// An image stays as long as one release names it, also while it is still to come, and is removed with the last.
#[tokio::test]
async fn an_image_without_a_release_is_removed() {
    let cloud = Cloud::new().await;
    cloud.with_devices("lamp", 0).await;
    let image = image(10_000);
    let Created::Done(first) = cloud.create(&signed(&manifest(1, &image))).await else { panic!() };
    let Created::Done(second) = cloud.create(&signed(&manifest(2, &image))).await else { panic!() };
    assert!(matches!(cloud.upload(&first.id, &[&image]).await, Uploaded::Done(_)));
    let names = RecordNames::new(cloud.meta.clone(), [ReleaseRecord::KIND]);
    let collect = || cloud.blobs.collect(&names, Timestamp::EPOCH, Timestamp::MAX);
    assert!(matches!(cloud.ota.withdraw(&operator(), &first.id).await.unwrap(), Withdrawn::Done(_)));
    assert_eq!(collect().await.unwrap().removed, 0, "the second one has its name");
    assert!(matches!(cloud.ota.withdraw(&operator(), &second.id).await.unwrap(), Withdrawn::Done(_)));
    assert_eq!(collect().await.unwrap().removed, 1);
    assert!(cloud.blobs.stat(&first.image()).await.unwrap().is_none());
}
