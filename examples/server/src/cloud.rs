//! The composition: a good `main.rs`. Values in, a running cloud out.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use iot_auth::{
    Auth, SetupError,
    account::AccountOptions,
    binding::BINDING_SERVICE,
    ca::{DeviceCa, ServerIdentity},
    keys::FileKeyRing,
};
use iot_conn::{
    bus::InProcess,
    node::{Append, Drain, Hinting, Node},
    push::webhook::{Client, WebhookLimits, Webhooks, native_roots},
    transport::{AcceptorLimits, ServerCertificate},
    twin::{self, Twins},
};
use iot_core::{
    access::Access,
    bus::Bus,
    clock::{Clock, SystemClock},
    keys::KeyRing,
    limits::Limits,
    secret::Secret,
    service::Downlink,
    store::{BLOB_GRACE, BlobStore, Document, MetaStore, RecordNames, Stores},
};
use iot_http::GuardContext;
use iot_ota::server::{Ota, ReleaseRecord};
use iot_store::blobs::Blobs;
use tokio::sync::watch;
use tower::{ServiceBuilder, util::BoxCloneSyncService};

use crate::{
    activation::Inherited,
    banner::Banner,
    console::{self, Console},
    data_folder::DataFolder,
    database::{self, Database},
    failure::Failure,
    http,
    logic::Thermostat,
    mail, observability,
    options::Options,
    quotas, retention,
    sockets::{Sockets, bound},
    supervisor::{Supervisor, signalled},
    telemetry, tls,
};

/// How often the server's certificate is looked at.
const RENEWED_EVERY: Duration = Duration::from_secs(12 * 3_600);

/// Everything that survives the process: the folder, its keys, its stores.
struct Kept {
    folder: DataFolder,
    database: Arc<dyn Database>,
    stores: Stores,
    blobs: Blobs,
    bus: Arc<dyn Bus>,
    keys: Arc<FileKeyRing>,
    clock: Arc<dyn Clock>,
}

impl Kept {
    async fn open(options: &Options) -> Result<Self, Failure> {
        let folder = DataFolder::open(&options.data)?;
        let database = database::open(options, &folder).await?;
        let keys = FileKeyRing::open_or_create(folder.path()).map_err(|error| Failure::of("--data: ", &error))?;
        let bus: Arc<dyn Bus> = Arc::new(InProcess::default());
        let stores = database.stores();
        let stores = Stores { meta: Arc::new(Hinting::new(stores.meta.clone(), bus.clone())), ..stores };
        let blobs = folder.blobs()?;
        Ok(Self { folder, database, stores, blobs, bus, keys: Arc::new(keys), clock: Arc::new(SystemClock::default()) })
    }

    async fn auth(&self, options: &Options) -> Result<(Arc<Auth>, ServerIdentity), Failure> {
        let failed = |error: SetupError| Failure::of("--data: ", &error);
        let now = self.clock.timestamp();
        let ca = DeviceCa::open_or_create(self.folder.path(), &*self.keys, now).await.map_err(failed)?;
        let auth = Auth::new(&self.stores, self.keys.clone() as Arc<dyn KeyRing>, ca, self.clock.clone());
        let identity = auth.server_identity(self.folder.path(), &options.names).await.map_err(failed)?;
        let mailer = mail::mailer(options, &self.folder, self.clock.clone())?;
        Ok((Arc::new(auth.with_accounts(AccountOptions::default(), mailer)), identity))
    }
}

/// A server that runs for long has a new certificate before the old one ends.
async fn renew(auth: Arc<Auth>, folder: DataFolder, names: Vec<String>, certificate: Arc<ServerCertificate>) {
    loop {
        tokio::time::sleep(RENEWED_EVERY).await;
        let renewed = match auth.server_identity(folder.path(), &names).await {
            Ok(identity) => tls::replace(&certificate, &identity),
            Err(error) => Err(Failure::of("", &error)),
        };
        if let Err(error) = renewed {
            tracing::error!(%error, "the server's certificate cannot be renewed");
        }
    }
}

/// Makes a new one-time password for the administrator.
pub(crate) async fn reset_admin(options: &Options) -> Result<Secret, Failure> {
    let kept = Kept::open(options).await?;
    let (auth, _) = kept.auth(options).await?;
    let password = auth.reset_admin().await.map_err(|error| Failure::of("reset-admin: ", &error))?;
    kept.database.close().await;
    Ok(password)
}

/// Runs the cloud until it is told to end, or a part of it ends.
pub(crate) async fn run(options: Options, inherited: Inherited) -> Result<(), Failure> {
    let mut signals = signalled()?;
    let sockets = Sockets::bind(&options, inherited)?;
    let recorder = observability::metrics()?;
    let kept = Kept::open(&options).await?;
    let (auth, identity) = kept.auth(&options).await?;
    let certificate = tls::certificate(&identity)?;
    let mqtt_tls = tls::mqtt(&certificate, auth.ca_pem())?;
    let https_tls = tls::http(&certificate)?;
    let password = auth.first_start().await.map_err(|error| Failure::of("--data: ", &error))?;

    quotas::keep(&*kept.stores.meta, &options.quotas, kept.clock.timestamp()).await?;

    let address = options.public_url.clone().unwrap_or_else(|| sockets.http_address());
    let webhooks = webhooks(&kept, options.webhooks_to_loopback).await?;
    let Parts { node, twins, ota, downlink } = parts(&kept, &auth, &webhooks, &address, drain(&options))?;

    let context = GuardContext::new(kept.stores.meta.clone(), kept.keys.clone(), kept.clock.clone());
    let ready = Arc::new(AtomicBool::new(false));
    let faces = vec![
        iot_auth::http::routes(auth.clone(), context.clone()).erased(),
        iot_conn::http::routes(&node, context.clone()).erased(),
        iot_conn::http::twin_routes(twins.clone(), context.clone()).erased(),
        iot_conn::http::webhook_routes(webhooks.clone(), context.clone()).erased(),
        iot_ota::http::routes(ota.clone(), context.clone()).erased(),
    ];
    let (stop, stopped) = watch::channel(false);
    let console =
        Console::new(auth.clone(), node.clone(), (twins.clone(), ota.clone(), webhooks.clone()), stopped.clone());
    let pages = console::routes(console.clone(), context.clone());
    let router = console::inside(http::router(context.clone(), faces, pages, recorder.clone(), ready.clone()));
    let with_identity = |encrypted| {
        let known = iot_http::authenticate(router.clone(), auth.authenticator(), encrypted);
        http::surround(console::outside(known, console.clone(), encrypted))
    };

    let banner_addresses = sockets.addresses();
    let demo = sockets.demo(&options, &kept.folder);
    let mut supervisor = Supervisor::default();
    let Sockets { mqtt, http: http_socket, https: https_socket } = sockets;
    let door = http::door(with_identity(true), stopped.clone());
    let bound = bound(mqtt, &mqtt_tls, &door, &options)?;
    let serving = node.clone();
    let node_stop = stopped.clone();
    supervisor.spawn("node", async move {
        let served = serving.serve(bound, until(node_stop)).await;
        served.map_err(|error| Failure::part(Failure::of("", &error).to_string()))
    });
    let (database, database_stop) = (kept.database.clone(), stopped.clone());
    supervisor.spawn("database", async move {
        tokio::select! {
            failure = database.lost() => Err(failure),
            () = until(database_stop) => Ok(()),
        }
    });
    let (updates, updates_stop) = (ota.clone(), stopped.clone());
    supervisor.spawn("updates", async move {
        updates.run(downlink, until(updates_stop)).await;
        Ok(())
    });
    let webhooks_stop = stopped.clone();
    supervisor.spawn("webhooks", async move {
        webhooks.run(until(webhooks_stop)).await;
        Ok(())
    });
    if let Some(socket) = http_socket {
        let (router, stopped) = (with_identity(false), stopped.clone());
        supervisor.spawn("http", async move {
            http::serve(socket, None, router, stopped).await;
            Ok(())
        });
    }
    if let Some(socket) = https_socket {
        let (router, stopped) = (with_identity(true), stopped.clone());
        supervisor.spawn("https", async move {
            http::serve(socket, Some(https_tls), router, stopped).await;
            Ok(())
        });
    }
    if let Some(demo) = demo {
        let (auth, stopped) = (auth.clone(), stopped.clone());
        supervisor.spawn("demo", async move {
            demo.run(auth, stopped).await;
            Ok(())
        });
    }
    let upkeep = tokio::spawn(observability::upkeep(recorder.clone()));
    let pulse = tokio::spawn(console.run(recorder));
    let telemetry = kept.stores.telemetry.clone();
    let maintenance =
        tokio::spawn(telemetry::maintain(telemetry, retention::policies(&options.retain), kept.clock.clone()));
    let renewal = tokio::spawn(renew(auth.clone(), kept.folder.clone(), options.names.clone(), certificate));
    let sweeper = tokio::spawn(sweep(kept.stores.meta.clone(), kept.blobs.clone(), auth.clone(), kept.clock.clone()));
    ready.store(true, Ordering::Release);
    Banner { folder: &kept.folder, addresses: banner_addresses, password, demo: options.demo }.print();

    let ended = supervisor.watch(signals.received()).await;
    ready.store(false, Ordering::Release);
    stop.send_replace(true);
    let drained = supervisor.drain(Duration::from_secs(u64::from(options.drain_seconds))).await;
    upkeep.abort();
    pulse.abort();
    sweeper.abort();
    renewal.abort();
    maintenance.abort();
    kept.database.close().await;
    ended.and(drained)
}

/// What the cloud is made of.
struct Parts {
    node: Node,
    twins: Arc<Twins>,
    ota: Arc<Ota>,
    downlink: Arc<dyn Downlink>,
}

/// What tells other systems. `to_loopback`: also those on this machine.
async fn webhooks(kept: &Kept, to_loopback: bool) -> Result<Arc<Webhooks>, Failure> {
    let roots = native_roots().unwrap_or_else(|error| {
        tracing::warn!(%error, "the machine trusts no certificate authority: webhooks over https will fail");
        rustls::RootCertStore::empty()
    });
    let client = Client::new(roots).allow_loopback_http(to_loopback);
    let (meta, keys, clock) = (kept.stores.meta.clone(), kept.keys.clone(), kept.clock.clone());
    let opened = Webhooks::open(meta, keys, clock, client, WebhookLimits::default()).await;
    opened.map_err(|error| Failure::of("--data: ", &error))
}

/// The crates, joined. `address` is where devices load updates from.
fn drain(options: &Options) -> Drain {
    let within = Duration::from_secs(u64::from(options.drain_seconds));
    // Without a rate, as many as are to be gone in time if the node is full.
    let all_in_time = AcceptorLimits::default().connections_max as u64 / u64::from(options.drain_seconds.max(1));
    let per_s = options.drain_rate.unwrap_or(u32::try_from(all_in_time).unwrap_or(u32::MAX));
    Drain { per_s, within, server_reference: options.server_reference.as_deref().map(Into::into) }
}

fn parts(
    kept: &Kept,
    auth: &Arc<Auth>,
    webhooks: &Arc<Webhooks>,
    address: &str,
    drain: Drain,
) -> Result<Parts, Failure> {
    let (meta, keys, clock) = (&kept.stores.meta, kept.keys.clone() as Arc<dyn KeyRing>, &kept.clock);
    let named = |name: &str| name.parse().expect("it is an identifier");
    let ingest = ServiceBuilder::new() // your checks on batches of reports, before they are stored: .layer(…)
        .service(Append::new(kept.stores.telemetry.clone()));
    let logic = Thermostat { meta: meta.clone() };
    let builder = Node::builder(DataFolder::node_id(), kept.stores.clone(), clock.clone());
    let downlink = builder.downlink();
    let twins = Arc::new(Twins::new(meta.clone(), clock.clone(), downlink.clone()));
    let ota = Arc::new(Ota::new(meta.clone(), Arc::new(kept.blobs.clone()), keys, clock.clone(), address));
    let node = builder
        .limits(Limits::default())
        .drain(drain)
        .bus(kept.bus.clone())
        .authenticate_with(auth.authenticator(), auth.clone() as Arc<dyn Access>)
        .ingest(BoxCloneSyncService::new(ingest))
        .consumer("logic".parse().expect("it is an identifier"), BoxCloneSyncService::new(logic)) // after the append
        .notify(webhooks.clone()) // your own backends beside it: Fanout::new(…)
        .service(named(BINDING_SERVICE), auth.binding_service())
        .service(named(twin::SERVICE), twins.device_service())
        .service(named("update"), ota.device_service())
        .build();
    twins.announce_on(node.live_hub().clone());
    Ok(Parts { node, twins, ota, downlink })
}

async fn until(mut stopped: watch::Receiver<bool>) {
    // An error means that the sender is gone: then it is over too.
    let _over = stopped.wait_for(|stopped| *stopped).await;
}

/// Removes what is over: stored answers to idempotent requests, mailed codes, sign-ins, blobs that no record names.
async fn sweep(meta: Arc<dyn MetaStore>, blobs: Blobs, auth: Arc<Auth>, clock: Arc<dyn Clock>) {
    let names = RecordNames::new(meta.clone(), [ReleaseRecord::KIND]); // your kinds of record that name blobs
    let mut tick = tokio::time::interval(Duration::from_secs(3_600));
    loop {
        tick.tick().await;
        if let Err(error) = iot_http::sweep(&meta, clock.timestamp()).await {
            tracing::warn!(%error, "old idempotent answers cannot be removed");
        }
        if let Err(error) = auth.sweep_accounts().await {
            tracing::warn!(%error, "old codes and sign-ins cannot be removed");
        }
        let now = clock.timestamp();
        match blobs.collect(&names, now, now.minus(BLOB_GRACE)).await {
            Ok(collected) if collected.removed > 0 => {
                tracing::info!(
                    blobs = collected.removed,
                    bytes = collected.removed_bytes,
                    "blobs without a name removed"
                );
            }
            Ok(_) => {}
            Err(error) => tracing::warn!(%error, "blobs without a name cannot be removed"),
        }
    }
}
