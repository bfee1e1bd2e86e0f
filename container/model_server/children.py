"""The processes of PID 1: each in a process group of its own, ended with PID 1, its output to a pipe."""

import os
import signal
import sys
import traceback
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from io import FileIO

from .prctl import end_with_parent
from .process_output import ProcessOutput

STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT)
JOB_STOP_SECONDS = 110
"""From the word to stop until a job gives up, also when S3 hangs: SageMaker kills its container after 120 s."""

LAST_SECONDS = 5
"""How long it may still take then to tell of that and end itself."""


@dataclass(frozen=True)
class Child:
    """A process that PID 1 started; `output` is what it prints."""

    name: str
    pid: int
    output: ProcessOutput


def start(name: str, body: Callable[[], None], end_with: int) -> Child:
    """Run `body` in a new process; `end_with` is the signal that it gets should we be killed."""
    reader, writer = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
    try:
        return Child(name, _fork(body, writer, end_with), ProcessOutput(name, reader))
    except OSError:
        os.close(reader)
        raise
    finally:
        os.close(writer)


def _fork(body: Callable[[], None], output: int, end_with: int) -> int:
    """Fork; the new process is in a group of its own, because a Ctrl-C at the terminal is for PID 1 to pass on."""
    parent = os.getpid()
    signal.pthread_sigmask(signal.SIG_BLOCK, STOP_SIGNALS)  # the new process would take one for its parent, and live on
    try:
        pid = os.fork()
    except OSError:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, STOP_SIGNALS)
        raise
    if pid:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, STOP_SIGNALS)
        return pid
    code = 1
    try:
        end_with_parent(end_with)
        if os.getppid() != parent:
            os._exit(1)
        os.setpgid(0, 0)
        _reset_signals()
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        os.dup2(output, 1)
        os.dup2(output, 2)
        body()
        code = 0
    except SystemExit as ended:
        code = ended.code if isinstance(ended.code, int) else 1
    except BaseException:  # whatever it is, this process must not run on as a second PID 1
        traceback.print_exc()
    finally:
        with suppress(OSError):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(code)


def _reset_signals() -> None:
    signal.set_wakeup_fd(-1)
    for signum in (*STOP_SIGNALS, signal.SIGCHLD):
        signal.signal(signum, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_SETMASK, [])


def signal_pipe() -> FileIO:
    """Return a pipe that yields the number of each signal as a byte; the handlers themselves do nothing.

    A pipe has room for 65,536 of them, and a socket for 280: the children that end while we are busy for some seconds
    would fill that, and the word to stop would be lost.
    """
    reader, writer = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
    for signum in (*STOP_SIGNALS, signal.SIGCHLD):
        signal.signal(signum, lambda *_: None)
    signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, STOP_SIGNALS)
    return FileIO(reader)


def is_running(pid: int) -> bool:
    """Say whether a child of ours has not ended, without reaping it."""
    with suppress(ChildProcessError):  # it was reaped
        return os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None
    return False


def reap() -> list[tuple[int, int]]:
    """Return the pids and exit codes of all children that have ended; -n stands for signal n."""
    ended: list[tuple[int, int]] = []
    while True:
        try:
            pid, status = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return ended
        if pid == 0:
            return ended
        ended.append((pid, os.waitstatus_to_exitcode(status)))
