//! A database belongs to one data folder, which has the keys to what is in it, and to one server at a time.

use std::{
    fs,
    io::{ErrorKind, Write},
    os::unix::fs::OpenOptionsExt,
    path::Path,
    process::{Command, Stdio},
    sync::Arc,
};

use async_trait::async_trait;
use iot_conn::push::webhook::native_roots;
use iot_core::{
    clock::{Clock, SystemClock},
    store::{Batch, Document, IndexKey, Key, MetaStore, MetaStoreExt, Revision, Stores},
};
use iot_store::{
    StoreLimits,
    postgres::{Claim, ClaimError, OpenError, Postgres, PostgresSettings},
};
use rustls::{
    ClientConfig, RootCertStore,
    pki_types::{CertificateDer, pem::PemObject},
};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::Database;
use crate::{
    data_folder::{DEPLOYMENT, DataFolder},
    failure::Failure,
    options::DatabaseUrl,
};

/// Where Debian has what libpq is to trust: before version 16 it cannot find that by itself.
const SYSTEM_AUTHORITIES: &str = "/etc/ssl/certs/ca-certificates.crt";

/// With its claim: no other server has it.
struct Claimed {
    postgres: Postgres,
    claim: Claim,
}

/// Which data folder the database belongs to.
#[derive(Serialize, Deserialize)]
struct Deployment {
    id: String,
}

impl Document for Deployment {
    const KIND: &'static str = "deployment";
    const FORMAT: u16 = 1;

    fn key(&self) -> Key {
        key()
    }

    fn index_keys(&self) -> Vec<IndexKey> {
        Vec::new()
    }
}

fn key() -> Key {
    Key::new(Deployment::KIND, "this")
}

pub(super) async fn open(
    url: &DatabaseUrl,
    ca: Option<&Path>,
    folder: &DataFolder,
) -> Result<Arc<dyn Database>, Failure> {
    if folder.stores().exists() {
        return Err(Failure::options(format!(
            "--data {}: holds embedded stores; leave --postgres out, or name another folder",
            folder.path().display()
        )));
    }
    let postgres = connect(&settings(url), ca).await?;
    // The claim first: of two that start on an empty database, the other one must not write its deployment.
    let claim = claim(&postgres).await?;
    belong(&postgres, folder).await?;
    Ok(Arc::new(Claimed { postgres, claim }))
}

fn settings(url: &DatabaseUrl) -> PostgresSettings {
    PostgresSettings::new(url.0.expose())
}

async fn connect(settings: &PostgresSettings, ca: Option<&Path>) -> Result<Postgres, Failure> {
    open_by(settings, ca).await?.map_err(|error| {
        let failure = Failure::of("--postgres: ", &error);
        match failure.to_string() {
            text if text.contains("does not support TLS") => Failure::options(format!(
                "{text}; turn TLS on there, or say by sslmode=disable in the URL that the network is trusted"
            )),
            _ => failure,
        }
    })
}

/// With TLS where the URL asks for it or the way leaves this machine, or where a certificate authority is named.
async fn open_by(settings: &PostgresSettings, ca: Option<&Path>) -> Result<Result<Postgres, OpenError>, Failure> {
    let needs_tls = settings.needs_tls().map_err(|error| Failure::of("--postgres: ", &error))?;
    Ok(match ca.is_some() || needs_tls {
        true => Postgres::open_with_tls(settings, StoreLimits::default(), trusting(ca)?).await,
        false => Postgres::open(settings, StoreLimits::default()).await,
    })
}

fn trusting(ca: Option<&Path>) -> Result<ClientConfig, Failure> {
    let roots = match ca {
        Some(path) => {
            authorities(path).map_err(|what| Failure::options(format!("--postgres-ca {}: {what}", path.display())))?
        }
        None => native_roots().map_err(|error| Failure::of("--postgres: ", &error))?,
    };
    Ok(ClientConfig::builder().with_root_certificates(roots).with_no_client_auth())
}

fn authorities(path: &Path) -> Result<RootCertStore, String> {
    let pem = fs::read(path).map_err(|error| error.to_string())?;
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(&pem) {
        let added = certificate
            .map_err(|error| error.to_string())
            .and_then(|certificate| roots.add(certificate).map_err(|error| error.to_string()));
        added.map_err(|error| format!("holds a certificate that cannot be read: {error}"))?;
    }
    if roots.is_empty() {
        return Err("holds no certificate; name a file with certificates in PEM".to_owned());
    }
    Ok(roots)
}

#[cfg(feature = "parquet")]
pub(super) async fn open_to_read(url: &DatabaseUrl, ca: Option<&Path>) -> Result<Arc<dyn Database>, Failure> {
    let mut settings = settings(url);
    settings.upgrade = false;
    Ok(Arc::new(connect(&settings, ca).await?))
}

/// Beside a server.
#[cfg(feature = "parquet")]
#[async_trait]
impl Database for Postgres {
    fn stores(&self) -> Stores {
        Stores::new(self.clone())
    }

    async fn close(&self) {
        Self::close(self).await;
    }
}

async fn claim(postgres: &Postgres) -> Result<Claim, Failure> {
    postgres.claim(&DataFolder::node_id()).await.map_err(|error| match error {
        ClaimError::Taken { .. } => Failure::options("--postgres: another server uses this database; stop it first"),
        error => Failure::of("--postgres: ", &error),
    })
}

/// The file is written before the record, so that a start that is broken off can be repeated.
async fn belong(postgres: &Postgres, folder: &DataFolder) -> Result<(), Failure> {
    let path = folder.deployment();
    let known = id_in(&path)?;
    if let Some(found) = find(postgres).await? {
        return same(known.as_deref(), &found, folder.path());
    }
    let id = known.clone().unwrap_or_else(|| Uuid::new_v4().to_string());
    if known.is_none() {
        write(&path, &format!("{id}\n")).map_err(|error| unusable(&path, &error.to_string()))?;
    }
    let created = postgres.commit_or_conflict(Batch::default().create(&Deployment { id })).await;
    match created.map_err(|error| Failure::of("--postgres: ", &error))? {
        true => Ok(()),
        false => Err(Failure::options("--postgres: another server uses this database; stop it first")),
    }
}

async fn find(postgres: &Postgres) -> Result<Option<String>, Failure> {
    let found = postgres.find::<Deployment>(&key()).await.map_err(|error| Failure::of("--postgres: ", &error))?;
    Ok(found.map(|stored| stored.document.id))
}

fn same(in_folder: Option<&str>, in_database: &str, folder: &Path) -> Result<(), Failure> {
    if in_folder == Some(in_database) {
        return Ok(());
    }
    Err(Failure::options(format!(
        "--data {}: the database belongs to another data folder, which has the keys to it; name that one",
        folder.display()
    )))
}

/// The name that a data folder has, if it has one.
fn id_in(path: &Path) -> Result<Option<String>, Failure> {
    match fs::read_to_string(path) {
        Ok(text) if text.trim().parse::<Uuid>().is_ok() => Ok(Some(text.trim().to_owned())),
        Ok(_) => Err(unusable(path, "is damaged; take it from a backup")),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(error) => Err(unusable(path, &error.to_string())),
    }
}

/// Copies the database to a new file, as at one moment, while a server may use it. `folder` is that server's. Answers the last
/// commit of records, or an earlier one.
pub(crate) async fn dump(url: &DatabaseUrl, ca: Option<&Path>, folder: &Path, to: &Path) -> Result<Revision, Failure> {
    let mut settings = settings(url);
    settings.upgrade = false;
    let postgres = connect(&settings, ca).await?;
    let found = find(&postgres).await?.unwrap_or_default();
    same(id_in(&folder.join(DEPLOYMENT))?.as_deref(), &found, folder)?;
    let revision = postgres.revision().await.map_err(|error| Failure::of("--postgres: ", &error))?;
    postgres.close().await;
    let mut dump = program("pg_dump", &settings, ca)?;
    dump.args(["--format=custom", "--no-owner", "--no-privileges", "--schema", &settings.schema, "--file"]).arg(to);
    carry_out(dump).await?;
    Ok(revision)
}

/// Fills a database that holds none of ours, whole or not at all, and fences all sessions.
pub(crate) async fn restore(url: &DatabaseUrl, ca: Option<&Path>, from: &Path) -> Result<(), Failure> {
    let settings = settings(url);
    let mut restore = program("pg_restore", &settings, ca)?;
    restore.args(["--no-owner", "--no-privileges", "--exit-on-error", "--single-transaction", "--dbname="]).arg(from);
    carry_out(restore).await?;
    fence_sessions(url, ca).await.map(|_| ())
}

/// Refuses a database to restore into that holds something of ours, or cannot be used.
pub(crate) async fn check_vacant(url: &DatabaseUrl, ca: Option<&Path>) -> Result<(), Failure> {
    let mut settings = settings(url);
    settings.upgrade = false;
    match open_by(&settings, ca).await? {
        Err(OpenError::Older { found: 0, .. }) => Ok(()),
        Err(OpenError::Older { .. }) | Ok(_) => Err(Failure::options(format!(
            "--postgres: the schema {} is there already; name a database without it",
            settings.schema
        ))),
        Err(error) => Err(Failure::of("--postgres: ", &error)),
    }
}

/// Gives all sessions new epochs, in a database that no server uses. Answers the highest.
pub(crate) async fn fence_sessions(url: &DatabaseUrl, ca: Option<&Path>) -> Result<u64, Failure> {
    let postgres = connect(&settings(url), ca).await?;
    let _alone = claim(&postgres).await?;
    let raised = postgres.raise_session_epochs(SystemClock::default().timestamp()).await;
    let raised = raised.map_err(|error| Failure::part(Failure::of("--postgres: ", &error).to_string()))?;
    postgres.close().await;
    Ok(raised.0)
}

/// One of PostgreSQL's own programs, told where the database is as this process is.
fn program(name: &str, settings: &PostgresSettings, ca: Option<&Path>) -> Result<Command, Failure> {
    let failed = |error| Failure::of("--postgres: ", &error);
    let mut command = Command::new(name);
    for (variable, _) in std::env::vars_os().filter(|(variable, _)| variable.to_string_lossy().starts_with("PG")) {
        command.env_remove(variable);
    }
    command.arg("--no-password").envs(settings.libpq_environment().map_err(failed)?);
    match (ca, settings.needs_tls().map_err(failed)?) {
        (Some(ca), _) => command.env("PGSSLMODE", "verify-full").env("PGSSLROOTCERT", ca),
        (None, true) => command.env("PGSSLMODE", "verify-full").env("PGSSLROOTCERT", SYSTEM_AUTHORITIES),
        (None, false) => command.env("PGSSLMODE", "disable"),
    };
    Ok(command)
}

async fn carry_out(mut command: Command) -> Result<(), Failure> {
    let name = command.get_program().to_string_lossy().into_owned();
    let ran = tokio::task::spawn_blocking(move || command.stdin(Stdio::null()).output()).await;
    let output = match ran.unwrap_or_else(|error| Err(std::io::Error::other(error))) {
        Err(error) if error.kind() == ErrorKind::NotFound => {
            return Err(Failure::options(format!("{name} is not there: install PostgreSQL's client programs")));
        }
        output => output.map_err(|error| Failure::part(format!("{name}: {error}")))?,
    };
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    let said: Vec<&str> = said.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
    Err(Failure::part(format!("{name}: {}: {}", output.status, said.join(" "))))
}

fn unusable(path: &Path, what: &str) -> Failure {
    Failure::options(format!("--data: {}: {what}", path.display()))
}

fn write(path: &Path, text: &str) -> std::io::Result<()> {
    let new = path.with_extension("new");
    let mut file = fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&new)?;
    file.write_all(text.as_bytes())?;
    file.sync_all()?;
    fs::rename(&new, path)?;
    path.parent().map_or(Ok(()), |folder| fs::File::open(folder)?.sync_all())
}

#[async_trait]
impl Database for Claimed {
    fn stores(&self) -> Stores {
        Stores::new(self.postgres.clone())
    }

    async fn lost(&self) -> Failure {
        self.claim.lost().await;
        Failure::part("another server has taken this database over")
    }

    async fn close(&self) {
        self.postgres.close().await;
    }
}
