"""How a tensor of a Hugging Face file holds parameters: as they are, transposed, fused or sliced.

``decode`` and ``file_shape`` also work on traced arrays and without data.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np

Shape = tuple[int, ...]


@dataclasses.dataclass(frozen=True)
class Tensor:
    """A tensor that holds one parameter as it is."""

    name: str
    """Its name in a model with a head."""
    paths: tuple[str, ...]
    """The paths of the parameters that it holds."""
    _: dataclasses.KW_ONLY
    fallbacks: tuple[str, ...] = ()
    """Other names that files may have for it."""
    copies: tuple[str, ...] = ()
    """Further names that it is written under."""

    def decode(self, tensor: Any) -> tuple[Any, ...]:
        """Return the parameters of a tensor, in the order of ``paths``."""
        return (tensor,)

    def encode(self, *params: np.ndarray) -> np.ndarray:
        """Return the tensor that holds these parameters."""
        return params[0]

    def file_shape(self, *shapes: Shape) -> Shape:
        """Return the shape of the tensor for parameters of these shapes."""
        return shapes[0]


class Transposed(Tensor):
    """A tensor that holds a kernel [in, out] as [out, in]."""

    def decode(self, tensor: Any) -> tuple[Any, ...]:
        return (tensor.T,)

    def encode(self, *params: np.ndarray) -> np.ndarray:
        return params[0].T

    def file_shape(self, *shapes: Shape) -> Shape:
        return shapes[0][::-1]


class Fused(Tensor):
    """A tensor that stacks several kernels, transposed, or several biases along the first axis.

    All have the same shape.
    """

    def decode(self, tensor: Any) -> tuple[Any, ...]:
        size = tensor.shape[0] // len(self.paths)
        return tuple(tensor[n * size : (n + 1) * size].T for n in range(len(self.paths)))

    def encode(self, *params: np.ndarray) -> np.ndarray:
        return np.concatenate([param.T for param in params])

    def file_shape(self, *shapes: Shape) -> Shape:
        return (sum(shape[-1] for shape in shapes), *shapes[0][:-1])


@dataclasses.dataclass(frozen=True)
class Sliced(Tensor):
    """A table whose first ``offset`` rows are not used, such as RoBERTa's positions.

    They are written as zeros.
    """

    offset: int = 0

    def decode(self, tensor: Any) -> tuple[Any, ...]:
        return (tensor[self.offset :],)

    def encode(self, *params: np.ndarray) -> np.ndarray:
        return np.pad(params[0], ((self.offset, 0), (0, 0)))

    def file_shape(self, *shapes: Shape) -> Shape:
        rows, *rest = shapes[0]
        return (rows + self.offset, *rest)


def leaves(path: str, name: str) -> list[Tensor]:
    """Return the tensors of an embedding table, a norm or a dense layer."""
    if path.startswith("embeddings/") and not path.endswith("norm"):
        return [Tensor(name + ".weight", (path + "/embedding",))]
    bias = Tensor(name + ".bias", (path + "/bias",))
    if path.endswith("norm"):
        return [Tensor(name + ".weight", (path + "/scale",)), bias]
    return [Transposed(name + ".weight", (path + "/kernel",)), bias]


def equal(a: np.ndarray, b: np.ndarray | None) -> bool:
    """Return whether two arrays have equal shapes and values."""
    return b is not None and a.shape == b.shape and np.array_equal(a, b)
