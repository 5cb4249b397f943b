//! Backends of [`iot_core::push`].

pub mod webhook;
