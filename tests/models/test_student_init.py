"""How a student starts: which layers, what is copied, and that folding changes nothing."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers.tiny import WORDS, batch_of, tiny_config

from flaxdistill import param_paths
from flaxdistill.errors import UserError
from flaxdistill.models.encoder import make_apply, shapes_of
from flaxdistill.models.student_init import Start, choose_layers, start_from
from flaxdistill.pytrees import Batch

BERT = tiny_config(num_layers=3)
DISTILBERT = dataclasses.replace(BERT, type_vocab_size=0)


def params_of(config, seed: int):
    """Parameters with no zero and no one in them."""
    rng = np.random.default_rng(seed)
    flat = param_paths.flatten(shapes_of(config))
    return param_paths.unflatten(
        {path: rng.standard_normal(x.shape, np.float32) for path, x in flat.items()}
    )


TEACHER = params_of(BERT, 0)


def begin(start: Start, student, teacher=BERT, params=TEACHER):
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
    ("spec", "teacher", "student", "words"),
    [
        (
            "distilbert",
            12,
            4,
            "start.layers distilbert is 6 of 12 layers, but this is 4 of 12; use uniform or list them",
        ),
        (
            "distilbert",
            24,
            6,
            "start.layers distilbert is 6 of 12 layers, but this is 6 of 24; use uniform or list them",
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
def test_refused_layers(spec, teacher, student, words):
    with pytest.raises(UserError) as error:
        choose_layers(spec, teacher, student)
    assert str(error.value).startswith(words)


def test_copies_exactly_what_is_shared():
    student = dataclasses.replace(BERT, num_layers=2, max_positions=10)
    source, random = param_paths.flatten(TEACHER), param_paths.flatten(params_of(student, 1))
    got = begin(Start(layers="2,0"), student)
    assert set(got) == set(random)
    for path, leaf in got.items():
        theirs = (
            path.replace("layer_0", "layer_two")
            .replace("layer_1", "layer_0")
            .replace("layer_two", "layer_2")
        )
        expected = (
            source[theirs][:10] if path == "embeddings/position/embedding" else source[theirs]
        )
        np.testing.assert_array_equal(leaf, expected, err_msg=path)
        assert leaf.dtype == np.float32


def test_low_precision_teachers_start_a_float32_student():
    low = jax.tree.map(lambda x: x.astype(jnp.bfloat16), TEACHER)
    for path, leaf in begin(Start(), BERT, params=low).items():
        assert leaf.dtype == np.float32, path
        np.testing.assert_array_equal(leaf, param_paths.flatten(low)[path].astype(np.float32))


def test_what_only_the_student_has_stays_random():
    student = dataclasses.replace(BERT, pooler=True, tied_head=False)
    random, got = param_paths.flatten(params_of(student, 1)), begin(Start(), student)
    only = {"pooler/kernel", "pooler/bias", "mlm/decoder/embedding"}
    assert only == set(random) - set(param_paths.flatten(TEACHER))
    for path in only:
        np.testing.assert_array_equal(got[path], random[path])


def test_the_mlm_transform_is_copied_unless_told_otherwise():
    random, source = param_paths.flatten(params_of(BERT, 1)), param_paths.flatten(TEACHER)
    transform = {"mlm/transform/kernel", "mlm/transform/bias", "mlm/norm/scale", "mlm/norm/bias"}
    assert transform <= set(random)
    for copies in (True, False):
        got = begin(Start(mlm_transform=copies), BERT)
        for path in got:
            expected = random if path in transform and not copies else source
            np.testing.assert_array_equal(got[path], expected[path], err_msg=path)


@functools.cache
def applies(config):
    return jax.jit(
        lambda params, batch: make_apply(config, jnp.float32)(params, batch, None).hidden
    )


def hidden(config, params, types: int = 0):
    columns = batch_of(3)
    columns["token_type_ids"] += types
    batch = Batch(**columns, label_positions=columns["labels"])
    states = jax.device_get(applies(config)(params, batch))
    return [h[columns["segment_ids"] > 0] for h in states]


def far(a, b) -> float:
    return max(np.abs(x - y).max() / np.abs(y).max() for x, y in zip(a, b, strict=True))


def test_folded_token_types_compute_the_teachers_states():
    theirs = hidden(BERT, TEACHER)
    fold, drop = (
        hidden(DISTILBERT, param_paths.unflatten(begin(Start(token_types=how), DISTILBERT)))
        for how in ("fold", "drop")
    )
    assert len(fold) == 4
    assert far(fold, theirs) < 1e-5
    assert far(drop, theirs) > 0.01


def test_a_student_with_token_types_starts_from_a_teacher_without():
    """The teacher never added one, so that the student's add nothing until they are trained."""
    params = params_of(DISTILBERT, 0)
    student = param_paths.unflatten(begin(Start(), BERT, DISTILBERT, params))
    assert far(hidden(BERT, student, types=1), hidden(DISTILBERT, params)) < 1e-6


def test_fewer_token_types_are_the_first_ones():
    got = begin(Start(), dataclasses.replace(BERT, type_vocab_size=1))
    path = "embeddings/token_type/embedding"
    np.testing.assert_array_equal(got[path], param_paths.flatten(TEACHER)[path][:1])


@pytest.mark.parametrize(
    ("change", "ours", "theirs"),
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
def test_refusals_name_both_values(change, ours, theirs):
    student = dataclasses.replace(BERT, **change)
    with pytest.raises(UserError) as error:
        start_from(Start(), BERT, TEACHER, student, shapes_of(student))
    text = str(error.value)
    assert str(ours) in text and str(theirs) in text
    assert next(iter(change)) in text or "layers" in text


NARROW = dataclasses.replace(
    BERT, hidden_size=BERT.hidden_size // 2, intermediate_size=BERT.intermediate_size // 2
)


@pytest.mark.parametrize("heads", [BERT.num_heads, BERT.num_heads // 2])
def test_truncation_keeps_the_first_of_everything(heads):
    student = dataclasses.replace(NARROW, num_heads=heads, num_layers=2)
    got = begin(Start(layers="2,0", shrink="truncate"), student)
    theirs = param_paths.flatten(TEACHER)
    D, F, d = student.hidden_size, student.intermediate_size, student.hidden_size // heads
    np.testing.assert_array_equal(
        got["layer_0/inner/kernel"], theirs["layer_2/inner/kernel"][:D, :F]
    )
    np.testing.assert_array_equal(
        got["embeddings/word/embedding"], theirs["embeddings/word/embedding"][:, :D]
    )
    np.testing.assert_array_equal(
        got["mlm/transform/kernel"], theirs["mlm/transform/kernel"][:D, :D]
    )
    np.testing.assert_array_equal(got["mlm/bias"], theirs["mlm/bias"])
    # The second head's entries are the teacher's second head's, cut: not whatever stands beside the first.
    width = BERT.hidden_size // BERT.num_heads
    for h in range(heads):
        mine, other = slice(h * d, (h + 1) * d), slice(h * width, h * width + d)
        np.testing.assert_array_equal(
            got["layer_1/key/kernel"][:, mine], theirs["layer_0/key/kernel"][:D, other]
        )
        np.testing.assert_array_equal(
            got["layer_1/value/bias"][mine], theirs["layer_0/value/bias"][other]
        )
        np.testing.assert_array_equal(
            got["layer_1/attention/kernel"][mine], theirs["layer_0/attention/kernel"][other, :D]
        )
    np.testing.assert_array_equal(
        got["layer_1/attention/bias"], theirs["layer_0/attention/bias"][:D]
    )


def test_svd_of_equal_widths_is_refused():
    with pytest.raises(UserError, match=r"start\.shrink svd .* both are 16 wide"):
        begin(Start(shrink="svd"), tiny_config(num_layers=1))


def test_svd_loses_the_least_of_the_words():
    got = begin(Start(shrink="svd"), NARROW)
    random = param_paths.flatten(params_of(NARROW, 1))
    words = param_paths.flatten(TEACHER)["embeddings/word/embedding"]
    values = np.linalg.svd(words.astype(np.float64), compute_uv=False)
    kept = np.square(got["embeddings/word/embedding"]).sum()
    np.testing.assert_allclose(kept, np.square(values[: NARROW.hidden_size]).sum(), rtol=1e-5)
    # Words and positions are turned alike: what they have to do with each other is what is left of it.
    places = param_paths.flatten(TEACHER)["embeddings/position/embedding"]
    _, _, v = np.linalg.svd(words.astype(np.float64), full_matrices=False)
    turn = v[: NARROW.hidden_size].T
    np.testing.assert_allclose(
        got["embeddings/word/embedding"] @ got["embeddings/position/embedding"].T,
        (words @ turn) @ (places @ turn).T, rtol=1e-3, atol=1e-3,
    )  # fmt: skip
    np.testing.assert_array_equal(got["layer_0/query/kernel"], random["layer_0/query/kernel"])
    np.testing.assert_array_equal(got["mlm/bias"], param_paths.flatten(TEACHER)["mlm/bias"])


def test_a_wider_student_is_refused():
    wide = dataclasses.replace(BERT, hidden_size=BERT.hidden_size * 2)
    with pytest.raises(
        UserError, match=f"hidden_size {wide.hidden_size} exceeds the {BERT.hidden_size}"
    ):
        begin(Start(shrink="truncate"), wide)
    with pytest.raises(UserError, match="width of a head"):
        begin(Start(shrink="truncate"), dataclasses.replace(BERT, num_heads=1))
