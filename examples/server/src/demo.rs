//! Simulated devices in a process of their own, which is told addresses, a claim token and the CA, nothing else.

use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr},
    process::Stdio,
    time::Duration,
};

use iot_auth::{
    Auth, AuthError,
    registry::{Import, IssuedClaimToken},
};
use iot_core::{
    access::{Principal, Subject},
    device::Product,
    id::{HomeId, ProductId, TokenId},
    store::Index,
};
use tokio::{
    process::{Child, ChildStdin, Command},
    sync::watch,
    time::Instant,
};

use crate::{data_folder::DataFolder, failure::Failure};

const PRODUCT: &str = "demo";
const HOME: &str = "demo-home";
const CLAIM_VALID: Duration = Duration::from_secs(3_600);
/// How long the devices get to disconnect before they are killed.
const END_WITHIN: Duration = Duration::from_secs(5);
const RESTART_MIN: Duration = Duration::from_secs(1);
const RESTART_MAX: Duration = Duration::from_secs(60);
/// With more devices than this none has a local door: nobody would press so many buttons.
const DOORS_MAX: u32 = 20;

/// What the child is told.
#[derive(Debug, Clone)]
pub(crate) struct Demo {
    pub(crate) count: u32,
    pub(crate) http: SocketAddr,
    pub(crate) mqtts: SocketAddr,
    pub(crate) folder: DataFolder,
}

/// In whose name the units of the demo are made.
fn demo_principal() -> Principal {
    let token = TokenId::parse("demo").expect("it is an identifier");
    Principal { tenant: Auth::default_tenant(), subject: Subject::Token(token) }
}

impl Demo {
    /// Makes the product, the home and as many units as are missing; answers a claim token for them. Units that are
    /// claimed need it too, if they were killed between their claim and its answer.
    async fn prepare(&self, auth: &Auth) -> Result<IssuedClaimToken, Failure> {
        let failed = |error: AuthError| Failure::of("--demo: ", &error);
        let by = demo_principal();
        let product = ProductId::parse(PRODUCT).expect("it is an identifier");
        let home = HomeId::parse(HOME).expect("it is an identifier");
        let _replaced = auth
            .put_product(&by, Product::new(by.tenant.clone(), product.clone(), "Simulated device"))
            .await
            .map_err(failed)?;
        let _replaced = auth.put_home(&by, &home, "Demo home").await.map_err(failed)?;
        let index = Index::new("device", "product", format!("{}/{product}", by.tenant));
        let there = auth.meta().count(&index).await.map_err(|error| Failure::of("--demo: ", &error))?;
        if there < u64::from(self.count) {
            let rows: String =
                (there + 1..=u64::from(self.count)).map(|n| format!("demo-{n},DEMO-{n},{HOME}\n")).collect();
            let csv = format!("device_id,p_code,home\n{rows}");
            match auth.import_units(&by, &product, csv.as_bytes()).await.map_err(failed)? {
                Import::Done(_) => {}
                other => return Err(Failure::options(format!("--demo: the units cannot be made: {other:?}"))),
            }
        }
        let issued = auth.issue_claim_token(&by, &product, self.count, CLAIM_VALID, true).await.map_err(failed)?;
        issued.ok_or_else(|| Failure::options("--demo: the product is gone"))
    }

    /// Runs the child until shutdown; starts it again when it ends.
    pub(crate) async fn run(self, auth: std::sync::Arc<Auth>, mut shutdown: watch::Receiver<bool>) {
        let mut pause = RESTART_MIN;
        loop {
            let started = Instant::now();
            match self.start(&auth).await {
                Ok(Running { mut child, leash, claim_token }) => {
                    let is_over = tokio::select! {
                        ended = child.wait() => {
                            tracing::warn!(?ended, "the simulated devices ended; starting them again");
                            false
                        }
                        _ = shutdown.changed() => {
                            end(child).await;
                            true
                        }
                    };
                    drop(leash);
                    if let Err(error) = auth.revoke_claim_token(&demo_principal(), &claim_token).await {
                        tracing::warn!(%error, "the claim token of the simulated devices is good until its end");
                    }
                    if is_over {
                        return;
                    }
                }
                Err(failure) => tracing::error!(%failure, "the simulated devices cannot be started"),
            }
            if started.elapsed() > RESTART_MAX {
                pause = RESTART_MIN;
            }
            tokio::select! {
                () = tokio::time::sleep(pause) => pause = (pause * 2).min(RESTART_MAX),
                _ = shutdown.changed() => return,
            }
        }
    }

    async fn start(&self, auth: &Auth) -> Result<Running, Failure> {
        let issued = self.prepare(auth).await?;
        let program = std::env::current_exe().map_err(|error| Failure::of("--demo: ", &error))?;
        let mut command = Command::new(program);
        for (name, _) in std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("IOT_")) {
            command.env_remove(name);
        }
        command.arg("device");
        if self.count <= DOORS_MAX {
            // So that a person can press their buttons.
            command.args(["--local", "127.0.0.1:0"]);
        }
        command
            .args(["--http", &format!("http://{}", loopback(self.http))])
            .args(["--mqtts", &loopback(self.mqtts).to_string(), "--count", &self.count.to_string()])
            .args(["--interval-ms", "2000", "--ca"])
            .arg(self.folder.ca())
            .arg("--state")
            .arg(self.folder.demo_devices())
            .env("IOT_CLAIM_TOKEN", issued.text.expose())
            .stdin(Stdio::piped())
            .kill_on_drop(true);
        let mut child = command.spawn().map_err(|error| Failure::of("--demo: ", &error))?;
        Ok(Running { leash: child.stdin.take(), child, claim_token: issued.token.id })
    }
}

/// The child process.
#[derive(Debug)]
struct Running {
    child: Child,
    /// Its standard input, never written to: the child ends when it closes, so that it does not outlive a server that was
    /// killed. Apart from the child, because waiting for a child closes what it has.
    leash: Option<ChildStdin>,
    claim_token: TokenId,
}

/// The address by which this machine reaches a listener.
fn loopback(address: SocketAddr) -> SocketAddr {
    if address.ip().is_unspecified() {
        SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), address.port())
    } else {
        address
    }
}

async fn end(mut child: Child) {
    let pid = child.id().and_then(|pid| i32::try_from(pid).ok()).and_then(rustix::process::Pid::from_raw);
    if let Some(pid) = pid {
        let _gone = rustix::process::kill_process(pid, rustix::process::Signal::TERM);
    }
    if tokio::time::timeout(END_WITHIN, child.wait()).await.is_err() {
        let _gone = child.kill().await;
    }
}
