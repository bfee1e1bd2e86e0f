"""What is listed of /output while somebody changes it."""

import os
from pathlib import Path

from model_server.stage_out import entries_of

from .exchanging import exchanging
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
