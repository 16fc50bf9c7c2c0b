"""A teacher's answers, computed once and read by every student after: its likeliest words and states of its layers."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import hashlib
import json
import os
import shutil
import tokenize
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from flaxdistill.data.array_file import ArrayFile
from flaxdistill.data.order import Order, rows
from flaxdistill.data.store import Blocks
from flaxdistill.errors import UserError
from flaxdistill.losses.vocab import at_labels
from flaxdistill.ops.vocab import vocab_top
from flaxdistill.pytrees import Batch, Outputs, Params, VocabTargets
from flaxdistill.runtime import gcs
from flaxdistill.runtime.files import whole, write_json
from flaxdistill.runtime.sharding import jit, own_rows, place_rows, round_up

PART = 1024
"""Rows of one folder: what a killed run has to compute again."""

FORMAT = 2
"""Changes whenever the same settings would give other answers."""

KEPT = {"token_ids", "log_probs", "example_id", "epoch"}
"""What every part holds; bfloat16 states of layers beside them where a loss reads them."""

MANIFEST = "targets.json"
Compute = Callable[[Params, Batch], dict[str, jax.Array]]


@dataclasses.dataclass(frozen=True, kw_only=True)
class CacheSpec:
    """What of a teacher of ``layers`` layers is kept: the ``k`` most probable tokens at a temperature, on all or masked tokens,
    and ``states`` such as hidden_12 or queries_12."""

    k: int
    temperature: float
    masked: bool
    states: tuple[str, ...]
    layers: int


def make_recall(what: CacheSpec) -> Callable[[Params, Batch], Outputs]:
    """Make the function that gives a batch's stored answers as the teacher's outputs; what was not kept is None."""

    def recall(params: Params, batch: Batch) -> Outputs:
        stored: dict[str, Any] = dict(batch.targets)
        vocab = VocabTargets(
            stored["token_ids"].astype(jnp.int32), stored["log_probs"].astype(jnp.float32)
        )

        def of(name: str, first: int) -> tuple[Any, ...]:
            return tuple(stored.get(f"{name}_{layer}") for layer in range(first, what.layers + 1))

        return Outputs(
            of("hidden", 0), of("queries", 1), of("keys", 1), of("values", 1), jnp.zeros(()), vocab
        )

    return recall


def make_compute(
    apply: Callable[[Params, Batch], Outputs], prepare: Callable[[Batch], Batch], what: CacheSpec
) -> Compute:
    """Make the function that masks a batch as training will and asks the teacher: arrays [B, ...] by name."""

    def compute(params: Params, batch: Batch) -> dict[str, jax.Array]:
        batch = prepare(batch)
        outputs = apply(params, batch)
        head = at_labels(outputs.vocab, batch) if what.masked else outputs.vocab
        top = vocab_top(head, what.k, what.temperature)
        narrow = jnp.uint16 if head.kernel.shape[0] <= 65536 else jnp.uint32
        # Half precision: a share is kept to 1 part in 2,000 where it is large, and to 1 in 100 where it is e^-16.
        kept = {
            "token_ids": top.token_ids.astype(narrow),
            "log_probs": top.log_probs.astype(jnp.float16),
        }
        for state in what.states:
            name, _, layer = state.partition("_")
            kept[state] = getattr(outputs, name)[int(layer) - (name != "hidden")].astype(
                jnp.bfloat16
            )
        return kept | {"example_id": batch.example_id, "epoch": batch.epoch}

    return compute


@dataclasses.dataclass(frozen=True)
class Targets:
    """Stored answers, addressed as rows are: by the global index of the order that they were computed in."""

    folder: Path

    def read(self, index: np.ndarray, columns: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Read the answers to rows at consecutive global indices; raises UserError where they are of other rows."""
        parts = [index[index // PART == number] for number in np.unique(index // PART)]
        found = [
            {n: a[at % PART] for n, a in _part(self.folder, int(at[0]) // PART).items()}
            for at in parts
        ]
        joined = {name: np.concatenate([part[name] for part in found]) for name in found[0]}
        for name in ("example_id", "epoch"):
            if not np.array_equal(joined.pop(name), columns[name]):
                raise UserError(
                    f"{self.folder} answers for other rows at {int(index[0])}; delete it and run the command again"
                )
        return joined


def store_targets(
    directory: Path,
    settings: Mapping[str, Any],
    compute: Compute,
    params: Params,
    blocks: tuple[Blocks, ...],
    order: Order,
    mesh: Any,
    *,
    needed: int,
    batch_size: int,
    report: Callable[[str], None],
) -> Targets:
    """Compute the answers to rows 0 .. ``needed`` that are not in ``directory`` yet, in parts that are whole or absent.

    They lie in a folder named after ``settings``: everything that they depend on. Raises UserError before the first
    is computed where the disk cannot hold them.
    """
    settings = {"format": FORMAT, "part": PART, **settings}
    fingerprint = hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:16]
    folder = directory / f"targets-{fingerprint}"
    numbers = range(-(-needed // PART))
    missing = [
        number for number in numbers if not gcs.reach(folder / f"{number:06}", "words.npy").is_dir()
    ]
    if not missing:
        report(f"reused {folder}: the teacher's answers to {len(numbers) * PART:,} rows")
        return Targets(folder)

    def batch(first: int) -> Batch:
        return place_rows(rows(blocks, order, first + own_rows(batch_size, mesh)), mesh)

    batch_size = round_up(min(batch_size, PART), mesh)
    run = jit(compute, mesh)
    with jax.set_mesh(mesh):
        shapes = jax.eval_shape(compute, params, batch(0))
        row = sum(int(np.prod(s.shape[1:])) * s.dtype.itemsize for s in shapes.values())
        total = len(missing) * PART * row
        folder.mkdir(parents=True, exist_ok=True)
        free = shutil.disk_usage(folder).free
        report(
            f"the teacher's answers to {len(missing) * PART:,} rows take {total / 2**30:.2f} GiB ({row:,} bytes a row)"
        )
        if total > free:
            raise UserError(
                f"{folder} needs {total / 2**30:.1f} GiB for the teacher's answers and {free / 2**30:.1f} are free; keep "
                "fewer words with --teacher.cache-top-k, or choose another --data-dir"
            )
        write_json(folder / f".{MANIFEST}", {"settings": settings, "bytes_per_row": row})
        os.replace(folder / f".{MANIFEST}", folder / MANIFEST)
        for number in missing:
            path = folder / f"{number:06}"
            if path.is_dir():  # another run, faster, with the same bytes
                continue
            gcs.remove(path)  # what was sent of it, and cut short
            for cut_short in folder.glob(f".{path.name}.*.tmp"):
                shutil.rmtree(cut_short, ignore_errors=True)
            starts = range(number * PART, (number + 1) * PART, batch_size)
            _write_part(path, shapes, (run(params, batch(first)) for first in starts))
    report(f"wrote {folder}")
    return Targets(folder)


def _write_part(path: Path, shapes: Mapping[str, Any], batches: Any) -> None:
    with whole(path) as new, contextlib.ExitStack() as stack:
        files = {
            name: stack.enter_context(
                ArrayFile(new / f"{name}.npy", shape.shape[1:], _stored(shape.dtype))
            )
            for name, shape in shapes.items()
        }
        for answers in batches:
            for name, values in jax.device_get(answers).items():
                file = files[name]
                file.append(
                    values[: PART - file.rows].view(file.dtype)
                )  # the last batch may reach beyond


@functools.lru_cache(maxsize=8)
def _part(folder: Path, number: int) -> dict[str, np.ndarray]:
    path = folder / f"{number:06}"
    arrays = {}
    try:
        for file in path.glob("*.npy"):
            array = np.load(file, mmap_mode="r", allow_pickle=False).view(np.ndarray)
            arrays[file.stem] = array if file.stem in KEPT else array.view(jnp.bfloat16)
        if not set(arrays) >= KEPT or {len(array) for array in arrays.values()} != {PART}:
            raise ValueError("rows are missing")
    except (OSError, ValueError, EOFError, TypeError, SyntaxError, tokenize.TokenError) as error:
        raise UserError(
            f"{path} is damaged ({error}); delete it and run the command again"
        ) from None
    return arrays


def _stored(dtype: Any) -> np.dtype:
    """Name a type as numpy's files can: bfloat16 is kept by its bits."""
    return np.dtype(np.uint16) if dtype == jnp.bfloat16 else np.dtype(dtype)
