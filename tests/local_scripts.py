"""The scripts of local-test/, started as a user starts them from a checkout; everything they say is kept."""

import json
import os
import shutil
import signal
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from quiet_port import quiet_port

PROJECT = Path(__file__).parent.parent
DEADLINE_SECONDS = 90.0

MADE = shutil.ignore_patterns("__pycache__", "model", "model.before", "output", "checkpoints")
"""What runs have made is not copied."""


def copy_checkout(folder: Path) -> Path:
    """Copy what a checkout holds, with a space in its path, and with the packages that are installed already."""
    copy = folder / "a checkout"
    shutil.copytree(PROJECT / "container", copy / "container", ignore=shutil.ignore_patterns("__pycache__", ".*_cache"))
    shutil.copytree(PROJECT / "local-test", copy / "local-test", ignore=MADE)
    for name in ("requirements.txt", ".venv"):
        (copy / name).symlink_to(PROJECT / name)
    return copy


class Script:
    """A script that runs, in a process group of its own as a terminal has it."""

    def __init__(self, checkout: Path, name: str, *arguments: str | Path, **variables: str) -> None:
        self.process = subprocess.Popen(
            [checkout / "local-test" / name, *arguments],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=os.environ | variables,
            process_group=0,
        )
        self.stdout: list[str] = []
        self.stderr: list[str] = []
        streams = ((self.process.stdout, self.stdout), (self.process.stderr, self.stderr))
        self._readers = [threading.Thread(target=lines.extend, args=(stream,)) for stream, lines in streams]
        for reader in self._readers:
            reader.start()

    @property
    def said(self) -> str:
        return "".join([*self.stdout, *self.stderr])

    def await_word(self, word: str) -> None:
        """Wait until the script has said a word."""
        deadline = time.monotonic() + DEADLINE_SECONDS
        while word not in self.said:
            assert self.process.poll() is None, f"it ended without saying {word!r}:\n{self.said}"
            assert time.monotonic() < deadline, f"it did not say {word!r}:\n{self.said}"
            time.sleep(0.02)

    def end(self, signum: int | None = None) -> int:
        """Wait for its end, after a signal to it and all of its group, as Ctrl-C sends it; returns the exit code."""
        if signum:
            os.killpg(self.process.pid, signum)
        code = self.process.wait(DEADLINE_SECONDS)
        for reader in self._readers:
            reader.join(DEADLINE_SECONDS)
        for stream in (self.process.stdout, self.process.stderr):
            assert stream
            stream.close()
        return code

    def left(self) -> list[str]:
        """Return what is left of it: its temporary folders, and processes that were told of them."""
        prefix = f"longshore.{self.process.pid}."
        processes = []
        for entry in Path("/proc").glob("[0-9]*"):
            with suppress(OSError):
                command = (entry / "cmdline").read_bytes()
                if prefix.encode() in command + (entry / "environ").read_bytes():
                    processes.append(command.replace(b"\0", b" ").decode(errors="replace"))
        return [*processes, *map(str, Path("/tmp").glob(prefix + "*"))]

    def await_nothing_left(self) -> None:
        deadline = time.monotonic() + DEADLINE_SECONDS
        while left := self.left():
            assert time.monotonic() < deadline, f"left: {left}"
            time.sleep(0.05)


def run_script(checkout: Path, name: str, *arguments: str | Path, **variables: str) -> Script:
    """Run a script to its end."""
    script = Script(checkout, name, *arguments, **variables)
    script.end()
    return script


@contextmanager
def serving(checkout: Path, *arguments: str | Path) -> Iterator[tuple[Script, str]]:
    """Run serve-local.sh for the block, from when it serves; yields it and its URL."""
    port = quiet_port()
    script = Script(checkout, "serve-local.sh", "--port", str(port), *arguments)
    try:
        script.await_word("==> Serving on")
        yield script, f"http://127.0.0.1:{port}"
    finally:
        if script.process.poll() is None:
            script.end(signal.SIGINT)


def program(folder: Path, text: str) -> str:
    """Write a shell program, and return it as the variables that name a command have it."""
    path = folder / "program"
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return json.dumps([str(path)])
