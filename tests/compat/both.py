"""sagemaker-shim and Longshore side by side: what goes to one goes to the other, and what can be seen of both is kept.

Each side has a folder and an output bucket of its own, with the same layout; in what goes to them `@root@` and `@out@`
stand for these, and so they do in what comes back. Nothing outside the folder is touched: every variable that moves a
folder is always set.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import http.client
import itertools
import json
import os
import shutil
import signal
import socket
import stat
import subprocess
import sys
import tempfile
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from types_boto3_s3 import S3Client

HERE = Path(__file__).parent
CHECKOUT = HERE.parent.parent
SHIM_PYTHON = CHECKOUT / ".venv-shim" / "bin" / "python"
LONGSHORE = CHECKOUT / "container" / "longshore"

DEADLINE_SECONDS = 60.0
LOG_SECONDS = 1.0
"""How long the log may lag behind an answer."""

INPUTS = "inputs"
"""The bucket that both sides read from."""

KEY = "5a" * 32
PREFIX = "GRAND_CHALLENGE_COMPONENT_"
MARK = "COMPAT_TEST_MARK"
"""A variable that all processes of one run inherit, so that none stays."""

Environment = Mapping[str, str | None]
Observation = dict[str, Any]


DROP_IN_NAMES = {
    *("CMD_B64J", "ENTRYPOINT_B64J", "USER", "SET_EXTRA_GROUPS", "API_METHOD", "INPUT_PATH", "OUTPUT_PATH"),
    *("USE_LINKED_INPUT", "LINKED_INPUT_PARENT", "MODEL", "GROUND_TRUTH", "MODEL_DEST", "GROUND_TRUTH_DEST"),
    *("WRITABLE_DIRECTORIES", "POST_CLEAN_DIRECTORIES", "SIGNING_KEY_HEX", "MAX_MEMORY_MB", "SIGTERM_GRACE_SECONDS"),
    *("ASYNC_CONCURRENCY", "BOTO_MAX_POOL_CONNECTIONS", "START_AND_HEALTH_TIMEOUT_SECONDS"),
    *("HEALTH_CHECK_CALL_TIMEOUT_SECONDS", "USER_WEBSERVER_PORT", "RUNTIME_OUTPUT_BUCKET_NAME"),
    "RUNTIME_OUTPUT_PREFIX",
}
"""The variables of the page's 2.3 that have the prefix."""


def encoded(command: object) -> str:
    """Encode a command as the platform records it."""
    return base64.b64encode(json.dumps(command).encode()).decode()


def prefixed(variables: Environment) -> Environment:
    """Return variables with their whole names."""
    return {PREFIX + name if name in DROP_IN_NAMES else name: value for name, value in variables.items()}


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def wait_until(condition: Callable[[], object], what: str) -> None:
    """Poll until a condition holds; fail when it does not in good time."""
    deadline = time.monotonic() + DEADLINE_SECONDS
    while not condition():
        assert time.monotonic() < deadline, f"{what}: not within {DEADLINE_SECONDS:g} s"
        time.sleep(0.01)


@dataclass(frozen=True)
class Place:
    """What one side has for itself."""

    side: str
    root: Path
    bucket: str
    mark: str = field(default_factory=lambda: uuid.uuid4().hex)
    port: int = field(default_factory=lambda: free_port())

    @property
    def words(self) -> dict[str, str]:
        """What stands for what."""
        return {
            "@root@": str(self.root),
            "@top@": str(self.root.parent),
            "@out@": self.bucket,
            "@port@": str(self.port),
        }

    def filled(self, text: str) -> str:
        for word, meaning in self.words.items():
            text = text.replace(word, meaning)
        return text

    def blanked(self, text: str) -> str:
        return text.replace(str(self.root), "@root@").replace(self.bucket, "@out@")

    def log(self, stream: str) -> Path:
        return self.root.parent / f"{self.side}.{stream}"

    def environment(self, endpoint: str, more: Environment) -> dict[str, str]:
        """Return the whole environment of one run; None unsets what is usual."""
        usual: dict[str, str | None] = {
            "PATH": os.environ["PATH"],
            "HOME": "/root",
            "AWS_ACCESS_KEY_ID": "test",
            "AWS_SECRET_ACCESS_KEY": "test",
            "AWS_REGION": "us-east-1",
            "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_EC2_METADATA_DISABLED": "true",
            "AWS_S3_ENDPOINT_URL": endpoint,
            "TMPDIR": "@root@/scratch",
            "TOLD_INPUT": "@root@/input",
            "TOLD_OUTPUT": "@root@/output",
            MARK: self.mark,
        }
        usual |= prefixed(
            {
                "ENTRYPOINT_B64J": encoded([str(self.root.parent / "does_as_told")]),
                "INPUT_PATH": "@root@/input",
                "OUTPUT_PATH": "@root@/output",
                "LINKED_INPUT_PARENT": "@root@/ml/input/data",
                "MODEL_DEST": "@root@/ml/model",
                "GROUND_TRUTH_DEST": "@root@/ml/input/data/ground_truth",
                "WRITABLE_DIRECTORIES": "@root@/ml/output/data:@root@/ml/model:@root@/ml/checkpoints:@root@/tmp",
                "POST_CLEAN_DIRECTORIES": "@root@/ml/output/data:@root@/ml/model:@root@/ml/input/data/ground_truth",
                "RUNTIME_OUTPUT_BUCKET_NAME": "@out@",
                "RUNTIME_OUTPUT_PREFIX": "/io/app/model/pk",
                "SIGNING_KEY_HEX": KEY,
                "SIGTERM_GRACE_SECONDS": "1",
            }
        )
        together: dict[str, str | None] = {**usual, **prefixed(more)}
        return {name: self.filled(value) for name, value in together.items() if value is not None}

    def files(self) -> dict[str, str]:
        """Return what is in the folder at rest: kind, mode, owner and content or target by path."""
        return {
            self.blanked(str(path.relative_to(self.root))): self.blanked(_described(path))
            for path in sorted(self.root.rglob("*"))
            if path != self.root / "scratch"
        }

    def end_what_is_left(self) -> None:
        """Kill all processes that belong to this side's run."""
        mark = f"{MARK}={self.mark}".encode()
        for pid in filter(str.isdecimal, os.listdir("/proc")):
            with suppress(OSError):
                if mark in Path(f"/proc/{pid}/environ").read_bytes().split(b"\0"):
                    os.kill(int(pid), signal.SIGKILL)


def _described(path: Path) -> str:
    found = path.lstat()
    mode = f"{stat.filemode(found.st_mode)} {found.st_uid}:{found.st_gid}"
    if stat.S_ISLNK(found.st_mode):
        return f"{mode} -> {os.readlink(path)}"
    if stat.S_ISREG(found.st_mode):
        return f"{mode} {path.read_bytes()!r:.200}"
    return mode


@dataclass(frozen=True)
class Answer:
    """What one request was answered."""

    status: int
    headers: dict[str, str]
    body: bytes


class Forks:
    """The process that the shim's runs are forked from."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._process = subprocess.Popen(
            [SHIM_PYTHON, HERE / "shim_forks.py"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def run(self, arguments: Sequence[str], environment: Mapping[str, str], place: Place) -> int:
        run = {
            "arguments": arguments,
            "environment": environment,
            "stdout": str(place.log("stdout")),
            "stderr": str(place.log("stderr")),
        }
        assert self._process.stdin
        assert self._process.stdout
        with self._lock:
            self._process.stdin.write(json.dumps(run) + "\n")
            self._process.stdin.flush()
            pid = int(self._process.stdout.readline())
            watch = threading.Timer(DEADLINE_SECONDS, os.kill, (pid, signal.SIGKILL))
            watch.start()
            try:
                return int(self._process.stdout.readline())
            finally:
                watch.cancel()
                watch.join()

    def close(self) -> None:
        assert self._process.stdin
        assert self._process.stdout
        self._process.stdin.close()
        self._process.stdout.close()
        self._process.wait(DEADLINE_SECONDS)


class Side:
    """One of the two programs, in its place; the classes below say how it is started."""

    name: str
    program: Sequence[str | Path]
    server: Sequence[str | Path]
    """How the program is started, and how its server where that is another way."""

    def __init__(self, place: Place, endpoint: str, client: S3Client, forks: Forks) -> None:
        self.place = place
        self.endpoint = endpoint
        self.client = client
        self.forks = forks
        self.port = 0
        self._seen = {"stdout": 0, "stderr": 0}
        self._process: subprocess.Popen[bytes] | None = None

    def environment(self, more: Environment) -> dict[str, str]:
        return self.place.environment(self.endpoint, more)

    def run(self, words: Sequence[str], more: Environment) -> int:
        """Run the program with these words to its end and return the exit code."""
        process = self.start([*self.program, *map(self.place.filled, words)], more)
        try:
            return process.wait(DEADLINE_SECONDS)
        finally:
            process.kill()
            process.wait()

    def start(self, words: Sequence[str | Path], more: Environment) -> subprocess.Popen[bytes]:
        with self.place.log("stdout").open("ab") as out, self.place.log("stderr").open("ab") as err:
            return subprocess.Popen(words, env=self.environment(more), stdin=subprocess.DEVNULL, stdout=out, stderr=err)

    # -- as a server

    def serve(self, more: Environment) -> None:
        """Start the server and wait until it answers, or has ended."""
        self.port = free_port()
        self._process = self.start(self.server, {"SAGEMAKER_BIND_TO_PORT": str(self.port), **more})
        wait_until(lambda: self.has_ended or self.pings(), f"a 200 of {self.name}")

    @property
    def has_ended(self) -> bool:
        return self._process is None or self._process.poll() is not None

    def pings(self) -> bool:
        try:
            return self.ask("GET", "/ping").status == 200
        except OSError:
            return False

    def ended(self) -> int:
        """Wait for the end of the server that ends by itself, and return its exit code."""
        assert self._process
        return self._process.wait(DEADLINE_SECONDS)

    def signal(self, signum: int) -> None:
        assert self._process
        self._process.send_signal(signum)

    def stop(self) -> None:
        """Stop the server if it still runs."""
        if self._process and self._process.poll() is None:
            self._process.terminate()
            try:
                self._process.wait(DEADLINE_SECONDS)
            finally:
                self._process.kill()
                self._process.wait()
        self.place.end_what_is_left()

    def ask(
        self, method: str, path: str, body: bytes | None = None, headers: Mapping[str, str] | None = None
    ) -> Answer:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=DEADLINE_SECONDS)
        try:
            filled = body if body is None else self.place.filled(body.decode("latin-1")).encode("latin-1")
            connection.request(method, path, filled, dict(headers or {}))
            response = connection.getresponse()
            return Answer(
                response.status, {name.lower(): value for name, value in response.getheaders()}, response.read()
            )
        finally:
            connection.close()

    # -- what can be seen of it

    def log(self) -> dict[str, list[str]]:
        """Return the whole lines that were added to the two streams since the last look."""
        lines = {}
        for stream, seen in self._seen.items():
            with self.place.log(stream).open("rb") as file:
                file.seek(seen)
                whole = file.read().rpartition(b"\n")
            lines[stream] = [line.decode() for line in whole[0].split(b"\n")] if whole[1] else []
        return lines

    def forget_log(self) -> None:
        """Let the next look begin here."""
        for stream in self._seen:
            path = self.place.log(stream)
            self._seen[stream] = path.stat().st_size if path.exists() else 0

    def objects(self) -> dict[str, dict[str, Any]]:
        """Return all objects of the output bucket, and remove them."""
        listed = self.client.list_objects_v2(Bucket=self.place.bucket).get("Contents", [])
        found = {}
        for item in listed:
            got = self.client.get_object(Bucket=self.place.bucket, Key=item["Key"])
            found[item["Key"]] = {
                "content": got["Body"].read(),
                "content_type": got["ContentType"],
                "metadata": got["Metadata"],
            }
        if listed:
            self.client.delete_objects(
                Bucket=self.place.bucket, Delete={"Objects": [{"Key": item["Key"]} for item in listed]}
            )
        return found


class Shim(Side):
    name = "shim"
    program = (SHIM_PYTHON.with_name("sagemaker-shim"),)
    server = (SHIM_PYTHON, HERE / "shim_on_loopback.py")

    def run(self, words: Sequence[str], more: Environment) -> int:
        return self.forks.run([*map(self.place.filled, words)], self.environment(more), self.place)


class Ours(Side):
    name = "ours"
    program = (sys.executable, LONGSHORE)
    server = (sys.executable, LONGSHORE, "serve")

    def environment(self, more: Environment) -> dict[str, str]:
        run = str(self.place.root.parent / "run")
        return super().environment({"MODEL_SERVER_RUN_PATH": run, "MODEL_SERVER_WORKERS": "1", **more})


@dataclass
class Case:
    """What went to both, and what was seen of each."""

    given: dict[str, Any]
    shim: Observation
    ours: Observation


class Both:
    """The two sides in a new folder."""

    def __init__(self, endpoint: str, client: S3Client, forks: Forks) -> None:
        self.top = Path(tempfile.mkdtemp(prefix="compat-", dir="/tmp"))
        self.top.chmod(0o755)
        for name in ("does_as_told", "answers_as_told"):
            self._copy_algorithm(name)
        self.client = client
        self._endpoint, self._forks = endpoint, forks
        self._threads = ThreadPoolExecutor(2)
        number = uuid.uuid4().hex[:12]
        places = [Place(side, self.top / side, f"out-{side}-{number}") for side in ("shim", "ours")]
        for place in places:
            client.create_bucket(Bucket=place.bucket)
            folders = {"input": 0o755, "output": 0o777, "scratch": 0o1777, "tmp": 0o1777, "ml/input/data": 0o755}
            for folder, mode in folders.items():
                (place.root / folder).mkdir(parents=True)
                (place.root / folder).chmod(mode)
        self.shim = Shim(places[0], endpoint, client, forks)
        self.ours = Ours(places[1], endpoint, client, forks)
        self._numbers = itertools.count()

    def _copy_algorithm(self, name: str) -> None:
        """Copy an algorithm to where it may be run, with its Python named: one that `env` finds may be slow."""
        _, _, text = (HERE / name).read_text().partition("\n")
        (self.top / name).write_text(f"#!{Path(sys.executable).resolve()} -IS\n{text}")
        (self.top / name).chmod(0o755)

    @property
    def sides(self) -> tuple[Side, Side]:
        return self.shim, self.ours

    def close(self) -> None:
        try:
            for side in self.sides:
                side.stop()
        finally:
            self._threads.shutdown()
            shutil.rmtree(self.top)

    def beside(self) -> AbstractContextManager[Both]:
        """Return two new sides, in new folders."""
        return both_sides(self._endpoint, self.client, self._forks)

    def each(self, do: Callable[[Side], Any]) -> tuple[Any, Any]:
        """Do something with both sides at the same time, and return both outcomes."""
        shim, ours = [self._threads.submit(do, side) for side in self.sides]
        return shim.result(), ours.result()

    # -- what tasks are made of

    def command(self, *words: str) -> str:
        """Return the encoded command of one of the algorithms that are copied here, with its arguments."""
        return encoded([str(self.top / words[0]), *words[1:]])

    def put(self, key: str, content: bytes | str) -> None:
        """Put an object where both sides find it."""
        self.client.put_object(Bucket=INPUTS, Key=key, Body=content)

    def resident(self, answers: Mapping[str, Any]) -> dict[str, str | None]:
        """Return the variables of a resident server that answers like this."""
        return {
            "API_METHOD": "invoke",
            "ENTRYPOINT_B64J": self.command("answers_as_told"),
            "TOLD_ANSWERS": json.dumps(answers),
            "TOLD_PORT": "@port@",
            "USER_WEBSERVER_PORT": "@port@",
            "START_AND_HEALTH_TIMEOUT_SECONDS": "20",
            "HEALTH_CHECK_CALL_TIMEOUT_SECONDS": "1",
        }

    def item(self, relative_path: str, content: bytes | str, **more: Any) -> dict[str, Any]:
        """Return one entry of a task's inputs, and put its object."""
        key = f"item-{next(self._numbers)}-{self.top.name}"
        self.put(key, content)
        return {"relative_path": relative_path, "bucket_name": INPUTS, "bucket_key": key, "decompress": False} | more

    def task(self, inputs: Sequence[Mapping[str, Any]] = (), told: object = None, **more: Any) -> dict[str, Any]:
        """Return a task; `told` is what its algorithm is told to do."""
        items = [*inputs, *([] if told is None else [self.item("told.json", json.dumps(told))])]
        task = {"pk": "pk", "inputs": items, "output_bucket_name": "@out@", "output_prefix": "/out", "timeout": "PT1M"}
        return task | more

    # -- both at work

    def invoke(self, tasks: object = None, *arguments: str, **more: str | None) -> Case:
        """Run `invoke` on both, and return all that can be seen of it; `more` are variables, without the prefix."""
        words = [*arguments] if tasks is None else ["-t", json.dumps(tasks), *arguments]

        return self.command_line(["invoke", *words], **more)

    def command_line(self, words: Sequence[str], **more: str | None) -> Case:
        """Run the program itself with these words, and return all that can be seen of it."""

        def run(side: Side) -> Observation:
            code = side.run(words, more)
            side.place.end_what_is_left()
            return {"exit": code} | observed(side)

        for side in self.sides:
            side.forget_log()
        return Case({"words": words, "environment": more}, *self.each(run))

    def signalled(self, command: str, words: Sequence[str], signum: int, ready: str, **more: str | None) -> Case:
        """Start the program on both, send it a signal once its log says that it is ready, and see how it ends."""

        def run(side: Side) -> Observation:
            start = side.server if command == "serve" else [*side.program, command]
            words_there = [*start, *map(side.place.filled, words)]
            process = side.start(words_there, {"SAGEMAKER_BIND_TO_PORT": str(side.place.port), **more})
            try:
                wait_until(lambda: ready in str(side.log()), f"{ready!r} in the log of {side.name}")
                process.send_signal(signum)
                code = process.wait(DEADLINE_SECONDS)
            finally:
                process.kill()
                process.wait()
                side.place.end_what_is_left()
            return {"exit": code} | observed(side)

        return Case({"words": [command, *words], "environment": more, "signal": signum}, *self.each(run))

    def invoke_file(self, key: str, tasks: object, scheme: str = "s3", **more: str | None) -> Case:
        """Run `invoke` with a list that is an object of each side's own bucket."""
        for side in self.sides:
            text = side.place.filled(json.dumps(tasks))
            self.client.put_object(Bucket=side.place.bucket, Key=key, Body=text)
        return self.invoke(None, "-f", f"{scheme}://@out@/{key}", **more)

    def serve(self, **more: str | None) -> Case:
        """Start both servers, and return what can be seen once they answer or have ended."""

        def start(side: Side) -> Observation:
            side.serve(more)
            return {"exit": side.ended() if side.has_ended else None} | observed(side)

        for side in self.sides:
            side.forget_log()
        return Case({"environment": more}, *self.each(start))

    def stopped(self) -> Case:
        """Stop both servers, and see how they end."""

        def stop(side: Side) -> Observation:
            side.signal(signal.SIGTERM)
            return {"exit": side.ended()} | observed(side)

        return Case({"signal": signal.SIGTERM}, *self.each(stop))

    def how_it_goes_on(self) -> Case:
        """Return how both servers are: ended, or answering."""

        def look(side: Side) -> Observation:
            wait_until(lambda: side.has_ended or side.pings(), f"an end or an answer of {side.name}")
            return {"exit": side.ended() if side.has_ended else None} | observed(side)

        return Case({}, *self.each(look))

    def post_beside(self, running: object, task: object) -> Case:
        """Post a task while another one runs, whose algorithm says `began`."""
        body, headers = json.dumps(running).encode(), {"Content-Type": "application/json"}
        with ThreadPoolExecutor(2) as threads:
            for side in self.sides:
                threads.submit(side.ask, "POST", "/invocations", body, headers)
            wait_until(lambda: all('"began"' in str(side.log()) for side in self.sides), "a task of each")
            return self.post(task)

    def post(self, task: object, content_type: str | None = "application/json") -> Case:
        body = task if isinstance(task, bytes) else json.dumps(task).encode()
        headers = {"Content-Type": content_type} if content_type else {}
        return self.ask("POST", "/invocations", body, headers)

    def ask(self, method: str, path: str, body: bytes | None = None, headers: Mapping[str, str] | None = None) -> Case:
        """Send a request to both servers, and return all that can be seen of it."""
        for side in self.sides:
            side.forget_log()
        answers = self.each(lambda side: side.ask(method, path, body, headers))
        self._await_log()
        seen = self.each(observed)
        shim, ours = [
            {"status": answer.status, "headers": _telling(answer.headers), "body": answer.body} | observation
            for answer, observation in zip(answers, seen, strict=True)
        ]
        return Case({"method": method, "path": path, "body": body, "headers": headers}, shim, ours)

    def _await_log(self) -> None:
        """Wait until the external lines of both are the same; not long, for they may differ."""
        deadline = time.monotonic() + LOG_SECONDS
        while time.monotonic() < deadline:
            if external(self.shim.log()) == external(self.ours.log()):
                return
            time.sleep(0.01)


def observed(side: Side) -> Observation:
    """Return what is left of a run or a request: log, objects and files."""
    return {"log": side.log(), "objects": side.objects(), "files": side.place.files(), "place": side.place}


def external(log: dict[str, list[str]]) -> dict[str, list[str]]:
    """Return the lines that are the algorithm's or for its user."""
    return {stream: [line for line in lines if '"internal": false' in line] for stream, lines in log.items()}


def _telling(headers: dict[str, str]) -> dict[str, str]:
    """Return the headers that say something about the answer."""
    return {name: headers[name] for name in ("content-type", "allow", "location", "server") if name in headers}


def signature_of(content: bytes, key: str = KEY) -> str:
    return hmac.new(bytes.fromhex(key), content, hashlib.sha256).hexdigest()


@contextmanager
def both_sides(endpoint: str, client: S3Client, forks: Forks) -> Iterator[Both]:
    sides = Both(endpoint, client, forks)
    try:
        yield sides
    finally:
        sides.close()
