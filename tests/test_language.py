"""The prose of the project uses none of the words that newcomers do not understand."""

import re
from pathlib import Path

import pytest
from helpers.paths import ROOT

WORDS = (
    r"told|said|reckon\w*|mend(s|ed|ing)?|judg(e|es|ed|ing)|worth|lest|whom|kept|beside|stood"
    r"|go(es)? on|went on|goes by|stands? (in|for|there|where|alone|still|beside)|put right|at work"
)
PRIVATE = re.compile(rf"\b({WORDS})\b", re.IGNORECASE)
DATA = {"flaxdistill/inference/stop_words.py"}
"""Files that hold these words as data."""

PROSE = sorted(
    path.relative_to(ROOT).as_posix()
    for pattern in (
        "*.md",
        "docs/**/*.md",
        "flaxdistill/**/*.py",
        "configs/**/*.py",
        "benchmarks/**/*.py",
        "examples/*.ipynb",
        "tpu_scripts/*",
    )
    for path in ROOT.glob(pattern)
)


@pytest.mark.parametrize("file", sorted({*PROSE} - DATA))
def test_plain_words(file):
    lines = Path(ROOT / file).read_text(encoding="utf-8").splitlines()
    found = [f"{n}: {line.strip()}" for n, line in enumerate(lines, 1) if PRIVATE.search(line)]
    assert not found, "\n".join(found)
