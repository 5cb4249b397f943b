//! What is printed for the person who started the server.

use std::{fmt::Write as _, io::Write as _, net::SocketAddr};

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

impl Banner<'_> {
    pub(crate) fn print(&self) {
        let mut out = std::io::stdout().lock();
        // Nobody may be reading.
        let _closed = out.write_all(self.text().as_bytes()).and_then(|()| out.flush());
    }

    fn address(&self, name: &str) -> Option<SocketAddr> {
        self.addresses.iter().find(|(known, _)| *known == name).map(|(_, address)| *address)
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
        let Some(http) = self.address("http").map(|address| format!("http://{address}")) else {
            return text + "ready\n";
        };
        if let Some(password) = &self.password {
            line(&mut text, "\nFirst start. Sign in once; this password is not shown again and is good for one use:");
            line(
                &mut text,
                &format!(
                    "  export IOT_TOKEN=$(curl -fsS -u 'admin:{}' -H 'Accept: text/plain' -X POST {http}/v1/sign-in)",
                    password.expose()
                ),
            );
        } else {
            line(&mut text, "\nWithout a token? Stop the server and make a new password: iot-server reset-admin");
        }
        line(&mut text, "\nThen, in the same shell:");
        line(&mut text, &format!("  curl -fsS -H \"Authorization: Bearer $IOT_TOKEN\" {http}/v1/devices"));
        if let Some(mqtt) = self.address("mqtt") {
            line(
                &mut text,
                &format!(
                    "  mosquitto_sub -h {} -p {} -u token -P \"$IOT_TOKEN\" -t 'd/+/up/telemetry' -v",
                    mqtt.ip(),
                    mqtt.port()
                ),
            );
        }
        let device = if self.demo > 0 { "demo-1" } else { "<device>" };
        line(
            &mut text,
            &format!(
                "  curl -fsS -H \"Authorization: Bearer $IOT_TOKEN\" -H 'Content-Type: application/json' \\\n    -d '{{\"name\": \"set\", \"args\": {{\"on\": true}}}}' '{http}/v1/devices/{device}/commands?wait_ms=5000'"
            ),
        );
        if let Some(mqtts) = self.address("mqtts") {
            line(&mut text, "\nOne more simulated device (a claim token: POST /v1/claim-tokens, see the README):");
            line(
                &mut text,
                &format!(
                    "  IOT_CLAIM_TOKEN=ct_… cargo run --release -p iot-device -- --http {http} --mqtts {mqtts} --ca {}",
                    self.folder.ca().display()
                ),
            );
        }
        text + "\nready\n"
    }
}

fn line(text: &mut String, line: &str) {
    // Writing to a String does not fail.
    let _infallible = writeln!(text, "{line}");
}
