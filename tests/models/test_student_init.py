"""Student initialisation: which layers, what is copied, and that folding preserves outputs."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers.tiny import WORDS, batch_of, tiny_config

from flaxdistill import param_paths
from flaxdistill.errors import UserError
from flaxdistill.models.architecture import Compute, make_apply, shapes_of
from flaxdistill.models.start import Start, choose_layers
from flaxdistill.models.student_init import start_from
from flaxdistill.pytrees import Batch

BERT = tiny_config(num_layers=3)
DISTILBERT = dataclasses.replace(BERT, type_vocab_size=0)


def params_of(config, seed: int):
    """Return random parameters, none of them 0 or 1."""
    rng = np.random.default_rng(seed)
    flat = param_paths.flatten(shapes_of(config))
    return param_paths.unflatten(
        {path: rng.standard_normal(x.shape, np.float32) for path, x in flat.items()}
    )


TEACHER = params_of(BERT, 0)


def initialise(start: Start, student, teacher=BERT, params=TEACHER):
    return param_paths.flatten(
        jax.device_get(start_from(start, teacher, params, student, params_of(student, 1)))
    )


@pytest.mark.parametrize(
    ("teacher", "student", "layers"),
    [
        (12, 6, (0, 2, 4, 7, 9, 11)),
        (6, 3, (0, 3, 5)),  # 2.5 rounds up
        (4, 2, (0, 3)),
        (12, 4, (0, 4, 7, 11)),
        (12, 3, (0, 6, 11)),
        (24, 5, (0, 6, 12, 17, 23)),  # 5.75, 11.5, 17.25
        (10, 3, (0, 5, 9)),  # 4.5: Python's round would give 4
        (5, 5, (0, 1, 2, 3, 4)),
        (12, 1, (0,)),
        (1, 1, (0,)),
    ],
)
def test_uniform_layers_round_halves_up(teacher, student, layers):
    assert choose_layers("uniform", teacher, student) == layers


def test_the_published_layers_and_explicit_ones():
    assert choose_layers("distilbert", 12, 6) == (0, 2, 4, 7, 9, 11)
    assert choose_layers("0,2,5", 6, 3) == (0, 2, 5)
    assert choose_layers("5, 0, 0", 6, 3) == (5, 0, 0)
    assert choose_layers("3", 4, 1) == (3,)


@pytest.mark.parametrize(
    ("spec", "teacher", "student", "message"),
    [
        (
            "distilbert",
            12,
            4,
            "start.layers distilbert is 6 of 12 layers, but the student has 4 and the teacher 12;",
        ),
        (
            "distilbert",
            24,
            6,
            "start.layers distilbert is 6 of 12 layers, but the student has 6 and the teacher 24;",
        ),
        ("uniform", 4, 6, "a student of 6 layers cannot start from a teacher of 4; use at most 4"),
        (
            "0,2",
            12,
            3,
            "start.layers 0,2 must name 3 layers (one per student layer), each from 0 to 11",
        ),
        (
            "0,2,4,6",
            12,
            3,
            "start.layers 0,2,4,6 must name 3 layers (one per student layer), each from 0 to 11",
        ),
        (
            "0,12",
            12,
            2,
            "start.layers 0,12 must name 2 layers (one per student layer), each from 0 to 11",
        ),
        (
            "-1,3",
            12,
            2,
            "start.layers -1,3 must name 2 layers (one per student layer), each from 0 to 11",
        ),
        ("every other", 12, 6, "start.layers is 'every other'; write uniform, distilbert"),
        ("0,two", 12, 2, "start.layers is '0,two'; write uniform, distilbert"),
        ("", 12, 2, "start.layers is ''; write uniform, distilbert"),
    ],
)
def test_layers_that_raise(spec, teacher, student, message):
    with pytest.raises(UserError) as error:
        choose_layers(spec, teacher, student)
    assert str(error.value).startswith(message)


def test_copies_exactly_what_both_have():
    student = dataclasses.replace(BERT, num_layers=2, max_positions=10)
    source, random = param_paths.flatten(TEACHER), param_paths.flatten(params_of(student, 1))
    params = initialise(Start(layers="2,0"), student)
    assert set(params) == set(random)
    for path, leaf in params.items():
        if path.startswith("layer_"):
            layer, name = path.split("/", 1)
            source_path = {"layer_0": "layer_2", "layer_1": "layer_0"}[layer] + "/" + name
        else:
            source_path = path
        expected = source[source_path]
        if path == "embeddings/position/embedding":
            expected = expected[:10]
        np.testing.assert_array_equal(leaf, expected, err_msg=path)
        assert leaf.dtype == np.float32


def test_low_precision_teachers_start_a_float32_student():
    low = jax.tree.map(lambda x: x.astype(jnp.bfloat16), TEACHER)
    for path, leaf in initialise(Start(), BERT, params=low).items():
        assert leaf.dtype == np.float32, path
        np.testing.assert_array_equal(leaf, param_paths.flatten(low)[path].astype(np.float32))


def test_parameters_that_only_the_student_has_stay_random():
    student = dataclasses.replace(BERT, pooler=True, tied_head=False)
    random, params = param_paths.flatten(params_of(student, 1)), initialise(Start(), student)
    only = {"pooler/kernel", "pooler/bias", "mlm/decoder/embedding"}
    assert only == set(random) - set(param_paths.flatten(TEACHER))
    for path in only:
        np.testing.assert_array_equal(params[path], random[path])


def test_the_mlm_transform_is_copied_by_default():
    random, source = param_paths.flatten(params_of(BERT, 1)), param_paths.flatten(TEACHER)
    transform = {"mlm/transform/kernel", "mlm/transform/bias", "mlm/norm/scale", "mlm/norm/bias"}
    assert transform <= set(random)
    for copies in (True, False):
        params = initialise(Start(mlm_transform=copies), BERT)
        for path in params:
            expected = random if path in transform and not copies else source
            np.testing.assert_array_equal(params[path], expected[path], err_msg=path)


@functools.cache
def applies(config):
    return jax.jit(
        lambda params, batch: (
            make_apply(config, Compute(dtype=jnp.float32))(params, batch, None).hidden
        )
    )


def hidden(config, params, types: int = 0):
    columns = batch_of(3)
    columns["token_type_ids"] += types
    batch = Batch(**columns, label_positions=columns["labels"])
    states = jax.device_get(applies(config)(params, batch))
    return [h[columns["segment_ids"] > 0] for h in states]


def distance(a, b) -> float:
    return max(np.abs(x - y).max() / np.abs(y).max() for x, y in zip(a, b, strict=True))


def test_folded_token_types_compute_the_teachers_states():
    teacher = hidden(BERT, TEACHER)
    fold, drop = (
        hidden(DISTILBERT, param_paths.unflatten(initialise(Start(token_types=mode), DISTILBERT)))
        for mode in ("fold", "drop")
    )
    assert len(fold) == 4
    assert distance(fold, teacher) < 1e-5
    assert distance(drop, teacher) > 0.01


def test_a_student_with_token_types_starts_from_a_teacher_without():
    """They are zeros, so they add nothing until they are trained."""
    params = params_of(DISTILBERT, 0)
    student = param_paths.unflatten(initialise(Start(), BERT, DISTILBERT, params))
    assert distance(hidden(BERT, student, types=1), hidden(DISTILBERT, params)) < 1e-6


def test_fewer_token_types_are_the_first_ones():
    params = initialise(Start(), dataclasses.replace(BERT, type_vocab_size=1))
    path = "embeddings/token_type/embedding"
    np.testing.assert_array_equal(params[path], param_paths.flatten(TEACHER)[path][:1])


@pytest.mark.parametrize(
    ("change", "student_value", "teacher_value"),
    [
        ({"vocab_size": WORDS + 1}, WORDS + 1, WORDS),
        ({"hidden_size": 32}, 32, 16),
        ({"hidden_size": 8}, 8, 16),
        ({"intermediate_size": 64}, 64, 32),
        ({"num_heads": 2}, 2, 4),
        ({"activation": "relu"}, "relu", "gelu"),
        ({"max_positions": 25}, 25, 24),
        ({"type_vocab_size": 3}, 3, 2),
        ({"num_layers": 4}, 4, 3),
    ],
)
def test_errors_name_both_values(change, student_value, teacher_value):
    student = dataclasses.replace(BERT, **change)
    with pytest.raises(UserError) as error:
        start_from(Start(), BERT, TEACHER, student, shapes_of(student))
    message = str(error.value)
    assert str(student_value) in message and str(teacher_value) in message
    assert next(iter(change)) in message or "layers" in message


NARROW = dataclasses.replace(
    BERT, hidden_size=BERT.hidden_size // 2, intermediate_size=BERT.intermediate_size // 2
)


@pytest.mark.parametrize("heads", [BERT.num_heads, BERT.num_heads // 2])
def test_truncation_takes_the_first_entries(heads):
    student = dataclasses.replace(NARROW, num_heads=heads, num_layers=2)
    params = initialise(Start(layers="2,0", shrink="truncate"), student)
    source = param_paths.flatten(TEACHER)
    D, F, d = student.hidden_size, student.intermediate_size, student.hidden_size // heads
    np.testing.assert_array_equal(
        params["layer_0/inner/kernel"], source["layer_2/inner/kernel"][:D, :F]
    )
    np.testing.assert_array_equal(
        params["embeddings/word/embedding"], source["embeddings/word/embedding"][:, :D]
    )
    np.testing.assert_array_equal(
        params["mlm/transform/kernel"], source["mlm/transform/kernel"][:D, :D]
    )
    np.testing.assert_array_equal(params["mlm/bias"], source["mlm/bias"])
    # The second head holds the first entries of the teacher's second head.
    width = BERT.hidden_size // BERT.num_heads
    for h in range(heads):
        ours, theirs = slice(h * d, (h + 1) * d), slice(h * width, h * width + d)
        np.testing.assert_array_equal(
            params["layer_1/key/kernel"][:, ours], source["layer_0/key/kernel"][:D, theirs]
        )
        np.testing.assert_array_equal(
            params["layer_1/value/bias"][ours], source["layer_0/value/bias"][theirs]
        )
        np.testing.assert_array_equal(
            params["layer_1/attention/kernel"][ours], source["layer_0/attention/kernel"][theirs, :D]
        )
    np.testing.assert_array_equal(
        params["layer_1/attention/bias"], source["layer_0/attention/bias"][:D]
    )


def test_svd_of_equal_widths_raises():
    with pytest.raises(UserError, match=r"start\.shrink svd .* both have hidden_size 16"):
        initialise(Start(shrink="svd"), tiny_config(num_layers=1))


def test_svd_preserves_the_principal_directions():
    params = initialise(Start(shrink="svd"), NARROW)
    random = param_paths.flatten(params_of(NARROW, 1))
    words = param_paths.flatten(TEACHER)["embeddings/word/embedding"]
    values = np.linalg.svd(words.astype(np.float64), compute_uv=False)
    variance = np.square(params["embeddings/word/embedding"]).sum()
    np.testing.assert_allclose(variance, np.square(values[: NARROW.hidden_size]).sum(), rtol=1e-5)
    # Words and positions have the same projection, so their products are those of the projections.
    position_table = param_paths.flatten(TEACHER)["embeddings/position/embedding"]
    _, _, v = np.linalg.svd(words.astype(np.float64), full_matrices=False)
    projection = v[: NARROW.hidden_size].T
    np.testing.assert_allclose(
        params["embeddings/word/embedding"] @ params["embeddings/position/embedding"].T,
        (words @ projection) @ (position_table @ projection).T, rtol=1e-3, atol=1e-3,
    )  # fmt: skip
    np.testing.assert_array_equal(params["layer_0/query/kernel"], random["layer_0/query/kernel"])
    np.testing.assert_array_equal(params["mlm/bias"], param_paths.flatten(TEACHER)["mlm/bias"])


def test_a_wider_student_raises():
    wide = dataclasses.replace(BERT, hidden_size=BERT.hidden_size * 2)
    with pytest.raises(
        UserError, match=f"hidden_size {wide.hidden_size} exceeds the {BERT.hidden_size}"
    ):
        initialise(Start(shrink="truncate"), wide)
    with pytest.raises(UserError, match="width of a head"):
        initialise(Start(shrink="truncate"), dataclasses.replace(BERT, num_heads=1))
