"""The command `process` with the algorithm's own arguments: what it is given, and what SageMaker is told of its end."""

from __future__ import annotations

import base64
import json
import os
import signal
import stat
import sys
from pathlib import Path
from typing import Any

import pytest
from job_rig import Job
from rig import DEADLINE_SECONDS, KEY, algorithm

PRINT_ARGUMENTS = 'printf "%s\\0" "$@"'


def arguments_of(ended: Any) -> list[bytes]:
    return ended.stdout.split(b"\0")[:-1]


# -- what it is given


@pytest.mark.parametrize("arguments", [[], ["from", "outside"]])
@pytest.mark.parametrize(
    ("entrypoint", "cmd", "alone", "given"),
    [
        (["echo", "entry"], ["cmd"], "entry cmd", "entry from outside"),
        (["echo", "entry"], None, "entry", "entry from outside"),
        (None, ["echo", "cmd"], "cmd", None),
        (["echo", "entry"], "cmd", "entry /bin/sh -c cmd", "entry from outside"),
    ],
)
@pytest.mark.parametrize("recorded_by", ["author", "platform"])
def test_entrypoint_and_arguments_combine_as_docker_combines_them(
    job: Job,
    entrypoint: list[str] | None,
    cmd: list[str] | str | None,
    alone: str,
    given: str | None,
    arguments: list[str],
    recorded_by: str,
) -> None:
    if recorded_by == "author":
        pairs = [("ALGORITHM_ENTRYPOINT", entrypoint), ("ALGORITHM_CMD", cmd)]
        env = {name: value if isinstance(value, str) else json.dumps(value) for name, value in pairs if value}
    else:
        prefix = "GRAND_CHALLENGE_COMPONENT_"
        pairs = [(f"{prefix}ENTRYPOINT_B64J", entrypoint), (f"{prefix}CMD_B64J", cmd)]
        env = {name: base64.b64encode(json.dumps(value).encode()).decode() for name, value in pairs}
    ended = job.run("process", None, *arguments, env=env)
    expected = given if arguments else alone
    if expected is None:  # the arguments are the command, and there is no program `from`
        assert ended.returncode == 127
    else:
        assert (ended.returncode, ended.stdout.decode()) == (0, expected + "\n")


def test_an_entrypoint_in_shell_form_takes_no_arguments_and_says_so(job: Job) -> None:
    ended = job.run("process", None, "word", env={"ALGORITHM_ENTRYPOINT": 'echo "entry $@"'})
    assert (ended.returncode, ended.stdout) == (0, b"entry \n")
    assert ended.stderr == b"longshore: The arguments are not used: the ENTRYPOINT is in shell form, which takes none\n"


@pytest.mark.parametrize(
    "arguments",
    [
        ["--help"],
        ["-h"],
        ["--version", "--", "--", "-x"],
        ["", " ", "a\nb", "'", '"$HOME"', "*", "ü", "--a=b", "--a", "-5", "x" * 256],
        ["word", "--tasks", "x"],
        [b"\xff\xfe", b"--\xff=1"],
        ["--input_path"],
    ],
)
def test_every_argument_is_passed_on_as_it_is_and_in_order(job: Job, arguments: list[str | bytes]) -> None:
    ended = job.run("process", PRINT_ARGUMENTS, *arguments)
    assert ended.returncode == 0, ended.stderr
    assert arguments_of(ended) == [os.fsencode(argument) for argument in arguments]


def test_an_ordinary_argparse_program_works_as_it_stands(job: Job) -> None:
    script = (
        "import argparse; p = argparse.ArgumentParser(); p.add_argument('--ratio', type=float); "
        "p.add_argument('files', nargs='*'); print(p.parse_args())"
    )
    ended = job.run("process", [sys.executable, "-c", script], "--ratio", "0.2", "--", "--odd")
    assert ended.stdout == b"Namespace(ratio=0.2, files=['--odd'])\n"


def test_the_jobs_data_are_the_input_and_the_output_folder(job: Job) -> None:
    (job.ml / "processing" / "input" / "set").mkdir(parents=True)
    (job.ml / "processing" / "input" / "set" / "row").write_text("1,2")
    ended = job.run("process", f"cp {job.input}/set/row {job.output}/copy")
    assert ended.returncode == 0, ended.stderr
    assert (job.ml / "processing" / "output" / "copy").read_text() == "1,2"
    assert not (job.ml / "processing" / "output").is_symlink()
    assert ended.stderr == b""


def test_a_working_directory_that_becomes_a_link_is_the_jobs_folder(job: Job) -> None:
    job.output.mkdir()
    ended = job.run("process", "echo made > result", cwd=job.output)
    assert ended.returncode == 0, ended.stderr
    assert (job.ml / "processing" / "output" / "result").read_text() == "made\n"


def test_folders_of_the_image_are_as_they_were_when_the_job_is_over(job: Job) -> None:
    job.input.mkdir(mode=0o750)
    ended = job.run("process", f"test -L {job.input} && test -L {job.output}")
    assert ended.returncode == 0
    assert stat.S_IMODE(os.lstat(job.input).st_mode) == 0o750
    assert job.input.is_dir()
    assert not job.output.is_symlink()


@pytest.mark.parametrize(
    "form", [["--input_path", "{0}", "--output_path", "{1}"], ["--input_path={0}", "--output_path={1}"]]
)
def test_arguments_move_the_folders_and_are_passed_on_too(job: Job, form: list[str]) -> None:
    source, destination = job.root / "other source", job.root / "other destination"
    source.mkdir()
    (source / "row").write_text("1")
    arguments = [word.format(source, destination) for word in form]
    ended = job.run("process", f"cp {job.input}/row {job.output}/copy; {PRINT_ARGUMENTS}", *arguments)
    assert ended.returncode == 0, ended.stderr
    assert (destination / "copy").read_text() == "1"
    assert arguments_of(ended) == [argument.encode() for argument in arguments]


@pytest.mark.parametrize("form", ["{}", "{}/.", "{}/../output", "/{}"])
def test_arguments_that_name_the_folders_themselves_move_nothing(job: Job, form: str) -> None:
    (job.ml / "processing" / "input" / "set").mkdir(parents=True)
    arguments = ["--input_path", str(job.input / "set"), "--output_path", form.format(job.output)]
    ended = job.run("process", f'test -d "$2" && echo done >{job.output}/result', *arguments)
    assert (ended.returncode, ended.stderr) == (0, b"")
    assert (job.ml / "processing" / "output" / "result").read_text() == "done\n"


@pytest.mark.parametrize(
    "arguments",
    [
        ["--output_path", ""],
        ["--output_path="],
        ["--output_path", "--verbose"],
        ["--output_path", "s3://bucket/key"],
        ["--output_path", "other", "--output_path", "s3://bucket/key"],
        ["--", "--output_path", "other"],
    ],
)
def test_arguments_that_name_no_local_folder_move_nothing(job: Job, arguments: list[str]) -> None:
    work = job.root / "work"
    work.mkdir()
    ended = job.run("process", f"echo done >{job.output}/result", *arguments, cwd=work)
    assert (ended.returncode, ended.stderr) == (0, b"")
    assert (job.ml / "processing" / "output" / "result").read_text() == "done\n"
    assert list(work.iterdir()) == []


def test_the_last_of_an_arguments_values_is_the_one(job: Job) -> None:
    for name in ("first", "last"):
        (job.root / name).mkdir()
        (job.root / name / "name").write_text(name)
    arguments = ["--input_path", str(job.root / "first"), f"--input_path={job.root}/last"]
    ended = job.run("process", f"cat {job.input}/name", *arguments, "--", "--input_path", str(job.root / "first"))
    assert (ended.returncode, ended.stdout) == (0, b"last")


@pytest.mark.parametrize("is_there", [True, False])
def test_a_folder_outside_that_the_output_moves_to_keeps_its_mode_and_is_warned_of(job: Job, is_there: bool) -> None:
    folder = job.root / "results"
    if is_there:
        folder.mkdir(mode=0o755)
    env = {"ALGORITHM_USER": str(os.geteuid())}
    ended = job.run("process", f"echo done >{job.output}/result", "--output_path", "results", cwd=job.root, env=env)
    assert ended.returncode == 0
    assert ended.stderr.decode() == f"longshore: {folder} is not below {job.ml}: SageMaker uploads nothing from there\n"
    assert (folder / "result").read_text() == "done\n"
    assert stat.S_IMODE(folder.stat().st_mode) == (0o755 if is_there else 0o777)


@pytest.mark.parametrize("value", [".", ".."])
def test_a_folder_that_holds_output_itself_is_not_what_it_leads_to(job: Job, value: str) -> None:
    (job.root / "work").mkdir()
    mode = stat.S_IMODE(job.root.stat().st_mode)
    cwd = job.root if value == "." else job.root / "work"
    env = {"ALGORITHM_USER": str(os.geteuid())}
    ended = job.run("process", f"echo done >{job.output}/result", "--output_path", value, cwd=cwd, env=env)
    assert ended.returncode == 0
    assert b"SageMaker uploads nothing from there" in ended.stderr
    assert (job.ml / "processing" / "output" / "result").read_text() == "done\n"
    assert stat.S_IMODE(job.root.stat().st_mode) == mode


def test_a_folder_whose_name_has_a_dot_is_a_folder(job: Job) -> None:
    folder = job.ml / "processing" / "output" / "v1.2"
    folder.mkdir(parents=True)
    assert job.run("process", f"echo done >{job.output}/result", "--output_path", str(folder)).returncode == 0
    assert (folder / "result").read_text() == "done\n"


def test_a_folder_that_holds_something_stays_and_the_program_is_told_the_true_one(job: Job) -> None:
    job.input.mkdir()
    (job.input / "kept").write_text("")
    ended = job.run("process", f"ls {job.input}; echo $ALGORITHM_INPUT_PATH; echo $ALGORITHM_OUTPUT_PATH")
    true_one = job.ml / "processing" / "input"
    assert ended.stdout.decode() == f"kept\n{true_one}\n{job.output}\n"
    assert ended.stderr.decode() == f"longshore: {job.input} does not lead to {true_one}: Directory not empty\n"
    assert (job.input / "kept").exists()


STRAY = "mkdir {0}/set; echo new >{0}/set/result; ln -s set {0}/link; mkfifo {0}/pipe; echo more >>{0}/changed"


def test_results_in_a_folder_that_can_be_no_link_are_stored_all_the_same(job: Job) -> None:
    job.output.mkdir()
    for name in ("mine", "changed"):
        (job.output / name).write_text("before ")
    destination = job.ml / "processing" / "output"
    ended = job.run("process", STRAY.format(job.output))
    assert ended.returncode == 0
    assert f"2 files of {job.output} are copied to {destination}" in ended.stderr.decode()
    assert f"2 entries of {job.output} are not copied: they are no files, nor links to files" in ended.stderr.decode()
    kept = {str(path.relative_to(destination)): path.read_text() for path in destination.rglob("*") if path.is_file()}
    assert kept == {"set/result": "new\n", "changed": "before more\n"}


@pytest.mark.parametrize(("code", "job_code"), [(0, 1), (3, 3)])
def test_results_that_can_not_be_stored_fail_the_job(job: Job, code: int, job_code: int) -> None:
    job.output.mkdir()
    (job.output / "mine").write_text("")
    destination = job.ml / "processing" / "output"
    script = f"echo result >{job.output}/result; rm -r {destination}; touch {destination}; exit {code}"
    ended = job.run("process", script)
    assert ended.returncode == job_code
    sentence = f"What the algorithm wrote to {job.output} could not be copied to {destination}: "
    assert job.message.read_text().startswith(sentence) == (code == 0)  # the algorithm's own failure is said first
    assert sentence in ended.stderr.decode()


def test_a_file_in_the_place_of_the_output_fails_the_job(job: Job) -> None:
    ended = job.run("process", f"rm {job.output}; echo result >{job.output}")
    assert ended.returncode == 1
    destination = job.ml / "processing" / "output"
    sentence = f"What the algorithm wrote to {job.output} could not be copied to {destination}: Not a directory"
    assert job.message.read_text() == sentence
    assert sentence in ended.stderr.decode()


@pytest.mark.parametrize("is_there", [True, False])
def test_an_output_path_that_is_a_files_name_becomes_no_folder(job: Job, is_there: bool) -> None:
    output = job.ml / "processing" / "output"
    file = output / ("result" if is_there else "result.json")
    if is_there:
        output.mkdir(parents=True)
        file.touch()
    script = 'echo done >"$2"; echo more >' + f"{job.output}/other"
    assert job.run("process", script, "--output_path", str(file)).returncode == 0
    assert file.read_text() == "done\n"
    assert (output / "other").read_text() == "more\n"


def test_results_in_a_folder_that_replaced_the_link_are_stored_and_stay(job: Job) -> None:
    destination = job.ml / "processing" / "output"
    (destination / "set").mkdir(parents=True)
    for name in ("before", "set/old"):
        (destination / name).write_text("before")
    script = "rm -rf {0}; mkdir -p {0}/set; for name in before set/new; do echo new >{0}/$name; done"
    ended = job.run("process", script.format(job.output))
    assert ended.returncode == 0
    assert f"2 files of {job.output} are copied to {destination}" in ended.stderr.decode()
    kept = {str(path.relative_to(destination)): path.read_text() for path in destination.rglob("*") if path.is_file()}
    assert kept == {"before": "new\n", "set/old": "before", "set/new": "new\n"}
    assert (job.output / "before").exists()


def test_results_in_a_folder_that_replaced_the_link_fail_the_job_where_they_can_not_be_stored(job: Job) -> None:
    destination = job.ml / "processing" / "output"
    script = "rm -rf {0} {1}; mkdir {0}; touch {1}; echo result >{0}/result"
    ended = job.run("process", script.format(job.output, destination))
    assert ended.returncode == 1
    assert job.message.read_text().startswith(f"What the algorithm wrote to {job.output} could not be copied to ")


def test_results_whose_place_the_algorithm_gave_to_others_fail_the_job(job: Job) -> None:
    job.output.mkdir()
    destination = job.ml / "processing" / "output"
    destination.mkdir(parents=True)
    for folder in (job.output, destination):
        (folder / "updated").write_text("before")
    script = "for name in updated same; do echo there >{1}/$name; echo here >{0}/$name; done; echo here >{0}/other"
    ended = job.run("process", script.format(job.output, destination))
    assert ended.returncode == 1
    sentence = f"2 files of {job.output} are not copied to {destination}: "
    assert job.message.read_text().startswith(sentence)
    assert sentence in ended.stderr.decode()
    kept = {path.name: path.read_text() for path in destination.iterdir()}
    assert kept == {"updated": "there\n", "same": "there\n", "other": "here\n"}


def test_a_changed_result_replaces_the_one_of_before(job: Job) -> None:
    job.output.mkdir()
    destination = job.ml / "processing" / "output"
    destination.mkdir(parents=True)
    for folder in (job.output, destination):
        (folder / "table").write_text("before")
    assert job.run("process", f"echo after >{job.output}/table").returncode == 0
    assert (destination / "table").read_text() == "after\n"


@pytest.mark.parametrize("link", ["{destination}/set", "{destination}/name"])
def test_no_link_leads_a_result_out_of_the_jobs_output(job: Job, link: str) -> None:
    job.output.mkdir()
    (job.output / "kept").touch()
    elsewhere, destination = job.root / "elsewhere", job.ml / "processing" / "output"
    elsewhere.mkdir()
    (elsewhere / "name").write_text("as it was")
    target, path = (elsewhere, "set/name") if link.endswith("set") else (elsewhere / "name", "name")
    script = f"mkdir {job.output}/set; echo new >{job.output}/{path}; ln -s {target} {link}"
    assert job.run("process", script.format(destination=destination)).returncode == 1
    assert (elsewhere / "name").read_text() == "as it was"


def test_the_folders_of_the_jobs_outputs_are_there(job: Job) -> None:
    outputs: list[Any] = [
        {"OutputName": name, "S3Output": {"S3Uri": "s3://b/k", "LocalPath": path}, "more": 1}
        for name, path in (("a", "/opt/ml/processing/a"), ("b", "/opt/ml/processing/x/b"), ("c", "/elsewhere/c"))
    ]
    odd = [
        None,
        {},
        {"S3Output": None},
        {"S3Output": {"LocalPath": None}},
        {"S3Output": {"LocalPath": "/opt/ml/../../x"}},
    ]
    job.config("processingjobconfig.json", {"ProcessingOutputConfig": {"Outputs": [*outputs, *odd]}}, "config")
    ended = job.run("process", f"touch {job.ml}/processing/a/1 {job.ml}/processing/x/b/1")
    assert ended.returncode == 0, ended.stderr
    assert not Path("/elsewhere").exists()


@pytest.mark.parametrize(
    ("path", "is_said"),
    [("processing/results", True), ("processing/output", False), ("processing/output/a", False), ("", False)],
)
def test_what_sagemaker_will_not_take_is_said(job: Job, path: str, is_said: bool) -> None:
    output = {"S3Output": {"LocalPath": f"/opt/ml/{path}"}}
    job.config("processingjobconfig.json", {"ProcessingOutputConfig": {"Outputs": [output]}}, "config")
    destination = job.ml / "processing" / "output"
    destination.mkdir(parents=True)
    (destination / "before").touch()
    assert job.run("process", "true").stderr == b""
    ended = job.run("process", f"echo result >{job.output}/result")
    assert ended.returncode == 0
    sentence = f"SageMaker takes none of the job's outputs from {destination}, where the algorithm wrote something"
    assert ended.stderr.decode() == (f"longshore: {sentence}\n" if is_said else "")


@pytest.mark.parametrize("name", ["a\0", "\ud800"])
def test_an_output_that_can_be_no_folder_is_warned_of(job: Job, name: str) -> None:
    output = {"S3Output": {"LocalPath": f"/opt/ml/processing/{name}"}}
    job.config("processingjobconfig.json", {"ProcessingOutputConfig": {"Outputs": [output]}}, "config")
    ended = job.run("process", "echo it ran")
    assert (ended.returncode, ended.stdout) == (0, b"it ran\n")
    assert ended.stderr == b"longshore: The LocalPath of an output can not be that of a folder\n"


@pytest.mark.parametrize(
    "content", ["", "null", "{}", '{"ProcessingOutputConfig": null}', '{"ProcessingOutputConfig": []}']
)
def test_a_configuration_that_says_little_is_enough(job: Job, content: str) -> None:
    job.config("processingjobconfig.json", content, "config")
    assert job.run("process", "exit 0").returncode == 0


def test_a_configuration_that_is_not_json_fails_the_job_and_is_named(job: Job) -> None:
    job.config("processingjobconfig.json", "{", "config")
    assert job.run("process", "exit 0").returncode == 78
    assert job.message.read_text().endswith("processingjobconfig.json is not JSON")


def test_credentials_are_passed_and_our_own_variables_withheld(job: Job) -> None:
    told = job.run("process", ["env", "-0"]).stdout.decode()
    assert "AWS_ACCESS_KEY_ID=AKIAEXAMPLE\0" in told
    assert KEY.hex() not in told
    assert "ALGORITHM_ENTRYPOINT" not in told


def test_nothing_is_removed(job: Job) -> None:
    before = job.ml / "processing" / "output" / "before"
    before.parent.mkdir(parents=True)
    before.write_text("")
    (job.ml / "model").mkdir()
    (job.ml / "model" / "model").write_text("")
    assert job.run("process", "exit 0").returncode == 0
    assert before.exists()
    assert (job.ml / "model" / "model").exists()


# -- what it prints, and how it ends


def test_output_passes_byte_for_byte(job: Job) -> None:
    script = "import os; [os.write(n, bytes(range(256)) * 9 + b'\\r1%\\r') for n in (1, 2)]"
    ended = job.run("process", [sys.executable, "-c", script])
    assert ended.stdout == ended.stderr == bytes(range(256)) * 9 + b"\r1%\r"


@pytest.mark.parametrize(
    ("script", "code", "message"),
    [
        ("exit 0", 0, None),
        ("echo why >&2; exit 3", 3, "The algorithm ended with exit code 3\nwhy"),
        ("kill -9 $$", 137, "The algorithm was killed; it may have used more memory than there is (exit code 137)"),
    ],
)
def test_the_exit_code_is_the_algorithms_own_and_the_message_says_why(
    job: Job, script: str, code: int, message: str | None
) -> None:
    assert job.run("process", script).returncode == code
    assert (job.message.read_text() if job.message.exists() else None) == message


@pytest.mark.parametrize("code", [0, 3])
@pytest.mark.parametrize(
    ("written", "kept"),
    [
        (b"fine", b"fine"),
        ("ü" * 512, "ü" * 512),
        (b"caf\xe9", "caf\ufffd"),
        (b"x" + "ü".encode() * 600, "x" + "ü" * 511),
        (b"\xff" * 2000, "\ufffd" * 341),
    ],
)
def test_the_algorithms_own_message_stays_as_far_as_sagemaker_takes_it(
    job: Job, written: bytes | str, kept: bytes | str, code: int
) -> None:
    (job.root / "words").write_bytes(written if isinstance(written, bytes) else written.encode())
    assert job.run("process", f"cp {job.root}/words {job.message}; exit {code}").returncode == code
    assert job.message.read_bytes() == (kept if isinstance(kept, bytes) else kept.encode())


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM])
def test_both_signals_are_passed_on(job: Job, signum: int) -> None:
    process = job.start("process", [algorithm("saves_a_checkpoint_on_sigterm")], cwd=job.root, env={"CODE": "9"})
    assert process.stdout.readline() == b"running\n"
    process.send_signal(signum)
    process.communicate(timeout=DEADLINE_SECONDS)
    assert process.returncode == 9
    assert (job.root / "parent").exists()
    name = signal.Signals(signum).name
    assert job.message.read_text().startswith(f"The algorithm ended with exit code 9, after {name} had asked it to end")


def test_a_second_signal_is_passed_on_too_and_the_exit_code_kept(job: Job) -> None:
    script = (
        "import signal; both = {signal.SIGINT, signal.SIGTERM}; signal.pthread_sigmask(signal.SIG_BLOCK, both); "
        "print('running', flush=True); print(signal.sigwait(both), flush=True); print(signal.sigwait(both)); exit(9)"
    )
    process = job.start("process", [sys.executable, "-c", script])
    assert process.stdout.readline() == b"running\n"
    for signum in (signal.SIGINT, signal.SIGTERM):
        process.send_signal(signum)
        assert int(process.stdout.readline()) == signum
    assert process.wait(DEADLINE_SECONDS) == 9
    assert job.message.read_text() == "The algorithm ended with exit code 9, after SIGINT had asked it to end"


def test_without_a_command_the_exit_is_78_and_the_message_says_so(job: Job) -> None:
    assert job.run("process", None).returncode == 78
    assert job.message.read_text().startswith("ALGORITHM_ENTRYPOINT: names no command")


@pytest.mark.parametrize(
    ("mode", "group", "is_said"),
    [(0o700, "own", True), (0o755, "other", False), (0o750, "own", False), (0o750, "other", True), (0o750, "", False)],
)
def test_input_that_the_algorithms_user_may_not_read_is_said(job: Job, mode: int, group: str, is_said: bool) -> None:
    folder = job.ml / "processing" / "input"
    folder.mkdir(parents=True)
    folder.chmod(mode)
    gid = {"own": folder.stat().st_gid, "other": folder.stat().st_gid + 12345}.get(group)
    user = f"{os.geteuid() + 12345}" + ("" if gid is None else f":{gid}")
    ended = job.run("process", ["/bin/true"], env={"ALGORITHM_USER": user})
    said = f"longshore: {folder} may not be read by the algorithm's user, who is {user}\n"
    assert (said in ended.stderr.decode()) == is_said


def test_a_job_without_entrypoint_and_arguments_has_its_message_too(job: Job) -> None:
    job.config("processingjobconfig.json", {}, "config")
    assert job.run("longshore", None, "usage").returncode == 78
    assert job.message.read_text().startswith("ALGORITHM_ENTRYPOINT: names no command")


@pytest.mark.parametrize("make", ["mkfifo {}", "ln -s /etc/hostname {}"])
def test_a_message_that_is_no_file_is_removed(job: Job, make: str) -> None:
    assert job.run("process", make.format(job.message)).returncode == 0
    assert not os.path.lexists(job.message)
