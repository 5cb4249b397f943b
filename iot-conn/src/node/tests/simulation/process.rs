//! A node as an operating system sees it: it is started, drains, and is killed.

use std::{
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use iot_core::{
    clock::Clock,
    id::NodeId,
    limits::Limits,
    store::Stores,
    time::{Monotonic, Timestamp},
};
use tokio::{
    sync::oneshot,
    task::{JoinHandle, JoinSet},
    time::Instant,
};

use super::network::NodeEnd;
use crate::{
    node::{
        Node, ServeError, opening,
        tests::cloud::{Book, authenticator},
    },
    transport::{Bound, Peer, Stream},
};

/// The paused time of the runtime.
#[derive(Debug)]
pub(super) struct Paused {
    start: Instant,
}

/// Readings begin here, not at zero.
const BEGIN: Duration = Duration::from_secs(1_000);

impl Paused {
    pub(super) fn new() -> Self {
        Self { start: Instant::now() }
    }
}

impl Clock for Paused {
    fn timestamp(&self) -> Timestamp {
        Timestamp::EPOCH.plus(BEGIN + self.start.elapsed())
    }

    fn monotonic(&self) -> Monotonic {
        Monotonic::from_duration(BEGIN + self.start.elapsed())
    }
}

pub(super) struct Process {
    pub(super) node: Node,
    served: JoinHandle<Result<(), ServeError>>,
    connections: JoinSet<()>,
    stop: Option<oneshot::Sender<()>>,
}

impl Process {
    /// Starts a node over what its predecessors left, and waits until it takes connections.
    pub(super) async fn start(stores: Stores, clock: Arc<Paused>) -> Self {
        let limits = Limits { session_expiry_s_max: 7 * 24 * 3_600, ..Limits::default() };
        let node = Node::builder(NodeId::parse("n").unwrap(), stores, clock)
            .limits(limits)
            .authenticate_with(authenticator(), Arc::new(Book::default()))
            .build();
        let (stop, stopped) = oneshot::channel();
        let serving = node.clone();
        let bound = Bound { listeners: Vec::new() };
        let served = tokio::spawn(async move { serving.serve(bound, async { drop(stopped.await) }).await });
        let process = Self { node, served, connections: JoinSet::new(), stop: Some(stop) };
        while process.node.inner.looked_at_us.load(Ordering::Relaxed) == 0 {
            assert!(!process.served.is_finished(), "the node did not start");
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        process
    }

    pub(super) fn accept(&mut self, end: NodeEnd) {
        let inner = self.node.inner.clone();
        let Some(permit) = inner.acceptor.permit() else { return };
        let peer = Peer {
            address: ([192, 0, 2, 1], 1).into(),
            listener: "simulation",
            encrypted: false,
            certificate: None,
            anonymous_allowed: false,
        };
        self.connections.spawn(async move {
            if let Some(session) = opening::begin(inner, Stream::Memory(Box::new(end)), peer, permit).await {
                opening::serve(session).await;
            }
        });
        while let Some(ended) = self.connections.try_join_next() {
            ended.unwrap();
        }
    }

    pub(super) fn drain(&mut self) {
        if let Some(stop) = self.stop.take() {
            let _ = stop.send(());
        }
    }

    pub(super) fn is_draining(&self) -> bool {
        self.stop.is_none()
    }

    pub(super) fn has_ended(&self) -> bool {
        self.served.is_finished()
    }

    /// The process is gone, wherever it was.
    pub(super) async fn kill(mut self) {
        self.served.abort();
        self.connections.abort_all();
        match self.served.await {
            Ok(served) => served.unwrap(),
            Err(error) => assert!(error.is_cancelled(), "{error}"),
        }
        while let Some(ended) = self.connections.join_next().await {
            assert!(ended.is_ok() || ended.is_err_and(|error| error.is_cancelled()), "a connection has panicked");
        }
    }
}
