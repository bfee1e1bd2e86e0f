"""Train on this machine as a SageMaker training job does: see `train-local.sh --help`."""

import functools
from argparse import Namespace
from pathlib import Path

import ml_folder
from job import JOB_STOP_SECONDS, Job
from options import Parser, place
from running import exit_code, run_script, say, wait_for_end
from s3_server import credentials, s3_server

DESCRIPTION = """\
Run an image as a SageMaker training job does, `docker run IMAGE train`, with an S3 server beside it. What it finds
at /opt/ml is the test-dir:

  input/config/*.json   the hyperparameters, the channels and the hosts
  input/data/<channel>  the data
  model                 the model; what was there before is moved to model.before, and lost the next time
  output                emptied first; what else it makes
  checkpoints           kept from one run to the next"""

AFTER = """\
Stopping (Ctrl-C) is as on SageMaker: SIGTERM, and SIGKILL 120 seconds later. The exit code is the job's; when it
failed, output/failure says why. serve-local.sh serves the model."""

JOB_NAME = "local-training"


def parse() -> Namespace:
    parser = Parser("train-local.sh", DESCRIPTION, AFTER)
    parser.add_job_options()
    return parser.parse_args()


def train(options: Namespace, root: Path) -> int:
    where = place(options)
    ml_folder.need_training(options.test_dir)
    say("Starting a stand-in for S3")
    with s3_server(root, where.s3_bind) as s3:
        s3.fill(options.s3)
        environment = {
            **credentials(where.s3_url(s3.url)),
            "TRAINING_JOB_NAME": JOB_NAME,
            "TRAINING_JOB_ARN": f"arn:aws:sagemaker:us-east-1:000000000000:training-job/{JOB_NAME}",
            **dict(options.env),
        }
        say("Training")
        mounts = ml_folder.begin_training(options.test_dir)
        job = Job(["train"], mounts, JOB_STOP_SECONDS, environment, program=options.mount)
        with where.started(job, root, None) as training:
            wait_for_end(training)
        kept = s3.keep(options.keep, options.s3)
    code = exit_code(training)
    say(f"The training ended with exit code {code}")
    ml_folder.show(options.test_dir, "output/failure")
    ml_folder.list_files(options.test_dir / "model")
    return code or kept


if __name__ == "__main__":
    run_script("train-local", functools.partial(train, parse()))
