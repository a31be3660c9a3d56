#!/usr/bin/env bash
# Serves the small judge with `transformers serve` (installed into target/interop-venv) and checks that `gavel judge` gets from it the
# verdicts that the judge in the process gives.
set -euo pipefail
cd "$(dirname "$0")/../.."

venv=target/interop-venv
if [ ! -x "$venv/bin/python" ]; then
    python3 -m venv "$venv"
fi
"$venv/bin/pip" install --quiet --disable-pip-version-check -r tests/interop/requirements.txt -r tests/interop/requirements-serve.txt

cargo build --quiet --bin gavel
"$venv/bin/python" tests/interop/check_judge.py --gavel "${CARGO_TARGET_DIR:-target}/debug/gavel"
