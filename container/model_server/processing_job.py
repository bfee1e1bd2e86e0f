"""Plain `process`: the algorithm's own program, with the data of a SageMaker Processing job as its /input and /output.

https://docs.aws.amazon.com/sagemaker/latest/dg/build-your-own-processing-container.html
"""

import os
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path, PurePosixPath
from typing import Any

from .command import algorithm_command, takes_arguments
from .exit_note import ExitNote
from .folder_links import linked
from .job_config import is_path, read_config
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
    source = _input_folder(settings, arguments)
    destination = _output_folder(settings, arguments)
    outputs = _output_folders(config, settings.ml_path)
    folders = [settings.ml_path / "output", *outputs]
    if _is_below(destination, settings.ml_path) or not os.path.lexists(destination):
        folders.append(destination)  # any other is somebody's, and its mode too
    prepare_folders(settings, folders)
    warn_of_closed(settings, [source])
    stray = StrayOutputs(settings.output_path, destination)
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
        code = run_job(settings, argv, environment, note)
        kept = _keep(stray, settings.output_path, destination, note)  # also where the program replaced our link
        if not _is_taken(destination, outputs) and stray.has_changed_target():
            say(f"SageMaker takes none of the job's outputs from {destination}, where the algorithm wrote something")
        return code or kept


def _keep(stray: StrayOutputs, folder: Path, destination: Path, note: ExitNote) -> int:
    """Bring to the job's output what would not be stored else, and return 1 where that can't be done."""
    faults = []
    try:
        copied = stray.copy()
    except OSError as error:
        faults.append(f"What the algorithm wrote to {folder} could not be copied to {destination}: {error.strerror}")
    else:
        if copied.files:
            say(f"{copied.files} files of {folder} are copied to {destination}")
        if copied.others:
            say(f"{copied.others} entries of {folder} are not copied: they are no files, nor links to files in it")
        if copied.conflicts:
            faults.append(
                f"{copied.conflicts} files of {folder} are not copied to {destination}: "
                "the algorithm wrote something else of the same names there"
            )
        if copied.unreadable:
            faults.append(f"{copied.unreadable} files or folders of {folder} are not copied: they may not be read")
    for sentence in faults:
        note.write(sentence)
        say(sentence)
    return 1 if faults else 0


def _input_folder(settings: Settings, arguments: Sequence[str]) -> Path:
    """Return the folder that is to be /input: the one that an argument names, else the job's own."""
    named = _named_path(arguments, INPUT_OPTION, settings.input_path)
    if named and os.path.isdir(named):
        return named
    default = settings.ml_path / "processing" / "input"
    make_folders([default])
    return default


def _output_folder(settings: Settings, arguments: Sequence[str]) -> Path:
    """Return the folder that is to be /output: the one that an argument names, also one to be made, else the job's."""
    named = _named_path(arguments, OUTPUT_OPTION, settings.output_path)
    if named and not _is_below(named, settings.ml_path):
        logger.warning("%s is not below %s: SageMaker uploads nothing from there", named, settings.ml_path)
    is_to_be_made = named and not named.suffix and not os.path.lexists(named)  # result.csv is to be a file
    if named and (is_to_be_made or os.path.isdir(named)) and not _is_below(settings.output_path, named):
        return named
    return settings.ml_path / "processing" / "output"


def _named_path(arguments: Sequence[str], option: str, default: Path) -> Path | None:
    """Return the local path that an option of the algorithm's names, unless that is reached through the default one."""
    value = ""
    for place, word in enumerate(arguments, 1):
        if word == "--":
            break
        if word == option and arguments[place:]:
            value = arguments[place]
        elif word.startswith(option + "="):
            value = word.partition("=")[2]
    if not value or value.startswith("-") or "://" in value:
        return None
    path = Path(os.path.realpath(value))
    return None if path.is_relative_to(os.path.realpath(default)) else path


def _is_below(path: Path, folder: Path) -> bool:
    return Path(os.path.realpath(folder)) in Path(os.path.realpath(path)).parents


def _output_folders(config: Mapping[str, Any], ml_path: Path) -> list[Path]:
    """Return the folders that the job's outputs are taken from, which are where the ml folder is."""
    folders = []
    outputs = config.get("ProcessingOutputConfig")
    outputs = outputs.get("Outputs") if isinstance(outputs, dict) else None
    for output in outputs if isinstance(outputs, list) else []:
        place = output.get("S3Output") if isinstance(output, dict) else None
        text = place.get("LocalPath") if isinstance(place, dict) else None
        if not isinstance(text, str):
            continue
        if not is_path(text):
            logger.warning("The LocalPath of an output can not be that of a folder")
            continue
        path = PurePosixPath(text)
        if path.is_relative_to(DEFAULT_ML_PATH) and ".." not in path.parts:
            folders.append(ml_path / path.relative_to(DEFAULT_ML_PATH))
    return folders


def _is_taken(folder: Path, outputs: Sequence[Path]) -> bool:
    """Say whether SageMaker takes anything from a folder; where the job names no outputs, nobody can know."""
    real = Path(os.path.realpath(folder))
    taken = [Path(os.path.realpath(output)) for output in outputs]
    return not taken or any(output.is_relative_to(real) or real.is_relative_to(output) for output in taken)
