//! The cloud's side and the device's end of an update together: the real verifier with two slots in a folder loads over the real
//! routes and tells the real service.

#![cfg(all(feature = "http", feature = "device"))]
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

use std::{fs, sync::Arc};

use axum::{
    Router,
    body::{Body, to_bytes},
    http::Request,
};
use iot_core::{
    id::{ProductId, RolloutId},
    time::Monotonic,
};
use iot_http::GuardContext;
use iot_ota::{
    device::{Action, FetchFailure, Identity, Limits, Now, Offered, Running, Slot, SlotFolder, State, Updater},
    http::routes,
    release::{Hardware, Version},
    rollout::{self, Order, Phase, Votes},
    wire::{Down, ReportState, Up},
};
use support::{ADDRESS, Cloud, TestRing, first_then_all, image, tenant, trust};
use tempfile::TempDir;
use tower::ServiceExt;

struct Site {
    cloud: Cloud,
    router: Router,
}

impl Site {
    async fn new(devices: usize) -> Self {
        let cloud = Cloud::new().await;
        cloud.with_devices("lamp", devices).await;
        let context = GuardContext::new(cloud.meta.clone(), Arc::new(TestRing), cloud.clock.clone());
        let router = routes(cloud.ota.clone(), context).into_router();
        Self { cloud, router }
    }

    async fn load(&self, url: &str, range: &std::ops::Range<u64>) -> Result<Vec<u8>, FetchFailure> {
        let range = format!("bytes={}-{}", range.start, range.end - 1);
        let request = Request::get(url.strip_prefix(ADDRESS).unwrap()).header("range", range);
        let response = self.router.clone().oneshot(request.body(Body::empty()).unwrap()).await.unwrap();
        match response.status().as_u16() {
            206 => Ok(to_bytes(response.into_body(), 1_000_000).await.unwrap().to_vec()),
            403 => Err(FetchFailure::LinkExpired),
            other => panic!("{other}"),
        }
    }
}

/// A device with its flash.
struct Unit {
    id: String,
    folder: TempDir,
    slots: SlotFolder,
    updater: Updater,
    /// Whether new images do their work on it.
    well: bool,
    fetches: usize,
}

const SLOT_BYTES: u64 = 100_000;
/// More than any update here takes.
const STEPS_MAX: usize = 1_000;

fn identity() -> Identity {
    let factory =
        Running { version: Version::parse("1.0.0").unwrap(), sequence: 1, security_version: 0, manifest: None };
    Identity {
        tenant: tenant(),
        product: ProductId::parse("lamp").unwrap(),
        hardware: Hardware::parse("rev-a").unwrap(),
        factory,
        slot_bytes: SLOT_BYTES,
    }
}

impl Unit {
    fn new(site: &Site, id: &str, well: bool) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let slots = SlotFolder::open(folder.path(), SLOT_BYTES).unwrap();
        let updater = Updater::new(identity(), trust(), Limits::default(), None);
        let mut unit = Self { id: id.to_owned(), folder, slots, updater, well, fetches: 0 };
        unit.start(site);
        unit
    }

    fn now(site: &Site) -> Now {
        Now { time: site.cloud.now(), uptime: Monotonic::ZERO }
    }

    /// As after power has come: nothing is remembered but what was stored.
    fn start(&mut self, site: &Site) {
        self.slots = SlotFolder::open(self.folder.path(), SLOT_BYTES).unwrap();
        let (slot, state) = self.slots.boot(|| State::factory(identity().factory)).unwrap();
        self.updater = Updater::new(identity(), trust(), Limits::default(), Some(state));
        self.updater.booted(Self::now(site), slot);
        self.updater.health(Self::now(site), self.well || slot == Slot::A);
    }

    async fn hello(&mut self, site: &Site) -> Option<Offered> {
        let hello = Up::Hello(self.updater.hello()).to_json();
        let answer = site.cloud.ask(&self.id, &hello).await.unwrap();
        self.hear(site, &answer)
    }

    fn hear(&mut self, site: &Site, down: &Down) -> Option<Offered> {
        match down {
            Down::Offer(offer) => return Some(self.updater.offer(Self::now(site), offer)),
            Down::Cancelled { rollout } => self.updater.cancelled(rollout),
            Down::Nothing {} => self.updater.nothing(),
            other => panic!("{other:?}"),
        }
        None
    }

    /// Does what there is to do, at most so much.
    async fn work(&mut self, site: &Site, steps: usize) {
        for _ in 0..steps {
            let Some(action) = self.updater.poll_action() else { break };
            self.slots.save(self.updater.state()).unwrap();
            self.carry_out(site, action).await;
        }
        self.slots.save(self.updater.state()).unwrap();
    }

    async fn carry_out(&mut self, site: &Site, action: Action) {
        let now = Self::now(site);
        match action {
            Action::Read { slot, chunk, range } => {
                let bytes = self.slots.read(slot, range).unwrap();
                self.updater.stored(now, chunk, &bytes);
            }
            Action::Fetch { url, chunk, range } => {
                self.fetches += 1;
                match site.load(&url, &range).await {
                    Ok(bytes) => self.updater.chunk(now, chunk, bytes),
                    Err(failure) => self.updater.fetch_failed(now, failure),
                }
            }
            Action::Write { slot, offset, bytes } => {
                self.slots.write(slot, offset, &bytes).unwrap();
                self.updater.written(now);
            }
            Action::Hello => drop(self.hello(site).await),
            Action::Activate { .. } | Action::Revert { .. } => self.start(site),
            Action::Confirm { .. } => self.updater.confirmed(),
            Action::Report(report) => {
                let answer = site.cloud.ask(&self.id, &Up::Report(report.clone()).to_json()).await;
                if report.state.is_final() {
                    self.updater.reported(&report);
                }
                if let Some(down) = answer {
                    self.hear(site, &down);
                }
            }
            other => panic!("{other:?}"),
        }
    }

    /// Asks, and does what follows to its end.
    async fn update(&mut self, site: &Site) -> Option<Offered> {
        let offered = self.hello(site).await;
        self.work(site, STEPS_MAX).await;
        offered
    }

    fn runs(&self) -> (u64, Slot) {
        let hello = self.updater.hello();
        (hello.sequence, hello.slot)
    }
}

async fn part(site: &Site, rollout: &RolloutId, device: &str) -> Option<Phase> {
    site.cloud.part(rollout, device).await.map(|part| part.phase)
}

#[tokio::test]
async fn devices_take_a_release_one_group_after_the_other() {
    let site = Site::new(3).await;
    let image = image(50_000);
    let release = site.cloud.released(2, &image).await;
    let mut units = ["lamp-0", "lamp-1", "lamp-2"].map(|id| Unit::new(&site, id, true));
    assert_eq!(units[0].update(&site).await, None, "nothing is rolled out");
    let rollout = site.cloud.started(&release, first_then_all(&["lamp-0"])).await;
    site.cloud.tick().await;
    assert_eq!(units[1].update(&site).await, None, "its group is not open");
    assert_eq!(units[0].update(&site).await, Some(Offered::Accepted));
    assert_eq!(units[0].runs(), (2, Slot::B));
    assert_eq!(fs::read(units[0].slots.image_path(Slot::B)).unwrap(), image);
    assert_eq!(part(&site, &rollout, "lamp-0").await, Some(Phase::Confirmed));
    site.cloud.tick().await;
    for unit in &mut units[1..] {
        assert_eq!(unit.update(&site).await, Some(Offered::Accepted));
        assert_eq!(unit.runs(), (2, Slot::B));
    }
    site.cloud.tick().await;
    assert_eq!(site.cloud.rollout(&rollout).await.state, rollout::State::Completed);
    assert_eq!(units[2].update(&site).await, None, "it is what was rolled out");
}

#[tokio::test]
async fn an_image_that_is_not_well_is_left_and_its_gate_keeps_it_from_the_rest() {
    let site = Site::new(3).await;
    let release = site.cloud.released(2, &image(50_000)).await;
    let mut units = ["lamp-0", "lamp-1", "lamp-2"].map(|id| Unit::new(&site, id, id == "lamp-2"));
    let rollout = site.cloud.started(&release, first_then_all(&["lamp-0", "lamp-1"])).await;
    site.cloud.tick().await;
    // The other one of the group has loaded half of it when the first comes back.
    assert_eq!(units[1].hello(&site).await, Some(Offered::Accepted));
    units[1].work(&site, 60).await;
    assert_eq!(part(&site, &rollout, "lamp-1").await, Some(Phase::Downloading));
    assert_eq!(units[0].update(&site).await, Some(Offered::Accepted));
    assert_eq!(units[0].runs(), (1, Slot::A));
    let rolled_back = site.cloud.part(&rollout, "lamp-0").await.unwrap();
    assert_eq!((rolled_back.phase, rolled_back.reason.as_deref()), (Phase::RolledBack, Some("unhealthy")));
    units[1].work(&site, STEPS_MAX).await;
    assert_eq!(part(&site, &rollout, "lamp-1").await, Some(Phase::RolledBack));
    let votes = Votes { succeeded: 0, failed: 2 };
    assert_eq!(site.cloud.rollout(&rollout).await.state, rollout::State::Halted { group: 0, votes });
    assert_eq!(units[2].update(&site).await, None, "the gate is closed");
    assert_eq!(units[2].runs(), (1, Slot::A));
    // Not the same again; the next one may be better.
    let again = site.cloud.started(&release, first_then_all(&["lamp-0"])).await;
    site.cloud.tick().await;
    assert_eq!(units[0].update(&site).await, None);
    assert_eq!(part(&site, &again, "lamp-0").await, Some(Phase::Skipped));
    site.cloud.ordered(&again, Order::Cancel).await;
    let better = site.cloud.released(3, &image(40_000)).await;
    let rollout = site.cloud.started(&better, first_then_all(&["lamp-0"])).await;
    site.cloud.tick().await;
    units[0].well = true;
    assert_eq!(units[0].update(&site).await, Some(Offered::Accepted));
    assert_eq!((units[0].runs(), part(&site, &rollout, "lamp-0").await), ((3, Slot::B), Some(Phase::Confirmed)));
}

#[tokio::test]
async fn a_device_goes_on_after_a_power_cut_and_with_a_new_link() {
    let site = Site::new(1).await;
    let release = site.cloud.released(2, &image(50_000)).await;
    let rollout = site.cloud.started(&release, first_then_all(&["lamp-0"])).await;
    site.cloud.tick().await;
    let mut unit = Unit::new(&site, "lamp-0", true);
    assert_eq!(unit.hello(&site).await, Some(Offered::Accepted));
    unit.work(&site, 60).await;
    let before = unit.fetches;
    assert!((5..45).contains(&before), "{before} of 49 chunks");
    unit.start(&site);
    site.cloud.clock.advance(std::time::Duration::from_secs(3_500));
    unit.work(&site, STEPS_MAX).await;
    assert_eq!(unit.runs(), (2, Slot::B));
    assert!(unit.fetches <= 49 + 1, "{}: what was there is not loaded again", unit.fetches);
    assert_eq!(part(&site, &rollout, "lamp-0").await, Some(Phase::Confirmed));
}

#[tokio::test]
async fn a_device_that_loads_stops_when_the_rollout_is_cancelled() {
    let site = Site::new(1).await;
    let release = site.cloud.released(2, &image(50_000)).await;
    let rollout = site.cloud.started(&release, first_then_all(&["lamp-0"])).await;
    site.cloud.tick().await;
    let mut unit = Unit::new(&site, "lamp-0", true);
    assert_eq!(unit.hello(&site).await, Some(Offered::Accepted));
    unit.work(&site, 60).await;
    site.cloud.ordered(&rollout, Order::Cancel).await;
    // It learns it with its next report of progress.
    unit.work(&site, STEPS_MAX).await;
    assert_eq!(unit.runs(), (1, Slot::A));
    assert!(unit.fetches < 49, "{}", unit.fetches);
    assert_eq!(part(&site, &rollout, "lamp-0").await, Some(Phase::Downloading));
    let report = site.cloud.report("lamp-0", &rollout, ReportState::Downloading).await;
    assert_eq!(report, Some(Down::Cancelled { rollout }));
}
