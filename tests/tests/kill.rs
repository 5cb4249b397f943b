//! kill -9 under load, several times over: what was acknowledged is there afterwards. `IOT_KILL_ROUNDS` sets how often.
#![allow(clippy::unwrap_used, reason = "a journey ends where something is not as it should be")]

#[path = "../../iot-store/tests/cluster/server.rs"]
mod server;

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::atomic::{AtomicU64, Ordering},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use iot_conn::mqtt::{
    QoS,
    client::{Event, Publication, Token},
};
use iot_tests::{
    cloud::Cloud,
    http::Api,
    mqtt::{Mqtt, Way, with_token},
    unit::Unit,
    wait::until,
};
use serde_json::{Value, json};

use self::server::Cluster;

/// How many messages are acknowledged in a round, at least, when the server is killed.
const ACKNOWLEDGED_MIN: u64 = 1_000;
/// More of each round than of the one before, so that the kill meets another moment.
const ACKNOWLEDGED_MORE: u64 = 137;
/// How many messages a publisher has unanswered.
const UNANSWERED: usize = 64;
/// How many topics with retained messages a publisher has.
const RETAINED: u64 = 20;
/// Every how many messages one is retained.
const RETAINED_EVERY: u64 = 5;
/// So many samples over the limit follow so many under it.
const RUN: u64 = 10;
/// How many publishers there are besides devices.
const PUBLISHERS: usize = 3;
/// The one that publishes with QoS 2.
const EXACT: usize = 2;
const WITHIN: Duration = Duration::from_secs(60);

type Make = Box<dyn Fn(u64) -> Publication + Send>;

/// Publishes 0, 1, 2, … and knows what was acknowledged.
struct Publisher {
    mqtt: Mqtt,
    make: Make,
    next: u64,
    unanswered: HashMap<Token, u64>,
    acknowledged: BTreeSet<u64>,
}

impl Publisher {
    fn new(mqtt: Mqtt, make: impl Fn(u64) -> Publication + Send + 'static) -> Self {
        Self { mqtt, make: Box::new(make), next: 0, unanswered: HashMap::new(), acknowledged: BTreeSet::new() }
    }

    /// Publishes as fast as it is answered, until the connection is gone.
    fn load(&mut self, acknowledged: &AtomicU64) {
        loop {
            while self.unanswered.len() < UNANSWERED {
                let token = self.mqtt.engine().publish((self.make)(self.next)).unwrap();
                self.unanswered.insert(token, self.next);
                self.next += 1;
            }
            let before = self.acknowledged.len();
            let is_over = self.take();
            acknowledged.fetch_add((self.acknowledged.len() - before) as u64, Ordering::Relaxed);
            if is_over {
                return;
            }
        }
    }

    /// Whether the connection is gone.
    fn take(&mut self) -> bool {
        let mut is_over = false;
        for event in self.mqtt.poll() {
            match event {
                Event::Published { token, reason } => {
                    assert!(!reason.is_error(), "{reason:?}");
                    let number = self.unanswered.remove(&token).unwrap();
                    self.acknowledged.insert(number);
                }
                Event::Disconnected(_) => is_over = true,
                other => panic!("{other:?}"),
            }
        }
        is_over
    }

    /// Comes back as a client does, and sends again what was not answered.
    fn finish(&mut self) {
        self.mqtt.connect().unwrap();
        until("the rest to be acknowledged", WITHIN, || {
            assert!(!self.take(), "the connection ended");
            self.unanswered.is_empty().then_some(())
        });
        assert_eq!(self.acknowledged.len() as u64, self.next);
    }
}

/// A persistent session that has subscribed once, at the beginning.
struct Subscriber {
    mqtt: Mqtt,
    /// What came, by topic, as it came.
    seen: BTreeMap<String, Vec<u64>>,
}

impl Subscriber {
    fn new(way: &Way, name: &str, token: &str) -> Self {
        let mut mqtt = Mqtt::online(way.clone(), with_token(name, token));
        assert!(!mqtt.subscribe("load/#", QoS::ExactlyOnce).is_error());
        Self { mqtt, seen: BTreeMap::new() }
    }

    /// Whether the connection is gone.
    fn take(&mut self) -> bool {
        let mut is_over = false;
        for event in self.mqtt.poll() {
            match event {
                Event::Message(message) => {
                    self.seen.entry(message.topic.to_string()).or_default().push(number(&message.payload));
                }
                Event::Disconnected(_) => is_over = true,
                other => panic!("{other:?}"),
            }
        }
        is_over
    }

    #[track_caller]
    fn come_back(&mut self) {
        assert!(self.mqtt.connect().unwrap().session_present, "the session is lost");
    }

    /// Waits for these messages of a topic.
    #[track_caller]
    fn has(&mut self, topic: &str, wanted: &BTreeSet<u64>) {
        until(&format!("every message on {topic}"), WITHIN, || {
            assert!(!self.take(), "the connection ended");
            let seen: BTreeSet<u64> = self.seen.get(topic).into_iter().flatten().copied().collect();
            wanted.is_subset(&seen).then_some(())
        });
    }

    /// Repeats apart, what came was in order.
    #[track_caller]
    fn is_in_order(&self, topic: &str) {
        let mut newest = None;
        let mut before = BTreeSet::new();
        for number in &self.seen[topic] {
            if before.insert(*number) {
                assert!(newest.is_none_or(|newest| newest < *number), "{number} came after {newest:?} on {topic}");
                newest = Some(*number);
            }
        }
    }
}

fn number(payload: &[u8]) -> u64 {
    std::str::from_utf8(payload).unwrap().parse().unwrap()
}

fn is_retained(number: u64) -> bool {
    number.is_multiple_of(RETAINED_EVERY)
}

fn retained_topic(publisher: usize, number: u64) -> String {
    format!("state/{publisher}/{}", number / RETAINED_EVERY % RETAINED)
}

fn publication(publisher: usize, number: u64) -> Publication {
    let topic = if is_retained(number) { retained_topic(publisher, number) } else { format!("load/{publisher}") };
    let qos = if publisher == EXACT { QoS::ExactlyOnce } else { QoS::AtLeastOnce };
    let publication = Publication::new(topic, number.to_string(), qos);
    Publication { retain: is_retained(number), ..publication }
}

/// Those that go to `load/…`.
fn live(numbers: impl IntoIterator<Item = u64>) -> BTreeSet<u64> {
    numbers.into_iter().filter(|number| !is_retained(*number)).collect()
}

fn is_hot(number: u64) -> bool {
    (number / RUN).is_multiple_of(2)
}

#[expect(clippy::cast_precision_loss, reason = "the numbers are small")]
fn temperature(number: u64) -> f64 {
    if is_hot(number) { 31.0 + number as f64 / 1_000.0 } else { 20.0 - number as f64 / 1_000.0 }
}

fn sample(base_ms: u64, number: u64) -> Publication {
    let body = json!({"values": {"temperature": temperature(number)}, "ts": base_ms + number, "seq": number});
    Publication::new("up/telemetry", body.to_string(), QoS::AtLeastOnce)
}

/// The counts of all stored samples of a device, oldest first.
fn stored(admin: &Api, device: &str) -> Vec<u64> {
    let (mut counts, mut cursor) = (Vec::new(), String::new());
    loop {
        let page = admin.get(&format!(
            "/v1/devices/{device}/telemetry?limit=1000&until=2100-01-01T00:00:00Z&from=2020-01-01T00:00:00Z{cursor}"
        ));
        let page = page.is(200);
        counts.extend(page["items"].as_array().unwrap().iter().map(|item| item["seq"].as_u64().unwrap()));
        match page["next"].as_str() {
            Some(next) => cursor = format!("&cursor={next}"),
            None => return counts,
        }
    }
}

/// The alarm is that of the first sample of the last run: one that the logic missed would show.
#[track_caller]
fn alarm_follows(admin: &Api, device: &str, newest: u64) {
    let first = newest / RUN * RUN;
    let side = if is_hot(first) { "above 30" } else { "below 28" };
    let text = format!("{} is {side}", temperature(first));
    until(&format!("{device} to have the alarm '{text}', active: {}", is_hot(first)), WITHIN, || {
        let alarms = admin.get("/v1/alarms?limit=1000").is(200);
        let alarm = alarms["items"].as_array().unwrap().iter().find(|alarm| alarm["device"] == device).cloned()?;
        (alarm["text"] == text && alarm["active"] == Value::Bool(is_hot(first))).then_some(())
    });
}

/// Somebody without a session.
#[track_caller]
fn stranger(way: &Way, token: &str) -> Mqtt {
    let mut options = with_token("stranger", token);
    (options.clean_start, options.session_expiry_s) = (true, 0);
    Mqtt::online(way.clone(), options)
}

/// A stranger who subscribes now sees of each topic what was acknowledged last, or something newer.
#[track_caller]
fn retained_is_there(way: &Way, token: &str, publishers: &[Publisher]) {
    let mut wanted = BTreeMap::new();
    for (at, publisher) in publishers.iter().enumerate() {
        let retained = publisher.acknowledged.iter().filter(|number| is_retained(**number));
        wanted.extend(retained.map(|number| (retained_topic(at, *number), *number)));
    }
    let mut stranger = stranger(way, token);
    stranger.subscribe("state/#", QoS::AtLeastOnce);
    while let Some((topic, least)) = wanted.pop_first() {
        let message = stranger.message(&topic, WITHIN);
        assert!(message.retain);
        assert!(
            number(&message.payload) >= least,
            "{topic}: {:?} came after {least} was acknowledged",
            message.payload
        );
    }
    stranger.disconnect();
}

struct Scene {
    cloud: Cloud,
    way: Way,
    publishers: Vec<Publisher>,
    devices: Vec<(String, Publisher)>,
    online: Subscriber,
    offline: Subscriber,
}

impl Scene {
    fn start(settings: &[&str]) -> Self {
        let cloud = Cloud::start(settings);
        let way = Way::Plain(cloud.address("mqtt"));
        let token = cloud.token().to_owned();
        let base_ms = u64::try_from(SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_millis()).unwrap();
        let publishers = (0..PUBLISHERS).map(|at| {
            let mqtt = Mqtt::online(way.clone(), with_token(&format!("publisher-{at}"), &token));
            Publisher::new(mqtt, move |number| publication(at, number))
        });
        let publishers = publishers.collect();
        let devices = Unit::several(&cloud, "lamp", &["d0", "d1"]).into_iter().map(|unit| {
            let mqtt = unit.online(&cloud);
            (unit.id, Publisher::new(mqtt, move |number| sample(base_ms, number)))
        });
        let devices = devices.collect();
        let online = Subscriber::new(&way, "online", &token);
        let offline = Subscriber::new(&way, "offline", &token);
        Self { cloud, way, publishers, devices, online, offline }
    }

    /// Everybody works until the server is gone, in the middle of it.
    fn kill(&mut self, acknowledged_min: u64) {
        self.offline.mqtt.disconnect();
        let acknowledged = AtomicU64::new(0);
        std::thread::scope(|scope| {
            for publisher in self.publishers.iter_mut().chain(self.devices.iter_mut().map(|(_, device)| device)) {
                scope.spawn(|| publisher.load(&acknowledged));
            }
            scope.spawn(|| while !self.online.take() {});
            until("enough to be acknowledged", WITHIN, || {
                (acknowledged.load(Ordering::Relaxed) >= acknowledged_min).then_some(())
            });
            self.cloud.kill();
        });
        let unanswered: usize = self.publishers.iter().map(|publisher| publisher.unanswered.len()).sum();
        assert!(unanswered > 0, "the kill met nobody at work");
    }

    /// Nobody has sent anything again yet: what is there now was there when it was acknowledged.
    fn everything_acknowledged_is_there(&mut self) {
        let admin = self.cloud.admin();
        retained_is_there(&self.way, self.cloud.token(), &self.publishers);
        for subscriber in [&mut self.online, &mut self.offline] {
            subscriber.come_back();
            for (at, publisher) in self.publishers.iter().enumerate() {
                subscriber.has(&format!("load/{at}"), &live(publisher.acknowledged.iter().copied()));
            }
        }
        for (device, publisher) in &self.devices {
            let stored = stored(&admin, device);
            assert_eq!(stored, Vec::from_iter(0..stored.len() as u64), "{device}: once each, in order, without a gap");
            assert!(publisher.acknowledged.iter().all(|number| *number < stored.len() as u64), "{device}");
            alarm_follows(&admin, device, stored.len() as u64 - 1);
        }
    }

    /// What was not acknowledged is sent again, and nothing is missing or out of order then.
    fn the_rest_arrives(&mut self) {
        let admin = self.cloud.admin();
        for publisher in self.publishers.iter_mut().chain(self.devices.iter_mut().map(|(_, device)| device)) {
            publisher.finish();
        }
        for subscriber in [&mut self.online, &mut self.offline] {
            for (at, publisher) in self.publishers.iter().enumerate() {
                let topic = format!("load/{at}");
                subscriber.has(&topic, &live(0..publisher.next));
                subscriber.is_in_order(&topic);
            }
            let exact = &subscriber.seen[&format!("load/{EXACT}")];
            assert_eq!(exact.len(), live(exact.iter().copied()).len(), "QoS 2 came twice");
        }
        retained_is_there(&self.way, self.cloud.token(), &self.publishers);
        for (device, publisher) in &self.devices {
            assert_eq!(stored(&admin, device), Vec::from_iter(0..publisher.next), "{device}: repeats are stored once");
            alarm_follows(&admin, device, publisher.next - 1);
        }
    }
}

#[test]
fn what_was_acknowledged_survives_kill_9() {
    survives_kill_9(&[]);
}

#[test]
fn what_was_acknowledged_survives_kill_9_on_postgresql() {
    survives_kill_9(&["--postgres", &Cluster::start(&[]).url()]);
}

#[expect(clippy::print_stdout, reason = "counts belong into the record of a run")]
fn survives_kill_9(settings: &[&str]) {
    let rounds = std::env::var("IOT_KILL_ROUNDS").map_or(5, |text| text.parse().unwrap());
    let mut scene = Scene::start(settings);
    for round in 0..rounds {
        scene.kill(ACKNOWLEDGED_MIN + ACKNOWLEDGED_MORE * (round % 5));
        scene.cloud.start_again();
        scene.everything_acknowledged_is_there();
        scene.the_rest_arrives();
        let sent: u64 =
            scene.publishers.iter().chain(scene.devices.iter().map(|(_, device)| device)).map(|p| p.next).sum();
        println!("round {}: {sent} messages so far, all there", round + 1);
    }
}

/// The state in which a crash between the record of an alarm and its announcement leaves the folder.
#[test]
fn an_alarm_that_was_recorded_and_not_announced_is_announced_after_the_crash() {
    let mut cloud = Cloud::start(&[]);
    let mut device = Unit::several(&cloud, "lamp", &["a"])[0].online(&cloud);
    let way = Way::Plain(cloud.address("mqtt"));
    let announced = |cloud: &Cloud| {
        until("the alarm to be announced", WITHIN, || {
            let mut app = stranger(&way, cloud.token());
            app.subscribe("alarm/a", QoS::AtLeastOnce);
            // What is retained comes before the answer to a PUBLISH that was sent later.
            app.publish(Publication::new("free", "", QoS::AtLeastOnce));
            let came = app.poll().into_iter().find_map(|event| match event {
                Event::Message(message) => Some(message.payload),
                _ => None,
            });
            came.map(|payload| serde_json::from_slice::<Value>(&payload).unwrap())
        })
    };
    assert!(!device.publish(sample(1_763_856_000_000, 0)).is_error());
    until("the alarm to be recorded", WITHIN, || {
        let alarms = cloud.admin().get("/v1/alarms").is(200);
        alarms["items"].as_array().is_some_and(|all| !all.is_empty()).then_some(())
    });
    let first = announced(&cloud);
    assert_eq!(first["text"], "31 is above 30");
    cloud.kill();

    let store = cloud.folder().join("iot-data/store");
    let change = |file: &str, sql: &str| {
        let database = rusqlite::Connection::open(store.join(file)).unwrap();
        database.execute(sql, []).unwrap()
    };
    change("control.db", "DELETE FROM retained WHERE topic = 'alarm/a'");
    change("data.db", "DELETE FROM checkpoint");
    cloud.start_again();
    assert_eq!(announced(&cloud), first);
}
