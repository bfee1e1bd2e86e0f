"""Every setting in one frozen object, built once from the environment and passed down.

This is the only module that reads the environment. A field's first alias is its canonical name, the others are
names that platforms use already; where several are set the first wins, and an empty string is unset. README.md
documents each field in a table that a test compares with this class.
"""

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import AliasChoices, BaseModel, ConfigDict, Field, PrivateAttr, ValidationError, field_validator

from .adaptation import KEPT, NO_FILE, OUR_PREFIXES, SET_BY_US
from .archive_limits import ArchiveLimits
from .cpus import usable_cpus
from .errors import SettingsInvalid
from .s3_uri import S3Address
from .setting_types import (
    CommandSetting,
    EncodedCommand,
    HexKey,
    Mode,
    OnlyTrue,
    Paths,
    Port,
    S3Uri,
    Transfers,
    Upper,
    read_paths,
)

DROP_IN_PREFIX = "GRAND_CHALLENGE_COMPONENT_"
"""The prefix of sagemaker-shim's variables."""

MAX_PAYLOAD_PRODUCT_MB = 100
"""SageMaker's bound on MaxConcurrentTransforms times MaxPayloadInMB (CreateTransformJob)."""

BODY_LIMIT_MB = 110
"""In MiB, as nginx counts: more than SageMaker sends to a real-time endpoint or in batch transform (100 MB).

An async endpoint sends up to 1 GB; who needs that lifts the limit.
"""

SETUP_RESULT_NAME = "/.sagemaker_shim/runtime_setup_result.json"

REPEATED = ("int_", "float_", "bool_", "finite_number", "greater_than", "less_than", "literal_error")
"""The kinds of faults whose line repeats the value: of numbers and choices. Commands and addresses may hold secrets."""

SHOWN = {
    "ALGORITHM_INPUT_PATH",
    "ALGORITHM_OUTPUT_PATH",
    "ALGORITHM_MODEL_PATH",
    "ALGORITHM_GROUND_TRUTH_PATH",
    "ALGORITHM_PORT",
}
"""What the algorithm is told of our variables: where its folders and its port are, if they were moved."""

DEFAULT_ML_PATH = Path("/opt/ml")

TASK_FOLDERS = {"ALGORITHM_INPUT_PATH", "ALGORITHM_OUTPUT_PATH"}
KMS_KEY = r"^[!-~]{1,2048}$"
ACCOUNT = r"^[0-9]{12}$"
ADDRESS = r"^https?://\S+$"
REGION = r"^[A-Za-z0-9]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?$"
EXAMPLES = {KMS_KEY: "alias/results", ACCOUNT: "123456789012", ADDRESS: "https://s3.example.com", REGION: "eu-west-1"}

NOTHING_OUTSIDE = {"USE_LINKED_INPUT": "false", "WRITABLE_DIRECTORIES": ":", "POST_CLEAN_DIRECTORIES": ":"}
"""The defaults where TASK_FOLDERS or the ml folder are moved, as on a laptop: what nobody named is not touched."""

AWS_CREDENTIALS = {
    "AWS_ACCESS_KEY_ID",
    "AWS_CONFIG_FILE",
    "AWS_CONTAINER_AUTHORIZATION_TOKEN",
    "AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE",
    "AWS_CONTAINER_CREDENTIALS_FULL_URI",
    "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI",
    "AWS_PROFILE",
    "AWS_ROLE_ARN",
    "AWS_SECRET_ACCESS_KEY",
    "AWS_SECURITY_TOKEN",
    "AWS_SESSION_TOKEN",
    "AWS_SHARED_CREDENTIALS_FILE",
    "AWS_WEB_IDENTITY_TOKEN_FILE",
}


class Settings(BaseModel):
    """What an operator can set. Times are in seconds, sizes as named; `description` is the README's sentence."""

    model_config = ConfigDict(frozen=True, extra="ignore", populate_by_name=False)

    slots: ClassVar[int] = 1
    """How many tasks run at a time: /input and /output exist once, so one."""

    # -- about the program
    drop_in_entrypoint: EncodedCommand = Field(
        None,
        validation_alias=AliasChoices(DROP_IN_PREFIX + "ENTRYPOINT_B64J"),
        description="The image's ENTRYPOINT as base64 of JSON, as a platform records it. Where this or the next gives "
        "a command, ALGORITHM_ENTRYPOINT and ALGORITHM_CMD are both left alone.",
    )
    drop_in_cmd: EncodedCommand = Field(
        None,
        validation_alias=AliasChoices(DROP_IN_PREFIX + "CMD_B64J"),
        description="The image's CMD as base64 of JSON, as a platform records it.",
    )
    entrypoint: CommandSetting = Field(
        None,
        validation_alias=AliasChoices("ALGORITHM_ENTRYPOINT"),
        description="What to run: a JSON list, or a string for the shell form. Without any command, "
        "/opt/algorithm/run is run.",
    )
    cmd: CommandSetting = Field(
        None,
        validation_alias=AliasChoices("ALGORITHM_CMD"),
        description="Its arguments, as Docker's CMD: a JSON list, or a string for the shell form.",
    )
    train_entrypoint: CommandSetting = Field(
        None,
        validation_alias=AliasChoices("ALGORITHM_TRAIN_ENTRYPOINT"),
        description="What `train` runs: a JSON list, or a string for the shell form. Without it, /opt/algorithm/train "
        "is run.",
    )
    input_path: Path = Field(
        Path("/input"),
        validation_alias=AliasChoices("ALGORITHM_INPUT_PATH", DROP_IN_PREFIX + "INPUT_PATH"),
        description="The folder that a task's inputs are staged to.",
    )
    output_path: Path = Field(
        Path("/output"),
        validation_alias=AliasChoices("ALGORITHM_OUTPUT_PATH", DROP_IN_PREFIX + "OUTPUT_PATH"),
        description="The folder whose files are uploaded when the algorithm has ended with 0.",
    )
    model_path: Path = Field(
        Path("/opt/ml/model"),
        validation_alias=AliasChoices("ALGORITHM_MODEL_PATH", DROP_IN_PREFIX + "MODEL_DEST"),
        description="The folder of the model: where its tarball goes, and where SageMaker puts it.",
    )
    ground_truth_path: Path = Field(
        Path("/opt/ml/input/data/ground_truth"),
        validation_alias=AliasChoices("ALGORITHM_GROUND_TRUTH_PATH", DROP_IN_PREFIX + "GROUND_TRUTH_DEST"),
        description="The folder of the ground truth: where its tarball goes.",
    )
    model: S3Uri = Field(
        None,
        validation_alias=AliasChoices("ALGORITHM_MODEL", DROP_IN_PREFIX + "MODEL"),
        description="The S3 URI of a tarball (tar, gz, bz2, xz) that is unpacked into the model's folder before the "
        "first task.",
    )
    ground_truth: S3Uri = Field(
        None,
        validation_alias=AliasChoices("ALGORITHM_GROUND_TRUTH", DROP_IN_PREFIX + "GROUND_TRUTH"),
        description="The same for the ground truth.",
    )
    ml_path: Path = Field(
        DEFAULT_ML_PATH,
        validation_alias=AliasChoices("SAGEMAKER_BASE_DIR"),
        description="Where `train` and `process` find what SageMaker mounts: configuration, data and outputs.",
    )
    use_linked_input: OnlyTrue = Field(
        True,
        validation_alias=AliasChoices("ALGORITHM_USE_LINKED_INPUT", DROP_IN_PREFIX + "USE_LINKED_INPUT"),
        description="Whether a task's inputs are staged to a folder of its own that the input folder is a link to; "
        "where no link can be made, they are staged in place.",
    )
    linked_input_parent: Path = Field(
        Path("/opt/ml/input/data"),
        validation_alias=AliasChoices("ALGORITHM_LINKED_INPUT_PARENT", DROP_IN_PREFIX + "LINKED_INPUT_PARENT"),
        description="Where these folders are made.",
    )
    writable_directories: Paths = Field(
        read_paths("/opt/ml/output/data:/opt/ml/model:/opt/ml/input/data/ground_truth:/opt/ml/checkpoints:/tmp"),
        validation_alias=AliasChoices("ALGORITHM_WRITABLE_DIRECTORIES", DROP_IN_PREFIX + "WRITABLE_DIRECTORIES"),
        description="Folders, with colons between them, that are made at the start and opened to every user.",
    )
    post_clean_directories: Paths = Field(
        read_paths("/opt/ml/output/data:/opt/ml/model:/opt/ml/input/data/ground_truth"),
        validation_alias=AliasChoices("ALGORITHM_POST_CLEAN_DIRECTORIES", DROP_IN_PREFIX + "POST_CLEAN_DIRECTORIES"),
        description="Folders that are emptied at the end; one that held something at the start loses what was fetched.",
    )
    user: str = Field(
        "",
        validation_alias=AliasChoices("ALGORITHM_USER", DROP_IN_PREFIX + "USER"),
        description="Who the algorithm runs as, as Dockerfile's USER: `user`, `uid`, `user:group` or `:group`; by "
        "default who the server runs as.",
    )
    set_extra_groups: OnlyTrue = Field(
        True,
        validation_alias=AliasChoices("ALGORITHM_SET_EXTRA_GROUPS", DROP_IN_PREFIX + "SET_EXTRA_GROUPS"),
        description="Whether the algorithm is in the groups of its user only; anything but `true` leaves it in the "
        "server's too.",
    )
    max_memory_mb: int = Field(
        0,
        ge=0,
        le=2**40,
        validation_alias=AliasChoices("ALGORITHM_MAX_MEMORY_MB", DROP_IN_PREFIX + "MAX_MEMORY_MB"),
        description="The most data memory of each process of the algorithm, in MiB (RLIMIT_DATA); 0 is no limit.",
    )
    grace_seconds: float = Field(
        5,
        ge=0,
        le=100,
        allow_inf_nan=False,
        validation_alias=AliasChoices("ALGORITHM_GRACE_SECONDS", DROP_IN_PREFIX + "SIGTERM_GRACE_SECONDS"),
        description="Seconds between SIGTERM and SIGKILL when the algorithm is ended.",
    )
    mode: Mode = Field(
        "exec",
        validation_alias=AliasChoices("ALGORITHM_MODE", DROP_IN_PREFIX + "API_METHOD"),
        description="`exec`: the program is run for each task. `resident` (the drop-in's `invoke`): it is an HTTP "
        "server that is started once, and posted to for each task.",
    )
    algorithm_port: Port = Field(
        4743,
        validation_alias=AliasChoices("ALGORITHM_PORT", DROP_IN_PREFIX + "USER_WEBSERVER_PORT"),
        description="The port on 127.0.0.1 that a resident program listens on.",
    )
    start_timeout: float = Field(
        300,
        gt=0,
        allow_inf_nan=False,
        validation_alias=AliasChoices("ALGORITHM_START_TIMEOUT", DROP_IN_PREFIX + "START_AND_HEALTH_TIMEOUT_SECONDS"),
        description="Seconds that a resident program may take from its start to its first 200 on /health.",
    )
    health_timeout: float = Field(
        10,
        gt=0,
        allow_inf_nan=False,
        validation_alias=AliasChoices("ALGORITHM_HEALTH_TIMEOUT", DROP_IN_PREFIX + "HEALTH_CHECK_CALL_TIMEOUT_SECONDS"),
        description="Seconds that one call of /health may take before it is tried again.",
    )
    pass_aws_credentials: bool = Field(
        False,
        validation_alias=AliasChoices("ALGORITHM_AWS_CREDENTIALS"),
        description="Whether the algorithm is given the container's AWS credentials.",
    )
    save_partial: bool = Field(
        False,
        validation_alias=AliasChoices("ALGORITHM_SAVE_PARTIAL"),
        description="Whether what a task has written is uploaded below `<output_prefix>/partial/` when a stop of the "
        "container interrupts it.",
    )
    clean_tmp: bool = Field(
        False,
        validation_alias=AliasChoices("ALGORITHM_CLEAN_TMP"),
        description="Whether what a task leaves in the writable directories, /tmp among them, is removed after it.",
    )
    allow_setuid: bool = Field(
        False,
        validation_alias=AliasChoices("ALGORITHM_ALLOW_SETUID"),
        description="Whether programs with a setuid bit or file capabilities, such as sudo, get the rights of these.",
    )
    payloads: bool = Field(
        False,
        validation_alias=AliasChoices("ALGORITHM_PAYLOADS"),
        description="Whether `serve` takes bodies that are no task: the algorithm finds one as `payload.<ext>` in its "
        "input folder, and what it writes is the answer.",
    )

    # -- about us
    port: Port = Field(
        8080,
        validation_alias=AliasChoices("SAGEMAKER_BIND_TO_PORT"),
        description="The port that nginx listens on.",
    )
    workers: int = Field(
        default_factory=usable_cpus,
        ge=1,
        le=256,
        validation_alias=AliasChoices("MODEL_SERVER_WORKERS"),
        description="gunicorn's workers; by default the CPUs that the container may use.",
    )
    timeout: float = Field(
        60,
        gt=0,
        allow_inf_nan=False,
        validation_alias=AliasChoices("MODEL_SERVER_TIMEOUT"),
        description="Seconds that the algorithm may run for a task posted to `serve` that names no `timeout`.",
    )
    queue_places: int = Field(
        16,
        ge=0,
        le=1000,
        validation_alias=AliasChoices("MODEL_SERVER_QUEUE"),
        description="Requests that may wait for their turn; raised to SAGEMAKER_MAX_CONCURRENT_TRANSFORMS.",
    )
    max_concurrent_transforms: int | None = Field(
        None,
        ge=1,
        le=1000,
        validation_alias=AliasChoices("SAGEMAKER_MAX_CONCURRENT_TRANSFORMS"),
        description="How many requests batch transform will have open at once; the queue has at least as many places.",
    )
    batch_strategy: Annotated[Literal["SINGLE_RECORD", "MULTI_RECORD"], Upper] = Field(
        "SINGLE_RECORD",
        validation_alias=AliasChoices("MODEL_SERVER_BATCH_STRATEGY", "SAGEMAKER_BATCH_STRATEGY"),
        description="What /execution-parameters advises: one task a request, or several lines.",
    )
    max_payload_mb: int = Field(
        6,
        ge=0,
        validation_alias=AliasChoices("MODEL_SERVER_MAX_PAYLOAD_MB", "SAGEMAKER_MAX_PAYLOAD_IN_MB"),
        description="What /execution-parameters advises as the largest body, in MB; 0 lifts the limit on bodies, "
        "which is 110 MiB otherwise.",
    )
    signing_key: HexKey = Field(
        None,
        validation_alias=AliasChoices("MODEL_SERVER_SIGNING_KEY_HEX", DROP_IN_PREFIX + "SIGNING_KEY_HEX"),
        description="The HMAC-SHA256 key that results are signed with, as hexadecimal; without it they are not signed.",
    )
    setup_result_bucket: str | None = Field(
        None,
        validation_alias=AliasChoices(
            "MODEL_SERVER_SETUP_RESULT_BUCKET", DROP_IN_PREFIX + "RUNTIME_OUTPUT_BUCKET_NAME"
        ),
        description="The bucket that the result of the set-up is put into, if the prefix is set too.",
    )
    setup_result_prefix: str | None = Field(
        None,
        validation_alias=AliasChoices("MODEL_SERVER_SETUP_RESULT_PREFIX", DROP_IN_PREFIX + "RUNTIME_OUTPUT_PREFIX"),
        description="Its prefix: the key is `<prefix>/.sagemaker_shim/runtime_setup_result.json`.",
    )
    transfers: Transfers = Field(
        32,
        validation_alias=AliasChoices("MODEL_SERVER_TRANSFERS", DROP_IN_PREFIX + "ASYNC_CONCURRENCY"),
        description="Threads of a worker that copy files from or to S3, at most: 4 where S3 answers at once. More "
        "than 256 are 256.",
    )
    max_archive_mb: int = Field(
        102_400,
        ge=0,
        validation_alias=AliasChoices("MODEL_SERVER_MAX_ARCHIVE_MB"),
        description="The most that a zip among the inputs, or a tarball, may hold, in MiB; 0 leaves it to the disk.",
    )
    max_archive_files: int = Field(
        500_000,
        ge=0,
        validation_alias=AliasChoices("MODEL_SERVER_MAX_ARCHIVE_FILES"),
        description="The most files and folders that it may hold; 0 is no limit. A million takes the server 0.7 GB.",
    )
    max_archive_ratio: int = Field(
        2_000,
        ge=0,
        validation_alias=AliasChoices("MODEL_SERVER_MAX_ARCHIVE_RATIO"),
        description="The most that it may hold as a multiple of its own size, if that is over 1 GiB; 0 is no limit.",
    )
    output_kms_key_id: str | None = Field(
        None,
        validation_alias=AliasChoices("MODEL_SERVER_OUTPUT_KMS_KEY_ID", "OUTPUT_KMS_KEY_ID"),
        pattern=KMS_KEY,
        description="The key of AWS KMS (its id, alias or ARN) that S3 encrypts outputs and results with; by default "
        "as the bucket says.",
    )
    expected_bucket_owner: str | None = Field(
        None,
        validation_alias=AliasChoices("MODEL_SERVER_EXPECTED_BUCKET_OWNER", "EXPECTED_BUCKET_OWNER"),
        pattern=ACCOUNT,
        description="The AWS account that every bucket has to be of; S3 refuses requests for another's.",
    )
    run_path: Path | None = Field(
        None,
        validation_alias=AliasChoices("MODEL_SERVER_RUN_PATH"),
        description="Where the server makes a folder for its sockets, locks and nginx's files, and removes it at the "
        "end; by default in /dev/shm.",
    )
    log_level: Annotated[Literal["DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL"], Upper] = Field(
        "INFO",
        validation_alias=AliasChoices("LOG_LEVEL"),
        description="The least level of our own log lines (DEBUG, INFO, WARNING, ERROR or CRITICAL); the algorithm's "
        "are always there.",
    )
    s3_endpoint: str | None = Field(
        None,
        validation_alias=AliasChoices("AWS_S3_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL"),
        pattern=ADDRESS,
        description="The address of the S3 server, where it is not AWS's own.",
    )
    region: str | None = Field(
        None,
        validation_alias=AliasChoices("AWS_REGION", "AWS_DEFAULT_REGION"),
        pattern=REGION,
        description="The AWS region, where the credentials' configuration does not name it.",
    )

    _environment: dict[str, str] = PrivateAttr(default_factory=dict)
    _job_environment: dict[str, str] = PrivateAttr(default_factory=dict)

    @classmethod
    def from_env(cls, environ: Mapping[str, str] = os.environ) -> Self:
        """Build the settings; raises SettingsInvalid with one line for each variable that can't be used."""
        environ = _as_given(environ)
        values = {name: value for name, value in environ.items() if value != ""}
        try:
            settings = cls.model_validate(_defaults(values) | values)
        except ValidationError as error:
            lines: dict[Any, str] = {}
            for fault in error.errors(include_url=False):  # a union has a fault for each of its members
                lines.setdefault(fault["loc"][:1], _line(fault))
            raise SettingsInvalid(list(lines.values())) from None
        settings._environment = _algorithm_environment(environ, settings.pass_aws_credentials)
        settings._job_environment = _algorithm_environment(environ, with_aws_credentials=True)
        return settings

    @field_validator("max_payload_mb")
    @classmethod
    def _payloads_fit(cls, megabytes: int) -> int:
        if cls.slots * megabytes > MAX_PAYLOAD_PRODUCT_MB:
            raise ValueError(f"must be at most {MAX_PAYLOAD_PRODUCT_MB // cls.slots}: SageMaker's rule")
        return megabytes

    @property
    def environment(self) -> dict[str, str]:
        """The algorithm's environment: the image's, without our variables and the AWS credentials."""
        return self._environment

    @property
    def job_environment(self) -> dict[str, str]:
        """The same for `train` and plain `process`, whose programs expect the AWS credentials of the job's role."""
        return self._job_environment

    @property
    def body_limit_mb(self) -> int:
        """The largest body that is read, in MiB; 0 is unlimited, as SageMaker's MaxPayloadInMB has it."""
        return BODY_LIMIT_MB if self.max_payload_mb else 0

    @property
    def archive_limits(self) -> ArchiveLimits:
        return ArchiveLimits(self.max_archive_mb, self.max_archive_files, self.max_archive_ratio)

    @property
    def setup_result_place(self) -> S3Address | None:
        """Where the result of the set-up is put, if anywhere."""
        if not self.setup_result_bucket or not self.setup_result_prefix:
            return None
        return S3Address(self.setup_result_bucket, self.setup_result_prefix.removesuffix("/") + SETUP_RESULT_NAME)

    @property
    def queue_limit(self) -> int:
        return max(self.queue_places, self.max_concurrent_transforms or 0)


def _as_given(environ: Mapping[str, str]) -> Mapping[str, str]:
    """Take back what Python did to our own environment at its start: in the C locale it sets LC_CTYPE (PEP 538)."""
    if environ is not os.environ:
        return environ
    given = re.search(rb"(?:^|\0)LC_CTYPE=([^\0]*)", Path("/proc/self/environ").read_bytes())
    others = {name: value for name, value in environ.items() if name != "LC_CTYPE"}
    return others | ({"LC_CTYPE": os.fsdecode(given[1])} if given else {})


def _algorithm_environment(environ: Mapping[str, str], with_aws_credentials: bool) -> dict[str, str]:
    return _given_back(
        {
            name: value
            for name, value in environ.items()
            if (not name.upper().startswith(OUR_PREFIXES) or (name in SHOWN and value))
            and (with_aws_credentials or name not in AWS_CREDENTIALS)
        },
        environ,
    )


def _given_back(variables: Mapping[str, str], environ: Mapping[str, str]) -> dict[str, str]:
    """Return variables as the algorithm has them, in an environment where some were renamed and some set for us.

    The launcher (image/launch.c) and an adapted image's configuration do that. What the job sets under the name of one
    that was renamed goes before it, as it does in Docker.
    """
    named = environ.get(SET_BY_US, "").split()
    ours = {SET_BY_US, *(name for name in named if environ.get(name) == NO_FILE)}  # else the job has set it
    given: dict[str, str] = {}
    for name, value in variables.items():
        own = name.removeprefix(KEPT)
        if name not in ours and (own == name or own in ours or own not in environ):
            given[own] = value
    return given


def ml_path_of(environ: Mapping[str, str] = os.environ) -> Path:
    """Return the ml folder, also where there are no settings because one of them can't be used."""
    return Path(environ.get("SAGEMAKER_BASE_DIR") or DEFAULT_ML_PATH)


def _defaults(values: Mapping[str, str]) -> dict[str, str]:
    """Return the values of variables that nobody set, where they depend on those that somebody did."""
    if not TASK_FOLDERS & values.keys() and Path(values.get("SAGEMAKER_BASE_DIR", DEFAULT_ML_PATH)) == DEFAULT_ML_PATH:
        return {}
    return {
        "ALGORITHM_" + name: default for name, default in NOTHING_OUTSIDE.items() if DROP_IN_PREFIX + name not in values
    }


def _line(fault: Any) -> str:
    """Say what is wrong with one variable; a value that may hold a secret is never repeated."""
    name = str(fault["loc"][0]) if fault["loc"] else ""
    message = str(fault["msg"]).removeprefix("Value error, ")
    if not name:
        return message
    message = message[0].lower() + message[1:]
    if fault["type"] == "string_pattern_mismatch":
        message = f"has to be like {EXAMPLES[fault['ctx']['pattern']]}"
    if fault["type"].startswith(REPEATED):
        message += f", not {fault['input']!r:.100}"
    return f"{name}: {message}"


def docker_folder_of(environ: Mapping[str, str] = os.environ) -> Path:
    """Return where Docker keeps its logins: `adapt` needs none of the settings."""
    return Path(environ.get("DOCKER_CONFIG") or Path(environ.get("HOME") or "~").expanduser() / ".docker")


def layer_file_of(environ: Mapping[str, str] = os.environ) -> Path | None:
    """Return the file of the layer that `adapt` adds to images, where the environment names one."""
    name = environ.get("LONGSHORE_LAYER")
    return Path(name) if name else None
