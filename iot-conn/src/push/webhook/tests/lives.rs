//! Over a restart, and as it runs.

use iot_core::clock::SystemClock;
use iot_store::sqlite::Sqlite;
use tokio::sync::oneshot;

use super::{super::*, *};

#[tokio::test]
async fn what_was_taken_survives_a_restart_in_the_middle_of_an_attempt() {
    let folder = tempfile::tempdir().unwrap();
    let mut receiver = Receiver::start().await;
    let clock = Arc::new(ManualClock::at(Timestamp::from_millis(1_763_856_000_000)));
    let sqlite = Sqlite::open(folder.path(), StoreLimits::default()).await.unwrap();
    let site = Site::over(Arc::new(sqlite.clone()), clock.clone(), client(), WebhookLimits::default()).await;
    site.put(&lamp(0, None)).await;
    let webhook = site.register(&site.everywhere(), &receiver.url()).await.webhook;
    receiver.answers([503; 5]);
    for n in 0..20 {
        assert_eq!(site.push(&alarm(n, &lamp(0, None))).await, Pushed::Taken);
    }
    for _ in 0..10 {
        let (endpoint, delivery) = site.hooks.take().unwrap();
        site.hooks.attempt(endpoint, delivery).await;
    }
    let _under_way = site.hooks.take().unwrap();
    assert_eq!(receiver.drain().len(), 10);
    drop(site);
    sqlite.close().await;

    let sqlite = Sqlite::open(folder.path(), StoreLimits::default()).await.unwrap();
    let site = Site::over(Arc::new(sqlite), clock, client(), WebhookLimits::default()).await;
    assert_eq!(site.hooks.schedule().len(), 15, "five were delivered");
    assert_eq!(site.deliver_due().await, 10, "five wait for their next attempt");
    assert_eq!(site.deliver_all().await, 5);
    assert_eq!(receiver.drain().len(), 15);
    for n in 0..20 {
        assert_eq!(site.state(&webhook, &alarm(n, &lamp(0, None))).await.0, DeliveryState::Delivered);
    }
}

#[tokio::test]
async fn it_delivers_what_is_pushed_while_it_runs_and_ends_when_told() {
    let meta: Arc<dyn MetaStore> = Arc::new(Memory::new(StoreLimits::default()));
    let limits = WebhookLimits::default();
    let hooks = Webhooks::open(meta.clone(), Arc::new(OpenRing), Arc::new(SystemClock::default()), client(), limits);
    let hooks = hooks.await.unwrap();
    let site = Site { meta, clock: Arc::new(ManualClock::at(Timestamp::EPOCH)), hooks };
    site.put(&lamp(0, None)).await;
    let mut receiver = Receiver::start().await;
    site.register(&site.everywhere(), &receiver.url()).await;
    let (stop, stopped) = oneshot::channel::<()>();
    let run = tokio::spawn(site.hooks.clone().run(async { drop(stopped.await) }));
    for n in 0..100 {
        let _taken = site.push(&alarm(n, &lamp(0, None))).await;
    }
    let mut heard = HashSet::new();
    while heard.len() < 100 {
        let got = tokio::time::timeout(SOON, receiver.got.recv()).await.expect("a delivery").unwrap();
        assert!(heard.insert(got.header("webhook-id").to_owned()));
    }
    stop.send(()).unwrap();
    tokio::time::timeout(SOON, run).await.expect("it ends").unwrap();
}

#[tokio::test]
async fn old_ends_are_swept_and_what_waits_stays() {
    let (site, receiver) = (Site::new().await, Receiver::start().await);
    let webhook = site.register(&site.everywhere(), &receiver.url()).await.webhook;
    let (made, dead) = (alarm(1, &lamp(0, None)), alarm(2, &lamp(0, None)));
    let _taken = site.push(&made).await;
    site.deliver_due().await;
    receiver.answers([500; 8]);
    let _taken = site.push(&dead).await;
    site.deliver_all().await;
    let waiting = alarm(3, &lamp(0, None));
    let _taken = site.push(&waiting).await;
    site.hooks.sweep(site.clock.timestamp()).await.unwrap();
    assert_eq!(site.delivery(&webhook, &made).await, None, "a day has passed");
    assert_eq!(site.state(&webhook, &dead).await.0, DeliveryState::Dead);
    site.clock.advance(site.hooks.limits.dead_kept);
    site.hooks.sweep(site.clock.timestamp()).await.unwrap();
    assert_eq!(site.delivery(&webhook, &dead).await, None);
    assert_eq!(site.state(&webhook, &waiting).await.0, DeliveryState::Waiting);
}

#[tokio::test]
async fn a_push_that_is_cancelled_gives_its_place_back() {
    const LET_THROUGH: usize = 60;
    let mut limits = WebhookLimits::default();
    limits.schedule.waiting_per_endpoint_max = 1;
    let folder = tempfile::tempdir().unwrap();
    let sqlite = Sqlite::open(folder.path(), StoreLimits::default()).await.unwrap();
    let clock = Arc::new(ManualClock::at(Timestamp::from_millis(1_763_856_000_000)));
    let site = Site::over(Arc::new(sqlite), clock, client(), limits).await;
    site.put(&lamp(0, None)).await;
    let mut receiver = Receiver::start().await;
    site.register(&site.everywhere(), &receiver.url()).await;
    // Stopped at each of its waits in turn, until it gets through; on a busy machine the last one is let through.
    for polls in 1..=LET_THROUGH {
        let notification = alarm(polls, &lamp(0, None));
        let mut push = site.hooks.push(&notification);
        let mut taken = false;
        for _ in 0..polls {
            taken |=
                std::future::poll_fn(|context| std::task::Poll::Ready(push.as_mut().poll(context).is_ready())).await;
            if taken {
                break;
            }
            tokio::task::yield_now().await;
        }
        if polls == LET_THROUGH && !taken {
            assert!(tokio::time::timeout(SOON, &mut push).await.expect("it ends").is_ok());
        }
        drop(push);
        let _repeat = site.push(&notification).await;
        site.deliver_all().await;
        assert!(site.hooks.schedule().is_empty());
        if taken {
            break;
        }
    }
    let last = alarm(1_000, &lamp(0, None));
    let _taken = site.push(&last).await;
    site.deliver_all().await;
    assert!(receiver.ids().contains(last.id.as_str()));
}
