//! What the server is told: flags, variables, a file, defaults, in this order.

use std::{fmt, net::SocketAddr, path::PathBuf, str::FromStr};

use clap::{Args, Parser, Subcommand};
use iot_core::{network::Network, secret::Secret};
use serde::{Deserialize, Deserializer, de};

use crate::{export::Wanted, failure::Failure, quotas, retention::Rule};

/// A complete IoT cloud in one process.
#[derive(Debug, Parser)]
#[command(name = "iot-server", version, about)]
pub(crate) struct Cli {
    #[command(flatten)]
    pub(crate) settings: Settings,
    #[command(subcommand)]
    pub(crate) command: Option<Command>,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Make a new one-time password for the administrator and print it; the server must not be running
    ResetAdmin,
    /// Copy the data folder into another one, and with it the database; the server may be running
    Backup {
        /// The folder to make; it must be empty or not there
        #[arg(long, value_name = "DIR")]
        to: PathBuf,
    },
    /// Make the data folder from a backup; it must be empty or not there. With --postgres its database too
    Restore {
        /// The folder that a backup has made
        #[arg(long, value_name = "DIR")]
        from: PathBuf,
    },
    /// Write telemetry to a new Parquet file; the server may be running
    Export {
        /// The file to make
        #[arg(long, value_name = "FILE")]
        to: PathBuf,
        #[command(flatten)]
        wanted: Box<Wanted>,
    },
    /// Give every session of a PostgreSQL database that was restored by its own tools a new epoch; no server may use it
    FenceSessions,
    /// Be simulated devices until standard input ends
    #[command(hide = true)]
    Device(Box<iot_device::Options>),
}

/// Every setting, where it is given. The same for flags, variables and the file.
#[derive(Debug, Default, Args, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub(crate) struct Settings {
    /// Where everything is kept [default: ./iot-data]
    #[arg(long, value_name = "DIR", env = "IOT_DATA", global = true)]
    data: Option<PathBuf>,

    /// A PostgreSQL database for records, sessions and telemetry: postgresql://USER:PASSWORD@HOST/DATABASE [default: the data
    /// folder]
    #[arg(long, value_name = "URL", env = "IOT_POSTGRES", hide_env_values = true, global = true)]
    postgres: Option<DatabaseUrl>,

    /// The certificate authorities of that database, in PEM [default: those of this machine]
    #[arg(long, value_name = "FILE", env = "IOT_POSTGRES_CA", global = true)]
    postgres_ca: Option<PathBuf>,

    /// MQTT over TCP [default: 127.0.0.1:1883]
    #[arg(long, value_name = "ADDR|off", env = "IOT_MQTT")]
    mqtt: Option<Listen>,

    /// MQTT over TLS [default: 127.0.0.1:8883]
    #[arg(long, value_name = "ADDR|off", env = "IOT_MQTTS")]
    mqtts: Option<Listen>,

    /// MQTT over WebSocket [default: 127.0.0.1:8083]
    #[arg(long, value_name = "ADDR|off", env = "IOT_WS")]
    ws: Option<Listen>,

    /// MQTT over WebSocket with TLS [default: 127.0.0.1:8084]
    #[arg(long, value_name = "ADDR|off", env = "IOT_WSS")]
    wss: Option<Listen>,

    /// MQTT, MQTT over WebSocket and HTTP, all with TLS on one port, told apart by ALPN (mqtt or x-amzn-mqtt-ca, http/1.1) or the first bytes [default: off]
    #[arg(long, value_name = "ADDR|off", env = "IOT_TLS")]
    tls: Option<Listen>,

    /// HTTP [default: 127.0.0.1:8080]
    #[arg(long, value_name = "ADDR|off", env = "IOT_HTTP")]
    http: Option<Listen>,

    /// HTTP with TLS [default: off]
    #[arg(long, value_name = "ADDR|off", env = "IOT_HTTPS")]
    https: Option<Listen>,

    /// A TOML file with any of these settings
    #[arg(long, value_name = "FILE", env = "IOT_CONFIG")]
    #[serde(skip)]
    config: Option<PathBuf>,

    /// What to log on stderr, for example info or iot_conn=debug [default: info]
    #[arg(long, value_name = "FILTER", env = "IOT_LOG")]
    log: Option<String>,

    /// Run N simulated devices
    #[arg(long, value_name = "N", env = "IOT_DEMO", value_parser = clap::value_parser!(u32).range(0..=i64::from(DEMO_MAX)))]
    demo: Option<u32>,

    /// Let MQTT clients without credentials use topics outside the device trees; on loopback listeners only
    #[arg(long, env = "IOT_ALLOW_ANONYMOUS", num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    allow_anonymous: Option<bool>,

    /// A network of load balancers in front of the MQTT listeners, such as 10.0.0.0/8: all connections must come from them and begin with a header of the PROXY protocol, version 2; repeatable, or with commas
    #[arg(long, value_name = "NETWORK", env = "IOT_BALANCER", value_delimiter = ',')]
    balancer: Option<Vec<Network>>,

    /// Hand MQTT clients away over so many seconds when the server is told to end, instead of all at once [default: 0]
    #[arg(long, value_name = "S", env = "IOT_DRAIN_SECONDS", value_parser = clap::value_parser!(u32).range(0..=i64::from(DRAIN_S_MAX)))]
    drain_seconds: Option<u32>,

    /// How many clients a second are handed away [default: all within the --drain-seconds]
    #[arg(long, value_name = "N", env = "IOT_DRAIN_RATE", value_parser = clap::value_parser!(u32).range(1..))]
    drain_rate: Option<u32>,

    /// Where clients of MQTT 5 are to go when this server ends, HOST or HOST:PORT
    #[arg(long, value_name = "HOST", env = "IOT_SERVER_REFERENCE")]
    server_reference: Option<String>,

    /// Where devices reach this server over HTTP, such as <https://cloud.example> [default: its own listener]
    #[arg(long, value_name = "URL", env = "IOT_PUBLIC_URL")]
    public_url: Option<String>,

    /// Let webhooks reach addresses of this machine, by http as well; for development
    #[arg(long, env = "IOT_WEBHOOKS_TO_LOOPBACK", num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    webhooks_to_loopback: Option<bool>,

    /// Where mail goes: smtps://USER:PASSWORD@HOST, smtp://… for STARTTLS [default: files in the data folder]
    #[arg(long, value_name = "URL", env = "IOT_SMTP", hide_env_values = true)]
    smtp: Option<MailServer>,

    /// The sender of mail, with --smtp
    #[arg(long, value_name = "ADDRESS", env = "IOT_MAIL_FROM")]
    mail_from: Option<String>,

    /// For how many days telemetry is kept: reports, and statistics of a minute, an hour and a day; of all, of a product or of a
    /// metric; repeatable, or with semicolons [default: 90,400,1827,7305]
    #[arg(
        long,
        value_name = "[[TENANT/]PRODUCT[:METRIC]=]RAW,MINUTE,HOUR,DAY",
        env = "IOT_RETAIN",
        value_delimiter = ';'
    )]
    retain: Option<Vec<Rule>>,

    /// What a listener (mqtt, mqtts, ws, wss, tls) or the tenant may take: connections, publishes and bytes as PER_SECOND/AT_ONCE,
    /// payload (bytes), subscriptions (of a session), inflight; repeatable, or with semicolons [default: no limit]
    #[arg(long, value_name = "WHO:LIMIT=VALUE,…", env = "IOT_QUOTA", value_delimiter = ';')]
    quota: Option<Vec<quotas::Rule>>,

    /// A name or address in the server's certificate, besides the local ones; repeatable, or with commas
    #[arg(long, value_name = "NAME", env = "IOT_NAME", value_delimiter = ',')]
    name: Option<Vec<String>>,
}

/// The longest that clients are handed away.
const DRAIN_S_MAX: u32 = 3_600;

/// The most simulated devices.
const DEMO_MAX: u32 = 5_000;

/// Settings with every default filled in.
#[derive(Debug)]
pub(crate) struct Options {
    pub(crate) data: PathBuf,
    pub(crate) postgres: Option<DatabaseUrl>,
    pub(crate) postgres_ca: Option<PathBuf>,
    pub(crate) mqtt: Listen,
    pub(crate) mqtts: Listen,
    pub(crate) ws: Listen,
    pub(crate) wss: Listen,
    pub(crate) tls: Listen,
    pub(crate) http: Listen,
    pub(crate) https: Listen,
    pub(crate) log: String,
    pub(crate) demo: u32,
    pub(crate) allow_anonymous: bool,
    pub(crate) balancers: Vec<Network>,
    pub(crate) drain_seconds: u32,
    pub(crate) drain_rate: Option<u32>,
    pub(crate) server_reference: Option<String>,
    pub(crate) names: Vec<String>,
    pub(crate) public_url: Option<String>,
    pub(crate) webhooks_to_loopback: bool,
    pub(crate) smtp: Option<MailServer>,
    pub(crate) mail_from: Option<String>,
    pub(crate) retain: Vec<Rule>,
    pub(crate) quotas: Vec<quotas::Rule>,
}

/// Defines an address that may hold a password, and is not shown.
macro_rules! secret_address {
    ($(#[$about:meta])* $name:ident, $feature:literal) => {
        $(#[$about])*
        #[derive(Debug, Clone)]
        pub(crate) struct $name(
            #[cfg_attr(not(feature = $feature), expect(dead_code, reason = "read where it is built in"))] pub(crate) Secret,
        );

        impl FromStr for $name {
            type Err = std::convert::Infallible;

            fn from_str(text: &str) -> Result<Self, Self::Err> {
                Ok(Self(Secret::new(text)))
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                String::deserialize(deserializer).map(|text| Self(Secret::new(text)))
            }
        }
    };
}

secret_address! {
    /// The address of a mail server.
    MailServer, "smtp"
}

secret_address! {
    /// Where a database is.
    DatabaseUrl, "postgres"
}

/// Where a listener listens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Listen {
    Off,
    At(SocketAddr),
}

impl FromStr for Listen {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text == "off" {
            return Ok(Self::Off);
        }
        let address = text.parse().map(Self::At);
        address.map_err(|_| format!("'{text}' is not IP:PORT, for example 127.0.0.1:1883 or [::1]:1883, nor 'off'"))
    }
}

impl<'de> Deserialize<'de> for Listen {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(de::Error::custom)
    }
}

impl fmt::Display for Listen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Off => f.write_str("off"),
            Self::At(address) => address.fmt(f),
        }
    }
}

impl Listen {
    pub(crate) fn address(self) -> Option<SocketAddr> {
        match self {
            Self::Off => None,
            Self::At(address) => Some(address),
        }
    }

    fn local(port: u16) -> Self {
        Self::At(SocketAddr::from(([127, 0, 0, 1], port)))
    }
}

impl Settings {
    /// Reads the file, if one is named, and fills in the defaults.
    pub(crate) fn resolve(self) -> Result<Options, Failure> {
        let file = match &self.config {
            Some(path) => read(path)?,
            None => Self::default(),
        };
        let options = Options {
            data: self.data.or(file.data).unwrap_or_else(|| "./iot-data".into()),
            postgres: self.postgres.or(file.postgres),
            postgres_ca: self.postgres_ca.or(file.postgres_ca),
            mqtt: self.mqtt.or(file.mqtt).unwrap_or(Listen::local(1883)),
            mqtts: self.mqtts.or(file.mqtts).unwrap_or(Listen::local(8883)),
            ws: self.ws.or(file.ws).unwrap_or(Listen::local(8083)),
            wss: self.wss.or(file.wss).unwrap_or(Listen::local(8084)),
            tls: self.tls.or(file.tls).unwrap_or(Listen::Off),
            http: self.http.or(file.http).unwrap_or(Listen::local(8080)),
            https: self.https.or(file.https).unwrap_or(Listen::Off),
            log: self.log.or(file.log).unwrap_or_else(|| "info".to_owned()),
            demo: self.demo.or(file.demo).unwrap_or(0),
            allow_anonymous: self.allow_anonymous.or(file.allow_anonymous).unwrap_or(false),
            balancers: self.balancer.or(file.balancer).unwrap_or_default(),
            drain_seconds: self.drain_seconds.or(file.drain_seconds).unwrap_or(0),
            drain_rate: self.drain_rate.or(file.drain_rate),
            server_reference: self.server_reference.or(file.server_reference),
            names: self.name.or(file.name).unwrap_or_default(),
            webhooks_to_loopback: self.webhooks_to_loopback.or(file.webhooks_to_loopback).unwrap_or(false),
            public_url: self.public_url.or(file.public_url),
            smtp: self.smtp.or(file.smtp),
            mail_from: self.mail_from.or(file.mail_from),
            retain: self.retain.or(file.retain).unwrap_or_default(),
            quotas: self.quota.or(file.quota).unwrap_or_default(),
        };
        options.check()?;
        Ok(options)
    }
}

fn read(path: &std::path::Path) -> Result<Settings, Failure> {
    let unusable = |what: &dyn fmt::Display| {
        Failure::options(format!("--config {}: {}", path.display(), one_line(&what.to_string())))
    };
    let text = std::fs::read_to_string(path).map_err(|error| unusable(&error))?;
    toml::from_str(&text).map_err(|error: toml::de::Error| {
        let before = error.span().and_then(|span| text.get(..span.start));
        let line = before.map_or(1, |before| before.matches('\n').count() + 1);
        unusable(&format!("line {line}: {}", error.message()))
    })
}

/// The first line, for errors that come with a picture or advice.
pub(crate) fn one_line(text: &str) -> String {
    text.lines().map(str::trim).find(|line| !line.is_empty()).unwrap_or_default().to_owned()
}

impl Options {
    fn check(&self) -> Result<(), Failure> {
        if self.allow_anonymous {
            let of_mqtt = [
                ("--mqtt", self.mqtt),
                ("--mqtts", self.mqtts),
                ("--ws", self.ws),
                ("--wss", self.wss),
                ("--tls", self.tls),
            ];
            for (name, listen) in of_mqtt {
                if listen.address().is_some_and(|address| !address.ip().is_loopback()) {
                    return Err(Failure::options(format!(
                        "--allow-anonymous works on loopback listeners only: {name} is {listen}; give it a loopback address, 'off', or leave --allow-anonymous out"
                    )));
                }
            }
        }
        if self.allow_anonymous && !self.balancers.is_empty() {
            return Err(Failure::options(
                "--allow-anonymous is for this machine only, and --balancer brings clients from elsewhere: leave one of them out"
                    .to_owned(),
            ));
        }
        if self.drain_seconds > DRAIN_S_MAX {
            return Err(Failure::options(format!("--drain-seconds is at most {DRAIN_S_MAX}")));
        }
        if self.demo > 0 && !self.balancers.is_empty() {
            return Err(Failure::options(
                "--demo connects without a balancer: leave --balancer or --demo out".to_owned(),
            ));
        }
        if self.demo > 0 {
            let reachable = |listen: Listen| {
                listen.address().is_some_and(|address| address.ip().is_loopback() || address.ip().is_unspecified())
            };
            if !reachable(self.http) || !reachable(self.mqtts) {
                return Err(Failure::options(
                    "--demo needs --http and --mqtts on addresses that this machine reaches by loopback".to_owned(),
                ));
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(args: &[&str]) -> Result<Options, Failure> {
        let all = std::iter::once("iot-server").chain(args.iter().copied());
        Cli::try_parse_from(all).map_err(|error| Failure::options(error.to_string()))?.settings.resolve()
    }

    #[test]
    fn flags_win_over_the_file_and_the_file_over_defaults() {
        let folder = std::env::temp_dir().join(format!("iot-server-options-{}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        let path = folder.join("a.toml");
        std::fs::write(&path, "mqtt = \"127.0.0.1:2000\"\nws = \"off\"\nallow-anonymous = true\n").unwrap();
        let options = parse(&["--config", path.to_str().unwrap(), "--mqtt", "127.0.0.1:3000"]).unwrap();
        assert_eq!(options.mqtt.to_string(), "127.0.0.1:3000");
        assert_eq!(options.ws, Listen::Off);
        assert_eq!(options.mqtts.to_string(), "127.0.0.1:8883");
        assert!(options.allow_anonymous);
        std::fs::write(&path, "mqqt = \"127.0.0.1:2000\"\n").unwrap();
        let error = parse(&["--config", path.to_str().unwrap()]).unwrap_err().to_string();
        assert!(error.contains("mqqt") && error.contains("line 1") && error.lines().count() == 1, "{error}");
        std::fs::remove_dir_all(&folder).unwrap();
    }

    #[test]
    fn wrong_options_say_what_to_do() {
        assert!(parse(&["--mqtt", "localhost"]).unwrap_err().to_string().contains("IP:PORT"));
        assert!(parse(&["--allow-anonymous", "--mqtt", "0.0.0.0:1883"]).unwrap_err().to_string().contains("loopback"));
        assert!(parse(&["--demo", "5", "--http", "off"]).unwrap_err().to_string().contains("--http"));
        assert!(parse(&["--retain", "lamp=9,8,7,6"]).unwrap_err().to_string().contains("no shorter"));
        assert_eq!(
            parse(&["--retain", "1,2,3,4;lamp=5,6,7,8", "--retain", "lamp:power=1,1,1,1"]).unwrap().retain.len(),
            3
        );
        assert!(parse(&["--nonsense"]).is_err());
    }
}
