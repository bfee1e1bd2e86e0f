"""A program's output as log records: bytes in, whole JSON lines out, nothing lost.

The format is sagemaker-shim's (drop-in): one JSON object a line with the keys log, level, source, internal and task,
as json.dumps writes it. A line ends at a newline and wherever str.splitlines says; NULs are dropped; what is not
UTF-8 is replaced. A record stays under 16 KiB, where Docker cuts: a longer line becomes several records, all but the
last with `"continued": true`.
"""

import codecs
import json
from collections import deque
from collections.abc import Iterator
from json.encoder import encode_basestring_ascii as quote

MAX_RECORD_BYTES = 16 * 1024 - 1
MAX_QUOTED_CHARACTER = 12
"""Bytes that one character takes at most: an escaped surrogate pair."""

MAX_KEPT_CHARACTERS = 16 * 1024
"""How much of one line is kept for the result."""

CONTINUED = ', "continued": true'


class RecordFormat:
    """Makes the records of one stream; what all of them share is written out once."""

    def __init__(self, level: str, source: str, internal: bool, task: str | None) -> None:
        shared = {"level": level, "source": source, "internal": internal, "task": task}
        self._tail = ", " + json.dumps(shared)[1:-1]
        self.room = MAX_RECORD_BYTES - len('{"log": ""') - len(self._tail) - len(CONTINUED) - len("}\n")

    def encode(self, text: str, continued: bool = False) -> bytes:
        """Return one record for text that has no line break and fits into `room` once quoted."""
        return f'{{"log": {quote(text)}{self._tail}{CONTINUED if continued else ""}}}\n'.encode("ascii")

    def encode_line(self, text: str) -> bytes:
        """Return the records of one line, however long."""
        if len(text) * MAX_QUOTED_CHARACTER <= self.room:
            return self.encode(text)
        return b"".join([self.encode(piece, continued) for piece, continued in self.split(text)])

    def split(self, text: str) -> Iterator[tuple[str, bool]]:
        """Yield what each record of a line holds, and whether the line goes on after it."""
        while len(text) * MAX_QUOTED_CHARACTER > self.room and len(quote(text)) - 2 > self.room:
            piece, text = self.cut(text)
            yield piece, True
        yield text, False

    def cut(self, text: str) -> tuple[str, str]:
        """Return as much of the text's start as one record holds, and the rest."""
        piece = text[: self.room]
        while (excess := len(quote(piece)) - 2 - self.room) > 0:
            piece = piece[: -max(1, excess // MAX_QUOTED_CHARACTER)]
        return piece, text[len(piece) :]


class LineEncoder:
    """Turns one stream of a program into records, as its bytes come; keeps the last raw lines if asked to.

    What it returns does not depend on how the bytes were cut into chunks.
    """

    def __init__(self, record: RecordFormat, keep_lines: int = 0) -> None:
        self._record = record
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._open = ""  # the piece that has not ended yet
        self._line = ""  # the line that has not ended yet, as far as it is kept
        self._kept: deque[str] = deque(maxlen=keep_lines)

    @property
    def last_lines(self) -> list[str]:
        """The last lines, each with its newline, cut after MAX_KEPT_CHARACTERS."""
        return list(self._kept)

    def feed(self, chunk: bytes) -> bytes:
        """Return the records of the lines that end in this chunk; what is left open waits for more."""
        return self._encode(self._decoder.decode(chunk.replace(b"\0", b"")))

    def finish(self) -> bytes:
        """Return the records of a last line that has no newline."""
        records = self._encode(self._decoder.decode(b"", final=True))
        if self._open:
            records += self._pieces(self._open)
            self._keep([""])
            self._open = ""
        return records

    def _encode(self, text: str) -> bytes:
        *ended, rest = text.split("\n")
        self._keep([line + "\n" for line in ended])
        self._line = (self._line + rest)[: MAX_KEPT_CHARACTERS + 1]
        if ended:
            ended[0] = self._open + ended[0]
            self._open = ""
        records = [self._pieces(line + "\n") for line in ended]  # "a\v\n" is two lines, "a" and an empty one
        records.append(self._hold(self._open + rest))
        return b"".join(records)

    def _pieces(self, line: str) -> bytes:
        return b"".join([self._record.encode_line(piece) for piece in line.splitlines() or [""]])

    def _hold(self, text: str) -> bytes:
        """Hold back the last piece of an open line, whose end is not known; return the records of the others."""
        *pieces, last = text.splitlines(keepends=True) or [""]
        records = [self._pieces(piece) for piece in pieces]
        while len(last) > self._record.room + len("\r"):  # whatever follows, this much is a record
            piece, last = self._record.cut(last)
            records.append(self._record.encode(piece, continued=True))
        self._open = last
        return b"".join(records)

    def _keep(self, ends: list[str]) -> None:
        """Keep the lines that end here; the first one began earlier."""
        if ends and self._kept.maxlen:
            ends[0] = self._line + ends[0]
            self._kept.extend(map(_shortened, ends[-self._kept.maxlen :]))
            self._line = ""


def _shortened(line: str) -> str:
    return line if len(line.removesuffix("\n")) <= MAX_KEPT_CHARACTERS else line[:MAX_KEPT_CHARACTERS] + "…\n"
