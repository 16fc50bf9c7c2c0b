#!/usr/bin/env bash
# On one worker: installs the program, starts it, tells how it is, stops it. queued.sh and group.sh copy it and call it.
#
#   worker.sh install REQUIREMENT   into venv/ beside this file
#   worker.sh start ARGUMENTS...    flaxdistill ARGUMENTS in the background; what it prints goes to log
#   worker.sh status                worker HOST idle, running or ended CODE; before it the log's last line, or more after a mistake
#   worker.sh stop                  SIGTERM: all workers save the same step and end; the same command goes on from there

set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"
export PATH=$HOME/.local/bin:$PATH FLAXDISTILL_STOPPED=143
host=$(hostname)

# Held by the program as long as it lives, whatever becomes of the shell that started it.
running() { ! flock --nonblock lock true; }

case ${1:-} in
  install)
    # The images carry Python 3.10, and flaxdistill needs 3.11.
    command -v uv >/dev/null || curl -LsSf https://astral.sh/uv/install.sh | sh
    uv venv --quiet --allow-existing --python 3.12 venv
    uv pip install --quiet --python venv --reinstall-package flaxdistill "$2"
    ;;
  start)
    shift
    if running; then
      echo "worker $host: a run is at work; watch it, or stop it first" >&2
      exit 2
    fi
    rm -f ended
    # shellcheck disable=SC2016 # the inner shell is to expand these
    nohup setsid flock --nonblock lock bash -c '
      venv/bin/flaxdistill "$@" & echo $! >pid
      code=0; wait $! || code=$?
      echo "$code" >ended.new && mv ended.new ended' worker "$@" >>log 2>&1 </dev/null &
    echo "worker $host started"
    ;;
  status)
    code=$(cat ended 2>/dev/null || true)
    if [[ -f log ]]; then tail -n "$([[ $code == 2 ]] && echo 20 || echo 1)" log; fi
    if running; then echo "worker $host running"; elif [[ -n $code ]]; then echo "worker $host ended $code"; else echo "worker $host idle"; fi
    ;;
  stop)
    if running; then kill -TERM "$(cat pid)"; fi
    ;;
  *)
    sed -n '2,/^$/s/^# \{0,1\}//p' "$0"
    exit 2
    ;;
esac
