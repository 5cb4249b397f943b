//! Signed releases, rollouts and their delivery to devices.
//!
//! Nothing is here yet but the place: releases and rollouts come with their engines, their routes and the device's
//! verifier. What the rest of the workspace will share with them is defined in `iot-core` when it is needed.

pub mod rollout;
