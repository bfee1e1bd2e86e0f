"""The files that SageMaker writes for a job: hyperparameters, channels, instances, the request of a Processing job.

One that is missing, empty or `null` says nothing, and keys that are not known here are left alone. SageMaker's classic
sample has a `resourceConfig.json`, so a name may be in another case.
"""

import json
from pathlib import Path
from typing import Any, NamedTuple

from .errors import ConfigurationInvalid


def read_config(folder: Path, name: str) -> dict[str, Any]:
    """Return the object that a file holds, an empty one where there is none; raises ConfigurationInvalid."""
    path = _find(folder, name)
    try:
        text = path.read_bytes()
        value = json.loads(text) if text.strip() else None
    except FileNotFoundError:
        return {}
    except OSError as error:
        raise ConfigurationInvalid(f"{path} can not be read: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise ConfigurationInvalid(f"{path} is not JSON") from error
    if not isinstance(value, dict | None):
        raise ConfigurationInvalid(f"{path} is not a JSON object")
    return value or {}


def _find(folder: Path, name: str) -> Path:
    """Return the path of a file, also of one whose name is in another case."""
    try:
        names = {path.name for path in folder.iterdir()}
    except OSError:
        names = set()
    alike = sorted(other for other in names if other.lower() == name.lower())
    return folder / (name if name in names or not alike else alike[0])


def read_resources(folder: Path) -> dict[str, Any]:
    """Return what resourceconfig.json says; raises ConfigurationInvalid, also for hosts that can't be names."""
    config = read_config(folder, "resourceconfig.json")
    current, hosts = config.get("current_host"), config.get("hosts")
    if not isinstance(hosts, list | None) or not all(map(is_folder_name, hosts or [])):
        raise ConfigurationInvalid(f"{folder}/resourceconfig.json names no list of `hosts`")
    if current is not None and not is_folder_name(current):
        raise ConfigurationInvalid(f"{folder}/resourceconfig.json: `current_host` is no name of a host")
    return config


def is_folder_name(name: Any) -> bool:
    """Say whether a value can be the name of a folder, as those of hosts and channels are."""
    return isinstance(name, str) and "/" not in name and name not in ("", ".", "..") and is_path(name)


def is_path(text: str) -> bool:
    """Say whether a text of a JSON file can be a path, which holds no NUL and no half of a character."""
    try:
        return b"\0" not in text.encode()
    except UnicodeEncodeError:
        return False


class Instances(NamedTuple):
    """The instances of a job in an order that all of them agree on, and which of them this is."""

    current: str
    hosts: list[str]


def read_instances(folder: Path) -> Instances | None:
    """Return the instances of a job, None where nothing is said of them; raises ConfigurationInvalid.

    It refuses to guess: an instance that took itself for the only one would do the work of the others again.
    """
    config = read_resources(folder)
    current, hosts = config.get("current_host"), config.get("hosts")
    if current is None and hosts is None:
        return None
    hosts = hosts or []
    if current is None or current not in hosts or len(set(hosts)) != len(hosts):
        raise ConfigurationInvalid(f"{folder}/resourceconfig.json: `hosts` does not name `current_host` just once")
    return Instances(current, sorted(hosts))
