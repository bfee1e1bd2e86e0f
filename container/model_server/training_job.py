"""`train`: the algorithm's training program, told what SageMaker says about the job.

https://docs.aws.amazon.com/sagemaker/latest/dg/your-algorithms-training-algo.html
"""

from collections.abc import Sequence

from .command import train_command
from .exit_note import ExitNote
from .plain_job import log_plainly, prepare_folders, run_job, warn_of_closed
from .settings import Settings
from .training_environment import Training


def train(settings: Settings, arguments: Sequence[str]) -> int:
    """Train, and return the program's exit code; raises SettingsInvalid and StartFailed before it was run.

    The program gets `arguments` before the hyperparameters.
    """
    log_plainly(settings.log_level)
    note = ExitNote(settings.ml_path, "failure")
    training = Training.read(settings.ml_path)
    words = [*arguments, *training.arguments]
    argv = train_command(settings, words)
    ml = settings.ml_path
    output = ml / "output"
    prepare_folders(settings, [ml / "model", ml / "checkpoints", output, output / "data", training.output_data])
    data = ml / "input" / "data"
    warn_of_closed(settings, [ml / "input", data, *(data / name for name in training.channels)])
    return run_job(settings, argv, settings.job_environment | training.variables(words), note)
