"""Cached teacher outputs: the teacher runs once, and every later student reads its outputs.

A cache holds the teacher's most probable tokens and the hidden states that the losses read.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import hashlib
import json
import os
import shutil
import tokenize
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from flaxdistill.data.array_file import ArrayFile
from flaxdistill.data.order import Order, rows
from flaxdistill.data.store import Blocks
from flaxdistill.errors import UserError
from flaxdistill.ops.vocab import at_labels, vocab_top
from flaxdistill.pytrees import Apply, Attention, Batch, Outputs, Params, VocabTargets
from flaxdistill.runtime import gcs
from flaxdistill.runtime.files import atomic_directory, write_json
from flaxdistill.runtime.sharding import jit, local_rows, place_rows, round_up

ROWS_PER_PART = 1024
"""Rows of one folder of a cache; a killed run loses at most this much."""

CACHE_FORMAT = 3
"""Increase it whenever the same settings would give other outputs."""

CACHE_MANIFEST = "targets.json"

REQUIRED_ARRAYS = {"token_ids", "log_probs", "example_id", "epoch"}
"""The arrays of every part; all others are bfloat16 hidden states or projections."""

ComputeOutputs = Callable[[Params, Batch], dict[str, jax.Array]]


@dataclasses.dataclass(frozen=True, kw_only=True)
class CacheSpec:
    """Which outputs of a teacher are cached."""

    k: int
    """Number of most probable tokens at each position."""
    temperature: float
    """Temperature of their log-probabilities."""
    masked: bool
    """Cache the distributions of masked tokens only, not of all tokens."""
    states: tuple[str, ...]
    """Names of layer outputs, such as hidden_12 or query_12."""
    layers: int
    """Number of layers of the teacher."""


def make_cached_teacher(spec: CacheSpec) -> Apply:
    """Make ``apply(params, batch)``, which returns a batch's cached teacher outputs.

    Outputs that are not cached are None; ``params`` are not used.
    """

    def apply(params: Params, batch: Batch) -> Outputs:
        cached: dict[str, Any] = dict(batch.targets)
        vocab = VocabTargets(
            cached["token_ids"].astype(jnp.int32), cached["log_probs"].astype(jnp.float32)
        )

        def layers(name: str, first: int) -> tuple[Any, ...]:
            return tuple(cached.get(f"{name}_{n}") for n in range(first, spec.layers + 1))

        attention = zip(*(layers(name, 1) for name in ("query", "key", "value")), strict=True)
        return Outputs(
            hidden=layers("hidden", 0),
            attention=tuple(Attention(*factors) for factors in attention),
            vocab=vocab,
        )

    return apply


def make_compute_outputs(
    apply: Apply, prepare: Callable[[Batch], Batch], spec: CacheSpec
) -> ComputeOutputs:
    """Make ``compute(params, batch)``, which masks a batch as training does and runs the teacher.

    It returns arrays [B, ...] by name, with ``example_id`` and ``epoch`` to identify the rows.
    """

    def compute(params: Params, batch: Batch) -> dict[str, jax.Array]:
        batch = prepare(batch)
        outputs = apply(params, batch)
        head = at_labels(outputs.vocab, batch) if spec.masked else outputs.vocab
        top = vocab_top(head, spec.k, spec.temperature)
        id_dtype = jnp.uint16 if head.kernel.shape[0] <= 65536 else jnp.uint32
        # float16 log-probabilities: large probabilities are exact to 1 part in 2,000, one of
        # e^-16 to 1 part in 100.
        arrays = {
            "token_ids": top.token_ids.astype(id_dtype),
            "log_probs": top.log_probs.astype(jnp.float16),
        }
        for state in spec.states:
            name, _, layer = state.partition("_")
            if name == "hidden":
                value = outputs.hidden[int(layer)]
            else:
                value = getattr(outputs.attention[int(layer) - 1], name)
            arrays[state] = value.astype(jnp.bfloat16)
        return arrays | {"example_id": batch.example_id, "epoch": batch.epoch}

    return compute


@dataclasses.dataclass(frozen=True)
class CachedOutputs:
    """A cache on the disk, addressed by global row indices of the order it was written in."""

    folder: Path

    def read(self, index: np.ndarray, columns: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Read the outputs of rows at consecutive indices.

        Raises UserError if the cached ``example_id`` or ``epoch`` differ from those of ``columns``.
        """
        numbers = index // ROWS_PER_PART
        parts = [
            {
                name: array[index[numbers == number] % ROWS_PER_PART]
                for name, array in _load_part(self.folder, int(number)).items()
            }
            for number in np.unique(numbers)
        ]
        arrays = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
        for name in ("example_id", "epoch"):
            if not np.array_equal(arrays.pop(name), columns[name]):
                raise UserError(
                    f"{self.folder} holds teacher outputs of other rows at index {int(index[0])}; "
                    "delete it and run the command again"
                )
        return arrays


def cache_outputs(
    directory: Path,
    settings: Mapping[str, Any],
    compute: ComputeOutputs,
    params: Params,
    blocks: tuple[Blocks, ...],
    order: Order,
    mesh: Any,
    *,
    needed: int,
    batch_size: int,
    report: Callable[[str], None],
) -> CachedOutputs:
    """Compute the outputs of rows 0 to ``needed`` that ``directory`` does not hold yet.

    The folder is named by a hash of ``settings``: everything that the outputs depend on. It
    consists of parts, which are complete or absent. Raises UserError before computing anything if
    the disk is too small.
    """
    settings = {"format": CACHE_FORMAT, "part": ROWS_PER_PART, **settings}
    fingerprint = hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:16]
    folder = directory / f"targets-{fingerprint}"
    numbers = range(-(-needed // ROWS_PER_PART))
    missing = [
        number
        for number in numbers
        if not gcs.download(folder / f"{number:06}", "token_ids.npy").is_dir()
    ]
    if not missing:
        report(f"reused {folder}: teacher outputs of {len(numbers) * ROWS_PER_PART:,} rows")
        return CachedOutputs(folder)

    def batch(first: int) -> Batch:
        return place_rows(rows(blocks, order, first + local_rows(batch_size, mesh)), mesh)

    batch_size = round_up(min(batch_size, ROWS_PER_PART), mesh)
    run = jit(compute, mesh)
    with jax.set_mesh(mesh):
        shapes = jax.eval_shape(compute, params, batch(0))
        row_bytes = sum(int(np.prod(s.shape[1:])) * s.dtype.itemsize for s in shapes.values())
        _check_disk(folder, len(missing) * ROWS_PER_PART, row_bytes, report)
        write_json(
            folder / f".{CACHE_MANIFEST}", {"settings": settings, "bytes_per_row": row_bytes}
        )
        os.replace(folder / f".{CACHE_MANIFEST}", folder / CACHE_MANIFEST)
        for number in missing:
            path = folder / f"{number:06}"
            if path.is_dir():  # written meanwhile by another run, with the same bytes
                continue
            gcs.remove(path)  # an incomplete upload
            for incomplete in folder.glob(f".{path.name}.*.tmp"):
                shutil.rmtree(incomplete, ignore_errors=True)
            starts = range(number * ROWS_PER_PART, (number + 1) * ROWS_PER_PART, batch_size)
            _write_part(path, shapes, (run(params, batch(first)) for first in starts))
    report(f"wrote {folder}")
    return CachedOutputs(folder)


def _check_disk(
    folder: Path, row_count: int, row_bytes: int, report: Callable[[str], None]
) -> None:
    """Create the folder and report its size; raise UserError if the disk is too small."""
    total = row_count * row_bytes
    folder.mkdir(parents=True, exist_ok=True)
    free = shutil.disk_usage(folder).free
    report(
        f"teacher outputs of {row_count:,} rows take {total / 2**30:.2f} GiB "
        f"({row_bytes:,} bytes per row)"
    )
    if total > free:
        raise UserError(
            f"{folder} needs {total / 2**30:.1f} GiB for the cached teacher outputs, but only "
            f"{free / 2**30:.1f} GiB are free; cache fewer tokens with --teacher.cache-top-k, "
            "or choose another --data-dir"
        )


def _write_part(
    path: Path, shapes: Mapping[str, Any], batches: Iterable[dict[str, jax.Array]]
) -> None:
    with atomic_directory(path) as folder, contextlib.ExitStack() as stack:
        files = {
            name: stack.enter_context(
                ArrayFile(folder / f"{name}.npy", shape.shape[1:], _numpy_dtype(shape.dtype))
            )
            for name, shape in shapes.items()
        }
        for arrays in batches:
            for name, values in jax.device_get(arrays).items():
                file = files[name]
                # The last batch may extend beyond the part.
                file.append(values[: ROWS_PER_PART - file.rows].view(file.dtype))


@functools.lru_cache(maxsize=8)
def _load_part(folder: Path, number: int) -> dict[str, np.ndarray]:
    path = folder / f"{number:06}"
    arrays = {}
    try:
        for file in path.glob("*.npy"):
            array = np.load(file, mmap_mode="r", allow_pickle=False).view(np.ndarray)
            arrays[file.stem] = array if file.stem in REQUIRED_ARRAYS else array.view(jnp.bfloat16)
        lengths = {len(array) for array in arrays.values()}
        if not set(arrays) >= REQUIRED_ARRAYS or lengths != {ROWS_PER_PART}:
            raise ValueError("rows are missing")
    except (OSError, ValueError, EOFError, TypeError, SyntaxError, tokenize.TokenError) as error:
        raise UserError(
            f"{path} is damaged ({error}); delete it and run the command again"
        ) from None
    return arrays


def _numpy_dtype(dtype: Any) -> np.dtype:
    """Return the dtype in the file; numpy has no bfloat16, so its bits are stored as uint16."""
    return np.dtype(np.uint16) if dtype == jnp.bfloat16 else np.dtype(dtype)
