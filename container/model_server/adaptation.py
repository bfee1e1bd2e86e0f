"""How an image is adapted: what its config says to run is recorded in variables, and what SageMaker starts is ours.

A config is one as registries have it: https://github.com/opencontainers/image-spec/blob/v1.1.1/config.md. A stranger
may have written anything into it. Nothing is read or written here.
"""

import json
from base64 import b64decode, b64encode
from collections.abc import Iterable, Mapping, Set
from dataclasses import dataclass
from typing import Any

from . import VERSION

ENTRYPOINT = ["/longshore/bin/longshore"]
CMD = ["usage"]
USER = "0"
STOP_SIGNAL = "SIGTERM"
"""What every adapted image has: `docker run IMAGE serve` is `longshore serve`, by root, who starts the algorithm as
its user."""

ENTRYPOINT_VARIABLE = "GRAND_CHALLENGE_COMPONENT_ENTRYPOINT_B64J"
CMD_VARIABLE = "GRAND_CHALLENGE_COMPONENT_CMD_B64J"
USER_VARIABLE = "GRAND_CHALLENGE_COMPONENT_USER"

VERSION_LABEL = "longshore.version"
LAYER_LABEL = "longshore.layer"
LABELS = {"com.amazonaws.sagemaker.capabilities.accept-bind-to-port": "true", VERSION_LABEL: VERSION}

DEFAULTS = {
    "PYTHONUNBUFFERED": "1",
    "NVIDIA_VISIBLE_DEVICES": "all",
    "NVIDIA_DRIVER_CAPABILITIES": "compute,utility",
}
"""What an author's own image is given where it says nothing of it: as the base image has it."""

_BASE_CMD = ["longshore", "usage"]
_PEERS_ENTRYPOINT = ["/sagemaker-shim"]
"""Of images that sagemaker-shim is in, which stores what they run as we do."""

_AUTHORS_COMMANDS = ("ALGORITHM_ENTRYPOINT", "ALGORITHM_CMD")
OUR_PREFIXES = ("ALGORITHM_", "MODEL_SERVER_", "GRAND_CHALLENGE_")
_PEERS = "GRAND_CHALLENGE_COMPONENT_"
STRANGERS_SETTINGS = {
    *("ALGORITHM_ENTRYPOINT", "ALGORITHM_CMD", "ALGORITHM_TRAIN_ENTRYPOINT", "ALGORITHM_USER"),
    *("ALGORITHM_MODE", "ALGORITHM_PORT", "ALGORITHM_START_TIMEOUT", "ALGORITHM_HEALTH_TIMEOUT"),
    *("ALGORITHM_GRACE_SECONDS", "ALGORITHM_MAX_MEMORY_MB", "ALGORITHM_CLEAN_TMP", "ALGORITHM_SAVE_PARTIAL"),
    *("ALGORITHM_PAYLOADS", "MODEL_SERVER_TIMEOUT", ENTRYPOINT_VARIABLE, CMD_VARIABLE, USER_VARIABLE),
    *(_PEERS + "API_METHOD", _PEERS + "USER_WEBSERVER_PORT", _PEERS + "START_AND_HEALTH_TIMEOUT_SECONDS"),
    *(_PEERS + "HEALTH_CHECK_CALL_TIMEOUT_SECONDS", _PEERS + "SIGTERM_GRACE_SECONDS", _PEERS + "MAX_MEMORY_MB"),
}
"""What an image that is not the operator's own may say of itself: how it is run. The rest of our settings is the job's
alone: with them an image could give itself rights, as by the folders that the server opens and empties as root, what
is fetched for it with the job's credentials, or a key that results are signed with."""

KEPT = "LONGSHORE_KEPT_"
"""Before the name of a variable of the image's that would change what we do ourselves, and that its program has."""

SET_BY_US = "LONGSHORE_SETS"
"""The variable with the names, spaces between them, of variables that are for us and not for the image's program."""

_FOR_THE_ALGORITHM = ("AWS_", "SAGEMAKER_")
_ALSO_FOR_THE_ALGORITHM = {"LOG_LEVEL", "OUTPUT_KMS_KEY_ID", "EXPECTED_BUCKET_OWNER", "REQUESTS_CA_BUNDLE"}
"""Variables of a stranger's image that were meant for its program; our S3 client and settings would take them too."""

NO_FILE = "/dev/null"
_NO_FILES = dict.fromkeys(("AWS_CONFIG_FILE", "AWS_SHARED_CREDENTIALS_FILE"), NO_FILE)
"""A `credential_process` of a file in the image would be run by our S3 client, as root."""

_CREATED_BY = "longshore adapt"
_LONG_AGO = "1970-01-01T00:00:00Z"
_ROOT = {"", "0", "root"}


class ConfigUnusable(ValueError):
    """Says in a sentence why an image can not be adapted."""


class NoCommand(ConfigUnusable):
    """Says that an image declares nothing to run."""

    def __init__(self) -> None:
        super().__init__("The image says nothing to run: it has no ENTRYPOINT and no CMD")


@dataclass(frozen=True)
class Declared:
    """What an image declares, in the ways in which a config can be empty or malformed put right."""

    entrypoint: list[str]
    cmd: list[str]
    user: str
    env: dict[str, str]
    labels: dict[str, str]

    @property
    def holds_longshore(self) -> bool:
        return VERSION_LABEL in self.labels

    @property
    def is_adapted(self) -> bool:
        return self.entrypoint in (ENTRYPOINT, _PEERS_ENTRYPOINT)

    @property
    def own_cmd(self) -> list[str]:
        """CMD, unless it is ours."""
        ours = [CMD, _BASE_CMD] if self.holds_longshore else [CMD] if self.is_adapted else []
        return [] if self.cmd in ours else self.cmd

    @property
    def own_user(self) -> str:
        """Who the algorithm is: what is stored counts where USER is ours only, so it can't give more rights."""
        is_ours = self.user == USER and (self.is_adapted or self.holds_longshore)
        return self.env.get(USER_VARIABLE, self.user) if is_ours else self.user


def declared(existing_config: Mapping[str, Any]) -> Declared:
    """Read what matters of an image's config; raises ConfigUnusable."""
    config = existing_config.get("config") or {}
    if not isinstance(config, Mapping):
        raise ConfigUnusable("The image's config is no object")
    user = config.get("User") or ""
    if not isinstance(user, str):
        raise ConfigUnusable("The image's User is no string")
    labels = config.get("Labels") or {}
    if not isinstance(labels, Mapping) or not _are_strings([*labels, *labels.values()]):
        raise ConfigUnusable("The image's Labels are not strings")
    entrypoint = _strings(config, "Entrypoint")
    return Declared(
        entrypoint=[] if entrypoint == [""] else entrypoint,  # as `docker run` reads it
        cmd=_strings(config, "Cmd"),
        user=user,
        env=dict(entry.split("=", 1) for entry in _strings(config, "Env") if "=" in entry),  # the last one counts
        labels=dict(labels),
    )


def get_new_env_vars(existing_config: Mapping[str, Any], *, is_own: bool = False) -> dict[str, str]:
    """Return the variables that make Longshore run what an image declares, as sagemaker-shim's client stores them.

    An image that is adapted already keeps what is stored; a child of it that states ENTRYPOINT, CMD or USER anew has
    these recorded. `is_own` is for those who build the image and run it: other images may give themselves no rights,
    so their settings that would are unset. Raises NoCommand or ConfigUnusable.
    """
    image = declared(existing_config)
    entrypoint, cmd = _command(image)
    if not entrypoint and not cmd and not is_own and not _may_have_a_program(image):
        raise NoCommand
    variables = {
        ENTRYPOINT_VARIABLE: _b64j(entrypoint or None),
        CMD_VARIABLE: _b64j(cmd or None),
        USER_VARIABLE: image.own_user,
    }
    return variables if is_own else variables | dict.fromkeys(_rights(image), "")


def adapted_config(
    existing_config: Mapping[str, Any],
    env_vars: Mapping[str, str],
    *,
    diff_id: str,
    created_by: str = _CREATED_BY,
    is_own: bool = False,
) -> dict[str, Any]:
    """Return the config of an image with our layer on top, whose digest, unpacked, is `diff_id`.

    A layer of ours that it has is taken out before: see `holds_our_layer`. The argument is not changed. Raises
    ConfigUnusable.
    """
    image = declared(existing_config)
    existing = without_our_layer(existing_config)
    labels = image.labels | LABELS | {LAYER_LABEL: diff_id}
    config = {
        **(existing.get("config") or {}),
        "Entrypoint": ENTRYPOINT[:],
        "Cmd": CMD[:],
        "User": USER,
        "Env": _env(existing, image, env_vars, is_own),
        "Labels": dict(sorted(labels.items())),
        "StopSignal": STOP_SIGNAL,
    }
    if not is_own:  # the engine would run it as root, beside the server and with the job's variables
        config.pop("Healthcheck", None)
        config.pop("OnBuild", None)
    new = {**existing, "config": config}
    new["rootfs"] = {"type": "layers", **(existing.get("rootfs") or {}), "diff_ids": [*diff_ids(existing), diff_id]}
    if _has_whole_history(existing):
        created = existing.get("created") or _LONG_AGO
        new["history"] = [*(existing.get("history") or []), {"created": created, "created_by": created_by}]
    return new


def holds_our_layer(existing_config: Mapping[str, Any]) -> bool:
    """Say whether the last layer of an image is one of ours, which a new one replaces."""
    image = declared(existing_config)
    layers = diff_ids(existing_config)
    return image.entrypoint == ENTRYPOINT and bool(layers) and image.labels.get(LAYER_LABEL) == layers[-1]


def without_our_layer(existing_config: Mapping[str, Any]) -> dict[str, Any]:
    """Return a config without the layer of ours that its image may end with."""
    existing = dict(existing_config)
    if not holds_our_layer(existing_config):
        return existing
    if existing.get("history") and _has_whole_history(existing):
        history = existing["history"]
        last = max(place for place, entry in enumerate(history) if not entry.get("empty_layer"))
        existing["history"] = [*history[:last], *history[last + 1 :]]
    existing["rootfs"] = {**existing["rootfs"], "diff_ids": diff_ids(existing)[:-1]}
    return existing


def diff_ids(existing_config: Mapping[str, Any]) -> list[str]:
    """Return the digests of an image's layers, unpacked; raises ConfigUnusable."""
    rootfs = existing_config.get("rootfs") or {}
    if not isinstance(rootfs, Mapping):
        raise ConfigUnusable("The image's rootfs is no object")
    return _strings(rootfs, "diff_ids")


def _command(image: Declared) -> tuple[Any, Any]:
    """Return the ENTRYPOINT and CMD to record; a CMD stated anew leaves a stored ENTRYPOINT, and not the reverse."""
    if any(image.env.get(name) for name in _AUTHORS_COMMANDS):
        return None, None
    if image.entrypoint and not image.is_adapted:
        return image.entrypoint, image.own_cmd
    stored = _stored(image.env.get(ENTRYPOINT_VARIABLE, "")), _stored(image.env.get(CMD_VARIABLE, ""))
    if image.is_adapted:
        is_ours = image.cmd == (CMD if image.entrypoint == ENTRYPOINT else [])
        return stored[0], (stored[1] if is_ours else image.cmd)
    return stored if image.holds_longshore and not image.own_cmd else (None, image.own_cmd)


def _may_have_a_program(image: Declared) -> bool:
    """Say whether an image may have something to run that ENTRYPOINT and CMD do not tell."""
    by_variable = any(image.env.get(name) for name in (*_AUTHORS_COMMANDS, "ALGORITHM_TRAIN_ENTRYPOINT"))
    return by_variable or image.holds_longshore  # then /opt/algorithm/run is its program


def _rights(image: Declared) -> list[str]:
    """Return the settings of an image that it may not have."""
    may = STRANGERS_SETTINGS if is_root(image.own_user) else STRANGERS_SETTINGS - {"ALGORITHM_USER"}
    return sorted(
        name for name, value in image.env.items() if value and name.upper().startswith(OUR_PREFIXES) and name not in may
    )


def is_root(user: str) -> bool:
    """Say whether a USER is root, in root's group."""
    name, _, group = user.partition(":")
    return name in _ROOT and group in _ROOT


def _env(existing: Mapping[str, Any], image: Declared, env_vars: Mapping[str, str], is_own: bool) -> list[str]:
    """Return the Env of an adapted image, each variable once and in its old place."""
    if is_own:
        env = DEFAULTS | image.env | dict(env_vars)
    else:
        unset = {name for name, value in env_vars.items() if not value and image.env.get(name)}
        own = {name: value for name, value in env_vars.items() if name not in unset}
        env = _given_back(image.env, unset) | _NO_FILES | {SET_BY_US: " ".join(_NO_FILES)} | own
    without_value = [entry for entry in _strings(existing.get("config") or {}, "Env") if "=" not in entry]
    return [*dict.fromkeys(without_value), *(f"{name}={value}" for name, value in env.items())]


def _given_back(env: Mapping[str, str], unset: Set[str]) -> dict[str, str]:
    """Give what was meant for the image's program the names by which it, and nobody else, is given it back.

    `unset` names what only looks like a setting of ours, or would be one that the image may not have.
    """
    ours = {name for name in _NO_FILES if name in env.get(SET_BY_US, "").split() and env.get(name) == _NO_FILES[name]}
    theirs = {name for name in env if name in unset or (_is_for_the_algorithm(name) and name not in ours)}
    return {(KEPT + name if name in theirs else name): env[name] for name in env}


def _is_for_the_algorithm(name: str) -> bool:
    return (
        name.startswith(_FOR_THE_ALGORITHM)
        or name in _ALSO_FOR_THE_ALGORITHM
        or (name.lower().endswith("_proxy") and not name.startswith(KEPT))
    )


def _has_whole_history(existing: Mapping[str, Any]) -> bool:
    """Say whether the history tells of every layer; one that does not stays as it is."""
    history = existing.get("history") or []
    if not isinstance(history, list) or not all(isinstance(entry, Mapping) for entry in history):
        raise ConfigUnusable("The image's history is no list of objects")
    return sum(not entry.get("empty_layer") for entry in history) == len(diff_ids(existing))


def _strings(config: Mapping[str, Any], field: str) -> list[str]:
    value = config.get(field) or []
    if not isinstance(value, list) or not _are_strings(value):
        raise ConfigUnusable(f"The image's {field} is no list of strings")
    return value[:]


def _are_strings(values: Iterable[Any]) -> bool:
    return all(isinstance(value, str) for value in values)


def _b64j(value: list[str] | str | None) -> str:
    return b64encode(json.dumps(value).encode()).decode()


def _stored(text: str) -> list[str] | str | None:
    """Read a command that is stored; what can't be read is none."""
    try:
        value = json.loads(b64decode(text, validate=True))
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, str) or (isinstance(value, list) and _are_strings(value)) else None
