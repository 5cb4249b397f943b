//! What to measure, and where.

use std::{
    fs,
    path::PathBuf,
    str::FromStr,
    sync::{Arc, OnceLock},
    time::Duration,
};

use clap::{Args, Parser, Subcommand};
use iot_conn::mqtt::{QoS, Version, client::ClientOptions};
use iot_core::secret::Secret;
use iot_device::{
    options::{CloudUrl, Endpoint, InvalidAddress, is_loopback},
    tls::{Authority, anonymous_config},
};
use tokio_rustls::{
    TlsConnector,
    rustls::{ClientConfig, client::Resumption},
};

use crate::BenchError;

/// How long sessions outlive their connections, if they do.
const SESSION_EXPIRY_S: u32 = 600;

/// Measures brokers and clouds on this machine.
#[derive(Debug, Parser)]
#[command(name = "iot-bench", version)]
pub(crate) struct Options {
    #[command(subcommand)]
    pub(crate) bench: Bench,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Bench {
    /// Publishers and subscribers in pairs, a topic each: end-to-end messages per second
    Pairs(Pairs),
    /// Many publishers, one subscriber
    FanIn(FanIn),
    /// One publisher, many subscribers
    FanOut(FanOut),
    /// One message at a time at a fixed rate: end-to-end latency from the intended time of sending
    Latency(Latency),
    /// Publishers as fast as they may, and a subscriber that does not read for a while: what is lost, and what it costs
    Flood(Flood),
    /// Idle connections with a subscription each: memory and CPU of the server
    Connect(Connect),
    /// TLS handshakes of rustls alone, within this process: full, with a client's certificate, resumed
    Handshake(Handshake),
    /// Claimed devices send telemetry at QoS 1 as fast as they are acknowledged
    DeviceTelemetry(DeviceTelemetry),
    /// Commands over HTTP at a fixed rate: time until the device's answer
    CommandLatency(CommandLatency),
    /// Hostile behaviours, one after the other: what each costs the server and an honest client; prints a table
    Abuse(Abuse),
}

/// Where the broker is and who connects.
#[derive(Debug, Clone, Args)]
pub(crate) struct Broker {
    /// Where the broker is: mqtt://HOST:PORT or mqtts://HOST:PORT
    #[arg(long, value_name = "URL", default_value = "mqtt://127.0.0.1:1883")]
    pub(crate) url: BrokerUrl,
    /// PEM file with the CA of the broker, for mqtts
    #[arg(long, value_name = "FILE")]
    pub(crate) ca: Option<PathBuf>,
    /// Resume TLS sessions, instead of a full handshake for each connection
    #[arg(long)]
    pub(crate) resume: bool,
    /// API token; better given as the variable. Without it the clients are anonymous
    #[arg(long, value_name = "TOKEN", env = "IOT_TOKEN", hide_env_values = true, value_parser = secret)]
    pub(crate) token: Option<Secret>,
    /// Speak MQTT 3.1.1 instead of 5
    #[arg(long)]
    pub(crate) v311: bool,
    /// Sessions that outlive their connections: messages at QoS 1 and 2 are stored before they are acknowledged
    #[arg(long)]
    pub(crate) persistent: bool,
    /// Process of the server, for its CPU and memory
    #[arg(long)]
    pub(crate) pid: Option<u32>,
    #[arg(skip)]
    tls: OnceLock<Arc<ClientConfig>>,
}

impl Broker {
    /// What connects over TLS, if that is asked for.
    pub(crate) fn connector(&self) -> Result<Option<TlsConnector>, BenchError> {
        if !self.url.is_tls {
            return Ok(None);
        }
        self.config().map(|config| Some(config.into()))
    }

    /// TLS towards a server of the given CA.
    pub(crate) fn config(&self) -> Result<Arc<ClientConfig>, BenchError> {
        if let Some(config) = self.tls.get() {
            return Ok(Arc::clone(config));
        }
        let path = self.ca.as_ref().ok_or_else(|| BenchError::Options("TLS needs --ca".to_owned()))?;
        let unusable = |error: &dyn std::error::Error| BenchError::Options(format!("{}: {error}", path.display()));
        let pem = fs::read(path).map_err(|error| unusable(&error))?;
        let authority = Authority::from_pem(&pem).map_err(|error| unusable(&error))?;
        let mut config = anonymous_config(&authority).map_err(|error| unusable(&error))?;
        if !self.resume {
            Arc::make_mut(&mut config).resumption = Resumption::disabled();
        }
        Ok(Arc::clone(self.tls.get_or_init(|| config)))
    }

    /// New sessions of clients that keep up to `window` messages in flight.
    pub(crate) fn client(&self, id: String, window: u64) -> ClientOptions {
        let mut options = ClientOptions::new(id);
        options.version = if self.v311 { Version::V311 } else { Version::V5 };
        // What 3.1.1 calls a clean session cannot outlive its connection; nobody has these client identifiers yet.
        options.clean_start = !self.persistent;
        options.session_expiry_s = if self.persistent { SESSION_EXPIRY_S } else { 0 };
        options.in_flight_max = u16::try_from(window).unwrap_or(u16::MAX);
        options.queue_messages_max = usize::try_from(window).unwrap_or(usize::MAX);
        if let Some(token) = &self.token {
            options.username = Some("bench".to_owned());
            options.password = Some(token.clone());
        }
        options
    }
}

/// Claimed devices that publish in their own trees, in place of clients that publish anywhere.
#[derive(Debug, Clone, Args)]
pub(crate) struct Devices {
    /// Folder of claimed devices that are not running: they are the publishers, and the subscribers need a token
    #[arg(long, value_name = "DIR")]
    pub(crate) state: Option<PathBuf>,
    /// Where the cloud takes MQTT over TLS; used with --state
    #[arg(long, value_name = "HOST:PORT", default_value = "127.0.0.1:8883", value_parser = loopback_endpoint)]
    pub(crate) mqtts: Endpoint,
}

/// The messages of a flow.
#[derive(Debug, Clone, Args)]
pub(crate) struct Load {
    /// Quality of service of publications and subscriptions
    #[arg(long, default_value = "1", value_parser = qos)]
    pub(crate) qos: QoS,
    /// Messages that each publisher sends
    #[arg(long, value_name = "M", default_value_t = 10_000, value_parser = clap::value_parser!(u64).range(1..=100_000_000))]
    pub(crate) messages: u64,
    /// Messages of a publisher that may be on their way: not acknowledged, or not yet at its subscribers on average
    #[arg(long, value_name = "W", default_value_t = 100, value_parser = clap::value_parser!(u64).range(1..=60_000))]
    pub(crate) window: u64,
    /// Size of a payload
    #[arg(long, default_value_t = 64, value_parser = clap::value_parser!(u32).range(20..=200_000))]
    pub(crate) bytes: u32,
}

#[derive(Debug, Args)]
pub(crate) struct Handshake {
    /// How many of each kind
    #[arg(long, value_name = "N", default_value_t = 5_000, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    pub(crate) handshakes: u32,
}

#[derive(Debug, Args)]
pub(crate) struct Pairs {
    #[command(flatten)]
    pub(crate) broker: Broker,
    #[command(flatten)]
    pub(crate) devices: Devices,
    #[command(flatten)]
    pub(crate) load: Load,
    /// How many pairs
    #[arg(long, value_name = "N", default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    pub(crate) pairs: u32,
}

#[derive(Debug, Args)]
pub(crate) struct FanIn {
    #[command(flatten)]
    pub(crate) broker: Broker,
    #[command(flatten)]
    pub(crate) devices: Devices,
    #[command(flatten)]
    pub(crate) load: Load,
    /// How many publishers
    #[arg(long, value_name = "N", default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    pub(crate) publishers: u32,
}

#[derive(Debug, Args)]
pub(crate) struct FanOut {
    #[command(flatten)]
    pub(crate) broker: Broker,
    #[command(flatten)]
    pub(crate) devices: Devices,
    #[command(flatten)]
    pub(crate) load: Load,
    /// How many subscribers
    #[arg(long, value_name = "N", default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    pub(crate) subscribers: u32,
}

#[derive(Debug, Args)]
pub(crate) struct Latency {
    #[command(flatten)]
    pub(crate) broker: Broker,
    #[command(flatten)]
    pub(crate) devices: Devices,
    /// Quality of service of publications and subscriptions
    #[arg(long, default_value = "1", value_parser = qos)]
    pub(crate) qos: QoS,
    /// Messages per second
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    pub(crate) rate: u32,
    /// For how long, in seconds
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..=86_400))]
    pub(crate) seconds: u32,
    /// Measure until the answer is back: a responder sends each message on to where the sender listens
    #[arg(long)]
    pub(crate) respond: bool,
}

#[derive(Debug, Args)]
pub(crate) struct Flood {
    #[command(flatten)]
    pub(crate) broker: Broker,
    #[command(flatten)]
    pub(crate) load: Load,
    /// How many publishers
    #[arg(long, value_name = "N", default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    pub(crate) publishers: u32,
    /// For how long the subscriber does not read, in milliseconds
    #[arg(long, default_value_t = 3_000, value_parser = clap::value_parser!(u64).range(1..=600_000))]
    pub(crate) pause_ms: u64,
}

#[derive(Debug, Args)]
pub(crate) struct Connect {
    #[command(flatten)]
    pub(crate) broker: Broker,
    #[command(flatten)]
    pub(crate) devices: Devices,
    /// How many connections
    #[arg(long, value_name = "N", default_value_t = 1_000, value_parser = clap::value_parser!(u32).range(1..=60_000))]
    pub(crate) connections: u32,
    /// Memory per connection is the slope from so many connections on
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub(crate) from: u32,
    /// How long to be idle, in seconds
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..=86_400))]
    pub(crate) seconds: u32,
}

#[derive(Debug, Args)]
pub(crate) struct DeviceTelemetry {
    /// Where the cloud takes MQTT over TLS
    #[arg(long, value_name = "HOST:PORT", default_value = "127.0.0.1:8883", value_parser = loopback_endpoint)]
    pub(crate) mqtts: Endpoint,
    /// State folder of iot-device with claimed devices that are not running
    #[arg(long, value_name = "DIR", default_value = "./iot-device-state")]
    pub(crate) state: PathBuf,
    /// How many devices send, from folder 1 on
    #[arg(long, value_name = "N", default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    pub(crate) devices: u32,
    /// Unacknowledged messages per device
    #[arg(long, value_name = "W", default_value_t = 32, value_parser = clap::value_parser!(u64).range(1..=60_000))]
    pub(crate) window: u64,
    /// Samples per message
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=100))]
    pub(crate) samples: u32,
    /// For how long, in seconds
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..=86_400))]
    pub(crate) seconds: u32,
    /// Messages per second of all devices together; 0 is as fast as they are acknowledged
    #[arg(long, default_value_t = 0)]
    pub(crate) rate: u32,
    /// Process of the server, for its CPU and memory
    #[arg(long)]
    pub(crate) pid: Option<u32>,
}

#[derive(Debug, Args)]
pub(crate) struct CommandLatency {
    /// Where the cloud's HTTP API is
    #[arg(long, value_name = "URL", default_value = "http://127.0.0.1:8080", value_parser = loopback_cloud)]
    pub(crate) http: CloudUrl,
    /// API token that may control the devices; better given as the variable
    #[arg(long, value_name = "TOKEN", env = "IOT_TOKEN", hide_env_values = true, value_parser = secret)]
    pub(crate) token: Secret,
    /// State folder of the iot-device that runs the devices
    #[arg(long, value_name = "DIR", default_value = "./iot-device-state")]
    pub(crate) state: PathBuf,
    /// How many devices are sent commands, from folder 1 on, in turn
    #[arg(long, value_name = "N", default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    pub(crate) devices: u32,
    /// Commands per second
    #[arg(long, default_value_t = 50, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    pub(crate) rate: u32,
    /// For how long, in seconds
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..=86_400))]
    pub(crate) seconds: u32,
    /// Requests under way at the same time
    #[arg(long, default_value_t = 64, value_parser = clap::value_parser!(u32).range(1..=1_000))]
    pub(crate) workers: u32,
    /// How long a request waits for the answer, in milliseconds
    #[arg(long, default_value_t = 5_000, value_parser = clap::value_parser!(u32).range(1..=60_000))]
    pub(crate) wait_ms: u32,
    /// Process of the server, for its CPU and memory
    #[arg(long)]
    pub(crate) pid: Option<u32>,
}

#[derive(Debug, Args)]
pub(crate) struct Abuse {
    #[command(flatten)]
    pub(crate) broker: Broker,
    /// Where the server takes MQTT over TLS
    #[arg(long, value_name = "HOST:PORT", default_value = "127.0.0.1:8883", value_parser = loopback_endpoint)]
    pub(crate) mqtts: Endpoint,
    /// Where the server takes MQTT over WebSocket
    #[arg(long, value_name = "HOST:PORT", default_value = "127.0.0.1:8083", value_parser = loopback_endpoint)]
    pub(crate) ws: Endpoint,
    /// Where the server takes HTTP
    #[arg(long, value_name = "HOST:PORT", default_value = "127.0.0.1:8080", value_parser = loopback_endpoint)]
    pub(crate) http: Endpoint,
    /// How long each behaviour lasts that could go on for ever, in seconds; some wait for the server's own timeouts as well
    #[arg(long, default_value = "2", value_parser = seconds)]
    pub(crate) seconds: Duration,
    /// Only this behaviour, or this family of them; repeatable
    #[arg(long, value_name = "NAME")]
    pub(crate) only: Vec<String>,
    /// Say what there is, and do nothing
    #[arg(long)]
    pub(crate) list: bool,
}

/// `mqtt://HOST:PORT` or `mqtts://HOST:PORT` on this machine.
#[derive(Debug, Clone)]
pub(crate) struct BrokerUrl {
    pub(crate) is_tls: bool,
    pub(crate) host: String,
    pub(crate) port: u16,
}

impl FromStr for BrokerUrl {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (scheme, rest) = text.split_once("://").unwrap_or_default();
        let is_tls = match scheme {
            "mqtt" => false,
            "mqtts" => true,
            _ => return Err("expected mqtt://HOST:PORT or mqtts://HOST:PORT".to_owned()),
        };
        let endpoint = loopback_endpoint(rest.trim_end_matches('/'))?;
        Ok(Self { is_tls, host: endpoint.host().to_owned(), port: endpoint.port() })
    }
}

fn loopback_endpoint(text: &str) -> Result<Endpoint, String> {
    let endpoint: Endpoint = text.parse().map_err(|error: InvalidAddress| error.to_string())?;
    if is_loopback(endpoint.host()) { Ok(endpoint) } else { Err(ONLY_HERE.to_owned()) }
}

fn loopback_cloud(text: &str) -> Result<CloudUrl, String> {
    let url: CloudUrl = text.parse().map_err(|error: InvalidAddress| error.to_string())?;
    let is_here = text.parse::<ureq::http::Uri>().ok().is_some_and(|uri| uri.host().is_some_and(is_loopback));
    if is_here && !url.is_https() { Ok(url) } else { Err(ONLY_HERE.to_owned()) }
}

fn seconds(text: &str) -> Result<Duration, String> {
    let seconds = text.parse().ok().and_then(|seconds| Duration::try_from_secs_f64(seconds).ok());
    let seconds = seconds.filter(|seconds| (Duration::from_millis(50)..=Duration::from_secs(600)).contains(seconds));
    seconds.ok_or_else(|| "expected 0.05 to 600".to_owned())
}

const ONLY_HERE: &str = "load is sent to this machine only: give a loopback address";

#[expect(clippy::unnecessary_wraps, reason = "the signature is clap's")]
fn secret(text: &str) -> Result<Secret, std::convert::Infallible> {
    Ok(Secret::new(text))
}

fn qos(text: &str) -> Result<QoS, String> {
    match text {
        "0" => Ok(QoS::AtMostOnce),
        "1" => Ok(QoS::AtLeastOnce),
        "2" => Ok(QoS::ExactlyOnce),
        _ => Err("expected 0, 1 or 2".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn other_machines_are_refused() {
        for good in ["mqtt://127.0.0.1:1883", "mqtts://localhost:1", "mqtt://[::1]:1883/"] {
            assert!(good.parse::<BrokerUrl>().is_ok(), "{good}");
        }
        for bad in ["mqtt://10.0.0.1:1883", "mqtt://example.com:1883", "127.0.0.1:1883", "http://127.0.0.1:80"] {
            assert!(bad.parse::<BrokerUrl>().is_err(), "{bad}");
        }
        assert!(loopback_cloud("http://127.0.0.1:8080").is_ok());
        assert!(loopback_cloud("https://example.com").is_err());
    }
}
