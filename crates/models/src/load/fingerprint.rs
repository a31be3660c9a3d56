//! A component's identity, cheap enough to compute at each start.

use std::{
    fs::{self, File},
    io::{self, Read, Seek, SeekFrom},
    path::{Path, PathBuf},
};

use gavel_core::ids::Digest;
use sha2::{Digest as _, Sha256};

use super::LoadError;

/// Hashes a component folder: the name and size of each JSON and safetensors file directly in it, and its bytes; of a file
/// above 64 MiB the first MiB (which holds the safetensors header) and one KiB at each of 1,024 equally spaced offsets.
///
/// Two trainings of one architecture differ in nearly every weight, so they differ in what is read. It is no proof against
/// somebody who forges weights.
///
/// # Errors
/// [`LoadError::FolderMissing`] and [`LoadError::Read`].
pub fn fingerprint(dir: &Path) -> Result<Digest, LoadError> {
    let refused = |file: &Path, source| LoadError::Read {
        file: file.to_owned(),
        source,
    };
    if !dir.is_dir() {
        return Err(LoadError::FolderMissing { dir: dir.to_owned() });
    }
    let mut files: Vec<PathBuf> = fs::read_dir(dir)
        .and_then(|entries| entries.map(|entry| entry.map(|entry| entry.path())).collect())
        .map_err(|source| refused(dir, source))?;
    files.retain(|file| {
        file.is_file()
            && file
                .extension()
                .is_some_and(|extension| extension == "json" || extension == "safetensors")
    });
    files.sort();
    let mut hash = Sha256::new();
    for file in &files {
        let name = file.file_name().unwrap_or_default().to_string_lossy();
        hash.update((name.len() as u64).to_le_bytes());
        hash.update(name.as_bytes());
        hash_content(&mut hash, file).map_err(|source| refused(file, source))?;
    }
    Ok(Digest(hash.finalize().into()))
}

fn hash_content(hash: &mut Sha256, path: &Path) -> io::Result<()> {
    const WHOLE_MAX: u64 = 64 << 20;
    const HEAD: u64 = 1 << 20;
    const PIECES: u64 = 1024;
    const PIECE: usize = 1024;

    let mut file = File::open(path)?;
    let size = file.metadata()?.len();
    hash.update(size.to_le_bytes());
    if size <= WHOLE_MAX {
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes)?;
        hash.update(&bytes);
        return Ok(());
    }
    let mut head = vec![0; HEAD as usize];
    file.read_exact(&mut head)?;
    hash.update(&head);
    let mut piece = [0; PIECE];
    let last = size - PIECE as u64;
    for piece_index in 0..PIECES {
        file.seek(SeekFrom::Start(HEAD + (last - HEAD) / (PIECES - 1) * piece_index))?;
        file.read_exact(&mut piece)?;
        hash.update(piece);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_changed_byte_and_one_changed_name_give_another_fingerprint() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("model.safetensors"), [1, 2, 3]).unwrap();
        fs::write(dir.path().join("notes.txt"), "not part of it").unwrap();
        let first = fingerprint(dir.path()).unwrap();
        fs::write(dir.path().join("notes.txt"), "still not").unwrap();
        assert_eq!(fingerprint(dir.path()).unwrap(), first);
        fs::write(dir.path().join("model.safetensors"), [1, 2, 4]).unwrap();
        let changed = fingerprint(dir.path()).unwrap();
        assert_ne!(changed, first);
        fs::rename(
            dir.path().join("model.safetensors"),
            dir.path().join("other.safetensors"),
        )
        .unwrap();
        assert_ne!(fingerprint(dir.path()).unwrap(), changed);
    }

    #[test]
    fn a_large_file_is_read_in_pieces_including_its_end() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("large.safetensors");
        let file = File::create(&path).unwrap();
        file.set_len((64 << 20) + 5).unwrap();
        let first = fingerprint(dir.path()).unwrap();
        let mut file = File::options().write(true).open(&path).unwrap();
        io::Write::write_all(&mut file, b"header").unwrap();
        assert_ne!(fingerprint(dir.path()).unwrap(), first);
    }
}
