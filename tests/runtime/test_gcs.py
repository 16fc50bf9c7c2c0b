"""gs:// addresses as paths, with a fake of Cloud Storage's JSON API on this bucket.

Removing the mirror folder simulates a new bucket.
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
from helpers.processes import assert_rows_close, finish, printed, start
from helpers.processes import rows_of as all_rows
from helpers.servers.gcs import Bucket, serving

from flaxdistill.data import sources
from flaxdistill.data.readers.file_paths import find_files
from flaxdistill.errors import UserError
from flaxdistill.experiment import workdir
from flaxdistill.runtime import gcs, gcs_paths
from flaxdistill.train.log import Log

pytestmark = pytest.mark.gcs

CONFIG = """
from flaxdistill.data.corpus import Corpus
from flaxdistill.data.sources import Source
from flaxdistill.experiment.config import Experiment
from flaxdistill.experiment.model_configs import Stage, Student, Teacher
from flaxdistill.losses.vocab import MaskedLM, VocabKD
from flaxdistill.models.start import Start

teacher = Experiment(
    student=Student(
        start=Start(path=None),
        num_layers=2,
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
        teacher,
        teacher=Teacher(path=Stage("teacher")),
        student=Student(num_layers=1),
        losses={"vocab": VocabKD()},
    ),
}
"""


@pytest.fixture(scope="module")
def served_bucket():
    """Return the bucket of this file, with the text of all runs; child processes find it too."""
    with warnings.catch_warnings():
        # Of the modules that it imports on first use.
        warnings.simplefilter("ignore")
        from google.cloud.storage.asyncio import async_appendable_object_writer  # noqa: F401
    with serving() as (bucket, environment), pytest.MonkeyPatch.context() as patch:
        for name, value in environment.items():
            patch.setenv(name, value)
        gcs._filesystem.cache_clear()
        documents = [" ".join(SENTENCES[i : i + 4]) for i in range(0, 480, 4)]
        bucket.put("text.txt", "\n\n".join(documents).encode())
        yield bucket
        gcs._filesystem.cache_clear()


@pytest.fixture
def bucket(served_bucket, tmp_path, monkeypatch) -> Bucket:
    """Return the bucket, for a machine that has not downloaded anything yet."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("COLUMNS", "250")
    return served_bucket


def move_to_new_machine() -> None:
    shutil.rmtree(gcs_paths.mirror_dir())


def config(folder: Path, text: str = "gs://test/text.txt", lines: str = "config = teacher") -> Path:
    (folder / "config.py").write_text(CONFIG.format(text=text) + lines)
    return folder / "config.py"


@pytest.fixture(scope="module")
def alone(served_bucket, tmp_path_factory) -> Path:
    """Return the folder of a run on a local disk."""
    folder = tmp_path_factory.mktemp("alone")
    (folder / "text.txt").write_bytes(served_bucket.objects["text.txt"].content)
    succeed("train", config(folder, str(folder / "text.txt")), "--workdir", folder / "run")
    return folder / "run"


# Local paths that represent addresses.


def test_addresses_and_paths(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    for address in (
        "gs://a-bucket/some/run",
        Path("gs://a-bucket/some/run"),
        "gs://a-bucket//some/run/",
    ):
        path = gcs_paths.local_path(address)
        assert path == gcs_paths.mirror_dir() / "a-bucket" / "some" / "run"
        assert gcs_paths.url(path) == "gs://a-bucket/some/run"
    assert gcs_paths.display(f"wrote {path}: well") == "wrote gs://a-bucket/some/run: well"
    assert gcs_paths.local_path("~/run") == Path.home() / "run"
    assert gcs_paths.url(tmp_path / "run") is None and gcs.as_epath(tmp_path) == tmp_path.resolve()


@pytest.mark.parametrize(
    "wrong", ["gs://", "gs:///run", "gs://Up/run", "gs://a-bucket/../x", "gs://../x", "gs://a b/x"]
)
def test_invalid_addresses(wrong):
    with pytest.raises(UserError, match="is not an address in a bucket"):
        gcs_paths.local_path(wrong)


@pytest.mark.filterwarnings("ignore:Sending a large body")  # a warning of aiohttp about gcsfs
def test_upload_refresh_and_remove(bucket, tmp_path):
    folder = tmp_path / "folder"
    (folder / "sub").mkdir(parents=True)
    files = {
        "config.json": b"{}",
        "a.txt": b"\n\nfirst",
        "sub/z.bin": os.urandom(6 * 2**20),
        "sub/empty": b"",
        "sub/carriage_return": b"\n\r\nlast\r",
    }
    for name, content in files.items():
        (folder / name).write_bytes(content)
    path = gcs_paths.local_path("gs://test/things")
    gcs.upload(folder, path)
    assert not path.exists() and gcs.has_objects(path)
    assert any(request.startswith("POST") for request in bucket.requests)
    assert bucket.files("things/") == sorted(f"things/{name}" for name in files)
    bucket.put("things2/other", b"of another folder")

    gcs.refresh(path, gcs.name_filter("/*.json", "sub/*"))
    assert not (path / "a.txt").exists()
    gcs.refresh(path, bool)
    assert {
        file.relative_to(path).as_posix(): file.read_bytes()
        for file in path.rglob("*")
        if file.is_file()
    } == files
    before = len(bucket.requests)
    gcs.refresh(path, bool)
    requests = bucket.requests[before:]
    assert [request for request in requests if "alt=media" in request] == [], (
        "nothing is downloaded twice"
    )

    bucket.put("things/a.txt", b"\n\nother")  # the same size
    bucket.remove("things/sub")
    gcs.refresh(path, bool)
    assert (path / "a.txt").read_bytes() == b"\n\nother" and not (path / "sub" / "z.bin").exists()
    gcs.remove(path)
    assert bucket.files("things/") == [] and bucket.files("things2/") == ["things2/other"]
    assert not path.exists() and not gcs.has_objects(path)


def test_a_folder_counts_once_its_marker_exists(bucket):
    path = gcs_paths.local_path("gs://test/store")
    bucket.put("store/blocks.npy", b"half")
    assert not gcs.download(path, "manifest.json").exists()
    bucket.put("store/manifest.json", b"{}")
    assert sorted(file.name for file in gcs.download(path, "manifest.json").iterdir()) == [
        "blocks.npy",
        "manifest.json",
    ]
    assert gcs.download(gcs_paths.local_path("gs://test/text.txt")).is_file()


def test_the_marker_is_uploaded_last(bucket, tmp_path):
    for name in ("a.txt", "config.json", "model.safetensors", "z.txt"):
        (tmp_path / name).write_text(name)
    gcs.upload(tmp_path, gcs_paths.local_path("gs://test/ordered"))
    generations = {
        name: bucket.objects[f"ordered/{name}"].generation
        for name in ("a.txt", "config.json", "z.txt")
    }
    assert max(generations, key=generations.get) == "config.json"


def test_an_upload_that_loses_a_byte_fails(bucket, tmp_path):
    """gcsfs checks no upload by default; the object would be corrupt without an error."""
    (tmp_path / "config.json").write_text("{}")
    bucket.truncated = re.compile("lossy/.*")
    try:
        with pytest.raises(UserError, match=r"gs://test/lossy cannot be .* \(Size mismatch\)"):
            gcs.upload(tmp_path, gcs_paths.local_path("gs://test/lossy"))
    finally:
        bucket.truncated = None
    assert bucket.files("lossy/") == []


def test_a_changed_folder_is_downloaded_again(bucket):
    path = gcs_paths.local_path("gs://test/anew")
    for name in ("blocks.npy", "manifest.json"):
        bucket.put(f"anew/{name}", b"first")
    gcs.download(path, "manifest.json")
    bucket.remove("anew/manifest")
    assert not gcs.download(path, "manifest.json").exists(), (
        "an object that is deleted is deleted locally"
    )
    bucket.put("anew/manifest.json", b"again")
    (path / "manifest.json").parent.mkdir()
    (path / "manifest.json").write_bytes(b"again")  # downloaded by a reader of JSON files only
    assert len(list(gcs.download(path, "manifest.json").iterdir())) == 2


def test_pickled_paths_keep_their_address(bucket, monkeypatch, tmp_path):
    path = gcs_paths.local_path("gs://test/run") / "data"
    pickled = pickle.dumps(partial(len, path.parent / "text.txt"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "elsewhere"))
    (restored,) = pickle.loads(pickled).args
    assert gcs_paths.url(restored) == "gs://test/run/text.txt"
    assert restored.is_relative_to(tmp_path / "elsewhere")


@pytest.mark.parametrize(
    ("pattern", "names"),
    [
        ("gs://test/corpus", ["a.txt", "deep/c.jsonl", "deep/er/d.txt.gz"]),
        ("gs://test/corpus/*.txt", ["a.txt"]),
        ("gs://test/corpus/**/*.jsonl", ["deep/c.jsonl"]),
        ("gs://test/corpus/deep/*", ["c.jsonl"]),
        ("gs://test/corpus/a.txt", ["a.txt"]),
    ],
)
def test_text_files_by_pattern(bucket, pattern, names):
    for name in ("a.txt", "b.bin", "deep/c.jsonl", "deep/er/d.txt.gz"):
        bucket.put(f"corpus/{name}", b"text")
    assert [name for name, _ in find_files(pattern)] == names
    for name in ("a.txt", "deep/c.jsonl"):
        del bucket.objects[f"corpus/{name}"]
    remaining = [name for name in names if name not in ("a.txt", "deep/c.jsonl", "c.jsonl")]
    if remaining:
        assert [name for name, _ in find_files(pattern)] == remaining
    else:
        with pytest.raises(UserError):
            find_files(pattern)


# Runs.


@pytest.mark.slow
def test_a_run_in_a_bucket_resumes_on_any_machine(bucket, alone, tmp_path):
    out = succeed("train", config(tmp_path), "--workdir", "gs://test/run", "--steps", 2)
    assert (
        "exported gs://test/run at step 2 to gs://test/run/export" in out
        and str(gcs_paths.mirror_dir()) not in out
    )
    move_to_new_machine()
    out = succeed("train", config(tmp_path), "--workdir", "gs://test/run", "--steps", 4)
    assert "resumes from step 2 of 4" in out and "reused gs://test/run/data/" in out
    mirrored = gcs_paths.local_path("gs://test/run")
    rows, local_rows = rows_of(mirrored), rows_of(alone)
    assert [row["step"] for row in rows] == [1, 2, 3, 4]
    # Later losses differ: the learning rate depends on the number of steps, at first 2.
    assert rows[0]["loss"] == local_rows[0]["loss"]
    names = bucket.files("run/")
    assert {"run/experiment.json", "run/metrics.jsonl", "run/tokenizer/tokenizer.json"} < set(names)
    assert {name.split("/")[2] for name in names if name.startswith("run/checkpoints/")} == {
        "2",
        "4",
    }
    assert "run/export/model.safetensors" in names and any("tensorboard/" in name for name in names)
    assert not [name for name in names if ".parts" in name or ".tmp" in name]

    del bucket.objects["run/export/config.json"]  # as if killed during the upload
    move_to_new_machine()
    out = succeed("train", config(tmp_path), "--workdir", "gs://test/run", "--steps", 4)
    assert "exported gs://test/run" in out and "run/export/config.json" in bucket.files("run/")
    move_to_new_machine()
    out = succeed("train", config(tmp_path), "--workdir", "gs://test/run", "--steps", 4)
    assert "exported" not in out
    assert "finished at step 4, skipped" in out and "--steps has no effect" in out
    assert not gcs.as_epath(mirrored / "checkpoints" / "6").exists()


@pytest.mark.slow
def test_the_metrics_equal_those_of_a_local_run(bucket, alone, tmp_path):
    """On another machine, a damaged checkpoint is renamed and a truncated log is repaired."""
    succeed("train", config(tmp_path), "--workdir", "gs://test/same")
    assert rows_of(gcs_paths.local_path("gs://test/same")) == rows_of(alone)
    newest = bucket.files("same/checkpoints/4/default/d/") or bucket.files(
        "same/checkpoints/4/default/ocdbt"
    )
    for name in newest:
        bucket.put(name, b"\0" * len(bucket.objects[name].content))
    bucket.put("same/metrics.jsonl", bucket.objects["same/metrics.jsonl"].content[:-20])
    move_to_new_machine()
    code, out = run("train", config(tmp_path), "--workdir", "gs://test/same", "--steps", 5)
    assert code == 0, out
    assert "gs://test/same/checkpoints/4 is damaged" in out and "resumes from step 2" in out
    assert any("damaged-4" in name for name in bucket.files("same/checkpoints/"))
    assert [row["step"] for row in rows_of(gcs_paths.local_path("gs://test/same"))] == [
        1,
        2,
        3,
        4,
        5,
    ]


@pytest.mark.slow
def test_every_command_reads_and_writes_in_a_bucket(bucket, tmp_path):
    two = config(tmp_path, lines=STUDENT)
    succeed("distill", two, "--workdir", "gs://test/two")
    move_to_new_machine()
    evaluated = succeed("eval", "gs://test/two/student")
    move_to_new_machine()
    compared = succeed("eval", "gs://test/two/student", "--model", "gs://test/two/teacher")
    assert "teacher" in compared and evaluated != compared
    move_to_new_machine()
    assert "gs://test/two/student" in succeed("inspect", "gs://test/two")
    assert "export/" in " ".join(bucket.files("two/student/"))
    move_to_new_machine()
    assert "read back bit-equal" in succeed("export", "gs://test/two/student", "gs://test/exported")
    move_to_new_machine()
    assert "converted directory" in succeed("convert", "gs://test/exported", "gs://test/converted")
    move_to_new_machine()
    assert "Hugging Face directory" in succeed("convert", "gs://test/converted", "gs://test/back")
    for name in ("config.json", "model.safetensors"):
        assert bucket.objects[f"back/{name}"].content == bucket.objects[f"exported/{name}"].content
    move_to_new_machine()
    assert "every tensor is used" in succeed("inspect", "gs://test/exported")
    assert "exists and is not an empty directory" in refused(
        "export", "gs://test/two/student", "gs://test/back"
    )
    bucket.remove("back/")
    succeed("export", "gs://test/two/student", "gs://test/back")


@pytest.mark.slow
def test_models_tokenizers_and_blocks_in_a_bucket(bucket, tmp_path):
    teacher = write_model(tmp_path / "teacher", ("the", "cat"))
    gcs.upload(teacher, gcs_paths.local_path("gs://test/models/teacher"))
    lines = (
        "from dataclasses import replace\n"
        "config = replace(\n"
        "    teacher, teacher=Teacher(path='gs://test/models/teacher'), data_dir='gs://test/blocks',\n"
        "    corpus=replace(teacher.corpus, tokenizer='gs://test/models/teacher/vocab.txt'),\n"
        "    losses={'vocab': VocabKD()},\n"
        ")\n"
    )
    succeed("prepare", config(tmp_path, lines=lines))
    stored = bucket.files("blocks/")
    generations = {name: bucket.objects[name].generation for name in stored}
    assert any(name.endswith("manifest.json") for name in stored)
    move_to_new_machine()
    offline = ("distill", config(tmp_path, lines=lines), "--teacher.cache-top-k", 4, "--workdir")
    assert "reused gs://test/blocks/" in succeed(*offline, tmp_path / "offline")
    blocks = [name for name in bucket.files("blocks/") if not name.startswith("blocks/targets-")]
    assert {name: bucket.objects[name].generation for name in blocks} == generations
    (words,) = (name for name in bucket.files("blocks/targets-") if name.endswith("/token_ids.npy"))
    targets = bucket.objects[words]
    move_to_new_machine()
    assert str(tmp_path / "offline") in succeed("eval", tmp_path / "offline")
    move_to_new_machine()
    assert "reused gs://test/blocks/targets-" in succeed(*offline, tmp_path / "again")
    assert bucket.objects[words] == targets
    del bucket.objects[words]  # an incomplete upload
    move_to_new_machine()
    assert "wrote gs://test/blocks/targets-" in succeed(*offline, tmp_path / "once_more")
    assert bucket.objects[words].content == targets.content
    assert rows_of(tmp_path / "once_more") == rows_of(tmp_path / "offline")


def test_preparation_resumes_on_another_machine(bucket, tmp_path, monkeypatch):
    """One machine has surveyed the text and packed nothing; another resumes from its uploads."""
    from flaxdistill.data.preparation import text as prepare

    def stop(*arguments: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(prepare, "split_corpus", stop)
        code, out = run("prepare", config(tmp_path), "--workdir", "gs://test/prepared")
    assert code == 130 and "completed shards are in gs://test/prepared/data/" in out
    assert any(".parts/survey-00000/facts.json" in name for name in bucket.files("prepared/"))
    move_to_new_machine()
    out = succeed("prepare", config(tmp_path), "--workdir", "gs://test/prepared")
    assert "1 of 1 + 1 passes over shards are done" in out
    assert not [name for name in bucket.files("prepared/") if ".parts" in name]


def test_augmented_rows_in_a_bucket(bucket, tmp_path):
    model = write_model(tmp_path / "model", ("the", "cat", "dog"))
    bucket.put("rows.tsv", b"text\tlabel\nthe cat sees a dog\t1\na dog sees the cat\t0\n")
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
    variants = bucket.objects["varied/part-00000.jsonl"]
    move_to_new_machine()
    succeed(*command)
    assert bucket.objects["varied/part-00000.jsonl"] == variants
    assert variants.content.count(b"\n") >= 2
    move_to_new_machine()
    assert sources.Source(path="gs://test/varied/*.jsonl").is_augmented()
    assert not sources.Source(path="gs://test/rows.tsv").is_augmented()


@pytest.mark.slow
def test_reading_does_not_change_a_run_in_progress(bucket, tmp_path):
    """A run in progress locks its folder, and its log is newer than the uploaded one."""
    succeed("train", config(tmp_path), "--workdir", "gs://test/busy", "--steps", 2)
    folder = gcs_paths.local_path("gs://test/busy")
    with (folder / ".lock").open() as lock, contextlib.closing(Log(folder, step=2)) as log:
        fcntl.flock(lock, fcntl.LOCK_EX)
        log.write({"step": 3, "loss": 1.0})
        succeed("inspect", "gs://test/busy")
        log.write({"step": 4, "loss": 1.0})
        assert "another process is using" in refused(
            "train", config(tmp_path), "--workdir", "gs://test/busy", "--steps", 4
        )
    uploaded = bucket.objects["busy/metrics.jsonl"].content.decode().splitlines()
    assert [json.loads(line)["step"] for line in uploaded if "split" not in line] == [1, 2, 3, 4]


@pytest.mark.slow
def test_a_checkpoint_without_permission_is_not_damaged(bucket, tmp_path, capfd):
    succeed("train", config(tmp_path), "--workdir", "gs://test/shut", "--steps", 2)
    before = bucket.files("shut/checkpoints")
    for pattern in (".*/checkpoints/.*alt=media", ".*checkpoints.*"):
        bucket.forbidden = re.compile(pattern)
        try:
            inspect = [] if "media" in pattern else [("inspect",)]  # inspect reads no array
            for command in (("train", config(tmp_path), "--workdir"), ("eval",), *inspect):
                message = refused(
                    *command, "gs://test/shut", *(["--steps", 4] if command[0] == "train" else [])
                )
                assert "cannot be read or written" in message, (command, pattern)
        finally:
            bucket.forbidden = None
    assert bucket.files("shut/checkpoints") == before and "Traceback" not in capfd.readouterr().err


@pytest.mark.slow
def test_an_incomplete_tokenizer_is_uploaded_again(bucket, tmp_path):
    succeed("train", config(tmp_path), "--workdir", "gs://test/claimed", "--steps", 2)
    names = bucket.files("claimed/tokenizer/")
    newest = max(bucket.objects[name].generation for name in names)
    assert bucket.objects["claimed/tokenizer/tokenizer.json"].generation == newest


@pytest.mark.slow
def test_a_run_that_is_deleted_starts_again(bucket, tmp_path):
    succeed("train", config(tmp_path), "--workdir", "gs://test/gone", "--steps", 2)
    bucket.remove("gone/")
    folder = gcs_paths.local_path("gs://test/gone")
    gcs.refresh(folder)
    assert (
        (folder / "data").exists()
        and not workdir.is_workdir(folder)
        and gcs.list_names(folder) == set()
    )
    assert "wrote gs://test/gone/data" in succeed(
        "prepare", config(tmp_path), "--workdir", "gs://test/gone"
    )


@pytest.mark.slow
def test_stages_by_processes_of_several_machines(bucket, tmp_path, monkeypatch):
    """Only the main process exports; the saves of the second stage still need all processes."""
    workdir = tmp_path / "printed"
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(sys.path))
    homes = [{"XDG_CACHE_HOME": str(tmp_path / f"machine{index}")} for index in range(2)]
    children = start(
        config(tmp_path, lines=STUDENT),
        workdir,
        2,
        1,
        "--workdir",
        "gs://test/stages",
        environments=homes,
        command="distill",
    )
    assert finish(children) == [0, 0], printed(workdir) + printed(workdir, 1)
    assert "stages/student/export/config.json" in bucket.files("stages/")
    assert "student" in succeed("eval", "gs://test/stages/student")


@pytest.mark.slow
def test_processes_of_several_machines(bucket, alone, tmp_path, monkeypatch):
    """Two processes that share only the bucket."""
    workdir = tmp_path / "printed"
    homes = [str(tmp_path / f"machine{index}") for index in range(2)]
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(sys.path))
    children = start(
        config(tmp_path),
        workdir,
        2,
        1,
        "--workdir",
        "gs://test/pod",
        environments=[{"XDG_CACHE_HOME": home} for home in homes],
    )
    assert finish(children) == [0, 0], printed(workdir) + printed(workdir, 1)
    monkeypatch.setenv("XDG_CACHE_HOME", homes[0])
    assert_rows_close(all_rows(gcs_paths.local_path("gs://test/pod")), all_rows(alone))
    assert {"pod/export/config.json", "pod/experiment.json"} < set(bucket.files("pod/"))


# Mistakes.


def test_errors_of_missing_and_unreachable_objects(bucket, tmp_path, monkeypatch):
    assert "is not a workdir" in refused("eval", "gs://test/nothing")
    assert "gs://test/nothing" in refused("inspect", "gs://test/nothing")
    assert "not an address in a bucket" in refused("train", config(tmp_path), "--workdir", "gs://")
    assert "gs://test/no.txt does not exist" in refused(
        "train", config(tmp_path, "gs://test/no.txt"), "--workdir", tmp_path / "run"
    )
    bucket.put("odd/../../x.json", b"{}")
    assert "not a valid file name" in refused("inspect", "gs://test/odd")
    bucket.down = True
    try:
        message = refused("train", config(tmp_path), "--workdir", "gs://test/away")
        assert "gs://test/away cannot be read or written" in message and "gcloud auth" in message
    finally:
        bucket.down = False
    assert not (tmp_path / "run").exists() and bucket.files("away/") == []
    gcs._filesystem.cache_clear()
    monkeypatch.setitem(sys.modules, "gcsfs", None)
    assert "pip install 'flaxdistill[gcs]'" in refused(
        "train", config(tmp_path), "--workdir", "gs://test/away"
    )


def test_a_config_in_a_bucket_is_not_run(bucket):
    bucket.put("config.py", b"config = 1")
    assert "there is no config gs:" in refused("train", "gs://test/config.py")
