"""Our own log lines: python-json-logger in the drop-in format, sent to the log channels.

Lines for operators go through `logger` and obey LOG_LEVEL. What a platform shows to users (`internal` false) goes
through `user_logger`, whatever LOG_LEVEL says. Object keys and file names belong into DEBUG lines only: they can
identify patients.
"""

import logging
import traceback
from collections.abc import Iterator

from pythonjsonlogger.json import JsonFormatter

from .errors import LongshoreError
from .line_encoder import RecordFormat
from .log_channel import LogChannel, LogChannels

logger = logging.getLogger("longshore")
user_logger = logging.getLogger("longshore.user")

FIELDS = {"message": "log", "levelname": "level", "source": "source", "internal": "internal", "task": "task"}
"""The attributes of a logging record that make a record of ours, and their names there, in the drop-in's order."""

LAST_STDOUT_LEVEL = logging.INFO


def source_of(level: int) -> str:
    """Return the stream that a level goes to."""
    return "stdout" if level <= LAST_STDOUT_LEVEL else "stderr"


class ChannelHandler(logging.Handler):
    """Sends each line of a message as one record; a slow reader of our log makes it drop lines, never wait long."""

    def __init__(self, channels: LogChannels) -> None:
        super().__init__()
        self._channels = channels
        self.setFormatter(JsonFormatter(list(FIELDS), rename_fields=FIELDS))

    def handle(self, record: logging.LogRecord) -> bool:
        """Emit without the lock that logging takes for it: a send is atomic, and may wait a little."""
        self.emit(record)
        return True

    def emit(self, record: logging.LogRecord) -> None:
        try:
            source = source_of(record.levelno)
            channel: LogChannel = getattr(self._channels, source)
            if dropped := channel.take_dropped():
                self._send(channel, _notice(record.levelno, f"{dropped} lines of ours were dropped: the log is slow"))
            self._send(channel, record)
        except Exception:
            self.handleError(record)

    def _send(self, channel: LogChannel, record: logging.LogRecord) -> None:
        for piece in _pieces(record):
            channel.send_or_drop(self.format(piece).encode() + b"\n")


def _notice(level: int, message: str) -> logging.LogRecord:
    return logging.makeLogRecord({"msg": message, "levelno": level, "levelname": logging.getLevelName(level)})


def _pieces(record: logging.LogRecord) -> Iterator[logging.LogRecord]:
    """Cut a message into its lines, and lines into what one record may hold."""
    text = record.getMessage()
    if record.exc_info and record.exc_info[1]:
        text += "\n" + "\n".join(map(_told, _chain(record.exc_info[1])))
    source = source_of(record.levelno)
    internal, task = getattr(record, "internal", True), getattr(record, "task", None)
    bounds = RecordFormat(record.levelname, source, internal, task)
    shared = {
        "levelno": record.levelno,
        "levelname": record.levelname,
        "source": source,
        "internal": internal,
        "task": task,
    }
    for line in text.splitlines() or [""]:
        for piece, continued in bounds.split(line):
            yield logging.makeLogRecord(shared | {"msg": piece} | ({"continued": True} if continued else {}))


def _chain(error: BaseException) -> list[BaseException]:
    """Return an error after those that it came of."""
    before = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
    return [*(_chain(before) if before else []), error]


def _told(error: BaseException) -> str:
    """Return an error's traceback; its own words, which may hold names of files and values of a task, at DEBUG only."""
    words = str(error)
    if not (logger.isEnabledFor(logging.DEBUG) or isinstance(error, LongshoreError)):
        words = (isinstance(error, OSError) and error.strerror) or ""
    frames = "".join(traceback.format_tb(error.__traceback__))
    return f"Traceback (most recent call last):\n{frames}{type(error).__name__}{': ' + words if words else ''}"


def configure(channels: LogChannels, level: str) -> None:
    """Send the log lines of this process, and of the libraries it uses, to the channels."""
    root = logging.getLogger()
    root.handlers = [ChannelHandler(channels)]
    root.setLevel(logging.WARNING)  # a library's DEBUG lines would hold keys, names and signatures
    logger.setLevel(level)
    user_logger.setLevel(logging.DEBUG)
    logging.captureWarnings(True)


def tell_user(level: int, message: str, task: str | None) -> None:
    """Log a sentence that the platform may show to the task's owner."""
    user_logger.log(level, "%s", message, extra={"internal": False, "task": task})
