use proptest::prelude::*;

use super::*;
use crate::id::HomeId;

fn at(seconds: i64) -> Timestamp {
    Timestamp::from_millis(seconds * 1_000)
}

fn account(name: &str) -> AccountId {
    AccountId::parse(name).unwrap()
}

fn tenant() -> TenantId {
    TenantId::parse("t").unwrap()
}

fn lamp(name: &str) -> Device {
    Device {
        tenant: tenant(),
        product: "lamp".parse().unwrap(),
        id: name.parse().unwrap(),
        p_code: name.to_uppercase().parse().unwrap(),
        stage: Stage::Activated,
        epoch: OwnershipEpoch(4),
        home: None,
        keys: vec![],
        created: Timestamp::EPOCH,
    }
}

fn home_of(owner: &str) -> Home {
    Home::create(tenant(), HomeId::parse(&format!("home-{owner}")).unwrap(), "", account(owner), at(0))
}

fn issued(former: Option<&Binding>, device: &Device, code: &str, now: Timestamp) -> Binding {
    match present(former, device, None, code.to_owned(), BINDING_TTL, now) {
        Presence::Issued(binding) => binding,
        Presence::Refused(why) => panic!("{why:?}"),
    }
}

fn asked(code: &str) -> Asked<'_> {
    Asked { code, device: None, p_code: None }
}

fn attempt(binding: &Binding, device: &Device, asked: &Asked<'_>, now: Timestamp) -> Bind {
    bind((binding, device), None, asked, (&account("ada"), &home_of("ada")), now)
}

fn refused(bind: Bind) -> BindRefusal {
    match bind {
        Bind::Refused(why) => why,
        Bind::Bound(bound) => panic!("{} was bound", bound.0.id),
    }
}

fn bound(bind: Bind) -> (Device, Binding) {
    match bind {
        Bind::Bound(bound) => *bound,
        Bind::Refused(why) => panic!("{why:?}"),
    }
}

#[test]
fn a_code_binds_its_device_once_in_a_new_epoch() {
    let device = lamp("a");
    let binding = issued(None, &device, "1", at(10));
    let (device, binding) = bound(attempt(&binding, &device, &asked("1"), at(11)));
    assert_eq!((device.epoch, device.home.as_ref().unwrap().as_str()), (OwnershipEpoch(5), "home-ada"));
    assert_eq!(binding.codes[0].fate, Fate::Used);
}

#[test]
fn bd_3_a_used_code_stays_used() {
    let device = lamp("a");
    let binding = issued(None, &device, "1", at(10));
    let (taken, binding) = bound(attempt(&binding, &device, &asked("1"), at(11)));
    for (by, now) in [("ada", 12), ("eve", 12), ("eve", 500)] {
        let home = home_of("ada");
        let replay = bind((&binding, &taken), Some(&home), &asked("1"), (&account(by), &home_of(by)), at(now));
        assert_eq!(refused(replay), BindRefusal::CodeUsed, "{by}");
    }
    assert_eq!(refused(attempt(&binding, &released(&taken), &asked("1"), at(13))), BindRefusal::CodeUsed);
}

#[test]
fn bd_4_a_code_is_good_from_its_issue_until_its_end() {
    let device = lamp("a");
    let binding = issued(None, &device, "1", at(10));
    let last = at(10).plus(BINDING_TTL);
    let tick = Duration::from_micros(1);
    let _bound = bound(attempt(&binding, &device, &asked("1"), at(10)));
    let _bound = bound(attempt(&binding, &device, &asked("1"), last.minus(tick)));
    for now in [last, last.plus(Duration::from_secs(1)), at(10).minus(tick), Timestamp::EPOCH, Timestamp::MAX] {
        assert_eq!(refused(attempt(&binding, &device, &asked("1"), now)), BindRefusal::CodeExpired, "{now}");
    }
    let long = present(None, &device, None, "1".to_owned(), Duration::MAX, at(10));
    assert!(matches!(long, Presence::Issued(binding) if binding.codes[0].expires == last), "nobody gets more");
}

#[test]
fn bd_5_a_code_fits_its_own_device_only() {
    let (device, other) = (lamp("a"), lamp("b"));
    let (binding, others) = (issued(None, &device, "1", at(10)), issued(None, &other, "2", at(10)));
    let (named, p_code) = (device.id.clone(), device.p_code.clone());
    let right = Asked { device: Some(&named), p_code: Some(&p_code), ..asked("1") };
    let _bound = bound(attempt(&binding, &device, &right, at(11)));
    for wrong in [
        Asked { device: Some(&other.id), ..right.clone() },
        Asked { p_code: Some(&other.p_code), ..right.clone() },
        Asked { code: "2", ..right.clone() },
        Asked { code: "", ..right },
    ] {
        assert_eq!(refused(attempt(&binding, &device, &wrong, at(11))), BindRefusal::CodeMismatch, "{wrong:?}");
    }
    assert_eq!(refused(attempt(&others, &device, &asked("2"), at(11))), BindRefusal::CodeMismatch);
    let elsewhere = Device { tenant: "u".parse().unwrap(), ..device.clone() };
    assert_eq!(refused(attempt(&binding, &elsewhere, &asked("1"), at(11))), BindRefusal::CodeMismatch);
    let retired = Device { stage: Stage::Retired, ..device };
    assert_eq!(refused(attempt(&binding, &retired, &asked("1"), at(11))), BindRefusal::CodeMismatch);
}

#[test]
fn bd_6_a_newer_code_ends_the_older_ones() {
    let device = lamp("a");
    let mut binding = issued(None, &device, "1", at(10));
    for (n, code) in ["2", "3", "4", "5"].into_iter().enumerate() {
        binding = issued(Some(&binding), &device, code, at(20 + 10 * i64::try_from(n).unwrap()));
        assert_eq!(binding.codes.iter().filter(|code| code.fate == Fate::Alive).count(), 1);
    }
    assert_eq!(binding.codes.len(), CODES_KEPT);
    assert_eq!(refused(attempt(&binding, &device, &asked("1"), at(51))), BindRefusal::CodeMismatch, "forgotten");
    for code in ["2", "3", "4"] {
        assert_eq!(refused(attempt(&binding, &device, &asked(code), at(51))), BindRefusal::CodeSuperseded);
    }
    let _bound = bound(attempt(&binding, &device, &asked("5"), at(51)));
}

#[test]
fn bd_8_owner_must_release() {
    let home = home_of("ada");
    let device = Device { home: Some(home.id.clone()), ..lamp("a") };
    let asked_for = present(None, &device, Some(&home), "1".to_owned(), BINDING_TTL, at(10));
    assert_eq!(asked_for, Presence::Refused(PresenceRefusal::AlreadyBound));
    // A code from a moment before, still good.
    let binding = issued(None, &device, "1", at(10));
    let hijack = bind((&binding, &device), Some(&home), &asked("1"), (&account("eve"), &home_of("eve")), at(11));
    assert_eq!(refused(hijack), BindRefusal::AlreadyBound);
    let kept = Home::without_owner(tenant(), home.id, "");
    let placed = bind((&binding, &device), Some(&kept), &asked("1"), (&account("eve"), &home_of("eve")), at(11));
    assert_eq!(bound(placed).0.home.unwrap().as_str(), "home-eve", "where the vendor placed it, nobody owns it");
}

#[test]
fn bd_8_attempts_are_kept_for_the_owner_within_a_bound() {
    let device = lamp("a");
    let attempt = |former: Option<&Binding>, now| attempted(former, &device, at(now)).map(|attempt| attempt.codes);
    let first = attempt(None, 10).unwrap();
    assert_eq!((first.attempts.as_slice(), first.codes.len()), ([at(10)].as_slice(), 0));
    assert_eq!(attempt(Some(&first), 11), None, "a stuck button");
    let many = (1..20).fold(first, |former, n| attempt(Some(&former), 10 + 2 * n).unwrap());
    assert_eq!((many.attempts.len(), many.attempts.last()), (ATTEMPTS_KEPT, Some(&at(48))));
    let issued = issued(Some(&many), &device, "1", at(60));
    assert_eq!(issued.attempts, [], "they are of the former owner's time");
}

#[test]
fn bd_8_the_owner_is_told_of_the_first_attempt_and_of_one_in_ten_minutes_after_it() {
    let device = Device { home: Some(home_of("ada").id), ..lamp("a") };
    let mut codes = None;
    let mut told = vec![];
    for now in (0..1_801).step_by(3) {
        let attempt = attempted(codes.as_ref(), &device, at(now)).unwrap();
        told.extend(attempt.tells);
        codes = Some(attempt.codes);
    }
    assert_eq!(told.iter().map(|tells| tells.at).collect::<Vec<_>>(), [at(0), at(600), at(1_200), at(1_800)]);
    assert!(
        told.iter().all(|tells| tells.home == device.home && tells.device == Some((device.id.clone(), device.epoch)))
    );
    let ids: std::collections::HashSet<_> = told.iter().map(|tells| &tells.id).collect();
    assert_eq!(ids.len(), told.len(), "each is another one");
}

#[test]
fn bd_11_only_the_owner_releases_and_moves() {
    let mut home = home_of("ada");
    for role in [crate::home::Role::Manager, crate::home::Role::Member, crate::home::Role::Guest] {
        let name = format!("{role:?}").to_lowercase();
        let granted_by = Some(account("ada"));
        home.members.push(crate::home::Member {
            account: account(&name),
            role,
            granted_by,
            since: at(0),
            expires: None,
        });
    }
    let device = Device { home: Some(home.id.clone()), ..lamp("a") };
    for by in ["manager", "member", "guest", "stranger"] {
        assert_eq!(unbind(&device, Some(&home), &account(by), at(1)), Owned::Forbidden, "{by}");
        let own = home_of(by);
        assert_eq!(move_home(&device, Some(&home), &own, &account(by), at(1)), Owned::Forbidden, "{by}");
    }
    assert_eq!(move_home(&device, Some(&home), &home_of("eve"), &account("ada"), at(1)), Owned::Forbidden);
    let Owned::Changed(free) = unbind(&device, Some(&home), &account("ada"), at(1)) else { panic!("the owner may") };
    assert_eq!((free.home.as_ref(), free.epoch), (None, OwnershipEpoch(5)));
    assert_eq!(unbind(&free, Some(&home), &account("ada"), at(1)), Owned::NotBound);
    let second = Home { id: "second".parse().unwrap(), ..home_of("ada") };
    let Owned::Changed(moved) = move_home(&device, Some(&home), &second, &account("ada"), at(1)) else { panic!() };
    assert_eq!((moved.home.as_ref(), moved.epoch), (Some(&second.id), device.epoch), "the owner is the same");
}

#[test]
fn a_code_ends_with_the_presence_the_epoch_and_for_members_who_may_not_bind() {
    let device = lamp("a");
    let binding = issued(None, &device, "1", at(10));
    let withdrawn = absent(&binding).unwrap();
    assert_eq!(refused(attempt(&withdrawn, &device, &asked("1"), at(11))), BindRefusal::CodeExpired);
    assert_eq!(absent(&withdrawn), None);
    let later = released(&device);
    assert_eq!(refused(attempt(&binding, &later, &asked("1"), at(11))), BindRefusal::CodeExpired, "another epoch");
    let strangers = bind((&binding, &device), None, &asked("1"), (&account("eve"), &home_of("ada")), at(11));
    assert_eq!(refused(strangers), BindRefusal::Forbidden);
}

#[test]
fn a_device_gets_codes_when_it_is_in_service_and_not_too_often() {
    let device = lamp("a");
    let ask = |former: Option<&Binding>, stage, now| {
        let device = Device { stage, ..device.clone() };
        present(former, &device, None, "9".to_owned(), BINDING_TTL, now)
    };
    for stage in [Stage::Manufactured, Stage::Claimed, Stage::Retired] {
        assert_eq!(ask(None, stage, at(1)), Presence::Refused(PresenceRefusal::NotActivated));
    }
    let first = issued(None, &device, "1", at(10));
    assert_eq!(ask(Some(&first), Stage::Activated, at(11)), Presence::Refused(PresenceRefusal::TooSoon));
    assert!(matches!(ask(Some(&first), Stage::Activated, at(12)), Presence::Issued(_)));
    assert!(matches!(ask(Some(&first), Stage::Activated, at(9)), Presence::Issued(_)), "a clock that went back");
}

#[derive(Debug, Clone)]
enum Step {
    Present,
    Absent,
    Bind(u8),
    Unbind,
    Wait(u8),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        3 => Just(Step::Present),
        1 => Just(Step::Absent),
        4 => any::<u8>().prop_map(Step::Bind),
        1 => Just(Step::Unbind),
        3 => (0..100_u8).prop_map(Step::Wait),
    ]
}

proptest! {
    /// Whatever happens in whatever order: at most one code is alive, none binds twice, and the epoch counts the owners.
    #[test]
    fn codes_bind_once_and_epochs_grow(steps in prop::collection::vec(step(), 0..60)) {
        let home = home_of("ada");
        let (mut device, mut binding, mut now) = (lamp("a"), None::<Binding>, 1_000);
        let (mut issued, mut used) = (0_u32, std::collections::BTreeSet::new());
        for step in steps {
            let owned = device.home.is_some();
            let epoch = device.epoch;
            match step {
                Step::Wait(seconds) => now += i64::from(seconds),
                Step::Absent => binding = binding.as_ref().map(|b| absent(b).unwrap_or_else(|| b.clone())),
                Step::Present => {
                    match present(binding.as_ref(), &device, Some(&home), issued.to_string(), BINDING_TTL, at(now)) {
                        Presence::Issued(next) => {
                            prop_assert!(!owned);
                            issued += 1;
                            binding = Some(next);
                        }
                        Presence::Refused(why) => prop_assert_eq!(owned, why == PresenceRefusal::AlreadyBound),
                    }
                }
                Step::Bind(which) => if let Some(codes) = &binding {
                    let code = (u32::from(which) % issued).to_string();
                    let by = account("ada");
                    if let Bind::Bound(next) = bind((codes, &device), Some(&home), &asked(&code), (&by, &home), at(now)) {
                        prop_assert!(!owned && used.insert(code));
                        (device, binding) = (next.0, Some(next.1));
                    }
                },
                Step::Unbind => if let Owned::Changed(next) = unbind(&device, Some(&home), &account("ada"), at(now)) {
                    device = *next;
                },
            }
            let moved = u64::from(owned != device.home.is_some());
            prop_assert_eq!(device.epoch.0, epoch.0 + moved);
            if let Some(binding) = &binding {
                prop_assert!(binding.codes.len() <= CODES_KEPT);
                prop_assert!(binding.codes.iter().filter(|code| code.fate == Fate::Alive).count() <= 1);
            }
        }
    }
}
