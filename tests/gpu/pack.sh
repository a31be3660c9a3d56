#!/usr/bin/env bash
# Builds what tests/gpu/run.sh runs, for the GPU that CUDA_COMPUTE_CAP names (docs/gpu.md), and packs it with all that it reads.
#
#   tests/gpu/pack.sh ARCHIVE.tar.xz
#   tests/gpu/pack.sh FOLDER            # the programs alone, for GAVEL_KIT
#
# Needs a CUDA toolkit, as deploy/cuda/toolkit.sh assembles one; no GPU. FEATURES= builds for the CPU, PROFILE=dev without optimising all.
set -euo pipefail

[ $# -eq 1 ] || { sed -n '2,8p' "$0" >&2; exit 2; }
archive=$(realpath "$1")
cd "$(dirname "$0")/../.."
features=${FEATURES-gavel/cuda,gavel/nccl}
profile=${PROFILE:-release}
tests=(golden_transformer golden_qwen_transformer golden_qwen_pipeline golden_qwen_vae golden_encoders golden_judge vlm_generation)

bin=$archive
if [[ $archive == *.tar.xz ]]; then
  bin=$(mktemp -d); trap 'rm -rf "$bin"' EXIT
fi
mkdir -p "$bin"
cargo build --profile "$profile" --workspace ${features:+--features "$features"} \
  --bin gavel "${tests[@]/#/--test=}" --bench real_sizes --message-format json-render-diagnostics |
  python3 -c '
import json, shutil, sys
for line in sys.stdin:
    message = json.loads(line)
    if message.get("executable"):
        shutil.copy(message["executable"], sys.argv[1] + "/" + message["target"]["name"])
' "$bin"
[[ $archive == *.tar.xz ]] || exit 0
strip "$bin"/*
# One solid archive: the programs share most of their code.
tar --create --transform 's,^\./,tests/gpu/bin/,' --directory "$bin" . \
  --transform 's,^,gavel-gpu/,' --directory "$PWD" benchmarks configs models tests/golden tests/gpu |
  xz --threads=0 -6 --lzma2=dict=256MiB > "$archive"
ls -l "$archive"
