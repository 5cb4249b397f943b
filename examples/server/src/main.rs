//! A complete IoT cloud in one process, made of the iot crates. `cloud.rs` is where they are joined, `logic.rs` where your
//! own cloud logic goes.

mod activation;
mod backup;
mod banner;
mod cloud;
mod console;
mod data_folder;
mod database;
mod demo;
mod export;
mod failure;
mod http;
mod logic;
mod mail;
mod observability;
mod options;
mod quotas;
mod retention;
mod sockets;
mod supervisor;
mod telemetry;
mod tls;

use std::{io::Write, process::ExitCode, time::Duration};

use clap::Parser;

use crate::{
    failure::Failure,
    options::{Cli, Command, Options, one_line},
};

/// How long work that nobody waits for may hold up the end.
const END_WITHIN: Duration = Duration::from_secs(1);

fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) if !error.use_stderr() => {
            let _closed = error.print();
            return ExitCode::SUCCESS;
        }
        Err(error) => {
            let text = one_line(error.to_string().trim_start_matches("error: "));
            return end(&Failure::options(format!("{text}; see iot-server --help")));
        }
    };
    match start(cli) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => end(&failure),
    }
}

fn end(failure: &Failure) -> ExitCode {
    let _closed = writeln!(std::io::stderr().lock(), "iot-server: {failure}");
    failure.exit_code()
}

fn start(cli: Cli) -> Result<(), Failure> {
    // One provider for all of TLS; an error would mean that it is installed already.
    let _installed = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
    let runtime = runtime.map_err(|error| Failure::of("", &error))?;
    let outcome = match cli.command {
        Some(Command::Device(options)) => runtime.block_on(devices(*options)),
        Some(Command::ResetAdmin) => runtime.block_on(reset_admin(cli.settings.resolve()?)),
        Some(Command::Backup { to }) => said(runtime.block_on(backup::take(&cli.settings.resolve()?, &to))),
        Some(Command::Restore { from }) => said(runtime.block_on(backup::restore(&from, &cli.settings.resolve()?))),
        Some(Command::Export { to, wanted }) => {
            said(runtime.block_on(export::export(&cli.settings.resolve()?, &wanted, &to)))
        }
        Some(Command::FenceSessions) => said(runtime.block_on(fence_sessions(&cli.settings.resolve()?))),
        None => {
            let options = cli.settings.resolve()?;
            observability::log(&options.log)?;
            let inherited = activation::Inherited::of_service_manager()?;
            runtime.block_on(cloud::run(options, inherited))
        }
    };
    runtime.shutdown_timeout(END_WITHIN);
    outcome
}

/// Prints the line that a command ends with.
fn said(line: Result<String, Failure>) -> Result<(), Failure> {
    let _closed = writeln!(std::io::stdout().lock(), "{}", line?);
    Ok(())
}

async fn fence_sessions(options: &Options) -> Result<String, Failure> {
    let Some(url) = &options.postgres else {
        return Err(Failure::options("fence-sessions is for a database: name it with --postgres"));
    };
    let highest = database::postgres::fence_sessions(url, options.postgres_ca.as_deref()).await?;
    Ok(format!("all sessions have new epochs, up to {highest}"))
}

async fn reset_admin(options: Options) -> Result<(), Failure> {
    let password = cloud::reset_admin(&options).await?;
    let text = format!("The administrator signs in once with this password: {}\n", password.expose());
    let _closed = std::io::stdout().lock().write_all(text.as_bytes());
    Ok(())
}

async fn devices(options: iot_device::Options) -> Result<(), Failure> {
    observability::log(&options.log)?;
    let mut signals = supervisor::signalled()?;
    let told = async move {
        tokio::select! {
            () = signals.received() => {}
            () = parent_gone() => {}
        }
    };
    iot_device::run(options, told).await.map_err(|error| match error {
        iot_device::RunError::Options(_) => Failure::options(error.to_string()),
        other => Failure::part(other.to_string()),
    })
}

/// Resolves when standard input ends: the server that started these devices is no more.
async fn parent_gone() {
    let mut input = tokio::io::stdin();
    let mut bytes = [0; 64];
    while tokio::io::AsyncReadExt::read(&mut input, &mut bytes).await.is_ok_and(|count| count > 0) {}
}
