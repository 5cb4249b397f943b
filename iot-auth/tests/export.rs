//! What is kept about a person is given to them whole, and is gone when they are (GDPR Art. 15, 17, 20).

#![cfg(feature = "server")]
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

use std::time::Duration;

use bytes::Bytes;
use iot_auth::account::Deleted;
use iot_core::{
    access::Principal,
    clock::Clock,
    home::{MembershipBell, Role},
    id::AccountId,
    message::{Message, QoS},
    session::SessionId,
    store::{MetaStoreExt, Opening, Publication, StoredSubscription, Target},
};
use serde_json::{Value, json};
use support::{Cloud, accepted};

const ANN: &str = "ann@example.org";
const BOB: &str = "bob@example.org";

async fn arrives(cloud: &Cloud, address: &str) -> (AccountId, Principal) {
    let id = cloud.person(address).await;
    (id, accepted(cloud.by_access(&cloud.signed_in(address).await.access).await))
}

/// A stored session with a subscription and a message that waits.
async fn session(cloud: &Cloud, by: &Principal, id: &AccountId, client: &str) -> SessionId {
    let (session, at) = (SessionId::account(&by.tenant, id, client), cloud.clock.timestamp());
    let opening = Opening { session: session.clone(), clean: false, keep: Duration::from_secs(3_600), will: None, at };
    let sessions = &cloud.stores.sessions;
    let epoch = sessions.open(opening).await.unwrap().epoch;
    let subscription = StoredSubscription {
        filter: "d/lamp-1/up/#".to_owned(),
        qos: QoS::AtLeastOnce,
        no_local: false,
        retain_as_published: false,
        identifier: None,
    };
    let _done = sessions.subscribe(&session, epoch, &[subscription]).await.unwrap();
    let message = Message {
        tenant: by.tenant.clone(),
        topic: "d/lamp-1/up/telemetry".into(),
        payload: Bytes::from_static(b"{}"),
        qos: QoS::AtLeastOnce,
        retain: false,
        published: at,
        expires: None,
        device: None,
        properties: None,
    };
    let to = vec![Target { session: session.clone(), qos: QoS::AtLeastOnce, retain: false, identifiers: vec![] }];
    sessions.offer(&[Publication { message, to, received: None }]).await.unwrap();
    session
}

async fn exported(cloud: &Cloud, by: &Principal, id: &AccountId) -> Value {
    serde_json::to_value(cloud.auth.export_account(by, id).await.unwrap().unwrap()).unwrap()
}

#[tokio::test]
async fn an_export_holds_what_is_kept_and_a_deletion_takes_it_away() {
    let cloud = Cloud::new().await;
    let (ann, as_ann) = arrives(&cloud, ANN).await;
    let (bob, as_bob) = arrives(&cloud, BOB).await;
    assert!(cloud.auth.rename_account(&as_ann, &ann, "Ann of the Hill").await.unwrap());
    let home = cloud.home_of(&as_bob).await;
    cloud.let_in(&as_bob, &home, &as_ann, Role::Manager).await;
    let _code = cloud.invited(&as_ann, &home, &iot_auth::home::InviteAsked::one(Role::Guest)).await;
    let (of_ann, of_bob) =
        (session(&cloud, &as_ann, &ann, "phone/1").await, session(&cloud, &as_bob, &bob, "phone").await);

    let export = exported(&cloud, &as_ann, &ann).await;
    assert_eq!(export["account"]["email"], ANN);
    assert_eq!(export["account"]["name"], "Ann of the Hill");
    assert_eq!(export["logins"].as_array().unwrap().len(), 1);
    assert_eq!((&export["homes"][0]["id"], &export["homes"][0]["role"]), (&json!(home), &json!("manager")));
    assert_eq!(export["homes"][0]["invitations"].as_array().unwrap().len(), 1);
    assert_eq!(export["sessions"], json!([{"client": "phone/1", "filters": ["d/lamp-1/up/#"], "keep_s": 3_600}]));
    assert_eq!(export["audit_complete"], true);
    let actions: Vec<_> =
        export["audit"].as_array().unwrap().iter().map(|entry| entry["action"].as_str().unwrap()).collect();
    assert_eq!(actions[0], "account_export", "{actions:?}");
    assert!(actions.contains(&"invite_accept") && actions.contains(&"account_rename"), "{actions:?}");
    // Nothing by which one could be she, and nothing of another.
    let text = export.to_string();
    assert!(!text.contains("$argon2") && !text.contains("code\":") && !text.contains(BOB), "{text}");
    let own = |entry: &Value| entry.to_string().contains(ann.as_str());
    assert!(export["audit"].as_array().unwrap().iter().all(own));

    assert_eq!(cloud.auth.delete_account(&as_ann, &ann).await.unwrap(), Deleted::Done);
    assert!(cloud.auth.export_account(&as_bob, &ann).await.unwrap().is_none());
    let sessions = cloud.stores.sessions.sessions(None, 10).await.unwrap();
    assert_eq!(sessions.iter().map(|stored| &stored.session).collect::<Vec<_>>(), [&of_bob]);
    assert!(cloud.stores.sessions.peek(&of_ann, None, 10, usize::MAX).await.unwrap().is_empty());
    assert_eq!(cloud.stores.sessions.peek(&of_bob, None, 10, usize::MAX).await.unwrap().len(), 1);
    // Her number stays in the audit log and in the bell; neither name nor address is anywhere.
    let bell = cloud.meta.find::<MembershipBell>(&MembershipBell::key_of(&as_ann.tenant, &ann)).await.unwrap().unwrap();
    let bell = serde_json::to_string(&bell.document).unwrap();
    let dump = cloud.dump(&as_ann.tenant).await;
    let records = dump.split("Audit {").next().unwrap().replace(&format!("{bell:?}"), "");
    assert!(!records.contains(ann.as_str()), "{records}");
    assert!(!dump.contains(ANN) && !dump.contains("Ann of the Hill"), "{dump}");
}

/// What was left when the sessions could not be removed is removed by asking again.
#[tokio::test]
async fn a_second_deletion_removes_what_a_broken_one_left() {
    let cloud = Cloud::new().await;
    let (ann, as_ann) = arrives(&cloud, ANN).await;
    assert_eq!(cloud.auth.delete_account(&as_ann, &ann).await.unwrap(), Deleted::Done);
    session(&cloud, &as_ann, &ann, "late").await;
    assert_eq!(cloud.auth.delete_account(&as_ann, &ann).await.unwrap(), Deleted::NoSuchAccount);
    assert!(cloud.stores.sessions.sessions(None, 10).await.unwrap().is_empty());
}

/// Many sessions, and an account whose id begins like another's.
#[tokio::test]
async fn only_the_own_sessions_are_exported_and_removed() {
    let cloud = Cloud::new().await;
    let (ann, as_ann) = arrives(&cloud, ANN).await;
    for number in 0..250 {
        session(&cloud, &as_ann, &ann, &format!("c{number}")).await;
    }
    let longer = AccountId::parse(&format!("{ann}x")).unwrap();
    let kept = session(&cloud, &as_ann, &longer, "c").await;
    assert_eq!(exported(&cloud, &as_ann, &ann).await["sessions"].as_array().unwrap().len(), 250);
    assert_eq!(cloud.auth.delete_account(&as_ann, &ann).await.unwrap(), Deleted::Done);
    let left = cloud.stores.sessions.sessions(None, 10).await.unwrap();
    assert_eq!(left.iter().map(|stored| &stored.session).collect::<Vec<_>>(), [&kept]);
}
