//! The smallest cloud: MQTT on loopback, embedded storage, your logic. `cargo run -p iot-minimal`
use std::{convert::Infallible, path::Path, sync::Arc};

use iot_auth::{Auth, ca::DeviceCa, keys::FileKeyRing};
use iot_conn::{node::Node, transport::Bound, transport::Listener};
use iot_core::logic::{Effect, EventBatch};
use iot_core::{clock::Clock, clock::SystemClock, limits::Limits, store::Stores};
use iot_store::{StoreLimits, sqlite::Sqlite};
use tower::util::BoxCloneSyncService;

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let folder = Path::new("iot-minimal-data");
    let clock = Arc::new(SystemClock::default());
    let keys = Arc::new(FileKeyRing::open_or_create(folder)?);
    let stores = Stores::new(Sqlite::open(&folder.join("store"), StoreLimits::default()).await?);
    let ca = DeviceCa::open_or_create(folder, &*keys, clock.timestamp()).await?;
    let auth = Arc::new(Auth::new(&stores, keys, ca, clock.clone()));
    let logic = tower::service_fn(|batch: EventBatch| async move {
        Ok::<Vec<Effect>, Infallible>(batch.events.iter().flat_map(|_event| None).collect()) // yours
    });
    let node = Node::builder("n1".parse()?, stores, clock)
        .limits(Limits::default())
        .authenticate_with(auth.authenticator(), auth)
        .consumer("logic".parse()?, BoxCloneSyncService::new(tower::ServiceExt::map_err(logic, Into::into)))
        .build();
    let address = "127.0.0.1:1883".parse()?;
    let listener = Listener { anonymous: true, ..Listener::new("mqtt", address) };
    node.serve(Bound::bind(vec![listener])?, std::future::pending()).await?;
    Ok(())
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_readme_shows_this_program() {
        let program = include_str!("main.rs").split("\n#[cfg(test)]").next().unwrap_or_default();
        assert!(include_str!("../../../README.md").contains(program));
    }
}
