"""What is listed of /output, also while somebody changes it."""

import os
import stat
from pathlib import Path

from model_server.folder import claim
from model_server.partial_outputs import save_partial_outputs
from model_server.stage_out import StagedOut, entries_of, stage_out
from model_server.storage import Storage
from model_server.task import Task

from .exchanging import exchanging
from .test_folder import ordinary_user
from .waiting import open_descriptors, wait_until

LISTINGS = 5_000


def test_a_folder_that_changes_while_it_is_listed_costs_no_other_file_and_leads_nowhere_else(tmp_path: Path) -> None:
    output, outside = tmp_path / "output", tmp_path / "outside"
    for folder in (output, outside / "folder"):
        folder.mkdir(parents=True)
    (output / "good").touch()
    (outside / "folder/precious").touch()
    root = os.open(output, os.O_RDONLY)
    before = open_descriptors()
    with exchanging(output, outside):
        wait_until((output / "two").is_dir)
        listings = [entries_of(root) for _ in range(LISTINGS)]
    assert open_descriptors() == before
    os.close(root)
    found = {parts for files, _ in listings for parts in files}
    assert all(("good",) in files for files, _ in listings)
    assert found <= {("good",), ("one",), ("two",), ("one", "secret"), ("two", "secret")}
    assert {reason for _, refused in listings for _, reason in refused} <= {"it changed while it was read"}


def test_outputs_are_found_in_a_folder_that_the_program_took_all_rights_from() -> None:
    task = Task(pk="pk", inputs=[], output_bucket_name="bucket", output_prefix="out")
    with ordinary_user() as own:
        folder = claim(own / "output", 0o777)
        folder.path.chmod(0)
        stage_out(task, folder, Storage(None, 1), staged := StagedOut())
        assert save_partial_outputs(task, folder, Storage(None, 1)) == 0
        assert stat.S_IMODE(folder.path.stat().st_mode) == 0o700
    assert staged.files == []
