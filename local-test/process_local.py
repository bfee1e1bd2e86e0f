"""Process on this machine as a SageMaker Processing job does: see `process-local.sh --help`."""

import functools
import sys
from argparse import Namespace
from pathlib import Path

import ml_folder
from job import JOB_STOP_SECONDS, Job
from options import Parser, place
from running import exit_code, run_script, say, wait_for_end
from s3_server import S3Server, credentials, s3_server

DESCRIPTION = """\
Run an image as a SageMaker Processing job does, `docker run IMAGE process ARGS`, with an S3 server beside it. What it
finds at /opt/ml is the test-dir:

  config/*.json       the job and its hosts
  processing/input    the data; with other folders beside it, if there are
  processing/model    the folder model, read-only
  processing/output   emptied first; what it makes
  output              emptied first; output/message says how it ended

The arguments after `--` are the program's."""

AFTER = """\
Stopping (Ctrl-C) is as on SageMaker: SIGTERM, and SIGKILL 120 seconds later. The exit code is that of the job, or of
the first instance that failed; stopped before the last one began it is not 0."""

JOB_NAME = "local-processing"
LIST = "longshore-tasks/tasks.json"  # the bucket, and its object
LIST_FOLDER = "tasks"


def parse() -> Namespace:
    own = sys.argv[1:]
    rest: list[str] = []
    if "--" in own:
        rest = own[own.index("--") + 1 :]
        own = own[: own.index("--")]
    parser = Parser("process-local.sh", DESCRIPTION, AFTER)
    parser.usage = "process-local.sh [options] [IMAGE] [-- ARGS]"
    parser.add_job_options()
    parser.add_argument("--tasks", type=Path, metavar="FILE", help="run a JSON list of tasks, by way of S3")
    parser.add_argument(
        "--instances", type=int, default=1, metavar="N", help="be N instances, one after another; 1 by default"
    )
    options = parser.parse_args(own)
    if options.tasks and not options.tasks.is_file():
        parser.error(f"there is no file {options.tasks}")
    if options.tasks and rest:
        parser.error("--tasks and ARGS exclude each other")
    if options.instances < 1:
        parser.error("--instances must be 1 or more")
    options.arguments = rest
    return options


def process(options: Namespace, root: Path) -> int:
    where = place(options)
    ml_folder.need_processing(options.test_dir)
    hosts = [f"algo-{number}" for number in range(1, options.instances + 1)]
    codes = []
    say("Starting a stand-in for S3")
    with s3_server(root, where.s3_bind) as s3:
        s3.fill(options.s3)
        environment = credentials(where.s3_url(s3.url)) | {"PROCESSING_JOB_NAME": JOB_NAME} | dict(options.env)
        command = ["process", *task_arguments(options, s3, root), *options.arguments]
        ml_folder.begin_processing(options.test_dir)
        for host in hosts:
            say(f"Processing on {host}")
            mounts = ml_folder.for_processing(options.test_dir, host, hosts, root)
            model = ml_folder.PROCESSING_MODEL
            job = Job(command, mounts, JOB_STOP_SECONDS, environment, program=options.mount, model=model)
            with where.started(job, root, None) as instance:
                signum = wait_for_end(instance)
            codes.append(exit_code(instance))
            say(f"{host} ended with exit code {codes[-1]}")
            ml_folder.show(options.test_dir, "output/message")
            if signum:
                break
        kept = s3.keep(options.keep, options.s3, root / LIST_FOLDER)
    if not options.tasks:
        ml_folder.list_files(options.test_dir / "processing" / "output")
    # A program may well end with 0 when it is stopped, but then the job is not done.
    stopped = 128 + signum if len(codes) < len(hosts) else 0
    return next((code for code in codes if code), stopped) or kept


def task_arguments(options: Namespace, s3: S3Server, root: Path) -> list[str]:
    """Put the list of tasks where a Processing job has it, in S3, and return the arguments that name it."""
    if not options.tasks:
        return []
    folder = root / LIST_FOLDER
    path = folder / LIST
    path.parent.mkdir(parents=True)
    path.write_bytes(options.tasks.read_bytes())
    s3.fill(folder)
    return ["--tasks", f"s3://{LIST}"]


if __name__ == "__main__":
    run_script("process-local", functools.partial(process, parse()))
