#!/usr/bin/env bash
# Runs the jaxsearch command on this machine, in a virtual environment of its own.
#
#   launch/local.sh [--dry-run] COMMAND ...        launch/local.sh search --searcher best_of_n
#
# EXTRA   what to install beside the core: cuda, tpu, or nothing (default)
# VENV    where (default: .venv in the checkout)
set -euo pipefail

checkout=$(cd "$(dirname "$0")/.." && pwd)
extra=${EXTRA:-}
venv=${VENV:-$checkout/.venv}
case "$extra" in
  '' | cuda | tpu) ;;
  *) echo "local.sh: EXTRA is '$extra': take cuda, tpu or nothing" >&2; exit 2 ;;
esac

dry=
if [ "${1:-}" = --dry-run ]; then
  dry=1
  shift
fi
if [ $# -eq 0 ]; then
  echo "local.sh: what shall run? try: launch/local.sh search --help" >&2
  exit 2
fi

run() {
  printf '+ %s\n' "$*" >&2
  [ -n "$dry" ] || "$@"
}

[ -x "$venv/bin/jaxsearch" ] || {
  run python3 -m venv "$venv"
  run "$venv/bin/pip" install --quiet "$checkout${extra:+[$extra]}"
}
run "$venv/bin/jaxsearch" "$@"
