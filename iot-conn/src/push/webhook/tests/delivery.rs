//! The honest path, failures, and what follows from them.

use super::{super::*, *};

#[tokio::test]
async fn a_delivery_is_signed_and_made_once() {
    let (site, mut receiver) = (Site::new().await, Receiver::start().await);
    let Shown { webhook, secret } = site.register(&site.everywhere(), &receiver.url()).await;
    let notification = alarm(1, &lamp(0, Some("h")));
    assert_eq!(site.push(&notification).await, Pushed::Taken);
    assert_eq!(site.push(&notification).await, Pushed::Taken, "a repeat is taken");
    assert_eq!(site.deliver_due().await, 1, "and counts once");
    let got = receiver.drain().pop().unwrap();
    assert!(got.is_signed_with(&secret));
    assert!(!got.is_signed_with(&Secret::new("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw")));
    assert_eq!(got.header("webhook-id"), "alarm-n-1-0");
    assert_eq!(got.header("webhook-timestamp"), "1763856000");
    assert_eq!(got.header("content-type"), "application/json");
    assert_eq!(got.header("host"), receiver.address.to_string());
    let body: serde_json::Value = serde_json::from_str(&got.body).unwrap();
    let expected = serde_json::json!({
        "type": "alarm.raised", "timestamp": "1970-01-01T00:00:00Z",
        "data": {
            "notification": "alarm-n-1-0", "tenant": "acme", "home": "h", "device": "lamp-1", "name": "heat",
            "text": "31.5 is above 30", "since": "1970-01-01T00:00:00Z", "message": "lamp-1: heat: 31.5 is above 30"
        }
    });
    assert_eq!(body, expected);
    assert_eq!(site.state(&webhook, &notification).await, (DeliveryState::Delivered, "http_204".to_owned()));
    let _taken = site.push(&notification).await;
    assert_eq!(site.deliver_all().await, 0, "a repeat after the delivery is recognised too");
}

#[tokio::test]
async fn both_secrets_sign_for_a_day_after_a_rotation() {
    let (site, mut receiver) = (Site::new().await, Receiver::start().await);
    let place = site.everywhere();
    let first = site.register(&place, &receiver.url()).await;
    let second = site.hooks.rotate(&place, &first.webhook.id).await.unwrap().unwrap();
    let _taken = site.push(&alarm(1, &lamp(0, None))).await;
    site.deliver_due().await;
    let got = receiver.drain().pop().unwrap();
    assert!(got.is_signed_with(&first.secret) && got.is_signed_with(&second.secret));
    site.clock.advance(ROTATION);
    let _taken = site.push(&alarm(2, &lamp(0, None))).await;
    site.deliver_due().await;
    let got = receiver.drain().pop().unwrap();
    assert!(!got.is_signed_with(&first.secret) && got.is_signed_with(&second.secret));
}

#[tokio::test]
async fn nothing_is_lost_while_the_receiver_is_down() {
    let (site, receiver) = (Site::new().await, std::net::TcpListener::bind("127.0.0.1:0").unwrap());
    let address = receiver.local_addr().unwrap();
    drop(receiver);
    let webhook = site.register(&site.everywhere(), &format!("http://{address}/")).await.webhook;
    let notifications: Vec<_> = (0..50).map(|n| alarm(n, &lamp(0, None))).collect();
    for notification in &notifications {
        assert_eq!(site.push(notification).await, Pushed::Taken);
    }
    assert_eq!(site.deliver_due().await, 50);
    assert_eq!(site.state(&webhook, &notifications[7]).await, (DeliveryState::Waiting, "unreachable".to_owned()));
    let mut receiver = Receiver::at(address).await;
    assert_eq!(site.deliver_due().await, 0, "not before the delay");
    assert_eq!(site.deliver_all().await, 50);
    let expected: HashSet<String> = notifications.iter().map(|notification| notification.id.to_string()).collect();
    assert_eq!(receiver.ids(), expected);
}

#[tokio::test]
async fn after_a_day_it_is_a_dead_letter_and_can_be_replayed() {
    let (site, mut receiver) = (Site::new().await, Receiver::start().await);
    let place = site.everywhere();
    let webhook = site.register(&place, &receiver.url()).await.webhook;
    receiver.answers([500; 16]);
    let (one, two) = (alarm(1, &lamp(0, None)), alarm(2, &lamp(0, None)));
    let begin = site.clock.timestamp();
    let _taken = (site.push(&one).await, site.push(&two).await);
    assert_eq!(site.deliver_all().await, 16);
    assert_eq!(site.clock.timestamp().since(begin), RETRY_SPAN);
    assert_eq!(site.state(&webhook, &one).await, (DeliveryState::Dead, "http_500".to_owned()));
    let dead = site.hooks.deliveries(&place, &webhook.id, true, None, 10).await.unwrap().unwrap();
    assert_eq!(dead.items.len(), 2);
    receiver.drain();

    assert_eq!(site.hooks.replay(&place, &webhook.id, &one.id).await.unwrap(), Replayed::Done(1));
    assert_eq!(site.hooks.replay(&place, &webhook.id, &one.id).await.unwrap(), Replayed::Unknown, "it waits");
    assert_eq!(site.deliver_all().await, 1);
    assert_eq!(receiver.ids(), HashSet::from([one.id.to_string()]));
    assert_eq!(site.hooks.replay_all(&place, &webhook.id).await.unwrap(), Replayed::Done(1));
    assert_eq!(site.deliver_all().await, 1);
    assert_eq!(receiver.ids(), HashSet::from([two.id.to_string()]));
    assert_eq!(site.audit("replay_webhook_delivery").await.len(), 2);
    let none = site.hooks.deliveries(&place, &webhook.id, true, None, 10).await.unwrap().unwrap();
    assert!(none.items.is_empty());
}

#[tokio::test]
async fn gone_disables_until_it_is_enabled_again() {
    let (site, mut receiver) = (Site::new().await, Receiver::start().await);
    let place = site.everywhere();
    let webhook = site.register(&place, &receiver.url()).await.webhook;
    receiver.answers([410]);
    let (one, two) = (alarm(1, &lamp(0, None)), alarm(2, &lamp(0, None)));
    let _taken = (site.push(&one).await, site.push(&two).await);
    assert_eq!(site.deliver_all().await, 2);
    assert_eq!(receiver.drain().len(), 1, "the second was not sent any more");
    assert_eq!(site.state(&webhook, &one).await, (DeliveryState::Dead, "http_410".to_owned()));
    assert_eq!(site.state(&webhook, &two).await, (DeliveryState::Dead, "webhook_disabled".to_owned()));
    assert_eq!(site.webhook(&webhook).await.disabled.unwrap().reason, DisabledReason::Gone);
    assert_eq!(site.audit("disable_webhook").await[0].refused.as_deref(), Some("gone"));
    assert_eq!(site.push(&alarm(3, &lamp(0, None))).await, Pushed::Nobody);
    assert_eq!(site.hooks.replay_all(&place, &webhook.id).await.unwrap(), Replayed::Disabled);
    assert!(site.hooks.enable(&place, &webhook.id).await.unwrap().is_some());
    assert_eq!(site.hooks.replay_all(&place, &webhook.id).await.unwrap(), Replayed::Done(2));
    assert_eq!(site.deliver_all().await, 2);
    assert_eq!(receiver.drain().len(), 2);
}

#[tokio::test]
async fn days_of_failure_disable_and_a_success_in_between_begins_anew() {
    let (site, receiver) = (Site::new().await, Receiver::start().await);
    let webhook = site.register(&site.everywhere(), &receiver.url()).await.webhook;
    let mut day = 0;
    while site.webhook(&webhook).await.disabled.is_none() {
        day += 1;
        assert!(day < 20);
        // Eight attempts make a day; on the third day one succeeds.
        receiver.answers(if day == 3 { vec![503, 200] } else { vec![503; 8] });
        let _taken = site.push(&alarm(day, &lamp(0, None))).await;
        site.deliver_all().await;
    }
    assert_eq!((day, site.webhook(&webhook).await.disabled.unwrap().reason), (8, DisabledReason::Failing));
}

#[tokio::test]
async fn a_full_list_of_dead_letters_disables() {
    let limits = WebhookLimits { dead_letters_max: 2, ..WebhookLimits::default() };
    let (site, receiver) = (Site::with(client(), limits).await, Receiver::start().await);
    let webhook = site.register(&site.everywhere(), &receiver.url()).await.webhook;
    receiver.answers([500; 16]);
    let _taken = site.push(&alarm(1, &lamp(0, None))).await;
    site.deliver_all().await;
    assert_eq!(site.webhook(&webhook).await.disabled, None);
    let _taken = site.push(&alarm(2, &lamp(0, None))).await;
    site.deliver_all().await;
    assert_eq!(site.webhook(&webhook).await.disabled.unwrap().reason, DisabledReason::DeadLetters);
}

#[tokio::test]
async fn an_endpoint_that_is_full_drops_what_is_new_and_others_hear_it() {
    let mut limits = WebhookLimits::default();
    limits.schedule.waiting_per_endpoint_max = 3;
    let (site, mut quick) = (Site::with(client(), limits).await, Receiver::start().await);
    let mut slow = Receiver::start().await;
    slow.answers([500; 3]);
    let stuck = site.register(&site.everywhere(), &slow.url()).await.webhook;
    for n in 0..3 {
        let _taken = site.push(&alarm(n, &lamp(0, Some("h")))).await;
    }
    site.deliver_due().await;
    site.register(&site.at_home().await, &quick.url()).await;
    let _taken = site.push(&alarm(3, &lamp(0, Some("h")))).await;
    assert_eq!(site.delivery(&stuck, &alarm(3, &lamp(0, None))).await, None);
    site.deliver_all().await;
    assert_eq!(quick.ids(), HashSet::from(["alarm-n-3-0".to_owned()]));
    assert_eq!(slow.ids().len(), 3);
}

#[tokio::test]
async fn a_place_has_a_bounded_number_of_webhooks() {
    let (site, receiver) = (Site::new().await, Receiver::start().await);
    let place = site.everywhere();
    for _ in 0..WEBHOOKS_MAX {
        site.register(&place, &receiver.url()).await;
    }
    let new = NewWebhook { url: receiver.url(), kinds: vec![], device: None };
    assert!(matches!(site.hooks.register(&place, &new).await.unwrap(), Registered::TooMany));
    let refused = site.audit("create_webhook").await;
    assert_eq!(refused[0].refused.as_deref(), Some("too_many_webhooks"));
    site.register(&site.at_home().await, &receiver.url()).await;
    let all = site.hooks.list(&place, None, 100).await.unwrap().items;
    assert!(site.hooks.delete(&place, &all[5].document.id).await.unwrap());
    site.register(&place, &receiver.url()).await;
}

#[tokio::test]
async fn kinds_and_devices_are_filtered() {
    let (site, mut receiver) = (Site::new().await, Receiver::start().await);
    let place = site.everywhere();
    let device = Some(DeviceId::parse("lamp-1").unwrap());
    let new = NewWebhook { url: receiver.url(), kinds: vec![Kind::AlarmRaised], device };
    assert!(matches!(site.hooks.register(&place, &new).await.unwrap(), Registered::Done(_)));
    let unknown = NewWebhook { device: Some(DeviceId::parse("x").unwrap()), ..new };
    assert!(matches!(site.hooks.register(&place, &unknown).await.unwrap(), Registered::NoSuchDevice));
    let other = Device { id: DeviceId::parse("lamp-2").unwrap(), ..lamp(0, None) };
    assert_eq!(site.push(&alarm(1, &other)).await, Pushed::Nobody);
    let bound = NotificationId::parse("bound-1").unwrap();
    let bound = Notification::new(bound, tenant(), Kind::DeviceBound, Timestamp::EPOCH, []).unwrap();
    assert_eq!(site.push(&bound.about(&lamp(0, None))).await, Pushed::Nobody);
    assert_eq!(site.push(&alarm(2, &lamp(0, None))).await, Pushed::Taken);
    site.deliver_all().await;
    assert_eq!(receiver.ids(), HashSet::from(["alarm-n-2-0".to_owned()]));
}
