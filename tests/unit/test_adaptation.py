"""How an image is adapted, of configs as registries have them; hostile ones too."""

import base64
import copy
import json
from typing import Any

import pytest

from model_server import VERSION
from model_server.adaptation import (
    CMD_VARIABLE,
    ENTRYPOINT_VARIABLE,
    STRANGERS_SETTINGS,
    USER_VARIABLE,
    ConfigUnusable,
    NoCommand,
    adapted_config,
    get_new_env_vars,
    holds_our_layer,
    without_our_layer,
)
from model_server.settings import AWS_CREDENTIALS, Settings

OURS = {"Entrypoint": ["/longshore/bin/longshore"], "Cmd": ["usage"], "User": "0"}
BASE = {"Entrypoint": None, "Cmd": ["longshore", "usage"], "User": "root", "Labels": {"longshore.version": "1"}}
OUR_LAYER = "sha256:" + "0" * 64
ITS_LAYERS = ["sha256:" + "a" * 64, "sha256:" + "b" * 64]
NO_COMMAND = "bnVsbA=="


def config(**fields: Any) -> dict[str, Any]:
    """Return the config of an image of two layers."""
    return {
        "architecture": "amd64",
        "created": "2026-01-02T03:04:05Z",
        "os": "linux",
        "config": fields,
        "rootfs": {"type": "layers", "diff_ids": ITS_LAYERS[:]},
        "history": [{"created_by": "a"}, {"created_by": "ENV x", "empty_layer": True}, {"created_by": "b"}],
    }


def b64j(value: Any) -> str:
    return base64.b64encode(json.dumps(value).encode()).decode()


def stored(entrypoint: Any, cmd: Any, user: str = "app") -> list[str]:
    """Return the Env of an image that is adapted."""
    return [f"{ENTRYPOINT_VARIABLE}={b64j(entrypoint)}", f"{CMD_VARIABLE}={b64j(cmd)}", f"{USER_VARIABLE}={user}"]


def recorded(existing: dict[str, Any], is_own: bool = False) -> tuple[Any, Any, str]:
    """Return the ENTRYPOINT, the CMD and the USER that are recorded of an image."""
    variables = get_new_env_vars(existing, is_own=is_own)
    entrypoint, cmd = (json.loads(base64.b64decode(variables[name])) for name in (ENTRYPOINT_VARIABLE, CMD_VARIABLE))
    return entrypoint, cmd, variables[USER_VARIABLE]


def adapted(existing: dict[str, Any], diff_id: str = OUR_LAYER, is_own: bool = False) -> dict[str, Any]:
    env_vars = get_new_env_vars(existing, is_own=is_own)
    return adapted_config(existing, env_vars, diff_id=diff_id, is_own=is_own)


def env(existing: dict[str, Any]) -> dict[str, str]:
    return dict(entry.split("=", 1) for entry in existing["config"]["Env"])


# -- what is recorded


SHELL = ["/bin/sh", "-c", "exec run \"$A\" 'b' ☃"]
RECORDED: dict[str, tuple[dict[str, Any], tuple[Any, Any, str]]] = {
    "both": ({"Entrypoint": ["a"], "Cmd": ["b", "c"], "User": "app:staff"}, (["a"], ["b", "c"], "app:staff")),
    "an ENTRYPOINT alone": ({"Entrypoint": ["a"], "Cmd": None}, (["a"], None, "")),
    "a CMD alone": ({"Entrypoint": [], "Cmd": ["b"], "User": ""}, (None, ["b"], "")),
    "an ENTRYPOINT that was reset": ({"Entrypoint": [""], "Cmd": ["b"]}, (None, ["b"], "")),
    "shell forms": ({"Entrypoint": SHELL, "Cmd": SHELL}, (SHELL, SHELL, "")),
    "an empty argument": ({"Cmd": ["b", ""]}, (None, ["b", ""], "")),
    "root": ({"Cmd": ["b"], "User": "root"}, (None, ["b"], "root")),
    "an adapted image": (OURS | {"Env": stored(["a"], ["b"])}, (["a"], ["b"], "app")),
    "an adapted image with a stored string": (OURS | {"Env": stored("a b", None)}, ("a b", None, "app")),
    "a child with another CMD": (OURS | {"Cmd": ["c"], "Env": stored(["a"], ["b"])}, (["a"], ["c"], "app")),
    "a child with an empty CMD": (OURS | {"Cmd": [], "Env": stored(["a"], ["b"])}, (["a"], None, "app")),
    "a child with another ENTRYPOINT": (
        {"Entrypoint": ["x"], "Cmd": None, "User": "0", "Labels": BASE["Labels"], "Env": stored(["a"], ["b"])},
        (["x"], None, "app"),
    ),
    "a child with another ENTRYPOINT and our CMD": (
        {"Entrypoint": ["x"], "Cmd": ["usage"], "User": "0", "Labels": BASE["Labels"], "Env": stored(["a"], ["b"])},
        (["x"], None, "app"),
    ),
    "a child without an ENTRYPOINT": (
        {"Entrypoint": [], "Cmd": ["c"], "User": "0", "Labels": BASE["Labels"], "Env": stored(["a"], ["b"])},
        (None, ["c"], "app"),
    ),
    "a child with another USER": (OURS | {"User": "new", "Env": stored(["a"], ["b"])}, (["a"], ["b"], "new")),
    "a child with the user root": (OURS | {"User": "root", "Env": stored(["a"], ["b"])}, (["a"], ["b"], "root")),
    "the base image": (BASE, (None, None, "root")),
    "a child of the base image": (BASE | {"Cmd": ["run"], "User": "app"}, (None, ["run"], "app")),
    "a child of the base image with an ENTRYPOINT": (BASE | {"Entrypoint": ["run"]}, (["run"], None, "root")),
    "a child of the base image with stored commands": (BASE | {"Env": stored(["a"], None)}, (["a"], None, "root")),
    "a program of the base's name elsewhere": ({"Cmd": ["longshore", "usage"]}, (None, ["longshore", "usage"], "")),
    "an image that sagemaker-shim is in": (
        {"Entrypoint": ["/sagemaker-shim"], "Cmd": None, "User": "0", "Env": stored(["a"], ["b"])},
        (["a"], ["b"], "app"),
    ),
    "ALGORITHM_ENTRYPOINT": ({"Entrypoint": ["a"], "Env": ['ALGORITHM_ENTRYPOINT=["x"]']}, (None, None, "")),
    "ALGORITHM_CMD": ({"Entrypoint": ["a"], "Env": ["ALGORITHM_CMD=x y"]}, (None, None, "")),
    "ALGORITHM_ENTRYPOINT of a child": (
        OURS | {"Env": [*stored(["a"], ["b"]), "ALGORITHM_ENTRYPOINT=x"]},
        (None, None, "app"),
    ),
    "an empty ALGORITHM_ENTRYPOINT": ({"Entrypoint": ["a"], "Env": ["ALGORITHM_ENTRYPOINT="]}, (["a"], None, "")),
    "no command but one to train": ({"Env": ["ALGORITHM_TRAIN_ENTRYPOINT=x"]}, (None, None, "")),
    "nothing readable that is stored": (
        OURS | {"Labels": BASE["Labels"], "Env": [f"{ENTRYPOINT_VARIABLE}=%", f"{CMD_VARIABLE}={b64j({'a': 1})}"]},
        (None, None, "0"),
    ),
    "a stored list of something else": (
        OURS | {"Env": [f"{ENTRYPOINT_VARIABLE}={b64j([1])}", f"{CMD_VARIABLE}={b64j(['b'])}"]},
        (None, ["b"], "0"),
    ),
    "stored commands that nobody adapted": ({"Cmd": ["b"], "Env": stored(["a"], ["x"], "0")}, (None, ["b"], "")),
}


@pytest.mark.parametrize("is_own", [False, True])
@pytest.mark.parametrize(("fields", "expected"), RECORDED.values(), ids=RECORDED)
def test_what_an_image_runs_is_recorded(fields: dict[str, Any], expected: tuple[Any, Any, str], is_own: bool) -> None:
    assert recorded(config(**fields), is_own) == expected


def test_what_is_recorded_is_encoded_as_the_peer_does() -> None:
    assert get_new_env_vars(config(Cmd=["b", "c"], User="app")) == {
        "GRAND_CHALLENGE_COMPONENT_ENTRYPOINT_B64J": NO_COMMAND,
        "GRAND_CHALLENGE_COMPONENT_CMD_B64J": "WyJiIiwgImMiXQ==",
        "GRAND_CHALLENGE_COMPONENT_USER": "app",
    }


@pytest.mark.parametrize("fields", [{}, {"Entrypoint": None, "Cmd": []}, {"Entrypoint": [""]}, OURS], ids=str)
def test_an_image_that_says_nothing_to_run_is_refused(fields: dict[str, Any]) -> None:
    with pytest.raises(NoCommand, match="no ENTRYPOINT and no CMD"):
        get_new_env_vars(config(**fields))
    assert recorded(config(**fields), is_own=True)[:2] == (None, None)  # its program may be /opt/algorithm/run


@pytest.mark.parametrize(
    ("existing", "words"),
    [
        ({"config": ["a"]}, "config is no object"),
        (config(Cmd="a b"), "Cmd is no list of strings"),
        (config(Entrypoint=["a", 1]), "Entrypoint is no list of strings"),
        (config(Cmd=["a"], Env={"A": "b"}), "Env is no list of strings"),
        (config(Cmd=["a"], User=0.5), "User is no string"),
        (config(Cmd=["a"], Labels=["x"]), "Labels are not strings"),
        (config(Cmd=["a"], Labels={"x": 1}), "Labels are not strings"),
    ],
    ids=str,
)
def test_a_malformed_config_is_refused_with_a_sentence(existing: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigUnusable, match=words):
        get_new_env_vars(existing)


@pytest.mark.parametrize(
    ("field", "value", "words"),
    [
        ("rootfs", ["x"], "rootfs is no object"),
        ("rootfs", "x", "rootfs is no object"),
        ("rootfs", {"diff_ids": "x"}, "diff_ids is no list of strings"),
        ("rootfs", {"diff_ids": [1]}, "diff_ids is no list of strings"),
        ("history", {"x": "y"}, "history is no list of objects"),
        ("history", ["x"], "history is no list of objects"),
    ],
    ids=str,
)
def test_layers_that_are_malformed_are_refused_with_a_sentence(field: str, value: Any, words: str) -> None:
    with pytest.raises(ConfigUnusable, match=words):
        adapted(config(Cmd=["a"]) | {field: value})


# -- what a stranger's image may not


def test_a_strangers_image_gives_itself_no_rights() -> None:
    settings = {
        "ALGORITHM_AWS_CREDENTIALS": "true",
        "ALGORITHM_ALLOW_SETUID": "true",
        "ALGORITHM_USER": "root",
        "ALGORITHM_SET_EXTRA_GROUPS": "no",
        "GRAND_CHALLENGE_COMPONENT_WRITABLE_DIRECTORIES": "/longshore",
        "ALGORITHM_GROUND_TRUTH": "s3://secret/truth",
        "MODEL_SERVER_SIGNING_KEY_HEX": "00",
        "ALGORITHM_MODE": "resident",
    }
    existing = config(Cmd=["a"], User="app", Env=[f"{name}={value}" for name, value in settings.items()])
    variables = get_new_env_vars(existing)
    unset = {name for name, value in variables.items() if value == ""}
    assert unset == settings.keys() - {"ALGORITHM_MODE"}
    after = env(adapted(existing))
    assert not unset & after.keys()
    assert Settings.from_env(after).user == "app"
    assert Settings.from_env(after).environment.items() >= {name: settings[name] for name in unset}.items()
    assert get_new_env_vars(existing, is_own=True).keys().isdisjoint(settings)


@pytest.mark.parametrize(
    ("fields", "user"),
    [
        (OURS | {"User": "1000", "Env": stored(["a"], None, "0")}, "1000"),
        (OURS | {"User": "1000", "Env": [*stored(["a"], None, "0"), "ALGORITHM_USER=0"]}, "1000"),
        (OURS | {"User": "00", "Env": stored(["a"], None, "root")}, "00"),
        (OURS | {"User": "1000", "Labels": {"longshore.layer": "x", "longshore.version": "9"}}, "1000"),
        (OURS | {"Env": [*stored(["a"], None, "app"), "ALGORITHM_USER=root"]}, "app"),
        ({"Cmd": ["a"], "User": "root:root", "Env": ["ALGORITHM_USER=app"]}, "app"),
        ({"Cmd": ["a"], "User": "root:staff", "Env": ["ALGORITHM_USER=root"]}, "root:staff"),
    ],
    ids=str,
)
def test_no_stored_variable_and_no_label_makes_a_user_root(fields: dict[str, Any], user: str) -> None:
    existing = config(**{"Labels": {"longshore.version": "1"}} | fields)
    assert Settings.from_env(env(adapted(existing))).user == user


def test_every_setting_is_the_images_the_jobs_or_its_programs() -> None:
    """A new setting belongs to the job alone until somebody says otherwise."""
    names = {name for field in Settings.model_fields.values() for name in field.validation_alias.choices}  # type: ignore[union-attr]
    assert names >= STRANGERS_SETTINGS
    everything = config(Cmd=["a"], User="app", Env=[f"{name}=1" for name in sorted(names)])
    after = env(adapted(everything))
    for name in names - STRANGERS_SETTINGS | {"ALGORITHM_USER"}:
        assert after["LONGSHORE_KEPT_" + name] == "1"
        assert name not in after


def test_what_only_looks_like_a_setting_is_the_programs_byte_for_byte() -> None:
    mine = {"ALGORITHM_NAME": "it's", "MODEL_SERVER_HOME": "/srv", "algorithm_mode": "a"}
    after = env(adapted(config(Cmd=["a"], Env=[f"{name}={value}" for name, value in mine.items()])))
    assert Settings.from_env(after).environment == mine


def test_no_health_check_of_a_strangers_image_is_run_as_root() -> None:
    existing = config(Cmd=["a"], User="app", Healthcheck={"Test": ["CMD-SHELL", "env"]})
    assert "Healthcheck" not in adapted(existing)["config"]
    assert "Healthcheck" in adapted(existing, is_own=True)["config"]


def test_what_the_image_tells_aws_reaches_its_program_only() -> None:
    names = [*sorted(AWS_CREDENTIALS), "AWS_ENDPOINT_URL_S3", "HTTPS_PROXY", "No_proxy", "LOG_LEVEL", "HOME"]
    after = env(adapted(config(Cmd=["a"], Env=[f"{name}=it's" for name in names])))
    files = ["AWS_CONFIG_FILE", "AWS_SHARED_CREDENTIALS_FILE"]
    assert {name: after.pop(name) for name in files} == dict.fromkeys(files, "/dev/null")
    assert after.pop("LONGSHORE_SETS") == " ".join(files)
    assert {name: value for name, value in after.items() if not name.startswith("GRAND_")} == {
        "HOME": "it's",
        **{"LONGSHORE_KEPT_" + name: "it's" for name in names if name != "HOME"},
    }


def test_an_authors_own_image_keeps_its_variables() -> None:
    mine = {"AWS_REGION": "eu-west-1", "https_proxy": "x", "LOG_LEVEL": "DEBUG", "NVIDIA_VISIBLE_DEVICES": "0"}
    after = env(adapted(config(Cmd=["a"], Env=[f"{name}={value}" for name, value in mine.items()]), is_own=True))
    assert after.items() >= mine.items()
    assert after["NVIDIA_DRIVER_CAPABILITIES"] == "compute,utility"
    assert not [name for name in after if name.startswith("LONGSHORE_")]


# -- the config


def test_the_config_of_an_adapted_image_starts_longshore() -> None:
    fields = {
        "Entrypoint": ["a"],
        "User": "app",
        "WorkingDir": "/srv",
        "StopSignal": "SIGINT",
        "Labels": {"x": "y"},
        "ExposedPorts": {"80/tcp": {}},
    }
    existing = config(**fields, Env=["PATH=/bin", "SNOW=☃", "ODD", "PATH=/last", "=x"])
    before = copy.deepcopy(existing)
    new = adapted(existing)
    assert existing == before
    assert new["config"].pop("Env") == [
        "ODD",
        "PATH=/last",
        "SNOW=☃",
        "=x",
        "AWS_CONFIG_FILE=/dev/null",
        "AWS_SHARED_CREDENTIALS_FILE=/dev/null",
        "LONGSHORE_SETS=AWS_CONFIG_FILE AWS_SHARED_CREDENTIALS_FILE",
        *stored(["a"], None),
    ]
    assert new["config"] == {
        "Entrypoint": ["/longshore/bin/longshore"],
        "Cmd": ["usage"],
        "User": "0",
        "WorkingDir": "/srv",
        "StopSignal": "SIGTERM",
        "ExposedPorts": {"80/tcp": {}},
        "Labels": {
            "com.amazonaws.sagemaker.capabilities.accept-bind-to-port": "true",
            "longshore.layer": OUR_LAYER,
            "longshore.version": VERSION,
            "x": "y",
        },
    }
    assert new["rootfs"] == {"type": "layers", "diff_ids": [*ITS_LAYERS, OUR_LAYER]}
    assert new["history"] == [
        *existing["history"],
        {"created": "2026-01-02T03:04:05Z", "created_by": "longshore adapt"},
    ]
    assert [new[name] for name in ("architecture", "created", "os")] == ["amd64", "2026-01-02T03:04:05Z", "linux"]


HONEST = {
    "an image": config(Entrypoint=["a"], User="app", Env=["PATH=/bin", "AWS_REGION=x", "AWS_CONFIG_FILE=/etc/aws"]),
    "an image without variables": config(Cmd=["b"], Env=None, Labels=None),
    "an image from scratch": {"config": {"Cmd": ["b"]}, "rootfs": {"type": "layers", "diff_ids": []}},
    "an image without a history": {"config": {"Cmd": ["b"]}, "rootfs": {"diff_ids": ITS_LAYERS[:1]}},
    "one that gave itself rights": config(Cmd=["b"], User="app", Env=["ALGORITHM_USER=0", "https_proxy=x"]),
    "an odd one": config(Cmd=["b"], Env=["AWS_CONFIG_FILE=/dev/null", "LONGSHORE_SETS=PATH", "A"]),
}


@pytest.mark.parametrize("is_own", [False, True])
@pytest.mark.parametrize("existing", HONEST.values(), ids=HONEST)
def test_adapting_again_gives_the_same_bytes(existing: dict[str, Any], is_own: bool) -> None:
    once = adapted(existing, is_own=is_own)
    assert json.dumps(adapted(once, is_own=is_own)) == json.dumps(once)
    assert holds_our_layer(once)
    assert not holds_our_layer(existing)
    other = "sha256:" + "1" * 64
    assert json.dumps(adapted(adapted(existing, other, is_own), is_own=is_own)) == json.dumps(once)


def test_the_older_layer_of_a_child_that_changes_the_config_only_is_taken_out() -> None:
    child = adapted(config(Entrypoint=["a"], Cmd=["b"], User="app"))
    child["config"]["Cmd"] = ["c"]
    child["history"].append({"created_by": "CMD c", "empty_layer": True})
    new = adapted(child, "sha256:new")
    assert recorded(child) == (["a"], ["c"], "app")
    assert new["rootfs"]["diff_ids"] == [*ITS_LAYERS, "sha256:new"]
    assert [entry["created_by"] for entry in new["history"]] == ["a", "ENV x", "b", "CMD c", "longshore adapt"]


@pytest.mark.parametrize(
    "change",
    [
        lambda image: image["config"].update(Entrypoint=["x"]),
        lambda image: image["config"]["Labels"].pop("longshore.layer"),
        lambda image: image["rootfs"]["diff_ids"].append("sha256:more"),
        lambda image: image["rootfs"].update(diff_ids=[]),
    ],
)
def test_a_layer_that_may_not_be_ours_is_left(change: Any) -> None:
    child = adapted(config(Entrypoint=["a"]))
    change(child)
    assert not holds_our_layer(child)
    assert without_our_layer(child) == child
    assert adapted(child)["rootfs"]["diff_ids"][:-1] == child["rootfs"]["diff_ids"]


@pytest.mark.parametrize("history", [None, [], [{"created_by": "one of two"}]])
def test_a_history_that_does_not_tell_of_every_layer_is_left(history: Any) -> None:
    existing = config(Cmd=["a"]) | {"history": history}
    assert adapted(existing)["history"] == history
