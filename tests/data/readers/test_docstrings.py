"""The docstring corpus: prose of installed packages, without importing them."""

import hashlib
import subprocess
import sys

import pytest

from flaxdistill.data.readers import docstrings
from flaxdistill.data.readers.docstrings import clean, read_docstrings

PROSE = "The optimizer keeps a moving average of every gradient that it has seen so far. " * 4


@pytest.fixture
def package(tmp_path, monkeypatch):
    """A package that replaces the real ones; importing it would fail."""
    folder = tmp_path / "wordy"
    folder.mkdir()
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(docstrings, "PACKAGES", ("wordy",))

    def write(name, text):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(text)

    write("__init__.py", "raise ImportError('read, never imported')")
    return write


def test_docstrings_of_modules_classes_and_functions(package):
    package(
        "a.py",
        f'"""Module. {PROSE}"""\nclass A:\n    """Class. {PROSE}"""\n'
        f'    def f(self):\n        """Method. {PROSE}"""\n',
    )
    package("b.pyi", f'def g():\n    """Stub. {PROSE}"""\n')
    package("c.py", f'add_newdoc("numpy", "add", """Added. {PROSE}""")\n')
    package("broken.py", f'"""Broken. {PROSE}"""\ndef (\n')
    package("tests/d.py", f'"""Test. {PROSE}"""\n')
    assert {text.split()[0] for text in read_docstrings()} == {
        "Module.",
        "Class.",
        "Method.",
        "Stub.",
        "Added.",
    }


def test_short_repeated_and_foreign_texts_are_dropped(package):
    package("a.py", f'"""{PROSE}"""\ndef f():\n    """{PROSE}"""\ndef g():\n    """Too short."""\n')
    package("b.py", '"""' + "x[0] += 1.5; y[2] *= 3; " * 20 + '"""\n')
    package("c.py", '"""' + "Оптимизатор хранит среднее. " * 20 + '"""\n')
    assert read_docstrings() == [PROSE.strip()]


def test_a_smaller_corpus_is_a_prefix_of_a_larger_one(package):
    for number in range(20):
        package(f"m{number}.py", f'"""Number {number}. {PROSE}"""\n')
    everything = read_docstrings()
    some = read_docstrings(max_characters=2000)
    assert len(everything) == 20
    assert 0 < len(some) < 20
    assert some == everything[: len(some)]
    assert everything == sorted(everything, key=lambda text: hashlib.sha256(text.encode()).digest())
    assert sum(map(len, some)) <= 2000


def test_clean_keeps_prose_and_drops_code():
    text = """Return the sum.

    Parameters
    ----------
    x : array
        See :func:`~numpy.add` and ``axis``, **never** both::

    .. versionadded:: 1.7

    >>> add(1, 2)
    3

    Afterwards.

    ```python
    add(1, 2)
    ```
    """
    assert clean(text) == (
        "Return the sum.\n\nParameters\n\nx : array\n    See numpy.add and axis, never both:\n\n"
        "Afterwards."
    )


def test_the_real_packages_are_not_imported_and_give_megabytes():
    code = (
        "import sys; from flaxdistill.data.readers.docstrings import *; d = read_docstrings();"
        "print(len(d), sum(map(len, d)), [p for p in PACKAGES if p in sys.modules])"
    )
    count, characters, imported = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    ).stdout.split(maxsplit=2)
    assert int(count) > 3000
    assert 3_000_000 < int(characters) <= 6_000_000
    assert imported.strip() == "[]"
