# shellcheck shell=bash
# What the scripts of this folder share. They source it; it is not run by itself.

script=${0##*/}
checkout=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
whole='^(0|[1-9][0-9]{0,5})$'

# With --dry-run as the first word commands are printed and none is run.
dry=
if [ "${1:-}" = --dry-run ]; then
  dry=1
  shift
fi

fail() { # what is wrong, and what to do
  echo "$script: $1" >&2
  exit 2
}

show() {
  printf '+%s\n' "$(printf ' %q' "$@")" >&2
}

run() {
  show "$@"
  [ -n "$dry" ] || "$@"
}

check_number() { # NAME LEAST: the variable of this name is a whole number, no less than LEAST
  [[ ${!1} =~ $whole ]] && [ "${!1}" -ge "$2" ] ||
    fail "$1 is '${!1}': take a whole number from $2 on"
}

check_sweep() { # CONFIG DIR [options]
  local word
  [[ $# -ge 2 && -n $1 && -n $2 && $1 != -* && $2 != -* ]] ||
    fail "two words come first: launch/$script CONFIG DIR [options of jaxsearch sweep]"
  for word in "${@:3}"; do
    case $word in
      --output* | --process*) fail "'$word' is what this script adds: leave it out" ;;
    esac
  done
}

check_file() {
  [ -f "$1" ] || fail "CONFIG is '$1', where no file is: name the file of a sweep"
}

# Sets `jaxsearch` to the command in VENV. Where it is not there yet, it is installed with EXTRA by PYTHON.
find_jaxsearch() {
  local venv=${VENV:-$checkout/.venv} extra=${EXTRA:-} python=${PYTHON:-python3}
  case $extra in
    '' | cuda | tpu) ;;
    *) fail "EXTRA is '$extra': take cuda, tpu or nothing" ;;
  esac
  [ ! -e "$venv" ] || [ -d "$venv" ] || fail "VENV is '$venv', a file: name a folder"
  # shellcheck disable=SC2034  # the scripts use it
  jaxsearch=$venv/bin/jaxsearch
  [ ! -x "$jaxsearch" ] || return 0
  "$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null ||
    fail "PYTHON is '$python', which is no Python of version 3.11 or newer: name one"
  run "$python" -m venv "$venv"
  run "$venv/bin/pip" install --quiet "$checkout${extra:+[$extra]}"
}
