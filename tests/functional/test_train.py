"""The command `train`: what the program is told, what it prints, how it ends, and what SageMaker is told of that."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from job_rig import Job, beneath
from rig import CONTAINER, DEADLINE_SECONDS, KEY, algorithm, is_running, pid_in, wait_until

PRINT_ENVIRONMENT = [sys.executable, "-c", "import os; print(*map('='.join, os.environ.items()), sep='\\0', end='\\0')"]
PRINT_ARGUMENTS = 'printf "%s\\0" "$@"'


def environment_of(ended: Any) -> dict[str, str]:
    return dict(entry.split("=", 1) for entry in ended.stdout.decode().split("\0")[:-1])


def arguments_of(ended: Any) -> list[str]:
    return ended.stdout.decode().split("\0")[:-1]


# -- what the program is told


def test_hyperparameters_are_arguments_after_those_of_the_command(job: Job) -> None:
    job.config("hyperparameters.json", {"epochs": "10", "b c": "ü $HOME '\"", "x": "1", "flag": "true", "empty": ""})
    ended = job.run("train", PRINT_ARGUMENTS, "--extra", "", "--help")
    assert ended.returncode == 0, ended.stderr
    assert arguments_of(ended) == ["--extra", "", "--help"] + [
        *("--b c", "ü $HOME '\"", "--empty", "", "--epochs", "10", "--flag", "True", "-x", "1")
    ]


def test_variables_too_long_for_linux_are_left_out_and_named(job: Job) -> None:
    job.config("hyperparameters.json", {f"name{number}": "x" * 2500 for number in range(100)})
    ended = job.run("train", PRINT_ENVIRONMENT)
    assert ended.returncode == 0, ended.stderr
    told = environment_of(ended)
    assert told["SM_HP_NAME99"] == "x" * 2500
    assert not {"SM_HPS", "SM_TRAINING_ENV", "SM_USER_ARGS"} & told.keys()
    assert b"not set: SM_HPS, SM_TRAINING_ENV, SM_USER_ARGS\n" in ended.stderr


def test_a_shell_line_finds_its_arguments(job: Job) -> None:
    job.config("hyperparameters.json", {"epochs": "10"})
    ended = job.run("train", None, "one", env={"ALGORITHM_TRAIN_ENTRYPOINT": 'echo "$@"'})
    assert ended.stdout == b"one --epochs 10\n"


def test_the_variables_of_the_training_toolkit_are_there(job: Job) -> None:
    job.config("hyperparameters.json", {"batch-size": "256", "lr": "1e-4", "name": "adam", "sagemaker_region": "x"})
    channel = {"TrainingInputMode": "File", "S3DistributionType": "FullyReplicated", "RecordWrapperType": "None"}
    job.config("inputdataconfig.json", {"training": channel, "testing": channel})
    job.config(
        "resourceconfig.json",
        {"current_host": "algo-2", "hosts": ["algo-1", "algo-2"], "network_interface_name": "eth1", "more": 1},
    )
    ended = job.run("train", PRINT_ENVIRONMENT, "--extra", env={"SM_MODEL_DIR": "/not/this", "KEPT": "as it is"})
    told, ml = environment_of(ended), str(job.ml)
    expected = {
        "KEPT": "as it is",
        "SM_MODEL_DIR": f"{ml}/model",
        "SM_INPUT_DIR": f"{ml}/input",
        "SM_INPUT_CONFIG_DIR": f"{ml}/input/config",
        "SM_OUTPUT_DIR": f"{ml}/output",
        "SM_OUTPUT_DATA_DIR": f"{ml}/output/data/algo-2",
        "SM_CHANNELS": '["testing","training"]',
        "SM_CHANNEL_TRAINING": f"{ml}/input/data/training",
        "SM_CHANNEL_TESTING": f"{ml}/input/data/testing",
        "SM_HPS": '{"batch-size":256,"lr":0.0001,"name":"adam"}',
        "SM_HP_BATCH-SIZE": "256",
        "SM_HP_LR": "1e-4",
        "SM_HP_NAME": "adam",
        "SM_USER_ARGS": '["--extra","--batch-size","256","--lr","1e-4","--name","adam"]',
        "SM_HOSTS": '["algo-1","algo-2"]',
        "SM_CURRENT_HOST": "algo-2",
        "SM_NETWORK_INTERFACE_NAME": "eth1",
    }
    assert told | expected == told
    assert int(told["SM_NUM_CPUS"]) >= 1
    assert int(told["SM_NUM_GPUS"]) >= 0
    assert json.loads(told["SM_RESOURCE_CONFIG"])["more"] == 1
    assert json.loads(told["SM_INPUT_DATA_CONFIG"])["training"] == channel
    whole = json.loads(told["SM_TRAINING_ENV"])
    assert whole["channel_input_dirs"]["training"] == f"{ml}/input/data/training"
    assert whole["hyperparameters"]["batch-size"] == 256
    assert Path(told["SM_OUTPUT_DATA_DIR"]).is_dir()


@pytest.mark.parametrize("content", [None, "", " \n", "null", "{}"])
def test_files_that_are_missing_or_empty_say_nothing(job: Job, content: str | None) -> None:
    if content is not None:
        for name in ("hyperparameters.json", "inputdataconfig.json", "resourceConfig.json"):
            job.config(name, content)
    told = environment_of(job.run("train", PRINT_ENVIRONMENT))
    assert (told["SM_HPS"], told["SM_CHANNELS"], told["SM_HOSTS"]) == ("{}", "[]", '["algo-1"]')


def test_a_file_whose_name_is_in_another_case_is_read(job: Job) -> None:
    job.config("resourceConfig.json", {"current_host": "one", "hosts": ["one"]})
    assert environment_of(job.run("train", PRINT_ENVIRONMENT))["SM_CURRENT_HOST"] == "one"


@pytest.mark.parametrize("name", ["hyperparameters.json", "inputdataconfig.json", "resourceconfig.json"])
@pytest.mark.parametrize("content", ["{", "[]", '"text"', "[" * 100_000, "\0"])
def test_a_file_that_is_no_json_object_fails_the_job_and_is_named(job: Job, name: str, content: str) -> None:
    job.config(name, content)
    ended = job.run("train", "echo it ran")
    assert (ended.returncode, ended.stdout) == (78, b"")
    assert name in job.failure.read_text()
    assert name in ended.stderr.decode()
    assert b"Traceback" not in ended.stderr


def test_a_channel_that_is_a_pipe_is_refused(job: Job) -> None:
    job.config("inputdataconfig.json", {"training": {"TrainingInputMode": "Pipe"}})
    ended = job.run("train", "echo it ran")
    assert (ended.returncode, ended.stdout) == (78, b"")
    sentence = "The channel training has TrainingInputMode Pipe, which is not supported: use File or FastFile"
    assert job.failure.read_text() == sentence
    assert ended.stderr.decode() == sentence + "\n"


def test_credentials_are_passed_and_our_own_variables_withheld(job: Job) -> None:
    told = environment_of(job.run("train", PRINT_ENVIRONMENT))
    assert told["AWS_ACCESS_KEY_ID"] == "AKIAEXAMPLE"
    assert KEY.hex() not in str(told)
    ours = {name for name in told if name.startswith(("ALGORITHM_", "MODEL_SERVER_", "GRAND_CHALLENGE_"))}
    assert ours == {"ALGORITHM_INPUT_PATH", "ALGORITHM_OUTPUT_PATH"}


# -- what it prints


NOISE = "\n".join(
    [
        "import os, sys",
        "for stream in (1, 2):",
        "    with open(stream, 'wb', closefd=False) as out:",
        "        out.write(bytes(range(256)) * 99 + b'\\r 10%\\r 20%\\r\\n' + b'x' * 1_000_000)",
    ]
)


def test_output_passes_byte_for_byte_and_nothing_of_ours_is_in_it(job: Job) -> None:
    alone = subprocess.run([sys.executable, "-c", NOISE], capture_output=True, check=True)
    ended = job.run("train", [sys.executable, "-c", NOISE])
    assert ended.returncode == 0
    assert (ended.stdout, ended.stderr) == (alone.stdout, alone.stderr)


def test_output_passes_at_once(job: Job) -> None:
    process = job.start("train", "printf out; printf err >&2; exec sleep 60")
    assert process.stdout.read(3) == b"out"
    assert process.stderr.read(3) == b"err"
    assert process.poll() is None


def test_a_reader_that_is_slow_does_not_keep_a_signal_from_the_program(job: Job) -> None:
    process = job.start("train", "while :; do echo 0123456789 >&2; done")
    process.stderr.read(1)
    process.send_signal(signal.SIGTERM)
    _, stderr = process.communicate(timeout=DEADLINE_SECONDS)
    assert process.returncode == 143
    assert b"longshore: The algorithm was ended by SIGTERM (exit code 143)" in stderr


def test_a_stderr_that_nobody_reads_costs_the_lines_only(job: Job) -> None:
    process = job.start("train", "i=0; while [ $i -lt 9999 ]; do echo 0123456789 >&2; i=$((i + 1)); done; exit 5")
    process.stderr.close()
    assert process.wait(DEADLINE_SECONDS) == 5
    assert "0123456789" in job.failure.read_text()


def test_a_stderr_that_is_not_read_does_not_keep_a_signal_from_the_program(job: Job) -> None:
    script = (
        "import os, signal, sys, threading, time\n"
        "signal.signal(signal.SIGTERM, lambda *_: (open(sys.argv[1], 'w').close(), os._exit(0)))\n"
        "threading.Thread(target=lambda: os.write(2, b'x' * 400000), daemon=True).start()\n"
        "print('running', flush=True)\n"
        "while True: time.sleep(0.1)\n"
    )
    process = job.start("train", [sys.executable, "-c", script, str(job.root / "checkpoint")])
    assert process.stdout.readline() == b"running\n"
    process.send_signal(signal.SIGTERM)
    assert process.wait(DEADLINE_SECONDS) == 0
    assert (job.root / "checkpoint").exists()


def test_a_stderr_that_is_not_read_does_not_keep_the_note_from_sagemaker(job: Job) -> None:
    process = job.start("train", "head -c 100000 /dev/zero | tr '\\0' x >&2; exit 3")
    assert process.wait(2 * DEADLINE_SECONDS) == 3
    assert job.failure.read_text().startswith("The algorithm ended with exit code 3")


@pytest.mark.parametrize("rest", ["curacy=0.9;\n", "curacy=0.9;\nloss=1;\n", "curacy=0.9;"])
def test_a_line_that_a_signal_interrupts_stays_whole(job: Job, rest: str) -> None:
    script = (
        "import os, signal, sys; signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM}); os.write(2, b'ac'); "
        "signal.sigwait({signal.SIGTERM}); os.write(2, sys.argv[1].encode())"
    )
    process = job.start("train", [sys.executable, "-c", script, rest])
    assert process.stderr.read(2) == b"ac"
    process.send_signal(signal.SIGTERM)
    _, stderr = process.communicate(timeout=DEADLINE_SECONDS)
    assert process.returncode == 0
    first, second, *others = stderr.decode().splitlines()
    assert first == "curacy=0.9;"
    assert second == "longshore: Received SIGTERM: the algorithm has 105 s to end"
    assert others == rest.splitlines()[1:]


# -- how it ends


@pytest.mark.parametrize(
    ("script", "code", "sentence"),
    [
        ("exit 0", 0, None),
        ("exit 3", 3, "The algorithm ended with exit code 3"),
        ("kill -9 $$", 137, "The algorithm was killed; it may have used more memory than there is (exit code 137)"),
        ("kill -SEGV $$", 139, "The algorithm was ended by SIGSEGV (exit code 139)"),
        ("kill -TERM $$", 143, "The algorithm was ended by SIGTERM (exit code 143)"),
        ("exit 255", 255, "The algorithm ended with exit code 255"),
    ],
)
def test_the_exit_code_is_the_algorithms_own(job: Job, script: str, code: int, sentence: str | None) -> None:
    ended = job.run("train", script)
    assert (ended.returncode, ended.stdout) == (code, b"")
    assert ended.stderr.decode() == (f"longshore: {sentence}\n" if sentence else "")
    assert (job.failure.read_text() if job.failure.exists() else None) == sentence


@pytest.mark.parametrize(
    ("argv", "code"),
    [
        (["/no/such/program"], 127),
        (["/no/such/caf\udce9"], 127),
        (["/etc/passwd"], 126),
        (["/"], 126),
        (["true", "\ud800"], 126),
    ],
)
def test_a_program_that_can_not_be_started_has_a_shells_exit_code(job: Job, argv: list[str], code: int) -> None:
    ended = job.run("train", argv)
    assert ended.returncode == code
    assert job.failure.read_bytes().startswith(argv[0].encode(errors="replace") + b" can not be started. ")
    assert b"Traceback" not in ended.stderr


def test_without_a_program_the_exit_is_78_and_says_so(job: Job) -> None:
    ended = job.run("train", None)
    assert ended.returncode == 78
    assert ended.stderr.decode().startswith("ALGORITHM_TRAIN_ENTRYPOINT: names no command")
    assert job.failure.read_text() == ended.stderr.decode().strip()


def test_a_bad_setting_is_told_to_sagemaker_too(job: Job) -> None:
    ended = job.run("train", "exit 0", env={"ALGORITHM_MAX_MEMORY_MB": "much"})
    assert ended.returncode == 78
    assert job.failure.read_text().startswith("ALGORITHM_MAX_MEMORY_MB: ")


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("code", [0, 7])
def test_a_signal_reaches_the_whole_group_with_time_for_a_checkpoint(job: Job, signum: int, code: int) -> None:
    process = job.start("train", [algorithm("saves_a_checkpoint_on_sigterm")], env={"CODE": str(code)})
    assert process.stdout.readline() == b"running\n"
    process.send_signal(signum)
    process.communicate(timeout=DEADLINE_SECONDS)
    assert process.returncode == code
    assert sorted(path.name for path in (job.ml / "model").iterdir()) == ["child", "parent"]
    assert job.failure.exists() == bool(code)


def test_a_signal_before_the_program_runs_is_not_lost(job: Job) -> None:
    process = job.start("train", "exec sleep 60")
    status = Path(f"/proc/{process.pid}/status")
    held = "SigBlk:\t0000000000004007"  # while it begins: on a busy machine that may go unseen
    wait_until(lambda: held in status.read_text() or any(beneath(process.pid)), "held signals")
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=DEADLINE_SECONDS)
    assert process.returncode == 143


def test_a_program_that_ignores_the_signal_is_killed_with_all_that_it_started(tmp_path: Path) -> None:
    script = (
        "import sys; from model_server.passthrough import run_through; from model_server.program import Program; "
        "print(run_through(Program(sys.argv[1:], {}), checkpoint_seconds=0.3)[:3])"
    )
    program = 'trap "" TERM; setsid sleep 100 & echo $! >pid; echo $$ >own; sleep 100; sleep 100; sleep 100'
    process = subprocess.Popen(
        [sys.executable, "-c", script, "/bin/sh", "-c", program],
        env={"PYTHONPATH": str(CONTAINER), "PATH": os.environ["PATH"]},
        cwd=tmp_path,
        stdout=subprocess.PIPE,
    )
    pids = [pid_in(tmp_path / "pid"), pid_in(tmp_path / "own")]
    try:
        process.send_signal(signal.SIGTERM)
        stdout, _ = process.communicate(timeout=DEADLINE_SECONDS)
        assert stdout == b"(137, 15, True)\n"
        assert not any(map(is_running, pids))
    finally:
        for pid in pids:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)


@pytest.mark.parametrize("start", ["sleep 120 &", "setsid sleep 120 &"])
def test_what_the_program_leaves_behind_is_ended_and_does_not_hold_up_the_end(job: Job, start: str) -> None:
    """It has both pipes in its hands."""
    ended = job.run("train", f"{start} echo $! >{job.root}/pid; echo last words >&2; exit 4")
    assert ended.returncode == 4
    assert not is_running(pid_in(job.root / "pid"))
    assert job.failure.read_text().endswith("last words")


def test_a_zombie_of_the_group_that_nobody_reaps_is_not_waited_for(job: Job) -> None:
    """Its parent has left the group, and lives; what obeyed the word to stop is not blamed for it."""
    parent = job.root / "parent"
    process = job.start("train", f"(: & exec setsid sh -c 'echo $$ >{parent}; exec sleep 120') & sleep 120")
    pid_in(parent)
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=DEADLINE_SECONDS)
    assert process.returncode == 143
    assert job.failure.read_text().startswith("The algorithm was ended by SIGTERM")
    assert not is_running(pid_in(parent))


def test_orphans_are_reaped_while_it_trains(job: Job) -> None:
    orphan = "(sh -c 'echo $$ >new; mv new pid; exec sleep 0.1' &); "
    wait = "i=0; while {}; do sleep 0.05; i=$((i + 1)); [ $i -lt 200 ] || exit {}; done; "
    started, gone = wait.format("[ ! -e pid ]", 8), wait.format("[ -e /proc/$(cat pid) ]", 9)
    ended = job.run("train", orphan + started + gone, cwd=job.root)
    assert ended.returncode != 8, "it did not start"
    assert ended.returncode == 0, "its zombie stayed"


def test_a_job_that_a_test_leaves_running_is_ended_with_its_algorithm(job: Job) -> None:
    process = job.start("train", f"setsid sleep 120 & echo $! >{job.root}/other; echo $$ >{job.root}/own; sleep 120")
    pids = [process.pid, pid_in(job.root / "own"), pid_in(job.root / "other")]
    job.end()
    wait_until(lambda: not any(map(is_running, pids)), "their end")


# -- the failure file


def test_the_failure_has_the_last_lines_of_stderr_that_fit(job: Job) -> None:
    ended = job.run("train", 'i=0; while [ $i -lt 500 ]; do echo "line $i ü" >&2; i=$((i + 1)); done; exit 3')
    text = job.failure.read_text()
    first, *lines = text.splitlines()
    assert first == "The algorithm ended with exit code 3"
    assert lines == [f"line {number} ü" for number in range(500 - len(lines), 500)]
    assert 1000 < len(text.encode()) <= 1024
    assert b"line 0 " in ended.stderr


def test_a_failure_is_valid_utf_8_of_at_most_1024_bytes_whatever_was_printed(job: Job) -> None:
    program = [sys.executable, "-c", "import sys; sys.stderr.buffer.write(b'\\xff\\xfe\\x00\\x1b' * 9999); sys.exit(3)"]
    job.run("train", program)
    assert len(job.failure.read_bytes()) <= 1024
    assert job.failure.read_text().startswith("The algorithm ended with exit code 3\n")
    assert not re.search(r"[\x00\x1b]", job.failure.read_text())


def test_the_algorithms_own_failure_stays(job: Job) -> None:
    job.run("train", f"printf 'its own words' >{job.failure}; exit 3")
    assert job.failure.read_bytes() == b"its own words"


@pytest.mark.parametrize("make", ["ln -s {victim} {failure}", ": >{failure}", "mkfifo {failure}"])
def test_no_link_is_followed_and_what_holds_nothing_is_replaced(job: Job, make: str) -> None:
    victim = job.root / "victim"
    victim.write_text("as it was")
    job.run("train", make.format(victim=victim, failure=job.failure) + "; exit 3")
    assert victim.read_text() == "as it was"
    assert job.failure.read_text() == "The algorithm ended with exit code 3"
    assert not job.failure.is_symlink()


@pytest.mark.parametrize(
    "make", ["mkdir {failure}", "rm -r {output}; ln -s {root} {output}", "rm -r {output}; : >{output}"]
)
def test_a_failure_that_can_not_be_written_costs_the_file_only(job: Job, make: str) -> None:
    words = {"failure": job.failure, "output": job.failure.parent, "root": job.root}
    ended = job.run("train", make.format(**words) + "; exit 3")
    assert ended.returncode == 3
    assert b"longshore: The job's failure can not be written: " in ended.stderr
    assert not (job.root / "failure").exists()


# -- folders and users


def test_folders_are_there_and_nothing_is_removed(job: Job) -> None:
    (job.ml / "model").mkdir(parents=True)
    (job.ml / "model" / "before").write_text("")
    (job.ml / "input" / "data").mkdir(parents=True)
    (job.ml / "input" / "data" / "rows").write_text("")
    ended = job.run("train", f"cd {job.ml} && touch model/new output/data/new checkpoints/new")
    assert ended.returncode == 0, ended.stderr
    files = sorted(str(path.relative_to(job.ml)) for path in job.ml.rglob("*") if path.is_file())
    assert files == ["checkpoints/new", "input/data/rows", "model/before", "model/new", "output/data/new"]


@pytest.fixture
def open_job() -> Iterator[Job]:
    """A job in a folder that every user may enter."""
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)
        job = Job(Path(folder))
        yield job
        job.end()


def test_it_trains_as_another_user_whose_files_stay(open_job: Job) -> None:
    script = "id -u; umask 077; echo m >$SM_MODEL_DIR/model; echo why >$SM_OUTPUT_DIR/failure; exit 3"
    uid, gid = (12345, 54321) if os.geteuid() == 0 else (os.geteuid(), os.getegid())
    ended = open_job.run("train", script, env={"ALGORITHM_USER": f"{uid}:{gid}"})
    assert (ended.returncode, ended.stdout) == (3, b"%d\n" % uid)
    assert (open_job.ml / "model" / "model").stat().st_uid == uid
    assert open_job.failure.read_text() == "why\n"


def test_a_user_that_the_server_may_not_switch_to_is_said(open_job: Job) -> None:
    script = (
        "import os, sys; from model_server.exit_note import ExitNote; from model_server.plain_job import run_job; "
        "from model_server.settings import Settings; settings = Settings.from_env(); "
        "os.geteuid() or os.setresuid(12345, 12345, 12345); "  # now: all that is imported may be closed to that user
        "sys.exit(run_job(settings, ['/bin/true'], {}, ExitNote(settings.ml_path, 'failure')))"
    )
    env = open_job.environment | {"PYTHONPATH": str(CONTAINER), "ALGORITHM_USER": "12346"}
    open_job.ml.mkdir()
    open_job.ml.chmod(0o777)
    ended = subprocess.run([sys.executable, "-c", script], env=env, capture_output=True, timeout=DEADLINE_SECONDS)
    assert ended.returncode == 126
    hint = "The server may not run it as ALGORITHM_USER: only root may switch users."
    assert hint in ended.stderr.decode()
    assert hint in open_job.failure.read_text()


def test_another_user_has_the_home_that_the_image_sets(open_job: Job) -> None:
    uid = 12345 if os.geteuid() == 0 else os.geteuid()
    ended = open_job.run("train", 'printf %s "$HOME"', env={"ALGORITHM_USER": str(uid), "HOME": "/data"})
    assert (ended.returncode, ended.stdout) == (0, b"/data")


def test_the_limit_on_memory_holds(job: Job) -> None:
    program = [sys.executable, "-c", "bytearray(500_000_000)"]
    assert job.run("train", program).returncode == 0
    ended = job.run("train", program, env={"ALGORITHM_MAX_MEMORY_MB": "200"})
    assert ended.returncode == 1
    assert job.failure.read_text().endswith("MemoryError")


@pytest.mark.parametrize("user", ["no such user!", "nobody-by-this-name"])
def test_a_user_that_does_not_exist_is_said(job: Job, user: str) -> None:
    assert job.run("train", "exit 0", env={"ALGORITHM_USER": user}).returncode == 78
    assert "USER" in job.failure.read_text()


@pytest.mark.parametrize(
    "resources",
    [
        *({"hosts": 5}, {"hosts": "algo-1"}, {"hosts": ["a", 1]}, {"hosts": ["a\0"]}, {"hosts": ["\ud800"]}),
        *({"current_host": 1}, {"current_host": "../../other"}, {"current_host": "\0"}, {"current_host": "\udcff"}),
    ],
)
def test_hosts_that_can_be_no_names_are_said(job: Job, resources: dict[str, Any]) -> None:
    job.config("resourceconfig.json", resources)
    assert job.run("train", "exit 0").returncode == 78
    assert "resourceconfig.json" in job.failure.read_text()


@pytest.mark.parametrize("name", ["a\0", "\ud800", "../a", ""])
def test_a_channel_that_can_be_no_folder_is_said(job: Job, name: str) -> None:
    job.config("inputdataconfig.json", {name: {"TrainingInputMode": "File"}})
    ended = job.run("train", "echo it ran")
    assert (ended.returncode, ended.stdout) == (78, b"")
    assert job.failure.read_text() == "The name of a channel can not be that of a folder"


@pytest.mark.parametrize("value", ["x" * 200_000, "\ud800"])
def test_arguments_that_can_not_be_passed_on_are_said(job: Job, value: str) -> None:
    job.config("hyperparameters.json", {"long": value})
    assert job.run("train", "exit 0").returncode == 126
    assert "too long, or hold a character that they may not" in job.failure.read_text()
