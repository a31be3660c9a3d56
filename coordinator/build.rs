//! Rebuilds when a migration changes: `sqlx::migrate!` embeds the folder.

fn main() {
    let mut out = std::io::stdout();
    // Cargo reads its instructions from this build script's standard output.
    let _ = std::io::Write::write_all(&mut out, b"cargo:rerun-if-changed=migrations\n");
}
