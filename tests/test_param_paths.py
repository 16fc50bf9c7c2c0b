"""Parameter paths as strings, and ordered rules over them."""

import dataclasses

import jax
import pytest

from flaxdistill import param_paths
from flaxdistill.errors import UserError

NESTED = {"layer_0": {"query": {"kernel": 1, "bias": 2}}, "mlm": {"bias": 3}}
FLAT = {"layer_0/query/kernel": 1, "layer_0/query/bias": 2, "mlm/bias": 3}


@jax.tree_util.register_dataclass
@dataclasses.dataclass
class Point:
    x: int
    y: int


def test_flatten_and_back():
    assert param_paths.flatten(NESTED) == FLAT
    assert param_paths.unflatten(FLAT) == NESTED
    assert param_paths.unflatten(param_paths.flatten(NESTED)) == NESTED


def test_paths_of_fields_and_tuple_items():
    assert param_paths.flatten({"a": (Point(1, 2), [3])}) == {"a/0/x": 1, "a/0/y": 2, "a/1/0": 3}
    assert param_paths.flatten({}) == {} and param_paths.flatten({"a": None}) == {}


def test_map_with_path_keeps_the_structure():
    mapped = param_paths.map_with_path(lambda path, leaf: f"{path}={leaf}", {"a": (Point(1, 2), 3)})
    assert mapped == {"a": (Point("a/0/x=1", "a/0/y=2"), "a/1=3")}


def test_the_first_rule_that_matches_the_whole_path_wins():
    rules = [(r".*/bias", "none"), (r"mlm/.*", "head"), (r".*", "rest")]
    paths = [*FLAT, "mlm/kernel", "bias/table"]
    assert param_paths.match(rules, paths, table="decay") == {
        "layer_0/query/kernel": "rest",
        "layer_0/query/bias": "none",
        "mlm/bias": "none",
        "mlm/kernel": "head",
        "bias/table": "rest",
    }


def test_a_rule_must_match_the_whole_path():
    with pytest.raises(
        UserError, match=r"^no decay rule matches layer_0/query/bias, layer_0/query/kernel; add one"
    ):
        param_paths.match(
            [(r"layer_0/query", 1), (r"query/.*", 2)],
            sorted(FLAT)[:2],
            table="decay",
            allow_unused=True,
        )


def test_a_leaf_without_a_rule():
    with pytest.raises(UserError) as error:
        param_paths.match([(r".*/bias", 1)], FLAT, table="sharding")
    assert str(error.value) == "no sharding rule matches layer_0/query/kernel; add one to the table"


def test_a_rule_without_a_leaf():
    rules = [(r"layer_.*", 1), (r"mlm/.*", 2), (r"pooler/.*", 3), (r"mlm/bias", 4)]
    with pytest.raises(UserError) as error:
        param_paths.match(rules, iter(FLAT), table="freeze")
    assert str(error.value) == (
        "freeze rule 'pooler/.*', 'mlm/bias' matches no parameter; "
        "known: layer_0/query/kernel, layer_0/query/bias, mlm/bias"
    )
    assert param_paths.match(rules, FLAT, table="freeze", allow_unused=True)["mlm/bias"] == 2
