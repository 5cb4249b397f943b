//! Connections: transports, MQTT, sessions, routing, ingest and commands.
//!
//! The crate has both ends. With feature `server` a `node::Node` serves devices and applications; with feature `device`
//! `mqtt::client` is the device's end, without a runtime. The engines between them, [`mqtt::server`], [`router`] and
//! [`command`], are pure and always there.
//!
//! Do not use it as a general MQTT broker: topics belong to tenants and devices, and a client without a credential gets
//! nowhere unless a listener is opened for it.
//!
//! | module | what |
//! |---|---|
//! | [`mqtt`] | codec and engines of MQTT 3.1.1 and 5.0 |
//! | [`router`] | subscriptions to matches |
//! | [`command`] | the engine that follows a command |
//! | `node` | sessions, ingest, consumers, commands at run time |
//! | `twin` | twins of devices: the service that devices ask, and the way for applications |
//! | `transport` | TCP, TLS, WebSocket |
//! | `bus` | the backplane within one process |
//! | `push` | webhooks |
//! | `http` | routes for applications |

pub mod command;
pub mod mqtt;
#[cfg(feature = "webhooks")]
pub mod push;
pub mod router;

#[cfg(feature = "server")]
pub mod bus;
#[cfg(feature = "http")]
pub mod http;
#[cfg(feature = "server")]
pub mod node;
#[cfg(feature = "server")]
mod recent;
#[cfg(feature = "server")]
pub mod transport;
#[cfg(feature = "server")]
pub mod twin;
