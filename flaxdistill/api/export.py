"""A run's student as a Hugging Face directory, with its card, read back and compared; and on the Hub."""

from __future__ import annotations

import shutil
from pathlib import Path

from flaxdistill.api.model_card import write_card
from flaxdistill.errors import UserError
from flaxdistill.experiment.workdir import EXPERIMENT, EXPORT, is_workdir, read_model
from flaxdistill.hub import checkpoint, verify
from flaxdistill.hub.push import Repo
from flaxdistill.hub.stablehlo import STABLEHLO, stablehlo
from flaxdistill.hub.verify import write
from flaxdistill.runtime.files import refuse_full
from flaxdistill.version import __version__


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
    if not any((model.directory / name).is_file() for name in checkpoint.TOKENIZER):
        raise UserError(
            f"{model.directory} has lost its tokenizer files; run the experiment's command again to restore them"
        )
    name = out.absolute().name if out.name != EXPORT else path.absolute().name
    done = ["read back bit-equal"]

    def finish(folder: Path) -> None:
        if portable:
            (folder / STABLEHLO).write_bytes(stablehlo(model))
        if apart:
            verify.compare(model, folder, out)
            done.append(f"the same to {verify.TOLERANCE:g} in a process of its own")
        if push:
            commit = push.push(folder, f"{push.name}, by flaxdistill {__version__}")
            done.append(f"pushed to {push.name} as {commit[:12]}")

    write(
        model, out, write_card(path, model, push.name if push else name, portable=portable), finish
    )
    return f"exported {model.source} to {out} ({model.family.model_type}), {', '.join(done)}"
