#!/usr/bin/env bash
# A study on the nodes of one Slurm allocation: the head and the driver on the first, workers on the others.
#   sweep cluster render slurm --gpu a100 --max-workers 4 > my.sh && sbatch my.sh digits --trials 200
# Two minutes before the time limit it stops as at Ctrl-C, and so it does at scancel --signal=TERM --batch ID;
# the same command goes on with the study, and Slurm does so itself where it requeues the job.
#SBATCH --job-name=entropy-sweep
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=1
#SBATCH --exclusive
#SBATCH --time=12:00:00
#SBATCH --signal=B:TERM@120
#SBATCH --requeue
#SBATCH --open-mode=append
set -euo pipefail
: "${1:?which study? sbatch my.sh digits --trials 200}"

# What all nodes see under the same path: the workspace, and the virtual environment or else an image for Apptainer.
export SWEEP_WORKSPACE=${SWEEP_WORKSPACE:-$PWD/results}
VENV=${VENV:-$PWD/.venv}
IMAGE=${IMAGE:-}
if [ -n "$IMAGE" ]; then
    inside=(apptainer exec --nv --bind "$SWEEP_WORKSPACE" "docker://$IMAGE")
else
    inside=(env "PATH=$VENV/bin:$PATH")
fi

# A token of the job's own: others who use these machines must not reach its Ray.
mkdir -p "$SWEEP_WORKSPACE"
export RAY_AUTH_TOKEN_PATH=$SWEEP_WORKSPACE/.ray-token-$SLURM_JOB_ID
(umask 077 && od -An -N32 -tx1 /dev/urandom | tr -d ' \n' >"$RAY_AUTH_TOKEN_PATH")

export RAY_AUTH_MODE=token
export RAY_USAGE_STATS_ENABLED=0
export RAY_health_check_failure_threshold=5
export RAY_health_check_period_ms=1000
export RAY_health_check_timeout_ms=2000

# Its processes are ended by their ids: `ray stop` and `ray symmetric-run` end all of Ray on a machine, whosever it is.
started=()
trap 'kill "${started[@]}" 2>/dev/null || true; wait; rm -f "$RAY_AUTH_TOKEN_PATH"' EXIT

start() { # NODE OPTIONS...
    srun --overlap --nodes=1 --ntasks=1 --cpu-bind=none --nodelist="$1" "${inside[@]}" ray start --block "${@:2}" &
    started+=($!)
}

mapfile -t nodes < <(scontrol show hostnames "$SLURM_JOB_NODELIST")
host=$(srun --overlap --nodes=1 --ntasks=1 --nodelist="${nodes[0]}" hostname -I | awk '{print $1}')
export RAY_ADDRESS=$host:$((20000 + SLURM_JOB_ID % 20000)) # a port of the job's own
start "${nodes[0]}" --head --node-ip-address="$host" --port="${RAY_ADDRESS##*:}" --include-dashboard=false \
    --temp-dir="/tmp/ray-$SLURM_JOB_ID"
joined() { "${inside[@]}" ray status --address "$RAY_ADDRESS" 2>/dev/null | grep -cE '^ *[0-9]+ node_' || true; }
wait_for() { # NODES
    until [ "$(joined)" -ge "$1" ]; do
        if [ "$SECONDS" -gt 600 ] || ! kill -0 "${started[-1]}" 2>/dev/null; then
            echo "Ray did not start on $1 nodes" >&2
            exit 1
        fi
        sleep 2
    done
}
wait_for 1
for node in "${nodes[@]:1}"; do
    start "$node" --address="$RAY_ADDRESS"
done
wait_for "${#nodes[@]}"

"${inside[@]}" python -m sweep run "$@" &
driver=$!
trap 'kill -TERM "$driver"' TERM INT # its trials write checkpoints, then it ends
status=0
wait "$driver" || status=$?
while kill -0 "$driver" 2>/dev/null; do # `wait` was cut short by the signal
    status=0
    wait "$driver" || status=$?
done
exit "$status"
