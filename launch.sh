#!/usr/bin/env bash
# Makes the project's own environment once, then runs one of:
#   ./launch.sh demo [--workdir DIR] [clap demo options]
#   ./launch.sh test [pytest options]
#   ./launch.sh clap COMMAND [options]     any other command of `clap`
# PYTHON names the interpreter that .venv is made from (3.11 or newer).
set -euo pipefail

root="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"

usage() {
  sed -n '2,6s/^# \{0,1\}//p' "${BASH_SOURCE[0]}"
}

fail() {
  printf 'launch.sh: %s\n' "$1" >&2
  exit 2
}

setup() {
  local python="${PYTHON:-python3}" stamp
  stamp="$(cat "$root/requirements.txt" "$root/constraints.txt" \
    "$root/pyproject.toml" | cksum)"
  if [[ -f "$root/.venv/.ready" &&
        "$(cat "$root/.venv/.ready")" == "$stamp" ]]; then
    return
  fi
  "$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' ||
    fail "Python 3.11 or newer is needed; set PYTHON=/path/to/python3.11."
  printf 'Installing into %s/.venv (a minute or two, once).\n' "$root" >&2
  "$python" -m venv "$root/.venv" ||
    fail "cannot make .venv. On Debian or Ubuntu: apt install python3-venv."
  "$root/.venv/bin/python" -m pip install --quiet \
    --disable-pip-version-check \
    -r "$root/requirements.txt" -c "$root/constraints.txt"
  "$root/.venv/bin/python" -m pip install --quiet \
    --disable-pip-version-check --no-deps -e "$root"
  printf '%s' "$stamp" > "$root/.venv/.ready"
}

[[ $# -ge 1 ]] || { usage >&2; exit 2; }
command="$1"
shift
case "$command" in
  demo)
    setup
    exec "$root/.venv/bin/python" -m clap_jax.main demo "$@"
    ;;
  test)
    setup
    cd "$root"
    exec "$root/.venv/bin/python" -m pytest "$@"
    ;;
  clap)
    setup
    exec "$root/.venv/bin/python" -m clap_jax.main "$@"
    ;;
  -h | --help | help)
    usage
    ;;
  *)
    usage >&2
    fail "unknown command '$command'; choose demo, test or clap."
    ;;
esac
