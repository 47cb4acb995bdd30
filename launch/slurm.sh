#!/usr/bin/env bash
# Submits a sweep to SLURM, one task for each share of it.
#
#   TASKS=8 launch/slurm.sh [--dry-run] CONFIG DIR [options of jaxsearch sweep]
#
# TASKS     how many tasks (default: 1)
# GPUS      GPUs for each task (default: 1; 0 for none)
# CPUS      cores for each task (default: 4)
# MINUTES   the time limit, at least 5 (default: 240); a job that reaches it queues again and goes on
# EXTRA, VENV, PYTHON   as in local.sh, but EXTRA is cuda by default if there are GPUs
#
# sbatch itself reads SBATCH_PARTITION, SBATCH_ACCOUNT, SBATCH_QOS, SBATCH_MEM_PER_CPU and the like.
# DIR, the checkout and VENV lie on a file system that all nodes share.
set -euo pipefail
# shellcheck source-path=SCRIPTDIR source=common.sh
. "$(dirname "$0")/common.sh"

check_sweep "$@"
check_file "$1"
TASKS=${TASKS:-1} GPUS=${GPUS:-1} CPUS=${CPUS:-4} MINUTES=${MINUTES:-240}
check_number TASKS 1
check_number GPUS 0
check_number CPUS 1
check_number MINUTES 5
gpus=()
[ "$GPUS" -eq 0 ] || gpus=(--gpus-per-task "$GPUS") EXTRA=${EXTRA-cuda}
find_jaxsearch

run sbatch --ntasks "$TASKS" "${gpus[@]}" --cpus-per-task "$CPUS" --time "$MINUTES" \
  "$checkout/launch/slurm.sbatch" "$jaxsearch" "$@"
