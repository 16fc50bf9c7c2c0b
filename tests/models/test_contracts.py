"""The contracts of architectures, heads and parametrizations; new files are found by walking."""

import dataclasses
import importlib
import inspect
import pkgutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers.tiny import WORDS, batch_of, tiny_config

from flaxdistill import models, param_paths, tasks
from flaxdistill.models.architecture import Architecture, Compute, make_frozen, make_init, shapes_of
from flaxdistill.models.head import Head
from flaxdistill.models.parametrization import Chain, Parametrization, Untied
from flaxdistill.models.start import Start
from flaxdistill.models.transformer import Transformer
from flaxdistill.pytrees import Batch, Feature
from flaxdistill.runtime import sharding


def classes(base: type) -> list[type]:
    """Return the subclasses of ``base`` in the files of models/ and tasks/ that can be created."""
    modules = [
        importlib.import_module(f"{package.__name__}.{info.name}")
        for package in (models, tasks)
        for info in pkgutil.iter_modules(package.__path__)
    ]
    found = {
        value
        for module in modules
        for value in vars(module).values()
        if isinstance(value, type) and issubclass(value, base) and not inspect.isabstract(value)
    }
    return sorted(found - {base}, key=lambda value: value.__name__)


def make_architecture(cls: type[Architecture], head: Head) -> Architecture:
    """Return a tiny architecture; a class with other sizes than a transformer sets its own."""
    assert issubclass(cls, Transformer), f"give {cls.__name__} sizes here"
    fields = {field.name: getattr(tiny_config(), field.name) for field in dataclasses.fields(cls)}
    return cls(**(fields | {"head": head, "pooler": head.pools}))


def make_head(cls: type[Head]) -> Head:
    return cls(labels=("a", "b", "c") if cls.has_labels else ())


HEADS = classes(Head)
ARCHITECTURES = classes(Architecture)
every_head = pytest.mark.parametrize("head", HEADS)
every_architecture = pytest.mark.parametrize("architecture", ARCHITECTURES)
COMPUTE = Compute(dtype="float32")


def make_batch(rows=4) -> Batch:
    mesh = sharding.make_mesh(devices=jax.devices()[:1])
    return sharding.place_rows(batch_of(rows), mesh)


def run(architecture, batch):
    params = make_init(architecture)(jax.random.key(0))
    return jax.device_get(jax.jit(make_frozen(architecture, COMPUTE))(params, batch))


def test_all_are_found():
    assert {cls.__name__ for cls in ARCHITECTURES} >= {"Bert"}
    assert {cls.__name__ for cls in HEADS} >= {"MaskedLMHead", "TextHead", "TokensHead", "SpanHead"}
    assert {cls.__name__ for cls in classes(Parametrization)} >= {"Chain", "Untied"}


@every_head
@every_architecture
def test_outputs(architecture, head):
    """The head adds its output; rows and padding do not change others."""
    c = make_architecture(architecture, make_head(head))
    batch = make_batch()
    outputs = run(c, batch)
    assert head.feature in outputs.features()
    heads_outputs = {Feature.VOCAB, Feature.LOGITS, Feature.VECTOR}
    assert outputs.features() & heads_outputs == {head.feature} & heads_outputs
    assert len(outputs.hidden) == c.num_layers + 1
    assert outputs.hidden[-1].shape[-1] == c.hidden_size
    if head.feature is Feature.LOGITS:
        assert outputs.logits.shape[1] == c.head.num_predictions(batch.input_ids.shape[1])
        assert outputs.logits.dtype == np.float32
    real = np.asarray(batch.segment_ids) > 0
    ids = np.where(real, batch.input_ids, WORDS - 1)
    other = run(c, dataclasses.replace(batch, input_ids=jnp.asarray(ids)))
    alone = run(c, jax.tree.map(lambda x: x[1:2], batch))
    np.testing.assert_allclose(
        other.hidden[-1][real], outputs.hidden[-1][real], rtol=1e-5, atol=1e-6
    )
    np.testing.assert_allclose(alone.hidden[-1][0], outputs.hidden[-1][1], rtol=1e-5, atol=1e-6)
    assert (
        set(c.head.transformers_outputs(outputs))
        >= {
            Feature.HIDDEN: {"last_hidden_state"},
            Feature.LOGITS: set(),
            Feature.VOCAB: {"logits"},
        }[head.feature]
    )


@every_architecture
def test_rules_and_patterns_match(architecture):
    for head in HEADS:
        c = make_architecture(architecture, make_head(head))
        paths = [f"student/{path}" for path in param_paths.flatten(shapes_of(c))]
        param_paths.match(
            (*c.sharding, *sharding.RULES), paths, table="sharding", allow_unused=True
        )
        for pattern, _ in c.sharding:
            assert any(
                param_paths.match(
                    [(pattern, 1), (".*", 0)], paths, table="", allow_unused=True
                ).values()
            )


@every_architecture
def test_a_start_from_itself_copies_everything(architecture):
    c = make_architecture(architecture, make_head(HEADS[0]))
    source, fresh = (make_init(c)(jax.random.key(seed)) for seed in (1, 2))
    copied = c.init_from(Start(), c, source, fresh)
    for a, b in zip(jax.tree.leaves(copied), jax.tree.leaves(source), strict=True):
        np.testing.assert_array_equal(a, b)


@every_architecture
def test_untied_computes_the_same(architecture):
    for head in HEADS:
        c = make_architecture(architecture, make_head(head))
        params, batch = make_init(c)(jax.random.key(0)), make_batch()
        untied = c.untied()
        assert jax.tree.structure(c.untie(params)) == jax.tree.structure(shapes_of(untied))
        tied_outputs = make_frozen(c, COMPUTE)(params, batch)
        untied_outputs = make_frozen(untied, COMPUTE)(c.untie(params), batch)
        for a, b in zip(*map(jax.tree.leaves, (tied_outputs, untied_outputs)), strict=True):
            np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("cls", classes(Parametrization))
def test_parametrization_starts_as_the_model(cls):
    c = tiny_config()
    parts = {Chain: Chain((Chain(), Chain())), Untied: Untied(c)}
    parametrization = parts[cls] if cls in parts else cls()
    params = make_init(c)(jax.random.key(0))
    trained, frozen = parametrization.init(c, params, jax.random.key(1))
    given = parametrization(trained, frozen, jnp.int32(0))
    expected = c.untie(params) if cls is Untied else params
    for a, b in zip(*map(jax.tree.leaves, (given, expected)), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-6)
    folded, folded_params = parametrization.fold(c, trained, frozen, jnp.int32(0))
    assert folded == parametrization.folded(c)
    if cls is not Untied:
        assert jax.tree.structure(folded_params) == jax.tree.structure(shapes_of(folded))
    for penalty in parametrization.penalty(trained, frozen, jnp.int32(0)).values():
        assert penalty.shape == ()
