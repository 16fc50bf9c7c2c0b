#!/usr/bin/env bash
# GKE with Google's Cluster Toolkit, which creates the cluster, a queue (Kueue) and the JobSet.
#
#   toolkit.sh create                             deploy BLUEPRINT, a cluster with node pools, after a confirmation
#   toolkit.sh launch COMMAND CONFIG --workdir W  submit the job; a config file is copied into an image with its folder
#   toolkit.sh watch                              list the job and follow its log
#   toolkit.sh resume the same                    cancel the job and submit it again: the run resumes
#   toolkit.sh stop                               cancel the job: all pods save a step and exit; the cluster remains and costs money
#   toolkit.sh delete                             cancel the job and destroy the cluster, after a confirmation
#
# --dry-run prints every command and runs none.
#
# Settings, exported: NAME, up to 28 characters; CLUSTER; PROJECT; ZONE; ACCELERATOR such as v6e-16; IMAGE (see Dockerfile);
# optional: BLUEPRINT examples/gke-tpu-v6e/gke-tpu-v6e.yaml, which sets capacity, shape and machines; SLICES 1;
# RESTARTS 3, which counts preemptions and mistakes; SERVICE_ACCOUNT of Kubernetes;
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
    [[ $(dirname "$config") != . ]] || fail "the whole folder of $config is copied into the image; put it in a separate folder"
    need GCLUSTER_IMAGE_REPO "the repository of Artifact Registry for an image with the config"
    from=("--base-image=$IMAGE" "--build-context=$(dirname "$config")")
    command[1]=$(basename "$config")
  fi
  # exec, so that the program and not a shell receives SIGTERM.
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
  stop || log "there was no job to cancel"
  launch
}

delete() {
  stop || log "there was no job to cancel"
  run gcluster destroy "$CLUSTER"
}

"$action"
