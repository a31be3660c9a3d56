//! The wall clock of the coordinator's machine, which somebody sets: by a library that stands between the program and the system.
//! The monotonic clock is left alone, as it is when a machine's date is set.

use std::path::{Path, PathBuf};

use anyhow::Context as _;

/// Debian's package `faketime`.
const LIBRARY: &str = "/usr/lib/x86_64-linux-gnu/faketime/libfaketimeMT.so.1";

/// A wall clock that can be set while its process runs.
pub(crate) struct WallClock {
    file: PathBuf,
}

impl WallClock {
    /// A clock that goes right, whose setting is kept in the folder; `None` where the library is missing.
    pub(crate) fn new(folder: &Path) -> anyhow::Result<Option<Self>> {
        if !Path::new(LIBRARY).is_file() {
            return Ok(None);
        }
        let clock = Self {
            file: folder.join("wall-clock"),
        };
        clock.set(0)?;
        Ok(Some(clock))
    }

    /// What a process is started with to go by this clock.
    pub(crate) fn environment(&self) -> Vec<(String, String)> {
        [
            ("LD_PRELOAD", LIBRARY.to_owned()),
            ("FAKETIME_TIMESTAMP_FILE", self.file.display().to_string()),
            ("FAKETIME_DONT_FAKE_MONOTONIC", "1".to_owned()),
            // The ages of files are the disk's.
            ("NO_FAKE_STAT", "1".to_owned()),
            // Seconds after which a new setting is read.
            ("FAKETIME_CACHE_DURATION", "1".to_owned()),
        ]
        .map(|(name, value)| (name.to_owned(), value))
        .to_vec()
    }

    /// Sets it before or after the right time.
    pub(crate) fn set(&self, seconds: i64) -> anyhow::Result<()> {
        // Whole or not at all: it is read at any time.
        let new = self.file.with_extension("new");
        std::fs::write(&new, format!("{seconds:+}\n"))
            .and_then(|()| std::fs::rename(&new, &self.file))
            .context("cannot set the wall clock")
    }
}
