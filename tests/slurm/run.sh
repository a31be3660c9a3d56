#!/usr/bin/env bash
# Runs deploy/slurm.sbatch on a real Slurm of two nodes with made-up GPUs, both on this machine, which this script starts and ends:
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
AuthType=auth/munge
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
GresTypes=gpu
MpiDefault=none
SlurmdParameters=config_overrides
StateSaveLocation=$place/state
SlurmdSpoolDir=$place/spool-%n
SlurmctldPidFile=$place/slurmctld.pid
SlurmdPidFile=$place/slurmd-%n.pid
ReturnToService=2
KillWait=30
NodeName=node1 NodeHostname=$host NodeAddr=127.0.0.1 Port=16818 CPUs=64 Gres=gpu:4 State=UNKNOWN
NodeName=node2 NodeHostname=$host NodeAddr=127.0.0.1 Port=16819 CPUs=64 Gres=gpu:4 State=UNKNOWN
PartitionName=all Nodes=ALL Default=YES State=UP
CONF
touch "$place"/gpu{0..3}
echo "NodeName=node[1-2] Name=gpu File=$place/gpu[0-3]" >"$place/gres.conf"
mkdir -p "$place"/{state,spool-node1,spool-node2}
slurmctld -D >"$place/slurmctld.log" 2>&1 &
daemons+=($!)
for node in node1 node2; do
    slurmd -D -N "$node" >"$place/$node.log" 2>&1 &
    daemons+=($!)
done

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
nodes_are_idle() { [ "$(sinfo --noheader --Node --format=%T | grep -cx idle)" = 2 ]; }
until_it "the nodes are there" nodes_are_idle

mkdir "$place/bin"
ln -s "$gavel" "$place/bin/gavel"
export PATH=$place/bin:$PATH RAYON_NUM_THREADS=1

# Its job: cores are counted and not had.
script=$PWD/deploy/slurm.sbatch
config=$PWD/tests/compatibility/small.toml
export GAVEL_ALLOW_MODEL_FOLDER=$PWD
job() { sbatch --parsable --cpus-per-task=1 --chdir="$place" --output="$place/%j.out" "$@"; }
state_of() { scontrol show job "$1" | sed -n 's/.*JobState=\([A-Z]*\).*/\1/p'; }
has_ended() { case $(state_of "$1") in PENDING | RUNNING | COMPLETING) return 1 ;; esac; }

echo "== a job ends with its run, and its result can be got out"
id=$(job --wait "$script" "$config")
[ "$(state_of "$id")" = COMPLETED ]
data=$place/runs/slurm-$id
gavel export compatibility --ledger "$data/ledger.sqlite" --blobs "$data/blobs" --out "$place/adapter"
# The bytes that the run has on one machine (tests/compatibility/main.rs).
sha256sum "$place/adapter/adapter_model.safetensors" | grep -q ^65e51690a65434c2

echo "== workers of several machines, each with a GPU of its own"
id=$(job --wait --nodes=2 --gpus-per-task=1 "$script" "$config")
[ "$(state_of "$id")" = COMPLETED ]
shown=$(scontrol show job --details "$id")
for part in NumNodes=2 JOB_GRES=gpu:6; do
    [[ $shown == *"$part "* || $shown == *"$part"$'\n'* ]] || { echo "$part is not in: $shown"; exit 1; }
done
gavel export compatibility --ledger "$place/runs/slurm-$id/ledger.sqlite" --blobs "$place/runs/slurm-$id/blobs" --out "$place/on-two"
cmp "$place/adapter/adapter_model.safetensors" "$place/on-two/adapter_model.safetensors"

echo "== a run that cannot be submitted ends its job, with an error"
sed 's/rank = .*/rank = 0/' "$config" >"$place/broken.toml"
if id=$(job --wait "$script" "$place/broken.toml"); then
    echo "the job of a broken configuration succeeded"
    exit 1
fi

echo "== a worker that dies ends nothing: the run goes on to its end"
id=$(job "$script" "$config")
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

echo "== a job that is cancelled takes all its processes along"
id=$(job "$script" "$config")
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
