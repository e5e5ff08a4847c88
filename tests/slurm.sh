#!/usr/bin/env bash
# The job script on a real Slurm of one node, made for the purpose and ended by its process ids: a study that is stopped
# by Slurm's signal and goes on, in a job of the same line. Needs root and  apt-get install slurmctld slurmd slurm-client munge
set -euo pipefail
cd "$(dirname "$0")/.."

for program in slurmctld slurmd sbatch munged; do
    PATH=$PATH:/usr/sbin command -v "$program" >/dev/null || {
        echo "no $program here: apt-get install slurmctld slurmd slurm-client munge" >&2
        exit 2
    }
done
PATH=$PATH:/usr/sbin
folder=$(mktemp -d /tmp/slurm-XXXX)
pids=()
trap 'kill "${pids[@]}" 2>/dev/null || true; wait; rm -rf "$folder"' EXIT
mkdir "$folder/state" "$folder/spool"
chmod 755 "$folder"
dd if=/dev/urandom of="$folder/munge.key" bs=128 count=1 status=none
chmod 600 "$folder/munge.key"
cat >"$folder/slurm.conf" <<CONF
ClusterName=one
SlurmctldHost=$(hostname -s)(127.0.0.1)
SlurmUser=root
SlurmctldPort=16817
SlurmdPort=16818
AuthType=auth/munge
AuthInfo=socket=$folder/munge.socket
CredType=cred/munge
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
MpiDefault=none
ReturnToService=2
StateSaveLocation=$folder/state
SlurmdSpoolDir=$folder/spool
SlurmctldPidFile=$folder/slurmctld.pid
SlurmdPidFile=$folder/slurmd.pid
NodeName=$(hostname -s) NodeAddr=127.0.0.1 CPUs=$(nproc)
PartitionName=all Nodes=ALL Default=YES MaxTime=INFINITE State=UP
CONF
export SLURM_CONF=$folder/slurm.conf

start() {
    "$@" >>"$folder/log" 2>&1 &
    pids+=($!)
}
start munged --foreground --force --key-file="$folder/munge.key" --socket="$folder/munge.socket" \
    --pid-file="$folder/munge.pid" --log-file="$folder/munge.log" --seed-file="$folder/munge.seed"
until [ -S "$folder/munge.socket" ]; do sleep 0.2; done
start slurmctld -D
start slurmd -D
until [ "$(sinfo -h -o %T 2>/dev/null)" = idle ]; do
    [ "$SECONDS" -lt 60 ] || { cat "$folder/log" >&2; exit 1; }
    sleep 0.5
done

export SWEEP_WORKSPACE=$folder/results VENV=$PWD/.venv
"$VENV/bin/python" -m sweep cluster render slurm --name one |
    sed 's/^#SBATCH --nodes=.*/#SBATCH --nodes=1/' >"$folder/my.sh"
submit() { # the same line each time
    sbatch --parsable --output="$folder/job-%j.txt" "$folder/my.sh" digits --trials 4 \
        --set training.max_epochs=300 --set search.finalists.top=0 --set search.design=0 --set search.pruner=none
}
finished() {
    "$VENV/bin/python" -m sweep status digits --json |
        "$VENV/bin/python" -c 'import json, sys; print(sum(t["state"] == "finished" for t in json.load(sys.stdin)[0]["trials"]))'
}
field() { scontrol show job "$1" | sed -n "s/.*$2=\\([A-Z0-9]*\\).*/\\1/p" | head -1; }
fail() {
    cat "$folder"/job-*.txt >&2
    echo "FAIL: $1" >&2
    exit 1
}
wait_until_over() { # JOB STATE
    while [[ $(field "$1" JobState) =~ PENDING|CONFIGURING|RUNNING|COMPLETING ]]; do
        [ "$SECONDS" -lt 1800 ] || fail "job $1 does not end"
        sleep 1
    done
    [ "$(field "$1" JobState)" = "$2" ] || fail "job $1 ended as $(field "$1" JobState), not as $2"
    pgrep -f "/tmp/ray-$1" >&2 && fail "processes of job $1 are left"
    find "$SWEEP_WORKSPACE" -name '.ray-token-*' | grep . >&2 && fail "the token of job $1 is left"
    return 0
}

first=$(submit)
until [ -n "$(find "$SWEEP_WORKSPACE" -name 'epoch-*.pt' 2>/dev/null | head -1)" ]; do
    [ "$SECONDS" -lt 900 ] || fail "the first job trains nothing"
    sleep 0.5
done
scancel --signal=TERM --batch "$first"
wait_until_over "$first" FAILED
[ "$(field "$first" ExitCode)" = 143 ] || fail "its exit code is $(field "$first" ExitCode), not 143"
grep -q '^Interrupted after' "$folder/job-$first.txt" || fail "the first job was not interrupted"
before=$(finished)
[ "$before" -lt 4 ] || fail "the first job had ended"

second=$(submit)
wait_until_over "$second" COMPLETED
[ "$(finished)" = 4 ] || fail "the study has $(finished) finished trials, not 4"
echo "PASS: a signal ended it with 143 after $before of 4 trials; submitted again it ended with 4 ($SECONDS s in all)"
