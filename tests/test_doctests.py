"""The examples in the docstrings of losses, ops and models run, and print what they show."""

import doctest
import importlib
import pkgutil

import pytest

from flaxdistill import losses, models, ops

MODULES = sorted(
    f"{package.__name__}.{module.name}"
    for package in (losses, models, ops)
    for module in pkgutil.iter_modules(package.__path__)
)

WITH_EXAMPLES = {
    "flaxdistill.losses.labels",
    "flaxdistill.losses.hidden",
    "flaxdistill.losses.layer_map",
    "flaxdistill.losses.named",
    "flaxdistill.losses.schedule",
    "flaxdistill.losses.vocab",
    "flaxdistill.models.start",
    "flaxdistill.ops.logits",
    "flaxdistill.ops.vocab",
}


@pytest.mark.parametrize("name", MODULES)
def test_examples(name):
    result = doctest.testmod(importlib.import_module(name))
    assert result.failed == 0
    assert result.attempted > 0 or name not in WITH_EXAMPLES


def test_modules_with_examples_exist():
    assert set(MODULES) >= WITH_EXAMPLES
