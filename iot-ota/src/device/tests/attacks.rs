use super::*;
use crate::release::Refused;

/// Offers this to a device that would take the honest offer, and expects a refusal that changes nothing.
fn refused(mut device: Updater, bad: &Offer, code: &str) {
    let before = device.state().clone();
    let Offered::Refused(refused) = device.offer(now(), bad) else { panic!("it was not refused: {code}") };
    assert_eq!(refused.code(), code);
    let said = actions(&mut device);
    assert_eq!(final_report(&said), Some((ReportState::Refused, code)));
    assert_eq!(said.len(), 1, "nothing is read, loaded or written: {said:?}");
    assert_eq!(*device.state(), before);
    assert_eq!(device.offer(now(), &offer()), Offered::Accepted, "the honest offer is taken after it");
}

fn changed(change: impl FnOnce(&mut Manifest)) -> Offer {
    let mut manifest = manifest(&new_image());
    change(&mut manifest);
    offer_of(&manifest)
}

#[test]
fn ot_1_arbitrary_software() {
    let mut unsigned = offer();
    unsigned.release.signatures.clear();
    refused(booted(), &unsigned, "signatures_insufficient");
    let mut other_key = offer();
    other_key.release.signatures.clear();
    other_key.release.add_signature(&key(2));
    refused(booted(), &other_key, "signatures_insufficient");
    let mut other_bytes = offer();
    other_bytes.release.manifest = other_bytes.release.manifest.replace("\"sequence\":2", "\"sequence\":3");
    refused(booted(), &other_bytes, "signatures_insufficient");
}

#[test]
fn ot_1_a_bad_offer_does_not_disturb_a_download() {
    let mut updater = fetching();
    let mut unsigned = offer();
    unsigned.release.signatures.clear();
    assert!(matches!(updater.offer(now(), &unsigned), Offered::Refused(_)));
    updater.chunk(now(), 0, chunk_of(&new_image(), 0));
    assert!(matches!(actions(&mut updater)[..], [Action::Report(_), Action::Write { slot: Slot::B, .. }]));
}

#[test]
fn ot_1_a_stored_job_counts_for_its_signatures_only() {
    let mut updater = booted();
    assert_eq!(updater.offer(now(), &offer()), Offered::Accepted);
    let honest = String::from_utf8(updater.state().to_json()).unwrap();
    let restart = |text: &str| {
        let state = State::parse(text.as_bytes()).unwrap();
        let mut updater = Updater::new(identity(), trust(), Limits::default(), Some(state));
        updater.booted(now(), Slot::A);
        actions(&mut updater)
    };
    assert!(matches!(restart(&honest)[..], [Action::Read { .. }]));
    assert_eq!(restart(&honest.replace("2.0.0", "6.6.6")), []);
    // One that is tried already is left.
    let trial = String::from_utf8(tried().state().to_json()).unwrap().replace("2.0.0", "6.6.6");
    let state = State::parse(trial.as_bytes()).unwrap();
    let mut updater = Updater::new(identity(), trust(), Limits::default(), Some(state));
    updater.booted(now(), Slot::B);
    updater.health(now(), true);
    assert_eq!(actions(&mut updater), [Action::Revert { slot: Slot::A }]);
}

#[test]
fn ot_2_rollback() {
    // A device that has confirmed sequence 2 and security version 1.
    let updated = || Device::new().power_on().unwrap();
    let next = changed(|manifest| manifest.sequence = 3);
    assert_eq!(updated().offer(now(), &next), Offered::Accepted);
    let older = changed(|manifest| manifest.sequence = 1);
    assert_eq!(updated().offer(now(), &older), Offered::Refused(Refused::Rollback));
    let less_secure = changed(|manifest| (manifest.sequence, manifest.security_version) = (3, 0));
    assert_eq!(updated().offer(now(), &less_secure), Offered::Refused(Refused::Rollback));
    refused(booted(), &changed(|manifest| manifest.security_version = 0), "rollback");
    // A release that mended a hole raises what is asked of every later one.
    let mended = changed(|manifest| manifest.security_version = 2);
    let mut device = Device { offer: Some(mended), ..Device::new() };
    assert_eq!(device.power_on().unwrap().offer(now(), &next), Offered::Refused(Refused::Rollback));
    refused(booted(), &changed(|manifest| manifest.sequence = 1), "not_newer");
}

#[test]
fn ot_3_an_expired_release_with_the_clock_set_back() {
    let newer = changed(|manifest| {
        (manifest.created, manifest.expires) = (NOON.minus(HOUR).plus(2 * HOUR), NOON.plus(24 * HOUR));
    });
    let stale = changed(|manifest| {
        (manifest.sequence, manifest.expires) = (3, NOON.plus(HOUR / 2));
    });
    refused(booted(), &changed(|manifest| manifest.expires = NOON), "expired");
    refused(booted(), &Offer { expires: NOON, ..offer() }, "expired");
    // By its clock it would do; what it has confirmed was made later.
    let offered = |first: Offer| {
        let mut device = Device { offer: Some(first), ..Device::new() };
        device.power_on().unwrap().offer(now(), &stale)
    };
    assert_eq!(offered(offer()), Offered::Accepted);
    assert_eq!(offered(newer), Offered::Refused(Refused::Expired));
}

#[test]
fn ot_6_a_body_without_end_is_refused_at_its_first_byte_too_many() {
    let mut updater = fetching();
    let mut long = chunk_of(&new_image(), 0);
    updater.chunk(now(), 0, long.clone());
    assert!(matches!(actions(&mut updater)[..], [Action::Write { .. }]));
    let mut updater = fetching();
    long.push(0);
    assert_tries(&mut updater, &long, "body_too_long");
}

#[test]
fn ot_6_a_body_that_is_cut_off() {
    let mut short = chunk_of(&new_image(), 0);
    short.pop();
    assert_tries(&mut fetching(), &short, "body_truncated");
    assert_tries(&mut fetching(), &[], "body_truncated");
}

#[test]
fn ot_6_a_chunk_that_is_not_the_signed_one() {
    let mut wrong = chunk_of(&new_image(), 0);
    wrong[1023] ^= 0x80;
    assert_tries(&mut fetching(), &wrong, "chunk_hash");
    assert_tries(&mut fetching(), &chunk_of(&new_image(), 1), "chunk_hash");
    // One that is mended in between does not fail the update.
    let mut updater = fetching();
    for _ in 1..Limits::default().chunk_tries_max {
        updater.chunk(now(), 0, wrong.clone());
        assert!(matches!(actions(&mut updater)[..], [Action::Fetch { chunk: 0, .. }]));
    }
    updater.chunk(now(), 0, chunk_of(&new_image(), 0));
    assert!(matches!(actions(&mut updater)[..], [Action::Write { offset: 0, .. }]));
    // And the next chunk has its own tries.
    updater.written(now());
    for _ in 0..Limits::default().chunk_tries_max - 1 {
        assert!(matches!(actions(&mut updater).last(), Some(Action::Fetch { chunk: 1, .. })));
        updater.chunk(now(), 1, wrong.clone());
    }
    assert!(matches!(actions(&mut updater)[..], [Action::Fetch { chunk: 1, .. }]));
}

#[test]
fn ot_6_an_answer_that_was_not_asked_for_is_ignored() {
    let mut updater = fetching();
    updater.stored(now(), 0, &chunk_of(&new_image(), 0));
    updater.written(now());
    updater.chunk(now(), 1, chunk_of(&new_image(), 1));
    updater.confirmed();
    assert_eq!(actions(&mut updater), []);
    updater.chunk(now(), 0, chunk_of(&new_image(), 0));
    assert!(matches!(actions(&mut updater)[..], [Action::Write { .. }]));
    updater.chunk(now(), 0, chunk_of(&new_image(), 0));
    updater.fetch_failed(now(), FetchFailure::Unreachable);
    assert_eq!(actions(&mut updater), []);
    updater.written(now());
    assert!(matches!(actions(&mut updater).last(), Some(Action::Fetch { chunk: 1, .. })));
}

/// A bad chunk is asked for again up to its bound, is never written, and then the update fails.
fn assert_tries(updater: &mut Updater, bad: &[u8], code: &str) {
    for _ in 1..Limits::default().chunk_tries_max {
        updater.chunk(now(), 0, bad.to_vec());
        let said = actions(updater);
        assert!(matches!(said[..], [Action::Fetch { chunk: 0, .. }]), "{said:?}");
    }
    updater.chunk(now(), 0, bad.to_vec());
    let said = actions(updater);
    assert_eq!((final_report(&said), said.len()), (Some((ReportState::Failed, code)), 1));
    assert_eq!(updater.offer(now(), &offer()), Offered::Accepted, "a failure is not held against the release");
}

#[test]
fn ot_6_an_image_that_does_not_fit_its_slot() {
    let fitting = vec![7; usize::try_from(SLOT_BYTES).unwrap()];
    assert_eq!(booted().offer(now(), &offer_of(&manifest(&fitting))), Offered::Accepted);
    refused(booted(), &offer_of(&manifest(&[&fitting[..], &[7]].concat())), "image_too_large");
}

#[test]
fn ot_6_chunks_that_are_not_the_image() {
    let honest = whole(&offer());
    assert!(matches!(&actions(&mut { honest })[..], [Action::Report(_), Action::Activate { slot: Slot::B }]));
    let other = Image::of(&old_image(), CHUNK_BYTES_MIN).unwrap().sha256;
    let contradictory = changed(|manifest| manifest.image.sha256 = other);
    let mut updater = whole(&contradictory);
    assert_eq!(final_report(&actions(&mut updater)), Some((ReportState::Refused, "image_hash")));
    assert_eq!(updater.offer(now(), &contradictory), Offered::Refused(Refused::Reverted));
}

/// A device in whose other slot the new image stands already.
fn whole(offer: &Offer) -> Updater {
    let mut updater = booted();
    assert_eq!(updater.offer(now(), offer), Offered::Accepted);
    let _read = actions(&mut updater);
    (0..4).for_each(|chunk| updater.stored(now(), chunk, &chunk_of(&new_image(), chunk as usize)));
    updater
}

#[test]
fn ot_7_a_body_that_does_not_come_is_fetched_again_and_bounded() {
    let limits = Limits::default();
    let mut updater = fetching();
    let mut fetches = 1;
    let mut uptime = Monotonic::ZERO;
    let end = (0..STEPS_MAX).find_map(|_| {
        let until = updater.poll_deadline()?;
        assert!(until.since(uptime) <= limits.chunk_timeout.max(limits.pause_max));
        uptime = until;
        updater.tick(Now { time: NOON, uptime });
        let said = actions(&mut updater);
        fetches += said.iter().filter(|action| matches!(action, Action::Fetch { .. })).count();
        final_report(&said).map(|(state, reason)| (state, reason.to_owned()))
    });
    assert_eq!(end, Some((ReportState::Failed, "too_slow".into())));
    assert_eq!(fetches, usize::from(limits.fetch_tries_max));
    let mut updater = fetching();
    updater.tick(later(limits.chunk_timeout - Duration::from_millis(1)));
    updater.chunk(now(), 0, chunk_of(&new_image(), 0));
    assert!(matches!(actions(&mut updater)[..], [Action::Write { .. }]), "it came in time");
}

#[test]
fn ot_8_wrong_software() {
    assert_eq!(booted().offer(now(), &offer()), Offered::Accepted);
    refused(booted(), &changed(|m| m.tenant = TenantId::parse("other").unwrap()), "wrong_product");
    refused(booted(), &changed(|m| m.product = ProductId::parse("lock").unwrap()), "wrong_product");
    refused(booted(), &changed(|m| m.hardware = vec![Hardware::parse("r2").unwrap()]), "wrong_hardware");
}

#[test]
fn ot_9_one_key_of_two() {
    let trust = Trust::new(2, vec![key(1).public(), key(2).public()]).unwrap();
    let device = || {
        let mut updater = Updater::new(identity(), trust.clone(), Limits::default(), None);
        updater.booted(now(), Slot::A);
        updater
    };
    let mut both = offer();
    both.release.add_signature(&key(2));
    assert_eq!(device().offer(now(), &both), Offered::Accepted);
    let mut twice = offer();
    twice.release.signatures.push(twice.release.signatures[0]);
    let insufficient = Refused::Signatures { valid: 1, needed: 2 };
    assert_eq!(device().offer(now(), &offer()), Offered::Refused(insufficient.clone()));
    assert_eq!(device().offer(now(), &twice), Offered::Refused(insufficient));
}

#[test]
fn ot_14_a_slot_that_was_changed_after_it_was_written() {
    let mut updater = booted();
    assert_eq!(updater.offer(now(), &offer()), Offered::Accepted);
    let _read = actions(&mut updater);
    let mut tampered = new_image();
    tampered[1500] ^= 1;
    (0..4).for_each(|chunk| updater.stored(now(), chunk, &chunk_of(&tampered, chunk as usize)));
    let said = actions(&mut updater);
    assert!(matches!(said[..], [Action::Fetch { chunk: 1, .. }]), "{said:?}");
}

#[test]
fn ot_16_an_image_that_never_starts_is_reverted_and_not_taken_again() {
    // The new image crashes before it can say anything: only the boot loader counts.
    let mut device = Device { well: |_| None, ..Device::new() };
    assert!(device.run().unwrap().is_none());
    let mut slots = SlotFolder::open(device.path(), SLOT_BYTES).unwrap();
    let started: Vec<_> = (0..=BOOTS_MAX).map(|_| slots.boot(|| panic!("stored")).unwrap()).collect();
    let tried = usize::from(BOOTS_MAX);
    assert!(started[..tried].iter().all(|(slot, _)| *slot == Slot::B));
    assert_eq!(started[tried].0, Slot::A);
    let mut updater = Updater::new(identity(), trust(), Limits::default(), Some(started[tried].1.clone()));
    updater.booted(now(), Slot::A);
    assert_eq!(final_report(&actions(&mut updater)), Some((ReportState::RolledBack, "boot_failed")));
    assert_eq!(updater.offer(now(), &offer()), Offered::Refused(Refused::Reverted));
    assert_eq!(updater.hello().sequence, 1);
    // A mended release is taken.
    let mended = changed(|manifest| manifest.sequence = 3);
    assert_eq!(updater.offer(now(), &mended), Offered::Accepted);
}

#[test]
fn ot_16_an_image_that_is_unwell_is_reverted() {
    let mut device = Device { well: |image| Some(!image.starts_with(&new_image())), ..Device::new() };
    let mut updater = device.power_on().unwrap();
    let last = device.reports.iter().find(|report| report.state == ReportState::RolledBack).unwrap();
    assert_eq!(last.reason.as_deref(), Some("unhealthy"));
    assert_eq!(updater.hello().slot, Slot::A);
    assert_eq!(updater.offer(now(), &offer()), Offered::Refused(Refused::Reverted));
}

#[test]
fn ot_16_an_image_that_says_nothing_is_reverted_in_time() {
    let mut updater = tried();
    let until = updater.poll_deadline().unwrap();
    assert_eq!(until, Monotonic::from_duration(Limits::default().trial));
    updater.tick(later(Limits::default().trial - Duration::from_millis(1)));
    assert_eq!(actions(&mut updater), []);
    updater.tick(later(Limits::default().trial));
    assert_eq!(actions(&mut updater), [Action::Revert { slot: Slot::A }]);
    updater.health(now(), true);
    updater.confirmed();
    assert_eq!(actions(&mut updater), [], "it is too late to be well");
    updater.booted(now(), Slot::A);
    assert_eq!(final_report(&actions(&mut updater)), Some((ReportState::RolledBack, "health_timeout")));
}

#[test]
fn ot_16_a_trial_that_is_decided_has_no_deadline() {
    let mut updater = tried();
    updater.health(now(), true);
    assert_eq!((actions(&mut updater), updater.poll_deadline()), (vec![Action::Confirm { slot: Slot::B }], None));
    updater.tick(later(Limits::default().trial));
    updater.health(now(), false);
    assert_eq!(actions(&mut updater), []);
    // The power goes before the boot loader is told: it is told again, and nothing counts before the start.
    let mut updater = Updater::new(identity(), trust(), Limits::default(), Some(updater.state().clone()));
    updater.confirmed();
    assert_eq!(actions(&mut updater), []);
    updater.booted(now(), Slot::B);
    assert_eq!(actions(&mut updater), [Action::Confirm { slot: Slot::B }]);
    updater.confirmed();
    assert_eq!(final_report(&actions(&mut updater)), Some((ReportState::Confirmed, "")));
}

/// The new image, just started for the first time.
fn tried() -> Updater {
    let mut updater = whole(&offer());
    let _activate = actions(&mut updater);
    updater.booted(now(), Slot::B);
    let said = actions(&mut updater);
    assert!(matches!(&said[..], [Action::Report(report)] if report.state == ReportState::Installed), "{said:?}");
    updater
}

#[test]
fn ot_16_a_boot_loader_that_goes_back_on_its_own() {
    // Tried and gone back before or while it was confirmed.
    let mut updater = tried();
    updater.booted(now(), Slot::A);
    assert_eq!(final_report(&actions(&mut updater)), Some((ReportState::RolledBack, "boot_failed")));
    let mut updater = tried();
    updater.health(now(), true);
    updater.booted(now(), Slot::A);
    assert_eq!(final_report(&actions(&mut updater)), Some((ReportState::RolledBack, "boot_failed")));
    // Gone back long after: what runs is not written to.
    let mut updater = tried();
    updater.health(now(), true);
    updater.confirmed();
    let _reports = actions(&mut updater);
    updater.booted(now(), Slot::A);
    assert_eq!((updater.hello().sequence, updater.hello().slot), (1, Slot::A));
    assert_eq!(updater.offer(now(), &changed(|manifest| manifest.sequence = 3)), Offered::Accepted);
    assert!(matches!(actions(&mut updater)[..], [Action::Report(_), Action::Read { slot: Slot::B, .. }]));
}

#[test]
fn ot_16_a_boot_loader_that_does_not_start_the_image_is_asked_a_bounded_number_of_times() {
    let mut updater = whole(&offer());
    let mut activations = 0;
    let end = (0..STEPS_MAX).find_map(|_| {
        let said = actions(&mut updater);
        if said.iter().any(|action| matches!(action, Action::Activate { .. })) {
            activations += 1;
            updater.booted(now(), Slot::A);
            // Read back and hashed again before it is activated again.
            (0..4).for_each(|chunk| updater.stored(now(), chunk, &chunk_of(&new_image(), chunk as usize)));
        }
        final_report(&said).map(|(state, reason)| (state, reason.to_owned()))
    });
    assert_eq!(end, Some((ReportState::RolledBack, "not_started".into())));
    assert_eq!(activations, Limits::default().activations_max);
}

#[test]
fn ot_16_what_is_remembered_is_bounded() {
    let mut updater = booted();
    let release = |n: usize| changed(|manifest| manifest.notes = n.to_string());
    for n in 0..=REVERTED_MAX {
        assert_eq!(updater.offer(now(), &release(n)), Offered::Accepted);
        let _read = actions(&mut updater);
        (0..4).for_each(|chunk| updater.stored(now(), chunk, &chunk_of(&new_image(), chunk as usize)));
        updater.booted(now(), Slot::B);
        updater.health(now(), false);
        updater.booted(now(), Slot::A);
        let _reports = actions(&mut updater);
    }
    for n in 1..=REVERTED_MAX {
        assert_eq!(updater.offer(now(), &release(n)), Offered::Refused(Refused::Reverted), "{n}");
    }
    assert_eq!(updater.offer(now(), &release(0)), Offered::Accepted, "the oldest is forgotten");
    assert!(updater.state().to_json().len() < STATE_BYTES_MAX);
}
