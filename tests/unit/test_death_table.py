"""The table of deaths: whole, and the same in the README."""

from itertools import product

from death_table import DEATHS, GUNICORN, ITS_CHILD, NGINX, NGINX_WORKER, PROGRAM, WORKER
from stages import RUNNING, STAGES

from .readme_tables import table, table_of_the_readme


def test_the_readme_shows_the_table_that_is_walked() -> None:
    assert table_of_the_readme("deaths") == table("deaths"), "python tests/unit/readme_tables.py writes it"


def test_every_process_is_there_with_every_stage() -> None:
    tried = [(death.killed, death.stage) for death in DEATHS]
    expected = {(PROGRAM, RUNNING), (ITS_CHILD, RUNNING), *product((WORKER, NGINX_WORKER, GUNICORN, NGINX), STAGES)}
    assert len(tried) == len(expected)
    assert set(tried) == expected
