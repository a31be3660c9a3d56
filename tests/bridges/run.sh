#!/usr/bin/env bash
# Serves a short run and follows it with the bridges to MLflow and Weights & Biases (offline), whose clients are installed into
# a folder that goes with the script: both must have every figure of every step.
#
#   tests/bridges/run.sh target/debug/gavel
set -euo pipefail
cd "$(dirname "$0")/../.."

gavel=$(realpath "$1")

out=$(mktemp -d)
trap 'kill $(jobs -p) 2>/dev/null || true; rm -rf "$out"' EXIT
python3 -m venv "$out/venv"
"$out/venv/bin/pip" install --quiet --disable-pip-version-check -r tests/bridges/requirements.txt

"$gavel" run configs/quickstart.toml --out "$out/run" \
    --set run.steps=2 --set prompts.per_step=4 --set evaluation.prompts=2 >"$out/run.log" 2>&1 ||
    { tail -n 40 "$out/run.log"; exit 1; }
# It says where it serves in a line of JSON, once it does.
"$gavel" coordinator --data "$out/run/state" --grpc 127.0.0.1:0 --http 127.0.0.1:0 >"$out/addresses" 2>"$out/coordinator.log" &
serving=$!
until [ -s "$out/addresses" ]; do
    kill -0 "$serving" 2>/dev/null || { cat "$out/coordinator.log"; exit 1; }
    sleep 0.2
done
http=$(python3 -c 'import json, sys; print(json.load(open(sys.argv[1]))["http"])' "$out/addresses")
"$out/venv/bin/python" tests/bridges/check.py "$http" quickstart
