//! Which names may stand in which rooms.

use crate::{assert_none, has_word, rust_files};

/// Servers and clients convert generated types at the door and hand core types inward.
#[test]
fn generated_types_stop_at_the_door() {
    // `tests/hostile` says what no client of ours would.
    const DOORS: &[&str] = &["proto/", "crates/client/", "coordinator/src/grpc/", "tests/hostile/"];
    let problems: Vec<String> = rust_files()
        .iter()
        .filter(|file| !DOORS.iter().any(|door| file.path.starts_with(door)))
        .flat_map(|file| file.code_lines_where(|line| has_word(line, "gavel_proto")))
        .collect();
    assert_none(&problems);
}

/// Everybody else knows `Family`, `Denoiser` and `Pipeline`. `model.family` of a configuration has to name it.
#[test]
fn only_its_own_folder_and_the_match_over_families_know_flux() {
    const ROOMS: &[&str] = &[
        "crates/models/src/flux/",
        "crates/models/src/family.rs",
        "crates/core/src/spec/model.rs",
    ];
    let problems: Vec<String> = rust_files()
        .iter()
        .filter(|file| !ROOMS.iter().any(|room| file.path.starts_with(room)))
        .flat_map(|file| file.code_lines_where(|line| line.contains("Flux")))
        .collect();
    assert_none(&problems);
}

/// What an editor or a camera adds to a file must not become part of a prompt or a verdict: there is one reader for texts
/// (`gavel_core::text`) and one for pictures.
#[test]
fn each_kind_of_file_is_read_by_one_reader() {
    const READERS: &[(&str, &[&str])] = &[
        // Below /proc/ the kernel tells, whose text is no file of anybody's.
        ("fs::read_to_string(", &["crates/review/src/machine.rs"]),
        ("load_from_memory", &["crates/rubric/src/data/picture.rs"]),
        ("ImageReader", &["crates/rubric/src/data/picture.rs"]),
    ];
    let files = rust_files();
    let mut problems = Vec::new();
    for (way, places) in READERS {
        let others = files.iter().filter(|file| !places.contains(&file.path.as_str()));
        problems.extend(
            others.flat_map(|file| file.code_lines_where(|line| line.contains(way) && !line.contains("/proc/"))),
        );
    }
    assert_none(&problems);
}

/// crates/core/clippy.toml forbids clocks, the environment, threads and unordered maps; this forbids the rest of the world.
#[test]
fn core_does_no_io() {
    let problems: Vec<String> = rust_files()
        .iter()
        .filter(|file| file.path.starts_with("crates/core/src/"))
        .flat_map(|file| {
            file.code_lines_where(|line| {
                [
                    "std::fs",
                    "std::io::std",
                    "std::process",
                    "std::thread",
                    "std::env",
                    "println!",
                    "unsafe ",
                ]
                .iter()
                .any(|way_out| line.contains(way_out))
            })
        })
        .collect();
    assert_none(&problems);
}
