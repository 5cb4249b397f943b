//! The harness of the journeys: it starts the real server with an empty folder on free ports, and drives it with clients
//! from outside.
//!
//! A journey is a file in `tests/`; its phases are functions whose names say what must be true. Nothing sleeps: whatever
//! is waited for has a deadline ([`wait`]). Every process that is started ends with its owner ([`process`]).
//!
//! | module | what |
//! |---|---|
//! | [`cloud`] | `iot-server`: start, kill, terminate, start again on the same folder and ports |
//! | [`browser`] | Chromium, driven by chromedriver |
//! | [`http`] | HTTP with a bearer token |
//! | [`person`] | people: accounts, homes, invitations; the local door of a device |
//! | [`stream`], [`receiver`] | server-sent events; a receiver of webhooks |
//! | [`mqtt`] | our own MQTT client engine over TCP and TLS, one call at a time |
//! | [`mod@unit`] | devices: claimed by the test itself, or `iot-device` as a process |
//! | [`tools`] | clients that we did not write: mosquitto and paho |
//! | [`trace`] | what the server asked of the kernel, in order |
//! | [`process`], [`wait`] | child processes and deadlines |

pub mod browser;
pub mod cloud;
pub mod http;
pub mod mqtt;
pub mod person;
pub mod process;
pub mod receiver;
pub mod stream;
pub mod tools;
pub mod trace;
pub mod unit;
pub mod wait;
