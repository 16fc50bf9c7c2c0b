"""The Python API: imports are cheap, and functions do what the commands do."""

from __future__ import annotations

import ast
import dataclasses
import json
import signal
import subprocess
import sys
import threading

import numpy as np
import pytest
from helpers.cli import run, succeed, write_model
from helpers.models import TEXTS
from helpers.paths import ROOT

import flaxdistill
from flaxdistill import param_paths, terminal
from flaxdistill.errors import UserError
from flaxdistill.experiment import config_file
from flaxdistill.models.head import NoHead


def test_import_loads_no_heavy_package():
    check = (
        "import sys, flaxdistill; assert flaxdistill.__version__; flaxdistill.UserError; "
        "dir(flaxdistill); "
        "heavy = {'jax', 'flax', 'numpy', 'tyro', 'rich'} & set(sys.modules); "
        "assert not heavy, heavy"
    )
    subprocess.run([sys.executable, "-c", check], check=True, timeout=60)


def test_lazy_names_match_the_type_checker_imports():
    source = ast.parse((ROOT / "flaxdistill" / "__init__.py").read_text())
    (block,) = [node for node in source.body if isinstance(node, ast.If)]
    imports = {alias.asname: f"{node.module}" for node in block.body for alias in node.names}
    modules = {name: f"flaxdistill.{module}" for name, module in flaxdistill._MODULES.items()}
    assert imports == modules
    assert list(modules) == flaxdistill.__all__
    for name, module in modules.items():
        value = getattr(flaxdistill, name)
        assert value.__name__ == name and value.__module__ == module
        assert name in dir(flaxdistill)
    with pytest.raises(AttributeError, match="module 'flaxdistill' has no attribute 'nothing'"):
        flaxdistill.nothing  # noqa: B018


def predict(*arguments: object) -> list[dict]:
    return [json.loads(line) for line in succeed("predict", *arguments).splitlines()]


@pytest.mark.parametrize("kind", ["sequence", "number", "tokens", "plain"])
def test_model_matches_predict(models, kind):
    model = flaxdistill.load(models[kind])
    answers = model(TEXTS)
    assert [
        {"text": text} | answer for text, answer in zip(TEXTS, answers, strict=True)
    ] == predict(models[kind], *TEXTS)
    assert model(TEXTS[0]) == answers[0]
    assert model([]) == []


def test_pairs_masks_and_top(models):
    model = flaxdistill.load(models["span"])
    context, questions = "the dog sees a cat", ["a cat", "the dog"]
    (predicted, _) = predict(models["span"], *questions, "--pair", context)
    assert {"text": "a cat", "pair": context} | model("a cat", context) == predicted
    other = "a bee sees the cat"
    single = [model("a cat", context), model("the dog", other)]
    assert model(questions, [context, other]) == single
    words = flaxdistill.load(str(models["mlm"]), top=2)("the [MASK] sees a dog")
    assert {"text": "the [MASK] sees a dog"} | words == predict(
        models["mlm"], "the [MASK] sees a dog", "--top", 2
    )[0]
    assert len(words["masks"][0]) == 2


@pytest.mark.hf
@pytest.mark.torch
def test_hidden_states_match_transformers(models):
    import torch
    import transformers

    tokenizer = transformers.AutoTokenizer.from_pretrained(models["mlm"])
    reference = transformers.AutoModel.from_pretrained(
        models["mlm"], add_pooling_layer=False
    ).eval()
    model = flaxdistill.load(models["mlm"], batch_size=2)
    hidden, vectors = model.hidden(TEXTS), model.encode(TEXTS)
    assert vectors.dtype == np.float32 and vectors.shape == (len(TEXTS), model.config.hidden_size)
    for text, states, vector in zip(TEXTS, hidden, vectors, strict=True):
        with torch.no_grad():
            expected = (
                reference(**tokenizer(text, return_tensors="pt")).last_hidden_state[0].numpy()
            )
        assert states.dtype == np.float32
        np.testing.assert_allclose(states, expected, atol=1e-5)
        np.testing.assert_allclose(vector, expected.mean(0), atol=1e-5)
        np.testing.assert_allclose(model.hidden(text), states, atol=1e-6)
        np.testing.assert_allclose(model.encode(text), vector, atol=1e-6)
    assert not np.allclose(model.hidden("the cat", "a dog")[:3], model.hidden("the cat")[:3])
    assert model.encode([]).shape == (0, model.config.hidden_size) and model.hidden([]) == []


def test_model_without_head(tmp_path):
    model = flaxdistill.load(write_model(tmp_path / "bare", head=NoHead()))
    assert model.hidden("a cat").shape == (6, 16)  # [CLS] a c ##a ##t [SEP]
    with pytest.raises(UserError, match="the model has no head to predict with"):
        model("a cat")


def test_save(models, tmp_path):
    model = flaxdistill.load(models["sequence"])
    again = flaxdistill.load(model.save(tmp_path / "copy"))
    assert again.config == model.config and again("a cat") == model("a cat")
    params, saved = param_paths.flatten(model.params), param_paths.flatten(again.params)
    assert all(np.array_equal(leaf, saved[name]) for name, leaf in params.items())
    with pytest.raises(UserError, match="copy"):
        model.save(tmp_path / "copy")
    assert "head 'sequence'" in repr(model) and "2 x 16" in repr(model)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda path: flaxdistill.load(path.parent / "nothing"), "nothing"),
        (lambda path: flaxdistill.load(path)(["fine", 3]), "text 2: expected text but found int 3"),
        (
            lambda path: flaxdistill.load(path).encode([None]),
            "text 1: expected text but found NoneType",
        ),
        (
            lambda path: flaxdistill.load(path)(["a", "b"], ["c"]),
            "text 2 has no second text; give one second text",
        ),
        (
            lambda path: flaxdistill.load(path)(["a"], ["c", "d"]),
            "text 2 has no first text; give one second text",
        ),
        (lambda path: flaxdistill.load(path, length=1000).hidden("a"), "length is 1000; "),
        (
            lambda path: flaxdistill.load(path, batch_size=0)("a"),
            "batch-size is 0; it must be at least 1",
        ),
        (lambda path: flaxdistill.load(path, top=0)("a"), "top is 0; it must be at least 1"),
    ],
)
def test_model_errors(models, call, message):
    with pytest.raises(UserError, match=message):
        call(models["sequence"])


@pytest.fixture(scope="module")
def runs(experiments, tmp_path_factory):
    return flaxdistill.distill(experiments, tmp_path_factory.mktemp("runs"))


@pytest.mark.slow
def test_distill_returns_a_run_per_stage(runs, experiments, tmp_path, capsys):
    assert list(runs) == ["student", "control"]
    student = runs["student"]
    assert student.experiment == experiments["student"]
    assert "student" in repr(student)
    exported = flaxdistill.load(student.path / "export")
    for name, leaf in param_paths.flatten(student.student.params).items():
        assert np.array_equal(leaf, param_paths.flatten(exported.params)[name]), name
    assert student.student("a [MASK]") == exported("a [MASK]")
    rows = [json.loads(line) for line in (student.path / "metrics.jsonl").read_text().splitlines()]
    assert student.history == rows and [row["step"] for row in rows if "split" not in row] == [1, 2]
    (held_out,) = [row for row in rows if row.get("split") == "held_out"]
    assert student.metrics["mlm"] == held_out["mlm"]
    assert student.metrics["parameters"] == sum(
        leaf.size for leaf in param_paths.flatten(student.student.params).values()
    )
    (row,) = student.evaluate()
    assert row["mlm"] == pytest.approx(held_out["mlm"], abs=1e-4)
    assert [
        row["name"] for row in student.evaluate(student.path, against=runs["control"].path)
    ] == [
        str(student.path),
        str(runs["control"].path),
    ]
    again = flaxdistill.load(student.export(tmp_path / "out"))
    assert again("a [MASK]") == exported("a [MASK]")
    assert "How to use it" in (tmp_path / "out" / "README.md").read_text()
    with pytest.raises(UserError, match="out"):
        student.export(tmp_path / "out")


@pytest.mark.slow
def test_second_call_skips_and_more_steps_resume(runs, experiments, capsys, monkeypatch):
    root = runs["student"].path.parent
    before = runs["student"].history
    capsys.readouterr()
    again = flaxdistill.distill(experiments, root)
    assert again["student"].history == before
    out = capsys.readouterr().out
    assert "student: finished at step 2, skipped" in out and "agree" in out  # the results table
    assert (
        flaxdistill.distill(experiments, str(root), quiet=True)["control"].path == root / "control"
    )
    assert capsys.readouterr().out == ""
    longer = {"student": dataclasses.replace(experiments["student"], steps=3)}
    history = flaxdistill.distill(longer, root, quiet=True)["student"].history
    assert history[:2] == before[:2] and history[-1]["step"] == 3


@pytest.mark.slow
def test_distill_matches_the_command(home, tmp_path):
    config = config_file.load_config(home / "alone.py")
    run = flaxdistill.distill(dataclasses.replace(config, steps=2), tmp_path / "python", quiet=True)
    succeed("train", home / "alone.py", "--workdir", tmp_path / "command", "--steps", 2)
    other = flaxdistill.Run(tmp_path / "command")
    for name, leaf in param_paths.flatten(run.student.params).items():
        assert np.array_equal(leaf, param_paths.flatten(other.student.params)[name]), name
    histories = [
        [{k: v for k, v in row.items() if k != "tokens_per_second"} for row in each.history]
        for each in (run, other)
    ]
    assert histories[0] == histories[1]
    with pytest.raises(UserError, match="is not a workdir of flaxdistill"):
        flaxdistill.Run(tmp_path)


@pytest.mark.slow
def test_interrupt_and_resume(home, tmp_path, monkeypatch, capsys):
    config = config_file.load_config(home / "alone.py")
    show = terminal.ProgressBar.update

    def interrupting(bar, stage, steps, row):
        show(bar, stage, steps, row)
        if row["step"] == 2:
            signal.raise_signal(signal.SIGINT)

    with monkeypatch.context() as patch:
        patch.setattr(terminal.ProgressBar, "update", interrupting)
        with pytest.raises(KeyboardInterrupt):
            flaxdistill.distill(config, tmp_path / "w")
    assert "which is saved; run the same command again to resume" in capsys.readouterr().out
    stopped = [row["step"] for row in flaxdistill.Run(tmp_path / "w").history]
    assert 2 in stopped and 4 not in stopped
    run = flaxdistill.distill(config, tmp_path / "w")
    assert [row["step"] for row in run.history if "split" not in row] == [1, 2, 3, 4]
    assert "finished" not in capsys.readouterr().out


def test_distill_in_a_thread(home, tmp_path):
    """Python sets signal handlers in the main thread only; others must do without."""
    config = dataclasses.replace(config_file.load_config(home / "alone.py"), steps=1)
    runs = []
    thread = threading.Thread(
        target=lambda: runs.append(flaxdistill.distill(config, tmp_path / "w", quiet=True))
    )
    thread.start()
    thread.join()
    assert runs and runs[0].metrics["step"] == 1


def test_command_and_api_share_code(home, tmp_path, monkeypatch):
    def fail(*arguments):
        raise UserError("shared")

    monkeypatch.setattr("flaxdistill.api.run.run_with_progress", fail)
    code, out = run("train", home / "alone.py", "--workdir", tmp_path / "w")
    assert code == 2 and "shared" in out
    with pytest.raises(UserError, match="shared"):
        flaxdistill.distill(config_file.load_config(home / "alone.py"), tmp_path / "w")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda e: 3, "distill: 3 is not an Experiment or a dict of named Experiments"),
        (lambda e: {}, "distill: {} is not an Experiment or a dict of named Experiments"),
        (lambda e: {"a b": e}, "distill: stage 'a b' is not an identifier"),
        (lambda e: {"data": e}, "distill: a stage cannot be called 'data'"),
        (lambda e: dataclasses.replace(e, wandb=3), "distill: config.wandb is 3"),
        (lambda e: dataclasses.replace(e, reference=flaxdistill.Stage("x")), "needs stage 'x'"),
    ],
)
def test_run_errors(home, tmp_path, change, message):
    with pytest.raises(UserError, match=message):
        flaxdistill.distill(
            change(config_file.load_config(home / "alone.py")), tmp_path / "w", quiet=True
        )
    assert not (tmp_path / "w").exists()


def test_notebook_shows_one_line_per_stage(capsys):
    from rich.console import Console

    bar = terminal.ProgressBar(Console(force_jupyter=True, width=60))
    for step, loss in ((1, 10.5), (2, 0.5)):
        bar.update("", 2, {"step": step, "loss": loss})
    out = capsys.readouterr().out
    assert out.count("\r") == 2 and "\n" not in out
    assert out.endswith("\rstudent step 2/2 loss 0.5000 ")  # padded over the longer line before
    quiet = terminal.ProgressBar(Console(force_jupyter=True, quiet=True))
    quiet.update("", 2, {"step": 1, "loss": 0.5})
    assert capsys.readouterr().out == ""
