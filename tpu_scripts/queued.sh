#!/usr/bin/env bash
# TPU v4, v5e, v5p and v6e as queued resources of the Cloud TPU API.
#
#   queued.sh create                             ask for chips; watch tells when they have come
#   queued.sh launch COMMAND CONFIG --workdir W  install flaxdistill on all workers and start it: launch distill my.py --workdir gs://b/run
#   queued.sh watch [the same]                   follow it; 0: done, 2: a mistake, 1: resume; RESTARTS=N resumes up to N times by itself
#   queued.sh resume the same                    delete what was taken away, ask again, wait, launch: the run goes on from its checkpoint
#   queued.sh stop                               all workers save a step and end; the chips stay, and cost
#   queued.sh delete                             give the chips back
#
# --dry-run before or after the verb prints every command and runs none.
#
# Settings, exported: NAME; ZONE; ACCELERATOR such as v6e-16; PACKAGE, a wheel or a version; and, if wanted,
# PROJECT; CAPACITY spot (if unset), on-demand or reserved; SLICES 1; POLL 60 seconds.

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
    *) fail "ACCELERATOR is $ACCELERATOR; queued resources are v4-N, v5litepod-N, v5p-N and v6e-N, and newer chips come by group.sh or gke.sh" ;;
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
    *) say "$answer"; echo unknown ;;
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
  delete || say "there was nothing to delete"
  create
}

"$verb"
