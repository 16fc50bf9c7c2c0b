#!/usr/bin/env bash
# The same on GKE by Google's Cluster Toolkit, which makes the cluster too and writes the JobSet itself, with Kueue before it.
#
#   toolkit.sh create                             deploy BLUEPRINT: a cluster with node pools; asks before it does
#   toolkit.sh launch COMMAND CONFIG --workdir W  submit the job; a config that is a file travels in an image with its folder
#   toolkit.sh watch                              list the job and follow its log
#   toolkit.sh resume the same                    cancel the job and submit it again: the run goes on from its last checkpoint
#   toolkit.sh stop                               cancel the job: all pods save a step and end; the cluster stays, and costs
#   toolkit.sh delete                             cancel the job and destroy the cluster; asks before it does
#
# --dry-run before or after the verb prints every command and runs none.
#
# Settings, exported: NAME, up to 28 characters; CLUSTER; PROJECT; ZONE; ACCELERATOR such as v6e-16; IMAGE (see Dockerfile);
# and, if wanted, BLUEPRINT examples/gke-tpu-v6e/gke-tpu-v6e.yaml, in which capacity, shape and machines stand; SLICES 1;
# RESTARTS 3, which the toolkit counts for preemptions and mistakes alike; SERVICE_ACCOUNT of Kubernetes;
# GCLUSTER_IMAGE_REPO, the repository for images with configs.

set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
# shellcheck source=tpu_scripts/common.sh
. "$here/common.sh"

begin "create launch watch resume stop delete" gcluster -- "$@"
need NAME "what to call the job"
need CLUSTER "the cluster's name"
need PROJECT "the id of the Google Cloud project"
need ZONE "where it is, such as us-east5-b"
at=("--cluster=$CLUSTER" "--project=$PROJECT" "--location=$ZONE")

create() {
  run gcluster deploy "${BLUEPRINT:-examples/gke-tpu-v6e/gke-tpu-v6e.yaml}" --vars \
    "project_id=$PROJECT,region=${ZONE%-*},zone=$ZONE,deployment_name=$CLUSTER,num_slices=${SLICES:-1}"
}

launch() {
  need ACCELERATOR "the type and size, such as v6e-16"
  need IMAGE "the container image; see Dockerfile"
  settle
  local from=("--image=$IMAGE")
  if [[ -n $config ]]; then
    [[ $(dirname "$config") != . ]] || fail "the folder of $config goes into the image whole; put it in a folder of its own"
    need GCLUSTER_IMAGE_REPO "the repository of Artifact Registry for an image with the config"
    from=("--base-image=$IMAGE" "--build-context=$(dirname "$config")")
    command[1]=$(basename "$config")
  fi
  # exec: the program, and no shell before it, is to hear SIGTERM.
  run gcluster job submit "--name=$NAME" "${at[@]}" "--compute-type=$ACCELERATOR" "--num-slices=${SLICES:-1}" "${from[@]}" \
    "--command=exec flaxdistill $(quoted "${command[@]}")" "--restarts=${RESTARTS:-3}" --grace-period=60s \
    ${SERVICE_ACCOUNT:+"--service-account=$SERVICE_ACCOUNT"}
}

watch() {
  run gcluster job list "${at[@]}" "--name-contains=$NAME"
  run gcluster job logs "$NAME" "${at[@]}" --follow
}

stop() { run gcluster job cancel "$NAME" "${at[@]}"; }

resume() {
  settle
  stop || say "there was no job to cancel"
  launch
}

delete() {
  stop || say "there was no job to cancel"
  run gcluster destroy "$CLUSTER"
}

"$verb"
