"""The processes of a distributed run: start, barriers, agreement and preemption."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import jax

from flaxdistill.errors import PeersLost, UserError

HEARTBEAT = 30
"""Seconds after which a silent process counts as dead, and the others exit."""

DAY = 24 * 60 * 60


def initialize(
    coordinator: str | None = None, number: int | None = None, index: int | None = None
) -> None:
    """Connect to the other processes of the run, before JAX looks for devices.

    JAX detects the processes on Cloud TPU, GKE, Slurm and Open MPI. Elsewhere, pass the
    ``coordinator`` (host:port of the first process), the ``number`` of processes and the ``index``
    of this one. Without arguments or a cluster, the run has a single process. Raises UserError if
    only some of the three are passed, and PeersLost if the processes cannot connect.
    """
    flags = {"coordinator": coordinator, "number": number, "index": index}
    missing = [f"--processes.{flag}" for flag, value in flags.items() if value is None]
    if 0 < len(missing) < len(flags):
        raise UserError(
            f"{' and '.join(missing)} must be given too: pass all three, or none on a cluster that "
            "JAX detects"
        )
    if number is not None and index is not None and not 0 <= index < number:
        raise UserError(
            f"--processes.index is {index}, of {number} processes; it counts from 0 to {number - 1}"
        )
    if coordinator is not None and not coordinator.rpartition(":")[2].isdigit():
        raise UserError(
            f"--processes.coordinator is {coordinator!r}; write it as host:port, such as "
            "10.0.0.1:1234"
        )
    try:
        jax.distributed.initialize(
            coordinator,
            number,
            index,
            heartbeat_timeout_seconds=HEARTBEAT,
            shutdown_timeout_seconds=HEARTBEAT,
        )
    except ValueError:  # no cluster detected: a single process
        if not missing:
            raise
    except RuntimeError as error:
        # JAX already runs, as in a notebook: keep its processes.
        if missing and "must be called before" in str(error):
            return
        where = f" at {coordinator}" if coordinator else ""
        raise PeersLost(
            f"the processes of this run cannot connect{where} "
            f"({str(error).partition(chr(10))[0]}); start all of them, with the same "
            "--processes.coordinator and --processes.number"
        ) from error


def is_main() -> bool:
    """Return whether this is process 0, which alone writes and prints."""
    return jax.process_index() == 0


@contextlib.contextmanager
def main_first(name: str) -> Iterator[None]:
    """Run a block in the main process first, then in the others, which find its files on disk."""
    if not is_main():
        barrier(name)
    try:
        yield
    finally:
        if is_main():
            barrier(name)


def barrier(name: str) -> None:
    """Wait until all processes reach the barrier ``name``."""
    if jax.process_count() > 1:
        from orbax.checkpoint import multihost

        multihost.sync_global_processes(name, timeout=DAY)


def all_true(value: bool) -> bool:
    """Return whether ``value`` is true in all processes."""
    if jax.process_count() == 1:
        return value
    from jax.experimental import multihost_utils

    return bool(multihost_utils.process_allgather(jax.numpy.array(value)).all())


def preempted(step: int) -> bool:
    """Return whether to stop after ``step``: true in all processes at the same step.

    That step follows a SIGTERM to any process by a few steps.
    """
    from jax.experimental import multihost_utils

    return multihost_utils.reached_preemption_sync_point(step)
