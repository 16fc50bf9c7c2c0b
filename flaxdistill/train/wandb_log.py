"""Weights & Biases, where a run asks for it: the rows of metrics.jsonl under the names TensorBoard has them by."""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from flaxdistill.errors import UserError
from flaxdistill.runtime.files import brief, read_json

FOLDER = "wandb"


class Tracker:
    """One run of a project there, taken up again when the run in ``directory`` goes on.

    Raises UserError where the library is missing, and where it cannot log in.
    """

    def __init__(self, project: str, directory: Path):
        try:
            import wandb
        except ImportError:
            raise UserError(
                "--wandb needs the `wandb` library; run pip install 'flaxdistill[wandb]'"
            ) from None
        identity = directory / FOLDER / "id"
        identity.parent.mkdir(exist_ok=True)
        if not identity.exists():
            identity.write_text(secrets.token_hex(4))
        try:
            self._run = wandb.init(
                project=project,
                name=directory.name,
                id=identity.read_text().strip(),
                resume="allow",
                dir=str(directory),
                config=read_json(directory / "experiment.json"),
                settings=wandb.Settings(silent=True, console="off"),
            )
        except wandb.errors.Error as error:
            raise UserError(
                f"--wandb {project}: no run can begin there ({brief(error)}); run wandb login, or set WANDB_MODE=offline"
            ) from None

    def write(self, step: int, values: Mapping[str, Any]) -> None:
        """Write the values of a step."""
        self._run.log(dict(values), step=step)

    def close(self) -> None:
        """Send what is left."""
        self._run.finish()
