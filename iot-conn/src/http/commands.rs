use std::time::Duration;

use axum::{
    Json,
    extract::State,
    http::StatusCode,
    response::{IntoResponse, Response},
};
use iot_core::{
    command::{COMMAND_TIMEOUT_DEFAULT, CommandRequest, CommandSender, CommandState, Offline, Receipt},
    device::Device,
    id::CommandId,
    problem::Problem,
    time::Timestamp,
};
use iot_http::{Body, Identity, Path, ProblemResponse, Query, Target};
use serde::{Deserialize, Serialize};
use tower::{Service, ServiceExt};

use crate::{
    command::Cancelled,
    node::{Commanded, Node},
};

/// The longest that a request waits for a final state.
const WAIT_MAX: Duration = Duration::from_secs(30);

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct CommandBody {
    name: String,
    #[serde(default)]
    args: serde_json::Value,
    timeout_ms: Option<u64>,
    #[serde(default)]
    offline: Offline,
    #[serde(default)]
    supersede: bool,
}

#[derive(Deserialize)]
pub(super) struct Wait {
    #[serde(default)]
    wait_ms: u64,
}

impl Wait {
    fn duration(&self) -> Result<Duration, Problem> {
        let wait = Duration::from_millis(self.wait_ms);
        if wait > WAIT_MAX { Err(super::query_invalid("wait_ms: at most 30000")) } else { Ok(wait) }
    }
}

#[derive(Serialize)]
struct ReceiptView {
    id: String,
    device: String,
    name: String,
    state: CommandState,
    history: Vec<StepView>,
    deadline: Timestamp,
    result: Option<serde_json::Value>,
    error: Option<String>,
}

#[derive(Serialize)]
struct StepView {
    state: CommandState,
    at: Timestamp,
}

fn view(receipt: Receipt) -> Response {
    let status = if receipt.state.is_final() { StatusCode::OK } else { StatusCode::ACCEPTED };
    let step = |(state, at)| StepView { state, at };
    let view = ReceiptView {
        id: receipt.id.to_string(),
        device: receipt.device.to_string(),
        name: receipt.name,
        state: receipt.state,
        history: receipt.history.into_iter().map(step).collect(),
        deadline: receipt.deadline,
        result: receipt.result,
        error: receipt.error,
    };
    (status, Json(view)).into_response()
}

pub(super) async fn send(
    State(node): State<Node>,
    Target(device): Target<Device>,
    identity: Identity,
    Query(wait): Query<Wait>,
    Body(body): Body<CommandBody>,
) -> Result<Response, ProblemResponse> {
    let wait = wait.duration()?;
    if !node.sees_changes() {
        return Err(Problem::unavailable().into());
    }
    let id: CommandId = uuid::Uuid::now_v7().to_string().parse()?;
    let request = CommandRequest {
        by: CommandSender::of(&identity.principal),
        id: id.clone(),
        tenant: device.document.tenant.clone(),
        device: device.document.id,
        name: body.name,
        args: body.args,
        timeout: body.timeout_ms.map_or(COMMAND_TIMEOUT_DEFAULT, Duration::from_millis),
        offline: body.offline,
        supersede: body.supersede,
    };
    let mut commander = node.commander();
    let commanded = async { commander.ready().await?.call(request).await }.await;
    let receipt = match commanded.map_err(|error| iot_http::problem::unavailable(&*error))? {
        Commanded::Receipt(receipt) => receipt,
        Commanded::DeviceOffline => {
            let detail = "the device is not connected; send offline: \"wait\" to keep the command for it";
            return Err(Problem::conflict("device_offline", detail).into());
        }
        Commanded::TooMany => {
            let detail = "too many commands are under way for this device; wait for some to end";
            return Err(Problem::new(429, "too_many_commands", detail).into());
        }
        Commanded::NoSuchDevice => return Err(Problem::not_found("device").into()),
        Commanded::Invalid(detail) => return Err(Problem::invalid("command_invalid", detail).into()),
    };
    let waited = node.commander().wait(&device.document.tenant, &id, wait).await?;
    Ok(view(waited.unwrap_or(receipt)))
}

#[derive(Deserialize)]
pub(super) struct Name {
    command: CommandId,
}

pub(super) async fn show(
    State(node): State<Node>,
    Target(device): Target<Device>,
    Path(Name { command }): Path<Name>,
    Query(wait): Query<Wait>,
) -> Result<Response, ProblemResponse> {
    let wait = wait.duration()?;
    let known = node.commander().receipt(&device.document.tenant, &command).await?;
    if known.is_none_or(|receipt| !is_of(&receipt, &device.document)) {
        return Err(Problem::not_found("command").into());
    }
    let receipt = node.commander().wait(&device.document.tenant, &command, wait).await?;
    Ok(receipt.map_or_else(|| ProblemResponse(Problem::not_found("command")).into_response(), view))
}

/// A command of a former owner is one that does not exist.
fn is_of(receipt: &Receipt, device: &Device) -> bool {
    receipt.device == device.id && receipt.epoch == device.epoch
}

pub(super) async fn cancel(
    State(node): State<Node>,
    Target(device): Target<Device>,
    Path(Name { command }): Path<Name>,
) -> Result<Response, ProblemResponse> {
    let tenant = &device.document.tenant;
    let known = node.commander().receipt(tenant, &command).await?;
    if known.is_none_or(|receipt| !is_of(&receipt, &device.document)) {
        return Err(Problem::not_found("command").into());
    }
    match node.commander().cancel(tenant, &command).await? {
        Cancelled::Done(receipt) => Ok(view(receipt)),
        Cancelled::TooLate(receipt) => {
            let detail = format!("the command is {} already", receipt.state);
            Err(Problem::conflict("already_sent", detail).into())
        }
        Cancelled::Unknown => Err(Problem::not_found("command").into()),
    }
}
