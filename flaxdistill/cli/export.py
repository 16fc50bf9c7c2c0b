"""``flaxdistill export``."""

from __future__ import annotations

import os

from flaxdistill.cli.arguments import OutputPath, Workdir
from flaxdistill.errors import UserError
from flaxdistill.runtime import gcs, gcs_paths


def export(
    workdir: Workdir,
    out: OutputPath,
    stablehlo: bool = False,
    push: str | None = None,
    private: bool = False,
) -> int:
    """Write a run's student as a Hugging Face checkpoint, and verify it in a new process.

    Args:
        workdir: folder of the run
        out: directory to create
        stablehlo: add model.stablehlo, which jax runs without this package on CPU, GPU and TPU
        push: Hub repository USER/REPO to upload the same files to; needs HF_TOKEN or hf auth login
        private: create that repository as private
    """
    # A run may be using the accelerators of this machine.
    os.environ.setdefault("JAX_PLATFORMS", "cpu")
    if private and not push:
        raise UserError("--private needs --push; add --push USER/REPO, or remove --private")

    from flaxdistill.api.export import export as write
    from flaxdistill.hub.push import Repo
    from flaxdistill.runtime import compilation_cache

    compilation_cache.enable()
    repo = Repo(push, private) if push is not None else None
    run = gcs.local_copy(workdir, gcs.RUN_FILES)
    line = write(run, gcs_paths.local_path(out), verify=True, stablehlo=stablehlo, push=repo)
    print(gcs_paths.display(line))
    return 0
