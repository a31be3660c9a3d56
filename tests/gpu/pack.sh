#!/usr/bin/env bash
# Builds what tests/gpu/run.sh runs, for the GPU that CUDA_COMPUTE_CAP names (docs/gpu.md), and packs it with all that it reads.
#
#   tests/gpu/pack.sh ARCHIVE.tar.xz
#   tests/gpu/pack.sh FOLDER            # the same, unpacked
#
# Needs a CUDA toolkit, as deploy/cuda/toolkit.sh assembles one; no GPU. FEATURES= builds for the CPU, PROFILE=dev without optimising all.
set -euo pipefail

[ $# -eq 1 ] || { sed -n '2,8p' "$0" >&2; exit 2; }
target=$(realpath "$1")
cd "$(dirname "$0")/../.."
features=${FEATURES-gavel/cuda,gavel/nccl}
profile=${PROFILE:-release}

kit=$target
if [[ $target == *.tar.xz ]]; then
  place=$(mktemp -d); trap 'rm -rf "$place"' EXIT
  kit=$place/gavel-gpu
fi
bin=$kit/tests/gpu/bin
mkdir -p "$bin"
cp --recursive --parents benchmarks configs examples models tests/golden tests/gpu "$kit"
cargo build --profile "$profile" --workspace ${features:+--features "$features"} \
  --bin gavel --test models --bench real_sizes --message-format json-render-diagnostics |
  python3 -c '
import json, shutil, sys
for line in sys.stdin:
    message = json.loads(line)
    if message.get("executable"):
        shutil.copy(message["executable"], sys.argv[1] + "/" + message["target"]["name"])
' "$bin"
[[ $target == *.tar.xz ]] || exit 0
strip "$bin"/*
# One solid archive: the programs share most of their code.
tar --create --directory "$place" gavel-gpu | xz --threads=0 -6 --lzma2=dict=256MiB > "$target"
ls -l "$target"
