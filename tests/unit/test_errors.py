"""The tree of errors: a code, a status and a sentence each, and the drop-in's words where it has some."""

import inspect
import json
import re
from pathlib import Path

import pytest

from model_server import errors
from model_server.errors import LongshoreError
from model_server.settings import BODY_LIMIT_MB, Settings

from .readme_tables import with_codes

CONTRACT = {
    "BodyUnreadable": "There was an error parsing the body",
    "RouteMissing": "Not Found",
    "MethodNotAllowed": "Method Not Allowed",
    "ZipBroken": "Input zip file could not be extracted",
    "ZipPathsInvalid": "Zip file contains invalid paths",
    "ZipMethodUnsupported": "Zip file contains an unsupported compression method",
    "ZipTooLarge": "Contents of zip file too large",
    "ZipOverLimit": "Contents of zip file too large",
    "CommandMissing": "The command defined by the containers ENTRYPOINT and CMD instructions does not exist",
    "CommandForbidden": "The user defined in the containers USER instruction does not have permission to execute the "
    "command defined by the containers ENTRYPOINT and CMD instructions",
    "UserInvalid": "Invalid argument for the containers USER instruction",
    "UserMissing": "The user defined in the containers USER instruction does not exist",
    "GroupMissing": "The group defined in the containers USER instruction does not exist",
    "TimeLimitExceeded": "Time limit exceeded",
    "FoldersNotReset": "The containers input and output directories could not be reset",
    "InvokeUnreachable": "Could not connect to invoke endpoint",
    "InvokeBroken": "HTTP error calling invoke endpoint",
    "TarballBroken": "Could not set up model: Tarfile could not be extracted",
    "ServerNotStarted": "Failed to start the algorithm container's inference server",
    "ServerNotHealthy": "The algorithm container's inference server didn\u2019t pass the health check within 300 "
    "seconds or the /health endpoint took to long to respond (10 seconds per call). Verify that the container starts "
    "correctly and that /health responds quickly.",
}
FACTS: dict[str, object] = {"field": "inputs[2]", "faults": [{"loc": ["body"]}], "exit_code": 3, "seconds": 1.5}
FACTS |= {
    "which": "model",
    "status": 500,
    "why": "It ended with exit code 3.",
    "start_seconds": 300,
    "call_seconds": 10,
    "port": 4743,
    "offers": ["application/json", "text/csv"],
    "reasons": ["it is no regular file", "it may not be read"],
}


SILENT = (errors.AlgorithmFailed, errors.InvokeRefused)
"""Here the user is shown the algorithm's own last lines."""

LEAVES = sorted(with_codes(LongshoreError), key=lambda cls: cls.__name__)


def make(cls: type[LongshoreError]) -> LongshoreError:
    return cls(**{name: FACTS[name] for name in inspect.signature(cls).parameters})  # type: ignore[arg-type]


def test_every_error_has_a_code_of_its_own() -> None:
    codes = [cls.code for cls in LEAVES]
    assert sorted(codes) == sorted(set(codes))
    assert all(re.fullmatch(r"[a-z]+(_[a-z]+)*", code) for code in codes)


@pytest.mark.parametrize("cls", LEAVES)
def test_an_error_has_a_sentence_a_status_and_a_hint_that_can_be_read(cls: type[LongshoreError]) -> None:
    error = make(cls)
    assert "code" in vars(cls)
    assert re.fullmatch(r"[A-Z][^\n]*[^.\n]", error.message) or cls is errors.ServerNotHealthy
    assert str(error) == error.message
    assert not error.hint or error.hint.endswith((".", "?"))
    assert json.loads(json.dumps(error.as_json())) == {"code": cls.code, "message": error.message, "hint": error.hint}
    assert len(json.dumps(error.as_json()).encode()) < 1024
    assert error.return_code > 0


@pytest.mark.parametrize(
    ("branch", "statuses"),
    [
        (errors.RequestError, range(400, 500)),
        (errors.TaskError, range(200, 201)),
        (errors.ServerError, range(500, 600)),
    ],
)
def test_the_status_says_whose_fault_it_is(branch: type[LongshoreError], statuses: range) -> None:
    assert {cls.http_status for cls in with_codes(branch)} <= set(statuses)


@pytest.mark.parametrize("cls", LEAVES)
def test_an_error_can_be_made_anew_from_its_args(cls: type[LongshoreError]) -> None:
    error = cls(*(FACTS[name] for name in inspect.signature(cls).parameters))
    again = cls(*error.args)
    assert (str(again), again.as_json(), vars(again)) == (error.message, error.as_json(), vars(error))


def test_every_error_is_in_one_of_the_branches() -> None:
    assert {cls.__name__ for cls in LongshoreError.__subclasses__()} == {"RequestError", "TaskError", "ServerError"}


@pytest.mark.parametrize(("name", "sentence"), CONTRACT.items())
def test_a_sentence_of_the_contract_is_word_for_word_the_drop_ins(name: str, sentence: str) -> None:
    assert make(getattr(errors, name)).message == sentence


def test_every_sentence_that_is_marked_as_contract_is_compared_here() -> None:
    marked = re.findall(r"# contract\b(?!:)", Path(str(errors.__file__)).read_text())
    assert len(marked) == len(set(CONTRACT) - {"RouteMissing", "MethodNotAllowed"})


@pytest.mark.parametrize("cls", [cls for cls in LEAVES if "field" in inspect.signature(cls).parameters])
def test_an_input_is_named_by_its_place_and_by_nothing_else(cls: type[LongshoreError]) -> None:
    assert list(inspect.signature(cls).parameters) == ["field"]
    error = make(cls)
    assert "inputs[2]" in error.hint
    assert "inputs[2]" not in error.message


def test_no_error_can_be_given_a_name_or_a_key() -> None:
    facts = {name for cls in LEAVES for name in inspect.signature(cls).parameters}
    assert facts == set(FACTS)


@pytest.mark.parametrize(
    ("code", "words"),
    [
        (1, "exit code 1"),
        (127, "exit code 127"),
        (137, "memory"),
        (139, "SIGSEGV"),
        (143, "SIGTERM"),
        (128, "exit code 128"),
        (255, "exit code 255"),
    ],
)
def test_an_algorithm_that_failed_keeps_its_code_and_its_own_last_word(code: int, words: str) -> None:
    error = errors.AlgorithmFailed(code)
    assert error.return_code == code
    assert error.user_message == ""
    assert words in error.message


@pytest.mark.parametrize("cls", [cls for cls in LEAVES if cls not in SILENT])
def test_any_other_error_tells_the_user_its_sentence(cls: type[LongshoreError]) -> None:
    error = make(cls)
    assert (error.return_code, error.user_message) == (1, error.message)


def test_the_time_limit_names_both_knobs() -> None:
    assert "`timeout`" in errors.TimeLimitExceeded(60).hint
    assert "MODEL_SERVER_TIMEOUT" in errors.TimeLimitExceeded(60).hint


def test_the_largest_body_is_named_as_it_is() -> None:
    assert f"{BODY_LIMIT_MB} MiB" in errors.BodyTooLarge.hint
    assert f"{BODY_LIMIT_MB} MiB" in str(Settings.model_fields["max_payload_mb"].description)


def test_a_start_that_fails_has_an_exit_code() -> None:
    assert errors.SettingsInvalid(["a", "b"]).EXIT_CODE == 78
    assert str(errors.SettingsInvalid(["a", "b"])) == "a\nb"
    assert errors.StartFailed("x").EXIT_CODE == 1
