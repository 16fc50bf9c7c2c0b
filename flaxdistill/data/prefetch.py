"""Items computed ahead of time in a background thread."""

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
    """Yield make(start), ..., make(stop - 1) in order, from a thread that runs ``depth`` ahead.

    An exception of ``make`` is raised here, in its turn. Closing the iterator early ends the
    thread after its current item. While an item is awaited, ``late`` is called every ``patience``
    seconds with the item's number and the seconds waited.
    """

    def wait_for(step: int, item: Future[T]) -> T:
        for count in itertools.count(1):
            done, _ = wait([item], patience)
            if done:
                break
            late(step, count * patience)
        return item.result()

    pool = ThreadPoolExecutor(max_workers=1, thread_name_prefix="prefetch")
    try:
        queue: deque[Future[T]] = deque()
        for step in range(start, stop):
            queue.append(pool.submit(make, step))
            if len(queue) > depth:
                yield wait_for(step - depth, queue.popleft())
        while queue:
            yield wait_for(stop - len(queue), queue.popleft())
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def prefetch_iterable(items: Iterable[T]) -> Iterator[T]:
    """Yield items in order, while a thread computes the next one."""
    source, end = iter(items), object()
    results: Generator[Any, None, None] = prefetch(
        lambda _: next(source, end), 0, sys.maxsize, depth=1
    )
    with contextlib.closing(results):
        yield from itertools.takewhile(lambda item: item is not end, results)
