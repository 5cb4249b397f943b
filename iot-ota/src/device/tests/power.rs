use super::*;

/// Cuts the power at the n-th write, then leaves it on, for every n until a run ends before its cut.
fn sweep(prepare: fn() -> Device, torn: bool, check: impl Fn(&Device, &Updater)) -> usize {
    for at in 0..STEPS_MAX {
        let mut device = prepare();
        device.cut = Some(Cut { at, torn });
        match device.power_on() {
            Ok(at_rest) => {
                check(&device, &at_rest);
                return at;
            }
            Err(Dark) => {
                let at_rest = device.power_on().unwrap();
                check(&device, &at_rest);
            }
        }
    }
    panic!("the run has no end");
}

#[test]
fn ot_15_a_power_cut_at_any_write_ends_with_the_new_image() {
    for torn in [false, true] {
        let points = sweep(Device::new, torn, |device, updater| {
            assert_eq!((updater.hello().sequence, updater.hello().slot), (2, Slot::B));
            assert!(device.image(Slot::B).starts_with(&new_image()));
            assert_eq!(device.image(Slot::A), old_image());
            assert!(device.states().contains(&ReportState::Confirmed), "{:?}", device.states());
            assert!(!device.states().contains(&ReportState::RolledBack));
        });
        assert!(points >= 12, "{points} points");
    }
}

#[test]
fn ot_15_a_power_cut_at_any_write_of_a_reverted_update_ends_with_the_old_image() {
    let sick = || Device { well: |image| Some(!image.starts_with(&new_image())), ..Device::new() };
    for torn in [false, true] {
        let points = sweep(sick, torn, |device, updater| {
            assert_eq!((updater.hello().sequence, updater.hello().slot), (1, Slot::A));
            assert_eq!(device.image(Slot::A), old_image());
            assert!(device.states().contains(&ReportState::RolledBack), "{:?}", device.states());
            assert!(!device.states().contains(&ReportState::Confirmed));
        });
        assert!(points >= 12, "{points} points");
    }
}

#[test]
fn ot_15_two_power_cuts_in_a_row() {
    for first in (0..16).step_by(2) {
        for second in (0..16).step_by(3) {
            let mut device = Device::new();
            for at in [first, second] {
                (device.writes, device.cut) = (0, Some(Cut { at, torn: true }));
                let _cut = device.power_on();
            }
            device.cut = None;
            assert_eq!(device.power_on().unwrap().hello().sequence, 2, "{first}, {second}");
        }
    }
}

#[test]
fn ot_2_a_rollback_is_refused_after_a_power_cut_before_the_commit() {
    let older = Manifest { sequence: 1, ..manifest(&new_image()) };
    for at in 0..16 {
        let mut device = Device::new();
        device.cut = Some(Cut { at, torn: true });
        let _cut = device.power_on();
        device.cut = None;
        device.power_on().unwrap();
        device.offer = Some(offer_of(&older));
        let mut updater = device.power_on().unwrap();
        assert_eq!(updater.offer(now(), &offer_of(&older)), Offered::Refused(crate::release::Refused::Rollback));
        assert_eq!(updater.hello().sequence, 2);
    }
}

#[test]
fn ot_14_what_was_stored_is_hashed_again_after_a_restart() {
    let mut device = Device::new();
    // Cut when the slot is full and the state does not say so yet.
    let full = (0..)
        .find(|at| {
            device = Device::new();
            device.cut = Some(Cut { at: *at, torn: false });
            let _cut = device.power_on();
            device.image(Slot::B) == new_image()
        })
        .unwrap();
    assert!(full > 0);
    let mut tampered = new_image();
    tampered[2000] ^= 1;
    fs::write(device.path().join("slot-b"), &tampered).unwrap();
    device.actions.clear();
    assert_eq!(device.power_on().unwrap().hello().sequence, 2);
    assert_eq!(device.image(Slot::B), new_image());
    assert_eq!(device.actions.iter().filter(|name| **name == "fetch").count(), 1, "{:?}", device.actions);
}
