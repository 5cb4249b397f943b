//! What must be written nowhere.
#![allow(clippy::unwrap_used, reason = "a journey ends where something is not as it should be")]

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
};

use iot_conn::mqtt::QoS;
use iot_tests::{
    cloud::Cloud,
    mqtt::{Mqtt, Way, with_token},
    person::{Door, PASSWORD, Person},
    receiver::Receiver,
    stream::Stream,
    unit::{claim_token, import, simulate},
    wait::{SOON, until},
};
use serde_json::{Value, json};

/// Mistyped, and so nearly the right one.
const MISTYPED: &str = "correct horse batterz";

/// Secrets by what they are.
#[derive(Debug, Default)]
struct Secrets(BTreeMap<String, String>);

impl Secrets {
    fn add(&mut self, what: &str, text: impl Into<String>) {
        let text = text.into();
        assert!(text.len() >= 8, "{what} would be found anywhere");
        self.0.insert(format!("{what} ({})", self.0.len()), text);
    }

    /// As whatever it was found in may have written it.
    fn forms(text: &str) -> Vec<String> {
        let bare = text.replace('-', "");
        let mut forms = vec![
            text.to_owned(),
            bare.clone(),
            bare.to_lowercase(),
            text.to_lowercase(),
            text.replace(' ', "+"),
            text.replace(' ', "%20"),
            data_encoding::BASE64.encode(text.as_bytes()),
            data_encoding::HEXLOWER.encode(text.as_bytes()),
        ];
        // Of a token its id may be known.
        forms.extend(text.splitn(3, '_').nth(2).map(str::to_owned));
        forms
    }

    /// Which of them are in a text.
    fn found_in(&self, text: &str) -> Vec<&str> {
        let has = |form: &String| text.contains(form.as_str());
        let found = self.0.iter().filter(|(_, secret)| Self::forms(secret).iter().any(has));
        found.map(|(what, _)| what.as_str()).collect()
    }
}

/// Whether there is an access or refresh token in a text, whosever: `ua_` or `ur_`, an id, `_`, the beginning of a secret.
fn has_token(text: &str) -> bool {
    let in_id = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit();
    let in_secret = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_');
    let length = |text: &str, within: &dyn Fn(char) -> bool| text.find(|c| !within(c)).unwrap_or(text.len());
    ["ua_", "ur_"].iter().any(|kind| {
        text.match_indices(kind).any(|(at, _)| {
            let id = &text[at + kind.len()..];
            let secret = id[length(id, &in_id)..].strip_prefix('_');
            length(id, &in_id) >= 8 && secret.is_some_and(|secret| length(secret, &in_secret) >= 16)
        })
    })
}

fn text(value: &Value, member: &str) -> String {
    value[member].as_str().unwrap().to_owned()
}

/// Every file below a folder, with its bytes as far as they are text. The outbox holds mail, which is for its readers.
fn files(folder: &Path) -> Vec<(PathBuf, String)> {
    let mut all = vec![];
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            all.extend(if path.ends_with("iot-data/outbox") { vec![] } else { files(&path) });
        } else if let Ok(bytes) = fs::read(&path) {
            all.push((path, String::from_utf8_lossy(&bytes).into_owned()));
        }
    }
    all
}

#[test]
fn bd_18_codes_tokens_and_passwords_are_in_no_log_no_file_and_no_metric() {
    let mut cloud = Cloud::start(&["--log", "trace", "--webhooks-to-loopback"]);
    let mut secrets = Secrets::default();
    secrets.add("the password", PASSWORD);
    secrets.add("a mistyped password", MISTYPED);
    secrets.add("the administrator's token", cloud.token());

    // Ann has an account, mistypes, signs in again and renews.
    let ann = Person::register(&cloud, "ann");
    let anyone = cloud.anyone();
    anyone.post("/v1/login", &json!({"email": ann.email, "password": MISTYPED})).fails(401, "credentials_invalid");
    let again = Person::sign_in(&cloud, &ann.email);
    let renewed = anyone.post_once("/v1/login/refresh", "renew-1", &json!({"refresh_token": again.refresh})).is(200);
    for person in [&ann, &again] {
        secrets.add("an access token", &person.token);
        secrets.add("a refresh token", &person.refresh);
    }
    secrets.add("an access token", text(&renewed, "access_token"));
    secrets.add("a refresh token", text(&renewed, "refresh_token"));
    let form = format!("email=ann%40example.org&password={}", PASSWORD.replace(' ', "+"));
    let own = format!("http://{}", cloud.address("http"));
    let headers = [("Content-Type", "application/x-www-form-urlencoded"), ("Origin", own.as_str())];
    let entered = anyone.send("POST", "/sign-in", &headers, Some(form));
    // The browser would show its cookies at the page that it is sent to.
    entered.fails(401, "unauthenticated");

    // A lamp shows its code; an app puts it where it does not belong, and then binds.
    let admin = cloud.admin();
    import(&admin, "lamp", &["lamp-1"]);
    let claim = claim_token(&admin, "lamp", 1, true);
    let device = simulate(&cloud, "lamp-1", &claim, &["--local", "127.0.0.1:0", "--interval-ms", "100"]);
    secrets.add("the claim token", claim);
    let door = Door::of(&device);
    let home = ann.home("Hill House");
    let (id, code) = door.press();
    for clumsy in [
        json!({"home": home, "device": id, "code": code, "again": code}),
        json!({"home": code, "device": id, "code": code}),
        json!({"home": home, "device": code, "code": code}),
        json!({"home": home, "p_code": code.replace('-', "_"), "code": code}),
        json!({"home": home, "device": id, "code": [code]}),
        json!({"home": [code], "device": id, "code": 1}),
        json!(code),
    ] {
        let answer = ann.api.post("/v1/bindings", &clumsy);
        assert!(matches!(answer.status, 400 | 403), "{}", answer.text);
        assert!(!answer.text.contains(&code), "{}", answer.text);
    }
    ann.api.get(&format!("/v1/devices?code={code}")).is(200);
    let body = json!({"home": home, "device": id, "code": code});
    for _repeat in 0..2 {
        ann.api.post_once("/v1/bindings", "bind-1", &body).is(201);
    }
    ann.api.post("/v1/bindings", &body).fails(403, "code_used");
    secrets.add("the binding code", &code);

    // She uses it on every way, and shares it.
    let mut phone = Mqtt::online(Way::Plain(cloud.address("mqtt")), with_token("phone", &ann.token));
    until("the subscription", SOON, || (!phone.subscribe("d/lamp-1/#", QoS::AtLeastOnce).is_error()).then_some(()));
    phone.message("d/lamp-1/up/telemetry", SOON);
    let stream = Stream::open(cloud.address("http"), "/v1/live", &ann.token);
    stream.wait("a report", SOON, |event| event.id.clone());
    let bob = Person::register(&cloud, "bob");
    secrets.add("an access token", &bob.token);
    secrets.add("a refresh token", &bob.refresh);
    let invited =
        ann.api.post_once(&format!("/v1/homes/{home}/invites"), "invite-1", &json!({"role": "guest"})).is(201);
    secrets.add("an invitation's code", text(&invited, "code"));
    bob.api.post("/v1/invites/accept", &json!({"code": invited["code"]})).is(200);
    let receiver = Receiver::new();
    let hook = json!({"url": receiver.url()});
    let hook = ann.api.post_once(&format!("/v1/homes/{home}/webhooks"), "hook-1", &hook).is(201);
    secrets.add("a webhook's secret", text(&hook, "secret"));
    receiver.set_secret(hook["secret"].as_str().unwrap());
    let path = format!("/v1/homes/{home}/webhooks/{}/test", text(&hook, "id"));
    assert!(ann.api.post(&path, &json!({})).status < 300);
    until("a delivery", SOON, || (!receiver.received().is_empty()).then_some(()));
    let (_, issued) = cloud.issue("viewer");
    secrets.add("an API token", issued);

    // What runs, what is kept while it runs, and what is left.
    let metrics = admin.get("/metrics");
    let audit = admin.get("/v1/audit?limit=1000");
    drop(stream);
    let mut written = files(cloud.folder());
    let (out, log) = cloud.end();
    written.extend(files(cloud.folder()));
    let told = [device.out(), device.err()].concat().join("\n");
    for (name, text) in [
        ("metrics", metrics.text),
        ("audit", audit.text),
        ("the device's output", told),
        ("the log", log.clone()),
        ("what the server printed", out),
    ] {
        written.push((name.into(), text));
    }
    for (path, text) in &written {
        assert_eq!(secrets.found_in(text), [""; 0], "{}", path.display());
        assert!(!has_token(text), "{}", path.display());
    }

    // The search finds what is there.
    let has = |part: &str, of: &str| {
        let of: Vec<_> = written.iter().filter(|(path, _)| path.to_string_lossy().contains(of)).collect();
        of.iter().any(|(_, text)| text.contains(part))
    };
    for of in ["the log", "audit", "iot-data/"] {
        assert!(has("lamp-1", of), "{of}");
    }
    assert!(has("iot_http_requests_total", "metrics"));
    assert!(log.contains("DEBUG") && log.contains("path=\"/v1/bindings\""), "the log tells of every request: {log}");
    for token in [&ann.token, &ann.refresh, &bob.token] {
        assert!(has_token(&format!("a line with {token} in it")), "the form of tokens has changed");
    }
    for (what, secret) in &secrets.0 {
        assert_eq!(secrets.found_in(&format!("a line with {secret} in it")), [what.as_str()]);
    }
}
