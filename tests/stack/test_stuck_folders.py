"""Task folders that can't be emptied: no task may run with what another left, so the container ends."""

import re
from pathlib import Path
from typing import TYPE_CHECKING

from server import serving

if TYPE_CHECKING:
    from conftest import Bucket

REASON = "The task folders can not be emptied, so no task can run"


def test_folders_that_can_not_be_emptied_end_the_container_after_the_next_task(
    bucket: "Bucket", tmp_path: Path
) -> None:
    above = tmp_path / "above"
    tracebacks = "could not be emptied|^Traceback|^ |^(FileNotFoundError|OutputFolderGone|FoldersNotReset)|^$"
    expected = f"^(Stopping|Stopped): {re.escape(REASON)}$|{tracebacks}"
    with serving(bucket.endpoint, warnings=expected, ALGORITHM_OUTPUT_PATH=str(above / "output")) as server:
        task = server.task(bucket, "moves", f'mv "{above}" "{tmp_path}/away"; touch "{tmp_path}/away/output/Doe_John"')
        assert server.run(task).status == 200
        assert server.pings(), "a task can't say yet that the folders are stuck"
        answer = server.run(server.task(bucket, "next", 'touch "$BOARD/ran"'))
        assert (answer.status, answer.json()["error"]["code"]) == (503, "folders_not_reset")
        assert bucket.result("/out/next")["error"]["code"] == "folders_not_reset"
        assert server.ended() == 1
        assert server.own_lines("stderr")[-1] == f"Stopped: {REASON}"
        assert not (server.board / "ran").exists()
        assert not any("Doe_John" in record["log"] for record in server.records())
