"""Tiny checkpoints of the hub tests, and how tests damage and compare them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest

from flaxdistill.errors import UserError
from flaxdistill.hub import families
from flaxdistill.hub.checkpoint import read_model
from flaxdistill.models.architecture import make_init
from flaxdistill.param_paths import flatten
from helpers.paths import ROOT
from helpers.tiny import tiny_config

BERT = families.family("bert")
CONFIG = tiny_config()


def make_params(config=CONFIG, dtype=np.float32):
    params = make_init(config)(jax.random.key(0))
    return jax.tree.map(lambda leaf: np.asarray(leaf).astype(dtype), params)


def assert_refused(source, *fragments: str) -> None:
    """Check that reading a source raises a one-line UserError that contains all fragments."""
    with pytest.raises(UserError) as caught:
        read_model(str(source))
    message = str(caught.value)
    assert "\n" not in message
    for fragment in fragments:
        assert fragment in message, message


def edit_json(file: Path, **fields) -> None:
    """Change fields of a JSON file; ``...`` removes one."""
    fields = json.loads(file.read_text()) | fields
    file.write_text(json.dumps({key: value for key, value in fields.items() if value is not ...}))


def assert_same_params(a, b) -> None:
    """Check that two parameter trees are equal bit by bit."""
    a, b = flatten(a), flatten(b)
    assert set(a) == set(b)
    for path in a:
        assert a[path].dtype == b[path].dtype, path
        assert np.array_equal(
            np.ascontiguousarray(a[path]).view(np.uint8),
            np.ascontiguousarray(b[path]).view(np.uint8),
        )


def run_code(code: str, *arguments: str, **environment: str) -> subprocess.CompletedProcess:
    """Run Python code in a new process, without this one's variables for the Hub."""
    inherited = {
        key: value for key, value in os.environ.items() if not key.startswith(("HF_", "HUGGING"))
    }
    own = {"JAX_PLATFORMS": "cpu", "PYTHONPATH": str(ROOT), "HF_HUB_DISABLE_XET": "1"}
    return subprocess.run(
        [sys.executable, "-c", code, *arguments],
        env=inherited | own | environment,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
