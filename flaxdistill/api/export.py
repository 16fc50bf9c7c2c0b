"""Export of a run's student as a Hugging Face directory with a model card, and to the Hub."""

from __future__ import annotations

import shutil
from pathlib import Path

from flaxdistill.api.model_card import write_card
from flaxdistill.errors import UserError
from flaxdistill.experiment.run_models import read_model
from flaxdistill.experiment.workdir import EXPERIMENT, EXPORT, is_workdir
from flaxdistill.hub import verify as verification
from flaxdistill.hub.push import Repo
from flaxdistill.hub.stablehlo import STABLEHLO, to_stablehlo
from flaxdistill.hub.tokenizer_files import TOKENIZER_FILES
from flaxdistill.runtime.files import require_empty
from flaxdistill.version import __version__


def export(
    path: Path,
    out: Path,
    *,
    verify: bool = False,
    stablehlo: bool = False,
    push: Repo | None = None,
) -> str:
    """Write a run's student as a Hugging Face directory and return a line that describes it.

    The files are read back and must be bit-equal. With ``verify`` a new process must also compute
    the same outputs, which takes as long as jax needs to start and compile; exports at the end of a
    run omit it. ``stablehlo`` adds the model as StableHLO. ``push`` uploads the files to the Hub
    before the directory gets its name.

    Raises UserError if ``out`` is not empty, if a comparison fails or if the upload fails; ``out``
    is then unchanged.
    """
    require_empty(out)
    if not is_workdir(path):
        raise UserError(
            f"{path} is not a workdir of flaxdistill: {EXPERIMENT} is missing; give the --workdir "
            "of a run"
        )
    for leftover in out.absolute().parent.glob(f".{out.name}.*.tmp"):
        shutil.rmtree(leftover, ignore_errors=True)
    if push:
        push.check()
    student = read_model(str(path))
    if not any((student.directory / name).is_file() for name in TOKENIZER_FILES):
        raise UserError(
            f"{student.directory} lacks its tokenizer files; run the experiment's command again to "
            "restore them"
        )
    name = out.absolute().name if out.name != EXPORT else path.absolute().name
    steps = ["read back bit-equal"]

    def finish(folder: Path) -> None:
        if stablehlo:
            (folder / STABLEHLO).write_bytes(to_stablehlo(student))
        if verify:
            verification.compare_in_new_process(student, folder, out)
            steps.append(f"outputs equal to {verification.TOLERANCE:g} in a new process")
        if push:
            commit = push.push(folder, f"{push.name}, by flaxdistill {__version__}")
            steps.append(f"pushed to {push.name} as {commit[:12]}")

    card = write_card(path, student, push.name if push else name, stablehlo=stablehlo)
    verification.write_verified(student, out, card, finish)
    family = student.hub_family().model_type
    return f"exported {student.source} to {out} ({family}), {', '.join(steps)}"
