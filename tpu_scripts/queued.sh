#!/usr/bin/env bash
# TPU v4, v5e, v5p and v6e as queued resources of the Cloud TPU API.
#
#   queued.sh create                             request chips; watch reports when they are ready
#   queued.sh launch COMMAND CONFIG --workdir W  install flaxdistill on all workers and start it: launch distill my.py --workdir gs://b/run
#   queued.sh watch [the same]                   follow it; exit 0: done, 2: a mistake, 1: resume; RESTARTS=N resumes automatically up to N times
#   queued.sh resume the same                    delete the preempted request, create a new one, wait and launch: the run resumes
#   queued.sh stop                               all workers save a step and exit; the chips remain and cost money
#   queued.sh delete                             delete the chips
#
# --dry-run prints every command and runs none.
#
# Settings, exported: NAME; ZONE; ACCELERATOR such as v6e-16; PACKAGE, a wheel or a version; optional:
# PROJECT; CAPACITY spot (default), on-demand or reserved; SLICES 1; POLL 60 seconds.

set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
# shellcheck source=tpu_scripts/common.sh
. "$here/common.sh"
# shellcheck source=tpu_scripts/vms.sh
. "$here/vms.sh"

begin "create launch watch resume stop delete" gcloud -- "$@"
need NAME "what to call it"
need ZONE "where it is, such as us-east5-b"
at=("--zone=$ZONE" ${PROJECT:+"--project=$PROJECT"})
tpus=(gcloud compute tpus)

# Several slices are nodes of one request, numbered from 0.
nodes=("$NAME")
if ((${SLICES:-1} > 1)); then
  nodes=()
  for ((i = 0; i < SLICES; i++)); do nodes+=("$NAME-$i"); done
fi

create() {
  need ACCELERATOR "the type and size, such as v6e-16"
  local runtime capacity=() which=("--node-id=$NAME")
  case $ACCELERATOR in
    v4-*) runtime=tpu-ubuntu2204-base ;;
    v5litepod-*) runtime=v2-alpha-tpuv5-lite ;;
    v5p-*) runtime=v2-alpha-tpuv5 ;;
    v6e-*) runtime=v2-alpha-tpuv6e ;;
    *) fail "ACCELERATOR is $ACCELERATOR; queued resources have v4-N, v5litepod-N, v5p-N and v6e-N; use group.sh or gke.sh for newer chips" ;;
  esac
  case ${CAPACITY:-spot} in
    on-demand) ;;
    spot | reserved) capacity=("--${CAPACITY:-spot}") ;;
    *) fail "CAPACITY is $CAPACITY; it is spot, on-demand or reserved" ;;
  esac
  ((${SLICES:-1} == 1)) || which=("--node-count=$SLICES" "--node-prefix=$NAME")
  run "${tpus[@]}" queued-resources create "$NAME" "${at[@]}" "--accelerator-type=$ACCELERATOR" \
    "--runtime-version=$runtime" "${which[@]}" --scopes=https://www.googleapis.com/auth/cloud-platform \
    ${capacity[@]+"${capacity[@]}"}
}

state() {
  local answer
  answer=$(ask ACTIVE "${tpus[@]}" queued-resources describe "$NAME" "${at[@]}" '--format=value(state.state)')
  case $answer in
    ACTIVE) echo ready ;;
    *SUSPEND* | FAILED | DELETING | PREEMPTED | *NOT_FOUND* | *"not found"*) echo gone ;;
    CREATING | ACCEPTED | WAITING_FOR_RESOURCES | PROVISIONING) echo waiting ;;
    *) log "$answer"; echo unknown ;;
  esac
}

everywhere() {
  local node
  for node in "${nodes[@]}"; do run "${tpus[@]}" tpu-vm ssh "$node" "${at[@]}" --worker=all "--command=$1"; done
}

send() {
  local node
  for node in "${nodes[@]}"; do run "${tpus[@]}" tpu-vm scp "$@" "$node:flaxdistill/" "${at[@]}" --worker=all; done
}

delete() { run "${tpus[@]}" queued-resources delete "$NAME" "${at[@]}" --force --quiet; }

recreate() {
  delete || log "there was nothing to delete"
  create
}

"$action"
