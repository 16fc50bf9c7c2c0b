"""A model for inference in Python: predictions, hidden states and text embeddings."""

from __future__ import annotations

import functools
from collections.abc import Iterable
from pathlib import Path
from typing import Any, overload

import numpy as np

from flaxdistill.api import library_logging
from flaxdistill.data.sources import Example
from flaxdistill.experiment import run_models
from flaxdistill.hub.checkpoint import Checkpoint
from flaxdistill.hub.verify import write_verified
from flaxdistill.inference.examples import make_examples
from flaxdistill.inference.predictor import Answer, Predict, States, make_predict, make_states
from flaxdistill.models.architecture import Architecture, count_parameters
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
    """Load a model for inference, from Hugging Face files or a run.

    Args:
        path_or_id: a directory, a Hub id (``user/name`` or ``user/name@revision``), a run's workdir
            or a ``gs://`` address.
        length: tokens per text; longer texts are truncated. By default 512 or the model's maximum.
        batch_size: texts per batch.
        dtype: dtype of the computation; "auto" is bfloat16 where the hardware multiplies it.
        top: number of classes, spans and words in an answer.
        unanswerable: allow no answer, for a model trained on SQuAD 2.
        null_threshold: no answer is given if its score exceeds the best span's by more than this.

    Raises UserError if there is no model.
    """
    compilation_cache.enable()
    with library_logging.silenced():
        checkpoint = run_models.read_model(str(path_or_id))
    input_options: dict[str, Any] = {"length": length, "batch_size": batch_size, "dtype": dtype}
    answer_options = {"top": top, "unanswerable": unanswerable, "null_threshold": null_threshold}
    return Model(checkpoint, input_options, answer_options)


class Model:
    """A model for inference, made by `load`. It compiles at the first call."""

    def __init__(
        self, checkpoint: Checkpoint, input_options: dict[str, Any], answer_options: dict[str, Any]
    ):
        self._checkpoint = checkpoint
        self._input_options, self._answer_options = input_options, answer_options

    def __repr__(self) -> str:
        c = self.config
        family = self._checkpoint.family
        kind = family.model_type if family else type(c).__name__
        sizes = f"{kind}, {c.num_layers} x {c.hidden_size}, {count_parameters(c):,} parameters"
        return f"Model({self._checkpoint.source!r}: {sizes}, head {c.head.name!r})"

    @property
    def config(self) -> Architecture:
        """Sizes, head and labels."""
        return self._checkpoint.config

    @property
    def params(self) -> Params:
        """The weights as a nested dict of numpy arrays, in stored dtypes; kernels are [in, out]."""
        return self._checkpoint.params

    # The first overloads overlap with the second ones, since a str is an Iterable of str.
    @overload
    def __call__(self, texts: str, pair: str | None = None) -> Answer: ...  # type: ignore[overload-overlap]

    @overload
    def __call__(
        self, texts: Iterable[str], pair: str | Iterable[str] | None = None
    ) -> list[Answer]: ...

    def __call__(
        self, texts: str | Iterable[str], pair: str | Iterable[str] | None = None
    ) -> Answer | list[Answer]:
        """Predict for one text, or for several in their order.

        The answer depends on the head: a class is ``{"label", "score", "scores"}``, a number
        ``{"score"}``, tags are ``{"entities"}`` or ``{"words"}``, a span of ``pair`` is
        ``{"answer", "start", "end", "score", "answers"}``, words for each mask are
        ``{"masks"}``. Scores are probabilities, except that of a number; those of spans are
        normalized over the ``top`` best.
        ``start`` and ``end`` count characters. ``pair`` is the second text of all texts, or one per
        text.

        Raises UserError for anything but text, for a masked LM if a text has no mask, and for a
        model without a head.
        """
        answers = [answer for _, answer in self._predict(_examples(texts, pair))]
        return answers[0] if isinstance(texts, str) else answers

    @overload
    def hidden(self, texts: str, pair: str | None = None) -> np.ndarray: ...  # type: ignore[overload-overlap]

    @overload
    def hidden(
        self, texts: Iterable[str], pair: str | Iterable[str] | None = None
    ) -> list[np.ndarray]: ...

    def hidden(
        self, texts: str | Iterable[str], pair: str | Iterable[str] | None = None
    ) -> np.ndarray | list[np.ndarray]:
        """Return the last hidden states of one text or of several: float32 [T, D] each.

        T counts the tokens with [CLS] and [SEP]. Works for a model with any head or none. Raises
        UserError for anything but text.
        """
        states = [states for _, states in self._states(_examples(texts, pair))]
        return states[0] if isinstance(texts, str) else states

    def encode(
        self, texts: str | Iterable[str], pair: str | Iterable[str] | None = None
    ) -> np.ndarray:
        """Return text embeddings, float32 [D] or [N, D]: the mean of the last hidden states.

        This is the mean pooling of Sentence-BERT (Reimers and Gurevych, 2019); vectors are not
        normalized. Raises UserError for anything but text.
        """
        vectors = [states.mean(0) for _, states in self._states(_examples(texts, pair))]
        if isinstance(texts, str):
            return vectors[0]
        empty = np.zeros((0, self.config.hidden_size), np.float32)
        return np.stack(vectors) if vectors else empty

    def save(self, out: str | Path) -> Path:
        """Write a Hugging Face directory with the tokenizer, verify it and return its path.

        Writes no model card; `Run.export` does. Raises UserError if ``out`` is not empty.
        """
        path = gcs_paths.local_path(out)
        write_verified(self._checkpoint, path)
        return path

    @functools.cached_property
    def _predict(self) -> Predict:
        return make_predict(self._checkpoint, **self._input_options, **self._answer_options)

    @functools.cached_property
    def _states(self) -> States:
        return make_states(self._checkpoint, **self._input_options)


def _examples(texts: str | Iterable[str], pair: str | Iterable[str] | None) -> Iterable[Example]:
    return make_examples([texts] if isinstance(texts, str) else texts, pair)
