//! The sockets of the server.

use std::{
    net::{SocketAddr, TcpListener},
    sync::Arc,
};

use iot_conn::transport::{Bound, HttpDoor, Listener, listen};

use crate::{
    activation::Inherited,
    data_folder::DataFolder,
    demo::Demo,
    failure::Failure,
    options::{Listen, Options},
    quotas, tls,
};

/// Every socket of the server, bound before anything is made.
pub(crate) struct Sockets {
    pub(crate) mqtt: Vec<(&'static str, TcpListener)>,
    pub(crate) http: Option<TcpListener>,
    pub(crate) https: Option<TcpListener>,
}

impl Sockets {
    /// Takes those that a service manager listens on already, and binds the others.
    pub(crate) fn bind(options: &Options, mut inherited: Inherited) -> Result<Self, Failure> {
        let mut take = |name, at| match inherited.take(name) {
            Some(socket) => Ok(Some(socket)),
            None => bind(name, at),
        };
        let wanted = [
            ("mqtt", options.mqtt),
            ("mqtts", options.mqtts),
            ("ws", options.ws),
            ("wss", options.wss),
            ("tls", options.tls),
        ];
        let mut mqtt = Vec::new();
        for (name, at) in wanted {
            mqtt.extend(take(name, at)?.map(|socket| (name, socket)));
        }
        let (http, https) = (take("http", options.http)?, take("https", options.https)?);
        inherited.is_used_up()?;
        if options.allow_anonymous {
            mqtt.iter().try_for_each(|(name, socket)| is_for_this_machine(name, socket))?;
        }
        Ok(Self { mqtt, http, https })
    }

    pub(crate) fn addresses(&self) -> Vec<(&'static str, SocketAddr)> {
        let mqtt = self.mqtt.iter().map(|(name, socket)| (*name, socket));
        let http = self.http.iter().map(|socket| ("http", socket));
        let https = self.https.iter().map(|socket| ("https", socket));
        mqtt.chain(http).chain(https).filter_map(|(name, socket)| Some((name, socket.local_addr().ok()?))).collect()
    }

    /// Where devices reach the routes: over TLS, if there is such a listener.
    pub(crate) fn http_address(&self) -> String {
        let addresses = self.addresses();
        let find = |wanted, scheme| {
            addresses.iter().find(|(name, _)| *name == wanted).map(|(_, at)| format!("{scheme}://{at}"))
        };
        find("https", "https").or_else(|| find("tls", "https")).or_else(|| find("http", "http")).unwrap_or_default()
    }

    pub(crate) fn demo(&self, options: &Options, folder: &DataFolder) -> Option<Demo> {
        let addresses = self.addresses();
        let find = |name| addresses.iter().find(|(known, _)| *known == name).map(|(_, address)| *address);
        let (http, mqtts) = (find("http")?, find("mqtts")?);
        (options.demo > 0).then(|| Demo { count: options.demo, http, mqtts, folder: folder.clone() })
    }
}

/// What the options say of addresses holds for sockets that somebody else has bound, too.
fn is_for_this_machine(name: &str, socket: &TcpListener) -> Result<(), Failure> {
    let address = socket.local_addr().map_err(|error| Failure::of(&format!("--{name}: "), &error))?;
    match address.ip().is_loopback() {
        true => Ok(()),
        false => Err(Failure::options(format!(
            "--allow-anonymous works on loopback listeners only: the service manager's socket '{name}' is {address}; leave --allow-anonymous out"
        ))),
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

/// The listeners of the node.
pub(crate) fn bound(
    sockets: Vec<(&'static str, TcpListener)>,
    mqtt_tls: &Arc<rustls::ServerConfig>,
    http: &HttpDoor,
    options: &Options,
) -> Result<Bound, Failure> {
    let listener = |(name, socket): (&'static str, TcpListener)| {
        let tls = match name {
            "mqtts" | "tls" => Some(mqtt_tls.clone()),
            "wss" => Some(tls::websocket(mqtt_tls)),
            _ => None,
        };
        let address = socket.local_addr().map_err(|error| Failure::of(&format!("--{name}: "), &error))?;
        let (anonymous, balancers) = (options.allow_anonymous, options.balancers.clone());
        let (websocket, http) = (name.starts_with("ws"), (name == "tls").then(|| http.clone()));
        let plain = Listener::new(name, address);
        let quota = quotas::of_listener(&options.quotas, name);
        Ok((Listener { tls, websocket, http, anonymous, balancers, quota, ..plain }, socket))
    };
    let listeners = sockets.into_iter().map(listener).collect::<Result<Vec<_>, Failure>>()?;
    Bound::adopt(listeners).map_err(|error| Failure::of("", &error))
}
