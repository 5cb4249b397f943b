//! The server's end of one MQTT connection: an engine without sockets, clocks or threads.
//!
//! A [`Connection`] speaks the protocol; what a message means, who may send it and what outlives the connection is its
//! caller's. The caller owns the transport and the session, tells the engine what happens, and does what it says:
//!
//! | when | call |
//! |---|---|
//! | bytes arrived, or there is room again | [`Connection::handle_input`], then every [`Connection::poll_event`] |
//! | [`Connection::poll_timeout`] is reached | [`Connection::handle_timeout`] |
//! | [`Event::Connect`] | [`Connection::accept`] or [`Connection::refuse`] |
//! | [`Event::Publish`] with a ticket | [`Connection::published`], once the message is safe |
//! | [`Event::Release`] | [`Connection::released`] |
//! | [`Event::Subscribe`], [`Event::Unsubscribe`] | [`Connection::subscribed`], [`Connection::unsubscribed`] |
//! | a message for the client | [`Connection::deliver`], while [`Connection::window`] lasts |
//! | [`Event::Received`] | [`Connection::release`], once that is safe |
//! | after any of these | write [`Connection::output`] |
//! | [`Connection::is_saturated`] | do not read until it is over |
//! | [`Connection::is_closed`] | write what is left, close the transport |
//!
//! Answers may be given late and in any order: the engine puts acknowledgements into the order of the standard
//! (MQTT 5 §4.6). A ticket that is not known, or not any more, is ignored, and so is everything after the end.
//!
//! ```
//! use bytes::BytesMut;
//! use iot_conn::mqtt::server::{Accepted, Connection, ConnectionLimits, Event};
//! use iot_core::time::Monotonic;
//!
//! let mut connection = Connection::new(Monotonic::ZERO, ConnectionLimits::default());
//! let mut input = BytesMut::from(&b"\x10\x10\0\x04MQTT\x04\x02\0\x3c\0\x04lamp\xc0\0"[..]); // CONNECT, PINGREQ
//! connection.handle_input(Monotonic::ZERO, &mut input);
//! assert!(matches!(connection.poll_event(), Some(Event::Connect(request)) if request.client_id == "lamp"));
//!
//! connection.accept(Monotonic::ZERO, Accepted::default());
//! connection.handle_input(Monotonic::ZERO, &mut input);
//! assert_eq!(&connection.output()[..], b"\x20\x02\0\0\xd0\0"); // CONNACK, PINGRESP
//! ```

mod connection;
mod event;
mod handshake;
mod inbound;
mod limits;
mod outbound;
mod packets;

#[cfg(test)]
mod tests;

pub use connection::Connection;
pub use event::{Cause, ConnectRequest, Event, Farewell, PublishRequest, SubscribeOptions, Text, Ticket, WillRequest};
pub use handshake::Accepted;
pub use limits::ConnectionLimits;
pub use outbound::{Delivered, Delivery, PacketId};
