"""What is told of the Python side: the README's lines, the notebooks and the API pages."""

from __future__ import annotations

import html
import os
import re
import subprocess
import sys

import pytest
from helpers.paths import ROOT

import flaxdistill

NOTEBOOKS = sorted((ROOT / "examples").glob("*.ipynb"))


def block(mark: str) -> str:
    """The fenced block after a marker comment of README.md."""
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    (found,) = re.findall(rf"<!-- {mark} -->\n```\w*\n(.*?)```", text, re.DOTALL)
    return found


def test_the_readmes_python(experiments, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    names = {"experiments": experiments}
    exec(compile(block("python"), "README.md", "exec"), names)
    assert names["model"].encode(["An array.", "A file."]).shape == (2, 16)
    assert (tmp_path / "my-student" / "model.safetensors").is_file()
    assert names["runs"]["student"].history[-1]["split"] == "held_out"


@pytest.mark.notebook
@pytest.mark.hf
@pytest.mark.torch
@pytest.mark.filterwarnings("default")  # of Jupyter's own machinery
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebooks_run(path, tmp_path):
    import nbformat
    from nbclient import NotebookClient

    notebook = nbformat.read(path, as_version=4)
    assert not any(cell.get("outputs") for cell in notebook.cells), "strip its outputs"
    # One device, as users have.
    environment = {name: value for name, value in os.environ.items() if name != "XLA_FLAGS"}
    environment["PYTHONPATH"] = os.pathsep.join(
        [str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
    )
    NotebookClient(notebook, timeout=600, resources={"metadata": {"path": tmp_path}}).execute(
        env=environment
    )
    told = [str(output) for cell in notebook.cells for output in cell.get("outputs", ())]
    assert any("finished at step" in line or "read back bit-equal" in line for line in told)
    assert not any("absl" in line for line in told)
    if path.stem == "your_own_classifier":
        line = r"(?:teacher|student|control): [\d,]+ parameters, accuracy ([\d.]+)"
        accuracies = [float(found) for found in re.findall(line, " ".join(told))]
        assert (
            len(accuracies) == 3 and min(accuracies) > 0.8
        )  # of two classes, the larger of which has 0.57


def test_there_are_notebooks():
    assert [path.stem for path in NOTEBOOKS] == ["first_distillation", "your_own_classifier"]


@pytest.mark.docs
def test_pages_have_every_name(tmp_path):
    program, *arguments, out = block("pages").split()
    assert (program, arguments[-1]) == ("pdoc", "-o") and out.startswith("build/")
    command = [sys.executable, "-m", program, *arguments, str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0 and "Warn" not in done.stderr, done.stderr
    page = html.unescape((tmp_path / "flaxdistill.html").read_text(encoding="utf-8"))
    plain = " ".join(re.sub(r"<[^>]+>|`", "", page).split())
    for name in flaxdistill.__all__:
        assert f'id="{name}"' in page, name
        first = getattr(flaxdistill, name).__doc__.strip().partition("\n\n")[0]
        assert " ".join(first.replace("`", "").split()).partition(":")[0] in plain, name
    assert (tmp_path / "flaxdistill" / "losses" / "relation.html").is_file()
