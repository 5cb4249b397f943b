//! The web console at `/`: pages made here, on the server, from the same registry and node that the API speaks of.
//!
//! Every page is whole without JavaScript, and every form is a plain `POST` that ends in a redirect; scripts only save
//! reloads, draw charts and keep figures live. Nothing is loaded from elsewhere.
//!
//! | module | |
//! |---|---|
//! | [`page`] | the frame of a page, answers of forms |
//! | [`dress`] | headers, problems as pages |
//! | [`sign_in`], [`session`], [`account`] | who is there |
//! | [`assets`] | scripts and styles |
//! | [`pulse`], [`live`] | the last minutes, and their stream |
//! | [`overview`], [`devices`], [`device`], [`twin`], [`command`], [`timeline`], [`products`], [`rollouts`], [`homes`], [`home`], [`audit`] | the pages |

mod account;
mod assets;
mod audit;
mod command;
mod device;
mod devices;
mod dress;
mod home;
mod homes;
mod live;
mod overview;
mod page;
mod products;
mod pulse;
mod rollouts;
mod session;
mod show;
mod sign_in;
mod timeline;
mod twin;

use std::sync::Arc;

use iot_auth::{Auth, registry::CSV_BYTES_MAX};
use iot_conn::{node::Node, twin::Twins};
use iot_core::{access::Permission, store::MetaStore, time::Timestamp};
use iot_http::{Doc, Guard, GuardContext, Idempotency, Routes};
use iot_ota::server::Ota;
use metrics_exporter_prometheus::PrometheusHandle;
use tokio::sync::{Semaphore, watch};

pub(crate) use dress::{inside, outside};
use pulse::Pulse;
use session::Renewals;

/// The most streams of live figures; a further page is without.
const STREAMS_MAX: usize = 64;

/// What pages are made from. Cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct Console {
    auth: Arc<Auth>,
    node: Node,
    twins: Arc<Twins>,
    ota: Arc<Ota>,
    pulse: Pulse,
    streams: Arc<Semaphore>,
    renewals: Renewals,
    stopped: watch::Receiver<bool>,
}

impl Console {
    /// `stopped` ends the streams, which would hold up the end of the server.
    pub(crate) fn new(
        auth: Arc<Auth>,
        node: Node,
        (twins, ota): (Arc<Twins>, Arc<Ota>),
        stopped: watch::Receiver<bool>,
    ) -> Self {
        Self {
            auth,
            node,
            twins,
            ota,
            pulse: Pulse::new(),
            streams: Arc::new(Semaphore::new(STREAMS_MAX)),
            renewals: Renewals::default(),
            stopped,
        }
    }

    /// Takes a sample each second for as long as it is polled.
    pub(crate) async fn run(self, metrics: PrometheusHandle) {
        self.pulse.run(metrics).await;
    }

    fn meta(&self) -> &Arc<dyn MetaStore> {
        self.auth.meta()
    }

    fn now(&self) -> Timestamp {
        self.node.clock().timestamp()
    }
}

/// All routes of the console.
pub(crate) fn routes(console: Console, context: GuardContext) -> Routes {
    let routes = Routes::with_state(context, console);
    let routes = account_pages(public(routes));
    let routes = device_pages(routes);
    home_pages(rollout_pages(product_pages(routes))).erased()
}

fn rollout_pages(routes: Routes<Console>) -> Routes<Console> {
    let (read, manage) = (Guard::Tenant(Permission::ReadDevice), Guard::Tenant(Permission::ManageReleases));
    routes
        .get("/rollouts", read, Doc::new("Rollouts"), rollouts::list)
        .post("/rollouts", manage, form("Plan a rollout"), rollouts::create)
        .get("/rollouts/{rollout}", read, Doc::new("A rollout"), rollouts::show)
        .post("/rollouts/{rollout}", manage, form("Start, pause, resume or cancel a rollout"), rollouts::order)
}

fn public(routes: Routes<Console>) -> Routes<Console> {
    let files = Guard::Public { why: "scripts and styles, the same for everybody" };
    let sign_in = Guard::Public { why: "the way in" };
    routes
        .get("/console/assets/{hash}/{name}", files, Doc::new("A file of the console"), assets::serve)
        .get("/sign-in", sign_in, Doc::new("Sign in"), sign_in::show)
        .post("/sign-in", sign_in, form("Sign in"), sign_in::sign_in)
        .get("/setup", sign_in, Doc::new("The first administrator"), sign_in::setup)
        .post("/setup", sign_in, form("Make the first administrator"), sign_in::set_up)
        .post("/sign-out", Guard::Account, form("Sign out"), sign_in::sign_out)
}

/// A form: its browser sends no key, and its redirect keeps a reload from sending it twice.
fn form(summary: &'static str) -> Doc {
    Doc::new(summary).idempotency(Idempotency::Natural)
}

fn account_pages(routes: Routes<Console>) -> Routes<Console> {
    let own = Guard::Account;
    routes
        .get("/account", own, Doc::new("Your account"), account::show)
        .post("/account", own, form("Be called otherwise"), account::rename)
        .post("/account/password", own, form("Change the password"), account::change_password)
        .post("/account/logins/{login}/end", own, form("End a sign-in"), account::end_login)
        .post("/account/sign-out-everywhere", own, form("Sign out everywhere"), account::end_all)
}

fn device_pages(routes: Routes<Console>) -> Routes<Console> {
    let read = Guard::Tenant(Permission::ReadDevice);
    routes
        .get("/", Guard::SignedIn, Doc::new("Overview, for the vendor's people"), overview::show)
        .get("/console/live", read, Doc::new("Live figures"), live::stream)
        .get("/devices", read, Doc::new("Devices"), devices::show)
        .get("/devices/{device}", Guard::Device(Permission::ReadDevice), Doc::new("A device"), device::show)
        .post("/devices/{device}/commands", Guard::Device(Permission::Control), form("Send a command"), command::send)
        .post("/devices/{device}/twin", Guard::Device(Permission::Control), form("Desire values"), twin::desire)
        .get("/audit", Guard::Tenant(Permission::ReadAudit), Doc::new("Audit log"), audit::show)
}

fn product_pages(routes: Routes<Console>) -> Routes<Console> {
    let read = Guard::Tenant(Permission::ReadDevice);
    let manage = Guard::Tenant(Permission::ManageDevices);
    // A form needs up to three characters for each that it sends.
    let import = form("Import units").body_limit(3 * CSV_BYTES_MAX);
    routes
        .get("/products", read, Doc::new("Products"), products::list)
        .post("/products", manage, form("Create a product"), products::create)
        .get("/products/{product}", read, Doc::new("A product"), products::show)
        .post("/products/{product}", manage, form("Change a product"), products::change)
        .post("/products/{product}/units", manage, import, products::import)
        .post(
            "/products/{product}/claim-tokens",
            Guard::Tenant(Permission::ManageCredentials),
            form("Issue a claim token"),
            products::issue,
        )
}

/// Members act for their home: the rules of homes decide what each may do, after the guards.
fn home_pages(routes: Routes<Console>) -> Routes<Console> {
    // A guest comes in too, and sees the devices.
    let (read, manage) = (Guard::Home(Permission::ReadDevice), Guard::Home(Permission::ManageHome));
    routes
        .get("/homes", Guard::SignedIn, Doc::new("Homes"), homes::list)
        .post("/homes", Guard::Account, form("Make a home"), homes::create)
        .post("/homes/join", Guard::Account, form("Join a home"), homes::accept)
        .get("/homes/{home}", read, Doc::new("A home"), home::show)
        .post("/homes/{home}/devices", Guard::Home(Permission::Bind), form("Bind a device"), home::bind)
        .post("/homes/{home}/invites", manage, form("Invite to a home"), home::invite)
        .post("/homes/{home}/invites/{invite}/withdraw", manage, form("Withdraw an invitation"), home::withdraw)
        .post("/homes/{home}/members/{account}/remove", manage, form("Remove a member"), home::remove)
        .post("/homes/{home}/leave", read, form("Leave a home"), home::leave)
}
