//! Sockets that a service manager listens on already (systemd's socket activation, sd_listen_fds(3)): a restart closes no door.

use std::{collections::HashMap, net::TcpListener};

use listenfd::ListenFd;

use crate::failure::Failure;

/// The sockets, by the name of the listener that they are for (`FileDescriptorName=` of a socket unit).
#[derive(Debug, Default)]
pub(crate) struct Inherited {
    sockets: HashMap<String, TcpListener>,
}

impl Inherited {
    /// Those of this process's environment; none, if nobody has started it so.
    pub(crate) fn of_service_manager() -> Result<Self, Failure> {
        let names = std::env::var("LISTEN_FDNAMES").unwrap_or_default();
        let mut descriptors = ListenFd::from_env();
        let mut sockets = HashMap::new();
        for (index, name) in (0..descriptors.len()).zip(names.split(':').chain(std::iter::repeat(""))) {
            let unusable = |what: &str| Failure::options(format!("the service manager's socket {index} {what}"));
            let socket =
                descriptors.take_tcp_listener(index).map_err(|error| unusable(&format!("is of no use: {error}")))?;
            let socket = socket.ok_or_else(|| unusable("is taken"))?;
            if sockets.insert(name.to_owned(), socket).is_some() {
                return Err(unusable(&format!("has the name of another, '{name}'")));
            }
        }
        Ok(Self { sockets })
    }

    /// The socket of a listener.
    pub(crate) fn take(&mut self, listener: &str) -> Option<TcpListener> {
        self.sockets.remove(listener)
    }

    /// Fails if a socket is for none of the listeners.
    pub(crate) fn is_used_up(&self) -> Result<(), Failure> {
        match self.sockets.keys().min() {
            None => Ok(()),
            Some(name) => Err(Failure::options(format!(
                "the service manager's socket '{name}' is for no listener: name it mqtt, mqtts, ws, wss, tls, http or https (FileDescriptorName=)"
            ))),
        }
    }
}
