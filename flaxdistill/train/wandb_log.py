"""Optional logging to Weights & Biases, under the same names as in TensorBoard."""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from flaxdistill.errors import UserError
from flaxdistill.runtime.files import error_summary, read_json

FOLDER = "wandb"


class Tracker:
    """One run of a Weights & Biases project, resumed when the run in ``directory`` resumes.

    Raises UserError if the library is missing or cannot log in.
    """

    def __init__(self, project: str, directory: Path):
        try:
            import wandb
        except ImportError:
            raise UserError(
                "--wandb needs the `wandb` library; run pip install 'flaxdistill[wandb]'"
            ) from None
        id_file = directory / FOLDER / "id"
        id_file.parent.mkdir(exist_ok=True)
        if not id_file.exists():
            id_file.write_text(secrets.token_hex(4))
        try:
            self._run = wandb.init(
                project=project,
                name=directory.name,
                id=id_file.read_text().strip(),
                resume="allow",
                dir=str(directory),
                config=read_json(directory / "experiment.json"),
                settings=wandb.Settings(silent=True, console="off"),
            )
        except wandb.errors.Error as error:
            raise UserError(
                f"--wandb {project}: cannot start a run ({error_summary(error)}); run wandb login, "
                "or set WANDB_MODE=offline"
            ) from None

    def write(self, step: int, values: Mapping[str, Any]) -> None:
        """Log the values of a step."""
        self._run.log(dict(values), step=step)

    def close(self) -> None:
        """Upload what is left and finish the run."""
        self._run.finish()
