//! Units from import to retirement, and the attacks on that way.

#![cfg(feature = "server")]
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

use std::{collections::HashSet, time::Duration};

use iot_auth::registry::{Claim, ClaimRefusal, Claimed, Import, KeysRevoked, Moved};
use iot_core::{
    access::{Access, Grants, Object, Permission, Refusal, Resource, Standing, check},
    clock::Clock,
    device::{Device, KeyState, Stage},
    home::Home,
    id::ProductId,
    store::{Document, Index, MetaStoreExt},
};
use support::{Cloud, accepted, by_certificate, device, home, key, operator, peer, refusal, request};

fn refused(claimed: Claimed) -> ClaimRefusal {
    match claimed {
        Claimed::Refused(why) => why,
        Claimed::Done(claim) => panic!("{} was claimed", claim.device),
    }
}

/// The honest way, on which the attacks below change one thing each.
#[tokio::test]
async fn a_unit_claims_connects_and_is_activated_once() {
    let cloud = Cloud::new().await;
    let by = operator("acme");
    cloud.with_units(&by, "lamp", 2).await;
    let token = cloud.claim_token(&by, "lamp", 1).await;
    let key = key();
    let Claim { certificate, device, .. } = cloud.claimed(&token, &key, Some("lamp-1")).await;
    assert_eq!(device.as_str(), "lamp-1");
    assert_eq!(cloud.device(&by, "lamp-1").await.stage, Stage::Claimed);
    let principal = accepted(cloud.connect(&certificate.pem, "lamp-1").await);
    assert_eq!(cloud.device(&by, "lamp-1").await.stage, Stage::Activated);
    let revision = cloud.meta.revision().await.unwrap();
    assert_eq!(accepted(cloud.connect(&certificate.pem, "").await), principal);
    assert_eq!(cloud.meta.revision().await.unwrap(), revision, "activation happens once");
    let record = cloud.device(&by, "lamp-1").await;
    let Standing::Current(grants) = cloud.auth.standing(&principal).await.unwrap() else { panic!("it stands") };
    assert!(check(&grants, Permission::Report, &Resource::device(&record), cloud.clock.timestamp()).allow);
    let other = Resource::device(&cloud.device(&by, "lamp-0").await);
    assert!(!check(&grants, Permission::Report, &other, cloud.clock.timestamp()).allow);
    assert_eq!(cloud.auth.depends_on(&principal), [record.key()]);
    let actions: Vec<_> = cloud.audit(&by.tenant).await.into_iter().map(|entry| entry.action).collect();
    assert_eq!(actions, ["activate", "claim", "claim_token_issue", "units_import", "product_put"]);
}

#[tokio::test]
async fn asking_again_with_the_same_key_renews_and_costs_no_use() {
    let cloud = Cloud::new().await;
    let by = operator("acme");
    cloud.with_units(&by, "lamp", 3).await;
    let token = cloud.claim_token(&by, "lamp", 1).await;
    let key = key();
    let first = cloud.claimed(&token, &key, None).await;
    for named in [None, Some(first.device.as_str())] {
        let again = cloud.claimed(&token, &key, named).await;
        assert_eq!(again.device, first.device);
        assert_ne!(again.certificate.serial, first.certificate.serial);
        accepted(cloud.connect(&again.certificate.pem, first.device.as_str()).await);
    }
    accepted(cloud.connect(&first.certificate.pem, first.device.as_str()).await);
    assert_eq!(cloud.device(&by, first.device.as_str()).await.keys.len(), 1);
    assert_eq!(refused(cloud.claim(&token, &support::key(), None).await), ClaimRefusal::TokenUsedUp);
}

/// HS-7: the id of one unit with the key of another; a key of another tenant. Same answer as for a key that nobody has.
#[tokio::test]
async fn hs_7_a_key_opens_only_its_own_unit() {
    let cloud = Cloud::new().await;
    let (by, rival) = (operator("default"), operator("rival"));
    cloud.with_units(&by, "lamp", 2).await;
    cloud.with_units(&rival, "lamp", 2).await;
    let token = cloud.claim_token(&by, "lamp", 9).await;
    let own = key();
    let honest = cloud.claimed(&token, &own, Some("lamp-0")).await;
    accepted(cloud.connect(&honest.certificate.pem, "lamp-0").await);
    let ca = cloud.ca().await;
    let now = cloud.clock.timestamp();
    for (tenant, id, of) in [
        (&by.tenant, "lamp-1", &own),
        (&rival.tenant, "lamp-0", &own),
        (&by.tenant, "lamp-1", &key()),
        (&by.tenant, "nobody", &key()),
    ] {
        let forged = ca.issue_device(tenant, &device(id), &request(of), now).unwrap();
        let before = cloud.before(&by.tenant).await;
        assert_eq!(refusal(cloud.connect(&forged.pem, id).await), Refusal::Unknown, "{tenant} {id}");
        cloud.refused_only(before, "unknown_credential").await;
    }
}

/// HS-13, as far as the registry sees it: the end of a certificate and its beginning; certificates that are none of ours.
#[tokio::test]
async fn hs_13_a_certificate_is_good_between_its_beginning_and_its_end() {
    let cloud = Cloud::new().await;
    let by = operator("default");
    cloud.with_units(&by, "lamp", 1).await;
    let token = cloud.claim_token(&by, "lamp", 1).await;
    let key = key();
    let claim = cloud.claimed(&token, &key, None).await;
    let principal = accepted(cloud.connect(&claim.certificate.pem, "").await);
    let ca = cloud.ca().await;
    let later = cloud.clock.timestamp().plus(Duration::from_secs(7_200));
    let early = ca.issue_device(&by.tenant, &claim.device, &request(&key), later).unwrap();
    let before = cloud.before(&by.tenant).await;
    assert_eq!(refusal(cloud.connect(&early.pem, "").await), Refusal::Revoked);
    cloud.refused_only(before, "revoked").await;
    let server = ca.issue_server(&[], cloud.clock.timestamp()).unwrap();
    let before = cloud.before(&by.tenant).await;
    assert_eq!(refusal(cloud.connect(&server.certificate_pem, "").await), Refusal::Unknown);
    cloud.refused_only(before, "unknown_credential").await;
    cloud.clock.advance(iot_auth::ca::DEVICE_VALIDITY);
    accepted(cloud.connect(&claim.certificate.pem, "").await);
    cloud.clock.advance(Duration::from_secs(1));
    let before = cloud.before(&by.tenant).await;
    assert_eq!(refusal(cloud.connect(&claim.certificate.pem, "").await), Refusal::Revoked);
    cloud.refused_only(before, "revoked").await;
    assert_eq!(cloud.auth.standing(&principal).await.unwrap(), Standing::Revoked, "a session ends with it");
}

/// HS-18: a device with the client identifier of another.
#[tokio::test]
async fn hs_18_a_device_has_its_own_client_identifier() {
    let cloud = Cloud::new().await;
    let by = operator("acme");
    cloud.with_units(&by, "lamp", 2).await;
    let token = cloud.claim_token(&by, "lamp", 2).await;
    let a = cloud.claimed(&token, &key(), Some("lamp-0")).await;
    let b = cloud.claimed(&token, &key(), Some("lamp-1")).await;
    let a_principal = accepted(cloud.connect(&a.certificate.pem, "lamp-0").await);
    let before = cloud.before(&by.tenant).await;
    assert_eq!(refusal(cloud.connect(&b.certificate.pem, "lamp-0").await), Refusal::ClientId);
    cloud.refused_only(before, "client_id_of_another").await;
    assert_eq!(cloud.device(&by, "lamp-1").await.stage, Stage::Claimed, "it was not activated by that");
    assert!(matches!(cloud.auth.standing(&a_principal).await.unwrap(), Standing::Current(_)));
    accepted(cloud.connect(&b.certificate.pem, "lamp-1").await);
}

#[tokio::test]
async fn a_certificate_without_encryption_is_refused() {
    let cloud = Cloud::new().await;
    let by = operator("acme");
    cloud.with_units(&by, "lamp", 1).await;
    let token = cloud.claim_token(&by, "lamp", 1).await;
    let claim = cloud.claimed(&token, &key(), None).await;
    let mut credentials = by_certificate(&claim.certificate.pem, "");
    credentials.encrypted = false;
    assert_eq!(refusal(cloud.auth.authenticate(&credentials).await.unwrap()), Refusal::Unencrypted);
}

/// HS-20: a second key for a claimed unit, a unit that the token is not for, and the key of another unit.
#[tokio::test]
async fn hs_20_a_claim_takes_no_unit_over() {
    let cloud = Cloud::new().await;
    let by = operator("acme");
    cloud.with_units(&by, "lamp", 2).await;
    cloud.with_units(&by, "lock", 1).await;
    let token = cloud.claim_token(&by, "lamp", 9).await;
    let first = key();
    let honest = cloud.claimed(&token, &first, Some("lamp-0")).await;
    for (key, unit, why) in [
        (&key(), Some("lamp-0"), ClaimRefusal::AlreadyClaimed),
        (&key(), Some("lock-0"), ClaimRefusal::UnknownUnit),
        (&key(), Some("nobody"), ClaimRefusal::UnknownUnit),
        (&first, Some("lamp-1"), ClaimRefusal::KeyOfAnother),
    ] {
        let before = cloud.before(&by.tenant).await;
        assert_eq!(refused(cloud.claim(&token, key, unit).await), why);
        cloud.refused_only(before, why.code()).await;
    }
    let locks = cloud.claim_token(&by, "lock", 9).await;
    let before = cloud.before(&by.tenant).await;
    assert_eq!(refused(cloud.claim(&locks, &first, None).await), ClaimRefusal::KeyOfAnother);
    cloud.refused_only(before, "key_of_another").await;
    accepted(cloud.connect(&honest.certificate.pem, "lamp-0").await);
}

#[tokio::test]
async fn a_claim_needs_a_good_token() {
    let cloud = Cloud::new().await;
    let by = operator("default");
    cloud.with_units(&by, "lamp", 4).await;
    let token = cloud.claim_token(&by, "lamp", 1).await;
    let wrong = iot_core::secret::Secret::new(format!("{}{}", &token.expose()[..token.expose().len() - 1], "0"));
    for bad in [wrong, iot_core::secret::Secret::new("ct_x"), iot_core::secret::Secret::new("")] {
        let before = cloud.before(&by.tenant).await;
        assert_eq!(refused(cloud.claim(&bad, &key(), None).await), ClaimRefusal::UnknownToken);
        cloud.refused_only(before, "unknown_token").await;
    }
    let product = ProductId::parse("lamp").unwrap();
    let hour = Duration::from_secs(3_600);
    let named_only = cloud.auth.issue_claim_token(&by, &product, 5, hour, false).await.unwrap().unwrap();
    let before = cloud.before(&by.tenant).await;
    assert_eq!(refused(cloud.claim(&named_only.text, &key(), None).await), ClaimRefusal::UnitNotNamed);
    cloud.refused_only(before, "unit_not_named").await;
    cloud.claimed(&named_only.text, &key(), Some("lamp-3")).await;
    cloud.claimed(&token, &key(), None).await;
    let before = cloud.before(&by.tenant).await;
    assert_eq!(refused(cloud.claim(&token, &key(), None).await), ClaimRefusal::TokenUsedUp);
    cloud.refused_only(before, "token_used_up").await;
    cloud.clock.advance(hour);
    let before = cloud.before(&by.tenant).await;
    assert_eq!(refused(cloud.claim(&named_only.text, &key(), Some("lamp-0")).await), ClaimRefusal::TokenExpired);
    cloud.refused_only(before, "token_expired").await;
    let revoked = cloud.claim_token(&by, "lamp", 1).await;
    let id = iot_auth::token::TokenText::parse(iot_auth::token::Kind::Claim, &revoked).unwrap().id;
    assert!(!cloud.auth.revoke_claim_token(&operator("rival"), &id).await.unwrap());
    assert!(cloud.auth.revoke_claim_token(&by, &id).await.unwrap());
    assert_eq!(refused(cloud.claim(&revoked, &key(), None).await), ClaimRefusal::UnknownToken);
}

/// Two nodes, forty keys at once, a token for fifteen, twelve units: each unit goes to one key, and no use is spent in vain.
#[tokio::test(flavor = "multi_thread")]
async fn uses_and_units_are_counted_under_race() {
    for (uses, units, expected) in [(15, 12, 12), (7, 12, 7)] {
        let cloud = Cloud::new().await;
        let by = operator("acme");
        cloud.with_units(&by, "lamp", units).await;
        let token = cloud.claim_token(&by, "lamp", uses).await;
        let nodes = [cloud.auth.clone(), cloud.another_node().await];
        let claims: Vec<_> = (0..40)
            .map(|n| {
                let (node, token, request) = (nodes[n % 2].clone(), token.clone(), request(&key()));
                tokio::spawn(async move { node.claim(&token, &request, None, peer().ip()).await.unwrap() })
            })
            .collect();
        let mut devices = HashSet::new();
        for claim in claims {
            match claim.await.unwrap() {
                Claimed::Done(claim) => assert!(devices.insert(claim.device), "a unit was claimed twice"),
                Claimed::Refused(why) => {
                    assert!(matches!(why, ClaimRefusal::NoUnitLeft | ClaimRefusal::TokenUsedUp), "{why:?}");
                }
            }
        }
        assert_eq!(devices.len(), expected);
        let tokens = cloud.meta.page::<iot_auth::registry::ClaimToken>("tenant", "acme", None, 2).await.unwrap().items;
        assert_eq!(tokens[0].document.used as usize, expected);
    }
}

/// BD-21: units that are retired or were never made cannot be claimed; duplicates are refused at import.
#[tokio::test]
async fn bd_21_only_units_that_were_made_once_and_are_in_service() {
    let cloud = Cloud::new().await;
    let by = operator("acme");
    cloud.with_units(&by, "lamp", 2).await;
    let token = cloud.claim_token(&by, "lamp", 9).await;
    let claim = cloud.claimed(&token, &key(), Some("lamp-1")).await;
    let principal = accepted(cloud.connect(&claim.certificate.pem, "").await);
    for unit in ["lamp-0", "lamp-1"] {
        assert!(cloud.auth.retire(&by, &device(unit)).await.unwrap());
        assert!(cloud.auth.retire(&by, &device(unit)).await.unwrap(), "again is no error");
    }
    assert_eq!(cloud.auth.standing(&principal).await.unwrap(), Standing::Revoked);
    assert_eq!(refusal(cloud.connect(&claim.certificate.pem, "").await), Refusal::Revoked);
    for unit in [Some("lamp-0"), Some("lamp-1")] {
        let before = cloud.before(&by.tenant).await;
        assert_eq!(refused(cloud.claim(&token, &key(), unit).await), ClaimRefusal::UnknownUnit);
        cloud.refused_only(before, "unknown_unit").await;
    }
    assert_eq!(refused(cloud.claim(&token, &key(), None).await), ClaimRefusal::NoUnitLeft);
    assert!(!cloud.auth.retire(&by, &device("nobody")).await.unwrap());

    let product = ProductId::parse("lamp").unwrap();
    for (csv, line, code) in [
        ("a,A\nlamp-0,B", 3, "device_exists"),
        ("a,A\nb,LAMP-1", 3, "p_code_exists"),
        ("a,A\nb,A", 3, "duplicate_in_file"),
        ("a,A\na,B", 3, "duplicate_in_file"),
    ] {
        let before = cloud.before(&by.tenant).await;
        let csv = format!("device_id,p_code\n{csv}\n");
        let Import::Rejected(error) = cloud.auth.import_units(&by, &product, csv.as_bytes()).await.unwrap() else {
            panic!("{csv} was imported")
        };
        assert_eq!((error.line, error.kind.code()), (line, code), "{csv}");
        cloud.refused_only(before, code).await;
    }
}

/// BD-22: the same device id under another tenant is another device.
#[tokio::test]
async fn bd_22_tenants_do_not_meet() {
    let cloud = Cloud::new().await;
    let (acme, rival) = (operator("acme"), operator("rival"));
    for by in [&acme, &rival] {
        cloud.with_units(by, "lamp", 1).await;
        let _put = cloud.auth.put_home(by, &home("h"), "Hill House").await.unwrap();
    }
    let token = cloud.claim_token(&acme, "lamp", 9).await;
    let claim = cloud.claimed(&token, &key(), Some("lamp-0")).await;
    assert_eq!(claim.tenant, acme.tenant);
    let untouched = cloud.version(&Device::key_of(&rival.tenant, &device("lamp-0"))).await;
    let principal = accepted(cloud.connect(&claim.certificate.pem, "lamp-0").await);
    assert_eq!(principal.tenant, acme.tenant);
    assert_eq!(cloud.auth.revoke_keys(&rival, &device("lamp-0"), None).await.unwrap(), KeysRevoked::Done(0));
    assert_eq!(cloud.auth.move_device(&acme, &device("lamp-0"), Some(&home("h"))).await.unwrap(), Moved::Done);
    assert_eq!(cloud.version(&Device::key_of(&rival.tenant, &device("lamp-0"))).await, untouched);
    assert_eq!(cloud.version(&Home::key_of(&rival.tenant, &home("h"))).await, 1);
    let Standing::Current(Grants { tuples, .. }) = cloud.auth.standing(&principal).await.unwrap() else { panic!() };
    assert!(matches!(&tuples[0].object, Object::Device(tenant, ..) if *tenant == acme.tenant));
}

#[tokio::test]
async fn a_revoked_key_is_refused_and_stays_so() {
    let cloud = Cloud::new().await;
    let by = operator("acme");
    cloud.with_units(&by, "lamp", 1).await;
    let token = cloud.claim_token(&by, "lamp", 9).await;
    let key = key();
    let claim = cloud.claimed(&token, &key, None).await;
    let principal = accepted(cloud.connect(&claim.certificate.pem, "").await);
    let lamp = device("lamp-0");
    assert_eq!(cloud.auth.revoke_keys(&by, &lamp, Some("00")).await.unwrap(), KeysRevoked::NoSuchKey);
    assert_eq!(cloud.auth.revoke_keys(&by, &device("x"), None).await.unwrap(), KeysRevoked::NoSuchDevice);
    let fingerprint = cloud.device(&by, "lamp-0").await.keys[0].fingerprint.clone();
    assert_eq!(cloud.auth.revoke_keys(&by, &lamp, Some(&fingerprint)).await.unwrap(), KeysRevoked::Done(1));
    assert_eq!(cloud.auth.revoke_keys(&by, &lamp, None).await.unwrap(), KeysRevoked::Done(0));
    assert_eq!(cloud.device(&by, "lamp-0").await.keys[0].state, KeyState::Revoked);
    assert_eq!(cloud.auth.standing(&principal).await.unwrap(), Standing::Revoked);
    let before = cloud.before(&by.tenant).await;
    assert_eq!(refusal(cloud.connect(&claim.certificate.pem, "").await), Refusal::Revoked);
    cloud.refused_only(before, "revoked").await;
    for (key, why) in [(&key, ClaimRefusal::KeyRevoked), (&support::key(), ClaimRefusal::AlreadyClaimed)] {
        let before = cloud.before(&by.tenant).await;
        assert_eq!(refused(cloud.claim(&token, key, Some("lamp-0")).await), why);
        cloud.refused_only(before, why.code()).await;
    }
}

#[tokio::test]
async fn an_import_is_all_or_nothing_and_places_units_in_homes() {
    let cloud = Cloud::new().await;
    let by = operator("acme");
    cloud.with_units(&by, "lamp", 0).await;
    let product = ProductId::parse("lamp").unwrap();
    let mut csv = "device_id,p_code,home\n".to_owned();
    (0..iot_auth::registry::CSV_ROWS_MAX)
        .for_each(|n| csv += &format!("d{n},P{n},{}\n", if n == 9_999 { "h" } else { "" }));
    let Import::Rejected(error) = cloud.auth.import_units(&by, &product, csv.as_bytes()).await.unwrap() else {
        panic!()
    };
    assert_eq!((error.line, error.kind.code()), (10_001, "csv_line_invalid"));
    let all = Index::new(Device::KIND, "tenant", "acme");
    assert_eq!(cloud.meta.count(&all).await.unwrap(), 0);
    let _put = cloud.auth.put_home(&by, &home("h"), "Hill House").await.unwrap();
    assert_eq!(cloud.auth.import_units(&by, &product, csv.as_bytes()).await.unwrap(), Import::Done(10_000));
    assert_eq!(cloud.meta.count(&all).await.unwrap(), 10_000);
    assert_eq!(cloud.version(&Home::key_of(&by.tenant, &home("h"))).await, 2, "the home's record orders its members");
    let nothing = ProductId::parse("nothing").unwrap();
    assert_eq!(cloud.auth.import_units(&by, &nothing, csv.as_bytes()).await.unwrap(), Import::NoSuchProduct);
}

#[tokio::test]
async fn a_move_writes_both_homes() {
    let cloud = Cloud::new().await;
    let by = operator("acme");
    cloud.with_units(&by, "lamp", 1).await;
    for id in ["h1", "h2"] {
        let _put = cloud.auth.put_home(&by, &home(id), id).await.unwrap();
    }
    let lamp = device("lamp-0");
    let versions = async || {
        let of = async |id| cloud.version(&Home::key_of(&by.tenant, &home(id))).await;
        (of("h1").await, of("h2").await)
    };
    assert_eq!(cloud.auth.move_device(&by, &lamp, Some(&home("h1"))).await.unwrap(), Moved::Done);
    assert_eq!(versions().await, (2, 1));
    assert_eq!(cloud.auth.move_device(&by, &lamp, Some(&home("h2"))).await.unwrap(), Moved::Done);
    assert_eq!(versions().await, (3, 2));
    assert_eq!(cloud.auth.move_device(&by, &lamp, Some(&home("h3"))).await.unwrap(), Moved::NoSuchHome);
    assert_eq!(cloud.auth.move_device(&by, &device("x"), None).await.unwrap(), Moved::NoSuchDevice);
    assert_eq!(cloud.auth.move_device(&by, &lamp, None).await.unwrap(), Moved::Done);
    assert_eq!(versions().await, (3, 3));
    assert_eq!(cloud.device(&by, "lamp-0").await.home, None);
}
