# shellcheck shell=bash
# Manages slices of Cloud TPU from the user's machine: `./launch.sh tpu`.
# launch.sh sources this file; worker.sh runs on the slices' hosts.
#
# Names are checked against Google Cloud's rules and passed as arguments; the
# only command for a remote shell is quoted word by word.
: "${root:?launch.sh sources this file}"

tpu_options() {
  name="" zone="" project="" type="" runtime="" slices=1 revision="HEAD"
  tarball="" remote_python="" restart=0 dry_run=0
  spot=0 direct=0 reserved=0 internal=0 iap=0
  service_account="" network="" subnetwork="" labels="" reservation_project=""
  environment=()
  train_arguments=()
  while [[ $# -gt 0 ]]; do
    case "$1" in
      --name | --zone | --project | --type | --runtime | --slices | --rev | \
        --tarball | --python | --env | --service-account | --network | \
        --subnetwork | --labels | --reservation-project)
        [[ $# -ge 2 ]] || fail "$1 needs a value."
        set_option "$1" "$2"
        shift 2
        ;;
      --spot) spot=1; shift ;;
      --reserved) reserved=1; shift ;;
      --internal-ips) internal=1; shift ;;
      --iap) iap=1; shift ;;
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
  check_options
}

check_options() {
  [[ -n "$name" ]] || fail "tpu: --name is needed."
  [[ -n "$zone" ]] || fail "tpu: --zone is needed, such as us-central2-b."
  local bought="$((spot + reserved))"
  [[ -z "$reservation_project" ]] || bought="$((bought + 1))"
  [[ "$bought" -le 1 ]] ||
    fail "tpu: give one of --spot, --reserved and --reservation-project."
  [[ "$direct" == 1 ]] || return 0
  [[ "$slices" == 1 ]] ||
    fail "tpu: --slices above 1 needs a queued resource: leave out --direct."
  [[ "$iap" == 0 ]] ||
    fail "tpu: --iap needs a queued resource: leave out --direct."
  [[ -z "$reservation_project" ]] ||
    fail "tpu: --reservation-project needs a queued resource: leave out\
 --direct."
}

set_option() {
  local value="$2"
  local label='[a-z][-_a-z0-9]{0,62}=[-_a-z0-9]{0,63}'
  case "$1" in
    --name) matches "$1" "$value" '^[a-z]([-a-z0-9]{0,50}[a-z0-9])?$'; name="$value" ;;
    --zone) matches "$1" "$value" '^[a-z][a-z0-9]*-[a-z0-9]+-[a-z]$'; zone="$value" ;;
    --project) matches_project "$@"; project="$value" ;;
    --reservation-project) matches_project "$@"; reservation_project="$value" ;;
    --type) matches "$1" "$value" '^v[0-9][a-z0-9]*-[0-9]+$'; type="$value" ;;
    --runtime) matches "$1" "$value" '^[a-z0-9][a-z0-9.-]*$'; runtime="$value" ;;
    --slices) matches "$1" "$value" '^[1-9][0-9]{0,2}$'; slices="$value" ;;
    --rev) matches "$1" "$value" '^[A-Za-z0-9_][A-Za-z0-9_./~^-]*$'; revision="$value" ;;
    --service-account)
      matches "$1" "$value" '^[a-z0-9][-a-z0-9.]*@[a-z0-9][-a-z0-9.]*$'
      service_account="$value"
      ;;
    --network) matches_network "$@"; network="$value" ;;
    --subnetwork) matches_network "$@"; subnetwork="$value" ;;
    --labels) matches "$1" "$value" "^$label(,$label)*\$"; labels="$value" ;;
    --env)
      [[ "$value" =~ ^[A-Za-z_][A-Za-z0-9_]*= ]] ||
        fail "--env: got $(printf '%q' "$value"); expected NAME=VALUE with a\
 NAME of letters, digits and _."
      environment+=("$value")
      ;;
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
  # The value is used in a pattern match only.
  [[ "$2" =~ $3 && "$2" != *$'\n'* ]] ||
    fail "$1: got $(printf '%q' "$2"), which is not a valid name."
}

matches_project() {
  matches "$1" "$2" '^[a-z]([-a-z0-9:.]{0,60}[a-z0-9])?$'
}

matches_network() { # a name, or projects/P/global/networks/NAME
  matches "$1" "$2" '^[a-z]([-a-z0-9:./]{0,200}[a-z0-9])?$'
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

# Reaches the workers of all slices in one call: a process waits 300 s for the
# others, which may be too short if slices start one after another.
reach() { # ssh|scp all|NUMBER CONNECTIONS arguments...
  local verb="$1" worker="$2" connections="$3" how=()
  shift 3
  if [[ "$iap" == 1 ]]; then
    how=(--tunnel-through-iap)
  elif [[ "$internal" == 1 ]]; then
    how=(--internal-ip)
  fi
  if [[ "$direct" == 1 ]]; then
    gcloud_tpu tpu-vm "$verb" "$@" --worker="$worker" ${how[@]+"${how[@]}"}
  else
    gcloud_tpu queued-resources "$verb" "$@" --node=all --worker="$worker" \
      --batch-size="$connections" ${how[@]+"${how[@]}"}
  fi
}

on_workers() { # all|NUMBER COMMAND: in those workers' shells on every slice
  reach ssh "$1" 64 "$name" --command="$2"
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
  [[ "$reserved" == 0 ]] || how+=(--reserved)
  [[ -z "$reservation_project" ]] ||
    how+=(--reservation-host-project="$reservation_project")
  [[ -z "$service_account" ]] || how+=(--service-account="$service_account")
  [[ -z "$network" ]] || how+=(--network="$network")
  [[ -z "$subnetwork" ]] || how+=(--subnetwork="$subnetwork")
  [[ "$internal" == 0 ]] || how+=(--internal-ips)
  [[ -z "$labels" ]] || how+=(--labels="$labels")
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

# Resolves --rev to a commit, so that later changes of a branch do not matter.
fix_revision() {
  local commit
  commit="$(git -C "$root" rev-parse --verify --quiet --end-of-options \
    "$revision^{commit}")" || fail "--rev: git knows no commit '$revision'."
  revision="$commit"
}

# Quotes --env and other variables for the shell that starts a process.
quoted_environment() { # NAME=VALUE...
  printf '%q ' env ${environment[@]+"${environment[@]}"} "$@"
}

tpu_setup() {
  local archive="$tarball" temporary="" with=()
  [[ -z "$remote_python" ]] || with=("PYTHON=$remote_python")
  if [[ -z "$archive" ]]; then
    fix_revision
    temporary="$(mktemp -d)"
    archive="$temporary/clap_jax.tar.gz"
    run git -C "$root" archive --format=tar.gz --output="$archive" "$revision"
  fi
  reach scp all 64 "$archive" "$name:clap_jax.tar.gz"
  on_workers all "rm -rf clap_jax.new && mkdir clap_jax.new &&
tar -xzf clap_jax.tar.gz -C clap_jax.new &&
{ [ ! -d clap_jax/.venv ] || mv clap_jax/.venv clap_jax.new/; } &&
rm -rf clap_jax && mv clap_jax.new clap_jax &&
$(quoted_environment ${with[@]+"${with[@]}"})clap_jax/launch.sh install tpu gcs"
  [[ -z "$temporary" ]] || rm -r "$temporary"
}

# JAX runs the compiled programs that it finds. The name of their folder under
# the workdir is secret, so a workdir from others cannot contain programs.
cache_key() {
  local file="${XDG_CONFIG_HOME:-$HOME/.config}/clap_jax/cache_key" key
  if [[ "$dry_run" == 1 ]]; then
    printf 'KEY'
    return
  fi
  if [[ ! -s "$file" ]]; then
    mkdir -p "$(dirname "$file")"
    (umask 077 && od -An -N16 -tx1 /dev/urandom | tr -d ' \n' > "$file")
  fi
  key="$(cat "$file")"
  [[ "$key" =~ ^[0-9a-f]{32}$ ]] ||
    fail "$file: expected 32 hexadecimal digits; remove the file."
  printf '%s' "$key"
}

# Starts clap on these workers; it continues when the connection ends.
tpu_start() { # all|NUMBER and clap's own arguments
  local workers="$1" key
  shift
  key="$(cache_key)"
  on_workers "$workers" "cd clap_jax && $(quoted_environment \
    "CLAP_CACHE_KEY=$key" clap_jax/launcher/worker.sh start "$name" \
    "$workdir" "$@")"
}

# Sets `workdir` to clap's last --workdir. A relative one would be in clap_jax,
# which the next setup replaces.
find_workdir() { # VERB
  local word before=""
  workdir=""
  for word in "${train_arguments[@]}"; do
    case "$before" in # clap accepts abbreviations of --workdir
      --w*=*) ;;
      --w*) check_workdir "$1" "$word" ;;
    esac
    case "$word" in
      --w*=*) check_workdir "$1" "${word#*=}" ;;
    esac
    before="$word"
  done
}

check_workdir() { # VERB VALUE
  [[ "$2" == /* || "$2" == gs://* ]] ||
    fail "tpu $1: --workdir: got $(printf '%q' "$2"), which the next setup\
 would delete with the code; give an absolute path."
  workdir="$2"
}

tpu_train() {
  [[ ${#train_arguments[@]} -gt 0 ]] ||
    fail "tpu train: give the options of clap train after --."
  find_workdir train
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

# Prints the state of every worker's process, see worker.sh; prints nothing for
# an unreachable worker.
run_state() {
  on_workers all "clap_jax/clap_jax/launcher/worker.sh state $name"
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
        # Only process 0 logs that it was asked to stop: one STOPPED suffices.
        if [[ "$said" == *RUNNING* ]]; then
          stopped=0
        elif [[ "$said" == *STOPPED* ]]; then
          stopped=$((stopped + 1))
          if [[ "$stopped" -ge 10 ]]; then
            printf 'launch.sh: %s was asked to stop and has saved, and its' \
              "$name" >&2
            printf ' slice stays; start it again to resume.\n' >&2
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

# A sweep runs its processes on one host; other hosts would repeat all runs.
tpu_sweep() {
  [[ "$slices" == 1 ]] ||
    fail "tpu sweep: a sweep uses one host: leave out --slices."
  [[ "$restart" == 0 ]] ||
    fail "tpu sweep: --restart is for train; run the sweep again to resume."
  [[ ${#train_arguments[@]} -gt 0 ]] ||
    fail "tpu sweep: give the options of clap sweep after --."
  find_workdir sweep
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
  # A missing slice has no log (READY is the state of a --direct slice).
  if [[ "$dry_run" == 1 || "$state" == ACTIVE || "$state" == READY ]]; then
    on_workers all "tail -n 1 ~/$name.log"
  fi
}

# Opens all connections at once, since none of them ends.
tpu_logs() {
  # shellcheck disable=SC2016  # $(hostname) is for the worker's shell
  reach ssh all all "$name" \
    --command="tail -n 100 -F ~/$name.log | sed -u \"s/^/\$(hostname): /\""
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
