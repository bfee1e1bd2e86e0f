"""Threads that work on one file: all parts done once, the first fault told, and nobody waited for who has no time."""

import gc
import os
import threading
import weakref
from collections.abc import Iterator
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import suppress

import pytest

from model_server.part_crew import MOST_HELPERS, work_together

from .waiting import DEADLINE_SECONDS, wait_until


@pytest.fixture(params=[1, 2, 16])
def pool(request: pytest.FixtureRequest) -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(request.param) as pool:
        yield pool


@pytest.mark.parametrize("parts", [0, 1, 2, 50])
def test_every_part_is_done_once(pool: Executor, parts: int) -> None:
    done: list[int] = []
    work_together(pool, range(parts), done.append)
    assert sorted(done) == list(range(parts))


def test_it_is_done_in_the_pools_only_thread_too(pool: Executor) -> None:
    """As many files at the same time as there are threads: none of them is ever free."""
    done: list[tuple[int, int]] = []

    def whole_file(file: int) -> None:
        work_together(pool, range(10), lambda part: done.append((file, part)))

    for future in [pool.submit(whole_file, file) for file in range(20)]:
        future.result(DEADLINE_SECONDS)
    assert len(set(done)) == len(done) == 200


def test_others_help_and_not_too_many() -> None:
    together = threading.Barrier(MOST_HELPERS + 1)
    with ThreadPoolExecutor(32) as pool:
        work_together(pool, range(MOST_HELPERS + 1), lambda _: together.wait(DEADLINE_SECONDS) and None)
        at_once, most, lock = [0], [0], threading.Lock()

        def work(_: int) -> None:
            with lock:
                at_once[0] += 1
                most[0] = max(most[0], at_once[0])
            threading.Event().wait(0.001)
            with lock:
                at_once[0] -= 1

        work_together(pool, range(100), work)
    assert 1 <= most[0] <= MOST_HELPERS + 1


def test_the_first_fault_is_raised_and_no_part_is_begun_after_it(pool: Executor) -> None:
    begun: list[int] = []

    def work(part: int) -> None:
        begun.append(part)
        if part == 3:
            raise KeyError(part)
        if part > 3:
            threading.Event().wait(0.001)  # else the others may have done all before that comes to be raised

    with pytest.raises(KeyError):
        work_together(pool, range(1000), work)
    assert 3 in begun
    assert len(begun) < 1000


def test_a_fault_is_raised_once_nobody_works_on_any_part() -> None:
    """Whoever is told of it closes the file."""
    working, go_on, ended = threading.Event(), threading.Event(), threading.Event()

    def work(part: int) -> None:
        if threading.current_thread() is here:
            assert working.wait(DEADLINE_SECONDS)
            threading.Timer(0.05, go_on.set).start()
            raise KeyError(part)
        working.set()
        assert go_on.wait(DEADLINE_SECONDS)
        ended.set()

    here = threading.current_thread()
    with ThreadPoolExecutor(1) as pool, pytest.raises(KeyError):
        work_together(pool, range(2), work)
    assert ended.is_set()


@pytest.mark.parametrize("raised", [KeyError, KeyboardInterrupt, SystemExit])
def test_whatever_a_helper_raises_is_raised_here(raised: type[BaseException]) -> None:
    met = threading.Event()

    def work(_: int) -> None:
        if threading.current_thread() is not here:
            met.set()
            raise raised
        assert met.wait(DEADLINE_SECONDS)

    here = threading.current_thread()
    with ThreadPoolExecutor(1) as pool, pytest.raises(raised):
        work_together(pool, range(2), work)


def test_a_helper_that_comes_late_finds_nothing_left() -> None:
    busy, done = threading.Event(), []
    with ThreadPoolExecutor(1) as pool:
        pool.submit(busy.wait, DEADLINE_SECONDS)
        work_together(pool, range(10), done.append)
        assert done == list(range(10))
        busy.set()
        pool.submit(os.getpid).result(DEADLINE_SECONDS)
    assert done == list(range(10))


def test_a_helper_that_comes_after_a_fault_was_told_touches_nothing() -> None:
    """The file is closed then, and its number may be another's."""
    busy, begun = threading.Event(), []

    def work(part: int) -> None:
        begun.append(part)
        raise KeyError

    with ThreadPoolExecutor(1) as pool:
        pool.submit(busy.wait, DEADLINE_SECONDS)
        with pytest.raises(KeyError):
            work_together(pool, range(10), work)
        busy.set()
        pool.submit(os.getpid).result(DEADLINE_SECONDS)
    assert begun == [0]


def test_a_pool_that_takes_nothing_any_more_costs_no_part() -> None:
    pool = ThreadPoolExecutor(1)
    pool.shutdown()
    done: list[int] = []
    work_together(pool, range(10), done.append)
    assert done == list(range(10))


class Held:
    """Something that a frame holds, as it holds an open file."""


def test_a_fault_leaves_nothing_for_the_garbage_collector() -> None:
    """What was open where it came up is closed with the error, not whenever the collector runs."""
    seen: list[weakref.ref[Held]] = []

    def work(_: int) -> None:
        held = Held()
        seen.append(weakref.ref(held))
        raise KeyError

    def whole() -> None:
        with ThreadPoolExecutor(2) as pool:
            work_together(pool, range(5), work)

    gc.disable()
    try:
        with suppress(KeyError):
            whole()
        wait_until(lambda: all(one() is None for one in seen))
    finally:
        gc.enable()
