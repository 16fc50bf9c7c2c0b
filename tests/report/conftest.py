"""Runs and a report of them, shared by the tests of this folder."""

from __future__ import annotations

import json

import pytest
from helpers.cli import succeed
from helpers.stories import write


@pytest.fixture(scope="module")
def story(tmp_path_factory):
    """Run three classification stages: teacher, two seeds of a student, control."""
    folder = tmp_path_factory.mktemp("story")
    write(folder, "classes")
    succeed("distill", folder / "c.py", "--workdir", folder / "w")
    return folder / "w"


@pytest.fixture(scope="module")
def report(story):
    """Write the report of the story; return its terminal output, its page and its facts."""
    out = story.parent / "report.html"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("COLUMNS", "250")
        printed = succeed("report", story, "--out", out, "--times", 2)
    return printed, out, json.loads(out.with_suffix(".json").read_text())
