"""gs:// wherever a path does, asked of a server of Cloud Storage's JSON API on this machine.

A mirror that has been removed is a new machine.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import pickle
import re
import shutil
import sys
import warnings
from functools import partial
from pathlib import Path

import pytest
from helpers.cli import SENTENCES, refused, rows_of, run, succeed, write_model
from helpers.processes import close, finish, printed, start
from helpers.processes import rows_of as all_rows
from helpers.servers.gcs import Bucket, serving

from flaxdistill.data import sources
from flaxdistill.errors import UserError
from flaxdistill.experiment import workdir
from flaxdistill.runtime import gcs, gcs_paths
from flaxdistill.train.log import Log

pytestmark = pytest.mark.gcs

CONFIG = """
from flaxdistill.data.corpus import Corpus
from flaxdistill.data.sources import Source
from flaxdistill.experiment.config import Experiment, Stage, Student, Teacher
from flaxdistill.losses.vocab import MaskedLM, VocabKD
from flaxdistill.models.student_init import Start

teacher = Experiment(
    student=Student(
        start=Start(path=None), num_layers=2, hidden_size=16, num_heads=2, intermediate_size=32, dtype="float32"
    ),
    corpus=Corpus(sources=(Source(path={text!r}),), vocab_size=200, max_length=16, held_out=0.1, held_out_blocks=8),
    losses={{"mlm": MaskedLM()}},
    batch_size=8,
    eval_batch_size=8,
    steps=4,
    log_every=1,
    eval_every=4,
    save_every=2,
    sanity_checks=False,
)
"""
STUDENT = """
from dataclasses import replace
config = {
    "teacher": teacher,
    "student": replace(
        teacher, teacher=Teacher(path=Stage("teacher")), student=Student(num_layers=1), losses={"vocab": VocabKD()}
    ),
}
"""


@pytest.fixture(scope="module")
def served():
    """The bucket of this file, with the text of all runs; processes that are started find it too."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # its own, of what it imports when it is first used
        from google.cloud.storage.asyncio import async_appendable_object_writer  # noqa: F401
    with serving() as (there, told), pytest.MonkeyPatch.context() as patch:
        for name, value in told.items():
            patch.setenv(name, value)
        gcs._files.cache_clear()
        documents = [" ".join(SENTENCES[i : i + 4]) for i in range(0, 480, 4)]
        there.put("text.txt", "\n\n".join(documents).encode())
        yield there
        gcs._files.cache_clear()


@pytest.fixture
def machine(served, tmp_path, monkeypatch) -> Bucket:
    """A machine that has seen nothing yet of the bucket."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("COLUMNS", "250")
    return served


def forget() -> None:
    shutil.rmtree(gcs_paths.mirror())


def config(folder: Path, text: str = "gs://test/text.txt", lines: str = "config = teacher") -> Path:
    (folder / "config.py").write_text(CONFIG.format(text=text) + lines)
    return folder / "config.py"


@pytest.fixture(scope="module")
def alone(served, tmp_path_factory) -> Path:
    """What a run on a disk gives."""
    folder = tmp_path_factory.mktemp("alone")
    (folder / "text.txt").write_bytes(served.objects["text.txt"].content)
    succeed("train", config(folder, str(folder / "text.txt")), "--workdir", folder / "run")
    return folder / "run"


# --- paths that stand for addresses -----------------------------------------------------------------------


def test_addresses_and_paths(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    for written in (
        "gs://a-bucket/some/run",
        Path("gs://a-bucket/some/run"),
        "gs://a-bucket//some/run/",
    ):
        path = gcs_paths.here(written)
        assert path == gcs_paths.mirror() / "a-bucket" / "some" / "run"
        assert gcs_paths.of(path) == "gs://a-bucket/some/run"
    assert gcs_paths.told(f"wrote {path}: well") == "wrote gs://a-bucket/some/run: well"
    assert gcs_paths.here("~/run") == Path.home() / "run"
    assert gcs_paths.of(tmp_path / "run") is None and gcs.direct(tmp_path) == tmp_path.resolve()


@pytest.mark.parametrize(
    "wrong", ["gs://", "gs:///run", "gs://Up/run", "gs://a-bucket/../x", "gs://../x", "gs://a b/x"]
)
def test_no_addresses(wrong):
    with pytest.raises(UserError, match="no address in a bucket"):
        gcs_paths.here(wrong)


@pytest.mark.filterwarnings("ignore:Sending a large body")  # of aiohttp, to gcsfs
def test_files_come_and_go(machine, tmp_path):
    folder = tmp_path / "folder"
    (folder / "sub").mkdir(parents=True)
    files = {
        "config.json": b"{}",
        "a.txt": b"\n\nfirst",
        "sub/z.bin": os.urandom(6 * 2**20),
        "sub/empty": b"",
    }
    for name, content in files.items():
        (folder / name).write_bytes(content)
    at = gcs_paths.here("gs://test/things")
    gcs.send(folder, at)
    assert not at.exists() and gcs.occupied(at)
    puts = [asked for asked in machine.asked if asked.startswith("POST")]
    assert machine.files("things/") == sorted(f"things/{name}" for name in files)
    machine.put("things2/other", b"not ours")

    gcs.refresh(at, gcs.named("/*.json", "sub/*"))
    assert not (at / "a.txt").exists()
    gcs.refresh(at, bool)
    assert {
        p.relative_to(at).as_posix(): p.read_bytes() for p in at.rglob("*") if p.is_file()
    } == files
    before = len(machine.asked)
    gcs.refresh(at, bool)
    assert [asked for asked in machine.asked[before:] if "alt=media" in asked] == [], (
        "nothing is fetched twice"
    )

    machine.put("things/a.txt", b"\n\nother")  # as long as before
    machine.remove("things/sub")
    gcs.refresh(at, bool)
    assert (at / "a.txt").read_bytes() == b"\n\nother" and not (at / "sub" / "z.bin").exists()
    gcs.remove(at)
    assert machine.files("things/") == [] and machine.files("things2/") == ["things2/other"]
    assert not at.exists() and not gcs.occupied(at) and puts


def test_a_folder_counts_once_its_last_file_is_there(machine):
    at = gcs_paths.here("gs://test/store")
    machine.put("store/blocks.npy", b"half")
    assert not gcs.reach(at, "manifest.json").exists()
    machine.put("store/manifest.json", b"{}")
    assert sorted(file.name for file in gcs.reach(at, "manifest.json").iterdir()) == [
        "blocks.npy",
        "manifest.json",
    ]
    assert gcs.reach(gcs_paths.here("gs://test/text.txt")).is_file()


def test_the_last_file_is_sent_last(machine, tmp_path):
    for name in ("a.txt", "config.json", "model.safetensors", "z.txt"):
        (tmp_path / name).write_text(name)
    before = len(machine.asked)
    machine.down = False
    gcs.send(tmp_path, gcs_paths.here("gs://test/ordered"))
    generations = {
        name: machine.objects[f"ordered/{name}"].generation
        for name in ("a.txt", "config.json", "z.txt")
    }
    assert max(generations, key=generations.get) == "config.json" and len(machine.asked) > before


def test_a_folder_of_another_content_is_fetched_anew(machine):
    at = gcs_paths.here("gs://test/anew")
    for name in ("blocks.npy", "manifest.json"):
        machine.put(f"anew/{name}", b"first")
    gcs.reach(at, "manifest.json")
    machine.remove("anew/manifest")
    assert not gcs.reach(at, "manifest.json").exists(), "what is gone there is gone here"
    machine.put("anew/manifest.json", b"again")
    (at / "manifest.json").parent.mkdir()
    (at / "manifest.json").write_bytes(b"again")  # as one who looked for json files alone
    assert len(list(gcs.reach(at, "manifest.json").iterdir())) == 2


def test_places_keep_their_address_on_another_machine(machine, monkeypatch, tmp_path):
    place = gcs_paths.here("gs://test/run") / "data"
    sent = pickle.dumps(partial(len, place.parent / "text.txt"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "elsewhere"))
    (found,) = pickle.loads(sent).args
    assert gcs_paths.of(found) == "gs://test/run/text.txt" and str(found).startswith(
        str(tmp_path / "elsewhere")
    )


@pytest.mark.parametrize(
    ("pattern", "found"),
    [
        ("gs://test/corpus", ["a.txt", "deep/c.jsonl", "deep/er/d.txt.gz"]),
        ("gs://test/corpus/*.txt", ["a.txt"]),
        ("gs://test/corpus/**/*.jsonl", ["deep/c.jsonl"]),
        ("gs://test/corpus/deep/*", ["c.jsonl"]),
        ("gs://test/corpus/a.txt", ["a.txt"]),
    ],
)
def test_text_is_found(machine, pattern, found):
    for name in ("a.txt", "b.bin", "deep/c.jsonl", "deep/er/d.txt.gz"):
        machine.put(f"corpus/{name}", b"text")
    assert [name for name, _ in sources._find_files(pattern)] == found
    for name in ("a.txt", "deep/c.jsonl"):
        del machine.objects[f"corpus/{name}"]
    left = [name for name in found if name not in ("a.txt", "deep/c.jsonl", "c.jsonl")]
    if left:
        assert [name for name, _ in sources._find_files(pattern)] == left
    else:
        with pytest.raises(UserError):
            sources._find_files(pattern)


# --- runs -------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_run_lives_in_a_bucket_and_goes_on_anywhere(machine, alone, tmp_path):
    out = succeed("train", config(tmp_path), "--workdir", "gs://test/run", "--steps", 2)
    assert (
        "exported gs://test/run at step 2 to gs://test/run/export" in out
        and str(gcs_paths.mirror()) not in out
    )
    forget()
    out = succeed("train", config(tmp_path), "--workdir", "gs://test/run", "--steps", 4)
    assert "goes on from step 2 of 4" in out and "reused gs://test/run/data/" in out
    mirrored = gcs_paths.here("gs://test/run")
    own, theirs = rows_of(mirrored), rows_of(alone)
    assert [row["step"] for row in own] == [1, 2, 3, 4]
    names = set(own[0]) - {"learning_rate"}  # of another number of steps, at first
    assert [row["loss"] for row in own[:1]] == [
        row["loss"] for row in theirs[:1]
    ] and "loss" in names
    names = machine.files("run/")
    assert {"run/experiment.json", "run/metrics.jsonl", "run/tokenizer/tokenizer.json"} < set(names)
    assert {name.split("/")[2] for name in names if name.startswith("run/checkpoints/")} == {
        "2",
        "4",
    }
    assert "run/export/model.safetensors" in names and any("tensorboard/" in name for name in names)
    assert not [name for name in names if ".parts" in name or ".tmp" in name]

    del machine.objects["run/export/config.json"]  # as one that was killed while it sent its export
    forget()
    out = succeed("train", config(tmp_path), "--workdir", "gs://test/run", "--steps", 4)
    assert "exported gs://test/run" in out and "run/export/config.json" in machine.files("run/")
    forget()
    out = succeed("train", config(tmp_path), "--workdir", "gs://test/run", "--steps", 4)
    assert "exported" not in out
    assert "finished at step 4, skipped" in out and "--steps changes nothing" in out
    assert not gcs.direct(mirrored / "checkpoints" / "6").exists()


@pytest.mark.slow
def test_the_rows_are_those_of_a_run_on_a_disk(machine, alone, tmp_path):
    """Cut short in the bucket and taken up on another machine; a checkpoint that is damaged there is put aside."""
    succeed("train", config(tmp_path), "--workdir", "gs://test/same")
    assert rows_of(gcs_paths.here("gs://test/same")) == rows_of(alone)
    newest = machine.files("same/checkpoints/4/default/d/") or machine.files(
        "same/checkpoints/4/default/ocdbt"
    )
    for name in newest:
        machine.put(name, b"\0" * len(machine.objects[name].content))
    machine.put("same/metrics.jsonl", machine.objects["same/metrics.jsonl"].content[:-20])
    forget()
    code, out = run("train", config(tmp_path), "--workdir", "gs://test/same", "--steps", 5)
    assert code == 0, out
    assert "gs://test/same/checkpoints/4 is damaged" in out and "goes on from step 2" in out
    assert any("damaged-4" in name for name in machine.files("same/checkpoints/"))
    assert [row["step"] for row in rows_of(gcs_paths.here("gs://test/same"))] == [1, 2, 3, 4, 5]


@pytest.mark.slow
def test_every_verb_reads_and_writes_there(machine, tmp_path):
    two = config(tmp_path, lines=STUDENT)
    succeed("distill", two, "--workdir", "gs://test/two")
    forget()
    figures = succeed("eval", "gs://test/two/student")
    forget()
    compared = succeed("eval", "gs://test/two/student", "--model", "gs://test/two/teacher")
    assert "teacher" in compared and figures != compared
    forget()
    assert "gs://test/two/student" in succeed("inspect", "gs://test/two")
    assert "export/" in " ".join(machine.files("two/student/"))
    forget()
    assert "read back bit-equal" in succeed("export", "gs://test/two/student", "gs://test/exported")
    forget()
    assert "converted directory" in succeed("convert", "gs://test/exported", "gs://test/converted")
    forget()
    assert "Hugging Face directory" in succeed("convert", "gs://test/converted", "gs://test/back")
    for name in ("config.json", "model.safetensors"):
        assert (
            machine.objects[f"back/{name}"].content == machine.objects[f"exported/{name}"].content
        )
    forget()
    assert "every tensor is used" in succeed("inspect", "gs://test/exported")
    assert "exists and is not an empty directory" in refused(
        "export", "gs://test/two/student", "gs://test/back"
    )
    machine.remove("back/")
    succeed("export", "gs://test/two/student", "gs://test/back")


@pytest.mark.slow
def test_models_tokenizers_and_blocks_in_a_bucket(machine, tmp_path):
    teacher = write_model(tmp_path / "teacher", ("the", "cat"))
    gcs.send(teacher, gcs_paths.here("gs://test/models/teacher"))
    lines = (
        "from dataclasses import replace\n"
        "config = replace(teacher, teacher=Teacher(path='gs://test/models/teacher'), data_dir='gs://test/blocks',\n"
        "    corpus=replace(teacher.corpus, tokenizer='gs://test/models/teacher/vocab.txt'), losses={'vocab': VocabKD()})\n"
    )
    succeed("prepare", config(tmp_path, lines=lines))
    stored = machine.files("blocks/")
    generations = {name: machine.objects[name].generation for name in stored}
    assert any(name.endswith("manifest.json") for name in stored)
    forget()
    offline = ("distill", config(tmp_path, lines=lines), "--teacher.cache-top-k", 4, "--workdir")
    assert "reused gs://test/blocks/" in succeed(*offline, tmp_path / "offline")
    blocks = [name for name in machine.files("blocks/") if not name.startswith("blocks/targets-")]
    assert {name: machine.objects[name].generation for name in blocks} == generations
    (words,) = (name for name in machine.files("blocks/targets-") if name.endswith("/words.npy"))
    made = machine.objects[words]
    forget()
    assert str(tmp_path / "offline") in succeed("eval", tmp_path / "offline")
    forget()
    assert "reused gs://test/blocks/targets-" in succeed(*offline, tmp_path / "again")
    assert machine.objects[words] == made
    del machine.objects[words]  # cut short
    forget()
    assert "wrote gs://test/blocks/targets-" in succeed(*offline, tmp_path / "once_more")
    assert machine.objects[words].content == made.content
    assert rows_of(tmp_path / "once_more") == rows_of(tmp_path / "offline")


def test_preparation_goes_on_elsewhere(machine, tmp_path, monkeypatch):
    """One machine has surveyed the text and packed nothing; another goes on from what it sent."""
    from flaxdistill.data.preparation import text as prepare

    def stop(*arguments: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(prepare, "_settle", stop)
        code, out = run("prepare", config(tmp_path), "--workdir", "gs://test/prepared")
    assert code == 130 and "kept what is done in gs://test/prepared/data/" in out
    assert any(".parts/survey-00000/facts.json" in name for name in machine.files("prepared/"))
    forget()
    out = succeed("prepare", config(tmp_path), "--workdir", "gs://test/prepared")
    assert "1 of 1 + 1 passes over shards are done" in out
    assert not [name for name in machine.files("prepared/") if ".parts" in name]


def test_rows_are_varied_into_a_bucket(machine, tmp_path):
    model = write_model(tmp_path / "model", ("the", "cat", "dog"))
    machine.put("rows.tsv", b"text\tlabel\nthe cat sees a dog\t1\na dog sees the cat\t0\n")
    command = (
        "augment",
        "gs://test/rows.tsv",
        "gs://test/varied",
        "--model",
        model,
        "--label",
        "label",
        "--variants",
        2,
    )
    command = (*command, "--length", 16, "--batch-size", 4)
    succeed(*command)
    made = machine.objects["varied/part-00000.jsonl"]
    forget()
    succeed(*command)
    assert machine.objects["varied/part-00000.jsonl"] == made and made.content.count(b"\n") >= 2
    forget()
    assert sources.Source(path="gs://test/varied/*.jsonl").varied()
    assert not sources.Source(path="gs://test/rows.tsv").varied()


@pytest.mark.slow
def test_what_is_read_here_does_not_disturb_the_run(machine, tmp_path):
    """A run that is at work holds its folder, and its log is not what was sent of it last."""
    succeed("train", config(tmp_path), "--workdir", "gs://test/busy", "--steps", 2)
    folder = gcs_paths.here("gs://test/busy")
    with (folder / ".lock").open() as lock, contextlib.closing(Log(folder, step=2)) as log:
        fcntl.flock(lock, fcntl.LOCK_EX)
        log.write({"step": 3, "loss": 1.0})
        succeed("inspect", "gs://test/busy")
        log.write({"step": 4, "loss": 1.0})
        assert "another process is at work" in refused(
            "train", config(tmp_path), "--workdir", "gs://test/busy", "--steps", 4
        )
    sent = machine.objects["busy/metrics.jsonl"].content.decode().splitlines()
    assert [json.loads(line)["step"] for line in sent if "split" not in line] == [1, 2, 3, 4]


@pytest.mark.slow
def test_a_checkpoint_that_may_not_be_read_is_not_damaged(machine, tmp_path, capfd):
    succeed("train", config(tmp_path), "--workdir", "gs://test/shut", "--steps", 2)
    before = machine.files("shut/checkpoints")
    for shut in (".*/checkpoints/.*alt=media", ".*checkpoints.*"):
        machine.shut = re.compile(shut)
        try:
            listed = [] if "media" in shut else [("inspect",)]  # which reads no array
            for command in (("train", config(tmp_path), "--workdir"), ("eval",), *listed):
                told = refused(
                    *command, "gs://test/shut", *(["--steps", 4] if command[0] == "train" else [])
                )
                assert "cannot be read or written" in told, (command, shut)
        finally:
            machine.shut = None
    assert machine.files("shut/checkpoints") == before and "Traceback" not in capfd.readouterr().err


@pytest.mark.slow
def test_half_a_tokenizer_is_sent_again(machine, tmp_path):
    succeed("train", config(tmp_path), "--workdir", "gs://test/claimed", "--steps", 2)
    names = machine.files("claimed/tokenizer/")
    newest = max(machine.objects[name].generation for name in names)
    assert machine.objects["claimed/tokenizer/tokenizer.json"].generation == newest


@pytest.mark.slow
def test_a_run_that_is_gone_there_begins_anew(machine, tmp_path):
    succeed("train", config(tmp_path), "--workdir", "gs://test/gone", "--steps", 2)
    machine.remove("gone/")
    folder = gcs_paths.here("gs://test/gone")
    gcs.refresh(folder)
    assert (
        (folder / "data").exists()
        and not workdir.is_workdir(folder)
        and gcs.entries(folder) == set()
    )
    assert "wrote gs://test/gone/data" in succeed(
        "prepare", config(tmp_path), "--workdir", "gs://test/gone"
    )


@pytest.mark.slow
def test_stages_by_processes_of_several_machines(machine, tmp_path, monkeypatch):
    """Only the first exports: in the second stage's saves, all must meet all the same."""
    workdir = tmp_path / "told"
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(sys.path))
    homes = [{"XDG_CACHE_HOME": str(tmp_path / f"machine{index}")} for index in range(2)]
    children = start(
        config(tmp_path, lines=STUDENT),
        workdir,
        2,
        1,
        "--workdir",
        "gs://test/stages",
        each=homes,
        verb="distill",
    )
    assert finish(children) == [0, 0], printed(workdir) + printed(workdir, 1)
    assert "stages/student/export/config.json" in machine.files("stages/")
    assert "student" in succeed("eval", "gs://test/stages/student")


@pytest.mark.slow
def test_processes_of_several_machines(machine, alone, tmp_path, monkeypatch):
    """Two processes that share nothing but the bucket."""
    workdir = tmp_path / "told"
    homes = [str(tmp_path / f"machine{index}") for index in range(2)]
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(sys.path))
    children = start(
        config(tmp_path),
        workdir,
        2,
        1,
        "--workdir",
        "gs://test/pod",
        each=[{"XDG_CACHE_HOME": home} for home in homes],
    )
    assert finish(children) == [0, 0], printed(workdir) + printed(workdir, 1)
    monkeypatch.setenv("XDG_CACHE_HOME", homes[0])
    close(all_rows(gcs_paths.here("gs://test/pod")), all_rows(alone))
    assert {"pod/export/config.json", "pod/experiment.json"} < set(machine.files("pod/"))


# --- mistakes ---------------------------------------------------------------------------------------------


def test_what_cannot_be_reached_is_one_sentence(machine, tmp_path, monkeypatch):
    assert "is no workdir" in refused("eval", "gs://test/nothing")
    assert "gs://test/nothing" in refused("inspect", "gs://test/nothing")
    assert "no address in a bucket" in refused("train", config(tmp_path), "--workdir", "gs://")
    assert "gs://test/no.txt does not exist" in refused(
        "train", config(tmp_path, "gs://test/no.txt"), "--workdir", tmp_path / "run"
    )
    machine.put("odd/../../x.json", b"{}")
    assert "no names of files" in refused("inspect", "gs://test/odd")
    machine.down = True
    try:
        told = refused("train", config(tmp_path), "--workdir", "gs://test/away")
        assert "gs://test/away cannot be read or written" in told and "gcloud auth" in told
    finally:
        machine.down = False
    assert not (tmp_path / "run").exists() and machine.files("away/") == []
    gcs._files.cache_clear()
    monkeypatch.setitem(sys.modules, "gcsfs", None)
    assert "pip install 'flaxdistill[gcs]'" in refused(
        "train", config(tmp_path), "--workdir", "gs://test/away"
    )


def test_a_config_is_no_program_from_a_bucket(machine):
    machine.put("config.py", b"config = 1")
    assert "there is no config gs:" in refused("train", "gs://test/config.py")
