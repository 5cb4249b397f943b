//! The web console at `/`: pages made here, on the server, from the same registry and node that the API speaks of.
//!
//! Every page is whole without JavaScript, and every form is a plain `POST` that ends in a redirect; scripts only save
//! reloads, draw charts and keep figures live. Nothing is loaded from elsewhere.
//!
//! | module | |
//! |---|---|
//! | [`page`] | the frame of a page, answers of forms |
//! | [`dress`] | headers, problems as pages |
//! | [`sign_in`], [`register`], [`reset`], [`session`], [`account`] | who is there |
//! | [`confirm`] | asks before something is lost |
//! | [`assets`] | scripts and styles |
//! | [`pulse`], [`live`] | the last minutes, and their stream |
//! | [`overview`], [`devices`], [`device`], [`twin`], [`command`], [`timeline`], [`ownership`] | devices |
//! | [`products`], [`trust`], [`releases`], [`release`], [`rollouts`] | what they are, and what they run |
//! | [`homes`], [`home`], [`member`], [`ending`] | the people around them |
//! | [`webhooks`], [`webhook`], [`staff`], [`audit`], [`more`] | the rest |

mod account;
mod assets;
mod audit;
mod command;
mod confirm;
mod device;
mod devices;
mod dress;
mod ending;
mod home;
mod homes;
mod live;
mod member;
mod more;
mod overview;
mod ownership;
mod page;
mod products;
mod pulse;
mod register;
mod release;
mod releases;
mod reset;
mod rollouts;
mod session;
mod show;
mod sign_in;
mod staff;
mod timeline;
mod trust;
mod twin;
mod webhook;
mod webhooks;

use std::sync::Arc;

use iot_auth::{Auth, registry::CSV_BYTES_MAX};
use iot_conn::{node::Node, push::webhook::Webhooks, twin::Twins};
use iot_core::{access::Permission, store::MetaStore, time::Timestamp};
use iot_http::{Doc, Guard, GuardContext, Idempotency, Routes};
use iot_ota::server::Ota;
use metrics_exporter_prometheus::PrometheusHandle;
use tokio::sync::watch;

pub(crate) use dress::{inside, outside};
use live::Streams;
use pulse::Pulse;
use session::Renewals;

/// What pages are made from. Cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct Console {
    auth: Arc<Auth>,
    node: Node,
    twins: Arc<Twins>,
    ota: Arc<Ota>,
    webhooks: Arc<Webhooks>,
    pulse: Pulse,
    streams: Streams,
    renewals: Renewals,
    stopped: watch::Receiver<bool>,
}

impl Console {
    /// `stopped` ends the streams, which would hold up the end of the server.
    pub(crate) fn new(
        auth: Arc<Auth>,
        node: Node,
        (twins, ota, webhooks): (Arc<Twins>, Arc<Ota>, Arc<Webhooks>),
        stopped: watch::Receiver<bool>,
    ) -> Self {
        Self {
            auth,
            node,
            twins,
            ota,
            webhooks,
            pulse: Pulse::new(),
            streams: Streams::default(),
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
    let routes = ownership::routes(device_pages(routes));
    let routes = trust::routes(product_pages(routes));
    let routes = rollout_pages(release::routes(releases::routes(routes)));
    let routes = ending::routes(member::routes(home_pages(routes)));
    let routes = staff::routes(webhook::routes(webhooks::routes(routes)));
    more::routes(routes).erased()
}

fn rollout_pages(routes: Routes<Console>) -> Routes<Console> {
    let (read, manage) = (Guard::Tenant(Permission::ReadDevice), Guard::Tenant(Permission::ManageReleases));
    routes
        .get("/rollouts", read, Doc::new("Rollouts"), rollouts::list)
        .post("/rollouts", manage, form("Plan a rollout"), rollouts::create)
        .get("/rollouts/{rollout}", read, Doc::new("A rollout"), rollouts::show)
        .post("/rollouts/{rollout}", manage, form("Start, pause or resume a rollout"), rollouts::order)
        .get("/rollouts/{rollout}/cancel", manage, Doc::new("Cancel a rollout?"), rollouts::ask_cancel)
        .post("/rollouts/{rollout}/cancel", manage, form("Cancel a rollout"), rollouts::cancel)
}

fn public(routes: Routes<Console>) -> Routes<Console> {
    let files = Guard::Public { why: "scripts and styles, the same for everybody" };
    let sign_in = Guard::Public { why: "the way in" };
    let routes = routes
        .get("/console/assets/{hash}/{name}", files, Doc::new("A file of the console"), assets::serve)
        .get("/sign-in", sign_in, Doc::new("Sign in"), sign_in::show)
        .post("/sign-in", sign_in, form("Sign in"), sign_in::sign_in)
        .get("/setup", sign_in, Doc::new("The first administrator"), sign_in::setup)
        .post("/setup", sign_in, form("Make the first administrator"), sign_in::set_up)
        .post("/sign-out", Guard::Account, form("Sign out"), sign_in::sign_out);
    reset::routes(register::routes(routes))
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
        .get("/account/sign-out-everywhere", own, Doc::new("Sign out everywhere?"), account::ask_end_all)
        .post("/account/sign-out-everywhere", own, form("Sign out everywhere"), account::end_all)
        .get("/account/delete", own, Doc::new("Delete the account?"), account::ask_delete)
        .post("/account/delete", own, form("Delete the account"), account::delete)
}

fn device_pages(routes: Routes<Console>) -> Routes<Console> {
    let read = Guard::Tenant(Permission::ReadDevice);
    routes
        .get("/", Guard::SignedIn, Doc::new("Overview, for the vendor's people"), overview::show)
        .get("/console/live", Guard::SignedIn, Doc::new("Live figures"), live::stream)
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
}
