//! Commands from applications and logic to devices.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll},
    time::Duration,
};

use futures_util::future::BoxFuture;
use iot_core::{
    clock::Clock,
    command::{
        COMMAND_ARGS_BYTES_MAX, COMMAND_NAME_BYTES_MAX, COMMAND_TIMEOUT_MAX, CommandRequest, CommandSender,
        CommandState, DurableCommand, Offline, Receipt,
    },
    device::Stage,
    id::{CommandId, DeviceId, OwnershipEpoch, TenantId},
    logic::BoxError,
    message::{Message, QoS},
    payload::{self, CommandBody, ReplyBody},
    session::SessionId,
    store::{Batch, Committed, MetaStore, MetaStoreExt, StoreError, Write},
    time::Timestamp,
    topic,
};
use tokio::sync::{Notify, watch};
use tower::Service;

use super::{
    directory::Directory,
    endpoint::Registry,
    live::LiveHub,
    mailbox::{Kind, Outgoing, Posted},
    plane::Plane,
};
use crate::{
    command::{Cancelled, CommandLimits, Correlator, Effect, Now, Submitted},
    router::Identifiers,
};

/// How long the store may take to keep the end of a command before the caller is told that it could not.
const SETTLED_WITHIN: Duration = Duration::from_secs(5);

/// What became of a command that was asked for.
#[derive(Debug, Clone, PartialEq)]
#[must_use]
#[non_exhaustive]
pub enum Commanded {
    /// It is under way, or was known already.
    Receipt(Receipt),
    /// The device is not connected, and the command does not wait.
    DeviceOffline,
    /// Too many are under way.
    TooMany,
    /// There is no such device, or it is retired.
    NoSuchDevice,
    /// The request breaks a limit, which is named.
    Invalid(&'static str),
}

/// Sends commands and follows them. Cheap to clone; a `tower::Service`, so that layers can stand before it.
#[derive(Debug, Clone)]
pub struct Commander {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    // Small sections, never across an await.
    correlator: Mutex<Correlator>,
    waiting: Mutex<HashMap<(TenantId, CommandId), watch::Sender<Receipt>>>,
    finals: Plane<DurableCommand>,
    // Of durable commands whose end is not durable yet: what may be told of them. Bounded as `finals`.
    unsettled: Mutex<HashMap<(TenantId, CommandId), Receipt>>,
    timer: Notify,
    meta: Arc<dyn MetaStore>,
    directory: Arc<Directory>,
    registry: Arc<Registry>,
    live: LiveHub,
    clock: Arc<dyn Clock>,
}

impl Service<CommandRequest> for Commander {
    type Response = Commanded;
    type Error = BoxError;
    type Future = BoxFuture<'static, Result<Commanded, BoxError>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: CommandRequest) -> Self::Future {
        let commander = self.clone();
        Box::pin(async move { Ok(commander.submit(request).await?) })
    }
}

impl Commander {
    pub(crate) fn new(
        limits: CommandLimits,
        meta: Arc<dyn MetaStore>,
        directory: Arc<Directory>,
        registry: Arc<Registry>,
        live: LiveHub,
        clock: Arc<dyn Clock>,
    ) -> Self {
        let shared = Shared {
            correlator: Mutex::new(Correlator::new(limits)),
            waiting: Mutex::default(),
            // Bounded by the commands under way, each of which ends once.
            finals: Plane::new(usize::MAX),
            unsettled: Mutex::default(),
            timer: Notify::new(),
            meta,
            directory,
            registry,
            live,
            clock,
        };
        Self { shared: Arc::new(shared) }
    }

    fn correlator(&self) -> MutexGuard<'_, Correlator> {
        self.shared.correlator.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn now(&self) -> Now {
        Now { monotonic: self.shared.clock.monotonic(), timestamp: self.shared.clock.timestamp() }
    }

    /// Takes a request. For a device that is connected the command is on its way when this returns; for one that is not,
    /// it is durable.
    pub async fn submit(&self, request: CommandRequest) -> Result<Commanded, StoreError> {
        if let Some(invalid) = invalid(&request) {
            return Ok(Commanded::Invalid(invalid));
        }
        let meta = &*self.shared.meta;
        let found = self.shared.directory.device(meta, &request.tenant, &request.device).await?;
        let Some(device) = found.filter(|device| device.stage != Stage::Retired) else {
            return Ok(Commanded::NoSuchDevice);
        };
        let connected = self.is_connected(&request.tenant, &request.device);
        if !connected && request.offline == Offline::Wait {
            let key = DurableCommand::key_of(&request.tenant, &request.id);
            if let Some(known) = meta.find::<DurableCommand>(&key).await? {
                return Ok(Commanded::Receipt(known.document.receipt));
            }
        }
        let (tenant, id) = (request.tenant.clone(), request.id.clone());
        let (submitted, stored) =
            self.drive(|correlator, now| correlator.submit(now, request, device.epoch, connected));
        metrics::counter!("iot_commands_total").increment(1);
        for command in stored {
            if let Err(error) = self.store_new(&command).await {
                let _gone = self.drive_and_store(|correlator, now| correlator.cancel(now, &tenant, &id));
                return Err(error);
            }
            self.settled(command.receipt);
        }
        Ok(match submitted {
            Submitted::Taken(receipt) => Commanded::Receipt(self.receipt_now(&tenant, &id).unwrap_or(receipt)),
            Submitted::Known(receipt) => Commanded::Receipt(receipt),
            Submitted::DeviceOffline => Commanded::DeviceOffline,
            Submitted::TooMany => Commanded::TooMany,
        })
    }

    /// How far a command has come; `None` if it is not known (any more).
    pub async fn receipt(&self, tenant: &TenantId, id: &CommandId) -> Result<Option<Receipt>, StoreError> {
        if let Some(receipt) = self.receipt_now(tenant, id) {
            return Ok(Some(receipt));
        }
        let stored = self.shared.meta.find::<DurableCommand>(&DurableCommand::key_of(tenant, id)).await?;
        Ok(stored.map(|stored| stored.document.receipt))
    }

    /// The newest commands to a device that are still known, the newest first, at most `limit`. For a page that is looked at
    /// now and then: it looks through all that are known.
    pub fn recent(&self, tenant: &TenantId, device: &DeviceId, limit: usize) -> Vec<Receipt> {
        let correlator = self.correlator();
        let unsettled = self.unsettled();
        let told = |receipt: &Receipt| unsettled.get(&(tenant.clone(), receipt.id.clone())).unwrap_or(receipt).clone();
        correlator.recent(tenant, device, limit).into_iter().map(told).collect()
    }

    fn receipt_now(&self, tenant: &TenantId, id: &CommandId) -> Option<Receipt> {
        let correlator = self.correlator();
        let unsettled = self.unsettled().get(&(tenant.clone(), id.clone())).cloned();
        unsettled.or_else(|| correlator.receipt(tenant, id).cloned())
    }

    fn unsettled(&self) -> MutexGuard<'_, HashMap<(TenantId, CommandId), Receipt>> {
        self.shared.unsettled.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until a command is final, at most for `wait`; answers how far it has come by then.
    pub async fn wait(&self, tenant: &TenantId, id: &CommandId, wait: Duration) -> Result<Option<Receipt>, StoreError> {
        let Some(receipt) = self.receipt_now(tenant, id) else { return self.receipt(tenant, id).await };
        if receipt.state.is_final() || wait.is_zero() {
            return Ok(Some(receipt));
        }
        let name = (tenant.clone(), id.clone());
        let mut changes = {
            let mut waiting = self.shared.waiting.lock().unwrap_or_else(PoisonError::into_inner);
            waiting.entry(name).or_insert_with(|| watch::channel(receipt.clone()).0).subscribe()
        };
        // It may have become final before the subscription above.
        if let Some(receipt) = self.receipt_now(tenant, id).filter(|receipt| receipt.state.is_final()) {
            return Ok(Some(receipt));
        }
        let is_final = async { changes.wait_for(|receipt| receipt.state.is_final()).await.ok().map(|r| r.clone()) };
        match tokio::time::timeout(wait, is_final).await.ok().flatten() {
            Some(receipt) => Ok(Some(receipt)),
            None => self.receipt(tenant, id).await,
        }
    }

    /// Takes a command back, if it has not been sent; where the command was durable, so is its end when this returns.
    pub async fn cancel(&self, tenant: &TenantId, id: &CommandId) -> Result<Cancelled, StoreError> {
        let cancelled = self.drive_and_store(|correlator, now| correlator.cancel(now, tenant, id));
        if let Cancelled::Done(_) = cancelled {
            let settled = self.wait(tenant, id, SETTLED_WITHIN).await?;
            if settled.is_none_or(|receipt| !receipt.state.is_final()) {
                let source = "the end of the command is not durable yet".into();
                return Err(StoreError::Unavailable { backend: "commands", source });
            }
        }
        Ok(cancelled)
    }

    /// How many commands are under way.
    pub fn open_len(&self) -> usize {
        self.correlator().open_len()
    }

    /// What waits for a device to connect, with its senders.
    pub(crate) fn waiting(&self, tenant: &TenantId, device: &DeviceId) -> Vec<(CommandId, CommandSender)> {
        self.correlator().waiting(tenant, device)
    }

    /// Takes back a command whose sender may not ask for it any more.
    pub(crate) fn withdraw(&self, tenant: &TenantId, id: &CommandId) {
        let _told = self.drive_and_store(|correlator, now| correlator.cancel(now, tenant, id));
    }

    pub(crate) fn connected(&self, tenant: &TenantId, device: &DeviceId, epoch: OwnershipEpoch) {
        self.drive_and_store(|correlator, now| correlator.connected(now, tenant, device, epoch));
    }

    pub(crate) fn sent(&self, tenant: &TenantId, id: &CommandId) {
        self.drive_and_store(|correlator, now| correlator.sent(now, tenant, id));
    }

    pub(crate) fn acknowledged(&self, tenant: &TenantId, id: &CommandId) {
        self.drive_and_store(|correlator, now| correlator.acknowledged(now, tenant, id));
    }

    pub(crate) fn awaits(&self, tenant: &TenantId, device: &DeviceId, id: &CommandId) -> bool {
        self.correlator().awaits(tenant, device, id)
    }

    pub(crate) fn replied(&self, tenant: &TenantId, device: &DeviceId, reply: ReplyBody) {
        if !self.drive_and_store(|correlator, now| correlator.replied(now, tenant, device, reply)) {
            metrics::counter!("iot_command_replies_unknown_total").increment(1);
        }
    }

    /// Takes up the durable commands of an earlier run.
    pub(crate) async fn restore(&self) -> Result<(), StoreError> {
        let mut after = None;
        loop {
            let page = self.shared.meta.page::<DurableCommand>("open", "", after.as_ref(), 500).await?;
            let now = self.now();
            for stored in page.items {
                self.correlator().restore(now, stored.document);
            }
            after = page.next;
            if after.is_none() {
                return Ok(());
            }
        }
    }

    /// Keeps deadlines, until it is dropped.
    pub(crate) async fn run_timer(self) {
        loop {
            let changed = self.shared.timer.notified();
            let next = self.correlator().poll_timeout();
            match next {
                Some(at) => {
                    let left = at.since(self.shared.clock.monotonic());
                    tokio::select! { () = tokio::time::sleep(left) => {}, () = changed => {} }
                }
                None => changed.await,
            }
            // Not by the function that wakes this task: it would do so for ever.
            let ((), stored) = self.carry_out(|correlator, now| correlator.handle_timeout(now));
            stored.into_iter().for_each(|command| self.shared.finals.push(command));
        }
    }

    /// Makes the ends of durable commands durable, until closed.
    pub(crate) async fn run_finals(self) {
        while let Some(commands) = self.shared.finals.take(256).await {
            let stored = latest(commands);
            let writes: Vec<Write> = stored.iter().map(Write::put).collect();
            let batch = Batch { writes, ..Batch::default() };
            let mut pause = Duration::from_millis(50);
            while let Err(error) = self.shared.meta.commit(batch.clone()).await {
                tracing::error!(error = &error as &dyn std::error::Error, "the end of a command cannot be stored");
                tokio::time::sleep(pause).await;
                pause = (pause * 2).min(Duration::from_secs(5));
            }
            for command in stored {
                self.settled(command.receipt);
            }
        }
    }

    pub(crate) fn close(&self) {
        self.shared.finals.close();
    }

    /// Forgets durable commands that have been final for a day.
    pub(crate) async fn sweep(&self, now: Timestamp) -> Result<(), StoreError> {
        let old = now.minus(Duration::from_secs(24 * 3_600));
        let mut after = None;
        loop {
            let page = self.shared.meta.page::<DurableCommand>("closed", "", after.as_ref(), 500).await?;
            let due = page.items.iter().filter(|stored| ended(&stored.document.receipt) < old);
            let batch = due.fold(Batch::default(), |batch, stored| batch.remove(stored));
            if !batch.writes.is_empty() {
                let _raced = self.shared.meta.commit(batch).await?;
            }
            after = page.next;
            if after.is_none() {
                return Ok(());
            }
        }
    }

    /// Lets something happen and carries out what follows; what has to be stored is stored in the background.
    fn drive_and_store<T>(&self, act: impl FnOnce(&mut Correlator, Now) -> T) -> T {
        let (answer, stored) = self.drive(act);
        stored.into_iter().for_each(|command| self.shared.finals.push(command));
        answer
    }

    fn drive<T>(&self, act: impl FnOnce(&mut Correlator, Now) -> T) -> (T, Vec<DurableCommand>) {
        let outcome = self.carry_out(act);
        self.shared.timer.notify_one();
        outcome
    }

    /// Lets something happen and carries out what needs no waiting; answers what has to be stored. The end of a durable
    /// command is unsettled from the moment it is known.
    fn carry_out<T>(&self, act: impl FnOnce(&mut Correlator, Now) -> T) -> (T, Vec<DurableCommand>) {
        let now = self.now();
        let mut correlator = self.correlator();
        let answer = act(&mut correlator, now);
        let effects: Vec<Effect> = std::iter::from_fn(|| correlator.poll_effect()).collect();
        for effect in &effects {
            if let Effect::Store(command) = effect
                && command.receipt.state.is_final()
            {
                self.unsettle(&command.receipt);
            }
        }
        drop(correlator);
        let mut to_store = Vec::new();
        for effect in effects {
            match effect {
                Effect::Send { tenant, device, body } => self.send(&tenant, &device, &body),
                Effect::Changed(receipt) => self.tell(receipt),
                Effect::Store(command) => to_store.push(*command),
            }
        }
        (answer, to_store)
    }

    /// Until its end is durable, a command is told as it was before.
    fn unsettle(&self, receipt: &Receipt) {
        let mut before = receipt.clone();
        before.history.pop();
        before.state = before.history.last().map_or(CommandState::Queued, |(state, _)| *state);
        (before.result, before.error) = (None, None);
        self.unsettled().insert((before.tenant.clone(), before.id.clone()), before);
    }

    fn settled(&self, receipt: Receipt) {
        self.unsettled().remove(&(receipt.tenant.clone(), receipt.id.clone()));
        self.tell(receipt);
    }

    fn send(&self, tenant: &TenantId, device: &DeviceId, body: &CommandBody) {
        let Some(endpoint) = self.shared.registry.get(&SessionId::device(tenant, device)) else { return };
        let Some(link) = endpoint.link() else { return };
        let Some(context) = link.device.as_ref() else { return };
        let now = self.shared.clock.timestamp();
        let message = Message {
            tenant: tenant.clone(),
            topic: topic::of_device(device, "down/command").into(),
            payload: payload::encode(body, context.encoding).into(),
            qos: QoS::AtLeastOnce,
            retain: false,
            properties: None,
            published: now,
            expires: Some(now.plus(Duration::from_millis(body.expires_in_ms))),
            device: Some((device.clone(), context.epoch)),
        };
        let kind = Kind::Command(body.id.clone());
        let outgoing =
            Outgoing { message, qos: QoS::AtLeastOnce, retain: false, identifiers: Identifiers::default(), kind };
        if link.mailbox.post_control(outgoing) != Posted::Taken {
            tracing::debug!(%device, "a command waits for the next connection");
        }
    }

    fn tell(&self, receipt: Receipt) {
        self.shared.live.receipt(&receipt);
        let name = (receipt.tenant.clone(), receipt.id.clone());
        let mut waiting = self.shared.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        let is_final = receipt.state.is_final();
        if is_final {
            metrics::counter!("iot_commands_final_total", "state" => receipt.state.word()).increment(1);
            if let Some(taken) = round_trip(&receipt) {
                metrics::histogram!("iot_command_seconds").record(taken.as_secs_f64());
            }
        }
        if let Some(sender) = waiting.get(&name) {
            sender.send_replace(receipt);
            if is_final || sender.receiver_count() == 0 {
                waiting.remove(&name);
            }
        }
    }

    /// The first record of a durable command; `Ok` also if it was there.
    async fn store_new(&self, command: &DurableCommand) -> Result<(), StoreError> {
        let batch = if command.receipt.state == CommandState::Queued {
            Batch::default().create(command)
        } else {
            Batch { writes: vec![Write::put(command)], ..Batch::default() }
        };
        match self.shared.meta.commit(batch).await? {
            Committed::Done(_) | Committed::Conflict(_) => Ok(()),
        }
    }

    fn is_connected(&self, tenant: &TenantId, device: &DeviceId) -> bool {
        let endpoint = self.shared.registry.get(&SessionId::device(tenant, device));
        endpoint.is_some_and(|endpoint| endpoint.is_connected())
    }
}

fn invalid(request: &CommandRequest) -> Option<&'static str> {
    if request.name.is_empty() || request.name.len() > COMMAND_NAME_BYTES_MAX {
        return Some("name must be 1 to 64 bytes");
    }
    if request.args.to_string().len() > COMMAND_ARGS_BYTES_MAX {
        return Some("args must be at most 16 KiB as JSON");
    }
    if request.timeout.is_zero() || request.timeout > COMMAND_TIMEOUT_MAX {
        return Some("timeout_ms must be 1 to 604800000");
    }
    None
}

/// Of each command the newest; a batch may write a record once only.
fn latest(commands: Vec<DurableCommand>) -> Vec<DurableCommand> {
    let mut by_id: HashMap<(TenantId, CommandId), DurableCommand> = HashMap::new();
    for command in commands {
        by_id.insert((command.receipt.tenant.clone(), command.receipt.id.clone()), command);
    }
    by_id.into_values().collect()
}

/// From its acceptance to the device's answer, for a command that did not wait for its device.
fn round_trip(receipt: &Receipt) -> Option<Duration> {
    let answered = matches!(receipt.state, CommandState::Applied | CommandState::Rejected);
    let waited = receipt.history.iter().any(|(state, _)| *state == CommandState::Queued);
    let (first, last) = (receipt.history.first()?.1, receipt.history.last()?.1);
    (answered && !waited).then(|| last.since(first))
}

fn ended(receipt: &Receipt) -> Timestamp {
    receipt.history.last().map_or(receipt.deadline, |(_, at)| *at)
}
