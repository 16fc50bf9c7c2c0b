# shellcheck shell=bash disable=SC2154 # common.sh and the script set what it reads
# What machines of one's own need, however they were rented: the program on each of them, started, watched, started again.
# The script that reads this file says how: `state` (ready, waiting, gone or unknown), `everywhere` COMMAND,
# `send` FILES..., `recreate`.

# The workers' names for what is copied to them.
package() {
  need PACKAGE "a wheel to copy (python -m build --wheel), or a version to install"
  files=("$here/worker.sh" ${config:+"$config"})
  case $PACKAGE in
    *.whl)
      [[ -f $PACKAGE ]] || fail "there is no wheel $PACKAGE; build it with python -m build --wheel"
      files+=("$PACKAGE")
      requirement="./${PACKAGE##*/}[tpu,gcs]"
      ;;
    [0-9]*) requirement="flaxdistill[tpu,gcs]==$PACKAGE" ;;
    *) fail "PACKAGE is $PACKAGE; give the path of a wheel, or a version such as 0.1.0" ;;
  esac
}

worker() { everywhere "$(quoted bash flaxdistill/worker.sh "$@")"; }

# Everything is installed everywhere before anything starts: the first process waits five minutes for the others.
launch() {
  settle
  package
  local now
  now=$(state)
  [[ $now == ready ]] || fail "$NAME is $now and not ready; watch tells when it is, resume asks for it again"
  everywhere "mkdir -p flaxdistill"
  send "${files[@]}"
  worker install "$requirement"
  worker start "${command[0]}" "${config:+./}$(basename "${command[1]}")" "${command[@]:2}"
}

stop() { worker stop; }

await() {
  local now
  while now=$(state); [[ $now != ready ]]; do
    [[ $now != gone ]] || { say "$NAME was not given, or taken away before it was used; resume asks again"; exit 1; }
    say "$NAME is $now"
    pause
  done
}

resume() {
  settle
  package
  local now
  now=$(state)
  if [[ -n ${DRY_RUN:-} || $now == gone ]]; then
    recreate
  fi
  await
  launch
}

# Ends with 0 where the run is done, 2 where it ended by a mistake that would come again, 1 where resume may help.
# RESTARTS=N does up to N times what resume does, instead of ending with 1.
watch() {
  local left=${RESTARTS:-0} now report
  ((left == 0)) || settle
  while true; do
    now=$(state)
    report=
    if [[ $now == ready ]]; then
      # shellcheck disable=SC2016 # the worker is to expand it
      report=$(everywhere 'bash flaxdistill/worker.sh status || echo "worker $(hostname) idle"') || report=
      [[ -z ${DRY_RUN:-} ]] || return 0
      printf '%s\n' "${report:-$NAME does not answer}" >&2
    else
      say "$NAME is $now"
    fi
    if [[ $now == gone ]]; then
      again "the chips were taken away"
    elif grep -q '^worker .* ended 2$' <<<"$report"; then
      say "the run ended by a mistake, told above, which would come again; mend it, then launch"
      exit 2
    elif grep -q '^worker' <<<"$report" && ! grep -q '^worker .* running$' <<<"$report"; then
      if ! grep '^worker' <<<"$report" | grep -qv ' ended 0$'; then
        say "the run is done; now delete: it costs as long as it is there"
        exit 0
      fi
      again "the run has ended before it was done, or was never launched"
    fi
    pause
  done
}

again() { # WHY
  ((left > 0)) || { say "$1; resume goes on from the last checkpoint"; exit 1; }
  left=$((left - 1))
  say "$1; resumes, and may do so $left times more"
  resume
}
