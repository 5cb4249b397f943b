use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;
use crate::{
    access::{Reason, Sight, explain, sight, who_can},
    device::{Device, Stage},
    id::{InviteId, OwnershipEpoch},
};

fn at(seconds: i64) -> Timestamp {
    Timestamp::from_millis(seconds * 1_000)
}

fn account(name: &str) -> AccountId {
    AccountId::parse(name).unwrap()
}

fn tenant() -> TenantId {
    TenantId::parse("t").unwrap()
}

/// Ada's home; Max is a manager, Mia a member whom Max invited, Gus a guest whom Max invited.
fn household() -> Home {
    let home = Home::create(tenant(), "h1".parse().unwrap(), "Hill House", account("ada"), at(0));
    let home = joined(&home, "ada", "max", Role::Manager, None);
    let home = joined(&home, "max", "mia", Role::Member, None);
    joined(&home, "max", "gus", Role::Guest, None)
}

fn new_invite(code: &str, role: Role) -> NewInvite {
    let id = InviteId::parse(&format!("i-{code}")).unwrap();
    NewInvite { id, code: code.to_owned(), role, expires: at(100), access_expires: None, uses: 1 }
}

fn joined(home: &Home, by: &str, who: &str, role: Role, access_expires: Option<Timestamp>) -> Home {
    let invite = NewInvite { access_expires, ..new_invite(who, role) };
    let open = changed(home.invite(&account(by), invite, at(1)));
    changed(open.accept(&account(who), who, at(2)))
}

fn changed(ruling: Ruling) -> Home {
    match ruling {
        Ruling::Changed(home) => home,
        Ruling::Refused(why) => panic!("{why:?}"),
    }
}

fn refused(ruling: Ruling) -> HomeRefusal {
    match ruling {
        Ruling::Refused(why) => why,
        Ruling::Changed(home) => panic!("changed to {home:?}"),
    }
}

fn names(home: &Home) -> Vec<&str> {
    home.members.iter().map(|member| member.account.as_str()).collect()
}

fn lamp() -> Device {
    Device {
        tenant: tenant(),
        product: "lamp".parse().unwrap(),
        id: "lamp-1".parse().unwrap(),
        p_code: "P-1".parse().unwrap(),
        stage: Stage::Activated,
        epoch: OwnershipEpoch(1),
        home: Some("h1".parse().unwrap()),
        keys: vec![],
        created: Timestamp::EPOCH,
    }
}

#[test]
fn sh_1_an_invitation_is_good_for_its_uses() {
    let two = NewInvite { uses: 2, ..new_invite("c", Role::Guest) };
    let home = changed(household().invite(&account("max"), two, at(1)));
    let home = changed(home.accept(&account("x1"), "c", at(2)));
    assert_eq!(refused(home.accept(&account("x1"), "c", at(2))), HomeRefusal::AlreadyMember, "costs no use");
    let home = changed(home.accept(&account("x2"), "c", at(2)));
    for who in ["x1", "x3"] {
        assert_eq!(refused(home.accept(&account(who), "c", at(2))), HomeRefusal::CodeUsed);
    }
    assert_eq!(refused(home.accept(&account("x3"), "other", at(2))), HomeRefusal::CodeMismatch);
}

#[test]
fn sh_2_an_invitation_and_an_access_end() {
    let guest = NewInvite { access_expires: Some(at(50)), ..new_invite("c", Role::Guest) };
    let home = changed(household().invite(&account("ada"), guest, at(1)));
    for late in [50, 51, 100, 1_000] {
        assert_eq!(refused(home.accept(&account("x"), "c", at(late))), HomeRefusal::CodeExpired, "{late}");
    }
    let home = changed(home.accept(&account("x"), "c", at(49)));
    assert_eq!(home.role_of(&account("x"), at(49)), Some(Role::Guest));
    assert_eq!(home.role_of(&account("x"), at(50)), None);
    assert_eq!(home.tuple_of(&account("x")).unwrap().expires, Some(at(50)));
    let plain = changed(household().invite(&account("ada"), new_invite("c", Role::Guest), at(1)));
    assert_eq!(refused(plain.accept(&account("x"), "c", at(100))), HomeRefusal::CodeExpired);
}

#[test]
fn sh_2_what_someone_granted_ends_when_their_own_access_ends() {
    let home = joined(&household(), "ada", "tim", Role::Manager, Some(at(50)));
    let home = joined(&home, "tim", "pal", Role::Member, None);
    assert_eq!(home.tuple_of(&account("pal")).unwrap().expires, Some(at(50)));
    assert_eq!(home.role_of(&account("pal"), at(50)), None);
    // They can come back by another invitation, and the ended ones have made room.
    let again =
        changed(home.invite(&account("ada"), NewInvite { expires: at(200), ..new_invite("c", Role::Guest) }, at(60)));
    assert_eq!(names(&changed(again.accept(&account("pal"), "c", at(61)))), ["ada", "max", "mia", "gus", "pal"]);
}

#[test]
fn sh_3_nobody_gives_what_is_not_below_themselves() {
    let home = household();
    for (by, may) in [("ada", 3), ("max", 2), ("mia", 0), ("gus", 0), ("eve", 0)] {
        let granted =
            |role: &Role| matches!(home.invite(&account(by), new_invite("c", *role), at(1)), Ruling::Changed(_));
        assert_eq!(Role::ALL.iter().filter(|role| granted(role)).count(), may, "{by}");
        for who in names(&home) {
            for role in Role::ALL {
                let own = home.role_of(&account(by), at(1));
                let former = home.member(&account(who)).unwrap().role;
                let may = own.is_some_and(|own| own >= Role::Manager && own > role && own > former);
                let ruling = home.set_role(&account(by), &account(who), role, None, at(1));
                assert_eq!(matches!(ruling, Ruling::Changed(_)), may, "{by} makes {who} {role:?}");
                if !may {
                    assert_eq!(refused(ruling), HomeRefusal::Forbidden);
                }
            }
        }
    }
    for unknown in ["\"root\"", "\"Owner\"", "4", "-1", "4294967297", "null", "\"\""] {
        assert!(serde_json::from_str::<Role>(unknown).is_err(), "{unknown}");
    }
}

#[test]
fn sh_4_an_invitation_dies_with_what_its_inviter_may() {
    let home = changed(household().invite(&account("max"), new_invite("c", Role::Guest), at(1)));
    let without = changed(home.remove(&account("ada"), &account("max"), at(2)));
    assert_eq!(refused(without.accept(&account("x"), "c", at(3))), HomeRefusal::CodeMismatch);
    let demoted = changed(home.set_role(&account("ada"), &account("max"), Role::Member, None, at(2)));
    assert_eq!(refused(demoted.accept(&account("x"), "c", at(3))), HomeRefusal::CodeExpired);
    let until = changed(home.set_role(&account("ada"), &account("max"), Role::Manager, Some(at(5)), at(2)));
    assert_eq!(refused(until.accept(&account("x"), "c", at(5))), HomeRefusal::CodeExpired);
    assert_eq!(changed(until.accept(&account("x"), "c", at(4))).role_of(&account("x"), at(4)), Some(Role::Guest));
    let left = changed(home.leave(&account("max")));
    assert_eq!(refused(left.accept(&account("x"), "c", at(3))), HomeRefusal::CodeMismatch);
}

#[test]
fn sh_5_what_someone_granted_goes_with_them() {
    let home = household();
    assert_eq!(names(&changed(home.remove(&account("ada"), &account("max"), at(3)))), ["ada"]);
    assert_eq!(names(&changed(home.leave(&account("max")))), ["ada"]);
    assert_eq!(names(&changed(home.remove(&account("max"), &account("mia"), at(3)))), ["ada", "max", "gus"]);
    // What the owner has confirmed no longer hangs on the manager.
    let confirmed = changed(home.set_role(&account("ada"), &account("mia"), Role::Member, None, at(3)));
    assert_eq!(names(&changed(confirmed.remove(&account("ada"), &account("max"), at(3)))), ["ada", "mia"]);
    // What a manager changes of the owner's grants stays the owner's.
    let own = joined(&home, "ada", "zoe", Role::Member, None);
    let own = changed(own.set_role(&account("max"), &account("zoe"), Role::Guest, None, at(3)));
    assert_eq!(names(&changed(own.remove(&account("ada"), &account("max"), at(3)))), ["ada", "zoe"]);
    // Who may grant no more keeps nobody: the one who decided so answers for them.
    let demoted = changed(home.set_role(&account("ada"), &account("max"), Role::Guest, None, at(3)));
    assert!(demoted.members[1..].iter().all(|member| member.granted_by == Some(account("ada"))));
    for (by, who, why) in [
        ("max", "ada", HomeRefusal::Forbidden),
        ("max", "max", HomeRefusal::Forbidden),
        ("mia", "gus", HomeRefusal::Forbidden),
        ("gus", "nobody", HomeRefusal::Forbidden),
        ("ada", "ada", HomeRefusal::Forbidden),
        ("ada", "nobody", HomeRefusal::NoSuchMember),
    ] {
        assert_eq!(refused(home.remove(&account(by), &account(who), at(3))), why, "{by} {who}");
    }
}

#[test]
fn sh_8_a_guest_sees_neither_the_household_nor_the_record() {
    let (home, device) = (household(), lamp());
    let grants = |name: &str| Grants {
        revision: Revision::default(),
        tuples: home.tuple_of(&account(name)).into_iter().collect(),
    };
    for (name, seen) in [
        ("ada", Sight::Household),
        ("max", Sight::Household),
        ("mia", Sight::Household),
        ("gus", Sight::Guest),
        ("eve", Sight::Nothing),
    ] {
        assert_eq!(sight(&grants(name), &device, at(3)), seen, "{name}");
    }
    let vendor = Grants::of(Object::Tenant(tenant()), Relation::Viewer);
    assert_eq!(sight(&vendor, &device, at(3)), Sight::Whole);
    assert!(!home.allows(&account("gus"), Permission::ReadHome, at(3)));
    let history = check(&grants("gus"), Permission::ReadTelemetry, &Resource::device(&device), at(3));
    assert_eq!(history.reason, Reason::NotPermitted);
}

#[test]
fn sh_13_a_home_with_an_owner_keeps_one() {
    let home = household();
    assert_eq!(refused(home.leave(&account("ada"))), HomeRefusal::LastOwner);
    assert_eq!(refused(home.leave(&account("eve"))), HomeRefusal::Forbidden);
    for (by, to, why) in [
        ("max", "max", HomeRefusal::Forbidden),
        ("max", "mia", HomeRefusal::Forbidden),
        ("ada", "ada", HomeRefusal::Forbidden),
        ("ada", "gus", HomeRefusal::Forbidden),
        ("ada", "eve", HomeRefusal::NoSuchMember),
    ] {
        assert_eq!(refused(home.transfer(&account(by), &account(to), at(3))), why, "{by} {to}");
    }
    let moved = changed(home.transfer(&account("ada"), &account("mia"), at(3)));
    assert_eq!(moved.owner(), Some(&account("mia")));
    assert_eq!(moved.role_of(&account("ada"), at(3)), Some(Role::Manager));
    assert_eq!(names(&changed(moved.leave(&account("ada")))), ["max", "mia", "gus"]);
    assert_eq!(refused(moved.dissolve(&account("ada"), at(3))), HomeRefusal::Forbidden);
    assert!(changed(moved.dissolve(&account("mia"), at(3))).members.is_empty());
}

#[test]
fn members_and_invitations_are_bounded_and_those_that_ended_make_room() {
    let mut home = household();
    for n in 0..INVITES_MAX {
        home = changed(home.invite(&account("max"), new_invite(&n.to_string(), Role::Guest), at(1)));
    }
    let further = |expires| NewInvite { expires: at(expires), ..new_invite("more", Role::Guest) };
    assert_eq!(refused(home.invite(&account("ada"), further(90), at(2))), HomeRefusal::InvitesFull);
    assert_eq!(changed(home.invite(&account("ada"), further(300), at(100))).invites.len(), 1);
    assert_eq!(refused(home.invite(&account("ada"), further(2), at(2))), HomeRefusal::AlreadyOver);
    let none = NewInvite { uses: 0, ..further(90) };
    assert_eq!(refused(home.invite(&account("ada"), none, at(2))), HomeRefusal::AlreadyOver);

    let crowd = NewInvite { uses: 1_000, access_expires: Some(at(90)), ..new_invite("all", Role::Guest) };
    let mut home = changed(household().invite(&account("max"), crowd, at(1)));
    for n in home.members.len()..MEMBERS_MAX {
        home = changed(home.accept(&account(&format!("x{n}")), "all", at(2)));
    }
    assert_eq!(refused(home.accept(&account("late"), "all", at(2))), HomeRefusal::MembersFull);
    let later = changed(home.invite(&account("ada"), further(300), at(91)));
    assert_eq!(changed(later.accept(&account("late"), "more", at(92))).members.len(), 5);
}

#[test]
fn invitations_are_withdrawn_by_those_who_stand_above_them() {
    let home = changed(household().invite(&account("ada"), new_invite("m", Role::Manager), at(1)));
    let home = changed(home.invite(&account("ada"), new_invite("g", Role::Guest), at(1)));
    let withdraw = |by: &str, id: &str| home.withdraw_invite(&account(by), &InviteId::parse(id).unwrap(), at(2));
    assert_eq!(refused(withdraw("max", "i-m")), HomeRefusal::Forbidden);
    assert_eq!(refused(withdraw("mia", "i-g")), HomeRefusal::Forbidden);
    assert_eq!(refused(withdraw("ada", "i-x")), HomeRefusal::NoSuchInvite);
    assert_eq!(changed(withdraw("max", "i-g")).invites.len(), 1);
    assert_eq!(changed(withdraw("ada", "i-m")).invites.len(), 1);
}

#[test]
fn a_home_of_the_former_format_has_no_members() {
    let home: Home = serde_json::from_str(r#"{"tenant":"t","id":"h1","name":"Hill House"}"#).unwrap();
    assert_eq!(home, Home::without_owner(tenant(), "h1".parse().unwrap(), "Hill House"));
    assert_eq!((home.owner(), home.index_keys().len()), (None, 1));
}

#[test]
fn grants_that_do_not_lead_to_the_owner_are_worth_nothing() {
    let mut home = household();
    home.members.retain(|member| member.account != account("ada"));
    assert!(home.members.iter().all(|member| home.role_of(&member.account, at(1)).is_none()));
    let mut circle = household();
    circle.members[1].granted_by = Some(account("max"));
    assert_eq!(circle.role_of(&account("max"), at(1)), None);
    assert_eq!(circle.role_of(&account("mia"), at(1)), None, "granted by one who is nothing");
}

#[test]
fn an_explanation_names_every_relation() {
    let (home, device) = (household(), lamp());
    let mut tuples: Vec<Tuple> = home.tuple_of(&account("gus")).into_iter().collect();
    tuples.push(Tuple {
        object: Object::Tenant(TenantId::parse("u").unwrap()),
        relation: Relation::Admin,
        expires: None,
    });
    tuples.push(Tuple { expires: Some(at(3)), ..home.tuple_of(&account("mia")).unwrap() });
    let grants = Grants { revision: Revision::default(), tuples: tuples.into() };
    let told = explain(&grants, Permission::ReadTelemetry, &Resource::device(&device), at(3));
    let verdicts: Vec<_> = told.considered.iter().map(|considered| considered.verdict.code()).collect();
    assert_eq!(verdicts, ["not_permitted", "other_object", "expired"]);
    assert_eq!(told.decision.reason, Reason::Expired);
    for permission in Permission::ALL {
        assert_eq!(Permission::by_name(permission.name()), Some(permission));
    }
}

#[derive(Debug, Clone)]
enum Move {
    Invite(usize, usize, Option<i64>),
    Accept(usize),
    SetRole(usize, usize, usize, Option<i64>),
    Remove(usize, usize),
    Leave(usize),
    Transfer(usize, usize),
    Wait(i64),
}

const PEOPLE: [&str; 6] = ["ada", "max", "mia", "gus", "eve", "tim"];

fn any_move() -> impl Strategy<Value = Move> {
    let (who, role) = (0..PEOPLE.len(), 0..Role::ALL.len());
    let until = || prop::option::weighted(0.3, 1..400_i64);
    prop_oneof![
        4 => (who.clone(), role.clone(), until()).prop_map(|(a, b, c)| Move::Invite(a, b, c)),
        4 => who.clone().prop_map(Move::Accept),
        3 => (who.clone(), who.clone(), role, until()).prop_map(|(a, b, c, d)| Move::SetRole(a, b, c, d)),
        2 => (who.clone(), who.clone()).prop_map(|(a, b)| Move::Remove(a, b)),
        1 => who.clone().prop_map(Move::Leave),
        2 => (who.clone(), who).prop_map(|(a, b)| Move::Transfer(a, b)),
        1 => (1..60_i64).prop_map(Move::Wait),
    ]
}

fn apply(home: &Home, step: &Move, now: i64, number: usize) -> Option<(AccountId, Home)> {
    let who = |n: usize| account(PEOPLE[n]);
    let until = |end: Option<i64>| end.map(|end| at(now + end));
    let (by, ruling) = match *step {
        Move::Invite(by, role, end) => {
            let invite = NewInvite {
                expires: at(now + 100),
                access_expires: until(end),
                ..new_invite(&number.to_string(), Role::ALL[role])
            };
            (by, home.invite(&who(by), invite, at(now)))
        }
        Move::Accept(by) => {
            let newest = home.invites.last().map_or_else(String::new, |invite| invite.code.clone());
            (by, home.accept(&who(by), &newest, at(now)))
        }
        Move::SetRole(by, other, role, end) => {
            (by, home.set_role(&who(by), &who(other), Role::ALL[role], until(end), at(now)))
        }
        Move::Remove(by, other) => (by, home.remove(&who(by), &who(other), at(now))),
        Move::Leave(by) => (by, home.leave(&who(by))),
        Move::Transfer(by, to) => (by, home.transfer(&who(by), &who(to), at(now))),
        Move::Wait(_) => return None,
    };
    match ruling {
        Ruling::Changed(home) => Some((who(by), home)),
        Ruling::Refused(_) => None,
    }
}

/// The table of roles and permissions as people know it, written down a second time.
fn table(role: Role) -> Vec<Permission> {
    use Permission as P;
    let guest = vec![P::ReadDevice, P::ReadState, P::Control];
    let member = [guest.clone(), vec![P::ReadTelemetry, P::ReadHome]].concat();
    let manager = [member.clone(), vec![P::ManageHome, P::Bind, P::ManageWebhooks]].concat();
    let owner = [manager.clone(), vec![P::OwnHome]].concat();
    match role {
        Role::Guest => guest,
        Role::Member => member,
        Role::Manager => manager,
        Role::Owner => owner,
    }
}

proptest! {
    /// Whatever people do in whatever order: there is one owner, every grant leads to them, only the owner can make another one,
    /// nobody rises by their own doing beyond an invitation, and `who_can`, `check` and the table say the same.
    #[test]
    fn whatever_people_do_the_household_stays_sound(steps in prop::collection::vec(any_move(), 0..60)) {
        let (mut home, mut now) = (household(), 3);
        for (number, step) in steps.iter().enumerate() {
            if let Move::Wait(seconds) = step {
                now += seconds;
            }
            let Some((by, next)) = apply(&home, step, now, number) else { continue };
            prop_assert_eq!(next.members.iter().filter(|m| m.role == Role::Owner).count(), 1);
            prop_assert!(next.owner() == home.owner() || home.owner() == Some(&by));
            let changed = next.affected(&home);
            for member in &next.members {
                let same = home.tuple_of(&member.account) == next.tuple_of(&member.account);
                prop_assert_eq!(changed.contains(&member.account), !same);
            }
            let rises = next.role_of(&by, at(now)) > home.role_of(&by, at(now));
            prop_assert!(!rises || matches!(step, Move::Accept(_)));
            home = next;
        }
        for member in &home.members {
            let granter = member.granted_by.as_ref().map(|by| home.member(by).expect("who granted is there").role);
            prop_assert_eq!(granter.is_none(), member.role == Role::Owner);
            prop_assert!(granter.is_none_or(|role| role.may_grant(member.role)));
        }
        for permission in Permission::ALL {
            let listed: BTreeMap<_, _> =
                who_can(&home, &lamp(), permission, at(now)).into_iter().map(|a| (a.account, a.relation)).collect();
            for name in PEOPLE {
                let tuples = home.tuple_of(&account(name)).into_iter().collect();
                let grants = Grants { revision: Revision::default(), tuples };
                let allow = check(&grants, permission, &Resource::device(&lamp()), at(now)).allow;
                let by_table = home.role_of(&account(name), at(now)).filter(|role| table(*role).contains(&permission));
                prop_assert_eq!(allow, by_table.is_some());
                prop_assert_eq!(listed.get(&account(name)).copied(), by_table.map(Role::relation));
            }
            let elsewhere = Device { home: Some("h2".parse().unwrap()), ..lamp() };
            prop_assert!(who_can(&home, &elsewhere, permission, at(now)).is_empty());
        }
    }
}
