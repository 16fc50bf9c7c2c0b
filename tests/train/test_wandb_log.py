"""What Weights & Biases is told, by its own offline files."""

from __future__ import annotations

import json
import struct
import sys
from collections.abc import Iterator

import pytest

from flaxdistill.errors import UserError
from flaxdistill.train.log import Log


def records(file) -> Iterator[bytes]:
    """Read an offline file: a header of 7 bytes, then LevelDB's log of whole records, within one of its blocks."""
    data, at = file.read_bytes(), 7
    while at < len(data):
        length, kind = struct.unpack_from("<HB", data, at + 4)  # behind a checksum
        assert kind == 1, "a record that goes on in another block"
        yield data[at + 7 : at + 7 + length]
        at += 7 + length


def told(folder) -> list[dict]:
    """Read the rows of every start of a run, as its own tools would send them."""
    import wandb
    from wandb.proto.wandb_internal_pb2 import Record

    wandb.teardown()  # a finished run's file may lack its end until the process that writes it is gone
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
def afresh(monkeypatch):
    """Let the library read its environment again: it does so once in a process."""
    import wandb

    yield monkeypatch
    wandb.teardown()


@pytest.mark.wandb
def test_rows_reach_it_and_a_run_goes_on(tmp_path, afresh):
    afresh.setenv("WANDB_MODE", "offline")
    (tmp_path / "experiment.json").write_text("{}")
    for steps in ((1, 2), (3,)):
        log = Log(tmp_path, step=steps[0] - 1, project="ours")
        for step in steps:
            log.write({"step": step, "loss": 2.0 / step})
            log.write({"step": step, "split": "held_out", "mlm": 3.0, "bad": float("nan")})
        log.close()
    rows = told(tmp_path)
    runs, values = [row for row in rows if "id" in row], [row for row in rows if "id" not in row]
    assert [run["project"] for run in runs] == ["ours", "ours"]
    assert runs[0]["id"] == runs[1]["id"]
    assert {row["_step"]: row["train/loss"] for row in values} == {1: 2.0, 2: 1.0, 3: 2.0 / 3}
    assert all(row["held_out/mlm"] == 3.0 for row in values)


def test_without_the_library(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(UserError, match=r"pip install 'flaxdistill\[wandb\]'"):
        Log(tmp_path, step=0, project="ours")


@pytest.mark.wandb
def test_without_a_login(tmp_path, afresh):
    afresh.delenv("WANDB_API_KEY", raising=False)
    afresh.setenv("WANDB_MODE", "online")
    afresh.setenv("WANDB_BASE_URL", "http://127.0.0.1:9")
    afresh.setenv("NETRC", str(tmp_path / "none"))
    (tmp_path / "experiment.json").write_text("{}")
    with pytest.raises(UserError, match="run wandb login, or set WANDB_MODE=offline"):
        Log(tmp_path, step=0, project="ours")
