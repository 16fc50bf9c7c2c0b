"""The folder of a run: its experiment, vocabulary, checkpoints and student."""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any

from flaxdistill.data.store import STORE_MANIFEST
from flaxdistill.data.tokenizer import Vocabulary
from flaxdistill.errors import UserError
from flaxdistill.experiment import serialization
from flaxdistill.experiment.config import Experiment
from flaxdistill.hub import checkpoint
from flaxdistill.hub.families import family as find_family
from flaxdistill.hub.families.base import Family
from flaxdistill.models.architecture import Architecture
from flaxdistill.runtime import class_json, gcs, gcs_paths
from flaxdistill.runtime.files import atomic_path, check_checkpoint_path, read_json, write_json

EXPERIMENT = "experiment.json"
TEMPORARY = f".{EXPERIMENT}.tmp"
TOKENIZER = "tokenizer"
LOCK = ".lock"
EXPORT = "export"
"""The folder in a workdir that a finished run is exported to."""

FORMAT = 5
"""Incremented when runs of earlier versions cannot resume, as when the row order changes."""


def is_workdir(path: Path) -> bool:
    """Return whether a folder holds a run."""
    return (path / EXPERIMENT).is_file()


def lock(
    path: Path,
    experiment: Experiment,
    family: Family | None,
    encoder: Architecture,
    inputs: Mapping[str, str],
    vocabulary: Vocabulary,
    *,
    is_main: bool = True,
) -> IO[str]:
    """Create the folder of a run, or check that it is this run's, and lock it.

    Only the main process takes the lock; the others (``is_main=False``) just validate. Closing the
    returned file releases the lock. ``inputs`` are hashes of what the experiment only names: models
    and prepared data. Raises UserError if the folder holds another experiment, naming the fields
    that differ, if it holds something else, and while another process uses it.
    """
    check_checkpoint_path(path)
    if not is_main:
        gcs.refresh(path)
    check_experiment(path, experiment, inputs)
    if not is_main:
        return (path / EXPERIMENT).open()
    with contextlib.ExitStack() as on_error:
        try:
            path.mkdir(parents=True, exist_ok=True)
            lock = on_error.enter_context((path / LOCK).open("w"))
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if not is_workdir(path):
                write_experiment(path, experiment, family, encoder, inputs)
            # After the experiment: if this is interrupted, the folder is known as this run's, and
            # the next run writes the tokenizer.
            _write_tokenizer(path, vocabulary)
        except BlockingIOError:
            raise UserError(
                f"another process is using {path}; wait for it, or choose another --workdir"
            ) from None
        except OSError as error:
            raise UserError(
                f"cannot write to {path}: {error.strerror}; choose another --workdir"
            ) from None
        on_error.pop_all()
    return lock


def _write_tokenizer(path: Path, vocabulary: Vocabulary) -> None:
    if (path / TOKENIZER / "tokenizer.json").is_file():
        gcs.upload(path / TOKENIZER)  # an earlier upload may have failed
        return
    with atomic_path(path / TOKENIZER, overwrite=True) as temporary:
        vocabulary.save(temporary)


def write_experiment(
    path: Path,
    experiment: Experiment,
    family: Family | None,
    encoder: Architecture,
    inputs: Mapping[str, str],
) -> None:
    """Write which run a folder holds; a resumed run does so after its checkpoint is read."""
    content = {
        "format": FORMAT,
        "experiment": class_json.to_json(experiment),
        "inputs": dict(inputs),
        "student": {
            "family": family and family.model_type,
            "config": class_json.to_json(encoder),
        },
    }
    write_json(path / TEMPORARY, content)
    os.replace(path / TEMPORARY, path / EXPERIMENT)
    gcs.upload(path / EXPERIMENT)


def check_experiment(
    path: Path, experiment: Experiment, inputs: Mapping[str, str] | None = None
) -> None:
    """Raise UserError unless a folder is empty or holds this experiment, free fields aside.

    The error names the fields that differ.
    """
    if not is_workdir(path):
        if path.is_file() or not gcs.list_names(path) <= {"data", TEMPORARY, LOCK}:
            raise UserError(
                f"{path} exists and is not a flaxdistill run; choose another --workdir or an empty "
                "folder"
            )
        return
    stored, new = _stored(path, "experiment"), class_json.to_json(experiment)
    lines = serialization.differences(stored, new)
    if inputs is not None:
        lines += serialization.differences(_stored(path, "inputs"), inputs, "inputs.")
    if lines:
        raise UserError(
            f"{path} holds another experiment ({'; '.join(lines)}); choose another --workdir, or "
            "restore the old values"
        )


def _stored(path: Path, part: str) -> dict[str, Any]:
    content = read_json(path / EXPERIMENT)
    value = content.get(part)
    if content.get("format") != FORMAT or not isinstance(value, dict):
        raise UserError(
            f"{path / EXPERIMENT} is damaged or of another version, with no {part!r} to read; "
            "start the run again in another folder"
        )
    return value


def read_experiment(path: Path) -> Experiment:
    """Read the experiment of a run's folder; raises UserError if there is none."""
    if not is_workdir(path):
        raise UserError(
            f"{path} is not a workdir of flaxdistill: it has no {EXPERIMENT}; give the --workdir "
            "of a run"
        )
    e = serialization.from_json(_stored(path, "experiment"), source=str(path / EXPERIMENT))
    if not isinstance(e, Experiment):
        raise UserError(f"{path / EXPERIMENT} holds no experiment; give the --workdir of a run")
    class_json.check_types(e, f"{path / EXPERIMENT}: experiment")
    return e


def read_inputs(path: Path) -> dict[str, str]:
    """Read the hashes of a run's models and prepared data."""
    inputs = _stored(path, "inputs")
    if not all(isinstance(value, str) and value.isalnum() for value in inputs.values()):
        raise UserError(
            f"{path / EXPERIMENT} is damaged: its inputs are not hashes; start the run again in "
            "another folder"
        )
    return inputs


def read_config(path: Path) -> tuple[Family | None, Architecture]:
    """Read the family and config of a run's student."""
    stored = _stored(path, "student")
    try:
        name = stored["family"]
        family = None if name is None else find_family(name)
        return family, checkpoint.read_architecture(stored["config"])
    except (KeyError, UserError) as error:
        raise UserError(
            f"{path / EXPERIMENT} does not fit this version of flaxdistill: {error}"
        ) from None


def blocks_folder(path: Path, e: Experiment) -> Path:
    """Find the prepared data of a run: in its ``data_dir``, or in or next to its folder."""
    name = read_inputs(path).get("blocks", "")
    folders = [path / "data", path.parent / "data"]
    if e.data_dir:
        folders = [gcs_paths.local_path(e.data_dir)]
    present = (folder for folder in folders if gcs.download(folder / name, STORE_MANIFEST).is_dir())
    return next(present, folders[0]) / name
