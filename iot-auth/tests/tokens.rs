//! API tokens, the one-time password, anonymous clients, and what the store keeps of them.

#![cfg(feature = "server")]
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

use std::time::Duration;

use iot_auth::{
    Auth,
    auth::REFUSALS_MAX,
    token::{AdminPassword, ApiToken, Role, SignIn},
};
use iot_core::{
    access::{Access, Authentication, Credentials, Permission, Principal, Proof, Refusal, Resource, Standing, check},
    clock::Clock,
    secret::Secret,
    store::{Document, Index, Key},
};
use support::{Cloud, accepted, by_token, operator, peer, refusal};

fn may(answer: Authentication, cloud: &Cloud) -> Vec<Permission> {
    let Authentication::Accepted(principal, grants) = answer else { panic!("{answer:?}") };
    let resource = Resource::tenant(&principal.tenant);
    let now = cloud.clock.timestamp();
    Permission::ALL.into_iter().filter(|p| check(&grants, *p, &resource, now).allow).collect()
}

#[tokio::test]
async fn a_token_is_accepted_until_it_ends() {
    let cloud = Cloud::new().await;
    let by = operator("default");
    let until = cloud.clock.timestamp().plus(Duration::from_secs(60));
    let issued = cloud.auth.issue_token(&by, "panel", Role::Viewer, Some(until)).await.unwrap();
    let answer = cloud.auth.authenticate(&by_token(&issued.text)).await.unwrap();
    let principal = accepted(answer.clone());
    let reads = [Permission::ReadDevice, Permission::ReadState, Permission::ReadTelemetry, Permission::ReadHome];
    assert_eq!(may(answer, &cloud), [&reads[..], &[Permission::Subscribe]].concat());
    assert!(matches!(cloud.auth.standing(&principal).await.unwrap(), Standing::Current(_)));
    cloud.clock.advance(Duration::from_secs(60));
    let before = cloud.before(&by.tenant).await;
    assert_eq!(refusal(cloud.auth.authenticate(&by_token(&issued.text)).await.unwrap()), Refusal::Revoked);
    cloud.refused_only(before, "revoked").await;
    assert_eq!(cloud.auth.standing(&principal).await.unwrap(), Standing::Revoked);
}

#[tokio::test]
async fn a_revoked_token_ends_at_once_and_only_its_tenant_revokes_it() {
    let cloud = Cloud::new().await;
    let by = operator("default");
    let issued = cloud.auth.issue_token(&by, "panel", Role::Admin, None).await.unwrap();
    let principal = accepted(cloud.auth.authenticate(&by_token(&issued.text)).await.unwrap());
    assert_eq!(cloud.auth.depends_on(&principal), [ApiToken::key_of(&issued.token.id)]);
    let elsewhere = Principal { tenant: operator("rival").tenant, ..principal.clone() };
    assert_eq!(cloud.auth.standing(&elsewhere).await.unwrap(), Standing::Revoked, "a token stands in its own tenant");
    assert!(!cloud.auth.revoke_token(&operator("rival"), &issued.token.id).await.unwrap());
    assert!(cloud.auth.revoke_token(&by, &issued.token.id).await.unwrap());
    assert!(!cloud.auth.revoke_token(&by, &issued.token.id).await.unwrap());
    assert_eq!(cloud.auth.standing(&principal).await.unwrap(), Standing::Revoked);
    let before = cloud.before(&by.tenant).await;
    assert_eq!(refusal(cloud.auth.authenticate(&by_token(&issued.text)).await.unwrap()), Refusal::Unknown);
    cloud.refused_only(before, "unknown_credential").await;
}

#[tokio::test]
async fn no_part_of_a_token_is_enough() {
    let cloud = Cloud::new().await;
    let by = operator("default");
    let a = cloud.auth.issue_token(&by, "a", Role::Admin, None).await.unwrap().text;
    let b = cloud.auth.issue_token(&by, "b", Role::Admin, None).await.unwrap().text;
    cloud.with_units(&by, "lamp", 1).await;
    let claim = cloud.claim_token(&by, "lamp", 1).await;
    let (id, _) = a.expose().rsplit_once('_').unwrap();
    let (_, secret) = b.expose().rsplit_once('_').unwrap();
    let swapped = format!("{id}_{secret}");
    let as_api = claim.expose().replacen("ct", "at", 1);
    for bad in [&swapped, &as_api, claim.expose(), id, secret, "", "at_", &a.expose().to_uppercase()] {
        let before = cloud.before(&by.tenant).await;
        assert_eq!(
            refusal(cloud.auth.authenticate(&by_token(&Secret::new(bad))).await.unwrap()),
            Refusal::Unknown,
            "{bad}"
        );
        cloud.refused_only(before, "unknown_credential").await;
    }
}

#[tokio::test]
async fn a_token_without_encryption_comes_from_the_machine_itself() {
    let cloud = Cloud::new().await;
    let by = operator("default");
    let token = cloud.auth.issue_token(&by, "a", Role::Admin, None).await.unwrap().text;
    let from = |peer: &str| Credentials { encrypted: false, peer: peer.parse().unwrap(), ..by_token(&token) };
    for local in ["127.0.0.1:1", "[::1]:1", "[::ffff:127.0.0.1]:1"] {
        accepted(cloud.auth.authenticate(&from(local)).await.unwrap());
    }
    for far in ["192.0.2.1:1", "0.0.0.0:0", "[::ffff:192.0.2.1]:1"] {
        let before = cloud.before(&by.tenant).await;
        assert_eq!(refusal(cloud.auth.authenticate(&from(far)).await.unwrap()), Refusal::Unencrypted);
        cloud.refused_only(before, "unencrypted").await;
    }
}

#[tokio::test]
async fn anonymous_clients_have_free_topics_where_a_listener_allows_it() {
    let cloud = Cloud::new().await;
    let nothing = Credentials { proof: Proof::Nothing, ..by_token(&Secret::new("")) };
    let allowed = Credentials { anonymous_allowed: true, ..nothing.clone() };
    let answer = cloud.auth.authenticate(&allowed).await.unwrap();
    assert_eq!(may(answer, &cloud), [Permission::Publish, Permission::Subscribe]);
    let before = cloud.before(&Auth::default_tenant()).await;
    assert_eq!(refusal(cloud.auth.authenticate(&nothing).await.unwrap()), Refusal::NoCredential);
    cloud.refused_only(before, "no_credential").await;
}

#[tokio::test]
async fn the_password_signs_in_once() {
    let cloud = Cloud::new().await;
    let password = cloud.auth.first_start().await.unwrap().unwrap();
    assert!(cloud.auth.first_start().await.unwrap().is_none());
    let tenant = Auth::default_tenant();
    let sign_in = async |user: &str, password: &Secret| cloud.auth.sign_in(user, password, peer().ip()).await.unwrap();
    for (user, bad) in [("admin", Secret::new("guess")), ("root", password.clone()), ("admin", Secret::new(""))] {
        let before = cloud.before(&tenant).await;
        assert!(matches!(sign_in(user, &bad).await, SignIn::Refused));
        cloud.refused_only(before, "password").await;
    }
    let SignIn::Granted(issued) = sign_in("admin", &password).await else { panic!("it is right") };
    let answer = cloud.auth.authenticate(&by_token(&issued.text)).await.unwrap();
    assert!(may(answer, &cloud).contains(&Permission::ManageCredentials));
    let before = cloud.before(&tenant).await;
    assert!(matches!(sign_in("admin", &password).await, SignIn::Refused));
    cloud.refused_only(before, "password").await;
    let reset = cloud.auth.reset_admin().await.unwrap();
    let newest = cloud.auth.reset_admin().await.unwrap();
    assert!(matches!(sign_in("admin", &reset).await, SignIn::Refused));
    assert!(matches!(sign_in("admin", &newest).await, SignIn::Granted(_)));
}

#[tokio::test(flavor = "multi_thread")]
async fn of_many_who_sign_in_at_once_one_does() {
    let cloud = Cloud::new().await;
    let password = cloud.auth.first_start().await.unwrap().unwrap();
    let nodes = [cloud.auth.clone(), cloud.another_node().await];
    let tries: Vec<_> = (0..20)
        .map(|n| {
            let (node, password) = (nodes[n % 2].clone(), password.clone());
            tokio::spawn(async move { node.sign_in("admin", &password, peer().ip()).await.unwrap() })
        })
        .collect();
    let mut granted = 0;
    for attempt in tries {
        granted += u32::from(matches!(attempt.await.unwrap(), SignIn::Granted(_)));
    }
    assert_eq!(granted, 1);
    assert_eq!(cloud.meta.count(&Index::new("api_token", "tenant", "default")).await.unwrap(), 1);
}

/// AC-1 for what is kept here: no token and no password stands in the store.
#[tokio::test]
async fn ac_1_the_store_holds_no_secret() {
    let cloud = Cloud::new().await;
    let by = operator("default");
    let password = cloud.auth.first_start().await.unwrap().unwrap();
    let token = cloud.auth.issue_token(&by, "a", Role::Admin, None).await.unwrap().text;
    cloud.with_units(&by, "lamp", 1).await;
    let claim = cloud.claim_token(&by, "lamp", 1).await;
    let mut dump = String::new();
    for kind in [ApiToken::KIND, iot_auth::registry::ClaimToken::KIND] {
        let page = cloud.meta.list(&Index::new(kind, "tenant", "default"), None, 10).await.unwrap();
        assert_eq!(page.items.len(), 1);
        dump += &page.items[0].body;
    }
    dump += &cloud.meta.get(&[Key::new(AdminPassword::KIND, "default")]).await.unwrap()[0].clone().unwrap().body;
    dump += &format!("{:?}", cloud.audit(&by.tenant).await);
    for secret in [&password, &token, &claim] {
        let secret = secret.expose().rsplit('_').next().unwrap();
        assert!(!dump.contains(secret));
    }
}

/// A flood of bad tokens fills no disk.
#[tokio::test]
async fn refusals_of_strangers_are_recorded_up_to_a_bound() {
    let cloud = Cloud::new().await;
    let revision = cloud.meta.revision().await.unwrap().0;
    for _ in 0..REFUSALS_MAX + 50 {
        let bad = by_token(&Secret::new("guess"));
        assert_eq!(refusal(cloud.auth.authenticate(&bad).await.unwrap()), Refusal::Unknown);
    }
    assert_eq!(cloud.meta.revision().await.unwrap().0, revision + u64::from(REFUSALS_MAX));
}
