//! Sending a command, and what became of it.

use std::time::Duration;

use axum::extract::State;
use iot_conn::node::Commanded;
use iot_core::{
    command::{COMMAND_TIMEOUT_DEFAULT, CommandRequest, CommandSender, CommandState, Offline, Receipt},
    device::Device,
    id::CommandId,
    problem::Problem,
    store::StoreError,
    time::Timestamp,
};
use iot_http::{Form, Identity, Target};
use serde::Deserialize;

use super::{
    Console,
    device::{self, Refused},
    page::{Answer, Wrong, see},
    show::{self, Moment},
};

/// How long the form waits for an end before it shows how far the command has come.
const WAIT: Duration = Duration::from_secs(3);
/// How long a command waits for a device that is not connected.
const KEPT_FOR_DEVICE: Duration = Duration::from_secs(24 * 3_600);

/// The form, as it was sent.
#[derive(Debug, Clone, Deserialize)]
pub(super) struct Asked {
    #[serde(default)]
    pub(super) name: String,
    #[serde(default)]
    pub(super) args: String,
    /// Not empty: keep the command until the device connects.
    #[serde(default)]
    pub(super) wait: String,
}

impl Default for Asked {
    fn default() -> Self {
        Self { name: "set".to_owned(), args: "{\"on\": true}".to_owned(), wait: String::new() }
    }
}

impl Asked {
    fn args(&self) -> Result<serde_json::Value, String> {
        match self.args.trim() {
            "" => Ok(serde_json::Value::Null),
            text => serde_json::from_str(text).map_err(|error| format!("This is not JSON: {error}.")),
        }
    }
}

/// A receipt as it is shown.
pub(super) struct ReceiptShown {
    pub(super) id: String,
    pub(super) name: String,
    pub(super) state: &'static str,
    /// `good`, `bad` or `open`.
    pub(super) kind: &'static str,
    pub(super) steps: Vec<StepShown>,
    pub(super) deadline: Moment,
    pub(super) result: String,
    pub(super) error: String,
}

pub(super) struct StepShown {
    pub(super) state: &'static str,
    pub(super) clock: String,
    /// Since the first step; empty for the first.
    pub(super) after: String,
}

impl ReceiptShown {
    pub(super) async fn find(console: &Console, device: &Device, id: &CommandId) -> Result<Option<Self>, StoreError> {
        let known = console.node.commander().receipt(&device.tenant, id).await?;
        let own = known.filter(|receipt| receipt.device == device.id && receipt.epoch == device.epoch);
        Ok(own.map(|receipt| Self::of(receipt, console)))
    }

    fn of(receipt: Receipt, console: &Console) -> Self {
        let first = receipt.history.first().map(|(_, at)| *at).unwrap_or_default();
        let step = |(place, (state, at)): (usize, &(CommandState, Timestamp))| {
            let after = if place == 0 { String::new() } else { show::seconds(at.since(first).as_secs_f64()) };
            StepShown { state: state.word(), clock: Moment::clock(*at), after }
        };
        Self {
            id: receipt.id.to_string(),
            state: receipt.state.word(),
            kind: match receipt.state {
                CommandState::Applied => "good",
                state if state.is_final() => "bad",
                _ => "open",
            },
            steps: receipt.history.iter().enumerate().map(step).collect(),
            deadline: Moment::of(receipt.deadline, console.now()),
            result: receipt.result.map(|result| result.to_string()).unwrap_or_default(),
            error: receipt.error.unwrap_or_default(),
            name: receipt.name,
        }
    }
}

pub(super) async fn send(
    State(console): State<Console>,
    who: Identity,
    Target(device): Target<Device>,
    Form(asked): Form<Asked>,
) -> Answer {
    let device = device.document;
    if !console.node.sees_changes() {
        return Err(Problem::unavailable().into());
    }
    let args = match args_of(&asked) {
        Ok(args) => args,
        Err(wrong) => {
            let refused = Refused { asked, wrong, status: 422, ..Refused::default() };
            return device::refused(&console, &who, device, refused).await;
        }
    };
    let id: CommandId = uuid::Uuid::now_v7().to_string().parse()?;
    let waits = !asked.wait.is_empty();
    let request = CommandRequest {
        by: CommandSender::of(&who.principal),
        id: id.clone(),
        tenant: device.tenant.clone(),
        device: device.id.clone(),
        name: asked.name.trim().to_owned(),
        args,
        timeout: if waits { KEPT_FOR_DEVICE } else { COMMAND_TIMEOUT_DEFAULT },
        offline: if waits { Offline::Wait } else { Offline::Fail },
        supersede: false,
    };
    let commander = console.node.commander();
    let refusal = match commander.submit(request).await? {
        Commanded::Receipt(_) => None,
        Commanded::DeviceOffline => Some((
            409,
            "name",
            "The device is not connected. Tick the box below to keep the command for it.".to_owned(),
        )),
        Commanded::TooMany => Some((429, "name", "Too many commands are under way; wait for some to end.".to_owned())),
        Commanded::NoSuchDevice => return Err(Problem::not_found("device").into()),
        Commanded::Invalid(detail) => Some((422, "name", format!("{detail}."))),
        _ => return Err(Problem::unavailable().into()),
    };
    if let Some((status, field, what)) = refusal {
        let wrong = Wrong::default().with(field, what);
        let refused = Refused { asked, wrong, status, ..Refused::default() };
        return device::refused(&console, &who, device, refused).await;
    }
    commander.wait(&device.tenant, &id, WAIT).await?;
    Ok(see(&format!("/devices/{}?command={id}#command", device.id)))
}

fn args_of(asked: &Asked) -> Result<serde_json::Value, Wrong> {
    let mut wrong = Wrong::default();
    if asked.name.trim().is_empty() {
        wrong.add("name", "Say what the device should do, for example set.");
    }
    let args = asked.args().unwrap_or_else(|what| {
        wrong.add("args", what);
        serde_json::Value::Null
    });
    if wrong.is_empty() { Ok(args) } else { Err(wrong) }
}
