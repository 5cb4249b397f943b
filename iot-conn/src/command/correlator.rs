use std::{
    collections::{BTreeSet, HashMap, VecDeque},
    time::Duration,
};

use iot_core::{
    command::{CommandRequest, CommandSender, CommandState, DurableCommand, Offline, Receipt},
    id::{CommandId, DeviceId, OwnershipEpoch, TenantId},
    payload::{CommandBody, ReplyBody, ReplyStatus},
    time::{Monotonic, Timestamp},
};

/// How much the correlator holds.
#[derive(Debug, Clone)]
pub struct CommandLimits {
    /// The most commands under way of one device; one more is refused.
    pub per_device_max: usize,
    /// The most commands under way; one more is refused.
    pub open_max: usize,
    /// The most final receipts that are remembered; the oldest is forgotten first.
    pub finals_max: usize,
    /// For how long a final receipt is remembered.
    pub finals_kept: Duration,
}

impl Default for CommandLimits {
    fn default() -> Self {
        Self { per_device_max: 64, open_max: 100_000, finals_max: 10_000, finals_kept: Duration::from_secs(600) }
    }
}

/// Both readings of the clock.
#[derive(Debug, Clone, Copy)]
pub struct Now {
    /// For deadlines.
    pub monotonic: Monotonic,
    /// For receipts.
    pub timestamp: Timestamp,
}

/// What became of a request.
#[must_use]
#[derive(Debug, Clone, PartialEq)]
pub enum Submitted {
    /// It is under way.
    Taken(Receipt),
    /// It was known; this is how far it has come.
    Known(Receipt),
    /// The device is not connected and the sender does not want to wait.
    DeviceOffline,
    /// A bound is reached.
    TooMany,
}

/// What became of a request to cancel.
#[must_use]
#[derive(Debug, Clone, PartialEq)]
pub enum Cancelled {
    /// It will not be sent.
    Done(Receipt),
    /// It was sent, or is final.
    TooLate(Receipt),
    /// There is no such command.
    Unknown,
}

/// What the runtime has to do.
#[derive(Debug, Clone, PartialEq)]
pub enum Effect {
    /// Write the command to the device's connection.
    Send {
        /// Whose device.
        tenant: TenantId,
        /// To which device.
        device: DeviceId,
        /// What.
        body: CommandBody,
    },
    /// A receipt has changed: tell those who wait.
    Changed(Receipt),
    /// A receipt has changed: make it durable, and then tell those who wait.
    Store(Box<DurableCommand>),
}

type Name = (TenantId, CommandId);

#[derive(Debug)]
struct Entry {
    receipt: Receipt,
    args: serde_json::Value,
    epoch: OwnershipEpoch,
    deadline: Monotonic,
    durable: bool,
}

/// Follows commands. Pure: told what happens, it answers with [`Effect`]s; time is passed in.
///
/// A command is sent once for each connection of its device until the device's client has acknowledged it, so it reaches
/// the device at least once; the device recognises a repeat by its id.
#[derive(Debug)]
pub struct Correlator {
    limits: CommandLimits,
    open: HashMap<Name, Entry>,
    // In the order of their requests, so that commands to one device keep it.
    by_device: HashMap<(TenantId, DeviceId), Vec<CommandId>>,
    deadlines: BTreeSet<(Monotonic, TenantId, CommandId)>,
    finals: HashMap<Name, Receipt>,
    forget: VecDeque<(Monotonic, Name)>,
    effects: VecDeque<Effect>,
}

impl Correlator {
    /// An empty one.
    pub fn new(limits: CommandLimits) -> Self {
        Self {
            limits,
            open: HashMap::new(),
            by_device: HashMap::new(),
            deadlines: BTreeSet::new(),
            finals: HashMap::new(),
            forget: VecDeque::new(),
            effects: VecDeque::new(),
        }
    }

    /// Takes a request. `epoch` is the device's present one, `connected` whether it has a connection on this node.
    pub fn submit(&mut self, now: Now, request: CommandRequest, epoch: OwnershipEpoch, connected: bool) -> Submitted {
        let name = (request.tenant.clone(), request.id.clone());
        if let Some(receipt) = self.receipt(&name.0, &name.1) {
            return Submitted::Known(receipt.clone());
        }
        if !connected && request.offline == Offline::Fail {
            return Submitted::DeviceOffline;
        }
        let device = (request.tenant.clone(), request.device.clone());
        if request.supersede {
            self.supersede(now, &device, &request.name);
        }
        let under_way = self.by_device.get(&device).map_or(0, Vec::len);
        if under_way >= self.limits.per_device_max || self.open.len() >= self.limits.open_max {
            return Submitted::TooMany;
        }
        let receipt = Receipt {
            id: request.id,
            tenant: request.tenant,
            device: request.device,
            name: request.name,
            state: CommandState::Accepted,
            history: vec![(CommandState::Accepted, now.timestamp)],
            deadline: now.timestamp.plus(request.timeout),
            result: None,
            error: None,
            by: request.by,
            epoch,
        };
        let entry = Entry {
            receipt,
            args: request.args,
            epoch,
            deadline: now.monotonic.plus(request.timeout),
            durable: !connected,
        };
        self.insert(name.clone(), entry);
        if connected {
            self.send(now, &name);
        } else {
            self.advance(now, &name, CommandState::Queued);
        }
        Submitted::Taken(self.open[&name].receipt.clone())
    }

    /// Takes back a durable command that was stored before a restart. One that is known already stays as it is: what was
    /// stored of it is older, and it may have been cancelled since.
    pub fn restore(&mut self, now: Now, command: DurableCommand) {
        let name = (command.receipt.tenant.clone(), command.receipt.id.clone());
        if self.open.contains_key(&name) || self.finals.contains_key(&name) {
            return;
        }
        let left = command.receipt.deadline.since(now.timestamp);
        let entry = Entry {
            receipt: Receipt { epoch: command.epoch, ..command.receipt },
            args: command.args,
            epoch: command.epoch,
            deadline: now.monotonic.plus(left),
            durable: true,
        };
        self.insert(name, entry);
    }

    /// The device has connected: what it has not acknowledged is sent (again). Commands of an older ownership epoch die.
    pub fn connected(&mut self, now: Now, tenant: &TenantId, device: &DeviceId, epoch: OwnershipEpoch) {
        let ids = self.by_device.get(&(tenant.clone(), device.clone())).cloned().unwrap_or_default();
        for id in ids {
            let name = (tenant.clone(), id);
            let Some(entry) = self.open.get(&name) else { continue };
            if entry.epoch != epoch {
                self.finish(now, &name, CommandState::Expired);
            } else if entry.receipt.state != CommandState::Acknowledged {
                self.send(now, &name);
            }
        }
    }

    /// What waits for a device to connect, with its senders.
    pub fn waiting(&self, tenant: &TenantId, device: &DeviceId) -> Vec<(CommandId, CommandSender)> {
        let ids = self.by_device.get(&(tenant.clone(), device.clone())).into_iter().flatten();
        let entries = ids.filter_map(|id| self.open.get(&(tenant.clone(), id.clone())));
        let unsent = entries.filter(|entry| entry.receipt.state == CommandState::Queued);
        unsent.filter_map(|entry| Some((entry.receipt.id.clone(), entry.receipt.by.clone()?))).collect()
    }

    /// The command was written to the device's connection.
    pub fn sent(&mut self, now: Now, tenant: &TenantId, id: &CommandId) {
        self.advance_from(now, tenant, id, &[CommandState::Accepted, CommandState::Queued], CommandState::Sent);
    }

    /// The device's client has acknowledged it.
    pub fn acknowledged(&mut self, now: Now, tenant: &TenantId, id: &CommandId) {
        let before = [CommandState::Accepted, CommandState::Queued, CommandState::Sent];
        self.advance_from(now, tenant, id, &before, CommandState::Acknowledged);
    }

    /// The device has answered. An answer to a command of another device, or to none, is ignored: `false`.
    pub fn replied(&mut self, now: Now, tenant: &TenantId, device: &DeviceId, reply: ReplyBody) -> bool {
        let name = (tenant.clone(), reply.id);
        let Some(entry) = self.open.get_mut(&name).filter(|entry| entry.receipt.device == *device) else {
            return false;
        };
        entry.receipt.result = reply.result;
        entry.receipt.error = reply.error;
        let state = match reply.status {
            ReplyStatus::Applied => CommandState::Applied,
            ReplyStatus::Rejected => CommandState::Rejected,
        };
        self.finish(now, &name, state);
        true
    }

    /// Whether a command waits for this device to answer it.
    pub fn awaits(&self, tenant: &TenantId, device: &DeviceId, id: &CommandId) -> bool {
        let name = (tenant.clone(), id.clone());
        self.open.get(&name).is_some_and(|entry| entry.receipt.device == *device)
    }

    /// Takes back what has not been sent.
    pub fn cancel(&mut self, now: Now, tenant: &TenantId, id: &CommandId) -> Cancelled {
        let name = (tenant.clone(), id.clone());
        match self.open.get(&name).map(|entry| entry.receipt.state) {
            Some(CommandState::Accepted | CommandState::Queued) => {
                self.finish(now, &name, CommandState::Cancelled);
                Cancelled::Done(self.finals[&name].clone())
            }
            Some(_) => Cancelled::TooLate(self.open[&name].receipt.clone()),
            None => self.finals.get(&name).map_or(Cancelled::Unknown, |receipt| Cancelled::TooLate(receipt.clone())),
        }
    }

    /// How far a command has come; `None` if it is not known (any more).
    pub fn receipt(&self, tenant: &TenantId, id: &CommandId) -> Option<&Receipt> {
        let name = (tenant.clone(), id.clone());
        self.open.get(&name).map(|entry| &entry.receipt).or_else(|| self.finals.get(&name))
    }

    /// The newest commands to a device, the newest first, at most `limit`: those under way, and the final ones that are kept.
    pub fn recent(&self, tenant: &TenantId, device: &DeviceId, limit: usize) -> Vec<&Receipt> {
        let open = self.open.values().map(|entry| &entry.receipt);
        let own = |receipt: &&Receipt| receipt.device == *device && receipt.tenant == *tenant;
        let mut found: Vec<&Receipt> = open.chain(self.finals.values()).filter(own).collect();
        let begun = |receipt: &Receipt| receipt.history.first().map(|(_, at)| *at);
        found.sort_by(|one, other| (begun(other), &other.id).cmp(&(begun(one), &one.id)));
        found.truncate(limit);
        found
    }

    /// How many commands are under way.
    pub fn open_len(&self) -> usize {
        self.open.len()
    }

    /// What to do next; ask until `None` after every other call.
    pub fn poll_effect(&mut self) -> Option<Effect> {
        self.effects.pop_front()
    }

    /// When [`handle_timeout`](Self::handle_timeout) is to be called.
    pub fn poll_timeout(&self) -> Option<Monotonic> {
        let forget = self.forget.front().map(|(at, _)| *at);
        let deadline = self.deadlines.first().map(|(at, ..)| *at);
        [forget, deadline].into_iter().flatten().min()
    }

    /// Expires and forgets what is due.
    pub fn handle_timeout(&mut self, now: Now) {
        while let Some((at, tenant, id)) = self.deadlines.first().cloned() {
            if at > now.monotonic {
                break;
            }
            self.finish(now, &(tenant, id), CommandState::Expired);
        }
        while self.forget.front().is_some_and(|(at, _)| *at <= now.monotonic) {
            self.forget_oldest();
        }
    }
}

impl Correlator {
    fn insert(&mut self, name: Name, entry: Entry) {
        let device = (name.0.clone(), entry.receipt.device.clone());
        self.by_device.entry(device).or_default().push(name.1.clone());
        self.deadlines.insert((entry.deadline, name.0.clone(), name.1.clone()));
        self.open.insert(name, entry);
    }

    fn send(&mut self, now: Now, name: &Name) {
        let entry = &self.open[name];
        let left = entry.deadline.since(now.monotonic);
        self.effects.push_back(Effect::Send {
            tenant: name.0.clone(),
            device: entry.receipt.device.clone(),
            body: CommandBody {
                id: name.1.clone(),
                name: entry.receipt.name.clone(),
                args: entry.args.clone(),
                epoch: entry.epoch.0,
                expires_in_ms: u64::try_from(left.as_millis()).unwrap_or(u64::MAX),
            },
        });
    }

    fn supersede(&mut self, now: Now, device: &(TenantId, DeviceId), command: &str) {
        for id in self.by_device.get(device).cloned().unwrap_or_default() {
            let name = (device.0.clone(), id);
            let waits = self.open.get(&name).is_some_and(|entry| {
                entry.receipt.name == command
                    && matches!(entry.receipt.state, CommandState::Accepted | CommandState::Queued)
            });
            if waits {
                self.finish(now, &name, CommandState::Superseded);
            }
        }
    }

    fn advance_from(
        &mut self,
        now: Now,
        tenant: &TenantId,
        id: &CommandId,
        before: &[CommandState],
        state: CommandState,
    ) {
        let name = (tenant.clone(), id.clone());
        if self.open.get(&name).is_some_and(|entry| before.contains(&entry.receipt.state)) {
            self.advance(now, &name, state);
        }
    }

    fn advance(&mut self, now: Now, name: &Name, state: CommandState) {
        let Some(entry) = self.open.get_mut(name) else { return };
        entry.receipt.state = state;
        entry.receipt.history.push((state, now.timestamp));
        // Sent and acknowledged are not worth a write: after a crash the command is sent again, and the device knows it.
        let is_stored = entry.durable && (state == CommandState::Queued || state.is_final());
        self.effects.push_back(if is_stored {
            Effect::Store(Box::new(DurableCommand {
                epoch: entry.epoch,
                args: entry.args.clone(),
                receipt: entry.receipt.clone(),
            }))
        } else {
            Effect::Changed(entry.receipt.clone())
        });
    }

    fn finish(&mut self, now: Now, name: &Name, state: CommandState) {
        debug_assert!(state.is_final());
        self.advance(now, name, state);
        let Some(entry) = self.open.remove(name) else { return };
        self.deadlines.remove(&(entry.deadline, name.0.clone(), name.1.clone()));
        let device = (name.0.clone(), entry.receipt.device.clone());
        if let Some(ids) = self.by_device.get_mut(&device) {
            ids.retain(|id| *id != name.1);
            if ids.is_empty() {
                self.by_device.remove(&device);
            }
        }
        self.finals.insert(name.clone(), entry.receipt);
        self.forget.push_back((now.monotonic.plus(self.limits.finals_kept), name.clone()));
        while self.forget.len() > self.limits.finals_max {
            self.forget_oldest();
        }
    }

    fn forget_oldest(&mut self) {
        if let Some((_, name)) = self.forget.pop_front() {
            self.finals.remove(&name);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn now(ms: u64) -> Now {
        Now {
            monotonic: Monotonic::from_duration(Duration::from_millis(ms)),
            timestamp: Timestamp::from_millis(i64::try_from(ms).unwrap()),
        }
    }

    fn tenant() -> TenantId {
        TenantId::parse("t").unwrap()
    }

    fn lamp() -> DeviceId {
        DeviceId::parse("lamp").unwrap()
    }

    fn id(text: &str) -> CommandId {
        CommandId::parse(text).unwrap()
    }

    fn request(text: &str, offline: Offline) -> CommandRequest {
        CommandRequest {
            by: None,
            id: id(text),
            tenant: tenant(),
            device: lamp(),
            name: "set".to_owned(),
            args: serde_json::json!({"on": true}),
            timeout: Duration::from_secs(1),
            offline,
            supersede: false,
        }
    }

    fn effects(correlator: &mut Correlator) -> Vec<Effect> {
        std::iter::from_fn(|| correlator.poll_effect()).collect()
    }

    fn sends(correlator: &mut Correlator) -> Vec<CommandId> {
        let sent = |effect| if let Effect::Send { body, .. } = effect { Some(body.id) } else { None };
        effects(correlator).into_iter().filter_map(sent).collect()
    }

    fn state(correlator: &Correlator, text: &str) -> CommandState {
        correlator.receipt(&tenant(), &id(text)).unwrap().state
    }

    fn reply(text: &str, status: ReplyStatus) -> ReplyBody {
        ReplyBody { id: id(text), status, result: Some(serde_json::json!(1)), error: None }
    }

    const E0: OwnershipEpoch = OwnershipEpoch(0);

    #[test]
    fn the_way_of_a_command_to_a_connected_device() {
        let mut correlator = Correlator::new(CommandLimits::default());
        assert!(matches!(correlator.submit(now(0), request("a", Offline::Fail), E0, true), Submitted::Taken(_)));
        let out = effects(&mut correlator);
        assert!(matches!(&out[..], [Effect::Send { body, .. }] if body.expires_in_ms == 1000));
        correlator.sent(now(1), &tenant(), &id("a"));
        correlator.acknowledged(now(2), &tenant(), &id("a"));
        assert!(correlator.replied(now(3), &tenant(), &lamp(), reply("a", ReplyStatus::Applied)));
        let receipt = correlator.receipt(&tenant(), &id("a")).unwrap();
        let states: Vec<_> = receipt.history.iter().map(|(state, _)| *state).collect();
        use CommandState::*;
        assert_eq!(states, [Accepted, Sent, Acknowledged, Applied]);
        assert_eq!(receipt.result, Some(serde_json::json!(1)));
        assert!(!effects(&mut correlator).iter().any(|e| matches!(e, Effect::Store(_))), "no disk write");
        assert!(!correlator.replied(now(4), &tenant(), &lamp(), reply("a", ReplyStatus::Rejected)));
    }

    #[test]
    fn offline_fails_or_waits_durably() {
        let mut correlator = Correlator::new(CommandLimits::default());
        assert_eq!(correlator.submit(now(0), request("a", Offline::Fail), E0, false), Submitted::DeviceOffline);
        assert!(matches!(correlator.submit(now(0), request("b", Offline::Wait), E0, false), Submitted::Taken(_)));
        assert_eq!(state(&correlator, "b"), CommandState::Queued);
        let out = effects(&mut correlator);
        let Some(Effect::Store(stored)) = out.iter().find(|e| matches!(e, Effect::Store(_))) else {
            panic!("not stored")
        };

        let mut restarted = Correlator::new(CommandLimits::default());
        restarted.restore(now(400), *stored.clone());
        restarted.connected(now(500), &tenant(), &lamp(), E0);
        let out = effects(&mut restarted);
        assert!(matches!(&out[..], [Effect::Send { body, .. }] if body.expires_in_ms == 500), "{out:?}");
    }

    #[test]
    fn a_repeat_is_the_same_command() {
        let mut correlator = Correlator::new(CommandLimits::default());
        let _ = correlator.submit(now(0), request("a", Offline::Fail), E0, true);
        assert!(matches!(correlator.submit(now(1), request("a", Offline::Fail), E0, true), Submitted::Known(_)));
        assert_eq!(sends(&mut correlator).len(), 1);
    }

    #[test]
    fn a_reconnect_sends_again_what_was_not_acknowledged() {
        let mut correlator = Correlator::new(CommandLimits::default());
        let _ = correlator.submit(now(0), request("a", Offline::Fail), E0, true);
        let _ = correlator.submit(now(0), request("b", Offline::Fail), E0, true);
        correlator.sent(now(1), &tenant(), &id("a"));
        correlator.acknowledged(now(1), &tenant(), &id("a"));
        correlator.sent(now(1), &tenant(), &id("b"));
        let _ = effects(&mut correlator);
        correlator.connected(now(2), &tenant(), &lamp(), E0);
        assert_eq!(sends(&mut correlator), [id("b")]);
    }

    #[test]
    fn the_deadline_expires_exactly_then_and_a_late_reply_is_ignored() {
        let mut correlator = Correlator::new(CommandLimits::default());
        let _ = correlator.submit(now(0), request("a", Offline::Fail), E0, true);
        assert_eq!(correlator.poll_timeout(), Some(now(1000).monotonic));
        correlator.handle_timeout(now(999));
        assert_eq!(state(&correlator, "a"), CommandState::Accepted);
        correlator.handle_timeout(now(1000));
        assert_eq!(state(&correlator, "a"), CommandState::Expired);
        assert!(!correlator.replied(now(1001), &tenant(), &lamp(), reply("a", ReplyStatus::Applied)));
        correlator.handle_timeout(now(1000 + 600_000));
        assert_eq!(correlator.receipt(&tenant(), &id("a")), None);
        assert_eq!(correlator.poll_timeout(), None);
    }

    #[test]
    fn supersede_and_cancel_take_only_what_was_not_sent() {
        let mut correlator = Correlator::new(CommandLimits::default());
        let _ = correlator.submit(now(0), request("a", Offline::Wait), E0, false);
        let newer = CommandRequest { supersede: true, ..request("b", Offline::Wait) };
        let _ = correlator.submit(now(1), newer, E0, false);
        assert_eq!(state(&correlator, "a"), CommandState::Superseded);
        assert!(matches!(correlator.cancel(now(2), &tenant(), &id("b")), Cancelled::Done(_)));
        let _ = correlator.submit(now(3), request("c", Offline::Fail), E0, true);
        correlator.sent(now(3), &tenant(), &id("c"));
        assert!(matches!(correlator.cancel(now(4), &tenant(), &id("c")), Cancelled::TooLate(_)));
        assert_eq!(correlator.cancel(now(4), &tenant(), &id("x")), Cancelled::Unknown);
    }

    #[test]
    fn another_device_cannot_answer_and_another_owner_is_not_served() {
        let mut correlator = Correlator::new(CommandLimits::default());
        let _ = correlator.submit(now(0), request("a", Offline::Wait), E0, false);
        let other = DeviceId::parse("other").unwrap();
        assert!(!correlator.replied(now(1), &tenant(), &other, reply("a", ReplyStatus::Applied)));
        correlator.connected(now(2), &tenant(), &lamp(), OwnershipEpoch(1));
        assert_eq!(state(&correlator, "a"), CommandState::Expired);
        assert_eq!(sends(&mut correlator), []);
    }

    #[test]
    fn the_newest_commands_of_a_device_are_found() {
        let mut correlator = Correlator::new(CommandLimits::default());
        for (at, name) in [(0, "c1"), (1, "c2"), (2, "c3")] {
            let _taken = correlator.submit(now(at), request(name, Offline::Fail), OwnershipEpoch(0), true);
        }
        let other = CommandRequest { device: DeviceId::parse("fan").unwrap(), ..request("c4", Offline::Fail) };
        let _taken = correlator.submit(now(3), other, OwnershipEpoch(0), true);
        let reply = ReplyBody { id: id("c2"), status: ReplyStatus::Applied, result: None, error: None };
        assert!(correlator.replied(now(4), &tenant(), &lamp(), reply));
        let recent = |limit| -> Vec<_> {
            let found = correlator.recent(&tenant(), &lamp(), limit);
            found.into_iter().map(|receipt| (receipt.id.to_string(), receipt.state)).collect()
        };
        let all = [("c3", CommandState::Accepted), ("c2", CommandState::Applied), ("c1", CommandState::Accepted)];
        assert_eq!(recent(9), all.map(|(id, state)| (id.to_owned(), state)));
        assert_eq!(recent(2).len(), 2);
    }

    #[test]
    fn bounds_hold() {
        let limits = CommandLimits { per_device_max: 2, finals_max: 1, ..CommandLimits::default() };
        let mut correlator = Correlator::new(limits);
        let _ = correlator.submit(now(0), request("a", Offline::Fail), E0, true);
        let _ = correlator.submit(now(0), request("b", Offline::Fail), E0, true);
        assert_eq!(correlator.submit(now(0), request("c", Offline::Fail), E0, true), Submitted::TooMany);
        for text in ["a", "b"] {
            assert!(correlator.replied(now(1), &tenant(), &lamp(), reply(text, ReplyStatus::Applied)));
        }
        assert!(correlator.receipt(&tenant(), &id("a")).is_none());
        assert!(correlator.receipt(&tenant(), &id("b")).is_some());
        assert_eq!(correlator.open_len(), 0);
    }
}
