"""Does what a plan says to real containers, several clients at a time, and notes all that happens in a history."""

import hashlib
import hmac
import json
import os
import re
import signal
import threading
import time
from collections import Counter, defaultdict, deque
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from http.client import HTTPException
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Any

from checker import grown
from history import History
from plan import TASKS_AT_AN_END, AttemptPlan, Life, Step, Target
from programs import Prepared, prepare
from server import SIGNING_KEY, STOP_SECONDS, Posted, Process, Server, serving

from faulty_s3 import Exchange, Fault, FaultyS3

if TYPE_CHECKING:
    from tests.conftest import Bucket

CLIENTS = 3
WORKERS = 3
CALM_SECONDS = 15.0
RUNS_SECONDS = 3.0
PING_PAUSE_SECONDS = 0.2

AFTER_A_KILLED_WORKER = ["worker_lost"]
AFTER_AN_END = ["interrupted", "worker_lost", "client_left", "not_ready", "cut"]
"""What attempts may end with that a killed worker, or the end of a container, meets."""

UNTOLD = "Stopped: Lost tasks have no result"

WARNINGS = "|".join(
    (
        r"^S3: ",
        r"^Task \S+: (The result|S3|The output bucket) ",
        r"did not end within [\d.]+ s of SIGTERM",
        r"was sent SIG\w+|[Uu]nfinished tasks|exited|Worker .* ended|^Task .*(worker_lost|interrupted): ",
        r"The results of lost tasks could not be stored",
        rf"^{UNTOLD}$",
        r"^nginx: ",
        r"^(Stopping|Stopped): (gunicorn|nginx) was ended by SIGKILL$",
    )
)
"""What a server may say about all this; a traceback, say, is none of it."""

SETTINGS = {
    "MODEL_SERVER_WORKERS": str(WORKERS),
    "MODEL_SERVER_QUEUE": "8",
    "ALGORITHM_GRACE_SECONDS": "0.5",
    "LOG_LEVEL": "INFO",
}


def etag(data: bytes) -> str:
    """Return what S3 knows the bytes of an object by."""
    return hashlib.md5(data).hexdigest()


@dataclass
class Pursued:
    """A task on its way through its attempts."""

    step: Step
    bucket: "Bucket"
    left: deque[AttemptPlan]


@dataclass(frozen=True)
class Noted:
    """A fault that S3 has for one attempt, while that goes on; the history says when it is met."""

    fault: Fault
    attempt: int
    what: str
    excuses: list[str]
    history: History
    over: threading.Event

    def apply(self, exchange: Exchange) -> None:
        if self.over.is_set():
            exchange.answer(exchange.ask())
            return
        self.history.add("met", attempt=self.attempt, what=self.what, excuses=self.excuses)
        self.fault.apply(exchange)


@dataclass
class Storm:
    """One run: `program` is the copy of `serve` to run."""

    s3_endpoint: str
    new_bucket: "Callable[[], Bucket]"
    history: History
    program: Path
    numbers: Iterator[int] = field(default_factory=lambda: count(1))
    pending: list[Pursued] = field(default_factory=list)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def live(self, life: Life) -> None:
        """Run one container from its start to its end, with the tasks that the end of the one before it cut."""
        bucket = self.new_bucket()
        bucket.client.put_bucket_versioning(Bucket=bucket.name, VersioningConfiguration={"Status": "Enabled"})
        over: list[Pursued] = []
        with (
            FaultyS3(self.s3_endpoint) as s3,
            serving(s3.endpoint, program=self.program, warnings=WARNINGS, **SETTINGS) as server,
        ):
            self.history.add("started", life=life.number)
            running = Running(server, s3, life.number, self, bucket, over)
            with ExitStack() as pinging:
                pinging.enter_context(running.pinged())
                steps = [self._pursued(step, bucket) for step in life.steps]
                early = len(steps) // 4
                running.run([*self._take_pending(), *steps[:early]])
                running.rest()
                running.run(steps[early:])
                running.rest()
                with ThreadPoolExecutor(TASKS_AT_AN_END, thread_name_prefix="client") as clients:
                    met = [clients.submit(running.pursue, self._pursued(step, bucket)) for step in life.at_end]
                    time.sleep(life.seconds)
                    pinging.close()
                    self.history.add("ending", life=life.number, how=life.end, excuses=AFTER_AN_END)
                    running.end(life.end)
                    for ended in met:
                        ended.result()
            server.files_may_stay = life.end == "kill PID 1"  # nobody was left to remove them
        self._look_at(over)

    def give_up(self) -> None:
        """Note what S3 has of the tasks that the last life's end cut."""
        self._look_at(self._take_pending())

    def _pursued(self, step: Step, bucket: "Bucket") -> Pursued:
        return Pursued(step, bucket, deque(step.attempts))

    def _take_pending(self) -> list[Pursued]:
        pending, self.pending = self.pending, []
        return pending

    def _look_at(self, tasks: list[Pursued]) -> None:
        """Note all results that were ever stored for each task, the oldest first, and the outputs that are there."""
        for name, bucket in {task.bucket.name: task.bucket for task in tasks}.items():
            objects = versions(bucket)
            for task in tasks:
                if task.bucket.name == name:
                    self._look_at_one(task.step.name, bucket, objects[task.step.name])

    def _look_at_one(self, task: str, bucket: "Bucket", objects: list[dict[str, Any]]) -> None:
        key = f"/out/{task}/.sagemaker_shim/inference_result.json"
        results = [stored_result(bucket, key, version["VersionId"]) for version in objects if version["Key"] == key]
        outputs = {
            version["Key"].removeprefix(f"/out/{task}/"): version["ETag"].strip('"')
            for version in objects
            if version["IsLatest"] and version["Key"] != key
        }
        self.history.add("stored", task=task, results=results[::-1], outputs=outputs)


def versions(bucket: "Bucket") -> dict[str, list[dict[str, Any]]]:
    """Return all versions of all objects below each task's prefix, the newest of each first."""
    found: dict[str, list[dict[str, Any]]] = defaultdict(list)
    pages = bucket.client.get_paginator("list_object_versions").paginate(Bucket=bucket.name, Prefix="/out/")
    for page in pages:
        for version in page.get("Versions", []):
            found[version["Key"].split("/")[2]].append(version)
    return found


def stored_result(bucket: "Bucket", key: str, version: str) -> dict[str, Any]:
    answer = bucket.client.get_object(Bucket=bucket.name, Key=key, VersionId=version)
    document = answer["Body"].read()
    expected = hmac.new(bytes.fromhex(SIGNING_KEY), document, hashlib.sha256).hexdigest()
    return told(document) | {"signed": answer["Metadata"].get("signature_hmac_sha256") == expected}


def told(document: bytes) -> dict[str, Any]:
    """Return what a result says, as far as anybody has to agree on it."""
    result = json.loads(document)
    marks = re.findall(r"^attempt (\d+)$", "".join(result["user_process_last_stderr_lines"]), re.MULTILINE)
    return {
        "sha256": hashlib.sha256(document).hexdigest(),
        "pk": result["pk"],
        "return_code": result["return_code"],
        "error": result["error"] and result["error"]["code"],
        "outputs": [output["relative_path"] for output in result["outputs"]],
        "attempts": sorted({int(mark) for mark in marks}),
    }


@dataclass
class Running:
    """A container that is up, and its clients."""

    server: Server
    s3: FaultyS3
    life: int
    storm: Storm
    bucket: "Bucket"
    over: list[Pursued]
    ending: threading.Event = field(default_factory=threading.Event)
    at_first: dict[str, Any] | None = None

    # -- tasks

    def run(self, tasks: list[Pursued]) -> None:
        """Run tasks to their ends, some at a time."""
        with ThreadPoolExecutor(CLIENTS, thread_name_prefix="client") as clients:
            for ended in [clients.submit(self.pursue, task) for task in tasks]:
                ended.result()

    def pursue(self, pursued: Pursued) -> None:
        """Try a task until it has its answer; what the end of the container cuts is for the next one."""
        while pursued.left and not self.ending.is_set():
            again = self.attempt(pursued, pursued.left.popleft())
            if not again:
                pursued.left.clear()
        if pursued.left:
            with self.storm.lock:
                self.storm.pending.append(pursued)
        else:
            with self.storm.lock:
                self.over.append(pursued)

    def attempt(self, pursued: Pursued, plan: AttemptPlan) -> bool:
        """Post a task once, let happen what is planned, and say whether it is to be tried again."""
        number, step, history = next(self.storm.numbers), pursued.step, self.storm.history
        prepared = prepare(step.program, step.seed, number)
        task = self.upload(pursued, number, prepared)
        over = threading.Event()
        for fault in plan.faults:
            for method, key in targets(task, prepared, fault.target):
                noted = Noted(fault.fault, number, f"{fault.kind} for {fault.target}", fault.excuses, history, over)
                self.s3.fault(method, key, noted, fault.times)
        expected = {name: etag(data) for name, data in prepared.outputs.items()}
        facts = {"return_code": prepared.return_code, "error": prepared.error, "status": prepared.status}
        history.add(
            "posted", life=self.life, attempt=number, task=step.name, program=step.program, outputs=expected, **facts
        )
        try:
            posted = self.server.post(task)
            left = self.act(plan, number, posted)
            if left:
                return True
            answer = posted.answer()
        except (OSError, HTTPException) as error:
            history.add("cut", attempt=number, error=repr(error))
            return True
        finally:
            over.set()
        body = answer.json()
        facts = told(answer.body) if answer.status == 200 else {"error": body["error"]["code"]}
        history.add("answered", attempt=number, status=answer.status, **facts)
        return answer.status >= 500 or (answer.status == 200 and plan.again)

    def upload(self, pursued: Pursued, number: int, prepared: Prepared) -> dict[str, Any]:
        """Put what an attempt is given into S3, under keys of its own, and return the task."""
        bucket, name = pursued.bucket, pursued.step.name
        inputs = []
        for index, item in enumerate(prepared.inputs):
            bucket.put(key := f"in/{name}/{number}/{index}", item.data)
            inputs.append(bucket.item(item.relative_path, key, decompress=item.decompress))
        bucket.put(key := f"in/{name}/{number}/do", prepared.script)
        return bucket.task(name, [bucket.item("do", key), *inputs], timeout=prepared.timeout)

    def act(self, plan: AttemptPlan, number: int, posted: Posted) -> bool:
        """Do to an attempt what is planned, and say whether its client has left."""
        history = self.storm.history
        match plan.action:
            case "leave":
                time.sleep(plan.seconds)
                history.add("left", attempt=number)
                posted.leave()
                return True
            case "kill algorithm":
                self.kill_algorithm(number, plan.seconds)
            case "kill worker":
                time.sleep(plan.seconds)
                self.kill_worker(number)
        return False

    def kill_algorithm(self, number: int, seconds: float) -> None:
        """Kill the process group of an attempt once it has said that it runs, if it still does after some seconds."""
        sign = self.server.board / f"ran-{number}"
        deadline = time.monotonic() + RUNS_SECONDS
        while not (sign.exists() and sign.read_text().endswith("\n")) and time.monotonic() < deadline:
            time.sleep(0.005)
        time.sleep(seconds)
        with suppress(OSError):  # it has not run, or has ended
            pid = int(sign.read_text())
            if os.fsencode(self.server.board) in Path(f"/proc/{pid}/environ").read_bytes():
                self.storm.history.add("met", attempt=number, what="kill algorithm", excuses=["algorithm_failed"])
                os.killpg(pid, signal.SIGKILL)

    def kill_worker(self, number: int) -> None:
        history = self.storm.history
        workers = self.server.workers
        if self.ending.is_set() or not workers:
            return
        old = workers[number % len(workers)]
        history.add("killed", life=self.life, what="worker", excuses=AFTER_A_KILLED_WORKER)
        with suppress(ProcessLookupError):
            os.kill(old.pid, signal.SIGKILL)
        deadline = time.monotonic() + CALM_SECONDS
        while time.monotonic() < deadline and not self.ending.is_set():
            new = self.server.workers
            if len(new) == WORKERS and old.pid not in {worker.pid for worker in new} and self.server.pings():
                break
            time.sleep(0.05)
        history.add("recovered", life=self.life, workers=len(self.server.workers))

    # -- what is seen from outside

    @contextmanager
    def pinged(self) -> Iterator[None]:
        """Ask for /ping all the time during the block."""
        over = threading.Event()

        def ping() -> None:
            while not over.wait(PING_PAUSE_SECONDS):
                asked = time.monotonic()
                try:
                    status = self.server.ask("GET", "/ping").status
                except (OSError, HTTPException):
                    status = 0
                seconds = round(time.monotonic() - asked, 3)
                self.storm.history.add("pinged", life=self.life, status=status, seconds=seconds)

        thread = threading.Thread(target=ping, name="ping")
        thread.start()
        try:
            yield
        finally:
            over.set()
            thread.join()

    def rest(self) -> None:
        """Run one more task, and note what is there once it has ended, when that does not change any more."""
        probe = Pursued(Step(f"probe-{next(self.storm.numbers)}", "hello", 0, ()), self.bucket, deque())
        self.attempt(probe, AttemptPlan())
        self.over.append(probe)
        deadline = time.monotonic() + CALM_SECONDS
        while not is_calm(seen := self.seen(), self.at_first) and time.monotonic() < deadline:
            time.sleep(0.05)
        self.at_first = self.at_first or seen["held"]
        self.storm.history.add("rested", life=self.life, probe=probe.step.name, **seen, **self.signs())

    def seen(self) -> dict[str, Any]:
        """Return what is there of tasks, and what each process of the server holds."""
        held = {}
        for process in self.server.tree():
            with suppress(OSError):
                held[called(process)] = counted(process.descriptors())
        files = [name for name in self.server.files() if not name.startswith("run/")]
        return {"files": files, "processes": [called(process) for process in self.server.algorithm], "held": held}

    def signs(self) -> dict[str, list[int]]:
        """Return which attempts ran in this container, and which of them were not alone."""
        names = [sign.name for sign in self.server.board.iterdir()]
        return {
            kind: sorted(int(name.removeprefix(f"{kind}-")) for name in names if name.startswith(f"{kind}-"))
            for kind in ("ran", "overlap")
        }

    def end(self, how: str) -> None:
        """End the container as planned, and note how it went."""
        self.ending.set()
        victim = {
            "SIGTERM": self.server.pid,
            "kill PID 1": self.server.pid,
            "kill gunicorn": self.server.gunicorn.pid,
            "kill nginx": self.server.nginx.pid,
        }[how]
        began = time.monotonic()
        os.kill(victim, signal.SIGTERM if how == "SIGTERM" else signal.SIGKILL)
        code = self.server.ended()
        deadline = time.monotonic() + STOP_SECONDS
        while (left := self.server.belonging()) and time.monotonic() < deadline:
            time.sleep(0.05)
        seconds = round(time.monotonic() - began, 3)
        names = [called(process) for process in left]
        untold = int(how != "kill PID 1" and any(line == UNTOLD for line in self.server.own_lines("stderr")))
        self.storm.history.add(
            "ended", life=self.life, how=how, code=code, seconds=seconds, left=names, untold=untold, **self.signs()
        )


def called(process: Process) -> str:
    return f"{process.name}-{process.pid}"


def counted(descriptors: list[str]) -> dict[str, int]:
    """Return how many there are of each kind; gunicorn has a file of another name for each worker."""
    return dict(Counter(re.sub(r"(?<=wgunicorn-)\w+", "…", descriptor) for descriptor in descriptors))


def is_calm(seen: Mapping[str, Any], at_first: Mapping[str, Any] | None) -> bool:
    """Say whether nothing of a task is there, nor a descriptor more than before; connections come and go."""
    return not seen["files"] and not seen["processes"] and not grown(at_first or {}, seen["held"])


def targets(task: Mapping[str, Any], prepared: Prepared, target: Target) -> list[tuple[str, str]]:
    """Return the method and the key of the object that a fault of an attempt is about, if there is one."""
    prefix = f"{task['output_prefix']}/"
    script, *inputs = [("GET", item["bucket_key"]) for item in task["inputs"]]
    return {
        "script": [script],
        "input": inputs[:1],
        "output": [("PUT", prefix + name) for name in list(prepared.outputs)[:1]],
        "result": [("PUT", f"{prefix}.sagemaker_shim/inference_result.json")],
    }[target]
