"""An S3 server for one run: moto's, filled from a folder, and copied into one in the end."""

import contextlib
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from running import Failure, free_port, own_environment, run, running, say, wait_for_answer

S3_FOLDER = str(Path(__file__).resolve().parent / "s3_folder.py")


@dataclass(frozen=True)
class S3Server:
    """Where it is, and what a program on this machine must be told to use it."""

    url: str
    environment: dict[str, str]

    def fill(self, folder: Path) -> None:
        """Put each file `<bucket>/<key>` of a folder there, and make its buckets."""
        self._run(f"{folder} could not be copied to S3.", "fill", str(folder))

    def keep(self, target: Path | None, *filled_from: Path) -> int:
        """Copy what has come since into a folder, if there is one, as `<bucket>/<key>`; returns 1 if not all could be.

        It raises nothing: how the job ended matters more.
        """
        try:
            if target:
                self._run(f"Not all of S3 is copied to {target}", "keep", str(target), *map(str, filled_from))
        except Failure as failure:
            say(str(failure))
            return 1
        return 0

    def _run(self, sentence: str, *arguments: str) -> None:
        run([sys.executable, S3_FOLDER, *arguments], self.environment, Failure(sentence))


@contextlib.contextmanager
def s3_server(root: Path, bind: str = "127.0.0.1") -> Iterator[S3Server]:
    """Keep an S3 server running; its log is in the root folder."""
    environment = own_environment(root)
    url = f"http://{bind}:{(port := free_port(bind))}"
    log = root / "s3.log"
    command = [sys.executable, "-m", "moto.server", "-H", bind, "-p", str(port)]
    with log.open("wb") as output, running(command, environment, output) as process:
        wait_for_answer(process, f"{url}/moto-api/", Failure("The stand-in for S3 did not start.", log))
        yield S3Server(url, environment | credentials(url))


def credentials(url: str) -> dict[str, str]:
    """Return the variables with which boto3 and the model server use the S3 server at this address."""
    return {
        "AWS_ENDPOINT_URL_S3": url,
        "AWS_REGION": "us-east-1",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_ACCESS_KEY_ID": "nobody",
        "AWS_SECRET_ACCESS_KEY": "nothing",
        "AWS_EC2_METADATA_DISABLED": "true",
    }
