"""Prefetching: order, depth, errors and the end of the thread."""

import threading
import time

import pytest

from flaxdistill.data.prefetch import prefetch


def threads():
    return [t for t in threading.enumerate() if t.name.startswith("prefetch")]


@pytest.mark.parametrize("depth", [0, 1, 2, 100])
def test_all_items_come_in_order(depth):
    assert list(prefetch(lambda i: i * i, 3, 10, depth)) == [i * i for i in range(3, 10)]
    assert list(prefetch(lambda i: i, 5, 5, depth)) == []
    assert not threads()


def test_runs_at_most_depth_ahead_in_one_thread():
    items_made, names = [], set()

    def make(i):
        names.add(threading.current_thread().name)
        items_made.append(i)
        return i

    items = prefetch(make, 0, 100, depth=3)
    assert next(items) == 0
    for _ in range(200):
        if len(items_made) == 4:
            break
        time.sleep(0.01)
    time.sleep(0.05)
    assert items_made == [0, 1, 2, 3] and len(names) == 1
    items.close()


def test_exception_is_raised_in_turn():
    def make(i):
        if i == 2:
            raise KeyError("two")
        return i

    items = prefetch(make, 0, 5)
    assert [next(items), next(items)] == [0, 1]
    with pytest.raises(KeyError, match="two"):
        next(items)
    assert not threads()


def test_closing_early_ends_the_thread():
    made = []

    def make(i):
        made.append(i)
        time.sleep(0.05)
        return i

    items = prefetch(make, 0, 1000, depth=50)
    next(items)
    began = time.monotonic()
    items.close()
    assert time.monotonic() - began < 0.5
    assert not threads() and len(made) < 10


def test_late_is_called_while_waiting():
    calls = []
    release = threading.Event()

    def make(i):
        if i == 2:
            release.wait()
        return i

    def late(item, seconds):
        calls.append((item, seconds))
        if len(calls) == 3:
            release.set()

    assert list(prefetch(make, 0, 4, late=late, patience=0.02)) == [0, 1, 2, 3]
    assert calls[:3] == [(2, 0.02), (2, 0.04), (2, 0.06)] and {item for item, _ in calls} == {2}
