"""The processes of one run: how they meet, in which turn they work, and when all of them stop."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import jax

from flaxdistill.errors import PeersLost, UserError

HEARTBEAT = 30
"""Seconds after which a silent process counts as gone, and the others end."""

DAY = 24 * 60 * 60


def join(
    coordinator: str | None = None, number: int | None = None, index: int | None = None
) -> None:
    """Meet the other processes of a run, before JAX looks at any device; alone where there are none.

    JAX finds them itself on Cloud TPU, GKE, Slurm and Open MPI; elsewhere ``coordinator`` is host:port of the first,
    ``number`` how many there are and ``index`` which of them this is. Raises UserError for some of these without the
    others, and PeersLost where they do not meet.
    """
    told = {"coordinator": coordinator, "number": number, "index": index}
    missing = [f"--processes.{flag}" for flag, value in told.items() if value is None]
    if 0 < len(missing) < len(told):
        raise UserError(
            f"{' and '.join(missing)} must be given too: all three, or none on a cluster that JAX knows"
        )
    if number is not None and index is not None and not 0 <= index < number:
        raise UserError(
            f"--processes.index is {index}, of {number} processes; they count from 0 to {number - 1}"
        )
    if coordinator is not None and not coordinator.rpartition(":")[2].isdigit():
        raise UserError(
            f"--processes.coordinator is {coordinator!r}; write it as host:port, such as 10.0.0.1:1234"
        )
    try:
        jax.distributed.initialize(
            coordinator,
            number,
            index,
            heartbeat_timeout_seconds=HEARTBEAT,
            shutdown_timeout_seconds=HEARTBEAT,
        )
    except ValueError:  # nobody has told of any other
        if not missing:
            raise
    except RuntimeError as error:
        if missing and "must be called before" in str(
            error
        ):  # a notebook that is at work, with whom it has chosen
            return
        where = f"at {coordinator} " if coordinator else ""
        raise PeersLost(
            f"the processes of this run did not meet {where}({str(error).partition(chr(10))[0]}); start all of them, with "
            "the same --processes.coordinator and --processes.number"
        ) from error


def first() -> bool:
    """Tell whether this is the process that writes and prints."""
    return jax.process_index() == 0


@contextlib.contextmanager
def in_turn(name: str) -> Iterator[None]:
    """Let the first process go through a block, then the others, who find done what it has left on the disk."""
    if not first():
        meet(name)
    try:
        yield
    finally:
        if first():
            meet(name)


def meet(name: str) -> None:
    """Wait until all processes are here."""
    if jax.process_count() > 1:
        from orbax.checkpoint import multihost

        multihost.sync_global_processes(name, timeout=DAY)


def agree(mine: bool) -> bool:
    """Tell whether all processes say yes."""
    if jax.process_count() == 1:
        return mine
    from jax.experimental import multihost_utils

    return bool(multihost_utils.process_allgather(jax.numpy.array(mine)).all())


def preempted(step: int) -> bool:
    """Tell after a step whether to stop: the same in all processes, some steps after any of them got SIGTERM."""
    from jax.experimental import multihost_utils

    return multihost_utils.reached_preemption_sync_point(step)
