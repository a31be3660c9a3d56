#!/usr/bin/env bash
# Trains a short run, then checks with diffusers and peft (installed into target/interop-venv) that they load the adapter
# unchanged and paint the same pictures as `gavel sample`, and that every layout of `gavel export` computes the same.
#
#   tests/interop/run.sh target/debug/gavel
set -euo pipefail
cd "$(dirname "$0")/../.."
gavel=$(realpath "$1")

venv=target/interop-venv
if [ ! -x "$venv/bin/python" ]; then
    python3 -m venv "$venv"
fi
"$venv/bin/pip" install --quiet --disable-pip-version-check -r tests/interop/requirements.txt

out=$(mktemp -d)
trap 'rm -rf "$out"' EXIT

# A run of a few steps that learn fast, so that its adapter changes pictures: CONFIG OUT
short_run() {
    "$gavel" run "$1" --out "$2" \
        --set run.steps=2 --set prompts.per_step=8 --set optimizer.learning_rate=0.02 --set optimizer.ema_decay=0.0 \
        --set evaluation.prompts=4 >"$2.log" 2>&1 || { tail -n 40 "$2.log"; exit 1; }
}

short_run configs/quickstart.toml "$out/run"
"$venv/bin/python" tests/interop/check_adapter.py --gavel "$gavel" --model models/tiny-flux --adapter "$out/run/adapter"
"$venv/bin/python" tests/interop/check_exports.py --gavel "$gavel" --model models/tiny-flux --run "$out/run"

short_run configs/quickstart-edit.toml "$out/edit"
"$venv/bin/python" tests/interop/check_edit_adapter.py --gavel "$gavel" --model models/tiny-qwen-edit \
    --adapter "$out/edit/adapter" --tasks configs/quickstart-edit/held-out.jsonl
"$venv/bin/python" tests/interop/check_exports.py --gavel "$gavel" --model models/tiny-qwen-edit --run "$out/edit" \
    --source "$(find configs examples -name '*.png' | sort | head -n 1)"
