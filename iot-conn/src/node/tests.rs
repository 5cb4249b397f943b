#[cfg(feature = "device")]
mod client;
#[cfg(feature = "device")]
mod cloud;
#[cfg(feature = "device")]
mod commands;
#[cfg(feature = "device")]
mod data;
#[cfg(feature = "device")]
mod delivery;
#[cfg(feature = "device")]
mod failing;
#[cfg(feature = "device")]
mod live;
mod mailbox;
#[cfg(feature = "device")]
mod mqtt;
#[cfg(feature = "device")]
mod notify;
#[cfg(feature = "device")]
mod people;
#[cfg(feature = "device")]
mod permissions;
#[cfg(feature = "device")]
mod presence;
#[cfg(feature = "device")]
mod pressure;
#[cfg(feature = "device")]
mod services;
#[cfg(feature = "device")]
mod sessions;
#[cfg(feature = "device")]
mod simulation;
#[cfg(feature = "device")]
mod storms;
#[cfg(feature = "device")]
mod twins;

use iot_core::{
    event::{Event, Report, Value},
    id::{DeviceId, Metric, OwnershipEpoch, ProductId, TenantId},
    time::Timestamp,
};

/// A report whose only value is `n`.
pub(crate) fn report(n: u64) -> Event {
    Event {
        tenant: TenantId::parse("t").unwrap(),
        product: ProductId::parse("p").unwrap(),
        device: DeviceId::parse("lamp").unwrap(),
        epoch: OwnershipEpoch(0),
        home: None,
        at: Timestamp::EPOCH,
        received: Timestamp::EPOCH,
        device_sequence: None,
        report: Report::Telemetry(vec![(Metric::parse("n").unwrap(), Value::Int(i64::try_from(n).unwrap()))]),
    }
}
