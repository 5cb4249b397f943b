//! A PostgreSQL server of this test process: private, durable, and gone with it.
//!
//! Debian's package is enough (`/usr/lib/postgresql/*/bin`); its own service is not used.

#![allow(dead_code, reason = "each test program uses a part")]

use std::{
    fs,
    net::TcpListener,
    os::unix::fs::chown,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

/// Ends the server and removes its folder when its standard input ends, which is when the test process has ended, however it
/// did. It ignores the signals that a terminal sends to all.
const WATCHDOG: &str = r#"trap '' INT TERM HUP
cat >/dev/null
"$@" --mode=immediate --wait stop >/dev/null 2>&1
rm -rf "$IOT_CLUSTER""#;

/// A running server.
pub(crate) struct Cluster {
    folder: PathBuf,
    programs: PathBuf,
    user: Option<String>,
    port: u16,
}

impl Cluster {
    /// Makes and starts one, with settings beside `fsync = on`.
    pub(crate) fn start(settings: &[&str]) -> Self {
        let user = is_root().then(|| "postgres".to_owned());
        // A short path: a socket's has at most 107 bytes.
        let folder = tempfile::Builder::new().prefix("iot-pg-").tempdir().unwrap().keep();
        if let Some(user) = &user {
            hand_over(&folder, user);
        }
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let cluster = Self { programs: programs(), folder, user, port };
        let data = cluster.data();
        output(
            cluster
                .command("initdb")
                .args(["--no-sync", "--auth=trust", "--username=iot", "--encoding=UTF8"])
                .arg(&data),
        );
        let mut lines = format!("unix_socket_directories = '{}'\nport = {port}\n", cluster.folder.display());
        lines += "listen_addresses = '127.0.0.1'\nmax_connections = 300\nfsync = on\nlogging_collector = off\n";
        lines.extend(settings.iter().map(|setting| format!("{setting}\n")));
        fs::write(data.join("postgresql.auto.conf"), lines).unwrap();
        cluster.watch();
        cluster.resume();
        cluster
    }

    pub(crate) fn url(&self) -> String {
        format!("host={} port={} user=iot dbname=postgres", self.folder.display(), self.port)
    }

    /// Over TCP, as TLS needs.
    pub(crate) fn url_of_host(&self, host: &str) -> String {
        format!("host={host} port={} user=iot dbname=postgres", self.port)
    }

    /// Stops it as a crash does: nothing is written that was not written.
    pub(crate) fn crash(&self) {
        output(self.command("pg_ctl").arg("--pgdata").arg(self.data()).args(["--mode=immediate", "--wait", "stop"]));
    }

    /// Starts it again.
    pub(crate) fn resume(&self) {
        let mut start = self.command("pg_ctl");
        start.arg("--pgdata").arg(self.data()).arg("--log").arg(self.folder.join("log")).args(["--wait", "start"]);
        let status = start.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).status().unwrap();
        assert!(status.success(), "{}", fs::read_to_string(self.folder.join("log")).unwrap_or_default());
    }

    /// What `psql` prints for a statement.
    pub(crate) fn sql(&self, statement: &str) -> String {
        let mut psql = Command::new(self.programs.join("psql"));
        psql.args(["--no-psqlrc", "--quiet", "--tuples-only", "--no-align", "--command", statement, &self.url()]);
        output(psql.stdin(Stdio::null())).trim().to_owned()
    }

    /// The folder of its data.
    pub(crate) fn data(&self) -> PathBuf {
        self.folder.join("data")
    }

    /// Lets the server's user read a file.
    pub(crate) fn give(&self, path: &Path) {
        let Some(user) = &self.user else { return };
        hand_over(path, user);
    }

    fn watch(&self) {
        let stop = self.command("pg_ctl");
        let mut watchdog = Command::new("sh");
        watchdog.args(["-c", WATCHDOG, "sh"]).arg(stop.get_program()).args(stop.get_args());
        watchdog.arg("--pgdata").arg(self.data()).env("IOT_CLUSTER", &self.folder).current_dir("/");
        #[expect(clippy::zombie_processes, reason = "it outlives this process")]
        let watchdog = watchdog.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        // Its end of the pipe stays open for as long as this process lives.
        std::mem::forget(watchdog.stdin);
    }

    /// PostgreSQL refuses to run as root.
    fn command(&self, program: &str) -> Command {
        let path = self.programs.join(program);
        let mut command = match &self.user {
            None => Command::new(path),
            Some(user) => {
                let mut command = Command::new("setpriv");
                command.args(["--reuid", user, "--regid", user, "--clear-groups"]).arg(path);
                command
            }
        };
        command.current_dir("/").stdin(Stdio::null());
        command
    }
}

fn hand_over(path: &Path, user: &str) {
    let number = |flag: &str| output(Command::new("id").args([flag, user])).trim().parse().unwrap();
    chown(path, Some(number("-u")), Some(number("-g"))).unwrap();
}

fn is_root() -> bool {
    output(Command::new("id").arg("-u")).trim() == "0"
}

/// The newest that Debian's packages have installed, or what the path finds.
fn programs() -> PathBuf {
    let installed = fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten();
    let newest = installed
        .filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok())
        .max()
        .map(|version| PathBuf::from(format!("/usr/lib/postgresql/{version}/bin")));
    newest.unwrap_or_else(|| {
        let found = Command::new("sh").args(["-c", "dirname \"$(command -v pg_ctl)\""]).output().unwrap();
        assert!(found.status.success(), "there is no PostgreSQL: apt-get install postgresql, or set IOT_POSTGRES_URL");
        PathBuf::from(String::from_utf8(found.stdout).unwrap().trim())
    })
}

fn output(command: &mut Command) -> String {
    let output = command.output().unwrap();
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}
