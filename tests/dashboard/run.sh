#!/usr/bin/env bash
# Looks at the dashboard and at report.html with a headless Chromium:
#
#   tests/dashboard/run.sh target/debug/gavel
#
# Needs Debian's packages chromium and nodejs (18 or later), and npm for axe-core, which comes by name.
set -euo pipefail
cd "$(dirname "$0")/../.."
gavel=$(realpath "$1")

node --test tests/dashboard/modules.test.mjs

place=${CARGO_TARGET_DIR:-target}/dashboard-test
axe=$place/node_modules/axe-core/axe.min.js
if [ ! -e "$axe" ]; then
    mkdir -p "$place"
    npm install --silent --no-audit --no-fund --ignore-scripts --prefix "$place" axe-core@4.14.1
fi
node tests/dashboard/check.mjs "$gavel" "$axe"
