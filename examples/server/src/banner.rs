//! What is printed for the person who started the server.

use std::{
    fmt::Write as _,
    io::Write as _,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    path::PathBuf,
};

use iot_core::secret::Secret;

use crate::data_folder::DataFolder;

/// What the person may want to know.
#[derive(Debug)]
pub(crate) struct Banner<'a> {
    pub(crate) folder: &'a DataFolder,
    /// Listeners by name, with the ports that were picked.
    pub(crate) addresses: Vec<(&'static str, SocketAddr)>,
    /// The administrator's password, at the first start.
    pub(crate) password: Option<Secret>,
    pub(crate) demo: u32,
}

/// A device that nobody simulates yet.
const LAMP: &str = "lamp-1";
const JSON: &str = "-H 'Content-Type: application/json'";
const SIGNED_IN: &str = "-H \"Authorization: Bearer $IOT_TOKEN\"";

impl Banner<'_> {
    pub(crate) fn print(&self) {
        let mut out = std::io::stdout().lock();
        // Nobody may be reading.
        let _closed = out.write_all(self.text().as_bytes()).and_then(|()| out.flush());
    }

    fn text(&self) -> String {
        let mut text = format!("iot-server {}, data in {}\n", env!("CARGO_PKG_VERSION"), self.folder.path().display());
        for (name, address) in &self.addresses {
            let (scheme, path) = match *name {
                "ws" => ("ws", "/mqtt"),
                "wss" => ("wss", "/mqtt"),
                other => (other, ""),
            };
            line(&mut text, &format!("  {name:<6} {scheme}://{address}{path}"));
        }
        match self.api() {
            Some(api) => self.next(&mut text, &api),
            None => {
                if let Some(password) = &self.password {
                    line(
                        &mut text,
                        "\nFirst start. The administrator signs in once with this password, where there is HTTP:",
                    );
                    line(&mut text, &format!("  {}", password.expose()));
                }
            }
        }
        text + "\nready\n"
    }

    /// What to do next, in lines that can be pasted.
    fn next(&self, text: &mut String, api: &Api) {
        let Api { curl, url } = api;
        match &self.password {
            Some(password) => {
                let password = password.expose();
                line(
                    text,
                    "\nFirst start. Open the console and set up the administrator with this password; it is good for one use:",
                );
                line(text, &format!("  {url}/setup   {password}"));
                line(text, "\nOr use it for a token on the command line:");
                line(
                    text,
                    &format!(
                        "  export IOT_TOKEN=$({curl} -u 'admin:{password}' -H 'Accept: text/plain' -X POST {url}/v1/sign-in)"
                    ),
                );
            }
            None => {
                line(text, &format!("\nThe console: {url}/"));
                line(text, "\nNo token any more? Stop the server and make a new password:");
                line(text, &format!("  {} --data {} reset-admin", program(), self.folder.path().display()));
            }
        }
        line(text, "\nThen, in the same shell:");
        line(text, &format!("  {curl} {SIGNED_IN} {url}/v1/devices"));
        if let Some(mqtt) = self.address("mqtt") {
            let (host, port) = (mqtt.ip(), mqtt.port());
            line(
                text,
                &format!("  mosquitto_sub -h {host} -p {port} -u token -P \"$IOT_TOKEN\" -t 'd/+/up/telemetry' -v"),
            );
        }
        if self.demo > 0 {
            command(text, api, "demo-1");
            line(
                text,
                "\nEach simulated device has a door: `curl -H 'Content-Type: application/json' -X POST <local>/button` presses its button\nand shows the code that binds it to a home in the console.",
            );
        }
        if let Some(mqtts) = self.address("mqtts") {
            self.device(text, api, mqtts);
            line(text, "\nAnd while it runs, in another shell that has the token:");
            command(text, api, LAMP);
        }
    }

    /// How to make a unit and simulate it.
    fn device(&self, text: &mut String, Api { curl, url }: &Api, mqtts: SocketAddr) {
        let one = if self.demo > 0 { "One more" } else { "A" };
        line(text, &format!("\n{one} simulated device, from its product to its reports:"));
        let product = r#"-X PUT -d '{"name": "Lamp"}'"#;
        line(text, &format!("  {curl} {SIGNED_IN} {JSON} {product} {url}/v1/products/lamp"));
        line(
            text,
            &format!(
                "  printf 'device_id,p_code\\n{LAMP},LAMP-0001\\n' | {curl} {SIGNED_IN} -H 'Content-Type: text/csv' --data-binary @- {url}/v1/products/lamp/units"
            ),
        );
        let asked = r#"-d '{"product": "lamp", "assign": true}'"#;
        let token = r#"sed 's/.*"token":"\([^"]*\)".*/\1/'"#;
        line(
            text,
            &format!("  export IOT_CLAIM_TOKEN=$({curl} {SIGNED_IN} {JSON} {asked} {url}/v1/claim-tokens | {token})"),
        );
        let ca = self.folder.ca();
        line(
            text,
            &format!("  cargo run --release -p iot-device -- --http {url} --mqtts {mqtts} --ca {}", ca.display()),
        );
    }

    fn api(&self) -> Option<Api> {
        if let Some(http) = self.address("http") {
            return Some(Api { curl: "curl -fsS".to_owned(), url: format!("http://{http}") });
        }
        let https = self.address("https")?;
        let curl = format!("curl -fsS --cacert {}", self.folder.ca().display());
        Some(Api { curl, url: format!("https://{https}") })
    }

    /// Where this machine reaches a listener.
    fn address(&self, name: &str) -> Option<SocketAddr> {
        let (_, address) = self.addresses.iter().find(|(known, _)| *known == name)?;
        let ip = match address.ip() {
            IpAddr::V4(ip) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
            IpAddr::V6(ip) if ip.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
            ip => ip,
        };
        Some(SocketAddr::new(ip, address.port()))
    }
}

/// How to ask the HTTP API.
#[derive(Debug)]
struct Api {
    curl: String,
    url: String,
}

fn command(text: &mut String, Api { curl, url }: &Api, device: &str) {
    let body = r#"-d '{"name": "set", "args": {"on": true}}'"#;
    line(text, &format!("  {curl} {SIGNED_IN} {JSON} {body} '{url}/v1/devices/{device}/commands?wait_ms=5000'"));
}

fn program() -> String {
    std::env::current_exe().unwrap_or_else(|_| PathBuf::from("iot-server")).display().to_string()
}

fn line(text: &mut String, line: &str) {
    // Writing to a String does not fail.
    let _infallible = writeln!(text, "{line}");
}
