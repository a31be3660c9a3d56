#!/usr/bin/env bash
# Makes the image of deploy/Dockerfile without Docker, and runs the program in it; then has systemd look at deploy/systemd:
#
#   tests/image/run.sh target/debug/gavel
#
# Needs root, and Debian's packages mmdebstrap, bubblewrap and systemd. The program has to be built for the image's Debian or an older one.
set -euo pipefail
cd "$(dirname "$0")/../.."
place=$(mktemp -d)
trap 'rm -rf "$place"' EXIT
# Users other than root look into it.
chmod 755 "$place"
python3 tests/image/check.py "$(realpath "$1")" "$place"
tests/image/units.sh "$(realpath "$1")" "$place"
