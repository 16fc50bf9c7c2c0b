"""The documentation works: the README's Python, the notebooks, the links and the API pages."""

from __future__ import annotations

import ast
import html
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from helpers.cli import write_model
from helpers.paths import ROOT

import flaxdistill
from flaxdistill.tasks.text_classification import TextHead

NOTEBOOKS = sorted((ROOT / "examples").glob("*.ipynb"))
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("tpu_scripts/*.md")])


def block(name: str, file: str = "README.md") -> str:
    """Return the fenced block after a marker comment."""
    text = (ROOT / file).read_text(encoding="utf-8")
    (code,) = re.findall(rf"<!-- {name} -->\n```\w*\n(.*?)```", text, re.DOTALL)
    return code


def test_readme_example(tmp_path, monkeypatch):
    """The example runs as written, with two steps instead of a thousand."""
    monkeypatch.chdir(tmp_path)
    labels = {"head": TextHead(labels=("negative", "positive")), "pooler": True}
    write_model(tmp_path / "my-teacher", num_layers=4, max_positions=128, **labels)
    reviews = [("a lovely film", "positive"), ("a bad film", "negative")] * 8
    rows = "review,sentiment\n" + "".join(f"{text},{label}\n" for text, label in reviews)
    for name in ("train.csv", "dev.csv"):
        (tmp_path / name).write_text(rows)
    code = block("example")
    assert "steps=1000" in code
    names: dict = {}
    exec(compile(code.replace("steps=1000", "steps=2"), "README.md", "exec"), names)
    assert names["run"].history[-1]["split"] == "held_out"
    assert (tmp_path / "my-student" / "model.safetensors").is_file()


def test_readme_is_short():
    assert len((ROOT / "README.md").read_text(encoding="utf-8").splitlines()) <= 150


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_links_and_paths_exist(page):
    text = page.read_text(encoding="utf-8")
    links = [link for link in re.findall(r"\]\(([^)#\s]+)", text) if "://" not in link]
    missing = [link for link in links if not (page.parent / link).exists()]
    scripts = re.findall(
        r"\b((?:benchmarks|tests|configs|flaxdistill)/[\w/.-]+\.(?:py|json|toml))", text
    )
    missing += [path for path in scripts if not (ROOT / path).exists()]
    assert not missing


def test_number_of_bad_inputs():
    """Counted in the source, because no test imports another."""
    trees = [
        ast.parse(path.read_text(encoding="utf-8"))
        for path in (ROOT / "tests/end_to_end/bad_inputs").glob("test_*.py")
    ]
    tables = [
        node.value
        for tree in trees
        for node in tree.body
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "BAD_INPUTS"
    ]
    count = sum(len(table.keys) for table in tables)
    text = (ROOT / "docs/benchmarks/correctness.md").read_text(encoding="utf-8")
    assert f"has {count} invalid inputs" in text


def test_commands_of_the_docs_select_tests():
    tests = "".join(path.read_text(encoding="utf-8") for path in ROOT.glob("tests/**/test_*.py"))
    for page in PAGES:
        for keyword in re.findall(r"pytest [^\n]*-k (\w+)", page.read_text(encoding="utf-8")):
            assert re.search(rf"def test_\w*{keyword}", tests), f"{page.name}: {keyword}"


@pytest.mark.slow
@pytest.mark.notebook
@pytest.mark.hf
@pytest.mark.torch
@pytest.mark.filterwarnings("default")  # Jupyter itself warns
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebooks_run(path, tmp_path):
    import nbformat
    from nbclient import NotebookClient

    notebook = nbformat.read(path, as_version=4)
    assert not any(cell.get("outputs") for cell in notebook.cells), "remove the outputs"
    # One device, as users have.
    environment = {name: value for name, value in os.environ.items() if name != "XLA_FLAGS"}
    search_path = [str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
    environment["PYTHONPATH"] = os.pathsep.join(search_path)
    client = NotebookClient(notebook, timeout=600, resources={"metadata": {"path": tmp_path}})
    client.execute(env=environment)
    outputs = [str(output) for cell in notebook.cells for output in cell.get("outputs", ())]
    assert not any("absl" in line for line in outputs)
    if path.stem == "your_own_classifier":
        line = r"(?:teacher|student|control): [\d,]+ parameters, accuracy ([\d.]+)"
        accuracies = [float(accuracy) for accuracy in re.findall(line, " ".join(outputs))]
        # The larger of the two classes has 0.57 of the rows.
        assert len(accuracies) == 3 and min(accuracies) > 0.8


def test_there_are_notebooks():
    assert [path.stem for path in NOTEBOOKS] == ["first_distillation", "your_own_classifier"]


@pytest.mark.docs
def test_api_pages_have_every_name(tmp_path):
    program, *arguments, out = block("pages", "docs/index.md").split()
    assert (program, arguments[-1]) == ("pdoc", "-o") and out.startswith("build/")
    command = [sys.executable, "-m", program, *arguments, str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0 and "Warn" not in done.stderr, done.stderr
    page = html.unescape((tmp_path / "flaxdistill.html").read_text(encoding="utf-8"))
    text = " ".join(re.sub(r"<[^>]+>|`", "", page).split())
    for name in flaxdistill.__all__:
        assert f'id="{name}"' in page, name
        summary = getattr(flaxdistill, name).__doc__.strip().partition("\n\n")[0]
        assert " ".join(summary.replace("`", "").split()).partition(":")[0] in text, name
    assert (Path(tmp_path) / "flaxdistill" / "losses" / "relation.html").is_file()
