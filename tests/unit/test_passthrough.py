"""Running a program whose output is its own; tests/functional/test_train.py has the rest."""

from model_server.children import JOB_STOP_SECONDS, LAST_SECONDS
from model_server.passthrough import CHECKPOINT_SECONDS

SAGEMAKER_KILLS_AFTER = 120
"""https://docs.aws.amazon.com/sagemaker/latest/APIReference/API_StopTrainingJob.html"""


def test_a_checkpoint_leaves_us_time_before_sagemaker_kills() -> None:
    assert CHECKPOINT_SECONDS < JOB_STOP_SECONDS < JOB_STOP_SECONDS + LAST_SECONDS < SAGEMAKER_KILLS_AFTER
