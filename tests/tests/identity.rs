//! Who may connect, for how long, and as whom.
#![allow(clippy::unwrap_used, reason = "a journey ends where something is not as it should be")]

use std::{
    collections::BTreeSet,
    time::{Duration, Instant},
};

use iot_auth::device::DeviceKey;
use iot_conn::mqtt::{
    QoS, ReasonCode, Version,
    client::{Cause, ClientOptions, Publication},
};
use iot_tests::{
    cloud::Cloud,
    mqtt::{Mqtt, NotConnected, Way, with_token},
    unit::{Unit, claim_token, claim_with, import, is_online, tls_without_certificate},
    wait::never,
};
use rustls::{
    HandshakeKind, ProtocolVersion,
    version::{TLS12, TLS13},
};
use serde_json::json;

/// A second, and what a loaded machine needs to notice.
const CLOSED_WITHIN: Duration = Duration::from_secs(2);

#[track_caller]
fn refused(outcome: Result<iot_conn::mqtt::client::Connected, NotConnected>, reason: ReasonCode) {
    match outcome {
        Err(NotConnected::Refused(refused)) => assert_eq!(refused.reason, reason),
        other => panic!("not refused: {other:?}"),
    }
}

/// No MQTT: TLS was not completed. In TLS 1.3 the client learns of it after its own last message.
#[track_caller]
fn no_transport(outcome: &Result<iot_conn::mqtt::client::Connected, NotConnected>) {
    assert!(matches!(outcome, Err(NotConnected::Transport(_) | NotConnected::Ended(Cause::Transport))), "{outcome:?}");
}

#[track_caller]
fn revoke(cloud: &Cloud, device: &str) {
    let revoked = cloud.admin().post(&format!("/v1/devices/{device}/keys/revoke"), &json!({})).is(200);
    assert_eq!(revoked["keys"][0]["state"], "revoked");
}

#[test]
fn a_revoked_device_is_out_within_a_second_and_stays_out_also_by_resumption() {
    let cloud = Cloud::start(&[]);
    let units = Unit::several(&cloud, "lamp", &["new-tls", "old-tls"]);
    for (unit, version, expected) in
        [(&units[0], &TLS13, ProtocolVersion::TLSv1_3), (&units[1], &TLS12, ProtocolVersion::TLSv1_2)]
    {
        let way = Way::Tls(cloud.address("mqtts"), unit.tls(&[version]));
        let mut device = Mqtt::online(way, ClientOptions::new(&unit.id));
        assert_eq!(device.handshake().unwrap().1, expected);
        assert_ne!(device.handshake().unwrap().0, HandshakeKind::Resumed);
        device.disconnect();
        device.connect().unwrap();
        assert_eq!(device.handshake().unwrap(), (HandshakeKind::Resumed, expected), "or nothing is shown below");

        let begun = Instant::now();
        revoke(&cloud, &unit.id);
        let cause = device.disconnected(CLOSED_WITHIN);
        assert!(begun.elapsed() < CLOSED_WITHIN, "{:?}", begun.elapsed());
        assert!(matches!(cause, Cause::Server { reason: ReasonCode::NotAuthorized, .. }), "{cause:?}");

        refused(device.connect(), ReasonCode::NotAuthorized);
        assert_eq!(device.handshake().unwrap(), (HandshakeKind::Resumed, expected), "the registry is asked, not TLS");
        let mut fresh = Mqtt::new(Way::Tls(cloud.address("mqtts"), unit.tls(&[version])), ClientOptions::new(&unit.id));
        refused(fresh.connect(), ReasonCode::NotAuthorized);
        assert_ne!(fresh.handshake().unwrap().0, HandshakeKind::Resumed);
        assert!(!is_online(&cloud.admin(), &unit.id));
    }
}

#[test]
fn a_revocation_and_a_certificate_outlive_the_server() {
    let mut cloud = Cloud::start(&[]);
    let units = Unit::several(&cloud, "lamp", &["a", "b"]);
    let mut device = units[0].online(&cloud);
    revoke(&cloud, "b");
    cloud.kill();
    cloud.start_again();
    device.connect().unwrap();
    refused(
        Mqtt::new(units[1].way(cloud.address("mqtts")), ClientOptions::new("b")).connect(),
        ReasonCode::NotAuthorized,
    );
}

#[test]
fn a_retired_unit_is_out() {
    let cloud = Cloud::start(&[]);
    let unit = &Unit::several(&cloud, "lamp", &["a"])[0];
    let mut device = unit.online(&cloud);
    cloud.admin().send("POST", "/v1/devices/a/retire", &[], None).is(200);
    device.disconnected(CLOSED_WITHIN);
    refused(device.connect(), ReasonCode::NotAuthorized);
}

#[test]
fn a_device_is_itself_and_nobody_else() {
    let cloud = Cloud::start(&[]);
    let units = Unit::several(&cloud, "lamp", &["a", "b"]);
    let mut a = units[0].online(&cloud);
    for version in [Version::V5, Version::V311] {
        let mut options = ClientOptions::new("a");
        options.version = version;
        let mut b = Mqtt::new(units[1].way(cloud.address("mqtts")), options);
        refused(b.connect(), ReasonCode::ClientIdentifierNotValid);
    }
    never("A was disturbed", Duration::from_millis(300), || a.poll().pop());
    assert_eq!(a.publish(Publication::new("up/custom/x", "", QoS::AtLeastOnce)), ReasonCode::Success);

    // The same device may take its own session over.
    let _again = units[0].online(&cloud);
    let cause = a.disconnected(CLOSED_WITHIN);
    assert!(matches!(cause, Cause::Server { reason: ReasonCode::SessionTakenOver, .. }), "{cause:?}");
}

#[test]
fn a_unit_is_claimed_once() {
    let cloud = Cloud::start(&[]);
    let (admin, anyone) = (cloud.admin(), cloud.anyone());
    import(&admin, "lamp", &["a", "b"]);
    import(&admin, "fan", &["f"]);
    let token = claim_token(&admin, "lamp", 2, false);
    let key = DeviceKey::generate().unwrap();
    let first = claim_with(&anyone, &token, "a", &key).is(200);
    // The answer may have been lost: the same key is answered again and costs no use.
    let again = claim_with(&anyone, &token, "a", &key).is(200);
    assert_eq!((&first["device_id"], &first["ca"]), (&again["device_id"], &again["ca"]));

    claim_with(&anyone, &token, "a", &DeviceKey::generate().unwrap()).fails(409, "already_claimed");
    let audit = admin.get("/v1/audit").is(200);
    let entry = audit["items"].as_array().unwrap().iter().find(|entry| !entry["refused"].is_null());
    let entry = entry.unwrap_or_else(|| panic!("the second claim is not in {audit}"));
    assert!(entry["subject"].as_str().unwrap().contains("/a"), "{entry}");
    assert!(!audit.to_string().contains(token.rsplit('_').next().unwrap()), "the log holds a secret");

    claim_with(&anyone, &token, "f", &DeviceKey::generate().unwrap()).fails(403, "claim_refused");
    claim_with(&anyone, "ct_nothing_mfrggzdfmztwq2lkmfrggzdfmztwq2lk", "b", &key).fails(403, "claim_refused");
    claim_with(&anyone, &token, "b", &DeviceKey::generate().unwrap()).is(200);
    import(&admin, "lamp", &["c"]);
    claim_with(&anyone, &token, "c", &DeviceKey::generate().unwrap()).fails(403, "claim_refused");
    let body = json!({"token": token, "csr": "-----BEGIN CERTIFICATE REQUEST-----\nAAAA\n-----END CERTIFICATE REQUEST-----\n"});
    anyone.post("/v1/claim", &body).fails(400, "csr_invalid");
}

/// A certificate for device `a` as the cloud would issue it, of an authority that is not the cloud's.
fn forged(unit: &Unit) -> Unit {
    let authority_key = rcgen::KeyPair::generate().unwrap();
    let mut params = rcgen::CertificateParams::default();
    params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    let issuer = rcgen::Issuer::new(params, authority_key);
    let key = rcgen::KeyPair::generate().unwrap();
    let mut params = rcgen::CertificateParams::default();
    params.distinguished_name.push(rcgen::DnType::CommonName, unit.id.as_str());
    let name = format!("urn:iot:default:{}", unit.id);
    params.subject_alt_names = vec![rcgen::SanType::URI(name.as_str().try_into().unwrap())];
    params.extended_key_usages = vec![rcgen::ExtendedKeyUsagePurpose::ClientAuth];
    let certificate = params.signed_by(&key, &issuer).unwrap().pem();
    Unit { key: key.serialize_pem(), certificate, ..unit.clone() }
}

#[test]
fn certificates_of_others_end_in_tls() {
    let cloud = Cloud::start(&[]);
    let unit = &Unit::several(&cloud, "lamp", &["a"])[0];
    let other = Cloud::start(&[]);
    let elsewhere = Unit { ca: unit.ca.clone(), ..Unit::several(&other, "lamp", &["a"])[0].clone() };
    for stranger in [forged(unit), elsewhere] {
        for version in [&TLS12, &TLS13] {
            let way = Way::Tls(cloud.address("mqtts"), stranger.tls(&[version]));
            no_transport(&Mqtt::new(way, ClientOptions::new("a")).connect());
        }
    }
    // A device does not talk to a cloud that it does not know.
    let unpinned = Way::Tls(other.address("mqtts"), unit.tls(rustls::ALL_VERSIONS));
    match Mqtt::new(unpinned, ClientOptions::new("a")).connect() {
        Err(NotConnected::Transport(error)) => assert!(error.to_string().contains("UnknownIssuer"), "{error}"),
        other => panic!("{other:?}"),
    }
    unit.online(&cloud);
}

#[test]
fn without_a_credential_nobody_connects() {
    let cloud = Cloud::start(&[]);
    let ca = std::fs::read_to_string(cloud.ca()).unwrap();
    let tls = Way::Tls(cloud.address("mqtts"), tls_without_certificate(&ca));
    for way in [Way::Plain(cloud.address("mqtt")), tls.clone()] {
        for version in [Version::V5, Version::V311] {
            let mut none = ClientOptions::new("x");
            none.version = version;
            refused(Mqtt::new(way.clone(), none).connect(), ReasonCode::NotAuthorized);
            for wrong in ["", "at_nothing", "at_mfrggzdfmztwq2lk_gezdgnbvgy3tqojqgezdgnbvgy3tqojq"] {
                let mut options = with_token("x", wrong);
                options.version = version;
                let outcome = Mqtt::new(way.clone(), options).connect();
                match outcome {
                    Err(NotConnected::Refused(no)) => {
                        assert!(matches!(no.reason, ReasonCode::BadUserNameOrPassword | ReasonCode::NotAuthorized));
                    }
                    other => panic!("{other:?}"),
                }
            }
        }
    }
    Mqtt::online(tls, with_token("x", cloud.token()));
}

#[test]
fn a_revoked_token_is_out_within_a_second_and_only_that_one() {
    let cloud = Cloud::start(&[]);
    let (id, token) = cloud.issue("viewer");
    let way = Way::Plain(cloud.address("mqtt"));
    let mut mine = Mqtt::online(way.clone(), with_token("panel", &token));
    let mut admins = Mqtt::online(way, with_token("panel", cloud.token()));
    let viewer = cloud.anyone().with_token(&token);
    viewer.get("/v1/devices").is(200);
    assert_eq!(cloud.admin().delete(&format!("/v1/tokens/{id}")).status, 204);
    let cause = mine.disconnected(CLOSED_WITHIN);
    assert!(matches!(cause, Cause::Server { reason: ReasonCode::NotAuthorized, .. }), "{cause:?}");
    viewer.get("/v1/devices").fails(401, "unauthenticated");
    assert!(matches!(mine.connect(), Err(NotConnected::Refused(_))));
    assert_eq!(admins.publish(Publication::new("free", "", QoS::AtLeastOnce)), ReasonCode::NoMatchingSubscribers);
}

#[test]
fn a_viewer_sees_and_does_not_touch() {
    let cloud = Cloud::start(&[]);
    let unit = &Unit::several(&cloud, "lamp", &["a"])[0];
    let (_, token) = cloud.issue("viewer");
    let mut viewer = Mqtt::online(Way::Plain(cloud.address("mqtt")), with_token("v", &token));
    assert!(!viewer.subscribe("d/+/up/#", QoS::AtLeastOnce).is_error());
    for topic in ["d/a/down/command", "d/a/down/custom/x", "d/a/up/telemetry", "d/a/status", "alarm/a"] {
        let answer = viewer.publish(Publication::new(topic, "{}", QoS::AtLeastOnce));
        assert_eq!(answer, ReasonCode::NotAuthorized, "{topic}");
    }
    let mut device = unit.online(&cloud);
    device.publish(Publication::new("up/telemetry", r#"{"values":{"t":1}}"#, QoS::AtLeastOnce));
    viewer.message("d/a/up/telemetry", CLOSED_WITHIN);
}

/// Every route that is for anyone; a further one is to be argued for here.
const PUBLIC: [(&str, &str); 14] = [
    ("get", "/healthz"),
    ("get", "/metrics"),
    ("get", "/openapi.json"),
    ("get", "/readyz"),
    ("get", "/v1/firmware/{release}"),
    ("post", "/v1/account/reset"),
    ("post", "/v1/account/reset/confirm"),
    ("post", "/v1/accounts"),
    ("post", "/v1/accounts/first"),
    ("post", "/v1/accounts/verify"),
    ("post", "/v1/claim"),
    ("post", "/v1/login"),
    ("post", "/v1/login/refresh"),
    ("post", "/v1/sign-in"),
];

#[test]
fn every_route_asks_who_and_whether() {
    let cloud = Cloud::start(&[]);
    import(&cloud.admin(), "lamp", &["a"]);
    cloud.admin().put("/v1/homes/h", &json!({"name": "h"})).is(201);
    let (id, token) = cloud.issue("viewer");
    let viewer = cloud.anyone().with_token(&token);
    let openapi = cloud.anyone().get("/openapi.json").is(200);
    let (mut public, mut forbidden, mut allowed) = (BTreeSet::new(), 0, 0);
    for (path, methods) in openapi["paths"].as_object().unwrap() {
        for (method, operation) in methods.as_object().unwrap() {
            if operation["security"].as_array().is_none_or(Vec::is_empty) {
                public.insert((method.as_str(), path.as_str()));
                continue;
            }
            let token_id = if path.contains("claim-tokens") { "mfrggzdfmztwq2lk" } else { &id };
            let concrete =
                [("{device}", "a"), ("{product}", "lamp"), ("{home}", "h"), ("{token}", token_id), ("{command}", "c")]
                    .iter()
                    .fold(path.clone(), |path, (name, value)| path.replace(name, value));
            // What is named nowhere in this journey has the name of its place.
            let concrete = concrete.replace(['{', '}'], "");
            let method = method.to_uppercase();
            let body = (method == "POST" || method == "PUT").then(|| "{}".to_owned());
            let headers = [("Content-Type", "application/json")];
            let what = format!("{method} {concrete}");
            for nobody in
                [cloud.anyone(), cloud.anyone().with_token("at_a_b"), cloud.anyone().with_password("admin", "x")]
            {
                let answer = nobody.send(&method, &concrete, &headers, body.clone());
                assert_eq!((answer.status, answer.json()["code"].as_str()), (401, Some("unauthenticated")), "{what}");
            }
            let needs = operation["description"].as_str().unwrap();
            if path == "/v1/live" {
                // It has no end.
                continue;
            }
            let answer = viewer.send(&method, &concrete, &headers, body.clone());
            let reads = [
                "needs ReadDevice",
                "needs ReadTelemetry",
                "needs ReadState",
                "needs ReadHome",
                "needs a token of anybody",
            ];
            if reads.iter().any(|reads| needs.starts_with(reads)) {
                assert!(!matches!(answer.status, 401 | 403), "{what}: {}", answer.text);
                allowed += 1;
            } else {
                assert_eq!((answer.status, answer.json()["code"].as_str()), (403, Some("forbidden")), "{what} {needs}");
                forbidden += 1;
            }
        }
    }
    assert_eq!(public, BTreeSet::from(PUBLIC));
    assert!(forbidden >= 10 && allowed >= 8, "{forbidden} and {allowed}: the list of routes is not the whole one");
    viewer.get("/v1/devices").is(200);
}
