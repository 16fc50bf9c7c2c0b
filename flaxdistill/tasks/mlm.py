"""Masked language modelling: which tokens are hidden, and what stands in their place.

Shapes: B rows, T tokens, K masked, V words.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from fractions import Fraction
from typing import Literal, TypeVar

import jax
import jax.numpy as jnp
import numpy as np

from flaxdistill.data.tokenizer import Vocabulary
from flaxdistill.errors import UserError
from flaxdistill.pytrees import Batch
from flaxdistill.tasks.base import Task

N = TypeVar("N", int, jax.Array)


@dataclasses.dataclass(frozen=True, kw_only=True)
class MLM(Task):
    """Draw masks anew for every pass over a row, inside the step (Devlin et al., 2019; dynamic as in Liu et al., 2019).

    Of a row's n real tokens, round(rate * n) are chosen without replacement, special tokens never; ``keep`` and
    ``random`` of them stay or turn into another word, the rest become [MASK]. ``smoothing`` s chooses a token with
    probability proportional to count^-s (XLM; DistilBERT used 0.7, this package's default is uniform, 0).

    ``whole_words`` chooses words and not tokens (BERT's later models): words in random order, each whole or, where it would
    exceed the row's budget, not at all. What of a chosen word stays or is replaced is still drawn for each token.

    DistilBERT's own code is ``scope="batch", smoothing=0.7, random_specials=True``: ceil(rate * n) of the whole
    batch's tokens, so that a row may get none, and random words that may be special tokens.
    """

    head = "mlm"
    rate: float = 0.15
    keep: float = 0.1
    random: float = 0.1
    smoothing: float = 0.0
    scope: Literal["row", "batch"] = "row"
    random_specials: bool = False
    whole_words: bool = False

    def __post_init__(self):
        if not 0 <= self.rate < 1:
            raise UserError(
                f"task.rate is {self.rate}; the share of masked tokens is at least 0 (none) and below 1, such as 0.15"
            )
        if not (self.keep >= 0 and self.random >= 0 and self.keep + self.random <= 1):
            raise UserError(
                f"task.keep {self.keep} and task.random {self.random} must be shares that add up to 1 at most"
            )
        if not 0 <= self.smoothing < math.inf:
            raise UserError(
                f"task.smoothing is {self.smoothing}; it must be 0 (uniform) or above, such as 0.7"
            )
        if self.whole_words and self.scope == "batch":
            raise UserError("task.whole_words has a budget for each row; set task.scope to row")

    @property
    def metric(self) -> str:
        return "mlm"

    def make_prepare(
        self, vocabulary: Vocabulary, counts: Callable[[], np.ndarray], seed: int
    ) -> Callable[[Batch], Batch]:
        return self.make_masks(
            mask_id=vocabulary.mask,
            special_ids=vocabulary.special_ids,
            counts=counts(),
            seed=seed,
            continues=vocabulary.continues() if self.whole_words else None,
        )

    def make_masks(
        self,
        *,
        mask_id: int,
        special_ids: tuple[int, ...],
        counts: np.ndarray,
        seed: int,
        continues: np.ndarray | None = None,
    ) -> Callable[[Batch], Batch]:
        """Make the pure function that masks a batch and fills ``labels`` and ``label_positions`` int32 [B, K].

        ``counts`` [V] are the words' occurrences in the training text, read where smoothing asks for them; ``continues``
        bool [V] marks the tokens that go on with a word, read for whole words. K is ceil(rate * T), or T where the scope
        is the batch, because one row may then hold any number of masks.
        """
        V = len(counts)
        special = np.zeros(V, bool)
        special[list(special_ids)] = True
        logits = -self.smoothing * np.log(np.maximum(counts, 1.0))
        logits = np.where(special, -np.inf, logits).astype(np.float32)
        words = np.arange(V) if self.random_specials else np.flatnonzero(~special)
        words = words.astype(np.int32)

        def prepare(batch: Batch) -> Batch:
            T = batch.input_ids.shape[1]
            keys = jax.vmap(lambda key: jax.random.split(key, 3))(batch.prng_keys(seed))
            gumbel = jax.vmap(lambda key: jax.random.gumbel(key, (T,)))(keys[:, 0])
            real = batch.real() > 0
            score = jnp.where(real, jnp.asarray(logits)[batch.input_ids] + gumbel, -jnp.inf)
            if self.whole_words:
                # A text that was cut inside a word begins with the rest of it, which is then a word.
                own = jnp.asarray(special)[batch.input_ids]
                after_special = jnp.pad(own, ((0, 0), (1, 0)))[:, :T]
                goes_on = jnp.asarray(continues)[batch.input_ids] & ~own & ~after_special & real
                chosen, positions = self._choose_words(score, real, goes_on)
            else:
                chosen, positions = self._choose(score, real)
            original = jnp.take_along_axis(batch.input_ids, positions, 1)
            labels = jnp.where(chosen, original, -1)
            fate = jax.vmap(lambda key: jax.random.uniform(key, (T,)))(keys[:, 1])
            other = jax.vmap(lambda key: jax.random.randint(key, (T,), 0, len(words)))(keys[:, 2])
            swapped = jnp.where(fate < 1 - self.keep, jnp.asarray(words)[other], batch.input_ids)
            swapped = jnp.where(fate < 1 - self.keep - self.random, mask_id, swapped)
            hide = jax.vmap(lambda p, c: jnp.zeros(T, bool).at[p].max(c))(positions, chosen)
            return dataclasses.replace(
                batch,
                input_ids=jnp.where(hide, swapped, batch.input_ids),
                labels=labels,
                label_positions=positions,
            )

        return prepare

    def _choose(self, score: jax.Array, real: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Pick the highest scores: (whether an entry is chosen, its position), both [B, K]."""
        B, T = score.shape
        if self.scope == "row":
            wanted = portion(self.rate, jnp.sum(real, 1), up=False)
            top, positions = jax.lax.top_k(score, portion(self.rate, T, up=True))
            return (jnp.arange(top.shape[1])[None] < wanted[:, None]) & (
                top > -jnp.inf
            ), positions.astype(jnp.int32)
        wanted = portion(self.rate, jnp.sum(real), up=True)
        top, _ = jax.lax.top_k(score.reshape(-1), portion(self.rate, B * T, up=True))
        least = top[jnp.maximum(wanted, 1) - 1]
        positions = jnp.broadcast_to(jnp.arange(T, dtype=jnp.int32), (B, T))
        return (score >= least) & (score > -jnp.inf), positions

    def _choose_words(
        self, score: jax.Array, real: jax.Array, goes_on: jax.Array
    ) -> tuple[jax.Array, jax.Array]:
        """Pick whole words by the scores of their first tokens: as ``_choose``, no row above its budget."""
        B, T = score.shape
        first = jax.lax.cummax(jnp.where(goes_on, 0, jnp.arange(T)[None]), axis=1)
        score = jnp.take_along_axis(score, first, 1)
        order = jnp.argsort(-score, axis=1, stable=True)  # a word's tokens stay beside each other
        size = jnp.zeros((B, T), jnp.int32).at[jnp.arange(B)[:, None], first].add(1)
        wanted = portion(self.rate, jnp.sum(real, 1), up=False)

        def turn(used, token):  # the budget is spent in order: who fits depends on who did
            n, possible = token
            fits = possible & (used + n <= wanted)
            return jnp.where(fits, used + n, used), fits

        heads = jnp.take_along_axis(jnp.where(goes_on, 0, size), order, 1)
        possible = (heads > 0) & (jnp.take_along_axis(score, order, 1) > -jnp.inf)
        _, fits = jax.lax.scan(turn, jnp.zeros_like(wanted), (heads.T, possible.T), unroll=8)
        taken = jnp.zeros((B, T), bool).at[jnp.arange(B)[:, None], order].set(fits.T)
        taken = jnp.take_along_axis(taken, first, 1)
        positions = jnp.argsort(~taken, axis=1, stable=True)[:, : portion(self.rate, T, up=True)]
        return jnp.take_along_axis(taken, positions, 1), positions.astype(jnp.int32)


def portion(rate: float, n: N, *, up: bool) -> N:
    """Compute rate x n, rounded up or to the nearest (halves up), in whole numbers.

    In float32 0.15 of 100 is a little more than 15, and its ceiling is 16.
    """
    share = Fraction(rate).limit_denominator(10_000)
    p, q = share.numerator, share.denominator
    whole, rest = n // q, n % q  # apart, so that no product leaves int32
    return whole * p + (-(-rest * p // q) if up else (2 * rest * p + q) // (2 * q))
