"""A damaged file is read or refused: with UserError, within seconds and in little memory.

The examples are the same in every run. ``FUZZ=5000`` takes more of them, at random.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tracemalloc
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from helpers.damage import damaged_bytes, damaged_json, damaged_lines
from helpers.paths import ROOT
from helpers.readers import READERS, write_valid_files
from hypothesis import HealthCheck, Phase, given, settings

from flaxdistill import UserError

EXAMPLES = int(os.environ.get("FUZZ", "0"))
SETTINGS = settings(
    max_examples=EXAMPLES or 60,
    derandomize=not EXAMPLES,
    database=None,
    deadline=timedelta(seconds=10),
    suppress_health_check=list(HealthCheck),
    phases=[Phase.explicit, Phase.generate, Phase.shrink],
)
MEMORY_PER_BYTE, MEMORY = 60, 8 * 2**20
"""Python memory that a reader may allocate: per byte of the files, and in addition."""
MAX_MESSAGE = 2000
"""Characters of the longest error message."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """Return a folder in which every reader succeeds."""
    folder = tmp_path_factory.mktemp("valid")
    write_valid_files(folder)
    return folder


@pytest.mark.parametrize("name", READERS)
def test_valid_file_is_read(name, folder):
    READERS[name].read(folder)


Change = Callable[[bytes], bytes]


def set_field(path: str, value: Any) -> Change:
    """Set a field of a JSON text by its dotted path."""

    def change(data: bytes) -> bytes:
        document = owner = json.loads(data)
        *parents, name = path.split(".")
        for part in parents:
            owner = owner[part]
        owner[name] = value
        return json.dumps(document).encode()

    return change


def substitute(old: bytes, new: bytes, count: int = -1) -> Change:
    return lambda data: data.replace(old, new, count)


LONG = ["x" * 3000]
FOUND: dict[str, list[Change]] = {
    "a manifest": [
        lambda data: data[:3] + b"\x80" + data[3:],
        set_field("format", LONG),
        set_field("counts.dtype", LONG),
        set_field("labels", 7),
        set_field("settings", None),
        set_field("settings", {"length": -1}),
        set_field("tokenizer", {"digest": None}),
    ],
    "blocks": [substitute(b", 16)", b", 16(", 1)],
    "an index of shards": [set_field("weight_map", {"a": LONG})],
    "experiment.json": [
        set_field("experiment.losses.vocab.temperature", None),
        set_field("experiment.optim.class", LONG),
        set_field("experiment.corpus", None),
        set_field("experiment.steps", "many"),
        set_field("inputs.blocks", ["a"]),
        set_field("student.family", LONG),
    ],
    "metrics.jsonl": [
        substitute(b"1.5", b'"low"'),
        substitute(b"1.5", b"{}"),
        substitute(b"1.5", b"9" * 400),
        substitute(b"1.5", b"9" * 5000),
        substitute(b"1.5", b"[" * 20_000),
        substitute(b'"held_out"', b"[]"),
    ],
    "vocab.json": [
        set_field("<s>", 2**32),
        set_field("<s>", -1),
        set_field("<s>", []),
        set_field("<mask>", 4 * 10**9),
    ],
    "tokenizer_config.json": [set_field("mask_token", ["a"])],
    "a converted model": [
        set_field("format", LONG),
        set_field("digest", LONG),
        set_field("family", LONG),
    ],
    "vectors": [substitute(b"1", b"9" * 41, 1)],
    "a model's config": [
        set_field("num_hidden_layers", 10**11),
        set_field("hidden_size", 2**70),
        set_field("type_vocab_size", -1),
    ],
}
"""Damage on which readers have failed before."""


@pytest.mark.parametrize("name", READERS)
def test_damaged_file_is_read_or_refused(name, folder):
    reader = READERS[name]
    file = folder / reader.file
    data = file.read_bytes()
    other_bytes = sum(path.stat().st_size for path in file.parent.rglob("*") if path.is_file())
    reader.read(folder)  # imports and compiles, so that the memory below is the reader's

    def check(damaged: bytes) -> None:
        file.write_bytes(damaged)
        message = ""
        tracemalloc.start()
        try:
            reader.read(folder)
        except UserError as error:
            message = str(error)
        finally:
            _, peak = tracemalloc.get_traced_memory()
            tracemalloc.stop()
        assert len(message) < MAX_MESSAGE
        assert peak < MEMORY_PER_BYTE * (len(damaged) + other_bytes) + MEMORY, (
            f"{peak:,} bytes for a file of {len(damaged):,}"
        )

    strategies = {
        "bytes": lambda: damaged_bytes(data),
        "json": lambda: damaged_json(data.decode()),
        "lines": lambda: damaged_lines(data.decode()),
    }
    try:
        for change in FOUND.get(name, []):
            check(change(data))
        SETTINGS(given(strategies[reader.format]())(check))()
    finally:
        file.write_bytes(data)


WITH_LITTLE_MEMORY = """
import pathlib, resource, sys
from helpers.readers import READERS
from flaxdistill import UserError
folder, name, damaged = pathlib.Path(sys.argv[1]), sys.argv[2], pathlib.Path(sys.argv[3])
reader = READERS[name]
reader.read(folder)
used = int(pathlib.Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + 2**28, used + 2**28))
for path in sorted(damaged.iterdir()):
    (folder / reader.file).write_bytes(path.read_bytes())
    try:
        reader.read(folder)
    except UserError:
        pass
print("done")
"""


@pytest.mark.parametrize("name", ["safetensors", "parquet", "tokenizer.json"])
def test_libraries_allocate_little_memory(name, folder, tmp_path):
    """Make every number of a file's header huge; native code may allocate 256 MiB in addition."""
    file = folder / READERS[name].file
    data = file.read_bytes()
    header = range(len(data) - 600, len(data) - 8, 4) if name == "parquet" else range(0, 200, 2)
    for at in header:
        damaged = data[:at] + b"\xff\xff\xff\xff\xff\xff\xff\x3f" + data[at + 8 :]
        (tmp_path / f"{at:05}").write_bytes(damaged)
    path = os.pathsep.join([str(ROOT), str(ROOT / "tests"), os.environ.get("PYTHONPATH", "")])
    try:
        result = subprocess.run(
            [sys.executable, "-c", WITH_LITTLE_MEMORY, str(folder), name, str(tmp_path)],
            capture_output=True,
            text=True,
            env=os.environ | {"PYTHONPATH": path.rstrip(os.pathsep)},
        )
    finally:
        file.write_bytes(data)
    assert (result.returncode, result.stdout) == (0, "done\n"), result.stderr[-2000:]
