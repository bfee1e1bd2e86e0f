"""Everything that can go wrong, as one tree: a code, an HTTP status, a sentence and a hint each.

The same code and sentence reach the HTTP body, the result object and the log line, so a sentence never holds an
object key, a file name or a secret: an input is named by its place in the task (`inputs[2]`). Errors are raised with
facts and write their own sentence. Sentences marked "contract" are read by platforms that drive sagemaker-shim and
keep its words.
"""

import signal
from typing import Any, ClassVar, TypeVar

NO_TASK = "Input should be a valid dictionary or object to extract fields from"
"""The drop-in's words for a body, or a part of one, that is no JSON object."""


class LongshoreError(Exception):
    """Is the root of the tree; `http_status` says whose fault it is (see the four branches below)."""

    code: ClassVar[str]
    http_status: ClassVar[int]
    sentence: ClassVar[str]
    hint: str = ""

    def __init__(self) -> None:
        """Leave `args` as what the error was made with: another process can make it anew from its code and these."""

    def __str__(self) -> str:
        return self.message

    @property
    def message(self) -> str:
        """What happened, in a sentence that the user may read."""
        return self.sentence

    @property
    def return_code(self) -> int:
        """The task's return code in the result: 1, unless the algorithm ended with one of its own."""
        return 1

    @property
    def user_message(self) -> str:
        """What the result's `user_safe_error_message` says."""
        return self.message

    @property
    def detail(self) -> Any:
        """What an HTTP body says under `detail`, where FastAPI's clients look."""
        return self.message

    def as_json(self) -> dict[str, str]:
        return {"code": self.code, "message": self.message, "hint": self.hint}


Fault = TypeVar("Fault", bound=BaseException)


def without_frames(error: Fault) -> Fault:
    """Return an error without where it and its causes came up: the frames hold what was open there, and the error."""
    seen: list[BaseException] = []
    ahead: list[BaseException | None] = [error]
    while ahead:
        link = ahead.pop()
        if link is not None and link not in seen:  # they may lead to each other
            seen.append(link.with_traceback(None))
            ahead += [link.__cause__, link.__context__]
    return error


# --- 4xx: the request was wrong; the same request will fail again -------------------------------------------------


class RequestError(LongshoreError):
    """Refuses a request before anything was done for it."""

    http_status = 400


class RouteMissing(RequestError):
    code = "not_found"
    http_status = 404
    hint = "The server answers /ping, /execution-parameters and /invocations."
    sentence = "Not Found"


class CallerForbidden(RequestError):
    code = "caller_forbidden"
    http_status = 403
    hint = "Programs of the algorithm's user can not use the server, nor can those on this machine that do not wait."
    sentence = "The algorithm may not call the server that runs it"


class MethodNotAllowed(RequestError):
    code = "method_not_allowed"
    http_status = 405
    hint = "The Allow header names the methods of this path."
    sentence = "Method Not Allowed"


class BodyUnreadable(RequestError):
    code = "body_unreadable"
    hint = "Send the task as UTF-8 JSON. A body without a Content-Type is taken for a task."
    sentence = "There was an error parsing the body"  # contract


class BodyTooLarge(RequestError):
    code = "body_too_large"
    http_status = 413
    hint = "A body may have 110 MiB; MODEL_SERVER_MAX_PAYLOAD_MB=0 lifts the limit."
    sentence = "The request body is too large"


class TasksTooLarge(RequestError):
    code = "tasks_too_large"
    http_status = 413
    hint = (
        "The tasks of one body may have 25 MiB and 200,000 values: send them in parts. A file for the program has a "
        "content type of its own: see ALGORITHM_PAYLOADS."
    )
    sentence = "The tasks in the request body are too large"


class ContentTypeUnsupported(RequestError):
    """Says it under `detail` in the drop-in's words, which takes such a body as text that is no task."""

    code = "content_type_unsupported"
    http_status = 415
    hint = "Send one task as application/json, or one task a line as application/jsonlines."
    sentence = "The content type of the request is not that of a task, and ALGORITHM_PAYLOADS is not true"

    @property
    def detail(self) -> list[dict[str, Any]]:
        return [{"type": "model_attributes_type", "loc": ["body"], "msg": NO_TASK}]


class FormUnsupported(RequestError):
    code = "form_unsupported"
    http_status = 415
    hint = "Send the file as the body, with its own content type: curl -H 'Content-Type: text/csv' --data-binary @FILE."
    sentence = "The request is a form, which is neither a task nor a payload"


class NotAcceptable(RequestError):
    """Says, after the run, that no output has a type that the client admits; `offers` are what there was."""

    code = "not_acceptable"
    http_status = 406
    sentence = "The output of the algorithm has no type that the Accept header admits"

    def __init__(self, offers: list[str]) -> None:
        super().__init__()
        self.hint = f"There is {', '.join(offers)}."


class TaskInvalid(RequestError):
    """Names every fault of a body at once: `faults` are dicts with `type`, `loc` and `msg`."""

    code = "task_invalid"
    http_status = 422
    hint = (
        "`detail` names each fault by its field. A body without a Content-Type is taken for a task. JSON that is none "
        "is sent as application/vnd.longshore.payload+json: see ALGORITHM_PAYLOADS."
    )
    sentence = "The task is not valid"

    def __init__(self, faults: list[dict[str, Any]]) -> None:
        super().__init__()
        self.faults = faults

    @property
    def detail(self) -> list[dict[str, Any]]:
        return self.faults


class OutputBucketMissing(RequestError):
    """Says, after the run, that its result is stored nowhere: S3 has no bucket of the name that the task gives."""

    code = "output_bucket_missing"
    http_status = 422
    hint = "Nothing of the task is stored. Correct output_bucket_name, or make the bucket."
    sentence = "The output bucket of the task does not exist"

    @property
    def detail(self) -> list[dict[str, Any]]:
        return [{"type": self.code, "loc": ["body", "output_bucket_name"], "msg": self.message}]


# --- 200, return_code != 0: the task or the algorithm is at fault; a retry will fail again -------------------------


class TaskError(LongshoreError):
    """Ends a task for a reason that lies in the task or in the algorithm."""

    http_status = 200


class InputError(TaskError):
    """Ends a task because of one input; `field` is its place in the task, such as `inputs[2]`."""

    def __init__(self, field: str) -> None:
        super().__init__()
        self.hint = f"See {field} of the task." + (f" {self.hint}" if self.hint else "")


class InputMissing(InputError):
    code = "input_missing"
    sentence = "An input file does not exist"


class InputForbidden(InputError):
    code = "input_forbidden"
    hint = "S3 answers 403 for a missing object too when the role may not list the bucket."
    sentence = "An input file does not exist or may not be read"


class InputPathTaken(InputError):
    code = "input_path_taken"
    hint = "Two files of the inputs have the same path, or one lies where the other needs a folder."
    sentence = "An input file can not be written because its path is taken"


class InputPathUnusable(InputError):
    code = "input_path_unusable"
    sentence = "An input file has a path that the file system does not accept"


class InputPathForbidden(InputError):
    code = "input_path_forbidden"
    hint = "Is that folder mounted read-only, or another user's?"
    sentence = "An input file can not be written where the task asks for it"


class DiskFull(TaskError):
    code = "disk_full"
    hint = "Give the container a larger volume, or the task fewer or smaller inputs."
    sentence = "There is not enough disk space for the inputs"


class OutputDiskFull(TaskError):
    code = "output_disk_full"
    hint = "Give the container a larger volume: a zip is packed beside its files, and an answer is on disk twice."
    sentence = "There is not enough disk space for the outputs"


class ZipBroken(InputError):
    code = "zip_broken"
    sentence = "Input zip file could not be extracted"  # contract


class ZipPathsInvalid(InputError):
    code = "zip_paths_invalid"
    sentence = "Zip file contains invalid paths"  # contract


class ZipMethodUnsupported(InputError):
    code = "zip_method_unsupported"
    hint = "Stored, deflate, bzip2 and lzma can be unpacked, the last with a dictionary of up to 128 MiB."
    sentence = "Zip file contains an unsupported compression method"  # contract


class ZipTooLarge(InputError):
    code = "zip_too_large"
    sentence = "Contents of zip file too large"  # contract


class ZipOverLimit(InputError):
    code = "zip_over_limit"
    hint = "It is over MODEL_SERVER_MAX_ARCHIVE_MB, _FILES or _RATIO; the server's log says which."
    sentence = "Contents of zip file too large"  # contract


class ZipEncrypted(InputError):
    code = "zip_encrypted"
    hint = "Upload it without a password."
    sentence = "Input zip file is encrypted"


class UserInvalid(TaskError):
    code = "user_invalid"
    hint = "It is like user, uid, user:group or :group."
    sentence = "Invalid argument for the containers USER instruction"  # contract


class UserMissing(TaskError):
    code = "user_missing"
    hint = "Is the user in the image's /etc/passwd?"
    sentence = "The user defined in the containers USER instruction does not exist"  # contract


class GroupMissing(TaskError):
    code = "group_missing"
    hint = "Is the group in the image's /etc/group?"
    sentence = "The group defined in the containers USER instruction does not exist"  # contract


class CommandMissing(TaskError):
    code = "command_missing"
    hint = "Is the program on the image's PATH, and its interpreter in the image?"
    sentence = "The command defined by the containers ENTRYPOINT and CMD instructions does not exist"  # contract


class CommandForbidden(TaskError):
    code = "command_forbidden"
    hint = "Is the program's file executable?"
    sentence = (  # contract
        "The user defined in the containers USER instruction does not have permission to execute the command "
        "defined by the containers ENTRYPOINT and CMD instructions"
    )


class UserForbidden(TaskError):
    code = "user_forbidden"
    hint = (
        "The server may not run it as ALGORITHM_USER: only root may switch users. Is the container started as another?"
    )
    sentence = CommandForbidden.sentence  # contract: the drop-in does not tell the two apart


class CommandNotRunnable(TaskError):
    code = "command_not_runnable"
    hint = "A script needs a first line such as #!/bin/sh; a program must be built for this machine."
    sentence = "The command defined by the containers ENTRYPOINT and CMD instructions can not be executed"


class ArgumentsUnusable(CommandNotRunnable):
    code = "arguments_unusable"
    hint = "Its arguments and variables are too long, or hold a character that they may not."


class AlgorithmFailed(TaskError):
    """Says that the algorithm ended with a code other than 0; 128 + n stands for signal n, as in a shell."""

    code = "algorithm_failed"
    hint = "Its last lines on stderr are in user_process_last_stderr_lines."

    def __init__(self, exit_code: int) -> None:
        self.exit_code = exit_code
        super().__init__()

    @property
    def message(self) -> str:
        try:
            ended_by = signal.Signals(self.exit_code - 128).name
        except ValueError:
            return f"The algorithm ended with exit code {self.exit_code}"
        if self.exit_code == 128 + signal.SIGKILL:
            return "The algorithm was killed; it may have used more memory than there is"
        return f"The algorithm was ended by {ended_by}"

    @property
    def return_code(self) -> int:
        return self.exit_code

    @property
    def user_message(self) -> str:
        return ""  # contract: platforms then show the algorithm's last line on stderr


class TimeLimitExceeded(TaskError):
    code = "time_limit_exceeded"
    sentence = "Time limit exceeded"  # contract

    def __init__(self, seconds: float) -> None:
        super().__init__()
        self.hint = (
            f"The limit was {seconds:g} s. A task's own `timeout` sets it; MODEL_SERVER_TIMEOUT does for a task "
            "that names none."
        )


class InvokeUnreachable(TaskError):
    code = "invoke_unreachable"
    hint = "The algorithm's server did not take the connection to its port."
    sentence = "Could not connect to invoke endpoint"  # contract


class InvokeBroken(TaskError):
    code = "invoke_broken"
    hint = "The algorithm's server closed the connection, ended, or answered what is no HTTP."
    sentence = "HTTP error calling invoke endpoint"  # contract


class InvokeRefused(TaskError):
    """Says that the algorithm's server answered a task with another status than 201."""

    code = "invoke_refused"
    hint = "The last lines on stderr are in user_process_last_stderr_lines."
    sentence = "Invoke endpoint did not return status 201"

    def __init__(self, status: int) -> None:
        super().__init__()
        self.hint = f"It was {status}. {self.hint}"

    @property
    def user_message(self) -> str:
        return ""  # contract: platforms then show the algorithm's last line on stderr


class OfTarball:
    """Names in an error's sentence the tarball that it is about: `which` is "model" or "ground truth"."""

    sentence: ClassVar[str]

    def __init__(self, which: str) -> None:
        self.which = which
        super().__init__()

    @property
    def message(self) -> str:
        return f"Could not set up {self.which}: {self.sentence}"


class TarballError(OfTarball, TaskError):
    """Ends the set-up for a reason that lies in a tarball."""


class TarballBroken(TarballError):
    code = "tarball_broken"
    hint = "The server's log names the fault."
    sentence = "Tarfile could not be extracted"  # contract


class TarballMissing(TarballError):
    code = "tarball_missing"
    sentence = "Tarfile does not exist"


class TarballForbidden(TarballError):
    code = "tarball_forbidden"
    hint = "S3 answers 403 for a missing object too when the role may not list the bucket."
    sentence = "Tarfile does not exist or may not be read"


class TarballTooLarge(TarballError):
    code = "tarball_too_large"
    hint = "Give the container a larger volume."
    sentence = "Tarfile does not fit on the disk"


class TarballOverLimit(TarballError):
    code = "tarball_over_limit"
    hint = "It is over MODEL_SERVER_MAX_ARCHIVE_MB, _FILES or _RATIO; the server's log says which."
    sentence = "Contents of tarfile too large"


class PortTaken(TaskError):
    """Says that somebody else listens where the algorithm's own server is to listen."""

    code = "port_taken"
    hint = "ALGORITHM_PORT names another port, for the program too."
    sentence = "The port of the algorithm's server is taken"

    def __init__(self, port: int) -> None:
        super().__init__()
        self.hint = f"It is {port}. {self.hint}"


class ServerNotStarted(TaskError):
    """Ends the set-up because the algorithm's own server could not be started; `why` is for the log and the hint."""

    code = "server_not_started"
    sentence = "Failed to start the algorithm container's inference server"  # contract

    def __init__(self, why: str) -> None:
        self.why = self.hint = why
        super().__init__()


class ServerNotHealthy(TaskError):
    """Ends the set-up because the algorithm's own server did not become healthy in time."""

    code = "server_not_healthy"
    hint = "ALGORITHM_START_TIMEOUT and ALGORITHM_HEALTH_TIMEOUT set the two limits."

    def __init__(self, start_seconds: float, call_seconds: float) -> None:
        self.start_seconds = start_seconds
        self.call_seconds = call_seconds
        super().__init__()

    @property
    def message(self) -> str:
        return (  # contract
            "The algorithm container's inference server didn’t pass the health check within "
            f"{self.start_seconds:.0f} seconds or the /health endpoint took to long to respond "
            f"({self.call_seconds:.0f} seconds per call). Verify that the container starts correctly and that "
            "/health responds quickly."
        )


class OutputFolderGone(TaskError):
    code = "output_folder_gone"
    hint = "Write into the output folder; do not replace it."
    sentence = "The algorithm removed its output folder, or put something else in its place"


class PayloadPathTaken(TaskError):
    code = "payload_path_taken"
    hint = "The input folder held a file of the payload's name when the server started."
    sentence = "The payload can not be written because its path is taken"


class NoOutput(TaskError):
    code = "no_output"
    hint = "The answer to a payload is what the algorithm writes into its output folder."
    sentence = "The algorithm wrote no output file"


class OutputsRefused(TaskError):
    """Says that there are outputs, and that none can be taken; `reasons` says why."""

    code = "outputs_refused"
    sentence = "None of the algorithm's output files can be taken"

    def __init__(self, reasons: list[str]) -> None:
        super().__init__()
        self.hint = f"Of one it is said that {'; of another that '.join(reasons)}."


class TaskSkipped(TaskError):
    code = "task_skipped"
    hint = "Tasks of one list run one after another and stop at the first that fails."
    sentence = "The task was skipped because an earlier task of the same list failed"


# --- 5xx: the server or the platform is at fault; a retry may succeed ----------------------------------------------


class ServerError(LongshoreError):
    """Ends or refuses a task for a reason that lies in us or in the platform."""

    http_status = 503


class InternalError(ServerError):
    code = "internal_error"
    http_status = 500
    hint = "The server's log says what happened; a disk that is full is a likely cause."
    sentence = "An unexpected error occurred"


class MachineLimit(ServerError):
    code = "machine_limit"
    hint = "Are there limits on open files, processes, threads or memory? The server's log says what was refused."
    sentence = "The machine refused the server what it needs for the task"


class NotReady(ServerError):
    code = "not_ready"
    hint = "Wait until GET /ping answers 200."
    sentence = "The server is not ready yet"


class QueueFull(ServerError):
    code = "queue_full"
    hint = "Retry after the seconds in Retry-After; MODEL_SERVER_QUEUE sets how many requests may wait."
    retry_after_seconds = 5
    sentence = "As many requests wait as may wait"


class FoldersNotReset(ServerError):
    code = "folders_not_reset"
    sentence = "The containers input and output directories could not be reset"  # contract


class ProcessesNotEnded(ServerError):
    code = "processes_not_ended"
    sentence = "Processes of an earlier task can not be ended"


class StorageRefused(ServerError):
    code = "storage_refused"
    hint = "Check the server's credentials, region and rights; its log names S3's answer."
    sentence = "S3 refused a request of the server"


class StorageUnavailable(ServerError):
    code = "storage_unavailable"
    sentence = "S3 could not be reached or kept failing"


class TarballUnavailable(OfTarball, ServerError):
    code = "tarball_unavailable"
    hint = "The server's log names S3's answer."
    sentence = "S3 refused it or could not be reached"


class OutputsNotStored(ServerError):
    code = "outputs_not_stored"
    hint = "The server's log names S3's answer."
    sentence = "The outputs could not be uploaded"


class SetupResultNotStored(ServerError):
    code = "setup_result_not_stored"
    hint = "The server's log names S3's answer."
    sentence = "The result of the set-up could not be uploaded"


class ResultNotStored(ServerError):
    code = "result_not_stored"
    hint = "The server's log names S3's answer."
    sentence = "The result of the task could not be uploaded"


NOT_STORED = (ResultNotStored, OutputBucketMissing)
"""What a task ends with that has no result in S3."""


class AlgorithmNotStarted(ServerError):
    code = "algorithm_not_started"
    hint = "The machine refused a new process: are there limits on processes, open files or memory?"
    sentence = "The algorithm could not be started"


class Interrupted(ServerError):
    code = "interrupted"
    hint = "The container was asked to stop; send the task again."
    sentence = "The task was interrupted because the container is stopping"


class WorkerLost(ServerError):
    code = "worker_lost"
    hint = "A process of the server was killed, perhaps because memory ran out; send the task again."
    sentence = "The server process that ran the task ended unexpectedly"


class ClientLeft(ServerError):
    code = "client_left"
    hint = "Whoever sent the task closed the connection before the answer."
    sentence = "The task was cancelled because its client closed the connection"


# --- at start: the set-up was wrong -------------------------------------------------------------------------------


class SettingsInvalid(Exception):
    """Stops the start; `lines` has one sentence for each variable."""

    EXIT_CODE = 78  # EX_CONFIG of sysexits.h

    def __init__(self, lines: list[str]) -> None:
        super().__init__("\n".join(lines))
        self.lines = lines


class StartFailed(Exception):
    """Stops the start for a reason that lies in the machine; the message is one sentence."""

    EXIT_CODE = 1


class FolderInUse(StartFailed):
    """Stops the start because another server has a task folder."""


class ConfigurationInvalid(StartFailed):
    """Stops a job because of a file that SageMaker writes for it, or of what that asks for."""

    EXIT_CODE = 78
