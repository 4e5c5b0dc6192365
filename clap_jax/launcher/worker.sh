#!/usr/bin/env bash
# Runs on each host of a slice for `./launch.sh tpu`, beside the code:
#   worker.sh start NAME WORKDIR clap's arguments...
#   worker.sh state NAME
# The home folder holds NAME.log; NAME.pid of clap; NAME.keeper, the pid of the
# shell that waits for clap; NAME.rc, the exit code of clap. Preemption deletes
# them, so WORKDIR/logs keeps a copy of each start's log.
set -euo pipefail

root="$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)"
start_mark="launch.sh starts clap"

start() { # NAME WORKDIR ARGUMENTS...: returns at once
  rm -f ~/"$1.pid" ~/"$1.rc"
  printf '%s\n' "$start_mark" >> ~/"$1.log"
  setsid nohup "${BASH_SOURCE[0]}" keep "$@" >> ~/"$1.log" 2>&1 < /dev/null &
  printf '%s\n' "$!" > ~/"$1.keeper"
}

# Runs clap and records its exit code.
keep() { # NAME WORKDIR ARGUMENTS...
  local name="$1" workdir="$2" code=0 process warned=""
  shift 2
  use_cache
  local log=~/"$name.log" first_byte copy
  first_byte="$(($(wc -c < "$log") + 1))"
  copy="$(hostname)-$(date -u +%Y%m%dT%H%M%SZ).log"
  "$root/launch.sh" clap "$@" &
  process="$!"
  printf '%s\n' "$process" > ~/"$name.pid"
  while kill -0 "$process" 2> /dev/null; do
    sleep "${CLAP_COPY_SEC:-60}" &
    wait -n || true  # for either of the two
    kill "$!" 2> /dev/null || true
    copy_log
  done
  wait "$process" || code="$?"
  printf '%s\n' "$code" > ~/"$name.rc"
}

# Keeps compiled programs for the next start in a folder whose name is secret,
# since JAX runs the programs that it finds there.
use_cache() {
  if [[ -n "${JAX_COMPILATION_CACHE_DIR:-}" || -z "$workdir" ||
        -z "${CLAP_CACHE_KEY:-}" ]]; then
    return
  fi
  local folder="$workdir/compiled/$CLAP_CACHE_KEY"
  if [[ "$workdir" != gs://* ]]; then
    if [[ -L "$workdir/compiled" ]] || ! (umask 077 && mkdir -p "$folder"); then
      printf 'worker.sh: cannot create %s; programs are not kept.\n' "$folder"
      return
    fi
  fi
  export JAX_COMPILATION_CACHE_DIR="$folder"
}

# Copies at most the last 16 MiB of this start's log. A file system that hangs
# delays the end of a run by at most half a minute.
copy_log() {
  if [[ -z "$workdir" ]] || timeout 30 "${BASH_SOURCE[0]}" copy "$log" \
      "$first_byte" "$workdir" "$copy"; then
    return
  fi
  [[ -n "$warned" ]] ||
    printf 'worker.sh: the log cannot be copied to %s/logs.\n' "$workdir"
  warned=1
}

copy() { # LOG FIRST_BYTE WORKDIR NAME
  local folder="$3/logs" temporary
  if [[ "$3" == gs://* ]]; then
    temporary="$(mktemp)"
  else
    mkdir -p "$folder"
    [[ ! -L "$folder" ]] || return 1
    temporary="$(mktemp "$folder/.log.XXXXXX")"
  fi
  # shellcheck disable=SC2064  # expand the name now
  trap "rm -f '$temporary'" EXIT
  tail -c "+$2" "$1" | tail -c 16777216 > "$temporary"
  if [[ "$3" == gs://* ]]; then
    gcloud storage cp --quiet "$temporary" "$folder/$4"
  else
    chmod 644 "$temporary"
    mv -f "$temporary" "$folder/$4"
  fi
}

# Prints RUNNING, STOPPED (it has saved and waits for the preemption) or ENDED
# and the exit code, "none" if clap was killed together with its shell. Ignores
# lines of earlier starts in the log.
state() { # NAME
  local code
  code="$(cat ~/"$1.rc" 2> /dev/null)" || code=""
  if [[ -z "$code" ]] && kill -0 "$(cat ~/"$1.keeper")" 2> /dev/null; then
    echo RUNNING
  elif [[ "${code:-0}" == 0 ]] && was_stopped "$1"; then
    echo STOPPED
  else
    echo ENDED "${code:-none}"
  fi
}

was_stopped() { # NAME
  tail -n 5 ~/"$1.log" | awk -v mark="$start_mark" \
    'index($0, mark) { said = 0 }
    /asked to stop: saved/ { said = 1 }
    END { exit ! said }'
}

case "${1:-}" in
  start | keep | copy | state) "$@" ;;
  *)
    printf "worker.sh: got '%s'; expected start or state.\n" "${1:-}" >&2
    exit 2
    ;;
esac
