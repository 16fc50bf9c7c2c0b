"""Start several processes of one run and read their output."""

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
    environments: Sequence[dict] = (),
    command: str = "train",
) -> list[subprocess.Popen]:
    """Start the processes of a run, each with ``devices`` devices; output goes to separate files.

    ``environments`` adds variables to the environment of each process.
    """
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    common = os.environ | {
        "JAX_PLATFORMS": "cpu",
        "XLA_FLAGS": f"{os.environ['XLA_FLAGS']} --xla_force_host_platform_device_count={devices}",
        "PYTHONPATH": str(ROOT),
    }
    children = []
    for index in range(number):
        cluster = {"coordinator": f"127.0.0.1:{port}", "number": number, "index": index}
        cluster_flags = [
            argument
            for name, value in (cluster if number > 1 else {}).items()
            for argument in (f"--processes.{name}", value)
        ]
        arguments = [command, config, "--workdir", workdir, *cluster_flags, *flags]
        environment = common | (environments[index] if environments else {})
        with Path(f"{workdir}.{index}.txt").open("w") as out:
            children.append(
                subprocess.Popen(
                    [sys.executable, "-m", "flaxdistill", *map(str, arguments)],
                    env=environment,
                    stdout=out,
                    stderr=out,
                )
            )
    return children


def printed(workdir: Path, index: int = 0) -> str:
    return Path(f"{workdir}.{index}.txt").read_text()


def finish(children: list[subprocess.Popen], seconds: float = 240) -> list[int]:
    """Wait for all processes and return their exit codes."""
    try:
        return [child.wait(seconds) for child in children]
    finally:
        for child in children:
            child.kill()


def rows_of(workdir: Path) -> list[dict]:
    """Return all metrics of a run, without the speed."""
    rows = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    return [{k: v for k, v in row.items() if k != "tokens_per_second"} for row in rows]


def assert_rows_close(rows: list[dict], expected_rows: list[dict]) -> None:
    assert len(rows) == len(expected_rows)
    for row, expected in zip(rows, expected_rows, strict=True):
        assert row.keys() == expected.keys() and row.get("split") == expected.get("split")
        values, expected_values = (
            [v for k, v in r.items() if k != "split"] for r in (row, expected)
        )
        assert values == pytest.approx(expected_values, rel=2e-5), (row, expected)
