//! A simulated device: see the library of the same package.

use std::{
    io::{IsTerminal, Write},
    process::ExitCode,
    time::Duration,
};

use clap::Parser;
use iot_device::{Options, RunError, run};
use tokio::signal::unix::{SignalKind, signal};
use tracing_subscriber::EnvFilter;

/// How long work that nobody waits for may hold up the end.
const END_TIMEOUT: Duration = Duration::from_millis(200);

fn main() -> ExitCode {
    let options = match Options::try_parse() {
        Ok(options) => options,
        Err(error) if !error.use_stderr() => {
            let _ = error.print();
            return ExitCode::SUCCESS;
        }
        Err(error) => return complain(first_line(&error.to_string()), 2),
    };
    let filter = match EnvFilter::try_new(&options.log) {
        Ok(filter) => filter,
        Err(error) => return complain(&format!("--log: {error}"), 2),
    };
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_ansi(std::io::stderr().is_terminal())
        .with_writer(std::io::stderr)
        .init();
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return complain(&format!("cannot start: {error}"), 1),
    };
    let outcome = runtime.block_on(async {
        let (mut interrupt, mut terminate) = match (signal(SignalKind::interrupt()), signal(SignalKind::terminate())) {
            (Ok(interrupt), Ok(terminate)) => (interrupt, terminate),
            (Err(error), _) | (_, Err(error)) => return Err(RunError::Options(format!("no signals: {error}"))),
        };
        let shutdown = async move {
            tokio::select! {
                _ = interrupt.recv() => {}
                _ = terminate.recv() => {}
            }
        };
        run(options, shutdown).await
    });
    runtime.shutdown_timeout(END_TIMEOUT);
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error @ RunError::Options(_)) => complain(&error.to_string(), 2),
        Err(error) => complain(&error.to_string(), 1),
    }
}

fn complain(text: &str, code: u8) -> ExitCode {
    let _ = writeln!(std::io::stderr().lock(), "iot-device: {text}");
    ExitCode::from(code)
}

/// Clap explains itself over several lines; the first one says what is wrong.
fn first_line(text: &str) -> &str {
    text.lines().next().unwrap_or(text).trim_start_matches("error: ")
}
