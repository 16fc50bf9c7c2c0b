#!/usr/bin/env bash
# TPU v5p, v6e and TPU7x as one slice in a managed instance group of Compute Engine.
#
#   group.sh create                             create a policy for the shape, a template for the hosts, and a group that starts all at once
#   group.sh launch COMMAND CONFIG --workdir W  install flaxdistill on all hosts and start it: launch distill my.py --workdir gs://b/run
#   group.sh watch [the same]                   follow it; exit 0: done, 2: a mistake, 1: resume; RESTARTS=N resumes automatically up to N times
#   group.sh resume the same                    delete a preempted group, create it again, wait and launch: the run resumes
#   group.sh stop                               all hosts save a step and exit; the chips remain and cost money
#   group.sh delete                             delete everything; deleting only machines makes the group create new ones
#
# --dry-run prints every command and runs none.
#
# Settings, exported: NAME; PROJECT; ZONE; ACCELERATOR v5p, v6e or tpu7x; TOPOLOGY such as 4x4; PACKAGE, a wheel or a
# version; optional: CAPACITY spot (default), flex-start or on-demand; MAX_DURATION 7d, for flex-start; POLL 60 seconds.

set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
# shellcheck source=tpu_scripts/common.sh
. "$here/common.sh"
# shellcheck source=tpu_scripts/vms.sh
. "$here/vms.sh"

begin "create launch watch resume stop delete" gcloud -- "$@"
need NAME "what to call it"
need PROJECT "the id of the Google Cloud project"
need ZONE "where it is, such as us-east5-b"
shape
region=${ZONE%-*}
at=("--project=$PROJECT" "--zone=$ZONE")
groups=(gcloud compute instance-groups managed)

create() {
  need ACCELERATOR "v5p, v6e or tpu7x"
  local machine image=ubuntu-accel-2204-amd64-tpu-v5e-v5p-v6e capacity=()
  case $ACCELERATOR in
    v5p) machine=ct5p-hightpu-4t ;;
    v6e) machine=ct6e-standard-4t ;;
    tpu7x) machine=tpu7x-standard-4t image=ubuntu-accel-2404-amd64-tpu-tpu7x ;;
    *) fail "ACCELERATOR is $ACCELERATOR; groups have v5p, v6e or tpu7x; use queued.sh or gke.sh for older chips" ;;
  esac
  case ${CAPACITY:-spot} in
    spot) capacity=(--provisioning-model=SPOT --instance-termination-action=STOP) ;;
    flex-start)
      capacity=(--provisioning-model=FLEX_START "--max-run-duration=${MAX_DURATION:-7d}" --instance-termination-action=DELETE)
      ;;
    on-demand) ;;
    *) fail "CAPACITY is $CAPACITY; it is spot, flex-start or on-demand" ;;
  esac
  run gcloud compute resource-policies create workload-policy "$NAME" "--project=$PROJECT" "--region=$region" \
    --type=HIGH_THROUGHPUT "--accelerator-topology=$TOPOLOGY" --accelerator-topology-mode=AUTO_CONNECT
  # The default disk of 10 GB is too small for jax and a teacher.
  run gcloud compute instance-templates create "$NAME" "--project=$PROJECT" "--instance-template-region=$region" \
    "--machine-type=$machine" ${capacity[@]+"${capacity[@]}"} --maintenance-policy=TERMINATE --boot-disk-size=200GB \
    --image-project=ubuntu-os-accelerator-images "--image-family=$image" \
    --scopes=https://www.googleapis.com/auth/cloud-platform
  group
}

group() {
  run "${groups[@]}" create "$NAME" "${at[@]}" --size=0 \
    "--template=projects/$PROJECT/regions/$region/instanceTemplates/$NAME" --target-size-policy-mode=bulk \
    --default-action-on-vm-failure=do-nothing \
    "--workload-policy=projects/$PROJECT/regions/$region/resourcePolicies/$NAME"
  run "${groups[@]}" resize "$NAME" "${at[@]}" "--size=$hosts"
}

instances() {
  ask "INSTANCE RUNNING" "${groups[@]}" list-instances "$NAME" "${at[@]}" '--format=value(name,instanceStatus)'
}

state() {
  local answer
  answer=$(instances)
  case $answer in
    *STOP* | *TERMINATED* | *SUSPEND* | *NOT_FOUND* | *"not found"*) echo gone ;;
    *ERROR*) log "$answer"; echo unknown ;;
    *) if [[ -n ${DRY_RUN:-} ]] || (($(grep -c 'RUNNING$' <<<"$answer") == hosts)); then echo ready; else echo waiting; fi ;;
  esac
}

# There is no --worker=all here. Run on all hosts in parallel: installing takes a minute or two.
each() { # FUNCTION ARGUMENTS..., with the name of each host before the arguments
  local host pids=() pid does=$1
  shift
  for host in $(instances | sed 's/[[:space:]].*//'); do
    "$does" "$host" "$@" &
    pids+=($!)
  done
  for pid in "${pids[@]}"; do wait "$pid"; done
}

reach() { run gcloud compute ssh "$1" "${at[@]}" "--command=$2"; }
everywhere() { each reach "$1"; }

copy() { run gcloud compute scp "${@:2}" "$1:flaxdistill/" "${at[@]}"; }
send() { each copy "$@"; }

# A resource that is already deleted must not prevent the deletion of the others.
delete() {
  local code=0
  run "${groups[@]}" delete "$NAME" "${at[@]}" --quiet || code=1
  run gcloud compute instance-templates delete "$NAME" "--project=$PROJECT" "--region=$region" --quiet || code=1
  run gcloud compute resource-policies delete "$NAME" "--project=$PROJECT" "--region=$region" --quiet || code=1
  return $code
}

recreate() {
  run "${groups[@]}" delete "$NAME" "${at[@]}" --quiet || log "there was no group to delete"
  group
}

"$action"
