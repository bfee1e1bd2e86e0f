"""Tasks, clients that leave, crashes and stops in orders that nobody thought of: a state machine over a real server.

ORDERS=100 tries more of them than the few that a usual run does.
"""

import json
import os
import signal
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

from hypothesis import HealthCheck, Phase, Verbosity, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from server import Posted, Server, eventually, is_signed, serving

if TYPE_CHECKING:
    from conftest import Bucket

ORDERS = int(os.environ.get("ORDERS", "6"))
STEPS = 12
WORKERS = 2
QUEUE = 3
WARNINGS = (
    r"was sent SIGKILL|[Uu]nfinished tasks|exited|Worker .* ended|worker_lost|"
    r"^(Stopping|Stopped): |^nginx: |did not end within"
)
GONE = "gone"
"""What is expected of a task that never ran: no result at all."""


def machine_of(bucket: "Bucket") -> type[RuleBasedStateMachine]:
    """Return the state machine of servers whose tasks go to a bucket."""

    class AnyOrder(RuleBasedStateMachine):
        """A server that runs, or none; at most one task that runs, and some that wait for it."""

        numbers = iter(range(1_000_000))

        def __init__(self) -> None:
            super().__init__()
            self.life = ExitStack()
            self.server: Server | None = None
            self.running: tuple[str, Posted] | None = None
            self.waiting: dict[str, Posted] = {}
            self.expected: dict[str, str | int] = {}
            """By task the code of the error in its result, the exit code of its program, or GONE."""
            self.checked: set[str] = set()

        def new_pk(self) -> str:
            return f"task-{next(self.numbers)}"

        def settle(self, pk: str, posted: Posted, code: int = 0) -> None:
            """Read the answer to a task that ran to its end, with an exit code."""
            answer = posted.answer()
            assert answer.status == 200, (pk, answer)
            assert answer.json()["return_code"] == code
            self.expected[pk] = code

        def settle_waiting(self) -> None:
            """Read the answers to all that waited, now that nothing holds them up."""
            for pk, posted in self.waiting.items():
                self.settle(pk, posted)
            self.waiting.clear()

        # -- what can happen

        @initialize()
        def start(self) -> None:
            self.begin()

        @precondition(lambda self: not self.server)
        @rule()
        def begin(self) -> None:
            settings = {"MODEL_SERVER_QUEUE": str(QUEUE), "ALGORITHM_GRACE_SECONDS": "1"}
            self.server = self.life.enter_context(
                serving(bucket.endpoint, warnings=WARNINGS, MODEL_SERVER_WORKERS=str(WORKERS), **settings)
            )

        @precondition(lambda self: self.server and not self.running)
        @rule(code=st.sampled_from([0, 3]))
        def task(self, code: int) -> None:
            pk = self.new_pk()
            self.settle(pk, self.server.post(self.server.task(bucket, pk, f"exit {code}")), code)

        @precondition(lambda self: self.server and not self.running)
        @rule(stubborn=st.booleans())
        def long_task(self, stubborn: bool) -> None:
            self.server.clear_board()
            pk = self.new_pk()
            ignoring = "trap '' TERM" if stubborn else ""
            self.running = pk, self.server.post_blocking(bucket, pk, f"sleep 300 &\n{ignoring}")

        @precondition(lambda self: self.running and len(self.waiting) < QUEUE)
        @rule()
        def task_that_waits(self) -> None:
            pk = self.new_pk()
            self.waiting[pk] = self.server.post(self.server.task(bucket, pk, f'touch "$BOARD/{pk}"'))
            self.server.await_requests(1 + len(self.waiting))

        @precondition(lambda self: len(self.waiting) == QUEUE)
        @rule()
        def task_too_many(self) -> None:
            pk = self.new_pk()
            answer = self.server.run(bucket.task(pk))
            assert (answer.status, answer.json()["error"]["code"]) == (503, "queue_full")
            self.expected[pk] = GONE

        @precondition(lambda self: self.running)
        @rule()
        def end_of_the_long_task(self) -> None:
            self.server.go()
            self.settle(*self.running)
            self.running = None
            self.settle_waiting()

        @precondition(lambda self: self.running)
        @rule()
        def client_leaves(self) -> None:
            pk, posted = self.running
            posted.leave()
            self.running = None
            self.expected[pk] = "client_left"
            self.settle_waiting()
            eventually(lambda: result_of(bucket, pk), f"a result of {pk}")

        @precondition(lambda self: self.waiting)
        @rule(data=st.data())
        def waiting_client_leaves(self, data: st.DataObject) -> None:
            pk = data.draw(st.sampled_from(sorted(self.waiting)))
            self.waiting.pop(pk).leave()
            self.expected[pk] = GONE
            self.server.await_requests(1 + len(self.waiting))

        @precondition(lambda self: self.running)
        @rule()
        def crash_of_the_worker_that_runs(self) -> None:
            pk, posted = self.running
            old = self.server.running_worker().pid
            os.kill(old, signal.SIGKILL)
            answer = posted.answer()
            assert (answer.status, answer.json()["error"]["code"]) == (502, "worker_lost")
            self.running = None
            self.expected[pk] = "worker_lost"
            for other, waiting in self.waiting.items():
                answer = waiting.answer()  # 502 where it waited in the same worker: it was not accepted yet
                assert answer.status in (200, 502), (other, answer)
                self.expected[other] = 0 if answer.status == 200 else GONE
            self.waiting.clear()
            self.await_workers(old)
            eventually(lambda: result_of(bucket, pk), f"a result of {pk}")

        @precondition(lambda self: self.server and not self.running)
        @rule(which=st.integers(0, WORKERS - 1))
        def crash_of_an_idle_worker(self, which: int) -> None:
            old = self.server.workers[which].pid
            os.kill(old, signal.SIGKILL)
            self.await_workers(old)

        def await_workers(self, old: int) -> None:
            eventually(lambda: len(pids := self.pids()) == WORKERS and old not in pids, "a new worker")
            eventually(self.server.pings, "a 200 on /ping")

        def pids(self) -> set[int]:
            return {worker.pid for worker in self.server.workers}

        @precondition(lambda self: self.server)
        @rule(signum=st.sampled_from([signal.SIGTERM, signal.SIGINT]))
        def stop(self, signum: int) -> None:
            server, self.server = self.server, None
            os.kill(server.pid, signum)
            if self.running:
                self.expected[self.running[0]] = "interrupted"
            self.expected |= dict.fromkeys(self.waiting, GONE)
            for posted in [*([self.running[1]] if self.running else []), *self.waiting.values()]:
                answer = posted.answer()
                assert (answer.status, answer.json()["error"]["code"]) == (503, "interrupted")
            self.running = None
            self.waiting.clear()
            assert server.ended() == 0
            self.life.close()  # where it is seen that nothing is left

        # -- what holds at any time

        @invariant()
        def it_answers(self) -> None:
            assert self.server is None or self.server.pings()

        @invariant()
        def nothing_runs_but_what_should(self) -> None:
            if self.server and not self.running:
                eventually(lambda: not self.server.algorithm, "an end of the algorithm")
                eventually(lambda: self.server.requests_held() == 0, "an end of all requests")

        @invariant()
        def every_task_has_the_result_that_it_should_have(self) -> None:
            self.check({pk: expected for pk, expected in self.expected.items() if pk not in self.checked})
            self.checked |= self.expected.keys()

        def check(self, tasks: dict[str, str | int]) -> None:
            for pk, expected in tasks.items():
                result = result_of(bucket, pk)
                if expected == GONE:
                    assert result is None, (pk, result)
                    continue
                assert result, (pk, expected)
                assert is_signed(bucket, pk)
                code = result["error"] and result["error"]["code"]
                if isinstance(expected, int):
                    assert (result["return_code"], code) == (expected, "algorithm_failed" if expected else None)
                else:
                    assert (result["return_code"], code) == (1, expected)

        def teardown(self) -> None:
            for posted in [*([self.running[1]] if self.running else []), *self.waiting.values()]:
                posted.leave()
            self.life.close()
            self.check(self.expected)  # once more: nothing came later

    return AnyOrder


def result_of(bucket: "Bucket", pk: str) -> dict[str, Any] | None:
    key = f"/out/{pk}/.sagemaker_shim/inference_result.json"
    return json.loads(bucket.get(key)) if key in set(bucket.keys()) else None


def test_in_any_order_every_task_has_its_one_result_and_nothing_is_left(bucket: "Bucket") -> None:
    run_state_machine_as_test(
        machine_of(bucket),
        settings=settings(
            max_examples=ORDERS,
            stateful_step_count=STEPS,
            deadline=None,
            database=None,
            derandomize="ORDERS" not in os.environ,
            phases=[Phase.generate],  # to shrink would take hours: the steps of the first failure are printed
            suppress_health_check=list(HealthCheck),
            verbosity=Verbosity.normal,
        ),
    )
