"""What a training program is told: hyperparameters as arguments, and the variables of SageMaker's training toolkit.

https://github.com/aws/sagemaker-training-toolkit/blob/master/ENVIRONMENT_VARIABLES.md says what they are. SageMaker
itself sets none of them, and the toolkit's win over those of the image and of the request; so do ours.
"""

import json
import math
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn, Self

from .cpus import usable_cpus
from .errors import ConfigurationInvalid
from .job_config import is_folder_name, read_config, read_resources
from .logs import logger

OF_SAGEMAKER = re.compile(r"sagemaker_.*|_tuning_objective_metric|default_user_module_name", re.DOTALL)
"""Hyperparameters that are words between SageMaker's own programs; an argparse of the author's would refuse them."""

NVIDIA_DEVICE = re.compile(r"nvidia[0-9]+")
INFO_LEVEL = 20
MAX_VARIABLE_BYTES = 128 * 1024
"""What Linux takes for NAME=text with the zero at its end; one that is longer would keep the program from starting."""


@dataclass(frozen=True)
class Training:
    """A training job as its files describe it; the values of hyperparameters are as they are there."""

    ml_path: Path
    hyperparameters: dict[str, Any]
    channels: dict[str, Any]
    resources: dict[str, Any]

    @classmethod
    def read(cls, ml_path: Path) -> Self:
        """Read the job's files; raises ConfigurationInvalid, also for a channel that is a pipe or no folder."""
        config = ml_path / "input" / "config"
        hyperparameters = read_config(config, "hyperparameters.json")
        channels = read_config(config, "inputdataconfig.json")
        for name, channel in channels.items():
            if not is_folder_name(name):
                raise ConfigurationInvalid("The name of a channel can not be that of a folder")
            if isinstance(channel, dict) and channel.get("TrainingInputMode") == "Pipe":
                raise ConfigurationInvalid(
                    f"The channel {name} has TrainingInputMode Pipe, which is not supported: use File or FastFile"
                )
        own = {name: value for name, value in hyperparameters.items() if name and not OF_SAGEMAKER.fullmatch(name)}
        training = cls(ml_path, own, channels, read_resources(config))
        if "\0" in "".join(training.arguments):
            raise ConfigurationInvalid("A hyperparameter holds a NUL character, which no argument can")
        return training

    @property
    def arguments(self) -> list[str]:
        """The hyperparameters as `--name value`, by name; one letter has one dash, as the toolkit has it."""
        return [
            word
            for name, value in sorted(self.hyperparameters.items())
            for word in (f"--{name}" if len(name) > 1 else f"-{name}", _argument(value))
        ]

    @property
    def output_data(self) -> Path:
        """Where what is no model goes; instances that share a job have a folder each."""
        folder = self.ml_path / "output" / "data"
        return folder / self.current_host if len(self.hosts) > 1 else folder

    @property
    def hosts(self) -> list[str]:
        return self.resources.get("hosts") or [self.current_host]

    @property
    def current_host(self) -> str:
        return self.resources.get("current_host") or "algo-1"

    def variables(self, arguments: list[str]) -> dict[str, str]:
        """Return the SM_ variables; `arguments` are those that the program is started with."""
        ml = self.ml_path
        decoded = {name: _decoded(value) for name, value in self.hyperparameters.items()}
        folders = {name: str(ml / "input" / "data" / name) for name in self.channels}
        shared = {
            "model_dir": str(ml / "model"),
            "input_dir": str(ml / "input"),
            "input_config_dir": str(ml / "input" / "config"),
            "output_dir": str(ml / "output"),
            "output_data_dir": str(self.output_data),
            "hosts": self.hosts,
            "current_host": self.current_host,
            "network_interface_name": self.resources.get("network_interface_name") or "eth0",
            "num_cpus": usable_cpus(),
            "num_gpus": usable_gpus(),
            "log_level": INFO_LEVEL,
            "resource_config": self.resources,
            "input_data_config": self.channels,
        }
        values = shared | {
            "channels": sorted(folders),
            "hps": decoded,
            "user_args": arguments,
            "training_env": shared | {"channel_input_dirs": folders, "hyperparameters": decoded},
        }
        values |= {f"channel_{name}": folder for name, folder in folders.items()}
        texts = {name: _text(value) for name, value in values.items()}
        texts |= {f"hp_{name}": _hyperparameter(value) for name, value in self.hyperparameters.items()}
        return _that_fit({f"SM_{name.upper()}": text for name, text in texts.items() if _is_name(name)})


def _that_fit(variables: dict[str, str]) -> dict[str, str]:
    """Return the variables that a program can be started with; our log names the others."""
    fit = {
        name: text
        for name, text in variables.items()
        if len(f"{name}={text}".encode(errors="replace")) < MAX_VARIABLE_BYTES
    }
    if left_out := sorted(variables.keys() - fit.keys()):
        logger.warning("Too long for the environment, so not set: %s", ", ".join(left_out))
    return fit


def usable_gpus(devices: Path = Path("/dev")) -> int:
    """Return the NVIDIA GPUs that this container was given."""
    return sum(1 for device in devices.iterdir() if NVIDIA_DEVICE.fullmatch(device.name))


def _decoded(value: Any) -> Any:
    """Return what a hyperparameter's text is as JSON, or the text: SageMaker's values are strings, SDKs encode them."""
    if not isinstance(value, str):
        return value
    try:
        return json.loads(value, parse_constant=_no_number, parse_float=_finite)
    except (ValueError, RecursionError):
        return value


def _no_number(name: str) -> NoReturn:
    raise ValueError(name)


def _finite(text: str) -> float:
    number = float(text)
    return number if math.isfinite(number) else _no_number(text)  # 1e400 would become Infinity, which is no JSON


def _argument(value: Any) -> str:
    """Return a hyperparameter as the toolkit passes it on; numbers and lists keep the text that they have."""
    decoded = _decoded(value)
    if isinstance(decoded, dict):
        return ",".join(f"{key}={item}" for key, item in sorted(decoded.items()))
    if isinstance(decoded, bool):
        return str(decoded)
    return _hyperparameter(value)


def _hyperparameter(value: Any) -> str:
    """Return a hyperparameter as its variable has it."""
    decoded = _decoded(value)
    as_it_stands = isinstance(value, str) and isinstance(decoded, int | float | list) and not isinstance(decoded, bool)
    return str(value) if as_it_stands else _text(decoded)


def _text(value: Any) -> str:
    if value is None or isinstance(value, str):
        return value or ""
    return json.dumps(value, sort_keys=True, separators=(",", ":"))


def _is_name(name: str) -> bool:
    """Say whether the environment takes a name."""
    return "=" not in name and "\0" not in name and name.isprintable()
