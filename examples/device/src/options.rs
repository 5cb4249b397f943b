//! What the device is told: addresses, a claim token and the CA, nothing else.

use std::{
    net::{IpAddr, SocketAddr},
    path::PathBuf,
    str::FromStr,
    time::Duration,
};

use clap::Parser;
use iot_core::{id::DeviceId, secret::Secret};
use rustls::pki_types::ServerName;
use ureq::http::Uri;

/// The most devices in one process: each has a socket, and processes have a limit of them.
pub const COUNT_MAX: u32 = 10_000;

/// Simulated devices that claim their certificates, connect over MQTT with TLS, report and obey.
#[derive(Debug, Clone, Parser)]
#[command(name = "iot-device", version)]
#[expect(clippy::exhaustive_structs, reason = "whoever starts devices from code fills in every option")]
pub struct Options {
    /// Where the cloud's HTTP API is; only claims go there
    #[arg(long, value_name = "URL", default_value = "http://127.0.0.1:8080")]
    pub http: CloudUrl,

    /// Where the cloud takes MQTT over TLS
    #[arg(long, value_name = "HOST:PORT", default_value = "127.0.0.1:8883")]
    pub mqtts: Endpoint,

    /// PEM file with the CA of the cloud; required until the devices have their certificates
    #[arg(long, value_name = "FILE")]
    pub ca: Option<PathBuf>,

    /// Claim token; better given as the variable, which other users cannot see
    #[arg(long, value_name = "TOKEN", env = "IOT_CLAIM_TOKEN", hide_env_values = true, value_parser = secret)]
    pub claim_token: Option<Secret>,

    /// The unit to claim; without it the cloud picks one, if the token allows that
    #[arg(long, value_name = "ID")]
    pub device: Option<DeviceId>,

    /// How many devices to be
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=i64::from(COUNT_MAX)))]
    pub count: u32,

    /// Where keys and certificates are kept, one folder per device
    #[arg(long, value_name = "DIR", default_value = "./iot-device-state")]
    pub state: PathBuf,

    /// Speak MQTT 3.1.1 instead of 5
    #[arg(long)]
    pub v311: bool,

    /// Time between two samples, in milliseconds
    #[arg(long, value_name = "MS", default_value_t = 5_000, value_parser = clap::value_parser!(u64).range(10..=86_400_000))]
    pub interval_ms: u64,

    /// A door for whoever is beside the device, in place of Bluetooth: HTTP on a loopback address, port 0 for a free one
    #[arg(long, value_name = "ADDR")]
    pub local: Option<SocketAddr>,

    /// JSON file with what the factory wrote into the unit: product, hardware, version and the keys whose updates it believes
    #[arg(long, value_name = "FILE")]
    pub factory: Option<PathBuf>,

    /// Play firmware that is no good: whatever is installed fails its health check and is rolled back
    #[arg(long)]
    pub fail_health: bool,

    /// What to log on stderr, for example info or iot_device=debug
    #[arg(long, value_name = "FILTER", default_value = "warn")]
    pub log: String,
}

impl Options {
    /// The time between two samples.
    pub fn interval(&self) -> Duration {
        Duration::from_millis(self.interval_ms)
    }

    /// What no single option shows.
    pub(crate) fn check(&self) -> Result<(), String> {
        if self.device.is_some() && self.count > 1 {
            return Err("--device names one unit: leave it out with --count, and the cloud picks the units".to_owned());
        }
        match self.local {
            Some(at) if !at.ip().is_loopback() => {
                Err("--local stands for being beside the unit: give a loopback address, such as 127.0.0.1:0".to_owned())
            }
            Some(at) if at.port() != 0 && self.count > 1 => {
                Err("--local with --count needs port 0: each device has a door of its own".to_owned())
            }
            _ => Ok(()),
        }
    }
}

#[expect(clippy::unnecessary_wraps, reason = "the signature is clap's")]
fn secret(text: &str) -> Result<Secret, std::convert::Infallible> {
    Ok(Secret::new(text))
}

/// An option that cannot be used; the text says what to give instead.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct InvalidAddress(&'static str);

/// The root of an HTTP API to which a claim token may be sent: `https://`, or `http://` on this machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CloudUrl(String);

impl CloudUrl {
    /// The address of a route.
    pub fn route(&self, path: &str) -> String {
        format!("{}{path}", self.0)
    }

    /// Whether claims go over TLS.
    pub fn is_https(&self) -> bool {
        self.0.starts_with("https://")
    }
}

impl FromStr for CloudUrl {
    type Err = InvalidAddress;

    fn from_str(text: &str) -> Result<Self, InvalidAddress> {
        let uri: Uri = text.parse().map_err(|_| InvalidAddress("expected a URL such as https://cloud.example:8443"))?;
        let host = uri.host().unwrap_or_default();
        match uri.scheme_str() {
            Some("https") if !host.is_empty() => {}
            Some("http") if is_loopback(host) => {}
            Some("http") => return Err(InvalidAddress("a claim token is sent over http:// to this machine only")),
            _ => return Err(InvalidAddress("expected a URL that begins with https:// or http://")),
        }
        if uri.query().is_some() || uri.authority().is_some_and(|a| a.as_str().contains('@')) {
            return Err(InvalidAddress("expected a URL without a user and without a query"));
        }
        Ok(Self(text.trim_end_matches('/').to_owned()))
    }
}

/// Whether a host name or address is this machine's own.
pub fn is_loopback(host: &str) -> bool {
    let address = host.trim_start_matches('[').trim_end_matches(']');
    host == "localhost" || address.parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
}

/// A host and a port; the host is checked against the server's certificate.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Endpoint {
    host: String,
    port: u16,
    name: ServerName<'static>,
}

impl Endpoint {
    /// Host name or address, without brackets.
    pub fn host(&self) -> &str {
        &self.host
    }

    /// The port.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// What the server's certificate must be for.
    pub fn name(&self) -> ServerName<'static> {
        self.name.clone()
    }
}

impl FromStr for Endpoint {
    type Err = InvalidAddress;

    fn from_str(text: &str) -> Result<Self, InvalidAddress> {
        const EXPECTED: InvalidAddress = InvalidAddress("expected HOST:PORT, such as 127.0.0.1:8883 or [::1]:8883");
        let (host, port) = text.rsplit_once(':').ok_or(EXPECTED)?;
        let host = match host.strip_prefix('[') {
            Some(rest) => rest.strip_suffix(']').ok_or(EXPECTED)?,
            None if host.contains(':') => return Err(EXPECTED),
            None => host,
        };
        let name = ServerName::try_from(host.to_owned()).map_err(|_| EXPECTED)?;
        let port = port.parse().ok().filter(|port| *port != 0).ok_or(EXPECTED)?;
        Ok(Self { host: host.to_owned(), port, name })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_leaves_the_machine_over_tls_only() {
        for good in ["http://127.0.0.1:8080", "http://localhost", "http://[::1]:80/", "https://cloud.example/api"] {
            assert!(good.parse::<CloudUrl>().is_ok(), "{good}");
        }
        for bad in [
            "http://cloud.example",
            "http://10.0.0.1:8080",
            "http://localhost.example",
            "http://127.0.0.1.example",
            "http://127.0.0.1@cloud.example/",
            "ftp://127.0.0.1",
            "127.0.0.1:8080",
            "",
            "https://",
        ] {
            assert!(bad.parse::<CloudUrl>().is_err(), "{bad}");
        }
        assert_eq!("http://[::1]:80/".parse::<CloudUrl>().unwrap().route("/v1/claim"), "http://[::1]:80/v1/claim");
    }

    #[test]
    fn an_endpoint_has_a_host_and_a_port() {
        for (text, host, port) in [
            ("127.0.0.1:8883", "127.0.0.1", 8883),
            ("[::1]:1", "::1", 1),
            ("cloud.example:8883", "cloud.example", 8883),
        ] {
            let endpoint: Endpoint = text.parse().unwrap();
            assert_eq!((endpoint.host(), endpoint.port()), (host, port));
        }
        for bad in ["", "localhost", "localhost:", "localhost:0", "localhost:99999", "::1:8883", "[::1:8883", ":8883"] {
            assert!(bad.parse::<Endpoint>().is_err(), "{bad}");
        }
    }

    #[test]
    fn options_out_of_range_are_refused_and_the_token_prints_as_nothing() {
        let parse = |args: &[&str]| Options::try_parse_from([&["iot-device"], args].concat());
        for bad in [
            &["--count", "0"][..],
            &["--count", "10001"],
            &["--interval-ms", "1"],
            &["--device", "a/b"],
            &["--nonsense"],
        ] {
            assert!(parse(bad).is_err(), "{bad:?}");
        }
        let options = parse(&["--claim-token", "ct_a_b", "--device", "lamp", "--count", "2"]).unwrap();
        assert!(!format!("{options:?}").contains("ct_a_b"));
        assert!(options.check().is_err());
    }
}
