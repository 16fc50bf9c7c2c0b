"""The contract of every loss; a new file in flaxdistill/losses is tested too."""

import dataclasses
import functools
import importlib
import inspect
import pkgutil
import typing

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers.outputs import COUNTS, SEQUENCES, WEIGHT, labelled_batch, per_row, random_outputs

from flaxdistill import losses, param_paths
from flaxdistill.losses.base import Loss, token_mask
from flaxdistill.losses.schedule import Schedule
from flaxdistill.runtime import sharding

CLOSE = 1e-5  # max|a - b| / max|b|, float32
SUPERVISED = {"mlm"}  # terms of a `match` loss that read labels
STEP = 3


def loss_classes() -> list[type[Loss]]:
    modules = [
        importlib.import_module(f"{losses.__name__}.{m.name}")
        for m in pkgutil.iter_modules(losses.__path__)
    ]
    classes = {
        c
        for module in modules
        for _, c in inspect.getmembers(module, inspect.isclass)
        if issubclass(c, Loss)
    }
    return sorted((c for c in classes if not inspect.isabstract(c)), key=lambda c: c.__name__)


def variants() -> dict[str, Loss]:
    """Return every loss with its defaults, and a variant for each other value of each choice."""
    losses_by_name = {}
    for cls in loss_classes():
        names = {field.name for field in dataclasses.fields(cls)}
        # Three chunks of the batch's 8 tokens, the last one short.
        loss = losses_by_name[cls.__name__] = cls(**({"chunk": 3} if "chunk" in names else {}))
        for field, kind in typing.get_type_hints(cls).items():
            choices = (
                (False, True)
                if kind is bool
                else typing.get_args(kind)
                if typing.get_origin(kind) is typing.Literal
                else ()
            )
            for value in (
                sorted(set(choices) - {getattr(loss, field)}, key=str) if field in names else ()
            ):
                variant = dataclasses.replace(loss, **{field: value})
                losses_by_name[f"{cls.__name__}-{field}-{value}"] = variant
    return losses_by_name


LOSSES = variants()
every_loss = pytest.mark.parametrize("name", LOSSES)
one_of_each = pytest.mark.parametrize("name", [c.__name__ for c in loss_classes()])


@pytest.fixture(autouse=True)
def strict_types():
    with jax.numpy_dtype_promotion("strict"):
        yield


@functools.cache
def compiled(name: str):
    return jax.jit(functools.partial(evaluate, name))


def evaluate(name, params, student, teachers, batch, scale):
    """Return ((objective, totals), gradients in the parameters and the student's outputs)."""

    def objective(params, student):
        return LOSSES[name](params, student, teachers, batch, scale, jnp.int32(STEP))

    return jax.value_and_grad(objective, (0, 1), has_aux=True)(params, student)


def with_real_tokens(name: str) -> Loss:
    """Return a loss that averages over real tokens instead."""
    return dataclasses.replace(LOSSES[name], tokens="real")


def has_teachers(name: str) -> bool:
    """Return whether a loss is tested with teachers: it needs one, or reports about one."""
    return LOSSES[name].needs_teacher or getattr(LOSSES[name], "with_teacher", False)


def setting(name: str, rows: int = 8, length: int = 8):
    """Return (params, student, teachers, batch, scale) with two teachers unlike the student."""
    loss, batch = LOSSES[name], labelled_batch()
    student = random_outputs(1, rows, length)
    teachers = (
        (random_outputs(2, rows, length), random_outputs(3, rows, length))
        if has_teachers(name)
        else ()
    )
    params = jax.device_get(
        loss.init(jax.random.key(0), *jax.eval_shape(lambda: (student, teachers)))
    )
    terms = sorted(loss.weights(jnp.int32(STEP)))
    return (
        params,
        student,
        teachers,
        batch,
        {term: np.float32(0.3 + i) for i, term in enumerate(terms)},
    )


@functools.cache
def base(name: str):
    return jax.device_get(compiled(name)(*setting(name)))


def close(result, expected, within: float = CLOSE):
    expected = param_paths.flatten(expected)
    for path, a in param_paths.flatten(result).items():
        a, b = np.asarray(a, np.float32), np.asarray(expected[path], np.float32)
        assert a.shape == b.shape, path
        assert np.abs(a - b).max(initial=0) <= within * np.abs(b).max(initial=0) + 1e-7, path


def finite(result):
    not_finite = [
        path
        for path, x in param_paths.flatten(result).items()
        if not np.isfinite(np.asarray(x, np.float32)).all()
    ]
    assert not not_finite, not_finite


@every_loss
def test_terms_have_a_weight_a_count_and_a_total(name):
    loss = LOSSES[name]
    (value, totals), (_, gradient) = base(name)
    counts = loss.count(labelled_batch())
    assert set(totals) == set(counts) == set(loss.weights(jnp.int32(STEP)))
    assert value.shape == () and all(
        np.shape(x) == () for x in (*totals.values(), *counts.values())
    )
    leaves = jax.tree.leaves(gradient)
    if any(loss.weights(jnp.int32(STEP)).values()):
        assert max(np.abs(leaf).max() for leaf in leaves) > 1e-3, (
            "a term with a weight has a gradient"
        )
        np.testing.assert_allclose(
            value, sum(setting(name)[-1][t] * totals[t] for t in totals), rtol=CLOSE
        )
    else:
        assert value == 0 and not any(leaf.any() for leaf in leaves), "a report has no gradient"


@every_loss
def test_match_is_minimal_where_student_equals_teacher(name):
    params, student, teachers, batch, scale = setting(name)
    if LOSSES[name].kind == "match":
        scale = {term: np.float32(term not in SUPERVISED) for term in scale}
        unequal, _ = base(name)
        (value, totals), (_, gradient) = compiled(name)(
            params, student, (student,) * len(teachers), batch, scale
        )
        matched = set(totals) - SUPERVISED
        assert matched
        for term in matched - {"ce"}:  # the minimum is the teacher's entropy
            assert abs(totals[term]) < 1e-4 < 1 < unequal[1][term]
        assert abs(value) < 1e-4 or (matched == {"ce"} and totals["ce"] < unequal[1]["ce"] - 1)
        assert max(np.abs(leaf).max() for leaf in jax.tree.leaves(gradient)) < 1e-5
    else:
        assert LOSSES[name].kind in ("supervised", "projected")


@every_loss
def test_padding_and_filler_rows_change_nothing(name):
    # As some published code does, ``all`` counts padding.
    if getattr(LOSSES[name], "tokens", None) == "all":
        counts = (loss.count(labelled_batch()) for loss in (LOSSES[name], with_real_tokens(name)))
        assert all(
            everything > real for everything, real in zip(*map(dict.values, counts), strict=True)
        )
        return
    params, student, teachers, batch, scale = setting(name)
    columns, rows = 3, 4

    # Padding holds noise, different for each model.
    def noisy(seed, outputs):
        def put(x, y):
            y[tuple(map(slice, x.shape))] = x
            return y

        return per_row(put, outputs, random_outputs(seed, 8 + rows, 8 + columns))

    def longer(x):
        return np.pad(x, ((0, rows), (0, columns)))

    # Filler rows have labels; only their weight of 0 marks them.
    padded = dataclasses.replace(
        jax.tree.map(lambda x: np.concatenate([x, x[:rows]]), batch),
        weight=np.pad(batch.weight, (0, rows)),
        **{
            n: longer(getattr(batch, n))
            for n in ("input_ids", "segment_ids", "positions", "token_type_ids")
        },
    )
    padded.segment_ids[8:], padded.positions[8:] = 1, np.arange(8 + columns)
    close(LOSSES[name].count(padded), LOSSES[name].count(batch), 0)
    student, *teachers = (noisy(4 + i, outputs) for i, outputs in enumerate((student, *teachers)))
    result = compiled(name)(params, student, tuple(teachers), padded, scale)
    value, (params_gradient, gradient) = jax.device_get(result)
    cut = jax.tree.map(lambda x, y: x[tuple(map(slice, y.shape))], gradient, base(name)[1][1])
    close((value, (params_gradient, cut)), base(name))
    total, real = (sum(np.abs(x).sum() for x in jax.tree.leaves(g)) for g in (gradient, cut))
    np.testing.assert_allclose(total, real, rtol=1e-6, err_msg="padding has a gradient")


@every_loss
def test_halves_add_up_in_any_order(name):
    params, student, teachers, batch, scale = setting(name)
    order = np.random.default_rng(0).permutation(8)
    results, counts = [], []
    for part in (order[:4], order[4:]):
        outputs = [per_row(lambda x, part=part: x[part], o) for o in (student, *teachers)]
        rows = jax.tree.map(lambda x, part=part: x[part], batch)
        counts.append(LOSSES[name].count(rows))
        results.append(
            jax.device_get(compiled(name)(params, outputs[0], tuple(outputs[1:]), rows, scale))
        )
    close(jax.tree.map(np.add, *counts), LOSSES[name].count(batch), 0)

    (a, (own_a, one)), (b, (own_b, two)) = results
    gradient = per_row(lambda x, y: np.concatenate([x, y])[np.argsort(order)], one, two)
    head = jax.tree.map(np.add, one.vocab, dataclasses.replace(two.vocab, hidden=one.vocab.hidden))
    gradient = dataclasses.replace(
        gradient, vocab=dataclasses.replace(head, hidden=gradient.vocab.hidden)
    )
    close((jax.tree.map(np.add, a, b), (jax.tree.map(np.add, own_a, own_b), gradient)), base(name))


@every_loss
def test_batch_order_changes_nothing(name):
    params, student, teachers, batch, scale = setting(name)
    order = np.random.default_rng(1).permutation(8)
    moved = [per_row(lambda x: x[order], outputs) for outputs in (student, *teachers)]
    result = compiled(name)(
        params, moved[0], tuple(moved[1:]), jax.tree.map(lambda x: x[order], batch), scale
    )
    value, (params_gradient, gradient) = jax.device_get(result)
    gradient = per_row(lambda x: x[np.argsort(order)], gradient)
    close((value, (params_gradient, gradient)), base(name))


@every_loss
@pytest.mark.parametrize(
    "case",
    [
        "large student",
        "large teacher",
        "both large",
        "zero student",
        "all padding",
        "no label",
        "no row",
    ],
)
def test_finite(name, case):
    params, student, teachers, batch, scale = setting(name)
    if case in ("large student", "both large"):
        student = per_row(lambda x: x * 1e4, student)
    if case in ("large teacher", "both large"):
        teachers = tuple(per_row(lambda x: x * 1e4, t) for t in teachers)
    if case == "zero student":
        student = per_row(np.zeros_like, student)
    if case == "all padding":
        rows = np.array([0, 3])
        batch = dataclasses.replace(
            batch, segment_ids=batch.segment_ids.copy(), labels=batch.labels.copy()
        )
        batch.segment_ids[rows], batch.labels[rows] = 0, -1
    if case == "no label":
        batch = dataclasses.replace(batch, labels=np.full_like(batch.labels, -1))
    if case == "no row":
        batch = dataclasses.replace(batch, weight=np.zeros_like(batch.weight))
    (value, totals), gradient = result = jax.device_get(
        compiled(name)(params, student, teachers, batch, scale)
    )
    finite(result)
    if case == "no row":
        assert value == 0 and not any(totals.values())
        assert not any(leaf.any() for leaf in jax.tree.leaves(gradient))
    if case == "no label" and "mlm" in totals:
        assert totals["mlm"] == 0
    if case == "all padding":
        counts_padding = getattr(LOSSES[name], "tokens", None) == "all"
        assert counts_padding or not any(
            np.any(g[rows]) for g in jax.tree.leaves(gradient[1].hidden)
        )
        assert not np.any(gradient[1].vocab.hidden[rows])


@every_loss
def test_counts_are_literal(name):
    loss = LOSSES[name]
    expected = {"mlm": COUNTS["masked"], "labels": COUNTS["masked"]}
    expected |= {
        term: COUNTS[getattr(loss, "tokens", "masked")]
        for term in ("kl", "ce", "mse", "jsd", "cosine", "hidden", "accuracy", "agreement")
    }
    tokens = (
        "first"
        if getattr(loss, "mean", "tokens") == "sequences"
        else getattr(loss, "tokens", "real")
    )
    expected |= {f"relation_{pair}": COUNTS[tokens] for pair in ("qq", "kk", "vv")}
    expected["other_hidden"] = COUNTS["real"]
    # Pairs of tokens of a sequence, or of a row if padding counts.
    pairs = sum(n * n for row, lengths in enumerate(SEQUENCES) if WEIGHT[row] for n in lengths)
    expected["scores"] = 7 * 8 * 8 if getattr(loss, "tokens", None) == "all" else pairs
    counts = loss.count(labelled_batch())
    assert set(counts) <= set(expected)
    assert {term: float(n) for term, n in counts.items()} == {
        t: expected.get(t, float(n)) for t, n in counts.items()
    }
    assert all(n.dtype == jnp.float32 for n in counts.values())


@pytest.mark.parametrize("tokens", COUNTS)
def test_token_mask_marks_the_literal_tokens(tokens):
    batch = labelled_batch()
    mask = np.asarray(token_mask(batch, tokens))
    assert mask.dtype == np.float32 and mask.sum() == COUNTS[tokens]
    if tokens == "content":
        assert mask[0].tolist() == [0, 1, 1, 0, 0, 1, 0, 0] and mask[7].tolist() == [0] * 8
    if tokens == "masked":
        assert mask[3].tolist() == [1, 0, 0] and mask[5].tolist() == [0, 0, 0]


@one_of_each
def test_float32_from_bfloat16(name):
    params, _, teachers, batch, scale = setting(name)
    low = random_outputs(1, 8, 8, dtype=jnp.bfloat16)
    teachers = tuple(random_outputs(2 + i, 8, 8, dtype=jnp.bfloat16) for i in range(len(teachers)))
    (value, totals), (_, gradient) = compiled(name)(params, low, teachers, batch, scale)
    assert value.dtype == jnp.float32
    assert all(total.dtype == jnp.float32 for total in totals.values())
    assert (
        gradient.vocab.kernel.dtype == jnp.float32 and gradient.vocab.hidden.dtype == jnp.bfloat16
    )
    finite((value, totals, gradient))
    close((value, totals), base(name)[0], 0.05)


@one_of_each
def test_jit_equals_eager(name):
    params, *rest = setting(name)
    with jax.disable_jit():
        close(LOSSES[name](params, *rest, jnp.int32(STEP)), base(name)[0])


@one_of_each
def test_eight_devices_equal_one(name):
    params, student, teachers, batch, scale = setting(name)
    mesh = sharding.make_mesh()
    assert mesh.size == 8
    rows = sharding.batch_sharding(mesh)
    placed, *references = (
        per_row(lambda x: jax.device_put(x, rows), o) for o in (student, *teachers)
    )
    with jax.set_mesh(mesh):
        result = compiled(name)(
            params, placed, tuple(references), jax.device_put(batch, rows), scale
        )
    assert result[1][1].hidden[-1].sharding.num_devices == 8
    close(jax.device_get(result), base(name))


@one_of_each
def test_teacher_only_where_it_is_needed(name):
    loss = LOSSES[name]
    if loss.needs_teacher:
        assert has_teachers(name)
        # The value depends on every teacher.
        params, student, teachers, batch, scale = setting(name)
        changed = (teachers[0], random_outputs(9, 8, 8))
        totals = compiled(name)(params, student, changed, batch, scale)[0][1]
        assert any(abs(totals[t] - base(name)[0][1][t]) > 1e-3 for t in totals)
    else:
        student = random_outputs(1, 8, 8)
        loss.init(jax.random.key(0), jax.eval_shape(lambda: student), ())
        scale = {term: jnp.float32(1) for term in loss.weights(jnp.int32(0))}
        finite(loss({}, student, (), labelled_batch(), scale, jnp.int32(0)))


@one_of_each
def test_weights_move_with_the_step(name):
    loss = LOSSES[name]
    inner = getattr(loss, "loss", loss)
    hints = typing.get_type_hints(type(inner))
    moving = [name for name, kind in hints.items() if kind is Schedule and name != "temperature"]
    assert moving or name == "VocabReport"
    changed = dataclasses.replace(inner, **dict.fromkeys(moving, Schedule(1.0, 3.0, 10)))
    if inner is not loss:
        changed = dataclasses.replace(loss, loss=changed)
    if moving:
        for step, expected in ((0, 1.0), (5, 2.0), (20, 3.0)):
            assert set(map(float, changed.weights(jnp.int32(step)).values())) == {expected}


def test_every_loss_is_found():
    assert {
        "VocabKD",
        "MaskedLM",
        "Labels",
        "SoftLabels",
        "HiddenCosine",
        "HiddenMSE",
        "Relation",
        "AttentionScores",
        "Named",
        "VocabReport",
    } <= {c.__name__ for c in loss_classes()}
    assert {
        "VocabKD-tokens-masked",
        "VocabKD-tokens-content",
        "HiddenCosine-tokens-content",
    } <= set(LOSSES)
