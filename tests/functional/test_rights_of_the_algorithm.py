"""What the algorithm may not gain: other rights than its user's; and that it is the first to end without memory."""

from __future__ import annotations

import json
import os
import shutil
import stat
from collections.abc import Callable, Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

import pytest
from invocation import Invocation
from job_rig import Job

if TYPE_CHECKING:
    from tests.conftest import Bucket

ANOTHER = "12345" if os.geteuid() == 0 else ""
NO_NEW_PRIVILEGES = "grep NoNewPrivs /proc/self/status"
OOM_SCORE = Path("/proc/self/oom_score_adj")

Run = Callable[..., str]


@pytest.fixture(params=["invoke", "train", "process"])
def run(request: pytest.FixtureRequest, invoke: Invocation, job: Job, bucket: Bucket) -> Run:
    """Run a shell script as the algorithm of each kind of job, and return what it printed."""

    def running(script: str, **variables: str) -> str:
        command = json.dumps(["/bin/sh", "-c", script])
        if request.param != "invoke":
            ended = job.run(request.param, script, env=variables)
            assert ended.returncode == 0, ended.stderr
            return str(ended.stdout.decode())
        tasks = json.dumps([bucket.task()])
        ended = invoke.run(None, "-t", tasks, env=variables | {"ALGORITHM_ENTRYPOINT": command})
        records = [json.loads(line) for line in ended.stdout.splitlines()]
        return "".join(f"{record['log']}\n" for record in records if not record["internal"])

    return running


@pytest.fixture
def whoami() -> Iterator[Path]:
    """A program that says who it runs as, with the setuid bit of our own user, where every user reaches it."""
    with TemporaryDirectory(dir="/tmp") as folder:
        Path(folder).chmod(0o755)
        program = Path(shutil.copy("/usr/bin/id", f"{folder}/whoami"))
        program.chmod(stat.S_ISUID | 0o755)
        yield program


@pytest.mark.parametrize(("allowed", "uid"), [("", ANOTHER or str(os.geteuid())), ("true", str(os.geteuid()))])
def test_a_setuid_program_gives_no_rights_unless_a_setting_allows_it(
    run: Run, whoami: Path, allowed: str, uid: str
) -> None:
    variables = {"ALGORITHM_USER": ANOTHER, "ALGORITHM_ALLOW_SETUID": allowed}
    said = run(f"{whoami} -u; {NO_NEW_PRIVILEGES}", **variables).split()
    assert said == [uid, "NoNewPrivs:", "0" if allowed else "1"]


def test_the_kernel_ends_the_algorithm_before_the_server(run: Run) -> None:
    own = OOM_SCORE.read_text().strip()
    unchanged = f'until [ "$(cat /proc/$PPID/oom_score_adj)" = {own} ]; do sleep 0.01; done'
    assert run(f"cat {OOM_SCORE}; {unchanged}") == f"{min(1000, int(own) + 500)}\n"
