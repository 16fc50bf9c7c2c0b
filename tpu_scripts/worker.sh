#!/usr/bin/env bash
# Install, start, query and stop the program on one worker. queued.sh and group.sh copy and call this script.
#
#   worker.sh install REQUIREMENT   into venv/ in the folder of this file
#   worker.sh start ARGUMENTS...    flaxdistill ARGUMENTS in the background; its output goes to log
#   worker.sh status                the end of the log, then: worker HOST idle, running or ended CODE
#   worker.sh stop                  SIGTERM: all workers save the same step and exit; the same command resumes

set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"
export PATH=$HOME/.local/bin:$PATH FLAXDISTILL_STOPPED=143
host=$(hostname)

# The program holds this lock while it runs, even if the shell that started it ends.
running() { ! flock --nonblock lock true; }

case ${1:-} in
  install)
    # The images have Python 3.10; flaxdistill needs 3.11.
    command -v uv >/dev/null || curl -LsSf https://astral.sh/uv/install.sh | sh
    uv venv --quiet --allow-existing --python 3.12 venv
    uv pip install --quiet --python venv --reinstall-package flaxdistill "$2"
    ;;
  start)
    shift
    if running; then
      echo "worker $host: a run is already running; watch it, or stop it first" >&2
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
