#!/usr/bin/env bash
# Runs a sweep on a TPU VM, or on the hosts of a pod slice, one process on each.
#
#   NAME=my-tpu ZONE=us-central2-b launch/tpu_vm.sh [--dry-run] CONFIG DIR [options of jaxsearch sweep]
#
# NAME       the TPU VM's or slice's name (required)
# ZONE       where it is (required)
# WORKERS    how many hosts the slice has (default: 1)
# BOUNDS     the chips of one host of a slice of several, by their axes (default: 2,2,1)
# CHECKOUT   a checkout on each host's own disk (default: jaxsearch, in the home folder)
# PYTHON     what to install with on the hosts, 3.11 or newer (default: python3)
#
# CONFIG is a file on the hosts, by its whole path or from CHECKOUT on. DIR is a whole path, of a folder that
# all hosts share. Each process takes the chips of its own host and needs no other process: TPU_PROCESS_BOUNDS
# keeps the TPU from waiting for the rest of the slice.
set -euo pipefail
# shellcheck source-path=SCRIPTDIR source=common.sh
. "$(dirname "$0")/common.sh"

check_sweep "$@"
name=${NAME:-} zone=${ZONE:-} folder=${CHECKOUT:-jaxsearch}
[[ $name =~ ^[a-z][a-z0-9-]*$ ]] || fail "NAME is '$name': give the name of the TPU VM, as in NAME=my-tpu"
[[ $zone =~ ^[a-z]+-[a-z]+[0-9]+-[a-z]$ ]] || fail "ZONE is '$zone': give a zone, as in ZONE=us-central2-b"
[[ $folder =~ ^[A-Za-z0-9_./-]+$ ]] || fail "CHECKOUT is '$folder': give a plain path, as in jaxsearch"
[[ ${PYTHON:-python3} =~ ^[A-Za-z0-9_./-]+$ ]] || fail "PYTHON is '$PYTHON': give a plain name, as in python3.11"
[[ $2 == /* ]] || fail "DIR is '$2': give a whole path, the same on all hosts"

WORKERS=${WORKERS:-1} BOUNDS=${BOUNDS:-2,2,1}
check_number WORKERS 1
[[ $BOUNDS =~ ^[1-9],[1-9],[1-9]$ ]] || fail "BOUNDS is '$BOUNDS': give the chips of a host by three axes, as in 2,2,1"

alone=
if [ "$WORKERS" -gt 1 ]; then
  chips=$(seq -s, 0 $((${BOUNDS//,/*} - 1)))
  alone="CLOUD_TPU_TASK_ID=0 TPU_PROCESS_BOUNDS=1,1,1 TPU_CHIPS_PER_PROCESS_BOUNDS=$BOUNDS TPU_VISIBLE_CHIPS=$chips "
fi
# Each host installs for itself, so the virtual environment lies in its own home folder.
# shellcheck disable=SC2016  # the hosts know their home folder
remote="cd $folder && ${alone}EXTRA=tpu VENV=\"\$HOME/jaxsearch-venv\" PYTHON=${PYTHON:-python3} launch/local.sh"
remote+=$(printf ' %q' sweep "$1" --output "$2" "${@:3}")
connections=()
for ((i = 0; i < WORKERS; i++)); do
  ssh=(gcloud compute tpus tpu-vm ssh "$name" --zone "$zone" --worker "$i"
    --command "$remote --process $i --processes $WORKERS")
  show "${ssh[@]}"
  [ -n "$dry" ] || { "${ssh[@]}" & connections+=($!); }
done
worst=0
for i in "${!connections[@]}"; do
  status=0
  wait "${connections[i]}" || status=$?
  [ $status -eq 0 ] || echo "$script: process $i ended with status $status" >&2
  [ $status -le $worst ] || worst=$status
done
exit $worst
