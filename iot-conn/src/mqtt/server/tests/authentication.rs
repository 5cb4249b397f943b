//! Enhanced authentication (MQTT 5 §4.12). The server has no method, so that what is left of it is to refuse, and to read AUTH
//! as it is to be.

use super::*;
use crate::mqtt::{Auth, Sender, codec::decode};
use ReasonCode::{BadAuthenticationMethod, ContinueAuthentication, ProtocolError, ReAuthenticate, Success};
use Version::V5;

const METHOD: [Property<'_>; 2] =
    [Property::AuthenticationMethod("SCRAM-SHA-256"), Property::AuthenticationData(b"first")];

fn auth(reason: ReasonCode, properties: &'static [Property<'static>]) -> Packet<'static> {
    Packet::Auth(Auth { reason, properties: Properties::from(properties) })
}

/// What becomes of an AUTH that `sender` has sent.
fn judged(sender: Sender, packet: &Packet<'_>) -> Result<(), ReasonCode> {
    let mut frame = BytesMut::new();
    encode(packet, V5, &mut frame).unwrap();
    decode(&frame, V5, sender).map(drop).map_err(|error| error.reason)
}

/// A server that has got a CONNECT with a method, and these packets behind it.
fn asked_for_a_method(behind: &[Packet<'_>]) -> Server {
    let mut server = Server::new(V5, limits());
    let connect = Packet::Connect(Connect { properties: Properties::from(&METHOD), ..connect(V5) });
    encode(&connect, V5, &mut server.input).unwrap();
    behind.iter().for_each(|packet| encode(packet, V5, &mut server.input).unwrap());
    server.take();
    server
}

#[track_caller]
fn assert_refused(mut server: Server) {
    let refusal = [0x20, 3, 0, BadAuthenticationMethod.value(), 0];
    assert_eq!(&server.connection.output().split()[..], refusal, "one CONNACK, and nothing else");
    server.assert_closed(Cause::ServerDisconnect(BadAuthenticationMethod));
}

#[test]
fn mqtt_5_3_1_2_30_what_follows_a_connect_with_a_method_is_not_processed() {
    assert_refused(asked_for_a_method(&[publish(QoS::AtLeastOnce, 1), Packet::PingReq]));
}

#[test]
fn mqtt_5_4_12_0_4_an_authentication_that_is_refused_is_the_end() {
    assert_refused(asked_for_a_method(&[]));
    // Nor does going on with it help.
    assert_refused(asked_for_a_method(&[auth(ContinueAuthentication, &METHOD)]));
}

#[test]
fn mqtt_5_4_12_0_2_the_servers_auth_goes_on_or_has_succeeded() {
    assert_eq!(judged(Sender::Server, &auth(ContinueAuthentication, &METHOD)), Ok(()));
    assert_eq!(judged(Sender::Server, &auth(Success, &METHOD)), Ok(()));
    assert_eq!(judged(Sender::Server, &auth(ReAuthenticate, &METHOD)), Err(ProtocolError));
}

#[test]
fn mqtt_5_4_12_0_3_the_clients_auth_goes_on_or_begins_anew() {
    assert_eq!(judged(Sender::Client, &auth(ContinueAuthentication, &METHOD)), Ok(()));
    assert_eq!(judged(Sender::Client, &auth(ReAuthenticate, &METHOD)), Ok(()));
    assert_eq!(judged(Sender::Client, &auth(Success, &METHOD)), Err(ProtocolError));
    assert_eq!(judged(Sender::Client, &auth(Success, &[])), Err(ProtocolError), "an empty AUTH says success");
}

#[test]
fn mqtt_5_4_12_0_5_every_auth_names_its_method() {
    for sender in [Sender::Client, Sender::Server] {
        for properties in [&[][..], &METHOD[1..]] {
            assert_eq!(judged(sender, &auth(ContinueAuthentication, properties)), Err(ProtocolError));
        }
    }
    let mut server = Server::new(V5, limits());
    let connect = Connect { properties: Properties::from(&METHOD[1..]), ..connect(V5) };
    server.receive(&Packet::Connect(connect));
    assert!(matches!(server.events()[..], [Event::Closed(Cause::Protocol(ProtocolError, _))]), "data without a method");
}
