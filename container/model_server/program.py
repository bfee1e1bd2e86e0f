"""The algorithm's program: what is started, as whom, in which environment and within which memory."""

import errno
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Self

from .errors import (
    AlgorithmNotStarted,
    ArgumentsUnusable,
    CommandForbidden,
    CommandMissing,
    CommandNotRunnable,
    UserForbidden,
)
from .machine_limits import is_refusal
from .memory_order import first_to_end
from .settings import Settings
from .spawn import spawn
from .user import SAME_USER, User, home_of, look_up

MEGABYTE = 1024 * 1024


@dataclass(frozen=True)
class Program:
    """What to run, in which environment and as whom; `data_bytes` bounds each process's memory, 0 is no limit.

    Without `set_groups` the program stays in our supplementary groups.
    """

    argv: Sequence[str]
    environment: Mapping[str, str]
    user: User = SAME_USER
    set_groups: bool = True
    data_bytes: int = 0

    @classmethod
    def from_settings(cls, settings: Settings, command: Sequence[str]) -> Self:
        """Return the program of an image; raises UserInvalid, UserMissing and GroupMissing."""
        return cls(
            command,
            settings.environment,
            look_up(settings.user),
            settings.set_extra_groups,
            settings.max_memory_mb * MEGABYTE,
        )

    def start(self, stdout: int | None = subprocess.PIPE) -> subprocess.Popen[bytes]:
        """Start it in a session of its own, with an empty stdin and pipes; raises why that can't be.

        Without `stdout` it writes to ours.
        """
        user = self.user
        home = home_of(user, self.environment)
        environment = dict(self.environment) | ({"HOME": home} if home is not None else {})
        try:
            with first_to_end() as note_pid:
                process = spawn(self.argv, environment, user, self.set_groups, self.data_bytes, stdout)
                note_pid(process.pid)
                return process
        except FileNotFoundError as error:
            raise CommandMissing from error
        except PermissionError as error:
            raise (CommandForbidden if error.filename else UserForbidden) from error  # it names what was executed
        except ValueError as error:
            raise ArgumentsUnusable from error
        except MemoryError as error:
            raise AlgorithmNotStarted from error
        except OSError as error:
            if is_refusal(error):
                raise AlgorithmNotStarted from error
            raise (ArgumentsUnusable if error.errno == errno.E2BIG else CommandNotRunnable) from error
