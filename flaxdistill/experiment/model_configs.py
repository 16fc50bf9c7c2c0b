"""The configs of the models of a run: `Teacher` and `Student`."""

from __future__ import annotations

import dataclasses

from flaxdistill.errors import UserError
from flaxdistill.experiment.fields import check_type, free, path_to_str
from flaxdistill.models.architecture import Architecture, Compute
from flaxdistill.models.parametrization import Parametrization
from flaxdistill.models.start import Start
from flaxdistill.ops.attention import Attention
from flaxdistill.ops.dense import DType


def Stage(name: str) -> str:  # noqa: N802 - reads as a noun in a config
    """Return the path of the student that an earlier stage of the same config trains."""
    return "@" + name


def stage_name(path: str | None) -> str | None:
    """Return the stage that a path written by ``Stage`` names; None for a directory or a Hub id."""
    return path[1:] if path and path.startswith("@") else None


@dataclasses.dataclass(frozen=True)
class Teacher:
    """A model to learn from."""

    path: str
    """A directory, a Hub id (user/name or user/name@revision) or Stage("name")."""
    _: dataclasses.KW_ONLY
    dtype: DType = "auto"
    """Dtype of its weights and its arithmetic."""
    attention: Attention = "auto"
    """Attention kernel: auto takes the fastest that this device and these rows allow."""
    sharded: bool = free(False)
    """Split its weights over fsdp and tensor, as the student's; else each device holds a copy."""
    cache_top_k: int = 0
    """Cache its k most probable tokens per position, computed once; 0 runs it in every step."""

    @property
    def compute(self) -> Compute:
        """How the teacher is computed."""
        return Compute(dtype=self.dtype, attention=self.attention)

    def __post_init__(self) -> None:
        path_to_str(self, "path")
        if not isinstance(self.path, str) or not self.path.strip("@"):
            raise UserError(f"teacher.path is {self.path!r}; give a directory, a Hub id or @stage")
        check_type("teacher.cache_top_k", self.cache_top_k, int, "a number of tokens, such as 64")
        if self.cache_top_k < 0:
            raise UserError(
                f"teacher.cache_top_k is {self.cache_top_k}; give a number of tokens, such as 64, "
                "or 0"
            )


@dataclasses.dataclass(frozen=True, kw_only=True)
class Student:
    """The model to train.

    A size of None is taken from the model that the student starts from or learns from. The number
    of layers is then half of that model's, or all of them for a labelled task without teacher and
    reference. If ``hidden_size`` differs from that model's, heads keep their width and
    ``intermediate_size`` its proportion.
    """

    start: Start = Start()
    """Where its first weights come from."""
    architecture: Architecture | None = None
    """Its architecture, if it is another than that of the model it starts from or learns from; the
    sizes below are then not used. Vocabulary and head follow from the data and the task."""
    parametrize: tuple[Parametrization, ...] = ()
    """What is trained in place of its parameters; empty for the parameters themselves."""
    family: str | None = None
    """Model family, such as bert or distilbert; None: that of the model it starts from."""
    num_layers: int | None = None
    """Number of layers; None: half of the other model's."""
    hidden_size: int | None = None
    """Width of the hidden states; None: the other model's."""
    num_heads: int | None = None
    """Attention heads per layer; None: as many as keep their width."""
    intermediate_size: int | None = None
    """Inner width of the feed-forward layers; None: in proportion to hidden_size."""
    max_positions: int | None = None
    """Longest sequence it can read; None: the other model's."""
    dropout: float = 0.1
    """Dropout probability of embeddings and hidden states."""
    attention_dropout: float = 0.1
    """Dropout probability of attention weights."""
    dtype: DType = "auto"
    """Dtype of its arithmetic; its weights are float32."""
    attention: Attention = "auto"
    """Attention kernel: auto takes the fastest that this device and these rows allow."""
    remat: bool = free(False)
    """Recompute layers in the backward pass: a third more arithmetic, far less memory."""

    @property
    def compute(self) -> Compute:
        """How the student is computed."""
        return Compute(dtype=self.dtype, attention=self.attention, remat=self.remat)
