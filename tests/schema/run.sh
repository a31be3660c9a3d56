#!/usr/bin/env bash
# Has taplo, by which editors read TOML, hold configurations to docs/gavel.schema.json:
#
#   tests/schema/run.sh target/debug/gavel
set -euo pipefail
cd "$(dirname "$0")/../.."
gavel=$(realpath "$1")
place=$(mktemp -d)
trap 'rm -rf "$place"' EXIT
python3 -m venv "$place/venv"
"$place/venv/bin/pip" install --quiet --disable-pip-version-check -r tests/schema/requirements.txt

holds() { RUST_LOG=error "$place/venv/bin/taplo" check --colors never "$@" 2>&1; }
schema=file://$PWD/docs/gavel.schema.json

"$gavel" config schema | cmp - docs/gavel.schema.json

# All that are shipped; and a folder of one's own, whose file names the schema itself.
holds --no-auto-config --schema "$schema" configs/*.toml tests/compatibility/small.toml
for edit in "" --edit; do
    "$gavel" init "$place/own$edit" $edit >/dev/null
    (cd "$place/own$edit" && holds --no-auto-config gavel.toml)
done

# What is wrong is told.
refused() {
    local said
    sed "$2" "$1" >"$place/wrong.toml"
    if said=$(holds --no-auto-config --schema "$schema" "$place/wrong.toml"); then
        echo "accepted: $2"
        exit 1
    fi
    grep -q "$3" <<<"$said" || { echo "$said"; exit 1; }
}
refused configs/quickstart.toml 's/^steps = .*/steps = "many"/' 'is not of type "integer"'
refused configs/quickstart.toml 's/^rank = .*/rank = 100000/' 'maximum of 4096'
refused configs/quickstart.toml 's/^rank = .*/rnak = 4/' 'rnak'
refused configs/quickstart.toml '/^rubric = /d' '"rubric" is a required property'

# The directive of a new folder's file is read: its schema refuses too.
sed -i 's/^rank = .*/rank = 100000/' "$place/own/gavel.toml"
grep -q '^rank = 100000' "$place/own/gavel.toml"
if (cd "$place/own" && holds --no-auto-config gavel.toml >/dev/null); then
    echo "the line #:schema is not read"
    exit 1
fi
