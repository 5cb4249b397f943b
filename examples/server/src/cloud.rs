//! The composition: a good `main.rs`. Values in, a running cloud out.

use std::{
    net::{SocketAddr, TcpListener},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use iot_auth::{
    Auth, SetupError,
    ca::{DeviceCa, ServerIdentity},
    keys::FileKeyRing,
};
use iot_conn::{
    bus::InProcess,
    node::{Append, Hinting, Node},
    transport::{Bound, Listener, listen},
};
use iot_core::{
    access::Access,
    bus::Bus,
    clock::{Clock, SystemClock},
    keys::KeyRing,
    limits::Limits,
    secret::Secret,
    store::{MetaStore, Stores},
};
use iot_http::GuardContext;
use iot_store::{StoreLimits, sqlite::Sqlite};
use tokio::sync::watch;
use tower::{ServiceBuilder, util::BoxCloneSyncService};

use crate::{
    banner::Banner,
    console::{self, Console},
    data_folder::DataFolder,
    demo::Demo,
    failure::Failure,
    http,
    logic::Thermostat,
    observability,
    options::{Listen, Options},
    supervisor::{Supervisor, signalled},
    tls,
};

/// Everything that survives the process: the folder, its keys, its stores.
struct Kept {
    folder: DataFolder,
    sqlite: Sqlite,
    stores: Stores,
    bus: Arc<dyn Bus>,
    keys: Arc<FileKeyRing>,
    clock: Arc<dyn Clock>,
}

impl Kept {
    async fn open(options: &Options) -> Result<Self, Failure> {
        let folder = DataFolder::open(&options.data)?;
        let sqlite = Sqlite::open(&folder.stores(), StoreLimits::default()).await;
        let sqlite = sqlite.map_err(|error| Failure::of("--data: ", &error))?;
        let keys = FileKeyRing::open_or_create(folder.path()).map_err(|error| Failure::of("--data: ", &error))?;
        let bus: Arc<dyn Bus> = Arc::new(InProcess::default());
        let stores = Stores::new(sqlite.clone());
        let stores = Stores { meta: Arc::new(Hinting::new(stores.meta.clone(), bus.clone())), ..stores };
        Ok(Self { folder, sqlite, stores, bus, keys: Arc::new(keys), clock: Arc::new(SystemClock::default()) })
    }

    async fn auth(&self, names: &[String]) -> Result<(Arc<Auth>, ServerIdentity), Failure> {
        let failed = |error: SetupError| Failure::of("--data: ", &error);
        let now = self.clock.timestamp();
        let ca = DeviceCa::open_or_create(self.folder.path(), &*self.keys, now).await.map_err(failed)?;
        let identity = ca.server_identity(self.folder.path(), &*self.keys, names, now).await.map_err(failed)?;
        let auth = Auth::new(&self.stores, self.keys.clone() as Arc<dyn KeyRing>, ca, self.clock.clone());
        Ok((Arc::new(auth), identity))
    }
}

/// Makes a new one-time password for the administrator.
pub(crate) async fn reset_admin(options: &Options) -> Result<Secret, Failure> {
    let kept = Kept::open(options).await?;
    let (auth, _) = kept.auth(&options.names).await?;
    let password = auth.reset_admin().await.map_err(|error| Failure::of("reset-admin: ", &error))?;
    kept.sqlite.close().await;
    Ok(password)
}

/// Runs the cloud until it is told to end, or a part of it ends.
pub(crate) async fn run(options: Options) -> Result<(), Failure> {
    let mut signals = signalled()?;
    let sockets = Sockets::bind(&options)?;
    let recorder = observability::metrics()?;
    let kept = Kept::open(&options).await?;
    let (auth, identity) = kept.auth(&options.names).await?;
    let mqtt_tls = tls::mqtt(&identity, auth.ca_pem())?;
    let https_tls = tls::http(&identity)?;
    let password = auth.first_start().await.map_err(|error| Failure::of("--data: ", &error))?;

    let ingest = ServiceBuilder::new() // your checks on batches of reports, before they are stored: .layer(…)
        .service(Append::new(kept.stores.telemetry.clone()));
    let logic = Thermostat { meta: kept.stores.meta.clone() };
    let node = Node::builder(DataFolder::node_id(), kept.stores.clone(), kept.clock.clone())
        .limits(Limits::default())
        .bus(kept.bus.clone())
        .authenticate_with(auth.authenticator(), auth.clone() as Arc<dyn Access>)
        .ingest(BoxCloneSyncService::new(ingest))
        .consumer("logic".parse().expect("it is an identifier"), BoxCloneSyncService::new(logic)) // after the append
        .build();

    let context = GuardContext::new(kept.stores.meta.clone(), kept.keys.clone(), kept.clock.clone());
    let ready = Arc::new(AtomicBool::new(false));
    let faces = vec![
        iot_auth::http::routes(auth.clone(), context.clone()).erased(),
        iot_conn::http::routes(&node, context.clone()).erased(),
    ];
    let (stop, stopped) = watch::channel(false);
    let console = Console::new(auth.clone(), node.clone(), stopped.clone());
    let pages = console::routes(console.clone(), context.clone());
    let router = console::inside(http::router(context.clone(), faces, pages, recorder.clone(), ready.clone()));
    let with_identity = |encrypted| {
        let known = iot_http::authenticate(router.clone(), auth.authenticator(), encrypted);
        http::surround(console::outside(known, console.clone()))
    };

    let banner_addresses = sockets.addresses();
    let demo = sockets.demo(&options, &kept.folder);
    let mut supervisor = Supervisor::default();
    let Sockets { mqtt, http: http_socket, https: https_socket } = sockets;
    let bound = bound(mqtt, &mqtt_tls, options.allow_anonymous)?;
    let serving = node.clone();
    let node_stop = stopped.clone();
    supervisor.spawn("node", async move {
        let served = serving.serve(bound, until(node_stop)).await;
        served.map_err(|error| Failure::part(Failure::of("", &error).to_string()))
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
    let sweeper = tokio::spawn(sweep(kept.stores.meta.clone(), kept.clock.clone()));
    ready.store(true, Ordering::Release);
    Banner { folder: &kept.folder, addresses: banner_addresses, password, demo: options.demo }.print();

    let ended = supervisor.watch(signals.received()).await;
    ready.store(false, Ordering::Release);
    stop.send_replace(true);
    let drained = supervisor.drain().await;
    upkeep.abort();
    pulse.abort();
    sweeper.abort();
    kept.sqlite.close().await;
    ended.and(drained)
}

async fn until(mut stopped: watch::Receiver<bool>) {
    // An error means that the sender is gone: then it is over too.
    let _over = stopped.wait_for(|stopped| *stopped).await;
}

/// Removes stored answers to idempotent requests when their day is over.
async fn sweep(meta: Arc<dyn MetaStore>, clock: Arc<dyn Clock>) {
    let mut tick = tokio::time::interval(Duration::from_secs(3_600));
    loop {
        tick.tick().await;
        if let Err(error) = iot_http::sweep(&meta, clock.timestamp()).await {
            tracing::warn!(%error, "old idempotent answers cannot be removed");
        }
    }
}

/// Every socket of the server, bound before anything is made.
struct Sockets {
    mqtt: Vec<(&'static str, TcpListener)>,
    http: Option<TcpListener>,
    https: Option<TcpListener>,
}

impl Sockets {
    fn bind(options: &Options) -> Result<Self, Failure> {
        let mut mqtt = Vec::new();
        for (name, at) in [("mqtt", options.mqtt), ("mqtts", options.mqtts), ("ws", options.ws), ("wss", options.wss)] {
            mqtt.extend(bind(name, at)?.map(|socket| (name, socket)));
        }
        Ok(Self { mqtt, http: bind("http", options.http)?, https: bind("https", options.https)? })
    }

    fn addresses(&self) -> Vec<(&'static str, SocketAddr)> {
        let mqtt = self.mqtt.iter().map(|(name, socket)| (*name, socket));
        let http = self.http.iter().map(|socket| ("http", socket));
        let https = self.https.iter().map(|socket| ("https", socket));
        mqtt.chain(http).chain(https).filter_map(|(name, socket)| Some((name, socket.local_addr().ok()?))).collect()
    }

    fn demo(&self, options: &Options, folder: &DataFolder) -> Option<Demo> {
        let addresses = self.addresses();
        let find = |name| addresses.iter().find(|(known, _)| *known == name).map(|(_, address)| *address);
        let (http, mqtts) = (find("http")?, find("mqtts")?);
        (options.demo > 0).then(|| Demo { count: options.demo, http, mqtts, folder: folder.clone() })
    }
}

fn bind(name: &'static str, at: Listen) -> Result<Option<TcpListener>, Failure> {
    let Some(address) = at.address() else { return Ok(None) };
    listen(address).map(Some).map_err(|error| {
        Failure::options(format!(
            "--{name} {address}: {error}; stop what uses it, name another address, or port 0 for a free one"
        ))
    })
}

fn bound(
    sockets: Vec<(&'static str, TcpListener)>,
    mqtt_tls: &Arc<rustls::ServerConfig>,
    anonymous: bool,
) -> Result<Bound, Failure> {
    let listener = |(name, socket): (&'static str, TcpListener)| {
        let tls = match name {
            "mqtts" => Some(mqtt_tls.clone()),
            "wss" => Some(tls::websocket(mqtt_tls)),
            _ => None,
        };
        let address = socket.local_addr().map_err(|error| Failure::of(&format!("--{name}: "), &error))?;
        Ok((Listener { name, address, tls, websocket: name.starts_with("ws"), anonymous }, socket))
    };
    let listeners = sockets.into_iter().map(listener).collect::<Result<Vec<_>, Failure>>()?;
    Bound::adopt(listeners).map_err(|error| Failure::of("", &error))
}
