//! Logs and metrics of the process.

use std::{io::IsTerminal, time::Duration};

use metrics_exporter_prometheus::{Matcher, PrometheusBuilder, PrometheusHandle};
use tracing_subscriber::EnvFilter;

use crate::failure::Failure;

/// Logs to stderr, so that stdout has only what is printed for people.
pub(crate) fn log(filter: &str) -> Result<(), Failure> {
    let filter = EnvFilter::try_new(filter)
        .map_err(|error| Failure::options(format!("--log: {error}; for example info or iot_conn=debug")))?;
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_ansi(std::io::stderr().is_terminal())
        .with_writer(std::io::stderr)
        .init();
    Ok(())
}

/// Installs the recorder; the handle renders what it has.
pub(crate) fn metrics() -> Result<PrometheusHandle, Failure> {
    let batches = [1.0, 4.0, 16.0, 64.0, 256.0, 1_024.0, 4_096.0];
    let handle = PrometheusBuilder::new()
        .set_buckets_for_metric(Matcher::Full("iot_ingest_batch_events".to_owned()), &batches)
        .and_then(PrometheusBuilder::install_recorder)
        .map_err(|error| Failure::of("metrics: ", &error))?;
    metrics::gauge!("iot_build_info", "version" => env!("CARGO_PKG_VERSION")).set(1.0);
    Ok(handle)
}

/// Keeps the recorder's memory bounded, for as long as the server runs.
pub(crate) async fn upkeep(handle: PrometheusHandle) {
    let mut tick = tokio::time::interval(Duration::from_secs(5));
    loop {
        tick.tick().await;
        handle.run_upkeep();
    }
}
