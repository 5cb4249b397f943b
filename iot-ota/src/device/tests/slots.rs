use super::*;

fn folder(path: &Path) -> SlotFolder {
    SlotFolder::open(path, SLOT_BYTES).unwrap()
}

#[test]
fn the_slot_that_runs_is_not_written_to() {
    let device = Device::new();
    let mut slots = folder(device.path());
    assert!(matches!(slots.write(Slot::B, 0, b"x"), Err(SlotError::Runs(_))), "before the start both may run");
    assert_eq!(slots.boot(|| State::factory(identity().factory)).unwrap().0, Slot::A);
    slots.write(Slot::B, 5, b"hello").unwrap();
    assert_eq!(slots.read(Slot::B, 5..20).unwrap(), b"hello");
    assert!(matches!(slots.write(Slot::A, 0, b"x"), Err(SlotError::Runs(Slot::A))));
    assert_eq!(slots.read(Slot::A, 0..10_000).unwrap(), old_image());
}

#[test]
fn a_slot_has_an_end() {
    let device = Device::new();
    let mut slots = folder(device.path());
    let _started = slots.boot(|| State::factory(identity().factory)).unwrap();
    slots.write(Slot::B, SLOT_BYTES - 1, b"x").unwrap();
    assert!(matches!(slots.write(Slot::B, SLOT_BYTES, b"x"), Err(SlotError::Full(SLOT_BYTES))));
    assert!(matches!(slots.write(Slot::B, u64::MAX, b"x"), Err(SlotError::Full(SLOT_BYTES))));
}

#[test]
fn the_state_survives_and_half_a_state_is_not_read() {
    let device = Device::new();
    let mut slots = folder(device.path());
    let (_, state) = slots.boot(|| State::factory(identity().factory)).unwrap();
    fs::write(device.path().join("state.json.new"), "{").unwrap();
    assert_eq!(folder(device.path()).boot(|| panic!("it was stored")).unwrap().1, state);
    let text = String::from_utf8(state.to_json()).unwrap();
    for (bad, damaged) in [
        (text[..text.len() / 2].to_owned(), true),
        (text.replace("\"active\"", "\"more\":1,\"active\""), true),
        (" ".repeat(STATE_BYTES_MAX + 1), true),
        (text.replace("\"format\":1", "\"format\":2"), false),
    ] {
        fs::write(device.path().join("state.json"), bad).unwrap();
        let error = SlotFolder::open(device.path(), SLOT_BYTES).unwrap_err();
        let SlotError::State { source, .. } = error else { panic!("{error}") };
        assert_eq!(matches!(source, StateError::Damaged(_)), damaged, "{source}");
    }
}
