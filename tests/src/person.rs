//! People: registered by the code that the server mails them, signed in, with homes and invitations.

use std::fs;

use serde_json::{Value, json};

use crate::{
    cloud::Cloud,
    http::{Answer, Api},
    process::Process,
    wait::{SOON, until},
};

/// Everybody's.
pub const PASSWORD: &str = "correct horse battery";

/// Somebody with an account.
#[derive(Debug)]
#[expect(clippy::exhaustive_structs, reason = "attacks mix the parts of several")]
pub struct Person {
    /// The account's id.
    pub account: String,
    /// The address.
    pub email: String,
    /// The access token.
    pub token: String,
    /// The refresh token.
    pub refresh: String,
    /// HTTP as this person.
    pub api: Api,
}

impl Person {
    /// Registers `name@example.org`, reads the code from the outbox, and signs in.
    #[track_caller]
    pub fn register(cloud: &Cloud, name: &str) -> Self {
        let (api, email) = (cloud.anyone(), format!("{name}@example.org"));
        let body = json!({"email": email, "password": PASSWORD, "name": name});
        let asked = api.post("/v1/accounts", &body).is(202);
        let code = mailed_code(cloud, &email);
        api.post("/v1/accounts/verify", &json!({"confirmation": asked["confirmation"], "code": code})).is(201);
        Self::sign_in(cloud, &email)
    }

    /// Signs in again.
    #[track_caller]
    pub fn sign_in(cloud: &Cloud, email: &str) -> Self {
        let api = cloud.anyone();
        let signed_in = api.post("/v1/login", &json!({"email": email, "password": PASSWORD})).is(200);
        let text = |member: &str| signed_in[member].as_str().expect("it is a text").to_owned();
        let token = text("access_token");
        let api = api.with_token(&token);
        Self { account: text("account"), email: email.to_owned(), refresh: text("refresh_token"), token, api }
    }

    /// Makes a home; answers its id.
    #[track_caller]
    pub fn home(&self, name: &str) -> String {
        let made = self.api.post("/v1/homes", &json!({"name": name})).is(201);
        made["id"].as_str().expect("a home has an id").to_owned()
    }

    /// Binds a device with the code that its button gives.
    #[track_caller]
    pub fn bind(&self, home: &str, door: &Door) -> Value {
        let (device, code) = door.press();
        self.api.post("/v1/bindings", &json!({"home": home, "device": device, "code": code})).is(201)
    }

    /// Invites `guest` to a home and lets them accept.
    #[track_caller]
    pub fn share(&self, home: &str, guest: &Self, invite: &Value) {
        let invited = self.api.post(&format!("/v1/homes/{home}/invites"), invite).is(201);
        guest.api.post("/v1/invites/accept", &json!({"code": invited["code"]})).is(200);
    }
}

/// The code in the newest mail to an address.
#[track_caller]
pub fn mailed_code(cloud: &Cloud, email: &str) -> String {
    let outbox = cloud.folder().join("iot-data/outbox");
    until("the code in the outbox", SOON, || {
        let mails = fs::read_dir(&outbox).ok()?.filter_map(|entry| fs::read_to_string(entry.ok()?.path()).ok());
        let mail = mails.filter(|mail| mail.contains(&format!("To: {email}"))).last()?;
        mail.lines().map(str::trim).find(|line| line.len() == 9 && line.as_bytes()[4] == b'-').map(str::to_owned)
    })
}

/// The local door of a simulated device.
#[derive(Debug)]
pub struct Door {
    api: Api,
}

impl Door {
    /// Of a device that was started with `--local 127.0.0.1:0` and is connected.
    #[track_caller]
    pub fn of(device: &Process) -> Self {
        let root = device.line("its local address", SOON, |line| {
            line.split_once(" local ").map(|(_, address)| address.trim().to_owned())
        });
        let door = Self { api: Api::new(&root) };
        until("the device to be connected", SOON, || (door.look()["connected"] == true).then_some(()));
        door
    }

    /// What the unit shows.
    #[track_caller]
    pub fn look(&self) -> Value {
        self.api.get("/").is(200)
    }

    /// Presses the button; answers the device and its code.
    #[track_caller]
    pub fn press(&self) -> (String, String) {
        let pressed = self.try_to_press().is(200);
        let text = |member: &str| pressed[member].as_str().expect("it is a text").to_owned();
        (text("device"), text("code"))
    }

    /// Presses the button, whatever comes of it.
    #[track_caller]
    pub fn try_to_press(&self) -> Answer {
        // A second press within two seconds of the first gives no other code.
        until("an answer to the button", SOON, || {
            let answer = self.api.post("/button", &json!({}));
            (answer.status == 200 || answer.json()["code"] != "too_soon").then_some(answer)
        })
    }

    /// Resets the unit to its factory state.
    #[track_caller]
    pub fn reset(&self) {
        self.api.post("/reset", &json!({})).is(204);
    }
}
