//! Holds what is committed in `src/generated` to what `gavel/v1/*.proto` generate.
//!
//! The code is committed because its generator is fifty crates, which everybody who builds Gavel would compile. It is pure Rust:
//! no protoc has to be installed. After a change of a .proto file:
//! `GAVEL_REGENERATE=1 cargo test -p gavel-proto --test generated`.

use std::path::Path;

use prost::Message as _;

#[test]
fn the_committed_code_is_what_the_proto_files_generate() {
    let crate_folder = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut files: Vec<String> = std::fs::read_dir(crate_folder.join("gavel/v1"))
        .expect("the folder is readable")
        .map(|entry| entry.expect("the entry is readable").file_name())
        .map(|name| format!("gavel/v1/{}", name.to_string_lossy()))
        .collect();
    files.sort();
    assert!(!files.is_empty());

    let fresh = tempfile::tempdir().expect("a folder");
    let descriptors = protox::compile(&files, [crate_folder]).expect("the .proto files compile");
    std::fs::write(fresh.path().join("gavel.v1.bin"), descriptors.encode_to_vec()).expect("written");
    tonic_prost_build::configure()
        .out_dir(fresh.path())
        .compile_fds(descriptors)
        .expect("the descriptors become code");

    let committed = crate_folder.join("src/generated");
    for name in ["gavel.v1.bin", "gavel.v1.rs"] {
        let wanted = std::fs::read(fresh.path().join(name)).expect("generated");
        if std::env::var_os("GAVEL_REGENERATE").is_some() {
            std::fs::write(committed.join(name), wanted).expect("written");
        } else {
            let found = std::fs::read(committed.join(name)).unwrap_or_default();
            assert!(
                found == wanted,
                "src/generated/{name} is not what the .proto files say: GAVEL_REGENERATE=1 cargo test -p gavel-proto --test generated"
            );
        }
    }
}
