//! A small disk of its own for the coordinator's data, which can be filled up.

use std::fs::File;
use std::io::{ErrorKind, Write as _};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::Context as _;

/// Room for the data of one round with some to spare; what is free of it lies in memory while the disk is full.
const SIZE: &str = "192m";
const FILLER: &str = "filler";
/// Set in the process that has mounts of its own.
const MARK: &str = "GAVEL_CHAOS_OWN_MOUNTS";

/// A tmpfs. It is unmounted when it is dropped, and at the latest with this process.
pub(crate) struct Disk {
    mount: PathBuf,
}

/// Starts this program again with mounts of its own, where the system permits that: they vanish with the process, however it
/// ends. Returns when it does not.
pub(crate) fn enter_own_mounts() {
    if std::env::var_os(MARK).is_some() {
        return;
    }
    // As root, or as an ordinary user who is root among processes of his own.
    let ways: [&[&str]; 2] = [&["--mount"], &["--mount", "--map-root-user"]];
    let permitted = ways.into_iter().find(|way| {
        let tried = Command::new("unshare")
            .args(*way)
            .arg("true")
            .stderr(Stdio::null())
            .status();
        tried.is_ok_and(|status| status.success())
    });
    let (Some(way), Ok(program)) = (permitted, std::env::current_exe()) else {
        return;
    };
    let failed = Command::new("unshare")
        .args(way)
        .arg(program)
        .args(std::env::args_os().skip(1))
        .env(MARK, "1")
        .exec();
    eprintln!("no mounts of its own: {failed}");
}

impl Disk {
    /// Mounts a small disk at `folder`, which is made.
    ///
    /// # Errors
    /// Says why there is none; without mounts of its own nothing is tried.
    pub(crate) fn mount(folder: &Path) -> anyhow::Result<Self> {
        std::fs::create_dir_all(folder).context("cannot make the folder of the state")?;
        anyhow::ensure!(
            std::env::var_os(MARK).is_some(),
            "this system permits no mounts of a process's own"
        );
        let output = Command::new("mount")
            .args(["-t", "tmpfs", "-o", &format!("size={SIZE}"), "tmpfs"])
            .arg(folder)
            .output()
            .context("cannot start `mount`")?;
        anyhow::ensure!(
            output.status.success(),
            "mount: {}",
            String::from_utf8_lossy(&output.stderr).trim()
        );
        Ok(Self {
            mount: folder.to_owned(),
        })
    }

    /// Writes until there is no space left.
    pub(crate) fn fill(&self) -> anyhow::Result<()> {
        let mut file = File::create(self.mount.join(FILLER)).context("cannot fill the disk")?;
        // The small pieces take what is left beside the last large one.
        for piece in [vec![0; 1 << 20], vec![0; 512]] {
            loop {
                match file.write_all(&piece) {
                    Ok(()) => {}
                    Err(error) if error.kind() == ErrorKind::StorageFull => break,
                    Err(error) => return Err(error).context("cannot fill the disk"),
                }
            }
        }
        Ok(())
    }

    /// Gives the space back.
    pub(crate) fn free(&self) -> anyhow::Result<()> {
        std::fs::remove_file(self.mount.join(FILLER)).context("cannot free the disk")
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        // What cannot be unmounted now is with the end of the process.
        let _ = Command::new("umount").arg("-l").arg(&self.mount).status();
    }
}
