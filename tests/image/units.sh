#!/usr/bin/env bash
# Holds the units of deploy/systemd to systemd's own checks, as they would be installed: tests/image/units.sh GAVEL FOLDER
set -euo pipefail
cd "$(dirname "$0")/../.."
gavel=$1
units=$2/units

mkdir -p "$units/with-gpu/gavel-worker@.service.d"
cp deploy/systemd/*.service "$units"
cp deploy/systemd/*.service "$units/with-gpu"
cp deploy/systemd/gpu.conf "$units/with-gpu/gavel-worker@.service.d/"

# The machine as it is, with the program where the units look for it.
installed() { bwrap --bind / / --dev /dev --proc /proc --tmpfs /usr/local/bin --ro-bind "$gavel" /usr/local/bin/gavel "$@"; }

# What nothing restrains has 96 of 100 points; the worst of these had 92 once, and has 18 now.
for folder in "$units" "$units/with-gpu"; do
    for role in sampler judge trainer; do
        installed systemd-analyze verify --man=no "$folder/gavel-worker@$role.service"
    done
    installed systemd-analyze verify --man=no "$folder/gavel-coordinator.service"
    for unit in gavel-coordinator.service gavel-worker@.service; do
        installed systemd-analyze security --offline=true --threshold=20 "$folder/$unit" >"$units/security" || { cat "$units/security"; exit 1; }
        tail -n 1 "$units/security"
        # systemd kills after this; docs/operations.md says how long the program takes.
        grep -qx 'TimeoutStopSec=30' "$folder/$unit"
        grep -qx 'Restart=always' "$folder/$unit"
        grep -qx 'StateDirectory=gavel' "$folder/$unit"
        # The program takes the arguments.
        arguments=$(sed -n '/^ExecStart=/,/[^\\]$/p' "$folder/$unit" | tr -d '\\\n' | sed 's/^ExecStart=//; s/%i/judge/; s/\${GAVEL_COORDINATOR}/http:\/\/127.0.0.1:7440/')
        # shellcheck disable=SC2086
        installed $arguments --help >/dev/null
    done
done
