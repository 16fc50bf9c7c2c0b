"""The commands, and the life of a run: interrupted, resumed, extended, damaged, out of memory.

Wrong inputs are tested in end_to_end/bad_inputs. Most commands run in this process.
"""

from __future__ import annotations

import fcntl
import gzip
import io
import json
import os
import shutil
import signal
import subprocess
import sys
import time

import jax
import pytest
from helpers.cli import environment, refused, rows_of, run, succeed
from jax import monitoring
from rich.console import Console

from flaxdistill import terminal
from flaxdistill.cli import flags, main
from flaxdistill.errors import UserError
from flaxdistill.experiment import evaluator
from flaxdistill.hub import checkpoint as hub
from flaxdistill.runtime import backend, sharding
from flaxdistill.train import log as train_log


def test_commands_on_a_finished_run(finished, tmp_path):
    assert [row["step"] for row in rows_of(finished)] == [1, 2, 3, 4]
    (held_out,) = rows_of(finished, "held_out")
    assert {"mlm", "accuracy", "kl", "agreement", "cosine"} <= set(held_out)

    # The checkpoint and the export give the same metrics.
    printed = succeed("eval", finished)
    assert f"{held_out['mlm']:.4f}" in printed
    assert f"{held_out['mlm']:.4f}" in succeed("eval", finished, "--model", finished / "export")
    layers = succeed("eval", finished, "--layers")
    assert (
        "cka" in layers and "cosine" in layers and "teacher 0" in layers and "student 1" in layers
    )

    assert "bit-equal" in succeed("export", finished, tmp_path / "out")
    assert "converted directory" in succeed("convert", tmp_path / "out", tmp_path / "converted")
    assert "Hugging Face directory" in succeed("convert", tmp_path / "converted", tmp_path / "back")
    for name in ("model.safetensors", "config.json"):
        assert (tmp_path / "back" / name).read_bytes() == (finished / "export" / name).read_bytes()

    digest = hub.read_model(str(tmp_path / "out")).digest
    for what in (tmp_path / "out", tmp_path / "converted", tmp_path / "back"):
        assert digest in succeed("inspect", what)
    assert "4 of 4" in succeed("inspect", finished)
    (blocks,) = (finished.parent / "blocks").glob("*/manifest.json")
    assert "held-out blocks" in succeed("inspect", blocks.parent)

    assert "finished at step 4, skipped" in succeed(
        "distill", finished.parent / "taught.py", "--workdir", finished
    )


@pytest.mark.slow
def test_profile(home, tmp_path):
    train = ("train", home / "alone.py", "--workdir", tmp_path / "w")
    assert "wrote a trace of steps 2 to 3" in succeed(*train, "--steps", 4, "--profile", "2:3")
    (trace,) = (tmp_path / "w" / "profile").rglob("perfetto_trace.json.gz")
    assert b"jit_step" in gzip.decompress(trace.read_bytes())
    assert list(trace.parent.glob("*.xplane.pb"))
    assert "no step is traced: profile is 2:3, and steps 5 to 6" in succeed(
        *train, "--steps", 6, "--profile", "2:3"
    )
    assert "wrote a trace of steps 8 to 8" in succeed(*train, "--steps", 8, "--profile", "8:12")
    for wrong in ("3", "3:2", "0:1", "a:b"):
        assert f"profile is '{wrong}'; name the first and the last step" in refused(
            *train, "--profile", wrong
        )


@pytest.mark.slow
def test_stages(config, tmp_path):
    path = config(
        "import dataclasses as d\n"
        'teacher = Teacher(path=Stage("first"), dtype="float32")\n'
        "later = d.replace(taught, teacher=teacher, student=student)\n"
        'config = {"first": alone, "second": later}'
    )
    out = succeed(
        "distill", path, "--workdir", tmp_path / "w", "--first.steps", "2", "--second.steps", "2"
    )
    for name in ("first", "second"):
        assert len(rows_of(tmp_path / "w" / name)) == 2
        assert (tmp_path / "w" / name / "export" / "model.safetensors").is_file()
        assert f"│ {name} " in out
    out = succeed("inspect", tmp_path / "w")
    assert "first" in out
    assert "second" in out

    # A stage that another has learned from cannot get more steps.
    out = refused(
        "distill", path, "--workdir", tmp_path / "w", "--first.steps", "3", "--second.steps", "2"
    )
    assert "stage 'first' is finished at step 2 and" in out
    assert "leave its steps at 2" in out
    succeed(
        "distill", path, "--workdir", tmp_path / "w", "--first.steps", "2", "--second.steps", "3"
    )

    # The teacher of the second stage is deleted and would be trained anew.
    shutil.rmtree(tmp_path / "w" / "first")
    out = refused(
        "distill",
        path,
        "--workdir",
        tmp_path / "w",
        "--first.steps",
        "2",
        "--second.steps",
        "3",
        "--first.seed",
        "1",
    )
    assert f"{tmp_path / 'w' / 'second'} holds another experiment (inputs.teacher" in out


def test_run_uses_prepared_data(home, tmp_path):
    engine = ("--engine.kind", "processes", "--engine.processes", "2")
    out = succeed(
        "prepare",
        home / "alone.py",
        "--workdir",
        tmp_path,
        "--data-dir",
        tmp_path / "blocks",
        *engine,
    )
    assert "wrote" in out
    (store,) = (tmp_path / "blocks").iterdir()
    before = {file.name: file.stat().st_mtime_ns for file in store.iterdir()}
    run_in = ("--workdir", tmp_path / "run", "--data-dir", tmp_path / "blocks", "--steps", "1")
    assert "wrote" not in succeed("train", home / "alone.py", *run_in)
    assert before == {file.name: file.stat().st_mtime_ns for file in store.iterdir()}


@pytest.mark.slow
def test_prepare_uses_the_vocabulary_of_the_run(home, config, tmp_path):
    """That of a reference without a teacher, and that of an earlier, untrained stage."""
    path = config(
        "import dataclasses as d\n"
        f"compared = d.replace(alone, reference={str(home / 'teacher')!r}, data_dir=None)\n"
        'teacher = Teacher(path=Stage("first"))\n'
        "later = d.replace(taught, teacher=teacher, student=student, data_dir=None)\n"
        'config = {"first": compared, "second": later}'
    )
    succeed("prepare", path, "--workdir", tmp_path / "w")
    before = sorted(folder.name for folder in (tmp_path / "w" / "data").iterdir())
    assert len(before) == 1
    out = succeed(
        "distill", path, "--workdir", tmp_path / "w", "--first.steps", "1", "--second.steps", "1"
    )
    assert before == sorted(folder.name for folder in (tmp_path / "w" / "data").iterdir()), out


@pytest.mark.slow
def test_changed_text_does_not_change_the_vocabulary(home, config, tmp_path):
    text = tmp_path / "text.txt"
    text.write_bytes((home / "text.txt").read_bytes())
    path = config(
        "import dataclasses as d\n"
        f"corpus = d.replace(corpus, sources=(Source(path={str(text)!r}),))\n"
        "alone = d.replace(alone, corpus=corpus, steps=1)\n"
        'teacher = Teacher(path=Stage("first"))\n'
        "later = d.replace(taught, corpus=corpus, steps=1, teacher=teacher, student=student)\n"
        'config = {"first": alone, "second": later}'
    )
    alone = path.with_name("alone.py")
    alone.write_text(path.read_text() + 'del config["second"]\n')
    succeed("train", alone, "--workdir", tmp_path / "w")
    text.write_text(text.read_text().replace("cat", "walrus"))
    succeed("distill", path, "--workdir", tmp_path / "w")
    vocabularies = [
        (tmp_path / "w" / name / "export" / "vocab.txt").read_text() for name in ("first", "second")
    ]
    assert vocabularies[0] == vocabularies[1]


def test_list_of_commands():
    code, out = run()
    assert code == 2
    assert all(command in out for command in main.COMMANDS)
    assert succeed("--version").startswith("flaxdistill ")


def test_help_imports_no_heavy_package():
    """In a new process, since this one has imported jax."""
    code = (
        "import contextlib, sys\n"
        "from flaxdistill.cli import main\n"
        "for command in [*main.COMMANDS, '']:\n"
        "    with contextlib.suppress(SystemExit):\n"
        "        main.main([*command.split(), '--help'])\n"
        "    heavy = {'jax', 'flax', 'numpy', 'orbax', 'rich.progress'} & set(sys.modules)\n"
        "    assert not heavy, (command, heavy)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=environment()
    )
    assert done.returncode == 0, done.stderr
    for command in main.COMMANDS:
        assert f"flaxdistill {command}" in done.stdout


def test_help_of_a_config_lists_its_flags(home):
    out = succeed("distill", home / "taught.py", "--help")
    flags = ("--workdir", "--teacher.path", "--student.dtype", "--teacher.dtype", "--batch-size")
    for flag in (
        *flags,
        "--losses.vocab.temperature",
        "--student.start.layers",
        "--optim.learning-rate",
    ):
        assert flag in out
    assert "--teacher.optim.learning-rate" in succeed("distill", "quickstart", "--help")


def test_error_of_a_flag_is_one_sentence(monkeypatch):
    """tyro's box is coloured on a terminal, and has an ASCII frame without Unicode."""
    boxes = (
        "\x1b[31m╭─\x1b[0m Unrecognized options ─╮\n"
        "\x1b[31m│\x1b[0m Unrecognized options: --stps    │\n"
        "\x1b[31m│\x1b[0m ──────── │\n\x1b[31m│\x1b[0m Perhaps you meant: │\n"
        "│ \x1b[1m--steps\x1b[0m INT │\n╰───╯\n",
        "+- Unrecognized options -+\n| Unrecognized options: --stps |\n| -------- |\n"
        "| Perhaps you meant: |\n| --steps INT |\n+----+\n",
    )
    for box in boxes:

        def cli(*_, box=box, **__):
            sys.stderr.write(box)
            raise SystemExit(2)

        monkeypatch.setattr(flags.tyro, "cli", cli)
        with pytest.raises(UserError) as raised:
            flags.parse(int, [], prog="flaxdistill train")
        assert str(raised.value) == (
            "Unrecognized options: --stps; perhaps you meant --steps; "
            "flaxdistill train --help lists all flags"
        )


def test_one_process_per_workdir(home, tmp_path):
    train = ("train", home / "alone.py", "--workdir", tmp_path / "w", "--steps", "1")
    (tmp_path / "w").mkdir()
    with (tmp_path / "w" / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert "another process is using" in refused(*train)
        assert [path.name for path in (tmp_path / "w").iterdir()] == [".lock"]
    succeed(*train)


@pytest.mark.slow
def test_narrower_student_has_the_same_proportions(home, config, tmp_path):
    narrow = ("--student.hidden-size", "8", "--student.start.layers", "random", "--steps", "1")
    path = config(
        'import dataclasses as d\nconfig = d.replace(taught, losses={"vocab": VocabKD()})'
    )
    succeed("distill", path, *narrow, "--workdir", tmp_path / "w")
    sizes = json.loads((tmp_path / "w" / "experiment.json").read_text())["student"]["config"]
    assert (sizes["hidden_size"], sizes["num_heads"], sizes["intermediate_size"]) == (8, 1, 16)


@pytest.mark.slow
def test_sanity_checks(home, tmp_path):
    train = ("train", home / "alone.py", "--sanity-checks", "--workdir")
    out = succeed(*train, tmp_path / "sound")
    assert "counts padding" not in out and "no loss trains" not in out
    assert "no kernel of the student has changed in 3 steps" in refused(
        *train, tmp_path / "w", "--optim.learning-rate", 1e-30
    )
    assert not list((tmp_path / "w" / "checkpoints").iterdir())


@pytest.mark.slow
@pytest.mark.parametrize("harm", ["last", "all"])
def test_damaged_checkpoint(home, tmp_path, harm):
    """The run warns, resumes from the checkpoint before and gives the same result."""
    train = ("train", home / "alone.py", "--save-every", 2, "--workdir")
    for name in ("whole", "harmed"):
        succeed(*train, tmp_path / name)
    path = tmp_path / "harmed"
    checkpoint = path / "checkpoints" / "4"
    for file in (f for f in checkpoint.rglob("*") if f.is_file()):
        file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    for read in (("eval", path), ("export", path, tmp_path / "out")):
        assert f"{checkpoint} is damaged" in refused(*read)
    if harm == "all":
        shutil.copytree(checkpoint, path / "checkpoints" / "2", dirs_exist_ok=True)
        before = sorted((path / "checkpoints").iterdir())
        assert "no checkpoint in" in refused(*train, path, "--steps", 6)
        assert sorted((path / "checkpoints").iterdir()) == before
        return
    out = succeed(*train, path, "--steps", 6)
    assert f"{checkpoint} is damaged" in out and "resumes from step 2" in out
    succeed(*train, tmp_path / "whole", "--steps", 6)
    timeless = [
        [
            {k: v for k, v in row.items() if k != "tokens_per_second"}
            for row in rows_of(tmp_path / name)
        ]
        for name in ("whole", "harmed")
    ]
    assert timeless[0] == timeless[1]
    assert {p.name.split("-")[0] for p in (path / "checkpoints").iterdir()} == {"4", "6", "damaged"}
    succeed("eval", path)


def test_missing_devices(home, tmp_path):
    environ = environment(JAX_PLATFORMS="cuda", CUDA_VISIBLE_DEVICES="")

    def run_process(*arguments: object) -> tuple[int, str]:
        command = [sys.executable, "-m", "flaxdistill", *map(str, arguments)]
        done = subprocess.run(command, env=environ, capture_output=True, text=True)
        return done.returncode, done.stderr

    for command in (
        ("train", home / "alone.py", "--workdir", tmp_path / "w"),
        ("predict", home / "teacher", "a cat"),
    ):
        code, error = run_process(*command)
        assert (
            code == 2 and "JAX_PLATFORMS is 'cuda', and JAX can use no such device here" in error
        ), error
        assert "Traceback" not in error
    assert not (tmp_path / "w").exists()
    assert (
        run_process("convert", home / "teacher", tmp_path / "converted")[0] == 0
    )  # nothing is computed


def test_reason_why_a_device_cannot_be_used(monkeypatch):
    def busy():
        raise RuntimeError(
            "Unable to initialize backend 'tpu': in use by process 7. "
            "(set JAX_PLATFORMS='' to choose)"
        )

    monkeypatch.setattr(jax, "devices", busy)
    with pytest.raises(
        UserError,
        match=r"\('?Unable to initialize backend 'tpu': in use by process 7\.\); free the device",
    ):
        backend.check_devices()


@pytest.mark.slow
def test_interrupted_run_resumes_with_the_same_result(home, tmp_path):
    train = (
        "train",
        str(home / "alone.py"),
        "--steps",
        "120",
        "--eval-every",
        "60",
        "--save-every",
        "50",
    )
    train += ("--optim.decay", "linear")  # would show a schedule that restarts
    succeed(*train, "--workdir", tmp_path / "whole")

    cut = tmp_path / "cut"
    child = subprocess.Popen(
        [sys.executable, "-m", "flaxdistill", *train, "--workdir", str(cut)],
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    metrics, deadline = cut / "metrics.jsonl", time.monotonic() + 120
    while child.poll() is None and not (metrics.exists() and metrics.read_text().count("\n") >= 3):
        assert time.monotonic() < deadline
        time.sleep(0.005)
    child.send_signal(signal.SIGINT)
    out, _ = child.communicate(timeout=120)
    assert child.returncode == 130, out
    assert "which is saved; run the same command again to resume" in out
    stopped = rows_of(cut)[-1]["step"]
    assert 3 <= stopped < 120
    assert not (cut / "export").exists()

    assert f"resumes from step {stopped} of 120" in succeed(*train, "--workdir", cut)
    for split in (None, "held_out"):
        assert rows_of(cut, split) == rows_of(tmp_path / "whole", split)
    exports = [
        hub.read_model(str(folder / "export")).digest for folder in (cut, tmp_path / "whole")
    ]
    assert exports[0] == exports[1]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("signal_number", "stopped_code", "code"),
    [(signal.SIGINT, "143", 130), (signal.SIGTERM, None, 0), (signal.SIGTERM, "143", 143)],
)
def test_signal_in_the_last_step_prevents_the_next_stage(
    config, tmp_path, monkeypatch, signal_number, stopped_code, code
):
    path = config('config = {"one": alone, "two": alone}')
    show = terminal.ProgressBar.update

    def signalling(self, stage, steps, row):
        show(self, stage, steps, row)
        if row["step"] == steps and "split" not in row:
            os.kill(os.getpid(), signal_number)

    monkeypatch.setattr(terminal.ProgressBar, "update", signalling)
    if stopped_code:
        monkeypatch.setenv("FLAXDISTILL_STOPPED", stopped_code)
    actual_code, out = run(
        "train", path, "--workdir", tmp_path / "w", "--one.steps", "2", "--two.steps", "2"
    )
    assert actual_code == code
    assert "stopped after step 2, which is saved; run the same command again to resume" in out
    assert not (tmp_path / "w" / "two").exists()
    monkeypatch.undo()
    monkeypatch.setenv("COLUMNS", "250")
    out = succeed(
        "train", path, "--workdir", tmp_path / "w", "--one.steps", "2", "--two.steps", "2"
    )
    assert "one: finished at step 2, skipped" in out
    assert (tmp_path / "w" / "one" / "export" / "model.safetensors").is_file()


@pytest.mark.slow
def test_interrupted_creation_of_a_workdir(home, tmp_path, monkeypatch):
    """Killed between experiment.json and the tokenizer, or while writing the former."""
    train = ("train", home / "alone.py", "--workdir", tmp_path / "w", "--steps", "1")
    (tmp_path / "w").mkdir()
    (tmp_path / "w" / ".experiment.json.tmp").write_text("{")
    with monkeypatch.context() as patch:
        patch.setattr(
            "flaxdistill.data.tokenizer.Vocabulary.save",
            lambda *_: (_ for _ in ()).throw(OSError(28, "full")),
        )
        assert "cannot write to" in refused(*train)
    assert not (tmp_path / "w" / "tokenizer").exists()
    succeed(*train)
    file = tmp_path / "w" / "tokenizer" / "tokenizer.json"
    before = file.stat().st_mtime_ns
    assert "resumes from step 1 of 2" in succeed(*train[:-1], "2")
    assert file.stat().st_mtime_ns == before, "a resumed run must not write its tokenizer again"
    shutil.rmtree(tmp_path / "w" / "checkpoints")
    assert "has no complete checkpoint; training restarts from step 0" in succeed(*train)


def test_nothing_is_compiled_after_the_first_save(home, tmp_path, monkeypatch):
    """Each function is compiled once, before or in its first call."""
    lowered, shown = [], []

    def count(name, *_, **__):
        if "jaxpr_to_mlir_module" in name:
            lowered.append(name)

    monitoring.register_event_duration_secs_listener(count)
    show = terminal.ProgressBar.update
    monkeypatch.setattr(
        terminal.ProgressBar,
        "update",
        lambda self, *row: (show(self, *row), shown.append((row[2], len(lowered)))),
    )
    often = ("--log-every", "1", "--eval-every", "2", "--save-every", "2", "--steps", "8")
    succeed("distill", home / "taught.py", *often, "--workdir", tmp_path / "w")
    counts = {(row["step"], "split" in row): count for row, count in shown}
    assert counts[1, False] > 0
    assert counts[3, False] == counts[8, True]
    assert len(lowered) > counts[8, True], (
        "the export compiles its own programs, which must be counted"
    )


@pytest.mark.slow
def test_remat_gives_the_same_result(home, finished, tmp_path):
    """And a run may be resumed with it."""
    # From a random start: a copied layer agrees so well that its KL is rounding.
    random = ("distill", home / "taught.py", "--student.start.layers", "random")
    succeed(*random, "--workdir", tmp_path / "plain")
    succeed(*random, "--student.remat", "--workdir", tmp_path / "remat")
    for own, other in zip(rows_of(tmp_path / "remat"), rows_of(tmp_path / "plain"), strict=True):
        assert own == pytest.approx(other, rel=1e-5)
    assert "skipped" in succeed(
        "distill", home / "taught.py", "--student.remat", "--workdir", finished
    )


def test_killed_between_checkpoints(home, finished, tmp_path):
    """Log rows after the checkpoint are removed and written again with the same values."""
    train = ("distill", home / "taught.py", "--workdir", tmp_path / "w", "--save-every", "2")
    succeed(*train)
    shutil.rmtree(tmp_path / "w" / "checkpoints" / "4")
    assert "resumes from step 2 of 4" in succeed(*train)
    for split in (None, "held_out"):
        assert rows_of(tmp_path / "w", split) == rows_of(finished, split)


def test_finished_run_with_more_steps(home, tmp_path):
    train = ("train", home / "alone.py", "--workdir", tmp_path / "w")
    succeed(*train, "--steps", "2")
    short = hub.read_model(str(tmp_path / "w" / "export")).digest
    assert "resumes from step 2 of 4" in succeed(*train)
    assert [row["step"] for row in rows_of(tmp_path / "w")] == [1, 2, 3, 4]
    assert hub.read_model(str(tmp_path / "w" / "export")).digest != short, (
        "the export is that of step 2"
    )
    assert "skipped" in succeed(*train, "--steps", "2")


FULL = """
import json, resource, sys
from flaxdistill.cli import main
size, commands = json.loads(sys.argv[1])
resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))  # writes beyond it fail, as on a full disk
for command in commands:
    try:
        main.main(command)
    except SystemExit as ended:
        print("ended", ended.code)
"""


def on_a_full_disk(size: int, *commands: tuple) -> str:
    """Run commands in a process whose files cannot exceed a size; return its output."""
    arguments = json.dumps([size, [[str(word) for word in command] for command in commands]])
    done = subprocess.run(
        [sys.executable, "-c", FULL, arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=environment(),
    )
    assert done.returncode == 0, done.stdout
    assert done.stdout.count("ended 2") == len(commands), done.stdout
    return done.stdout


@pytest.mark.slow
def test_full_disk(home, finished, tmp_path):
    """Nothing half-written remains, and training resumes once there is room."""
    out, blocks, w = tmp_path / "out", tmp_path / "blocks", tmp_path / "w"
    train = ("distill", home / "taught.py", "--workdir", w, "--save-every", "2")
    printed = on_a_full_disk(
        4000,
        ("export", finished, out),
        ("convert", home / "teacher", out),
        ("prepare", home / "alone.py", "--workdir", tmp_path, "--data-dir", blocks),
    )
    assert printed.count(f"cannot write {out}") == 2
    assert "cannot be written" in printed
    assert not list(tmp_path.rglob("manifest.json"))
    assert [path for path in tmp_path.rglob("*") if path != blocks] == []

    printed = on_a_full_disk(8000, train)
    assert f"a checkpoint could not be written to {w / 'checkpoints'} (File too large)" in printed
    assert len(printed.splitlines()) < 12, printed
    assert "run the same command again: it resumes from step 0" in printed
    assert not (w / "export").exists()
    succeed(*train)
    assert rows_of(w) == rows_of(finished)


@pytest.mark.parametrize(
    ("batch", "advice"), [(16, "--accumulate 2"), (24, "--accumulate 3"), (8, "--fsdp")]
)
def test_out_of_memory(home, tmp_path, monkeypatch, batch, advice):
    def full(*_):
        raise jax.errors.JaxRuntimeError(
            "RESOURCE_EXHAUSTED: Out of memory while trying to allocate 1 byte."
        )

    monkeypatch.setattr(sharding, "jit_step", lambda *_: full)
    out = refused("train", home / "alone.py", "--workdir", tmp_path / "w", "--batch-size", batch)
    assert f"out of memory with micro-batches of {batch // 8} rows per device" in out
    assert advice in out
    monkeypatch.undo()
    if batch > 8:  # the advice works
        accumulate = int(advice.split()[1])
        sharding.check_batch(batch, accumulate, sharding.make_mesh())


def test_out_of_memory_while_evaluating(home, tmp_path, monkeypatch):
    def full(*_):
        raise jax.errors.JaxRuntimeError(
            "RESOURCE_EXHAUSTED: Out of memory while trying to allocate 1 byte."
        )

    monkeypatch.setattr(evaluator.evaluate, "make_evaluate", lambda *_: full)
    out = refused("train", home / "alone.py", "--workdir", tmp_path / "w", "--steps", "1")
    assert "out of memory while evaluating 8 rows at a time; try --eval-batch-size 4" in out


def test_nan_in_the_log(tmp_path):
    """NaN and infinity are written as null, since JSON has neither."""
    log = train_log.Log(tmp_path, step=0)
    log.write({"step": 1, "loss": float("nan"), "mlm": float("inf"), "kl": 1.0})
    log.close()
    assert json.loads((tmp_path / "metrics.jsonl").read_text()) == {
        "step": 1,
        "loss": None,
        "mlm": None,
        "kl": 1.0,
    }
    row = {"name": "student"} | train_log.last_row(train_log.read_rows(tmp_path / "metrics.jsonl"))
    console = Console(width=200, file=io.StringIO())
    console.print(terminal.results_table([row]))
    assert "nan" in console.file.getvalue()


def test_closed_pipe_is_not_an_error():
    """As in ``flaxdistill distill quickstart --help | head -1``."""
    command = [sys.executable, "-m", "flaxdistill", "distill", "quickstart", "--help"]
    child = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    child.stdout.close()
    assert (child.wait(60), child.stderr.read()) == (0, "")
    child.stderr.close()
