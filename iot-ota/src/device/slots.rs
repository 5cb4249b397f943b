use std::{
    fs::{self, File, OpenOptions},
    io::{self, Read, Seek, SeekFrom, Write},
    ops::Range,
    path::{Path, PathBuf},
};

use super::{Slot, State, StateError, state::STATE_BYTES_MAX};

const STATE_FILE: &str = "state.json";

/// Why a folder of slots could not be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SlotError {
    /// The file system said no. Trying again may help.
    #[error("{path}")]
    Io {
        /// Where.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The stored state is not what this module wrote. It is replaced as a whole, so that a power cut does not do this.
    #[error("{path} cannot be used")]
    State {
        /// Which file.
        path: PathBuf,
        /// What is wrong with it.
        source: StateError,
    },
    /// The slot runs and is not written to.
    #[error("slot {0:?} runs and is not written to")]
    Runs(Slot),
    /// It would reach beyond the slot's end.
    #[error("slots have {0} bytes")]
    Full(u64),
}

/// A device's flash as a folder: `slot-a`, `slot-b` and `state.json`. One process at a time.
///
/// The state is replaced atomically and durably: after a power cut there is the old one or the new one. What is written to a
/// slot is durable when [`write`](Self::write) returns.
#[derive(Debug)]
pub struct SlotFolder {
    path: PathBuf,
    slot_bytes: u64,
    running: Option<Slot>,
    stored: Option<State>,
}

impl SlotFolder {
    /// Makes the folder where it is missing, and reads the state.
    pub fn open(path: &Path, slot_bytes: u64) -> Result<Self, SlotError> {
        fs::create_dir_all(path).map_err(io_at(path))?;
        let mut folder = Self { path: path.to_owned(), slot_bytes, running: None, stored: None };
        folder.stored = folder.load()?;
        // A process that was killed may have left a new name that is not durable yet.
        sync_folder(path).map_err(io_at(path))?;
        Ok(folder)
    }

    /// What the boot loader does at a start: decides which slot runs, and counts. From then on that slot is not written to.
    /// `factory` is stored if there is nothing yet. The state is what [`Updater::new`](super::Updater::new) wants.
    pub fn boot(&mut self, factory: impl FnOnce() -> State) -> Result<(Slot, State), SlotError> {
        let mut state = self.stored.clone().unwrap_or_else(factory);
        let slot = state.boot();
        self.save(&state)?;
        self.running = Some(slot);
        Ok((slot, state))
    }

    /// Stores the state durably, if it is not what is stored already.
    pub fn save(&mut self, state: &State) -> Result<(), SlotError> {
        if self.stored.as_ref() == Some(state) {
            return Ok(());
        }
        let path = self.path.join(STATE_FILE);
        replace(&self.path, &path, &state.to_json()).map_err(io_at(&path))?;
        self.stored = Some(state.clone());
        Ok(())
    }

    /// Where a slot's image is.
    pub fn image_path(&self, slot: Slot) -> PathBuf {
        self.path.join(match slot {
            Slot::A => "slot-a",
            Slot::B => "slot-b",
        })
    }

    /// What stands there; shorter where the slot ends, empty where nothing was ever written.
    pub fn read(&self, slot: Slot, range: Range<u64>) -> Result<Vec<u8>, SlotError> {
        let path = self.image_path(slot);
        match read_range(&path, range) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
            read => read.map_err(io_at(&path)),
        }
    }

    /// Writes durably. Refuses the slot that runs, and whatever reaches beyond the slot's size.
    pub fn write(&mut self, slot: Slot, offset: u64, bytes: &[u8]) -> Result<(), SlotError> {
        if self.running.is_none_or(|running| running == slot) {
            return Err(SlotError::Runs(slot));
        }
        if offset.saturating_add(bytes.len() as u64) > self.slot_bytes {
            return Err(SlotError::Full(self.slot_bytes));
        }
        let path = self.image_path(slot);
        write_at(&self.path, &path, offset, bytes).map_err(io_at(&path))
    }

    fn load(&self) -> Result<Option<State>, SlotError> {
        let path = self.path.join(STATE_FILE);
        match read_range(&path, 0..STATE_BYTES_MAX as u64 + 1) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(source) => Err(SlotError::Io { path, source }),
            Ok(bytes) => State::parse(&bytes).map(Some).map_err(|source| SlotError::State { path, source }),
        }
    }
}

fn io_at(path: &Path) -> impl FnOnce(io::Error) -> SlotError {
    move |source| SlotError::Io { path: path.to_owned(), source }
}

fn read_range(path: &Path, range: Range<u64>) -> io::Result<Vec<u8>> {
    let mut file = File::open(path)?;
    file.seek(SeekFrom::Start(range.start))?;
    let mut bytes = Vec::new();
    file.take(range.end.saturating_sub(range.start)).read_to_end(&mut bytes)?;
    Ok(bytes)
}

fn write_at(folder: &Path, path: &Path, offset: u64, bytes: &[u8]) -> io::Result<()> {
    let new = !path.exists();
    let mut file = OpenOptions::new().write(true).create(true).truncate(false).open(path)?;
    file.seek(SeekFrom::Start(offset))?;
    file.write_all(bytes)?;
    file.sync_data()?;
    if new { sync_folder(folder) } else { Ok(()) }
}

fn replace(folder: &Path, path: &Path, bytes: &[u8]) -> io::Result<()> {
    let new = path.with_added_extension("new");
    let mut file = File::create(&new)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    fs::rename(&new, path)?;
    sync_folder(folder)
}

fn sync_folder(folder: &Path) -> io::Result<()> {
    File::open(folder)?.sync_all()
}
