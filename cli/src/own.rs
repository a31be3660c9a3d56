//! Coordinators that this user's `gavel run` started: their tokens, which this user's commands find by the address.

use std::fs::DirBuilder;
use std::io::Write as _;
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use crate::diagnostic::{Context as _, Result};

/// A file that this user alone reads, in a folder that this user alone enters; it is there for as long as this value is.
#[derive(Debug)]
pub(crate) struct PrivateFile(PathBuf);

impl PrivateFile {
    /// Writes the file, instead of one that is there.
    ///
    /// # Errors
    /// Folder or file cannot be written.
    pub(crate) fn write(file: PathBuf, text: &str) -> Result<Self> {
        write_private(&file, text)?;
        Ok(Self(file))
    }

    /// The file.
    pub(crate) fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for PrivateFile {
    fn drop(&mut self) {
        // What it says is worth nothing any more: one that stays is one that nobody minds, and so is a folder that others still use.
        let _ = std::fs::remove_file(&self.0);
        let _ = self.0.parent().map(std::fs::remove_dir);
    }
}

fn write_private(file: &Path, text: &str) -> Result<()> {
    let unwritable = || format!("{}: cannot write", file.display());
    if let Some(folder) = file.parent() {
        let made = DirBuilder::new().recursive(true).mode(0o700).create(folder);
        made.with_context(unwritable)?;
    }
    match std::fs::remove_file(file) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error).with_context(unwritable),
        _ => {}
    }
    // A new one: of one that was there somebody else could have an open handle.
    let mut open = std::fs::OpenOptions::new();
    let made = open.write(true).create_new(true).mode(0o600).open(file);
    made.and_then(|mut file| writeln!(file, "{text}"))
        .with_context(unwritable)
}

/// The file of the token for the coordinator at this address of this machine; `None` elsewhere, and for a user without a folder.
pub(crate) fn file_of(address: &str) -> Option<PathBuf> {
    file_in(&folder()?, address)
}

fn file_in(folder: &Path, address: &str) -> Option<PathBuf> {
    let (_, listens) = address.trim_end_matches('/').split_once("://")?;
    let port = ["127.0.0.1:", "localhost:", "[::1]:"]
        .iter()
        .find_map(|host| listens.strip_prefix(host))?;
    let port: u16 = port.parse().ok()?;
    Some(folder.join(format!("{port}.token")))
}

/// Where this user's programs keep what lasts as long as a session; where the system makes no such place, in the home folder.
fn folder() -> Option<PathBuf> {
    let absolute = |name: &str| {
        std::env::var_os(name)
            .map(PathBuf::from)
            .filter(|path| path.is_absolute())
    };
    let state = || absolute("XDG_STATE_HOME").or_else(|| Some(absolute("HOME")?.join(".local/state")));
    let place = absolute("XDG_RUNTIME_DIR")
        .filter(|path| path.is_dir())
        .or_else(state)?;
    Some(place.join("gavel"))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn a_token_is_found_by_an_address_of_this_machine_alone() {
        let found = |address: &str| file_in(Path::new("/run"), address).map(|file| file.display().to_string());
        for address in ["http://127.0.0.1:4711", "https://localhost:4711/", "http://[::1]:4711"] {
            assert_eq!(found(address).as_deref(), Some("/run/4711.token"), "{address}");
        }
        for address in [
            "http://10.0.0.7:4711",
            "http://127.0.0.1.example.org:4711",
            "http://127.0.0.1",
            "127.0.0.1:x",
        ] {
            assert_eq!(found(address), None, "{address}");
        }
    }

    #[test]
    fn a_file_is_for_its_user_alone_and_for_as_long_as_it_is_worth_something() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("deep/4711.token");
        let kept = PrivateFile::write(file.clone(), "secret").unwrap();
        // Another run at the same port.
        let again = PrivateFile::write(file.clone(), "secret").unwrap();
        assert_eq!(std::fs::read_to_string(kept.path()).unwrap().trim(), "secret");
        let mode = |path: &Path| path.metadata().unwrap().permissions().mode() & 0o777;
        assert_eq!((mode(&file), mode(file.parent().unwrap())), (0o600, 0o700));
        drop(again);
        assert!(!file.exists());
    }
}
