"""The contract of an architecture, and the pure functions that the rest of the package calls."""

from __future__ import annotations

import abc
import dataclasses
import functools
import math
from collections.abc import Callable, Mapping
from typing import Any, ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp

from flaxdistill.errors import UserError
from flaxdistill.models.head import NO_HEAD, Head
from flaxdistill.models.start import Start
from flaxdistill.ops.attention import Attention
from flaxdistill.ops.dense import DType
from flaxdistill.param_paths import BIASES_AND_NORMS
from flaxdistill.pytrees import Batch, Outputs, Params
from flaxdistill.runtime.sharding import Rules

Apply = Callable[[Params, Batch, jax.Array | None], Outputs]
"""``apply(params, batch, keys) -> Outputs``; ``keys`` [B] drive dropout, None disables it."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Compute:
    """How a model is computed; none of it changes the result beyond rounding."""

    dtype: DType = "auto"
    """The dtype of operands; ``auto`` is bfloat16 where the hardware multiplies it."""
    attention: Attention = "auto"
    """The attention kernel."""
    remat: bool = False
    """Whether layers are computed again in the backward pass, which saves memory."""


COMPUTE = Compute()
"""The default of everything."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Architecture(abc.ABC):
    """The sizes and the arithmetic of one kind of model.

    A subclass is a frozen dataclass, with a Linen module in the same file. Two models with equal
    architectures have parameters of equal shapes and compute the same function of them.
    """

    hidden_size: int
    """The width of the last hidden states."""
    num_layers: int = 0
    """The number of layers, one less than the number of hidden states."""
    max_positions: int = 2**31 - 1
    """The most tokens of a row."""
    vocab_size: int = 0
    """The number of token embeddings; 0 in the config of a student, until a vocabulary is read."""
    head: Head = NO_HEAD
    """What the model predicts."""
    pad_id: int = 0
    """The id of the padding token."""
    initializer_range: float = 0.02
    """The standard deviation of initial weights."""

    sharding: ClassVar[Rules] = ()
    """Where its parameters are placed on a mesh, before the general rules of ``runtime.sharding``:
    patterns of parameter paths, and the partition specs to try in order."""
    undecayed: ClassVar[str] = BIASES_AND_NORMS
    """The pattern of the parameters without weight decay."""
    no_gradient: ClassVar[str] = r"(?!)"
    """The pattern of the parameters whose gradient is zero whatever is trained."""

    @property
    def dropout_rates(self) -> tuple[float, ...]:
        """The dropout probabilities; if all are 0, no random numbers are drawn."""
        return ()

    @property
    def reads_pairs(self) -> bool:
        """Whether the model distinguishes the two texts of a pair."""
        return True

    @property
    def tensor_sizes(self) -> Mapping[str, int]:
        """The sizes that tensor parallelism must divide, by name."""
        return {}

    @abc.abstractmethod
    def module(self, compute: Compute) -> nn.Module:
        """Return the Linen module; its ``__call__(batch, keys)`` returns ``Outputs``."""

    def vocab_module(self, dtype: Any) -> nn.Module:
        """Return the module of a masked-LM head, see ``Head.module``.

        Raises UserError if the architecture has none.
        """
        raise UserError(
            f"a {type(self).__name__} has no masked-LM head; use a task with labels, or another "
            "architecture"
        )

    def untied(self) -> Architecture:
        """Return this architecture with a masked-LM head that is not tied to the embeddings."""
        return self

    def untie(self, params: Params) -> Params:
        """Return the parameters of ``untied`` that compute the same."""
        return params

    def resized(self, sizes: Mapping[str, int | None], *, all_layers: bool) -> Architecture:
        """Return a student of this model with the given ``sizes``; None chooses one.

        Raises UserError for sizes that the architecture does not have.
        """
        raise UserError(
            f"a student of a {type(self).__name__} needs its own architecture; set "
            "student.architecture"
        )

    def init_from(
        self, start: Start, source: Architecture, source_params: Params, params: Params
    ) -> Params:
        """Copy weights of another model into the random ``params`` of this one.

        Raises UserError if nothing can be copied.
        """
        raise UserError(
            f"a {type(self).__name__} cannot start from the weights of a {type(source).__name__}; "
            "set student.start.path to None to start at random"
        )

    @property
    def labels(self) -> tuple[str, ...]:
        """The names of the classes of the head."""
        return self.head.labels


def make_init(architecture: Architecture) -> Callable[[jax.Array], Params]:
    """Return ``init(key) -> params``, the random parameters of a model, float32."""
    # Arithmetic in float32, because the dtype does not matter for shapes.
    module = architecture.module(Compute(dtype="float32"))

    def init(key: jax.Array) -> Params:
        return module.init(key, Batch.of(jnp.zeros((1, 2), jnp.int32)), None)["params"]

    return init


def make_apply(architecture: Architecture, compute: Compute = COMPUTE) -> Apply:
    """Return ``apply(params, batch, keys) -> Outputs``."""
    module = architecture.module(compute)

    def apply(params: Params, batch: Batch, keys: jax.Array | None) -> Outputs:
        outputs: Any = module.apply({"params": params}, batch, keys)
        return outputs

    return apply


def make_frozen(
    architecture: Architecture, compute: Compute = COMPUTE
) -> Callable[[Params, Batch], Outputs]:
    """Return ``apply(params, batch) -> Outputs`` without dropout."""
    apply = make_apply(architecture, compute)
    return lambda params, batch: apply(params, batch, None)


@functools.lru_cache(maxsize=64)
def shapes_of(architecture: Architecture) -> Params:
    """Return the parameters as ``ShapeDtypeStruct`` leaves, without creating any."""
    return jax.eval_shape(make_init(architecture), jax.random.key(0))


def count_parameters(architecture: Architecture) -> int:
    """Return the number of parameters of a model and its head."""
    return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(shapes_of(architecture)))
