"""An algorithm that calls the server which runs it: a user of its own, and so no client."""

import json
import socket
from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest
from server import Server, eventually, serving

if TYPE_CHECKING:
    from conftest import Bucket

REFUSAL = "A request was answered 403 (caller_forbidden: The algorithm may not call the server that runs it)"


@pytest.fixture(scope="module")
def server(s3_endpoint: str) -> Iterator[Server]:
    with serving(s3_endpoint, ALGORITHM_USER="12345") as running:
        yield running


def own_address() -> str:
    """Return an address of this machine that is not the loopback's."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.connect(("192.0.2.1", 9))  # sends nothing
        return str(probe.getsockname()[0])


def calling(server: Server, address: str, request: str, body: str = "") -> str:
    """Return a script that sends a request and prints the answer."""
    head = f"{request} HTTP/1.0\\r\\nContent-Type: application/json\\r\\nContent-Length: {len(body)}\\r\\n\\r\\n"
    return f"""exec bash <<'END'
exec 3<>/dev/tcp/{address}/{server.port}
printf '{head}%s' '{body}' >&3
cat <&3
END
"""


@pytest.mark.parametrize("request_line", ["GET /ping", "POST /invocations", "GET /execution-parameters"])
def test_it_is_answered_403_and_the_log_says_so(server: Server, bucket: "Bucket", request_line: str) -> None:
    for number, address in enumerate(("127.0.0.1", "::ffff:127.0.0.1", own_address())):
        before = server.own_lines("stdout").count(REFUSAL)
        script = calling(server, address, request_line)
        pk = f"calls-{request_line.partition('/')[2]}-{number}"
        answer = server.run(server.task(bucket, pk, script)).json()
        assert answer["return_code"] == 0, answer
        summed_up = f"Task {pk} ended with "  # nothing of the task comes after it
        eventually(lambda line=summed_up: line in "\n".join(server.own_lines("stdout")), summed_up)
        told = [record["log"] for record in server.records("stdout") if record["task"] == pk]
        assert told[0].startswith("HTTP/1.1 403"), told
        assert json.loads(told[-1])["error"]["code"] == "caller_forbidden"
        assert server.own_lines("stdout").count(REFUSAL) == before + 1
    assert server.pings()


def test_a_task_that_it_posts_does_not_run(server: Server, bucket: "Bucket") -> None:
    bucket.put("scripts/own", 'touch "$BOARD/ran"')
    own = json.dumps(bucket.task("own", [bucket.item("do", "scripts/own")]))
    answer = server.run(server.task(bucket, "posts", calling(server, "127.0.0.1", "POST /invocations", own)))
    assert answer.json()["return_code"] == 0, answer.body
    after = server.run(server.task(bucket, "after", 'test ! -e "$BOARD/ran"'))
    assert after.json()["return_code"] == 0
    stored = bucket.keys()
    assert not [key for key in stored if key.startswith("/out/own/")]
