"""Threads that work on many files: few where S3 answers at once, all there may be where it takes its time."""

import threading
from collections import Counter, deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait

import pytest

from model_server import file_crew
from model_server.file_crew import FIRST_THREADS, join_in
from model_server.turn import end_turn

from .waiting import DEADLINE_SECONDS

MOST = 64


@pytest.fixture
def pool() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(MOST) as pool:
        yield pool


@pytest.fixture
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have nobody join for being slow."""
    monkeypatch.setattr(file_crew, "LOOK_SECONDS", DEADLINE_SECONDS)


def joined(pool: ThreadPoolExecutor, most: int, files: int, each: Callable[[int], object]) -> tuple[int, Counter[int]]:
    """Have threads do so many files, and return how many joined, and how often each file was done."""
    futures: list[Future[None]] = []
    done: list[int] = []

    def work(file: int) -> None:
        each(file)
        done.append(file)

    join_in(pool, most, deque(range(files)), work, futures)
    assert not wait(futures, DEADLINE_SECONDS).not_done
    for future in futures:
        future.result()
    return len(futures), Counter(done)


@pytest.mark.parametrize("files", [0, 1, FIRST_THREADS, FIRST_THREADS + 1, 500])
@pytest.mark.parametrize("most", [1, FIRST_THREADS, MOST])
def test_every_file_is_done_once_by_no_more_threads_than_there_may_be(
    pool: ThreadPoolExecutor, most: int, files: int
) -> None:
    threads, done = joined(pool, most, files, lambda _: None)
    assert done == Counter(range(files))
    assert threads <= min(most, files)


def test_one_works_at_a_time_and_no_other_before_it_has_to_wait(pool: ThreadPoolExecutor) -> None:
    working: list[int] = []

    def each(file: int) -> None:
        working.append(file)
        assert working == [file]
        working.remove(file)
        end_turn()

    assert joined(pool, MOST, 500, each)[1] == Counter(range(500))


def test_all_join_where_no_file_comes_at_once(pool: ThreadPoolExecutor) -> None:
    all_have_one = threading.Barrier(MOST)

    def each(_: int) -> None:
        end_turn()
        all_have_one.wait(DEADLINE_SECONDS)

    assert joined(pool, MOST, MOST, each)[0] == MOST


def test_no_more_join_where_one_has_come_back_for_another(pool: ThreadPoolExecutor, patient: None) -> None:
    all_taken = threading.Event()
    quick: list[int] = []

    def each(file: int) -> None:
        """Have one thread come back again and again, and the others not before nothing is left."""
        end_turn()
        if file == 0:
            quick.append(threading.get_ident())
        if file == MOST:
            all_taken.set()
        elif quick != [threading.get_ident()]:
            assert all_taken.wait(DEADLINE_SECONDS)

    assert joined(pool, MOST, MOST + 1, each)[0] == FIRST_THREADS


def test_after_a_fault_no_file_is_begun_and_nobody_joins(pool: ThreadPoolExecutor, patient: None) -> None:
    begun: list[int] = []
    futures: list[Future[None]] = []

    def work(file: int) -> None:
        begun.append(file)
        raise ValueError

    join_in(pool, MOST, deque(range(MOST)), work, futures)
    faults = [future.exception(DEADLINE_SECONDS) for future in futures]
    assert begun == [0]
    assert len(futures) == FIRST_THREADS
    assert [type(fault) for fault in faults if fault] == [ValueError]
