"""Layer maps, as the papers have them."""

import pytest

from flaxdistill.errors import UserError
from flaxdistill.losses.layer_map import layer_pairs
from flaxdistill.models.student_init import choose_layers


@pytest.mark.parametrize(
    ("spec", "student", "teacher", "expected"),
    [
        ("uniform", 4, 12, ((1, 3), (2, 6), (3, 9), (4, 12))),
        ("uniform", 6, 12, ((1, 2), (2, 4), (3, 6), (4, 8), (5, 10), (6, 12))),
        ("uniform", 4, 6, ((1, 2), (2, 3), (3, 5), (4, 6))),
        ("skip", 6, 12, ((1, 2), (2, 4), (3, 6), (4, 8), (5, 10))),
        ("last", 3, 12, ((1, 10), (2, 11), (3, 12))),
        ("first", 3, 12, ((1, 1), (2, 2), (3, 3))),
        ("distilbert", 6, 12, ((1, 1), (2, 3), (3, 5), (4, 8), (5, 10), (6, 12))),
        ("0:0,-1:-1", 3, 12, ((0, 0), (3, 12))),
        ("-3:2", 3, 12, ((1, 2),)),
        ("3:12,1:4", 3, 12, ((3, 12), (1, 4))),
    ],
)
def test_maps(spec, student, teacher, expected):
    assert layer_pairs(spec, student, teacher) == expected


@pytest.mark.parametrize(
    ("spec", "student", "teacher", "fragment"),
    [
        ("last", 13, 12, "13 student layers"),
        ("first", 13, 12, "13 student layers"),
        ("distilbert", 4, 12, "the student has 4 and the teacher 12"),
        ("4:12", 3, 12, "layer 4 of a student that has 3; layers count from 1"),
        ("3:13", 3, 12, "layer 13 of a teacher that has 12; layers count from 1"),
        ("-5:1", 3, 12, "layer -5 of a student"),
        ("everything", 3, 12, "'everything'"),
        ("1:2:3", 3, 12, "'1:2:3'"),
        ("1", 3, 12, "'1'"),
        ("0,2,5", 3, 12, "'0,2,5'; .* counted from 1 with 0 for the embeddings"),
        ("", 3, 12, "''"),
        ("skip", 1, 12, "layers skip selects no layer of a student of 1"),
    ],
)
def test_errors_name_both_models(spec, student, teacher, fragment):
    with pytest.raises(UserError, match=fragment):
        layer_pairs(spec, student, teacher)


def test_uniform_never_selects_the_embeddings():
    assert layer_pairs("uniform", 6, 2) == ((1, 1), (2, 1), (3, 1), (4, 1), (5, 2), (6, 2))


def test_a_pair_occurs_once():
    with pytest.raises(UserError, match="names the pair 1:2 twice"):
        layer_pairs("1:2,-1:-1", 1, 2)


def test_initial_layers_count_from_0_and_hidden_states_from_1():
    """Layer n of ``start.layers`` is hidden state n + 1 of a layer map."""
    copied = choose_layers("distilbert", 12, 6)
    assert [j - 1 for _, j in layer_pairs("distilbert", 6, 12)] == list(copied)
