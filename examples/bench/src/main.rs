//! A load generator for brokers and clouds on this machine.
//!
//! Each subcommand prints one JSON object on standard output and one line for people on standard error. Exit code 0 when
//! everything arrived, 1 when something did not, 2 for wrong options. Targets on other machines are refused.
//!
//! ```text
//! cargo run --release -p iot-bench -- pairs --qos 1 --pairs 10 --messages 100000 --window 100
//! ```

mod abuse;
mod command;
mod connect;
mod fleet;
mod flood;
mod flow;
mod handshake;
mod histogram;
mod latency;
mod options;
mod peer;
mod process;
mod publisher;
mod tally;
mod telemetry;

use std::{io::Write, process::ExitCode};

use clap::Parser;
use options::{Bench, Options};

/// Why a measurement has no result.
#[derive(Debug, thiserror::Error)]
enum BenchError {
    /// It was asked for something that cannot be done.
    #[error("{0}")]
    Options(String),
    /// The target did not play along.
    #[error("{0}")]
    Target(String),
}

/// What was measured.
struct Outcome {
    json: serde_json::Value,
    text: String,
    is_complete: bool,
}

fn main() -> ExitCode {
    let options = match Options::try_parse() {
        Ok(options) => options,
        Err(error) if !error.use_stderr() => {
            let _ = error.print();
            return ExitCode::SUCCESS;
        }
        Err(error) => {
            let text = error.to_string();
            return complain(text.lines().next().unwrap_or_default().trim_start_matches("error: "), 2);
        }
    };
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return complain(&error.to_string(), 1),
    };
    match runtime.block_on(measure(options.bench)) {
        Ok(outcome) => {
            let _ = writeln!(std::io::stdout().lock(), "{}", outcome.json);
            let _ = writeln!(std::io::stderr().lock(), "{}", outcome.text);
            ExitCode::from(u8::from(!outcome.is_complete))
        }
        Err(BenchError::Options(text)) => complain(&text, 2),
        Err(BenchError::Target(text)) => complain(&text, 1),
    }
}

async fn measure(bench: Bench) -> Result<Outcome, BenchError> {
    match bench {
        Bench::Pairs(options) => flow::pairs(options).await,
        Bench::FanIn(options) => flow::fan_in(options).await,
        Bench::FanOut(options) => flow::fan_out(options).await,
        Bench::Flood(options) => flood::measure(options).await,
        Bench::Latency(options) => latency::measure(options).await,
        Bench::Handshake(options) => handshake::measure(&options),
        Bench::Connect(options) => connect::measure(options).await,
        Bench::DeviceTelemetry(options) => telemetry::measure(options).await,
        Bench::CommandLatency(options) => command::measure(options).await,
        Bench::Abuse(options) => Box::pin(abuse::measure(options)).await,
    }
}

fn complain(text: &str, code: u8) -> ExitCode {
    let _ = writeln!(std::io::stderr().lock(), "iot-bench: {text}");
    ExitCode::from(code)
}
