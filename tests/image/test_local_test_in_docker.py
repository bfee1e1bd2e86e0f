"""The scripts of local-test/ with Docker, as a user runs them on the sample algorithm's image."""

import json
import re
import shutil
import signal
import subprocess
from pathlib import Path

import pytest
from docker_rig import DEBIAN, docker

from local_scripts import MADE, Script, copy_checkout, run_script, serving
from quiet_port import quiet_port

SEPAL = "sepal_length,sepal_width,petal_length,petal_width"
OTHER_USER = 4711
WAITS = json.dumps(["/bin/sh", "-c", "trap 'sleep 0.3; exit 7' TERM; echo waiting; while :; do sleep 0.1; done"])
"""A program that ends in its own time when it is asked to."""


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return copy_checkout(tmp_path_factory.mktemp("local-test"))


@pytest.fixture(scope="module")
def trained(checkout: Path, sample_image: str) -> Script:
    """A training that has ended, and left its model in the checkout's test-dir."""
    return run_script(checkout, "train-local.sh", sample_image)


@pytest.fixture
def test_dir(checkout: Path, tmp_path: Path) -> Path:
    copy = tmp_path / "a test-dir"
    shutil.copytree(checkout / "local-test" / "test-dir", copy, ignore=MADE)
    return copy


def containers_of(script: Script) -> str:
    return docker("ps", "--all", "--quiet", "--filter", f"name=longshore.{script.process.pid}.")


def await_nothing_left(script: Script) -> None:
    script.await_nothing_left()
    assert containers_of(script) == ""


def test_the_sample_trains_its_tree_and_serves_it(
    checkout: Path, trained: Script, sample_image: str, tmp_path: Path
) -> None:
    assert trained.process.returncode == 0, trained.said
    assert "accuracy=0.96;\n" in trained.stdout
    await_nothing_left(trained)
    model = checkout / "local-test/test-dir/model/decision-tree.joblib"
    before = model.read_bytes()

    kept = tmp_path / "kept"
    with serving(checkout, sample_image, "--pretty", "--keep", kept) as (server, url):
        task = run_script(checkout, "predict.sh", "--url", url, checkout / "local-test/payload.json")
        payload = run_script(checkout, "predict.sh", "--url", url, checkout / "local-test/payload.csv")
        assert server.end(signal.SIGINT) == 0, server.said
    assert task.process.returncode == 0, task.said
    assert json.loads("".join(task.stdout))["return_code"] == 0
    assert payload.process.returncode == 0, payload.said
    assert payload.stdout[0] == f"{SEPAL},species\n"
    assert len(payload.stdout) == 11
    assert (kept / "example/predictions/garden/garden.csv").read_text().startswith(f"{SEPAL},species\n")
    assert "algorithm [garden] File 1 of 1: 4 rows." in server.said
    assert model.read_bytes() == before
    await_nothing_left(server)


def test_the_model_is_read_only_when_serving(checkout: Path, trained: Script, sample_image: str) -> None:
    with serving(checkout, sample_image) as (server, _):
        name = docker("ps", "--filter", f"name=longshore.{server.process.pid}.", "--format", "{{.Names}}")
        mounts = json.loads(docker("inspect", "--format", "{{json .Mounts}}", name))
        assert [(mount["Destination"], mount["RW"]) for mount in mounts] == [("/opt/ml/model", False)]
        assert docker("inspect", "--format", "{{.HostConfig.ShmSize}}", name) == str(64 * 1024 * 1024)


def test_edited_code_is_served_without_a_build(
    checkout: Path, trained: Script, sample_image: str, tmp_path: Path
) -> None:
    edited = tmp_path / "container"
    shutil.copytree(checkout / "container", edited)
    predictor = edited / "predictor.py"
    predictor.write_text(predictor.read_text().replace('"MaxPayloadInMB"', '"EditedMaxPayloadInMB"'))
    with serving(checkout, sample_image, "--mount", edited, "--batch") as (_, url):
        command = ["curl", "--silent", "--fail", f"{url}/execution-parameters"]
        answer = json.loads(subprocess.run(command, stdout=subprocess.PIPE, check=True).stdout)
    assert answer == {"MaxConcurrentTransforms": 1, "BatchStrategy": "SINGLE_RECORD", "EditedMaxPayloadInMB": 6}


def test_processing_runs_the_program_over_the_test_dir(checkout: Path, trained: Script, sample_image: str) -> None:
    processing = run_script(checkout, "process-local.sh", sample_image, "--", "--any", "argument")
    assert processing.process.returncode == 0, processing.said
    predictions = (checkout / "local-test/test-dir/processing/output/meadow.csv").read_text()
    assert predictions.count("\n") == 4
    await_nothing_left(processing)


def test_a_list_of_tasks_is_spread_over_instances(
    checkout: Path, trained: Script, sample_image: str, tmp_path: Path
) -> None:
    kept = tmp_path / "kept"
    options = ["--tasks", checkout / "local-test/tasks.json", "--instances", "2", "--keep", kept]
    processing = run_script(checkout, "process-local.sh", sample_image, *options)
    assert processing.process.returncode == 0, processing.said
    for host in ("algo-1", "algo-2"):
        assert f"==> output/message: 0 of 1 tasks failed on {host}\n" in processing.stderr
    assert {path.name for path in kept.rglob("*.csv")} == {"garden.csv", "roof.csv"}


def test_a_failed_training_has_its_exit_code_and_its_reason(checkout: Path, test_dir: Path, sample_image: str) -> None:
    (test_dir / "input/config/hyperparameters.json").write_text('{"max_depth": "deep"}')
    training = run_script(checkout, "train-local.sh", sample_image, "--test-dir", test_dir)
    assert training.process.returncode == 2, training.said
    assert "invalid int value: 'deep'" in "".join(training.stderr).partition("==> output/failure:")[2]


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("name", ["train-local.sh", "process-local.sh"])
def test_a_job_that_is_stopped_ends_in_its_own_time(
    checkout: Path, test_dir: Path, sample_image: str, name: str, signum: int
) -> None:
    programs = [f"--env={variable}={WAITS}" for variable in ("ALGORITHM_ENTRYPOINT", "ALGORITHM_TRAIN_ENTRYPOINT")]
    job = Script(checkout, name, sample_image, "--test-dir", test_dir, *programs)
    job.await_word("waiting\n")
    assert job.end(signum) == 7, job.said
    await_nothing_left(job)


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("word", ["==> Starting a stand-in", "==> Starting the model", "==> Serving"])
def test_a_signal_at_any_stage_leaves_nothing_behind(
    checkout: Path, test_dir: Path, sample_image: str, word: str, signum: int
) -> None:
    server = Script(checkout, "serve-local.sh", sample_image, "--test-dir", test_dir, "--port", str(quiet_port()))
    server.await_word(word)
    code = server.end(signum)
    assert code == (0 if word == "==> Serving" else 128 + signum), server.said
    await_nothing_left(server)


def run_as(user: int, checkout: Path, name: str, *arguments: str | Path) -> None:
    """Run a script of local-test/ that takes this for its user: containers write as root, and so may these tests."""
    is_another = f"import os, runpy, sys; os.getuid = os.getgid = lambda: {user}"
    folder = str(checkout / "local-test")
    code = f"{is_another}; sys.path[0] = {folder!r}; runpy.run_module({name!r}, run_name='__main__')"
    ended = subprocess.run([checkout / ".venv/bin/python", "-c", code, *arguments], capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr


def give(path: Path, user: int, image: str) -> None:
    """Make a file somebody else's, which only root may."""
    mount = f"--mount=type=bind,source={path},target=/given"
    docker("run", "--rm", "--user=0", mount, "--entrypoint=chown", image, f"{user}:{user}", "/given")


def test_what_a_container_made_is_the_users_own(checkout: Path, test_dir: Path, sample_image: str) -> None:
    run_as(OTHER_USER, checkout, "train_local", sample_image, "--test-dir", test_dir)
    for name in ("model", "model/decision-tree.joblib", "output", "checkpoints"):
        assert (test_dir / name).stat().st_uid == OTHER_USER


@pytest.mark.parametrize(
    ("name", "given", "made"),
    [
        ("train_local", "input/data/training/iris.csv", "model/decision-tree.joblib"),
        ("process_local", "processing/input/meadow.csv", "processing/output"),
    ],
)
def test_what_a_container_was_given_stays_whose_it_is(
    checkout: Path, test_dir: Path, sample_image: str, name: str, given: str, made: str
) -> None:
    give(test_dir / given, OTHER_USER + 1, sample_image)
    does_nothing = ["--env", 'ALGORITHM_ENTRYPOINT=["/bin/true"]']  # there is no model to process with
    run_as(OTHER_USER, checkout, name, sample_image, "--test-dir", test_dir, *does_nothing)
    assert (test_dir / given).stat().st_uid == OTHER_USER + 1
    assert (test_dir / made).stat().st_uid == OTHER_USER


def test_with_sudo_what_a_container_made_is_the_test_dirs_owners(
    checkout: Path, test_dir: Path, sample_image: str
) -> None:
    test_dir.chmod(0o777)
    give(test_dir, OTHER_USER, sample_image)
    run_as(0, checkout, "train_local", sample_image, "--test-dir", test_dir)
    for name in ("model", "model/decision-tree.joblib", "output", "checkpoints"):
        assert (test_dir / name).stat().st_uid == OTHER_USER


def test_a_test_dir_may_have_any_name(checkout: Path, test_dir: Path, sample_image: str) -> None:
    odd = test_dir.rename(test_dir.with_name('2:1, "odd"'))
    training = run_script(checkout, "train-local.sh", sample_image, "--test-dir", odd)
    assert training.process.returncode == 0, training.said
    assert (odd / "model/decision-tree.joblib").is_file()


def test_s3_has_a_number_as_its_address_where_the_engine_is_in_a_virtual_machine(
    checkout: Path, sample_image: str
) -> None:
    # As on a Mac: this machine is not on the containers' bridge, and has a name there.
    code = f"import engine; engine.gateway = lambda: None; found = engine.Docker({sample_image!r}, engine.Owner(0, 0))"
    shown = "print(found.s3_bind, found.s3_url('http://127.0.0.1:4711'))"
    command = [checkout / ".venv/bin/python", "-c", f"{code}; {shown}"]
    seen = subprocess.run(command, cwd=checkout / "local-test", stdout=subprocess.PIPE, text=True, check=True).stdout
    assert re.fullmatch(r"127\.0\.0\.1 http://[0-9.]+:4711\n", seen)


def test_an_image_that_is_missing_is_named_with_how_to_build_it(checkout: Path, engine: None) -> None:
    missing = run_script(checkout, "train-local.sh", "no-such-image-here")
    assert missing.process.returncode == 1
    assert missing.stderr[-1] == "train-local: This machine has no image no-such-image-here.\n"


def test_an_image_without_longshore_is_named_with_what_adds_it(checkout: Path, base_image: str) -> None:
    bare = run_script(checkout, "serve-local.sh", DEBIAN)
    assert bare.process.returncode == 1
    assert bare.stderr[-1].startswith(f"serve-local: There is no Longshore in {DEBIAN}: ./build_local.sh NAME DIR ")


def test_without_a_docker_that_answers_the_host_mode_is_named(checkout: Path) -> None:
    job = run_script(checkout, "serve-local.sh", DOCKER_HOST="unix:///nowhere/docker.sock")
    assert job.process.returncode == 1
    assert "Docker does not answer; start it, or use --host, which needs none." in job.said
