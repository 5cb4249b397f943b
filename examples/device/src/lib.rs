//! A simulated device that behaves as firmware should, over public protocols only.
//!
//! It makes its key, claims its certificate over HTTP, connects over MQTT with TLS and that certificate, reports, obeys,
//! and comes back after every loss. It knows of the cloud what `docs/protocol.md` says and depends on the device sides of
//! the crates alone. It is a program to start from: replace [`appliance`] with your sensors and relays.
//!
//! ```text
//! IOT_CLAIM_TOKEN=ct_… cargo run --release -p iot-device -- --ca iot-data/ca.pem --device lamp-1
//! ```
//!
//! With `--local` it has a door for whoever is beside it: a button that leads to a binding code, and a factory reset. A reset
//! forgets what the unit was set to and binds nothing to anybody: while it has an owner, what that owner desires of its twin comes
//! back with the next connection. With `--factory` it takes signed updates into two slots. It keeps a twin.
//!
//! Its commands: `set {"on": true}`, `set_temperature {"value": 80}`, `echo`, and `fail`, which is always rejected.
//!
//! | module | |
//! |---|---|
//! | [`obey`], [`backoff`], [`again`], [`outbox`], [`appliance`] | engines: no clock, no sockets |
//! | [`link`], [`tls`], [`claim`], [`sequence`], [`firmware`] | bytes, trust, the claim, a count on disk, slots |
//! | [`options`] | what it is told |

pub mod again;
pub mod appliance;
pub mod backoff;
pub mod claim;
mod console;
pub mod firmware;
pub mod link;
mod local;
pub mod obey;
pub mod options;
pub mod outbox;
pub mod sequence;
mod services;
pub mod tls;
mod twin;
mod unit;

use std::{
    error::Error as _,
    fs::{self, File, TryLockError},
    future::Future,
    io,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use iot_auth::device::{Identity, IdentityError, IdentityFolder, State};
use iot_conn::mqtt::Version;
pub use options::Options;
use tokio::{
    sync::{Semaphore, watch},
    task::JoinSet,
};

use crate::{claim::Claimer, console::Console, tls::Authority, unit::Shared};

/// Claims and handshakes at the same time.
const OPENINGS_MAX: usize = 32;

/// How often totals are printed, if they have changed.
const TOTALS_EVERY: Duration = Duration::from_secs(5);

/// Why the devices ended before they were told to.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RunError {
    /// They were told something that cannot work; nothing was started. The text says what to do.
    #[error("{0}")]
    Options(String),
    /// Each of them met something that does not pass by itself; standard output has the reasons.
    #[error("no device is left: {0}")]
    AllFailed(String),
}

/// Runs `options.count` devices until `shutdown`, then disconnects them in order.
///
/// Device k keeps its identity in folder k of `options.state`, from 1 on; started again, it is the same device. Events
/// go to standard output: a line each, or totals where there are more than 20 devices.
///
/// # Errors
///
/// [`RunError::Options`] before anything is started; [`RunError::AllFailed`] when no device can go on.
pub async fn run(options: Options, shutdown: impl Future<Output = ()> + Send) -> Result<(), RunError> {
    options.check().map_err(RunError::Options)?;
    let state = options.state.clone();
    let (shared, units) = prepare(options)?;
    let _lock = lock(&state)?;
    let shared = Arc::new(shared);
    let (down, is_down) = watch::channel(false);
    let mut tasks = JoinSet::new();
    for (folder, identity) in units {
        if identity.is_some() {
            shared.console.known();
        }
        tasks.spawn(unit::live(Arc::clone(&shared), folder, identity, unit::Shutdown(is_down.clone())));
    }
    let started = tasks.len() as u64;
    tokio::pin!(shutdown);
    let mut is_told = false;
    let mut ticks = tokio::time::interval(TOTALS_EVERY);
    let mut totals = String::new();
    loop {
        tokio::select! {
            () = &mut shutdown, if !is_told => {
                is_told = true;
                down.send_replace(true);
            }
            ended = tasks.join_next() => match ended {
                None => break,
                Some(Ok(())) => {}
                Some(Err(error)) => shared.console.failed("a device", &error.to_string()),
            },
            _ = ticks.tick(), if shared.console.has_totals() => show(&shared.console, &mut totals),
        }
    }
    if shared.console.has_totals() {
        show(&shared.console, &mut totals);
    }
    if !is_told && shared.console.failures() == started {
        return Err(RunError::AllFailed(shared.console.last_failure()));
    }
    Ok(())
}

fn show(console: &Console, last: &mut String) {
    let totals = console.totals();
    if totals != *last {
        console::say(&totals);
        *last = totals;
    }
}

/// Keeps other processes from being the same devices, until the file is dropped: two holders of one identity would take
/// the session from each other without end.
///
/// # Errors
///
/// [`RunError::Options`] if another process is them, or the folder cannot be used.
pub fn lock(state: &Path) -> Result<File, RunError> {
    let unusable = |error: io::Error| RunError::Options(format!("--state {}: {error}", state.display()));
    IdentityFolder::open(state).map_err(|error| state_error(&error))?;
    let file = File::options().create(true).append(true).open(state.join("lock")).map_err(unusable)?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(RunError::Options(format!(
            "--state {}: another process runs these devices; end it, or give another folder",
            state.display()
        ))),
        Err(TryLockError::Error(error)) => Err(unusable(error)),
    }
}

type Prepared = (PathBuf, Option<Identity>);

/// Reads what there is, so that whatever cannot work is said before anything starts.
fn prepare(options: Options) -> Result<(Shared, Vec<Prepared>), RunError> {
    let authority = options.ca.as_deref().map(read_authority).transpose()?;
    let mut units = Vec::new();
    for k in 1..=options.count {
        let folder = options.state.join(k.to_string());
        let identity = saved_identity(&folder)?;
        check_device(&options, identity.as_ref())?;
        units.push((folder, identity));
    }
    let claimer = match units.iter().filter(|(_, identity)| identity.is_none()).count() {
        0 => None,
        missing => Some(claimer(&options, authority.as_ref(), missing)?),
    };
    let shared = Shared {
        interval: options.interval(),
        mqtts: options.mqtts,
        version: if options.v311 { Version::V311 } else { Version::V5 },
        claimer,
        device: options.device,
        authority,
        openings: Semaphore::new(OPENINGS_MAX),
        console: Console::new(options.count),
        clock: link::Clock::start(),
        local: options.local,
        factory: options.factory.as_deref().map(read_factory).transpose()?.map(Arc::new),
        fail_health: options.fail_health,
    };
    Ok((shared, units))
}

fn read_authority(path: &Path) -> Result<Authority, RunError> {
    let pem = fs::read(path).map_err(|error| RunError::Options(format!("--ca {}: {error}", path.display())))?;
    Authority::from_pem(&pem).map_err(|error| RunError::Options(format!("--ca {}: {error}", path.display())))
}

fn read_factory(path: &Path) -> Result<firmware::Factory, RunError> {
    let unusable = |what: &dyn std::fmt::Display| RunError::Options(format!("--factory {}: {what}", path.display()));
    let text = fs::read(path).map_err(|error| unusable(&error))?;
    serde_json::from_slice(&text).map_err(|error| unusable(&error))
}

fn saved_identity(folder: &Path) -> Result<Option<Identity>, RunError> {
    if !folder.exists() {
        // Nothing is made until all options are known to be good.
        return Ok(None);
    }
    let state = IdentityFolder::open(folder).and_then(|folder| folder.load());
    match state {
        Ok(State::Claimed(identity)) => Ok(Some(*identity)),
        Ok(State::New | State::Keyed(_)) => Ok(None),
        Err(error @ IdentityError::Damaged { .. }) => {
            Err(RunError::Options(format!("{error}; restore it, or remove its folder and claim another unit")))
        }
        Err(error) => Err(state_error(&error)),
    }
}

fn state_error(error: &IdentityError) -> RunError {
    let cause = error.source().map(|source| format!(": {source}")).unwrap_or_default();
    RunError::Options(format!("--state: {error}{cause}"))
}

fn check_device(options: &Options, identity: Option<&Identity>) -> Result<(), RunError> {
    match (&options.device, identity) {
        (Some(asked), Some(identity)) if *asked != identity.device_id => Err(RunError::Options(format!(
            "--device {asked}: the state folder is of device {}; give another --state",
            identity.device_id
        ))),
        _ => Ok(()),
    }
}

fn claimer(options: &Options, authority: Option<&Authority>, missing: usize) -> Result<Claimer, RunError> {
    let Some(token) = options.claim_token.clone() else {
        return Err(RunError::Options(format!(
            "{missing} of {} devices have no certificate yet: set IOT_CLAIM_TOKEN to a claim token",
            options.count
        )));
    };
    let Some(authority) = authority else {
        return Err(RunError::Options(format!(
            "{missing} of {} devices have no certificate yet: give --ca, the file with the CA of the cloud",
            options.count
        )));
    };
    Ok(Claimer::new(&options.http, token, authority.clone()))
}
