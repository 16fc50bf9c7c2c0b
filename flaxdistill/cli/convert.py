"""``flaxdistill convert``."""

from __future__ import annotations

import os

from flaxdistill.cli.arguments import InputPath, OutputPath
from flaxdistill.runtime import gcs_paths


def convert(source: InputPath, out: OutputPath) -> int:
    """Convert a Hugging Face directory or Hub model into an orbax checkpoint, or back.

    Args:
        source: directory or Hub id
        out: directory to create
    """
    # Nothing is computed, and a run may be using the accelerators of this machine.
    os.environ["JAX_PLATFORMS"] = "cpu"

    from flaxdistill.hub.convert import convert as write

    print(gcs_paths.display(write(source, gcs_paths.local_path(out))))
    return 0
