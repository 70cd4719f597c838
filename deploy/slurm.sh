#!/bin/bash
# The sweep on a Slurm allocation:  sbatch deploy/slurm.sh mine.yaml --output /shared/runs/mine
# Ray is started on every node with a token of its own, the sweep runs beside its head, and all of it ends together.
# A job that is requeued, or submitted again, goes on where it left off: the command is the same.
#SBATCH --job-name=heteroakd
#SBATCH --nodes=4
#SBATCH --ntasks-per-node=1
#SBATCH --cpus-per-task=8
#SBATCH --gpus-per-task=1
#SBATCH --time=24:00:00
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --signal=B:TERM@300
set -euo pipefail

# The virtual environment that was set up from constraints.txt, in a folder that all nodes share.
VENV=${VENV:-$PWD/.venv}
PATH=$VENV/bin:$PATH
PORT=${PORT:-$((20000 + SLURM_JOB_ID % 20000))}
export RAY_AUTH_MODE=token RAY_USAGE_STATS_ENABLED=0
RAY_AUTH_TOKEN=$(python -c 'import secrets; print(secrets.token_hex(32))')
export RAY_AUTH_TOKEN

mapfile -t nodes < <(scontrol show hostnames "$SLURM_JOB_NODELIST")
head=${nodes[0]}
head_ip=$(srun --nodes=1 --ntasks=1 --nodelist="$head" hostname --ip-address)
head_ip=${head_ip%% *}
cpus=${SLURM_CPUS_PER_TASK:-1}
gpus=${SLURM_GPUS_PER_TASK:-0}

# One step per node, each of which holds Ray's daemons until the job ends. The head's node trains as well.
start() {
  srun --nodes=1 --ntasks=1 --overlap --export=ALL --nodelist="$1" \
    ray start --block --disable-usage-stats --num-cpus="$cpus" --num-gpus="$gpus" \
    --object-store-memory=2000000000 "${@:2}" &
  steps+=($!)
}

steps=()
# shellcheck disable=SC2329  # called by the trap
stop() {
  kill "${steps[@]}" 2>/dev/null || true
  wait "${steps[@]}" 2>/dev/null || true
}
trap stop EXIT

start "$head" --head --node-ip-address="$head_ip" --port="$PORT" --include-dashboard=false
for ((waited = 0; waited < 120; waited++)); do
  ray status --address="$head_ip:$PORT" >/dev/null 2>&1 && break
  sleep 1
done
for node in "${nodes[@]:1}"; do
  start "$node" --address="$head_ip:$PORT"
done

# In the background, so that the warning before the time is up reaches it: it then leaves off with a checkpoint.
python -m orchestrator.sweep "$@" --address "$head_ip:$PORT" --set operation.wait_minutes=10 &
sweep=$!
trap 'kill -TERM "$sweep"' TERM
code=0
wait "$sweep" || code=$?
while kill -0 "$sweep" 2>/dev/null; do
  code=0
  wait "$sweep" || code=$?
done

# Interrupted (130), or Ray was lost (5, with the head's daemons for example): planned work is left. Let Slurm run the same command
# again; a cluster that loses Ray in ten allocations one after another needs a person.
if [ "$code" -eq 130 ] || { [ "$code" -eq 5 ] && [ "${SLURM_RESTART_COUNT:-0}" -lt 10 ]; }; then
  scontrol requeue "$SLURM_JOB_ID" || true
fi
exit "$code"
