"""Parametrizations: what is trained in place of the parameters of a model."""

from __future__ import annotations

import abc
import dataclasses

import jax

from flaxdistill.models.architecture import Architecture
from flaxdistill.pytrees import Params


class Parametrization(abc.ABC):
    """A map from trained and frozen parameters to those of a model.

    A subclass is a frozen dataclass; all methods are pure. Gradients of a step are summed over
    micro-batches and devices first, and pulled back through the map once, so the map may be any
    differentiable function that does not depend on the rows.
    """

    @abc.abstractmethod
    def init(
        self, architecture: Architecture, params: Params, key: jax.Array
    ) -> tuple[Params, Params]:
        """Return (trained, frozen) for a model that starts with ``params``."""

    @abc.abstractmethod
    def __call__(self, trained: Params, frozen: Params, step: jax.Array) -> Params:
        """Return the parameters that the model has at a step."""

    def penalty(self, trained: Params, frozen: Params, step: jax.Array) -> dict[str, jax.Array]:
        """Return named terms that are added to the objective, float32 [].

        Terms of one name are summed; a name must differ from the terms of the losses.
        """
        return {}

    def fold(
        self, architecture: Architecture, trained: Params, frozen: Params, step: jax.Array
    ) -> tuple[Architecture, Params]:
        """Return the model to evaluate and to export; it may be smaller than the trained one."""
        return architecture, self(trained, frozen, step)

    def folded(self, architecture: Architecture) -> Architecture:
        """Return the architecture that ``fold`` gives."""
        return architecture


@dataclasses.dataclass(frozen=True)
class Chain(Parametrization):
    """Several parametrizations; each one trains what the one before it calls trained.

    Without any, all parameters are trained as they are.
    """

    parts: tuple[Parametrization, ...] = ()

    def init(
        self, architecture: Architecture, params: Params, key: jax.Array
    ) -> tuple[Params, Params]:
        trained, frozen = params, {}
        for n, part in enumerate(self.parts):
            trained, own = part.init(architecture, trained, jax.random.fold_in(key, n))
            if jax.tree.leaves(own):
                frozen[str(n)] = own
        return trained, frozen

    def __call__(self, trained: Params, frozen: Params, step: jax.Array) -> Params:
        for part, own in self._inner_first(frozen):
            trained = part(trained, own, step)
        return trained

    def penalty(self, trained: Params, frozen: Params, step: jax.Array) -> dict[str, jax.Array]:
        terms: dict[str, jax.Array] = {}
        for part, own in self._inner_first(frozen):
            for name, value in part.penalty(trained, own, step).items():
                terms[name] = terms[name] + value if name in terms else value
            trained = part(trained, own, step)
        return terms

    def fold(
        self, architecture: Architecture, trained: Params, frozen: Params, step: jax.Array
    ) -> tuple[Architecture, Params]:
        for part, own in self._inner_first(frozen):
            architecture, trained = part.fold(architecture, trained, own, step)
        return architecture, trained

    def folded(self, architecture: Architecture) -> Architecture:
        for part in reversed(self.parts):
            architecture = part.folded(architecture)
        return architecture

    def _inner_first(self, frozen: Params) -> list[tuple[Parametrization, Params]]:
        return [(part, frozen.get(str(n), {})) for n, part in enumerate(self.parts)][::-1]


UNCHANGED = Chain()
"""All parameters are trained as they are."""


@dataclasses.dataclass(frozen=True)
class Untied(Parametrization):
    """Train a tied student as one whose masked-LM head has its own kernel, a copy of the table.

    Use it to accumulate gradients on many devices: XLA moves the all-reduce of an accumulated
    gradient out of the loop, but not the sum of two gradients, and a tied table has two, as
    embeddings and as head.
    """

    tied: Architecture
    """The architecture of the student."""
    inner: Parametrization = UNCHANGED
    """What is trained in place of the parameters of the tied student."""

    def init(
        self, architecture: Architecture, params: Params, key: jax.Array
    ) -> tuple[Params, Params]:
        return self.inner.init(architecture, params, key)

    def __call__(self, trained: Params, frozen: Params, step: jax.Array) -> Params:
        return self.tied.untie(self.inner(trained, frozen, step))

    def penalty(self, trained: Params, frozen: Params, step: jax.Array) -> dict[str, jax.Array]:
        return self.inner.penalty(trained, frozen, step)

    def fold(
        self, architecture: Architecture, trained: Params, frozen: Params, step: jax.Array
    ) -> tuple[Architecture, Params]:
        return self.inner.fold(architecture, trained, frozen, step)

    def folded(self, architecture: Architecture) -> Architecture:
        return self.inner.folded(architecture)
