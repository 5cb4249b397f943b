//! Accounts: the honest path, what is refused, what ends a sign-in, and the attacks AC-1 to AC-10 of people's side.

#![cfg(feature = "server")]
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

use std::{fs, net::IpAddr, time::Duration};

use argon2::{Algorithm, Argon2, Params, PasswordHasher, Version, password_hash::phc::PasswordHash};
use iot_auth::{
    Auth, AuthError,
    account::{
        ACCESS_VALIDITY, Account, AccountOptions, CODE_TRIES_MAX, CODE_VALIDITY, Deleted, LOGIN_IDLE_MAX,
        LOGIN_VALIDITY_MAX, LOGINS_MAX, LoggedIn, MAILS_PER_HOUR_MAX, PasswordChanged, REFRESH_GRACE,
        REGISTRATIONS_PER_HOUR_MAX, Refreshed, Registered, ResetAsked, ResetDone, SIGN_IN_PERIOD, SIGN_IN_TRIES_MAX,
        SIGN_IN_TRIES_PER_NETWORK_MAX, SignedIn, StaffSet, Verified,
    },
    token::Role,
};
use iot_core::{
    access::{Access, Permission, Principal, Refusal, Standing},
    home::MembershipBell,
    secret::Secret,
    store::{Batch, MetaStoreExt, Stores},
};
use iot_store::{StoreLimits, sqlite::Sqlite};
use support::{Cloud, PASSWORD, accepted, email, ip, may, operator, password, refusal};

const ANN: &str = "ann@example.org";

fn elsewhere() -> IpAddr {
    "198.51.100.7".parse().unwrap()
}

async fn refreshed(cloud: &Cloud, token: &Secret, label: &str) -> Refreshed {
    cloud.auth.refresh(token, label, ip()).await.unwrap()
}

async fn pair(cloud: &Cloud, token: &Secret) -> SignedIn {
    match refreshed(cloud, token, "phone").await {
        Refreshed::Granted(next) => *next,
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn a_person_registers_signs_in_refreshes_and_signs_out() {
    let cloud = Cloud::new().await;
    let account = cloud.person(ANN).await;
    assert!(cloud.account(&account).await.verified);
    assert!(cloud.mails.last().subject.ends_with("Your code"));
    let first = cloud.signed_in(" Ann@EXAMPLE.org ").await;
    let principal = accepted(cloud.by_access(&first.access).await);
    assert_eq!(principal.to_string(), format!("default/account/{account}"));
    assert_eq!(cloud.auth.depends_on(&principal).len(), 3);
    assert!(cloud.auth.depends_on(&principal).contains(&MembershipBell::key_of(&principal.tenant, &account)));
    assert!(
        !may(&cloud.by_access(&first.access).await, &cloud, Permission::ReadDevice),
        "an account alone may nothing"
    );

    cloud.clock.advance(ACCESS_VALIDITY);
    assert_eq!(refusal(cloud.by_access(&first.access).await), Refusal::Revoked);
    assert!(matches!(cloud.auth.standing(&principal).await.unwrap(), Standing::Current(_)), "connections go on");
    let second = pair(&cloud, &first.refresh).await;
    accepted(cloud.by_access(&second.access).await);
    let logins = cloud.auth.logins(&principal.tenant, &account).await.unwrap();
    assert_eq!((logins.len(), logins[0].label.as_str()), (1, "phone"));

    let stranger = cloud.person("bob@example.org").await;
    assert!(!cloud.auth.log_out(&principal, &stranger, &second.login).await.unwrap(), "not that account's");
    assert!(cloud.auth.log_out(&principal, &account, &second.login).await.unwrap());
    assert_eq!(refusal(cloud.by_access(&second.access).await), Refusal::Revoked);
    assert_eq!(cloud.auth.standing(&principal).await.unwrap(), Standing::Revoked);
    assert!(matches!(refreshed(&cloud, &second.refresh, "phone").await, Refreshed::Refused));
}

#[tokio::test]
async fn a_sign_in_ends_by_itself() {
    let cloud = Cloud::new().await;
    cloud.person(ANN).await;
    let unused = cloud.signed_in(ANN).await;
    let mut used = cloud.signed_in(ANN).await;
    let step = LOGIN_IDLE_MAX - Duration::from_secs(1);
    for _ in 0..3 {
        cloud.clock.advance(step);
        used = pair(&cloud, &used.refresh).await;
    }
    assert!(matches!(refreshed(&cloud, &unused.refresh, "phone").await, Refreshed::Refused), "not used for 30 days");
    cloud.clock.advance(LOGIN_VALIDITY_MAX - 3 * step);
    assert!(matches!(refreshed(&cloud, &used.refresh, "phone").await, Refreshed::Refused), "90 days are over");
    assert_eq!(cloud.auth.sweep_accounts().await.unwrap(), 2);
}

#[tokio::test]
async fn the_sign_in_that_was_used_longest_ago_makes_room() {
    let cloud = Cloud::new().await;
    let account = cloud.person(ANN).await;
    let mut all = Vec::new();
    for _ in 0..LOGINS_MAX {
        all.push(cloud.signed_in(ANN).await);
        cloud.clock.advance(Duration::from_secs(1));
    }
    let kept = pair(&cloud, &all[0].refresh).await;
    cloud.clock.advance(Duration::from_secs(1));
    let newest = cloud.signed_in(ANN).await;
    let logins = cloud.auth.logins(&Auth::default_tenant(), &account).await.unwrap();
    assert_eq!((logins.len(), &logins[0].id), (LOGINS_MAX, &newest.login));
    accepted(cloud.by_access(&kept.access).await);
    assert_eq!(refusal(cloud.by_access(&all[1].access).await), Refusal::Revoked);
}

/// AC-1: what lies on the disk shows nobody's address, password, code or token.
#[tokio::test]
async fn ac_1_the_files_of_a_store_hold_no_address_and_no_secret() {
    let folder = tempfile::tempdir().unwrap();
    let sqlite = Sqlite::open(folder.path(), StoreLimits::default()).await.unwrap();
    let cloud = Cloud::over(Stores::new(sqlite.clone())).await;
    let account = cloud.person(ANN).await;
    let verified = cloud.mails.code();
    let first = cloud.signed_in(ANN).await;
    let next = pair(&cloud, &first.refresh).await;
    let asked = cloud.auth.register(&email("carl@example.net"), &password("a second password"), "Carl", ip()).await;
    assert!(matches!(asked.unwrap(), Registered::Asked(_)));
    let pending = cloud.mails.code();
    assert!(matches!(cloud.log_in(ANN, "not the password", ip()).await, LoggedIn::Refused));
    let asked = Auth::ask_reset().unwrap();
    cloud.auth.reset(&asked, &email(ANN), ip()).await.unwrap();
    let reset = cloud.mails.code();
    sqlite.close().await;
    let mut dump = Vec::new();
    for entry in fs::read_dir(folder.path()).unwrap() {
        dump.extend(fs::read(entry.unwrap().path()).unwrap());
    }
    let has = |text: &str| dump.windows(text.len()).any(|window| window.eq_ignore_ascii_case(text.as_bytes()));
    assert!(has(account.as_str()) && has("argon2id"), "these are the right files");
    let tail = |token: &Secret| token.expose().splitn(3, '_').nth(2).unwrap().to_owned();
    for secret in
        [ANN, "ann@", "example.org", "carl@", "example.net", PASSWORD, "a second password", "not the password"]
    {
        assert!(!has(secret), "{secret}");
    }
    for token in [&first.access, &first.refresh, &next.access, &next.refresh] {
        assert!(!has(token.expose()) && !has(&tail(token)));
    }
    for code in [verified, pending, reset] {
        assert!(!has(code.expose()) && !has(&code.expose().replace('-', "")));
    }
}

/// AC-2: neither the answer nor the number of hashes and mails tells whether an address has an account.
#[tokio::test]
async fn ac_2_nothing_tells_whether_an_address_has_an_account() {
    let cloud = Cloud::new().await;
    cloud.person(ANN).await;
    let work = || (cloud.auth.password_work().hashes, cloud.mails.count());
    let cost = |before: (u64, usize)| (work().0 - before.0, work().1 - before.1);
    let mut costs = Vec::new();
    for address in [ANN, "nobody@example.org"] {
        let before = work();
        assert!(matches!(cloud.log_in(address, "not the password", ip()).await, LoggedIn::Refused));
        let signing_in = cost(before);
        let before = work();
        let asked = cloud.auth.register(&email(address), &password("another password"), "X", ip()).await.unwrap();
        assert!(matches!(asked, Registered::Asked(_)));
        costs.push((signing_in, cost(before)));
    }
    assert_eq!(costs, [((1, 0), (1, 1)), ((1, 0), (1, 1))]);
    assert!(cloud.mails.count() == 3);
    let asked = cloud.auth.register(&email(ANN), &password("another password"), "X", ip()).await.unwrap();
    assert!(!cloud.mails.last().text.expose().contains("    "), "the owner is told, and gets no code");
    let Registered::Asked(id) = asked else { panic!("{asked:?}") };
    assert_eq!(cloud.auth.verify(&id, &Secret::new("aaaa-aaaa"), ip()).await.unwrap(), Verified::Wrong);
    accepted(cloud.by_access(&cloud.signed_in(ANN).await.access).await);
}

/// Nobody gets an account into which somebody else's password opens: the code works only with what its asker was told.
#[tokio::test]
async fn an_address_cannot_be_taken_before_its_owner_registers() {
    let cloud = Cloud::new().await;
    let begin = async |password_text: &str| {
        let asked = cloud.auth.register(&email(ANN), &password(password_text), "X", ip()).await.unwrap();
        let Registered::Asked(id) = asked else { panic!("{asked:?}") };
        (id, cloud.mails.code())
    };
    let (attacker, to_attacker) = begin("the attacker's").await;
    let (owner, to_owner) = begin(PASSWORD).await;
    assert_eq!(cloud.auth.verify(&owner, &to_attacker, ip()).await.unwrap(), Verified::Wrong);
    assert_eq!(cloud.auth.verify(&attacker, &to_owner, ip()).await.unwrap(), Verified::Wrong);
    assert!(matches!(cloud.log_in(ANN, "the attacker's", ip()).await, LoggedIn::Refused), "no code, no account");
    assert!(matches!(cloud.auth.verify(&owner, &to_owner, ip()).await.unwrap(), Verified::Done(_)));
    assert_eq!(cloud.auth.verify(&owner, &to_owner, ip()).await.unwrap(), Verified::Wrong, "once");
    assert_eq!(cloud.auth.verify(&attacker, &to_attacker, ip()).await.unwrap(), Verified::EmailTaken);
    cloud.signed_in(ANN).await;
}

#[tokio::test]
async fn where_addresses_are_not_verified_an_account_is_there_at_once() {
    let cloud = Cloud::new().await;
    let options = AccountOptions { verify_email: false, ..AccountOptions::default() };
    let node = Auth::new(&cloud.stores, cloud.keys.clone(), cloud.ca().await, cloud.clock.clone());
    let node = node.with_accounts(options, cloud.mails.clone());
    for _ in 0..2 {
        let asked = node.register(&email(ANN), &password(PASSWORD), "Ann", ip()).await.unwrap();
        assert!(matches!(asked, Registered::Asked(_)));
    }
    assert_eq!(cloud.mails.count(), 1, "the second told the owner");
    let account = cloud.signed_in(ANN).await.account;
    assert!(!cloud.account(&account).await.verified);
}

#[tokio::test]
async fn without_a_mailer_nobody_registers_and_who_is_there_signs_in() {
    let cloud = Cloud::new().await;
    cloud.person(ANN).await;
    let node = Auth::new(&cloud.stores, cloud.keys.clone(), cloud.ca().await, cloud.clock.clone());
    let asked = node.register(&email("bob@example.org"), &password(PASSWORD), "Bob", ip()).await;
    assert!(matches!(asked, Err(AuthError::NoMailer)));
    let answer = node.log_in(&email(ANN), &Secret::new(PASSWORD), "phone", ip()).await.unwrap();
    assert!(matches!(answer, LoggedIn::Granted(_)));
}

/// AC-3: a refresh token that comes back ends the sign-in for both; a lost answer does not.
#[tokio::test]
async fn ac_3_a_used_refresh_token_ends_the_sign_in() {
    let cloud = Cloud::new().await;
    cloud.person(ANN).await;
    let other = cloud.signed_in(ANN).await;
    let first = cloud.signed_in(ANN).await;
    let second = pair(&cloud, &first.refresh).await;
    cloud.clock.advance(REFRESH_GRACE);
    let again = pair(&cloud, &first.refresh).await;
    accepted(cloud.by_access(&again.access).await);
    let third = pair(&cloud, &second.refresh).await;
    cloud.clock.advance(Duration::from_secs(1));
    let before = cloud.audit(&Auth::default_tenant()).await.len();
    assert!(matches!(refreshed(&cloud, &first.refresh, "phone").await, Refreshed::Reused));
    let audit = cloud.audit(&Auth::default_tenant()).await;
    assert_eq!((audit.len(), audit[0].refused.as_deref()), (before + 1, Some("refresh_reused")));
    for token in [&third.refresh, &again.refresh, &second.refresh, &first.refresh] {
        assert!(matches!(refreshed(&cloud, token, "phone").await, Refreshed::Refused));
    }
    assert_eq!(refusal(cloud.by_access(&third.access).await), Refusal::Revoked);
    accepted(cloud.by_access(&other.access).await);
}

#[tokio::test]
async fn a_repeat_is_for_the_same_client_a_few_times_and_a_guess_ends_nothing() {
    let cloud = Cloud::new().await;
    cloud.person(ANN).await;
    let first = cloud.signed_in(ANN).await;
    pair(&cloud, &first.refresh).await;
    assert!(matches!(refreshed(&cloud, &first.refresh, "another client").await, Refreshed::Reused));

    let first = cloud.signed_in(ANN).await;
    for _ in 0..4 {
        pair(&cloud, &first.refresh).await;
    }
    assert!(matches!(refreshed(&cloud, &first.refresh, "phone").await, Refreshed::Reused), "a fifth answer lost");

    let first = cloud.signed_in(ANN).await;
    let (head, secret) = first.refresh.expose().rsplit_once('_').unwrap();
    let other = cloud.signed_in(ANN).await;
    let of_other = other.refresh.expose().rsplit_once('_').unwrap().1;
    let altered = format!("{}{}", if secret.starts_with('a') { "b" } else { "a" }, &secret[1..]);
    for bad in [
        format!("{head}_{altered}"),
        format!("{head}_{of_other}"),
        format!("{head}_"),
        head.to_owned(),
        first.refresh.expose().to_uppercase(),
        String::new(),
        first.access.expose().to_owned(),
    ] {
        assert!(matches!(refreshed(&cloud, &Secret::new(bad.clone()), "phone").await, Refreshed::Refused), "{bad}");
    }
    pair(&cloud, &first.refresh).await;
}

/// AC-4: what ends with a new password, with signing out everywhere, with being shut out, and with another role.
#[tokio::test]
async fn ac_4_an_access_token_ends_with_its_epoch_and_its_role() {
    let cloud = Cloud::new().await;
    let account = cloud.person(ANN).await;
    let by = operator("default");
    let dead = async |old: &SignedIn| {
        assert_eq!(refusal(cloud.by_access(&old.access).await), Refusal::Revoked);
        assert!(matches!(refreshed(&cloud, &old.refresh, "phone").await, Refreshed::Refused));
    };
    let old = cloud.signed_in(ANN).await;
    let principal = accepted(cloud.by_access(&old.access).await);
    let present = Secret::new(PASSWORD);
    let change = async |present: &Secret, new: &str| {
        cloud.auth.change_password(&principal, &account, present, &password(new), "phone", ip()).await.unwrap()
    };
    assert!(matches!(change(&Secret::new("wrong one"), "a new password").await, PasswordChanged::Wrong));
    accepted(cloud.by_access(&old.access).await);
    let PasswordChanged::Done(new) = change(&present, "a new password").await else { panic!("it is right") };
    dead(&old).await;
    accepted(cloud.by_access(&new.access).await);
    assert!(matches!(cloud.log_in(ANN, PASSWORD, ip()).await, LoggedIn::Refused));

    assert!(cloud.auth.log_out_everywhere(&principal, &account).await.unwrap());
    dead(&new).await;
    let LoggedIn::Granted(shut_out) = cloud.log_in(ANN, "a new password", ip()).await else { panic!("it is right") };
    assert_eq!(cloud.auth.set_disabled(&by, &account, true).await.unwrap(), StaffSet::Done);
    dead(&shut_out).await;
    assert!(matches!(cloud.log_in(ANN, "a new password", ip()).await, LoggedIn::Refused));
    assert_eq!(cloud.auth.set_disabled(&by, &account, false).await.unwrap(), StaffSet::Done);
    dead(&shut_out).await;

    let known = cloud.auth.account_of(&by, &email("ANN@example.org")).await.unwrap();
    assert_eq!(known.map(|known| known.id), Some(account.clone()), "whatever the case");
    assert_eq!(cloud.auth.account_of(&by, &email("nobody@example.org")).await.unwrap(), None);
    assert_eq!(cloud.auth.account_of(&operator("other"), &email(ANN)).await.unwrap(), None, "of another vendor");

    let LoggedIn::Granted(staff) = cloud.log_in(ANN, "a new password", ip()).await else { panic!("it is right") };
    assert_eq!(cloud.auth.set_staff(&by, &account, Some(Role::Operator)).await.unwrap(), StaffSet::Done);
    assert!(may(&cloud.by_access(&staff.access).await, &cloud, Permission::Control));
    assert_eq!(cloud.auth.set_staff(&by, &account, None).await.unwrap(), StaffSet::Done);
    assert!(!may(&cloud.by_access(&staff.access).await, &cloud, Permission::Control));
}

/// AC-7: whoever fails for a victim's account fails alone.
#[tokio::test]
async fn ac_7_a_victim_is_not_locked_out() {
    let cloud = Cloud::new().await;
    cloud.person(ANN).await;
    for _ in 0..SIGN_IN_TRIES_MAX {
        assert!(matches!(cloud.log_in(ANN, "not the password", elsewhere()).await, LoggedIn::Refused));
    }
    let made = cloud.auth.password_work().hashes;
    let throttled = cloud.log_in(ANN, PASSWORD, elsewhere()).await;
    let LoggedIn::Throttled(wait) = throttled else { panic!("{throttled:?}") };
    assert!(wait <= SIGN_IN_PERIOD && cloud.auth.password_work().hashes == made, "no hash is made");
    cloud.signed_in(ANN).await;
    cloud.clock.advance(wait);
    assert!(matches!(cloud.log_in(ANN, PASSWORD, elsewhere()).await, LoggedIn::Granted(_)));
    for _ in 0..2 * SIGN_IN_TRIES_MAX {
        cloud.signed_in(ANN).await;
    }
}

#[tokio::test]
async fn one_network_cannot_try_many_accounts_nor_begin_many() {
    let cloud = Cloud::new().await;
    for n in 0..SIGN_IN_TRIES_PER_NETWORK_MAX {
        let answer = cloud.log_in(&format!("a{n}@example.org"), "short", elsewhere()).await;
        assert!(matches!(answer, LoggedIn::Refused), "{n}");
    }
    assert!(matches!(cloud.log_in("z@example.org", "short", elsewhere()).await, LoggedIn::Throttled(_)));
    let begin = async |n: u32| {
        let address = email(&format!("a{n}@example.org"));
        cloud.auth.register(&address, &password(PASSWORD), "X", elsewhere()).await.unwrap()
    };
    for n in 0..REGISTRATIONS_PER_HOUR_MAX {
        assert!(matches!(begin(n).await, Registered::Asked(_)));
    }
    assert!(matches!(begin(99).await, Registered::Throttled(_)));
}

/// AC-8: a hash that was made with less work than is asked today is made anew when its owner signs in.
#[tokio::test]
async fn ac_8_a_weak_hash_is_upgraded() {
    let cloud = Cloud::new().await;
    let id = cloud.person(ANN).await;
    let weak = Argon2::new(Algorithm::Argon2id, Version::V0x13, Params::new(64, 1, 1, Some(32)).unwrap());
    let weak: PasswordHash = weak.hash_password_with_salt(PASSWORD.as_bytes(), b"a salt of sixteen").unwrap();
    let key = Account::key_of(&Auth::default_tenant(), &id);
    let stored = cloud.meta.find::<Account>(&key).await.unwrap().unwrap();
    let account = Account { password: weak.to_string(), ..stored.document.clone() };
    assert!(cloud.meta.commit_or_conflict(Batch::default().replace(&stored, &account)).await.unwrap());
    assert!(matches!(cloud.log_in(ANN, "not the password", ip()).await, LoggedIn::Refused));
    assert_eq!(cloud.account(&id).await.password, weak.to_string());
    let signed_in = cloud.signed_in(ANN).await;
    let upgraded = cloud.account(&id).await.password;
    assert!(upgraded.starts_with("$argon2id$v=19$m=19456,t=2,p=1$"), "{upgraded}");
    accepted(cloud.by_access(&signed_in.access).await);
    cloud.signed_in(ANN).await;
    assert_eq!(cloud.account(&id).await.password, upgraded);
}

/// AC-9: an access token is nothing else, and nothing else is one.
#[tokio::test]
async fn ac_9_no_other_text_is_an_access_token() {
    let cloud = Cloud::new().await;
    cloud.person(ANN).await;
    let (a, b) = (cloud.signed_in(ANN).await, cloud.signed_in(ANN).await);
    let sealed = |text: &SignedIn| text.access.expose().splitn(3, '_').nth(2).unwrap().to_owned();
    let api = cloud.auth.issue_token(&operator("default"), "a", Role::Admin, None).await.unwrap().text;
    let mut altered = a.access.expose().to_owned();
    altered.replace_range(altered.len() - 2.., if altered.ends_with("AA") { "BB" } else { "AA" });
    for bad in [
        format!("ua_{}_{}", a.login, sealed(&b)),
        format!("ua_{}_", a.login),
        format!("at_{}_{}", a.login, sealed(&a)),
        a.refresh.expose().to_owned(),
        a.refresh.expose().replacen("ur", "ua", 1),
        api.expose().replacen("at", "ua", 1),
        altered,
        "ua_".to_owned(),
        format!("ua_{}", "x".repeat(10_000)),
    ] {
        assert_eq!(refusal(cloud.by_access(&Secret::new(bad.clone())).await), Refusal::Unknown, "{bad}");
    }
    accepted(cloud.by_access(&a.access).await);
    let principal = accepted(cloud.by_access(&a.access).await);
    let foreign = Principal { tenant: operator("rival").tenant, ..principal };
    assert_eq!(cloud.auth.standing(&foreign).await.unwrap(), Standing::Revoked);
}

async fn reset_asked(cloud: &Cloud) -> (ResetAsked, Secret) {
    let asked = Auth::ask_reset().unwrap();
    cloud.auth.reset(&asked, &email(ANN), ip()).await.unwrap();
    (asked, cloud.mails.code())
}

/// AC-10: a code for a new password works once, for 15 minutes, for 5 tries, in the epoch in which it was asked for.
#[tokio::test]
async fn ac_10_a_code_for_a_new_password_is_narrow() {
    let cloud = Cloud::new().await;
    let account = cloud.person(ANN).await;
    let confirm = async |asked: &ResetAsked, code: &Secret| {
        cloud.auth.confirm_reset(&asked.confirmation, code, &password("a new password"), ip()).await.unwrap()
    };
    let next_hour = || cloud.clock.advance(Duration::from_secs(3_600));
    let old = cloud.signed_in(ANN).await;

    let (asked, code) = reset_asked(&cloud).await;
    cloud.clock.advance(CODE_VALIDITY);
    assert_eq!(confirm(&asked, &code).await, ResetDone::Expired, "15 minutes");
    next_hour();

    let (asked, code) = reset_asked(&cloud).await;
    let hashes = cloud.auth.password_work().hashes;
    for _ in 0..CODE_TRIES_MAX {
        assert_eq!(confirm(&asked, &Secret::new("aaaa-aaaa")).await, ResetDone::Wrong);
    }
    assert_eq!(confirm(&asked, &code).await, ResetDone::Wrong, "5 tries");
    assert_eq!(cloud.auth.password_work().hashes, hashes, "a wrong code costs no hash");
    next_hour();

    let (asked, code) = reset_asked(&cloud).await;
    let other = Auth::ask_reset().unwrap();
    assert_eq!(confirm(&other, &code).await, ResetDone::Wrong, "another's confirmation");
    let by = operator("default");
    assert!(cloud.auth.log_out_everywhere(&by, &account).await.unwrap());
    assert_eq!(confirm(&asked, &code).await, ResetDone::Expired, "another epoch");
    next_hour();

    cloud.signed_in(ANN).await;
    let (asked, code) = reset_asked(&cloud).await;
    let (second, second_code) = reset_asked(&cloud).await;
    let current = cloud.signed_in(ANN).await;
    assert_eq!(confirm(&asked, &code).await, ResetDone::Done);
    assert_eq!(confirm(&asked, &code).await, ResetDone::Wrong, "once");
    assert_eq!(confirm(&second, &second_code).await, ResetDone::Expired, "a reset ends the epoch");
    for gone in [&old, &current] {
        assert_eq!(refusal(cloud.by_access(&gone.access).await), Refusal::Revoked);
    }
    assert!(matches!(cloud.log_in(ANN, PASSWORD, ip()).await, LoggedIn::Refused));
    assert!(matches!(cloud.log_in(ANN, "a new password", ip()).await, LoggedIn::Granted(_)));
    next_hour();

    let before = cloud.mails.count();
    for _ in 0..2 * MAILS_PER_HOUR_MAX {
        let asked = Auth::ask_reset().unwrap();
        cloud.auth.reset(&asked, &email(ANN), ip()).await.unwrap();
        cloud.auth.reset(&asked, &email("nobody@example.org"), ip()).await.unwrap();
    }
    assert_eq!(cloud.mails.count() - before, MAILS_PER_HOUR_MAX as usize);
}

#[tokio::test]
async fn a_code_for_one_thing_does_no_other() {
    let cloud = Cloud::new().await;
    cloud.person(ANN).await;
    let (asked, code) = reset_asked(&cloud).await;
    assert_eq!(cloud.auth.verify(&asked.confirmation, &code, ip()).await.unwrap(), Verified::Wrong);
    let begun = cloud.auth.register(&email("bob@example.org"), &password(PASSWORD), "Bob", ip()).await.unwrap();
    let Registered::Asked(id) = begun else { panic!("{begun:?}") };
    let code = cloud.mails.code();
    let done = cloud.auth.confirm_reset(&id, &code, &password(PASSWORD), ip()).await.unwrap();
    assert_eq!(done, ResetDone::Wrong);
    cloud.clock.advance(CODE_VALIDITY);
    assert_eq!(cloud.auth.verify(&id, &code, ip()).await.unwrap(), Verified::Expired);
    assert_eq!(cloud.auth.sweep_accounts().await.unwrap(), 2, "both confirmations are over");
}

/// A sign-in lives through a restart, and so does its end.
#[tokio::test]
async fn sign_ins_survive_a_restart() {
    let folder = tempfile::tempdir().unwrap();
    let sqlite = Sqlite::open(folder.path(), StoreLimits::default()).await.unwrap();
    let cloud = Cloud::over(Stores::new(sqlite.clone())).await;
    cloud.person(ANN).await;
    let (kept, ended) = (cloud.signed_in(ANN).await, cloud.signed_in(ANN).await);
    let principal = accepted(cloud.by_access(&ended.access).await);
    assert!(cloud.auth.log_out(&principal, &ended.account, &ended.login).await.unwrap());
    sqlite.close().await;
    let sqlite = Sqlite::open(folder.path(), StoreLimits::default()).await.unwrap();
    let cloud = cloud.restarted(Stores::new(sqlite.clone())).await;
    accepted(cloud.by_access(&kept.access).await);
    assert_eq!(refusal(cloud.by_access(&ended.access).await), Refusal::Revoked);
    let next = pair(&cloud, &kept.refresh).await;
    cloud.clock.advance(REFRESH_GRACE + Duration::from_secs(1));
    assert!(matches!(refreshed(&cloud, &kept.refresh, "phone").await, Refreshed::Reused));
    assert_eq!(refusal(cloud.by_access(&next.access).await), Refusal::Revoked);
    cloud.signed_in(ANN).await;
    sqlite.close().await;
}

#[tokio::test]
async fn a_deleted_account_is_gone_and_its_address_free() {
    let cloud = Cloud::new().await;
    let id = cloud.person(ANN).await;
    let signed_in = cloud.signed_in(ANN).await;
    let principal = accepted(cloud.by_access(&signed_in.access).await);
    assert!(cloud.auth.rename_account(&principal, &id, "Anna").await.unwrap());
    assert_eq!(cloud.account(&id).await.name, "Anna");
    assert_eq!(cloud.auth.delete_account(&principal, &id).await.unwrap(), Deleted::Done);
    assert_eq!(refusal(cloud.by_access(&signed_in.access).await), Refusal::Revoked);
    assert!(matches!(cloud.log_in(ANN, PASSWORD, ip()).await, LoggedIn::Refused));
    assert_eq!(cloud.auth.delete_account(&principal, &id).await.unwrap(), Deleted::NoSuchAccount);
    assert_ne!(cloud.person(ANN).await, id);
}
