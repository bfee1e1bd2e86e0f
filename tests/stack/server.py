"""A real `container/serve` as a subprocess, in folders of its own, and what can be seen of it from outside.

`serving` starts one and holds it to what every server promises at its end: nothing is left of it, neither a process
nor a file, every line that it printed is a record, and no warning came that its test did not declare.
"""

import hashlib
import hmac
import http.client
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from email.message import Message
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from conftest import Bucket

SERVE = Path(__file__).parent.parent.parent / "container" / "serve"
SIGNING_KEY = "5a" * 32
MARK = "STACK_TEST_MARK"
"""A variable that every process of one server inherits, so that none of them escapes the count."""

FIELDS = ["log", "level", "source", "internal", "task"]
SCRIPT = 'test ! -e "$ALGORITHM_INPUT_PATH/do" || exec sh "$ALGORITHM_INPUT_PATH/do"'
"""The usual algorithm: it runs the input `do` of its task, or nothing."""

WAIT_FOR_GO = 'while [ ! -e "$BOARD/go" ]; do sleep 0.05; done\n'
"""Lines of a script that goes on when the test has written `go` on the board."""

START_SECONDS = 40.0
STOP_SECONDS = 35.0

T = TypeVar("T")


def eventually(look: Callable[[], T], what: str, seconds: float = 20.0) -> T:
    """Look until what is seen is true, and return it; fail when it is not within some seconds."""
    deadline = time.monotonic() + seconds
    while not (seen := look()):
        assert time.monotonic() < deadline, f"not within {seconds:g} s: {what}"
        time.sleep(0.02)
    return seen


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@dataclass(frozen=True)
class Process:
    """One row of the process table."""

    pid: int
    name: str
    state: str
    parent: int
    group: int
    session: int
    born: int

    @property
    def runs(self) -> bool:
        """Whether it is more than a number that nobody has asked for yet."""
        return self.state not in "ZX"

    def is_there(self) -> bool:
        """Say whether it runs now, and its number is not another's."""
        now = process_table().get(self.pid)
        return now is not None and now.born == self.born and now.runs

    def descriptors(self) -> list[str]:
        """Return what its open descriptors are, without the numbers of sockets and pipes."""
        folder = f"/proc/{self.pid}/fd"
        found = []
        for name in os.listdir(folder):
            with suppress(OSError):
                found.append(re.sub(r":\[\d+\]", "", os.readlink(f"{folder}/{name}")))
        return sorted(found)

    def status(self, field: str) -> list[str]:
        """Return the words of one line of its /proc status."""
        text = Path(f"/proc/{self.pid}/status").read_text()
        return re.findall(rf"^{field}:(.*)$", text, re.MULTILINE)[0].split()


def process_table() -> dict[int, Process]:
    """Return all processes of this machine by their pid."""
    table = {}
    for name in filter(str.isdecimal, os.listdir("/proc")):
        with suppress(OSError):
            head, _, tail = Path(f"/proc/{name}/stat").read_text(errors="replace").rpartition(")")
            words = tail.split()
            ids = [int(word) for word in words[1:4]]
            table[int(name)] = Process(int(name), head.partition("(")[2], words[0], *ids, born=int(words[19]))
    return table


@dataclass(frozen=True)
class Answer:
    """What a request was answered, and after how many seconds."""

    status: int
    headers: Message
    body: bytes
    seconds: float

    def json(self) -> Any:
        assert self.headers.get_content_type() == "application/json", (self.headers.items(), self.body)
        return json.loads(self.body)


class Posted:
    """A request that was sent and whose answer was not read yet."""

    def __init__(self, port: int, method: str, path: str, body: bytes | None, headers: dict[str, str]) -> None:
        self._connection = http.client.HTTPConnection("127.0.0.1", port, timeout=90)
        self._sent = time.monotonic()
        self._connection.request(method, path, body, headers)

    def answer(self) -> Answer:
        try:
            response = self._connection.getresponse()
            return Answer(response.status, response.headers, response.read(), time.monotonic() - self._sent)
        finally:
            self._connection.close()

    def leave(self) -> None:
        """Close the connection before the answer, as a client does whose time is up."""
        self._connection.close()


class Server:
    """A running server: ask it over HTTP, look at its processes, read its log."""

    def __init__(self, folder: Path, port: int, process: "subprocess.Popen[bytes]", mark: str, expected: str) -> None:
        self.folder = folder
        self.port = port
        self.process = process
        self.expected_warnings = expected
        self.files_may_stay = False
        self._mark = mark

    # -- over HTTP

    def send(self, method: str, path: str, body: bytes | None = None, headers: dict[str, str] | None = None) -> Posted:
        return Posted(self.port, method, path, body, headers or {})

    def ask(self, method: str, path: str, body: bytes | None = None, headers: dict[str, str] | None = None) -> Answer:
        return self.send(method, path, body, headers).answer()

    def raw(self, request: bytes) -> bytes:
        """Send bytes as they are, and return the first answer that comes."""
        received = b""
        with socket.create_connection(("127.0.0.1", self.port), timeout=20) as connection:
            with suppress(BrokenPipeError, ConnectionResetError):  # it may answer before it has read all
                connection.sendall(request)
            while not _is_whole(received):
                chunk = connection.recv(65536)
                assert chunk, received
                received += chunk
        return received

    def post(self, task: dict[str, Any]) -> Posted:
        """Send a task without waiting for its answer."""
        return self.send("POST", "/invocations", json.dumps(task).encode(), {"Content-Type": "application/json"})

    def run(self, task: dict[str, Any]) -> Answer:
        return self.post(task).answer()

    def pings(self) -> bool:
        try:
            return self.ask("GET", "/ping").status == 200
        except OSError:
            return False

    # -- tasks of the usual algorithm

    @property
    def board(self) -> Path:
        """A folder where the algorithm and the test leave each other signs."""
        return self.folder / "board"

    def task(self, bucket: "Bucket", pk: str, script: str, **more: Any) -> dict[str, Any]:
        """Return a task whose algorithm is a shell script."""
        bucket.put(f"scripts/{pk}", script)
        return bucket.task(pk, [bucket.item("do", f"scripts/{pk}")], **more)

    def post_blocking(self, bucket: "Bucket", pk: str, script: str = "", **more: Any) -> Posted:
        """Send a task that runs until `go` is on the board, and return once it runs."""
        posted = self.post(self.task(bucket, pk, f'{script}\ntouch "$BOARD/{pk}"\n{WAIT_FOR_GO}', **more))
        self.await_sign(pk)
        return posted

    def await_sign(self, name: str) -> None:
        eventually((self.board / name).exists, f"the sign {name} of the algorithm")

    def go(self) -> None:
        (self.board / "go").touch()

    def clear_board(self) -> None:
        for sign in self.board.iterdir():
            sign.unlink()

    # -- its processes

    @property
    def pid(self) -> int:
        """The pid of `serve`, seen from here; under unshare it is the child of what was started."""
        if Path(str(self.process.args[0])).name != "unshare":
            return self.process.pid
        children = [p for p in process_table().values() if p.parent == self.process.pid]
        return children[0].pid if children else -1

    def tree(self) -> list[Process]:
        """Return all processes beneath `serve`, itself among them."""
        table = process_table()
        found = [table[self.pid]] if self.pid in table else []
        for process in found:
            found += [p for p in table.values() if p.parent == process.pid]
        return found

    def children(self, pid: int) -> list[Process]:
        return sorted((p for p in self.tree() if p.parent == pid and p.runs), key=lambda p: (p.born, p.pid))

    @property
    def gunicorn(self) -> Process:
        """gunicorn's arbiter: the first child of `serve`."""
        return self.children(self.pid)[0]

    @property
    def workers(self) -> list[Process]:
        return self.children(self.gunicorn.pid)

    @property
    def nginx(self) -> Process:
        """nginx's master."""
        return next(p for p in self.children(self.pid) if p.name == "nginx")

    @property
    def algorithm(self) -> list[Process]:
        """Return what runs in sessions that are not the server's: the algorithm and what it started."""
        session = process_table()[self.pid].session
        return [p for p in self.belonging() if p.session != session]

    def running_worker(self) -> Process:
        """Return the worker that runs the algorithm."""
        parents = {p.parent for p in self.algorithm}
        return next(p for p in self.workers if p.pid in parents)

    def requests_held(self) -> int:
        """Return how many requests for tasks are in the workers, running and waiting: each holds an eventfd."""
        return sum(worker.descriptors().count("anon_inode:[eventfd]") for worker in self.workers)

    def requests_waiting(self) -> int:
        """Return how many of them have a place in the queue, by the server's DEBUG lines."""
        lines = self.own_lines("stdout")
        return sum(
            lines.count(f"A request waits in worker {worker.pid}")
            - lines.count(f"A request waits no more in worker {worker.pid}")
            for worker in self.workers
        )

    def await_requests(self, number: int) -> None:
        """Wait until so many requests are in the workers, all but the one that runs in the queue."""
        eventually(
            lambda: (self.requests_held(), self.requests_waiting()) == (number, number - 1),
            f"{number} requests in the workers",
        )

    def belonging(self) -> list[Process]:
        """Return every running process that came from this server, wherever it is in the tree."""
        return [p for p in process_table().values() if p.runs and (p.session == self.process.pid or self._is_marked(p))]

    def _is_marked(self, process: Process) -> bool:
        with suppress(OSError):
            return self._mark.encode() in Path(f"/proc/{process.pid}/environ").read_bytes()
        return False

    # -- its end

    def ended(self, seconds: float = STOP_SECONDS) -> int:
        """Return the exit code, once it has ended."""
        return self.process.wait(seconds)

    def stop(self, signum: int = signal.SIGTERM) -> int:
        os.kill(self.pid, signum)
        return self.ended()

    def stop_if_running(self) -> None:
        """End a server that its test left running, which ends with 0."""
        if self.process.poll() is None:
            assert self.stop() == 0, self.log_text()

    def kill_everything(self) -> None:
        """Leave nothing behind after a test that failed."""
        deadline = time.monotonic() + 10
        while (left := self.belonging()) and time.monotonic() < deadline:
            for process in left:
                with suppress(ProcessLookupError):
                    os.kill(process.pid, signal.SIGKILL)
            time.sleep(0.05)
        self.process.wait(10)

    def assert_nothing_is_left(self) -> None:
        """Fail if anything of a server that has ended is still there."""
        eventually(lambda: not self.belonging(), f"an end of all processes: {self.belonging()}", 5)
        assert self.files_may_stay or self.files() == []

    @property
    def run_folder(self) -> Path:
        """The server's own folder, which it made where it was told to."""
        (found,) = (self.folder / "run").iterdir()
        return found

    def files(self) -> list[str]:
        """Return all files and folders of tasks and of the server's own, the given folders themselves left out."""
        places = ("input", "output", "tmp", "run")
        return sorted(str(path.relative_to(self.folder)) for name in places for path in (self.folder / name).rglob("*"))

    # -- its log

    def lines(self, stream: str) -> list[str]:
        """Return the lines of stdout or stderr so far, the last one only if it has ended."""
        return (self.folder / stream).read_text().split("\n")[:-1]

    def records(self, stream: str | None = None) -> list[dict[str, Any]]:
        """Return the log so far; every line has to be a record."""
        records = []
        for name in [stream] if stream else ["stdout", "stderr"]:
            for line in self.lines(name):
                record = json.loads(line)
                assert [key for key in record if key != "continued"] == FIELDS, line
                assert record["source"] == name, line
                assert record["internal"] in (True, False), line
                assert len(line) < 16 * 1024, line
                records.append(record)
        return records

    def log_text(self) -> str:
        return "\n".join((self.folder / name).read_text(errors="replace")[-5000:] for name in ("stdout", "stderr"))

    def own_lines(self, stream: str | None = None) -> list[str]:
        return [record["log"] for record in self.records(stream) if record["internal"]]

    def assert_no_undeclared_warning(self) -> None:
        for record in self.records("stderr"):
            if record["internal"] and not re.search(self.expected_warnings or "(?!)", record["log"]):
                raise AssertionError(f"a warning that the test did not declare: {record}\n{self.log_text()}")


def _is_whole(answer: bytes) -> bool:
    head, separator, body = answer.partition(b"\r\n\r\n")
    length = re.search(rb"content-length: (\d+)", head, re.IGNORECASE)
    return bool(separator) and (length is None or len(body) >= int(length[1]))


def is_signed(bucket: "Bucket", pk: str) -> bool:
    """Say whether the result object of a task has a true signature over its very bytes."""
    key = f"/out/{pk}/.sagemaker_shim/inference_result.json"
    expected = hmac.new(bytes.fromhex(SIGNING_KEY), bucket.get(key), hashlib.sha256).hexdigest()
    return bucket.metadata(key)["signature_hmac_sha256"] == expected


def environment(folder: Path, port: int, s3_endpoint: str, mark: str, more: dict[str, str]) -> dict[str, str]:
    """Return the whole environment of a server; an empty value of `more` unsets what is usual."""
    usual = {
        "PATH": os.environ["PATH"],
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "a-secret-of-the-server",
        "AWS_REGION": "us-east-1",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_EC2_METADATA_DISABLED": "true",
        "AWS_ENDPOINT_URL_S3": s3_endpoint,
        "SAGEMAKER_BIND_TO_PORT": str(port),
        "ALGORITHM_ENTRYPOINT": SCRIPT,
        "ALGORITHM_INPUT_PATH": str(folder / "input"),
        "ALGORITHM_OUTPUT_PATH": str(folder / "output"),
        "MODEL_SERVER_RUN_PATH": str(folder / "run"),
        "MODEL_SERVER_SIGNING_KEY_HEX": SIGNING_KEY,
        "MODEL_SERVER_WORKERS": "2",
        "TMPDIR": str(folder / "tmp"),
        "BOARD": str(folder / "board"),
        "LOG_LEVEL": "DEBUG",
        MARK: mark,
    }
    return usual | more


def new_folder(name: str = "") -> tuple[Path, Path]:
    """Make folders for a server, and return them and what to remove.

    Their path is short, for the sockets in it, and open to all, for nginx, which is another user when we are root.
    """
    top = Path(tempfile.mkdtemp(prefix="stack-", dir="/tmp"))
    top.chmod(0o755)
    folder = top / name
    for inner in ("tmp", "board"):
        (folder / inner).mkdir(parents=True)
        (folder / inner).chmod(0o1777)
    return folder, top


@contextmanager
def launched(
    s3_endpoint: str,
    *prefix: str,
    name: str = "",
    program: Path = SERVE,
    warnings: str = "",
    stdout: int | None = None,
    **more: str,
) -> Iterator[Server]:
    """Start a server, and at the end of the block end it if it still runs and see that nothing is left of it.

    `prefix` are words before the command, `name` a folder within its own, `program` another copy of `serve`,
    `warnings` a pattern of those that the test provokes, `stdout` a descriptor instead of the file.
    """
    folder, top = new_folder(name)
    port, mark = int(more.get("SAGEMAKER_BIND_TO_PORT") or free_port()), uuid.uuid4().hex
    try:
        with (folder / "stdout").open("wb") as out, (folder / "stderr").open("wb") as err:
            process = subprocess.Popen(
                [*prefix, sys.executable, str(program)],
                env=environment(folder, port, s3_endpoint, mark, more),
                stdin=subprocess.DEVNULL,
                stdout=out if stdout is None else stdout,
                stderr=err,
                start_new_session=True,
            )
        server = Server(folder, port, process, mark, warnings)
        try:
            yield server
            server.stop_if_running()
        except BaseException:
            print(server.log_text())
            raise
        else:
            server.assert_nothing_is_left()
        finally:
            server.kill_everything()
    finally:
        shutil.rmtree(top)


@contextmanager
def serving(s3_endpoint: str, *prefix: str, **more: Any) -> Iterator[Server]:
    """Run a server for the block, from when it is ready; its log has to be records without undeclared warnings."""
    with launched(s3_endpoint, *prefix, **more) as server:
        eventually(lambda: server.process.poll() is not None or server.pings(), "a 200 on /ping", START_SECONDS)
        assert server.process.poll() is None, server.log_text()
        workers = int(more.get("MODEL_SERVER_WORKERS", 2))
        eventually(lambda: len(server.workers) == workers, f"{workers} workers")
        yield server
        server.stop_if_running()
        server.records("stdout")
        server.assert_no_undeclared_warning()


def failed_start(s3_endpoint: str, **more: str) -> tuple[int, list[str], list[str]]:
    """Start a server that can't start, and return its exit code and the lines of stdout and stderr."""
    with launched(s3_endpoint, **more) as server:
        code = server.ended(START_SECONDS)
        return code, server.lines("stdout"), server.lines("stderr")


def copy_of_the_program(folder: Path, **replaced: str) -> Path:
    """Copy container/ as an image has it, with other text in some modules, and return its `serve`."""
    copy = Path(shutil.copytree(SERVE.parent, folder, ignore=shutil.ignore_patterns("__pycache__")))
    for module, text in replaced.items():
        (copy / f"{module}.py").write_text(text)
    return copy / "serve"


def namespace(*options: str) -> list[str] | None:
    """Return the words that start a program in namespaces of its own, or None where that is not permitted.

    Fails when it does not work for any other reason.
    """
    for words in (["unshare", *options], ["unshare", "-r", *options]):
        tried = subprocess.run([*words, "true"], capture_output=True, text=True)
        if tried.returncode == 0:
            return words
        assert re.search("not permitted|denied", tried.stderr), tried.stderr
    return None


def median(samples: Sequence[float]) -> float:
    return sorted(samples)[len(samples) // 2]
