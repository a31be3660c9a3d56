#!/usr/bin/env bash
# Builds the wheel of the program, installs it into a fresh environment and runs it from there. What `cargo build` has built is not built again.
set -euo pipefail
cd "$(dirname "$0")/../.."

place=$(mktemp -d)
trap 'rm -rf "$place"' EXIT

python3 -m venv "$place/build"
"$place/build/bin/pip" install --quiet --disable-pip-version-check -r tests/wheel/requirements.txt
"$place/build/bin/maturin" build --quiet --profile dev --manifest-path cli/Cargo.toml --out "$place/wheels" --compatibility linux

python3 -m venv "$place/user"
"$place/user/bin/pip" install --quiet --disable-pip-version-check --no-index "$place"/wheels/gavel-*.whl
cd "$place"
"$place/user/bin/gavel" --version
"$place/user/bin/gavel" init fresh
"$place/user/bin/gavel" config show fresh/gavel.toml >/dev/null
"$place/user/bin/gavel" completions bash | bash -n
"$place/user/bin/gavel" man --out manual
[ -s manual/gavel-run.1 ]
