"""What is drawn: the same for the same seed, and something of everything."""

from plan import ACTIONS, ENDS, FINAL, PASSING, TARGETS, lives
from programs import PROGRAMS, prepare

TASKS = 1000


def test_a_seed_draws_the_same_run_and_another_seed_another() -> None:
    assert list(lives(1, TASKS)) == list(lives(1, TASKS))
    assert list(lives(1, TASKS)) != list(lives(2, TASKS))


def test_every_task_is_drawn_once() -> None:
    names = [step.name for life in lives(1, TASKS) for step in (*life.steps, *life.at_end)]
    assert names == [f"task-{number}" for number in range(TASKS)]


def test_a_run_has_every_program_fault_and_end() -> None:
    drawn = list(lives(1, TASKS))
    steps = [step for life in drawn for step in (*life.steps, *life.at_end)]
    attempts = [attempt for step in steps for attempt in step.attempts]
    faults = [fault for attempt in attempts for fault in attempt.faults]
    assert {life.end for life in drawn} == set(ENDS)
    assert {step.program for step in steps} == set(PROGRAMS)
    assert {fault.kind for fault in faults} == {*PASSING, *FINAL}
    assert {fault.target for fault in faults} == set(TARGETS)
    assert {attempt.action for attempt in attempts} == {None, *ACTIONS}


def test_what_a_fault_may_cost_is_known_for_each_object_that_it_is_about() -> None:
    faults = [fault for life in lives(1, TASKS) for step in life.steps for a in step.attempts for fault in a.faults]
    for fault in faults:
        assert len(fault.excuses) == (1 if fault.kind in FINAL else 0)


def test_attempts_at_a_program_are_alike_but_for_their_number() -> None:
    for name in PROGRAMS:
        first, second = prepare(name, 7, 1000), prepare(name, 7, 2000)
        assert first.script.replace("1000", "2000") == second.script
        assert first.outputs.keys() == second.outputs.keys()
        assert [item.relative_path for item in first.inputs] == [item.relative_path for item in second.inputs]
