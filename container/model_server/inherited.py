"""What PID 1 made before it forked gunicorn, passed down to all workers as objects."""

from dataclasses import dataclass

from .folder import TaskFolder
from .freeing import Freeing
from .ledger import Ledger
from .linked_input import InputFolder
from .log_channel import LogChannels
from .resident_channel import ResidentChannel
from .run_folder import RunFolder
from .scoreboard import Scoreboard
from .settings import Settings


@dataclass(frozen=True)
class Inherited:
    """All workers share it."""

    settings: Settings
    command: list[str]
    input: InputFolder
    output: TaskFolder
    freeing: Freeing
    folder: RunFolder
    channels: LogChannels
    scoreboard: Scoreboard
    ledger: Ledger
    resident: ResidentChannel | None
