"""Runs of several processes: how they connect, and that they compute what one process computes."""

import signal
import time
from pathlib import Path

import pytest
from helpers.cli import SENTENCES
from helpers.processes import assert_rows_close, finish, printed, rows_of, start

from flaxdistill.errors import UserError
from flaxdistill.runtime import processes

CONFIG = """
from flaxdistill.data.corpus import Corpus
from flaxdistill.data.sources import Source
from flaxdistill.experiment.config import Experiment
from flaxdistill.experiment.model_configs import Student
from flaxdistill.losses.vocab import MaskedLM
from flaxdistill.train.optimizer import AdamW
from flaxdistill.models.start import Start

config = Experiment(
    student=Student(
        start=Start(path=None),
        num_layers=1,
        hidden_size=16,
        num_heads=2,
        intermediate_size=32,
        dtype="float32",
    ),
    corpus=Corpus(
        sources=(Source(path={text!r}),),
        vocab_size=200,
        max_length=16,
        held_out=0.1,
        held_out_blocks=8,
    ),
    losses={{"mlm": MaskedLM()}},
    optim=AdamW(learning_rate=1e-2, warmup=0.0),
    batch_size=16,
    eval_batch_size=8,
    steps=6,
    log_every=1,
    eval_every=6,
    save_every=3,
    sanity_checks=False,
)
"""


@pytest.fixture(scope="module")
def config(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("processes")
    documents = [" ".join(SENTENCES[i : i + 4]) for i in range(0, 480, 4)]
    (folder / "text.txt").write_text("\n\n".join(documents) + "\n")
    (folder / "config.py").write_text(CONFIG.format(text=str(folder / "text.txt")))
    return folder / "config.py"


@pytest.fixture(scope="module")
def alone(config) -> Path:
    workdir = config.parent / "alone"
    assert finish(start(config, workdir, 1, 4)) == [0], printed(workdir)
    return workdir


@pytest.mark.parametrize(
    ("number", "devices", "flags"),
    [
        pytest.param(2, 2, [], marks=pytest.mark.slow),
        pytest.param(2, 1, ["--fsdp", 2], marks=pytest.mark.slow),
        (2, 2, ["--tensor", 2, "--accumulate", 2, "--profile", "2:3"]),
        pytest.param(4, 1, ["--fsdp", 2], marks=pytest.mark.slow),
    ],
)
def test_several_processes_compute_what_one_computes(
    config, alone, tmp_path, number, devices, flags
):
    workdir = tmp_path / "run"
    assert finish(start(config, workdir, number, devices, *flags)) == [0] * number, printed(workdir)
    assert_rows_close(rows_of(workdir), rows_of(alone))
    assert "read back bit-equal" in printed(workdir)
    assert "step" not in printed(workdir, 1), "only the main process prints"
    if "--profile" in flags:
        assert len(list(workdir.rglob("perfetto_trace.json.gz"))) == 1
    exported = "export/model.safetensors"
    assert (workdir / exported).stat().st_size == (alone / exported).stat().st_size


@pytest.mark.slow
def test_all_stop_together_and_one_resumes(config, alone, tmp_path):
    """After a SIGTERM to one of two, both save the same step and exit; one process resumes."""
    workdir = tmp_path / "run"
    steps = ["--steps", 4000, "--save-every", 4000, "--eval-every", 4000]
    children = start(config, workdir, 2, 2, *steps)
    deadline = time.monotonic() + 200
    while not ((workdir / "metrics.jsonl").exists() and len(rows_of(workdir)) > 3):
        assert time.monotonic() < deadline and all(child.poll() is None for child in children), (
            printed(workdir)
        )
        time.sleep(0.2)
    children[1].send_signal(signal.SIGTERM)
    assert finish(children) == [0, 0], printed(workdir) + printed(workdir, 1)
    (step,) = (int(path.name) for path in (workdir / "checkpoints").iterdir())
    assert f"stopped after step {step}, which is saved" in printed(workdir)
    before = rows_of(workdir)
    more = ["--steps", step + 2, "--save-every", 4000, "--eval-every", 4000]
    assert finish(start(config, workdir, 1, 4, *more)) == [0], printed(workdir)
    assert f"resumes from step {step}" in printed(workdir)
    assert rows_of(workdir)[: len(before)] == before


@pytest.mark.slow
def test_a_checkpoint_that_one_process_cannot_read_is_damaged(config, tmp_path):
    """A file that only the second process reads is truncated: all use the previous checkpoint."""
    workdir = tmp_path / "run"
    assert finish(start(config, workdir, 2, 1, "--fsdp", 2)) == [0, 0], printed(workdir)
    before = rows_of(workdir)
    files = (workdir / "checkpoints" / "6" / "default" / "ocdbt.process_1").rglob("*")
    largest = max((file for file in files if file.is_file()), key=lambda file: file.stat().st_size)
    largest.write_bytes(largest.read_bytes()[: largest.stat().st_size // 2])
    assert finish(start(config, workdir, 2, 1, "--fsdp", 2, "--steps", 7)) == [0, 0], printed(
        workdir
    )
    assert "checkpoints/6 is damaged" in printed(workdir) and "resumes from step 3" in printed(
        workdir
    )
    assert rows_of(workdir)[:3] == before[:3]


@pytest.mark.slow
def test_if_one_process_dies_the_others_exit(config, tmp_path):
    workdir = tmp_path / "run"
    children = start(
        config, workdir, 2, 1, "--steps", 100000, "--eval-every", 100000, "--save-every", 100000
    )
    deadline = time.monotonic() + 200
    while not ((workdir / "metrics.jsonl").exists() and len(rows_of(workdir)) > 3):
        assert time.monotonic() < deadline and all(child.poll() is None for child in children), (
            printed(workdir)
        )
        time.sleep(0.2)
    children[1].kill()
    assert finish(children, 90) == [1, -signal.SIGKILL], printed(workdir)
    assert "another process of this run is gone" in printed(workdir)
    assert "Traceback" not in printed(workdir)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("h:1", None, None), "--processes.number and --processes.index must be given too"),
        (("h:1", 2, 2), "--processes.index is 2, of 2 processes; it counts from 0 to 1"),
        (("h", 2, 0), "--processes.coordinator is 'h'; write it as host:port"),
    ],
)
def test_incomplete_or_wrong_flags(arguments, message):
    with pytest.raises(UserError, match=message):
        processes.initialize(*arguments)


def test_a_single_process():
    processes.initialize()
    assert processes.is_main()
    with processes.main_first("single"):
        processes.barrier("single")
