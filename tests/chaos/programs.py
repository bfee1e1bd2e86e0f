"""The programs of generated tasks: shell scripts that say which attempt they are, and what has to come of each."""

import io
import zipfile
from collections.abc import Callable
from dataclasses import dataclass, field
from random import Random

SAYS_WHO_IT_IS = """
echo "attempt {attempt}" >&2
exec 9>>"$BOARD/lock"
flock -n 9 || : >"$BOARD/overlap-{attempt}"
echo $$ >"$BOARD/ran-{attempt}"
cd "$ALGORITHM_OUTPUT_PATH"
"""
"""The lock is free once all that a task started has ended: a task that finds it taken has company."""


@dataclass(frozen=True)
class Input:
    relative_path: str
    data: bytes
    decompress: bool = False


@dataclass
class Prepared:
    """One attempt at a program: what it is given, and what has to come of it where nothing goes wrong.

    `error` is the code in its result; with `status` other than 200 the code of an answer without one.
    """

    script: str
    inputs: list[Input] = field(default_factory=list)
    outputs: dict[str, bytes] = field(default_factory=dict)
    return_code: int = 0
    error: str | None = None
    status: int = 200
    timeout: str = "PT30S"


def hello(attempt: int, random: Random) -> Prepared:
    return Prepared(f"sleep {random.choice([0, 0, 0.1])}; echo {attempt} >hello", outputs=text("hello", attempt))


def copies(attempt: int, random: Random) -> Prepared:
    inputs = [
        Input(f"in/{'deep/' * number}{number}", f"{attempt}\n".encode() * random.choice([1, 10, 5_000]))
        for number in range(random.randint(1, 4))
    ]
    expected = {item.relative_path: item.data for item in inputs}
    return Prepared('cp -r "$ALGORITHM_INPUT_PATH/in" .', inputs, expected)


def unzips(attempt: int, random: Random) -> Prepared:
    names = ["top.txt", *(f"folder/{number}.txt" for number in range(random.randint(1, 5)))]
    members = {name: f"{attempt} {name}".encode() for name in names}
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    inputs = [Input("in/scans.zip", file.getvalue(), decompress=True)]
    return Prepared('cp -r "$ALGORITHM_INPUT_PATH/in/." .', inputs, members)


def has_a_broken_zip(attempt: int, random: Random) -> Prepared:
    inputs = [Input("in/scans.zip", f"{attempt} is no zip".encode(), decompress=True)]
    return Prepared("echo never", inputs, return_code=1, error="zip_broken")


def writes_many(attempt: int, random: Random) -> Prepared:
    names = [f"many/{number:02}" for number in range(random.randint(5, 20))]
    script = f'mkdir many; for name in {" ".join(names)}; do echo "{attempt} $name" >$name; done'
    return Prepared(script, outputs={name: f"{attempt} {name}\n".encode() for name in names})


def writes_much(attempt: int, random: Random) -> Prepared:
    size = random.choice([100_000, 600_000])
    expected = {"much": bytes(size)} | text("who", attempt)
    return Prepared(f"head -c {size} /dev/zero >much; echo {attempt} >who", outputs=expected)


def writes_nothing(attempt: int, random: Random) -> Prepared:
    return Prepared("sleep 0.02")


def works_in_steps(attempt: int, random: Random) -> Prepared:
    """Run for a while, so that what happens to it happens in the middle."""
    steps = random.randint(2, 6)
    script = f"for step in {' '.join(map(str, range(steps)))}; do echo {attempt} >step-$step; sleep 0.05; done"
    expected = {name: data for step in range(steps) for name, data in text(f"step-{step}", attempt).items()}
    return Prepared(script, outputs=expected)


def talks(attempt: int, random: Random) -> Prepared:
    return Prepared(f"seq 1500; echo {attempt} >said", outputs=text("said", attempt))


def fails(attempt: int, random: Random) -> Prepared:
    code = random.choice([1, 2, 3, 42, 126, 255])
    return Prepared(f"echo {attempt} >half; exit {code}", return_code=code, error="algorithm_failed")


def dies(attempt: int, random: Random) -> Prepared:
    signum = random.choice([6, 9, 11, 15])
    script = f"ulimit -c 0; echo {attempt} >half; kill -{signum} $$; sleep 60"
    return Prepared(script, return_code=128 + signum, error="algorithm_failed")


def overruns(attempt: int, random: Random) -> Prepared:
    trap = random.choice(["", "trap '' TERM;", "trap 'echo late >late; exit 0' TERM;"])
    return Prepared(f"{trap} sleep 60 & sleep 60", return_code=1, error="time_limit_exceeded", timeout="PT0.3S")


def leaves_a_daemon(attempt: int, random: Random) -> Prepared:
    """Leave a process that would write into the folder of a later task."""
    late = f'sleep {random.choice([0.1, 0.3])}; echo {attempt} >"$ALGORITHM_OUTPUT_PATH/late-{attempt}"; sleep 60'
    script = f"setsid sh -c '{late}' & setsid sleep 60 & sleep 60 & echo {attempt} >hello"
    return Prepared(script, outputs=text("hello", attempt))


def links(attempt: int, random: Random) -> Prepared:
    script = f"echo {attempt} >good; ln -s good inner; ln -s /etc/passwd outer; ln -s nowhere dangling; mkfifo fifo"
    return Prepared(script, outputs=text("good", attempt) | text("inner", attempt))


def leaves_a_labyrinth(attempt: int, random: Random) -> Prepared:
    deep = "/".join(["deep"] * 40)
    script = (
        f'echo {attempt} >hello; mkdir -p {deep} locked/inner; chmod 0 locked/inner; cd "$ALGORITHM_INPUT_PATH" && '
        f"mkdir -p {deep}; mkfifo fifo; ln -s /etc link; touch .hidden; true"
    )
    return Prepared(script, outputs=text("hello", attempt))


def is_no_task(attempt: int, random: Random) -> Prepared:
    return Prepared("echo never", [Input("../outside", b"-")], status=422, error="task_invalid", return_code=1)


PROGRAMS: dict[str, tuple[int, Callable[[int, Random], Prepared]]] = {
    program.__name__: (weight, program)
    for weight, program in (
        (20, hello),
        (15, copies),
        (7, unzips),
        (2, has_a_broken_zip),
        (7, writes_many),
        (4, writes_much),
        (3, writes_nothing),
        (12, works_in_steps),
        (3, talks),
        (6, fails),
        (3, dies),
        (3, overruns),
        (6, leaves_a_daemon),
        (4, links),
        (3, leaves_a_labyrinth),
        (2, is_no_task),
    )
}
"""By name: how often one is drawn, and what makes it."""


def prepare(name: str, seed: int, attempt: int) -> Prepared:
    """Make an attempt at a program: with one seed all attempts are alike but for their number, which outputs hold."""
    prepared = PROGRAMS[name][1](attempt, Random(seed))
    prepared.script = SAYS_WHO_IT_IS.format(attempt=attempt) + prepared.script
    return prepared


def text(name: str, attempt: int) -> dict[str, bytes]:
    return {name: f"{attempt}\n".encode()}
