//! What only the owner of a device does: move it to another of their homes, release it.

use axum::extract::State;
use iot_core::{
    access::{Permission, Resource, check},
    binding::Owned,
    device::Device,
    home::{HOMES_PER_ACCOUNT_MAX, Home, Role, member_index},
    id::HomeId,
    problem::Problem,
    store::{MetaStoreExt, StoreError},
};
use iot_http::{Doc, Form, Guard, Identity, ProblemResponse, Routes, Target};
use serde::Deserialize;

use super::{
    Console,
    confirm::{self, Confirmed, Question},
    device::{self, Refused},
    devices::Choice,
    form,
    home::reader_of,
    page::{Answer, Wrong, see},
};

pub(super) fn routes(routes: Routes<Console>) -> Routes<Console> {
    let own = Guard::Device(Permission::OwnHome);
    routes
        .post("/devices/{device}/home", own, form("Move a device to another home"), move_home)
        .get("/devices/{device}/release", own, Doc::new("Release a device?"), ask_release)
        .post("/devices/{device}/release", own, form("Release a device"), release)
}

/// Where the reader may move a device; `None` if it is not theirs.
pub(super) async fn targets(
    console: &Console,
    who: &Identity,
    device: &Device,
) -> Result<Option<Vec<Choice>>, StoreError> {
    let now = console.now();
    let owns = check(&who.grants, Permission::OwnHome, &Resource::device(device), now).allow;
    let Some(reader) = reader_of(who).filter(|_| owns) else { return Ok(None) };
    let index = member_index(&device.tenant, reader);
    let homes = console.meta().page::<Home>("member", &index, None, HOMES_PER_ACCOUNT_MAX).await?;
    let homes = homes.items.into_iter().map(|stored| stored.document);
    let others =
        homes.filter(|home| home.role_of(reader, now) == Some(Role::Owner) && device.home.as_ref() != Some(&home.id));
    Ok(Some(others.map(|home| Choice { id: home.id.to_string(), name: home.name }).collect()))
}

#[derive(Deserialize)]
pub(super) struct NewPlace {
    #[serde(default)]
    home: String,
}

pub(super) async fn move_home(
    State(console): State<Console>,
    who: Identity,
    Target(device): Target<Device>,
    Form(asked): Form<NewPlace>,
) -> Answer {
    let device = device.document;
    let what = match HomeId::parse(&asked.home) {
        Err(_) => "Choose one of your homes.",
        Ok(home) => match console.auth.move_bound(&who.principal, &device.id, &home).await? {
            Owned::Changed(device) => return Ok(see(&format!("/devices/{}?done=placed", device.id))),
            Owned::NotBound => return Err(not_bound()),
            Owned::DevicesFull => "That home has as many devices as it can have; choose another.",
            Owned::Forbidden => "You own this home no more; choose another.",
        },
    };
    let refused = Refused { wrong: Wrong::default().with("home", what), status: 422, ..Refused::default() };
    device::refused(&console, &who, device, refused).await
}

fn not_bound() -> ProblemResponse {
    Problem::conflict("not_bound", "the device has no owner any more").into()
}

fn question(device: &Device) -> Question {
    Question {
        section: "devices",
        asks: format!("Release {}?", device.id),
        from: (format!("/devices/{}", device.id), device.id.to_string()),
        ends: vec![
            "It belongs to nobody, and leaves its home. Members and guests of the home lose it at once.".to_owned(),
            "Its history and last values, what was desired of it, and commands that wait: nobody can read them again.".to_owned(),
            "Webhooks that are about this device alone.".to_owned(),
        ],
        stays: vec![
            "Its firmware and its place in the cloud: whoever is beside it can bind it anew with the code that it shows."
                .to_owned(),
        ],
        action: format!("/devices/{}/release", device.id),
        seen: device.epoch.0.to_string(),
        button: "Release the device",
    }
}

pub(super) async fn ask_release(
    State(console): State<Console>,
    who: Identity,
    Target(device): Target<Device>,
) -> Answer {
    confirm::ask(&console, &who, question(&device.document)).await
}

pub(super) async fn release(
    State(console): State<Console>,
    who: Identity,
    Target(device): Target<Device>,
    Form(confirmed): Form<Confirmed>,
) -> Answer {
    let device = device.document;
    if !confirmed.is_of(device.epoch.0) {
        return confirm::stale(&console, &who, question(&device)).await;
    }
    match console.auth.unbind(&who.principal, &device.id).await? {
        Owned::Changed(_) => Ok(see("/homes?done=released")),
        Owned::NotBound => Err(not_bound()),
        Owned::DevicesFull | Owned::Forbidden => Err(Problem::forbidden().into()),
    }
}
