#!/usr/bin/env bash
# Creates the project's environment once, then runs one of:
#   ./launch.sh demo [--workdir DIR] [clap demo options]
#   ./launch.sh test [pytest options]
#   ./launch.sh train --config FILE --workdir DIR [clap train options]
#   ./launch.sh sweep --config FILE --workdir DIR [clap sweep options]
#   ./launch.sh clap COMMAND [options]     any other command of `clap`
#   ./launch.sh install [cpu|cuda|tpu] [gcs] [s3]   only creates the environment
#                   for that hardware and for addresses gs:// and s3://
#   ./launch.sh tpu VERB --name N --zone Z [options] [-- clap train options]
# VERB: create, setup, train, sweep, status, logs, stop, delete. Options:
#   --project P     all verbs; --direct: all verbs, no queued resource
#   --type v5litepod-16 --runtime v2-alpha-tpuv5-lite --slices N
#   --spot          create: cheaper, but preemptible; or --reserved, or
#                   --reservation-project P: capacity that P has reserved
#   --service-account EMAIL --network N --subnetwork N --labels K=V,K=V
#   --internal-ips  create: no external addresses; the other verbs connect
#                   from inside the network, or with --iap from outside
#   --rev REVISION  setup: the commit to ship (default HEAD), or --tarball FILE
#   --python PATH   setup: the workers' Python, 3.11 or newer (default: their
#                   python3, or a download by uv if that is unsuitable)
#   --env K=V       setup, train, sweep: a variable of the workers' processes;
#                   repeatable; not for secrets, since `ps` shows it
#   --restart       train: create the slices again after a preemption and
#                   resume; repeat the options of create and of setup
#   sweep uses worker 0 only: create a slice of one host, such as v5litepod-8
#   --dry-run       print the commands without running them
# Set PYTHON to the interpreter for .venv (3.11 or newer, with venv); the
# default is python3, or a download by uv if that is unsuitable.
set -euo pipefail

root="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"

usage() {
  sed -n '2,30s/^# \{0,1\}//p' "${BASH_SOURCE[0]}"
}

fail() {
  printf 'launch.sh: %s\n' "$1" >&2
  exit 2
}

# Inputs of an environment; a change of any installs it again.
inputs=(requirements.txt constraints.txt requirements.lock
  requirements-build.lock requirements-tpu.lock requirements-cuda.lock
  requirements-gcs.lock requirements-s3.lock pyproject.toml)

setup() {
  local stamp
  stamp="$(cd "$root" && cat "${inputs[@]}" | cksum)"
  if [[ -f "$root/.venv/.ready" &&
        "$(cat "$root/.venv/.ready")" == "$stamp" ]]; then
    return
  fi
  find_python
  printf 'Installing into %s/.venv (a minute or two, once).\n' "$root" >&2
  "$python" -m venv "$root/.venv" || fail "$python cannot create .venv."
  if locks_fit; then
    pip_install --require-hashes -r "$root/requirements-build.lock"
    # Builds source packages with that setuptools, not with a download.
    pip_install --require-hashes --no-build-isolation \
      -r "$root/requirements.lock"
  else
    printf 'launch.sh: no lock fits %s: installing without hashes.\n' \
      "$(platform)" >&2
    pip_install setuptools -c "$root/constraints.txt"
    pip_install -r "$root/requirements.txt" -c "$root/constraints.txt"
  fi
  pip_install --no-build-isolation --no-deps -e "$root"
  # Updates the packages of accelerators to the new version of jax.
  local group
  if [[ -f "$root/.venv/.groups" ]]; then
    while read -r group; do
      install_group "$group"
    done <<< "$(sort -u "$root/.venv/.groups")"
  fi
  printf '%s' "$stamp" > "$root/.venv/.ready"
}

# Sets `python` to PYTHON, to python3, or to a Python that uv downloads.
find_python() {
  python="${PYTHON:-python3}"
  # Debian's python3 lacks ensurepip, and so venv, without python3-venv.
  if "$python" -c 'import ensurepip, sys, venv
sys.exit(sys.version_info < (3, 11))' 2> /dev/null; then
    return
  fi
  [[ -z "${PYTHON:-}" ]] ||
    fail "PYTHON=$PYTHON: Python 3.11 or newer, with venv, is needed."
  printf 'launch.sh: python3 is older than 3.11 or has no venv; uv downloads' >&2
  printf ' another.\n' >&2
  local tool
  tool="$(mktemp -d)"
  # pip checks the hash of uv, and uv that of every Python it downloads.
  if python3 -m pip install --quiet --disable-pip-version-check --no-deps \
      --require-hashes --target "$tool" -r "$root/requirements-uv.lock" &&
     "$tool/bin/uv" python install --no-config --no-bin 3.11; then
    python="$("$tool/bin/uv" python find --no-config --managed-python 3.11)" ||
      python=python3
  fi
  rm -r "$tool"
  [[ "$python" != python3 ]] ||
    fail "Python 3.11 or newer, with venv, is needed; its download failed.\
 Install it (or pip for python3) and set PYTHON=/path/to/python3.11."
}

pip_install() {
  "$root/.venv/bin/python" -m pip install --quiet \
    --disable-pip-version-check "$@"
}

platform() { # "3.11 Linux x86_64"
  "$root/.venv/bin/python" -c 'import platform, sys
print(*sys.version_info[:2], sep=".", end=" ")
print(platform.system(), platform.machine())'
}

# Succeeds if the lock files are made and tested for this Python and machine.
locks_fit() {
  [[ "$(platform)" =~ ^3\.(11|12|13)\ Linux\ (x86_64|aarch64)$ ]]
}

clap() {
  setup
  exec "$root/.venv/bin/python" -m clap_jax.main "$@"
}

install() {
  local group
  for group in "$@"; do
    case "$group" in
      cpu | cuda | tpu | gcs | s3) ;;
      *) fail "install: got '$group'; choose from cpu, cuda, tpu, gcs and s3." ;;
    esac
  done
  setup
  for group in "$@"; do
    [[ "$group" != cpu ]] || continue
    install_group "$group"
    printf '%s\n' "$group" >> "$root/.venv/.groups"
  done
}

install_group() { # cuda|tpu|gcs|s3
  local packages
  if locks_fit; then
    pip_install --require-hashes --no-deps -r "$root/requirements-$1.lock"
    return
  fi
  case "$1" in
    cuda) packages="jax[cuda13]" ;;
    tpu) packages="jax[tpu]" ;;
    gcs) packages="gcsfs" ;;
    s3) packages="s3fs" ;;
  esac
  pip_install "$packages" -c "$root/constraints.txt"
}

[[ $# -ge 1 ]] || { usage >&2; exit 2; }
command="$1"
shift
case "$command" in
  demo | train | sweep)
    clap "$command" "$@"
    ;;
  test)
    setup
    cd "$root"
    # Tests of a file share fixtures, so they stay in one process. Keep the
    # order of names: otherwise files of few, long tests would come last.
    [[ $# -gt 0 ]] ||
      set -- --numprocesses 2 --dist loadfile --no-loadscope-reorder
    exec "$root/.venv/bin/python" -m pytest "$@"
    ;;
  clap)
    clap "$@"
    ;;
  install)
    install "$@"
    ;;
  tpu)
    # shellcheck source=clap_jax/launcher/tpu.sh
    source "$root/clap_jax/launcher/tpu.sh"
    tpu "$@"
    ;;
  -h | --help | help)
    usage
    ;;
  *)
    usage >&2
    fail "unknown command '$command'; choose demo, test, train, sweep, clap,\
 install or tpu."
    ;;
esac
