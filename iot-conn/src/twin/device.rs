//! What devices and their twins say to each other.

use std::sync::Arc;

use bytes::Bytes;
use iot_core::{
    device::Device,
    logic::BoxError,
    service::{BoxDeviceService, Call, DeviceCall},
    twin::{Object, Written},
};
use serde::{Deserialize, Serialize};
use tower::service_fn;

use super::{TwinError, TwinWritten, Twins};

#[derive(Deserialize)]
#[serde(tag = "type", rename_all = "snake_case", deny_unknown_fields)]
enum Question {
    Get {},
    Report { reported: Object, version: Option<u64> },
}

#[derive(Serialize)]
#[serde(tag = "type", rename_all = "snake_case")]
enum Answer<'a> {
    Twin { version: u64, desired: &'a Object, reported: &'a Object },
    Accepted { version: u64 },
    Delta { version: u64, desired: &'a Object },
    Refused { code: &'static str, detail: String },
}

/// The message that tells a device what it has yet to do.
pub(super) fn delta(version: u64, desired: &Object) -> Bytes {
    Answer::Delta { version, desired }.bytes()
}

impl Twins {
    /// The service for a node, to be registered as [`SERVICE`](super::SERVICE). It answers each question, and greets a device
    /// that connects with what it has yet to do, if anything.
    pub fn device_service(self: &Arc<Self>) -> BoxDeviceService {
        let twins = self.clone();
        BoxDeviceService::new(service_fn(move |DeviceCall { device, call, .. }: DeviceCall| {
            let twins = twins.clone();
            async move { Box::pin(twins.answer(&device, call)).await.map_err(BoxError::from) }
        }))
    }

    async fn answer(&self, device: &Device, call: Call) -> Result<Option<Bytes>, TwinError> {
        let question = match call {
            Call::Connected => {
                let twin = self.read(device).await?;
                let delta = Some(twin.delta()).filter(|delta| !delta.is_empty());
                return Ok(delta.map(|desired| self::delta(twin.version, &desired)));
            }
            Call::Asked(payload) => serde_json::from_slice(&payload),
            _ => return Ok(None),
        };
        let answer = match question {
            Ok(Question::Get {}) => {
                let twin = self.read(device).await?;
                let (desired, reported) = (&twin.desired, &twin.reported);
                return Ok(Some(Answer::Twin { version: twin.version, desired, reported }.bytes()));
            }
            Ok(Question::Report { reported, version }) => {
                reply(&self.write_reported(device, &reported, version).await?)
            }
            Err(error) => refused("payload_invalid", error.to_string()),
        };
        Ok(Some(answer.bytes()))
    }
}

fn reply(written: &TwinWritten) -> Answer<'static> {
    match written {
        TwinWritten::Decided(Written::Done { version, .. } | Written::Unchanged { version }) => {
            Answer::Accepted { version: *version }
        }
        TwinWritten::Decided(Written::VersionMismatch { version }) => {
            refused("version_mismatch", format!("the twin is at version {version}: get it and decide again"))
        }
        TwinWritten::Decided(Written::Refused(why)) => refused(why.code(), why.to_string()),
        TwinWritten::OwnerChanged => refused("owner_changed", "the device has another owner: connect again".to_owned()),
    }
}

fn refused(code: &'static str, detail: String) -> Answer<'static> {
    metrics::counter!("iot_twin_refusals_total", "code" => code).increment(1);
    Answer::Refused { code, detail }
}

impl Answer<'_> {
    fn bytes(&self) -> Bytes {
        serde_json::to_vec(self).expect("it has text keys only").into()
    }
}
