"""Weights & Biases: what its offline files hold, and errors."""

from __future__ import annotations

import json
import struct
import sys
from collections.abc import Iterator

import pytest

from flaxdistill.errors import UserError
from flaxdistill.train.log import Log


def records(file) -> Iterator[bytes]:
    """Yield the records of an offline file: 7 bytes of header, then a LevelDB log in one block."""
    data, offset = file.read_bytes(), 7
    while offset < len(data):
        length, kind = struct.unpack_from("<HB", data, offset + 4)  # after a checksum
        assert kind == 1, "a record that continues in another block"
        yield data[offset + 7 : offset + 7 + length]
        offset += 7 + length


def logged_rows(folder) -> list[dict]:
    """Read the rows of every start of a run, as its own tools would upload them."""
    import wandb
    from wandb.proto.wandb_internal_pb2 import Record

    # The end of a file may be missing until the process that writes it has ended.
    wandb.teardown()
    rows = []
    for file in sorted(folder.glob("wandb/offline-run-*/*.wandb")):
        for record in map(Record.FromString, records(file)):
            if record.WhichOneof("record_type") == "history":
                items = record.history.item
                rows.append(
                    {".".join(i.nested_key) or i.key: json.loads(i.value_json) for i in items}
                )
            if record.WhichOneof("record_type") == "run":
                rows.append({"id": record.run.run_id, "project": record.run.project})
    return rows


@pytest.fixture
def environment(monkeypatch):
    """Return a patch of the environment, which the library otherwise reads once per process."""
    import wandb

    yield monkeypatch
    wandb.teardown()


@pytest.mark.wandb
def test_rows_are_logged_and_a_run_is_resumed(tmp_path, environment):
    environment.setenv("WANDB_MODE", "offline")
    (tmp_path / "experiment.json").write_text("{}")
    for steps in ((1, 2), (3,)):
        log = Log(tmp_path, step=steps[0] - 1, project="distillation")
        for step in steps:
            log.write({"step": step, "loss": 2.0 / step})
            log.write({"step": step, "split": "held_out", "mlm": 3.0, "bad": float("nan")})
        log.close()
    rows = logged_rows(tmp_path)
    runs, values = [row for row in rows if "id" in row], [row for row in rows if "id" not in row]
    assert [run["project"] for run in runs] == ["distillation", "distillation"]
    assert runs[0]["id"] == runs[1]["id"]
    assert {row["_step"]: row["train/loss"] for row in values} == {1: 2.0, 2: 1.0, 3: 2.0 / 3}
    assert all(row["held_out/mlm"] == 3.0 for row in values)


def test_without_the_library(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(UserError, match=r"pip install 'flaxdistill\[wandb\]'"):
        Log(tmp_path, step=0, project="distillation")


@pytest.mark.wandb
def test_without_a_login(tmp_path, environment):
    environment.delenv("WANDB_API_KEY", raising=False)
    environment.setenv("WANDB_MODE", "online")
    environment.setenv("WANDB_BASE_URL", "http://127.0.0.1:9")
    environment.setenv("NETRC", str(tmp_path / "none"))
    (tmp_path / "experiment.json").write_text("{}")
    with pytest.raises(UserError, match="run wandb login, or set WANDB_MODE=offline"):
        Log(tmp_path, step=0, project="distillation")
