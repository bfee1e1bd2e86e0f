"""Whatever is asked of the API is answered as tests/openapi.yaml describes it: schemathesis against a real server."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml
from server import serving

from model_server.errors import RequestError, ServerError
from model_server.refusals import ERRORS

if TYPE_CHECKING:
    from conftest import Bucket

HERE = Path(__file__).parent
DESCRIPTION = HERE.parent / "openapi.yaml"
CASES = 2_000
ACCEPTED = 300
SECONDS = 600
EXPECTED = r"^S3: (Get|Put)Object was answered 404|: The output bucket of the task does not exist$"


def test_2000_requests_are_answered_as_described(s3_endpoint: str, bucket: "Bucket", tmp_path: Path) -> None:
    """It is serial, so that no queue is ever full: a 5xx of any kind fails it, and so does what is not JSON."""
    report = tmp_path / "report.json"
    command = [Path(sys.executable).parent / "st", "run", DESCRIPTION, "--phases=coverage,fuzzing", "--checks=all"]
    command += ["--exclude-checks=positive_data_acceptance"]  # S3 and lengths in bytes decide too: see its head
    command += [f"--max-examples={CASES}", "--generation-deterministic", "--suppress-health-check=all", "--no-color"]
    command += ["--report=json", f"--report-json-path={report}"]
    hooks = {"SCHEMATHESIS_HOOKS": "openapi_hooks", "PYTHONPATH": str(HERE), "EXISTING_BUCKET": bucket.name}
    with serving(s3_endpoint, ALGORITHM_ENTRYPOINT='["true"]', LOG_LEVEL="INFO", warnings=EXPECTED) as server:
        asked = subprocess.run(
            [*command, f"--url=http://127.0.0.1:{server.port}"],
            env=os.environ | hooks,
            cwd=tmp_path,
            capture_output=True,
            text=True,
            timeout=SECONDS,
        )
    assert asked.returncode == 0, asked.stdout + asked.stderr
    told = json.loads(report.read_text())
    assert told["operations"]["tested"] == 5
    assert told["test_cases"]["generated"] >= CASES
    assert told["valid_rates"]["POST /invocations"]["fuzzing"]["accepted"] >= ACCEPTED


def described() -> dict[str, Any]:
    return yaml.safe_load(DESCRIPTION.read_text())["paths"]


def test_every_status_of_ours_is_described() -> None:
    statuses = {int(status) for status in described()["/invocations"]["post"]["responses"]}
    of_our_errors = {cls.http_status for cls in (*RequestError.__subclasses__(), *ServerError.__subclasses__())}
    elsewhere = {403, 404, 405, 406}  # of whom may call, of the route, and of payloads
    assert statuses - {200} == of_our_errors - elsewhere
    assert of_our_errors <= {*ERRORS, 403, 406, 415, 422}
