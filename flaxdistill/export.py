"""A run's student as a Hugging Face directory, with its card, read back and compared."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np

from flaxdistill import hub
from flaxdistill.card import write_card
from flaxdistill.errors import UserError
from flaxdistill.files import refuse_full
from flaxdistill.tree import flatten
from flaxdistill.workdir import EXPERIMENT, is_workdir, read_model

EXPORT = "export"
"""The folder in a workdir that a finished run is exported to."""


def export(path: Path, out: Path) -> str:
    """Write a run's student as a Hugging Face directory with its card, read it back and compare; returns one line.

    Raises UserError if ``out`` holds anything, or if what is read back is not what was written.
    """
    refuse_full(out)
    if not is_workdir(path):
        raise UserError(
            f"{path} is no workdir of flaxdistill: it has no {EXPERIMENT}; give the --workdir of a run"
        )
    for cut_short in out.absolute().parent.glob(f".{out.name}.*.tmp"):
        shutil.rmtree(cut_short, ignore_errors=True)
    model = read_model(str(path))
    if not any((model.directory / name).is_file() for name in hub.TOKENIZER):
        raise UserError(
            f"{model.directory} has lost its tokenizer files; run the experiment's command again to restore them"
        )
    name = out.absolute().name if out.name != EXPORT else path.absolute().name
    write(model, out, write_card(path, model, name))
    return f"exported {model.source} to {out} ({model.family.model_type}), read back bit-equal"


def write(model: hub.Model, out: Path, card: str = "") -> None:
    """Write a model as a Hugging Face directory, read it back and compare; raises UserError as ``export`` does."""
    if not all(np.isfinite(leaf).all() for leaf in flatten(model.params).values()):
        raise UserError(
            f"the student of {model.source} holds numbers that are not finite; train it anew with a lower rate"
        )
    hub.write_model(
        out,
        family=model.family,
        config=model.config,
        params=model.params,
        tokenizer=model.directory,
        card=card,
    )
    if hub.read_model(str(out)).digest != model.digest:
        raise UserError(
            f"{out} does not read back as it was written; the disk may be faulty: export again elsewhere"
        )
