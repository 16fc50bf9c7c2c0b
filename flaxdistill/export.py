"""A run's student as a Hugging Face directory, with its card, read back and compared; and on the Hub."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np

from flaxdistill import fresh, hub
from flaxdistill.card import write_card
from flaxdistill.errors import UserError
from flaxdistill.files import refuse_full
from flaxdistill.portable import STABLEHLO, stablehlo
from flaxdistill.push import Repo
from flaxdistill.tree import flatten
from flaxdistill.version import __version__
from flaxdistill.workdir import EXPERIMENT, is_workdir, read_model

EXPORT = "export"
"""The folder in a workdir that a finished run is exported to."""


def export(
    path: Path, out: Path, *, apart: bool = False, portable: bool = False, push: Repo | None = None
) -> str:
    """Write a run's student as a Hugging Face directory with its card, read it back and compare; returns one line.

    Every tensor must read back bit-equal; ``apart``, a process of its own must also say the same to the same texts, which
    takes it as long as jax and a compilation do: a run's own exports go without. ``portable`` adds the model as StableHLO,
    and ``push`` commits it all to the Hub, before it has its name here. Raises UserError if ``out`` holds anything, if what
    is read is not what was written, or if it cannot be pushed; ``out`` is then as it was.
    """
    refuse_full(out)
    if not is_workdir(path):
        raise UserError(
            f"{path} is no workdir of flaxdistill: it has no {EXPERIMENT}; give the --workdir of a run"
        )
    for cut_short in out.absolute().parent.glob(f".{out.name}.*.tmp"):
        shutil.rmtree(cut_short, ignore_errors=True)
    if push:
        push.check()
    model = read_model(str(path))
    if not any((model.directory / name).is_file() for name in hub.TOKENIZER):
        raise UserError(
            f"{model.directory} has lost its tokenizer files; run the experiment's command again to restore them"
        )
    name = out.absolute().name if out.name != EXPORT else path.absolute().name
    done = ["read back bit-equal"]

    def finish(folder: Path) -> None:
        if portable:
            (folder / STABLEHLO).write_bytes(stablehlo(model))
        if apart:
            fresh.compare(model, folder, out)
            done.append(f"the same to {fresh.TOLERANCE:g} in a process of its own")
        if push:
            commit = push.push(folder, f"{push.name}, by flaxdistill {__version__}")
            done.append(f"pushed to {push.name} as {commit[:12]}")

    write(model, out, write_card(path, model, push.name if push else name, portable=portable), finish)
    return f"exported {model.source} to {out} ({model.family.model_type}), {', '.join(done)}"


def write(
    model: hub.Model, out: Path, card: str = "", finish: Callable[[Path], None] = lambda folder: None
) -> None:
    """Write a model as a Hugging Face directory, read it back and compare, then ``finish`` it before it has its name.

    Raises UserError as ``export`` does.
    """
    if not all(np.isfinite(leaf).all() for leaf in flatten(model.params).values()):
        raise UserError(
            f"the student of {model.source} holds numbers that are not finite; train it anew with a lower rate"
        )

    def compare(folder: Path) -> None:
        if hub.read_model(str(folder)).digest != model.digest:
            raise UserError(
                f"{out} does not read back as it was written; the disk may be faulty: export again elsewhere"
            )
        finish(folder)

    hub.write_model(
        out,
        family=model.family,
        config=model.config,
        params=model.params,
        tokenizer=model.directory,
        card=card,
        finish=compare,
    )
