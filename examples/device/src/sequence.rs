//! The device's count of its reports, which never repeats: numbers are reserved on disk in blocks before they are used.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use iot_auth::device::replace_file;

/// How many numbers are reserved with one write; a crash leaves a gap of at most so many.
pub const BLOCK: u64 = 1_000;

/// With fewer numbers left, the next block is to be reserved.
const LOW: u64 = BLOCK / 4;

const FILE: &str = "sequence";

/// Numbers that are reserved for this process.
#[derive(Debug)]
pub struct Sequence {
    path: PathBuf,
    next: u64,
    reserved_until: u64,
}

impl Sequence {
    /// Goes on after everything that was ever reserved in this folder. Reads and writes files.
    pub fn open(folder: &Path) -> io::Result<Self> {
        let path = folder.join(FILE);
        let next = match fs::read_to_string(&path) {
            Ok(text) => text.strip_suffix('\n').and_then(|number| number.parse().ok()).ok_or_else(|| damaged(&path))?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => 0,
            Err(error) => return Err(error),
        };
        let mut sequence = Self { path, next, reserved_until: next };
        sequence.reserve()?;
        Ok(sequence)
    }

    /// The next number; `None` until another block is reserved.
    pub fn take(&mut self) -> Option<u64> {
        let number = self.next;
        if number >= self.reserved_until {
            return None;
        }
        self.next += 1;
        Some(number)
    }

    /// Whether [`Sequence::reserve`] is due.
    pub fn is_low(&self) -> bool {
        self.reserved_until - self.next < LOW
    }

    /// Reserves another block. Writes a file and waits until it is on disk.
    pub fn reserve(&mut self) -> io::Result<()> {
        let until = self.reserved_until.checked_add(BLOCK).ok_or(io::ErrorKind::StorageFull)?;
        replace_file(&self.path, format!("{until}\n").as_bytes())?;
        self.reserved_until = until;
        Ok(())
    }
}

fn damaged(path: &Path) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("{} is damaged: not a number", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_never_repeat_over_restarts_at_any_moment() {
        let folder = tempfile::tempdir().unwrap();
        let mut last = None;
        for taken in [0, 1, BLOCK - LOW, BLOCK, BLOCK + 1, 2 * BLOCK + 5] {
            let mut sequence = Sequence::open(folder.path()).unwrap();
            for _ in 0..taken {
                if sequence.is_low() {
                    sequence.reserve().unwrap();
                }
                let number = sequence.take().unwrap();
                assert!(last.is_none_or(|last| number > last), "{number} after {last:?}");
                last = Some(number);
            }
        }
    }

    #[test]
    fn without_a_reserve_the_block_ends() {
        let folder = tempfile::tempdir().unwrap();
        let mut sequence = Sequence::open(folder.path()).unwrap();
        assert_eq!(std::iter::from_fn(|| sequence.take()).count() as u64, BLOCK);
        assert!(sequence.is_low());
        sequence.reserve().unwrap();
        assert_eq!(sequence.take(), Some(BLOCK));
    }

    #[test]
    fn a_damaged_file_is_an_error_and_not_a_fresh_start() {
        let folder = tempfile::tempdir().unwrap();
        for damaged in ["", "12x\n", "-1\n", "10"] {
            fs::write(folder.path().join(FILE), damaged).unwrap();
            assert!(Sequence::open(folder.path()).is_err(), "{damaged:?}");
        }
    }
}
