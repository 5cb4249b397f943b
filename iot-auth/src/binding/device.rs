use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use iot_core::{
    binding::{BINDING_TTL, Binding, Presence, PresenceRefusal, absent, attempted, is_bound, present},
    device::Device,
    logic::BoxError,
    secret::Secret,
    service::{BoxDeviceService, Call, DeviceCall},
    store::{Audit, Batch, Document, MetaStoreExt, Step, Stored},
};
use serde::{Deserialize, Serialize};
use tower::service_fn;

use crate::{
    auth::{Auth, AuthError},
    token::random_code,
};

/// The name under which devices ask for binding codes: `up/service/binding`, `down/service/binding`.
pub const BINDING_SERVICE: &str = "binding";

/// What a device says.
#[derive(Deserialize)]
#[serde(tag = "type", rename_all = "lowercase", deny_unknown_fields)]
enum Asked {
    /// Somebody is beside the device, for so many seconds.
    Present { for_s: u64 },
    /// Nobody is any more.
    Absent {},
}

/// What it is told.
#[derive(Serialize)]
#[serde(tag = "type", rename_all = "lowercase")]
enum Told<'a> {
    /// Whether the device has an owner, after each connection.
    State { bound: bool, epoch: u64 },
    /// A code for whoever is beside the device, and for nobody else.
    Code { code: &'a str, expires_s: u64 },
    /// No code is alive.
    Absent,
    /// There is no code.
    Refused { code: &'a str },
}

impl Told<'_> {
    fn bytes(&self) -> Option<Bytes> {
        serde_json::to_vec(self).ok().map(Bytes::from)
    }
}

/// What a device's question comes to.
enum Answer {
    Code {
        valid: Duration,
    },
    Absent,
    Refused(PresenceRefusal),
    /// The device is not what its connection says any more: that connection is about to end.
    None,
}

impl Auth {
    /// The service from which devices get their binding codes.
    pub fn binding_service(self: &Arc<Self>) -> BoxDeviceService {
        let auth = self.clone();
        BoxDeviceService::new(service_fn(move |call: DeviceCall| {
            let auth = auth.clone();
            async move { auth.binding_asked(&call).await.map_err(BoxError::from) }
        }))
    }

    async fn binding_asked(&self, call: &DeviceCall) -> Result<Option<Bytes>, AuthError> {
        match &call.call {
            Call::Connected => {
                let home = self.home_at(&call.device).await?;
                let bound = is_bound(&call.device, home.as_ref().map(|home| &home.document));
                Ok(Told::State { bound, epoch: call.device.epoch.0 }.bytes())
            }
            Call::Asked(payload) => match serde_json::from_slice(payload) {
                Ok(Asked::Present { for_s }) if for_s > 0 => self.presence(&call.device, for_s).await,
                Ok(Asked::Absent {}) => self.absence(&call.device).await,
                _ => Ok(Told::Refused { code: "payload_invalid" }.bytes()),
            },
            // A code dies by its time: whoever is beside the device can still use the one that it showed.
            _ => Ok(None),
        }
    }

    async fn presence(&self, caller: &Device, for_s: u64) -> Result<Option<Bytes>, AuthError> {
        let text = random_code()?;
        let code = self.binding_code(&caller.tenant, &text).await?;
        let valid = Duration::from_secs(for_s).min(BINDING_TTL);
        let answer = self
            .settle(|| async {
                let Some(device) = self.current(caller).await? else { return Ok(Step::Answer(Answer::None)) };
                let codes = self.meta.find::<Binding>(&Binding::key_of(&caller.tenant, &caller.id)).await?;
                let at = self.home_at(&device.document).await?;
                let place = at.as_ref().map(|home| &home.document);
                let former = codes.as_ref().map(|codes| &codes.document);
                Ok(match present(former, &device.document, place, code.clone(), valid, self.now()) {
                    Presence::Issued(next) => {
                        let batch = put(codes.as_ref(), &next).unchanged(&device);
                        let batch = at.iter().fold(batch, |batch, home| batch.unchanged(home));
                        Step::Commit(batch.audited(self.by_device(caller, None)), Answer::Code { valid })
                    }
                    Presence::Refused(why) => self.presence_refused(&device, codes.as_ref(), why),
                })
            })
            .await?;
        Ok(told(&answer, &text.grouped()))
    }

    /// A refusal is recorded, and one of a device that has an owner is kept for that owner, unless the one before was just now.
    fn presence_refused(
        &self,
        device: &Stored<Device>,
        codes: Option<&Stored<Binding>>,
        why: PresenceRefusal,
    ) -> Step<Answer> {
        let next = match why {
            PresenceRefusal::AlreadyBound => {
                attempted(codes.map(|codes| &codes.document), &device.document, self.now())
            }
            _ => None,
        };
        match next {
            Some(attempt) => {
                let entry = self.by_device(&device.document, Some(why.code()));
                let batch = put(codes, &attempt.codes).unchanged(device).audited(entry);
                Step::Commit(attempt.tells.into_iter().fold(batch, Batch::announced), Answer::Refused(why))
            }
            None if why == PresenceRefusal::NotActivated => {
                let entry = self.by_device(&device.document, Some(why.code()));
                Step::Commit(Batch::default().audited(entry), Answer::Refused(why))
            }
            None => Step::Answer(Answer::Refused(why)),
        }
    }

    async fn absence(&self, caller: &Device) -> Result<Option<Bytes>, AuthError> {
        let answer = self
            .settle(|| async {
                let Some(device) = self.current(caller).await? else { return Ok(Step::Answer(Answer::None)) };
                let codes = self.meta.find::<Binding>(&Binding::key_of(&caller.tenant, &caller.id)).await?;
                let next = codes.and_then(|codes| Some((absent(&codes.document)?, codes)));
                Ok(match next {
                    Some((next, codes)) => {
                        let entry = self.entry(&caller.tenant, device_actor(caller), "binding_absent", next.key());
                        Step::Commit(
                            Batch::default().replace(&codes, &next).unchanged(&device).audited(entry),
                            Answer::Absent,
                        )
                    }
                    None => Step::Answer(Answer::Absent),
                })
            })
            .await?;
        Ok(told(&answer, &Secret::new("")))
    }

    /// The device as stored, if it is still in the epoch in which it asks.
    async fn current(&self, caller: &Device) -> Result<Option<Stored<Device>>, AuthError> {
        let stored = self.meta.find::<Device>(&caller.key()).await?;
        Ok(stored.filter(|stored| stored.document.epoch == caller.epoch))
    }

    fn by_device(&self, device: &Device, refused: Option<&str>) -> Audit {
        let entry = self.entry(&device.tenant, device_actor(device), "binding_code", device.key());
        Audit { refused: refused.map(str::to_owned), ..entry }
    }
}

fn told(answer: &Answer, code: &Secret) -> Option<Bytes> {
    match answer {
        Answer::Code { valid } => Told::Code { code: code.expose(), expires_s: valid.as_secs() }.bytes(),
        Answer::Absent => Told::Absent.bytes(),
        Answer::Refused(why) => Told::Refused { code: why.code() }.bytes(),
        Answer::None => None,
    }
}

fn device_actor(device: &Device) -> String {
    format!("{}/device/{}", device.tenant, device.id)
}

fn put(read: Option<&Stored<Binding>>, next: &Binding) -> Batch {
    match read {
        Some(read) => Batch::default().replace(read, next),
        None => Batch::default().create(next),
    }
}
