//! Homes and sharing through the services, and the attacks on them.

#![cfg(feature = "server")]
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

use std::{sync::Arc, time::Duration};

use iot_auth::{
    account::Deleted,
    home::{INVITE_VALIDITY_MAX, InviteAsked, Invited, Leaving, home_tuples},
};
use iot_core::{
    access::{Access, Permission, Principal, Relation, Standing},
    clock::Clock,
    code::Code,
    home::{HOMES_PER_ACCOUNT_MAX, Home, HomeRefusal, INVITES_MAX, MembershipBell, Role, Ruling},
    id::{HomeId, InviteId},
    secret::Secret,
    store::{Batch, Check, MetaStoreExt},
};
use support::{Cloud, accepted, account, home, operator, peer, person, person_of};

/// Ada's home with Max, a manager, and Mia and Gus, a member and a guest whom Max let in; and a lamp in it.
async fn household() -> (Cloud, HomeId) {
    household_in(Cloud::new().await).await
}

async fn household_in(cloud: Cloud) -> (Cloud, HomeId) {
    let id = cloud.home_of(&person("ada")).await;
    cloud.let_in(&person("ada"), &id, &person("max"), Role::Manager).await;
    cloud.let_in(&person("max"), &id, &person("mia"), Role::Member).await;
    cloud.let_in(&person("max"), &id, &person("gus"), Role::Guest).await;
    let lamp = cloud.activated("lamp-1").await;
    let placed = iot_core::device::Device { home: Some(id.clone()), ..lamp };
    let key = iot_core::device::Device::key_of(&placed.tenant, &placed.id);
    let read = cloud.meta.find(&key).await.unwrap().unwrap();
    assert!(cloud.meta.commit_or_conflict(Batch::default().replace(&read, &placed)).await.unwrap());
    (cloud, id)
}

async fn accept(cloud: &Cloud, who: &Principal, code: &Secret) -> Ruling {
    cloud.auth.accept_invite(who, code, peer().ip()).await.unwrap()
}

fn changed(ruling: Ruling) -> Home {
    match ruling {
        Ruling::Changed(home) => home,
        Ruling::Refused(why) => panic!("{why:?}"),
    }
}

/// What is tried is refused for this reason and leaves nothing but its entry.
async fn refused(
    cloud: &Cloud,
    why: HomeRefusal,
    secrets: &[&str],
    attempt: impl Future<Output = Result<Ruling, iot_auth::AuthError>>,
) {
    let before = cloud.before(&operator("acme").tenant).await;
    let answer = attempt.await.unwrap();
    assert_eq!(answer, Ruling::Refused(why));
    cloud.left_nothing(before, why.code(), answer, secrets).await;
}

async fn refused_code(cloud: &Cloud, who: &Principal, code: &Secret, why: HomeRefusal) {
    refused(cloud, why, &[code.expose()], cloud.auth.accept_invite(who, code, peer().ip())).await;
}

async fn members(cloud: &Cloud, id: &HomeId) -> Vec<String> {
    cloud.home_record(id).await.members.iter().map(|member| member.account.to_string()).collect()
}

#[tokio::test]
async fn a_home_is_made_shared_renamed_handed_on_and_left() {
    let (cloud, id) = household().await;
    let lamp = cloud.unit("lamp-1").await;
    for (name, permission, may) in [
        ("ada", Permission::OwnHome, true),
        ("max", Permission::Bind, true),
        ("max", Permission::OwnHome, false),
        ("mia", Permission::ReadTelemetry, true),
        ("mia", Permission::ManageHome, false),
        ("gus", Permission::Control, true),
        ("gus", Permission::ReadTelemetry, false),
        ("eve", Permission::ReadDevice, false),
    ] {
        assert_eq!(cloud.may(&person(name), permission, &lamp).await, may, "{name} {permission:?}");
    }
    changed(cloud.auth.rename_home(&person("max"), &id, "Mill House").await.unwrap());
    assert_eq!(cloud.home_record(&id).await.name, "Mill House");
    changed(cloud.auth.transfer_home(&person("ada"), &id, &account("max")).await.unwrap());
    assert!(cloud.may(&person("max"), Permission::OwnHome, &lamp).await);
    changed(cloud.auth.leave_home(&person("ada"), &id).await.unwrap());
    assert!(!cloud.may(&person("ada"), Permission::ReadDevice, &lamp).await);
    assert_eq!(members(&cloud, &id).await, ["max", "mia", "gus"]);
}

#[tokio::test]
async fn an_invitation_reads_in_many_spellings_and_is_shown_once() {
    let (cloud, id) = household().await;
    let Invited::Done(issued) = cloud.auth.invite(&person("ada"), &id, &InviteAsked::one(Role::Guest)).await.unwrap()
    else {
        panic!()
    };
    assert_eq!(issued.uri.expose(), format!("iot-invite:{}", issued.code.expose()));
    let stored = cloud.dump(&operator("acme").tenant).await;
    let bare = issued.code.expose().replace('-', "");
    assert!(
        !stored.contains(issued.code.expose()) && !stored.contains(&bare) && !format!("{issued:?}").contains(&bare)
    );
    let home = changed(accept(&cloud, &person("eve"), &Secret::new(issued.uri.expose().to_owned())).await);
    assert_eq!(home.role_of(&account("eve"), cloud.clock.timestamp()), Some(Role::Guest));
}

#[tokio::test]
async fn sh_1_a_code_that_was_accepted_lets_nobody_else_in() {
    let (cloud, id) = household().await;
    let code = cloud.invited(&person("ada"), &id, &InviteAsked::one(Role::Guest)).await;
    changed(accept(&cloud, &person("x"), &code).await);
    for who in ["x", "eve"] {
        refused_code(&cloud, &person(who), &code, HomeRefusal::CodeUsed).await;
    }
    let made_up = Code::from_random([3; 16]).grouped();
    refused_code(&cloud, &person("eve"), &made_up, HomeRefusal::CodeMismatch).await;
    refused(
        &cloud,
        HomeRefusal::CodeMismatch,
        &[],
        cloud.auth.accept_invite(&person("eve"), &Secret::new("?"), peer().ip()),
    )
    .await;
    // Of another vendor's home: as unknown as one that never was.
    let other = cloud.invited(&person("ada"), &id, &InviteAsked::one(Role::Guest)).await;
    let elsewhere = accept(&cloud, &person_of("rival", "eve"), &other).await;
    assert_eq!(elsewhere, Ruling::Refused(HomeRefusal::CodeMismatch));
}

async fn crowd(cloud: &Cloud, id: &HomeId, people: usize, uses: u32) {
    let asked = InviteAsked { uses, ..InviteAsked::one(Role::Guest) };
    let code = cloud.invited(&person("ada"), id, &asked).await;
    let former = members(cloud, id).await.len();
    let nodes = [cloud.auth.clone(), cloud.another_node().await];
    let start = Arc::new(tokio::sync::Barrier::new(people));
    let attempts: Vec<_> = (0..people)
        .map(|n| {
            let (node, code, start) = (nodes[n % 2].clone(), code.clone(), start.clone());
            tokio::spawn(async move {
                start.wait().await;
                node.accept_invite(&person(&format!("{uses}-{n}")), &code, peer().ip()).await.unwrap()
            })
        })
        .collect();
    let mut grants = 0;
    for attempt in attempts {
        match attempt.await.unwrap() {
            Ruling::Changed(_) => grants += 1,
            Ruling::Refused(why) => assert_eq!(why, HomeRefusal::CodeUsed),
        }
    }
    assert_eq!(grants, uses as usize);
    assert_eq!(members(cloud, id).await.len(), former + uses as usize);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn sh_1_of_many_who_accept_at_once_as_many_are_let_in_as_were_meant() {
    let (cloud, id) = household().await;
    crowd(&cloud, &id, 50, 1).await;
    crowd(&cloud, &id, 20, 3).await;
    let folder = tempfile::tempdir().unwrap();
    let (cloud, id) = household_in(Cloud::on_disk(folder.path()).await).await;
    crowd(&cloud, &id, 20, 1).await;
}

#[tokio::test]
async fn sh_2_codes_and_accesses_end_by_themselves() {
    let (cloud, id) = household().await;
    let lamp = cloud.unit("lamp-1").await;
    let soon = cloud.clock.timestamp().plus(Duration::from_secs(60));
    let brief = InviteAsked { access_expires: Some(soon), ..InviteAsked::one(Role::Guest) };
    let code = cloud.invited(&person("ada"), &id, &brief).await;
    changed(accept(&cloud, &person("x"), &code).await);
    assert!(cloud.may(&person("x"), Permission::Control, &lamp).await);
    cloud.clock.advance(Duration::from_secs(60));
    assert!(!cloud.may(&person("x"), Permission::Control, &lamp).await, "without anybody's doing");
    refused(&cloud, HomeRefusal::AlreadyOver, &[], async {
        match cloud.auth.invite(&person("ada"), &id, &brief).await? {
            Invited::Refused(why) => Ok(Ruling::Refused(why)),
            Invited::Done(_) => panic!("it would be over"),
        }
    })
    .await;
    let long = InviteAsked { valid: Duration::MAX, ..InviteAsked::one(Role::Guest) };
    let code = cloud.invited(&person("ada"), &id, &long).await;
    cloud.clock.advance(INVITE_VALIDITY_MAX);
    refused_code(&cloud, &person("y"), &code, HomeRefusal::CodeExpired).await;
    // One whose access has ended can come back, and can go.
    let code = cloud.invited(&person("ada"), &id, &InviteAsked::one(Role::Guest)).await;
    changed(accept(&cloud, &person("x"), &code).await);
    assert!(cloud.may(&person("x"), Permission::Control, &lamp).await);
}

#[tokio::test]
async fn sh_3_nobody_raises_themselves_or_others_beyond_what_they_may() {
    let (cloud, id) = household().await;
    let (auth, all) = (&cloud.auth, ["ada", "max", "mia", "gus", "eve"]);
    for by in ["mia", "gus", "eve"] {
        for role in Role::ALL {
            refused(&cloud, HomeRefusal::Forbidden, &[], async {
                match auth.invite(&person(by), &id, &InviteAsked::one(role)).await? {
                    Invited::Refused(why) => Ok(Ruling::Refused(why)),
                    Invited::Done(_) => panic!("{by} invited a {role:?}"),
                }
            })
            .await;
            for who in all {
                let (by, who) = (person(by), account(who));
                refused(&cloud, HomeRefusal::Forbidden, &[], auth.set_role(&by, &id, &who, role, None)).await;
            }
        }
        for who in all {
            refused(&cloud, HomeRefusal::Forbidden, &[], auth.remove_member(&person(by), &id, &account(who))).await;
        }
        refused(&cloud, HomeRefusal::Forbidden, &[], auth.rename_home(&person(by), &id, "mine")).await;
        refused(&cloud, HomeRefusal::Forbidden, &[], auth.transfer_home(&person(by), &id, &account(by))).await;
        refused(&cloud, HomeRefusal::Forbidden, &[], auth.dissolve_home(&person(by), &id)).await;
    }
    for (who, role) in [("gus", Role::Owner), ("gus", Role::Manager), ("max", Role::Owner), ("ada", Role::Guest)] {
        let (max, who) = (person("max"), account(who));
        refused(&cloud, HomeRefusal::Forbidden, &[], auth.set_role(&max, &id, &who, role, None)).await;
    }
    let (ada, max) = (person("ada"), account("max"));
    refused(&cloud, HomeRefusal::Forbidden, &[], auth.set_role(&ada, &id, &max, Role::Owner, None)).await;
    refused(&cloud, HomeRefusal::Forbidden, &[], auth.remove_member(&person("max"), &id, &account("ada"))).await;
    // People of the vendor are nothing to a home.
    refused(&cloud, HomeRefusal::Forbidden, &[], auth.remove_member(&operator("acme"), &id, &account("gus"))).await;
    refused(&cloud, HomeRefusal::Forbidden, &[], auth.rename_home(&person("ada"), &home("none"), "mine")).await;
}

#[tokio::test]
async fn sh_4_an_invitation_dies_with_its_inviter() {
    let (cloud, id) = household().await;
    let by_removed = cloud.invited(&person("max"), &id, &InviteAsked::one(Role::Guest)).await;
    changed(cloud.auth.remove_member(&person("ada"), &id, &account("max")).await.unwrap());
    refused_code(&cloud, &person("x"), &by_removed, HomeRefusal::CodeMismatch).await;
    let (cloud, id) = household().await;
    let by_demoted = cloud.invited(&person("max"), &id, &InviteAsked::one(Role::Member)).await;
    changed(cloud.auth.set_role(&person("ada"), &id, &account("max"), Role::Member, None).await.unwrap());
    refused_code(&cloud, &person("x"), &by_demoted, HomeRefusal::CodeExpired).await;
    let withdrawn = cloud.invited(&person("ada"), &id, &InviteAsked::one(Role::Member)).await;
    let invites = cloud.home_record(&id).await.invites;
    let invite = &invites.last().unwrap().id;
    changed(cloud.auth.withdraw_invite(&person("ada"), &id, invite).await.unwrap());
    refused_code(&cloud, &person("x"), &withdrawn, HomeRefusal::CodeMismatch).await;
    let none = InviteId::parse("none").unwrap();
    refused(&cloud, HomeRefusal::NoSuchInvite, &[], cloud.auth.withdraw_invite(&person("ada"), &id, &none)).await;
}

/// SH-5, and that whoever lost something hears of it: the bell of each is rung in the same commit.
#[tokio::test]
async fn sh_5_removing_one_removes_whom_they_let_in_and_rings_for_all() {
    let (cloud, id) = household().await;
    let lamp = cloud.unit("lamp-1").await;
    let before = cloud.meta.revision().await.unwrap();
    changed(cloud.auth.remove_member(&person("ada"), &id, &account("max")).await.unwrap());
    assert_eq!(members(&cloud, &id).await, ["ada"]);
    let changes = cloud.meta.changes(before, 10).await.unwrap();
    assert_eq!(changes.len(), 1, "one commit");
    for name in ["max", "mia", "gus"] {
        let bell = MembershipBell::key_of(&operator("acme").tenant, &account(name));
        assert!(changes[0].keys.contains(&bell), "{name}");
        assert!(!cloud.may(&person(name), Permission::ReadDevice, &lamp).await, "{name}");
        let tuples = home_tuples(&*cloud.meta, &operator("acme").tenant, &account(name)).await.unwrap();
        assert_eq!(tuples, []);
    }
    let ada = MembershipBell::key_of(&operator("acme").tenant, &account("ada"));
    assert!(!changes[0].keys.contains(&ada), "nothing changed for her");
    refused(&cloud, HomeRefusal::NoSuchMember, &[], cloud.auth.remove_member(&person("ada"), &id, &account("max")))
        .await;
}

#[tokio::test]
async fn sh_13_an_owner_transfers_or_dissolves_before_leaving() {
    let (cloud, id) = household().await;
    refused(&cloud, HomeRefusal::LastOwner, &[], cloud.auth.leave_home(&person("ada"), &id)).await;
    assert_eq!(
        cloud.auth.leaving_all_homes(&person("ada"), &account("ada")).await.unwrap(),
        Leaving::Owner(vec![id.clone()])
    );
    // One who owns nothing leaves everything at once; the caller's own writes join the batch.
    let Leaving::Ready(batch) = cloud.auth.leaving_all_homes(&person("max"), &account("max")).await.unwrap() else {
        panic!()
    };
    let late = cloud.auth.rename_home(&person("ada"), &id, "Mill House").await.unwrap();
    changed(late);
    assert!(!cloud.meta.commit_or_conflict(batch).await.unwrap(), "decided by what has changed");
    let Leaving::Ready(batch) = cloud.auth.leaving_all_homes(&person("max"), &account("max")).await.unwrap() else {
        panic!()
    };
    assert!(batch.checks.iter().all(|check| matches!(check, Check::Version(..))));
    assert!(cloud.meta.commit_or_conflict(batch).await.unwrap());
    assert_eq!(members(&cloud, &id).await, ["ada"], "with whom he let in");
}

/// SH-13 for accounts that are deleted, and that what a signed-in account may do follows its homes.
#[tokio::test]
async fn sh_13_a_deleted_account_leaves_no_home_without_an_owner() {
    let cloud = Cloud::new().await;
    let mut people = vec![];
    for address in ["ann@example.org", "ben@example.org"] {
        let id = cloud.person(address).await;
        people.push((id, accepted(cloud.by_access(&cloud.signed_in(address).await.access).await)));
    }
    let [(ann, as_ann), (ben, as_ben)] = &people[..] else { panic!() };
    let id = cloud.home_of(as_ann).await;
    cloud.let_in(as_ann, &id, as_ben, Role::Manager).await;
    cloud.let_in(as_ben, &id, &person_of("default", "eve"), Role::Guest).await;
    let before = cloud.before(&as_ann.tenant).await;
    assert_eq!(cloud.auth.delete_account(as_ann, ann).await.unwrap(), Deleted::OwnsHomes);
    cloud.left_nothing(before, "owns_homes", "", &[]).await;
    let Standing::Current(grants) = cloud.auth.standing(as_ben).await.unwrap() else { panic!() };
    assert!(grants.tuples.iter().any(|tuple| tuple.relation == Relation::Manager));
    assert_eq!(cloud.auth.delete_account(as_ben, ben).await.unwrap(), Deleted::Done);
    let home = cloud.meta.find::<Home>(&Home::key_of(&as_ann.tenant, &id)).await.unwrap().unwrap().document;
    assert_eq!(home.members.iter().map(|m| &m.account).collect::<Vec<_>>(), [ann], "with whom he let in");
    assert_eq!(cloud.auth.standing(as_ben).await.unwrap(), Standing::Revoked);
}

#[tokio::test]
async fn an_account_is_in_so_many_homes_and_a_home_has_so_many_invitations() {
    let cloud = Cloud::new().await;
    let (ada, eve) = (person("ada"), person("eve"));
    let id = cloud.home_of(&ada).await;
    for _ in 0..INVITES_MAX {
        let _code = cloud.invited(&ada, &id, &InviteAsked::one(Role::Guest)).await;
    }
    let further = cloud.auth.invite(&ada, &id, &InviteAsked::one(Role::Guest)).await.unwrap();
    assert!(matches!(further, Invited::Refused(HomeRefusal::InvitesFull)));
    let id = cloud.home_of(&ada).await;
    let code = cloud.invited(&ada, &id, &InviteAsked::one(Role::Guest)).await;
    for _ in 0..HOMES_PER_ACCOUNT_MAX {
        cloud.home_of(&eve).await;
    }
    refused(&cloud, HomeRefusal::HomesFull, &[], cloud.auth.create_home(&eve, "one more")).await;
    refused_code(&cloud, &eve, &code, HomeRefusal::HomesFull).await;
    let tuples = home_tuples(&*cloud.meta, &eve.tenant, &account("eve")).await.unwrap();
    assert_eq!(tuples.len(), HOMES_PER_ACCOUNT_MAX as usize);
    assert!(tuples.iter().all(|tuple| tuple.relation == Relation::Owner));
    refused(&cloud, HomeRefusal::Forbidden, &[], cloud.auth.create_home(&operator("acme"), "an application's")).await;
}

/// The bound holds against homes that are made at the same time, on two nodes.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn an_account_that_makes_homes_at_once_gets_no_more_than_its_bound() {
    let cloud = Cloud::new().await;
    for _ in 0..HOMES_PER_ACCOUNT_MAX - 2 {
        cloud.home_of(&person("ada")).await;
    }
    let nodes = [cloud.auth.clone(), cloud.another_node().await];
    let start = Arc::new(tokio::sync::Barrier::new(8));
    let attempts: Vec<_> = (0..8)
        .map(|n| {
            let (node, start) = (nodes[n % 2].clone(), start.clone());
            tokio::spawn(async move {
                start.wait().await;
                node.create_home(&person("ada"), "one more").await
            })
        })
        .collect();
    let mut made = 0;
    for attempt in attempts {
        made += usize::from(matches!(attempt.await.unwrap(), Ok(Ruling::Changed(_))));
    }
    let tuples = home_tuples(&*cloud.meta, &operator("acme").tenant, &account("ada")).await.unwrap();
    assert_eq!((made, tuples.len()), (2, HOMES_PER_ACCOUNT_MAX as usize));
}
