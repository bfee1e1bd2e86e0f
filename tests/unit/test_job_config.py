"""The files that SageMaker writes for a job, as far as they say anything."""

from pathlib import Path

import pytest

from model_server.errors import ConfigurationInvalid
from model_server.job_config import Instances, read_config, read_instances


@pytest.mark.parametrize("text", [None, "", "  \n", "null", "{}", "\ufeff{}"])
def test_a_file_that_says_nothing_is_an_empty_object(tmp_path: Path, text: str | None) -> None:
    if text is not None:
        (tmp_path / "a.json").write_text(text)
    assert read_config(tmp_path, "a.json") == {}
    assert read_config(tmp_path / "missing", "a.json") == {}


@pytest.mark.parametrize("text", ["{", "[]", "1", '"x"', "[" * 100_000, "1" * 5000])
def test_a_file_that_is_no_object_is_named(tmp_path: Path, text: str) -> None:
    (tmp_path / "a.json").write_text(text)
    with pytest.raises(ConfigurationInvalid, match=r"a\.json is not"):
        read_config(tmp_path, "a.json")


def test_a_file_that_can_not_be_read_is_named(tmp_path: Path) -> None:
    (tmp_path / "a.json").mkdir()
    with pytest.raises(ConfigurationInvalid, match=r"a\.json can not be read: Is a directory"):
        read_config(tmp_path, "a.json")


def test_the_name_as_it_should_be_goes_before_another_case(tmp_path: Path) -> None:
    (tmp_path / "A.json").write_text('{"is": "A"}')
    assert read_config(tmp_path, "a.json") == {"is": "A"}
    (tmp_path / "a.json").write_text('{"is": "a"}')
    assert read_config(tmp_path, "a.json") == {"is": "a"}


def test_all_instances_have_the_same_order(tmp_path: Path) -> None:
    assert read_instances(tmp_path) is None
    (tmp_path / "resourceconfig.json").write_text('{"current_host": "b", "hosts": ["c", "b", "a"]}')
    assert read_instances(tmp_path) == Instances("b", ["a", "b", "c"])
