#!/usr/bin/env bash
# Runs a sweep on a TPU VM, or on all hosts of a pod slice: gcloud starts the same command on each.
#
#   NAME=my-tpu ZONE=us-central2-b launch/tpu_vm.sh [--dry-run] CONFIG DIR [options of jaxsearch sweep]
#
# NAME       the TPU VM's or slice's name (required)
# ZONE       where it is (required)
# CHECKOUT   a checkout on each host's own disk (default: jaxsearch, in the home folder)
# PYTHON     what to install with on the hosts, 3.11 or newer (default: python3)
#
# CONFIG is a file on the hosts, by its whole path or from CHECKOUT on. DIR is a whole path, of a folder that
# all hosts share.
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

# Each host installs for itself, so the virtual environment lies in its own home folder.
# shellcheck disable=SC2016  # the hosts know their home folder
remote="cd $folder && EXTRA=tpu VENV=\"\$HOME/jaxsearch-venv\" PYTHON=${PYTHON:-python3} launch/local.sh"
remote+=$(printf ' %q' sweep "$1" --output "$2" "${@:3}" --distributed)
run gcloud compute tpus tpu-vm ssh "$name" --zone "$zone" --worker all --command "$remote"
