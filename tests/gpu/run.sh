#!/usr/bin/env bash
# Checks Gavel on this machine's GPUs, without a network: golden values, whole runs, bytes, speed and memory at FLUX.1-dev's size.
#
#   tests/gpu/run.sh [--device cuda:0] [--parts machine goldens runs sizes exchange] [--out DIR]
#
# It runs the programs in the folder bin beside it, which tests/gpu/pack.sh makes on any machine, and writes
# DIR/report.json. CUDA's libraries are found where PyTorch has them, or by LD_LIBRARY_PATH. `--device cpu:candle` runs on the
# CPU all that needs no GPU.
set -euo pipefail

here=$(cd "$(dirname "$0")" && pwd)
nvidia=$(python3 -c 'import sysconfig; print(sysconfig.get_path("purelib"))')/nvidia
for folder in "$nvidia"/cu13/lib "$nvidia"/nccl/lib /usr/local/nvidia/lib64 /usr/local/cuda/lib64; do
  [ ! -d "$folder" ] || LD_LIBRARY_PATH=${LD_LIBRARY_PATH:+$LD_LIBRARY_PATH:}$folder
done
export LD_LIBRARY_PATH=${LD_LIBRARY_PATH:-}
[ -x "$here/bin/gavel" ] || { echo "$here/bin has no programs: make the kit with tests/gpu/pack.sh" >&2; exit 2; }
exec python3 "$here/kit.py" "$@"
