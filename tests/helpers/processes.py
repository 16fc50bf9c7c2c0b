"""Starts several processes of one run and reads what they print."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from helpers.paths import ROOT


def start(
    config: Path,
    workdir: Path,
    number: int,
    devices: int,
    *flags: object,
    each: Sequence[dict] = (),
    verb: str = "train",
) -> list[subprocess.Popen]:
    """Start all processes of a run, each with so many devices, and what it prints in files of its own.

    ``each`` adds to what one finds in its environment.
    """
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    environment = os.environ | {
        "JAX_PLATFORMS": "cpu",
        "XLA_FLAGS": f"{os.environ['XLA_FLAGS']} --xla_force_host_platform_device_count={devices}",
        "PYTHONPATH": str(ROOT),
    }
    children = []
    for index in range(number):
        told = (
            ["coordinator", f"127.0.0.1:{port}", "number", number, "index", index]
            if number > 1
            else []
        )
        told = [f"--processes.{x}" if n % 2 == 0 else x for n, x in enumerate(told)]
        command = [
            sys.executable,
            "-m",
            "flaxdistill",
            verb,
            config,
            "--workdir",
            workdir,
            *told,
            *flags,
        ]
        own = each[index] if each else {}
        with Path(f"{workdir}.{index}.txt").open("w") as out:
            children.append(
                subprocess.Popen(
                    list(map(str, command)), env=environment | own, stdout=out, stderr=out
                )
            )
    return children


def printed(workdir: Path, index: int = 0) -> str:
    return Path(f"{workdir}.{index}.txt").read_text()


def finish(children: list[subprocess.Popen], seconds: float = 240) -> list[int]:
    try:
        return [child.wait(seconds) for child in children]
    finally:
        for child in children:
            child.kill()


def rows_of(workdir: Path) -> list[dict]:
    rows = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    return [{k: v for k, v in row.items() if k != "tokens_per_second"} for row in rows]


def close(ours: list[dict], theirs: list[dict]) -> None:
    assert len(ours) == len(theirs)
    for a, b in zip(ours, theirs, strict=True):
        assert a.keys() == b.keys() and a.get("split") == b.get("split")
        numbers = [[v for k, v in row.items() if k != "split"] for row in (a, b)]
        assert numbers[0] == pytest.approx(numbers[1], rel=2e-5), (a, b)
