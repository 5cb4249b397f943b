//! Routes for applications: devices and their connections, commands, telemetry, alarms, twins, quotas.

mod commands;
mod data;
mod devices;
mod live;
mod quotas;
mod telemetry;
mod twin;
#[cfg(feature = "webhooks")]
mod webhooks;

#[cfg(feature = "webhooks")]
pub use webhooks::webhook_routes;

use iot_core::{access::Permission, problem::Problem};
use iot_http::{Doc, Guard, GuardContext, Idempotency, Routes};
use serde_json::json;

use crate::node::Node;

pub use self::twin::{EXPIRES_S_MAX, twin_routes};

/// The routes of a node. Every one demands a principal in the request's extensions and refuses without one.
pub fn routes(node: &Node, context: GuardContext) -> Routes<Node> {
    let routes = Routes::with_state(context, node.clone());
    quotas::register(live_routes(data_routes(telemetry_routes(command_routes(device_routes(routes))))))
}

fn device_routes(routes: Routes<Node>) -> Routes<Node> {
    let read = Guard::Tenant(Permission::ReadDevice);
    let one = json!({
        "id": "demo-1", "product": "demo", "p_code": "DEMO-1", "stage": "activated", "epoch": 0, "home": "demo-home",
        "keys": [{"fingerprint": "9f…", "state": "active", "not_after": "2027-11-23T00:00:00Z"}],
        "connection": {"online": true, "state": "online", "since": "2026-11-23T00:00:00Z", "epoch": 1795478400000000_u64},
        "created": "2026-11-23T00:00:00Z"
    });
    let gone = json!({
        "online": false, "state": "offline", "since": "2026-11-23T00:00:00Z", "cause": "keep_alive_timeout",
        "epoch": 1795478400000000_u64
    });
    let list = Doc::new(
        "Devices, filtered by product or home; a person sees those of their homes, as much as is theirs to see",
    )
    .paged()
    .query("product", "only of this product")
    .query("home", "only in this home")
    .response(200, json!({"items": [&one], "next": null}));
    let alarm = json!({"device": "demo-1", "epoch": 0, "name": "temperature", "active": true, "since": "2026-11-23T00:00:00Z", "text": "31.5 is above 30", "cause": "n1-42"});
    routes
        .get("/v1/devices", Guard::TenantOrAccount(Permission::ReadDevice), list, devices::list)
        .get(
            "/v1/devices/{device}",
            Guard::Device(Permission::ReadDevice),
            Doc::new("One device").response(200, one),
            devices::show,
        )
        .get(
            "/v1/devices/{device}/connections",
            Guard::Device(Permission::ReadDevice),
            Doc::new("When the device came and went within 30 days, since it is its owner's; the newest first")
                .query("limit", "1 to 1000, default 100")
                .response(200, json!({"items": [gone]})),
            devices::connections,
        )
        .get(
            "/v1/alarms",
            Guard::Tenant(Permission::ReadTelemetry),
            Doc::new("Alarms")
                .paged()
                .query("active", "`true`: only those that are raised")
                .response(200, json!({"items": [alarm], "next": null})),
            devices::alarms,
        )
        .get(
            "/v1/status",
            read,
            Doc::new("The node at a glance")
                .response(200, json!({"devices": 5, "online": 5, "sessions": 6, "commands_open": 0})),
            devices::status,
        )
}

fn command_routes(routes: Routes<Node>) -> Routes<Node> {
    let control = Guard::Device(Permission::Control);
    let receipt = json!({
        "id": "0197…", "device": "demo-1", "name": "set", "state": "applied",
        "history": [{"state": "accepted", "at": "2026-11-23T00:00:00Z"}, {"state": "applied", "at": "2026-11-23T00:00:00.01Z"}],
        "deadline": "2026-11-23T00:00:10Z", "result": {"on": true}, "error": null
    });
    let wait = "wait for a final state, in milliseconds, at most 30000";
    let send = Doc::new("Send a command")
        .request(
            json!({"name": "set", "args": {"on": true}, "timeout_ms": 10000, "offline": "fail", "supersede": false}),
        )
        .query("wait_ms", wait)
        .response(200, receipt.clone())
        .response(202, receipt.clone())
        .idempotency(Idempotency::Memory);
    let show = Doc::new("How far a command has come").query("wait_ms", wait).response(200, receipt.clone());
    let cancel = Doc::new("Take back a command that has not been sent").response(200, receipt);
    routes
        .post("/v1/devices/{device}/commands", control, send, commands::send)
        .get("/v1/devices/{device}/commands/{command}", control, show, commands::show)
        .delete("/v1/devices/{device}/commands/{command}", control, cancel, commands::cancel)
}

fn telemetry_routes(routes: Routes<Node>) -> Routes<Node> {
    let read = Guard::Device(Permission::ReadTelemetry);
    let sample =
        json!({"at": "2026-11-23T00:00:00Z", "received": "2026-11-23T00:00:00.1Z", "values": {"temperature": 21.5}});
    let value = json!({"metric": "temperature", "at": "2026-11-23T00:00:00Z", "value": 21.5});
    let bucket = json!({"start": "2026-11-23T00:00:00Z", "count": 12, "min": 20.5, "max": 22.0, "sum": 255.0, "mean": 21.25, "first": 20.5, "last": 21.5});
    let range = Doc::new("Samples and events in a span of time")
        .paged()
        .query("metric", "only this metric")
        .query("from", "included, RFC 3339; default an hour ago")
        .query("until", "excluded, RFC 3339; default now")
        .query("order", "`asc` (default) or `desc`")
        .response(200, json!({"items": [sample], "next": null}));
    let aggregate = Doc::new("Statistics over equal buckets")
        .query("metric", "required")
        .query("from", "included, RFC 3339; default an hour ago")
        .query("until", "excluded, RFC 3339; default now")
        .query("bucket_s", "width of a bucket in seconds, default 60")
        .query("limit", "1 to 1000, default 100")
        .response(200, json!({"items": [bucket]}));
    routes
        .get("/v1/devices/{device}/telemetry", read, range, telemetry::range)
        .get(
            "/v1/devices/{device}/telemetry/latest",
            Guard::Device(Permission::ReadState),
            Doc::new("The newest value of each metric").response(200, json!({"items": [value]})),
            telemetry::latest,
        )
        .get("/v1/devices/{device}/telemetry/aggregate", read, aggregate, telemetry::aggregate)
}

fn data_routes(routes: Routes<Node>) -> Routes<Node> {
    let lines = concat!(
        r#"{"device":{"created":"2026-11-23T00:00:00Z","epoch":0,"exported":"2026-11-24T00:00:00Z","format":1,"home":"hill","id":"demo-1","p_code":"DEMO-1","product":"demo","stage":"activated"}}"#,
        "\n",
        r#"{"report":{"at":"2026-11-23T00:00:00Z","received":"2026-11-23T00:00:00.1Z","values":{"temperature":21.5}}}"#,
        "\n",
        r#"{"end":{"reports":1}}"#,
        "\n"
    );
    let export = Doc::new(
        "All that is kept of the device for its present owner, one JSON text per line; whole if the last one is `end`",
    )
    .response_of(200, "application/x-ndjson", lines.to_owned());
    let erased = json!({"events": 1200, "records": 2, "retained": 0});
    let erase =
        Doc::new("Erase what the device reported and was told since it is the owner's").response(200, erased.clone());
    let all = Doc::new("Erase what the device ever reported and was told, of all its owners").response(200, erased);
    routes
        .get("/v1/devices/{device}/export", Guard::Device(Permission::ReadTelemetry), export, data::export)
        .delete("/v1/devices/{device}/data", Guard::Device(Permission::OwnHome), erase, data::erase)
        .delete("/v1/devices/{device}/history", Guard::Device(Permission::ManageDevices), all, data::erase_history)
}

fn live_routes(routes: Routes<Node>) -> Routes<Node> {
    let describe = |summary| {
        Doc::new(summary)
            .query("device", "only these devices: ids with commas between them, at most 100")
            .query("home", "only what stands in this home")
            .query("types", "only these: telemetry, event, presence, alarm, command, twin")
            .query("after", "go on after the event with this id; `Last-Event-ID` says the same")
    };
    let telemetry = r#"{"device":"demo-1","at":"2026-11-23T00:00:00Z","received":"2026-11-23T00:00:00.1Z","values":{"temperature":21.5}}"#;
    let events = describe("What happens, as server-sent events").response_of(
        200,
        "text/event-stream",
        format!("event: telemetry\nid: n1-42\ndata: {telemetry}\n\n"),
    );
    let message = json!({"type": "presence", "id": null, "data": {"device": "demo-1", "online": true, "since": "2026-11-23T00:00:00Z", "cause": null}});
    let socket = describe("What happens, as a WebSocket of JSON texts").response(101, message);
    routes.get("/v1/live", Guard::SignedIn, events, live::events).get(
        "/v1/live/socket",
        Guard::SignedIn,
        socket,
        live::socket,
    )
}

fn query_invalid(detail: &'static str) -> Problem {
    Problem::invalid("query_invalid", detail)
}
