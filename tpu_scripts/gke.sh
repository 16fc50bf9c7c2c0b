#!/usr/bin/env bash
# TPU v4 to TPU7x in a cluster of GKE, as a JobSet (jobset.yaml), which restarts a run automatically.
#
#   gke.sh create                             node pools for the slices, credentials for kubectl, the JobSet controller
#   gke.sh launch COMMAND CONFIG --workdir W  start flaxdistill, with the config: launch distill my.py --workdir gs://b/run
#   gke.sh watch                              follow it; exit 0: done, 1: failed, with the reason
#   gke.sh resume the same                    after a failure: delete the JobSet and launch it again; the run resumes
#   gke.sh stop                               delete the JobSet: all pods save a step and exit; the node pools remain and cost money
#   gke.sh delete                             delete the JobSet and the node pools; the cluster remains and costs money
#
# --dry-run prints every command and runs none.
#
# Settings, exported: NAME; CLUSTER; LOCATION of the cluster; ACCELERATOR v4, v5e, v5p, v6e or tpu7x; TOPOLOGY such as 4x4;
# IMAGE (see Dockerfile); optional: PROJECT; ZONE of the nodes; CAPACITY spot (default) or on-demand; SLICES 1;
# RESTARTS 10, not counting preemptions; SERVICE_ACCOUNT of Kubernetes that may write the bucket; JOBSET v0.10.1.

set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
# shellcheck source=tpu_scripts/common.sh
. "$here/common.sh"

begin "create launch watch resume stop delete" "gcloud kubectl" -- "$@"
need NAME "what to call it"
need CLUSTER "the cluster's name"
need LOCATION "the cluster's region or zone"
need ACCELERATOR "v4, v5e, v5p, v6e or tpu7x"
shape
at=("--location=$LOCATION" ${PROJECT:+"--project=$PROJECT"})
slices=${SLICES:-1}
case $ACCELERATOR in
  v4) machine=ct4p-hightpu-4t tpu=tpu-v4-podslice ;;
  v5e) machine=ct5lp-hightpu-4t tpu=tpu-v5-lite-podslice ;;
  v5p) machine=ct5p-hightpu-4t tpu=tpu-v5p-slice ;;
  v6e) machine=ct6e-standard-4t tpu=tpu-v6e-slice ;;
  tpu7x) machine=tpu7x-standard-4t tpu=tpu7x ;;
  *) fail "ACCELERATOR is $ACCELERATOR; it is v4, v5e, v5p, v6e or tpu7x" ;;
esac

create() {
  local spot=() placement=() i
  case ${CAPACITY:-spot} in
    spot) spot=(--spot) ;;
    on-demand) ;;
    *) fail "CAPACITY is $CAPACITY; it is spot or on-demand" ;;
  esac
  if [[ $ACCELERATOR == tpu7x ]] && ((hosts > 1)); then
    need ZONE "where the nodes are to be, such as us-central1-c"
    run gcloud compute resource-policies create workload-policy "$NAME" "--region=${ZONE%-*}" \
      ${PROJECT:+"--project=$PROJECT"} --type=HIGH_THROUGHPUT "--accelerator-topology=$TOPOLOGY"
    placement=("--placement-policy=$NAME")
  fi
  for ((i = 0; i < slices; i++)); do
    run gcloud container node-pools create "$NAME-$i" "--cluster=$CLUSTER" "${at[@]}" ${ZONE:+"--node-locations=$ZONE"} \
      "--machine-type=$machine" "--tpu-topology=$TOPOLOGY" "--num-nodes=$hosts" ${spot[@]+"${spot[@]}"} \
      ${placement[@]+"${placement[@]}"} --scopes=https://www.googleapis.com/auth/cloud-platform
  done
  run gcloud container clusters get-credentials "$CLUSTER" "${at[@]}"
  run kubectl apply --server-side \
    "--filename=https://github.com/kubernetes-sigs/jobset/releases/download/${JOBSET:-v0.10.1}/manifests.yaml"
}

json() { # a list of strings
  local word line=
  for word in "$@"; do
    word=${word//\\/\\\\}
    line+="${line:+, }\"${word//\"/\\\"}\""
  done
  echo "[$line]"
}

launch() {
  need IMAGE "the container image; see Dockerfile"
  settle
  run kubectl delete configmap "$NAME" --ignore-not-found
  if [[ -n $config ]]; then
    run kubectl create configmap "$NAME" "--from-file=config.py=$config"
    command[1]=/config/config.py
  fi
  local text key value
  text=$(grep -v '^#' "$here/jobset.yaml")
  while read -r key value; do
    text=${text//"\${$key}"/"$value"}
  done <<END
NAME $NAME
RESTARTS ${RESTARTS:-10}
SLICES $slices
HOSTS $hosts
SERVICE_ACCOUNT ${SERVICE_ACCOUNT:-default}
TPU $tpu
TOPOLOGY $TOPOLOGY
IMAGE $IMAGE
ARGS $(json "${command[@]}")
END
  feed "$text" kubectl apply --filename=-
}

watch() {
  local status first="jobset.sigs.k8s.io/jobset-name=$NAME,jobset.sigs.k8s.io/job-index=0,batch.kubernetes.io/job-completion-index=0"
  while true; do
    status=$(ask "0 Completed" kubectl get jobset "$NAME" '--output=jsonpath={.status.restarts} {.status.terminalState} {.status.conditions[?(@.type=="Failed")].message}')
    run kubectl logs "--selector=$first" --tail=1 || true
    log "restarts and status: $status"
    case $status in
      *NotFound*) log "there is no JobSet $NAME; launch it"; exit 1 ;;
      *" Completed "* | *" Completed") log "the run is done; delete the node pools now, since they cost money"; exit 0 ;;
      *" Failed "*) log "the run failed; unless the config is wrong, resume continues from the last checkpoint"; exit 1 ;;
    esac
    pause
  done
}

stop() { run kubectl delete jobset "$NAME" --ignore-not-found; }

resume() {
  settle
  stop
  launch
}

delete() {
  local code=0 i
  stop || code=1
  run kubectl delete configmap "$NAME" --ignore-not-found || code=1
  for ((i = 0; i < slices; i++)); do
    run gcloud container node-pools delete "$NAME-$i" "--cluster=$CLUSTER" "${at[@]}" --quiet || code=1
  done
  if [[ $ACCELERATOR == tpu7x && -n ${ZONE:-} ]] && ((hosts > 1)); then
    run gcloud compute resource-policies delete "$NAME" "--region=${ZONE%-*}" ${PROJECT:+"--project=$PROJECT"} --quiet || code=1
  fi
  return $code
}

"$action"
