"""What a model says to a few texts: here, and in a process of its own that knows nothing but the model's folder."""

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
from flaxdistill.hub import checkpoint
from flaxdistill.hub.checkpoint import Model
from flaxdistill.hub.stablehlo import STABLEHLO, Call, inputs, make_call
from flaxdistill.param_paths import flatten
from flaxdistill.runtime import compilation_cache

TEXTS = (
    "A student says what it has learnt, wherever it is asked.",
    "Naïve? 42 % of 東京 (in 1999), she said, isn't much; but the teacher, the cat and the old dog agreed.",
    "No.",
)
PARTS: dict[str, Any] = {"texts": np.s_[:], "a part": np.s_[:1, :5]}
"""What is asked: all texts at once and, of a function of any number of rows and tokens, a part of the first one too."""

TOLERANCE = 1e-5
"""How far answers may be apart, as a share of the largest: other hardware adds up in another order."""

Answers = dict[str, np.ndarray]


def answers(model: Model, parts: Iterable[str] = ("texts",), call: Call | None = None) -> Answers:
    """Ask a model ``TEXTS``, as its own tokenizer cuts them, by ``call`` or its own function: float32 arrays by name."""
    vocabulary, longest = load_vocabulary(model.directory), min(64, model.config.max_positions)
    rows = [
        [vocabulary.cls, *ids[: longest - 2], vocabulary.sep] for ids in vocabulary.encode(TEXTS)
    ]
    ids = np.full((len(rows), max(map(len, rows))), vocabulary.pad, np.int32)
    for n, row in enumerate(rows):
        ids[n, : len(row)] = row
    mask = (np.arange(ids.shape[1]) < np.array([[len(row)] for row in rows])).astype(np.int32)
    given = {
        "input_ids": ids,
        "attention_mask": mask,
        "token_type_ids": mask * (np.arange(ids.shape[1]) > 4),
    }
    tensors = model.family.write(model.config, model.params)
    call = call or jax.jit(make_call(model.family, model.config))
    found: Answers = {}
    for part in parts:
        with jax.default_matmul_precision("highest"):
            said = call(tensors, *(given[name][PARTS[part]] for name in inputs(model.family)))
        found |= {
            f"{name} of {part}": np.asarray(value, np.float32) for name, value in said.items()
        }
    return found


def compare(model: Model, folder: Path, out: Path) -> None:
    """Have a process of its own read ``folder``, ask what it finds there, its StableHLO too, and compare with ``model``.

    That process shares nothing with this one but the disk and the environment: neither memory, nor settings of jax, nor the
    accelerator, since it computes on a CPU. Raises UserError, naming ``out``, where it fails or answers differ by more than
    ``TOLERANCE``.
    """
    root = str(Path(__file__).resolve().parents[2])
    path = os.pathsep.join(filter(None, (root, os.environ.get("PYTHONPATH"))))
    with tempfile.TemporaryDirectory() as place:
        written = Path(place) / "said.npz"
        done = subprocess.run(
            [sys.executable, "-P", "-m", "flaxdistill.hub.verify", str(folder), str(written)],
            env=os.environ | {"JAX_PLATFORMS": "cpu", "PYTHONPATH": path},
            capture_output=True,
        )
        theirs = dict(np.load(written, allow_pickle=False)) if done.returncode == 0 else {}
    again = "nothing was written: export again elsewhere"
    if done.returncode:
        reason = (
            done.stderr.decode(errors="replace").strip().splitlines()
            or [f"exit code {done.returncode}"]
        )[-1]
        raise UserError(f"{out} cannot be read by a process of its own ({reason}); {again}")
    portable = (folder / STABLEHLO).is_file()
    ours = answers(model, PARTS if portable else ("texts",))
    expected = {f"model: {name}" for name in ours if name.endswith(" of texts")}
    expected |= {f"StableHLO: {name}" for name in ours} if portable else set()
    if theirs.keys() != expected:
        raise UserError(
            f"{out}, read by a process of its own, answers by {', '.join(sorted(theirs)) or 'nothing'} where "
            f"{', '.join(sorted(expected))} is asked; {again}"
        )
    for name in sorted(expected, reverse=True):  # the model before what is made of it
        asked = ours[name.partition(": ")[2]]
        largest = np.abs(asked).max()
        apart = (
            np.abs(asked - theirs[name]).max() / largest
            if asked.shape == theirs[name].shape
            else np.inf
        )
        if not apart <= TOLERANCE:
            raise UserError(
                f"{out}, read by a process of its own, gives {name} that differ by {apart:.1g} of the largest from those of "
                f"{model.source}, and {TOLERANCE:g} is allowed; {again}"
            )


def main(folder: Path, out: Path) -> None:
    """Write as an npz file what the model in a folder says, and what its StableHLO does."""
    compilation_cache.keep()
    model = checkpoint.read_model(str(folder))
    found = {f"model: {name}": value for name, value in answers(model).items()}
    if (folder / STABLEHLO).is_file():
        exported = jax.export.deserialize(bytearray((folder / STABLEHLO).read_bytes()))
        found |= {
            f"StableHLO: {name}": value
            for name, value in answers(model, PARTS, exported.call).items()
        }
    np.savez(out, **found)  # type: ignore[arg-type]


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))


def write(
    model: checkpoint.Model,
    out: Path,
    card: str = "",
    finish: Callable[[Path], None] = lambda folder: None,
) -> None:
    """Write a model as a Hugging Face directory, read it back and compare, then ``finish`` it before it has its name.

    Raises UserError as ``export`` does.
    """
    if not all(np.isfinite(leaf).all() for leaf in flatten(model.params).values()):
        raise UserError(
            f"the student of {model.source} holds numbers that are not finite; train it anew with a lower rate"
        )

    def compare(folder: Path) -> None:
        if checkpoint.read_model(str(folder)).digest != model.digest:
            raise UserError(
                f"{out} does not read back as it was written; the disk may be faulty: export again elsewhere"
            )
        finish(folder)

    checkpoint.write_model(
        out,
        family=model.family,
        config=model.config,
        params=model.params,
        tokenizer=model.directory,
        card=card,
        finish=compare,
    )
