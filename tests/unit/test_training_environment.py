"""Hyperparameters and variables, as SageMaker's training toolkit has them."""

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from model_server.errors import ConfigurationInvalid
from model_server.training_environment import Training, usable_gpus


def training(hyperparameters: dict[str, Any], **more: Any) -> Training:
    return Training(Path("/ml"), hyperparameters, more.get("channels", {}), more.get("resources", {}))


@pytest.mark.parametrize(
    ("value", "argument", "variable"),
    [
        ("adam", "adam", "adam"),
        ('"adam"', "adam", "adam"),
        ("", "", ""),
        ("1e-4", "1e-4", "1e-4"),
        ("0.10000000000000000001", "0.10000000000000000001", "0.10000000000000000001"),
        ("1" * 5000, "1" * 5000, "1" * 5000),
        ("true", "True", "true"),
        ("false", "False", "false"),
        ("null", "", ""),
        ("NaN", "NaN", "NaN"),
        ("1e400", "1e400", "1e400"),
        ("{", "{", "{"),
        ("[1, 2]", "[1, 2]", "[1, 2]"),
        ('{"b": 1, "a": "x"}', "a=x,b=1", '{"a":"x","b":1}'),
        (7, "7", "7"),
        (True, "True", "true"),
        (None, "", ""),
        ([1, "a"], '[1,"a"]', '[1,"a"]'),
    ],
)
def test_a_hyperparameter_is_written_as_the_toolkit_does(value: Any, argument: str, variable: str) -> None:
    job = training({"name": value})
    assert job.arguments == ["--name", argument]
    assert job.variables([])["SM_HP_NAME"] == variable


@given(st.dictionaries(st.text(max_size=5), st.text(max_size=20), max_size=5))
def test_any_hyperparameters_make_an_environment(hyperparameters: dict[str, str]) -> None:
    variables = training(hyperparameters).variables([])
    assert set(json.loads(variables["SM_HPS"])) == set(hyperparameters)
    for name in variables:
        assert "=" not in name
        assert "\0" not in name


def test_what_sagemaker_says_to_its_own_programs_is_not_passed_on(tmp_path: Path) -> None:
    config = tmp_path / "input" / "config"
    config.mkdir(parents=True)
    told = {"sagemaker_program": "t.py", "sagemaker_region": "x", "_tuning_objective_metric": "loss", "": "x", "a": "1"}
    (config / "hyperparameters.json").write_text(json.dumps(told))
    assert Training.read(tmp_path).arguments == ["-a", "1"]


def test_a_nul_character_is_refused(tmp_path: Path) -> None:
    config = tmp_path / "input" / "config"
    config.mkdir(parents=True)
    (config / "hyperparameters.json").write_text('{"a": "x\\u0000"}')
    with pytest.raises(ConfigurationInvalid, match="NUL"):
        Training.read(tmp_path)


def test_instances_that_share_a_job_have_an_output_folder_each() -> None:
    assert training({}).output_data == Path("/ml/output/data")
    shared = training({}, resources={"current_host": "algo-2", "hosts": ["algo-1", "algo-2"]})
    assert shared.output_data == Path("/ml/output/data/algo-2")


def test_gpus_are_counted_by_their_devices(tmp_path: Path) -> None:
    for name in ("nvidia0", "nvidia11", "nvidiactl", "nvidia-uvm", "null"):
        (tmp_path / name).touch()
    assert usable_gpus(tmp_path) == 2
