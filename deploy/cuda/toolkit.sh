#!/usr/bin/env bash
# Assembles a CUDA 13.0 toolkit (nvcc, headers, link-time stubs) from NVIDIA's PyPI wheels:
# no GPU, no driver, no CUDA installer. x86-64 Linux with glibc; needs python3 with pip, cc, nm.
#
#   deploy/cuda/toolkit.sh DIR
#   eval "$(cat DIR/env.sh)"        # sets CUDA_HOME, PATH, CUDA_COMPUTE_CAP, ...
#   cargo build --release --features cuda,nccl
#
# Only nvcc and cudart are kept whole. Of cuBLAS, cuRAND, NVRTC and NCCL the headers and a stub
# library (right soname, every exported name, no code) are kept: enough to link, not to compute.
# Do not raise nvcc past the driver's CUDA version: newer PTX is refused by an older driver (580 takes
# up to 13.0). Run again, it does what is missing.
set -euo pipefail

[ $# -eq 1 ] || { sed -n '2,13p' "$0" >&2; exit 2; }
mkdir -p "$1"; root=$(cd "$1" && pwd)
stubs=$root/lib/stubs
mkdir -p "$root/.done" "$stubs"
ln -sfn lib "$root/lib64"
tmp=$(mktemp -d "$root/.tmp.XXXXXX"); trap 'rm -rf "$tmp"' EXIT

# get NAME VERSION: unpacks the wheel into $tmp/NAME
get() {
  echo "$1 $2"
  python3 -m pip download -q --no-deps --only-binary=:all: --no-cache-dir \
    --disable-pip-version-check -d "$tmp/$1.whl" "$1==$2"
  python3 -m zipfile -e "$tmp/$1.whl"/*.whl "$tmp/$1"
  rm -r "$tmp/$1.whl"
}

# stub FILE SONAME CODE < names: a shared library whose every function returns CODE
stub() {
  sort -u | sed "s/.*/int &(void) { return $3; }/" |
    cc -w -shared -fPIC -fno-builtin -nostdlib -Wl,-soname,"$2" -x c - -o "$stubs/$1"
  ln -sfn "$1" "$stubs/$2"
}

# once NAME VERSION FUNCTION ARGS...: runs FUNCTION on the unpacked wheel unless done before
once() {
  local name=$1 version=$2; shift 2
  [ -e "$root/.done/$name-$version" ] && return
  get "$name" "$version"
  "$@" "$tmp/$name"
  rm -r "$tmp/$name"
  touch "$root/.done/$name-$version"
}

whole() { cp -a "$1"/nvidia/cu13/. "$root/"; rm -rf "$root/.metadata"; }

headers_and_stubs() {
  local lib soname
  for lib in "$1"/nvidia/*/include; do [ ! -d "$lib" ] || cp -a "$lib" "$root/"; done
  for lib in "$1"/nvidia/*/lib/lib*.so.*; do
    soname=$(basename "$lib")
    case $soname in
      libcublas.so.*|libcublasLt.so.*|libcurand.so.*|libnvrtc.so.*|libnccl.so.*)
        nm -D --defined-only "$lib" | awk '$2 ~ /[TW]/ {sub(/@.*/, "", $3); print $3}' |
          stub "${soname%.so.*}.so" "$soname" 1 ;;
    esac
  done
}

once nvidia-cuda-nvcc    13.0.88   whole
once nvidia-nvvm         13.0.88   whole
once nvidia-cuda-crt     13.0.88   whole
once nvidia-cuda-runtime 13.0.96   whole
once nvidia-cuda-cccl    13.0.85   whole
once nvidia-curand       10.4.0.35 headers_and_stubs
once nvidia-cuda-nvrtc   13.0.88   headers_and_stubs
once nvidia-cublas       13.1.0.3  headers_and_stubs
once nvidia-nccl-cu13    2.28.9    headers_and_stubs

chmod +x "$root"/bin/* "$root"/nvvm/bin/*
ln -sfn libcudart.so.13 "$root/lib/libcudart.so"
# No wheel holds the driver's library; 34 is CUDA_ERROR_STUB_LIBRARY.
[ -e "$stubs/libcuda.so.1" ] ||
  grep -oE '\bcu[A-Z][A-Za-z0-9_]*' "$root/include/cuda.h" | stub libcuda.so libcuda.so.1 34

cat > "$root/env.sh" <<EOF
export CUDA_HOME='$root'
export PATH='$root/bin':"\$PATH"
export CUDA_COMPUTE_CAP=\${CUDA_COMPUTE_CAP:-90}
export CUDARC_CUDA_VERSION=13000
export CUDAFORGE_THREADS=\${CUDAFORGE_THREADS:-\$(nproc)}
EOF
"$root/bin/nvcc" --version | grep release
