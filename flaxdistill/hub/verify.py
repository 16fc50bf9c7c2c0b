"""Verification of an export: tensors read back bit-equal, outputs match in a new process."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import jax
import numpy as np

from flaxdistill.data.tokenizer import load_vocabulary
from flaxdistill.errors import UserError
from flaxdistill.hub.checkpoint import Checkpoint, read_model, write_model
from flaxdistill.hub.stablehlo import STABLEHLO, Forward, make_forward
from flaxdistill.param_paths import flatten
from flaxdistill.runtime import compilation_cache

TEXTS = (
    "A student repeats what it has learned, in any process.",
    "Naïve? 42 % of 東京 (in 1999), she wrote, isn't much; but the teacher, the cat and the old dog agreed.",  # noqa: E501
    "No.",
)

SLICES: dict[str, Any] = {"all texts": np.s_[:], "a slice": np.s_[:1, :5]}
"""Inputs to compare: all texts, and the start of the first one, since StableHLO takes any shape."""

TOLERANCE = 1e-5
"""Largest difference relative to the largest value. Other hardware adds in another order."""

NamedArrays = dict[str, np.ndarray]


def write_verified(
    checkpoint: Checkpoint,
    out: Path,
    card: str = "",
    finish: Callable[[Path], None] = lambda folder: None,
) -> None:
    """Write a Hugging Face directory, read it back and compare its digest, then call ``finish``.

    ``finish`` gets the temporary folder before it has its final name. Raises UserError if the
    weights are not finite or do not read back bit-equal; nothing is then left at ``out``.
    """
    if not all(np.isfinite(leaf).all() for leaf in flatten(checkpoint.params).values()):
        raise UserError(
            f"the student of {checkpoint.source} has NaN or infinite weights; train it again with "
            "a lower learning rate"
        )

    def verify(folder: Path) -> None:
        if read_model(str(folder)).digest != checkpoint.digest:
            raise UserError(
                f"{out} does not read back as it was written; the disk may be faulty: export to "
                "another directory"
            )
        finish(folder)

    write_model(
        out,
        family=checkpoint.hub_family(),
        config=checkpoint.config,
        params=checkpoint.params,
        tokenizer=checkpoint.directory,
        card=card,
        finish=verify,
    )


def compare_in_new_process(checkpoint: Checkpoint, folder: Path, out: Path) -> None:
    """Compare the outputs of ``folder`` in a new process with those of ``checkpoint``.

    The process reads the model and its StableHLO, if there is one. It shares the disk and the
    environment with this one, but no memory, no settings of jax and no accelerator: it computes on
    a CPU. Raises UserError, which names ``out``, if the process fails or outputs differ by more
    than ``TOLERANCE``.
    """
    actual = _outputs_of_new_process(folder, out)
    retry = "nothing was written: export to another directory"
    exported = (folder / STABLEHLO).is_file()
    reference = compute_outputs(checkpoint, SLICES if exported else ("all texts",))
    expected = {f"model: {name}" for name in reference if name.endswith(" of all texts")}
    expected |= {f"StableHLO: {name}" for name in reference} if exported else set()
    if actual.keys() != expected:
        raise UserError(
            f"{out} has the outputs {', '.join(sorted(actual)) or 'none'} in a new process, but "
            f"{', '.join(sorted(expected))} are expected; {retry}"
        )
    # The model first, then StableHLO, which is made from it.
    for name in sorted(expected, reverse=True):
        values = reference[name.partition(": ")[2]]
        difference = np.inf
        if values.shape == actual[name].shape:
            difference = np.abs(values - actual[name]).max() / np.abs(values).max()
        if not difference <= TOLERANCE:
            raise UserError(
                f"{out}, loaded in a new process, differs from {checkpoint.source}: {name} by "
                f"{difference:.1g} of the largest value, and {TOLERANCE:g} is allowed; {retry}"
            )


def _outputs_of_new_process(folder: Path, out: Path) -> NamedArrays:
    root = str(Path(__file__).resolve().parents[2])
    path = os.pathsep.join(filter(None, (root, os.environ.get("PYTHONPATH"))))
    with tempfile.TemporaryDirectory() as temporary:
        file = Path(temporary) / "outputs.npz"
        process = subprocess.run(
            [sys.executable, "-P", "-m", "flaxdistill.hub.verify", str(folder), str(file)],
            env=os.environ | {"JAX_PLATFORMS": "cpu", "PYTHONPATH": path},
            capture_output=True,
        )
        if process.returncode == 0:
            return dict(np.load(file, allow_pickle=False))
    lines = process.stderr.decode(errors="replace").strip().splitlines()
    reason = lines[-1] if lines else f"exit code {process.returncode}"
    raise UserError(
        f"{out} cannot be read by a new process ({reason}); nothing was written: export to another "
        "directory"
    )


def compute_outputs(
    checkpoint: Checkpoint,
    slices: Iterable[str] = ("all texts",),
    forward: Forward | None = None,
) -> NamedArrays:
    """Compute the outputs of a model for ``TEXTS``, as float32 arrays by name.

    ``TEXTS`` are encoded by its own tokenizer. ``forward`` is the function to call, by default the
    model's own.
    """
    vocabulary = load_vocabulary(checkpoint.directory)
    length = min(64, checkpoint.config.max_positions)
    rows = [
        [vocabulary.cls, *ids[: length - 2], vocabulary.sep] for ids in vocabulary.encode(TEXTS)
    ]
    ids = np.full((len(rows), max(map(len, rows))), vocabulary.pad, np.int32)
    for n, row in enumerate(rows):
        ids[n, : len(row)] = row
    mask = (np.arange(ids.shape[1]) < np.array([[len(row)] for row in rows])).astype(np.int32)
    inputs = {
        "input_ids": ids,
        "attention_mask": mask,
        "token_type_ids": mask * (np.arange(ids.shape[1]) > 4),
    }
    tensors = checkpoint.hub_family().write(checkpoint.config, checkpoint.params)
    forward = forward or jax.jit(make_forward(checkpoint))
    names = checkpoint.input_names()
    arrays: NamedArrays = {}
    for part in slices:
        with jax.default_matmul_precision("highest"):
            outputs = forward(tensors, *(inputs[name][SLICES[part]] for name in names))
        arrays |= {
            f"{name} of {part}": np.asarray(value, np.float32) for name, value in outputs.items()
        }
    return arrays


def main(folder: Path, file: Path) -> None:
    """Write the outputs of the model in a folder, and those of its StableHLO, to an npz file."""
    compilation_cache.enable()
    checkpoint = read_model(str(folder))
    arrays = {f"model: {name}": value for name, value in compute_outputs(checkpoint).items()}
    if (folder / STABLEHLO).is_file():
        exported = jax.export.deserialize(bytearray((folder / STABLEHLO).read_bytes()))
        outputs = compute_outputs(checkpoint, SLICES, exported.call)
        arrays |= {f"StableHLO: {name}": value for name, value in outputs.items()}
    np.savez(file, **arrays)  # type: ignore[arg-type]


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
