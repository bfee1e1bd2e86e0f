"""train-local.sh and process-local.sh without Docker, as a user runs them."""

import json
import os
import signal
from pathlib import Path

import pytest

from local_scripts import PROJECT, Script, program, run_script

ALGORITHMS = PROJECT / "tests" / "algorithms"
JOBS = ["train-local.sh", "process-local.sh"]


def algorithm(name: str) -> str:
    """Return the option that makes `serve` run one of the tests' algorithms."""
    return f"--env=ALGORITHM_ENTRYPOINT={json.dumps([str(ALGORITHMS / name)])}"


def test_a_training_shows_its_metric_and_leaves_its_model(checkout: Path, trained: Script) -> None:
    assert trained.process.returncode == 0, trained.said
    assert "accuracy=0.96;\n" in trained.stdout
    assert "decision-tree.joblib" in "".join(trained.stderr)
    assert (checkout / "local-test/test-dir/model/decision-tree.joblib").is_file()
    trained.await_nothing_left()


def test_a_failed_training_has_its_exit_code_and_its_reason(checkout: Path, test_dir: Path) -> None:
    (test_dir / "input/config/hyperparameters.json").write_text('{"max_depth": "deep"}')
    training = run_script(checkout, "train-local.sh", "--host", "--test-dir", test_dir)
    assert training.process.returncode == 2
    shown = "".join(training.stderr)
    assert "==> output/failure:" in shown
    assert "invalid int value: 'deep'" in shown.partition("==> output/failure:")[2]
    assert (test_dir / "output/failure").is_file()


def test_a_training_that_is_stopped_saves_its_checkpoint(checkout: Path, test_dir: Path, tmp_path: Path) -> None:
    saves = "trap 'sleep 0.3; echo saved >\"$SAVE\"; exit 7' TERM; echo running; while :; do sleep 0.05; done"
    command = program(tmp_path, saves)
    variables = [f"--env=ALGORITHM_TRAIN_ENTRYPOINT={command}", f"--env=SAVE={test_dir / 'checkpoints/last'}"]
    training = Script(checkout, "train-local.sh", "--host", "--test-dir", test_dir, *variables)
    training.await_word("running\n")
    assert training.end(signal.SIGINT) == 7, training.said
    assert (test_dir / "checkpoints/last").read_text() == "saved\n"
    training.await_nothing_left()


def test_processing_runs_the_program_over_the_test_dir(checkout: Path, trained: Script) -> None:
    processing = run_script(checkout, "process-local.sh", "--host")
    assert processing.process.returncode == 0, processing.said
    assert processing.stdout == ["File 1 of 1: 3 rows.\n"]
    predictions = (checkout / "local-test/test-dir/processing/output/meadow.csv").read_text()
    assert predictions.count("\n") == 4
    assert "/processing/output/meadow.csv" in "".join(processing.stderr)


def test_processing_passes_its_arguments_on(checkout: Path, test_dir: Path, tmp_path: Path) -> None:
    command = program(tmp_path, 'printf "<%s>" "$@"; echo why >&2; exit 3')
    processing = run_script(
        checkout,
        "process-local.sh",
        *("--host", "--test-dir", test_dir, f"--env=ALGORITHM_ENTRYPOINT={command}"),
        *("--", "--help", "a b", "--", ""),
    )
    assert processing.process.returncode == 3
    assert processing.stdout == ["<--help><a b><--><>"]
    assert "==> output/message: " in processing.said


def test_a_job_that_is_stopped_before_all_instances_ran_has_not_succeeded(
    checkout: Path, test_dir: Path, tmp_path: Path
) -> None:
    command = program(tmp_path, "trap 'exit 0' TERM; echo running; while :; do sleep 0.05; done")
    options = ["--test-dir", test_dir, "--instances", "3", f"--env=ALGORITHM_ENTRYPOINT={command}"]
    job = Script(checkout, "process-local.sh", "--host", *options)
    job.await_word("running\n")
    assert job.end(signal.SIGTERM) == 128 + signal.SIGTERM, job.said
    assert "==> algo-1 ended with exit code 0\n" in job.stderr
    assert "algo-2" not in job.said


@pytest.mark.parametrize("text", ["", "null", "{}"])
def test_a_description_of_the_instances_that_says_nothing_is_as_none(checkout: Path, test_dir: Path, text: str) -> None:
    (test_dir / "config/resourceconfig.json").write_text(text)
    job = run_script(checkout, "process-local.sh", "--host", "--test-dir", test_dir, algorithm("does_nothing"))
    assert job.process.returncode == 0, job.said


@pytest.mark.parametrize(("text", "sentence"), [("{", "is not JSON."), ("[1]", "is not a JSON object.")])
def test_a_description_of_the_instances_that_is_odd_is_named(
    checkout: Path, test_dir: Path, text: str, sentence: str
) -> None:
    described = test_dir / "config/resourceconfig.json"
    described.write_text(text)
    job = run_script(checkout, "process-local.sh", "--host", "--test-dir", test_dir)
    assert job.process.returncode == 1
    assert job.said == f"process-local: {described} {sentence}\n"


def test_a_list_of_tasks_is_spread_over_instances(checkout: Path, trained: Script, tmp_path: Path) -> None:
    kept = tmp_path / "kept"
    tasks = checkout / "local-test/tasks.json"
    options = ["--tasks", tasks, "--instances", "2", "--keep", kept]
    processing = run_script(checkout, "process-local.sh", "--host", *options)
    assert processing.process.returncode == 0, processing.said
    for host in ("algo-1", "algo-2"):
        assert f"==> output/message: 0 of 1 tasks failed on {host}\n" in processing.stderr
    files = {path.name for path in (kept / "example").rglob("*.csv")}
    assert files == {"garden.csv", "roof.csv"}
    assert [path.name for path in kept.iterdir()] == ["example"]


def test_what_was_in_s3_is_not_kept_however_large(checkout: Path, tmp_path: Path) -> None:
    (tmp_path / "s3/scans").mkdir(parents=True)
    (tmp_path / "s3/scans/large.mha").write_bytes(bytes(9 * 1024 * 1024))
    kept = tmp_path / "kept"
    job = run_script(checkout, "process-local.sh", "--host", "--s3", tmp_path / "s3", "--keep", kept)
    assert job.process.returncode == 0, job.said
    assert not list(kept.rglob("*.mha"))


def test_what_is_kept_goes_where_the_user_stands(checkout: Path, trained: Script, tmp_path: Path) -> None:
    kept = Path(os.path.relpath(tmp_path / "kept"))
    options = ["--tasks", checkout / "local-test/tasks.json", "--keep", kept]
    job = run_script(checkout, "process-local.sh", "--host", *options)
    assert job.process.returncode == 0, job.said
    assert (tmp_path / "kept/example/predictions/garden/garden.csv").is_file()


@pytest.mark.parametrize(("script", "code"), [("exit 0", 1), ("exit 3", 3)])
def test_what_can_not_be_kept_costs_nothing_else(
    checkout: Path, test_dir: Path, tmp_path: Path, script: str, code: int
) -> None:
    seed, kept = tmp_path / "s3", tmp_path / "kept"
    for name in ("a", "b", "c"):
        (seed / "bucket" / name).parent.mkdir(parents=True, exist_ok=True)
        (seed / "bucket" / name).write_text(name)
    # As if they had come since.
    command = program(tmp_path, f"rm {seed}/bucket/*; {script}")
    (kept / "bucket/b").mkdir(parents=True)
    options = ["--test-dir", test_dir, "--s3", seed, "--keep", kept, f"--env=ALGORITHM_ENTRYPOINT={command}"]
    job = run_script(checkout, "process-local.sh", "--host", *options)
    assert job.process.returncode == code, job.said
    assert "s3://bucket/'b' is not copied: Is a directory.\n" in job.stderr
    assert f"==> Not all of S3 is copied to {kept}\n" in job.stderr
    assert [(kept / "bucket" / name).read_text() for name in ("a", "c")] == ["a", "c"]


@pytest.mark.parametrize("name", JOBS)
def test_a_folder_that_is_no_test_dir_is_not_emptied(checkout: Path, tmp_path: Path, name: str) -> None:
    (tmp_path / "output").mkdir()
    (tmp_path / "output/precious").write_text("mine")
    job = run_script(checkout, name, "--host", "--test-dir", tmp_path)
    assert job.process.returncode == 1
    assert "can't be used as /opt/ml" in job.said
    assert (tmp_path / "output/precious").read_text() == "mine"


def test_the_model_of_before_is_kept_until_the_next_training(checkout: Path, test_dir: Path, tmp_path: Path) -> None:
    command = program(tmp_path, "exit 3")
    fails = ["--host", "--test-dir", test_dir, f"--env=ALGORITHM_TRAIN_ENTRYPOINT={command}"]
    for name in ("old", "new"):
        (test_dir / "model/of").mkdir(parents=True)
        (test_dir / "model/of" / name).write_text("mine")
        training = run_script(checkout, "train-local.sh", *fails)
        assert training.process.returncode == 3, training.said
        assert f"==> What was in {test_dir}/model is in {test_dir}/model.before now\n" in training.stderr
        assert list((test_dir / "model").iterdir()) == []
    # A training that failed left no model, and the next takes nothing away.
    run_script(checkout, "train-local.sh", *fails)
    assert [path.name for path in (test_dir / "model.before/of").iterdir()] == ["new"]


def test_nothing_is_emptied_for_a_training_that_does_not_begin(checkout: Path, test_dir: Path) -> None:
    """A bucket whose name S3 refuses ends it while S3 is filled."""
    for name in ("model", "output", "s3/No Bucket"):
        (test_dir / name).mkdir(parents=True)
        (test_dir / name / "precious").write_text("mine")
    training = run_script(checkout, "train-local.sh", "--host", "--test-dir", test_dir, "--s3", test_dir / "s3")
    assert training.process.returncode == 1
    assert "could not be copied to S3" in training.stderr[-1]
    assert "==> Training\n" not in training.said
    for name in ("model", "output"):
        assert (test_dir / name / "precious").read_text() == "mine"


@pytest.mark.parametrize(
    ("name", "link"),
    [
        ("train-local.sh", "model"),
        ("train-local.sh", "output"),
        ("process-local.sh", "output"),
        ("process-local.sh", "processing/output"),
    ],
)
def test_a_link_in_the_place_of_a_folder_that_is_emptied_is_refused(
    checkout: Path, test_dir: Path, tmp_path: Path, name: str, link: str
) -> None:
    data = tmp_path / "data"
    data.mkdir()
    (data / "precious").write_text("mine")
    (test_dir / link).symlink_to(data)
    job = run_script(checkout, name, "--host", "--test-dir", test_dir)
    assert job.process.returncode == 1
    assert f"{test_dir / link} leads to {data}, which would be emptied" in job.said
    assert (data / "precious").read_text() == "mine"
