//! The life of one device: claim, connect, report, obey, and again.

use std::{
    hash::{BuildHasher, Hasher, RandomState},
    io,
    net::SocketAddr,
    path::PathBuf,
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use iot_auth::device::Identity;
use iot_conn::mqtt::{
    QoS, ReasonCode, Version,
    client::{Cause, Client, ClientOptions, Event, Publication, PublishError, Received, Token},
};
use iot_core::{
    id::DeviceId,
    payload::{CommandBody, ErrorBody, ReplyBody, decode, encode},
    time::Monotonic,
};
use serde_json::json;
use tokio::{
    net::TcpStream,
    sync::{Semaphore, watch},
    time::{Instant, sleep_until, timeout, timeout_at},
};
use tokio_rustls::{TlsConnector, client::TlsStream};
use tracing::{debug, warn};

use crate::{
    appliance::Appliance,
    backoff,
    claim::{ClaimError, Claimer},
    console::Console,
    firmware::Factory,
    link::{Clock, Link},
    obey::{Answer, Obey},
    options::Endpoint,
    outbox::Outbox,
    sequence::Sequence,
    services::Services,
    tls::{Authority, client_config},
};

/// How long opening a connection may take, TLS included.
const OPEN_TIMEOUT: Duration = Duration::from_secs(15);

/// How long saying goodbye may take.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(2);

/// How long the cloud is to keep the session, in seconds.
const SESSION_EXPIRY_S: u32 = 24 * 3_600;

/// Before the name of a service.
const SERVICES: &str = "down/service/";

/// In seconds.
const KEEP_ALIVE_S: u16 = 60;

/// While so many messages wait for their acknowledgement, samples stay in the [`Outbox`].
const UNPUBLISHED_MAX: usize = 16;

/// What all devices of the process share.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) mqtts: Endpoint,
    pub(crate) version: Version,
    pub(crate) interval: Duration,
    /// Present while a device needs a claim.
    pub(crate) claimer: Option<Claimer>,
    pub(crate) device: Option<DeviceId>,
    /// Given on the command line; without it a device trusts what it saved.
    pub(crate) authority: Option<Authority>,
    /// Claims and handshakes at the same time: a thousand at once would only time out together.
    pub(crate) openings: Semaphore,
    pub(crate) console: Console,
    pub(crate) clock: Clock,
    pub(crate) local: Option<SocketAddr>,
    pub(crate) factory: Option<Arc<Factory>>,
    pub(crate) fail_health: bool,
}

/// Turns true once.
#[derive(Debug, Clone)]
pub(crate) struct Shutdown(pub(crate) watch::Receiver<bool>);

impl Shutdown {
    /// Waits until the devices are to end. That whoever could say so is gone says so too.
    async fn told(&mut self) {
        let _ = self.0.wait_for(|is_down| *is_down).await;
    }
}

/// Why a device ends for good before it is told to.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Fatal {
    #[error(transparent)]
    Claim(#[from] ClaimError),
    #[error("the saved identity cannot be used: {0}")]
    Identity(String),
    #[error("the device's folder cannot be used: {0}")]
    Folder(#[from] io::Error),
}

/// Lives until `shutdown`; an error ends it for good.
pub(crate) async fn live(shared: Arc<Shared>, folder: PathBuf, saved: Option<Identity>, mut shutdown: Shutdown) {
    let who = saved.as_ref().map_or_else(|| folder.display().to_string(), |identity| identity.device_id.to_string());
    let life = async {
        let identity = match saved {
            Some(identity) => identity,
            None => claim(&shared, &folder, &who).await?,
        };
        Ok::<_, Fatal>(Box::new(Unit::start(Arc::clone(&shared), &identity, folder.clone()).await?))
    };
    let started = tokio::select! {
        started = life => started,
        () = shutdown.told() => return,
    };
    let outcome = match started {
        Ok(mut unit) => unit.run(&mut shutdown).await,
        Err(fatal) => Err(fatal),
    };
    if let Err(fatal) = outcome {
        shared.console.failed(&who, &fatal.to_string());
    }
}

async fn claim(shared: &Arc<Shared>, folder: &std::path::Path, who: &str) -> Result<Identity, Fatal> {
    let mut failures = 0;
    loop {
        let outcome = {
            let _permit = shared.openings.acquire().await;
            let (shared, folder) = (Arc::clone(shared), folder.to_owned());
            blocking(move || match &shared.claimer {
                Some(claimer) => claimer.attempt(&folder, shared.device.as_ref()),
                None => Err(ClaimError::Answer("there is no claim token".to_owned())),
            })
            .await?
        };
        match outcome {
            Ok(identity) => {
                shared.console.claimed(&identity.device_id);
                return Ok(identity);
            }
            Err(error) if error.is_transient() => {
                failures += 1;
                let wait = backoff::wait(failures, random());
                shared.console.retries(who, &error.to_string(), wait);
                tokio::time::sleep(wait).await;
            }
            Err(error) => return Err(error.into()),
        }
    }
}

pub(crate) struct Unit {
    pub(crate) shared: Arc<Shared>,
    pub(crate) id: DeviceId,
    connector: TlsConnector,
    pub(crate) client: Client,
    pub(crate) appliance: Appliance,
    pub(crate) services: Services,
    /// The time between two samples.
    pub(crate) interval: Duration,
    obey: Obey,
    outbox: Outbox,
    /// Away while a block is being reserved.
    sequence: Option<Sequence>,
    started: Instant,
    next_sample: Instant,
    /// Since when it is connected.
    connected: Option<Instant>,
    /// How long the cloud told it to stay away.
    retry_after: Option<Duration>,
}

/// How a connection ended.
enum End {
    Shutdown,
    Lost(String),
}

impl Unit {
    async fn start(shared: Arc<Shared>, identity: &Identity, folder: PathBuf) -> Result<Self, Fatal> {
        let unusable = |error: &dyn std::error::Error| Fatal::Identity(error.to_string());
        let authority = match &shared.authority {
            Some(authority) => authority.clone(),
            None => Authority::from_pem(identity.ca_pem.as_bytes()).map_err(|e| unusable(&e))?,
        };
        let connector = TlsConnector::from(client_config(&authority, identity).map_err(|e| unusable(&e))?);
        let mut options = ClientOptions::new(identity.device_id.as_str());
        options.version = shared.version;
        options.session_expiry_s = SESSION_EXPIRY_S;
        options.keep_alive_s = KEEP_ALIVE_S;
        options.topic_alias_maximum = 4;
        let client = Client::new(options).map_err(|e| unusable(&e))?;
        let services = Services::start(&shared, identity, &folder).await?;
        let sequence = blocking(move || Sequence::open(&folder)).await??;
        let started = Instant::now();
        let mut unit = Self {
            id: identity.device_id.clone(),
            connector,
            client,
            appliance: Appliance::new(&identity.device_id),
            services,
            interval: shared.interval,
            obey: Obey::default(),
            outbox: Outbox::default(),
            sequence: Some(sequence),
            started,
            next_sample: started,
            connected: None,
            retry_after: None,
            shared,
        };
        unit.report_boot();
        Ok(unit)
    }

    async fn run(&mut self, shutdown: &mut Shutdown) -> Result<(), Fatal> {
        let mut failures = 0;
        loop {
            let end = self.connection(shutdown).await?;
            let lived = self.connected.take().map(|since| since.elapsed());
            if lived.is_some() {
                self.shared.console.disconnected();
            }
            let End::Lost(why) = end else { return Ok(()) };
            failures = if lived.is_some_and(|lived| lived >= backoff::STABLE_AFTER) { 1 } else { failures + 1 };
            let wait = match self.retry_after.take() {
                Some(told) => told.min(backoff::TOLD_MAX),
                None => backoff::wait(failures, random()),
            };
            self.shared.console.retries(self.id.as_str(), &why, wait);
            if self.pause(Instant::now() + wait, shutdown).await? {
                return Ok(());
            }
        }
    }

    /// Measures on while it waits; whether it was told to end.
    async fn pause(&mut self, until: Instant, shutdown: &mut Shutdown) -> Result<bool, Fatal> {
        loop {
            tokio::select! {
                () = sleep_until(until) => return Ok(false),
                () = sleep_until(self.next_sample) => self.sample().await?,
                Some(press) = self.services.presses.recv() => drop(self.handle_press(press)),
                Some(wish) = self.services.wishes.recv() => drop(self.handle_wish(wish)),
                () = shutdown.told() => return Ok(true),
            }
        }
    }

    async fn connection(&mut self, shutdown: &mut Shutdown) -> Result<End, Fatal> {
        let opened = tokio::select! {
            opened = self.open() => opened,
            () = shutdown.told() => return Ok(End::Shutdown),
        };
        let stream = match opened {
            Ok(stream) => stream,
            Err(error) => return Ok(End::Lost(error.to_string())),
        };
        let mut link = Link::open(stream, &mut self.client, self.shared.clock);
        self.services.again.disconnected();
        loop {
            let mut over = None;
            let again = self.services.again.next_at().map(|at| self.shared.clock.instant(at));
            let again = async move {
                match again {
                    Some(at) => sleep_until(at).await,
                    None => std::future::pending().await,
                }
            };
            let step = tokio::select! {
                step = link.step(&mut self.client) => step,
                Some(press) = self.services.presses.recv() => { over = self.handle_press(press); Ok(()) }
                Some(wish) = self.services.wishes.recv() => { over = self.handle_wish(wish); Ok(()) }
                () = sleep_until(self.next_sample) => { self.sample().await?; Ok(()) }
                () = again => { self.ask_again(); Ok(()) }
                () = shutdown.told() => {
                    self.client.disconnect(ReasonCode::Success);
                    close(link, &mut self.client).await;
                    return Ok(End::Shutdown);
                }
            };
            if over.is_some() {
                self.client.disconnect(ReasonCode::Success);
            }
            if let Some(why) = self.handle_events().or(over) {
                let why = step.err().map_or(why, |error| error.to_string());
                close(link, &mut self.client).await;
                return Ok(End::Lost(why));
            }
            self.send_samples();
        }
    }

    async fn open(&self) -> io::Result<Box<TlsStream<TcpStream>>> {
        let _permit = self.shared.openings.acquire().await;
        let endpoint = &self.shared.mqtts;
        let deadline = Instant::now() + OPEN_TIMEOUT;
        let tcp = timeout_at(deadline, TcpStream::connect((endpoint.host(), endpoint.port()))).await??;
        tcp.set_nodelay(true)?;
        let tls = timeout_at(deadline, self.connector.connect(endpoint.name(), tcp)).await??;
        Ok(Box::new(tls))
    }

    /// Why the connection is over, if it is.
    fn handle_events(&mut self) -> Option<String> {
        while let Some(event) = self.client.poll_event() {
            match event {
                Event::Connected(connected) => {
                    self.connected = Some(Instant::now());
                    self.shared.console.connected(&self.id, connected.session_present);
                    self.introduce();
                }
                Event::Refused(refused) => {
                    self.retry_after = refused.retry_after;
                    return Some(told("refused", refused.reason, refused.reason_string));
                }
                Event::Disconnected(cause) => {
                    if let Cause::Server { retry_after, .. } = &cause {
                        self.retry_after = *retry_after;
                    }
                    return Some(describe(cause));
                }
                Event::Message(message) => self.handle_message(&message),
                Event::Published { token, reason } => {
                    self.services.acknowledged(token, reason.is_error());
                    self.shared.console.acknowledged(reason.is_error());
                    if reason.is_error() {
                        warn!(device = %self.id, ?reason, "the cloud did not take a message");
                    }
                }
                Event::NotPublished { why, .. } => warn!(device = %self.id, ?why, "a message was given up"),
                other => debug!(device = %self.id, ?other, "not expected"),
            }
        }
        None
    }

    fn handle_message(&mut self, message: &Received) {
        match &*message.topic {
            "down/command" => match decode::<CommandBody>(&message.payload) {
                Ok(command) => self.handle_command(command),
                Err(error) => warn!(device = %self.id, %error, "a command that cannot be read"),
            },
            "down/error" => match decode::<ErrorBody<'_>>(&message.payload) {
                Ok(body) => warn!(device = %self.id, topic = %body.topic, code = %body.code, detail = %body.detail,
                    "the cloud refused a message"),
                Err(error) => warn!(device = %self.id, %error, "an error that cannot be read"),
            },
            topic if topic.starts_with(SERVICES) => self.handle_service(&topic[SERVICES.len()..], &message.payload),
            topic => debug!(device = %self.id, topic, "a message that this device has no use for"),
        }
    }

    fn handle_command(&mut self, command: CommandBody) {
        let (now, uptime, name) = (self.now(), self.started.elapsed(), command.name.clone());
        let answer = self.obey.handle(now, command, |name, args| self.appliance.act(uptime, name, args));
        match answer {
            Answer::Done(reply) => {
                self.shared.console.command(&self.id, &name, reply.status, false);
                self.reply(&reply);
                self.report_switch();
                self.next_sample = self.next_sample.min(Instant::now());
            }
            Answer::Repeated(reply) => {
                self.shared.console.command(&self.id, &name, reply.status, true);
                self.reply(&reply);
            }
            Answer::Expired => warn!(device = %self.id, name, "a command that had expired was not done"),
            Answer::Full => warn!(device = %self.id, name, "a command was not done: too many are remembered"),
        }
    }

    fn reply(&mut self, reply: &ReplyBody) {
        self.publish("up/reply", encode(reply, iot_core::device::Encoding::Json));
    }

    fn report_boot(&mut self) {
        let Some(seq) = self.sequence.as_mut().and_then(Sequence::take) else { return };
        let data = json!({"reason": "power_on", "version": env!("CARGO_PKG_VERSION")});
        let body = json!({"name": "boot", "data": data, "ts": unix_ms(), "seq": seq});
        self.publish("up/event", body.to_string().into_bytes());
    }

    /// Measures, and reserves numbers when they run low.
    async fn sample(&mut self) -> Result<(), Fatal> {
        let now = Instant::now();
        self.next_sample = if self.next_sample == self.started {
            // The first is sent at once; the next ones are spread, so that a thousand devices do not beat together.
            now + self.interval.mul_f64(0.5 + fraction(random()) / 2.0)
        } else {
            (self.next_sample + self.interval).max(now)
        };
        if let Some(mut sequence) = self.sequence.take_if(|sequence| sequence.is_low()) {
            let (sequence, reserved) = blocking(move || {
                let reserved = sequence.reserve();
                (sequence, reserved)
            })
            .await?;
            self.sequence = Some(sequence);
            reserved?;
        }
        if let Some(seq) = self.sequence.as_mut().and_then(Sequence::take) {
            self.outbox.push(self.appliance.measure(self.started.elapsed()), unix_ms(), seq);
        }
        Ok(())
    }

    fn send_samples(&mut self) {
        if !self.client.is_connected() || self.client.unpublished() >= UNPUBLISHED_MAX {
            return;
        }
        if let Some(payload) = self.outbox.take() {
            self.publish("up/telemetry", payload);
        }
    }

    pub(crate) fn publish(&mut self, topic: &str, payload: Vec<u8>) -> Option<Token> {
        match self.client.publish(Publication::new(topic, payload, QoS::AtLeastOnce)) {
            Ok(token) => return Some(token),
            Err(PublishError::Full) => warn!(device = %self.id, topic, "dropped: too many messages wait"),
            Err(error) => warn!(device = %self.id, topic, %error, "dropped"),
        }
        None
    }

    pub(crate) fn now(&self) -> Monotonic {
        self.shared.clock.now()
    }
}

async fn close(link: Link<Box<TlsStream<TcpStream>>>, client: &mut Client) {
    match timeout(CLOSE_TIMEOUT, link.close(client)).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => debug!(%error, "closing"),
        Err(_) => debug!("closing took too long"),
    }
}

fn describe(cause: Cause) -> String {
    match cause {
        Cause::Server { reason, reason_string, .. } => told("disconnected by the cloud", reason, reason_string),
        Cause::Violation(violation) => format!("the cloud broke the protocol: {violation}"),
        Cause::TimedOut => "no answer".to_owned(),
        Cause::Transport => "the connection broke".to_owned(),
        other => format!("{other:?}"),
    }
}

fn told(what: &str, reason: ReasonCode, text: Option<String>) -> String {
    let text = text.map(|text| format!(": {}", text.escape_debug())).unwrap_or_default();
    format!("{what}: {reason:?} (0x{:02x}){text}", reason as u8)
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> io::Result<T> {
    tokio::task::spawn_blocking(work).await.map_err(io::Error::other)
}

pub(crate) fn unix_ms() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
}

/// Good enough to spread devices; not for secrets.
pub(crate) fn random() -> u64 {
    RandomState::new().build_hasher().finish()
}

fn fraction(random: u64) -> f64 {
    f64::from(u32::try_from(random >> 32).unwrap_or(0)) / f64::from(u32::MAX)
}
