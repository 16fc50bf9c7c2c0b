"""Running preparation tasks: in this process, in several processes, or by Apache Beam."""

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
from flaxdistill.data.preparation.folders import PreparationTask, read_facts
from flaxdistill.errors import UserError

MIN_PARALLEL_BYTES = 2**26
"""Bytes of text below which starting processes takes longer than one process needs."""

RunTasks = Callable[[Sequence[PreparationTask]], Iterator[dict[str, Any]]]
SubmitTasks = Callable[[Sequence[PreparationTask]], None]
FinishTask = Callable[[PreparationTask], None]


@contextlib.contextmanager
def task_runner(engine: Engine, *passes: Sequence[PreparationTask]) -> Iterator[RunTasks]:
    """Yield a function that runs the tasks of one pass, to be called for every pass in order.

    It skips completed tasks and yields the facts of all tasks in order, as soon as they are known.
    Tasks may run in any order, anywhere and more than once: the files of a folder depend on its
    task only. Raises UserError for a task that fails; completed folders remain.
    """
    with _workers(engine, [_pending(tasks) for tasks in passes]) as (submit, finish):

        def run(tasks: Sequence[PreparationTask]) -> Iterator[dict[str, Any]]:
            submit(_pending(tasks))
            for task in tasks:
                if not task.is_done():
                    finish(task)
                yield read_facts(task.folder)

        yield run


def _pending(tasks: Sequence[PreparationTask]) -> list[PreparationTask]:
    return [task for task in tasks if not task.is_done()]


@contextlib.contextmanager
def _workers(
    engine: Engine, passes: Sequence[Sequence[PreparationTask]]
) -> Iterator[tuple[SubmitTasks, FinishTask]]:
    """Yield a function that starts tasks, and one that waits until a task is done."""
    large = max(sum(task.size for task in tasks) for tasks in passes) >= MIN_PARALLEL_BYTES
    number = min(engine.processes or (_cores() if large else 1), max(map(len, passes)))
    if engine.kind == "beam":
        from flaxdistill.data.preparation import beam

        yield (
            lambda tasks: beam.run_pipeline(tasks, engine.options) if tasks else None,
            _raise_missing,
        )
    elif number > 1:
        with _pool(number) as functions:
            yield functions
    else:
        yield lambda tasks: None, PreparationTask.run


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@contextlib.contextmanager
def _pool(number: int) -> Iterator[tuple[SubmitTasks, FinishTask]]:
    others = set(multiprocessing.active_children())
    # Twice the cores, so that those left idle by the last shards are used.
    threads = max(1, 2 * _cores() // number)
    # Spawned: a fork of a process that has loaded jax may deadlock.
    context = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(number, context, _initialize_worker, (threads,))
    futures: dict[Path, Future[None]] = {}

    def submit(tasks: Sequence[PreparationTask]) -> None:
        futures.update({task.folder: pool.submit(task.run) for task in tasks})

    def finish(task: PreparationTask) -> None:
        try:
            futures.pop(task.folder).result()
        except BrokenProcessPool:
            raise UserError(
                f"one of the {number} processes that prepare the text has ended, perhaps out of "
                "memory; run the same command again with fewer --engine.processes to resume"
            ) from None

    try:
        yield submit, finish
    except BaseException:
        for child in set(multiprocessing.active_children()) - others:
            child.kill()  # its current folder is incomplete and will be written again
        raise
    finally:
        pool.shutdown(cancel_futures=True)


def _initialize_worker(threads: int) -> None:
    """Limit a new process's threads, ignore Ctrl-C, and end the process with its parent."""
    os.environ["RAYON_NUM_THREADS"] = str(threads)  # read at the tokenizer's first use
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = multiprocessing.parent_process()
    if parent is not None:
        threading.Thread(target=lambda: (wait([parent.sentinel]), os._exit(1)), daemon=True).start()


def _raise_missing(task: PreparationTask) -> None:
    raise UserError(
        f"Beam has finished, but {task.folder} is not there: its workers must see the sources and "
        "the folder of the blocks under the same paths, as on a shared file system"
    )
