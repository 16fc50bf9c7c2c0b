"""Maps of layers, as the papers have them."""

import pytest

from flaxdistill.errors import UserError
from flaxdistill.losses.layer_map import layer_pairs


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
    ("spec", "student", "teacher", "named"),
    [
        ("last", 13, 12, "13 student layers"),
        ("first", 13, 12, "13 student layers"),
        ("distilbert", 4, 12, "4 and 12"),
        ("4:12", 3, 12, "layer 4 of a student that has 3"),
        ("3:13", 3, 12, "layer 13 of a teacher that has 12"),
        ("-5:1", 3, 12, "layer -5 of a student"),
        ("everything", 3, 12, "'everything'"),
        ("1:2:3", 3, 12, "'1:2:3'"),
        ("1", 3, 12, "'1'"),
        ("", 3, 12, "''"),
        ("skip", 1, 12, "none at all"),
    ],
)
def test_mistakes_name_both_sides(spec, student, teacher, named):
    with pytest.raises(UserError, match=named):
        layer_pairs(spec, student, teacher)


def test_no_hidden_layer_meets_the_embeddings():
    assert layer_pairs("uniform", 6, 2) == ((1, 1), (2, 1), (3, 1), (4, 1), (5, 2), (6, 2))


def test_a_pair_counts_once():
    with pytest.raises(UserError, match="names the pair 1:2 twice"):
        layer_pairs("1:2,-1:-1", 1, 2)
