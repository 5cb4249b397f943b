//! The server's own cloud logic: the place for yours. An alarm while a temperature is too high, and a fan, which is any
//! other device of the same home, that is switched on when it begins.

use std::{
    sync::Arc,
    task::{Context, Poll},
};

use iot_core::{
    command::Offline,
    device::Device,
    event::{Event, Report, StoredEvent},
    id::DeviceId,
    logic::{Action, BoxError, Effect, EventBatch},
    store::{MetaStore, MetaStoreExt, StoreError},
};
use tower::Service;

/// Above this a device has an alarm.
const HOT: f64 = 30.0;
/// Below this it has none any more; in between nothing changes.
const COOL: f64 = 28.0;
/// Only so many devices of a home are switched by one alarm.
const SWITCHED_MAX: u32 = 1;

/// A `tower` service over batches of stored events.
///
/// It keeps no state: what it decides follows from the event and from records, and what it asks for is harmless to ask for
/// twice. So a batch may come again after a crash.
#[derive(Clone, Debug)]
pub(crate) struct Thermostat {
    pub(crate) meta: Arc<dyn MetaStore>,
}

impl Service<EventBatch> for Thermostat {
    type Response = Vec<Effect>;
    type Error = BoxError;
    type Future = std::pin::Pin<Box<dyn Future<Output = Result<Vec<Effect>, BoxError>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, batch: EventBatch) -> Self::Future {
        let this = self.clone();
        Box::pin(async move {
            let mut effects = Vec::new();
            for stored in batch.events.iter() {
                effects.extend(this.judge(&batch, stored).await?);
            }
            Ok(effects)
        })
    }
}

impl Thermostat {
    async fn judge(&self, batch: &EventBatch, stored: &StoredEvent) -> Result<Vec<Effect>, StoreError> {
        let event = &stored.event;
        let Some(temperature) = temperature(event) else { return Ok(Vec::new()) };
        let hot = match temperature {
            above if above > HOT => true,
            below if below < COOL => false,
            _ => return Ok(Vec::new()),
        };
        let effect = |index, action| Effect { cause: batch.id_of(stored), index, action };
        let text = if hot { format!("{temperature} is above {HOT}") } else { format!("{temperature} is below {COOL}") };
        let mut effects = vec![effect(
            0,
            Action::Alarm {
                tenant: event.tenant.clone(),
                device: event.device.clone(),
                epoch: event.epoch,
                name: "temperature".to_owned(),
                active: hot,
                text,
            },
        )];
        if hot && !self.has_alarm(event).await? {
            for (index, device) in (1..).zip(self.neighbours(event).await?) {
                effects.push(effect(
                    index,
                    Action::Command {
                        tenant: event.tenant.clone(),
                        device,
                        name: "set".to_owned(),
                        args: serde_json::json!({"on": true}),
                        offline: Offline::Fail,
                    },
                ));
            }
        }
        Ok(effects)
    }

    async fn has_alarm(&self, event: &Event) -> Result<bool, StoreError> {
        let key = iot_conn::node::Alarm::key_of(&event.tenant, &event.device, "temperature");
        let stored = self.meta.find::<iot_conn::node::Alarm>(&key).await?;
        Ok(stored.is_some_and(|stored| stored.document.is_raised_in(event.epoch)))
    }

    async fn neighbours(&self, event: &Event) -> Result<Vec<DeviceId>, StoreError> {
        let Some(home) = &event.home else { return Ok(Vec::new()) };
        let index = format!("{}/{home}", event.tenant);
        let page = self.meta.page::<Device>("home", &index, None, SWITCHED_MAX + 1).await?;
        let ids = page.items.into_iter().map(|stored| stored.document.id).filter(|id| *id != event.device);
        Ok(ids.take(SWITCHED_MAX as usize).collect())
    }
}

fn temperature(event: &Event) -> Option<f64> {
    let Report::Telemetry(values) = &event.report else { return None };
    let (_, value) = values.iter().find(|(metric, _)| metric.as_str() == "temperature")?;
    value.as_f64()
}

#[cfg(test)]
mod tests {
    use super::*;
    use iot_core::{
        event::{Sequence, Value},
        id::{Metric, NodeId, OwnershipEpoch, ProductId, TenantId},
        store::Batch,
        time::Timestamp,
    };
    use iot_store::{StoreLimits, memory::Memory};

    fn batch(temperature: f64) -> EventBatch {
        let event = Event {
            tenant: TenantId::parse("t").unwrap(),
            product: ProductId::parse("p").unwrap(),
            device: DeviceId::parse("a").unwrap(),
            epoch: OwnershipEpoch(0),
            home: Some("h".parse().unwrap()),
            at: Timestamp::EPOCH,
            received: Timestamp::EPOCH,
            device_sequence: None,
            report: Report::Telemetry(vec![(Metric::parse("temperature").unwrap(), Value::Float(temperature))]),
        };
        EventBatch { node: NodeId::parse("n").unwrap(), events: [StoredEvent { sequence: Sequence(7), event }].into() }
    }

    async fn effects(temperature: f64) -> Vec<Action> {
        let memory = Arc::new(Memory::new(StoreLimits::default()));
        for id in ["a", "b", "c"] {
            let device = Device {
                tenant: TenantId::parse("t").unwrap(),
                product: ProductId::parse("p").unwrap(),
                id: DeviceId::parse(id).unwrap(),
                p_code: id.to_uppercase().parse().unwrap(),
                stage: iot_core::device::Stage::Activated,
                epoch: OwnershipEpoch(0),
                home: Some("h".parse().unwrap()),
                keys: vec![],
                created: Timestamp::EPOCH,
            };
            let _ = memory.commit(Batch::default().create(&device)).await.unwrap();
        }
        let mut logic = Thermostat { meta: memory };
        let effects = logic.call(batch(temperature)).await.unwrap();
        effects.into_iter().map(|effect| effect.action).collect()
    }

    #[tokio::test]
    async fn heat_raises_an_alarm_and_switches_one_other_device_of_the_home() {
        let actions = effects(30.5).await;
        assert!(matches!(&actions[0], Action::Alarm { active: true, device, .. } if device.as_str() == "a"));
        assert!(matches!(&actions[1], Action::Command { device, name, .. } if device.as_str() == "b" && name == "set"));
        assert_eq!(actions.len(), 2);
    }

    #[tokio::test]
    async fn the_limits_themselves_change_nothing_and_cold_clears() {
        assert_eq!(effects(30.0).await, []);
        assert_eq!(effects(28.0).await, []);
        assert!(matches!(&effects(27.9).await[..], [Action::Alarm { active: false, .. }]));
    }
}
