"""The Dockerfile by which build_local.sh completes what an author's has built, and what it says of it.

https://docs.docker.com/reference/dockerfile/
"""

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from .adaptation import (
    CMD,
    DEFAULTS,
    ENTRYPOINT,
    LABELS,
    STOP_SIGNAL,
    USER,
    ConfigUnusable,
    Declared,
    declared,
    get_new_env_vars,
    is_root,
)
from .command import DEFAULT_PROGRAM


@dataclass(frozen=True)
class Completion:
    """A Dockerfile, and a line for each thing that becomes of an author's instructions."""

    text: str
    log: list[str]


def completing_dockerfile(
    existing_config: Mapping[str, Any], image: str, *, is_inherited: bool = False, has_program: bool = False
) -> Completion:
    """Return what makes of an image, which holds Longshore, one that is adapted as `adapted_config` does.

    `is_inherited` says that the image's commands are its base's, and `has_program` that there is /opt/algorithm/run,
    which is then run instead. Raises ConfigUnusable.
    """
    author = declared(existing_config)
    log = [*_of_command(author, is_inherited, has_program), *_of_user(author), *_of_stop_signal(existing_config)]
    if is_inherited and has_program:
        commands = {"Entrypoint": None, "Cmd": None} if not author.is_adapted else {"Cmd": CMD}
        existing_config = {**existing_config, "config": {**(existing_config.get("config") or {}), **commands}}
    variables = {name: value for name, value in DEFAULTS.items() if name not in author.env}
    variables |= get_new_env_vars(existing_config, is_own=True)
    lines = [
        f"FROM {image}",
        _instruction("ENV", variables),
        _instruction("LABEL", LABELS),
        f"ENTRYPOINT {json.dumps(ENTRYPOINT)}",
        f"CMD {json.dumps(CMD)}",
        f"USER {USER}",
        f"STOPSIGNAL {STOP_SIGNAL}",
    ]
    return Completion("".join(f"{line}\n" for line in lines), log)


def inspected_config(text: str | bytes) -> dict[str, Any]:
    """Return the config in what `docker image inspect` prints of one image, as registries have it.

    Raises ConfigUnusable.
    """
    try:
        (image,) = json.loads(text)
        return {"config": image["Config"]}
    except (ValueError, KeyError, TypeError, RecursionError):
        raise ConfigUnusable("stdin has not what `docker image inspect` prints of one image") from None


def _instruction(name: str, values: Mapping[str, str]) -> str:
    return " ".join([name, *(f"{key}={quoted(value)}" for key, value in values.items())])


def quoted(value: str) -> str:
    """Quote a value of ENV or LABEL: within single quotes everything is as it stands, but a line ends where it ends."""
    if re.search(r"[\r\n\0]", value):
        raise ConfigUnusable(f"A Dockerfile can not hold {value!r:.100}: it has a line break")
    return "'" + value.replace("'", "'\"'\"'") + "'"


def _of_command(author: Declared, is_inherited: bool, has_program: bool) -> Iterator[str]:
    entrypoint = [] if author.is_adapted else author.entrypoint
    instructions = {"ENTRYPOINT": entrypoint, "CMD": author.own_cmd}
    words = ", ".join(f"{name} {_as_docker_says(value)}" for name, value in instructions.items() if value)
    if not words:
        return
    if author.env.get("ALGORITHM_ENTRYPOINT") or author.env.get("ALGORITHM_CMD"):
        yield f"Left out, as the variables ALGORITHM_ENTRYPOINT and ALGORITHM_CMD are set: {words}"
        return
    if is_inherited and has_program:
        yield f"Left out, as the base image says it and {DEFAULT_PROGRAM} is there to be run: {words}"
        return
    if is_inherited:
        yield "The Dockerfile has no ENTRYPOINT and no CMD; those of its base image are taken"
    yield f"What the algorithm runs, recorded: {words}"
    yield "The image's ENTRYPOINT is Longshore's now, so that SageMaker can call serve and train"


def _of_user(author: Declared) -> Iterator[str]:
    if is_root(author.user):
        return
    if author.env.get("ALGORITHM_USER"):
        yield f"Left out, as the variable ALGORITHM_USER is set: USER {author.user}"
    else:
        yield f"Who the algorithm runs as, recorded: USER {author.user}; the server runs as root"


def _of_stop_signal(existing_config: Mapping[str, Any]) -> Iterator[str]:
    signal = (existing_config.get("config") or {}).get("StopSignal")
    if signal and signal not in (STOP_SIGNAL, "TERM", "15"):
        yield f"Left out, as SageMaker stops the server by SIGTERM: STOPSIGNAL {signal}"


def _as_docker_says(words: list[str]) -> str:
    return json.dumps(words, ensure_ascii=False, separators=(",", ":"))
