"""Threads that work on many files: few where S3 answers at once, all there may be where it takes its time."""

import threading
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait

import pytest

from model_server import file_crew
from model_server.file_crew import FIRST_THREADS, join_in

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


def joined(pool: ThreadPoolExecutor, most: int, files: int, each: Callable[[int], None]) -> list[int]:
    """Have threads do so many files, and return how many each of them did."""
    ahead = deque(range(files))
    futures: list[Future[int]] = []

    def work() -> int:
        done = 0
        while ahead:
            try:
                file = ahead.popleft()
            except IndexError:
                break
            each(file)
            done += 1
        return done

    join_in(pool, most, ahead, work, futures)
    assert not wait(futures, DEADLINE_SECONDS).not_done
    return [future.result() for future in futures]


@pytest.mark.parametrize("files", [0, 1, FIRST_THREADS, FIRST_THREADS + 1, 500])
@pytest.mark.parametrize("most", [1, FIRST_THREADS, MOST])
def test_every_file_is_taken_by_no_more_threads_than_there_may_be(
    pool: ThreadPoolExecutor, most: int, files: int
) -> None:
    done = joined(pool, most, files, lambda _: None)
    assert sum(done) == files
    assert len(done) <= min(most, files)


def test_all_join_where_no_file_comes_at_once(pool: ThreadPoolExecutor) -> None:
    all_have_one = threading.Barrier(MOST)
    joined(pool, MOST, MOST, lambda _: all_have_one.wait(DEADLINE_SECONDS) and None)


def test_no_more_join_where_one_has_come_back_for_another(pool: ThreadPoolExecutor, patient: None) -> None:
    all_taken = threading.Event()
    quick: list[int] = []

    def each(file: int) -> None:
        """Have one thread come back again and again, and the others not before nothing is left."""
        if file == 0:
            quick.append(threading.get_ident())
        if file == MOST:
            all_taken.set()
        elif quick != [threading.get_ident()]:
            assert all_taken.wait(DEADLINE_SECONDS)

    assert len(joined(pool, MOST, MOST + 1, each)) == FIRST_THREADS


def test_no_more_join_once_one_has_failed(pool: ThreadPoolExecutor, patient: None) -> None:
    ahead = deque(range(MOST))
    futures: list[Future[None]] = []

    def work() -> None:
        raise ValueError

    join_in(pool, MOST, ahead, work, futures)
    assert len(futures) == FIRST_THREADS
    assert {type(future.exception(DEADLINE_SECONDS)) for future in futures} == {ValueError}
