"""Settings: one frozen object from the environment, and one line for each variable that can't be used."""

import base64
import json
import os
from pathlib import Path
from typing import Any, ClassVar

import pytest
from hypothesis import given
from hypothesis import settings as settings_of_hypothesis
from hypothesis import strategies as st
from pydantic import ValidationError

from model_server.cpus import usable_cpus
from model_server.errors import SettingsInvalid
from model_server.settings import AWS_CREDENTIALS, DROP_IN_PREFIX, SHOWN, Settings

from .readme_tables import table, table_of_the_readme

FIELDS = Settings.model_fields
SECRET = "5ec2e75ec2e75ec2e7"


def names_of(field: str) -> list[str]:
    return list(FIELDS[field].validation_alias.choices)  # type: ignore[union-attr, arg-type]


EVERY_NAME = [(field, name) for field in FIELDS for name in names_of(field)]

GOOD: dict[str, tuple[str, Any]] = {
    "drop_in_entrypoint": (base64.b64encode(b'["a", "b"]').decode(), ["a", "b"]),
    "drop_in_cmd": (base64.b64encode(b'"a b"').decode(), "a b"),
    "entrypoint": ('["a"]', ["a"]),
    "cmd": ("a b", "a b"),
    "train_entrypoint": ('["a"]', ["a"]),
    "input_path": ("/x", Path("/x")),
    "output_path": ("/x", Path("/x")),
    "model_path": ("/x", Path("/x")),
    "ground_truth_path": ("/x", Path("/x")),
    "model": ("s3://bucket//a/m.tar.gz", ("bucket", "/a/m.tar.gz")),
    "ground_truth": ("s3://bucket/g.tar", ("bucket", "g.tar")),
    "ml_path": ("/x", Path("/x")),
    "use_linked_input": ("False", False),
    "linked_input_parent": ("/x", Path("/x")),
    "writable_directories": (":/x::/y", (Path("/x"), Path("/y"))),
    "post_clean_directories": (":", ()),
    "user": ("1000:1000", "1000:1000"),
    "set_extra_groups": ("False", False),
    "max_memory_mb": ("512", 512),
    "grace_seconds": ("1.5", 1.5),
    "mode": ("Invoke", "resident"),
    "algorithm_port": ("5000", 5000),
    "start_timeout": ("0.5", 0.5),
    "health_timeout": ("2", 2),
    "pass_aws_credentials": ("True", True),
    "save_partial": ("true", True),
    "clean_tmp": ("1", True),
    "allow_setuid": ("yes", True),
    "payloads": ("True", True),
    "port": ("9090", 9090),
    "workers": ("3", 3),
    "timeout": ("0.5", 0.5),
    "queue_places": ("0", 0),
    "max_concurrent_transforms": ("7", 7),
    "batch_strategy": ("multi_record", "MULTI_RECORD"),
    "max_payload_mb": ("100", 100),
    "signing_key": ("00ff", b"\x00\xff"),
    "setup_result_bucket": ("b", "b"),
    "setup_result_prefix": ("/io/1", "/io/1"),
    "transfers": ("50", 50),
    "max_archive_mb": ("1", 1),
    "max_archive_files": ("0", 0),
    "max_archive_ratio": ("10", 10),
    "output_kms_key_id": ("alias/results", "alias/results"),
    "expected_bucket_owner": ("012345678901", "012345678901"),
    "run_path": ("/run/x", Path("/run/x")),
    "log_level": ("debug", "DEBUG"),
    "s3_endpoint": ("http://127.0.0.1:9000", "http://127.0.0.1:9000"),
    "region": ("eu-west-1", "eu-west-1"),
}
BAD: dict[str, list[str]] = {
    "drop_in_entrypoint": ["?", "W10=W", "bm9uZQ==", "WzFd", "eyJhIjogMX0=", "é", "ZmFsc2U="],
    "drop_in_cmd": ["?", "WzFd"],
    "entrypoint": ["[1]", '["a", null]', '["a"', '"a', "[" * 100_000, "[[]]"],
    "cmd": ["[1, 2, 3]", "[{}]"],
    "train_entrypoint": ["[1]"],
    "model": ["m.tar.gz", "s3://", "s3://bucket", "s3://bucket/", "ftp://bucket/key"],
    "ground_truth": ["g.tar"],
    "mode": ["serve", "exec,resident"],
    "algorithm_port": ["0", "65536"],
    "start_timeout": ["0", "-1", "nan", "inf", "PT5M"],
    "health_timeout": ["0", "x"],
    "max_memory_mb": ["-1", "1.5", "1G", "1" + "0" * 30],
    "grace_seconds": ["-1", "x", "nan", "inf", "101"],
    "pass_aws_credentials": ["maybe", "2"],
    "save_partial": ["maybe", "2"],
    "clean_tmp": ["maybe", "2"],
    "allow_setuid": ["maybe", "2"],
    "payloads": ["maybe", "2"],
    "port": ["0", "65536", "http", "80.5"],
    "workers": ["0", "-1", "1.5", "many", "257"],
    "timeout": ["0", "-1", "nan", "inf", "PT1H"],
    "queue_places": ["-1", "x", "1001"],
    "max_concurrent_transforms": ["0", "x"],
    "batch_strategy": ["RECORDS"],
    "max_payload_mb": ["-1", "101", "6MB", "1e9"],
    "signing_key": ["xyz", "abc", SECRET[:-1], " "],
    "transfers": ["0", "many"],
    "max_archive_mb": ["-1", "1G"],
    "max_archive_files": ["-1", "many"],
    "max_archive_ratio": ["-1", "1.5"],
    "output_kms_key_id": ["a key", "clé", "k" * 2049],
    "expected_bucket_owner": ["me", "12345678901", "1234-5678-9012"],
    "log_level": ["LOUD", "10"],
    "s3_endpoint": ["localhost:9000", "ftp://x", "http://a b"],
    "region": ["-", "eu west", "eu-west-1/", "x" * 64],
}


def plain(value: Any) -> Any:
    return value.get_secret_value() if hasattr(value, "get_secret_value") else value


def lines_of(environ: dict[str, str]) -> list[str]:
    with pytest.raises(SettingsInvalid) as caught:
        Settings.from_env(environ)
    return caught.value.lines


@pytest.mark.parametrize("name", ["settings", "errors"])
def test_the_readme_lists_every_setting_and_every_error_as_it_is(name: str) -> None:
    assert table_of_the_readme(name) == table(name), "python tests/unit/readme_tables.py writes it"


@pytest.mark.parametrize("field", FIELDS)
def test_every_setting_is_described_and_named(field: str) -> None:
    names = names_of(field)
    assert str(FIELDS[field].description).endswith(".")
    assert "|" not in str(FIELDS[field].description)
    canonical = names[0].startswith(("ALGORITHM_", "MODEL_SERVER_", "SAGEMAKER_", "AWS_")) or names[0] == "LOG_LEVEL"
    assert canonical or (names == [names[0]] and names[0].endswith("_B64J"))


def test_no_two_settings_share_a_name() -> None:
    names = [name for _, name in EVERY_NAME]
    assert sorted(names) == sorted(set(names))


def test_the_samples_here_are_of_every_setting() -> None:
    assert GOOD.keys() == FIELDS.keys()
    taken_as_they_are = {"user", "set_extra_groups", "use_linked_input", "linked_input_parent", "run_path"}
    taken_as_they_are |= {"input_path", "output_path", "model_path", "ground_truth_path", "ml_path"}
    taken_as_they_are |= {"writable_directories", "post_clean_directories"}
    taken_as_they_are |= {"setup_result_bucket", "setup_result_prefix"}
    assert FIELDS.keys() - BAD.keys() == taken_as_they_are


def test_without_any_variable_everything_has_its_default() -> None:
    settings = Settings.from_env({})
    assert settings.model_dump() == Settings.from_env({"PATH": "/bin", "HOME": "/"}).model_dump()
    assert (settings.input_path, settings.output_path) == (Path("/input"), Path("/output"))
    assert (settings.timeout, settings.grace_seconds, settings.port) == (60, 5, 8080)
    assert (settings.slots, settings.queue_limit, settings.workers) == (1, 16, usable_cpus())
    assert (settings.batch_strategy, settings.max_payload_mb, settings.log_level) == ("SINGLE_RECORD", 6, "INFO")
    assert settings.signing_key is None
    assert settings.pass_aws_credentials is False


@pytest.mark.parametrize(("field", "name"), EVERY_NAME)
def test_every_name_of_a_setting_sets_it(field: str, name: str) -> None:
    text, value = GOOD[field]
    assert plain(getattr(Settings.from_env({name: text}), field)) == value


@pytest.mark.parametrize(("field", "name"), EVERY_NAME)
def test_an_empty_string_is_unset(field: str, name: str) -> None:
    assert Settings.from_env({name: ""}).model_dump() == Settings.from_env({}).model_dump()


@pytest.mark.parametrize("field", [field for field in FIELDS if len(names_of(field)) > 1])
def test_the_canonical_name_wins(field: str) -> None:
    canonical, *others = names_of(field)
    text, value = GOOD[field]
    for other in others:
        second = "AB" if field == "signing_key" else BAD.get(field, ["/other"])[0]
        assert plain(getattr(Settings.from_env({canonical: text, other: second}), field)) == value
        assert plain(getattr(Settings.from_env({canonical: "", other: text}), field)) == value


@pytest.mark.parametrize(
    ("name", "bad"), [(name, bad) for field, bads in BAD.items() for name in names_of(field) for bad in bads]
)
def test_a_bad_value_is_one_line_that_names_its_variable(name: str, bad: str) -> None:
    (line,) = lines_of({name: bad})
    assert line.startswith(f"{name}: ")
    assert "\n" not in line
    assert len(line) < 400


@pytest.mark.parametrize(
    ("name", "example"),
    [
        ("AWS_ENDPOINT_URL_S3", "https://s3.example.com"),
        ("AWS_REGION", "eu-west-1"),
        ("EXPECTED_BUCKET_OWNER", "123456789012"),
        ("OUTPUT_KMS_KEY_ID", "alias/results"),
    ],
)
def test_a_value_of_another_form_is_told_what_it_has_to_be_like(name: str, example: str) -> None:
    with pytest.raises(SettingsInvalid) as raised:
        Settings.from_env({name: "a b"})
    assert raised.value.lines == [f"{name}: has to be like {example}"]
    Settings.from_env({name: example})


def test_several_bad_values_are_all_named_a_line_each() -> None:
    bad = {names_of(field)[0]: values[0] for field, values in BAD.items()}
    assert sorted(line.partition(":")[0] for line in lines_of(bad)) == sorted(bad)


@given(
    st.sampled_from([name for _, name in EVERY_NAME]), st.text(st.characters(codec="utf-8", exclude_characters="\0"))
)
def test_any_text_is_either_a_setting_or_one_line(name: str, text: str) -> None:
    lines: list[str] = []
    try:
        Settings.from_env({name: text})
    except SettingsInvalid as error:
        lines = error.lines
    assert [line.partition(":")[0] for line in lines] in ([], [name])


@st.composite
def almost(draw: st.DrawFn, field: str) -> str:
    """Draw a value of a setting that is good or bad, with some of its characters changed."""
    text = draw(st.sampled_from([GOOD[field][0], *BAD.get(field, [])]))[:200]
    for _ in range(draw(st.integers(0, 3))):
        place = draw(st.integers(0, len(text)))
        added = draw(st.sampled_from(["", "0", "-", "1e9", ".", " ", ":", "/", "[", '"', "=", "é", "\n", "\ud800"]))
        text = text[:place] + added + text[place + draw(st.integers(0, 2)) :]
    return text


@pytest.mark.parametrize("field", FIELDS)
@settings_of_hypothesis(max_examples=50, deadline=None)
@given(st.data())
def test_whatever_is_almost_a_setting_is_one_or_a_short_line(field: str, data: st.DataObject) -> None:
    name, text = data.draw(st.sampled_from(names_of(field))), data.draw(almost(field))
    lines: list[str] = []
    try:
        assert Settings.from_env({name: text}) == Settings.from_env({name: text})
    except SettingsInvalid as error:
        lines = error.lines
    assert [line.partition(":")[0] for line in lines] in ([], [name])
    assert not [line for line in lines if "\n" in line or len(line) > 400]


@pytest.mark.parametrize("name", names_of("signing_key"))
def test_a_secret_is_never_repeated(name: str) -> None:
    assert SECRET[:-1] not in "".join(lines_of({name: SECRET[:-1], "MODEL_SERVER_WORKERS": "x"}))
    settings = Settings.from_env({name: SECRET})
    assert settings.signing_key is not None
    for shown in (repr(settings), str(settings), settings.model_dump_json(), repr(settings.signing_key)):
        assert SECRET not in shown
        assert repr(bytes.fromhex(SECRET)) not in shown


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("ALGORITHM_CMD", '["--token", "s3cret", 1]'),
        ("ALGORITHM_ENTRYPOINT", '["--token=s3cret"'),
        ("AWS_ENDPOINT_URL", "user:s3cret@host"),
        ("AWS_ENDPOINT_URL_S3", "https://user:s3cret@host/a b"),
        (DROP_IN_PREFIX + "CMD_B64J", base64.b64encode(b'["s3cret", 1]').decode()),
    ],
)
def test_a_command_or_an_address_is_never_repeated(name: str, value: str) -> None:
    (line,) = lines_of({name: value})
    assert "s3cret" not in line
    assert value not in line


@pytest.mark.parametrize(
    ("name", "value"),
    [("MODEL_SERVER_WORKERS", "many"), ("SAGEMAKER_BIND_TO_PORT", "65536"), ("LOG_LEVEL", "LOUD")],
)
def test_a_number_or_a_choice_is_repeated(name: str, value: str) -> None:
    (line,) = lines_of({name: value})
    assert line.endswith((f", not '{value}'", f", not {value}"))


def test_more_transfers_than_do_any_good_are_the_most_that_do() -> None:
    assert Settings.from_env({"GRAND_CHALLENGE_COMPONENT_ASYNC_CONCURRENCY": "300"}).transfers == 256


def test_the_settings_are_frozen() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        Settings.from_env({}).port = 1  # type: ignore[misc]


@pytest.mark.parametrize("spelling", ["True", "true", "TRUE", "1", "yes"])
def test_a_yes_may_be_spelt_as_people_spell_it(spelling: str) -> None:
    assert Settings.from_env({"ALGORITHM_AWS_CREDENTIALS": spelling}).pass_aws_credentials is True


@pytest.mark.parametrize(("queue", "transforms", "limit"), [("4", "9", 9), ("9", "4", 9), ("0", "", 0), ("", "", 16)])
def test_the_queue_holds_all_that_batch_transform_opens_at_once(queue: str, transforms: str, limit: int) -> None:
    environ = {"MODEL_SERVER_QUEUE": queue, "SAGEMAKER_MAX_CONCURRENT_TRANSFORMS": transforms}
    assert Settings.from_env(environ).queue_limit == limit


@pytest.mark.parametrize(("payload", "fits"), [(0, True), (25, True), (26, False), (100, False)])
def test_payloads_of_all_tasks_at_a_time_stay_within_sagemakers_bound(payload: int, fits: bool) -> None:
    class FourSlots(Settings):
        slots: ClassVar[int] = 4

    environ = {"MODEL_SERVER_MAX_PAYLOAD_MB": str(payload)}
    if fits:
        assert FourSlots.from_env(environ).max_payload_mb == payload
    else:
        with pytest.raises(
            SettingsInvalid, match=r"^MODEL_SERVER_MAX_PAYLOAD_MB: must be at most 25: SageMaker's rule$"
        ):
            FourSlots.from_env(environ)


@pytest.mark.parametrize(("payload", "limit"), [("0", 0), ("6", 110), ("100", 110)])
def test_an_unlimited_payload_is_unlimited(payload: str, limit: int) -> None:
    assert Settings.from_env({"MODEL_SERVER_MAX_PAYLOAD_MB": payload}).body_limit_mb == limit


def test_our_variables_and_the_credentials_are_withheld_from_the_algorithm() -> None:
    image = {"PATH": "/bin", "LD_LIBRARY_PATH": "/cuda", "AWS_REGION": "eu-west-1", "EMPTY": "", "LOG_LEVEL": "INFO"}
    ours = {name: GOOD[field][0] for field, name in EVERY_NAME if name.startswith(("MODEL_SERVER_", DROP_IN_PREFIX))}
    ours |= {"ALGORITHM_ENTRYPOINT": "x", "model_server_x": "1", "GRAND_CHALLENGE_OTHER": "1", "Algorithm_Y": "1"}
    del ours[DROP_IN_PREFIX + "INPUT_PATH"], ours[DROP_IN_PREFIX + "OUTPUT_PATH"], ours[DROP_IN_PREFIX + "MODEL_DEST"]
    credentials = dict.fromkeys(AWS_CREDENTIALS, "secret")
    assert Settings.from_env(image | ours | credentials).environment == image


@pytest.mark.parametrize(
    "name", ["AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI"]
)
@pytest.mark.parametrize(("said", "passed"), [("true", True), ("True", True), ("false", False), ("", False)])
def test_credentials_are_passed_where_someone_said_so(name: str, said: str, passed: bool) -> None:
    environment = Settings.from_env({name: "x", "ALGORITHM_AWS_CREDENTIALS": said}).environment
    assert environment == ({name: "x"} if passed else {})


@pytest.mark.parametrize("name", sorted(SHOWN))
def test_the_algorithm_is_told_what_was_moved_for_it(name: str) -> None:
    assert Settings.from_env({name: "7000"}).environment == {name: "7000"}
    assert Settings.from_env({name: ""}).environment == {}


def test_jobs_have_the_credentials_and_none_of_our_variables() -> None:
    given = {"PATH": "/bin", "AWS_SECRET_ACCESS_KEY": "s", "MODEL_SERVER_SIGNING_KEY_HEX": "00", "ALGORITHM_USER": "a"}
    assert Settings.from_env(given).job_environment == {"PATH": "/bin", "AWS_SECRET_ACCESS_KEY": "s"}


@pytest.mark.parametrize("name", ["INPUT_PATH", "MODEL_DEST", "USER_WEBSERVER_PORT"])
def test_the_algorithm_is_told_nothing_of_the_drop_ins_variables(name: str) -> None:
    assert Settings.from_env({"GRAND_CHALLENGE_COMPONENT_" + name: "7000"}).environment == {}


@pytest.mark.parametrize("name", ["ALGORITHM_INPUT_PATH", "ALGORITHM_OUTPUT_PATH", "SAGEMAKER_BASE_DIR"])
def test_where_the_task_folders_are_moved_nothing_beside_them_is_touched(name: str) -> None:
    settings = Settings.from_env({name: "/somewhere"})
    assert settings.use_linked_input is False
    assert settings.writable_directories == settings.post_clean_directories == ()


def test_a_ml_folder_that_is_named_and_not_moved_changes_nothing() -> None:
    named = Settings.from_env({"SAGEMAKER_BASE_DIR": "/opt/ml/"})
    assert named.writable_directories == Settings.from_env({}).writable_directories


@pytest.mark.parametrize("prefix", ["ALGORITHM_", "GRAND_CHALLENGE_COMPONENT_"])
def test_what_is_named_is_used_also_where_the_task_folders_are_moved(prefix: str) -> None:
    named = {"USE_LINKED_INPUT": "true", "WRITABLE_DIRECTORIES": "/a", "POST_CLEAN_DIRECTORIES": "/b:/c"}
    settings = Settings.from_env({"ALGORITHM_INPUT_PATH": "/i"} | {prefix + key: named[key] for key in named})
    assert settings.use_linked_input is True
    assert settings.writable_directories == (Path("/a"),)
    assert settings.post_clean_directories == (Path("/b"), Path("/c"))


def test_the_drop_ins_names_move_the_task_folders_and_nothing_else() -> None:
    moved = Settings.from_env({"GRAND_CHALLENGE_COMPONENT_INPUT_PATH": "/i"})
    usual = Settings.from_env({})
    assert moved.model_dump(exclude={"input_path"}) == usual.model_dump(exclude={"input_path"})
    assert Path("/tmp") in usual.writable_directories
    assert Path("/tmp") not in usual.post_clean_directories


@pytest.mark.parametrize("prefix", ["/io/app/42", "/io/app/42/"])
def test_the_result_of_the_set_up_is_put_where_the_platform_looks(prefix: str) -> None:
    names = {"RUNTIME_OUTPUT_BUCKET_NAME": "b", "RUNTIME_OUTPUT_PREFIX": prefix}
    variables = {"GRAND_CHALLENGE_COMPONENT_" + name: value for name, value in names.items()}
    assert Settings.from_env(variables).setup_result_place == (
        "b",
        "/io/app/42/.sagemaker_shim/runtime_setup_result.json",
    )
    for name in variables:
        assert Settings.from_env(variables | {name: ""}).setup_result_place is None


def test_a_json_command_is_a_list_and_anything_else_a_command_line() -> None:
    command = json.dumps(["python", "-c", "print('é')"])
    assert Settings.from_env({"ALGORITHM_CMD": command}).cmd == json.loads(command)
    assert Settings.from_env({"ALGORITHM_CMD": "{a,b}"}).cmd == "{a,b}"


@pytest.mark.parametrize(
    ("value", "mode"), [("", "exec"), ("EXEC", "exec"), ("invoke", "resident"), ("INVOKE", "resident")]
)
def test_the_drop_ins_api_method_is_a_mode(value: str, mode: str) -> None:
    assert Settings.from_env({"GRAND_CHALLENGE_COMPONENT_API_METHOD": value}).mode == mode


def test_what_was_renamed_for_us_has_its_name_in_the_algorithms_environment() -> None:
    """In its place, and byte for byte."""
    given = {
        "LONGSHORE_KEPT_LANG": "de_DE.ISO-8859-1",
        "A": "1",
        "LONGSHORE_KEPT_LD_PRELOAD": os.fsdecode(b"/lib\xff.so"),
        "AWS_CONFIG_FILE": "/dev/null",
        "LONGSHORE_KEPT_AWS_PROFILE": "the image's",
        "TZ": "/dev/null",
        "LONGSHORE_SETS": "TZ AWS_CONFIG_FILE",
        "LONGSHORE_KEPT_TZ": "Mars/Base",
    }
    settings = Settings.from_env(given)
    expected = {
        "LANG": "de_DE.ISO-8859-1",
        "A": "1",
        "LD_PRELOAD": os.fsdecode(b"/lib\xff.so"),
        "AWS_PROFILE": "the image's",
        "TZ": "Mars/Base",
    }
    assert list(settings.environment.items()) == list(expected.items())
    assert os.fsencode(settings.environment["LD_PRELOAD"]) == b"/lib\xff.so"
    assert settings.job_environment == expected


def test_what_the_job_sets_in_place_of_what_was_set_for_us_is_the_programs() -> None:
    given = {"AWS_CONFIG_FILE": "/the/jobs", "AWS_SHARED_CREDENTIALS_FILE": "/dev/null"}
    given["LONGSHORE_SETS"] = " ".join(given)
    assert Settings.from_env(given).job_environment == {"AWS_CONFIG_FILE": "/the/jobs"}


def test_what_the_job_sets_goes_before_what_was_renamed_of_the_images() -> None:
    given = {"LONGSHORE_KEPT_AWS_REGION": "the image's", "AWS_REGION": "eu-west-1", "LONGSHORE_KEPT_TZ": "Mars"}
    settings = Settings.from_env(given)
    assert settings.environment == {"AWS_REGION": "eu-west-1", "TZ": "Mars"}
    assert settings.region == "eu-west-1"


def test_a_credential_of_the_job_that_is_withheld_is_not_replaced_by_the_images() -> None:
    given = {"LONGSHORE_KEPT_AWS_PROFILE": "the image's", "AWS_PROFILE": "the job's"}
    settings = Settings.from_env(given)
    assert settings.environment == {}
    assert settings.job_environment == {"AWS_PROFILE": "the job's"}
