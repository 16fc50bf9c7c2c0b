"""A saved model for the tests of this folder."""

from pathlib import Path

import pytest
from helpers.checkpoints import BERT, CONFIG, make_params

from flaxdistill.hub.checkpoint import write_model


@pytest.fixture(scope="module")
def params():
    return make_params()


@pytest.fixture
def saved(tmp_path, params) -> Path:
    """A valid directory, for a test to damage."""
    write_model(tmp_path / "model", family=BERT, config=CONFIG, params=params, tokenizer=None)
    return tmp_path / "model"
