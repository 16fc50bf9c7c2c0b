"""Batches made ahead of time."""

from __future__ import annotations

import contextlib
import itertools
import sys
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from typing import Any, TypeVar

T = TypeVar("T")


def prefetch(
    make: Callable[[int], T],
    start: int,
    stop: int,
    depth: int = 2,
    *,
    late: Callable[[int, float], None] = lambda item, seconds: None,
    patience: float = 60.0,
) -> Generator[T, None, None]:
    """Yield make(start), ..., make(stop - 1) in order; one thread works ``depth`` items ahead.

    What ``make`` raises is raised here, in its turn. Closing the iterator early ends the thread after the
    item it is working on. Every ``patience`` seconds that an item is waited for, ``late`` is told which, and how long.
    """

    def take(step: int, item: Future[T]) -> T:
        for times in itertools.count(1):
            done, _ = wait([item], patience)
            if done:
                break
            late(step, times * patience)
        return item.result()

    pool = ThreadPoolExecutor(max_workers=1, thread_name_prefix="prefetch")
    try:
        ahead: deque[Future[T]] = deque()
        for step in range(start, stop):
            ahead.append(pool.submit(make, step))
            if len(ahead) > depth:
                yield take(step - depth, ahead.popleft())
        while ahead:
            yield take(stop - len(ahead), ahead.popleft())
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def ahead(items: Iterable[T]) -> Iterator[T]:
    """Yield items in order, while one thread takes the next of them from where they come."""
    source, end = iter(items), object()
    taken: Generator[Any, None, None] = prefetch(
        lambda _: next(source, end), 0, sys.maxsize, depth=1
    )
    with contextlib.closing(taken):
        yield from itertools.takewhile(lambda item: item is not end, taken)
