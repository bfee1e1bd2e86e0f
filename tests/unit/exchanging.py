"""Names of a folder that are exchanged while we work there: by a process all along, or between two steps of ours."""

import ctypes
import os
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

EXCHANGES = Path(__file__).parents[1] / "algorithms" / "exchanges_a_folder_and_a_link"
NOBODY = 65534
AT_FDCWD, RENAME_EXCHANGE = -100, 2
STEPS = ("chmod", "listdir", "mkdir", "open", "rename", "rmdir", "stat", "unlink")


class ExchangedAt:
    """Stands in for the module `os`: exchanges `one` and `two` of a folder before a step of ours, or before each."""

    def __init__(self, folder: Path, step: int | None) -> None:
        self._names = [os.fsencode(folder / name) for name in ("one", "two")]
        self._step = step
        self.steps = 0

    def __getattr__(self, name: str) -> object:
        return partial(self._do, getattr(os, name)) if name in STEPS else getattr(os, name)

    def _do(self, step: Callable[..., object], *arguments: object, **named: object) -> object:
        if self._step in (None, self.steps):
            one, two = self._names
            ctypes.CDLL(None).renameat2(AT_FDCWD, one, AT_FDCWD, two, RENAME_EXCHANGE)
        self.steps += 1
        return step(*arguments, **named)


@contextmanager
def exchanging(folder: Path, outside: Path) -> Iterator[None]:
    """Have `one` and `two` of a folder exchanged all along, by a user who may do nothing outside."""
    user = {"user": NOBODY, "group": NOBODY, "extra_groups": []} if os.geteuid() == 0 else {}
    folder.chmod(0o777)
    with subprocess.Popen([EXCHANGES, outside], cwd=folder, **user) as process:  # type: ignore[call-overload]
        try:
            yield
        finally:
            process.kill()
