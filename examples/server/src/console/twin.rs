//! A device's twin: what it should be, what it says it is, and where the two differ.

use std::{collections::BTreeSet, time::Duration};

use axum::extract::State;
use iot_conn::twin::{Desire, TwinError, TwinWritten};
use iot_core::{
    device::Device,
    problem::Problem,
    time::Timestamp,
    twin::{Object, Twin, Written, same},
};
use iot_http::{Form, Identity, ProblemResponse, Target, problem::unavailable};
use serde::Deserialize;
use serde_json::Value;

use super::{
    Console,
    device::{self, Refused},
    page::{Answer, Wrong, see},
    show::Moment,
};

/// The twin as it is shown.
pub(super) struct TwinShown {
    pub(super) version: u64,
    pub(super) leaves: Vec<Leaf>,
    /// How many desired values the device does not report yet.
    pub(super) open: usize,
}

/// One value, desired or reported or both.
pub(super) struct Leaf {
    /// Its names with dots.
    pub(super) name: String,
    /// Empty if nothing is desired.
    pub(super) desired: String,
    /// Empty if nothing is reported.
    pub(super) reported: String,
    pub(super) is_desired: bool,
    pub(super) differs: bool,
    pub(super) at: Option<Moment>,
    pub(super) expires: Option<Moment>,
}

impl TwinShown {
    pub(super) async fn read(console: &Console, device: &Device) -> Result<Self, ProblemResponse> {
        let twin = console.twins.read(device).await.map_err(failed)?;
        Ok(Self::of(&twin, console.now()))
    }

    fn of(twin: &Twin, now: Timestamp) -> Self {
        let (desired, reported) = (Value::Object(twin.desired.clone()), Value::Object(twin.reported.clone()));
        let paths: BTreeSet<&String> = twin.desired_meta.keys().chain(twin.reported_meta.keys()).collect();
        let leaf = |path: &String| {
            let (wanted, said) = (desired.pointer(path), reported.pointer(path));
            let is_desired = twin.desired_meta.contains_key(path);
            let meta = twin.desired_meta.get(path);
            let at = twin.reported_meta.get(path).map(|meta| meta.at).or(meta.map(|meta| meta.at));
            Leaf {
                name: path.trim_start_matches('/').replace('/', " › ").replace("~1", "/").replace("~0", "~"),
                desired: wanted.filter(|_| is_desired).map(Value::to_string).unwrap_or_default(),
                reported: said.map(Value::to_string).unwrap_or_default(),
                is_desired,
                differs: is_desired && !wanted.zip(said).is_some_and(|(wanted, said)| same(wanted, said)),
                at: at.map(|at| Moment::of(at, now)),
                expires: meta.and_then(|meta| meta.expires).map(|at| Moment::of(at, now)),
            }
        };
        let leaves: Vec<Leaf> = paths.into_iter().map(leaf).collect();
        Self { version: twin.version, open: leaves.iter().filter(|leaf| leaf.differs).count(), leaves }
    }
}

/// The form, as it was sent.
#[derive(Debug, Clone, Deserialize)]
pub(super) struct Wanted {
    #[serde(default)]
    pub(super) patch: String,
    /// Seconds; empty for ever.
    #[serde(default)]
    pub(super) expires: String,
    /// The version that was looked at.
    #[serde(default)]
    version: String,
}

impl Default for Wanted {
    fn default() -> Self {
        Self { patch: "{\"on\": true}".to_owned(), expires: String::new(), version: String::new() }
    }
}

pub(super) async fn desire(
    State(console): State<Console>,
    who: Identity,
    Target(device): Target<Device>,
    Form(wanted): Form<Wanted>,
) -> Answer {
    let device = device.document;
    let (status, what) = match serde_json::from_str::<Object>(&wanted.patch) {
        Err(error) => (422, format!("This is not a JSON object: {error}.")),
        Ok(patch) => {
            let expires = wanted.expires.parse().ok().map(|seconds| console.now().plus(Duration::from_secs(seconds)));
            let desire = Desire { patch, expected_version: wanted.version.parse().ok(), expires };
            match console.twins.write_desired(&who.principal, &device, &desire).await.map_err(failed)? {
                TwinWritten::Decided(Written::Done { .. } | Written::Unchanged { .. }) => {
                    return Ok(see(&format!("/devices/{}?done=twin#twin", device.id)));
                }
                TwinWritten::Decided(Written::VersionMismatch { .. }) => {
                    (409, "The twin has changed meanwhile. Look at it above and send again.".to_owned())
                }
                TwinWritten::Decided(Written::Refused(why)) => (422, format!("{why}.")),
                TwinWritten::OwnerChanged => {
                    return Err(
                        Problem::conflict("conflict", "the device has changed its owner; look at it again").into()
                    );
                }
            }
        }
    };
    let refused = Refused { wanted, wrong: Wrong::default().with("patch", what), status, ..Refused::default() };
    device::refused(&console, &who, device, refused).await
}

fn failed(error: TwinError) -> ProblemResponse {
    match error {
        TwinError::Contended => {
            Problem::new(503, "unavailable", "many write this twin at the same time; try again").into()
        }
        error => unavailable(&error),
    }
}
