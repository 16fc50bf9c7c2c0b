"""Masked language modelling: which tokens are predicted, and what replaces them in the input.

Shapes: B rows, T tokens, K predicted positions, V tokens in the vocabulary.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence
from fractions import Fraction
from typing import Any, Literal, TypeVar

import jax
import jax.numpy as jnp
import numpy as np

from flaxdistill.data.labelled_rows import Row
from flaxdistill.data.readers.records import check_text
from flaxdistill.data.sources import Example
from flaxdistill.data.tokenizer import Vocabulary
from flaxdistill.errors import UserError
from flaxdistill.models.architecture import Architecture
from flaxdistill.models.head import AnswerOptions, Head, Request
from flaxdistill.ops.vocab import at_labels, vocab_top
from flaxdistill.pytrees import Batch, Feature, Outputs
from flaxdistill.tasks.base import Task

N = TypeVar("N", int, jax.Array)


class MaskedLMHead(Head):
    """Logits of the vocabulary at every token; only those that something reads are computed."""

    name = "masked-LM"
    feature = Feature.VOCAB
    transformers_class = "ForMaskedLM"
    pipeline = "fill-mask"
    example = '"The [MASK] of a text."'

    def module(self, architecture: Architecture, dtype: Any) -> Any:
        return architecture.vocab_module(dtype)

    def num_predictions(self, length: int) -> int:
        return length

    def transformers_outputs(self, outputs: Outputs) -> dict[str, jax.Array]:
        vocab = outputs.vocab
        logits = vocab.hidden @ vocab.kernel.astype(jnp.float32).T
        return {"logits": logits + vocab.bias.astype(jnp.float32)[None, None]}

    def predict(self, outputs: Outputs, batch: Batch, options: AnswerOptions) -> jax.Array:
        """Return the likeliest tokens at one position per row: [B, 1, top, 2]."""
        tokens = vocab_top(at_labels(outputs.vocab, batch), options.top, 1.0)
        return jnp.stack([tokens.token_ids, tokens.log_probs], -1)

    def requests(
        self,
        examples: Sequence[Example],
        vocabulary: Vocabulary,
        length: int,
        options: AnswerOptions,
    ) -> list[Request]:
        return [_fill(example, vocabulary, length) for example in examples]


@dataclasses.dataclass(frozen=True, kw_only=True)
class MLM(Task):
    """Masked language modelling with new masks in every epoch (Devlin et al., 2019).

    Masks are drawn inside the step (dynamic masking, Liu et al., 2019). Of a row's n real tokens,
    round(rate * n) are chosen without replacement, never special tokens. DistilBERT's own code is
    ``scope="batch", smoothing=0.7, random_specials=True``.
    """

    head = MaskedLMHead

    rate: float = 0.15
    """Fraction of the tokens that are chosen; 0 for none."""
    unchanged: float = 0.1
    """Fraction of the chosen tokens that stay as they are."""
    random: float = 0.1
    """Fraction of the chosen tokens that become a random token; the others become [MASK]."""
    smoothing: float = 0.0
    """A token is chosen with probability proportional to count ** -smoothing, by its occurrences
    in the training rows (XLM; DistilBERT used 0.7); 0 is uniform."""
    scope: Literal["row", "batch"] = "row"
    """Choose tokens in each row, or ceil(rate * n) of the whole batch's n tokens, where a row may
    get none."""
    random_specials: bool = False
    """Random tokens may be special tokens."""
    whole_words: bool = False
    """Choose whole words (later BERT models): words in random order, each whole, or not at all
    where it would exceed the row's number of tokens. Whether a token is masked, unchanged or
    random is still drawn per token."""

    def __post_init__(self):
        if not 0 <= self.rate < 1:
            raise UserError(
                f"task.rate is {self.rate}; the fraction of masked tokens must be at least 0 "
                "(none) and below 1, such as 0.15"
            )
        if not (self.unchanged >= 0 and self.random >= 0 and self.unchanged + self.random <= 1):
            raise UserError(
                f"task.unchanged {self.unchanged} and task.random {self.random} must be at least 0 "
                "and add up to at most 1"
            )
        if not 0 <= self.smoothing < math.inf:
            raise UserError(
                f"task.smoothing is {self.smoothing}; it must be 0 (uniform) or above, such as 0.7"
            )
        if self.whole_words and self.scope == "batch":
            raise UserError("task.whole_words chooses words in each row; set task.scope to row")

    @property
    def metric(self) -> str:
        return "mlm"

    @property
    def masks(self) -> bool:
        return self.rate > 0

    def uncacheable(self) -> str:
        if self.scope == "row":
            return ""
        return (
            "teacher.cache_top_k needs masks that depend on the row alone, and task.scope is "
            f"{self.scope}; use row, or set teacher.cache_top_k to 0"
        )

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
        """Make the function that masks a batch; it sets ``labels`` and ``label_positions`` [B, K].

        ``counts`` [V] are token occurrences, for smoothing; ``continues`` bool [V] marks the
        tokens that continue a word, for whole words. K is ceil(rate * T), or T if the scope is
        the batch, because a row may then hold any number of masks.
        """
        V = len(counts)
        special = np.zeros(V, bool)
        special[list(special_ids)] = True
        logits = -self.smoothing * np.log(np.maximum(counts, 1.0))
        logits = np.where(special, -np.inf, logits).astype(np.float32)
        replacements = np.arange(V) if self.random_specials else np.flatnonzero(~special)
        replacements = replacements.astype(np.int32)

        def prepare(batch: Batch) -> Batch:
            T = batch.input_ids.shape[1]
            keys = jax.vmap(lambda key: jax.random.split(key, 3))(batch.prng_keys(seed))
            gumbel = jax.vmap(lambda key: jax.random.gumbel(key, (T,)))(keys[:, 0])
            real = batch.real() > 0
            # Gumbel top-k: the highest scores are a sample without replacement.
            score = jnp.where(real, jnp.asarray(logits)[batch.input_ids] + gumbel, -jnp.inf)
            if self.whole_words:
                # In a row that starts inside a word, the rest of that word counts as a word.
                is_special = jnp.asarray(special)[batch.input_ids]
                after_special = jnp.pad(is_special, ((0, 0), (1, 0)))[:, :T]
                inner = jnp.asarray(continues)[batch.input_ids] & ~is_special
                chosen, positions = self._choose_words(score, real, inner & ~after_special & real)
            else:
                chosen, positions = self._choose(score, real)
            original = jnp.take_along_axis(batch.input_ids, positions, 1)
            labels = jnp.where(chosen, original, -1)
            draw = jax.vmap(lambda key: jax.random.uniform(key, (T,)))(keys[:, 1])
            index = jax.vmap(lambda key: jax.random.randint(key, (T,), 0, len(replacements)))(
                keys[:, 2]
            )
            ids = jnp.where(
                draw < 1 - self.unchanged, jnp.asarray(replacements)[index], batch.input_ids
            )
            ids = jnp.where(draw < 1 - self.unchanged - self.random, mask_id, ids)
            is_chosen = jax.vmap(lambda p, c: jnp.zeros(T, bool).at[p].max(c))(positions, chosen)
            return dataclasses.replace(
                batch,
                input_ids=jnp.where(is_chosen, ids, batch.input_ids),
                labels=labels,
                label_positions=positions,
            )

        return prepare

    def _choose(self, score: jax.Array, real: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Choose the highest scores: (whether an entry is chosen, its position), both [B, K]."""
        B, T = score.shape
        if self.scope == "row":
            number = scaled_count(self.rate, jnp.sum(real, 1), up=False)
            top, positions = jax.lax.top_k(score, scaled_count(self.rate, T, up=True))
            chosen = (jnp.arange(top.shape[1])[None] < number[:, None]) & (top > -jnp.inf)
            return chosen, positions.astype(jnp.int32)
        number = scaled_count(self.rate, jnp.sum(real), up=True)
        top, _ = jax.lax.top_k(score.reshape(-1), scaled_count(self.rate, B * T, up=True))
        lowest = top[jnp.maximum(number, 1) - 1]
        positions = jnp.broadcast_to(jnp.arange(T, dtype=jnp.int32), (B, T))
        return (score >= lowest) & (score > -jnp.inf), positions

    def _choose_words(
        self, score: jax.Array, real: jax.Array, inner: jax.Array
    ) -> tuple[jax.Array, jax.Array]:
        """Choose whole words by the scores of their first tokens; ``inner`` marks other tokens.

        Returns what ``_choose`` returns, with at most round(rate * n) tokens in each row.
        """
        B, T = score.shape
        first = jax.lax.cummax(jnp.where(inner, 0, jnp.arange(T)[None]), axis=1)
        score = jnp.take_along_axis(score, first, 1)
        order = jnp.argsort(-score, axis=1, stable=True)  # keeps the tokens of a word together
        size = jnp.zeros((B, T), jnp.int32).at[jnp.arange(B)[:, None], first].add(1)
        number = scaled_count(self.rate, jnp.sum(real, 1), up=False)

        def add_word(used, word):  # sequential: whether a word fits depends on those before
            n, possible = word
            fits = possible & (used + n <= number)
            return jnp.where(fits, used + n, used), fits

        sizes = jnp.take_along_axis(jnp.where(inner, 0, size), order, 1)
        possible = (sizes > 0) & (jnp.take_along_axis(score, order, 1) > -jnp.inf)
        _, fits = jax.lax.scan(add_word, jnp.zeros_like(number), (sizes.T, possible.T), unroll=8)
        chosen = jnp.zeros((B, T), bool).at[jnp.arange(B)[:, None], order].set(fits.T)
        chosen = jnp.take_along_axis(chosen, first, 1)
        K = scaled_count(self.rate, T, up=True)
        positions = jnp.argsort(~chosen, axis=1, stable=True)[:, :K]
        return jnp.take_along_axis(chosen, positions, 1), positions.astype(jnp.int32)


def scaled_count(rate: float, n: N, *, up: bool) -> N:
    """Compute rate * n in integers, rounded up, or to the nearest integer with halves up.

    In float32, 0.15 * 100 is slightly more than 15, and its ceiling is 16.
    """
    fraction = Fraction(rate).limit_denominator(10_000)
    p, q = fraction.numerator, fraction.denominator
    quotient, remainder = n // q, n % q  # separate, so that no product exceeds int32
    rounded = -(-remainder * p // q) if up else (2 * remainder * p + q) // (2 * q)
    return quotient * p + rounded


def _fill(example: Example, vocabulary: Vocabulary, length: int) -> Request:
    """Predict the token at every mask, with one row per mask.

    If the text is longer than a row, the row holds the tokens around its mask.
    """
    check_text(example.text, example.place)
    mask = vocabulary.tokenizer.id_to_token(vocabulary.mask)
    parts = example.text.split(mask)
    if len(parts) < 2:
        raise UserError(
            f"{example.place}: there is no {mask} in {example.text!r:.60}; write it in place of "
            "the word to predict"
        )
    ids: list[int] = []
    masks = []
    for n, part in enumerate(vocabulary.encode(parts)):
        if n:
            masks.append(len(ids))
            ids.append(vocabulary.mask)
        ids += part.tolist()
    rows = []
    for position in masks:
        first = max(0, min(position - (length - 2) // 2, len(ids) - (length - 2)))
        window = ids[first : first + length - 2]
        tokens = np.array([vocabulary.cls, *window, vocabulary.sep], np.int32)
        label_positions = np.array([position - first + 1], np.int32)
        rows.append(Row(tokens, 0, np.array([-1], np.int32), {"label_positions": label_positions}))

    def postprocess(predictions: list[np.ndarray]) -> dict[str, Any]:
        """Convert the likeliest tokens of each mask, (token id, log probability) [1, top, 2]."""
        return {
            "masks": [
                [
                    {
                        "word": vocabulary.tokenizer.id_to_token(int(token_id)),
                        "score": float(np.exp(log_probability)),
                    }
                    for token_id, log_probability in tokens
                ]
                for (tokens,) in predictions
            ]
        }

    return Request(rows, postprocess)
