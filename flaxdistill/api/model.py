"""A model to ask from Python: answers as `predict` gives them, states of tokens, vectors of texts."""

from __future__ import annotations

import functools
from collections.abc import Iterable
from pathlib import Path
from typing import Any, overload

import numpy as np

from flaxdistill.api import library_logging
from flaxdistill.data.sources import Example
from flaxdistill.experiment import workdir
from flaxdistill.hub import checkpoint
from flaxdistill.hub.families.base import count
from flaxdistill.hub.verify import write
from flaxdistill.inference.answers import Answer, examples_of
from flaxdistill.inference.predictor import Predict, States, make_predict, make_states
from flaxdistill.models.config import EncoderConfig
from flaxdistill.ops.dense import DType
from flaxdistill.pytrees import Params
from flaxdistill.runtime import compilation_cache, gcs_paths


def load(
    path_or_id: str | Path,
    *,
    length: int | None = None,
    batch_size: int = 32,
    dtype: DType = "float32",
    top: int = 5,
    unanswerable: bool = False,
    null_threshold: float = 0.0,
) -> Model:
    """Read a model, from the files of Hugging Face or the folder of a run, so that it can be asked.

    ``path_or_id`` is a directory, a Hub id (``user/name`` or ``user/name@revision``), a run's workdir or a ``gs://``
    address. Texts are cut to ``length`` tokens, by default 512 or what the model can read, and go through it ``batch_size``
    at a time in arithmetic of ``dtype``; "auto" is bfloat16 wherever the hardware multiplies it. ``top`` bounds the classes,
    spans and words of an answer; of a model for SQuAD 2 ``unanswerable`` lets it say that there is none, where the score of
    that is more than ``null_threshold`` above the best span's. Raises UserError for what is no model.
    """
    compilation_cache.keep()
    with library_logging.quiet():
        read = workdir.read_model(str(path_or_id))
    how: dict[str, Any] = {"length": length, "batch_size": batch_size, "dtype": dtype}
    told = {"top": top, "unanswerable": unanswerable, "null_threshold": null_threshold}
    return Model(read, how, told)


class Model:
    """A model that answers texts; `load` makes one. What is compiled at the first call serves all later ones."""

    def __init__(self, read: checkpoint.Model, how: dict[str, Any], told: dict[str, Any]):
        self._read, self._how, self._told = read, how, told

    def __repr__(self) -> str:
        c = self.config
        sizes = f"{self._read.family.model_type}, {c.num_layers} x {c.hidden_size}, {count(c):,} parameters"
        return f"Model({self._read.source!r}: {sizes}, head {c.head!r})"

    @property
    def config(self) -> EncoderConfig:
        """Sizes, head and labels, in this package's own words."""
        return self._read.config

    @property
    def params(self) -> Params:
        """The weights as a nested dict of numpy arrays, in the dtypes of the source; kernels are [in, out]."""
        return self._read.params

    @overload
    def __call__(self, texts: str, pair: str | None = None) -> Answer: ...  # type: ignore[overload-overlap] # a str is an Iterable of str, too

    @overload
    def __call__(
        self, texts: Iterable[str], pair: str | Iterable[str] | None = None
    ) -> list[Answer]: ...

    def __call__(
        self, texts: str | Iterable[str], pair: str | Iterable[str] | None = None
    ) -> Answer | list[Answer]:
        """Answer a text, or several in their order, with what the model's head is for.

        A class is ``{"label", "score", "scores"}``, a number ``{"score"}``, tags are ``{"entities"}`` or ``{"words"}``, a
        span of ``pair`` is ``{"answer", "start", "end", "score", "answers"}``, the words for each mask are ``{"masks"}``.
        AttentionScores but that of a number are probabilities, of spans among the n best; places count characters. ``pair`` is the
        second text of all, or of each. Raises UserError for what is no text, for a text without a mask where words are
        asked for, and for a model without a head.
        """
        told = [answer for _, answer in self._predict(_examples(texts, pair))]
        return told[0] if isinstance(texts, str) else told

    @overload
    def hidden(self, texts: str, pair: str | None = None) -> np.ndarray: ...  # type: ignore[overload-overlap] # a str is an Iterable of str, too

    @overload
    def hidden(
        self, texts: Iterable[str], pair: str | Iterable[str] | None = None
    ) -> list[np.ndarray]: ...

    def hidden(
        self, texts: str | Iterable[str], pair: str | Iterable[str] | None = None
    ) -> np.ndarray | list[np.ndarray]:
        """Give the last layer's states of a text, or of several: float32 [T, D] each, T its tokens with [CLS] and [SEP].

        Of a model with any head or none. Raises UserError for what is no text.
        """
        told = [states for _, states in self._states(_examples(texts, pair))]
        return told[0] if isinstance(texts, str) else told

    def encode(
        self, texts: str | Iterable[str], pair: str | Iterable[str] | None = None
    ) -> np.ndarray:
        """Give a vector for a text, or for each of several: float32 [D] or [N, D], the mean of the last layer's states.

        So Sentence-BERT pools (Reimers and Gurevych, 2019); lengths are left as they are. Raises UserError for what is no
        text.
        """
        told = [states.mean(0) for _, states in self._states(_examples(texts, pair))]
        vectors = np.stack(told) if told else np.zeros((0, self.config.hidden_size), np.float32)
        return vectors[0] if isinstance(texts, str) else vectors

    def save(self, out: str | Path) -> Path:
        """Write a Hugging Face directory with the tokenizer, read it back and compare; returns where it is.

        A run writes a card too: `Run.export`. Raises UserError if ``out`` holds anything.
        """
        path = gcs_paths.here(out)
        write(self._read, path)
        return path

    @functools.cached_property
    def _predict(self) -> Predict:
        return make_predict(self._read, **self._how, **self._told)

    @functools.cached_property
    def _states(self) -> States:
        return make_states(self._read, **self._how)


def _examples(texts: str | Iterable[str], pair: str | Iterable[str] | None) -> Iterable[Example]:
    return examples_of([texts] if isinstance(texts, str) else texts, pair)
