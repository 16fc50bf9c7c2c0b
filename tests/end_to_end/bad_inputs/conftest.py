"""Bad inputs over the whole command line: one sentence, exit code 2, no file changed."""

from __future__ import annotations

from pathlib import Path

import pytest
from helpers.bad_inputs import copy_inputs, make_inputs


@pytest.fixture(scope="session")
def inputs(tmp_path_factory) -> Path:
    """Return a folder of valid inputs; every test damages a copy."""
    folder = tmp_path_factory.mktemp("inputs")
    make_inputs(folder)
    return folder


@pytest.fixture
def folder(inputs, tmp_path, monkeypatch, bad) -> Path:
    """Return a copy of the valid inputs, which is the current directory."""
    folder = tmp_path / "here"
    copy_inputs(inputs, folder, bad.command)
    monkeypatch.chdir(folder)
    return folder
