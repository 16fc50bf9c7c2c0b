# shellcheck shell=bash disable=SC2154 # common.sh and the script set what it reads
# Install, start, watch and restart the program on virtual machines.
# The sourcing script defines `state` (ready, waiting, gone or unknown), `everywhere` COMMAND,
# `send` FILES..., `recreate`.

# Paths on the workers.
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

# Install on all workers before starting any: the first process waits only five minutes for the others.
launch() {
  settle
  package
  local now
  now=$(state)
  [[ $now == ready ]] || fail "$NAME is $now, not ready; watch waits for it, resume requests it again"
  everywhere "mkdir -p flaxdistill"
  send "${files[@]}"
  worker install "$requirement"
  worker start "${command[0]}" "${config:+./}$(basename "${command[1]}")" "${command[@]:2}"
}

stop() { worker stop; }

await() {
  local now
  while now=$(state); [[ $now != ready ]]; do
    [[ $now != gone ]] || { log "$NAME was not granted, or preempted before it was used; resume requests it again"; exit 1; }
    log "$NAME is $now"
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

# Exit with 0 if the run is done, 2 after a mistake that would repeat, 1 if resume may help.
# With RESTARTS=N, resume up to N times instead of exiting with 1.
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
      log "$NAME is $now"
    fi
    if [[ $now == gone ]]; then
      again "the chips were taken away"
    elif grep -q '^worker .* ended 2$' <<<"$report"; then
      log "the run ended with the mistake above; fix it, then launch"
      exit 2
    elif grep -q '^worker' <<<"$report" && ! grep -q '^worker .* running$' <<<"$report"; then
      if ! grep '^worker' <<<"$report" | grep -qv ' ended 0$'; then
        log "the run is done; delete the machines now, since they cost money"
        exit 0
      fi
      again "the run has ended before it was done, or was never launched"
    fi
    pause
  done
}

again() { # WHY
  ((left > 0)) || { log "$1; resume continues from the last checkpoint"; exit 1; }
  left=$((left - 1))
  log "$1; resuming, $left more times are allowed"
  resume
}
