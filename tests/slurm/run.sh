#!/usr/bin/env bash
# Runs deploy/slurm.sbatch on a real Slurm of one node, which this script starts and ends:
#
#   tests/slurm/run.sh target/debug/gavel
#
# Needs root, and Debian's packages slurm-wlm and munge.
set -euo pipefail
cd "$(dirname "$0")/../.."
gavel=$(realpath "$1")

place=$(mktemp -d)
export SLURM_CONF=$place/slurm.conf
daemons=()
end() {
    status=$?
    trap - EXIT
    # The newest first: the node before its controller, both before the keys.
    for ((i = ${#daemons[@]} - 1; i >= 0; i--)); do
        kill "${daemons[i]}" 2>/dev/null && wait "${daemons[i]}" 2>/dev/null || true
    done
    if [ "$status" -ne 0 ]; then tail -n 40 "$place"/*.log "$place"/*.out 2>/dev/null || true; fi
    rm -rf "$place"
    exit "$status"
}
trap end EXIT

install -d -o munge -g munge -m 755 /run/munge /var/log/munge /var/lib/munge
[ -s /etc/munge/munge.key ] || { dd if=/dev/urandom of=/etc/munge/munge.key bs=1024 count=1 status=none; chown munge /etc/munge/munge.key; chmod 400 /etc/munge/munge.key; }
runuser -u munge -- munged --foreground >"$place/munged.log" 2>&1 &
daemons+=($!)

host=$(hostname -s)
cat >"$SLURM_CONF" <<CONF
ClusterName=gavel
SlurmctldHost=$host(127.0.0.1)
SlurmUser=root
SlurmctldPort=16817
SlurmdPort=16818
AuthType=auth/munge
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
MpiDefault=none
SlurmdParameters=config_overrides
StateSaveLocation=$place/state
SlurmdSpoolDir=$place/spool
SlurmctldPidFile=$place/slurmctld.pid
SlurmdPidFile=$place/slurmd.pid
ReturnToService=2
KillWait=30
NodeName=$host NodeAddr=127.0.0.1 CPUs=64 State=UNKNOWN
PartitionName=all Nodes=ALL Default=YES State=UP
CONF
mkdir -p "$place/state" "$place/spool"
slurmctld -D >"$place/slurmctld.log" 2>&1 &
daemons+=($!)
slurmd -D -N "$host" >"$place/slurmd.log" 2>&1 &
daemons+=($!)

# Waits, a minute at most, until a command succeeds.
until_it() {
    local what=$1
    shift
    for _ in $(seq 300); do
        "$@" >/dev/null 2>&1 && return
        sleep 0.2
    done
    echo "not within a minute: $what"
    return 1
}
node_is_idle() { sinfo --noheader --format=%T | grep -qx idle; }
until_it "the node is there" node_is_idle

mkdir "$place/bin"
ln -s "$gavel" "$place/bin/gavel"
export PATH=$place/bin:$PATH RAYON_NUM_THREADS=1

# Its job: cores are counted and not had.
job() { sbatch --parsable --cpus-per-task=1 --output="$place/%j.out" "$@"; }
state_of() { scontrol show job "$1" | sed -n 's/.*JobState=\([A-Z]*\).*/\1/p'; }
has_ended() { case $(state_of "$1") in PENDING | RUNNING | COMPLETING) return 1 ;; esac; }

echo "== a job ends with its run, and its result can be got out"
id=$(job --wait deploy/slurm.sbatch tests/compatibility/small.toml)
[ "$(state_of "$id")" = COMPLETED ]
data=runs/slurm-$id
gavel export compatibility --ledger "$data/ledger.sqlite" --blobs "$data/blobs" --out "$place/adapter"
# The bytes that the run has on one machine (tests/compatibility/main.rs).
sha256sum "$place/adapter/adapter_model.safetensors" | grep -q ^65e51690a65434c2
rm -rf "$data"

echo "== a run that cannot be submitted ends its job, with an error"
sed 's/rank = .*/rank = 0/' tests/compatibility/small.toml >"$place/broken.toml"
if id=$(job --wait deploy/slurm.sbatch "$place/broken.toml"); then
    echo "the job of a broken configuration succeeded"
    exit 1
fi
rm -rf runs/slurm-*

echo "== a worker that dies ends nothing: the run goes on to its end"
id=$(job deploy/slurm.sbatch tests/compatibility/small.toml)
# The job's own processes: others of this machine are nobody's business here.
processes_of() { scontrol listpids "$1" 2>/dev/null | awk 'NR > 1 && $1 > 0 { print $1 }'; }
sampler_of() {
    local process
    for process in $(processes_of "$1"); do
        if tr '\0' ' ' <"/proc/$process/cmdline" 2>/dev/null | grep -q '^gavel sampler '; then
            echo "$process"
            return
        fi
    done
    return 1
}
until_it "samplers are at work" sampler_of "$id"
kill -KILL "$(sampler_of "$id")"
for _ in $(seq 600); do
    has_ended "$id" && break
    sleep 0.5
done
[ "$(state_of "$id")" = COMPLETED ]
rm -rf "runs/slurm-$id"

echo "== a job that is cancelled takes all its processes along"
id=$(job deploy/slurm.sbatch tests/compatibility/small.toml)
until_it "samplers are at work" sampler_of "$id"
processes=$(processes_of "$id")
scancel "$id"
for _ in $(seq 300); do
    has_ended "$id" && break
    sleep 0.2
done
has_ended "$id"
nobody_is_left() { for process in $processes; do [ ! -e "/proc/$process" ] || return 1; done; }
until_it "no process is left" nobody_is_left
rm -rf "runs/slurm-$id"
