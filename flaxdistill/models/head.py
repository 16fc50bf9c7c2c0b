"""The contract of a head: what a model predicts, and how predictions become answers."""

from __future__ import annotations

import abc
import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, ClassVar, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from flaxdistill.data.labelled_rows import Row
from flaxdistill.data.sources import Example
from flaxdistill.data.tokenizer import Vocabulary
from flaxdistill.errors import UserError
from flaxdistill.ops.dense import dense
from flaxdistill.pytrees import Batch, Feature, Outputs, Params

PADDING_LOGIT = -1e4
"""The logit of padding in a span head: its probability is 0 in float32 at any usual temperature,
and it is far from overflow."""


class HeadInputs(NamedTuple):
    """What an architecture gives its head."""

    outputs: Outputs
    """The outputs below the head."""
    segment_ids: jax.Array
    """int32 [B, T]; 0 for padding."""
    word_embedding: jax.Array
    """[V, D], for a head that is tied to it."""
    dropout: Callable[[jax.Array], jax.Array]
    """The dropout before the head."""


class AnswerOptions(NamedTuple):
    """What a user can choose about answers."""

    top: int = 5
    """The most classes, spans or tokens of an answer."""
    unanswerable: bool = False
    """Whether a question may have no answer (SQuAD 2)."""
    null_threshold: float = 0.0
    """There is no answer if its score exceeds that of the best span by more than this."""


class Request(NamedTuple):
    """One text, ready for the model."""

    rows: list[Row]
    """Its tokens, as one or more rows."""
    postprocess: Callable[[list[np.ndarray]], Any]
    """Convert the predictions of each row, as ``Head.predict`` returns them, to the answer."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Head(abc.ABC):
    """What a model predicts. A subclass is a frozen dataclass, in the file of its task."""

    labels: tuple[str, ...] = ()
    """The names of the classes in order; a single one means regression. () without classes."""

    name: ClassVar[str]
    """The name of the head in messages."""
    feature: ClassVar[Feature]
    """The output that the head adds."""
    transformers_class: ClassVar[str] = ""
    """The end of the class name in transformers, such as ForMaskedLM; "" if it has none."""
    pipeline: ClassVar[str | None] = None
    """The pipeline of transformers that runs the model."""
    example: ClassVar[str] = '"A text."'
    """An input for ``flaxdistill predict``, as a shell reads it."""
    per_token: ClassVar[bool] = False
    """Whether there is one prediction per token, so that labels are padded as tokens are."""
    pools: ClassVar[bool] = False
    """Whether the head reads the pooled output."""
    has_labels: ClassVar[bool] = False
    """Whether the head has classes, which need names."""

    def __post_init__(self) -> None:
        if self.has_labels != bool(self.labels):
            raise UserError(
                f"a {self.name} head has {len(self.labels)} labels; it needs "
                f"{'the names of its classes' if self.has_labels else 'none'}"
            )

    @abc.abstractmethod
    def module(self, architecture: Any, dtype: Any) -> nn.Module | None:
        """Return the module of the head, whose ``__call__(HeadInputs)`` returns all Outputs.

        Args:
          architecture: The ``Architecture`` below the head.
          dtype: The dtype of its operands.
        """

    @abc.abstractmethod
    def num_predictions(self, length: int) -> int:
        """Return the number N of predictions for a row of ``length`` tokens."""

    @abc.abstractmethod
    def transformers_outputs(self, outputs: Outputs) -> dict[str, jax.Array]:
        """Return the outputs of the same model in transformers, by name."""

    def transformers_fields(self) -> dict[str, Any]:
        """Return what the head adds to config.json besides its class and its labels."""
        return {}

    def predict(self, outputs: Outputs, batch: Batch, options: AnswerOptions) -> jax.Array:
        """Return what answers are made from, float32 [B, N, C]. Raises UserError without logits."""
        return self.predictions(outputs)

    @staticmethod
    def predictions(outputs: Outputs) -> jax.Array:
        """Return the logits [B, N, C]; raises UserError if there are none."""
        if outputs.logits is None:
            raise UserError(
                "the model has no task head to predict with; train one on the task first"
            )
        return outputs.logits

    def requests(
        self,
        examples: Sequence[Example],
        vocabulary: Vocabulary,
        length: int,
        options: AnswerOptions,
    ) -> list[Request]:
        """Return one request per example. Raises UserError for an example it cannot read."""
        raise UserError(
            "the model has no head to predict with; give a masked-LM, or a model trained on a task"
        )

    def reorder(self, params: Params, labels: tuple[str, ...]) -> Params:
        """Return the parameters of a model whose classes are in the order of ``labels``."""
        raise UserError(f"a {self.name} head has no classes to reorder")


class NoHead(Head):
    """No head: the model returns hidden states."""

    name = "none"
    feature = Feature.HIDDEN
    transformers_class = "Model"
    pipeline = "feature-extraction"

    def module(self, architecture: Any, dtype: Any) -> None:
        return None

    def num_predictions(self, length: int) -> int:
        return 0

    def transformers_outputs(self, outputs: Outputs) -> dict[str, jax.Array]:
        pooled = {} if outputs.pooled is None else {"pooler_output": outputs.pooled}
        return {"last_hidden_state": outputs.hidden[-1]} | pooled


NO_HEAD = NoHead()


class Classifier(nn.Module):
    """A linear head: logits [B, N, C] of the pooled output (N = 1) or of each token (N = T)."""

    size: int
    """The number C of classes."""
    width: int
    """The width of its inputs."""
    stddev: float = 0.02
    """The standard deviation of the initial weights."""
    pools: bool = True
    """Whether it reads the pooled output and not each token."""

    def setup(self) -> None:
        shape, normal = (self.width, self.size), nn.initializers.normal(self.stddev)
        self.kernel = self.param("kernel", normal, shape, jnp.float32)
        self.bias = self.param("bias", nn.initializers.zeros, (self.size,), jnp.float32)

    def __call__(self, inputs: HeadInputs) -> Outputs:
        outputs = inputs.outputs
        return dataclasses.replace(outputs, logits=self.logits(inputs))

    def logits(self, inputs: HeadInputs) -> jax.Array:
        """Compute float32 logits: they cost nothing for so few columns, and small differences
        decide between classes."""
        x = inputs.outputs.hidden[-1]
        if self.pools:
            assert inputs.outputs.pooled is not None  # an architecture pools for such a head
            x = inputs.outputs.pooled[:, None]
        return dense(inputs.dropout(x), self.kernel, self.bias, jnp.dtype(jnp.float32))


class SpanClassifier(Classifier):
    """A linear head on positions: logits [B, 2, T] of the start and the end of a span."""

    def __call__(self, inputs: HeadInputs) -> Outputs:
        logits = self.logits(inputs).swapaxes(1, 2)
        logits = jnp.where((inputs.segment_ids > 0)[:, None], logits, PADDING_LOGIT)
        return dataclasses.replace(inputs.outputs, logits=logits)


def reorder_classifier(params: Params, old: tuple[str, ...], new: tuple[str, ...]) -> Params:
    """Return parameters whose ``classifier`` has its classes in the order of ``new``."""
    order = [old.index(label) for label in new]
    classifier = {name: np.asarray(leaf)[..., order] for name, leaf in params["classifier"].items()}
    return params | {"classifier": classifier}
