//! Attacks on the way in: clients that are silent, slow, or ask for what is not here. Numbers as in the list of attacks.
#![allow(clippy::unwrap_used, reason = "a journey ends where something is not as it should be")]

use std::{
    io::{ErrorKind, Read, Write},
    net::{SocketAddr, TcpStream},
    process::Command,
    sync::Arc,
    time::Duration,
};

use iot_conn::transport::ServerCertificate;
use iot_tests::{
    cloud::Cloud,
    http::Api,
    tools::{Paho, mosquitto_pub},
    unit::{Unit, tls_without_certificate},
    wait::until,
};
use rustls::{
    AlertDescription, ClientConfig, ClientConnection, Error, RootCertStore, ServerConfig, ServerConnection,
    crypto::aws_lc_rs,
    pki_types::{PrivateKeyDer, ServerName},
    sign::CertifiedKey,
};
use serde_json::json;

/// The server's, by default.
const HANDSHAKES_MAX: usize = 256;
const SILENT: usize = 400;
const ATTEMPTS: usize = 5;
const WITHIN: Duration = Duration::from_secs(20);

fn count(api: &Api, metric: &str) -> u64 {
    let page = api.get("/metrics").text;
    let line = page.lines().find(|line| line.strip_prefix(metric).is_some_and(|rest| rest.starts_with(' ')));
    line.map_or(0, |line| line.rsplit(' ').next().unwrap().parse().unwrap())
}

/// How a handshake for this name with this configuration ends.
fn shake(address: SocketAddr, config: &Arc<ClientConfig>, name: &'static str) -> Result<(), Error> {
    let mut tls = ClientConnection::new(config.clone(), ServerName::try_from(name).unwrap()).unwrap();
    let mut tcp = TcpStream::connect(address).unwrap();
    tcp.set_read_timeout(Some(WITHIN)).unwrap();
    while tls.is_handshaking() {
        while tls.wants_write() {
            tls.write_tls(&mut tcp).unwrap();
        }
        if tls.is_handshaking() && tls.read_tls(&mut tcp).unwrap() == 0 {
            panic!("the connection was closed without a word");
        }
        tls.process_new_packets()?;
    }
    Ok(())
}

/// Whether the server has closed it.
fn is_closed(client: &mut TcpStream) -> bool {
    match client.read(&mut [0; 64]) {
        Ok(0) => true,
        Err(error) if error.kind() == ErrorKind::ConnectionReset => true,
        Err(error) if error.kind() == ErrorKind::WouldBlock => false,
        other => panic!("{other:?}"),
    }
}

/// HS-16: clients that say nothing, or only the beginning of something, hold up nobody, and are gone in time.
#[test]
fn silent_clients_keep_nobody_out() {
    let cloud = Cloud::start(&[]);
    let unit = Unit::several(&cloud, "lamp", &["a"]).remove(0);
    let address = cloud.address("mqtts");
    // On a machine that is too slow they may be gone before the honest one comes: then it says nothing, and is done again.
    let were_there = (0..ATTEMPTS).any(|_| {
        let mut silent: Vec<_> = (0..SILENT).map(|_| TcpStream::connect(address).unwrap()).collect();
        for half in silent.iter_mut().step_by(2) {
            // A record of a handshake that never comes.
            half.write_all(&[22, 3, 1, 2, 0, 1, 0, 1, 252, 3, 3]).unwrap();
        }
        unit.online(&cloud).disconnect();
        for client in &silent {
            client.set_nonblocking(true).unwrap();
        }
        let open = silent.iter_mut().map(is_closed).filter(|closed| !closed).count();
        until("the silent ones to be gone", WITHIN, || silent.iter_mut().all(is_closed).then_some(()));
        open > HANDSHAKES_MAX
    });
    assert!(were_there, "an honest client is served only when silent ones are gone");
    unit.online(&cloud).disconnect();
}

/// HS-17: who asks for another server or another protocol is told so, and costs no computation with keys.
#[test]
fn who_asks_for_another_server_or_protocol_is_refused_before_any_key_is_used() {
    let cloud = Cloud::start(&[]);
    let ca = std::fs::read_to_string(cloud.ca()).unwrap();
    let plain = tls_without_certificate(&ca);
    let offering = |protocols: &[&str]| {
        let mut config = ClientConfig::clone(&plain);
        config.alpn_protocols = protocols.iter().map(|protocol| protocol.as_bytes().to_vec()).collect();
        Arc::new(config)
    };
    let (mqtts, wss) = (cloud.address("mqtts"), cloud.address("wss"));
    for (address, protocol) in [(mqtts, "mqtt"), (wss, "http/1.1")] {
        shake(address, &plain, "localhost").unwrap();
        shake(address, &plain, "LOCALHOST").unwrap();
        // An address is not named in the handshake.
        shake(address, &plain, "127.0.0.1").unwrap();
        shake(address, &offering(&["other", protocol]), "localhost").unwrap();
    }
    let admin = cloud.admin();
    let begun = count(&admin, "iot_tls_handshakes_begun_total");
    assert!(begun >= 8, "{begun}");
    for _ in 0..50 {
        for address in [mqtts, wss] {
            let other = shake(address, &plain, "other.example").unwrap_err();
            assert_eq!(other, Error::AlertReceived(AlertDescription::UnrecognisedName));
            let other = shake(address, &offering(&["h2", "x"]), "localhost").unwrap_err();
            assert_eq!(other, Error::AlertReceived(AlertDescription::NoApplicationProtocol));
        }
    }
    assert_eq!(count(&admin, "iot_tls_handshakes_begun_total"), begun);
    assert_eq!(count(&admin, "iot_connects_refused_total{reason=\"server_name\"}"), 100);
    assert_eq!(count(&admin, "iot_connects_refused_total{reason=\"protocol\"}"), 100);
}

/// What a client is shown that asks for this name, and trusts these two.
fn shown(config: &Arc<ServerConfig>, roots: &RootCertStore, name: &'static str) -> Result<Vec<u8>, Error> {
    let client = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()));
    let client = client.with_safe_default_protocol_versions()?.with_root_certificates(roots.clone());
    let mut client = ClientConnection::new(Arc::new(client.with_no_client_auth()), name.try_into().unwrap())?;
    let mut server = ServerConnection::new(config.clone())?;
    while client.is_handshaking() {
        let mut bytes = Vec::new();
        client.write_tls(&mut bytes).unwrap();
        server.read_tls(&mut &bytes[..]).unwrap();
        server.process_new_packets()?;
        bytes.clear();
        server.write_tls(&mut bytes).unwrap();
        client.read_tls(&mut &bytes[..]).unwrap();
        client.process_new_packets()?;
    }
    Ok(client.peer_certificates().unwrap()[0].to_vec())
}

#[test]
fn a_certificate_is_replaced_while_its_listeners_run() {
    let made = |name: &str| {
        let made = rcgen::generate_simple_self_signed([name.to_owned()]).unwrap();
        let key = PrivateKeyDer::try_from(made.signing_key.serialize_der()).unwrap();
        let chain = vec![made.cert.der().clone()];
        (chain[0].to_vec(), Arc::new(CertifiedKey::from_der(chain, key, &aws_lc_rs::default_provider()).unwrap()))
    };
    let ((first, first_key), (second, second_key)) = (made("one.example"), made("two.example"));
    let mut roots = RootCertStore::empty();
    for certificate in [&first, &second] {
        roots.add(certificate.clone().into()).unwrap();
    }
    let certificate = Arc::new(ServerCertificate::new(["One.Example"], first_key));
    let config = ServerConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()));
    let config = config.with_safe_default_protocol_versions().unwrap().with_no_client_auth();
    let config = Arc::new(config.with_cert_resolver(certificate.clone()));
    assert_eq!(shown(&config, &roots, "one.example").unwrap(), first);
    assert!(shown(&config, &roots, "two.example").is_err());
    certificate.replace(["two.example"], second_key);
    assert_eq!(shown(&config, &roots, "two.example").unwrap(), second);
    assert!(shown(&config, &roots, "one.example").is_err());
}

/// What a balancer says first about a connection from this IPv4 address; without one, about a connection of its own.
fn header(client: Option<[u8; 4]>) -> Vec<u8> {
    let mut header = b"\r\n\r\n\0\r\nQUIT\n".to_vec();
    let Some(client) = client else {
        header.extend([0x20, 0, 0, 0]);
        return header;
    };
    header.extend([0x21, 0x11, 0, 12]);
    header.extend(client);
    header.extend([10, 0, 0, 1, 0xd4, 0x31, 0x22, 0xb3]);
    header
}

/// The answer to a CONNECT with a token: its reason code, or nothing from a server that has closed.
fn answer(address: SocketAddr, header: &[u8], token: &str) -> Option<u8> {
    let mut body = b"\0\x04MQTT\x05\xc2\0\x3c\0\0\0\0\0".to_vec();
    body.extend(u16::try_from(token.len()).unwrap().to_be_bytes());
    body.extend(token.as_bytes());
    let mut tcp = TcpStream::connect(address).unwrap();
    tcp.set_read_timeout(Some(WITHIN)).unwrap();
    tcp.write_all(header).unwrap();
    // A server that has refused the header may have gone.
    let _sent = tcp.write_all(&[&[0x10, u8::try_from(body.len()).unwrap()], &body[..]].concat());
    let mut connack = [0; 4];
    tcp.read_exact(&mut connack).is_ok().then_some(connack[3])
}

const BAD_USER_NAME_OR_PASSWORD: u8 = 0x86;

/// Behind a balancer a client is where its header says; without one nobody comes in, and a network is let in at its rate.
#[test]
fn a_balancer_says_where_clients_are() {
    let cloud = Cloud::start(&["--balancer", "127.0.0.0/8"]);
    let (admin, (_, token)) = (cloud.admin(), cloud.issue("viewer"));
    let mqtt = cloud.address("mqtt");
    let (here, there) = (header(Some([127, 0, 0, 1])), header(Some([203, 0, 113, 7])));
    assert_eq!(answer(mqtt, &here, &token), Some(0));
    // A token in the clear is for this machine only.
    assert_eq!(answer(mqtt, &there, &token), Some(BAD_USER_NAME_OR_PASSWORD));
    for (bad, why) in [(&[][..], "no header"), (b"PROXY TCP4 127.0.0.1 127.0.0.1 1 2\r\n", "version 1")] {
        assert_eq!(answer(mqtt, bad, &token), None, "{why}");
    }
    assert_eq!(count(&admin, "iot_connects_refused_total{reason=\"proxy_header\"}"), 2);
    // The balancer looks whether the server is there.
    assert_eq!(answer(mqtt, &header(None), &token), Some(0));

    let refused = || count(&admin, "iot_connects_refused_total{reason=\"network_rate\"}");
    assert_eq!(refused(), 0);
    until("a network that comes too often to be refused", WITHIN, || {
        for _ in 0..500 {
            TcpStream::connect(mqtt).unwrap().write_all(&there).unwrap();
        }
        (refused() > 0).then_some(())
    });
    let neighbour = header(Some([203, 0, 113, 8]));
    assert_eq!(answer(mqtt, &neighbour, &token), Some(BAD_USER_NAME_OR_PASSWORD), "another one is heard");
    assert_eq!(answer(mqtt, &here, &token), Some(0));
}

/// MQTT, MQTT over WebSocket and HTTP with TLS on one port, for clients that name their protocol and for those that do not.
#[test]
fn one_port_is_enough() {
    let cloud = Cloud::start(&["--tls", "127.0.0.1:0", "--allow-anonymous"]);
    let (address, ca) = (cloud.address("tls"), cloud.ca());
    let (port, ca) = (address.port().to_string(), ca.to_str().unwrap().to_owned());
    let mut paho = Paho::online(
        &json!({"id": "ws", "host": "localhost", "port": address.port(), "transport": "websockets", "ca": ca}),
    );
    paho.subscribe("a/#", 1);
    let base = ["-h", "localhost", "-p", &port, "--cafile", &ca, "-q", "1", "-t", "a/b"];
    for protocol in [&["--tls-alpn", "mqtt"][..], &["--tls-alpn", "x-amzn-mqtt-ca"], &[]] {
        let said = format!("by {protocol:?}");
        mosquitto_pub(&[&base[..], &["-m", &said], protocol].concat());
        assert_eq!(paho.message("a/b")["payload"], said);
    }
    let url = format!("https://localhost:{port}");
    for protocol in [&["--alpn"][..], &["--no-alpn"], &["--http2"]] {
        let curl = |path: &str| {
            let url = format!("{url}{path}");
            let answer = Command::new("curl").args(["-sSi", "--cacert", &ca, &url]).args(protocol).output().unwrap();
            assert!(answer.status.success(), "{protocol:?}: {answer:?}");
            String::from_utf8(answer.stdout).unwrap()
        };
        assert!(curl("/healthz").ends_with("ok\n"));
        assert!(curl("/mqttx").starts_with("HTTP/1.1 "), "another path than the WebSocket's is for HTTP");
        assert!(curl("/v1/devices").starts_with("HTTP/1.1 401"), "the API is guarded here as elsewhere");
    }
    let refused = shake(address, &tls_offering(&ca, b"h2"), "localhost").unwrap_err();
    assert_eq!(refused, Error::AlertReceived(AlertDescription::NoApplicationProtocol));
}

fn tls_offering(ca: &str, protocol: &[u8]) -> Arc<ClientConfig> {
    let mut config = ClientConfig::clone(&tls_without_certificate(&std::fs::read_to_string(ca).unwrap()));
    config.alpn_protocols = vec![protocol.to_vec()];
    Arc::new(config)
}
