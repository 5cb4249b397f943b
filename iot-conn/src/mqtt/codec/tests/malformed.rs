//! Packets that the standards forbid, each with the reason to answer.

use super::super::{check_topic_filter, check_topic_name, connect_version, decode, frame_length};
use crate::mqtt::ReasonCode::{self, *};
use crate::mqtt::Sender::{self, Client, Server};
use crate::mqtt::Version::{self, V5, V311};

/// What is wrong, the connection, the packet without its remaining length, the answer.
type Row = (&'static str, Version, Sender, u8, &'static [u8], ReasonCode);

const CONNECT: &[Row] = &[
    ("protocol name MQTX", V5, Client, 0x10, b"\0\x04MQTX\x05\x02\0\0\0\0\0", UnsupportedProtocolVersion),
    ("protocol name of 3.1", V311, Client, 0x10, b"\0\x06MQIsdp\x03\x02\0\0\0\0", UnsupportedProtocolVersion),
    ("protocol name in small letters", V5, Client, 0x10, b"\0\x04mqtt\x05\x02\0\0\0\0\0", UnsupportedProtocolVersion),
    ("level 3", V311, Client, 0x10, b"\0\x04MQTT\x03\x02\0\0\0\0", UnsupportedProtocolVersion),
    ("level 6", V5, Client, 0x10, b"\0\x04MQTT\x06\x02\0\0\0\0\0", UnsupportedProtocolVersion),
    ("bridge bit in the level", V311, Client, 0x10, b"\0\x04MQTT\x84\x02\0\0\0\0", UnsupportedProtocolVersion),
    ("header flags", V5, Client, 0x11, b"\0\x04MQTT\x05\x02\0\0\0\0\0", MalformedPacket),
    ("reserved connect flag, 5", V5, Client, 0x10, b"\0\x04MQTT\x05\x03\0\0\0\0\0", MalformedPacket),
    ("reserved connect flag, 3.1.1", V311, Client, 0x10, b"\0\x04MQTT\x04\x03\0\0\0\0", MalformedPacket),
    ("will QoS 3", V5, Client, 0x10, b"\0\x04MQTT\x05\x1e\0\0\0\0\0\0\0\x01t\0\0", MalformedPacket),
    ("will QoS 3, 3.1.1", V311, Client, 0x10, b"\0\x04MQTT\x04\x1e\0\0\0\0\0\x01t\0\0", MalformedPacket),
    ("will QoS without a will", V5, Client, 0x10, b"\0\x04MQTT\x05\x0a\0\0\0\0\0", MalformedPacket),
    ("will retain without a will", V311, Client, 0x10, b"\0\x04MQTT\x04\x22\0\0\0\0", MalformedPacket),
    ("will without fields", V5, Client, 0x10, b"\0\x04MQTT\x05\x06\0\0\0\0\0", MalformedPacket),
    ("will topic with a wildcard", V5, Client, 0x10, b"\0\x04MQTT\x05\x06\0\0\0\0\0\0\0\x01#\0\0", TopicNameInvalid),
    ("will topic empty", V311, Client, 0x10, b"\0\x04MQTT\x04\x06\0\0\0\0\0\0\0\0", TopicNameInvalid),
    ("password without user name, 3.1.1", V311, Client, 0x10, b"\0\x04MQTT\x04\x42\0\0\0\0\0\x01p", MalformedPacket),
    ("user name flag without user name", V311, Client, 0x10, b"\0\x04MQTT\x04\x82\0\0\0\0", MalformedPacket),
    ("password flag without password", V5, Client, 0x10, b"\0\x04MQTT\x05\x42\0\0\0\0\0", MalformedPacket),
    ("user name without its flag", V311, Client, 0x10, b"\0\x04MQTT\x04\x02\0\0\0\0\0\x01u", MalformedPacket),
    ("empty client id, session kept, 3.1.1", V311, Client, 0x10, b"\0\x04MQTT\x04\0\0\0\0\0", ClientIdentifierNotValid),
    ("client id ill-formed", V5, Client, 0x10, b"\0\x04MQTT\x05\x02\0\0\0\0\x01\xff", MalformedPacket),
    ("client id with a surrogate", V311, Client, 0x10, b"\0\x04MQTT\x04\x02\0\0\0\x03\xed\xa0\x80", MalformedPacket),
    ("client id with U+0000", V5, Client, 0x10, b"\0\x04MQTT\x05\x02\0\0\0\0\x01\0", MalformedPacket),
    ("client id longer than the packet", V5, Client, 0x10, b"\0\x04MQTT\x05\x02\0\0\0\0\x05ab", MalformedPacket),
    ("ends after the level", V5, Client, 0x10, b"\0\x04MQTT\x05", MalformedPacket),
    ("no property length", V5, Client, 0x10, b"\0\x04MQTT\x05\x02\0\0", MalformedPacket),
    ("receive maximum 0", V5, Client, 0x10, b"\0\x04MQTT\x05\x02\0\0\x03\x21\0\0\0\0", ProtocolError),
    ("maximum packet size 0", V5, Client, 0x10, b"\0\x04MQTT\x05\x02\0\0\x05\x27\0\0\0\0\0\0", ProtocolError),
    ("request problem information 2", V5, Client, 0x10, b"\0\x04MQTT\x05\x02\0\0\x02\x17\x02\0\0", ProtocolError),
    ("request response information 2", V5, Client, 0x10, b"\0\x04MQTT\x05\x02\0\0\x02\x19\x02\0\0", ProtocolError),
    (
        "session expiry twice",
        V5,
        Client,
        0x10,
        b"\0\x04MQTT\x05\x02\0\0\x0a\x11\0\0\0\x01\x11\0\0\0\x01\0\0",
        ProtocolError,
    ),
    ("topic alias is not for CONNECT", V5, Client, 0x10, b"\0\x04MQTT\x05\x02\0\0\x03\x23\0\x01\0\0", MalformedPacket),
    (
        "will delay is not for CONNECT",
        V5,
        Client,
        0x10,
        b"\0\x04MQTT\x05\x02\0\0\x05\x18\0\0\0\x01\0\0",
        MalformedPacket,
    ),
    (
        "receive maximum is not for a will",
        V5,
        Client,
        0x10,
        b"\0\x04MQTT\x05\x06\0\0\0\0\0\x03\x21\0\x01\0\x01t\0\0",
        MalformedPacket,
    ),
    (
        "payload format 2 of a will",
        V5,
        Client,
        0x10,
        b"\0\x04MQTT\x05\x06\0\0\0\0\0\x02\x01\x02\0\x01t\0\0",
        ProtocolError,
    ),
    (
        "authentication data without method",
        V5,
        Client,
        0x10,
        b"\0\x04MQTT\x05\x02\0\0\x04\x16\0\x01d\0\0",
        ProtocolError,
    ),
    ("unknown property", V5, Client, 0x10, b"\0\x04MQTT\x05\x02\0\0\x02\x04\0\0\0", MalformedPacket),
    (
        "property identifier not minimal",
        V5,
        Client,
        0x10,
        b"\0\x04MQTT\x05\x02\0\0\x04\xa1\0\0\x01\0\0",
        MalformedPacket,
    ),
    ("property length not minimal", V5, Client, 0x10, b"\0\x04MQTT\x05\x02\0\0\x80\0\0\0", MalformedPacket),
    ("property cut by its length", V5, Client, 0x10, b"\0\x04MQTT\x05\x02\0\0\x02\x21\0\x01\0\0", MalformedPacket),
    (
        "property length beyond the packet",
        V5,
        Client,
        0x10,
        b"\0\x04MQTT\x05\x02\0\0\x09\x21\0\x01\0\0",
        MalformedPacket,
    ),
    ("user property without a value", V5, Client, 0x10, b"\0\x04MQTT\x05\x02\0\0\x04\x26\0\x01a\0\0", MalformedPacket),
    ("trailing byte", V311, Client, 0x10, b"\0\x04MQTT\x04\x02\0\0\0\0\0", MalformedPacket),
    ("from the server", V5, Server, 0x10, b"\0\x04MQTT\x05\x02\0\0\0\0\0", ProtocolError),
    ("keep alive cut", V311, Client, 0x10, b"\0\x04MQTT\x04\x02\0", MalformedPacket),
    ("no client id", V311, Client, 0x10, b"\0\x04MQTT\x04\x02\0\0", MalformedPacket),
    ("will topic with U+0000", V311, Client, 0x10, b"\0\x04MQTT\x04\x06\0\0\0\0\0\x01\0\0\0", MalformedPacket),
    ("user name ill-formed", V311, Client, 0x10, b"\0\x04MQTT\x04\x82\0\0\0\0\0\x01\xff", MalformedPacket),
    (
        "assigned client id from the client",
        V5,
        Client,
        0x10,
        b"\0\x04MQTT\x05\x02\0\0\x03\x12\0\0\0\0",
        MalformedPacket,
    ),
    (
        "server keep alive from the client",
        V5,
        Client,
        0x10,
        b"\0\x04MQTT\x05\x02\0\0\x03\x13\0\x01\0\0",
        MalformedPacket,
    ),
    ("receive maximum twice", V5, Client, 0x10, b"\0\x04MQTT\x05\x02\0\0\x06\x21\0\x01\x21\0\x01\0\0", ProtocolError),
];

const CONNACK: &[Row] = &[
    ("reserved flags", V5, Server, 0x20, b"\x02\0\0", MalformedPacket),
    ("reserved flags, 3.1.1", V311, Server, 0x20, b"\x80\0", MalformedPacket),
    ("session present with an error", V5, Server, 0x20, b"\x01\x87\0", ProtocolError),
    ("session present with an error, 3.1.1", V311, Server, 0x20, b"\x01\x05", ProtocolError),
    ("return code 6, 3.1.1", V311, Server, 0x20, b"\0\x06", MalformedPacket),
    ("a code of SUBACK", V5, Server, 0x20, b"\0\x01\0", ProtocolError),
    ("an unknown code", V5, Server, 0x20, b"\0\x7f\0", MalformedPacket),
    ("no property length", V5, Server, 0x20, b"\0\0", MalformedPacket),
    ("maximum QoS 2", V5, Server, 0x20, b"\0\0\x02\x24\x02", ProtocolError),
    ("retain available 2", V5, Server, 0x20, b"\0\0\x02\x25\x02", ProtocolError),
    ("receive maximum 0", V5, Server, 0x20, b"\0\0\x03\x21\0\0", ProtocolError),
    ("maximum packet size 0", V5, Server, 0x20, b"\0\0\x05\x27\0\0\0\0", ProtocolError),
    ("wildcards available 2", V5, Server, 0x20, b"\0\0\x02\x28\x02", ProtocolError),
    ("will delay", V5, Server, 0x20, b"\0\0\x05\x18\0\0\0\x01", MalformedPacket),
    ("from the client", V5, Client, 0x20, b"\0\0\0", ProtocolError),
    ("without a code, 3.1.1", V311, Server, 0x20, b"\0", MalformedPacket),
    ("a trailing byte, 3.1.1", V311, Server, 0x20, b"\0\0\0", MalformedPacket),
    ("subscription id", V5, Server, 0x20, b"\0\0\x02\x0b\x01", MalformedPacket),
    ("server keep alive twice", V5, Server, 0x20, b"\0\0\x06\x13\0\x01\x13\0\x01", ProtocolError),
];

const PUBLISH: &[Row] = &[
    ("QoS 3, 5", V5, Client, 0x36, b"\0\x01t\0\x01\0", MalformedPacket),
    ("QoS 3, 3.1.1", V311, Client, 0x36, b"\0\x01t\0\x01", MalformedPacket),
    ("DUP with QoS 0, 5", V5, Client, 0x38, b"\0\x01t\0", MalformedPacket),
    ("DUP with QoS 0, 3.1.1", V311, Client, 0x38, b"\0\x01t", MalformedPacket),
    ("packet id 0, 5", V5, Client, 0x32, b"\0\x01t\0\0\0", ProtocolError),
    ("packet id 0, 3.1.1", V311, Client, 0x34, b"\0\x01t\0\0", ProtocolError),
    ("no packet id", V311, Client, 0x32, b"\0\x01t", MalformedPacket),
    ("no topic", V311, Client, 0x30, b"", MalformedPacket),
    ("topic with #", V5, Client, 0x30, b"\0\x03a/#\0", TopicNameInvalid),
    ("topic with +", V311, Client, 0x30, b"\0\x03+/a", TopicNameInvalid),
    ("topic with a wildcard in a level", V5, Server, 0x30, b"\0\x02a+\0", TopicNameInvalid),
    ("topic empty, 3.1.1", V311, Client, 0x30, b"\0\0", TopicNameInvalid),
    ("topic empty without alias", V5, Client, 0x30, b"\0\0\0", ProtocolError),
    ("topic ill-formed", V5, Client, 0x30, b"\0\x02\xc3\x28\0", MalformedPacket),
    ("topic over-long UTF-8", V5, Client, 0x30, b"\0\x02\xc0\xaf\0", MalformedPacket),
    ("topic with a surrogate", V311, Client, 0x30, b"\0\x03\xed\xbf\xbf", MalformedPacket),
    ("topic with U+0000", V311, Client, 0x30, b"\0\x01\0", MalformedPacket),
    ("topic alias 0", V5, Client, 0x30, b"\0\x01t\x03\x23\0\0", TopicAliasInvalid),
    ("topic alias twice", V5, Client, 0x30, b"\0\x01t\x06\x23\0\x01\x23\0\x01", ProtocolError),
    ("payload format 2", V5, Client, 0x30, b"\0\x01t\x02\x01\x02", ProtocolError),
    ("response topic with a wildcard", V5, Client, 0x30, b"\0\x01t\x04\x08\0\x01#", ProtocolError),
    ("response topic empty", V5, Client, 0x30, b"\0\x01t\x03\x08\0\0", ProtocolError),
    ("content type ill-formed", V5, Client, 0x30, b"\0\x01t\x04\x03\0\x01\xff", MalformedPacket),
    ("user property with U+0000", V5, Client, 0x30, b"\0\x01t\x07\x26\0\x01a\0\x01\0", MalformedPacket),
    ("expiry twice", V5, Client, 0x30, b"\0\x01t\x0a\x02\0\0\0\x01\x02\0\0\0\x01", ProtocolError),
    ("reason string", V5, Client, 0x30, b"\0\x01t\x04\x1f\0\x01r", MalformedPacket),
    ("subscription id from the client", V5, Client, 0x30, b"\0\x01t\x02\x0b\x01", ProtocolError),
    ("subscription id 0 from the server", V5, Server, 0x30, b"\0\x01t\x02\x0b\0", ProtocolError),
    ("property length beyond the packet", V5, Client, 0x30, b"\0\x01t\x7f\x01\x01", MalformedPacket),
    ("topic longer than the packet", V311, Client, 0x30, b"\0\x05ab", MalformedPacket),
    ("packet id cut", V5, Client, 0x32, b"\0\x01t\0", MalformedPacket),
    ("no property length", V5, Client, 0x30, b"\0\x01t", MalformedPacket),
    ("session expiry", V5, Client, 0x30, b"\0\x01t\x05\x11\0\0\0\x01", MalformedPacket),
    ("correlation data cut", V5, Client, 0x30, b"\0\x01t\x04\x09\0\x05a", MalformedPacket),
    ("content type twice", V5, Client, 0x30, b"\0\x01t\x06\x03\0\0\x03\0\0", ProtocolError),
    ("user property without a value", V5, Client, 0x30, b"\0\x01t\x04\x26\0\x01a", MalformedPacket),
];

const ACKS: &[Row] = &[
    ("PUBACK flags", V5, Client, 0x42, b"\0\x01", MalformedPacket),
    ("PUBREL flags 0, 5", V5, Client, 0x60, b"\0\x01", MalformedPacket),
    ("PUBREL flags 0, 3.1.1", V311, Client, 0x60, b"\0\x01", MalformedPacket),
    ("PUBACK id 0", V5, Client, 0x40, b"\0\0", ProtocolError),
    ("PUBREC id 0", V311, Client, 0x50, b"\0\0", ProtocolError),
    ("PUBREL id 0", V311, Client, 0x62, b"\0\0", ProtocolError),
    ("PUBCOMP id 0", V5, Server, 0x70, b"\0\0", ProtocolError),
    ("PUBACK cut", V5, Client, 0x40, b"\0", MalformedPacket),
    ("PUBACK with a reason, 3.1.1", V311, Client, 0x40, b"\0\x01\0", MalformedPacket),
    ("PUBACK with a code of PUBREL", V5, Client, 0x40, b"\0\x01\x92", ProtocolError),
    ("PUBREL with a code of PUBREC", V5, Client, 0x62, b"\0\x01\x10", ProtocolError),
    ("PUBCOMP with an unknown code", V5, Client, 0x70, b"\0\x01\x05", MalformedPacket),
    ("PUBACK with receive maximum", V5, Client, 0x40, b"\0\x01\0\x03\x21\0\x01", MalformedPacket),
    ("PUBREC with two reason strings", V5, Client, 0x50, b"\0\x01\0\x06\x1f\0\0\x1f\0\0", ProtocolError),
    ("PUBCOMP with a trailing byte", V5, Client, 0x70, b"\0\x01\0\0\0", MalformedPacket),
    ("PUBCOMP flags", V311, Client, 0x72, b"\0\x01", MalformedPacket),
    ("PUBREL with a content type", V5, Client, 0x62, b"\0\x01\0\x03\x03\0\0", MalformedPacket),
    ("PUBREC property length beyond the packet", V5, Client, 0x50, b"\0\x01\0\x04\x1f\0", MalformedPacket),
    ("PUBREL empty", V311, Client, 0x62, b"", MalformedPacket),
];

const SUBSCRIBE: &[Row] = &[
    ("flags 0, 5", V5, Client, 0x80, b"\0\x01\0\0\x01a\0", MalformedPacket),
    ("flags 0, 3.1.1", V311, Client, 0x80, b"\0\x01\0\x01a\0", MalformedPacket),
    ("packet id 0", V5, Client, 0x82, b"\0\0\0\0\x01a\0", ProtocolError),
    ("no filters, 5", V5, Client, 0x82, b"\0\x01\0", ProtocolError),
    ("no filters, 3.1.1", V311, Client, 0x82, b"\0\x01", ProtocolError),
    ("no options", V311, Client, 0x82, b"\0\x01\0\x01a", MalformedPacket),
    ("QoS 3, 5", V5, Client, 0x82, b"\0\x01\0\0\x01a\x03", ProtocolError),
    ("QoS 3, 3.1.1", V311, Client, 0x82, b"\0\x01\0\x01a\x03", ProtocolError),
    ("reserved bit 6", V5, Client, 0x82, b"\0\x01\0\0\x01a\x40", MalformedPacket),
    ("reserved bit 7", V5, Client, 0x82, b"\0\x01\0\0\x01a\x80", MalformedPacket),
    ("options of 5 in 3.1.1", V311, Client, 0x82, b"\0\x01\0\x01a\x04", MalformedPacket),
    ("retain handling 3", V5, Client, 0x82, b"\0\x01\0\0\x01a\x30", ProtocolError),
    ("no local on a shared subscription", V5, Client, 0x82, b"\0\x01\0\0\x0a$share/g/t\x04", ProtocolError),
    ("filter empty, 5", V5, Client, 0x82, b"\0\x01\0\0\0\0", TopicFilterInvalid),
    ("filter empty, 3.1.1", V311, Client, 0x82, b"\0\x01\0\0\0", TopicFilterInvalid),
    ("# not last", V5, Client, 0x82, b"\0\x01\0\0\x03#/a\0", TopicFilterInvalid),
    ("# in a level", V311, Client, 0x82, b"\0\x01\0\x02a#\0", TopicFilterInvalid),
    ("+ in a level", V311, Client, 0x82, b"\0\x01\0\x04a/+b\0", TopicFilterInvalid),
    ("second filter bad", V5, Client, 0x82, b"\0\x01\0\0\x01a\0\0\x02++\0", TopicFilterInvalid),
    ("filter with U+0000", V5, Client, 0x82, b"\0\x01\0\0\x01\0\0", MalformedPacket),
    ("$share alone", V5, Client, 0x82, b"\0\x01\0\0\x06$share\0", TopicFilterInvalid),
    ("$share without filter", V5, Client, 0x82, b"\0\x01\0\0\x08$share/g\0", TopicFilterInvalid),
    ("$share with empty filter", V5, Client, 0x82, b"\0\x01\0\0\x09$share/g/\0", TopicFilterInvalid),
    ("$share with empty name", V5, Client, 0x82, b"\0\x01\0\0\x09$share//t\0", TopicFilterInvalid),
    ("$share with wildcard name", V5, Client, 0x82, b"\0\x01\0\0\x0a$share/+/t\0", TopicFilterInvalid),
    ("$share with bad filter", V5, Client, 0x82, b"\0\x01\0\0\x0b$share/g/a#\0", TopicFilterInvalid),
    ("subscription id 0", V5, Client, 0x82, b"\0\x01\x02\x0b\0\0\x01a\0", ProtocolError),
    ("subscription id twice", V5, Client, 0x82, b"\0\x01\x04\x0b\x01\x0b\x02\0\x01a\0", ProtocolError),
    (
        "subscription id over four bytes",
        V5,
        Client,
        0x82,
        b"\0\x01\x06\x0b\xff\xff\xff\xff\x01\0\x01a\0",
        MalformedPacket,
    ),
    ("reason string", V5, Client, 0x82, b"\0\x01\x03\x1f\0\0\0\x01a\0", MalformedPacket),
    ("from the server", V5, Server, 0x82, b"\0\x01\0\0\x01a\0", ProtocolError),
    ("filter longer than the packet", V311, Client, 0x82, b"\0\x01\0\x05a\0", MalformedPacket),
    ("second filter without options", V5, Client, 0x82, b"\0\x01\0\0\x01a\0\0\x01b", MalformedPacket),
    ("topic alias", V5, Client, 0x82, b"\0\x01\x03\x23\0\x01\0\x01a\0", MalformedPacket),
];

const REST: &[Row] = &[
    ("SUBACK code 3, 3.1.1", V311, Server, 0x90, b"\0\x01\x03", MalformedPacket),
    ("SUBACK code 0x87, 3.1.1", V311, Server, 0x90, b"\0\x01\x87", MalformedPacket),
    ("SUBACK without codes", V5, Server, 0x90, b"\0\x01\0", ProtocolError),
    ("SUBACK with a code of UNSUBACK", V5, Server, 0x90, b"\0\x01\0\x11", ProtocolError),
    ("SUBACK from the client", V5, Client, 0x90, b"\0\x01\0\0", ProtocolError),
    ("UNSUBSCRIBE flags", V5, Client, 0xa0, b"\0\x01\0\0\x01a", MalformedPacket),
    ("UNSUBSCRIBE id 0", V311, Client, 0xa2, b"\0\0\0\x01a", ProtocolError),
    ("UNSUBSCRIBE without filters, 5", V5, Client, 0xa2, b"\0\x01\0", ProtocolError),
    ("UNSUBSCRIBE without filters, 3.1.1", V311, Client, 0xa2, b"\0\x01", ProtocolError),
    ("UNSUBSCRIBE with a bad filter", V311, Client, 0xa2, b"\0\x01\0\x02#a", TopicFilterInvalid),
    ("UNSUBSCRIBE with a subscription id", V5, Client, 0xa2, b"\0\x01\x02\x0b\x01\0\x01a", MalformedPacket),
    ("UNSUBACK with a payload, 3.1.1", V311, Server, 0xb0, b"\0\x01\0", MalformedPacket),
    ("UNSUBACK without codes", V5, Server, 0xb0, b"\0\x01\0", ProtocolError),
    ("UNSUBACK with a code of SUBACK", V5, Server, 0xb0, b"\0\x01\0\x02", ProtocolError),
    ("PINGREQ with a body", V5, Client, 0xc0, b"\0", MalformedPacket),
    ("PINGREQ flags", V311, Client, 0xc1, b"", MalformedPacket),
    ("PINGREQ from the server", V311, Server, 0xc0, b"", ProtocolError),
    ("PINGRESP with a body", V5, Server, 0xd0, b"\0", MalformedPacket),
    ("PINGRESP from the client", V5, Client, 0xd0, b"", ProtocolError),
    ("DISCONNECT flags", V5, Client, 0xe8, b"", MalformedPacket),
    ("DISCONNECT with a reason, 3.1.1", V311, Client, 0xe0, b"\0", MalformedPacket),
    ("DISCONNECT from the server, 3.1.1", V311, Server, 0xe0, b"", ProtocolError),
    ("DISCONNECT with a code of AUTH", V5, Client, 0xe0, b"\x18", ProtocolError),
    ("DISCONNECT with a server's code", V5, Client, 0xe0, b"\x8e", ProtocolError),
    ("DISCONNECT with a client's code", V5, Server, 0xe0, b"\x04", ProtocolError),
    ("DISCONNECT with an unknown code", V5, Client, 0xe0, b"\x03", MalformedPacket),
    ("server's session expiry", V5, Server, 0xe0, b"\0\x05\x11\0\0\0\x01", ProtocolError),
    ("client's server reference", V5, Client, 0xe0, b"\0\x04\x1c\0\x01s", ProtocolError),
    ("DISCONNECT with a content type", V5, Client, 0xe0, b"\0\x03\x03\0\0", MalformedPacket),
    ("AUTH in 3.1.1", V311, Client, 0xf0, b"", MalformedPacket),
    ("AUTH flags", V5, Client, 0xf1, b"\x18\x04\x15\0\x01m", MalformedPacket),
    ("AUTH without a method", V5, Client, 0xf0, b"\x18\0", ProtocolError),
    ("AUTH with an error code", V5, Server, 0xf0, b"\x87\x04\x15\0\x01m", ProtocolError),
    ("AUTH success from the client", V5, Client, 0xf0, b"", ProtocolError),
    ("AUTH again from the server", V5, Server, 0xf0, b"\x19\x04\x15\0\x01m", ProtocolError),
    ("AUTH with the method twice", V5, Client, 0xf0, b"\x18\x08\x15\0\x01m\x15\0\x01m", ProtocolError),
    ("packet type 0", V311, Client, 0x00, b"", MalformedPacket),
    ("packet type 0, 5", V5, Client, 0x00, b"", MalformedPacket),
    ("UNSUBSCRIBE with a filter cut", V5, Client, 0xa2, b"\0\x01\0\0\x05a", MalformedPacket),
    ("UNSUBACK with a subscription id", V5, Server, 0xb0, b"\0\x01\x02\x0b\x01\0", MalformedPacket),
    ("DISCONNECT with the expiry twice", V5, Client, 0xe0, b"\0\x0a\x11\0\0\0\x01\x11\0\0\0\x01", ProtocolError),
    ("DISCONNECT with a trailing byte", V5, Client, 0xe0, b"\0\0\0", MalformedPacket),
    ("AUTH with an unknown code", V5, Client, 0xf0, b"\x05\x04\x15\0\x01m", MalformedPacket),
    ("AUTH with a code only", V5, Client, 0xf0, b"\x18", MalformedPacket),
    ("AUTH with a session expiry", V5, Client, 0xf0, b"\x18\x09\x15\0\x01m\x11\0\0\0\x01", MalformedPacket),
];

/// Every packet of the tables, with its connection.
pub(super) fn all() -> impl Iterator<Item = (Vec<u8>, Version, Sender)> {
    let rows = [CONNECT, CONNACK, PUBLISH, ACKS, SUBSCRIBE, REST].into_iter().flatten();
    rows.map(|(_, version, sender, first, body, _)| (framed(*first, body), *version, *sender))
}

fn framed(first: u8, body: &[u8]) -> Vec<u8> {
    let length = u8::try_from(body.len()).unwrap();
    assert!(length < 0x80);
    [&[first, length], body].concat()
}

#[test]
fn every_malformed_packet_is_refused_with_its_reason() {
    for table in [CONNECT, CONNACK, PUBLISH, ACKS, SUBSCRIBE, REST] {
        for (what, version, sender, first, body, reason) in table {
            match decode(&framed(*first, body), *version, *sender) {
                Ok(packet) => panic!("{what}: accepted as {packet:?}"),
                Err(error) => assert_eq!(error.reason, *reason, "{what}: {error}"),
            }
        }
    }
}

#[test]
fn near_misses_of_the_table_are_accepted() {
    let rows: &[(Version, Sender, u8, &[u8])] = &[
        (V5, Client, 0x10, b"\0\x04MQTT\x05\x02\0\0\0\0\0"),
        (V311, Client, 0x10, b"\0\x04MQTT\x04\x02\0\0\0\0"),
        (V5, Client, 0x10, b"\0\x04MQTT\x05\0\0\0\0\0\0"),
        (V5, Client, 0x10, b"\0\x04MQTT\x05\x42\0\0\0\0\0\0\x01p"),
        (V5, Client, 0x10, b"\0\x04MQTT\x05\x36\0\0\0\0\0\x05\x18\0\0\0\x01\0\x01t\0\0"),
        (V5, Client, 0x30, b"\0\0\x03\x23\0\x01"),
        (V5, Server, 0x30, b"\0\x01t\x04\x0b\x01\x0b\x01"),
        (V5, Client, 0x30, b"\0\x03\xef\xbb\xbf\0"),
        (V5, Client, 0x3d, b"\0\x01t\0\x01\0"),
        (V5, Client, 0x40, b"\0\x01"),
        (V5, Client, 0x40, b"\0\x01\x10"),
        (V5, Client, 0x40, b"\0\x01\0\0"),
        (V5, Client, 0x82, b"\0\x01\0\0\x0b$share/g/+/\x2a"),
        (V5, Client, 0x82, b"\0\x01\0\0\x01#\x0e"),
        (V311, Client, 0x82, b"\0\x01\0\x03/+/\x02"),
        (V311, Server, 0x90, b"\0\x01\x80\x02"),
        (V311, Server, 0xb0, b"\0\x01"),
        (V5, Client, 0xe0, b""),
        (V5, Client, 0xe0, b"\x04"),
        (V5, Server, 0xe0, b"\x8e\0"),
        (V5, Server, 0xf0, b""),
        (V5, Client, 0xf0, b"\x18\x04\x15\0\x01m"),
    ];
    for (version, sender, first, body) in rows {
        let frame = framed(*first, body);
        let decoded = decode(&frame, *version, *sender);
        assert!(decoded.is_ok(), "{frame:02x?}: {decoded:?}");
    }
}

#[test]
fn the_fixed_header_is_judged_strictly() {
    let reason = |bytes: &[u8]| frame_length(bytes, 100).map_err(|error| error.reason);
    assert_eq!(reason(&[]), Ok(None));
    assert_eq!(reason(&[0x30]), Ok(None));
    assert_eq!(reason(&[0x30, 0x80]), Ok(None));
    assert_eq!(reason(&[0x30, 0xff, 0xff, 0xff]), Ok(None));
    assert_eq!(reason(&[0x30, 0x00]), Ok(Some(2)));
    assert_eq!(reason(&[0x30, 98]), Ok(Some(100)));
    assert_eq!(reason(&[0x30, 99]), Err(PacketTooLarge));
    assert_eq!(reason(&[0x30, 0xff, 0xff, 0xff, 0x7f]), Err(PacketTooLarge));
    assert_eq!(reason(&[0x30, 0x80, 0x00]), Err(MalformedPacket));
    assert_eq!(reason(&[0x30, 0xff, 0x80, 0x00]), Err(MalformedPacket));
    assert_eq!(reason(&[0x30, 0xff, 0xff, 0xff, 0x80]), Err(MalformedPacket));
    assert_eq!(reason(&[0x30, 0x80, 0x80, 0x80, 0x80, 0x01]), Err(MalformedPacket));
    assert_eq!(reason(&[0x00]), Err(MalformedPacket));
    assert_eq!(reason(&[0x61]), Err(MalformedPacket));
    assert_eq!(frame_length(&[0x30, 0x80, 0x01, 0], 200), Ok(Some(131)));
}

#[test]
fn a_frame_is_exactly_one_packet() {
    for frame in [&[0xc0_u8, 0, 0][..], &[0xc0, 1], &[0xc0], &[], &[0xc0, 0x80, 0]] {
        let error = decode(frame, V5, Client).unwrap_err();
        assert_eq!(error.reason, MalformedPacket, "{frame:?}");
    }
}

#[test]
fn a_refused_connect_is_answered_in_the_nearest_version() {
    let version = |body: &[u8]| connect_version(&framed(0x10, body));
    assert_eq!(version(b"\0\x04MQTT\x05\x03\0\0\0\0\0"), Some(V5));
    assert_eq!(version(b"\0\x04MQTT\x06\x02\0\0\0\0\0"), Some(V5));
    assert_eq!(version(b"\0\x04MQTT\x04\x03\0\0\0\0"), Some(V311));
    assert_eq!(version(b"\0\x06MQIsdp\x03\x02\0\0\0\0"), Some(V311));
    assert_eq!(version(b"\0\x04HTTP\x05\x02\0\0\0\0"), None);
    assert_eq!(connect_version(&framed(0x30, b"\0\x04MQTT\x05")), None);
}

#[test]
fn a_broken_topic_is_told_which_statement_it_breaks() {
    let name = |name| check_topic_name(name).unwrap_err().statement;
    let filter = |filter| check_topic_filter(filter).unwrap_err().statement;
    assert!(name("").ends_with("[MQTT-4.7.3-1]"));
    assert!(name("a\0").ends_with("[MQTT-4.7.3-2]"));
    assert!(name("a/+").ends_with("[MQTT-3.3.2-2]"));
    assert!(filter("").ends_with("[MQTT-4.7.3-1]"));
    assert!(filter("a\0").ends_with("[MQTT-4.7.3-2]"));
    assert!(filter("a#").ends_with("[MQTT-4.7.1-1] [MQTT-4.7.1-2]"));
    assert!(filter("$share/g").ends_with("[MQTT-4.8.2-1] [MQTT-4.8.2-2]"));
}
