//! One program at a time in a folder, by a lock that the system takes back when its holder ends, in whatever way it ends.

use std::fs::{File, OpenOptions, TryLockError};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use gavel_core::hint::Hint;

/// Held until it is dropped.
#[derive(Debug)]
pub struct FolderLock {
    _file: File,
}

/// Why a lock was not taken.
#[derive(Debug, thiserror::Error)]
pub enum LockError {
    /// Another program has it.
    #[error("{} is held by {holder}", file.display())]
    Held {
        /// The lock's file.
        file: PathBuf,
        /// What the other program wrote into it.
        holder: String,
    },
    /// The file cannot be written.
    #[error("{}: cannot write the lock", file.display())]
    Unwritable {
        /// The lock's file.
        file: PathBuf,
        /// Whose folder it is, where it is not this process's own.
        stranger: Option<Stranger>,
        /// What the system said.
        #[source]
        source: io::Error,
    },
}

/// A process in a folder that belongs to another user.
#[derive(Debug)]
pub struct Stranger {
    folder: PathBuf,
    owner: u32,
    process: u32,
}

impl Stranger {
    /// This process in the folder that this path is in, or would be; `None` in one of its own.
    fn at(path: &Path) -> Option<Self> {
        let process = std::fs::metadata("/proc/self").ok()?.uid();
        let (folder, owner) = path
            .ancestors()
            .skip(1)
            .find_map(|folder| Some((folder, folder.metadata().ok()?.uid())))?;
        (owner != process).then(|| Self {
            folder: folder.to_owned(),
            owner,
            process,
        })
    }
}

impl Hint for LockError {
    fn hint(&self) -> Option<String> {
        Some(match self {
            Self::Held { .. } => {
                "wait until that process has ended, or end it (SIGTERM), or name another folder".into()
            }
            Self::Unwritable { stranger: None, .. } => {
                "check that the folder exists and that this user may write to it, or name another one".into()
            }
            Self::Unwritable {
                stranger: Some(Stranger { folder, owner, process }),
                ..
            } => format!(
                "{0} belongs to user {owner} and this process is user {process}: give it to that user (chown {process} {0}; for a volume of \
                 Kubernetes, fsGroup), or name another folder",
                folder.display()
            ),
        })
    }
}

impl FolderLock {
    /// Takes the lock of this file, which is made where it is missing, with its folder, and says there who holds it.
    ///
    /// A file system without locks lets everybody have it; the log says so.
    ///
    /// # Errors
    /// [`LockError`].
    pub fn take(file: &Path) -> Result<Self, LockError> {
        let unwritable = |source: io::Error| LockError::Unwritable {
            file: file.to_owned(),
            stranger: match source.kind() {
                io::ErrorKind::PermissionDenied => Stranger::at(file),
                _ => None,
            },
            source,
        };
        if let Some(folder) = file.parent() {
            std::fs::create_dir_all(folder).map_err(unwritable)?;
        }
        let mut open = OpenOptions::new();
        // Another holder's words stay until the lock is ours.
        let mut lock = open
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(file)
            .map_err(unwritable)?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                let mut holder = String::new();
                // Its words are for people; without them the refusal stands.
                let _ = lock.take(200).read_to_string(&mut holder);
                return Err(LockError::Held {
                    file: file.to_owned(),
                    holder: match holder.trim() {
                        "" => "another process".to_owned(),
                        holder => holder.to_owned(),
                    },
                });
            }
            Err(TryLockError::Error(error)) if error.kind() == io::ErrorKind::Unsupported => {
                tracing::warn!(file = %file.display(), "this file system has no locks: nobody notices a second program here");
            }
            Err(TryLockError::Error(source)) => return Err(unwritable(source)),
        }
        // It is held by now; that people are not told by whom, on a full disk, is no reason to let go of it.
        let _ = lock.set_len(0).and_then(|()| lock.write_all(holder().as_bytes()));
        Ok(Self { _file: lock })
    }
}

/// This process, as others read of it.
fn holder() -> String {
    let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    match host.trim() {
        "" => format!("process {}\n", std::process::id()),
        host => format!("process {} on {host}\n", std::process::id()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_program_is_refused_by_the_name_of_the_first_until_that_has_ended() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("deep/lock");
        let first = FolderLock::take(&file).unwrap();
        let refused = FolderLock::take(&file).unwrap_err();
        let expected = format!("{} is held by process {}", file.display(), std::process::id());
        assert!(refused.to_string().starts_with(&expected), "{refused}");
        drop(first);
        FolderLock::take(&file).unwrap();
    }

    #[test]
    fn a_folder_of_another_user_is_told_with_what_to_do() {
        let folder = tempfile::tempdir().unwrap();
        assert!(Stranger::at(&folder.path().join("not/there/yet")).is_none());
        let refused = LockError::Unwritable {
            file: "/data/coordinator.lock".into(),
            stranger: Some(Stranger {
                folder: "/data".into(),
                owner: 0,
                process: 999,
            }),
            source: io::ErrorKind::PermissionDenied.into(),
        };
        let hint = refused.hint().unwrap();
        assert!(
            hint.starts_with("/data belongs to user 0 and this process is user 999"),
            "{hint}"
        );
        assert!(hint.contains("chown 999 /data") && hint.contains("fsGroup"), "{hint}");
    }
}
