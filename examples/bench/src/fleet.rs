//! Claimed devices of an `iot-device` state folder.

use std::{fs::File, path::Path};

use iot_auth::device::{Identity, IdentityFolder, State};
use iot_conn::mqtt::client::ClientOptions;
use iot_device::{
    link::Clock,
    options::Endpoint,
    tls::{Authority, client_config},
};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use crate::{
    BenchError,
    peer::{Peer, target},
};

/// The identities of the devices in the folders 1 to `count`.
pub(crate) fn identities(state: &Path, count: u32) -> Result<Vec<Identity>, BenchError> {
    (1..=count).map(|k| identity(state, k)).collect()
}

fn identity(state: &Path, k: u32) -> Result<Identity, BenchError> {
    let path = state.join(k.to_string());
    let missing = || {
        BenchError::Options(format!(
            "{} has no claimed device: run iot-device --count with this folder",
            path.display()
        ))
    };
    if !path.exists() {
        return Err(missing());
    }
    match IdentityFolder::open(&path).and_then(|folder| folder.load()) {
        Ok(State::Claimed(identity)) => Ok(*identity),
        Ok(State::New | State::Keyed(_)) => Err(missing()),
        Err(error) => Err(BenchError::Options(error.to_string())),
    }
}

/// Keeps `iot-device` from being the same devices meanwhile.
pub(crate) fn lock(state: &Path) -> Result<File, BenchError> {
    iot_device::lock(state).map_err(|error| BenchError::Options(error.to_string()))
}

/// Connects a device over TLS with its certificate; a session that it had is discarded.
pub(crate) async fn connect(
    identity: &Identity,
    mqtts: &Endpoint,
    window: u64,
    clock: Clock,
) -> Result<Peer, BenchError> {
    let mut options = ClientOptions::new(identity.device_id.as_str());
    options.clean_start = true;
    options.session_expiry_s = 0;
    options.in_flight_max = u16::try_from(window).unwrap_or(u16::MAX);
    options.queue_messages_max = usize::try_from(window).unwrap_or(usize::MAX);
    open(identity, mqtts, options, clock).await
}

/// The same with options of one's own.
pub(crate) async fn open(
    identity: &Identity,
    mqtts: &Endpoint,
    options: ClientOptions,
    clock: Clock,
) -> Result<Peer, BenchError> {
    let unusable = |error: &dyn std::error::Error| BenchError::Options(format!("{}: {error}", identity.device_id));
    let authority = Authority::from_pem(identity.ca_pem.as_bytes()).map_err(|error| unusable(&error))?;
    let connector = TlsConnector::from(client_config(&authority, identity).map_err(|error| unusable(&error))?);
    let tcp = TcpStream::connect((mqtts.host(), mqtts.port())).await.map_err(|error| target(&error))?;
    tcp.set_nodelay(true).map_err(|error| target(&error))?;
    let tls = connector.connect(mqtts.name(), tcp).await.map_err(|error| target(&error))?;
    Peer::open(Box::new(tls), options, clock).await
}
