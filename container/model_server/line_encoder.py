"""A program's output as log records: bytes in, whole JSON lines out, nothing lost.

The format is sagemaker-shim's (drop-in): one JSON object a line with the keys log, level, source, internal and task,
as json.dumps writes it. A line ends at a newline and wherever str.splitlines says; NULs are dropped; what is not
UTF-8 is replaced. A record stays under 16 KiB, where Docker cuts: a longer line becomes several records, all but the
last with `"continued": true`. The lines that came in one chunk are encoded together, plain ones as fast as they are
copied.
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

ESCAPES = {b"\\": b"\\\\", b'"': b'\\"', b"\t": b"\\t", b"\x1b": b"\\u001b"}
"""How JSON writes what is not rare in plain lines; the backslash is first, as all others bring more of it."""

PLAIN = bytes(range(0x20, 0x7F)) + b"\n" + b"".join(ESCAPES)
"""What JSON writes as it is, or as ESCAPES say."""

MAX_ESCAPED_BYTES = 6


class RecordFormat:
    """Makes the records of one stream; what all of them share is written out once."""

    def __init__(self, level: str, source: str, internal: bool, task: str | None) -> None:
        shared = {"level": level, "source": source, "internal": internal, "task": task}
        self._tail = ", " + json.dumps(shared)[1:-1]
        self.room = MAX_RECORD_BYTES - len('{"log": ""') - len(self._tail) - len(CONTINUED) - len("}\n")
        self._start, self._end = '{"log": ', f"{self._tail}}}\n"
        self._between = self._end + self._start
        self._plain_start, self._plain_end = f'{self._start}"'.encode(), f'"{self._end}'.encode()
        self._plain_between = self._plain_end + self._plain_start

    def encode(self, text: str, continued: bool = False) -> bytes:
        """Return one record for text that has no line break and fits into `room` once quoted."""
        return f'{{"log": {quote(text)}{self._tail}{CONTINUED if continued else ""}}}\n'.encode("ascii")

    def encode_line(self, text: str) -> bytes:
        """Return the records of one line, however long."""
        if len(text) * MAX_QUOTED_CHARACTER <= self.room:
            return self.encode(text)
        return b"".join([self.encode(piece, continued) for piece, continued in self.split(text)])

    def encode_lines(self, lines: bytes) -> bytes:
        """Return the records of lines with newlines between them and no NULs; the more at once, the faster."""
        if not lines.translate(None, PLAIN) and _are_short(lines, self.room // MAX_ESCAPED_BYTES):
            for raw, escaped in ESCAPES.items():
                lines = lines.replace(raw, escaped)
            return b"".join((self._plain_start, lines.replace(b"\n", self._plain_between), self._plain_end))
        texts = (lines + b"\n").decode("utf-8", "replace").splitlines()
        quoted = list(map(quote, texts))
        if max(map(len, quoted)) - len('""') <= self.room:
            return "".join((self._start, self._between.join(quoted), self._end)).encode("ascii")
        return b"".join(map(self.encode_line, texts))

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
        chunk = chunk.replace(b"\0", b"")
        first, last = chunk.find(b"\n"), chunk.rfind(b"\n")
        if first == last:
            return self._encode(self._decoder.decode(chunk))
        ends = self._encode(self._decoder.decode(chunk[: first + 1]))
        lines = chunk[first + 1 : last]  # here nothing is open
        if keep := self._kept.maxlen:
            self._keep([line.decode("utf-8", "replace") + "\n" for line in lines.rsplit(b"\n", keep)[-keep:]])
        return b"".join((ends, self._record.encode_lines(lines), self._encode(self._decoder.decode(chunk[last + 1 :]))))

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


def _are_short(lines: bytes, most: int) -> bool:
    """Say whether no line is longer than this, without a look at each of them."""
    start = 0
    while len(lines) - start > most:
        end = lines.rfind(b"\n", start, start + most + 1)
        if end < 0:
            return False
        start = end + 1
    return True
