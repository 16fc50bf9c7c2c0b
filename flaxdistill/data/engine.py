"""What does the work on the shards of a corpus: processes of this machine, or Apache Beam."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from multiprocessing.connection import wait
from typing import Any, Literal

from flaxdistill.data.filling import Task, read_facts
from flaxdistill.errors import UserError

# Bytes of text below which processes take longer to start than one takes to do the work.
WORTH = 2**24


@dataclass(frozen=True, kw_only=True)
class Engine:
    """What turns text into blocks; these are the same, byte by byte, whatever does it."""

    kind: Literal["processes", "beam"] = "processes"
    processes: int | None = None  # of this machine; None: one a core, where there are so many shards
    options: tuple[str, ...] = ()  # of beam, such as runner=FlinkRunner flink_master=host:8081

    def __post_init__(self) -> None:
        if self.processes is not None and self.processes < 1:
            raise UserError(f"engine.processes is {self.processes}, but somebody must do the work: raise it")
        if self.kind == "beam" and self.processes is not None:
            raise UserError(
                f"engine.processes is {self.processes}, but beam's runner has its own number: give it in engine.options"
            )
        if self.kind != "beam" and self.options:
            raise UserError(
                f"engine.options is {' '.join(self.options)}, but only beam has options: set engine.kind to beam"
            )


def run(engine: Engine, tasks: Sequence[Task]) -> Generator[dict[str, Any], None, None]:
    """Do what is not done yet, and yield the facts of all tasks in their order, each as soon as it can be told.

    The tasks may be done in any order and anywhere, more than once too: what a folder holds follows from its task. Raises
    UserError for the first that cannot be done; the folders that are whole stay.
    """
    todo = [task for task in tasks if not task.folder.exists()]
    with _workers(engine, todo) as finish:
        for task in tasks:
            if not task.folder.exists():
                finish(task)
            yield read_facts(task.folder)


@contextlib.contextmanager
def _workers(engine: Engine, todo: Sequence[Task]) -> Iterator[Callable[[Task], None]]:
    """Begin with the tasks, and give the function that waits until one of them is done."""
    number = min(engine.processes or _suitable(todo), len(todo))
    if engine.kind == "beam" and todo:
        from flaxdistill.data import beam

        beam.run(todo, engine.options)
        yield _missing
    elif number > 1:
        with _pool(number, todo) as finish:
            yield finish
    else:
        yield Task.do


def _suitable(todo: Sequence[Task]) -> int:
    return _cores() if sum(task.size for task in todo) >= WORTH else 1


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@contextlib.contextmanager
def _pool(number: int, todo: Sequence[Task]) -> Iterator[Callable[[Task], None]]:
    # Spawned: a fork of a process that has loaded jax may deadlock.
    others = set(multiprocessing.active_children())
    # Twice the cores, so that those left idle by the last shards find work.
    threads = max(1, 2 * _cores() // number)
    pool = ProcessPoolExecutor(number, multiprocessing.get_context("spawn"), _begin, (threads,))

    def finish(task: Task) -> None:
        try:
            done[task.folder].result()
        except BrokenProcessPool:
            raise UserError(
                f"one of the {number} processes that prepare the text has ended, perhaps for want of memory; run the same "
                "command again, which goes on from there, with fewer --engine.processes"
            ) from None

    try:
        done = {task.folder: pool.submit(task.do) for task in todo}
        yield finish
    except BaseException:
        for child in set(multiprocessing.active_children()) - others:
            child.kill()  # what it is at is not whole, and begins anew
        raise
    finally:
        pool.shutdown(cancel_futures=True)


def _begin(threads: int) -> None:
    """Make a new process do as many things at once as it may, leave Ctrl-C to its parent and not outlive it."""
    os.environ["RAYON_NUM_THREADS"] = str(threads)  # read when the tokenizer is first used
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = multiprocessing.parent_process()
    if parent is not None:
        threading.Thread(target=lambda: (wait([parent.sentinel]), os._exit(1)), daemon=True).start()


def _missing(task: Task) -> None:
    raise UserError(
        f"Beam has finished, but {task.folder} is not there: its workers must see the sources and the folder of the blocks "
        "under the same paths, as on a shared file system"
    )
