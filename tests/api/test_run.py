"""The names for Python: what they cost, and that they do what the verbs do."""

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

# --- the package ----------------------------------------------------------------------------------------


def test_importing_costs_nothing_heavy():
    check = (
        "import sys, flaxdistill; assert flaxdistill.__version__; flaxdistill.UserError; dir(flaxdistill); "
        "heavy = {'jax', 'flax', 'numpy', 'tyro', 'rich'} & set(sys.modules); assert not heavy, heavy"
    )
    subprocess.run([sys.executable, "-c", check], check=True, timeout=60)


def test_names_are_what_a_type_checker_sees():
    source = ast.parse((ROOT / "flaxdistill" / "__init__.py").read_text())
    (block,) = [node for node in source.body if isinstance(node, ast.If)]
    seen = {alias.asname: f"{node.module}" for node in block.body for alias in node.names}
    homes = {name: f"flaxdistill.{module}" for name, module in flaxdistill._HOMES.items()}
    assert seen == homes
    assert list(homes) == flaxdistill.__all__
    for name, module in homes.items():
        value = getattr(flaxdistill, name)
        assert value.__name__ == name and value.__module__ == module
        assert name in dir(flaxdistill)
    with pytest.raises(AttributeError, match="module 'flaxdistill' has no attribute 'nothing'"):
        flaxdistill.nothing  # noqa: B018


# --- a model --------------------------------------------------------------------------------------------


def told(*arguments: object) -> list[dict]:
    return [json.loads(line) for line in succeed("predict", *arguments).splitlines()]


@pytest.mark.parametrize("kind", ["sequence", "number", "tokens", "plain"])
def test_a_model_answers_as_predict_does(models, kind):
    model = flaxdistill.load(models[kind])
    answers = model(TEXTS)
    assert [{"text": text} | answer for text, answer in zip(TEXTS, answers, strict=True)] == told(
        models[kind], *TEXTS
    )
    assert model(TEXTS[0]) == answers[0]
    assert model([]) == []


def test_pairs_masks_and_how_much_is_told(models):
    model = flaxdistill.load(models["span"])
    context, questions = "the dog sees a cat", ["a cat", "the dog"]
    (verb, _) = told(models["span"], *questions, "--pair", context)
    assert {"text": "a cat", "pair": context} | model("a cat", context) == verb
    other = "a bee sees the cat"
    apart = [model("a cat", context), model("the dog", other)]
    assert model(questions, [context, other]) == apart
    words = flaxdistill.load(str(models["mlm"]), top=2)("the [MASK] sees a dog")
    assert {"text": "the [MASK] sees a dog"} | words == told(
        models["mlm"], "the [MASK] sees a dog", "--top", 2
    )[0]
    assert len(words["masks"][0]) == 2


@pytest.mark.hf
@pytest.mark.torch
def test_states_are_those_of_transformers(models):
    import torch
    import transformers

    tokenizer = transformers.AutoTokenizer.from_pretrained(models["mlm"])
    reference = transformers.AutoModel.from_pretrained(
        models["mlm"], add_pooling_layer=False
    ).eval()
    model = flaxdistill.load(models["mlm"], batch_size=2)
    ours, vectors = model.hidden(TEXTS), model.encode(TEXTS)
    assert vectors.dtype == np.float32 and vectors.shape == (len(TEXTS), model.config.hidden_size)
    for text, states, vector in zip(TEXTS, ours, vectors, strict=True):
        with torch.no_grad():
            theirs = reference(**tokenizer(text, return_tensors="pt")).last_hidden_state[0].numpy()
        assert states.dtype == np.float32
        np.testing.assert_allclose(states, theirs, atol=1e-5)
        np.testing.assert_allclose(vector, theirs.mean(0), atol=1e-5)
        np.testing.assert_allclose(model.hidden(text), states, atol=1e-6)
        np.testing.assert_allclose(model.encode(text), vector, atol=1e-6)
    assert not np.allclose(model.hidden("the cat", "a dog")[:3], model.hidden("the cat")[:3])
    assert model.encode([]).shape == (0, model.config.hidden_size) and model.hidden([]) == []


def test_a_model_without_a_head_has_states(tmp_path):
    model = flaxdistill.load(write_model(tmp_path / "bare", head="none"))
    assert model.hidden("a cat").shape == (6, 16)  # [CLS] a c ##a ##t [SEP]
    with pytest.raises(UserError, match="the model has no head to answer with"):
        model("a cat")


def test_a_model_is_saved_whole_or_not_at_all(models, tmp_path):
    model = flaxdistill.load(models["sequence"])
    again = flaxdistill.load(model.save(tmp_path / "copy"))
    assert again.config == model.config and again("a cat") == model("a cat")
    ours, theirs = param_paths.flatten(model.params), param_paths.flatten(again.params)
    assert all(np.array_equal(leaf, theirs[name]) for name, leaf in ours.items())
    with pytest.raises(UserError, match="copy"):
        model.save(tmp_path / "copy")
    assert "head 'sequence'" in repr(model) and "2 x 16" in repr(model)


@pytest.mark.parametrize(
    ("ask", "sentence"),
    [
        (lambda path: flaxdistill.load(path.parent / "nothing"), "nothing"),
        (lambda path: flaxdistill.load(path)(["fine", 3]), "text 2: expected text but found int 3"),
        (
            lambda path: flaxdistill.load(path).encode([None]),
            "text 1: expected text but found NoneType",
        ),
        (
            lambda path: flaxdistill.load(path)(["a", "b"], ["c"]),
            "text 2 has no second text; give as many",
        ),
        (
            lambda path: flaxdistill.load(path)(["a"], ["c", "d"]),
            "text 2 has no first text; give as many",
        ),
        (lambda path: flaxdistill.load(path, length=1000).hidden("a"), "length is 1000; "),
        (
            lambda path: flaxdistill.load(path, batch_size=0)("a"),
            "batch-size is 0; it must be at least 1",
        ),
        (lambda path: flaxdistill.load(path, top=0)("a"), "top is 0; it must be at least 1"),
    ],
)
def test_mistakes_about_a_model(models, ask, sentence):
    with pytest.raises(UserError, match=sentence):
        ask(models["sequence"])


# --- a run ----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def runs(experiments, tmp_path_factory):
    return flaxdistill.distill(experiments, tmp_path_factory.mktemp("runs"))


@pytest.mark.slow
def test_distill_gives_the_run_of_each_stage(runs, experiments, tmp_path, capsys):
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
    assert "How to load it" in (tmp_path / "out" / "README.md").read_text()
    with pytest.raises(UserError, match="out"):
        student.export(tmp_path / "out")


@pytest.mark.slow
def test_a_second_call_returns_at_once_and_a_longer_one_goes_on(
    runs, experiments, capsys, monkeypatch
):
    root = runs["student"].path.parent
    before = runs["student"].history
    capsys.readouterr()
    again = flaxdistill.distill(experiments, root)
    assert again["student"].history == before
    out = capsys.readouterr().out
    assert "student: finished at step 2, skipped" in out and "agree" in out  # the closing table
    assert (
        flaxdistill.distill(experiments, str(root), quiet=True)["control"].path == root / "control"
    )
    assert capsys.readouterr().out == ""
    longer = {"student": dataclasses.replace(experiments["student"], steps=3)}
    history = flaxdistill.distill(longer, root, quiet=True)["student"].history
    assert history[:2] == before[:2] and history[-1]["step"] == 3


@pytest.mark.slow
def test_one_experiment_is_the_command_lines(home, tmp_path):
    config = config_file.load(home / "alone.py")
    ours = flaxdistill.distill(dataclasses.replace(config, steps=2), tmp_path / "ours", quiet=True)
    succeed("train", home / "alone.py", "--workdir", tmp_path / "theirs", "--steps", 2)
    theirs = flaxdistill.Run(tmp_path / "theirs")
    for name, leaf in param_paths.flatten(ours.student.params).items():
        assert np.array_equal(leaf, param_paths.flatten(theirs.student.params)[name]), name
    told = [{k: v for k, v in row.items() if k != "tokens_per_second"} for row in ours.history]
    assert told == [
        {k: v for k, v in row.items() if k != "tokens_per_second"} for row in theirs.history
    ]
    with pytest.raises(UserError, match="is no workdir of flaxdistill"):
        flaxdistill.Run(tmp_path)


@pytest.mark.slow
def test_an_interrupt_keeps_what_is_done(home, tmp_path, monkeypatch, capsys):
    config = config_file.load(home / "alone.py")
    show = terminal.Bar.show

    def interrupting(bar, stage, steps, row):
        show(bar, stage, steps, row)
        if row["step"] == 2:
            signal.raise_signal(signal.SIGINT)

    with monkeypatch.context() as patch:
        patch.setattr(terminal.Bar, "show", interrupting)
        with pytest.raises(KeyboardInterrupt):
            flaxdistill.distill(config, tmp_path / "w")
    assert "which is saved; the same command goes on from there" in capsys.readouterr().out
    stopped = [row["step"] for row in flaxdistill.Run(tmp_path / "w").history]
    assert 2 in stopped and 4 not in stopped
    run = flaxdistill.distill(config, tmp_path / "w")
    assert [row["step"] for row in run.history if "split" not in row] == [1, 2, 3, 4]
    assert "finished" not in capsys.readouterr().out


def test_a_thread_may_distil(home, tmp_path):
    """Signals are heard by the main thread alone, and Python refuses to set their handlers in another."""
    config = dataclasses.replace(config_file.load(home / "alone.py"), steps=1)
    found = []
    thread = threading.Thread(
        target=lambda: found.append(flaxdistill.distill(config, tmp_path / "w", quiet=True))
    )
    thread.start()
    thread.join()
    assert found and found[0].metrics["step"] == 1


def test_the_command_line_takes_the_same_path(home, tmp_path, monkeypatch):
    def follow(*arguments):
        raise UserError("the one path")

    monkeypatch.setattr("flaxdistill.api.run.follow", follow)
    code, out = run("train", home / "alone.py", "--workdir", tmp_path / "w")
    assert code == 2 and "the one path" in out
    with pytest.raises(UserError, match="the one path"):
        flaxdistill.distill(config_file.load(home / "alone.py"), tmp_path / "w")


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda e: 3, "distill: 3 is no Experiment and no dict of named Experiments"),
        (lambda e: {}, "distill: {} is no Experiment and no dict of named Experiments"),
        (lambda e: {"a b": e}, "distill: stage 'a b' is no plain name"),
        (lambda e: {"data": e}, "distill: a stage cannot be called 'data'"),
        (lambda e: dataclasses.replace(e, wandb=3), "distill: config.wandb is 3"),
        (lambda e: dataclasses.replace(e, reference=flaxdistill.Stage("x")), "needs stage 'x'"),
    ],
)
def test_mistakes_about_a_run(home, tmp_path, change, sentence):
    with pytest.raises(UserError, match=sentence):
        flaxdistill.distill(change(config_file.load(home / "alone.py")), tmp_path / "w", quiet=True)
    assert not (tmp_path / "w").exists()


def test_a_notebook_shows_one_line_a_stage(capsys):
    from rich.console import Console

    bar = terminal.Bar(Console(force_jupyter=True, width=60))
    for step, loss in ((1, 10.5), (2, 0.5)):
        bar.show("", 2, {"step": step, "loss": loss})
    out = capsys.readouterr().out
    assert out.count("\r") == 2 and "\n" not in out
    assert out.endswith("\rstudent step 2/2 loss 0.5000 ")  # over what was longer
    quiet = terminal.Bar(Console(force_jupyter=True, quiet=True))
    quiet.show("", 2, {"step": 1, "loss": 0.5})
    assert capsys.readouterr().out == ""
