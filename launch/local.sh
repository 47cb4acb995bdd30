#!/usr/bin/env bash
# Runs a jaxsearch command on this machine, in a virtual environment of its own.
#
#   launch/local.sh [--dry-run] COMMAND ...        launch/local.sh search --searcher best_of_n
#
# EXTRA    what to install beside the core where the command is not there yet: cuda, tpu, or nothing (default)
# VENV     where the command is or will be (default: .venv in the checkout)
# PYTHON   what to install it with, 3.11 or newer (default: python3)
set -euo pipefail
# shellcheck source-path=SCRIPTDIR source=common.sh
. "$(dirname "$0")/common.sh"

[ $# -gt 0 ] || fail "what shall run? try: launch/local.sh search --help"
find_jaxsearch
run exec "$jaxsearch" "$@" # in place of this script, so that signals reach it
