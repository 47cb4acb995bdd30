#!/usr/bin/env bash
# Runs a sweep on the GPUs of this machine, one process on each.
#
#   launch/multi_gpu.sh [--dry-run] CONFIG DIR [options of jaxsearch sweep]
#
# CUDA_VISIBLE_DEVICES   which GPUs, as in 0,2,3 (default: all that nvidia-smi lists)
# EXTRA, VENV, PYTHON    as in local.sh, but EXTRA is cuda by default
#
# SIGTERM and SIGINT reach all processes. The exit status is the largest of theirs.
set -euo pipefail
# shellcheck source-path=SCRIPTDIR source=common.sh
. "$(dirname "$0")/common.sh"

check_sweep "$@"
check_file "$1"
gpus=${CUDA_VISIBLE_DEVICES-$(nvidia-smi --query-gpu=index --format=csv,noheader 2>/dev/null | paste -sd, || true)}
id='([0-9]+|(GPU|MIG)-[0-9A-Za-z/-]+)'
[[ $gpus =~ ^$id(,$id)*$ ]] ||
  fail "the GPUs are '$gpus': name them, as in CUDA_VISIBLE_DEVICES=0,1, where nvidia-smi does not"
IFS=, read -ra gpus <<<"$gpus"
EXTRA=${EXTRA-cuda} find_jaxsearch

processes=()
trap 'kill -s TERM "${processes[@]}" 2>/dev/null || true' TERM
trap 'kill -s INT "${processes[@]}" 2>/dev/null || true' INT
set -m # each process in a group of its own: Ctrl-C comes to this script alone, which hands it on
for i in "${!gpus[@]}"; do
  sweep=(env CUDA_VISIBLE_DEVICES="${gpus[i]}" "$jaxsearch" sweep "$1" --output "$2" "${@:3}"
    --process "$i" --processes ${#gpus[@]})
  show "${sweep[@]}"
  [ -n "$dry" ] || { "${sweep[@]}" & processes+=($!); }
done

worst=0
for i in "${!processes[@]}"; do
  while kill -0 "${processes[i]}" 2>/dev/null; do wait "${processes[i]}" || true; done # a signal ends `wait` early
  status=0
  wait "${processes[i]}" || status=$?
  [ $status -eq 0 ] || echo "$script: process $i, on GPU ${gpus[i]}, ended with status $status" >&2
  [ $status -le $worst ] || worst=$status
done
exit $worst
