"""From global indices to rows: the block of each index, and the arrays of a batch."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

from flaxdistill.errors import UserError

if TYPE_CHECKING:
    from flaxdistill.data.store import Blocks

# Odd constants of splitmix64 and murmur3; one pair per round of the permutation.
_ROUNDS = tuple(
    (np.uint64(first), np.uint64(second))
    for first, second in (
        (0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9),
        (0x94D049BB133111EB, 0xFF51AFD7ED558CCD),
        (0xC4CEB9FE1A85EC53, 0x9E3779B97F4A7C15),
        (0xBF58476D1CE4E5B9, 0x94D049BB133111EB),
    )
)
_HALF = np.uint64(32)


@dataclass(frozen=True)
class Order:
    """The block at each global index: a pure function of sizes, weights and seed.

    An epoch takes ``round(weight * size)`` blocks of each source (at least one) and shuffles them
    anew. Within a source every block occurs exactly once per pass, whatever the weight. Without
    ``shuffle`` there is one source, and its blocks come in stored order.
    """

    sizes: tuple[int, ...]
    """Number of blocks of each source."""
    weights: tuple[float, ...]
    """Passes over each source per epoch."""
    seed: int
    shuffle: bool = True

    def __post_init__(self) -> None:
        if len(self.sizes) != len(self.weights) or not self.sizes:
            raise UserError(
                f"there are {len(self.sizes)} sources and {len(self.weights)} weights: "
                "give each source one weight"
            )
        for number, (size, weight) in enumerate(zip(self.sizes, self.weights, strict=True)):
            if size < 1:
                raise UserError(
                    f"source {number} has {size} blocks, but at least 1 is needed: add text to it"
                )
            if not (weight > 0 and math.isfinite(weight)):
                raise UserError(
                    f"source {number} has weight {weight}, but a weight is a finite number above "
                    "0: remove a source to skip it"
                )
        if not self.shuffle and len(self.sizes) > 1:
            raise UserError(
                f"{len(self.sizes)} sources cannot be read unshuffled: read one source at a time"
            )

    @property
    def epoch_length(self) -> int:
        """Number of rows per epoch."""
        return int(self._ends[-1])

    def __call__(self, index: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Map global indices [n] (int64, >= 0) to source, block and pass: int64 [n] each.

        The block is numbered within its source, and passes over a source are counted from 0.
        """
        index = np.asarray(index, np.int64)
        if not self.shuffle:
            passes, block = np.divmod(index, self.sizes[0])
            return np.zeros_like(index), block, passes
        epoch, slot = np.divmod(index, self.epoch_length)
        slot = permute(slot, self._ends[-1], _mix(self._streams[-1] + epoch.astype(np.uint64)))
        source = np.searchsorted(self._ends, slot, side="right")
        size, draws = self._sizes[source], self._draws[source]
        slot -= self._ends[source]
        passes, draw = np.divmod((epoch + 1) * draws + slot, size)
        return (
            source,
            permute(draw, size, _mix(self._streams[source] + passes.astype(np.uint64))),
            passes,
        )

    @cached_property
    def _sizes(self) -> np.ndarray:
        return np.array(self.sizes, np.int64)

    @cached_property
    def _draws(self) -> np.ndarray:
        """Blocks of each source per epoch."""
        return np.array(
            [max(1, round(w * s)) for s, w in zip(self.sizes, self.weights, strict=True)], np.int64
        )

    @cached_property
    def _ends(self) -> np.ndarray:
        return np.cumsum(self._draws)

    @cached_property
    def _streams(self) -> np.ndarray:
        """First key of each source's passes, and then of the epochs: uint64 [sources + 1]."""
        seed = _mix(np.array([self.seed % 2**64], np.uint64))
        return _mix(seed + np.append(np.arange(len(self.sizes)), 2**32).astype(np.uint64))


def permute(index: np.ndarray, size: np.ndarray | np.int64, key: np.ndarray) -> np.ndarray:
    """Apply the pseudorandom permutation of 0 .. size - 1 that ``key`` selects to each index.

    For one size and one key this is a bijection, computed without memory.
    index [n] int64, 0 <= index < size; size [n] or one int64; key [n] uint64. Returns [n] int64.
    """
    # A Feistel network on pairs (high, low) below (tall, wide), where tall * wide is slightly more
    # than size: a result outside is rare, and applying the network again ends inside (cycle
    # walking). Implemented here because a saved index must mean the same row under every version
    # of a library, and because grain's index_shuffle takes one index per call: 8 us each, where a
    # row may cost 10 us in total.
    wide = np.ceil(np.sqrt(size)).astype(np.int64)
    sides = (-(-size // wide)).astype(np.uint64), wide.astype(np.uint64)
    out = _feistel(index, *sides, key)
    while (outside := out >= size).any():
        arguments = (np.broadcast_to(values, out.shape)[outside] for values in (*sides, key))
        out[outside] = _feistel(out[outside], *arguments)
    return out


def _feistel(index: np.ndarray, tall: np.ndarray, wide: np.ndarray, key: np.ndarray) -> np.ndarray:
    high, low = np.divmod(index.astype(np.uint64), wide)
    for number, (first, second) in enumerate(_ROUNDS):
        mixed = ((low if number % 2 else high) + key) * first
        mixed ^= mixed >> _HALF
        mixed *= second
        mixed >>= _HALF
        if number % 2:
            high = (high + mixed) % tall
        else:
            low = (low + mixed) % wide
    return (high * wide + low).astype(np.int64)


def _mix(values: np.ndarray) -> np.ndarray:
    """Apply the finalizer of splitmix64, a bijection: uint64 [n] to uint64 [n]."""
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))


def rows(
    blocks: tuple[Blocks, ...],
    order: Order,
    index: np.ndarray,
    limit: int | None = None,
    length: int = 0,
) -> dict[str, np.ndarray]:
    """Build the rows at global indices as numpy arrays, ready to be placed on devices.

    ``blocks`` are the order's sources. A negative index repeats the row at ``~index`` with weight
    0, and rows at ``limit`` and beyond have weight 0 too: both pad a batch. ``length`` truncates
    rows to their first tokens, where the rest is known to be padding.

    Returns ``input_ids segment_ids positions token_type_ids`` int32 [n, T] (positions restart in
    each segment and are 0 on padding), ``labels`` [n, K] int32 or float32 (K is 0 without labels),
    ``weight`` float32 [n], ``example_id`` int32 [n] (unique in the store), ``epoch`` int32 [n]
    (the pass over the row's source) and, if the blocks have them, ``label_positions`` int32 [n, K].
    """
    index = np.asarray(index, np.int64)
    real = (index >= 0) & (index < (np.iinfo(np.int64).max if limit is None else limit))
    source, block, passes = order(np.where(index < 0, ~index, index))
    example_id = np.array([b.first_id for b in blocks], np.int64)[source] + block
    if len(index) and example_id.max() > np.iinfo(np.int32).max:
        raise UserError(
            f"block {example_id.max()} does not fit into an int32 example_id (at most "
            f"{np.iinfo(np.int32).max}): split the corpus into several stores"
        )
    ids = _gather([b.ids for b in blocks], source, block)
    segments = _gather([b.segments for b in blocks], source, block)
    if length:
        ids, segments = ids[:, :length], segments[:, :length]
    positions, types = _positions(segments), np.zeros(ids.shape, np.int32)
    labels = np.zeros((len(index), 0), np.int32)
    if blocks[0].columns:
        labels = _gather([b.columns["labels"] for b in blocks], source, block)
        if length and labels.shape[1] == blocks[0].ids.shape[1]:  # one label per token
            labels = labels[:, :length]
        labels = labels.astype(np.float32 if labels.dtype.kind == "f" else np.int32)
        second = _gather([b.columns["second"] for b in blocks], source, block)
        second = second.astype(np.int32)[:, None]
        types[(segments > 0) & (second > 0) & (positions >= second)] = 1
    columns = {}
    if "label_positions" in blocks[0].columns:
        label_positions = [b.columns["label_positions"] for b in blocks]
        columns["label_positions"] = _gather(label_positions, source, block).astype(np.int32)
    return columns | {
        "input_ids": ids.astype(np.int32),
        "segment_ids": segments.astype(np.int32),
        "positions": positions,
        "token_type_ids": types,
        "labels": labels,
        "weight": real.astype(np.float32),
        "example_id": example_id.astype(np.int32),
        "epoch": passes.astype(np.int32),
    }


def _gather(arrays: list[np.ndarray], source: np.ndarray, block: np.ndarray) -> np.ndarray:
    """Return row ``block[i]`` of array ``source[i]`` for every i."""
    if len(arrays) == 1:
        return arrays[0].take(block, axis=0)
    out = np.empty((len(block), *arrays[0].shape[1:]), arrays[0].dtype)
    for number, array in enumerate(arrays):
        rows = np.flatnonzero(source == number)
        out[rows] = array.take(block[rows], axis=0)
    return out


def _positions(segments: np.ndarray) -> np.ndarray:
    """Return the distance to the start of the segment, 0 on padding: int32 [n, T]."""
    flat = segments.reshape(-1)
    starts = np.empty(len(flat), bool)
    np.not_equal(flat[1:], flat[:-1], out=starts[1:])
    starts[:: segments.shape[1]] = True
    first = np.append(np.flatnonzero(starts), len(flat))
    positions = np.arange(len(flat), dtype=np.int32)
    positions -= np.repeat(first[:-1].astype(np.int32), first[1:] - first[:-1])
    positions *= flat > 0
    return positions.reshape(segments.shape)
