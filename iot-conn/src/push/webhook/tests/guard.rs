//! BD-17 at the webhook, and servers that are not what they seemed.

use std::{
    io,
    sync::atomic::{AtomicUsize, Ordering},
};

use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use tokio_rustls::TlsAcceptor;

use super::{super::*, *};

/// A listener that tells whether anybody came.
struct Trap(std::net::TcpListener);

impl Trap {
    fn set() -> Self {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        listener.set_nonblocking(true).unwrap();
        Self(listener)
    }

    fn port(&self) -> u16 {
        self.0.local_addr().unwrap().port()
    }

    fn is_untouched(&self) -> bool {
        matches!(self.0.accept(), Err(error) if error.kind() == io::ErrorKind::WouldBlock)
    }
}

/// Answers in turn; then the last again.
#[derive(Debug)]
struct Turns(Vec<Vec<SocketAddr>>, AtomicUsize);

#[async_trait]
impl Resolve for Turns {
    async fn resolve(&self, _: &str, _: u16) -> io::Result<Vec<SocketAddr>> {
        let turn = self.1.fetch_add(1, Ordering::Relaxed);
        Ok(self.0[turn.min(self.0.len() - 1)].clone())
    }
}

/// Every name is here.
#[derive(Debug)]
struct Here;

#[async_trait]
impl Resolve for Here {
    async fn resolve(&self, _: &str, port: u16) -> io::Result<Vec<SocketAddr>> {
        Ok(vec![([127, 0, 0, 1], port).into()])
    }
}

#[tokio::test]
async fn bd_17_a_former_owners_webhook_hears_nothing_after_a_resale() {
    let (site, mut receiver) = (Site::new().await, Receiver::start().await);
    let home = site.at_home().await;
    let first = site.register(&home, &receiver.url()).await.webhook;
    let device = Some(DeviceId::parse("lamp-1").unwrap());
    let new = NewWebhook { url: receiver.url(), kinds: vec![], device };
    assert!(matches!(site.hooks.register(&home, &new).await.unwrap(), Registered::Done(_)));
    let _taken = site.push(&alarm(1, &lamp(0, Some("h")))).await;
    assert_eq!(site.deliver_due().await, 2);
    assert_eq!(receiver.drain().len(), 2, "the owner hears of their lamp");

    let queued = alarm(2, &lamp(0, Some("h")));
    assert_eq!(site.push(&queued).await, Pushed::Taken);
    site.put(&lamp(1, Some("other"))).await;
    assert_eq!(site.deliver_due().await, 2);
    assert!(receiver.drain().is_empty(), "what was queued before the resale is not delivered after it");
    assert_eq!(site.delivery(&first, &queued).await, None);
    let dropped = site.audit("deliver_webhook").await;
    assert_eq!(dropped.len(), 2, "once for each webhook");
    assert!(dropped.iter().all(|entry| entry.refused.as_deref() == Some("epoch_ended")));
    assert_eq!(site.push(&alarm(3, &lamp(1, Some("other")))).await, Pushed::Nobody);
    assert_eq!(site.deliver_all().await, 0);
}

#[tokio::test]
async fn bd_17_a_delivery_does_not_outlive_its_home_or_a_replay_the_epoch() {
    let (site, mut receiver) = (Site::new().await, Receiver::start().await);
    let place = site.at_home().await;
    let webhook = site.register(&place, &receiver.url()).await.webhook;
    let _taken = site.push(&alarm(1, &lamp(0, Some("h")))).await;
    site.put(&lamp(0, None)).await;
    site.deliver_due().await;
    assert_eq!(site.audit("deliver_webhook").await[0].refused.as_deref(), Some("device_left_home"));

    site.put(&lamp(0, Some("h"))).await;
    receiver.answers([500; 8]);
    let dead = alarm(2, &lamp(0, Some("h")));
    let _taken = site.push(&dead).await;
    assert_eq!(site.deliver_all().await, 8);
    receiver.drain();
    site.put(&lamp(1, Some("h"))).await;
    assert_eq!(site.hooks.replay(&place, &webhook.id, &dead.id).await.unwrap(), Replayed::Done(1));
    site.deliver_all().await;
    assert!(receiver.drain().is_empty());
    assert_eq!(site.audit("deliver_webhook").await[0].refused.as_deref(), Some("epoch_ended"));

    let _taken = site.push(&alarm(3, &lamp(1, Some("h")))).await;
    assert!(site.hooks.delete(&place, &webhook.id).await.unwrap());
    assert_eq!(site.deliver_all().await, 1);
    assert!(receiver.drain().is_empty());
}

#[tokio::test]
async fn a_redirect_is_a_failure_and_is_not_followed() {
    let (site, receiver, trap) = (Site::new().await, Receiver::start().await, Trap::set());
    let webhook = site.register(&site.everywhere(), &receiver.url()).await.webhook;
    for (n, status) in [(1, 301), (2, 302), (3, 307), (4, 308)] {
        receiver.redirects_to(format!("http://127.0.0.1:{}/", trap.port()));
        receiver.answers([status]);
        let notification = alarm(n, &lamp(0, None));
        let _taken = site.push(&notification).await;
        site.deliver_due().await;
        assert_eq!(site.state(&webhook, &notification).await, (DeliveryState::Waiting, format!("http_{status}")));
    }
    assert!(trap.is_untouched());
}

#[tokio::test]
async fn a_name_that_turns_inwards_after_its_registration_is_not_followed() {
    let trap = Trap::set();
    let port = trap.port();
    let turns = vec![vec![([1, 1, 1, 1], port).into()], vec![([127, 0, 0, 1], port).into()]];
    let resolver = Arc::new(Turns(turns, AtomicUsize::new(0)));
    let client = Client::new(RootCertStore::empty()).resolver(resolver.clone());
    let site = Site::with(client, WebhookLimits::default()).await;
    let webhook = site.register(&site.everywhere(), &format!("https://rebind.example:{port}/")).await.webhook;
    let notification = alarm(1, &lamp(0, None));
    let _taken = site.push(&notification).await;
    assert_eq!(site.deliver_due().await, 1);
    assert_eq!(site.state(&webhook, &notification).await, (DeliveryState::Waiting, "url_forbidden".to_owned()));
    assert_eq!(resolver.1.load(Ordering::Relaxed), 2, "one look-up for each check: the connection makes none");
    assert!(trap.is_untouched());
}

#[tokio::test]
async fn inner_addresses_cannot_be_registered() {
    let site = Site::with(Client::new(RootCertStore::empty()), WebhookLimits::default()).await;
    for url in [
        "https://127.0.0.1/",
        "https://[::1]/",
        "https://169.254.169.254/latest/meta-data",
        "https://10.0.0.1/",
        "https://2130706433/",
        "https://0x7f.1/",
        "https://[::ffff:127.0.0.1]/",
        "https://localhost/",
        "http://127.0.0.1/",
        "https://0/",
    ] {
        let new = NewWebhook { url: url.to_owned(), kinds: vec![], device: None };
        let registered = site.hooks.register(&site.everywhere(), &new).await.unwrap();
        assert!(matches!(registered, Registered::Url(UrlRefusal::Forbidden(_))), "{url}: {registered:?}");
    }
    assert_eq!(site.audit("create_webhook").await.len(), 10);
}

#[tokio::test]
async fn a_receiver_that_does_not_answer_is_left_and_one_that_talks_nonsense_too() {
    let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let client = client().timeout(Duration::from_millis(50));
    let site = Site::with(client, WebhookLimits::default()).await;
    let url = format!("http://{}/", silent.local_addr().unwrap());
    let webhook = site.register(&site.everywhere(), &url).await.webhook;
    let notification = alarm(1, &lamp(0, None));
    let _taken = site.push(&notification).await;
    site.deliver_due().await;
    assert_eq!(site.state(&webhook, &notification).await, (DeliveryState::Waiting, "timed_out".to_owned()));

    let site = Site::new().await;
    let talker = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/", talker.local_addr().unwrap());
    tokio::spawn(async move {
        use tokio::io::AsyncWriteExt;
        while let Ok((mut stream, _)) = talker.accept().await {
            let endless = [b"HTTP/1.1 200 OK\r\nx: ".as_slice(), &[b'x'; 64 * 1_024]].concat();
            while stream.write_all(&endless).await.is_ok() {}
        }
    });
    let webhook = site.register(&site.everywhere(), &url).await.webhook;
    let _taken = site.push(&notification).await;
    site.deliver_due().await;
    assert_eq!(site.state(&webhook, &notification).await, (DeliveryState::Waiting, "not_http".to_owned()));
}

#[tokio::test]
async fn the_certificate_must_be_of_the_urls_host() {
    let mut receiver = Receiver::start().await;
    let (plain, key) = (receiver.address, rcgen::KeyPair::generate().unwrap());
    let certificate =
        rcgen::CertificateParams::new(vec!["hook.example".to_owned()]).unwrap().self_signed(&key).unwrap();
    let mut roots = RootCertStore::empty();
    roots.add(certificate.der().clone()).unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(
            vec![certificate.der().clone()],
            PrivateKeyDer::from(PrivatePkcs8KeyDer::from(key.serialize_der())),
        )
        .unwrap();
    let acceptor = TlsAcceptor::from(Arc::new(config));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            if let Ok(mut tls) = acceptor.accept(stream).await {
                let mut behind = tokio::net::TcpStream::connect(plain).await.unwrap();
                let _ended = tokio::io::copy_bidirectional(&mut tls, &mut behind).await;
            }
        }
    });
    for (roots, host, expected) in [
        (roots.clone(), "hook.example", (DeliveryState::Delivered, "http_204")),
        (roots, "other.example", (DeliveryState::Waiting, "tls_failed")),
        (RootCertStore::empty(), "hook.example", (DeliveryState::Waiting, "tls_failed")),
    ] {
        let client = Client::new(roots).resolver(Arc::new(Here)).allow_loopback_http(true);
        let site = Site::with(client, WebhookLimits::default()).await;
        let webhook = site.register(&site.everywhere(), &format!("https://{host}:{port}/")).await.webhook;
        let notification = alarm(1, &lamp(0, None));
        let _taken = site.push(&notification).await;
        site.deliver_due().await;
        assert_eq!(site.state(&webhook, &notification).await, (expected.0, expected.1.to_owned()), "{host}");
    }
    let got = receiver.drain();
    assert_eq!((got.len(), got[0].header("host")), (1, format!("hook.example:{port}").as_str()));
}
