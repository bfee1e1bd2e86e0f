"""Threads that work on many files: few where they come at once, all there may be where they take their time."""

import threading
from collections import Counter, deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from concurrent.futures._base import DoneAndNotDoneFutures

import pytest
from hypothesis import given
from hypothesis import strategies as st

from model_server import file_crew
from model_server.file_crew import BYTES_AT_A_TIME, FIRST_THREADS, MOST_AT_A_TIME, join_in
from model_server.turn import end_turn

from .waiting import DEADLINE_SECONDS, wait_until

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

    def work(file: int) -> int:
        each(file)
        done.append(file)
        return 0

    join_in(pool, most, deque(range(files)), work, futures)
    assert not wait(futures, DEADLINE_SECONDS).not_done
    for future in futures:
        future.result()
    return len(futures), Counter(done)


def by_one_thread(sizes: list[int]) -> list[tuple[str, int, bool]]:
    """Have one thread do files of these sizes, and return what it asked for and did, and whether it might connect."""
    steps: list[tuple[str, int, bool]] = []
    futures: list[Future[None]] = []

    def work(file: int) -> int:
        steps.append(("do", file, False))
        return sizes[file]

    def ask_ahead(file: int, connects: bool) -> bool:
        steps.append(("ask", file, connects))
        return True

    with ThreadPoolExecutor(1) as pool:
        join_in(pool, 1, deque(range(len(sizes))), work, futures, ask_ahead)
    for future in futures:
        future.result()
    return steps


def takes(steps: list[tuple[str, int, bool]]) -> list[int]:
    """Return how many files were asked for at a time; one alone is not."""
    counts = [0]
    for step, _, _ in steps:
        if step == "ask":
            counts[-1] += 1
        elif counts[-1]:
            counts.append(0)
    return counts[:-1]


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


def test_all_join_where_files_stop_coming_after_the_first(pool: ThreadPoolExecutor) -> None:
    """A text, then the images that it is about."""
    first_has_come = threading.Event()
    all_have_one = threading.Barrier(MOST)

    def each(file: int) -> None:
        end_turn()
        if file == 0:
            first_has_come.set()
            return
        assert first_has_come.wait(DEADLINE_SECONDS)
        all_have_one.wait(DEADLINE_SECONDS)

    assert joined(pool, MOST, MOST + 1, each)[0] == MOST


def test_no_more_join_while_files_come(pool: ThreadPoolExecutor, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nor once none is left, for as long as the last ones take."""
    looks = []

    def look(*_: object) -> DoneAndNotDoneFutures[None]:
        """Let a file come before each look at what has come, and all of those that are left before the last ones."""
        looks.append(None)
        come.release(1 if len(looks) < MOST else 2 * MOST)
        wait_until(lambda: len(done) >= min(len(looks), MOST))
        return DoneAndNotDoneFutures(set(), set(futures) if len(looks) < MOST + 3 else set())

    come, done = threading.Semaphore(0), []
    futures: list[Future[None]] = []

    def work(file: int) -> int:
        end_turn()
        assert come.acquire(timeout=DEADLINE_SECONDS)
        done.append(file)
        return 0

    monkeypatch.setattr(file_crew, "wait", look)
    join_in(pool, MOST, deque(range(MOST + FIRST_THREADS)), work, futures)
    assert not wait(futures, DEADLINE_SECONDS).not_done
    assert len(futures) == FIRST_THREADS
    assert Counter(done) == Counter(range(MOST + FIRST_THREADS))


def test_after_a_fault_no_file_is_begun_and_nobody_joins(pool: ThreadPoolExecutor, patient: None) -> None:
    begun: list[int] = []
    futures: list[Future[None]] = []

    def work(file: int) -> int:
        begun.append(file)
        raise ValueError

    join_in(pool, MOST, deque(range(MOST)), work, futures)
    faults = [future.exception(DEADLINE_SECONDS) for future in futures]
    assert begun == [0]
    assert len(futures) == FIRST_THREADS
    assert [type(fault) for fault in faults if fault] == [ValueError]


def test_small_files_are_asked_for_before_the_first_of_them_is_worked_on() -> None:
    steps = by_one_thread([1] * 7)
    assert [step[:2] for step in steps] == [
        ("do", 0),
        *[("ask", 1), ("ask", 2), ("do", 1), ("do", 2)],
        *[("ask", 3), ("ask", 4), ("ask", 5), ("ask", 6), ("do", 3), ("do", 4), ("do", 5), ("do", 6)],
    ]


@pytest.mark.parametrize(
    ("size", "at_a_time"),
    [(0, MOST_AT_A_TIME), (BYTES_AT_A_TIME // 4, 4), (BYTES_AT_A_TIME // 3, 3), (BYTES_AT_A_TIME, 0)],
)
def test_the_larger_files_are_the_fewer_are_asked_for_at_a_time(size: int, at_a_time: int) -> None:
    assert max(takes(by_one_thread([size] * 100)), default=0) == at_a_time


def test_what_was_asked_for_behind_a_large_file_is_left_to_whoever_is_free(pool: ThreadPoolExecutor) -> None:
    """They come before all others, since they were asked for, and as one that is asked for at a time."""
    sizes = [1] * 3 + [BYTES_AT_A_TIME + 1] + [1] * 20
    steps = [step[:2] for step in by_one_thread(sizes)]
    assert steps.index(("ask", 4)) < steps.index(("do", 3))
    assert [file for step, file in steps if step == "do"] == list(range(len(sizes)))
    after = steps[steps.index(("do", 3)) + 1 :]
    assert after[0] == ("do", 4)
    assert after[1:3] == [("ask", 5), ("ask", 6)]


def test_a_connection_is_worth_it_while_there_are_plenty_of_files() -> None:
    connects = {file: connects for step, file, connects in by_one_thread([1] * 100) if step == "ask"}
    worth_it = [file for file in connects if connects[file]]
    assert worth_it == list(range(1, 79))  # 71 to 78 leave 21 behind them, more than twice as many as are taken
    assert takes(by_one_thread([1] * 100))[-1] == 5


@given(st.lists(st.sampled_from([0, 1, BYTES_AT_A_TIME // 2, BYTES_AT_A_TIME + 1]), max_size=60), st.integers(1, 8))
def test_whatever_their_sizes_every_file_is_done_once(sizes: list[int], most: int) -> None:
    done: list[int] = []
    futures: list[Future[None]] = []

    def work(file: int) -> int:
        done.append(file)
        if sizes[file] > 1:
            end_turn()
        return sizes[file]

    with ThreadPoolExecutor(most) as pool:
        join_in(pool, most, deque(range(len(sizes))), work, futures, lambda *_: True)
    for future in futures:
        future.result()
    assert Counter(done) == Counter(range(len(sizes)))


def test_nobody_asks_for_more_than_its_share(pool: ThreadPoolExecutor, patient: None) -> None:
    """Small files, and a few large ones at the end, which all threads are to work on."""
    large = range(40, 40 + FIRST_THREADS)
    all_have_one = threading.Barrier(FIRST_THREADS)
    futures: list[Future[None]] = []

    def work(file: int) -> int:
        if file in large:
            end_turn()
            all_have_one.wait(DEADLINE_SECONDS)
        return 1

    join_in(pool, FIRST_THREADS, deque(range(large.stop)), work, futures, lambda *_: True)
    assert not wait(futures, DEADLINE_SECONDS).not_done
    for future in futures:
        future.result()


def test_where_nothing_can_be_asked_for_no_more_is_asked() -> None:
    asked: list[int] = []
    futures: list[Future[None]] = []
    with ThreadPoolExecutor(1) as pool:
        join_in(pool, 1, deque(range(7)), lambda _: 1, futures, lambda file, _: bool(asked.append(file)))
    assert asked == [1, 3]


def test_a_fault_of_asking_is_one_of_its_thread(pool: ThreadPoolExecutor) -> None:
    futures: list[Future[None]] = []

    def refuse(file: int, connects: bool) -> bool:
        raise ValueError

    join_in(pool, 1, deque(range(7)), lambda _: 1, futures, refuse)
    assert isinstance(futures[0].exception(DEADLINE_SECONDS), ValueError)


def test_whoever_waits_for_files_that_hang_can_be_called_away(pool: ThreadPoolExecutor) -> None:
    files, called_away = FIRST_THREADS + 1, threading.Event()
    futures: list[Future[None]] = []

    def work(file: int) -> int:
        end_turn()
        if file == files - 1:
            assert called_away.wait(DEADLINE_SECONDS)
        return 0

    def check() -> None:
        if [future.done() for future in futures].count(False) == 1:
            raise TimeoutError

    with pytest.raises(TimeoutError):
        join_in(pool, MOST, deque(range(files)), work, futures, check=check)
    called_away.set()
