"""`serve` as PID 1 of a PID namespace, as it is in a container: it reaps what tasks leave, and stops when told to."""

import os
import signal
from typing import TYPE_CHECKING

from server import Server, eventually, namespace, serving

if TYPE_CHECKING:
    from conftest import Bucket

DAEMONS = """
for number in 1 2 3 4 5; do setsid sh -c 'sleep 0.2' & done
setsid sh -c 'setsid sleep 300 & exit 0' &
sleep 0.1
exit 0
"""


def zombies(server: Server) -> list[int]:
    return [process.pid for process in server.tree() if process.state == "Z"]


def leave_orphans(server: Server, bucket: "Bucket") -> None:
    """Run tasks that leave daemons behind, and see that those that end are reaped."""
    for number in range(3):
        answer = server.run(server.task(bucket, f"leaves-{number}", DAEMONS))
        assert answer.json()["return_code"] == 0
    adopted = lambda: [p for p in server.children(server.pid) if p.name in ("sh", "sleep")]  # noqa: E731
    eventually(lambda: not [p for p in adopted() if p.name == "sh"] and not zombies(server), "no zombies")
    assert server.run(bucket.task("next")).json()["return_code"] == 0


def test_pid_1_reaps_orphans_and_stops_on_a_signal_from_outside(s3_endpoint: str, bucket: "Bucket") -> None:
    words = namespace("-pf", "--mount-proc")
    if words is None:  # `namespace` has seen that it is not permitted
        return
    with serving(s3_endpoint, *words, warnings=r"^nginx: .*initgroups\(") as server:
        assert server.pid != server.process.pid
        leave_orphans(server, bucket)
        posted = server.post_blocking(bucket, "cut")
        os.kill(server.pid, signal.SIGTERM)
        assert posted.answer().json()["error"]["code"] == "interrupted"
        assert server.ended() == 0
        assert bucket.result("/out/cut")["error"]["code"] == "interrupted"


def test_serve_as_root_of_a_user_namespace_without_other_ids_serves(s3_endpoint: str, bucket: "Bucket") -> None:
    """Rootless containers may map one id only: nginx then runs as the user that we are."""
    words = namespace("-r", "-pf", "--mount-proc")
    if words is None:  # `namespace` has seen that it is not permitted
        return
    with serving(s3_endpoint, *words, warnings=r"^nginx: .*initgroups\(") as server:
        assert server.run(bucket.task("one")).json()["return_code"] == 0


def test_serve_beneath_another_pid_1_reaps_orphans_too(s3_endpoint: str, bucket: "Bucket") -> None:
    with serving(s3_endpoint) as server:
        leave_orphans(server, bucket)


def test_serve_in_folders_with_spaces_serves(s3_endpoint: str, bucket: "Bucket") -> None:
    with serving(s3_endpoint, name="a folder; with 'odd' {names}") as server:
        answer = server.run(server.task(bucket, "one", 'echo x > "$ALGORITHM_OUTPUT_PATH/a file"'))
        assert [output["relative_path"] for output in answer.json()["outputs"]] == ["a file"]
        large = b'{"pk": 1}' + b" " * 3_000_000  # nginx keeps it in a file meanwhile
        assert server.ask("POST", "/invocations", large).status == 422
