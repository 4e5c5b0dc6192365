#!/usr/bin/env bash
# Makes the project's own environment once, then runs one of:
#   ./launch.sh demo [--workdir DIR] [clap demo options]
#   ./launch.sh test [pytest options]
#   ./launch.sh train --config FILE --workdir DIR [clap train options]
#   ./launch.sh sweep --config FILE --workdir DIR [clap sweep options]
#   ./launch.sh clap COMMAND [options]     any other command of `clap`
#   ./launch.sh install [tpu]              the environment alone
#   ./launch.sh tpu VERB --name N --zone Z [options] [-- clap train options]
# VERB: create, setup, train, sweep, status, logs, stop, delete. Options:
#   --project P --type v5litepod-16 --runtime v2-alpha-tpuv5-lite --slices N
#   --spot          cheaper, may be taken away; --direct: no queued resource
#   --rev REVISION  the commit to ship (default HEAD); --tarball FILE instead
#   --python PATH   setup: the workers' Python, 3.11 or newer (default python3)
#   --restart       train: make the slice again after a preemption, go on;
#                   repeat the options of create (--type, --runtime, --spot)
#                   and of setup (--rev or --tarball, --python)
#   sweep uses worker 0 alone: make a slice of one host, such as v5litepod-8
#   --dry-run       print every command and run none
# PYTHON names the interpreter that .venv is made from (3.11 or newer).
set -euo pipefail

root="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"

usage() {
  sed -n '2,21s/^# \{0,1\}//p' "${BASH_SOURCE[0]}"
}

fail() {
  printf 'launch.sh: %s\n' "$1" >&2
  exit 2
}

# Everything that an environment is made from.
inputs=(requirements.txt constraints.txt requirements.lock
  requirements-build.lock requirements-tpu.lock pyproject.toml)

setup() {
  local python="${PYTHON:-python3}" stamp
  stamp="$(cd "$root" && cat "${inputs[@]}" | cksum)"
  if [[ -f "$root/.venv/.ready" &&
        "$(cat "$root/.venv/.ready")" == "$stamp" ]]; then
    return
  fi
  "$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' ||
    fail "Python 3.11 or newer is needed; set PYTHON=/path/to/python3.11."
  printf 'Installing into %s/.venv (a minute or two, once).\n' "$root" >&2
  "$python" -m venv "$root/.venv" ||
    fail "cannot make .venv. On Debian or Ubuntu: apt install python3-venv."
  if locks_fit; then
    pip_install --require-hashes -r "$root/requirements-build.lock"
    # What comes as source is built by that setuptools, not by a download.
    pip_install --require-hashes --no-build-isolation \
      -r "$root/requirements.lock"
  else
    printf 'launch.sh: no lock fits %s: installing without hashes.\n' \
      "$(platform)" >&2
    pip_install setuptools -c "$root/constraints.txt"
    pip_install -r "$root/requirements.txt" -c "$root/constraints.txt"
  fi
  pip_install --no-build-isolation --no-deps -e "$root"
  printf '%s' "$stamp" > "$root/.venv/.ready"
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

# Whether the lock files were made and checked for this Python and machine.
locks_fit() {
  [[ "$(platform)" =~ ^3\.(11|12|13)\ Linux\ (x86_64|aarch64)$ ]]
}

clap() {
  setup
  exec "$root/.venv/bin/python" -m clap_jax.main "$@"
}

install() {
  setup
  case "${1:-}" in
    "") ;;
    tpu)
      if locks_fit; then
        pip_install --require-hashes --no-deps -r "$root/requirements-tpu.lock"
      else
        pip_install 'jax[tpu]' -c "$root/constraints.txt"
      fi
      ;;
    *) fail "install: got '$1'; choose tpu or nothing." ;;
  esac
}

# --- Cloud TPU ---------------------------------------------------------------
# Names are checked against what Google Cloud allows and passed as arguments;
# the one command that a remote shell reads is quoted word by word.

tpu_options() {
  name="" zone="" project="" type="" runtime="" slices=1 revision="HEAD"
  tarball="" remote_python="" spot=0 direct=0 restart=0 dry_run=0
  train_arguments=()
  while [[ $# -gt 0 ]]; do
    case "$1" in
      --name | --zone | --project | --type | --runtime | --slices | --rev | \
        --tarball | --python)
        [[ $# -ge 2 ]] || fail "$1 needs a value."
        set_option "$1" "$2"
        shift 2
        ;;
      --spot) spot=1; shift ;;
      --direct) direct=1; shift ;;
      --restart) restart=1; shift ;;
      --dry-run) dry_run=1; shift ;;
      --)
        shift
        train_arguments=("$@")
        break
        ;;
      *) fail "tpu: unknown option '$1'; see ./launch.sh help." ;;
    esac
  done
  [[ -n "$name" ]] || fail "tpu: --name is needed."
  [[ -n "$zone" ]] || fail "tpu: --zone is needed, such as us-central2-b."
  [[ "$slices" == 1 || "$direct" == 0 ]] ||
    fail "tpu: --slices above 1 needs a queued resource: leave out --direct."
}

set_option() {
  local value="$2"
  case "$1" in
    --name) matches "$1" "$value" '^[a-z]([-a-z0-9]{0,50}[a-z0-9])?$'; name="$value" ;;
    --zone) matches "$1" "$value" '^[a-z][a-z0-9]*-[a-z0-9]+-[a-z]$'; zone="$value" ;;
    --project) matches "$1" "$value" '^[a-z]([-a-z0-9:.]{0,60}[a-z0-9])?$'; project="$value" ;;
    --type) matches "$1" "$value" '^v[0-9][a-z0-9]*-[0-9]+$'; type="$value" ;;
    --runtime) matches "$1" "$value" '^[a-z0-9][a-z0-9.-]*$'; runtime="$value" ;;
    --slices) matches "$1" "$value" '^[1-9][0-9]{0,2}$'; slices="$value" ;;
    --rev) matches "$1" "$value" '^[A-Za-z0-9_][A-Za-z0-9_./~^-]*$'; revision="$value" ;;
    --tarball)
      [[ -f "$value" ]] || fail "--tarball: there is no file '$value'."
      # A relative name may begin with a dash, which gcloud takes for an option.
      [[ "$value" == /* ]] || value="./$value"
      tarball="$value"
      ;;
    --python)
      [[ -n "$value" ]] || fail "--python: got '', which is no interpreter."
      remote_python="$value"
      ;;
  esac
}

matches() {
  # The value stands in a pattern match and nowhere else.
  [[ "$2" =~ $3 && "$2" != *$'\n'* ]] ||
    fail "$1: got $(printf '%q' "$2"), which is no such name."
}

# Prints the command, and runs it unless this is a dry run.
run() {
  if [[ "$dry_run" == 1 ]]; then
    printf '%q ' "$@"
    printf '\n'
  else
    "$@"
  fi
}

gcloud_tpu() { # GROUP VERB arguments...: gcloud compute tpus ... --zone ...
  local place=(--zone "$zone")
  [[ -z "$project" ]] || place+=(--project "$project")
  run gcloud compute tpus "$@" "${place[@]}"
}

nodes() {
  if [[ "$slices" == 1 ]]; then
    printf '%s\n' "$name"
  else
    local index
    for ((index = 0; index < slices; index++)); do
      printf '%s-%d\n' "$name" "$index"
    done
  fi
}

# Goes on over all slices when one fails, and returns the worst exit code.
on_workers() { # all|NUMBER COMMAND: in those workers' shells on every slice
  local node code worst=0
  for node in $(nodes); do
    code=0
    gcloud_tpu tpu-vm ssh "$node" --worker="$1" --command="$2" || code=$?
    [[ "$code" -le "$worst" ]] || worst="$code"
  done
  return "$worst"
}

need_type_and_runtime() { # VERB
  [[ -n "$type" ]] || fail "tpu $1: --type is needed, such as v5litepod-16."
  [[ -n "$runtime" ]] ||
    fail "tpu $1: --runtime is needed, such as v2-alpha-tpuv5-lite."
}

tpu_create() {
  need_type_and_runtime create
  local how=()
  [[ "$spot" == 0 ]] || how+=(--spot)
  if [[ "$direct" == 1 ]]; then
    gcloud_tpu tpu-vm create "$name" --accelerator-type="$type" \
      --version="$runtime" ${how[@]+"${how[@]}"}
    return
  fi
  if [[ "$slices" == 1 ]]; then
    how+=(--node-id="$name")
  else
    how+=(--node-prefix="$name" --node-count="$slices")
  fi
  gcloud_tpu queued-resources create "$name" --accelerator-type="$type" \
    --runtime-version="$runtime" "${how[@]}"
}

# From now on the commit that --rev names today, whatever a branch does.
fix_revision() {
  local commit
  commit="$(git -C "$root" rev-parse --verify --quiet --end-of-options \
    "$revision^{commit}")" || fail "--rev: git knows no commit '$revision'."
  revision="$commit"
}

tpu_setup() {
  local archive="$tarball" node temporary="" with=""
  [[ -z "$remote_python" ]] || with="PYTHON=$(printf '%q ' "$remote_python")"
  if [[ -z "$archive" ]]; then
    fix_revision
    temporary="$(mktemp -d)"
    archive="$temporary/clap_jax.tar.gz"
    run git -C "$root" archive --format=tar.gz --output="$archive" "$revision"
  fi
  for node in $(nodes); do
    gcloud_tpu tpu-vm scp "$archive" "$node:clap_jax.tar.gz" --worker=all
  done
  on_workers all "rm -rf clap_jax.new && mkdir clap_jax.new &&
tar -xzf clap_jax.tar.gz -C clap_jax.new &&
{ [ ! -d clap_jax/.venv ] || mv clap_jax/.venv clap_jax.new/; } &&
rm -rf clap_jax && mv clap_jax.new clap_jax &&
${with}clap_jax/launch.sh install tpu"
  [[ -z "$temporary" ]] || rm -r "$temporary"
}

start_mark="launch.sh starts clap"

# Starts clap on these workers, which go on when the connection ends.
tpu_start() { # all|NUMBER and clap's own arguments
  local workers="$1" command
  shift
  command="$(printf '%q ' ./launch.sh clap "$@")"
  # The shell that starts clap stays to write down its exit code.
  on_workers "$workers" "cd clap_jax && rm -f ~/$name.pid ~/$name.rc && {
echo '$start_mark' >> ~/$name.log
setsid nohup sh -c '\"\$@\" & echo \$! > ~/$name.pid
wait \$!; echo \$? > ~/$name.rc' sh $command >> ~/$name.log 2>&1 \
< /dev/null & }"
}

# The next setup replaces clap_jax, where a relative workdir would lie.
refuse_relative_workdir() { # VERB
  local word before="" value
  for word in "${train_arguments[@]}"; do
    value="/"
    case "$before" in # clap takes a beginning of --workdir, too
      --w*=*) ;;
      --w*) value="$word" ;;
    esac
    case "$word" in
      --w*=*) value="${word#*=}" ;;
    esac
    [[ "$value" == /* ]] ||
      fail "tpu $1: --workdir: got $(printf '%q' "$value"), which the next\
 setup would delete with the code; give an absolute path."
    before="$word"
  done
}

tpu_train() {
  [[ ${#train_arguments[@]} -gt 0 ]] ||
    fail "tpu train: give the options of clap train after --."
  refuse_relative_workdir train
  if [[ "$restart" == 1 ]]; then
    [[ "$direct" == 0 ]] ||
      fail "tpu train: --restart needs a queued resource: leave out --direct."
    need_type_and_runtime "train --restart"
    [[ -n "$tarball" ]] || fix_revision
  fi
  tpu_start all train --distributed "${train_arguments[@]}"
  [[ "$restart" == 0 ]] || restart_until_done
}

queued_state() {
  gcloud_tpu queued-resources describe "$name" --format='value(state.state)'
}

# What every worker says of its process: RUNNING, STOPPED (it has saved and
# waits to be taken away) or ENDED and its exit code, "none" if it was killed
# together with its shell; nothing from one that cannot be reached.
# What an earlier run has left in the log does not count.
run_state() {
  on_workers all "if kill -0 \"\$(cat ~/$name.pid)\" 2> /dev/null; \
then echo RUNNING; elif [ \"\$(cat ~/$name.rc 2> /dev/null || echo 0)\" = 0 ] \
&& tail -n 5 ~/$name.log | awk '/$start_mark/ { said = 0 } \
/asked to stop: saved/ { said = 1 } END { exit ! said }'; \
then echo STOPPED; else sleep 1; \
echo ENDED \"\$(cat ~/$name.rc 2> /dev/null || echo none)\"; fi"
}

# Returns the worst exit code of the answers of run_state.
worst_code() { # TEXT
  local word code worst=0
  while read -r word code; do
    [[ "$word" == ENDED ]] || continue
    [[ "$code" =~ ^[0-9]+$ ]] || code=1
    [[ "$code" -le "$worst" ]] || worst="$code"
  done <<< "$1"
  return "$worst"
}

restart_until_done() {
  local state said code=0 stopped=0 pause="${CLAP_POLL_SEC:-60}"
  if [[ "$dry_run" == 1 ]]; then
    printf '# every %s s, and again from create if the state is SUSPENDED,' \
      "$pause"
    printf ' SUSPENDING or FAILED:\n'
    queued_state
    return
  fi
  while true; do
    sleep "$pause"
    state="$(queued_state)" || state="UNKNOWN"
    case "$state" in
      ACTIVE)
        said="$(run_state)" || said=""
        # Process 0 alone logs that it was asked to stop: one STOPPED is all.
        if [[ "$said" == *RUNNING* ]]; then
          stopped=0
        elif [[ "$said" == *STOPPED* ]]; then
          stopped=$((stopped + 1))
          if [[ "$stopped" -ge 10 ]]; then
            printf 'launch.sh: %s was asked to stop and has saved, and its' \
              "$name" >&2
            printf ' slice stays; start it again to go on.\n' >&2
            return
          fi
        elif [[ "$said" == *ENDED* ]]; then
          worst_code "$said" || code=$?
          if [[ "$code" != 0 ]]; then
            printf 'launch.sh: %s has failed with exit code %d; see ~/%s.log' \
              "$name" "$code" "$name" >&2
            printf ' on its workers.\n' >&2
            return "$code"
          fi
          printf 'launch.sh: %s has ended; see the logs.\n' "$name" >&2
          return
        fi
        ;;
      SUSPENDED | SUSPENDING | FAILED)
        printf 'launch.sh: %s is %s; making it again.\n' "$name" "$state" >&2
        stopped=0
        tpu_delete
        tpu_create
        wait_until_active
        tpu_setup
        tpu_start all train --distributed "${train_arguments[@]}"
        ;;
    esac
  done
}

wait_until_active() {
  local state=""
  until [[ "$state" == ACTIVE ]]; do
    sleep "${CLAP_POLL_SEC:-60}"
    state="$(queued_state)" || state="UNKNOWN"
    [[ "$state" != FAILED ]] || fail "the queued resource $name has failed."
  done
}

# A sweep's runs are processes of one host: more hosts would repeat them all.
tpu_sweep() {
  [[ "$slices" == 1 ]] ||
    fail "tpu sweep: a sweep uses one host: leave out --slices."
  [[ "$restart" == 0 ]] ||
    fail "tpu sweep: --restart is for train; run the sweep again to go on."
  [[ ${#train_arguments[@]} -gt 0 ]] ||
    fail "tpu sweep: give the options of clap sweep after --."
  refuse_relative_workdir sweep
  tpu_start 0 sweep "${train_arguments[@]}"
}

tpu_status() {
  local state
  if [[ "$direct" == 1 ]]; then
    state="$(gcloud_tpu tpu-vm describe "$name" --format='value(state)')"
  else
    state="$(queued_state)"
  fi
  printf '%s\n' "$state"
  # A slice that is not there (READY: of its own) has no log to show.
  if [[ "$dry_run" == 1 || "$state" == ACTIVE || "$state" == READY ]]; then
    on_workers all "tail -n 1 ~/$name.log"
  fi
}

tpu_logs() {
  local node process code worst=0 processes=()
  for node in $(nodes); do
    # shellcheck disable=SC2016  # $(hostname) is for the worker's shell
    gcloud_tpu tpu-vm ssh "$node" --worker=all \
      --command="tail -n 100 -F ~/$name.log | sed -u \"s/^/\$(hostname): /\"" &
    processes+=("$!")
  done
  for process in "${processes[@]}"; do
    code=0
    wait "$process" || code=$?
    [[ "$code" -le "$worst" ]] || worst="$code"
  done
  return "$worst"
}

tpu_stop() {
  on_workers all "kill -TERM \"\$(cat ~/$name.pid)\""
}

tpu_delete() {
  if [[ "$direct" == 1 ]]; then
    gcloud_tpu tpu-vm delete "$name" --quiet
  else
    gcloud_tpu queued-resources delete "$name" --force --quiet
  fi
}

tpu() {
  [[ $# -ge 1 ]] || fail "tpu: give a verb; see ./launch.sh help."
  local verb="$1"
  shift
  case "$verb" in
    create | setup | train | sweep | status | logs | stop | delete)
      tpu_options "$@"
      "tpu_$verb"
      ;;
    *)
      fail "tpu: unknown verb '$verb'; choose create, setup, train, sweep,\
 status, logs, stop or delete."
      ;;
  esac
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
    # A file's tests share what they make, so they stay in one process.
    # In order of their names: files of few, long tests would else come last.
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
