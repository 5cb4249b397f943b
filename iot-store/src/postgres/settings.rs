use std::{fmt, net::IpAddr, str::FromStr};

use tokio_postgres::{
    Config,
    config::{Host, SslMode},
};

use super::OpenError;

/// The longest name of a schema, which is PostgreSQL's own.
const SCHEMA_BYTES_MAX: usize = 63;

/// Which database, and how much of it.
#[derive(Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct PostgresSettings {
    /// As libpq has it: `postgresql://user:password@host/database` or `host=… user=… dbname=…`.
    pub url: String,
    /// The schema that holds the tables: lower-case letters, digits and underscores.
    pub schema: String,
    /// The most connections of this process, at least 4; a [`Claim`](super::Claim) has one more.
    pub connections_max: usize,
    /// Whether a database without the present layout is brought to it. If not, it is refused ([`OpenError::Older`]) and not
    /// changed.
    pub upgrade: bool,
}

impl PostgresSettings {
    /// Schema `iot`, at most 16 connections, brought to the present layout.
    pub fn new(url: impl Into<String>) -> Self {
        Self { url: url.into(), schema: "iot".to_owned(), connections_max: 16, upgrade: true }
    }

    /// Whether what is sent to this database can be read on the way unless it is encrypted: with `sslmode=require`, and
    /// with any host that is not this machine, unless the URL says `sslmode=disable`, which is to say that the network is
    /// trusted.
    pub fn needs_tls(&self) -> Result<bool, OpenError> {
        let parsed = self.parsed()?;
        Ok(match parsed.get_ssl_mode() {
            SslMode::Disable => false,
            SslMode::Prefer => !is_here(&parsed),
            _ => true,
        })
    }

    /// The same connection for PostgreSQL's own programs, as variables of their environment, where a password is not seen by
    /// other users of the machine.
    /// [Their names](https://www.postgresql.org/docs/current/libpq-envars.html) are libpq's. What they have to trust
    /// (`PGSSLMODE`, `PGSSLROOTCERT`) is the caller's to say.
    pub fn libpq_environment(&self) -> Result<Vec<(&'static str, String)>, OpenError> {
        let parsed = self.parsed()?;
        let hosts = parsed.get_hosts().iter().map(|host| match host {
            Host::Tcp(name) => name.clone(),
            #[cfg(unix)]
            Host::Unix(path) => path.to_string_lossy().into_owned(),
        });
        let ports: Vec<String> = parsed.get_ports().iter().map(ToString::to_string).collect();
        let addresses: Vec<String> = parsed.get_hostaddrs().iter().map(IpAddr::to_string).collect();
        let password = match parsed.get_password().map(|bytes| String::from_utf8(bytes.to_vec())) {
            Some(Err(_)) => return Err(wrong_url("its password is not UTF-8")),
            Some(Ok(password)) => password,
            None => String::new(),
        };
        let text = |part: Option<&str>| part.unwrap_or_default().to_owned();
        let user = parsed.get_user();
        let all = [
            ("PGHOST", hosts.collect::<Vec<_>>().join(",")),
            ("PGHOSTADDR", addresses.join(",")),
            ("PGPORT", ports.join(",")),
            ("PGUSER", text(user)),
            ("PGPASSWORD", password),
            ("PGDATABASE", text(parsed.get_dbname().or(user))),
            ("PGOPTIONS", text(parsed.get_options())),
            ("PGTARGETSESSIONATTRS", "read-write".to_owned()),
        ];
        Ok(all.into_iter().filter(|(_, value)| !value.is_empty()).collect())
    }

    pub(super) fn parsed(&self) -> Result<Config, OpenError> {
        let allowed = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_';
        if self.schema.is_empty() || self.schema.len() > SCHEMA_BYTES_MAX || !self.schema.bytes().all(allowed) {
            let what = "a schema has 1 to 63 lower-case letters, digits and underscores".to_owned();
            return Err(OpenError::Setting { name: "schema", what });
        }
        // The parser's own words may hold a part of the password.
        let wrong = |_| wrong_url("it is not a PostgreSQL URL, such as postgresql://user:password@host/database");
        Config::from_str(&self.url).map_err(wrong)
    }
}

/// Without the URL, which may hold a password.
impl fmt::Debug for PostgresSettings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PostgresSettings")
            .field("schema", &self.schema)
            .field("connections_max", &self.connections_max)
            .finish_non_exhaustive()
    }
}

fn wrong_url(what: &str) -> OpenError {
    OpenError::Setting { name: "url", what: what.to_owned() }
}

/// Whether all servers that the URL names are reached without a network.
fn is_here(config: &Config) -> bool {
    let addresses = config.get_hostaddrs();
    let here = |host: &Host| match host {
        Host::Tcp(name) => name == "localhost" || name.parse().is_ok_and(|address: IpAddr| address.is_loopback()),
        #[cfg(unix)]
        Host::Unix(_) => true,
    };
    match addresses {
        [] => config.get_hosts().iter().all(here),
        _ => addresses.iter().all(IpAddr::is_loopback),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn needs_tls(url: &str) -> bool {
        PostgresSettings::new(url).needs_tls().unwrap()
    }

    #[test]
    fn what_leaves_the_machine_is_encrypted_unless_the_url_says_otherwise() {
        for here in [
            "host=/run/postgresql user=iot",
            "postgresql://iot@localhost/iot",
            "postgresql://iot@127.0.0.1:5433/iot",
            "postgresql://iot@[::1]/iot",
            "host=db.example hostaddr=127.0.0.1 user=iot",
            "postgresql://iot@db.example/iot?sslmode=disable",
        ] {
            assert!(!needs_tls(here), "{here}");
        }
        for away in [
            "postgresql://iot@db.example/iot",
            "postgresql://iot@localhost,db.example/iot",
            "postgresql://iot@db.example/iot?sslmode=prefer",
            "postgresql://iot@localhost/iot?sslmode=require",
            "host=localhost hostaddr=192.0.2.1 user=iot",
        ] {
            assert!(needs_tls(away), "{away}");
        }
    }

    #[test]
    fn programs_get_the_same_connection_in_their_environment() {
        let of = |url| PostgresSettings::new(url).libpq_environment().unwrap();
        assert_eq!(
            of("postgresql://iot:ge%20heim@a.example:5433,b.example:5434/cloud"),
            [
                ("PGHOST", "a.example,b.example".to_owned()),
                ("PGPORT", "5433,5434".to_owned()),
                ("PGUSER", "iot".to_owned()),
                ("PGPASSWORD", "ge heim".to_owned()),
                ("PGDATABASE", "cloud".to_owned()),
                ("PGTARGETSESSIONATTRS", "read-write".to_owned()),
            ]
        );
        let socket = of("host=/run/postgresql user=iot");
        assert!(socket.contains(&("PGHOST", "/run/postgresql".to_owned())), "{socket:?}");
        assert!(socket.contains(&("PGDATABASE", "iot".to_owned())), "{socket:?}");
    }

    #[test]
    fn a_wrong_url_is_refused_without_showing_it() {
        for wrong in ["mysql://a:geheim@b/c", "host=a port=geheim", "postgresql://a:geheim@b/c?sslmode=maybe"] {
            let refused = PostgresSettings::new(wrong).needs_tls();
            let text = refused.unwrap_err().to_string();
            assert!(text.contains("PostgreSQL URL") && !text.contains("geheim"), "{text}");
        }
    }
}
