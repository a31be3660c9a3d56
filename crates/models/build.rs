//! Compiles the GPU's kernels with nvcc.

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    #[cfg(feature = "cuda")]
    kernels();
}

/// PTX for any card since Ampere; the driver compiles it for the card at hand.
#[cfg(feature = "cuda")]
fn kernels() {
    const FOLDER: &str = "src/ops/candle/kernels/cuda";
    const SOURCE: &str = "src/ops/candle/kernels/cuda/kernels.cu";
    println!("cargo::rerun-if-changed={FOLDER}");
    let out = std::env::var("OUT_DIR").unwrap_or_default();
    let nvcc = std::env::var("CUDA_HOME").map_or_else(|_| "nvcc".to_owned(), |home| format!("{home}/bin/nvcc"));
    let status = std::process::Command::new(&nvcc)
        .args(["-ptx", "-arch=compute_80", "-O3", "-std=c++17", SOURCE, "-o"])
        .arg(format!("{out}/kernels.ptx"))
        .status();
    match status {
        Ok(status) if status.success() => {}
        other => panic!("{nvcc} does not compile {SOURCE}: {other:?}; docs/gpu.md says what a build for GPUs needs"),
    }
}
