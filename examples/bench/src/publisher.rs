//! Who publishes: clients below a topic of the run, or claimed devices in their own trees.

use std::fs::File;

use iot_auth::device::Identity;
use iot_conn::mqtt::client::ClientOptions;
use iot_device::{link::Clock, options::Endpoint};

use crate::{
    BenchError, fleet,
    flow::client_id,
    options::{Broker, Devices},
    peer::Peer,
};

pub(crate) enum Publishers {
    /// Each has a topic below this one.
    Clients(String),
    Devices {
        identities: Vec<Identity>,
        mqtts: Endpoint,
        _lock: File,
    },
}

impl Publishers {
    pub(crate) fn new(devices: &Devices, count: u32) -> Result<Self, BenchError> {
        match &devices.state {
            None => Ok(Self::Clients(format!("bench/{}", std::process::id()))),
            Some(state) => Ok(Self::Devices {
                identities: fleet::identities(state, count)?,
                mqtts: devices.mqtts.clone(),
                _lock: fleet::lock(state)?,
            }),
        }
    }

    pub(crate) fn are_devices(&self) -> bool {
        matches!(self, Self::Devices { .. })
    }

    /// Connects one of them; with it the topic to which it publishes.
    pub(crate) async fn connect(
        &self,
        broker: &Broker,
        k: u32,
        window: u64,
        clock: Clock,
    ) -> Result<(Peer, String), BenchError> {
        match self {
            Self::Clients(root) => {
                let peer = Peer::connect(broker, broker.client(client_id("p", k), window), clock).await?;
                Ok((peer, format!("{root}/{k}")))
            }
            Self::Devices { identities, mqtts, .. } => {
                let identity = &identities[k as usize];
                let client = broker.client(identity.device_id.to_string(), window);
                // It is known by its certificate.
                let client = ClientOptions { username: None, password: None, ..client };
                let peer = fleet::open(identity, mqtts, client, clock).await?;
                Ok((peer, "up/custom/bench".to_owned()))
            }
        }
    }

    /// Where one that listens to these publishers subscribes.
    pub(crate) fn filter(&self, sources: &[u32]) -> String {
        match (self, sources) {
            (Self::Clients(root), [one]) => format!("{root}/{one}"),
            (Self::Clients(root), _) => format!("{root}/+"),
            (Self::Devices { identities, .. }, [one]) => {
                format!("d/{}/up/custom/bench", identities[*one as usize].device_id)
            }
            (Self::Devices { .. }, _) => "d/+/up/custom/bench".to_owned(),
        }
    }
}
