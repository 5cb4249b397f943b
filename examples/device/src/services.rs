//! The unit's side of the cloud's services, and of whoever is beside it.

use std::{collections::HashMap, path::Path, sync::Arc};

use bytes::Bytes;
use iot_auth::device::Identity;
use iot_conn::mqtt::client::Token;
use iot_core::secret::Secret;
use iot_ota::wire::{Report, Up};
use serde::Deserialize;
use serde_json::{Map, Value, json};
use tokio::{
    net::TcpListener,
    sync::{mpsc, oneshot},
};
use tracing::{debug, warn};

use crate::{
    again::{self, Again, Next},
    firmware::{self, Firmware, Heard, Wish},
    local::{self, Button, Press},
    twin,
    unit::{Shared, Unit, random},
};

/// Presses that wait; whoever presses meanwhile waits as well.
const PRESSES_MAX: usize = 8;
/// How long somebody counts as beside the unit after pressing its button, in seconds.
const PRESENT_S: u64 = 120;

/// What a unit has besides its connection.
#[derive(Debug)]
pub(crate) struct Services {
    pub(crate) presses: mpsc::Receiver<Press>,
    pub(crate) wishes: mpsc::Receiver<Wish>,
    // Kept, so that the receivers above wait where nobody sends.
    _presses: mpsc::Sender<Press>,
    _wishes: mpsc::Sender<Wish>,
    firmware: Option<mpsc::Sender<Heard>>,
    /// Who pressed the button and waits for the code.
    waiting: Option<oneshot::Sender<Button>>,
    /// Final reports whose acknowledgement is awaited.
    reports: HashMap<Token, Report>,
    /// The final report that the cloud did not take.
    unreported: Option<Report>,
    pub(crate) again: Again,
    /// It has its factory state and has not heard yet what its owner desires.
    forgot: bool,
    /// The newest version of the twin that was seen in this connection.
    twin_seen: u64,
    bound: Option<bool>,
    runs: String,
}

#[derive(Deserialize)]
#[serde(tag = "type", rename_all = "lowercase")]
enum BindingSaid {
    State {
        bound: bool,
    },
    Code {
        #[serde(deserialize_with = "secret")]
        code: Secret,
        expires_s: u64,
    },
    Absent,
    Refused {
        code: String,
    },
}

#[derive(Deserialize)]
#[serde(tag = "type", rename_all = "lowercase")]
enum TwinSaid {
    Delta { version: u64, desired: Map<String, Value> },
    Twin { version: u64, desired: Map<String, Value> },
    Accepted {},
    Refused { code: String },
}

fn secret<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Secret, D::Error> {
    String::deserialize(deserializer).map(Secret::new)
}

impl Services {
    /// Opens the door and starts the firmware, as far as the unit has them.
    pub(crate) async fn start(shared: &Arc<Shared>, identity: &Identity, folder: &Path) -> std::io::Result<Self> {
        let (presses, pressed) = mpsc::channel(PRESSES_MAX);
        let (wishes, wished) = mpsc::channel(firmware::MESSAGES_MAX);
        if let Some(at) = shared.local {
            let listener = local::bind(at).await?;
            announce(shared, identity, &listener)?;
            tokio::spawn(local::serve(listener, identity.device_id.clone(), presses.clone()));
        }
        let firmware = shared.factory.clone().map(|factory| {
            let (hear, heard) = mpsc::channel(firmware::MESSAGES_MAX);
            let firmware = Firmware {
                factory,
                tenant: identity.tenant.clone(),
                folder: folder.join("firmware"),
                clock: shared.clock,
                agent: firmware::agent(shared.authority.as_ref()),
                fails: shared.fail_health,
                heard,
                wishes: wishes.clone(),
            };
            tokio::spawn(firmware.run());
            hear
        });
        Ok(Self {
            presses: pressed,
            wishes: wished,
            _presses: presses,
            _wishes: wishes,
            firmware,
            waiting: None,
            reports: HashMap::new(),
            unreported: None,
            again: Again::default(),
            forgot: true,
            twin_seen: 0,
            bound: None,
            runs: env!("CARGO_PKG_VERSION").to_owned(),
        })
    }

    fn hear(&self, heard: Heard) {
        if let Some(firmware) = &self.firmware
            && firmware.try_send(heard).is_err()
        {
            debug!("the firmware is busy: the cloud will say it again");
        }
    }

    /// The cloud has a message of this device.
    pub(crate) fn acknowledged(&mut self, token: Token, is_error: bool) {
        match self.reports.remove(&token) {
            Some(report) if is_error => self.unreported = Some(report),
            Some(report) => self.hear(Heard::Reported(report)),
            None => {}
        }
    }
}

fn announce(shared: &Shared, identity: &Identity, listener: &TcpListener) -> std::io::Result<()> {
    shared.console.note(&identity.device_id, &format!("local http://{}", listener.local_addr()?));
    Ok(())
}

impl Unit {
    /// The unit is connected: says what it is.
    pub(crate) fn introduce(&mut self) {
        self.services.twin_seen = 0;
        self.ask_twin();
        if let Some(report) = self.services.unreported.take() {
            self.report_update(report);
        }
        self.services.hear(Heard::Connected);
    }

    /// Reports all. What the cloud believes of a unit that has forgotten its state may be what is desired: then no delta comes, and
    /// it asks.
    fn ask_twin(&mut self) {
        let whole = twin::whole(&self.appliance, self.interval, &self.services.runs);
        self.report_twin(&whole);
        if self.services.forgot {
            self.ask("twin", &json!({"type": "get"}));
        }
    }

    /// What its own state has come to by a command.
    pub(crate) fn report_switch(&mut self) {
        let on = json!({"on": self.appliance.is_on()});
        if let Some(on) = on.as_object() {
            self.report_twin(on);
        }
    }

    fn report_twin(&mut self, reported: &Map<String, Value>) {
        self.ask("twin", &json!({"type": "report", "reported": reported}));
    }

    fn ask(&mut self, service: &str, question: &Value) {
        self.publish(&format!("up/service/{service}"), question.to_string().into_bytes());
    }

    /// A service of the cloud said something.
    pub(crate) fn handle_service(&mut self, service: &str, payload: &Bytes) {
        let known = again::SERVICES.into_iter().find(|known| *known == service);
        if let Some(known) = known.filter(|_| is_unavailable(payload)) {
            return self.handle_unavailable(known);
        }
        self.services.again.answered(service);
        let unread =
            |error: serde_json::Error| warn!(service, kind = ?error.classify(), "a service said what cannot be read");
        match service {
            "binding" => serde_json::from_slice(payload).map_or_else(unread, |said| self.handle_binding(said)),
            "twin" => serde_json::from_slice(payload).map_or_else(unread, |said| self.handle_twin(said)),
            "update" => self.services.hear(Heard::Said(payload.clone())),
            other => debug!(service = other, "a service that this device has no use for"),
        }
    }

    fn handle_unavailable(&mut self, service: &'static str) {
        match self.services.again.unavailable(self.now(), service, random()) {
            Next::At(_) => debug!(device = %self.id, service, "a service cannot answer now; it is asked again"),
            Next::GiveUp => {
                warn!(device = %self.id, service, "a service does not answer; it is left alone until the next connection");
                if let Some(waiting) = self.services.waiting.take_if(|_| service == "binding") {
                    let _gone = waiting.send(Button::Refused("unavailable".to_owned()));
                }
            }
        }
    }

    /// Asks again what is due. Each question is made anew, of what is so by now.
    pub(crate) fn ask_again(&mut self) {
        while let Some(service) = self.services.again.due(self.now()) {
            match service {
                "twin" => self.ask_twin(),
                // Whoever pressed may have gone.
                "binding" if self.services.waiting.as_ref().is_some_and(|waiting| !waiting.is_closed()) => {
                    self.ask_code();
                }
                "update" => {
                    if let Some(report) = self.services.unreported.take() {
                        self.report_update(report);
                    }
                    self.services.hear(Heard::Again);
                }
                _ => {}
            }
        }
    }

    fn handle_binding(&mut self, said: BindingSaid) {
        let answer = match said {
            BindingSaid::State { bound } => {
                if self.services.bound.replace(bound) != Some(bound) {
                    self.shared.console.note(&self.id, if bound { "has an owner" } else { "has no owner" });
                }
                return;
            }
            BindingSaid::Absent => return,
            BindingSaid::Code { code, expires_s } => Button::Code { code, expires_s },
            BindingSaid::Refused { code } => Button::Refused(code),
        };
        if let Some(waiting) = self.services.waiting.take() {
            // An error means that whoever pressed has gone: the code dies by its time.
            let _gone = waiting.send(answer);
        }
    }

    fn handle_twin(&mut self, said: TwinSaid) {
        match said {
            // An older one that comes late knows less.
            TwinSaid::Delta { version, .. } if version < self.services.twin_seen => {}
            TwinSaid::Delta { version, desired } => {
                self.services.twin_seen = version;
                self.carry_out(&desired);
            }
            TwinSaid::Twin { version, desired } => {
                self.services.twin_seen = self.services.twin_seen.max(version);
                self.services.forgot = false;
                self.carry_out(&desired);
            }
            TwinSaid::Refused { code } => warn!(device = %self.id, code, "the twin refused a report"),
            TwinSaid::Accepted {} => {}
        }
    }

    fn carry_out(&mut self, desired: &Map<String, Value>) {
        let done = twin::carry_out(&mut self.appliance, desired);
        self.interval = done.interval.unwrap_or(self.interval);
        if !done.reported.is_empty() {
            self.report_twin(&done.reported);
        }
    }

    /// Somebody beside the unit does something; why its connection must end, if it must.
    pub(crate) fn handle_press(&mut self, press: Press) -> Option<String> {
        match press {
            Press::Look(answer) => {
                let look = json!({
                    "device": self.id, "firmware": self.services.runs, "connected": self.client.is_connected(),
                    "bound": self.services.bound, "on": self.appliance.is_on(),
                });
                let _gone = answer.send(look);
                None
            }
            Press::Button(answer) if !self.client.is_connected() => {
                let _gone = answer.send(Button::NotConnected);
                None
            }
            Press::Button(answer) => {
                // Who pressed before and still waits is told that somebody else has.
                self.services.waiting = Some(answer);
                self.ask_code();
                None
            }
            Press::Reset(answer) => {
                self.reset();
                let _gone = answer.send(());
                Some("factory reset".to_owned())
            }
        }
    }

    fn ask_code(&mut self) {
        self.ask("binding", &json!({"type": "present", "for_s": PRESENT_S}));
    }

    /// Forgets what its owner has set. Identity and firmware stay, and so does what is to be reported. Who stands beside a unit does not
    /// thereby take it from its owner: while it is bound, what the owner desires of its twin comes back with the next connection.
    fn reset(&mut self) {
        self.ask("binding", &json!({"type": "absent"}));
        self.appliance = crate::appliance::Appliance::new(&self.id);
        self.interval = self.shared.interval;
        self.services.waiting = None;
        self.services.bound = None;
        self.services.forgot = true;
        self.shared.console.note(&self.id, "is reset to its factory state");
    }

    /// The firmware wants something; why the connection must end, if it must.
    pub(crate) fn handle_wish(&mut self, wish: Wish) -> Option<String> {
        match wish {
            Wish::Say(Up::Report(report)) => {
                self.report_update(report);
                None
            }
            Wish::Say(up) => {
                self.publish("up/service/update", up.to_json());
                None
            }
            Wish::Restart => {
                self.shared.console.note(&self.id, "restarts");
                Some("restart".to_owned())
            }
            Wish::Runs(version) => {
                self.shared.console.note(&self.id, &format!("runs {version}"));
                self.services.runs = version;
                None
            }
            Wish::Note(text) => {
                self.shared.console.note(&self.id, &text);
                None
            }
        }
    }
    fn report_update(&mut self, report: Report) {
        let token = self.publish("up/service/update", Up::Report(report.clone()).to_json());
        if let Some(token) = token.filter(|_| report.state.is_final()) {
            self.services.reports.insert(token, report);
        }
    }
}

fn is_unavailable(payload: &Bytes) -> bool {
    #[derive(Deserialize)]
    struct Refused<'a> {
        r#type: &'a str,
        code: &'a str,
    }
    let said = serde_json::from_slice::<Refused<'_>>(payload);
    said.is_ok_and(|said| said.r#type == "refused" && said.code == "unavailable")
}
