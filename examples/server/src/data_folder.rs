//! The folder in which a server keeps everything.

use std::{
    fs,
    os::unix::fs::{DirBuilderExt, PermissionsExt},
    path::{Path, PathBuf},
};

use iot_core::id::NodeId;
use iot_store::blobs::Blobs;

use crate::failure::Failure;

/// The only node of a deployment with embedded storage.
const NODE: &str = "n1";

/// Is in a folder while a backup is being restored into it.
pub(crate) const RESTORING: &str = ".restoring";

/// The keys of simulated devices.
pub(crate) const DEMO_DEVICES: &str = "demo-devices";

/// Which database a folder belongs to.
pub(crate) const DEPLOYMENT: &str = "deployment";

#[derive(Debug, Clone)]
pub(crate) struct DataFolder {
    path: PathBuf,
}

impl DataFolder {
    /// Opens or makes it, for this user alone.
    pub(crate) fn open(path: &Path) -> Result<Self, Failure> {
        let unusable = |error: std::io::Error| {
            Failure::options(format!("--data {}: {error}; name a folder that this user may write to", path.display()))
        };
        if path.exists() && !path.is_dir() {
            return Err(unusable(std::io::ErrorKind::NotADirectory.into()));
        }
        if path.join(RESTORING).exists() {
            let path = path.display();
            return Err(Failure::options(format!(
                "--data {path}: its restore was broken off; run iot-server restore again"
            )));
        }
        fs::DirBuilder::new().recursive(true).mode(0o700).create(path).map_err(unusable)?;
        let probe = path.join(".probe");
        fs::write(&probe, b"").and_then(|()| fs::remove_file(&probe)).map_err(unusable)?;
        let path = path.canonicalize().map_err(unusable)?;
        fs::set_permissions(&path, fs::Permissions::from_mode(0o700)).map_err(unusable)?;
        Ok(Self { path })
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    pub(crate) fn stores(&self) -> PathBuf {
        self.path.join("store")
    }

    /// The name of what is kept here, if its records are in a database elsewhere: that has it too.
    pub(crate) fn deployment(&self) -> PathBuf {
        self.path.join(DEPLOYMENT)
    }

    pub(crate) fn ca(&self) -> PathBuf {
        self.path.join("ca.pem")
    }

    pub(crate) fn outbox(&self) -> PathBuf {
        self.path.join("outbox")
    }

    /// Where images of firmware are kept.
    pub(crate) fn blobs(&self) -> Result<Blobs, Failure> {
        Blobs::local(&self.path.join("blobs")).map_err(|error| Failure::of("--data: ", &error))
    }

    pub(crate) fn demo_devices(&self) -> PathBuf {
        self.path.join(DEMO_DEVICES)
    }

    pub(crate) fn node_id() -> NodeId {
        NODE.parse().expect("it is an identifier")
    }
}
