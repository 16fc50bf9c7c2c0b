"""Every entry of ``mutations.py`` matches the package and names tests that exist."""

import re

import pytest
from helpers.paths import ROOT
from mutations import mutations

MUTATIONS = mutations()


@pytest.mark.parametrize("file", sorted({mutation.file for mutation in MUTATIONS}))
def test_texts_occur_once(file):
    source = (ROOT / "flaxdistill" / file).read_text(encoding="utf-8")
    for mutation in MUTATIONS:
        if mutation.file == file:
            assert source.count(mutation.text) == 1, mutation.text
            assert mutation.replacement != mutation.text


@pytest.mark.parametrize("tests", sorted({mutation.tests for mutation in MUTATIONS}))
def test_tests_exist(tests):
    file, *names = tests.split("::")
    source = (ROOT / "tests" / file).read_text(encoding="utf-8")
    for name in names:
        function, _, parameters = name.partition("[")
        assert re.search(rf"^def {function}\(", source, re.MULTILINE), name
        assert parameters.removesuffix("]") in source, name
