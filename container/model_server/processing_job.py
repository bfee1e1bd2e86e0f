"""Plain `process`: the algorithm's own program, with the data of a SageMaker Processing job as its /input and /output.

https://docs.aws.amazon.com/sagemaker/latest/dg/build-your-own-processing-container.html
"""

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path, PurePosixPath
from typing import Any

from .command import algorithm_command, takes_arguments
from .exit_note import ExitNote
from .folder_links import linked
from .job_config import read_config
from .logs import logger
from .plain_job import log_plainly, make_folders, prepare_folders, run_job, say, warn_of_closed
from .settings import DEFAULT_ML_PATH, Settings
from .stray_outputs import StrayOutputs

INPUT_OPTION = "--input_path"
OUTPUT_OPTION = "--output_path"


def process(settings: Settings, arguments: Sequence[str]) -> int:
    """Run the algorithm with these arguments, and return its exit code; raises SettingsInvalid and StartFailed."""
    log_plainly(settings.log_level)
    note = ExitNote(settings.ml_path, "message")
    config = read_config(settings.ml_path / "config", "processingjobconfig.json")
    argv = algorithm_command(settings, arguments=arguments)
    if arguments and not takes_arguments(settings):
        logger.warning("The arguments are not used: the ENTRYPOINT is in shell form, which takes none")
    code = _run(settings, argv, arguments, config, note)
    note.repair()
    return code


def _run(
    settings: Settings, argv: Sequence[str], arguments: Sequence[str], config: Mapping[str, Any], note: ExitNote
) -> int:
    data = settings.ml_path / "processing"
    source, default = _moved(arguments, INPUT_OPTION, settings.input_path), data / "input"
    if source is None or not source.is_dir():
        make_folders([source := default])
    destination = _moved(arguments, OUTPUT_OPTION, settings.output_path) or data / "output"
    if destination.suffix and not destination.exists():
        destination = destination.parent  # the name of a file that the algorithm is to write
    output = settings.ml_path / "output"
    prepare_folders(settings, [output, destination, *_output_folders(config, settings.ml_path)])
    warn_of_closed(settings, [source])
    environment = dict(settings.job_environment)
    here = None
    with suppress(OSError):  # it was removed
        here = os.getcwd()
    with linked(settings.input_path, source) as has_input, linked(settings.output_path, destination) as has_output:
        if here:
            with suppress(OSError):
                os.chdir(here)  # by its path: it may be one of the two, which is another folder now
        if not has_input:
            environment["ALGORITHM_INPUT_PATH"] = str(source)
        if not has_output:
            environment["ALGORITHM_OUTPUT_PATH"] = str(destination)
        stray = None if has_output else StrayOutputs(settings.output_path)
        code = run_job(settings, argv, environment, note)
        kept = _keep(stray, settings.output_path, destination, note) if stray else 0
        return code or kept


def _keep(stray: StrayOutputs, folder: Path, destination: Path, note: ExitNote) -> int:
    """Bring to the job's output what would not be stored else, and return 1 where that can't be done."""
    try:
        copied = stray.copy_to(destination)
    except OSError as error:
        sentence = f"What the algorithm wrote to {folder} could not be copied to {destination}: {error.strerror}"
        note.write(sentence)
        say(sentence)
        return 1
    if copied:
        say(f"{copied} files of {folder} are copied to {destination}")
    return 0


def _moved(arguments: Sequence[str], option: str, default: Path) -> Path | None:
    """Return the folder that an option of the algorithm's names, unless that is reached through the default one."""
    found = None
    for place, word in enumerate(arguments, 1):
        if word == "--":
            break
        if word == option and arguments[place:]:
            found = Path(arguments[place])
        elif word.startswith(option + "="):
            found = Path(word.partition("=")[2])
    return None if found is None or found.is_file() or found.absolute().is_relative_to(default.absolute()) else found


def _output_folders(config: Mapping[str, Any], ml_path: Path) -> Iterator[Path]:
    """Yield the folders that the job's outputs are taken from, which are where the ml folder is."""
    outputs = config.get("ProcessingOutputConfig")
    outputs = outputs.get("Outputs") if isinstance(outputs, dict) else None
    for output in outputs if isinstance(outputs, list) else []:
        place = output.get("S3Output") if isinstance(output, dict) else None
        path = PurePosixPath(str(place.get("LocalPath"))) if isinstance(place, dict) else PurePosixPath()
        if path.is_relative_to(DEFAULT_ML_PATH) and ".." not in path.parts:
            yield ml_path / path.relative_to(DEFAULT_ML_PATH)
