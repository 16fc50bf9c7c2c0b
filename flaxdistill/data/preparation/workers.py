"""What does the work on the shards of a corpus: processes of this machine, or Apache Beam."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing.connection import wait
from pathlib import Path
from typing import Any

from flaxdistill.data.corpus import Engine
from flaxdistill.data.preparation.folders import Task, read_facts
from flaxdistill.errors import UserError

# Bytes of text below which processes take longer to start than one takes to do the work.
WORTH = 2**26

Run = Callable[[Sequence[Task]], Iterator[dict[str, Any]]]
Begin = Callable[[Sequence[Task]], None]
Finish = Callable[[Task], None]


@contextlib.contextmanager
def working(engine: Engine, *passes: Sequence[Task]) -> Iterator[Run]:
    """Give the function that does the tasks of one pass after the other, those that are not done yet.

    It yields their facts in order, as soon as they can be told. Tasks may be done in any order, anywhere and more than once:
    what a folder holds follows from its task. Raises UserError for what cannot be done; folders that are whole stay.
    """
    with _workers(engine, [_todo(tasks) for tasks in passes]) as (begin, finish):

        def run(tasks: Sequence[Task]) -> Iterator[dict[str, Any]]:
            begin(_todo(tasks))
            for task in tasks:
                if not task.done():
                    finish(task)
                yield read_facts(task.folder)

        yield run


def _todo(tasks: Sequence[Task]) -> list[Task]:
    return [task for task in tasks if not task.done()]


@contextlib.contextmanager
def _workers(engine: Engine, passes: Sequence[Sequence[Task]]) -> Iterator[tuple[Begin, Finish]]:
    """Give what begins with some tasks, and what waits until one of them is done."""
    large = max(sum(task.size for task in tasks) for tasks in passes) >= WORTH
    number = min(engine.processes or (_cores() if large else 1), max(map(len, passes)))
    if engine.kind == "beam":
        from flaxdistill.data.preparation import beam

        yield lambda tasks: beam.run(tasks, engine.options) if tasks else None, _missing
    elif number > 1:
        with _pool(number) as both:
            yield both
    else:
        yield lambda tasks: None, Task.do


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@contextlib.contextmanager
def _pool(number: int) -> Iterator[tuple[Begin, Finish]]:
    others = set(multiprocessing.active_children())
    # Twice the cores, so that those left idle by the last shards find work.
    threads = max(1, 2 * _cores() // number)
    # Spawned: a fork of a process that has loaded jax may deadlock.
    pool = ProcessPoolExecutor(number, multiprocessing.get_context("spawn"), _begin, (threads,))
    done: dict[Path, Future[None]] = {}

    def begin(tasks: Sequence[Task]) -> None:
        done.update({task.folder: pool.submit(task.do) for task in tasks})

    def finish(task: Task) -> None:
        try:
            done.pop(task.folder).result()
        except BrokenProcessPool:
            raise UserError(
                f"one of the {number} processes that prepare the text has ended, perhaps for want of memory; run the same "
                "command again, which goes on from there, with fewer --engine.processes"
            ) from None

    try:
        yield begin, finish
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
