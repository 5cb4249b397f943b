use super::*;
use crate::release::Refused;

#[test]
fn an_update_goes_to_its_end() {
    let mut device = Device::new();
    let updater = device.power_on().unwrap();
    let hello = updater.hello();
    assert_eq!((hello.version.as_str(), hello.sequence, hello.slot), ("2.0.0", 2, Slot::B));
    assert_eq!(device.image(Slot::A), old_image());
    assert_eq!(device.image(Slot::B), new_image());
    let states = device.states();
    let order = [ReportState::Downloading, ReportState::Verified, ReportState::Installed, ReportState::Confirmed];
    assert!(order.is_sorted_by_key(|state| states.iter().position(|other| other == state).unwrap()), "{states:?}");
    let percents: Vec<_> = device.reports.iter().filter_map(|report| report.progress_percent).collect();
    assert!(percents.is_sorted() && percents.first() == Some(&0) && percents.iter().all(|p| *p <= 100), "{percents:?}");
}

#[test]
fn the_next_update_goes_into_the_other_slot_and_takes_what_is_there() {
    let mut device = Device::new();
    device.power_on().unwrap();
    // The third image shares its first chunk with the old one, which is still in slot A.
    let third: Vec<u8> = [&old_image()[..1024], &new_image()[..]].concat();
    device.offer = Some(offer_of(&Manifest { sequence: 3, ..manifest(&third) }));
    device.body = third.clone();
    device.well = |_| None;
    device.actions.clear();
    let mut folder = device.power_on_tried();
    assert_eq!(device.image(Slot::A), third);
    assert_eq!(device.image(Slot::B), new_image());
    assert_eq!(device.actions.iter().filter(|name| **name == "fetch").count(), 4);
    folder.health(now(), true);
    assert_eq!(actions(&mut folder), [Action::Confirm { slot: Slot::A }]);
}

impl Device {
    /// Runs until the other slot is about to start, and starts it in memory.
    fn power_on_tried(&mut self) -> Updater {
        assert!(self.run().unwrap().is_none(), "it restarts");
        let (slot, state) = SlotFolder::open(self.path(), SLOT_BYTES).unwrap().boot(|| panic!("stored")).unwrap();
        let mut updater = Updater::new(identity(), trust(), Limits::default(), Some(state));
        updater.booted(now(), slot);
        let said = actions(&mut updater);
        assert!(matches!(&said[..], [Action::Report(Report { state: ReportState::Installed, .. })]), "{said:?}");
        updater
    }
}

#[test]
fn the_same_release_again_is_answered_with_confirmed() {
    let mut device = Device::new();
    let mut updater = device.power_on().unwrap();
    assert_eq!(updater.offer(now(), &offer()), Offered::Present);
    assert_eq!(final_report(&actions(&mut updater)), Some((ReportState::Confirmed, "")));
    let other = offer_of(&Manifest { notes: "other".into(), ..manifest(&new_image()) });
    assert_eq!(updater.offer(now(), &other), Offered::Refused(Refused::NotNewer));
}

#[test]
fn an_end_is_reported_until_the_cloud_knows_it() {
    let mut device = Device { well: |_| None, ..Device::new() };
    let mut updater = device.power_on_tried();
    updater.health(now(), true);
    updater.confirmed();
    let said = actions(&mut updater);
    assert_eq!(final_report(&said), Some((ReportState::Confirmed, "")));
    let again = |state: &State| {
        let mut updater = Updater::new(identity(), trust(), Limits::default(), Some(state.clone()));
        updater.booted(now(), Slot::B);
        actions(&mut updater)
    };
    let repeated = again(updater.state());
    let [Action::Report(report)] = &repeated[..] else { panic!("{repeated:?}") };
    updater.reported(report);
    assert_eq!(again(updater.state()), []);
}

#[test]
fn a_link_that_expired_is_asked_for_again() {
    let mut updater = fetching();
    updater.fetch_failed(now(), FetchFailure::LinkExpired);
    let at = updater.poll_deadline().unwrap();
    updater.tick(Now { time: NOON, uptime: at });
    assert_eq!(actions(&mut updater), [Action::Hello]);
    let rollout = RolloutId::parse("second").unwrap();
    let fresh = Offer { url: "https://cloud/fresh".into(), rollout: rollout.clone(), ..offer() };
    assert_eq!(updater.offer(now(), &fresh), Offered::Continued);
    assert!(matches!(&actions(&mut updater)[..], [Action::Fetch { url, chunk: 0, .. }] if url.ends_with("fresh")));
    updater.storage_failed(now());
    assert!(matches!(&actions(&mut updater)[..], [Action::Report(report)] if report.rollout == rollout));
}

#[test]
fn an_update_without_a_link_ends_after_its_tries() {
    let mut updater = booted();
    assert_eq!(updater.offer(now(), &offer()), Offered::Accepted);
    let mut updater = Updater::new(identity(), trust(), Limits::default(), Some(updater.state().clone()));
    updater.booted(now(), Slot::A);
    for chunk in 0..4 {
        updater.stored(now(), chunk, &[]);
    }
    let mut hellos = 0;
    let end = (0..STEPS_MAX).find_map(|_| {
        let said = actions(&mut updater);
        hellos += said.iter().filter(|action| **action == Action::Hello).count();
        if let Some(at) = updater.poll_deadline() {
            updater.tick(Now { time: NOON, uptime: at });
        }
        final_report(&said).map(|(state, reason)| (state, reason.to_owned()))
    });
    assert_eq!(end, Some((ReportState::Failed, "no_link".into())));
    assert_eq!(hellos, usize::from(Limits::default().fetch_tries_max) - 1);
}

#[test]
fn a_rollout_that_is_withdrawn_stops_a_download_and_not_a_trial() {
    let rollout = offer().rollout;
    let mut updater = fetching();
    updater.cancelled(&RolloutId::parse("another").unwrap());
    assert!(updater.poll_deadline().is_some());
    updater.cancelled(&rollout);
    updater.chunk(now(), 0, chunk_of(&new_image(), 0));
    assert_eq!((actions(&mut updater), updater.poll_deadline()), (vec![], None));
    let mut updater = fetching();
    updater.nothing();
    updater.chunk(now(), 0, chunk_of(&new_image(), 0));
    assert_eq!(actions(&mut updater), []);

    let mut device = Device { well: |_| None, ..Device::new() };
    let mut updater = device.power_on_tried();
    updater.cancelled(&rollout);
    updater.nothing();
    updater.health(now(), true);
    assert_eq!(actions(&mut updater), [Action::Confirm { slot: Slot::B }]);
}

#[test]
fn an_offer_waits_while_another_is_tried() {
    let mut updater = Updater::new(identity(), trust(), Limits::default(), None);
    assert_eq!(updater.offer(now(), &offer()), Offered::Busy, "it is not known which slot runs");
    let mut device = Device { well: |_| None, ..Device::new() };
    let mut updater = device.power_on_tried();
    let next = offer_of(&Manifest { sequence: 3, ..manifest(&new_image()) });
    assert_eq!(updater.offer(now(), &next), Offered::Busy);
    assert_eq!(actions(&mut updater), []);
}

#[test]
fn a_newer_offer_replaces_one_that_is_loaded() {
    let mut updater = fetching();
    let next = offer_of(&Manifest { sequence: 3, ..manifest(&old_image()) });
    assert_eq!(updater.offer(now(), &next), Offered::Accepted);
    assert!(matches!(actions(&mut updater)[..], [Action::Report(_), Action::Read { slot: Slot::B, chunk: 0, .. }]));
}

#[test]
fn storage_that_forgets_ends_the_update() {
    let mut updater = fetching();
    updater.chunk(now(), 0, chunk_of(&new_image(), 0));
    let mut written = 0;
    let end = (0..STEPS_MAX).find_map(|_| {
        let said = actions(&mut updater);
        for action in &said {
            match action {
                Action::Fetch { chunk, .. } => updater.chunk(now(), *chunk, chunk_of(&new_image(), *chunk as usize)),
                Action::Write { .. } => {
                    written += 1;
                    updater.written(now());
                }
                Action::Read { chunk, .. } => updater.stored(now(), *chunk, b"lost"),
                _ => {}
            }
        }
        final_report(&said).map(|(state, reason)| (state, reason.to_owned()))
    });
    assert_eq!(end, Some((ReportState::Failed, "storage".into())));
    assert_eq!(written, 4 * (1 + usize::from(Limits::default().rewrites_max)));
    let mut updater = fetching();
    updater.chunk(now(), 0, chunk_of(&new_image(), 0));
    updater.storage_failed(now());
    assert_eq!(final_report(&actions(&mut updater)), Some((ReportState::Failed, "storage")));
}
